//! What is known of a zone's entries: whether there is a file and how large, who is fetching it, when it was last used.
//!
//! In: keys. Out: what a request may do about one ([`Found`]), and the right to fetch it ([`Turn`]). One index belongs to
//! one zone and is shared by all threads and by all configurations that name the zone: it survives a reload.
//!
//! The rules: an entry that somebody holds ([`Held`]) is not removed; `size` is the sum of what its entries say of their
//! files; the lock is held for no system call, and never by who waits. What the index says of the disk may be wrong, for
//! others delete files too: whoever finds it wrong says so ([`Held::is_gone`]).
//!
//! Why not moka: nginx's rules need the exact order of last use, entries that are in use and stay, and a state that
//! changes in place. A table of numbers and a list through one vector do that at 140 bytes an entry, moka took 350.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fill::Fill;
use super::key::{Hashing, Key};
use super::purge::Purges;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Index {
    inner: Mutex<Inner>,
    /// Numbers the turns, so that one whose lock has aged does not end another's.
    turns: AtomicU64,
    /// What of the entries must not be served any more.
    pub purges: Purges,
}

/// No entry.
const NONE: u32 = u32::MAX;

/// nginx: after so many entries in use it gives up looking for one that is not.
const TRIES: usize = 20;

#[derive(Debug)]
struct Inner {
    places: HashMap<Key, u32, Hashing>,
    nodes: Vec<Node>,
    /// The first of the free places, which are linked by `older`.
    free: u32,
    newest: u32,
    oldest: u32,
    /// Bytes on disk.
    size: u64,
    /// The most entries that the zone's memory has room for.
    capacity: usize,
    /// It has been full: from now on some room is kept free. nginx: `watermark`.
    was_full: bool,
    /// How long an entry stays after its last use, in seconds.
    inactive: i64,
    /// The directory was not read yet: what is unknown here may be there.
    cold: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            places: HashMap::default(),
            nodes: Vec::new(),
            free: NONE,
            newest: NONE,
            oldest: NONE,
            size: 0,
            capacity: usize::MAX,
            was_full: false,
            inactive: 600,
            cold: true,
        }
    }
}

/// One entry.
#[derive(Debug)]
struct Node {
    key: Key,
    newer: u32,
    older: u32,
    /// It is inactive from this second on.
    expire: i64,
    /// Bytes of its file on disk.
    size: u64,
    /// Until when `error` is the answer.
    error_until: i64,
    /// Who is fetching it: the number of a turn.
    turn: u64,
    /// From this millisecond on another may fetch it, too.
    turn_until: u64,
    fill: Option<Arc<Fill>>,
    holders: u32,
    uses: u32,
    /// The number of the last purge before its file was asked for.
    since: u32,
    /// Numbers the file that was made last, differently from all others; 0 is one that was found.
    made: u32,
    /// A status that stands for a file.
    error: u16,
    exists: bool,
    /// Who is fetching it has all of it, and its file will be in its place at once.
    arrives: bool,
    /// The loader has seen its file.
    seen: bool,
}

impl Node {
    fn is_fetched(&self) -> bool {
        self.turn != 0
    }
}

/// What a request may do about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This status is the answer.
    Error(u16),
    /// The file that answers is on its way to its place: [`Held::fill`].
    Arrives,
    Entry {
        /// There is a file, or there may be one: the disk is to be asked.
        on_disk: bool,
        /// The answer may be kept: it was asked for often enough.
        keep: bool,
    },
}

/// The zone's memory is full of entries in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Why an entry may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evict {
    /// It has not been used for long.
    Inactive,
    /// There is no room.
    Oldest,
}

/// What the manager is told when it asks for an entry that may go.
#[derive(Debug)]
pub enum Evicted {
    /// It is gone; its file is the caller's to delete.
    File(Key),
    /// It had no file, and is gone.
    Forgotten,
    /// The oldest becomes inactive in so many seconds.
    Later(i64),
    /// All are in use.
    Busy,
    Empty,
}

/// One entry as a snapshot keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub size: u64,
    pub expire: i64,
    pub uses: u32,
}

/// How full a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub entries: usize,
    pub size: u64,
    /// It has been full, and is nearly so again.
    pub is_crowded: bool,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a configuration says of the zone.
    pub fn set_limits(&self, capacity: usize, inactive: i64) {
        let mut inner = self.lock();
        inner.capacity = capacity;
        inner.inactive = inactive;
    }

    /// Looks a key up for a request, which counts as a use. The entry is made when there is none. Second: the file of
    /// another entry that had to make room.
    pub fn look_up(self: &Arc<Self>, key: Key, min_uses: u32, now: i64) -> Result<(Held, Found, Option<Key>), Full> {
        let mut inner = self.lock();
        let mut evicted = None;
        let known = inner.places.get(&key).copied();
        let place = match known {
            Some(place) => place,
            None => {
                if inner.places.len() >= inner.capacity {
                    inner.was_full = true;
                    evicted = inner.evict(Evict::Oldest, now).file();
                }
                inner.insert(key).ok_or(Full)?
            }
        };
        inner.touch(place, now);
        let cold = inner.cold;
        let node = &mut inner.nodes[place as usize];
        node.uses = node.uses.saturating_add(1);
        node.holders += 1;
        let found = match () {
            () if node.arrives => Found::Arrives,
            () if known.is_some() && node.error != 0 && node.error_until >= now => Found::Error(node.error),
            () if known.is_some() && node.error == 0 => {
                let often = node.exists || node.uses >= min_uses;
                Found::Entry { on_disk: node.exists, keep: often }
            }
            () => {
                node.error = 0;
                if known.is_some() {
                    node.uses = 1;
                }
                Found::Entry { on_disk: cold, keep: min_uses <= 1 }
            }
        };
        let (existed, made) = (node.exists, node.made);
        Ok((Held { index: self.clone(), place, forget: min_uses <= 1, existed, made }, found, evicted))
    }

    /// The bytes of all files and how many entries there are.
    pub fn level(&self) -> Level {
        let inner = self.lock();
        let entries = inner.places.len();
        let is_crowded = inner.was_full && entries >= inner.capacity - inner.capacity / 8;
        Level { entries, size: inner.size, is_crowded }
    }

    pub fn is_cold(&self) -> bool {
        self.lock().cold
    }

    /// Takes an entry that may go, the longest unused first.
    pub fn take(&self, why: Evict, now: i64) -> Evicted {
        self.lock().evict(why, now)
    }

    /// Gives up the file of a key, which the caller deletes: it was purged. `false`: there is none. What the entry
    /// remembers of failures is forgotten in any case.
    pub fn purge(&self, key: Key) -> bool {
        let mut inner = self.lock();
        let Some(&place) = inner.places.get(&key) else { return false };
        let node = &mut inner.nodes[place as usize];
        node.error_until = 0;
        let existed = std::mem::take(&mut node.exists);
        let (size, in_use) = (std::mem::take(&mut node.size), node.holders > 0);
        inner.size -= size;
        if !in_use {
            inner.remove(place);
        }
        existed
    }

    /// The number of the last purge before the file of a key was asked for; `None` when there is no such file.
    pub fn since(&self, key: Key) -> Option<u32> {
        let inner = self.lock();
        let place = *inner.places.get(&key)?;
        let node = &inner.nodes[place as usize];
        node.exists.then_some(node.since)
    }

    /// The loader has found a file. `false`: there is no room for it.
    pub fn load(&self, record: Record) -> bool {
        let mut inner = self.lock();
        if let Some(&place) = inner.places.get(&record.key) {
            let node = &mut inner.nodes[place as usize];
            node.seen = true;
            if !node.exists && !node.is_fetched() && node.error == 0 {
                node.exists = true;
                node.size = record.size;
                inner.size += record.size;
            }
            return true;
        }
        if inner.places.len() >= inner.capacity {
            inner.was_full = true;
            return false;
        }
        let Some(place) = inner.insert(record.key) else { return false };
        let node = &mut inner.nodes[place as usize];
        (node.uses, node.size, node.exists, node.seen) = (record.uses, record.size, true, true);
        inner.size += record.size;
        inner.touch(place, 0);
        inner.nodes[place as usize].expire = record.expire;
        true
    }

    /// As [`Index::load`], but from a snapshot: whether the file is there shows when it is looked for.
    pub fn restore(&self, record: Record) {
        let loaded = self.load(record);
        let mut inner = self.lock();
        if loaded && let Some(&place) = inner.places.get(&record.key) {
            inner.nodes[place as usize].seen = false;
        }
    }

    /// The whole directory was read. Entries of a snapshot whose file nobody has seen go.
    pub fn is_loaded(&self) {
        let mut inner = self.lock();
        inner.cold = false;
        let places = 0..u32::try_from(inner.nodes.len()).unwrap_or(NONE);
        for place in places {
            let node = &inner.nodes[place as usize];
            if node.exists && !node.seen && node.holders == 0 {
                inner.size -= inner.nodes[place as usize].size;
                inner.remove(place);
            }
        }
    }

    /// Every entry that has a file, the longest unused first.
    pub fn records(&self) -> Vec<Record> {
        let inner = self.lock();
        let mut records = Vec::with_capacity(inner.places.len());
        let mut place = inner.oldest;
        while let Some(node) = inner.nodes.get(place as usize) {
            if node.exists {
                records.push(Record { key: node.key, size: node.size, expire: node.expire, uses: node.uses });
            }
            place = node.newer;
        }
        records
    }
}

impl Evicted {
    fn file(self) -> Option<Key> {
        match self {
            Self::File(key) => Some(key),
            Self::Forgotten | Self::Later(_) | Self::Busy | Self::Empty => None,
        }
    }
}

impl Inner {
    fn evict(&mut self, why: Evict, now: i64) -> Evicted {
        for _ in 0..TRIES {
            let place = self.oldest;
            let Some(node) = self.nodes.get(place as usize) else { return Evicted::Empty };
            if why == Evict::Inactive && node.expire > now {
                return Evicted::Later(node.expire - now);
            }
            if node.holders > 0 {
                // It is in use now, whenever that began.
                self.touch(place, now);
                continue;
            }
            let (key, size, exists) = (node.key, node.size, node.exists);
            self.size -= size;
            self.remove(place);
            return if exists { Evicted::File(key) } else { Evicted::Forgotten };
        }
        Evicted::Busy
    }

    /// Makes an entry, which is in no list yet. `None`: there is no room.
    fn insert(&mut self, key: Key) -> Option<u32> {
        if self.places.len() >= self.capacity {
            return None;
        }
        let node = Node {
            key,
            newer: NONE,
            older: NONE,
            expire: 0,
            size: 0,
            error_until: 0,
            turn: 0,
            turn_until: 0,
            fill: None,
            holders: 0,
            uses: 0,
            since: 0,
            made: 0,
            error: 0,
            exists: false,
            arrives: false,
            seen: true,
        };
        let place = match self.nodes.get(self.free as usize) {
            Some(free) => {
                let place = std::mem::replace(&mut self.free, free.older);
                self.nodes[place as usize] = node;
                place
            }
            None => {
                let place = u32::try_from(self.nodes.len()).ok().filter(|&place| place < NONE)?;
                self.nodes.push(node);
                place
            }
        };
        self.places.insert(key, place);
        self.append(place);
        Some(place)
    }

    /// Puts an entry, which is in no list, at the end of the newest.
    fn append(&mut self, place: u32) {
        let newest = std::mem::replace(&mut self.newest, place);
        let node = &mut self.nodes[place as usize];
        (node.older, node.newer) = (newest, NONE);
        match self.nodes.get_mut(newest as usize) {
            Some(node) => node.newer = place,
            None => self.oldest = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Node { newer, older, .. } = self.nodes[place as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// The entry is used now.
    fn touch(&mut self, place: u32, now: i64) {
        if self.newest != place {
            self.unlink(place);
            self.append(place);
        }
        self.nodes[place as usize].expire = now + self.inactive;
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        let node = &mut self.nodes[place as usize];
        node.older = self.free;
        node.fill = None;
        node.exists = false;
        let key = node.key;
        self.free = place;
        self.places.remove(&key);
    }
}

/// An entry that somebody works with.
#[derive(Debug)]
pub struct Held {
    index: Arc<Index>,
    place: u32,
    /// The entry goes with its last holder when it came to nothing. nginx: not where uses are counted.
    forget: bool,
    /// The index knew of its file.
    existed: bool,
    /// Which file it was: another number is another file.
    pub made: u32,
}

impl Held {
    fn with<T>(&self, change: impl FnOnce(&mut Inner, usize) -> T) -> T {
        change(&mut self.index.lock(), self.place as usize)
    }

    /// The file that the index tells of is not there, or is of no use; unless another was made in the meantime.
    pub fn is_gone(&self) {
        self.with(|inner, place| {
            let node = &mut inner.nodes[place];
            if node.made != self.made {
                return;
            }
            node.exists = false;
            inner.size -= std::mem::take(&mut node.size);
        });
    }

    /// Whether the file that was found, which is kept under `text` and of this date, was purged.
    pub fn is_purged(&self, main: Key, text: &[u8], date: i64) -> bool {
        if self.index.purges.is_idle() {
            return false;
        }
        let since = self.with(|inner, place| inner.nodes[place].since);
        self.index.purges.has(main, text, since, date)
    }

    /// The file that was found while the index was cold, and its bytes on disk.
    pub fn is_there(&self, size: impl FnOnce() -> u64) {
        if self.existed {
            return;
        }
        let size = size();
        self.with(|inner, place| {
            let node = &mut inner.nodes[place];
            if !node.exists {
                (node.exists, node.uses) = (true, 1);
                node.size = size;
                inner.size += size;
            }
        });
    }

    /// What those see of a fetch who wait for it; `None` when it is over.
    pub fn fill(&self) -> Option<Arc<Fill>> {
        self.with(|inner, place| inner.nodes[place].fill.clone())
    }

    /// The right to fetch what is missing, one at a time; another may have it when `age` milliseconds have passed. The
    /// error is who has it, and until when.
    pub fn turn(self, now: u64, age: u64) -> Result<Turn, (Self, Arc<Fill>, u64)> {
        let number = self.index.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let since = self.index.purges.last();
        let fill = self.with(|inner, place| {
            let node = &mut inner.nodes[place];
            if node.is_fetched() && node.turn_until > now {
                return Err((node.fill.clone().unwrap_or_default(), node.turn_until));
            }
            let fill = Arc::new(Fill::since(since));
            (node.turn, node.turn_until, node.fill) = (number, now.saturating_add(age), Some(fill.clone()));
            Ok(fill)
        });
        match fill {
            Ok(fill) => Ok(Turn { held: self, number, fill }),
            Err((fill, until)) => Err((self, fill, until)),
        }
    }

    /// The right to fetch anew what is stale. The error: somebody does so.
    pub fn renewal(self) -> Result<Turn, Self> {
        let number = self.index.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let since = self.index.purges.last();
        let fill = self.with(|inner, place| {
            let node = &mut inner.nodes[place];
            if node.is_fetched() {
                return None;
            }
            let fill = Arc::new(Fill::since(since));
            (node.turn, node.fill) = (number, Some(fill.clone()));
            Some(fill)
        });
        match fill {
            Some(fill) => Ok(Turn { held: self, number, fill }),
            None => Err(self),
        }
    }

    /// May be fetched like anybody else's, at the same time as others do.
    pub fn share(self) -> Turn {
        let fill = Arc::new(Fill::since(self.index.purges.last()));
        Turn { held: self, number: 0, fill }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let forget = self.forget;
        self.with(|inner, place| {
            let node = &mut inner.nodes[place];
            node.holders = node.holders.saturating_sub(1);
            if forget && node.holders == 0 && !node.exists && node.error == 0 {
                inner.remove(place as u32); // a place is one of fewer than 2^32
            }
        });
    }
}

/// The right to fetch an entry. It ends with the file that was made ([`Turn::made`]), with an error that is remembered
/// ([`Turn::failed`]), or by being dropped: then others may try.
#[derive(Debug)]
pub struct Turn {
    held: Held,
    /// 0: others fetch it at the same time.
    number: u64,
    /// What those see of it who wait.
    pub fill: Arc<Fill>,
}

impl Turn {
    /// The file is in its place, with so many bytes on disk.
    pub fn made(self, size: u64) {
        let number = self.held.index.turns.fetch_add(1, Ordering::Relaxed) + 1;
        self.held.with(|inner, place| {
            let node = &mut inner.nodes[place];
            node.error = 0;
            node.exists = true;
            node.seen = true;
            node.since = self.fill.since;
            node.made = number as u32; // after four billion more it may come again
            inner.size += size;
            inner.size -= std::mem::replace(&mut node.size, size);
        });
    }

    /// All of it has come, and its file will be in its place at once: whoever looks for it from now on waits for that.
    pub fn arrives(&mut self) {
        let next = || self.held.index.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let number = if self.number == 0 { next() } else { self.number };
        self.number = self.held.with(|inner, place| {
            let node = &mut inner.nodes[place];
            if node.is_fetched() && node.turn != number {
                return self.number; // those who wait have somebody else to wait for
            }
            (node.turn, node.turn_until, node.arrives) = (number, u64::MAX, true);
            node.fill = Some(self.fill.clone());
            number
        });
    }

    /// There will be no file: until `until` this status is the answer.
    pub fn failed(self, status: u16, until: i64) {
        self.held.with(|inner, place| {
            let node = &mut inner.nodes[place];
            (node.error, node.error_until) = (status, until);
        });
    }

    /// Others fetch it only when this one is done.
    pub fn is_alone(&self) -> bool {
        self.number != 0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let number = self.number;
        if number != 0 {
            self.held.with(|inner, place| {
                let node = &mut inner.nodes[place];
                // nginx: who was given up on has nothing to end any more
                if node.turn == number {
                    (node.turn, node.fill, node.arrives) = (0, None, false);
                }
            });
        }
        self.fill.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(text.as_bytes())
    }

    fn index(capacity: usize) -> Arc<Index> {
        let index = Arc::new(Index::default());
        index.set_limits(capacity, 10);
        index.is_loaded();
        index
    }

    fn held(index: &Arc<Index>, text: &str, now: i64) -> (Held, Found) {
        let (held, found, _) = index.look_up(key(text), 1, now).expect("there is room");
        (held, found)
    }

    fn store(index: &Arc<Index>, text: &str, size: u64, now: i64) {
        held(index, text, now).0.share().made(size);
    }

    const MISSING: Found = Found::Entry { on_disk: false, keep: true };
    const THERE: Found = Found::Entry { on_disk: true, keep: true };

    #[test]
    fn what_was_made_is_there_and_counted() {
        let index = index(100);
        assert_eq!(held(&index, "a", 1).1, MISSING);
        assert_eq!(index.level().entries, 0, "nothing came of it");
        store(&index, "a", 4096, 1);
        store(&index, "a", 8192, 2);
        store(&index, "b", 4096, 3);
        assert_eq!(held(&index, "a", 4).1, THERE);
        assert_eq!((index.level().entries, index.level().size), (2, 12288));
        let ((early, _), (a, _)) = (held(&index, "a", 5), held(&index, "a", 5));
        store(&index, "a", 8192, 5);
        early.is_gone();
        assert_eq!(index.level().size, 12288, "another was made since it was looked for");
        drop((early, a));
        let (a, _) = held(&index, "a", 5);
        a.is_gone();
        drop(a);
        assert_eq!((index.level().entries, index.level().size), (1, 4096));
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let index = index(100);
        for (n, name) in ["a", "b", "c"].iter().enumerate() {
            store(&index, name, 1, n as i64);
        }
        let (in_use, _) = held(&index, "b", 3);
        drop(held(&index, "a", 4));
        let order: Vec<Key> = std::iter::from_fn(|| index.take(Evict::Oldest, 4).file()).collect();
        assert_eq!(order, [key("c"), key("a")]);
        assert_eq!(index.level(), Level { entries: 1, size: 1, is_crowded: false });
        drop(in_use);
        assert!(matches!(index.take(Evict::Inactive, 13), Evicted::Later(1)));
        assert!(matches!(index.take(Evict::Inactive, 14), Evicted::File(_)));
        assert!(matches!(index.take(Evict::Oldest, 14), Evicted::Empty));
        assert_eq!(index.level().size, 0);
    }

    #[test]
    fn a_full_zone_makes_room() {
        let index = index(2);
        store(&index, "a", 1, 1);
        store(&index, "b", 1, 2);
        let (c, found, evicted) = index.look_up(key("c"), 1, 3).expect("room was made");
        assert_eq!((found, evicted), (MISSING, Some(key("a"))));
        let (_b, _) = held(&index, "b", 3);
        assert_eq!(index.look_up(key("d"), 1, 4).err(), Some(Full));
        drop(c);
        let _d = index.look_up(key("d"), 1, 4).expect("c is in use no more");
        assert!(index.level().is_crowded);
    }

    #[test]
    fn uses_are_counted_before_it_is_kept() {
        let index = index(10);
        let found = || index.look_up(key("a"), 3, 1).expect("room").1;
        assert_eq!(found(), Found::Entry { on_disk: false, keep: false });
        assert_eq!(found(), Found::Entry { on_disk: false, keep: false });
        assert_eq!(found(), MISSING);
    }

    #[test]
    fn one_at_a_time_until_the_lock_is_old() {
        let index = index(10);
        let first = held(&index, "a", 1).0.turn(1000, 500).expect("nobody has it");
        assert!(held(&index, "a", 1).0.turn(1499, 500).is_err());
        let second = held(&index, "a", 1).0.turn(1500, 500).expect("the first is given up");
        drop(first);
        assert!(held(&index, "a", 1).0.renewal().is_err(), "the first ends nothing of the second's");
        second.made(1);
        let third = held(&index, "a", 1).0.renewal().expect("it is over");
        third.failed(502, 9);
        assert_eq!(held(&index, "a", 9).1, Found::Error(502));
        assert_eq!(held(&index, "a", 10).1, MISSING);
    }

    #[test]
    fn what_arrives_is_waited_for() {
        let index = index(10);
        let mut first = held(&index, "a", 1).0.share();
        let mut second = held(&index, "a", 1).0.share();
        assert_eq!(held(&index, "a", 1).1, MISSING, "nobody knows how long it will take");
        first.arrives();
        second.arrives();
        let (waits, found) = held(&index, "a", 1);
        assert_eq!(found, Found::Arrives);
        assert!(waits.fill().is_some_and(|fill| Arc::ptr_eq(&fill, &first.fill)));
        second.made(1);
        assert_eq!(held(&index, "a", 1).1, Found::Arrives, "of two the first counts");
        first.made(1);
        assert_eq!((held(&index, "a", 1).1, waits.fill().is_none()), (THERE, true));
        let mut third = waits.turn(1000, 500).expect("nobody has it");
        third.arrives();
        assert!(held(&index, "a", 1).0.turn(9000, 500).is_err(), "it is not given up any more");
        drop(third);
        assert_eq!(held(&index, "a", 1).1, THERE, "it came to nothing, and the old one is left");
    }

    #[test]
    fn loaded_entries_are_there_and_a_snapshot_is_not_believed_blindly() {
        let index = Arc::new(Index::default());
        let record = |name: &str, size| Record { key: key(name), size, expire: 100, uses: 7 };
        index.restore(record("a", 10));
        index.restore(record("b", 20));
        assert_eq!(held(&index, "new", 1).1, Found::Entry { on_disk: true, keep: true }, "it may be there");
        assert!(index.load(record("b", 20)) && index.load(record("c", 5)));
        index.is_loaded();
        assert_eq!((index.level().entries, index.level().size), (2, 25));
        assert_eq!(held(&index, "a", 1).1, MISSING);
        let uses: Vec<u32> = index.records().iter().map(|record| record.uses).collect();
        assert_eq!(uses, [7, 7]);
    }

    #[test]
    fn an_entry_costs_little() {
        assert!(size_of::<Node>() <= 112, "{}", size_of::<Node>());
    }
}
