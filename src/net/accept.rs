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
//! is paid from idle time; `reuseport` avoids it. Measured: a connection to an idle server costs 3 context switches
//! with 2 threads and 10 with 8 (with `reuseport` 2 and 3); under load the difference is in the noise up to the number
//! of processors.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;

use crate::base::addr::Address;
use crate::base::hash::QuickMap;
use crate::base::row::{Place, Row};
use crate::log::{self, ErrorLog, Level};

/// What runs connections: `http`, `stream`. One for each generation, shared by all threads.
pub trait Serve: Send + Sync {
    /// It is in force in this process from now on: what works beside connections may begin.
    fn begin(&self) {}

    /// As [`Serve::begin`], on one of its threads: what needs a loop may begin there.
    fn begin_here(&self) {}

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

/// The client's end: where it is bound.
pub type Peer = Address;

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
    ending: AtomicBool,
}

impl Life {
    pub fn new(id: u64) -> Self {
        Self { id, draining: AtomicBool::default(), ending: AtomicBool::default() }
    }

    /// From now on connections of this generation end when they have nothing to do.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// As [`Life::drain`], when the process ends with it: idle connections are not given time for one more request.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.drain();
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
                let (stream, peer) = listener.accept().await?;
                let path = peer.as_pathname().unwrap_or(Path::new("")).to_owned();
                let socket = OwnedFd::from(stream.into_std()?);
                Ok((TcpStream::from_std(socket.into())?, Peer::Unix(path)))
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
    let slot = Slot { crowd: crowd.clone(), number, life: Some(door.life.clone()), leaving: Cell::new(false) };
    let accepted = Accepted { stream, peer, slot };
    let (serve, listener) = (door.serve.clone(), door.listener);
    // Not even making the future happens here: a panic must not end the task that accepts.
    let task = tokio::task::spawn_local(async move { serve.connection(accepted, listener).await });
    crowd.live.borrow_mut().insert(number, Live { generation: door.life.id, abort: task.abort_handle(), told: false });
}

/// The right to one socket of this thread. Dropping it gives the right back.
pub struct Slot {
    crowd: Rc<Crowd>,
    number: u64,
    /// `None` for a connection that this process opened itself.
    life: Option<Arc<Life>>,
    /// Its connection was sent away, see [`Crowd::leaving`].
    leaving: Cell<bool>,
}

impl Slot {
    /// For a connection to an upstream. `None` when `worker_connections` are in use, which is logged.
    pub fn take(log: &ErrorLog) -> Option<Self> {
        let crowd = Crowd::here();
        if !crowd.admits(log) {
            return None;
        }
        crowd.used.set(crowd.used.get() + 1);
        Some(Self { crowd, number: next_number(), life: None, leaving: Cell::new(false) })
    }

    /// The connection's number in the log. nginx numbers those to upstreams in the same row.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the connection should end when its answer is written.
    pub fn draining(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.drains())
    }

    /// Whether a request that is on its way may still be waited for: the connection's generation drains, and others serve.
    pub fn lingers(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.drains() && !life.ending.load(Ordering::Relaxed))
    }

    /// Ends when an idle connection has to go: its generation drains, or its place is needed. Await it beside the
    /// next request's first byte.
    pub fn unwanted(&self) -> Unwanted<'_> {
        Unwanted { slot: self, drains: true, place: None, told: false }
    }

    /// Ends when the connection's generation drains, also while the connection has work to do.
    pub async fn drained(&self) {
        loop {
            // Before the look, so that no call is missed.
            let changed = self.crowd.drains.notified();
            if self.draining() {
                return;
            }
            changed.await;
        }
    }

    /// Ends when `worker_shutdown_timeout` is over. A connection that waits for it is not ended where it stands: it
    /// has to end itself at once, and so can say to the log what became of its requests.
    pub async fn closed(&self) {
        if let Some(live) = self.crowd.live.borrow_mut().get_mut(&self.number) {
            live.told = true;
        }
        loop {
            let changed = self.crowd.drains.notified();
            let generation = self.life.as_ref().map(|life| life.id);
            if generation.is_some_and(|id| self.crowd.closed.borrow().contains(&id)) {
                return;
            }
            changed.await;
        }
    }

    /// Ends when the place of a connection is needed that has not said anything yet. A reload does not end it: its
    /// client has a request on the way. (In nginx such a connection is `reusable` and not `idle`.)
    pub fn displaced(&self) -> Unwanted<'_> {
        Unwanted { slot: self, drains: false, place: None, told: false }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.crowd.used.set(self.crowd.used.get().saturating_sub(1));
        if self.leaving.get() {
            self.crowd.leaving.set(self.crowd.leaving.get().saturating_sub(1));
        }
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

/// See [`Slot::unwanted`] and [`Slot::displaced`].
pub struct Unwanted<'a> {
    slot: &'a Slot,
    /// The end of its generation counts.
    drains: bool,
    /// Its place in [`Crowd::idle`]; whoever wants it gone takes it out there.
    place: Option<Place>,
    /// It has ended, so the connection goes.
    told: bool,
}

impl Future for Unwanted<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.slot;
        let Some(life) = &slot.life else { return Poll::Pending };
        if self.drains && life.drains() {
            self.told = true;
            return Poll::Ready(());
        }
        let crowd = &slot.crowd;
        let mut idle = crowd.idle.borrow_mut();
        match self.place {
            None => {
                let life = self.drains.then(|| life.clone());
                let place = idle.push(Idle { life, waker: cx.waker().clone() });
                drop(idle);
                self.place = Some(place);
                Poll::Pending
            }
            Some(place) => match idle.get_mut(place) {
                Some(waiting) => {
                    waiting.waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => {
                    self.told = true;
                    Poll::Ready(())
                }
            },
        }
    }
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        let crowd = &self.slot.crowd;
        let sent_away = self.place.is_some_and(|place| crowd.idle.borrow_mut().remove(place).is_none());
        match sent_away {
            true if self.told => self.slot.leaving.set(true),
            // Its next request came at the same moment, and it stays.
            true => crowd.leaving.set(crowd.leaving.get().saturating_sub(1)),
            false => {}
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
    /// Connections that were sent away and are about to end: their places can be had at once.
    leaving: Cell<usize>,
    live: RefCell<QuickMap<u64, Live>>,
    /// Those that wait for a next request, longest first.
    idle: RefCell<Row<Idle>>,
    empty: Notify,
    /// Some generation drains, or is closed.
    drains: Notify,
    /// The generations whose time is over.
    closed: RefCell<Vec<u64>>,
    /// When the lack of connections was last logged.
    warned: Cell<Option<std::time::Instant>>,
}

struct Live {
    generation: u64,
    abort: tokio::task::AbortHandle,
    /// It waits to be told, see [`Slot::closed`].
    told: bool,
}

struct Idle {
    /// The generation whose end counts.
    life: Option<Arc<Life>>,
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
        let (used, limit) = (self.in_use(), self.limit.get());
        if used >= limit {
            let message = format_args!("{limit} worker_connections are not enough");
            log.write(Level::Alert, &log::Context::default(), message);
        }
        used < limit
    }

    fn in_use(&self) -> usize {
        (self.own.get() + self.used.get()).saturating_sub(self.leaving.get())
    }

    /// nginx: when less than a sixteenth is free, up to 32 and up to an eighth of the idle connections must go, those
    /// first that have been idle for longest.
    fn make_room(&self, log: &ErrorLog) {
        let (used, limit) = (self.in_use(), self.limit.get());
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
            if let Some(unwanted) = idle.pop_front() {
                self.leaving.set(self.leaving.get() + 1);
                unwanted.waker.wake();
            }
        }
    }

    /// Sends the idle connections of those generations away that drain.
    pub fn drain(&self) {
        self.drains.notify_waiters();
        self.idle.borrow_mut().retain(|idle| {
            let stays = !idle.life.as_ref().is_some_and(|life| life.drains());
            if !stays {
                self.leaving.set(self.leaving.get() + 1);
                idle.waker.wake_by_ref();
            }
            stays
        });
    }

    /// Ends the connections of a generation where they stand: `worker_shutdown_timeout`.
    pub fn close(&self, generation: u64) {
        self.closed.borrow_mut().push(generation);
        self.drains.notify_waiters();
        for live in self.live.borrow().values() {
            if live.generation == generation && !live.told {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream as Client};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, LocalOptions};

    /// Answers each byte with itself; `!` panics, and between bytes the connection is idle.
    struct Echo;

    impl Serve for Echo {
        fn connection(self: Arc<Self>, mut accepted: Accepted, _: usize) -> Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                let mut byte = [0];
                loop {
                    let read = tokio::select! {
                        read = accepted.stream.read(&mut byte) => read,
                        () = accepted.slot.unwanted() => return,
                    };
                    match read {
                        Ok(1) if byte == *b"!" => panic!("asked for"),
                        Ok(1) => accepted.stream.write_all(&byte).await.expect("the client reads"),
                        _ => return,
                    }
                }
            })
        }
    }

    /// Runs `client` on a thread of its own beside a loop that accepts.
    fn with_loop(limit: usize, client: impl FnOnce(std::net::SocketAddr) + Send + 'static, after: impl FnOnce(&Crowd)) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("descriptors are left").block_on(async {
            let crowd = Crowd::here();
            crowd.limit(limit + 2, 1);
            let door = Door {
                serve: Arc::new(Echo),
                life: Arc::new(Life::new(1)),
                listener: 0,
                multi_accept: false,
                log: ErrorLog::none(),
            };
            let life = door.life.clone();
            let (done, ended) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || {
                client(address);
                done.send(()).expect("the loop waits");
            });
            tokio::task::spawn_local(accept(listener.into(), Address::Inet(address), door));
            ended.await.expect("the client does not panic");
            thread.join().expect("the client does not panic");
            life.drain();
            after(&crowd);
            crowd.drain();
            crowd.empty().await;
        });
    }

    fn echoes(client: &mut Client, byte: u8) -> bool {
        let mut answer = [0];
        client.write_all(&[byte]).is_ok() && client.read(&mut answer).is_ok_and(|n| n == 1) && answer == [byte]
    }

    fn closed(client: &mut Client) -> bool {
        !matches!(client.read(&mut [0]), Ok(n) if n > 0)
    }

    #[test]
    fn a_panic_ends_one_connection_only() {
        with_loop(
            8,
            |address| {
                let mut bystander = Client::connect(address).expect("it listens");
                assert!(echoes(&mut bystander, b'a'));
                let mut unlucky = Client::connect(address).expect("it listens");
                unlucky.write_all(b"!").expect("it is accepted");
                assert!(closed(&mut unlucky));
                assert!(echoes(&mut bystander, b'b'));
                let mut next = Client::connect(address).expect("it listens");
                assert!(echoes(&mut next, b'c'));
            },
            |_| (),
        );
    }

    #[test]
    fn when_connections_run_out_the_longest_idle_makes_room() {
        with_loop(
            2,
            |address| {
                let mut first = Client::connect(address).expect("it listens");
                assert!(echoes(&mut first, b'a'));
                let mut second = Client::connect(address).expect("it listens");
                assert!(echoes(&mut second, b'b'));
                let mut third = Client::connect(address).expect("it listens");
                assert!(echoes(&mut third, b'c'));
                assert!(closed(&mut first));
                assert!(echoes(&mut third, b'd'));
                // Now the second one is idle for longest.
                let mut fourth = Client::connect(address).expect("it listens");
                assert!(echoes(&mut fourth, b'e'));
                assert!(closed(&mut second));
                assert!(echoes(&mut third, b'f'));
            },
            |_| (),
        );
    }

    #[test]
    fn a_generation_that_drains_closes_its_idle_connections() {
        let (sender, receiver) = std::sync::mpsc::channel();
        with_loop(
            8,
            move |address| {
                let mut idle = Client::connect(address).expect("it listens");
                assert!(echoes(&mut idle, b'a'));
                sender.send(idle).expect("the test waits");
            },
            |crowd| assert_eq!(crowd.live.borrow().len(), 1),
        );
        let mut idle = receiver.recv().expect("the client sent it");
        assert!(closed(&mut idle));
        // The peer is gone: shutting down fails or does nothing.
        let _ = idle.shutdown(Shutdown::Both);
    }
}
