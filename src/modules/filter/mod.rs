//! What changes a response on its way out.

pub mod gunzip; // decompresses for clients that cannot
pub mod gzip; // compresses
mod outlet;
pub mod ssi; // pages with commands // what a coder has written
