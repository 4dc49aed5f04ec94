//! Small cache files in memory: a hit on one costs a look at its name, and no read.
//!
//! In: files that were read whole. Out: the same, as long as the file is what it was: whoever takes one compares it with
//! what the disk says ([`Stored::is_current`]), so that a file that was replaced, renewed, purged or deleted by anybody is
//! never served from here. One bound counts for all caches of the process: `*_cache_memory`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;

use super::key::Key;
use super::stored::Stored;

type Hot = Cache<(u64, Key), Arc<Stored>>;

/// `None` where nothing is kept in memory.
static HOT: ArcSwapOption<Hot> = ArcSwapOption::const_empty();
/// The bound of `HOT`.
static SIZE: AtomicU64 = AtomicU64::new(0);

/// What an entry takes beside its bytes.
const OVERHEAD: usize = 512;

/// The bound that the configuration in force sets, in bytes. Another one begins anew.
pub fn set_size(size: u64) {
    if SIZE.swap(size, Ordering::SeqCst) == size {
        return;
    }
    let weigh = |_: &(u64, Key), stored: &Arc<Stored>| {
        u32::try_from(stored.bytes_in_memory().saturating_add(OVERHEAD)).unwrap_or(u32::MAX)
    };
    let hot = (size > 0).then(|| Arc::new(Cache::builder().max_capacity(size).weigher(weigh).build()));
    HOT.store(hot);
}

/// The file of a key of the store of that number, if it is here.
pub fn get(store: u64, key: Key) -> Option<Arc<Stored>> {
    HOT.load().as_ref()?.get(&(store, key))
}

/// Keeps a file that was read whole.
pub fn put(store: u64, key: Key, stored: &Arc<Stored>) {
    if let Some(hot) = HOT.load().as_ref() {
        hot.insert((store, key), stored.clone());
    }
}

/// It is not what the disk has any more.
pub fn forget(store: u64, key: Key) {
    if let Some(hot) = HOT.load().as_ref() {
        hot.invalidate(&(store, key));
    }
}
