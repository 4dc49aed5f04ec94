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

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;

use super::listen::Address;
use crate::log::{self, ErrorLog, Level};

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

    pub fn drains(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
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

/// Accepts until it is dropped. The socket is a copy for this thread; it goes on listening without it.
pub async fn accept(socket: OwnedFd, address: Address, door: Door) {
    let log = &door.log;
    let listening = match Listening::new(socket, &address) {
        Ok(listening) => listening,
        Err(error) => return failed(log, Level::Alert, &error, "epoll_ctl(1)"),
    };
    loop {
        match listening.accept().await {
            Ok((stream, peer)) => admit(stream, peer, &door),
            Err(error) => {
                let (level, rest) = match error.raw_os_error() {
                    Some(libc::ECONNABORTED) => (Level::Error, false),
                    Some(libc::EMFILE | libc::ENFILE) => (Level::Crit, true),
                    Some(libc::ENOBUFS | libc::ENOMEM) => (Level::Alert, true),
                    _ => (Level::Alert, false),
                };
                failed(log, level, &error, "accept4()");
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

/// A listening socket in this thread's loop.
enum Listening {
    Inet(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(socket: OwnedFd, address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Inet(_) => Self::Inet(TcpListener::from_std(socket.into())?),
            Address::Unix(_) => Self::Unix(UnixListener::from_std(socket.into())?),
        })
    }

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        match self {
            Self::Inet(listener) => listener.accept().await.map(|(stream, peer)| (stream, Peer::Inet(peer))),
            Self::Unix(listener) => {
                let socket = OwnedFd::from(listener.accept().await?.0.into_std()?);
                Ok((TcpStream::from_std(socket.into())?, Peer::Unix))
            }
        }
    }
}

/// Starts the task of one connection, if there is room for it.
fn admit(stream: TcpStream, peer: Peer, door: &Door) {
    ACCEPTED.fetch_add(1, Ordering::Relaxed);
    let crowd = Crowd::here();
    if !crowd.admits(&door.log) {
        return; // and the connection closes
    }
    let number = next_number();
    HANDLED.fetch_add(1, Ordering::Relaxed);
    ACTIVE.fetch_add(1, Ordering::Relaxed);
    crowd.used.set(crowd.used.get() + 1);
    let slot = Slot { crowd: crowd.clone(), number, life: Some(door.life.clone()) };
    let accepted = Accepted { stream, peer, slot };
    let (serve, listener) = (door.serve.clone(), door.listener);
    // Not even making the future happens here: a panic must not end the task that accepts.
    let task = tokio::task::spawn_local(async move { serve.connection(accepted, listener).await });
    crowd.live.borrow_mut().insert(number, Live { generation: door.life.id, abort: task.abort_handle() });
}

/// The right to one socket of this thread. Dropping it gives the right back.
pub struct Slot {
    crowd: Rc<Crowd>,
    number: u64,
    /// `None` for a connection that this process opened itself.
    life: Option<Arc<Life>>,
}

impl Slot {
    /// For a connection to an upstream. `None` when `worker_connections` are in use, which is logged.
    pub fn take(log: &ErrorLog) -> Option<Self> {
        let crowd = Crowd::here();
        if !crowd.admits(log) {
            return None;
        }
        crowd.used.set(crowd.used.get() + 1);
        Some(Self { crowd, number: next_number(), life: None })
    }

    /// The connection's number in the log. nginx numbers those to upstreams in the same row.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the connection should end when its answer is written.
    pub fn draining(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.drains())
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
        if self.life.is_none() {
            return;
        }
        ACTIVE.fetch_sub(1, Ordering::Relaxed);
        let mut live = self.crowd.live.borrow_mut();
        live.remove(&self.number);
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
        let Some(life) = &self.slot.life else { return Poll::Pending };
        if self.slot.draining() {
            return Poll::Ready(());
        }
        let crowd = &self.slot.crowd;
        let mut idle = crowd.idle.borrow_mut();
        match self.key {
            None => {
                let key = crowd.next_key.get();
                crowd.next_key.set(key + 1);
                idle.insert(key, Idle { life: life.clone(), waker: cx.waker().clone() });
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
    /// What nginx counts in: each listening socket, and the line to the master.
    own: Cell<usize>,
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
    life: Arc<Life>,
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

    /// Allows `worker_connections`, some of which go to the thread's own `listeners`.
    pub fn limit(&self, worker_connections: usize, listeners: usize) {
        self.limit.set(worker_connections);
        self.own.set(listeners + 1);
    }

    /// Whether one more connection has room, after idle ones were sent away to make some.
    fn admits(&self, log: &ErrorLog) -> bool {
        self.make_room(log);
        let (used, limit) = (self.own.get() + self.used.get(), self.limit.get());
        if used >= limit {
            let message = format_args!("{limit} worker_connections are not enough");
            log.write(Level::Alert, &log::Context::default(), message);
        }
        used < limit
    }

    /// nginx: when less than a sixteenth is free, up to 32 and up to an eighth of the idle connections must go, those
    /// first that have been idle for longest.
    fn make_room(&self, log: &ErrorLog) {
        let (used, limit) = (self.own.get() + self.used.get(), self.limit.get());
        let mut idle = self.idle.borrow_mut();
        if limit.saturating_sub(used) > limit / 16 || idle.is_empty() {
            return;
        }
        let now = std::time::Instant::now();
        if self.warned.get().is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1)) {
            self.warned.set(Some(now));
            let message = format_args!("{limit} worker_connections are not enough, reusing connections");
            log.write(Level::Warn, &log::Context::default(), message);
        }
        for _ in 0..(idle.len() / 8).clamp(1, 32) {
            if let Some((_, unwanted)) = idle.pop_first() {
                unwanted.waker.wake();
            }
        }
    }

    /// Sends the idle connections of those generations away that drain.
    pub fn drain(&self) {
        self.idle.borrow_mut().retain(|_, idle| {
            let stays = !idle.life.drains();
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

fn next_number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed) + 1
}

fn failed(log: &ErrorLog, level: Level, error: &io::Error, call: &str) {
    let code = error.raw_os_error().unwrap_or(0);
    log.write_os(level, &log::Context::default(), code, format_args!("{call} failed"));
}
