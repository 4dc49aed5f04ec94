//! Who is let through, and how fast.

pub mod access; // allow, deny
pub mod auth_basic; // name and password
pub mod auth_request; // somebody else decides
pub mod limit_conn; // how many at a time
pub mod limit_req; // how many in a time
pub mod realip; // who the client is behind proxies
mod zone; // what the two limits have in common
