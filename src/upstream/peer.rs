//! One server of a group, as it was configured.

use std::fmt::Write as _;

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::base::addr::Address;

/// One address of one `server` line.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Address,
    /// As logs and `$upstream_addr` show it: `127.0.0.1:8080`, `unix:/path`.
    pub name: Bytes,
    /// The server as it was written. Addresses of one server stand for each other on a consistent hash's ring.
    pub server: Bytes,
    /// What sticky clients call it: its route, or the MD5 of its name.
    pub id: Bytes,
    pub weight: i64,
    /// 0: every connection it likes.
    pub max_conns: u64,
    /// 0: failures are not counted.
    pub max_fails: u64,
    /// In seconds: how long failures are remembered, and how long the peer is then left alone.
    pub fail_timeout: u64,
    pub service: Service,
}

/// Whether a peer is asked at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    #[default]
    Up,
    /// By those alone who are bound to it.
    Draining,
    Down,
}

impl Peer {
    /// A peer with nginx's defaults.
    pub fn new(address: Address) -> Self {
        let name = Bytes::from(match &address {
            Address::Unix(path) => [b"unix:", path.as_os_str().as_encoded_bytes()].concat(),
            Address::Inet(_) => address.to_string().into_bytes(),
        });
        Self {
            address,
            server: name.clone(),
            id: Bytes::new(),
            name,
            weight: 1,
            max_conns: 0,
            max_fails: 1,
            fail_timeout: 10,
            service: Service::Up,
        }
    }

    /// Whether it is the same server at the same address.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address == other.address && self.server == other.server && self.weight == other.weight
    }

    pub fn are_same(these: &[Self], those: &[Self]) -> bool {
        these.len() == those.len() && these.iter().zip(those).all(|(this, that)| this.is_same(that))
    }

    /// Gives it the id by which sticky clients are bound to it, unless a route is one.
    pub fn identify(&mut self) {
        if self.id.is_empty() {
            let hex = Md5::digest(&self.name).iter().fold(String::with_capacity(32), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            self.id = hex.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_route_or_a_digest_of_the_name() {
        let mut peer = Peer::new(Address::Inet(([127, 0, 0, 1], 8080).into()));
        peer.identify();
        assert_eq!(peer.id, "5958c386bf5e9109ac10d2a628645aea");
        peer.id = Bytes::from_static(b"a");
        peer.identify();
        assert_eq!(peer.id, "a");
    }
}
