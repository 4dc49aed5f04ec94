//! HTTP: the life of one request.
//!
//! ```text
//! accepted ─► connection ─► h1, h2 ─► request ─► phase ─► plan's gates, handler ─► response ─► filters ─► h1, h2 ─► log
//! ```
//!
//! `build` makes an [`plan::Http`] of the configuration; modules reach requests through plans only.

pub mod activity; // what all connections are doing
pub mod body; // a body as it flows: pieces and their sources
pub mod build; // from configuration levels to servers and locations
pub mod connection; // a client's connection
pub mod core; // the core module: what every location is told
pub mod fields; // the fields of a head, in their order
pub mod h1; // HTTP/1 from a client
pub mod h2; // HTTP/2 from a client
pub mod location; // which location a path belongs to
pub mod names; // which server a host means
pub mod open_file; // opening files, and the cache of open ones
pub mod pace; // how fast an answer goes out
pub mod phase; // the walk of one request
pub mod plan; // what a location does, finished
pub mod proxy_protocol; // what a proxy in front says of its client
pub mod request; // one request
pub mod respond; // from a refusal to a page
pub mod response; // heads, fields, refusals
pub mod root; // where files are
pub mod server; // what a server block says of itself
pub mod settings; // what the core module tells every location, finished
pub mod stream; // the seam between a request and its protocol
pub mod subrequest; // a part of an answer, asked for by another request
pub mod tls; // TLS of a client's connection
pub mod types; // lists of media types, as filters take them
pub mod upload; // the body of a request
pub mod vars; // the core module's variables

pub use crate::net::timer; // a timeout that is cheap to push back

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::cache::hot;
use crate::log;
use crate::net::accept::{Accepted, Serve};
use crate::net::io::Io;

/// Serves the connections of an `http` block.
impl Serve for plan::Http {
    fn begin(&self) {
        if !self.caches.is_empty() {
            hot::set_size(self.cache_memory);
        }
        for zone in &self.caches {
            zone.begin();
        }
    }

    fn begin_here(&self) {
        for moving in &self.moving {
            moving.begin();
        }
    }

    fn connection(self: Arc<Self>, accepted: Accepted, listener: usize) -> Pin<Box<dyn Future<Output = ()>>> {
        let Accepted { socket, peer, slot } = accepted;
        let connection = Rc::new(connection::Connection::new(self, listener, Io::new(socket), slot, peer));
        Box::pin(h1::serve(connection, false))
    }
}

impl connection::Connection {
    /// Writes to the error log of the address's default server: there is no request, or none yet. `doing` is nginx's
    /// phrase behind `while`.
    #[cold]
    pub fn log(&self, level: log::Level, doing: &'static str, message: std::fmt::Arguments<'_>) {
        let Some(error_log) = self.error_log().filter(|log| log.on(level)) else { return };
        let (client, server) = (self.client(), self.address().address.to_string());
        let server = crate::base::text::bytes(&server);
        let context = log::Context {
            conn: self.slot.number(),
            action: doing,
            client: Some(client),
            server: Some(&server),
            ..log::Context::default()
        };
        error_log.write(level, &context, message);
    }

    /// Writes an info line about the connection alone.
    #[cold]
    pub fn log_alone(&self, message: std::fmt::Arguments<'_>) {
        let Some(error_log) = self.error_log().filter(|log| log.on(log::Level::Info)) else { return };
        let context = log::Context { conn: self.slot.number(), ..log::Context::default() };
        error_log.write(log::Level::Info, &context, message);
    }

    fn error_log(&self) -> Option<log::ErrorLog> {
        let root = self.http.location(self.default_server().root);
        root.plan.core.error_log.clone().or_else(log::error::main)
    }
}

impl request::Request {
    /// Writes to the error log of the location where the request stands. Cold, as all that ends here: what leads to a line in
    /// that log stands aside of the code that every request runs through.
    #[cold]
    pub fn log(&self, level: log::Level, message: std::fmt::Arguments<'_>) {
        let Some(error_log) = self.error_log().filter(|log| log.on(level)) else { return };
        let client = self.client();
        let main = self.main();
        let upstream = self.upstream_url.borrow().text();
        let path = self.path();
        let context = log::Context {
            conn: self.connection.slot.number(),
            client: Some(client),
            server: Some(&self.server().name),
            request: Some(main.head.line()).filter(|line| !line.is_empty()),
            subrequest: Some(path.as_ref()).filter(|_| self.is_subrequest()),
            upstream: Some(upstream.as_slice()).filter(|url| !url.is_empty()),
            host: main.field("Host"),
            referrer: main.field("Referer"),
            ..log::Context::default()
        };
        error_log.write(level, &context, message);
    }

    /// The error log of the location where the request stands.
    pub fn error_log(&self) -> Option<log::ErrorLog> {
        self.plan().core.error_log.clone().or_else(log::error::main)
    }
}
