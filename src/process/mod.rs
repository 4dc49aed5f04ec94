//! Processes: the command line, the master that keeps, the worker that serves.

pub mod channel;
pub mod os;
pub mod signal;
