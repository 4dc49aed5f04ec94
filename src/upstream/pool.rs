//! Connections that are kept: idle ones of each group, per thread, as nginx's are per worker.
//!
//! In: a connection whose answer was read to its end. Out: the latest one to the same address, if it is still good. One
//! task per pool watches the idle ones: it closes those that the peer closes or that have waited too long.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::group::Group;
use crate::base::addr::Address;
use crate::base::clock;
use crate::base::hash::QuickMap;
use crate::net::crowd::Slot;
use crate::net::io::Io;
use crate::net::timer::Timer;

/// A connection to a peer.
pub struct Link {
    pub io: Io,
    /// One for all its waits, so that a timeout is a comparison and not an allocation.
    pub timer: Timer,
    /// How many requests it has had, the one at hand included.
    pub requests: u64,
    pub started: Instant,
    /// It came out of the pool.
    pub cached: bool,
    /// Those of one kind may stand in for each other: 0 without TLS, else by what the session was asked for.
    pub kind: u64,
    writes: Writes,
    /// Its place among the thread's connections.
    _slot: Slot,
}

/// How a connection was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Never,
    Once,
    /// More than once, and what is written leaves at once.
    Often,
}

impl Link {
    pub fn new(io: Io, slot: Slot) -> Self {
        Self {
            io,
            timer: Timer::default(),
            requests: 1,
            started: clock::now(),
            cached: false,
            kind: 0,
            writes: Writes::Never,
            _slot: slot,
        }
    }

    /// To be said before each write. From the second on nothing waits until the peer has acknowledged what went before:
    /// `tcp_nodelay`. Most connections that are not kept have one write only, and need no system call for this.
    pub fn will_write(&mut self, nodelay: bool) {
        self.writes = match self.writes {
            Writes::Never => Writes::Once,
            Writes::Once if nodelay => {
                self.io.socket().set_nodelay();
                Writes::Often
            }
            known => known,
        };
    }
}

struct Idle {
    link: Box<Link>,
    address: Address,
    /// Whose it is, where connections are not shared between locations.
    tag: usize,
    until: Instant,
}

struct Pool {
    group: Weak<Group>,
    /// The latest last.
    idle: Vec<Idle>,
    /// Wakes the task that watches; `None`: there is none.
    watcher: Option<Waker>,
}

thread_local! {
    static POOLS: RefCell<QuickMap<u64, Pool>> = RefCell::default();
}

/// Takes an idle connection to `address`.
pub fn take(group: &Group, address: &Address, tag: usize, kind: u64) -> Option<Box<Link>> {
    let keepalive = group.keepalive.as_ref()?;
    POOLS.with_borrow_mut(|pools| {
        let pool = pools.get_mut(&group.id)?;
        loop {
            let fits = |idle: &Idle| {
                (!keepalive.local || idle.tag == tag) && idle.address == *address && idle.link.kind == kind
            };
            let place = pool.idle.iter().rposition(fits)?;
            let mut idle = pool.idle.remove(place);
            // What has happened since the last turn of the loop is known without asking the kernel.
            if idle.link.io.is_quiet() {
                idle.link.requests += 1;
                idle.link.cached = true;
                return Some(idle.link);
            }
        }
    })
}

/// Keeps a connection, if its group keeps any and it is not too old.
pub fn put(group: &Arc<Group>, address: &Address, tag: usize, mut link: Box<Link>) {
    let Some(keepalive) = &group.keepalive else { return };
    let now = clock::now();
    if link.requests >= keepalive.requests || now.saturating_duration_since(link.started) > keepalive.time {
        return;
    }
    link.timer.disarm();
    POOLS.with_borrow_mut(|pools| {
        let pool = pools.entry(group.id).or_insert_with(|| Pool {
            group: Arc::downgrade(group),
            idle: Vec::new(),
            watcher: None,
        });
        let waker = pool.watcher.as_ref().unwrap_or(Waker::noop());
        if !link.io.poll_quiet(&mut Context::from_waker(waker)) {
            return;
        }
        if pool.idle.len() >= keepalive.connections {
            pool.idle.remove(0);
        }
        pool.idle.push(Idle { link, address: address.clone(), tag, until: now + keepalive.timeout });
        if pool.watcher.is_none() {
            // It puts its own waker here at its first turn.
            pool.watcher = Some(Waker::noop().clone());
            tokio::task::spawn_local(watch(group.id));
        }
    });
}

/// Closes idle connections that have ended, until there are none. All of a pool wait equally long, so the earliest
/// deadline comes first; when that connection is at work again meanwhile, this looks once and goes on.
async fn watch(group: u64) {
    let mut timer = Timer::default();
    std::future::poll_fn(|cx| {
        loop {
            let next = POOLS.with_borrow_mut(|pools| {
                let pool = pools.get_mut(&group)?;
                let now = Instant::now();
                pool.idle.retain(|idle| idle.until > now && idle.link.io.poll_quiet(cx));
                pool.watcher = Some(cx.waker().clone());
                let next = pool.idle.iter().map(|idle| idle.until).min();
                if next.is_none() {
                    pool.watcher = None;
                    if pool.group.strong_count() == 0 {
                        pools.remove(&group);
                    }
                }
                Some(next?.saturating_duration_since(now))
            });
            let Some(next) = next else { return Poll::Ready(()) };
            std::task::ready!(timer.poll(cx, next));
            timer.disarm();
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;
    use crate::log::ErrorLog;
    use crate::net::crowd::Crowd;
    use crate::net::socket::Socket;

    #[test]
    fn nothing_is_delayed_from_the_second_write_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("descriptors are left").block_on(async {
            Crowd::here().limit(8, 1);
            for nodelay in [true, false] {
                let (_peer, socket) = Socket::pair();
                let slot = Slot::take(&ErrorLog::none()).expect("there is room");
                let mut link = Link::new(Io::new(socket), slot);
                let told: Vec<bool> = (0..3)
                    .map(|_| {
                        link.will_write(nodelay);
                        link.io
                            .socket()
                            .with(|socket| SockRef::from(&socket).tcp_nodelay())
                            .expect("open")
                            .expect("TCP")
                    })
                    .collect();
                assert_eq!(told, [false, nodelay, nodelay]);
            }
        });
    }
}
