//! The logs: files, syslog and stderr, the lines that go there, and the thread that writes them.
//!
//! ```text
//! access line ─► batch (per thread and file) ─┐ once per loop turn      ┌─► file
//!                                             ├─► queue ─► one writer ──┼─► file
//! error line ──► line (nginx's shape) ────────┘            thread       └─► stderr
//!                  └──────────────────────────────────────────────────────► syslog datagram
//! ```
//!
//! In: finished lines and the words of `error_log` and `syslog:`. Out: bytes in files, in the order in which one thread
//! wrote them. Rule: a line that was accepted is written unless the disk refuses it; a full queue makes the caller wait.
//! Before [`sink::Sinks::start_writers`], and so always in the master, every write is one system call on the spot.

pub mod batch;
pub mod error;
pub mod escape;
mod layer;
mod line;
pub mod sink;
pub mod syslog;
mod writer;

pub use error::{Context, ErrorLog, Level, Raw};
pub use sink::{Hold, Sink, Sinks};
