//! nginx's smooth weighted round robin: every peer gains its weight each time, the richest is chosen and pays the sum.
//!
//! A peer that fails loses effective weight and wins it back one by one; after `max_fails` within `fail_timeout` it is
//! left out for as long. The state is shared by all threads, under a lock around few lines.

use std::sync::{Mutex, PoisonError};

use crate::upstream::peer::Peer;

/// The peers of one rank, primary or backup, and how they fare.
#[derive(Debug)]
pub struct Peers {
    list: Vec<Peer>,
    /// The only one: it is always asked, and its failures are not held against it.
    single: bool,
    standing: Mutex<Vec<Standing>>,
}

/// How one peer fares.
#[derive(Clone, Debug)]
struct Standing {
    current_weight: i64,
    effective_weight: i64,
    conns: u64,
    fails: u64,
    /// Seconds: the last failure, and the last time that failures were looked at.
    accessed: u64,
    checked: u64,
}

/// How a connection to a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// The answer was one that another peer may better (403, 404); the peer itself is well.
    Next,
    Failed,
}

/// Which peers a request has tried.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    first: u64,
    more: Vec<u64>,
}

impl Tried {
    fn has(&self, n: usize) -> bool {
        match n.checked_sub(64) {
            None => self.first & (1 << n) != 0,
            Some(n) => self.more.get(n / 64).is_some_and(|word| word & (1 << (n % 64)) != 0),
        }
    }

    fn set(&mut self, n: usize) {
        let Some(n) = n.checked_sub(64) else {
            self.first |= 1 << n;
            return;
        };
        if self.more.len() <= n / 64 {
            self.more.resize(n / 64 + 1, 0);
        }
        self.more[n / 64] |= 1 << (n % 64);
    }
}

impl Peers {
    /// `alone`: there is no other rank.
    pub fn new(list: Vec<Peer>, alone: bool) -> Self {
        let standing = list.iter().map(|peer| Standing {
            current_weight: 0,
            effective_weight: peer.weight,
            conns: 0,
            fails: 0,
            accessed: 0,
            checked: 0,
        });
        let standing = Mutex::new(standing.collect());
        Self { single: alone && list.len() == 1, list, standing }
    }

    pub fn list(&self) -> &[Peer] {
        &self.list
    }

    pub fn is_single(&self) -> bool {
        self.single
    }

    /// How many peers a request may try.
    pub fn tries(&self) -> usize {
        self.list.iter().filter(|peer| !peer.down).count()
    }

    /// Chooses a peer at this second and counts a connection to it.
    pub fn choose(&self, tried: &mut Tried, now: u64) -> Option<usize> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.single {
            let (peer, standing) = (self.list.first()?, standing.first_mut()?);
            if peer.down || (peer.max_conns > 0 && standing.conns >= peer.max_conns) {
                return None;
            }
            standing.conns += 1;
            return Some(0);
        }
        let mut best: Option<(usize, i64)> = None;
        let mut total = 0;
        for (n, (peer, standing)) in self.list.iter().zip(standing.iter_mut()).enumerate() {
            let resting = peer.max_fails > 0
                && standing.fails >= peer.max_fails
                && now.saturating_sub(standing.checked) <= peer.fail_timeout;
            let full = peer.max_conns > 0 && standing.conns >= peer.max_conns;
            if tried.has(n) || peer.down || resting || full {
                continue;
            }
            standing.current_weight += standing.effective_weight;
            total += standing.effective_weight;
            if standing.effective_weight < peer.weight {
                standing.effective_weight += 1;
            }
            if best.is_none_or(|(_, weight)| standing.current_weight > weight) {
                best = Some((n, standing.current_weight));
            }
        }
        let (n, _) = best?;
        let (peer, standing) = (&self.list[n], &mut standing[n]);
        standing.current_weight -= total;
        if now.saturating_sub(standing.checked) > peer.fail_timeout {
            standing.checked = now;
        }
        standing.conns += 1;
        tried.set(n);
        Some(n)
    }

    /// The connection that [`Peers::choose`] counted is over. `true`: the peer is left out from now on.
    pub fn release(&self, n: usize, outcome: Outcome, now: u64) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(peer), Some(standing)) = (self.list.get(n), standing.get_mut(n)) else { return false };
        standing.conns = standing.conns.saturating_sub(1);
        if self.single {
            standing.fails = 0;
            return false;
        }
        match outcome {
            Outcome::Failed => {
                standing.fails += 1;
                standing.accessed = now;
                standing.checked = now;
                if peer.max_fails == 0 {
                    return false;
                }
                let loss = peer.weight / i64::try_from(peer.max_fails).unwrap_or(i64::MAX);
                standing.effective_weight = (standing.effective_weight - loss).max(0);
                standing.fails >= peer.max_fails
            }
            Outcome::Good | Outcome::Next => {
                // The look that was taken after the last failure found it well.
                if standing.accessed < standing.checked {
                    standing.fails = 0;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::Address;

    fn peers(weights: &[i64]) -> Peers {
        let address = Address::Inet(([127, 0, 0, 1], 80).into());
        Peers::new(weights.iter().map(|&weight| Peer { weight, ..Peer::new(address.clone()) }).collect(), true)
    }

    fn chosen(peers: &Peers, count: usize, now: u64) -> Vec<Option<usize>> {
        let one = |_| {
            let n = peers.choose(&mut Tried::default(), now)?;
            peers.release(n, Outcome::Good, now);
            Some(n)
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn weights_are_mixed_smoothly() {
        let order: Vec<_> = [0, 0, 1, 0, 2, 0, 0].map(Some).to_vec();
        assert_eq!(chosen(&peers(&[5, 1, 1]), 7, 0), order);
        assert_eq!(chosen(&peers(&[1, 1]), 4, 0), [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn a_peer_that_failed_is_left_out_for_its_timeout() {
        let peers = peers(&[1, 1]);
        let n = peers.choose(&mut Tried::default(), 100).expect("all are well");
        assert!(peers.release(n, Outcome::Failed, 100));
        assert_eq!(chosen(&peers, 3, 110), [Some(1), Some(1), Some(1)]);
        let later = chosen(&peers, 4, 111);
        assert!(later.contains(&Some(0)), "{later:?}");
    }

    #[test]
    fn a_request_asks_each_peer_once() {
        let peers = peers(&[1; 70]);
        let mut tried = Tried::default();
        let mut all: Vec<_> = (0..70).map(|_| peers.choose(&mut tried, 0).expect("not yet tried")).collect();
        all.sort_unstable();
        assert_eq!(all, (0..70).collect::<Vec<_>>());
        assert_eq!(peers.choose(&mut tried, 0), None);
    }

    #[test]
    fn a_single_peer_is_never_left_out() {
        let peers = peers(&[1]);
        for _ in 0..3 {
            assert_eq!(peers.choose(&mut Tried::default(), 0), Some(0));
            assert!(!peers.release(0, Outcome::Failed, 0));
        }
    }
}
