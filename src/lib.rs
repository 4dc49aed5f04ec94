//! weir: a caching reverse proxy and static web server that reads nginx.conf unchanged.
//!
//! The map. Floors from the ground up; a file uses its own floor and those below.

// 0: text, units, the clock, addresses, patterns, temporary files
pub mod base;
// 0: byte formats as pure functions: heads, fields, chunks, targets, records
pub mod wire;

// 1: the configuration language, settings, the module contract, variables, templates
pub mod conf;
// 1: files, syslog and stderr; error log lines; batches; the writer thread
pub mod log;

// 2: listening sockets, accepting threads, connections
pub mod net;
// 2: what requests leave behind for later ones, over reloads
pub mod state;

// 3: groups of peers, which one is next, connections that are kept
pub mod upstream;

// 3: is there a copy of an answer, may it be served, may one be kept
pub mod cache;

// 3: modules that requests and sessions share
pub mod both;

// 4: the life of one request
pub mod http;

// 5: what a location can be told to do
pub mod modules;

// 6: the command line, master and worker, signals, reload
pub mod process;
