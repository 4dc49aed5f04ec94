//! What the kernel knows of a TCP connection: `$tcpinfo_*`.
//!
//! No safe crate offers the option, so the process, which alone may ask in unsafe words, lends the question when it
//! starts.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

/// The facts that have a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Microseconds.
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_cwnd: u32,
    pub rcv_space: u32,
}

/// Asks for a socket; `None` when it is not a TCP one.
pub type Ask = fn(BorrowedFd<'_>) -> Option<TcpInfo>;

static ASK: OnceLock<Ask> = OnceLock::new();

/// Lends the question.
pub fn provide(ask: Ask) {
    let _ = ASK.set(ask);
}

/// What is known of this socket.
pub fn of(socket: &impl AsFd) -> Option<TcpInfo> {
    ASK.get()?(socket.as_fd())
}
