//! nginx's smooth weighted round robin: every peer gains its weight each time, the richest is chosen and pays the sum.

use super::peers::{Table, Way};
use crate::upstream::peer::Service;

/// The next peer.
pub fn choose(table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
    let hinted = table.hinted(way);
    if table.single {
        let fit = hinted.is_some() || table.list[0].service == Service::Up && !table.is_full(0);
        return fit.then(|| {
            table.standing[0].conns += 1;
            0
        });
    }
    if let Some(n) = hinted {
        // One that so many are bound to that it owes the others a round does not pay for more.
        let low = table.list[n].weight - table.total_weight;
        if table.standing[n].current_weight <= low {
            return Some(table.take(n, way));
        }
    }
    let mut best: Option<usize> = None;
    let mut total = 0;
    for n in 0..table.list.len() {
        if !table.is_fit(n, way) {
            continue;
        }
        total += table.gain(n);
        let weight = table.standing[n].current_weight;
        if best.is_none_or(|best| weight > table.standing[best].current_weight) {
            best = Some(n);
        }
    }
    let n = hinted.or(best)?;
    table.standing[n].current_weight -= total;
    Some(table.take(n, way))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::fixture::peers;
    use crate::upstream::balance::peers::{Outcome, Way};
    use crate::upstream::peer::Service;

    const METHOD: Method = Method::RoundRobin;

    #[test]
    fn weights_are_mixed_smoothly() {
        let order: Vec<_> = [0, 0, 1, 0, 2, 0, 0].map(Some).to_vec();
        assert_eq!(peers(&[5, 1, 1]).order(&METHOD, 7, 0), order);
        assert_eq!(peers(&[1, 1]).order(&METHOD, 4, 0), [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn a_peer_that_failed_is_left_out_for_its_timeout() {
        let peers = peers(&[1, 1]);
        let n = peers.next(&METHOD, &mut Way::default(), 100).expect("all are well");
        assert!(peers.end(n, Outcome::Failed, 100));
        assert_eq!(peers.order(&METHOD, 3, 110), [Some(1), Some(1), Some(1)]);
        let later = peers.order(&METHOD, 4, 111);
        assert!(later.contains(&Some(0)), "{later:?}");
    }

    #[test]
    fn a_request_asks_each_peer_once() {
        let peers = peers(&[1; 70]);
        let mut way = Way::default();
        let mut all: Vec<_> = (0..70).map(|_| peers.next(&METHOD, &mut way, 0).expect("not yet tried")).collect();
        all.sort_unstable();
        assert_eq!(all, (0..70).collect::<Vec<_>>());
        assert_eq!(peers.next(&METHOD, &mut way, 0), None);
    }

    #[test]
    fn a_single_peer_is_never_left_out() {
        let peers = peers(&[1]);
        for _ in 0..3 {
            assert_eq!(peers.next(&METHOD, &mut Way::default(), 0), Some(0));
            assert!(!peers.end(0, Outcome::Failed, 0));
        }
    }

    #[test]
    fn who_is_bound_to_a_peer_gets_it_while_it_is_well() {
        let bound = |id: &'static str| Way { hint: Some(Bytes::from(id)), ..Way::default() };
        let peers = peers(&[1, 1, 1]).with(|list| {
            list[1].service = Service::Draining;
            list[2].service = Service::Down;
        });
        for (id, n) in [("2", 1), ("2", 1), ("3", 0), ("1", 0)] {
            assert_eq!(peers.next(&METHOD, &mut bound(id), 0), Some(n), "{id}");
        }
        // It is tried once, and then another.
        let mut way = bound("2");
        assert_eq!([peers.next(&METHOD, &mut way, 0), peers.next(&METHOD, &mut way, 0)], [Some(1), Some(0)]);
    }

    #[test]
    fn the_bound_pay_for_a_round_at_most() {
        let peers = peers(&[1, 1]);
        for _ in 0..10 {
            let mut way = Way { hint: Some(Bytes::from_static(b"1")), ..Way::default() };
            assert_eq!(peers.next(&METHOD, &mut way, 0), Some(0));
        }
        assert_eq!(peers.order(&METHOD, 3, 0), [Some(1), Some(0), Some(1)]);
    }
}
