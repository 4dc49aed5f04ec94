//! The thread that writes the files, behind `tracing-appender`'s bounded, lossless queue.
//!
//! In: messages, each a [`Header`] and whole lines. Out: one `write(2)` per file and turn of the thread.
//!
//! One thread serves all files. `tracing-appender` gives every `NonBlocking` its own thread and queue; a server with a
//! log per site would pay for hundreds of both, and each would wake for single lines. A header of sixteen bytes names
//! the file instead, and lines of all loop threads meet in one gather buffer per file. The price, that a stalled disk
//! stalls every log, is what nginx pays as well, and it pays it in the loop.
//!
//! Rules: the queue is first in, first out, and so are the files: what is sent before a replaced descriptor goes to the
//! old one. The thread writes the first line after silence at once, then lingers before it looks again, so that under
//! load nobody pays for waking it; only error lines end the lingering, for whoever watches an error log. [`Router`] never returns an error, for `tracing-appender` would drop the message.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use flate2::{Compression, GzBuilder};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::io::Errno;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::error::{self, Context, Level, Raw};
use super::{batch, line};

use crate::base::hash::QuickMap;

/// Messages that may wait. A message is one file's lines of one loop turn, at most some 64 KB of them.
const QUEUE: usize = 1024;

/// The thread stops lingering when this many messages wait.
const HURRY: usize = QUEUE / 4;

/// How long the thread lets messages collect after it has written.
const LINGER: Duration = Duration::from_millis(10);

/// Gathered bytes, of all files, that are written without waiting for the queue to run dry.
const GATHER: usize = 256 * 1024;

/// nginx names a file that cannot be written once a minute (ngx_http_log_module.c, `error_log_time`).
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// The room for a header that every message begins with: who collects lines leaves it free, so nothing is copied.
pub(super) const HEADER: usize = 16;

/// What the writer shall do with the rest of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Lines,
    /// Lines that become one gzip member of this level.
    Gzip(u8),
    /// The file's next descriptor takes over.
    Replace,
    /// Nobody writes to the file any more.
    Close,
    /// Somebody waits until all before this is written.
    Barrier,
}

impl Kind {
    fn code(self) -> [u8; 2] {
        match self {
            Self::Lines => [0, 0],
            Self::Gzip(level) => [1, level],
            Self::Replace => [2, 0],
            Self::Close => [3, 0],
            Self::Barrier => [4, 0],
        }
    }

    fn of(code: [u8; 2]) -> Option<Self> {
        match code {
            [0, _] => Some(Self::Lines),
            [1, level] => Some(Self::Gzip(level)),
            [2, _] => Some(Self::Replace),
            [3, _] => Some(Self::Close),
            [4, _] => Some(Self::Barrier),
            _ => None,
        }
    }
}

/// Where one file's bytes go: the part of a sink that outlives it until its last line is written.
pub(super) struct Target {
    /// Unique in the process, unlike a path or a descriptor.
    serial: u64,
    path: PathBuf,
    descriptor: ArcSwapOption<OwnedFd>,
    /// Descriptors whose `Replace` is still in the queue.
    next: Mutex<Vec<OwnedFd>>,
    state: Mutex<TargetState>,
}

#[derive(Default)]
struct TargetState {
    /// The end of a line whose beginning is in the file: a full disk took only part of it.
    torn: Vec<u8>,
    failures: u64,
    reported: Option<Instant>,
}

impl Target {
    pub(super) fn new(serial: u64, path: &Path) -> Self {
        Self {
            serial,
            path: path.to_owned(),
            descriptor: ArcSwapOption::empty(),
            next: Mutex::default(),
            state: Mutex::default(),
        }
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.descriptor.load_full()
    }

    pub(super) fn set(&self, descriptor: OwnedFd) {
        self.descriptor.store(Some(Arc::new(descriptor)));
    }

    /// How many writes have failed.
    pub(super) fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    fn take_over(&self) {
        let mut next = lock(&self.next);
        if !next.is_empty() {
            let descriptor = next.remove(0);
            self.set(descriptor);
        }
    }

    /// Writes to the file now, on this thread. A failure is counted and reported; the lines it hit are lost, as in nginx.
    pub(super) fn write(&self, bytes: &[u8]) {
        let Some(descriptor) = self.descriptor() else { return };
        let errno = {
            let mut state = lock(&self.state);
            let torn = std::mem::take(&mut state.torn);
            let outcome = write_all(&descriptor, &torn).and_then(|()| write_all(&descriptor, bytes));
            let Err((errno, rest)) = outcome else { return };
            state.torn = torn_line(rest).to_vec();
            state.failures += 1;
            if state.reported.is_some_and(|then| then.elapsed() < REPORT_EVERY) {
                return;
            }
            state.reported = Some(Instant::now());
            errno
        };
        // The main error log does not report on itself: it would fail again. nginx is silent there as well.
        let Some(main) = error::main().filter(|log| !log.contains(&self.path)) else {
            return;
        };
        let path = std::os::unix::ffi::OsStrExt::as_bytes(self.path.as_os_str());
        main.write_os(
            Level::Alert,
            &Context::default(),
            errno.raw_os_error(),
            format_args!("write() to \"{}\" failed", Raw(path)),
        );
    }
}

/// Where a failed write leaves the reader of the file: `rest` is what was not written, `None` when nothing was.
fn torn_line(rest: Option<&[u8]>) -> &[u8] {
    let rest = rest.unwrap_or_default();
    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
    &rest[..end]
}

/// Writes all of `bytes`. The error comes with the rest of the line that was cut in two, if one was.
fn write_all<'a>(descriptor: &OwnedFd, bytes: &'a [u8]) -> Result<(), (Errno, Option<&'a [u8]>)> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let errno = match rustix::io::write(descriptor, rest) {
            Ok(0) => Errno::IO,
            Ok(written) => {
                rest = &rest[written..];
                continue;
            }
            Err(Errno::INTR) => continue,
            // A terminal or pipe that someone else made non-blocking.
            Err(Errno::AGAIN) if writable_soon(descriptor) => continue,
            Err(errno) => errno,
        };
        let written = bytes.len() - rest.len();
        let inside_line = written > 0 && bytes[written - 1] != b'\n';
        return Err((errno, inside_line.then_some(rest)));
    }
    Ok(())
}

fn writable_soon(descriptor: &OwnedFd) -> bool {
    use std::os::fd::AsFd;
    let mut poll = [PollFd::new(descriptor.as_fd(), PollFlags::POLLOUT)];
    matches!(nix::poll::poll(&mut poll, PollTimeout::from(1000u16)), Ok(ready) if ready > 0)
}

/// The way to the writer: the queue while the thread runs, the files themselves otherwise.
#[derive(Default)]
pub(super) struct Queue {
    /// Senders hold the lock for reading, so that whoever takes `Running` away knows that no message is under way.
    running: RwLock<Option<Running>>,
    targets: Targets,
}

type Targets = Arc<Mutex<QuickMap<u64, Arc<Target>>>>;

struct Running {
    sender: NonBlocking,
    pace: Arc<Pace>,
    /// Dropped last: it ends the thread.
    guard: WorkerGuard,
}

impl Queue {
    /// Starts the thread, unless it runs. Never before a fork: a thread does not come along.
    pub(super) fn start(&self) {
        if self.running.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let pace = Arc::new(Pace::default());
        let router = Router {
            targets: self.targets.clone(),
            pace: pace.clone(),
            gathers: QuickMap::default(),
            gathered: 0,
            taken: 0,
        };
        let (sender, guard) =
            NonBlockingBuilder::default().lossy(false).buffered_lines_limit(QUEUE).thread_name("log").finish(router);
        // Not held before: where no thread can be had this panics, and the panic wants to be logged.
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Some(Running { sender, pace, guard });
    }

    /// Waits until all that was sent is written, then ends the thread; later lines are written on the spot.
    pub(super) fn stop(&self, limit: Duration) -> bool {
        // The write lock is had only when no sender is half way, and nobody sends afterwards.
        let taken = self.running.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { mut sender, pace, guard }) = taken else {
            return true;
        };
        let written = pace.wait(&mut sender, limit);
        lock(&pace.wake).stop = true;
        pace.changed.notify_all();
        drop(guard);
        written
    }

    /// Waits until all that was sent is written. `false` when `limit` passed before that.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let (mut sender, pace) = match &*self.read() {
            Some(running) => (running.sender.clone(), running.pace.clone()),
            None => return true,
        };
        pace.wait(&mut sender, limit)
    }

    pub(super) fn add(&self, target: &Arc<Target>) {
        lock(&self.targets).insert(target.serial, target.clone());
    }

    /// Sends `message`, whose first [`HEADER`] bytes are free. Waits while the queue is full.
    pub(super) fn send(&self, target: &Target, kind: Kind, message: &mut [u8]) {
        if message.len() < HEADER {
            return;
        }
        if let Some(running) = &*self.read() {
            message[..8].copy_from_slice(&target.serial.to_le_bytes());
            message[8..10].copy_from_slice(&kind.code());
            if running.pace.send(&mut running.sender.clone(), message) {
                return;
            }
        }
        let lines = &message[HEADER..];
        match kind {
            Kind::Lines => target.write(lines),
            Kind::Gzip(level) => target.write(&member(lines, level)),
            Kind::Replace => target.take_over(),
            Kind::Close => drop(lock(&self.targets).remove(&target.serial)),
            Kind::Barrier => {}
        }
    }

    /// Whether everything that was sent is written: then a line that is written past the queue is in order.
    pub(super) fn is_idle(&self) -> bool {
        self.read().as_ref().is_none_or(|running| running.pace.unwritten.load(Ordering::Acquire) == 0)
    }

    /// Has what was sent written without lingering: somebody may be looking for it.
    pub(super) fn hurry(&self) {
        if let Some(running) = &*self.read() {
            running.pace.hurry();
        }
    }

    /// Lets `descriptor` take the file over, behind all lines that were sent before.
    pub(super) fn replace(&self, target: &Target, descriptor: OwnedFd) {
        lock(&target.next).push(descriptor);
        self.send(target, Kind::Replace, &mut [0; HEADER]);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Option<Running>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What senders and the thread know of each other beside the queue.
#[derive(Default)]
struct Pace {
    waiting: AtomicUsize,
    /// Messages sent and not yet written, so those that are being gathered as well.
    unwritten: AtomicUsize,
    wake: Mutex<Wake>,
    changed: Condvar,
}

#[derive(Default)]
struct Wake {
    /// A message that was sent shall be written at once.
    hurry: bool,
    /// Barriers sent and barriers reached.
    asked: u64,
    reached: u64,
    stop: bool,
}

impl Pace {
    fn send(&self, sender: &mut NonBlocking, message: &[u8]) -> bool {
        self.unwritten.fetch_add(1, Ordering::AcqRel);
        if self.waiting.fetch_add(1, Ordering::Relaxed) + 1 == HURRY {
            // The lock is taken so that the thread is either before its look at `waiting` or already asleep.
            drop(lock(&self.wake));
            self.changed.notify_all();
        }
        if sender.write(message).is_ok() {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.unwritten.fetch_sub(1, Ordering::AcqRel);
        false
    }

    /// After the message was sent: before, the thread could look, find nothing, and linger after all.
    fn hurry(&self) {
        lock(&self.wake).hurry = true;
        self.changed.notify_all();
    }

    fn wait(&self, sender: &mut NonBlocking, limit: Duration) -> bool {
        let number = {
            let mut wake = lock(&self.wake);
            wake.asked += 1;
            wake.asked
        };
        self.changed.notify_all();
        let mut message = [0; HEADER];
        message[..8].copy_from_slice(&number.to_le_bytes());
        message[8..10].copy_from_slice(&Kind::Barrier.code());
        if !self.send(sender, &message) {
            return true; // the thread is gone, and with it the queue
        }
        let reached = self.changed.wait_timeout_while(lock(&self.wake), limit, |wake| wake.reached < number);
        reached.unwrap_or_else(PoisonError::into_inner).0.reached >= number
    }

    fn linger(&self) {
        let idle = |wake: &mut Wake| {
            let asked = wake.stop || wake.hurry || wake.asked != wake.reached;
            !asked && self.waiting.load(Ordering::Relaxed) < HURRY
        };
        let lingered = self.changed.wait_timeout_while(lock(&self.wake), LINGER, idle);
        lingered.unwrap_or_else(PoisonError::into_inner).0.hurry = false;
    }
}

/// The thread's side: takes messages apart and gathers lines per file.
struct Router {
    targets: Targets,
    pace: Arc<Pace>,
    gathers: QuickMap<u64, Gather>,
    gathered: usize,
    /// Messages taken since all was last written.
    taken: usize,
}

struct Gather {
    target: Arc<Target>,
    bytes: Vec<u8>,
}

impl Router {
    fn take(&mut self, message: &[u8]) {
        let Some((header, lines)) = message.split_first_chunk::<HEADER>() else {
            return;
        };
        let [s0, s1, s2, s3, s4, s5, s6, s7, kind, level, ..] = *header;
        let serial = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        match Kind::of([kind, level]) {
            Some(Kind::Lines) => self.gather(serial, lines),
            Some(Kind::Gzip(level)) => self.gather(serial, &member(lines, level)),
            Some(Kind::Replace) => {
                self.write_out();
                if let Some(target) = lock(&self.targets).get(&serial) {
                    target.take_over();
                }
            }
            Some(Kind::Close) => {
                self.write_out();
                self.gathers.remove(&serial);
                lock(&self.targets).remove(&serial);
            }
            Some(Kind::Barrier) => {
                self.write_out();
                let mut wake = lock(&self.pace.wake);
                wake.reached = wake.reached.max(serial);
                self.pace.changed.notify_all();
            }
            None => {}
        }
        if self.gathered >= GATHER {
            self.write_out();
        }
    }

    fn gather(&mut self, serial: u64, bytes: &[u8]) {
        let gather = match self.gathers.entry(serial) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let Some(target) = lock(&self.targets).get(&serial).cloned() else {
                    return;
                };
                entry.insert(Gather { target, bytes: Vec::new() })
            }
        };
        gather.bytes.extend_from_slice(bytes);
        self.gathered += bytes.len();
    }

    fn write_out(&mut self) {
        if self.gathered == 0 {
            return;
        }
        for gather in self.gathers.values_mut().filter(|gather| !gather.bytes.is_empty()) {
            gather.target.write(&gather.bytes);
            // Files that are written seldom keep no buffer.
            if gather.bytes.capacity() > line::MAX_LINE { gather.bytes = Vec::new() } else { gather.bytes.clear() }
        }
        self.gathered = 0;
    }
}

impl Write for Router {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        batch::write_through();
        self.pace.waiting.fetch_sub(1, Ordering::Relaxed);
        self.taken += 1;
        self.take(message);
        Ok(message.len())
    }

    /// Called when the queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        self.pace.unwritten.fetch_sub(std::mem::take(&mut self.taken), Ordering::AcqRel);
        self.pace.linger();
        Ok(())
    }
}

/// One gzip member, with the header that zlib writes.
fn member(lines: &[u8], level: u8) -> Vec<u8> {
    // RFC 1952, 2.3.1: 3 is Unix.
    let mut encoder = GzBuilder::new().operating_system(3).write(Vec::new(), Compression::new(u32::from(level)));
    // A `Vec` takes all that it is given.
    encoder.write_all(lines).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// A lock whose holder panicked still guards whole values here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_queue() {
        for kind in [Kind::Lines, Kind::Gzip(9), Kind::Replace, Kind::Close, Kind::Barrier] {
            assert_eq!(Kind::of(kind.code()), Some(kind));
        }
        assert_eq!(Kind::of([5, 0]), None);
    }

    #[test]
    fn a_torn_line_is_mended() {
        let _alone = error::tests::alone(); // the failure is reported to whatever main log there is
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let target = Target::new(1, &path);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let watched = writer.try_clone().expect("a copy");
        target.set(writer.into());
        let line = [&[b'x'; 1008][..], b"\n"].concat();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| target.write(&line.repeat(200)));
            // The pipe is full inside a line when its reader goes: 65536 is no multiple of 1009.
            use std::os::fd::AsFd;
            let full = || {
                let mut poll = [PollFd::new(watched.as_fd(), PollFlags::POLLOUT)];
                nix::poll::poll(&mut poll, PollTimeout::ZERO).expect("poll") == 0
            };
            while !full() {
                std::thread::yield_now();
            }
            drop(reader);
            thread.join().expect("no panic");
        });
        assert_eq!(target.failures(), 1);
        target.set(super::super::sink::open(&path).expect("opens"));
        target.write(b"next\n");
        let written = std::fs::read(&path).expect("the file is there");
        let mended = written.strip_suffix(b"next\n").expect("the next line is whole");
        assert!(mended.ends_with(b"x\n") && mended.len() < line.len());
        assert_eq!(mended.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }
}
