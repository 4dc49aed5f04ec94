//! HTTP/1 heads and bodies as bytes.
//!
//! nginx's verdicts, not the RFC's: what nginx takes is taken, what it refuses is refused with its status and its
//! words in the log. `request` and `field` are the hot path: one pass over the bytes, no allocation.

pub mod chunked; // bodies in chunks, both ways
pub mod field; // "Name: value" lines, of clients and of upstreams
pub mod message; // what the fields of a request mean for its framing
pub mod method; // GET and its kin; versions as numbers
pub mod name; // the request fields that the server itself understands
pub mod request; // "GET /target HTTP/1.1"
pub mod response; // "HTTP/1.1 200 OK", read
pub mod status; // "HTTP/1.1 200 OK", written
