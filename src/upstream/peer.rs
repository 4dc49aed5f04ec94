//! One server of a group, as it was configured.

use bytes::Bytes;

use crate::base::addr::Address;

/// One address of one `server` line.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Address,
    /// As logs and `$upstream_addr` show it: `127.0.0.1:8080`, `unix:/path`.
    pub name: Bytes,
    pub weight: i64,
    /// 0: every connection it likes.
    pub max_conns: u64,
    /// 0: failures are not counted.
    pub max_fails: u64,
    /// In seconds: how long failures are remembered, and how long the peer is then left alone.
    pub fail_timeout: u64,
    pub down: bool,
}

impl Peer {
    /// A peer with nginx's defaults.
    pub fn new(address: Address) -> Self {
        let name = Bytes::from(match &address {
            Address::Unix(path) => [b"unix:", path.as_os_str().as_encoded_bytes()].concat(),
            Address::Inet(_) => address.to_string().into_bytes(),
        });
        Self { address, name, weight: 1, max_conns: 0, max_fails: 1, fail_timeout: 10, down: false }
    }
}
