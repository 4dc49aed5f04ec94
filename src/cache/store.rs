//! A cache's directory with its index: what outlives a configuration, and what one configuration says of it.
//!
//! In: the words of a `*_cache_path`. Out: a [`Zone`], whose [`Store`] is found again by its name when a configuration is
//! loaded anew. The rule: a store exists as long as a generation names it; nothing runs before [`Zone::begin`], which only
//! a worker calls.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::index::{Found, Full, Held, Index};
use super::journal::{self, Record};
use super::keeper::{self, Bell};
use super::key::{Key, Levels};
use super::purge::{Purges, What};
use super::snapshot;
use super::stored;
use crate::base::clock;
use crate::base::temp::Lacking;
use crate::base::text::errno;
use crate::log::{self, Level};

/// One `*_cache_path` of one configuration.
#[derive(Debug)]
pub struct Zone {
    pub name: String,
    pub use_temp_path: bool,
    pub limits: Arc<Limits>,
    pub store: Arc<Store>,
}

/// How large a cache may become, and how fast it is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `keys_zone`: bytes for keys.
    pub keys: usize,
    /// Seconds.
    pub inactive: i64,
    pub max_size: u64,
    pub min_free: u64,
    pub manager: Pace,
    pub loader: Pace,
    /// `purger=on`
    pub purges: bool,
    pub purger: Pace,
}

/// So many files at a time, for at most so long, and then a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub files: u64,
    pub sleep: Duration,
    pub threshold: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { files: 100, sleep: Duration::from_millis(50), threshold: Duration::from_millis(200) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let (manager, loader) = (Pace::default(), Pace::default());
        let purger = Pace { files: 10, threshold: Duration::from_millis(50), ..Pace::default() };
        let (inactive, max_size) = (600, i64::MAX as u64);
        Self { keys: 0, inactive, max_size, min_free: 0, manager, loader, purges: false, purger }
    }
}

impl Limits {
    /// How many entries fit: nginx's memory holds 31 of its nodes a page, and needs the first two for itself.
    fn capacity(&self) -> usize {
        const PAGE: usize = 4096;
        (self.keys / PAGE).saturating_sub(1).max(1) * 31
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Store {
    /// Its number in this process, for the tier in memory.
    pub number: u64,
    name: String,
    pub path: PathBuf,
    pub levels: Levels,
    pub index: Arc<Index>,
    pub limits: ArcSwap<Limits>,
    /// Wakes the manager.
    pub bell: Arc<Bell>,
    /// What new files find missing of the directories that they go to.
    pub lacking: Lacking,
    /// Files take whole blocks of so many bytes.
    block: OnceLock<u64>,
    running: OnceLock<()>,
    /// The purger is at work.
    pub purging: AtomicBool,
    /// Held while marks and their file change together.
    journal: Mutex<()>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The stores of this process.
static STORES: Mutex<Vec<Weak<Store>>> = Mutex::new(Vec::new());

/// The process ends: what the indexes know is written down.
pub fn save_all() {
    let stores: Vec<_> =
        STORES.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    for store in stores.iter().filter(|store| store.running.get().is_some()) {
        snapshot::save(store);
    }
}

impl Zone {
    /// The store of that name, or a new one. The error is nginx's sentence.
    pub fn new(name: &str, path: PathBuf, levels: Levels, use_temp_path: bool, limits: Limits) -> Result<Self, String> {
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        let known = stores.iter().filter_map(Weak::upgrade).find(|store| store.name == name);
        let store = match known {
            Some(store) if store.path != path => {
                let (now, before) = (path.display(), store.path.display());
                return Err(format!(
                    "cache \"{name}\" uses the \"{now}\" cache path while previously it used the \"{before}\" cache path"
                ));
            }
            Some(store) if store.levels != levels => {
                return Err(format!("cache \"{name}\" had previously different levels"));
            }
            Some(store) => store,
            None => {
                let store = Arc::new(Store {
                    number: NUMBER.fetch_add(1, Ordering::Relaxed),
                    name: name.to_owned(),
                    path,
                    levels,
                    index: Arc::default(),
                    limits: ArcSwap::from_pointee(limits.clone()),
                    bell: Arc::default(),
                    lacking: Lacking::default(),
                    block: OnceLock::new(),
                    running: OnceLock::new(),
                    purging: AtomicBool::new(false),
                    journal: Mutex::new(()),
                });
                store.index.set_limits(limits.capacity(), limits.inactive);
                stores.push(Arc::downgrade(&store));
                store
            }
        };
        Ok(Self { name: name.to_owned(), use_temp_path, limits: Arc::new(limits), store })
    }

    /// The configuration is in force: its limits count from now on, and whoever keeps the directory begins.
    pub fn begin(&self) {
        let store = &self.store;
        store.limits.store(self.limits.clone());
        store.index.set_limits(self.limits.capacity(), self.limits.inactive);
        store.running.get_or_init(|| {
            let records = journal::read(&store.path, now());
            if store.index.purges.restore(&records) {
                keeper::purge(store);
            }
            keeper::start(store);
        });
        store.bell.ring();
    }
}

impl Store {
    /// Where the file of a key is.
    pub fn file(&self, key: Key) -> PathBuf {
        self.levels.path(&self.path, key)
    }

    /// See [`Index::look_up`].
    pub fn look_up(&self, key: Key, min_uses: u32, now: i64) -> Result<(Held, Found), Full> {
        let (held, found, evicted) = self.index.look_up(key, min_uses, now)?;
        if let Some(key) = evicted {
            self.delete(key);
        }
        Ok((held, found))
    }

    /// Deletes a file whose entry the index has given up.
    pub fn delete(&self, key: Key) {
        let path = self.file(key);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            say(Level::Crit, format_args!("unlink() \"{}\" failed {}", path.display(), errno(&error)));
        }
    }

    /// Purges the entry of a key with all its variants, or every key that begins so. `false`: the key has no entry.
    pub fn purge(self: &Arc<Self>, what: What<'_>, now: i64) -> bool {
        let limits = self.limits.load();
        let (found, walk) = match what {
            What::Prefix(_) => (true, limits.purges),
            What::Key(key) => {
                let path = self.file(key);
                // variants have names of their own
                let varies = stored::varies(&path);
                let known = self.index.purge(key);
                let found = (known || self.index.is_cold()) && std::fs::remove_file(&path).is_ok();
                (found, found && varies)
            }
        };
        {
            let _whole = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = self.index.purges.add(what, walk, now);
            match what {
                _ if !fits => journal::rewrite(&self.path, &self.index.purges.records()),
                // its file is gone, and what was on its way is not kept
                What::Key(_) if !walk => {}
                What::Key(_) | What::Prefix(_) => {
                    journal::append(&self.path, &Record { what: what.into(), since: now, walk });
                }
            }
        }
        if walk {
            keeper::purge(self);
        }
        found
    }

    /// Marks go that [`Purges`] can do without: `gone` says whether there were any.
    pub fn unmark(&self, gone: impl FnOnce(&Purges) -> bool) {
        let _whole = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if gone(&self.index.purges) {
            journal::rewrite(&self.path, &self.index.purges.records());
        }
    }

    /// What the file of a key takes on the disk.
    pub fn size_of(&self, key: Key) -> u64 {
        let metadata = std::fs::metadata(self.file(key));
        metadata.map_or(0, |metadata| self.size_on_disk((metadata.len(), metadata.blocks())))
    }

    /// What a file of so many bytes, and blocks of 512 bytes, takes on the disk. One that was just written may have no
    /// blocks yet.
    pub fn size_on_disk(&self, (len, blocks): (u64, u64)) -> u64 {
        let block = *self.block.get_or_init(|| block_size(&self.path).unwrap_or(512).max(512));
        len.max(blocks.saturating_mul(512)).div_ceil(block).saturating_mul(block)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A worker that ends gracefully lets go of its configuration first.
        if self.running.get().is_some() {
            snapshot::save(self);
        }
        self.bell.ring(); // its manager finds it gone
    }
}

/// The second that it is.
pub fn now() -> i64 {
    clock::tick();
    i64::try_from(clock::seconds()).unwrap_or(i64::MAX)
}

fn block_size(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::statvfs(path)?.f_bsize)
}

/// How many bytes others than root may still write.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// A line of the cache itself, which no request is to blame for.
pub fn say(level: Level, message: std::fmt::Arguments<'_>) {
    if let Some(log) = log::error::main() {
        log.write(level, &log::Context::default(), message);
    }
}
