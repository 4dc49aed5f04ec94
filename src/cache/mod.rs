//! Is there a copy, may it be served, may one be kept: nginx's disk cache.
//!
//! Keys, fields, bytes and times come in, never a request. What lies on the disk has nginx's names and nginx's format
//! (version 5, 64-bit Linux), so that either server serves what the other has kept.

pub mod control; // the directives of Cache-Control and CDN-Cache-Control
pub mod head; // changes to a head that is kept
pub mod key; // md5 of the key, variants, names below the cache's directory
pub mod meta; // the header of a cache file
pub mod policy; // may an answer be kept, and for how long
pub mod purge; // what must not be served any more
pub mod rfc9111; // the decisions of `proxy_cache_rfc9111 on`
