//! weir: a caching reverse proxy and static web server that reads nginx.conf unchanged.
//!
//! The map. Floors from the ground up; a file uses its own floor and those below.

pub mod base; // 0: text, units, clock, addresses, patterns
pub mod conf; // 1: the configuration language, settings, the module contract, variables, templates
pub mod log; // 1: files, syslog and stderr, error log lines, batches, the writer thread
