//! `ip_hash`: the peer that the client's network falls on: three bytes of an IPv4 address, all of an IPv6 one.

use super::peers::{Table, Way};
use super::{TURNS, round_robin};

/// Where a request begins that comes from this address.
pub fn begin(address: &[u8]) -> Way {
    Way { key: bytes::Bytes::copy_from_slice(address), hash: 89, ..Way::default() }
}

/// The next peer.
pub fn choose(table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
    if way.turns > TURNS || table.list.len() < 2 {
        return round_robin::choose(table, way);
    }
    if let Some(n) = table.hinted(way) {
        return Some(table.take(n, way));
    }
    let mut hash = way.hash;
    loop {
        for byte in &way.key {
            hash = (hash * 113 + u32::from(*byte)) % 6271;
        }
        let n = table.at(i64::from(hash) % table.total_weight);
        if table.is_fit(n, way) {
            way.hash = hash;
            return Some(table.take(n, way));
        }
        way.turns += 1;
        if way.turns > TURNS {
            return round_robin::choose(table, way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::Outcome;
    use crate::upstream::balance::peers::fixture::peers;

    #[test]
    fn a_network_has_its_peer() {
        let peers = peers(&[1, 1, 1, 1, 1]);
        let places = |address: &[u8]| {
            let mut way = begin(address);
            let order: Vec<usize> = std::iter::from_fn(|| peers.next(&Method::IpHash, &mut way, 0)).collect();
            for n in &order {
                peers.end(*n, Outcome::Good, 0);
            }
            order
        };
        let hash = [127, 0, 0].iter().fold(89, |hash: u32, byte| (hash * 113 + byte) % 6271);
        let all = places(&[127, 0, 0]);
        assert_eq!((all[0], all.len()), ((hash % 5) as usize, 5));
        assert_eq!(places(&[127, 0, 0]), all);
    }
}
