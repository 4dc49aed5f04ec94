//! `random`: a peer by chance, as likely as it weighs; with `two`, the one of two that has fewer connections.

use super::peers::{Table, Way};
use super::{TURNS, round_robin};

/// The next peer; `chance` gives any number.
pub fn choose(two: bool, table: &mut Table<'_>, way: &mut Way, mut chance: impl FnMut() -> u64) -> Option<usize> {
    if way.turns > TURNS || table.list.len() < 2 {
        return round_robin::choose(table, way);
    }
    if let Some(n) = table.hinted(way) {
        return Some(table.take(n, way));
    }
    let weight = table.total_weight.unsigned_abs().max(1);
    let mut first: Option<usize> = None;
    loop {
        let n = table.at(i64::try_from(chance() % weight).unwrap_or(0));
        if first != Some(n) && table.is_fit(n, way) {
            match first {
                Some(first) => {
                    let load = |one: usize, other: usize| {
                        u128::from(table.standing[one].conns) * u128::from(table.list[other].weight.unsigned_abs())
                    };
                    let better = if load(n, first) > load(first, n) { first } else { n };
                    return Some(table.take(better, way));
                }
                None if two => {
                    first = Some(n);
                    continue;
                }
                None => return Some(table.take(n, way)),
            }
        }
        way.turns += 1;
        if way.turns > TURNS {
            return round_robin::choose(table, way);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::Way;
    use crate::upstream::balance::peers::fixture::peers;

    #[test]
    fn chance_follows_weight() {
        let peers = peers(&[1, 9]);
        let all = peers.order(&Method::Random { two: false }, 1000, 0);
        let heavy = all.iter().filter(|n| **n == Some(1)).count();
        assert!((800..980).contains(&heavy), "{heavy}");
    }

    #[test]
    fn of_two_the_less_busy_is_asked() {
        let peers = peers(&[1, 1]);
        let mut all = [0; 2];
        for _ in 0..100 {
            let n = peers.next(&Method::Random { two: true }, &mut Way::default(), 0).expect("both are well");
            all[n] += 1;
        }
        assert_eq!(all, [50, 50]);
    }
}
