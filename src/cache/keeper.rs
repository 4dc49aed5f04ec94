//! Who keeps a cache's directory: the loader reads it once at the start, the manager keeps it within its bounds, the purger
//! looks for what was purged.
//!
//! In: a store. Out: entries for its files, and files deleted: what was not used for `inactive`, and the longest unused
//! where `max_size`, `min_free` or the keys' memory ask for it. Each is a thread, for its work is waiting for the disk; all
//! work as their pace says (`loader_files` and so on), and end with the store. The purger is there when it has work.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::index::{Evict, Evicted, Index, Record};
use super::journal;
use super::key::Key;
use super::meta;
use super::snapshot;
use super::store::{Pace, Store, free_space, now, say};
use super::stored;
use crate::base::clock;
use crate::base::text::errno;
use crate::log::Level;

/// Wakes a manager.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }

    /// Something was added: the manager is not left to rest when that was far too much.
    pub fn ring_if_full(&self, store: &Store) {
        if is_far_over(store.index.level().size, store.limits.load().max_size) {
            self.ring();
        }
    }

    fn wait(&self, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.heard.wait_timeout_while(rung, limit, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// nginx: an idle manager looks again after so long.
const REST: Duration = Duration::from_secs(10);

/// Begins loader and manager.
pub fn start(store: &Arc<Store>) {
    begin(store, "weir/loader", load);
    begin(store, "weir/manager", manage);
}

/// Sends the purger, if it is not at work.
pub fn purge(store: &Arc<Store>) {
    if !store.purging.swap(true, Ordering::SeqCst) && !begin(store, "weir/purger", look_for_purged) {
        store.purging.store(false, Ordering::SeqCst);
    }
}

fn begin(store: &Arc<Store>, name: &str, work: fn(Weak<Store>)) -> bool {
    let store = Arc::downgrade(store);
    let begun = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(store));
    if let Err(error) = &begun {
        say(Level::Alert, format_args!("pthread_create() failed {}", errno(error)));
    }
    begun.is_ok()
}

/// The manager's life.
fn manage(store: Weak<Store>) {
    loop {
        clock::tick();
        let Some(strong) = store.upgrade() else { return };
        let bell = strong.bell.clone();
        let next = round(&strong);
        drop(strong);
        bell.wait(next);
    }
}

/// Deletes what must go, as far as the pace allows; how long to wait then.
fn round(store: &Store) -> Duration {
    let limits = store.limits.load_full();
    // what was on its way when it was purged has arrived by then
    if !store.index.purges.is_idle() {
        store.unmark(|purges| purges.expire(now().saturating_sub(limits.inactive.max(3600))));
    }
    let pace = limits.manager;
    let mut work = Work::begin(pace);
    let mut why = Evict::Inactive;
    let mut rest = REST;
    loop {
        let level = store.index.level();
        let over = level.size > limits.max_size;
        if work.is_done() && !is_far_over(level.size, limits.max_size) {
            return pace.sleep;
        }
        if why == Evict::Oldest && !over && !level.is_crowded {
            let lacking = limits.min_free > 0 && free_space(&store.path).is_ok_and(|free| free <= limits.min_free);
            if !lacking {
                return rest;
            }
        }
        match store.index.take(why, now()) {
            Evicted::File(key) => {
                store.delete(key);
                work.done_one();
            }
            Evicted::Forgotten => work.done_one(),
            Evicted::Later(seconds) => {
                rest = rest.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(1).max(1)));
                why = Evict::Oldest;
            }
            Evicted::Empty if why == Evict::Inactive => why = Evict::Oldest,
            Evicted::Empty => return rest,
            Evicted::Busy => return Duration::from_secs(1),
        }
    }
}

/// So far over `max_size` that nobody waits for the next round: where a cache fills faster than the pace allows, its
/// manager keeps up.
fn is_far_over(size: u64, max_size: u64) -> bool {
    size > max_size.saturating_add(max_size / 16).saturating_add(1024 * 1024)
}

/// What was done since the last rest.
struct Work {
    pace: Pace,
    files: u64,
    since: Instant,
}

impl Work {
    fn begin(pace: Pace) -> Self {
        Self { pace, files: 0, since: Instant::now() }
    }

    fn done_one(&mut self) {
        self.files += 1;
    }

    fn is_done(&self) -> bool {
        self.files >= self.pace.files.max(1) || self.since.elapsed() >= self.pace.threshold
    }
}

/// The purger's life: it goes through all files until nothing is left that somebody purged.
fn look_for_purged(store: Weak<Store>) {
    loop {
        let Some(strong) = store.upgrade() else { return };
        let index = strong.index.clone();
        let rest = strong.limits.load().purger.sleep;
        drop(strong);
        if index.is_cold() {
            // the loader tells what there is
            std::thread::sleep(rest.max(Duration::from_millis(1)));
            continue;
        }
        let number = index.purges.last();
        if look_once(&store, &index).is_err() {
            return;
        }
        let Some(strong) = store.upgrade() else { return };
        strong.unmark(|purges| purges.walked(number));
        if !index.purges.is_awaited() {
            strong.purging.store(false, Ordering::SeqCst);
            // somebody may have purged meanwhile, and found the purger at work
            if !index.purges.is_awaited() || strong.purging.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

fn look_once(store: &Weak<Store>, index: &Arc<Index>) -> Result<(), Gone> {
    let mut work: Option<Work> = None;
    for Record { key, .. } in index.records() {
        let strong = store.upgrade().ok_or(Gone)?;
        let pace = strong.limits.load().purger;
        let path = strong.file(key);
        if let Some((meta, text)) = stored::kept_under(&path)
            && let Some(since) = index.since(key)
            && index.purges.has(Key::of(&text), &text, since, meta.date)
            && index.purge(key)
        {
            strong.delete(key);
        }
        drop(strong);
        let at_work = work.get_or_insert_with(|| Work::begin(pace));
        at_work.done_one();
        if at_work.is_done() {
            std::thread::sleep(pace.sleep);
            work = None;
        }
    }
    Ok(())
}

/// The loader's life.
fn load(store: Weak<Store>) {
    let Some(strong) = store.upgrade() else { return };
    let (path, levels) = (strong.path.clone(), strong.levels.depth());
    let mut work = Work::begin(strong.limits.load().loader);
    snapshot::restore(&strong);
    drop(strong);
    if walk(&store, &path, levels, &mut work).is_err() {
        return;
    }
    let Some(store) = store.upgrade() else { return };
    store.index.is_loaded();
    let size = store.index.level().size;
    let megabytes = size as f64 / (1024.0 * 1024.0);
    say(Level::Notice, format_args!("http file cache: {} {megabytes:.3}M", path.display()));
}

/// The store is gone.
struct Gone;

/// Adds the files of a directory with so many levels below it.
fn walk(store: &Weak<Store>, path: &Path, levels: usize, work: &mut Work) -> Result<(), Gone> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                say(Level::Crit, format_args!("opendir() \"{}\" failed {}", path.display(), errno(&error)));
            }
            return Ok(());
        }
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // nginx: temporary files of others may stand below
            if levels > 0 && entry.file_name() != "temp" {
                walk(store, &entry.path(), levels - 1, work)?;
            }
            continue;
        }
        let strong = store.upgrade().ok_or(Gone)?;
        if !add(&strong, &entry) {
            let path = entry.path();
            if let Err(error) = fs::remove_file(&path) {
                say(Level::Crit, format_args!("unlink() \"{}\" failed {}", path.display(), errno(&error)));
            }
        }
        work.done_one();
        let pace = strong.limits.load().loader;
        drop(strong);
        if work.is_done() {
            std::thread::sleep(pace.sleep);
            *work = Work::begin(pace);
        }
    }
    Ok(())
}

/// Adds one file. `false`: it has no business there.
fn add(store: &Store, entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.as_bytes();
    // nginx: what is being filled has a dot and ten digits behind its name
    if name.len() > 11 && name[name.len() - 11] == b'.' {
        return !is_abandoned(entry);
    }
    if name == snapshot::NAME.as_bytes() || name == journal::NAME.as_bytes() {
        return true;
    }
    let Some(key) = Key::from_name(name) else { return false };
    // A file that is in the wrong directory would never be found.
    if store.file(key) != entry.path() {
        return false;
    }
    let Ok(metadata) = entry.metadata() else { return true };
    if metadata.len() < meta::SMALLEST as u64 {
        say(Level::Crit, format_args!("cache file \"{}\" is too small", entry.path().display()));
        return false;
    }
    let expire = now().saturating_add(store.limits.load().inactive);
    store.index.load(Record { key, size: store.size_on_disk((metadata.len(), metadata.blocks())), expire, uses: 1 })
}

/// Nobody has written to it for so long that whoever began it must have been killed.
fn is_abandoned(entry: &DirEntry) -> bool {
    const HOUR: Duration = Duration::from_secs(3600);
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > HOUR))
}
