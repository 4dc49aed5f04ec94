//! What changes a response on its way out, in the order in which bodies meet them.

pub mod headers; // add_header, add_trailer, expires
pub mod not_modified; // 304 and 412
pub mod range; // 206 and 416
