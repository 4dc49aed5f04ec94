//! What a location can be told to do. One file a feature; this is the one list.

pub mod content; // who answers
pub mod filter; // who changes an answer

use crate::conf::module::Modules;
use crate::http::core::Core;
use crate::http::plan::Plan;

/// The modules of the `http` block, in the order in which they link: gates and handlers of a phase are asked in the
/// order of this list.
pub fn http() -> Modules<Plan> {
    Modules::default()
        .with::<Core>()
        .with::<content::static_file::Static>()
        .with::<filter::gunzip::Gunzip>()
        .with::<filter::ssi::Ssi>()
        .with::<filter::gzip::Gzip>()
}
