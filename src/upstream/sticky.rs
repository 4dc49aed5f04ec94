//! `sticky`: clients that come back to the peer that served them.
//!
//! In: what a request says of the peer, or of its session. Out: the id of a peer. What was learned is kept in zones, which
//! outlive a reload; a zone that is full forgets who has been away longest.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::conf::template::Template;
use crate::conf::vars::VarId;
use crate::state;

/// How clients are bound.
#[derive(Debug)]
pub struct Sticky {
    /// Where a request says whose it is: the first of these that says anything.
    pub lookup: Vec<VarId>,
    pub by: By,
}

#[derive(Debug)]
pub enum By {
    /// A cookie that we set.
    Cookie(Cookie),
    /// What the request says is the id.
    Route,
    /// What the upstream says is a session, which is remembered.
    Learn(Learn),
}

/// The cookie that binds.
#[derive(Clone, Debug)]
pub struct Cookie {
    pub name: Bytes,
    pub domain: Option<Template>,
    pub path: Option<Bytes>,
    pub expires: Option<Expires>,
    pub httponly: bool,
    pub secure: bool,
    pub samesite: Option<Template>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    Max,
    /// In seconds.
    After(i64),
}

/// How sessions are learned.
#[derive(Debug)]
pub struct Learn {
    /// Where an answer says that a session begins.
    pub create: Vec<VarId>,
    /// In milliseconds.
    pub timeout: u64,
    /// As soon as the head is here.
    pub header: bool,
    pub sessions: Arc<Sessions>,
}

type Key = [u8; 16];

/// The sessions of one zone.
#[derive(Debug)]
pub struct Sessions {
    /// The group that they belong to.
    pub owner: String,
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Key, Session>,
    /// By when they were last used; the second number tells those of the same millisecond apart.
    order: BTreeMap<(u64, u64), Key>,
    count: u64,
}

#[derive(Debug)]
struct Session {
    peer: Bytes,
    used: (u64, u64),
}

/// What nginx's allocator takes for a session.
const SESSION: usize = 137;

impl Sessions {
    /// A zone of so many bytes.
    pub fn new(owner: String, size: usize) -> Self {
        let most = (state::room(size) / state::taken(SESSION)).max(1);
        Self { owner, most, table: Mutex::default() }
    }

    /// The peer of a session.
    pub fn find(&self, session: &[u8], timeout: u64, now: u64) -> Option<Bytes> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget_old(timeout, now);
        table.known.get(&key(session)).map(|session| session.peer.clone())
    }

    /// A session was served by this peer; one that is unknown begins only if it is to be made.
    pub fn learn(&self, session: &[u8], create: bool, peer: &Bytes, timeout: u64, now: u64) {
        let key = key(session);
        let table = &mut *self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget_old(timeout, now);
        if !create && !table.known.contains_key(&key) {
            return;
        }
        if !table.known.contains_key(&key) && table.known.len() >= self.most {
            table.forget_first();
        }
        table.count += 1;
        let used = (now, table.count);
        if let Some(before) = table.known.insert(key, Session { peer: peer.clone(), used }) {
            table.order.remove(&before.used);
        }
        table.order.insert(used, key);
    }
}

impl Table {
    fn forget_old(&mut self, timeout: u64, now: u64) {
        while let Some((&(used, _), _)) = self.order.first_key_value() {
            if used.saturating_add(timeout) > now {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.known.remove(&key);
        }
    }
}

fn key(session: &[u8]) -> Key {
    Md5::digest(session).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_learned_and_forgotten() {
        let sessions = Sessions::new("u".to_owned(), 1 << 20);
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        sessions.learn(b"1", false, &a, 10, 0);
        assert_eq!(sessions.find(b"1", 10, 0), None);
        sessions.learn(b"1", true, &a, 10, 0);
        sessions.learn(b"2", true, &a, 10, 5);
        assert_eq!(sessions.find(b"1", 10, 9), Some(a.clone()));
        sessions.learn(b"1", false, &b, 10, 9);
        assert_eq!((sessions.find(b"1", 10, 15), sessions.find(b"2", 10, 15)), (Some(b), None));
        assert_eq!(sessions.find(b"1", 10, 19), None);
    }

    #[test]
    fn a_full_zone_forgets_who_has_been_away_longest() {
        let sessions = Sessions::new("u".to_owned(), 0);
        let a = Bytes::from_static(b"a");
        sessions.learn(b"1", true, &a, 10, 0);
        sessions.learn(b"2", true, &a, 10, 0);
        assert_eq!((sessions.find(b"1", 10, 0), sessions.find(b"2", 10, 0)), (None, Some(a)));
    }
}
