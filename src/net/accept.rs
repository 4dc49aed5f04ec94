//! Accepting: one task per thread and listening socket, and the thread's account of its connections.
//!
//! In: listening sockets. Out: calls of [`Serve::connection`], each in a task of its own on the thread that accepted.
//! The rule: a thread holds at most `worker_connections` sockets, its clients' and those it opened itself, and each is
//! paid for by a [`Slot`]. A panic ends its own task and nothing else: tokio catches it there, and the panic hook
//! logs it.
//!
//! Without `reuseport` all threads wait for the same socket, which is nginx's arrangement and keeps its promises: one
//! queue, so no connection waits for a busy thread while another is idle, and a second server on the port is refused.
//! The price is that one connection wakes every thread that sleeps; those that lose find nothing to accept and sleep
//! again. (nginx tells the kernel to wake one, by EPOLLEXCLUSIVE; tokio does not offer it, and sockets of their own
//! for all threads would give up both promises.) Threads with work to do are not woken and lose nothing, so the price
//! is paid from idle time; `reuseport` avoids it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::base::text::errno;
use crate::log::{ErrorLog, Level};

/// What runs connections: `http`, `stream`. One for each generation, shared by all threads.
pub trait Serve: Send + Sync {
    /// Runs one connection to its end. Called, and the future polled, on the thread that accepted it.
    fn connection(self: Arc<Self>, accepted: Accepted, listener: usize) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A connection that has just been accepted.
pub struct Accepted {
    /// Also for unix sockets: reading, writing and shutting down work alike, and one type serves all. What is TCP's
    /// own, such as `set_nodelay`, fails on them; ask [`Accepted::peer`] first.
    pub stream: TcpStream,
    pub peer: Peer,
    pub slot: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Inet(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// How many connections the whole process has accepted, served, and still has: `stub_status`.
pub static ACCEPTED: AtomicU64 = AtomicU64::new(0);
pub static HANDLED: AtomicU64 = AtomicU64::new(0);
pub static ACTIVE: AtomicU64 = AtomicU64::new(0);
/// The number of the last connection, as log lines show it (`*17`).
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What all connections of one generation know of it.
pub struct Life {
    pub id: u64,
    draining: AtomicBool,
}

impl Life {
    pub fn new(id: u64) -> Self {
        Self { id, draining: AtomicBool::new(false) }
    }

    /// From now on connections of this generation end when they have nothing to do.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// What one accepting task works for.
#[derive(Clone)]
pub struct Door {
    pub serve: Arc<dyn Serve>,
    pub life: Arc<Life>,
    /// The listener's place in the configuration's list.
    pub listener: usize,
    pub multi_accept: bool,
    pub log: ErrorLog,
}

/// nginx's default `accept_mutex_delay`, which is also how long it rests when there are no descriptors left.
const REST: Duration = Duration::from_millis(500);

/// Accepts until it is dropped. The socket stays open: it belongs to the master, too.
pub async fn accept(socket: Arc<OwnedFd>, door: Door) {
    let log = &door.log;
    let socket = match AsyncFd::with_interest(socket, Interest::READABLE) {
        Ok(socket) => socket,
        Err(error) => {
            return log.write(Level::Alert, &format!("epoll_ctl(1) on a listening socket failed {}", errno(&error)));
        }
    };
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = ready.try_io(|socket| Ok(rustix::net::acceptfrom_with(socket.get_ref(), flags)?));
        match accepted {
            // Not ready after all: another thread took it.
            Err(_) => continue,
            Ok(Ok((socket, peer))) => {
                // A peer without an address of the Internet has come by a unix socket.
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map_or(Peer::Unix, Peer::Inet);
                admit(socket, peer, &door);
            }
            Ok(Err(error)) => {
                let (level, rest) = match error.raw_os_error() {
                    Some(libc::ECONNABORTED) => (Level::Error, false),
                    Some(libc::EMFILE | libc::ENFILE) => (Level::Crit, true),
                    Some(libc::ENOBUFS | libc::ENOMEM) => (Level::Alert, true),
                    _ => (Level::Alert, false),
                };
                log.write(level, &format!("accept4() failed {}", errno(&error)));
                if rest {
                    tokio::time::sleep(REST).await;
                }
            }
        }
        if !door.multi_accept {
            // Let those who are here already have their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// Starts the task of one connection, if there is room for it.
fn admit(socket: OwnedFd, peer: Peer, door: &Door) {
    ACCEPTED.fetch_add(1, Ordering::Relaxed);
    let crowd = Crowd::here();
    if !crowd.admits(&door.log) {
        return; // and the connection closes
    }
    let stream = std::net::TcpStream::from(socket);
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            return door.log.write(Level::Alert, &format!("epoll_ctl(1) failed {}", errno(&error)));
        }
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    HANDLED.fetch_add(1, Ordering::Relaxed);
    ACTIVE.fetch_add(1, Ordering::Relaxed);
    crowd.used.set(crowd.used.get() + 1);
    let client = Client { number, life: door.life.clone() };
    let slot = Slot { crowd: crowd.clone(), client: Some(client) };
    let accepted = Accepted { stream, peer, slot };
    let connection = door.serve.clone().connection(accepted, door.listener);
    let task = tokio::task::spawn_local(connection);
    crowd.live.borrow_mut().insert(number, Live { generation: door.life.id, abort: task.abort_handle() });
}

/// The right to one socket of this thread. Dropping it gives the right back.
pub struct Slot {
    crowd: Rc<Crowd>,
    /// `None` for a connection that this process opened itself.
    client: Option<Client>,
}

struct Client {
    number: u64,
    life: Arc<Life>,
}

impl Slot {
    /// For a connection to an upstream. `None` when `worker_connections` are in use, which is logged.
    pub fn take(log: &ErrorLog) -> Option<Self> {
        let crowd = Crowd::here();
        if !crowd.admits(log) {
            return None;
        }
        crowd.used.set(crowd.used.get() + 1);
        Some(Self { crowd, client: None })
    }

    /// The connection's number in the log; 0 for one to an upstream.
    pub fn number(&self) -> u64 {
        self.client.as_ref().map_or(0, |client| client.number)
    }

    /// Whether the connection should end when its answer is written.
    pub fn draining(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.life.draining.load(Ordering::Relaxed))
    }

    /// Ends when an idle connection has to go: its generation drains, or its place is needed. Await it beside the
    /// next request's first byte.
    pub fn unwanted(&self) -> Unwanted<'_> {
        Unwanted { slot: self, key: None }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.crowd.used.set(self.crowd.used.get().saturating_sub(1));
        let Some(client) = &self.client else { return };
        ACTIVE.fetch_sub(1, Ordering::Relaxed);
        let mut live = self.crowd.live.borrow_mut();
        live.remove(&client.number);
        if live.is_empty() {
            self.crowd.empty.notify_waiters();
        }
    }
}

/// See [`Slot::unwanted`].
pub struct Unwanted<'a> {
    slot: &'a Slot,
    /// Its place in [`Crowd::idle`]; whoever wants it gone takes it out there.
    key: Option<u64>,
}

impl Future for Unwanted<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(client) = &self.slot.client else { return Poll::Pending };
        if self.slot.draining() {
            return Poll::Ready(());
        }
        let crowd = &self.slot.crowd;
        let mut idle = crowd.idle.borrow_mut();
        match self.key {
            None => {
                let key = crowd.next_key.get();
                crowd.next_key.set(key + 1);
                idle.insert(key, Idle { generation: client.life.id, waker: cx.waker().clone() });
                drop(idle);
                self.key = Some(key);
                Poll::Pending
            }
            Some(key) => match idle.get_mut(&key) {
                Some(waiting) => {
                    waiting.waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        }
    }
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.slot.crowd.idle.borrow_mut().remove(&key);
        }
    }
}

/// The connections of one thread.
#[derive(Default)]
pub struct Crowd {
    /// `worker_connections`; 0 until [`Crowd::limit`] said it.
    limit: Cell<usize>,
    used: Cell<usize>,
    live: RefCell<HashMap<u64, Live>>,
    /// Those that wait for a next request, longest first.
    idle: RefCell<BTreeMap<u64, Idle>>,
    next_key: Cell<u64>,
    empty: Notify,
    /// When the lack of connections was last logged.
    warned: Cell<Option<std::time::Instant>>,
}

struct Live {
    generation: u64,
    abort: tokio::task::AbortHandle,
}

struct Idle {
    generation: u64,
    waker: Waker,
}

thread_local! {
    static HERE: Rc<Crowd> = Rc::default();
}

impl Crowd {
    /// This thread's.
    pub fn here() -> Rc<Self> {
        HERE.with(Rc::clone)
    }

    /// `worker_connections`, of which nginx spends one on each listening socket and one on the line to the master.
    pub fn limit(&self, worker_connections: usize, listeners: usize) {
        let own = listeners + 1;
        self.limit.set(worker_connections.saturating_sub(own).max(1));
    }

    /// Whether one more connection has room, after idle ones were sent away to make some.
    fn admits(&self, log: &ErrorLog) -> bool {
        self.make_room(log);
        let (used, limit) = (self.used.get(), self.limit.get());
        if used >= limit {
            log.write(Level::Alert, &format!("{limit} worker_connections are not enough"));
        }
        used < limit
    }

    /// nginx: when less than a sixteenth is free, up to 32 and up to an eighth of the idle connections must go, those
    /// first that have been idle for longest.
    fn make_room(&self, log: &ErrorLog) {
        let (used, limit) = (self.used.get(), self.limit.get());
        let mut idle = self.idle.borrow_mut();
        if limit.saturating_sub(used) > limit / 16 || idle.is_empty() {
            return;
        }
        let now = std::time::Instant::now();
        if self.warned.get().is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1)) {
            self.warned.set(Some(now));
            log.write(Level::Warn, &format!("{limit} worker_connections are not enough, reusing connections"));
        }
        for _ in 0..(idle.len() / 8).clamp(1, 32) {
            if let Some((_, unwanted)) = idle.pop_first() {
                unwanted.waker.wake();
            }
        }
    }

    /// Sends the idle connections of all generations away that [`Life::drain`].
    pub fn drain(&self, generation: u64) {
        self.idle.borrow_mut().retain(|_, idle| {
            let stays = idle.generation != generation;
            if !stays {
                idle.waker.wake_by_ref();
            }
            stays
        });
    }

    /// Ends the connections of a generation where they stand: `worker_shutdown_timeout`.
    pub fn close(&self, generation: u64) {
        for live in self.live.borrow().values() {
            if live.generation == generation {
                live.abort.abort();
            }
        }
    }

    /// How many clients of a generation are connected.
    pub fn count(&self, generation: u64) -> usize {
        self.live.borrow().values().filter(|live| live.generation == generation).count()
    }

    /// Waits until no client is connected.
    pub async fn empty(&self) {
        loop {
            let changed = self.empty.notified();
            if self.live.borrow().is_empty() {
                return;
            }
            changed.await;
        }
    }
}
