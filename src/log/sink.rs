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

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::unistd::Uid;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::batch;
use super::error::{Context, ErrorLog, Level, Raw, errno_text};
use super::writer::{HEADER, Kind, Queue, Target, lock};

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

    /// How many writes have failed so far.
    pub fn failures(&self) -> u64 {
        self.target.failures()
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn held(&self) -> Option<Hold> {
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
    files: HashMap<PathBuf, Weak<Sink>>,
    /// Descriptors for files that the next load will name.
    adopted: HashMap<PathBuf, OwnedFd>,
    /// Slots in use and slots given back.
    slots: usize,
    free: Vec<usize>,
}

impl Known {
    /// All that are alive. To be dropped after the lock is given back: the last one takes it.
    fn sinks(&self) -> Vec<Arc<Sink>> {
        self.files.values().filter_map(Weak::upgrade).collect()
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
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut known = lock(&self.0.known);
        if let Some(sink) = known.files.get(path).and_then(Weak::upgrade) {
            return sink;
        }
        let slot = known.free.pop().unwrap_or_else(|| {
            known.slots += 1;
            known.slots - 1
        });
        let sink = Arc::new(Sink {
            target: Arc::new(Target::new(SERIAL.fetch_add(1, Ordering::Relaxed), path)),
            slot,
            hold: ArcSwapOption::empty(),
            asked: Mutex::default(),
            home: self.0.clone(),
        });
        self.0.queue.add(&sink.target);
        known.files.insert(path.to_owned(), Arc::downgrade(&sink));
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
