//! Is there a copy, may it be served, may one be kept: nginx's disk cache.
//!
//! Keys, fields, bytes and times come in, never a request. What lies on the disk has nginx's names and nginx's format
//! (version 5, 64-bit Linux), so that either server serves what the other has kept.
//!
//! ```text
//! key ─► store ─► index: is there a file, who fetches it? ─┬─► stored   a file, read and believed
//!                                                          ├─► filling  a file that is being made
//!                                                          └─► fill     the same, as those see it who wait
//! keeper: reads the directory at the start, and keeps it within its bounds
//! ```

pub mod control; // the directives of Cache-Control and CDN-Cache-Control
pub mod fill; // a file being filled, for those who wait
pub mod filling; // a file being made, for who makes it
pub mod head; // changes to a head that is kept
pub mod hot; // small files in memory
pub mod index; // what is known of the entries
pub mod journal; // purges on disk
pub mod keeper; // the loader and the manager
pub mod key; // md5 of the key, variants, names below the cache's directory
pub mod meta; // the header of a cache file
pub mod policy; // may an answer be kept, and for how long
pub mod purge; // what must not be served any more
pub mod rfc9111; // the decisions of `proxy_cache_rfc9111 on`
pub mod snapshot; // the index between two runs
pub mod store; // a directory with its index
pub mod stored; // a file that was found

pub use store::{Limits, Store, Zone};

use bytes::Bytes;

/// What came of asking the cache: `$upstream_cache_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Miss,
    Bypass,
    Expired,
    Stale,
    Updating,
    Revalidated,
    Hit,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
            Self::Expired => "EXPIRED",
            Self::Stale => "STALE",
            Self::Updating => "UPDATING",
            Self::Revalidated => "REVALIDATED",
            Self::Hit => "HIT",
        }
    }
}

/// What variables tell of one request's way through the cache.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub status: Option<Status>,
    pub key: Bytes,
    /// When what is served was received; 0 if it comes from the upstream.
    pub date: i64,
    /// What the stale entry says of itself, where the upstream is to be asked whether it has changed.
    pub last_modified: Option<i64>,
    pub etag: Bytes,
}
