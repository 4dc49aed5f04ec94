//! What one try at one peer came to, for `$upstream_*` and the log.

use std::time::Duration;

use bytes::Bytes;

/// One peer that was tried.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// `127.0.0.1:8080`, `unix:/path`, or the group's name when no peer could be chosen.
    pub peer: Bytes,
    /// 0: it did not come to a status.
    pub status: u16,
    pub connect_time: Option<Duration>,
    pub header_time: Option<Duration>,
    pub response_time: Option<Duration>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Bytes of the body.
    pub response_length: u64,
    /// An internal redirect came before this one: `$upstream_addr` shows a colon instead of a comma.
    pub after_redirect: bool,
}

/// Where a request was sent, in the parts that are at hand, for the error log.
#[derive(Clone, Debug, Default)]
pub struct UpstreamUrl {
    /// `http://`
    pub scheme: &'static str,
    pub peer: Bytes,
    pub uri: Bytes,
}

impl UpstreamUrl {
    /// `http://127.0.0.1:8080/path`, `http://unix:/run/a.sock:/path`; empty when nothing was sent anywhere.
    pub fn text(&self) -> Vec<u8> {
        if self.peer.is_empty() {
            return Vec::new();
        }
        let separator: &[u8] = if self.peer.starts_with(b"unix:") { b":" } else { b"" };
        [self.scheme.as_bytes(), &self.peer, separator, &self.uri].concat()
    }
}
