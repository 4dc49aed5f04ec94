//! A busy listener is given its connections when they have something to say.
//!
//! In: each connection that one thread accepts. Out: TCP_DEFER_ACCEPT (tcp(7)) on the listening socket, which `listen … deferred`
//! sets for good, for as long as two things are so: connections come so fast that it is worth something, and nearly all of those
//! that come have asked already. Then a connection is accepted, read, answered and closed, four system calls, and never has a place
//! in the loop.
//!
//! Nobody may be hurt by what the operator did not ask for. Until its first bytes, and for at most a second, a connection
//! is no more than a place in the kernel's queue of handshakes, which is as long as `backlog`; where many clients connect and
//! wait, that queue would fill. So every sixteenth connection is looked at, and when about one in nine had nothing to
//! say, the listener is left alone for a minute; and when none comes for a sixth of a second, the option is taken back. Each
//! thread judges by its own connections: those that share a socket see the same clients, and when one has taken the option back,
//! the others find clients that say nothing, or none, and do the same.

use std::os::fd::{AsFd, BorrowedFd};
use std::task::Context;
use std::time::{Duration, Instant};

use nix::sys::socket::SetSockOpt;
use nix::{setsockopt_impl, sockopt_impl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::timer::Timer;
use crate::base::clock;

sockopt_impl!(
    /// Seconds to wait for the first bytes before the connection is handed over without them; 0 hands it over at once.
    DeferAccept, SetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, libc::c_int
);

/// So many connections later the next look is taken.
const STEP: u32 = 16;
/// A step that takes no longer is a quick one: 500 connections a second.
const QUICK: Duration = Duration::from_millis(32);
/// So many quick steps, one after the other, are no accident.
const QUICK_STEPS: u32 = 8;
/// A step that takes longer is not worth it any more: 100 connections a second. Nor is a wait for one connection.
const SLOW: Duration = Duration::from_millis(160);
/// What a client that said nothing weighs against one that did.
const SILENCE: u32 = 8;
/// So much silence is too much.
const TOO_SILENT: u32 = 3 * SILENCE;
/// How long the listener is left alone then.
const PAUSE: Duration = Duration::from_mins(1);

/// What a thread knows of the clients of one listening socket.
pub struct Deferral<'a> {
    socket: BorrowedFd<'a>,
    /// Connections since the last look.
    accepted: u32,
    looked: Instant,
    state: State,
    /// Since the last connection.
    quiet: Timer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Connections are handed over as soon as they are made.
    Off { quick_steps: u32, not_before: Instant },
    /// They are handed over with their first bytes. The silence found, less what was outweighed by others.
    On { silence: u32 },
}

impl<'a> Deferral<'a> {
    /// Of a TCP socket that was not told to defer. A process that broke down may have left it so.
    pub fn new(socket: BorrowedFd<'a>) -> Self {
        let _ = DeferAccept.set(&socket, &0); // where it cannot be unset it was not set
        let now = clock::now();
        Self {
            socket,
            accepted: 0,
            looked: now,
            state: State::Off { quick_steps: 0, not_before: now },
            quiet: Timer::default(),
        }
    }

    /// A connection was accepted.
    pub fn accepted(&mut self, connection: impl AsFd) {
        self.quiet.disarm();
        self.accepted += 1;
        if self.accepted == STEP {
            self.accepted = 0;
            self.look(clock::now(), || has_spoken(connection));
        }
    }

    /// Called while there is none to accept. `cx` is told when that has lasted.
    pub fn wait(&mut self, cx: &mut Context<'_>) {
        if matches!(self.state, State::On { .. }) && self.quiet.poll(cx, SLOW).is_ready() {
            self.state = self.off(clock::now());
        }
    }

    fn look(&mut self, now: Instant, spoke: impl FnOnce() -> bool) {
        let took = now.saturating_duration_since(self.looked);
        self.looked = now;
        self.state = match self.state {
            State::Off { not_before, .. } if took > QUICK => State::Off { quick_steps: 0, not_before },
            State::Off { quick_steps, not_before } if quick_steps < QUICK_STEPS || now < not_before => {
                State::Off { quick_steps: quick_steps.saturating_add(1), not_before }
            }
            State::Off { .. } => match DeferAccept.set(&self.socket, &1) {
                Ok(()) => State::On { silence: 0 },
                Err(_) => State::Off { quick_steps: 0, not_before: now + PAUSE }, // the system has its reasons
            },
            State::On { .. } if took > SLOW => self.off(now),
            State::On { silence } => {
                let silence = if spoke() { silence.saturating_sub(1) } else { silence + SILENCE };
                if silence < TOO_SILENT { State::On { silence } } else { self.off(now + PAUSE) }
            }
        };
    }

    fn off(&self, not_before: Instant) -> State {
        let _ = DeferAccept.set(&self.socket, &0); // what could be set can be unset
        State::Off { quick_steps: 0, not_before }
    }
}

impl Drop for Deferral<'_> {
    /// Whoever has the socket next finds it as it was.
    fn drop(&mut self) {
        if matches!(self.state, State::On { .. }) {
            self.off(self.looked);
        }
    }
}

/// Whether the client of a new connection has said something, if only that it is gone.
fn has_spoken(connection: impl AsFd) -> bool {
    let mut one = [PollFd::new(&connection, PollFlags::IN)];
    !matches!(poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::task::Poll;

    use nix::getsockopt_impl;
    use nix::sys::socket::getsockopt;

    use super::*;

    sockopt_impl!(
        /// In seconds again, rounded up to when the kernel says its part of the handshake once more.
        Deferred, GetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, libc::c_int
    );

    fn is_deferred(socket: &TcpListener) -> bool {
        getsockopt(socket, Deferred).expect("a TCP socket") > 0
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("loopback has ports")
    }

    /// As many looks, each `apart` after the other, at clients that all spoke or did not.
    fn looks(deferral: &mut Deferral<'_>, count: u32, apart: Duration, spoke: bool) {
        for _ in 0..count {
            let next = deferral.looked + apart;
            deferral.look(next, || spoke);
        }
    }

    #[test]
    fn what_comes_fast_and_speaks_is_deferred() {
        let socket = listener();
        let mut deferral = Deferral::new(socket.as_fd());
        looks(&mut deferral, QUICK_STEPS, QUICK, true);
        assert!(!is_deferred(&socket), "too early");
        looks(&mut deferral, 1, QUICK + Duration::from_millis(1), true);
        looks(&mut deferral, QUICK_STEPS, QUICK, true);
        assert!(!is_deferred(&socket), "a slow step begins the count anew");
        looks(&mut deferral, 1, QUICK, true);
        assert!(is_deferred(&socket));
        looks(&mut deferral, 3, SLOW, true);
        assert!(is_deferred(&socket), "slower, and still worth it");
        looks(&mut deferral, 1, SLOW + Duration::from_millis(1), true);
        assert!(!is_deferred(&socket));
        // It may come back at once.
        looks(&mut deferral, QUICK_STEPS + 1, QUICK, true);
        assert!(is_deferred(&socket));
        drop(deferral);
        assert!(!is_deferred(&socket), "the next one finds it as it was");
    }

    #[test]
    fn silent_clients_end_it_for_a_minute() {
        let socket = listener();
        let mut deferral = Deferral::new(socket.as_fd());
        looks(&mut deferral, QUICK_STEPS + 1, QUICK, false);
        assert!(is_deferred(&socket), "before it is deferred, most have not spoken yet");
        looks(&mut deferral, TOO_SILENT / SILENCE - 1, QUICK, false);
        assert!(is_deferred(&socket));
        looks(&mut deferral, 1, QUICK, false);
        assert!(!is_deferred(&socket));
        let steps = u32::try_from(PAUSE.as_millis() / QUICK.as_millis()).expect("a few");
        looks(&mut deferral, steps - 1, QUICK, true);
        assert!(!is_deferred(&socket), "within the minute");
        looks(&mut deferral, 1, QUICK, true);
        assert!(is_deferred(&socket));
        // One in twenty is no reason to stop, one in five is.
        for _ in 0..100 {
            looks(&mut deferral, 19, QUICK, true);
            looks(&mut deferral, 1, QUICK, false);
        }
        assert!(is_deferred(&socket));
        for _ in 0..10 {
            looks(&mut deferral, 4, QUICK, true);
            looks(&mut deferral, 1, QUICK, false);
        }
        assert!(!is_deferred(&socket));
    }

    #[test]
    fn when_nobody_comes_it_ends() {
        let socket = listener();
        let mut deferral = Deferral::new(socket.as_fd());
        looks(&mut deferral, QUICK_STEPS + 1, QUICK, true);
        assert!(is_deferred(&socket));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("descriptors are left").block_on(std::future::poll_fn(|cx| {
            deferral.wait(cx);
            if is_deferred(&socket) { Poll::Pending } else { Poll::Ready(()) }
        }));
        assert!(matches!(deferral.state, State::Off { quick_steps: 0, .. }));
    }

    #[test]
    fn one_connection_in_a_step_is_looked_at() {
        let socket = listener();
        let mut deferral = Deferral::new(socket.as_fd());
        deferral.state = State::On { silence: 0 };
        let mut client = TcpStream::connect(socket.local_addr().expect("it is bound")).expect("it listens");
        let (accepted, _) = socket.accept().expect("it has connected");
        for _ in 0..STEP {
            assert_eq!(deferral.state, State::On { silence: 0 });
            deferral.accepted(&accepted);
        }
        assert_eq!(deferral.state, State::On { silence: SILENCE });
        client.write_all(b"x").expect("it is open");
        accepted.peek(&mut [0]).expect("it comes");
        for _ in 0..STEP {
            deferral.accepted(&accepted);
        }
        assert_eq!(deferral.state, State::On { silence: SILENCE - 1 });
    }
}
