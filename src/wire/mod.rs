//! Byte formats as pure functions: bytes in, values and spans out.
//!
//! No sockets, no clock, no settings, no requests. Every parser works on the caller's buffer and answers with
//! [`Span`]s into it, so that the caller can freeze the buffer and slice it. The incremental ones say `None` for
//! "more bytes, please" and go on where they stopped when they are shown the same buffer again, grown. Nothing here
//! panics on any input, and nothing grows beyond what it was given.

pub mod byte; // classes of bytes, and small numbers
pub mod http1; // request and response heads, fields, chunks
pub mod span; // a piece of somebody's buffer
pub mod uri; // request targets: shape, normal form, escapes

pub use span::Span;
