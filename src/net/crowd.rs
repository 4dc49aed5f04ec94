//! A thread's account of its connections: how many there may be, which of them are idle, which have to go.
//!
//! In: a [`Slot`] for each socket, the clients' and those that were opened to upstreams. Out: whether there is room for one more,
//! and a word to those that wait when they should stop, or rest ([`super::rest`]). The rule: a thread holds at most
//! `worker_connections` sockets, and whoever is idle for longest makes room.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::rest::Rest;
use crate::base::clock;
use crate::base::hash::QuickMap;
use crate::base::row::{Place, Row};
use crate::log::{self, ErrorLog, Level};

/// For so long after a reload an idle connection may bring one more request, which is told that it was the last.
pub const LAST_CHANCE: Duration = Duration::from_secs(1);

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

/// The right to one socket of this thread. Dropping it gives the right back.
pub struct Slot {
    pub(super) crowd: Rc<Crowd>,
    number: u64,
    /// `None` for a connection that this process opened itself.
    life: Option<Arc<Life>>,
    /// Its connection was sent away, see [`Crowd::leaving`].
    leaving: Cell<bool>,
    /// It has rested before.
    pub(super) rested: Cell<bool>,
}

impl Slot {
    /// For a connection to an upstream. `None` when `worker_connections` are in use, which is logged.
    pub fn take(log: &ErrorLog) -> Option<Self> {
        let crowd = Crowd::here();
        if !crowd.admits(log) {
            return None;
        }
        crowd.used.set(crowd.used.get() + 1);
        Some(Self { crowd, number: next_number(), life: None, leaving: Cell::new(false), rested: Cell::new(false) })
    }

    /// For a client's connection. `None` as in [`Slot::take`].
    pub fn of_client(life: &Arc<Life>, log: &ErrorLog) -> Option<Self> {
        let mut slot = Self::take(log)?;
        slot.crowd.know(life);
        slot.crowd.rest.one_comes();
        slot.life = Some(life.clone());
        HANDLED.fetch_add(1, Ordering::Relaxed);
        ACTIVE.fetch_add(1, Ordering::Relaxed);
        Some(slot)
    }

    /// The connection's number in the log. nginx numbers those to upstreams in the same row.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection's number, and its generation's.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.number, self.life.as_ref().map_or(0, |life| life.id))
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
        Unwanted { slot: self, drains: true, rests: false, place: None, told: false, spare: None }
    }

    /// As [`Slot::unwanted`], of a connection that can rest; it ends, too, when it is time to.
    pub fn idle(&self) -> Unwanted<'_> {
        Unwanted { rests: true, ..self.unwanted() }
    }

    /// The task of the connection ends, and the connection does not.
    pub(super) fn outlives_its_task(&self) {
        if let Some(live) = self.crowd.live.borrow_mut().get_mut(&self.number) {
            live.abort = None; // it would hold the task's memory
        }
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
        Unwanted { drains: false, ..self.unwanted() }
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

/// See [`Slot::unwanted`], [`Slot::idle`] and [`Slot::displaced`].
pub struct Unwanted<'a> {
    slot: &'a Slot,
    /// The end of its generation counts.
    drains: bool,
    /// It may be told to rest.
    rests: bool,
    /// Its place in [`Crowd::those`]; whoever wants it gone takes it out there.
    place: Option<Place>,
    /// It has ended, so the connection goes.
    told: bool,
    /// Has its task's waker when it does not wait.
    spare: Option<&'a Spare>,
}

/// What wakes a task, from one wait to the next: a task that stays the same need not be asked for it again.
pub type Spare = Cell<Option<Waker>>;

impl<'a> Unwanted<'a> {
    /// The same, with what the wait before has left.
    pub fn with(self, spare: &'a Spare) -> Self {
        Self { spare: Some(spare), ..self }
    }
}

/// What an idle connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To end.
    Leave,
    /// To rest.
    Rest,
}

impl Future for Unwanted<'_> {
    type Output = Call;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Call> {
        let slot = self.slot;
        let Some(life) = &slot.life else { return Poll::Pending };
        if self.drains && life.drains() {
            self.told = true;
            return Poll::Ready(Call::Leave);
        }
        let crowd = &slot.crowd;
        let mut idle = crowd.those(self.rests).borrow_mut();
        match self.place {
            None => {
                let before = idle.len();
                let known = self.spare.and_then(Cell::take).filter(|waker| waker.will_wake(cx.waker()));
                let waker = known.unwrap_or_else(|| cx.waker().clone());
                let (generation, drains) = (life.id, self.drains);
                let place = idle.push(Idle { generation, drains, waker, since: clock::now(), rest: false });
                drop(idle);
                self.place = Some(place);
                if self.rests {
                    crowd.rest.one_more(before);
                }
                Poll::Pending
            }
            Some(place) => match idle.get_mut(place) {
                Some(Idle { rest: true, .. }) => Poll::Ready(Call::Rest),
                Some(waiting) => {
                    waiting.waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => {
                    self.told = true;
                    Poll::Ready(Call::Leave)
                }
            },
        }
    }
}

impl Drop for Unwanted<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let crowd = &self.slot.crowd;
        let stayed = crowd.those(self.rests).borrow_mut().remove(place);
        match stayed {
            Some(idle) => {
                if let Some(spare) = self.spare {
                    spare.set(Some(idle.waker));
                }
            }
            None if self.told => self.slot.leaving.set(true),
            // Its next request came at the same moment, and it stays.
            None => crowd.leaving.set(crowd.leaving.get().saturating_sub(1)),
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
    /// The generations that they are of.
    lives: RefCell<Vec<Arc<Life>>>,
    /// Those that wait for a next request and cannot rest, longest first.
    idle: RefCell<Row<Idle>>,
    /// Those that can rest, and those that do.
    pub(super) rest: Rest,
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
    /// `None` while it rests.
    abort: Option<AbortHandle>,
    /// It waits to be told, see [`Slot::closed`].
    told: bool,
}

/// A connection that waits in its task.
pub(super) struct Idle {
    generation: u64,
    /// The end of its generation counts.
    drains: bool,
    pub(super) waker: Waker,
    pub(super) since: Instant,
    /// It is told to rest.
    pub(super) rest: bool,
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

    /// A client of that generation has come.
    fn know(&self, life: &Arc<Life>) {
        let mut lives = self.lives.borrow_mut();
        if !lives.iter().any(|known| Arc::ptr_eq(known, life)) {
            lives.push(life.clone());
        }
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
        let idle = self.idle.borrow().len() + self.rest.count();
        if limit.saturating_sub(used) > limit / 16 || idle == 0 {
            return;
        }
        let now = Instant::now();
        if self.warned.get().is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1)) {
            self.warned.set(Some(now));
            let message = format_args!("{limit} worker_connections are not enough, reusing connections");
            log.write(Level::Warn, &log::Context::default(), message);
        }
        for _ in 0..(idle / 8).clamp(1, 32) {
            self.send_one_away();
        }
    }

    /// Whoever is idle for longest goes.
    fn send_one_away(&self) {
        let waits = |row: &RefCell<Row<Idle>>| row.borrow().front().map(|idle| idle.since);
        let (idle, fresh, resting) = (waits(&self.idle), waits(&self.rest.fresh), self.rest.longest());
        let longest = [idle, fresh, resting].into_iter().flatten().min();
        if resting.is_some() && resting == longest {
            self.rest.close_longest();
        } else if let Some(unwanted) = self.those(fresh.is_some() && fresh == longest).borrow_mut().pop_front() {
            self.leaving.set(self.leaving.get() + 1);
            unwanted.waker.wake();
        }
    }

    /// Those that wait in tasks of their own.
    fn those(&self, rests: bool) -> &RefCell<Row<Idle>> {
        if rests { &self.rest.fresh } else { &self.idle }
    }

    /// Sends the idle connections of those generations away that drain. Those that rest have their last chance in rest.
    pub fn drain(&self) {
        self.drains.notify_waiters();
        let lives = &mut *self.lives.borrow_mut();
        lives.retain(|life| Arc::strong_count(life) > 1);
        let drains = |id| lives.iter().any(|life| life.id == id && life.drains());
        for row in [&self.idle, &self.rest.fresh] {
            row.borrow_mut().retain(|idle| {
                let stays = !(idle.drains && drains(idle.generation));
                if !stays {
                    self.leaving.set(self.leaving.get() + 1);
                    idle.waker.wake_by_ref();
                }
                stays
            });
        }
        self.rest.drain();
    }

    /// Ends the connections of a generation where they stand: `worker_shutdown_timeout`.
    pub fn close(&self, generation: u64) {
        self.closed.borrow_mut().push(generation);
        self.drains.notify_waiters();
        self.rest.close(generation);
        for live in self.live.borrow().values() {
            if live.generation == generation
                && !live.told
                && let Some(abort) = &live.abort
            {
                abort.abort();
            }
        }
    }

    /// Runs a client's connection in a task of its own.
    pub fn spawn(&self, (number, generation): (u64, u64), connection: impl Future<Output = ()> + 'static) {
        let task = tokio::task::spawn_local(connection);
        let live = Live { generation, abort: Some(task.abort_handle()), told: false };
        self.live.borrow_mut().insert(number, live);
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.live.borrow().len()
    }

    /// Waits until no client is connected.
    pub async fn empty(&self) {
        loop {
            let changed = self.empty.notified();
            if self.clients() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// The next connection's number.
fn next_number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed) + 1
}
