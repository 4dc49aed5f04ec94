//! A group: the peers of an `upstream {}` block, or those behind the one address that a directive names.
//!
//! In: peers. Out: for each request a [`Choice`], which hands out one peer after the other; each is held
//! ([`Held`]) as long as somebody works with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::balance::Method;
use super::balance::least_time::Took;
use super::balance::peers::{Outcome, Peers, Way};
use super::moving::Moving;
use super::peer::Peer;
use super::sticky::Sticky;

/// See the module's head.
#[derive(Debug)]
pub struct Group {
    /// Its number in this process, for the pools of the threads.
    pub id: u64,
    /// What the configuration calls it: `backend`, or the host of an address.
    pub name: Bytes,
    primary: Peers,
    backup: Option<Peers>,
    pub method: Method,
    pub sticky: Option<Arc<Sticky>>,
    /// `None`: connections are used once.
    pub keepalive: Option<Keepalive>,
    /// Where its servers are found by name.
    home: Home,
}

/// Whether another group may take a group's place.
#[derive(Debug)]
enum Home {
    Fixed,
    /// It stands for the one that is current.
    Front(Arc<Moving>),
    /// It is, or was, the current one.
    Stay(Weak<Moving>),
}

/// What is kept of a group's connections, in each thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub connections: usize,
    /// A connection serves the location only that opened it.
    pub local: bool,
    pub requests: u64,
    pub time: Duration,
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            connections: 32,
            local: true,
            requests: 1000,
            time: Duration::from_secs(3600),
            timeout: Duration::from_secs(60),
        }
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Group {
    /// Peers that go round and whose connections are used once.
    pub fn new(name: Bytes, primary: Vec<Peer>) -> Self {
        Self::of(name, primary, Vec::new(), Method::RoundRobin)
    }

    pub fn of(name: Bytes, primary: Vec<Peer>, backup: Vec<Peer>, method: Method) -> Self {
        let measured = matches!(method, Method::LeastTime(_));
        let backup = (!backup.is_empty()).then(|| Peers::new(backup, false, measured));
        Self {
            id: NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            primary: Peers::new(primary, backup.is_none(), measured),
            backup,
            method,
            sticky: None,
            keepalive: None,
            home: Home::Fixed,
        }
    }

    /// One that stands for whatever is current.
    pub fn front(moving: Arc<Moving>) -> Self {
        let name = moving.current().name.clone();
        Self { home: Home::Front(moving), ..Self::new(name, Vec::new()) }
    }

    /// The group that requests go by.
    pub fn current(self: Arc<Self>) -> Arc<Self> {
        let Home::Front(moving) = &self.home else { return self };
        moving.current()
    }

    pub(super) fn stay_at(&mut self, home: Weak<Moving>) {
        self.home = Home::Stay(home);
    }

    /// Whether these are its peers.
    pub(super) fn consists_of(&self, primary: &[Peer], backup: &[Peer]) -> bool {
        let own = self.backup.as_ref().map_or(&[][..], Peers::list);
        Peer::are_same(self.primary.list(), primary) && Peer::are_same(own, backup)
    }

    /// A group in its place, with other peers. Those that stay fare as they did.
    pub(super) fn successor(
        &self,
        primary: Vec<Peer>,
        backup: Vec<Peer>,
        method: Method,
        finish: &dyn Fn(&mut Self),
    ) -> Self {
        let mut next = Self::of(self.name.clone(), primary, backup, method);
        finish(&mut next);
        // Connections that are kept go on being kept.
        next.id = self.id;
        if let Home::Stay(home) = &self.home {
            next.home = Home::Stay(home.clone());
        }
        next.primary.follow(&self.primary);
        if let (Some(next), Some(before)) = (&next.backup, &self.backup) {
            next.follow(before);
        }
        next
    }

    /// What may put another in its place.
    fn home(&self) -> Option<Arc<Moving>> {
        match &self.home {
            Home::Fixed | Home::Front(_) => None,
            Home::Stay(home) => home.upgrade(),
        }
    }

    fn rank(&self, backup: bool) -> &Peers {
        match &self.backup {
            Some(peers) if backup => peers,
            _ => &self.primary,
        }
    }

    /// How many tries a request has before it has asked all.
    fn tries(&self) -> usize {
        self.primary.tries() + self.backup.as_ref().map_or(0, Peers::tries)
    }
}

/// One request's way through a group.
#[derive(Debug)]
pub struct Choice {
    group: Arc<Group>,
    way: Way,
    backup: bool,
    /// How many tries are left, the one at hand included.
    pub tries: usize,
}

impl Choice {
    pub fn new(group: Arc<Group>, way: Way) -> Self {
        Self { way, backup: false, tries: group.tries(), group }
    }

    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The next peer; `None` when no live one is left.
    pub fn next_peer(&mut self) -> Option<Held> {
        let home = self.group.home();
        let guard = home.as_ref().map(|moving| moving.hold());
        if let Some((_, current)) = &guard
            && !Arc::ptr_eq(current, &self.group)
        {
            self.begin_anew(current.clone());
        }
        let Self { group, way, backup, .. } = self;
        let mut n = group.rank(*backup).choose(&group.method, way, *backup);
        if n.is_none() && !*backup && group.backup.is_some() {
            *backup = true;
            way.tried = Default::default();
            n = group.rank(true).choose(&group.method, way, true);
        }
        let took = match &group.method {
            Method::LeastTime(least_time) => Took::begin(least_time),
            _ => Took::default(),
        };
        n.map(|n| Held { group: group.clone(), backup: *backup, n, took, over: false })
    }

    /// The servers have changed: all of them may be asked.
    fn begin_anew(&mut self, group: Arc<Group>) {
        self.backup = false;
        self.way.tried = Default::default();
        if let Method::Consistent(_, ring) = &group.method {
            self.way.hash = ring.place(&self.way.key);
        }
        self.group = group;
    }

    /// Counts a try that is over.
    pub fn spend(&mut self) {
        self.tries = match self.group.primary.is_single() {
            true => 0,
            false => self.tries.saturating_sub(1),
        };
    }
}

/// A peer that somebody works with. It is let go as good unless [`Held::release`] says otherwise.
#[derive(Debug)]
pub struct Held {
    group: Arc<Group>,
    backup: bool,
    n: usize,
    took: Took,
    over: bool,
}

impl Held {
    pub fn peer(&self) -> &Peer {
        &self.group.rank(self.backup).list()[self.n]
    }

    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The head of its answer is here, after so long.
    pub fn answered(&mut self, elapsed: Duration) {
        self.took.header = Some(elapsed);
        self.group.rank(self.backup).answered(self.n, &self.group.method, &mut self.took);
    }

    /// Its work took so long. `true`: the peer has failed too often and is left out for a while.
    pub fn release(mut self, outcome: Outcome, elapsed: Duration) -> bool {
        self.took.response = elapsed;
        self.let_go(outcome)
    }

    fn let_go(&mut self, outcome: Outcome) -> bool {
        self.over = true;
        let home = self.group.home();
        let guard = home.as_ref().map(|moving| moving.hold());
        if let Some((_, current)) = &guard
            && !Arc::ptr_eq(current, &self.group)
        {
            current.rank(self.backup).release_same(self.peer(), outcome);
        }
        self.group.rank(self.backup).release(self.n, &self.group.method, outcome, &mut self.took)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.over {
            self.let_go(Outcome::Next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::Address;

    #[test]
    fn backups_come_when_nobody_else_is_left() {
        let peer = |port| Peer::new(Address::Inet(([127, 0, 0, 1], port).into()));
        let (primary, backup) = (vec![peer(1), peer(2)], vec![peer(3)]);
        let group = Arc::new(Group::of(Bytes::from_static(b"g"), primary, backup, Method::RoundRobin));
        let mut choice = Choice::new(group, Way::default());
        assert_eq!(choice.tries, 3);
        let mut names = Vec::new();
        while let Some(held) = choice.next_peer() {
            names.push(held.peer().name.clone());
            held.release(Outcome::Failed, Duration::ZERO);
            choice.spend();
        }
        assert_eq!(names, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        assert_eq!(choice.tries, 0);
    }
}
