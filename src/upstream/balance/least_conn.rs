//! `least_conn`: the peer with the fewest connections for its weight; those that have equally few go round.

use super::peers::{Table, Way};
use super::round_robin;

/// The next peer.
pub fn choose(table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
    if table.single {
        return round_robin::choose(table, way);
    }
    if let Some(n) = table.hinted(way) {
        return Some(table.take(n, way));
    }
    let load = |table: &Table<'_>, n: usize| table.standing[n].conns;
    least(table, way, load)
}

/// The peer with the least load for its weight.
pub(super) fn least(table: &mut Table<'_>, way: &mut Way, load: impl Fn(&Table<'_>, usize) -> u64) -> Option<usize> {
    // How `one` compares to `other`, without a division: each load times the other's weight.
    let weighed = |table: &Table<'_>, one: usize, other: usize| {
        u128::from(load(table, one)) * u128::from(table.list[other].weight.unsigned_abs())
    };
    let mut best: Option<usize> = None;
    let mut many = false;
    for n in 0..table.list.len() {
        if !table.is_fit(n, way) {
            continue;
        }
        let order = best.map(|best| weighed(table, n, best).cmp(&weighed(table, best, n)));
        match order {
            None | Some(std::cmp::Ordering::Less) => (best, many) = (Some(n), false),
            Some(std::cmp::Ordering::Equal) => many = true,
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    let first = best?;
    let mut best = first;
    if many {
        let mut total = 0;
        for n in first..table.list.len() {
            if !table.is_fit(n, way) || weighed(table, n, best) != weighed(table, best, n) {
                continue;
            }
            total += table.gain(n);
            if table.standing[n].current_weight > table.standing[best].current_weight {
                best = n;
            }
        }
        table.standing[best].current_weight -= total;
    }
    Some(table.take(best, way))
}

#[cfg(test)]
mod tests {
    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::fixture::peers;
    use crate::upstream::balance::peers::{Outcome, Way};

    #[test]
    fn the_least_busy_is_asked_and_equals_go_round() {
        let peers = peers(&[1, 2, 1]);
        let next = || peers.next(&Method::LeastConn, &mut Way::default(), 0);
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(0), Some(2), Some(1)]);
        // Busy are now 1, 2 and 1, as they weigh; the last becomes idle.
        peers.end(2, Outcome::Good, 0);
        assert_eq!(next(), Some(2));
    }
}
