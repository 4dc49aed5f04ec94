//! Signals as messages: blocked everywhere, taken one by one from a descriptor that can be polled.
//!
//! No handler ever runs, so there is nothing that a handler may not do. Master and worker each open their own
//! descriptor; threads of the worker inherit the blocked mask.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that have a meaning to nginx, and so to us.
const TAKEN: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// Blocks the signals from now on; those that come meanwhile wait to be taken.
pub fn block() -> nix::Result<()> {
    set().thread_block()
}

/// The source of signals of one process.
pub struct Signals {
    descriptor: SignalFd,
}

/// One signal, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: Signal,
    /// Zero when the kernel sent it.
    pub sender: u32,
}

impl Signals {
    /// Call [`block`] first; a forked child opens its own.
    pub fn open() -> nix::Result<Self> {
        Ok(Self { descriptor: SignalFd::with_flags(&set(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next signal that waits, if any.
    pub fn take(&self) -> nix::Result<Option<Received>> {
        loop {
            match self.descriptor.read_signal() {
                Ok(Some(info)) => {
                    let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
                    return Ok(Some(Received { signal, sender: info.ssi_pid }));
                }
                Ok(None) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Received {
    /// nginx's line about it; `action` is empty or begins with a comma.
    pub fn line(&self, action: &str) -> String {
        let (number, name) = (self.signal as i32, self.signal.as_str());
        match self.sender {
            0 => format!("signal {number} ({name}) received{action}"),
            sender => format!("signal {number} ({name}) received from {sender}{action}"),
        }
    }
}

fn set() -> SigSet {
    TAKEN.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_nginx_s() {
        let term = Received { signal: Signal::SIGTERM, sender: 4711 };
        assert_eq!(term.line(", exiting"), "signal 15 (SIGTERM) received from 4711, exiting");
        let child = Received { signal: Signal::SIGCHLD, sender: 0 };
        assert_eq!(child.line(""), "signal 17 (SIGCHLD) received");
    }

    #[test]
    fn a_blocked_signal_waits_and_tells_its_sender() {
        block().expect("the mask of this thread is ours");
        let signals = Signals::open().expect("descriptors are left");
        assert_eq!(signals.take(), Ok(None));
        nix::sys::signal::raise(Signal::SIGUSR2).expect("a thread may signal itself");
        assert_eq!(signals.take(), Ok(Some(Received { signal: Signal::SIGUSR2, sender: std::process::id() })));
    }
}
