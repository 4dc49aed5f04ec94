//! `hash key consistent`: a ring of points, 160 for each unit of weight, so that few keys move when servers come and go.
//!
//! The points are those of Cache::Memcached::Fast: `crc32(HOST \0 PORT PREVIOUS)`, where PREVIOUS is the point before.

use super::peers::{Table, Way};
use super::{TURNS, round_robin};
use crate::upstream::peer::Peer;

/// The ring, in order: a point, and the first peer of its server.
#[derive(Debug, Default)]
pub struct Ring(Vec<(u32, usize)>);

/// Points for each unit of a weight.
const POINTS: i64 = 160;

impl Ring {
    pub fn of(peers: &[Peer]) -> Self {
        let mut points = Vec::new();
        for (n, peer) in peers.iter().enumerate() {
            let first = peers.iter().position(|first| first.server == peer.server).unwrap_or(n);
            let (host, port) = host_and_port(&peer.server);
            let mut base = crc32fast::Hasher::new();
            base.update(host);
            base.update(b"\0");
            base.update(port);
            let mut point = 0_u32;
            for _ in 0..peer.weight.saturating_mul(POINTS) {
                let mut crc = base.clone();
                crc.update(&point.to_le_bytes());
                point = crc.finalize();
                points.push((point, first));
            }
        }
        points.sort_by_key(|(point, _)| *point);
        points.dedup_by_key(|(point, _)| *point);
        Self(points)
    }

    /// Where on the ring a key begins.
    pub fn place(&self, key: &[u8]) -> u32 {
        let hash = crc32fast::hash(key);
        u32::try_from(self.0.partition_point(|(point, _)| *point < hash)).unwrap_or(0)
    }

    /// The next peer. Where a server has several addresses they go round.
    pub fn choose(&self, table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
        if way.turns > TURNS || table.single || way.key.is_empty() {
            return round_robin::choose(table, way);
        }
        if let Some(n) = table.hinted(way) {
            return Some(table.take(n, way));
        }
        loop {
            let (_, first) = *self.0.get(way.hash as usize % self.0.len().max(1))?;
            let server = &table.list[first].server;
            let mut best: Option<usize> = None;
            let mut total = 0;
            for n in first..table.list.len() {
                if table.list[n].server != *server || !table.is_fit(n, way) {
                    continue;
                }
                total += table.gain(n);
                let weight = table.standing[n].current_weight;
                if best.is_none_or(|best| weight > table.standing[best].current_weight) {
                    best = Some(n);
                }
            }
            if let Some(best) = best {
                table.standing[best].current_weight -= total;
                return Some(table.take(best, way));
            }
            way.hash = way.hash.wrapping_add(1);
            way.turns += 1;
            if way.turns > TURNS {
                return round_robin::choose(table, way);
            }
        }
    }
}

/// The parts of a server's name: `a:80`, `a`, `[::1]:80`, `unix:/path`.
fn host_and_port(server: &[u8]) -> (&[u8], &[u8]) {
    if let Some((_, path)) = server.split_at_checked(5).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"unix:")) {
        return (path, b"");
    }
    let digits = server.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let before = server.len() - digits;
    match before.checked_sub(1) {
        Some(colon) if server[colon] == b':' => (&server[..colon], &server[before..]),
        _ => (server, b""),
    }
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
    fn names_have_parts() {
        for (server, parts) in [
            ("a:80", ("a", "80")),
            ("a", ("a", "")),
            ("a8", ("a8", "")),
            ("80", ("80", "")),
            (":80", ("", "80")),
            ("a:", ("a", "")),
            ("[::1]:8080", ("[::1]", "8080")),
            ("[::1]", ("[::1]", "")),
            ("unix:/a:80", ("/a:80", "")),
            ("", ("", "")),
        ] {
            assert_eq!(host_and_port(server.as_bytes()), (parts.0.as_bytes(), parts.1.as_bytes()), "{server}");
        }
    }

    fn choose(peers: &crate::upstream::balance::peers::Peers, key: String) -> usize {
        let ring = Ring::of(peers.list());
        let mut way = Way { hash: ring.place(key.as_bytes()), key: Bytes::from(key), ..Way::default() };
        let method = Method::Consistent(Template::literal(""), ring);
        let n = peers.next(&method, &mut way, 0).expect("all are well");
        peers.end(n, Outcome::Good, 0);
        n
    }

    #[test]
    fn few_keys_move_when_a_server_goes() {
        let three = peers(&[1, 1, 1]);
        let two = peers(&[1, 1]);
        let mut shares = [0; 3];
        for key in 0..300 {
            let (before, after) = (choose(&three, key.to_string()), choose(&two, key.to_string()));
            assert!(before == 2 || before == after, "{key}");
            shares[before] += 1;
        }
        assert!(shares.iter().all(|share| (60..140).contains(share)), "{shares:?}");
    }

    #[test]
    fn addresses_of_one_server_go_round() {
        let peers = peers(&[1, 1]).with(|list| list.iter_mut().for_each(|peer| peer.server = Bytes::from_static(b"a")));
        let order: Vec<usize> = (0..4).map(|_| choose(&peers, "x".to_owned())).collect();
        assert_eq!(order, [0, 1, 0, 1]);
    }
}
