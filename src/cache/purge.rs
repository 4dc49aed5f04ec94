//! What was purged: entries that must not be served any more, although their files may still be there.
//!
//! In: the key of an entry, or the beginning of many keys. Out: whether what is stored under a key was purged. A key has as
//! many files as there are variants of it, whose names tell nothing of it, and a beginning any number; they are found out
//! when they are asked for, or by the purger. The rule: an answer that was asked for before a purge is
//! purged, whenever it arrives; so each purge has a number, and each answer that of the last purge before it was asked for.
//! What earlier runs have kept has no number, but a date; such runs put nothing in its place that was purged by then.
//!
//! A mark can go when every file was looked at, and when none can be left that nobody has asked for since: after `inactive`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::{Purged, Record};
use super::key::Key;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Purges {
    /// The number of the last purge.
    last: AtomicU32,
    /// How many marks there are: mostly none, and nobody need look.
    marks: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<Key, Mark>,
    prefixes: Vec<(Vec<u8>, Mark)>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    number: u32,
    /// When it was made.
    since: i64,
    /// The purger is to look for its files.
    walk: bool,
    /// An earlier run made it.
    restored: bool,
}

impl Mark {
    fn has(&self, number: u32, date: i64) -> bool {
        number < self.number && !(self.restored && date > self.since)
    }
}

/// The most marks. When there are more, all that was there before is purged: too much is better than too little.
const KEYS: usize = 1 << 18;
const PREFIXES: usize = 1 << 10;

/// What is to be purged.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// The entry of this key and its variants.
    Key(Key),
    /// Every key that begins so.
    Prefix(&'a [u8]),
}

impl Purges {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number that an answer gets that is asked for now.
    pub fn last(&self) -> u32 {
        self.last.load(Ordering::SeqCst)
    }

    /// There is no mark at all.
    pub fn is_idle(&self) -> bool {
        self.marks.load(Ordering::SeqCst) == 0
    }

    /// Purges what is stored at `now`. `walk`: the purger is to look for the files. `false`: there were too many marks, and
    /// now there is one.
    pub fn add(&self, what: What<'_>, walk: bool, now: i64) -> bool {
        self.mark(what, Mark { number: 0, since: now, walk, restored: false })
    }

    /// Marks that an earlier run made count again. `true`: the purger has work.
    pub fn restore(&self, records: &[Record]) -> bool {
        for Record { what, since, walk } in records {
            let what = match what {
                Purged::Key(key) => What::Key(*key),
                Purged::Prefix(prefix) => What::Prefix(prefix),
            };
            self.mark(what, Mark { number: 0, since: *since, walk: *walk, restored: true });
        }
        records.iter().any(|record| record.walk)
    }

    /// The marks by which what lies on the disk must not be served.
    pub fn records(&self) -> Vec<Record> {
        let inner = self.lock();
        let record = |what, mark: &Mark| Record { what, since: mark.since, walk: mark.walk };
        let keys = inner.keys.iter().filter(|(_, mark)| mark.walk);
        let keys = keys.map(|(key, mark)| record(Purged::Key(*key), mark));
        let prefixes = inner.prefixes.iter().map(|(prefix, mark)| record(Purged::Prefix(prefix.clone()), mark));
        keys.chain(prefixes).collect()
    }

    fn mark(&self, what: What<'_>, mark: Mark) -> bool {
        let mut inner = self.lock();
        let number = self.last.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let mark = Mark { number, ..mark };
        match what {
            What::Key(key) => {
                inner.keys.insert(key, mark);
            }
            What::Prefix(prefix) => {
                // what is within it is purged with it
                inner.prefixes.retain(|(known, _)| !known.starts_with(prefix));
                inner.prefixes.push((prefix.to_vec(), mark));
            }
        }
        let fits = inner.keys.len() <= KEYS && inner.prefixes.len() <= PREFIXES;
        if !fits {
            *inner = Inner::default();
            inner.prefixes.push((Vec::new(), Mark { walk: true, ..mark }));
        }
        self.count(&inner);
        fits
    }

    /// Whether an answer was purged that is stored under `text`, whose key is `key`, has this number, and came at `date`.
    pub fn has(&self, key: Key, text: &[u8], number: u32, date: i64) -> bool {
        if self.is_idle() {
            return false;
        }
        let inner = self.lock();
        let by_key = inner.keys.get(&key).is_some_and(|mark| mark.has(number, date));
        by_key || inner.prefixes.iter().any(|(prefix, mark)| mark.has(number, date) && text.starts_with(prefix))
    }

    /// The purger has work.
    pub fn is_awaited(&self) -> bool {
        let inner = self.lock();
        inner.keys.values().any(|mark| mark.walk) || inner.prefixes.iter().any(|(_, mark)| mark.walk)
    }

    /// Every file was looked at that was there when the number was `number`. `true`: marks have gone.
    pub fn walked(&self, number: u32) -> bool {
        self.keep(|mark| mark.number > number)
    }

    /// Files that were not asked for since `second` are gone by themselves. `true`: marks have gone.
    pub fn expire(&self, second: i64) -> bool {
        !self.is_idle() && self.keep(|mark| mark.since >= second)
    }

    fn keep(&self, stays: impl Fn(&Mark) -> bool) -> bool {
        let mut inner = self.lock();
        let before = inner.keys.len() + inner.prefixes.len();
        inner.keys.retain(|_, mark| stays(mark));
        inner.prefixes.retain(|(_, mark)| stays(mark));
        self.count(&inner);
        inner.keys.len() + inner.prefixes.len() < before
    }

    fn count(&self, inner: &Inner) {
        self.marks.store(inner.keys.len() + inner.prefixes.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(purges: &Purges, text: &str, number: u32) -> bool {
        purges.has(Key::of(text.as_bytes()), text.as_bytes(), number, 0)
    }

    #[test]
    fn what_an_earlier_run_kept_is_known_by_its_date() {
        let earlier = Purges::default();
        earlier.add(What::Prefix(b"/b/"), false, 200);
        earlier.add(What::Key(Key::of(b"/a")), true, 200);
        earlier.add(What::Key(Key::of(b"/c")), false, 200);
        let purges = Purges::default();
        assert!(purges.restore(&earlier.records()));
        let has = |text: &[u8], number, date| purges.has(Key::of(text), text, number, date);
        for text in [&b"/a"[..], b"/b/1"] {
            assert!(has(text, 0, 200) && !has(text, 0, 201) && !has(text, purges.last(), 100));
        }
        assert!(!has(b"/c", 0, 100), "its file went at once");
        purges.add(What::Prefix(b"/b/"), false, 300);
        assert!(has(b"/b/1", 0, 301), "a purge of this run");
    }

    #[test]
    fn what_was_asked_for_before_is_purged() {
        let purges = Purges::default();
        let before = purges.last();
        assert!(!has(&purges, "/a", before));
        purges.add(What::Key(Key::of(b"/a")), false, 100);
        assert!(has(&purges, "/a", before) && !has(&purges, "/ab", before));
        assert!(!has(&purges, "/a", purges.last()));

        let between = purges.last();
        purges.add(What::Prefix(b"/b/"), false, 200);
        assert!(has(&purges, "/b/1", between) && has(&purges, "/b/", before) && !has(&purges, "/b", before));
        assert!(!has(&purges, "/b/1", purges.last()) && !has(&purges, "/a", between));
        purges.add(What::Prefix(b""), false, 300);
        assert!(has(&purges, "/b/1", between) && has(&purges, "anything", between));
    }

    #[test]
    fn marks_go_when_nothing_can_be_left() {
        let purges = Purges::default();
        purges.add(What::Key(Key::of(b"/a")), false, 100);
        purges.add(What::Prefix(b"/b"), true, 200);
        assert!(purges.is_awaited());
        purges.expire(101);
        assert!(!has(&purges, "/a", 0) && has(&purges, "/b", 0));
        let seen = purges.last();
        purges.add(What::Prefix(b"/c"), true, 300);
        purges.walked(seen);
        assert!(!has(&purges, "/b", 0) && has(&purges, "/c", 0) && purges.is_awaited());
        purges.walked(purges.last());
        assert!(!purges.is_awaited() && !has(&purges, "/c", 0));
    }

    #[test]
    fn too_many_marks_become_one() {
        let purges = Purges::default();
        for n in 0..=PREFIXES {
            purges.add(What::Prefix(format!("/{n}/").as_bytes()), false, 1);
        }
        assert!(has(&purges, "/anything", 0) && !has(&purges, "/anything", purges.last()));
        assert_eq!(purges.lock().prefixes.len(), 1);
    }
}
