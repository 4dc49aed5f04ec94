//! The network: sockets that listen, connections that were accepted, names that resolve.

pub mod accept;
pub mod connect;
pub mod crowd;
pub mod defer;
pub mod io;
pub mod listen;
pub mod pipe;
pub mod resolver;
pub mod rest;
pub mod socket;
pub mod timer;
pub mod tls;
pub mod unpaced;
pub mod watch;
