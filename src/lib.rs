//! weir: a caching reverse proxy and static web server that reads nginx.conf unchanged.
//!
//! The map. Floors from the ground up; a file uses its own floor and those below.

pub mod base; // 0: text, units, clock, addresses, patterns
pub mod conf;
pub mod net; // 2: sockets that listen, connections that were accepted
pub mod process;
pub mod wire; // 0: byte formats as pure functions: heads, fields, chunks, targets // 1: the configuration language, settings, the module contract, variables, templates // 6: the command line, master, worker, signals, reload
