//! A configuration that is loaded, and a connection to it over which nothing goes: what a request stands on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Runtime;
use weir::conf::error::At;
use weir::conf::lex;
use weir::conf::template::Template;
use weir::conf::words::Context;
use weir::http::build;
use weir::http::connection::Connection;
use weir::http::request::{Begun, Request};
use weir::http::response::Head;
use weir::log::{ErrorLog, Sinks};
use weir::net::accept::Peer;
use weir::net::crowd::{Crowd, Slot};
use weir::net::io::Io;

use crate::head;

pub struct Site {
    connection: Rc<Connection>,
    pub sinks: Sinks,
    raw: Bytes,
    _listener: TcpListener,
    _runtime: Runtime,
}

impl Site {
    /// Loads `http` as the content of the `http` block; its requests have the head `raw`. The templates may use whatever
    /// variables there are.
    pub fn new<const N: usize>(http: &str, raw: &'static [u8], templates: [&str; N]) -> (Self, [Template; N]) {
        let sinks = Sinks::new();
        let cx = Context::new(Path::new("/nonexistent"), Path::new("/nonexistent")).with_sinks(&sinks);
        let at = At { file: "bench.conf".into(), line: 1, row: 1, column: 0, length: 0 };
        let nodes = lex::file(http.as_bytes(), &at.file, 0);
        // Before the load, which defines the names that were mentioned.
        let templates = templates.map(|text| Template::new(text, &cx.names).expect("a good template"));
        let http = build::load(&weir::modules::http(), &nodes, &at, &cx).map_err(|fault| fault.message);
        let http = Arc::new(http.expect("a good configuration"));
        sinks.open().expect("the logs open");

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        stream.set_nonblocking(true).expect("a socket");
        let io = {
            let _inside = runtime.enter();
            Io::new(tokio::net::TcpStream::from_std(stream).expect("a socket"))
        };
        Crowd::here().limit(100, 0);
        let slot = Slot::take(&ErrorLog::none()).expect("there is room");
        let peer = Peer::Inet(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 17), 12345)));
        let connection = Rc::new(Connection::new(http, 0, io, slot, peer));
        (Self { connection, sinks, raw: Bytes::from_static(raw), _listener: listener, _runtime: runtime }, templates)
    }

    /// A request that has an answer.
    pub fn request(&self) -> Rc<Request> {
        let (head, uri) = head::parse(&self.raw);
        let begun = Begun { path: uri.path.into_bytes(), args: uri.args, ..Begun::default() };
        let request = Request::new(self.connection.clone(), Rc::new(head), begun);
        request.keepalive.set(true);
        request.sent(Box::new(answer()));
        request
    }
}

/// The head of an answer as a file has it.
pub fn answer() -> Head {
    let mut head = Head::new(200);
    head.content_type = Some(Bytes::from_static(b"text/html"));
    head.content_length = Some(1024);
    head.last_modified = Some(1_700_000_000);
    head.add("ETag", "\"6553f100-400\"");
    head.allow_ranges = true;
    head
}
