//! Who is let through, and how fast.

pub mod access; // allow, deny
pub mod auth_basic; // name and password
pub mod limit_conn; // how many at a time
pub mod limit_req; // how many in a time
mod zone; // what the two limits have in common
