//! Byte formats as pure functions: bytes in, values and spans out.
//!
//! No sockets, no clock, no settings, no requests. Every parser works on the caller's buffer and answers with
//! [`Span`]s into it, so that the caller can freeze the buffer and slice it. The incremental ones say `None` for
//! "more bytes, please" and go on where they stopped when they are shown the same buffer again, grown. Nothing here
//! panics on any input, and nothing grows beyond what it was given.

pub mod basic; // "Basic Ym9iOnNlY3JldA=="
pub mod byte; // classes of bytes, and small numbers
pub mod cgi; // what programs call the client's fields
pub mod date; // "Sun, 06 Nov 1994 08:49:37 GMT"
pub mod der; // values within values: certificates, keys
pub mod fastcgi; // records, both ways
pub mod forwarded; // "X-Forwarded-For: 192.0.2.1"
pub mod http1; // request and response heads, fields, chunks
pub mod http2; // frames and compressed fields
pub mod list; // one cookie, one argument, one parameter of many
pub mod memcached; // "VALUE key 0 4"
pub mod ocsp; // asking whether a certificate is revoked
pub mod pem; // base64 between marked lines
pub mod proxy_protocol; // who the client of a proxy in front is
pub mod range; // "Range: bytes=0-99"
pub mod scgi; // requests as netstrings
pub mod span; // a piece of somebody's buffer
pub mod uri; // request targets: shape, normal form, escapes
pub mod utf8; // one character after the other
pub mod uwsgi; // requests as packets
pub mod x509; // certificates, lists of revoked ones, distinguished names

pub use span::Span;
