//! What requests and sessions have in common: modules that `http` and `stream` share, generic in the plan.

pub mod geo; // a value by an address
pub mod map; // one variable's value by another's
pub mod split_clients; // a value by chance

use bytes::Bytes;

use crate::conf::pattern::Matching;
use crate::net::accept::Peer;

/// Who asks: a request or a session.
pub trait Visitor: Matching {
    /// Where it comes from.
    fn peer(&self) -> &Peer;

    /// The lines of `X-Forwarded-For`, in their order.
    fn forwarded_for(&self) -> Vec<Bytes>;
}
