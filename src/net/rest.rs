//! Connections that rest: without a task, a timer and a place in the thread's loop.
//!
//! In: connections that have had an answer and wait for their client. Out: those it came back to, in tasks of their own. A client
//! mostly stays away for seconds, and 2 KB of waiting is four times what nginx takes. Who rests leaves a closure that makes
//! the connection go on, and its socket is watched ([`super::watch`]) with all others: 400 bytes. The price is paid at the next
//! request, most of it for epoll. So who rests is a matter of how many wait, and of whether the thread has time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::crowd::{Crowd, Idle, LAST_CHANCE, Slot};
pub use super::watch::Pause;
use super::watch::{self, BATCH, Watch};
use crate::base::clock;
use crate::base::row::Row;
use crate::log::Level;
use crate::log::error::call_failed;

/// So long a connection is idle before it rests.
const LONG: Duration = Duration::from_secs(5);

/// So long, where more than [`AWAKE`] are and the thread has time.
pub const SHORT: Duration = Duration::from_millis(50);

/// So many idle connections a thread keeps as they are, in a megabyte.
const AWAKE: usize = 512;

/// How much later it may be noticed that one should rest.
const LOOK: Duration = Duration::from_millis(10);

/// How often it is seen whether the thread is busy. Longer than a burst of requests.
const STOCK: Duration = Duration::from_millis(250);

/// Has a connection that rested go on, in a task of its own. It is told how long it was idle.
pub type GoOn = Box<dyn FnOnce(OwnedFd, Slot, Duration) -> Pin<Box<dyn Future<Output = ()>>>>;

/// One thread's connections that can rest, and those that do.
#[derive(Default)]
pub(super) struct Rest {
    /// Those that wait in their tasks, and will rest when they have waited for a while; longest first.
    pub(super) fresh: RefCell<Row<Idle>>,
    /// Those that rest; `None` before the first.
    watch: RefCell<Option<Watch<Resting>>>,
    /// Whoever looks after them has to be called when one more than so many are fresh.
    calls: Cell<usize>,
    stir: Notify,
    /// When they are looked after next; `None`: when something happens.
    next: Cell<Option<Instant>>,
    /// The thread has no time to spare; when that was last seen, and what it had spent of its processor by then.
    busy: Cell<bool>,
    seen: Cell<Option<(Instant, Duration)>>,
}

struct Resting {
    slot: Slot,
    go_on: GoOn,
}

impl Slot {
    /// Whether the thread has so many idle connections, and so much time, that who is idle for [`SHORT`] should rest. When
    /// their generation drains they have other things to do.
    pub fn is_crowded(&self) -> bool {
        let rest = &self.crowd.rest;
        !rest.busy.get() && rest.count() > AWAKE && !self.draining()
    }

    /// The connection rests: it is watched until the end of `pause` and then closed, or goes on when it has something to say.
    pub fn rest(self, socket: io::Result<OwnedFd>, pause: Pause, go_on: GoOn) {
        let crowd = self.crowd.clone();
        self.outlives_its_task();
        let again = self.rested.replace(true);
        let resting = Resting { slot: self, go_on };
        let put = socket.and_then(|socket| match &mut *crowd.rest.watch.borrow_mut() {
            Some(watch) => watch.put(socket, resting, pause, again),
            None => Ok(()), // the thread ends, and so does the connection
        });
        if crowd.rest.next.get().is_none_or(|next| pause.until < next) {
            crowd.rest.stir.notify_one();
        }
        if let Err(error) = put {
            call_failed(Level::Alert, &error, "epoll_ctl(1)");
        }
    }
}

impl Rest {
    /// One is fresh, beside so many others.
    pub(super) fn one_more(&self, others: usize) {
        if others == self.calls.get() {
            self.call();
        }
    }

    /// One comes beside many: who is idle for longest rests at once, whatever time the thread has. What a crowd that comes in one
    /// moment takes from the heap is not given back when it rests.
    pub(super) fn one_comes(&self) {
        if self.fresh.borrow().len() <= AWAKE || self.watch.borrow().is_none() {
            return;
        }
        let mut seen = 0;
        self.fresh.borrow_mut().visit(|_, idle| {
            seen += 1;
            let told = std::mem::replace(&mut idle.rest, true);
            if !told {
                idle.waker.wake_by_ref();
            }
            told && seen < BATCH // the thread has to turn before more can follow
        });
    }

    /// How many wait, in their tasks and at rest.
    pub(super) fn count(&self) -> usize {
        self.fresh.borrow().len() + self.watch.borrow().as_ref().map_or(0, Watch::count)
    }

    /// Since when that one is idle who rests for longest.
    pub(super) fn longest(&self) -> Option<Instant> {
        self.watch.borrow().as_ref()?.longest()
    }

    pub(super) fn close_longest(&self) {
        let gone = self.watch.borrow_mut().as_mut().and_then(Watch::pop_front);
        drop(gone); // not while they are borrowed
    }

    /// Those whose generation drains have their last chance at rest.
    pub(super) fn drain(&self) {
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            let now = clock::now();
            watch.hasten(now + LAST_CHANCE, |resting| resting.slot.lingers());
            watch.hasten(now, |resting| resting.slot.draining() && !resting.slot.lingers());
        }
        self.stir.notify_one();
    }

    /// Closes those of one generation.
    pub(super) fn close(&self, generation: u64) {
        let of_it = |resting: &Resting| resting.slot.place().1 == generation;
        let gone = self.watch.borrow_mut().as_mut().map(|watch| watch.take_those(of_it));
        drop(gone); // not while they are borrowed
    }

    /// Calls whoever looks after them, who comes with the first call.
    #[cold]
    fn call(&self) {
        self.calls.set(usize::MAX);
        if self.watch.borrow().is_some() {
            return self.stir.notify_one();
        }
        match Watch::new().and_then(|watch| Ok((watch::readable(watch.set())?, watch))) {
            Ok((set, watch)) => {
                self.watch.replace(Some(watch));
                tokio::task::spawn_local(attend(Attendant(Crowd::here()), set));
            }
            // Nobody rests, then.
            Err(error) => call_failed(Level::Alert, &error, "epoll_create()"),
        }
    }

    /// When they have to be looked at next.
    fn next_look(&self) -> Option<Instant> {
        let end = self.watch.borrow().as_ref().and_then(Watch::next_end);
        let fresh = self.fresh.borrow();
        let (patience, calls) = match fresh.len() {
            0 => (LONG, 0),
            1..=AWAKE => (LONG, AWAKE),
            _ => (SHORT, usize::MAX),
        };
        self.calls.set(calls);
        // Not by the clock, which stands still: a turn may take longer than that.
        let rest = fresh.front().map(|idle| (idle.since + patience).max(Instant::now() + LOOK));
        let next = [end, rest].into_iter().flatten().min();
        self.next.set(next);
        next
    }

    /// Has those go on that have something to say, a batch of them. `true`: there may be more.
    fn hear(&self, crowd: &Crowd) -> bool {
        let Some(watch) = &mut *self.watch.borrow_mut() else { return false };
        let more = watch.hear(|socket, Resting { slot, go_on }, since| {
            let pause = clock::now().saturating_duration_since(since);
            crowd.spawn(slot.place(), async move { go_on(socket, slot, pause).await });
        });
        more.unwrap_or_else(|error| {
            call_failed(Level::Alert, &error, "epoll_wait()");
            false
        })
    }

    /// Closes those whose time is over, a batch of them, and tells those to rest that have waited for a while.
    fn sweep(&self) {
        let now = clock::now();
        let end = || self.watch.borrow_mut().as_mut().and_then(|watch| watch.ended(now));
        std::iter::from_fn(end).take(BATCH).for_each(drop);
        let mut fresh = self.fresh.borrow_mut();
        let mut many = if self.busy.get() { 0 } else { fresh.len().saturating_sub(AWAKE) };
        fresh.visit(|_, idle| {
            let tired = idle.since + if many > 0 { SHORT } else { LONG } <= now;
            many = many.saturating_sub(1);
            if tired {
                idle.rest = true;
                idle.waker.wake_by_ref();
            }
            tired
        });
    }

    /// Sees whether the thread has worked for more than three quarters of the time since it was last seen.
    fn take_stock(&self) {
        let now = clock::now();
        let seen = self.seen.get();
        if seen.is_some_and(|(seen, _)| now.duration_since(seen) < STOCK) {
            return;
        }
        let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else { return };
        let time = |spent: TimeVal| Duration::from_micros(u64::try_from(spent.num_microseconds()).unwrap_or(0));
        let spent = time(usage.user_time()) + time(usage.system_time());
        if let Some((seen, before)) = seen {
            self.busy.set(spent.saturating_sub(before) * 4 > now.duration_since(seen) * 3);
        }
        self.seen.set(Some((now, spent)));
    }
}

/// Looks after the connections that rest, and after those that are about to: one task of each thread.
async fn attend(attendant: Attendant, set: AsyncFd<Rc<OwnedFd>>) {
    let crowd = &attendant.0;
    let rest = &crowd.rest;
    let mut time = std::pin::pin!(tokio::time::sleep(LONG));
    loop {
        rest.take_stock();
        let next = rest.next_look().map(tokio::time::Instant::from);
        if let Some(next) = next.filter(|next| time.is_elapsed() || *next < time.deadline()) {
            time.as_mut().reset(next); // it may be too early otherwise, and is not moved for that
        }
        let again = tokio::select! {
            readable = set.readable() => match readable {
                Ok(mut ready) => {
                    let more = rest.hear(crowd);
                    if !more {
                        ready.clear_ready();
                    }
                    more
                }
                Err(error) => return call_failed(Level::Alert, &error, "epoll_wait()"),
            },
            () = &mut time, if next.is_some() => {
                // A request that has come is heard before its connection's time ends.
                if !rest.hear(crowd) {
                    rest.sweep();
                }
                true
            }
            () = rest.stir.notified() => false,
        };
        if again {
            // Let those go on who were heard, and time.
            tokio::task::yield_now().await;
        }
    }
}

/// When it is gone nobody is heard any more, so nobody rests.
struct Attendant(Rc<Crowd>);

impl Drop for Attendant {
    fn drop(&mut self) {
        let resting = self.0.rest.watch.take();
        drop(resting); // not while they are borrowed
    }
}
