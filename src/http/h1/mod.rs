//! HTTP/1 from a client: one task per connection reads a head, has it answered, writes the answer, and begins again.

pub mod encode;
mod head;
pub mod send;

use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::BytesMut;

pub use self::encode::location;
pub(super) use self::encode::{Own, shows_type};
use self::head::Head;
use super::activity::State;
use super::body::{Body, Source};
use super::connection::Connection;
use super::fields::FieldRef;
use super::h2;
use super::phase::{self, Hangup};
use super::proxy_protocol;
use super::request::Request;
use super::response::Response;
use super::settings::{Lingering, Settings};
use super::tls;
use super::upload::Upload;
use crate::base::{buffers, place};
use crate::log::{Level, Raw};
use crate::net::crowd::{Call, LAST_CHANCE, Spare};
use crate::net::rest::Pause;
use crate::net::timer::Timer;
use crate::net::tls::Session;
use crate::wire::http1::request::{HTTP2_PREFACE, Preface};

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next request.
    Next,
    /// Close.
    Close,
    /// Close, but let the client read its answer first.
    Linger,
}

/// Serves a connection to its end, or until it rests. `paced`: its client left it alone for a while before it came back, and
/// will most likely do so again.
pub async fn serve(mut connection: Rc<Connection>, mut paced: bool) {
    let mut timer = Timer::default();
    // A connection that has rested begins in the midst.
    if connection.requests.get() == 0 {
        if connection.address().proxy_protocol && !Box::pin(proxy_protocol::read(&connection, &mut timer)).await {
            return;
        }
        if connection.address().ssl && !Box::pin(tls::accept(&connection, &mut timer)).await {
            return;
        }
        if h2::is_agreed(&connection) {
            return h2::serve(connection).await;
        }
    }
    let mut rest_at_once = false;
    let spare = Spare::default();
    loop {
        let together = !connection.input.borrow().is_empty();
        if !together {
            match wait(&connection, &mut timer, rest_at_once, &spare).await {
                Waited::Begun => {}
                Waited::Gone => return,
                Waited::Long(pause) => match connection.rest(pause) {
                    Ok(()) => return,
                    Err(still) => {
                        (connection, rest_at_once) = (still, false);
                        continue;
                    }
                },
            }
        }
        if connection.requests.get() == 0 && h2::is_spoken(&connection) {
            match preface(&connection, &mut timer).await {
                Preface::Http2 => return h2::serve(connection).await,
                Preface::Other => {}
                Preface::Undecided => return,
            }
        }
        connection.pipelined.set(together && connection.requests.get() > 0);
        // On the heap, so that a connection that waits does not hold the room that a request needs.
        if !place::pinned(|| serve_one(&connection, &mut timer)).await {
            return;
        }
        rest_at_once = std::mem::take(&mut paced);
    }
}

/// Reads until the first bytes tell which protocol the client speaks; `Undecided` where they never do.
async fn preface(connection: &Connection, timer: &mut Timer) -> Preface {
    let timeout = connection.default_server().settings.client_header_timeout;
    let decided = std::future::poll_fn(|cx| {
        loop {
            let input = &mut *connection.input.borrow_mut();
            match Preface::of(input) {
                Preface::Undecided => {}
                decided => return Poll::Ready(decided),
            }
            input.reserve(HTTP2_PREFACE.len());
            match connection.io.poll_read(cx, input) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    log_closed(connection, false);
                    return Poll::Ready(Preface::Undecided);
                }
                Poll::Pending => {
                    ready!(timer.poll(cx, timeout));
                    connection.log(Level::Info, WAITING, format_args!("client timed out (110: Connection timed out)"));
                    return Poll::Ready(Preface::Undecided);
                }
            }
        }
    })
    .await;
    timer.disarm();
    decided
}

/// Reads one request, answers it, and says whether another may follow.
async fn serve_one(connection: &Rc<Connection>, timer: &mut Timer) -> bool {
    connection.requests.set(connection.requests.get() + 1);
    connection.activity.set(State::Reading);
    connection.begun.set(connection.now());
    let (request, refused) = match head::read(connection, timer).await {
        Head::Request(request) => {
            let refused = tls::check(&request);
            (request, refused)
        }
        Head::Refused(request, status) => (request, Some(status)),
        Head::Gone(None) => return false,
        Head::Gone(Some((request, status))) => {
            request.status.set(status);
            request.write_logs();
            return false;
        }
    };
    timer.disarm();
    connection.activity.set(State::Writing);
    let after = answer(&request, refused).await;
    match after {
        After::Next => request.keepalive.set(false), // nginx: `$sent_http_connection` is `close` in every log
        After::Close => {}
        // nginx: the request is not over before
        After::Linger => Box::pin(linger(connection, &request.plan().core, usize::MAX)).await,
    }
    request.write_logs();
    after == After::Next
}

/// nginx's name for that.
const WAITING: &str = "waiting for request";

/// What the wait for a request brought.
enum Waited {
    /// Its first bytes.
    Begun,
    /// The connection ends.
    Gone,
    /// Nothing, and it is time to rest. The wait is not over before this.
    Long(Pause),
}

/// Waits for the first byte of a request: at first for `client_header_timeout`, between requests for
/// `keepalive_timeout`. `rest_at_once`: if it can rest, it need not wait for a while first.
async fn wait(connection: &Rc<Connection>, timer: &mut Timer, rest_at_once: bool, spare: &Spare) -> Waited {
    connection.activity.set(State::Waiting);
    let size = connection.default_server().settings.client_header_buffer_size;
    if connection.requests.get() > 0 {
        buffers::give_back(connection.input.take(), size);
    }
    let timeout = match connection.requests.get() {
        0 => connection.default_server().settings.client_header_timeout,
        _ => connection.idle_timeout.get(),
    };
    let idle = connection.requests.get() > 0;
    let slot = &connection.slot;
    let since = connection.now();
    if rest_at_once && connection.can_rest() && slot.is_crowded() {
        return Waited::Long(Pause { since, until: since + timeout });
    }
    let mut last_chance = Timer::default();
    let call = match idle {
        true if connection.can_rest() => slot.idle(),
        true => slot.unwanted(),
        false => slot.displaced(),
    };
    let mut call = std::pin::pin!(call.with(spare));
    let waited = std::future::poll_fn(|cx| {
        // The buffer is there only while there is something to read: an idle connection has none.
        if connection.io.poll_readable(cx).is_ready() {
            let mut buffer = buffers::borrow(size);
            if let Poll::Ready(read) = connection.io.poll_read(cx, &mut buffer) {
                connection.input.replace(buffer);
                if let Ok(0) = read {
                    log_closed(connection, idle);
                }
                return Poll::Ready(if matches!(read, Ok(1..)) { Waited::Begun } else { Waited::Gone });
            }
            buffers::give_back(buffer, size);
        }
        match call.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Call::Rest) => {
                let until = timer.deadline().unwrap_or(since + timeout);
                return Poll::Ready(Waited::Long(Pause { since, until }));
            }
            Poll::Ready(Call::Leave) => {
                // A request that came at this very moment is answered; that it is here will be told to the loop next.
                if idle && slot.draining() && connection.io.has_arrived() {
                    return Poll::Pending;
                }
                // One that is on its way is, too: its client does not know yet that the connection is to end.
                if idle && slot.lingers() {
                    ready!(last_chance.poll(cx, LAST_CHANCE.min(timeout)));
                }
                return Poll::Ready(Waited::Gone);
            }
        }
        ready!(timer.poll(cx, timeout));
        if !idle {
            connection.log(Level::Info, WAITING, format_args!("client timed out (110: Connection timed out)"));
        }
        Poll::Ready(Waited::Gone)
    })
    .await;
    if !matches!(waited, Waited::Long(_)) {
        timer.disarm();
    }
    waited
}

/// The client closed instead of asking.
fn log_closed(connection: &Connection, idle: bool) {
    match idle {
        true => connection.log_alone(format_args!("client {} closed keepalive connection", Raw(connection.client()))),
        false => connection.log(Level::Info, WAITING, format_args!("client closed connection")),
    }
}

/// Answers one request and writes the answer.
async fn answer(request: &Rc<Request>, refused: Option<u16>) -> After {
    let connection = &request.connection;
    let Ok(response) = respond(request, refused).await else {
        let _ = send::flush(request).await;
        request.status.set(match request.status.get() {
            0 => 444,
            status => status,
        });
        if matches!(request.status.get(), 408 | 499) {
            Box::pin(phase::post_action(request)).await;
        }
        return After::Close;
    };
    let sent = write(request, response).await;
    request.complete.set(sent.is_ok());
    if request.plan().core.post_action.is_some() {
        let _ = send::flush(request).await;
        Box::pin(phase::post_action(request)).await;
    }
    let after = settle(request, sent.is_ok()).await;
    connection.idle_timeout.set(request.plan().core.keepalive_timeout.server);
    after
}

/// The answer to one request, however long it takes; the answers to earlier requests do not wait for it.
async fn respond(request: &Rc<Request>, refused: Option<u16>) -> Result<Response, Hangup> {
    let output = &request.connection.output;
    let mut answer = std::pin::pin!(async {
        match refused {
            None => phase::answer(request).await,
            Some(status) => Box::pin(phase::refuse(request, status)).await,
        }
    });
    let at_once = std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending if output.borrow().is_empty() => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(response) => response,
        None => {
            let _ = send::flush(request).await;
            answer.await
        }
    }
}

/// Whether the connection may go on after this request.
fn decide_keepalive(request: &Request) {
    let connection = &request.connection;
    let core = &request.plan().core;
    if !request.keepalive.get() {
        return;
    }
    let age = connection.now().saturating_duration_since(connection.started);
    let spent = connection.requests.get() >= core.keepalive_requests
        || age > core.keepalive_time
        || core.keepalive_timeout.server.is_zero()
        || connection.slot.draining();
    if spent || disabled(request) {
        request.keepalive.set(false);
    }
}

/// `keepalive_disable`: browsers that do not bear it.
fn disabled(request: &Request) -> bool {
    let disable = request.plan().core.keepalive_disable;
    let msie6 = disable.msie6 && request.is_method("POST");
    if !msie6 && !disable.safari {
        return false;
    }
    let Some(agent) = request.field("User-Agent") else { return false };
    let find = |word: &str| memchr::memmem::find(agent, word.as_bytes());
    // nginx: MSIE before 7 misreads an answer to a POST on such a connection.
    let old_msie = || {
        let place = find("MSIE ").filter(|_| find("Opera").is_none())?;
        agent.get(place + 5).filter(|version| matches!(version, b'4' | b'5' | b'6'))
    };
    let safari = || find("Mac OS X").is_some() && find("Safari/").is_some() && find("Chrome").is_none();
    (msie6 && old_msie().is_some()) || (disable.safari && safari())
}

async fn write(request: &Rc<Request>, response: Response) -> Result<(), send::Unsent> {
    let Response { head, mut body } = response;
    Upload::skip(request);
    // Limits may have been set for the location that answered.
    decide_keepalive(request);
    let framing = encode::framing(request, &head, body.promises_trailers());
    request.sent(head);
    request.chunked.set(framing == encode::Framing::Chunked);
    if framing == encode::Framing::None && !matches!(body, Body::Tunnel(_)) {
        body = Body::Empty;
    }
    let next = match request.keepalive.get() {
        true if request.body.is_done() && !request.connection.input.borrow().is_empty() => send::Next::Response,
        // A client that still speaks would cost it the answer: what is unread at the close makes a reset of it.
        false if request.last_word.get() && request.plan().core.post_action.is_none() => send::Next::End,
        true | false => send::Next::Unknown,
    };
    if let Body::Tunnel(mut tunnel) = body {
        request.keepalive.set(false);
        send::send(request, Body::Empty, encode::Framing::None, send::Next::Unknown).await?;
        std::future::poll_fn(|cx| tunnel.poll(cx)).await;
        return Ok(());
    }
    send::send(request, body, framing, next).await
}

/// Writes a 103.
pub(super) fn early_hints(request: &Request, fields: &[FieldRef<'_>]) {
    let mut out = BytesMut::from(&b"HTTP/1.1 103 Early Hints\r\n"[..]);
    for field in fields {
        for part in [field.name, b": ", field.value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    send::send_now(request, out.freeze());
}

/// What is left of the request body, and so of the connection.
async fn settle(request: &Request, sent: bool) -> After {
    let core = &request.plan().core;
    if !sent {
        return After::Close;
    }
    if !request.body.is_done() && request.keepalive.get() {
        let drained = tokio::time::timeout(core.lingering_time, Upload::drain(request)).await;
        if drained != Ok(true) {
            return After::Close;
        }
    }
    if request.keepalive.get() {
        return After::Next;
    }
    let connection = &request.connection;
    // Who asked early has the end of the handshake still to send.
    let handshaking = || connection.io.session(Session::is_handshaking) == Some(true);
    let pending = || !request.body.is_done() || !connection.input.borrow().is_empty() || handshaking();
    match core.lingering_close {
        Lingering::Off => After::Close,
        Lingering::Always => After::Linger,
        Lingering::On if request.body.may_linger() && pending() => After::Linger,
        Lingering::On => After::Close,
    }
}

/// Reads and drops until the client has closed too, so that no reset overtakes the answer; no more than `most` bytes.
pub(super) async fn linger(connection: &Connection, core: &Settings, mut most: usize) {
    connection.io.shutdown_write();
    let until = tokio::time::Instant::now() + core.lingering_time;
    let mut waste = BytesMut::with_capacity(4096);
    loop {
        waste.clear();
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return;
        }
        let read = std::future::poll_fn(|cx| connection.io.poll_read(cx, &mut waste));
        match tokio::time::timeout(left.min(core.lingering_timeout), read).await {
            Ok(Ok(read @ 1..)) if read <= most => most -= read,
            Ok(Ok(_) | Err(_)) | Err(_) => return,
        }
    }
}
