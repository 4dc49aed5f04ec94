//! The peers of one rank, primary or backup, and how they fare.
//!
//! A peer that fails loses effective weight and wins it back one by one; after `max_fails` within `fail_timeout` it is
//! left out for as long. The state is shared by all threads, under a lock around few lines.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Method;
use super::least_time::{Times, Took};
use crate::base::clock;
use crate::upstream::peer::{Peer, Service};

/// See the module's head.
#[derive(Debug)]
pub struct Peers {
    list: Vec<Peer>,
    /// The only one: it is always asked, and its failures are not held against it.
    single: bool,
    total_weight: i64,
    ledger: Mutex<Ledger>,
}

/// What is written down of them, in their order.
#[derive(Debug)]
struct Ledger {
    standing: Vec<Standing>,
    /// Empty unless the method measures.
    times: Vec<Times>,
}

/// How one peer fares.
#[derive(Clone, Debug)]
pub struct Standing {
    pub current_weight: i64,
    pub effective_weight: i64,
    pub conns: u64,
    fails: u64,
    /// Seconds: the last failure, and the last time that failures were looked at.
    accessed: u64,
    pub checked: u64,
}

/// How a connection to a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// The answer was one that another peer may better (403, 404); the peer itself is well.
    Next,
    Failed,
}

/// How far a request has come among the peers.
#[derive(Clone, Debug, Default)]
pub struct Way {
    pub tried: Tried,
    /// What is hashed: a key, or a client's address.
    pub key: Bytes,
    /// The id of the peer that the client is bound to.
    pub hint: Option<Bytes>,
    pub hash: u32,
    pub rehash: u32,
    /// How often nobody was found at a place.
    pub turns: u32,
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

/// The peers while one of them is chosen.
pub struct Table<'a> {
    pub list: &'a [Peer],
    pub standing: &'a mut [Standing],
    pub times: &'a mut [Times],
    pub single: bool,
    pub total_weight: i64,
    /// In seconds, and in milliseconds.
    pub now: u64,
    pub milliseconds: u64,
}

impl Table<'_> {
    /// Whether it may be asked now, and was not yet.
    pub fn is_fit(&self, n: usize, way: &Way) -> bool {
        !way.tried.has(n) && self.list[n].service == Service::Up && self.is_able(n)
    }

    fn is_able(&self, n: usize) -> bool {
        let (peer, standing) = (&self.list[n], &self.standing[n]);
        let resting = peer.max_fails > 0
            && standing.fails >= peer.max_fails
            && self.now.saturating_sub(standing.checked) <= peer.fail_timeout;
        !resting && !self.is_full(n)
    }

    pub fn is_full(&self, n: usize) -> bool {
        let most = self.list[n].max_conns;
        most > 0 && self.standing[n].conns >= most
    }

    /// The peer that the client is bound to, if it may be asked.
    pub fn hinted(&self, way: &Way) -> Option<usize> {
        let hint = way.hint.as_ref()?;
        let n = self.list.iter().position(|peer| peer.id == hint)?;
        let fit = !way.tried.has(n) && self.list[n].service != Service::Down && self.is_able(n);
        fit.then_some(n)
    }

    /// The peer at this place, where each takes as much room as it weighs.
    pub fn at(&self, mut place: i64) -> usize {
        for (n, peer) in self.list.iter().enumerate() {
            if place < peer.weight {
                return n;
            }
            place -= peer.weight;
        }
        self.list.len() - 1
    }

    /// Its turn comes nearer. Returns by how much.
    pub fn gain(&mut self, n: usize) -> i64 {
        let standing = &mut self.standing[n];
        let gained = standing.effective_weight;
        standing.current_weight += gained;
        if standing.effective_weight < self.list[n].weight {
            standing.effective_weight += 1;
        }
        gained
    }

    /// It is chosen.
    pub fn take(&mut self, n: usize, way: &mut Way) -> usize {
        let standing = &mut self.standing[n];
        if self.now.saturating_sub(standing.checked) > self.list[n].fail_timeout {
            standing.checked = self.now;
        }
        standing.conns += 1;
        way.tried.set(n);
        n
    }
}

impl Peers {
    /// `alone`: there is no other rank. `measured`: the method asks how long answers take.
    pub fn new(list: Vec<Peer>, alone: bool, measured: bool) -> Self {
        let standing = list.iter().map(|peer| Standing {
            current_weight: 0,
            effective_weight: peer.weight,
            conns: 0,
            fails: 0,
            accessed: 0,
            checked: 0,
        });
        let times = if measured { vec![Times::default(); list.len()] } else { Vec::new() };
        let ledger = Mutex::new(Ledger { standing: standing.collect(), times });
        let total_weight = list.iter().map(|peer| peer.weight).sum();
        Self { single: alone && list.len() == 1, list, total_weight, ledger }
    }

    pub fn list(&self) -> &[Peer] {
        &self.list
    }

    pub fn is_single(&self) -> bool {
        self.single
    }

    /// How many peers a request may try.
    pub fn tries(&self) -> usize {
        self.list.iter().filter(|peer| peer.service == Service::Up).count()
    }

    /// Chooses a peer and counts a connection to it.
    pub fn choose(&self, method: &Method, way: &mut Way, is_backup: bool) -> Option<usize> {
        self.choose_at(method, way, is_backup, clock::milliseconds())
    }

    fn choose_at(&self, method: &Method, way: &mut Way, is_backup: bool, milliseconds: u64) -> Option<usize> {
        if self.list.is_empty() {
            return None;
        }
        let ledger = &mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table {
            list: &self.list,
            standing: &mut ledger.standing,
            times: &mut ledger.times,
            single: self.single,
            total_weight: self.total_weight,
            now: milliseconds / 1000,
            milliseconds,
        };
        method.choose(&mut table, way, is_backup)
    }

    /// Its head is here, after so many milliseconds.
    pub fn answered(&self, n: usize, method: &Method, took: &mut Took) {
        let Method::LeastTime(least_time) = method else { return };
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = ledger.times.get_mut(n) {
            least_time.answered(times, took, clock::milliseconds());
        }
    }

    /// The connection that [`Peers::choose`] counted is over. `true`: the peer is left out from now on.
    pub fn release(&self, n: usize, method: &Method, outcome: Outcome, took: &mut Took) -> bool {
        self.release_at(n, method, outcome, took, clock::milliseconds())
    }

    fn release_at(&self, n: usize, method: &Method, outcome: Outcome, took: &mut Took, milliseconds: u64) -> bool {
        let ledger = &mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Method::LeastTime(least_time), Some(times)) = (method, ledger.times.get_mut(n)) {
            least_time.released(times, took, outcome, milliseconds);
        }
        let now = milliseconds / 1000;
        let (Some(peer), Some(standing)) = (self.list.get(n), ledger.standing.get_mut(n)) else { return false };
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

impl Peers {
    /// Takes over how those fare who were there before, and still are.
    pub fn follow(&self, before: &Self) {
        let ledger = &mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let known = before.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, peer) in self.list.iter().enumerate() {
            let Some(old) = before.list.iter().position(|old| old.is_same(peer)) else { continue };
            if let (Some(standing), Some(old)) = (ledger.standing.get_mut(n), known.standing.get(old)) {
                standing.clone_from(old);
            }
            if let (Some(times), Some(old)) = (ledger.times.get_mut(n), known.times.get(old)) {
                times.clone_from(old);
            }
        }
    }

    /// As [`Peers::release`], of a peer that was chosen before these were here.
    pub fn release_same(&self, peer: &Peer, outcome: Outcome) {
        if let Some(n) = self.list.iter().position(|own| own.is_same(peer)) {
            self.release(n, &Method::RoundRobin, outcome, &mut Took::default());
        }
    }
}

/// For the tests of the methods.
#[cfg(test)]
pub mod fixture {
    use super::*;
    use crate::base::addr::Address;

    /// Peers of these weights, on ports from 1 on.
    pub fn peers(weights: &[i64]) -> Peers {
        let peer = |(n, weight): (usize, &i64)| {
            let port = u16::try_from(n + 1).expect("there are few");
            let mut peer = Peer { weight: *weight, ..Peer::new(Address::Inet(([127, 0, 0, 1], port).into())) };
            peer.id = Bytes::from(port.to_string());
            peer
        };
        Peers::new(weights.iter().enumerate().map(peer).collect(), true, true)
    }

    impl Peers {
        pub fn with(mut self, change: impl FnOnce(&mut [Peer])) -> Self {
            change(&mut self.list);
            self
        }

        pub fn next(&self, method: &Method, way: &mut Way, now: u64) -> Option<usize> {
            self.choose_at(method, way, false, now * 1000)
        }

        pub fn end(&self, n: usize, outcome: Outcome, now: u64) -> bool {
            self.release_at(n, &Method::RoundRobin, outcome, &mut Took::default(), now * 1000)
        }

        pub fn end_timed(&self, n: usize, method: &Method, took: &mut Took, milliseconds: u64) {
            self.release_at(n, method, Outcome::Good, took, milliseconds);
        }

        /// Who is chosen by so many requests, each of which ends before the next.
        pub fn order(&self, method: &Method, count: usize, now: u64) -> Vec<Option<usize>> {
            let one = |_| {
                let n = self.next(method, &mut Way::default(), now)?;
                self.end(n, Outcome::Good, now);
                Some(n)
            };
            (0..count).map(one).collect()
        }
    }
}
