//! Processes: the command line, the master that keeps, the worker that serves.

pub mod channel;
pub mod cli;
pub mod core;
pub mod features;
pub mod generation;
pub mod os;
pub mod pidfile;
pub mod signal;
