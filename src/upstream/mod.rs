//! Upstreams: groups of peers, which one is next, and connections to them that are kept.

mod attempt;

pub use attempt::Attempt;
