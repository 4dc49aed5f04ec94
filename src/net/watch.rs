//! Sockets that nobody waits for in a task: a descriptor, what belongs to it, and until when.
//!
//! In: sockets of which nothing is expected soon. Out: those that have something to say, and those whose time is over.
//! The sockets are in an epoll set of their own, which is itself one descriptor of the thread's loop: what such a socket costs is
//! its line here. The set is asked by level, so that nothing is missed that came before the socket did.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::base::row::{Place, Row};

/// How many sockets are heard of in one call.
pub const BATCH: usize = 64;

/// See the module's head.
pub struct Watch<T> {
    set: Rc<OwnedFd>,
    row: Row<Watched<T>>,
    /// In the order in which their time ends.
    ends: BTreeSet<(Instant, Place)>,
    events: Vec<Event>,
}

struct Watched<T> {
    socket: OwnedFd,
    what: T,
    until: Instant,
}

impl<T> Watch<T> {
    pub fn new() -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { set: Rc::new(set), row: Row::default(), ends: BTreeSet::new(), events: Vec::with_capacity(BATCH) })
    }

    /// Readable when one of the sockets has something to say.
    pub fn set(&self) -> Rc<OwnedFd> {
        self.set.clone()
    }

    /// Watches a socket. An error drops it, and what belongs to it.
    pub fn put(&mut self, socket: OwnedFd, what: T, until: Instant) -> io::Result<()> {
        let place = self.row.push(Watched { socket, what, until });
        let Some(watched) = self.row.get_mut(place) else { return Ok(()) };
        let number = EventData::new_u64(place.number());
        if let Err(error) = epoll::add(&*self.set, &watched.socket, number, EventFlags::IN | EventFlags::RDHUP) {
            self.row.remove(place);
            return Err(error.into());
        }
        self.ends.insert((until, place));
        Ok(())
    }

    /// Whoever has been here for longest.
    pub fn front(&self) -> Option<&T> {
        self.row.front().map(|watched| &watched.what)
    }

    pub fn len(&self) -> usize {
        self.row.len()
    }

    pub fn pop_front(&mut self) -> Option<(OwnedFd, T)> {
        let place = self.row.first()?;
        self.take(place)
    }

    /// Takes those out that have something to say, a batch of them. `true`: there may be more.
    pub fn hear(&mut self, mut heard: impl FnMut(OwnedFd, T)) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&*self.set, spare_capacity(&mut events), Some(&at_once));
        for event in &events {
            if let Some((socket, what)) = self.take(Place::of(event.data.u64())) {
                heard(socket, what);
            }
        }
        events.clear();
        self.events = events;
        Ok(count? == BATCH)
    }

    /// When the first one's time ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Takes one out whose time is over.
    pub fn ended(&mut self, now: Instant) -> Option<(OwnedFd, T)> {
        let (until, place) = *self.ends.first()?;
        if until > now { None } else { self.take(place) }
    }

    /// Lets the time of some end no later than at `until`.
    pub fn hasten(&mut self, until: Instant, mut some: impl FnMut(&T) -> bool) {
        let ends = &mut self.ends;
        self.row.visit(|place, watched| {
            if watched.until > until && some(&watched.what) {
                ends.remove(&(watched.until, place));
                ends.insert((until, place));
                watched.until = until;
            }
            true
        });
    }

    /// Takes some out, and closes their sockets.
    pub fn take_those(&mut self, mut some: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut places = Vec::new();
        self.row.visit(|place, watched| {
            if some(&watched.what) {
                places.push(place);
            }
            true
        });
        places.into_iter().filter_map(|place| self.take(place)).map(|(_, what)| what).collect()
    }

    fn take(&mut self, place: Place) -> Option<(OwnedFd, T)> {
        let Watched { socket, what, until } = self.row.remove(place)?;
        self.ends.remove(&(until, place));
        let _ = epoll::delete(&*self.set, &socket); // it is in the set, or would not be here
        Some((socket, what))
    }
}
