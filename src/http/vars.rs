//! The core module's variables.

use super::request::Request;
use crate::conf::error::Fault;
use crate::conf::module::Level;
use crate::conf::vars::{Definitions, Row};

/// Defines them.
pub fn define(_: &Level<'_>, vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("remote_addr", Row::once(|r: &Request| Some(r.connection.client())))?;
    vars.define("host", Row::once(|r: &Request| Some(r.host())))?;
    vars.define("uri", Row::each(|r: &Request| Some(r.path())))?;
    vars.define(
        "args",
        Row::each(|r: &Request| Some(r.args())).settable(|r, value| r.set_args(value.unwrap_or_default())),
    )?;
    vars.family("http_", |rest| {
        let name = rest.replace('_', "-");
        Row::each(move |r: &Request| r.field(&name).cloned())
    });
    Ok(())
}
