//! Sockets that nobody waits for in a task: a descriptor, what belongs to it, since when, and until when.
//!
//! In: sockets of which nothing is expected soon. Out: those that have something to say, and those whose time is over.
//! The sockets are in an epoll set of their own, which is itself one descriptor of the thread's loop: what such a socket costs is
//! its line here. A socket is heard of once; it stays in the set, and when it comes back it is only asked for again. Nothing is missed
//! that came before it did.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::base::row::{Place, Row};

/// For how long a socket is expected to be silent.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub since: Instant,
    /// Then it is closed.
    pub until: Instant,
}

/// How many sockets are heard of in one call.
pub const BATCH: usize = 64;

/// A descriptor in the thread's loop, which tells when it is readable. For those that are no stream: tokio's own listeners put each
/// socket in the loop that they accept.
#[expect(deprecated, reason = "what took its place is unsafe, for types that tell another descriptor each time")]
pub fn readable<T: AsFd + AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// See the module's head.
pub struct Watch<T> {
    set: Rc<OwnedFd>,
    row: Row<Watched<T>>,
    /// In the order in which their time ends.
    ends: BTreeSet<(Moment, Place)>,
    events: Vec<Event>,
    /// Moments count from here.
    made: Instant,
}

/// Milliseconds since the set was made, or before: half of what an `Instant` takes.
type Moment = i64;

struct Watched<T> {
    socket: OwnedFd,
    /// Its time, in milliseconds from `since` on: 49 days at most.
    lasts: u32,
    since: Moment,
    what: T,
}

impl<T> Watched<T> {
    fn until(&self) -> Moment {
        self.since.saturating_add(self.lasts.into())
    }

    fn set_until(&mut self, until: Moment) {
        let lasts = until.saturating_sub(self.since).max(0);
        self.lasts = u32::try_from(lasts).unwrap_or(u32::MAX);
    }
}

impl<T> Watch<T> {
    pub fn new() -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self {
            set: Rc::new(set),
            row: Row::default(),
            ends: BTreeSet::new(),
            events: Vec::with_capacity(BATCH),
            made: Instant::now(),
        })
    }

    /// Readable when one of the sockets has something to say.
    pub fn set(&self) -> Rc<OwnedFd> {
        self.set.clone()
    }

    /// Watches a socket in its `pause`. `again`: it was here before. An error drops it, and what belongs to it.
    pub fn put(&mut self, socket: OwnedFd, what: T, pause: Pause, again: bool) -> io::Result<()> {
        let mut watched = Watched { socket, lasts: 0, since: self.moment(pause.since), what };
        watched.set_until(self.moment(pause.until) + 1); // not before its time
        let until = watched.until();
        let place = self.row.push(watched);
        let Some(watched) = self.row.get_mut(place) else { return Ok(()) };
        let (set, socket, number) = (&*self.set, &watched.socket, EventData::new_u64(place.number()));
        let once = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        let asked = match again {
            false => epoll::add(set, socket, number, once),
            true => epoll::modify(set, socket, number, once),
        };
        if let Err(error) = asked {
            self.row.remove(place);
            return Err(error.into());
        }
        self.ends.insert((until, place));
        Ok(())
    }

    /// Since when whoever has been here for longest is silent.
    pub fn longest(&self) -> Option<Instant> {
        self.row.front().map(|watched| self.instant(watched.since))
    }

    pub fn count(&self) -> usize {
        self.row.len()
    }

    pub fn pop_front(&mut self) -> Option<(OwnedFd, T)> {
        let place = self.row.first()?;
        self.take(place)
    }

    /// Takes those out that have something to say, and tells since when they were silent: a batch of them. `true`: there may
    /// be more.
    pub fn hear(&mut self, mut heard: impl FnMut(OwnedFd, T, Instant)) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&*self.set, spare_capacity(&mut events), Some(&at_once));
        for event in &events {
            if let Some(Watched { socket, what, since, .. }) = self.remove(Place::of(event.data.u64())) {
                heard(socket, what, self.instant(since));
            }
        }
        events.clear();
        self.events = events;
        Ok(count? == BATCH)
    }

    /// When the first one's time ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| self.instant(*until))
    }

    /// Takes one out whose time is over.
    pub fn ended(&mut self, now: Instant) -> Option<(OwnedFd, T)> {
        let (until, place) = *self.ends.first()?;
        if until > self.moment(now) { None } else { self.take(place) }
    }

    /// Lets the time of some end no later than at `until`.
    pub fn hasten(&mut self, until: Instant, mut some: impl FnMut(&T) -> bool) {
        let until = self.moment(until);
        let ends = &mut self.ends;
        self.row.visit(|place, watched| {
            if watched.until() > until && some(&watched.what) {
                ends.remove(&(watched.until(), place));
                watched.set_until(until);
                ends.insert((watched.until(), place));
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

    /// The one that has begun by then: who is here does not seem to have come later than who came at the same time.
    fn moment(&self, time: Instant) -> Moment {
        let moment = |milliseconds: u128| Moment::try_from(milliseconds).unwrap_or(Moment::MAX - 1);
        match time.checked_duration_since(self.made) {
            Some(after) => moment(after.as_millis()),
            None => -moment(self.made.saturating_duration_since(time).as_nanos().div_ceil(1_000_000)),
        }
    }

    fn instant(&self, moment: Moment) -> Instant {
        let span = Duration::from_millis(moment.unsigned_abs());
        let time = if moment < 0 { self.made.checked_sub(span) } else { self.made.checked_add(span) };
        time.unwrap_or(self.made)
    }

    fn take(&mut self, place: Place) -> Option<(OwnedFd, T)> {
        self.remove(place).map(|watched| (watched.socket, watched.what))
    }

    fn remove(&mut self, place: Place) -> Option<Watched<T>> {
        let watched = self.row.remove(place)?;
        self.ends.remove(&(watched.until(), place));
        Some(watched)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn heard(watch: &mut Watch<u32>) -> Vec<(OwnedFd, u32)> {
        let mut heard = Vec::new();
        assert!(!watch.hear(|socket, what, _| heard.push((socket, what))).expect("a set of sockets"));
        heard
    }

    #[test]
    fn who_has_something_to_say_is_heard_once_and_may_come_back() {
        let mut watch = Watch::new().expect("descriptors are left");
        let now = Instant::now();
        let later = Pause { since: now, until: now + Duration::from_secs(60) };
        let (mut one, socket) = UnixStream::pair().expect("descriptors are left");
        let (other, silent) = UnixStream::pair().expect("descriptors are left");
        one.write_all(b"before").expect("it is open");
        watch.put(socket.into(), 1, later, false).expect("a socket");
        watch.put(silent.into(), 2, later, false).expect("a socket");
        let mut spoke = heard(&mut watch);
        let (socket, what) = spoke.pop().expect("one has spoken");
        assert_eq!((what, spoke.len(), watch.count()), (1, 0, 1));
        let mut socket = UnixStream::from(socket);
        socket.read_exact(&mut [0; 6]).expect("it has spoken");
        one.write_all(b"while it is away").expect("it is open");
        assert!(heard(&mut watch).is_empty());
        watch.put(socket.into(), 3, later, true).expect("a socket");
        assert_eq!(heard(&mut watch).pop().map(|(_, what)| what), Some(3));
        drop(other); // an end is something to say, too
        assert_eq!(heard(&mut watch).pop().map(|(_, what)| what), Some(2));
        assert_eq!((watch.count(), watch.next_end()), (0, None));
    }

    #[test]
    fn a_time_ends_after_49_days_and_not_before_it_began() {
        let (_peer, socket) = UnixStream::pair().expect("descriptors are left");
        let mut watched = Watched { socket: socket.into(), lasts: 0, since: -5, what: () };
        for (until, told) in [(7, 7), (-5, -5), (-9, -5), (Moment::MAX, Moment::from(u32::MAX) - 5)] {
            watched.set_until(until);
            assert_eq!(watched.until(), told);
        }
    }

    #[test]
    fn nobody_seems_to_have_come_later_than_he_did() {
        let watch = Watch::<()>::new().expect("descriptors are left");
        for time in [watch.made - Duration::from_micros(2300), watch.made, watch.made + Duration::from_micros(2700)] {
            let told = watch.instant(watch.moment(time));
            assert!(told <= time && time - told < Duration::from_millis(1), "{told:?} for {time:?}");
        }
    }

    #[test]
    fn time_ends_in_its_order_and_can_be_hastened() {
        let mut watch = Watch::new().expect("descriptors are left");
        let now = Instant::now();
        let (mut peers, after) = (Vec::new(), |seconds| now + Duration::from_secs(seconds));
        for (what, seconds) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
            let (peer, socket) = UnixStream::pair().expect("descriptors are left");
            watch.put(socket.into(), what, Pause { since: now, until: after(seconds) }, false).expect("a socket");
            peers.push(peer);
        }
        assert!(watch.ended(after(9)).is_none());
        assert_eq!(watch.ended(after(11)).map(|(_, what)| what), Some(2));
        watch.hasten(after(15), |&what| what == 4);
        assert!(watch.next_end().is_some_and(|end| end >= after(15) - Duration::from_millis(1) && end < after(16)));
        assert_eq!(watch.ended(after(16)).map(|(_, what)| what), Some(4));
        assert_eq!(watch.take_those(|&what| what == 3), [3]);
        let since = now - Duration::from_secs(5);
        let (mut peer, socket) = UnixStream::pair().expect("descriptors are left");
        watch.put(socket.into(), 5, Pause { since, until: now }, false).expect("a socket");
        assert_eq!(watch.pop_front().map(|(_, what)| what), Some(1));
        let near = |time: Instant| time.max(since) - time.min(since) < Duration::from_millis(2);
        assert!(watch.longest().is_some_and(near), "that is before the set was made");
        peer.write_all(b"!").expect("it is open");
        let mut silent = None;
        watch.hear(|_, what, since| silent = Some((what, since))).expect("a set of sockets");
        assert!(silent.is_some_and(|(what, since)| what == 5 && near(since)));
        assert!(peers[0].read(&mut [0]).is_ok_and(|read| read == 0)); // its socket is closed
    }
}
