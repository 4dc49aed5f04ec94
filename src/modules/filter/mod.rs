//! What changes a response on its way out, in the order in which bodies meet them.

pub mod addition; // other answers before and behind
pub mod charset; // "; charset=", and recoding
mod deflate; // one stream of gzip
pub mod gunzip; // decompresses for clients that cannot
pub mod gzip; // compresses
pub mod headers; // add_header, add_trailer, expires
pub mod not_modified; // 304 and 412
mod outlet; // what a coder has written
pub mod range; // 206 and 416
pub mod slice; // bodies that are fetched slice by slice
pub mod ssi; // pages with commands
pub mod sub; // strings in answers
