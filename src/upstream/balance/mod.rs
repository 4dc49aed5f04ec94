//! Which peer is next.

pub mod round_robin; // nginx's smooth weighted round robin
