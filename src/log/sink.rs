//! Log files: one [`Sink`] per path, however many directives name it, and [`Sinks`], which knows them all.
//!
//! In: paths from the configuration, descriptors from whoever may open them, lines. Out: lines to the writer or, where
//! no writer runs, to the file.
//!
//! Life of a file:
//! 1. At load a directive asks for it ([`Sinks::file`], [`Sink::hold`]); nothing is opened yet.
//! 2. A load that succeeded opens all that were asked for, anew ([`Sinks::open`]), or takes the descriptors that another
//!    process sent ([`Sinks::adopt`]); one that failed calls [`Sinks::abandon`], and nothing has changed.
//! 3. The file is closed when the last generation that names it is gone and its last line is written.
//!
//! Rule: `Sinks` holds no file open by itself; whoever writes holds an `Arc<Sink>`.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::unistd::Uid;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::batch;
use super::error::{Context, ErrorLog, Level, Raw, errno_text};
use super::writer::{HEADER, Kind, Queue, Target, lock};

use crate::base::hash::QuickMap;

/// How `access_log` holds the lines of a file back: `buffer=`, `flush=`, `gzip=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Bytes that collect before they are written.
    pub size: usize,
    /// How old the first of them may become.
    pub flush: Option<Duration>,
    /// The level at which they become a gzip member.
    pub gzip: Option<u8>,
}

/// One open log file, or stderr.
pub struct Sink {
    target: Arc<Target>,
    /// The index of this file in each thread's batches; reused once the sink is gone.
    slot: usize,
    hold: ArcSwapOption<Hold>,
    /// There is a `hold`: most logs have none, and need not look.
    holds: AtomicBool,
    /// What the load that is under way said; `None`: it has not named this file.
    asked: Mutex<Option<Asked>>,
    home: Arc<Home>,
}

#[derive(Default)]
struct Asked {
    hold: Option<Hold>,
}

impl Sink {
    /// The file's path; empty for stderr.
    pub fn path(&self) -> &Path {
        self.target.path()
    }

    pub fn is_stderr(&self) -> bool {
        self.path().as_os_str().is_empty()
    }

    /// Holds lines of the file back. At load only. `false`: another directive asked for something else.
    #[must_use]
    pub fn hold(&self, hold: Hold) -> bool {
        *lock(&self.asked).get_or_insert_default().hold.get_or_insert(hold) == hold
    }

    /// Writes whole lines, in order with this thread's earlier ones, and without delay behind the turn of the loop.
    /// Access lines go through [`batch::push`].
    pub fn write(self: &Arc<Self>, lines: &[u8]) {
        batch::push_prompt(self, lines, true);
    }

    /// Lets `descriptor` take over, behind all lines that were handed over before.
    pub fn replace(&self, descriptor: OwnedFd) {
        self.home.queue.replace(&self.target, descriptor);
    }

    /// The open file; `None` before it is opened.
    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.target.descriptor()
    }

    /// Whether the path still names the open file. One that moved away is renewed by [`Self::replace`] with [`open`].
    pub fn is_current(&self) -> bool {
        let Some(descriptor) = self.descriptor() else { return false };
        match (rustix::fs::fstat(&*descriptor), rustix::fs::stat(self.path())) {
            (Ok(own), Ok(named)) => (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino),
            _ => false,
        }
    }

    /// How many writes have failed so far.
    pub fn failures(&self) -> u64 {
        self.target.failures()
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn held(&self) -> Option<Hold> {
        if !self.holds.load(Ordering::Acquire) {
            return None;
        }
        self.hold.load().as_deref().copied()
    }

    /// Sends a message whose first [`HEADER`] bytes are free.
    pub(super) fn send(&self, kind: Kind, message: &mut [u8]) {
        self.home.queue.send(&self.target, kind, message);
    }

    /// Has what was sent written without delay.
    pub(super) fn hurry(&self) {
        self.home.queue.hurry();
    }

    /// Nothing waits to be written, of this file or another.
    pub(super) fn is_idle(&self) -> bool {
        self.home.queue.is_idle()
    }

    /// Writes on this thread, past the queue.
    pub(super) fn write_through(&self, lines: &[u8]) {
        self.target.write(lines);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.home.queue.send(&self.target, Kind::Close, &mut [0; HEADER]);
        let mut known = lock(&self.home.known);
        known.free.push(self.slot);
        // The path may already have a new sink.
        if known.files.get(self.path()).is_some_and(|sink| sink.strong_count() == 0) {
            known.files.remove(self.path());
        }
    }
}

/// A log file that cannot be opened. Displays as nginx names it.
#[derive(Debug)]
pub struct OpenError {
    pub path: PathBuf,
    pub errno: i32,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open() \"{}\" failed{}", shown(&self.path), errno_text(self.errno))
    }
}

impl std::error::Error for OpenError {}

/// All log files of the process. Lives across reloads; clones are the same.
#[derive(Clone, Default)]
pub struct Sinks(Arc<Home>);

#[derive(Default)]
struct Home {
    known: Mutex<Known>,
    queue: Queue,
}

#[derive(Default)]
struct Known {
    files: QuickMap<PathBuf, Weak<Sink>>,
    /// Descriptors for files that the next load will name.
    adopted: QuickMap<PathBuf, OwnedFd>,
    /// Slots in use and slots given back.
    slots: usize,
    free: Vec<usize>,
}

impl Known {
    /// All that are alive, in the order in which they were first named. To be dropped after the lock is given back: the last one takes it.
    fn sinks(&self) -> Vec<Arc<Sink>> {
        let mut sinks: Vec<_> = self.files.values().filter_map(Weak::upgrade).collect();
        sinks.sort_by_key(|sink| sink.target.serial());
        sinks
    }
}

impl Sinks {
    pub fn new() -> Self {
        Self::default()
    }

    /// The file at `path`, which is absolute. It is opened when the load is done.
    pub fn file(&self, path: &Path) -> Arc<Sink> {
        let sink = self.sink(path);
        lock(&sink.asked).get_or_insert_default();
        sink
    }

    /// The file at `path`, opened now: for a path that a request makes (`access_log` with variables). It is open as long
    /// as somebody holds it or lines for it wait.
    pub fn open_one(&self, path: &Path) -> Result<Arc<Sink>, OpenError> {
        let sink = self.sink(path);
        if sink.descriptor().is_none() {
            sink.target.set(open(path)?);
        }
        Ok(sink)
    }

    /// A file that no directive names, because only a request made its path known. Nobody else is given this sink, and
    /// neither a load nor USR1 concerns it; it is closed behind its last line.
    pub fn opened(&self, path: &Path, descriptor: OwnedFd) -> Arc<Sink> {
        let sink = self.fresh(&mut lock(&self.0.known), path);
        sink.target.set(descriptor);
        sink
    }

    /// The process's stderr, open from the start.
    pub fn stderr(&self) -> Arc<Sink> {
        let sink = self.sink(Path::new(""));
        if sink.descriptor().is_none()
            && let Ok(descriptor) = std::io::stderr().as_fd().try_clone_to_owned()
        {
            sink.target.set(descriptor);
        }
        sink
    }

    /// Takes a descriptor that another process opened for `path`, for the next [`Self::open`].
    pub fn adopt(&self, path: &Path, descriptor: OwnedFd) {
        lock(&self.0.known).adopted.insert(path.to_owned(), descriptor);
    }

    /// Ends a load that succeeded: opens every file that it asked for, also one that was open before, as nginx does at
    /// each reload. When one cannot be opened, none changes.
    pub fn open(&self) -> Result<(), OpenError> {
        let sinks = lock(&self.0.known).sinks();
        let mut opened = Vec::with_capacity(sinks.len());
        for sink in sinks.into_iter().filter(|sink| !sink.is_stderr() && lock(&sink.asked).is_some()) {
            let adopted = lock(&self.0.known).adopted.remove(sink.path());
            let descriptor = match adopted {
                Some(descriptor) => descriptor,
                None => open(sink.path())?,
            };
            opened.push((sink, descriptor));
        }
        for (sink, descriptor) in opened {
            let asked = lock(&sink.asked).take().unwrap_or_default();
            sink.hold.store(asked.hold.map(Arc::new));
            sink.holds.store(asked.hold.is_some(), Ordering::Release);
            match sink.descriptor() {
                Some(_) => sink.replace(descriptor),
                None => sink.target.set(descriptor),
            }
        }
        lock(&self.0.known).adopted.clear();
        Ok(())
    }

    /// Forgets a load that failed.
    pub fn abandon(&self) {
        let sinks = {
            let mut known = lock(&self.0.known);
            known.adopted.clear();
            known.sinks()
        };
        for sink in sinks {
            *lock(&sink.asked) = None;
        }
    }

    /// Every open file and its descriptor, to hand to another process.
    pub fn descriptors(&self) -> Vec<(PathBuf, Arc<OwnedFd>)> {
        let sinks = lock(&self.0.known).sinks();
        sinks
            .iter()
            .filter(|sink| !sink.is_stderr())
            .filter_map(|sink| Some((sink.path().to_owned(), sink.descriptor()?)))
            .collect()
    }

    /// USR1: opens every file anew and gives it to `owner`, as nginx's master does for its workers. A file that cannot
    /// be opened stays what it was and is named in `log`. What is returned goes to the worker's [`Self::replace`].
    pub fn reopen(&self, owner: Option<Uid>, log: &ErrorLog) -> Vec<(PathBuf, Arc<OwnedFd>)> {
        let sinks = lock(&self.0.known).sinks();
        let mut fresh = Vec::with_capacity(sinks.len());
        for sink in sinks.iter().filter(|sink| !sink.is_stderr() && sink.descriptor().is_some()) {
            let opened = match (open(sink.path()), owner) {
                (Ok(descriptor), Some(owner)) => give(&descriptor, sink.path(), owner).map(|()| descriptor),
                (Ok(descriptor), None) => Ok(descriptor),
                (Err(e), _) => Err((format!("open() \"{}\"", shown(sink.path())), e.errno)),
            };
            let descriptor = match opened {
                Ok(descriptor) => descriptor,
                Err((what, errno)) => {
                    log.write_os(Level::Emerg, &Context::default(), errno, format_args!("{what} failed"));
                    continue;
                }
            };
            if let Ok(copy) = descriptor.try_clone() {
                fresh.push((sink.path().to_owned(), Arc::new(copy)));
            }
            sink.replace(descriptor);
        }
        fresh
    }

    /// The worker's half of USR1: the master's new descriptor for `path`. Unknown paths are dropped. Each thread calls
    /// [`batch::drain`] before, so that held lines go to the old file, as nginx's do.
    pub fn replace(&self, path: &Path, descriptor: OwnedFd) {
        let sink = lock(&self.0.known).files.get(path).and_then(Weak::upgrade);
        if let Some(sink) = sink {
            sink.replace(descriptor);
        }
    }

    /// Makes the first file of `log` the process's stderr, unless a log is stderr itself: what a panic says must not be
    /// lost. After start-up, and whenever files were reopened.
    pub fn redirect_stderr(&self, log: &ErrorLog) -> std::io::Result<()> {
        let stderr = lock(&self.0.known).files.get(Path::new("")).and_then(Weak::upgrade);
        let file = log.files().find_map(|sink| sink.descriptor());
        match (stderr, file) {
            (None, Some(file)) => Ok(nix::unistd::dup2_stderr(&*file)?),
            _ => Ok(()),
        }
    }

    /// Starts the writer thread: in the worker, after the last fork and once its signals are blocked as they shall be.
    pub fn start_writers(&self) {
        self.0.queue.start();
    }

    /// Hands this thread's lines over and waits until everything that was handed over is written.
    pub fn flush(&self, limit: Duration) -> bool {
        batch::drain();
        self.0.queue.wait(limit)
    }

    /// [`Self::flush`], then ends the writer thread. Lines that come later are written on the spot.
    pub fn stop_writers(&self, limit: Duration) -> bool {
        batch::drain();
        self.0.queue.stop(limit)
    }

    fn sink(&self, path: &Path) -> Arc<Sink> {
        let mut known = lock(&self.0.known);
        if let Some(sink) = known.files.get(path).and_then(Weak::upgrade) {
            return sink;
        }
        let sink = self.fresh(&mut known, path);
        known.files.insert(path.to_owned(), Arc::downgrade(&sink));
        sink
    }

    fn fresh(&self, known: &mut Known, path: &Path) -> Arc<Sink> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let slot = known.free.pop().unwrap_or_else(|| {
            known.slots += 1;
            known.slots - 1
        });
        let sink = Arc::new(Sink {
            target: Arc::new(Target::new(SERIAL.fetch_add(1, Ordering::Relaxed), path)),
            slot,
            hold: ArcSwapOption::empty(),
            holds: AtomicBool::new(false),
            asked: Mutex::default(),
            home: self.0.clone(),
        });
        self.0.queue.add(&sink.target);
        sink
    }
}

/// Opens a log file as nginx does: for appending, created with 0644 minus the umask.
pub fn open(path: &Path) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    loop {
        match rustix::fs::open(path, flags, mode) {
            Ok(descriptor) => return Ok(descriptor),
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(OpenError { path: path.to_owned(), errno: errno.raw_os_error() });
            }
        }
    }
}

/// Makes `owner` own the file and able to read and write it, as nginx's master does. The error is the call that failed.
fn give(descriptor: &OwnedFd, path: &Path, owner: Uid) -> Result<(), (String, i32)> {
    let path = shown(path);
    let stat = rustix::fs::fstat(descriptor).map_err(|e| (format!("stat() \"{path}\""), e.raw_os_error()))?;
    if stat.st_uid != owner.as_raw() {
        let chown = nix::unistd::fchown(descriptor, Some(owner), None);
        chown.map_err(|e| (format!("chown(\"{path}\", {owner})"), e as i32))?;
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    let wanted = mode | Mode::RUSR | Mode::WUSR;
    if mode != wanted {
        let chmod = rustix::fs::fchmod(descriptor, wanted);
        chmod.map_err(|e| (format!("chmod() \"{path}\""), e.raw_os_error()))?;
    }
    Ok(())
}

fn shown(path: &Path) -> Raw<'_> {
    Raw(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::log::error::tests::{Kept, alone};
    use crate::log::error::{self, Entry};

    const LIMIT: Duration = Duration::from_secs(20);

    /// Files in a directory that goes with it.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            error::leave_console();
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).expect("the file is there")
        }

        fn opened(&self, sinks: &Sinks, name: &str) -> Arc<Sink> {
            let sink = sinks.file(&self.path(name));
            sinks.open().expect("a new file opens");
            sink
        }
    }

    #[test]
    fn one_file_per_path() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let (a, again, b) = (sinks.file(&place.path("a")), sinks.file(&place.path("a")), sinks.file(&place.path("b")));
        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &b));
        assert!(!place.path("a").exists(), "nothing is opened while the load may still fail");
        sinks.open().expect("new files open");
        let mode = std::fs::metadata(place.path("a")).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777 & !0o644, 0);
        assert_eq!(mode & 0o600, 0o600);
        a.write(b"1\n");
        std::fs::write(place.path("a"), b"").expect("the file can be emptied");
        again.write(b"2\n");
        assert_eq!(place.text("a"), "2\n", "lines are appended wherever the end is");
        assert_eq!(sinks.descriptors().len(), 2);
    }

    #[test]
    fn files_close_with_the_last_who_names_them() {
        let (place, sinks) = (Place::new(), Sinks::new());
        for writers in [false, true] {
            let sink = place.opened(&sinks, "a");
            if writers {
                sinks.start_writers();
            }
            let (slot, descriptor) = (sink.slot(), Arc::downgrade(&sink.descriptor().expect("open")));
            sink.write(b"last words\n");
            drop(sink);
            assert!(sinks.flush(LIMIT));
            assert!(descriptor.upgrade().is_none());
            assert_eq!(sinks.descriptors().len(), 0);
            assert_eq!(sinks.file(&place.path("b")).slot(), slot, "its place in the batches is free again");
        }
        assert_eq!(place.text("a"), "last words\nlast words\n");
    }

    #[test]
    fn a_failed_load_changes_nothing() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let old = place.opened(&sinks, "a");
        std::fs::rename(place.path("a"), place.path("moved")).expect("a file can be moved");
        let again = sinks.file(&place.path("a"));
        assert!(again.hold(Hold { size: 10, flush: None, gzip: None }));
        let bad = sinks.file(&place.path("no/such/directory"));
        let error = sinks.open().expect_err("the directory is missing");
        let path = place.path("no/such/directory");
        assert_eq!(error.to_string(), format!("open() \"{}\" failed (2: No such file or directory)", path.display()));
        sinks.abandon();
        drop(bad);
        old.write(b"still here\n");
        assert_eq!(place.text("moved"), "still here\n");
        assert_eq!(old.held(), None);
        // The next load owes the failed one nothing.
        assert!(sinks.file(&place.path("a")).hold(Hold { size: 20, flush: None, gzip: None }));
        sinks.open().expect("opens");
        assert_eq!(old.held().map(|hold| hold.size), Some(20));
        old.write(b"anew\n");
        assert_eq!(place.text("a"), "anew\n", "a load opens files anew");
    }

    #[test]
    fn the_first_of_several_bad_files_is_named() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let asked: Vec<_> = (0..20).map(|number| sinks.file(&place.path(&format!("no/{number}")))).collect();
        let error = sinks.open().expect_err("the directory is missing");
        assert_eq!(error.path, asked[0].path());
    }

    #[test]
    fn directives_must_agree_on_holding() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let sink = sinks.file(&place.path("a"));
        let hold = Hold { size: 32768, flush: Some(Duration::from_secs(1)), gzip: None };
        assert!(sink.hold(hold) && sink.hold(hold));
        assert!(!sink.hold(Hold { gzip: Some(1), ..hold }));
    }

    #[test]
    fn requests_open_files_too() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let path = place.path("host.log");
        assert_eq!(sinks.open_one(&place.path("no/log")).err().map(|e| e.errno), Some(2));
        let sink = sinks.open_one(&path).expect("a new file opens");
        assert!(Arc::ptr_eq(&sink, &sinks.open_one(&path).expect("it is open")));
        sink.write(b"1\n");
        assert!(sink.is_current());
        std::fs::rename(&path, place.path("moved")).expect("a file can be moved");
        assert!(!sink.is_current());
        sink.replace(open(&path).expect("a new file opens"));
        assert!(sink.is_current());
        sink.write(b"2\n");
        assert_eq!((&*place.text("moved"), &*place.text("host.log")), ("1\n", "2\n"));
        std::fs::remove_file(&path).expect("own file");
        sinks.open().expect("no load asked for it");
        assert!(!path.exists());
    }

    #[test]
    fn descriptors_come_from_elsewhere() {
        let (place, master, worker) = (Place::new(), Sinks::new(), Sinks::new());
        let _master_sink = place.opened(&master, "a");
        for (path, descriptor) in master.descriptors() {
            worker.adopt(&path, descriptor.try_clone().expect("a copy"));
        }
        std::fs::rename(place.path("a"), place.path("moved")).expect("a file can be moved");
        let sink = worker.file(&place.path("a"));
        worker.open().expect("nothing to open");
        sink.write(b"adopted\n");
        assert_eq!(place.text("moved"), "adopted\n");
        assert!(!place.path("a").exists());
    }

    #[test]
    fn reopening_follows_the_name() {
        let (place, master, worker) = (Place::new(), Sinks::new(), Sinks::new());
        let (of_master, of_worker) = (place.opened(&master, "a"), place.opened(&worker, "a"));
        worker.start_writers();
        of_worker.write(b"before\n");
        std::fs::rename(place.path("a"), place.path("a.1")).expect("a file can be moved");
        of_master.write(b"master before\n");
        let owner = nix::unistd::getuid();
        for (path, descriptor) in master.reopen(Some(owner), &ErrorLog::none()) {
            worker.replace(&path, descriptor.try_clone().expect("a copy"));
        }
        of_worker.write(b"after\n");
        assert!(worker.stop_writers(LIMIT));
        of_master.write(b"master after\n");
        let mut old: Vec<_> = place.text("a.1").lines().map(str::to_owned).collect();
        old.sort();
        assert_eq!(old, ["before", "master before"]);
        assert_eq!(place.text("a"), "after\nmaster after\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_stays() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let (kept, sink) = (Kept::new(), place.opened(&sinks, "a"));
        std::fs::rename(place.path("a"), place.path("moved")).expect("a file can be moved");
        std::fs::create_dir(place.path("a")).expect("a directory in its place");
        assert!(sinks.reopen(None, &kept.log(Level::Info)).is_empty());
        sink.write(b"still here\n");
        assert_eq!(place.text("moved"), "still here\n");
        let expected = format!("[emerg] open() \"{}\" failed (21: Is a directory)", sink.path().display());
        assert_eq!(kept.lines("error.log"), [expected]);
    }

    #[test]
    fn a_reopened_file_belongs_to_the_workers() {
        let (place, sinks) = (Place::new(), Sinks::new());
        if !nix::unistd::geteuid().is_root() {
            return; // only root gives files away
        }
        let _sink = place.opened(&sinks, "a");
        std::fs::set_permissions(place.path("a"), std::fs::Permissions::from_mode(0o040)).expect("own file");
        assert_eq!(sinks.reopen(Some(Uid::from_raw(65534)), &ErrorLog::none()).len(), 1);
        let meta = std::fs::metadata(place.path("a")).expect("the file is there");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (65534, 0o640));
    }

    #[test]
    fn every_line_of_every_thread_is_written_in_order() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let files = [place.opened(&sinks, "a"), place.opened(&sinks, "b")];
        sinks.start_writers();
        std::thread::scope(|scope| {
            let files = &files;
            let threads = [0, 1, 2, 3].map(|thread| {
                scope.spawn(move || {
                    batch::attend();
                    for line in 0..5000 {
                        batch::push(&files[line % 2], format!("{thread} {line}\n").as_bytes());
                        if line % 7 == 0 {
                            batch::flush_all();
                        }
                    }
                })
            });
            // What a thread has left goes when it ends, which is later than its closure.
            for thread in threads {
                thread.join().expect("nothing to panic about");
            }
        });
        assert!(sinks.stop_writers(LIMIT));
        for (remainder, name) in ["a", "b"].into_iter().enumerate() {
            let mut next = [remainder; 4];
            for line in place.text(name).lines() {
                let (thread, number) = line.split_once(' ').expect("two numbers");
                let thread: usize = thread.parse().expect("a thread");
                assert_eq!(number.parse(), Ok(next[thread]));
                next[thread] += 2;
            }
            assert_eq!(next, [5000 + remainder; 4]);
        }
    }

    #[test]
    fn a_full_queue_waits_and_loses_nothing() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        sinks.adopt(&place.path("pipe"), writer.into());
        let sink = sinks.file(&place.path("pipe"));
        sinks.open().expect("nothing to open");
        sinks.start_writers();
        // More than pipe, gather buffer and queue can hold together.
        const LINES: usize = 8192;
        let (done, line) = (AtomicBool::new(false), [&[b'x'; 1023][..], b"\n"].concat());
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..LINES).for_each(|_| sink.write(&line));
                done.store(true, Ordering::SeqCst);
            });
            let mut first = [0; 1];
            reader.read_exact(&mut first).expect("the first byte");
            assert!(!done.load(Ordering::SeqCst), "the sender waits");
            reader.by_ref().take((LINES * line.len()) as u64 - 1).read_to_end(&mut read).expect("the rest");
        });
        assert_eq!(read.len(), LINES * line.len() - 1);
        assert!(read[line.len() - 1..].chunks(line.len()).all(|chunk| *chunk == *line));
        assert!(sinks.stop_writers(LIMIT));
    }

    #[test]
    fn a_full_disk_is_reported_once_and_later_lines_are_written() {
        let _alone = alone();
        let (kept, place, sinks) = (Kept::new(), Place::new(), Sinks::new());
        error::set_main(kept.log(Level::Error));
        for writers in [false, true] {
            let full = open(Path::new("/dev/full")).expect("it can be opened");
            sinks.adopt(&place.path("a"), full);
            let sink = sinks.file(&place.path("a"));
            sinks.open().expect("nothing to open");
            if writers {
                sinks.start_writers();
            }
            for _ in 0..3 {
                sink.write(b"lost\n");
                assert!(sinks.flush(LIMIT));
            }
            assert_eq!(sink.failures(), 3);
            sink.replace(open(&place.path("a")).expect("opens"));
            sink.write(b"kept\n");
            assert!(sinks.flush(LIMIT));
            assert_eq!(place.text("a"), "kept\n".repeat(1 + usize::from(writers)));
        }
        let report =
            format!("[alert] write() to \"{}\" failed (28: No space left on device)", place.path("a").display());
        let lines: Vec<_> = kept.raw("error.log").split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        assert_eq!(lines.len(), 3, "one for each sink");
        for line in &lines[..2] {
            // Without date, pid and tid: the second one is the writer thread's.
            let line = String::from_utf8_lossy(&line[20..]).into_owned();
            let (level, rest) = line.split_once(' ').expect("a level");
            let (_, message) = rest.split_once(": ").expect("an identity");
            assert_eq!(format!("{level} {message}"), report);
        }
    }

    #[test]
    fn the_main_log_does_not_report_on_itself() {
        let _alone = alone();
        let (place, sinks) = (Place::new(), Sinks::new());
        sinks.adopt(&place.path("a"), open(Path::new("/dev/full")).expect("it can be opened"));
        let sink = sinks.file(&place.path("a"));
        sinks.open().expect("nothing to open");
        let log = ErrorLog::new(vec![Entry::file(sink.clone(), Level::Error)]);
        error::set_main(log.clone());
        log.write(Level::Error, &Context::default(), format_args!("lost"));
        assert_eq!(sink.failures(), 1);
    }

    #[test]
    fn lines_after_the_end_of_the_writer_are_written_on_the_spot() {
        let (place, sinks) = (Place::new(), Sinks::new());
        let sink = place.opened(&sinks, "a");
        sinks.start_writers();
        sinks.start_writers();
        sink.write(b"1\n");
        assert!(sinks.stop_writers(LIMIT));
        sink.write(b"2\n");
        assert_eq!(place.text("a"), "1\n2\n");
        assert!(sinks.stop_writers(LIMIT) && sinks.flush(LIMIT));
        sinks.start_writers();
        sink.write(b"3\n");
        assert!(sinks.flush(LIMIT));
        assert_eq!(place.text("a"), "1\n2\n3\n");
    }
}
