//! Upstreams: groups of peers, which one is next, and connections to them that are kept.

mod attempt;
pub mod balance; // which peer is next
pub mod group; // peers that stand for each other
pub mod moving; // groups whose servers are found by name
pub mod peer; // one of them
pub mod pool; // connections that are kept, per thread
pub mod sticky; // clients that come back

pub use attempt::{Attempt, UpstreamUrl};
