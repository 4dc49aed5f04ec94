//! HTTP/2 as bytes: frames and compressed fields. RFC 9113 and RFC 7541.
//!
//! In: bytes that a peer sent, or values to be sent. Out: values, or bytes appended to a buffer. No sockets, no streams
//! and no windows: who may send what and when is the business of `http/h2`.

pub mod frame; // the nine bytes that every frame begins with, and the small frames whole
pub mod hpack; // fields, compressed

pub use frame::{Code, FrameHead, Kind, Setting};
