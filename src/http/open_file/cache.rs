//! `open_file_cache`: what is known of paths that were opened before.
//!
//! The cache is moka's, least recently used first to go: an entry is looked up without a lock that two threads could
//! wait for, and `inactive` is its idle time. Under the entry is a small mutex, held for no system call but those of a
//! retest. A look into moka costs some 900 instructions, with its own bookkeeping; each thread therefore remembers for up to
//! four seconds what it found, at a fifth of that: of an open file all that an answer needs, for among many files each
//! further piece of memory is one that the processor has to wait for.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::walk::{Kind, Stat, Walk};
use super::{Found, OpenFile, Opener, Unopened};
use crate::base::clock;
use crate::base::hash::Quick;
use crate::base::lately::Lately;

/// One `open_file_cache`. Levels that inherit it share it, and so do all threads.
pub(super) struct Cache {
    entries: moka::sync::Cache<Box<[u8]>, Arc<Mutex<Entry>>>,
    /// Tells it from every other, also from those of generations that are gone.
    number: u64,
    /// For so many seconds a thread may remember what it found: a part of `inactive`.
    step: u64,
}

/// What is known of one path.
struct Entry {
    outcome: Result<Stat, Unopened>,
    /// `None` for directories, failures, and files that are used less than `open_file_cache_min_uses`.
    file: Option<Arc<OpenFile>>,
    walk: Walk,
    /// When the file system said so; seconds. `None`: it is not to be believed any more.
    checked: Option<u64>,
    uses: u64,
}

/// What a thread has found lately, by cache and path: it need not be looked up again. From time to time it is, so the cache
/// knows what is in use. Nothing is held: what the cache lets go is closed.
type Recently = Lately<(u64, Box<[u8]>), Recent, 16_384>;

enum Recent {
    /// A file that is open, to who meets links as usual.
    Open {
        file: Weak<OpenFile>,
        stat: Stat,
        checked: u64,
    },
    Entry(Weak<Mutex<Entry>>),
}

thread_local! {
    static LATELY: RefCell<Recently> = const { RefCell::new(Lately::EMPTY) };
}

/// What was remembered, as far as it still holds.
enum Recalled {
    Found(Found),
    Entry(Arc<Mutex<Entry>>),
}

impl Cache {
    pub fn new(max: u64, inactive: Duration) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let entries = moka::sync::Cache::builder()
            .max_capacity(max)
            .time_to_idle(inactive.max(Duration::from_secs(1)))
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        let step = (inactive.as_secs() / 4).clamp(1, 4);
        Self { entries, number: NUMBER.fetch_add(1, Ordering::Relaxed), step }
    }

    pub fn open(&self, opener: &Opener, path: &[u8], walk: Walk) -> Result<Found, Unopened> {
        let now = clock::seconds();
        let hash = Quick::default().hash_one(path);
        let (known, recalled) = match self.recall(opener, (hash, path), walk, now) {
            Some(Recalled::Found(found)) => return Ok(found),
            Some(Recalled::Entry(entry)) => (Some(entry), true),
            None => (self.entries.get(path), false),
        };
        let Some(known) = known else {
            let outcome = opener.open_now(path, walk);
            if outcome.is_ok() || opener.errors {
                let entry = Entry::of(&outcome, opener, walk, now, 1);
                self.entries.insert(path.into(), Arc::new(Mutex::new(entry)));
            }
            return outcome;
        };
        let mut entry = known.lock().unwrap_or_else(PoisonError::into_inner);
        entry.uses += 1;
        if let Some((outcome, checked)) = entry.fresh(opener, walk, now) {
            match &outcome {
                Ok(Found { file: Some(file), stat }) if walk == Walk::PLAIN => {
                    let open = Recent::Open { file: Arc::downgrade(file), stat: *stat, checked };
                    self.remember((hash, path), now, open);
                }
                Ok(_) | Err(_) if recalled => {}
                Ok(_) | Err(_) => self.remember((hash, path), now, Recent::Entry(Arc::downgrade(&known))),
            }
            return outcome;
        }
        let outcome = entry.retest(opener, path, walk);
        let stays =
            |file: &Arc<OpenFile>| matches!(&outcome, Ok(Found { file: Some(found), .. }) if Arc::ptr_eq(found, file));
        if let Some(file) = entry.file.as_ref().filter(|file| !stays(file)) {
            file.outdate();
        }
        if outcome.is_err() && !opener.errors {
            entry.checked = None;
            entry.file = None;
            self.entries.invalidate(path);
        } else {
            *entry = Entry::of(&outcome, opener, walk, now, entry.uses);
        }
        outcome
    }

    fn recall(&self, opener: &Opener, key: (u64, &[u8]), walk: Walk, now: u64) -> Option<Recalled> {
        LATELY.with_borrow_mut(|lately| match lately.find(key.0, self.is(key.1))? {
            (step, _) if step != now / self.step => None,
            (_, Recent::Open { file, stat, checked }) => {
                let believed = walk == Walk::PLAIN && is_believed(*checked, opener, now);
                let file = file.upgrade().filter(|file| believed && !file.is_outdated())?;
                Some(Recalled::Found(Found { file: Some(file), stat: *stat }))
            }
            (_, Recent::Entry(entry)) => entry.upgrade().map(Recalled::Entry),
        })
    }

    fn remember(&self, (hash, path): (u64, &[u8]), now: u64, recent: Recent) {
        LATELY.with_borrow_mut(|lately| {
            lately.put(now / self.step, hash, self.is(path), || (self.number, path.into()), recent)
        });
    }

    fn is(&self, path: &[u8]) -> impl Fn(&(u64, Box<[u8]>)) -> bool {
        move |(cache, known)| *cache == self.number && **known == *path
    }
}

/// Whether what was seen in that second still counts.
fn is_believed(checked: u64, opener: &Opener, now: u64) -> bool {
    now.saturating_sub(checked) < opener.valid
}

impl Entry {
    fn of(outcome: &Result<Found, Unopened>, opener: &Opener, walk: Walk, now: u64, uses: u64) -> Self {
        let (outcome, file) = match outcome {
            Ok(found) => (Ok(found.stat), found.file.clone().filter(|_| uses >= opener.min_uses)),
            Err(unopened) => (Err(*unopened), None),
        };
        Self { outcome, file, walk, checked: Some(now), uses }
    }

    /// What is known, if it may still be believed, and when it was seen.
    fn fresh(&self, opener: &Opener, walk: Walk, now: u64) -> Option<(Result<Found, Unopened>, u64)> {
        let checked = self.checked.filter(|&checked| is_believed(checked, opener, now) && walk == self.walk)?;
        let outcome = match self.outcome {
            Err(unopened) => Err(unopened),
            Ok(stat) if stat.kind == Kind::Directory => Ok(Found { file: None, stat }),
            Ok(stat) => Ok(Found { file: Some(self.file.clone()?), stat }),
        };
        Some((outcome, checked))
    }

    /// Asks the file system again. A file that is the same and was not written to stays open.
    fn retest(&self, opener: &Opener, path: &[u8], walk: Walk) -> Result<Found, Unopened> {
        if let (Ok(before), Some(file)) = (self.outcome, &self.file) {
            let stat = walk.stat(path)?;
            if stat == before {
                return Ok(Found { file: Some(file.clone()), stat });
            }
        }
        opener.open_now(path, walk)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// A directory with the path of a file in it, and a cache that is asked for that.
    struct Asked {
        dir: TempDir,
        path: PathBuf,
        opener: Opener,
        cache: Arc<Cache>,
    }

    fn asked(valid: u64, min_uses: u64, errors: bool) -> Asked {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Arc::new(Cache::new(100, Duration::from_secs(60)));
        let opener = Opener { cache: Some(cache.clone()), valid, min_uses, errors, ..Opener::default() };
        Asked { path: dir.path().join("file"), dir, opener, cache }
    }

    impl Asked {
        fn write(&self, text: &str) {
            fs::write(&self.path, text).expect("a file");
        }

        /// Another file takes the place of the one that is there.
        fn replace(&self, text: &str) {
            let other = self.dir.path().join("other");
            fs::write(&other, text).expect("a file");
            fs::rename(other, &self.path).expect("renamed");
        }

        fn remove(&self) {
            fs::remove_file(&self.path).expect("removed");
        }

        fn open(&self) -> Result<Found, Unopened> {
            self.cache.open(&self.opener, self.path.as_os_str().as_bytes(), Walk::PLAIN)
        }

        fn file(&self) -> Arc<OpenFile> {
            self.open().expect("there").file.expect("a file")
        }

        fn size(&self) -> Result<u64, Unopened> {
            self.open().map(|found| found.stat.size)
        }

        /// Somebody looks who believes nothing, on another thread.
        fn look(&self) -> Result<u64, Unopened> {
            let path = self.path.as_os_str().as_bytes();
            let look = || self.cache.open(&Opener::default(), path, Walk::PLAIN).map(|found| found.stat.size);
            std::thread::scope(|scope| scope.spawn(look).join().expect("no panic"))
        }
    }

    #[test]
    fn cached_until_it_is_no_longer_valid() {
        let mut asked = asked(60, 1, false);
        asked.write("old");
        let first = asked.file();
        asked.remove();
        assert!(Arc::ptr_eq(&first, &asked.file()), "still believed");
        asked.opener.valid = 0;
        assert!(asked.open().expect_err("gone").is_missing());
        asked.write("newer");
        assert_eq!(asked.size(), Ok(5), "there again");
    }

    #[test]
    fn a_retest_keeps_what_did_not_change() {
        let asked = asked(0, 1, false);
        asked.write("old");
        let first = asked.file();
        assert!(Arc::ptr_eq(&first, &asked.file()));
        asked.write("in place");
        assert_eq!(asked.size(), Ok(8));
        asked.replace("replaced");
        assert!(!Arc::ptr_eq(&first, &asked.file()));
    }

    #[test]
    fn what_one_thread_has_seen_counts_for_all() {
        let asked = asked(60, 1, false);
        asked.write("old");
        assert_eq!([asked.size(), asked.size(), asked.size()], [Ok(3); 3]);
        asked.replace("replaced");
        assert_eq!((asked.size(), asked.look(), asked.size()), (Ok(3), Ok(8), Ok(8)));
        asked.remove();
        assert!(asked.size() == Ok(8) && asked.look().is_err() && asked.size().is_err());
    }

    #[test]
    fn errors_are_kept_only_on_demand() {
        let believed = asked(60, 2, true);
        assert!(believed.open().is_err());
        believed.write("x");
        assert!(believed.open().is_err(), "the failure is believed");

        let forgotten = asked(60, 2, false);
        assert!(forgotten.open().is_err());
        forgotten.write("x");
        assert!(forgotten.open().is_ok(), "the failure is forgotten");
    }

    #[test]
    fn rare_files_are_not_kept() {
        let asked = asked(60, 2, false);
        asked.write("x");
        let [first, second, third] = [asked.file(), asked.file(), asked.file()];
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &third));
    }
}
