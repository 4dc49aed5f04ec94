//! Cache files in memory: of small ones all, of others the head. A hit on one costs no read.
//!
//! In: files that were read. Out: the same, as long as the file is what it was: one that this process replaced has another
//! number, and who takes one compares it with what the disk says, unless that was done lately enough. So a file that was
//! replaced, renewed, purged or deleted is not served from here for longer than `open_file_cache_valid` lets others be.
//! One bound counts for all caches of the process: `*_cache_memory`.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;

use super::key::{Hashing, Key};
use super::stored::Stored;
use crate::base::clock;
use crate::base::lately::Lately;

type Hot = Cache<(u64, Key), Arc<Kept>, Hashing>;

/// `None` where nothing is kept in memory.
static HOT: ArcSwapOption<Hot> = ArcSwapOption::const_empty();
/// The bound of `HOT`.
static SIZE: AtomicU64 = AtomicU64::new(0);

/// What an entry takes beside its bytes, what was understood of its head included.
const OVERHEAD: usize = 1536;

/// A file in memory.
#[derive(Debug)]
pub struct Kept {
    pub stored: Arc<Stored>,
    /// Which file it was, as the index numbers them.
    number: u32,
    /// The second when the disk was last looked at.
    looked: AtomicU64,
}

impl Kept {
    /// The disk still has it under that name, or had it less than `trust` seconds ago.
    pub fn is_current(&self, trust: u64, path: impl FnOnce() -> PathBuf) -> bool {
        let now = clock::seconds();
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) < trust {
            return true;
        }
        let current = self.stored.is_current(&path());
        if current {
            self.looked.store(now, Ordering::Relaxed);
        }
        current
    }
}

/// The bound that the configuration in force sets, in bytes. Another one begins anew.
pub fn set_size(size: u64) {
    if SIZE.swap(size, Ordering::SeqCst) == size {
        return;
    }
    let weigh = |_: &(u64, Key), kept: &Arc<Kept>| {
        u32::try_from(kept.stored.bytes_in_memory().saturating_add(OVERHEAD)).unwrap_or(u32::MAX)
    };
    let build = || Cache::builder().max_capacity(size).weigher(weigh).build_with_hasher(Hashing::default());
    HOT.store((size > 0).then(|| Arc::new(build())));
    FORGOTTEN.fetch_add(1, Ordering::Release);
}

/// What a thread has found within this second, and how many files were forgotten before: it need not be looked up again.
/// Once a second it is, so the tier knows what is in use. It is not held: what the tier lets go is gone.
type Recent = Lately<(u64, Key), (u64, Weak<Kept>), 16_384>;

/// How many files were forgotten so far.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LATELY: RefCell<Recent> = const { RefCell::new(Lately::EMPTY) };
}

/// The file of a key of the store of that number, if it is here and is the one that the index tells of.
pub fn get(store: u64, key: Key, number: u32) -> Option<Arc<Kept>> {
    let (now, forgotten) = (clock::seconds(), FORGOTTEN.load(Ordering::Acquire));
    let same = |known: &(u64, Key)| *known == (store, key);
    LATELY.with_borrow_mut(|lately| {
        if let Some((second, known)) = lately.find(key.bits(), same)
            && (second, known.0) == (now, forgotten)
            && let Some(kept) = known.1.upgrade()
            && kept.number == number
        {
            return Some(kept);
        }
        let kept = HOT.load().as_ref()?.get(&(store, key)).filter(|kept| kept.number == number)?;
        lately.put(now, key.bits(), same, || (store, key), (forgotten, Arc::downgrade(&kept)));
        Some(kept)
    })
}

/// Keeps a file that was read.
pub fn put(store: u64, key: Key, number: u32, stored: &Arc<Stored>) {
    if let Some(hot) = HOT.load().as_ref() {
        let looked = AtomicU64::new(clock::seconds());
        hot.insert((store, key), Arc::new(Kept { stored: stored.clone(), number, looked }));
    }
}

/// It is not what the disk has any more.
pub fn forget(store: u64, key: Key) {
    if let Some(hot) = HOT.load().as_ref() {
        hot.invalidate(&(store, key));
        FORGOTTEN.fetch_add(1, Ordering::Release);
    }
}
