//! `hash key`: the peer that a checksum of the key falls on, as with Cache::Memcached.
//!
//! The place is `(crc32(KEY) >> 16) & 0x7fff`; each further one adds the same of `1KEY`, `2KEY` and so on.

use super::peers::{Table, Way};
use super::{TURNS, round_robin};

/// The next peer.
pub fn choose(table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
    if way.turns > TURNS || table.list.len() < 2 || way.key.is_empty() {
        return round_robin::choose(table, way);
    }
    if let Some(n) = table.hinted(way) {
        return Some(table.take(n, way));
    }
    loop {
        let n = table.at(i64::from(next_place(way)) % table.total_weight);
        if table.is_fit(n, way) {
            return Some(table.take(n, way));
        }
        way.turns += 1;
        if way.turns > TURNS {
            return round_robin::choose(table, way);
        }
    }
}

fn next_place(way: &mut Way) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    if way.rehash > 0 {
        crc.update(way.rehash.to_string().as_bytes());
    }
    crc.update(&way.key);
    way.hash = way.hash.wrapping_add(crc.finalize() >> 16 & 0x7fff);
    way.rehash += 1;
    way.hash
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::conf::template::Template;
    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::Outcome;
    use crate::upstream::balance::peers::fixture::peers;

    #[test]
    fn a_key_has_its_peer_and_its_substitutes() {
        let peers = peers(&[1, 2, 1]);
        let method = Method::Hash(Template::literal("the group evaluates it"));
        let order = |key: &'static str| {
            let mut way = Way { key: Bytes::from(key), ..Way::default() };
            let order: Vec<usize> = std::iter::from_fn(|| peers.next(&method, &mut way, 0)).collect();
            for n in &order {
                peers.end(*n, Outcome::Good, 0);
            }
            order
        };
        for key in ["a", "b", "c", "d"] {
            let all = order(key);
            assert_eq!(order(key), all);
            assert_eq!(all.len(), 3, "{all:?}");
            // By hand, of the first place: crc32("a") is e8b7be43.
            let place = (crc32fast::hash(key.as_bytes()) >> 16 & 0x7fff) % 4;
            assert_eq!(all[0], [0, 1, 1, 2][place as usize], "{key}");
        }
    }

    #[test]
    fn without_a_key_it_goes_round() {
        let method = Method::Hash(Template::literal(""));
        assert_eq!(peers(&[1, 1]).order(&method, 3, 0), [Some(0), Some(1), Some(0)]);
    }
}
