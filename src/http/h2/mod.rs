//! HTTP/2 from a client: one task per connection, in which its streams are polled side by side.
//!
//! ```text
//! bytes ─► session: frames, windows ─► head: a request ─► send: phase's answer, in frames ─► output ─► one write
//! ```
//!
//! In: a connection that has said the preface, or agreed by ALPN. Out: its end. The rule: whatever came in one read is
//! looked at before anything is written, so that the answers of many streams leave together; and when the client takes
//! nothing, nothing more is read from it.

mod conf; // what a configuration says
mod encode; // the head of a response
mod head; // the head of a request
mod load; // what a client has cost beside its requests
mod output; // what waits to be written
mod send; // answering one stream
mod session; // who may send what, and what each frame does
mod state; // streams, windows, and where in the input it is
mod stream; // one stream

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::Stream as _;
use futures_util::stream::FuturesUnordered;

pub use self::conf::{Http2, Settings};
use self::head::Refused;
use self::session::{Born, End, FULL, PROCESSING, Session};
use super::activity::State;
use super::connection::Connection;
use super::h1;
use super::request::Request;
use super::settings::Lingering;
use super::tls;
use crate::base::text::errno;
use crate::log::Level;
use crate::net::crowd::Unwanted;
use crate::net::timer::Timer;
use crate::wire::http1::method::Version;
use crate::wire::http2::Code;

/// Whether HTTP/2 is among what the server that the client asks for offers.
pub fn is_offered(connection: &Connection) -> bool {
    connection.address().http2 || connection.http.server(connection.server.get()).http2.on
}

/// Whether a client may just begin with HTTP/2 on this connection.
pub fn is_spoken(connection: &Connection) -> bool {
    !connection.address().ssl && is_offered(connection)
}

/// Whether the client has agreed to HTTP/2 in its handshake.
pub fn is_agreed(connection: &Connection) -> bool {
    connection.io.session(|session| session.conn().alpn_protocol() == Some(b"h2")) == Some(true)
}

/// `$http2`
fn name_for(request: &Request) -> &'static [u8] {
    match (request.head.version == Version::HTTP_20, request.connection.io.is_secure()) {
        (true, true) => b"h2",
        (true, false) => b"h2c",
        (false, _) => b"",
    }
}

/// Serves a connection to its end, from the client's preface on.
pub async fn serve(connection: Rc<Connection>) {
    let core = &connection.http.location(connection.default_server().root).plan.core;
    let session = Rc::new(Session::new(connection.clone()));
    let drained = Box::pin(connection.slot.drained());
    let closed = Box::pin(connection.slot.closed());
    let mut task = Task {
        connection: &connection,
        session,
        first: true,
        running: FuturesUnordered::new(),
        drained: Some(drained),
        closed,
        idle: None,
        wakes: 0,
        end: None,
        reading: Timer::default(),
        writing: Timer::default(),
    };
    let ended = std::future::poll_fn(|cx| task.poll(cx)).await;
    drop(task);
    let most = match ended {
        Ended::Politely => usize::MAX,
        Ended::Strictly => PATIENCE,
        Ended::Gone => return,
    };
    if core.lingering_close != Lingering::Off {
        h1::linger(&connection, core, most).await;
    }
}

/// Who breaks the rules may go on for so many bytes, to see why it is over.
const PATIENCE: usize = 256 * 1024;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// We have said goodbye, and let the client read it.
    Politely,
    /// The client has broken the rules.
    Strictly,
    /// Nobody is there.
    Gone,
}

struct Task<'a, D, C> {
    connection: &'a Rc<Connection>,
    session: Rc<Session>,
    /// Nothing was read yet.
    first: bool,
    /// The answers that are being made.
    running: FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>,
    /// Ends when the generation drains.
    drained: Option<Pin<Box<D>>>,
    /// Ends when there is no time left.
    closed: Pin<Box<C>>,
    /// While nothing is asked.
    idle: Option<Unwanted<'a>>,
    /// How often something came though nothing was asked.
    wakes: u64,
    /// Nothing is read any more.
    end: Option<Ended>,
    reading: Timer,
    writing: Timer,
}

thread_local! {
    /// What a read goes into: one buffer for all connections of the thread, for nothing stays in it.
    static INPUT: Cell<BytesMut> = Cell::default();
}

impl<D: Future<Output = ()>, C: Future<Output = ()>> Task<'_, D, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let read = self.read(cx);
            let ran = self.run(cx);
            let wrote = self.write(cx);
            if read || ran || wrote {
                continue;
            }
            if self.closed.as_mut().poll(cx).is_ready() {
                self.lose();
                self.run(cx);
                return Poll::Ready(Ended::Gone);
            }
            if let Some(ended) = self.over() {
                return Poll::Ready(ended);
            }
            if !self.wait(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Reads once and looks at what came. `true`: something has changed.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.is_some() || self.session.state.borrow().output.len() >= FULL {
            return false;
        }
        let input = &self.connection.input;
        let mut buffer = INPUT.take();
        buffer.clear();
        // A read that fails leaves what there was.
        let rest = input.borrow().len();
        buffer.reserve(rest + self.connection.http.http2_recv_buffer_size);
        buffer.extend_from_slice(&input.borrow());
        let limit = self.connection.http.http2_recv_buffer_size;
        let read = match std::mem::take(&mut self.first) && rest > 0 {
            true => Poll::Ready(Ok(rest)), // what came behind the preface
            false => self.connection.io.poll_read_at_most(cx, &mut buffer, limit),
        };
        let changed = match read {
            Poll::Pending => false,
            Poll::Ready(Ok(1..)) => {
                self.took(&buffer);
                true
            }
            Poll::Ready(Ok(0)) => {
                if !self.running.is_empty() || self.session.is_amid() {
                    let message = format_args!("client prematurely closed connection");
                    self.connection.log(Level::Info, PROCESSING, message);
                }
                self.lose();
                true
            }
            Poll::Ready(Err(error)) => {
                self.connection.log(Level::Info, PROCESSING, format_args!("recv() failed {}", errno(&error)));
                self.lose();
                true
            }
        };
        INPUT.set(buffer);
        changed
    }

    /// Looks at what came; keeps what is not whole.
    fn took(&mut self, buffer: &[u8]) {
        if self.idle.take().is_some() {
            self.wakes += 1;
            let core = &self.connection.http.location(self.connection.default_server().root).plan.core;
            if self.wakes > core.keepalive_requests.saturating_mul(10) {
                return self.fail(End { code: Code::None, why: "http2 flood detected".to_owned() });
            }
        }
        match self.session.feed(buffer) {
            Ok(used) => {
                let rest = buffer.get(used..).unwrap_or_default();
                self.connection.input.replace(BytesMut::from(rest));
            }
            Err(end) => self.fail(end),
        }
    }

    /// The client has broken the rules.
    fn fail(&mut self, end: End) {
        self.connection.log(Level::Info, PROCESSING, format_args!("{}", end.why));
        self.session.state.borrow_mut().goodbye(end.code);
        self.abandon();
        self.end = Some(Ended::Strictly);
    }

    /// The client is gone.
    fn lose(&mut self) {
        self.session.state.borrow_mut().output.clear();
        self.abandon();
        self.end = Some(Ended::Gone);
    }

    fn abandon(&mut self) {
        self.connection.input.take();
        let streams = self.session.state.borrow().streams().to_vec();
        for stream in streams {
            stream.abandon();
        }
    }

    /// Begins new answers and goes on with those that can.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        let born = std::mem::take(&mut self.session.state.borrow_mut().born);
        for Born { request, stream, refused } in born {
            self.connection.activity.set(State::Reading);
            self.connection.activity.set(State::Writing);
            let refused = refused.or_else(|| tls::check(&request).map(|status| Refused { status, malformed: false }));
            self.running.push(Box::pin(send::answer(self.session.clone(), request, stream, refused)));
        }
        let mut ran = false;
        while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(cx) {
            ran = true;
        }
        ran
    }

    /// Writes what waits. `true`: there is room again for those who waited for it.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let state = &mut *self.session.state.borrow_mut();
            if state.output.is_empty() {
                return state.make_room();
            }
            let error = match state.output.poll_write(cx, &self.connection.io) {
                Poll::Ready(Ok(_)) => {
                    self.writing.disarm();
                    if state.make_room() {
                        return true;
                    }
                    continue;
                }
                Poll::Ready(Err(error)) => format!("writev() failed {}", errno(&error)),
                Poll::Pending => {
                    let core = &self.connection.http.location(self.connection.default_server().root).plan.core;
                    if self.writing.poll(cx, core.send_timeout).is_pending() {
                        return false;
                    }
                    "client timed out (110: Connection timed out)".to_owned()
                }
            };
            self.connection.log(Level::Info, PROCESSING, format_args!("{error}"));
            break;
        }
        self.lose();
        true
    }

    /// Whether everything is done.
    fn over(&self) -> Option<Ended> {
        if !self.running.is_empty() {
            return None;
        }
        let state = self.session.state.borrow();
        if !state.output.is_empty() {
            return None;
        }
        self.end.or(state.leaving.then_some(Ended::Politely))
    }

    /// Nothing is to be done at the moment. `true`: now there is.
    fn wait(&mut self, cx: &mut Context<'_>) -> bool {
        let connection = self.connection;
        if self.end.is_some() {
            return false;
        }
        if let Some(drained) = &mut self.drained
            && drained.as_mut().poll(cx).is_ready()
        {
            self.drained = None;
            self.session.state.borrow_mut().goodbye(Code::None);
            return true;
        }
        let settings = &connection.default_server().settings;
        let heading = self.session.is_heading();
        if !self.running.is_empty() && !heading {
            self.reading.disarm();
            return false;
        }
        let amid = self.session.is_amid();
        let timeout = match connection.requests.get() {
            _ if heading => settings.client_header_timeout,
            0 => settings.client_header_timeout,
            _ => connection.http.location(connection.default_server().root).plan.core.keepalive_timeout.server,
        };
        if self.running.is_empty() {
            connection.activity.set(State::Waiting);
            self.session.state.borrow_mut().output.rest();
            if !amid {
                let idle = self.idle.get_or_insert_with(|| connection.slot.unwanted());
                if Pin::new(idle).poll(cx).is_ready() {
                    self.session.state.borrow_mut().goodbye(Code::None);
                    return true;
                }
            }
        }
        if self.reading.poll(cx, timeout).is_pending() {
            return false;
        }
        self.reading.disarm();
        if heading {
            self.session.give_up_heading();
            return true;
        }
        match amid {
            true => {
                let why = "client timed out (110: Connection timed out)".to_owned();
                self.fail(End { code: Code::Protocol, why });
            }
            false => self.session.state.borrow_mut().goodbye(Code::None),
        }
        true
    }
}

impl<D, C> Drop for Task<'_, D, C> {
    fn drop(&mut self) {
        // Streams know their connection and are known to it.
        self.session.state.borrow_mut().let_go();
    }
}
