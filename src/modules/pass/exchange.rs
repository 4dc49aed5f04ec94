//! One request's exchange with its upstream, for all protocols.
//!
//! ```text
//! choose a peer ─► connection, kept or new ─► send ─► read the head ─► the client's head, and the body's relay
//!        ▲                    │                 │            │
//!        └────────────────────┴─── next_upstream ───────────┘
//! ```
//!
//! In: a group, the request's bytes, a [`Codec`]. Out: a response, or a refusal. The upstream connection is driven in the
//! client's own task; what is sent and what is read wait side by side, so an answer that comes early is not missed.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::cache::keep::Copy;
use super::codec::{Codec, Flow, Looked};
use super::output::poll_write;
use super::relay::{Relay, Start};
use super::reply::{Reply, Role};
use super::settings::{Next, Settings, Store};
use super::sticky;
use super::tls::Wanted;
use super::tunnel::Tunnel;
use crate::base::text::errno;
use crate::base::{buffers, clock};
use crate::http::body::{Body, Piece};
use crate::http::fields::Fields;
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};
use crate::http::upload::{Stored, Upload};
use crate::log::Level;
use crate::net::connect::{self, connect};
use crate::net::crowd::Slot;
use crate::net::timer::Timer;
use crate::net::tls;
use crate::upstream::balance::peers::Outcome;
use crate::upstream::group::{Choice, Held};
use crate::upstream::pool::{self, Link};
use crate::upstream::{Attempt, UpstreamUrl};

/// A request as it is sent. Most are one piece.
pub type Pieces = SmallVec<[Piece; 2]>;

/// What is sent where.
pub struct Job<C> {
    pub request: Rc<Request>,
    pub settings: Arc<Settings>,
    pub choice: Choice,
    pub codec: C,
    /// The request: its head, and the body if it was read before.
    pub pieces: Pieces,
    /// The body follows as it comes.
    pub streamed: bool,
    /// What of such a body was there already.
    pub early: Vec<Bytes>,
    /// The target, for the error log.
    pub uri: Bytes,
    /// The answer may be kept: its head stays at hand as it came, and who asked need not stay to the end.
    pub keeping: Option<Keeping>,
}

/// What an exchange does for a cache.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// Bytes that a kept file has before the head; nginx has both in one buffer.
    pub room: usize,
}

/// What of a body that would be streamed is there already. `true`: all of it, and it is read as others are.
pub async fn preread(request: &Request, early: &mut Vec<Bytes>) -> Result<bool, Refusal> {
    let limit = request.plan().core.client_body_buffer_size;
    let mut total = 0;
    let whole = std::future::poll_fn(|cx| {
        while total < limit {
            match Upload::poll_bytes(request, cx) {
                Poll::Pending => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(Some(bytes))) => {
                    total += bytes.len();
                    early.push(bytes);
                }
                Poll::Ready(Err(refusal)) => return Poll::Ready(Err(refusal)),
            }
        }
        Poll::Ready(Ok(false))
    });
    if !whole.await? {
        return Ok(false);
    }
    let memory = match early.len() {
        1 => early.remove(0),
        _ => std::mem::take(early).concat().into(),
    };
    request.body.store(Stored { len: memory.len() as u64, memory, file: None });
    Ok(true)
}

/// An upstream has answered: its head is here.
///
/// What is large of it stands in boxes: it goes through several hands.
pub struct Asked<C> {
    exchange: Box<Exchange<C>>,
    pub reply: Box<Reply>,
    /// The head as it came, where it is to be kept.
    pub head: Bytes,
}

/// No upstream has answered.
#[derive(Debug)]
pub struct Failed {
    /// What the last one did wrong; `None` when it was not for an upstream's sake.
    pub why: Option<Next>,
    pub refusal: Refusal,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { why: None, refusal }
    }
}

/// An exchange that can begin. It stands in a box from here on, so that the future that waits for it is small.
pub struct Ready<C>(Box<Exchange<C>>);

/// Makes an exchange of what is to be sent; by TLS where it is `wanted`.
#[inline(always)] // the job is taken apart where it was made, and does not move first
pub fn ready<C: Codec>(job: Job<C>, wanted: Option<Wanted>) -> Ready<C> {
    let request = job.request.clone();
    let seen = request.attempts.borrow().len();
    let buffer_size = job.settings.buffer_size;
    // in its place: base/place.rs
    let mut exchange = Box::write(
        Box::new_uninit(),
        Exchange {
            minds_client: job.settings.minds_client() && job.keeping.is_none(),
            head_size: buffer_size.saturating_sub(job.keeping.map_or(0, |keeping| keeping.room)),
            raw: job.keeping.map(|_| BytesMut::new()),
            settings: job.settings,
            wanted,
            choice: job.choice,
            codec: job.codec,
            pieces: job.pieces,
            streamed: job.streamed,
            early: job.early,
            uri: job.uri,
            begun: clock::now(),
            at: At { request: job.request, held: None, link: None, since: clock::now(), n: 0 },
            output: VecDeque::new(),
            request_sent: false,
            body_sent: false,
            body_read: false,
            input: BytesMut::new(),
            hints: 0,
            after_redirect: seen > 0,
        },
    );
    let limit = exchange.settings.next_upstream_tries;
    if limit > 0 {
        exchange.choice.tries = exchange.choice.tries.min(limit);
    }
    Ready(exchange)
}

impl<C: Codec> Ready<C> {
    /// Runs until an upstream's head is here: tries one peer after the other.
    pub async fn ask(self) -> Result<Asked<C>, Failed> {
        let Self(mut exchange) = self;
        loop {
            match exchange.attempt().await {
                Ok(reply) => {
                    let head = exchange.kept_head();
                    return Ok(Asked { exchange, reply, head });
                }
                Err(Stop::Refuse(refusal)) => {
                    exchange.at.finish(None);
                    return Err(refusal.into());
                }
                Err(Stop::Next(why)) => exchange.next(why)?,
            }
        }
    }
}

impl<C: Codec> Asked<C> {
    /// The connection speaks another protocol from now on.
    pub fn is_upgraded(&self) -> bool {
        self.exchange.codec.is_upgraded()
    }

    /// Whether an `error_page` takes the place of this answer.
    pub fn is_intercepted(&self) -> bool {
        let (status, settings) = (self.reply.status, &self.exchange.settings);
        if status == 404 && settings.intercepts_not_found {
            return true;
        }
        settings.intercept_errors
            && status >= 300
            && self.exchange.at.request.plan().core.error_pages.iter().any(|page| page.status == status)
    }

    /// A body follows, or may.
    pub fn has_body(&self) -> bool {
        self.exchange.codec.expected() != 0
    }

    /// The body tells itself where it ends.
    pub fn ends_by_itself(&self) -> bool {
        !self.exchange.codec.ends_with_connection()
    }

    /// The answer is not wanted.
    pub fn leave(mut self) {
        self.exchange.leave();
    }

    /// What the client gets of it. `copy` gets the body, too, whether or not the client stays.
    pub fn answer(self, copy: Option<Copy>, role: Role) -> Result<Response, Refusal> {
        let intercepted = self.is_intercepted();
        self.exchange.answer(&self.reply, intercepted, copy, role)
    }
}

/// Why a try came to nothing.
#[derive(Debug)]
enum Stop {
    /// Another peer may do better.
    Next(Next),
    Refuse(Refusal),
}

struct Exchange<C> {
    settings: Arc<Settings>,
    /// TLS is spoken.
    wanted: Option<Wanted>,
    choice: Choice,
    codec: C,
    pieces: Pieces,
    streamed: bool,
    early: Vec<Bytes>,
    uri: Bytes,
    begun: Instant,
    at: At,
    output: VecDeque<Piece>,
    /// Something was sent, so the peer may have acted on it.
    request_sent: bool,
    /// Everything was sent.
    body_sent: bool,
    /// The client's body came to its end.
    body_read: bool,
    input: BytesMut,
    /// Bytes of early hints so far.
    hints: usize,
    after_redirect: bool,
    /// A client that goes away takes the upstream's connection with it.
    minds_client: bool,
    /// The most that a head may take.
    head_size: usize,
    /// The bytes of the head as they come, where it is to be kept.
    raw: Option<BytesMut>,
}

/// The try at hand: who is asked, on which connection, and its line in the request's list of attempts.
pub struct At {
    pub request: Rc<Request>,
    pub held: Option<Held>,
    pub link: Option<Box<Link>>,
    /// When this try began.
    since: Instant,
    /// Its place in the request's attempts.
    n: usize,
}

impl At {
    /// Notes something about this try.
    pub fn note(&self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.request.attempts.borrow_mut().get_mut(self.n) {
            change(attempt);
        }
    }

    pub fn elapsed(&self) -> std::time::Duration {
        clock::now().saturating_duration_since(self.since)
    }

    /// The try is over: its time is known, and the peer is let go.
    pub fn finish(&mut self, outcome: Option<Outcome>) -> bool {
        let elapsed = self.elapsed();
        self.note(|attempt| {
            attempt.response_time.get_or_insert(elapsed);
        });
        let Some(held) = self.held.take() else { return false };
        if let (None, Some(sticky)) = (outcome, &held.group().sticky) {
            sticky::learn(&self.request, sticky, held.peer(), false);
        }
        held.release(outcome.unwrap_or(Outcome::Good), elapsed)
    }

    /// The head of an answer that is taken is here.
    fn head_came(&mut self) {
        let Some(held) = &mut self.held else { return };
        let attempts = self.request.attempts.borrow();
        if let Some(elapsed) = attempts.get(self.n).and_then(|attempt| attempt.header_time) {
            held.answered(elapsed);
        }
        drop(attempts);
        if let Some(sticky) = &held.group().sticky {
            sticky::learn(&self.request, sticky, held.peer(), true);
        }
    }

    /// The connection may be used again.
    pub fn keep(&mut self, tag: usize) {
        if let (Some(held), Some(link)) = (&self.held, self.link.take()) {
            pool::put(held.group(), &held.peer().address, tag, link);
        }
    }

    #[cold]
    pub fn log(&self, level: Level, message: std::fmt::Arguments<'_>, action: &str) {
        self.request.log(level, format_args!("{message} while {action}"));
    }
}

impl Drop for At {
    fn drop(&mut self) {
        self.finish(None);
    }
}

/// What nginx is doing, in the words of its log.
pub mod action {
    pub const CONNECTING: &str = "connecting to upstream";
    pub const HANDSHAKING: &str = "SSL handshaking to upstream";
    pub const SENDING: &str = "sending request to upstream";
    pub const HEAD: &str = "reading response header from upstream";
    pub const BODY: &str = "reading upstream";
    pub const TUNNEL: &str = "proxying upgraded connection";
}

impl<C: Codec> Exchange<C> {
    /// One try at one peer.
    async fn attempt(&mut self) -> Result<Box<Reply>, Stop> {
        self.at.since = clock::now();
        let held = self.choice.next_peer();
        let peer = held.as_ref().map_or_else(|| &self.choice.group().name, |held| &held.peer().name).clone();
        {
            let mut attempts = self.at.request.attempts.borrow_mut();
            let after_redirect = std::mem::take(&mut self.after_redirect);
            attempts.push(Attempt { peer: peer.clone(), after_redirect, ..Attempt::default() });
            self.at.n = attempts.len() - 1;
        }
        let scheme = if self.wanted.is_some() { self.settings.secure_scheme } else { self.settings.scheme };
        self.at.request.upstream_url.replace(UpstreamUrl { scheme, peer, uri: self.uri.clone() });
        let Some(held) = held else {
            self.at.log(Level::Error, format_args!("no live upstreams"), action::CONNECTING);
            return Err(Stop::Next(Next::NO_LIVE));
        };
        if let Some(sticky) = &held.group().sticky {
            sticky::bind(&self.at.request, sticky, held.peer());
        }
        let kind = self.wanted.as_ref().map_or(0, |wanted| wanted.kind);
        let kept = pool::take(held.group(), &held.peer().address, self.tag(), kind);
        self.at.held = Some(held);
        let link = match kept {
            Some(link) => link,
            None => {
                // Rare, where connections are kept, and large.
                let mut link = Box::pin(self.connect()).await?;
                if self.wanted.is_some() {
                    Box::pin(self.secure(&mut link)).await?;
                }
                link
            }
        };
        self.at.link = Some(link);
        let elapsed = self.at.elapsed();
        self.at.note(|attempt| attempt.connect_time = Some(elapsed));
        self.codec.begin();
        self.output.extend(self.pieces.iter().filter(|piece| !piece.is_empty()).cloned());
        if !self.early.is_empty() {
            self.codec.wrap(self.early.clone(), None, &mut self.output);
        }
        self.request_sent = true;
        self.body_sent = false;
        self.input = BytesMut::new();
        if let Some(raw) = &mut self.raw {
            raw.clear();
        }
        let mut new = self.at.link.as_ref().is_some_and(|link| !link.cached);
        let head = std::future::poll_fn(|cx| {
            if std::mem::take(&mut new) {
                // Nobody has answered what was not asked; to look for it would only make the socket wait for the loop.
                if let Poll::Ready(Err(stop)) = self.poll_send(cx) {
                    return Poll::Ready(Err(stop));
                }
            }
            self.poll_head(cx)
        });
        head.await
    }

    /// The head as it came, where it is to be kept.
    fn kept_head(&mut self) -> Bytes {
        let Some(raw) = self.raw.take() else { return Bytes::new() };
        let end = raw.len().saturating_sub(self.input.len());
        self.codec.kept_head().unwrap_or_else(|| raw.freeze().slice(..end))
    }

    /// Whose connections these are, where they are not shared between locations.
    fn tag(&self) -> usize {
        Arc::as_ptr(&self.settings) as usize
    }

    async fn connect(&mut self) -> Result<Box<Link>, Stop> {
        let request = self.at.request.clone();
        let settings = self.settings.clone();
        let Some(held) = &self.at.held else { return Err(Stop::Next(Next::ERROR)) };
        let address = held.peer().address.clone();
        let bind = settings.bind.as_ref();
        let options = connect::Options {
            local: bind.and_then(|bind| bind.address(&request)),
            transparent: bind.is_some_and(|bind| bind.transparent),
            keepalive: settings.socket_keepalive,
            rcvbuf: settings.socket_rcvbuf,
            sndbuf: settings.socket_sndbuf,
        };
        let slot = request.error_log().map_or_else(|| None, |log| Slot::take(&log));
        let Some(slot) = slot else { return Err(Stop::Refuse(Refusal::Status(500))) };
        let mut connecting = match connect(&address, &options) {
            Ok(connecting) => connecting,
            Err(failed) => return Err(self.not_connected(&failed, &address.to_string())),
        };
        let mut timer = Timer::default();
        let minds = self.minds_client;
        let connected = std::future::poll_fn(|cx| {
            if let Poll::Ready(connected) = connecting.poll(cx) {
                return Poll::Ready(connected.map_err(|error| {
                    self.at.log(Level::Error, format_args!("connect() failed {}", errno(&error)), action::CONNECTING);
                    Stop::Next(Next::ERROR)
                }));
            }
            if minds && is_gone(&request, cx) {
                self.client_gone();
                return Poll::Ready(Err(Stop::Refuse(Refusal::Close)));
            }
            timer.poll(cx, settings.connect_timeout).map(|()| {
                self.timed_out(action::CONNECTING);
                Err(Stop::Next(Next::TIMEOUT))
            })
        });
        connected.await?;
        timer.disarm();
        let mut link = Box::new(Link::new(connecting.into_io(), slot));
        link.timer = timer;
        Ok(link)
    }

    /// Makes the TLS handshake.
    async fn secure(&self, link: &mut Link) -> Result<(), Stop> {
        let (Some(wanted), Some(held)) = (&self.wanted, &self.at.held) else { return Ok(()) };
        let failed = |message: std::fmt::Arguments<'_>| {
            self.at.log(Level::Error, message, action::HANDSHAKING);
            Stop::Next(Next::ERROR)
        };
        match wanted.session(&held.peer().address) {
            Ok(session) => link.io.secure(session),
            Err(why) => {
                self.at.log(Level::Error, format_args!("{why}"), action::HANDSHAKING);
                return Err(Stop::Refuse(Refusal::Status(500)));
            }
        }
        link.kind = wanted.kind;
        let Link { io, timer, .. } = link;
        let minds = self.minds_client;
        let done = std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = io.poll_handshake(cx) {
                return Poll::Ready(Ok(done));
            }
            if minds && is_gone(&self.at.request, cx) {
                return Poll::Ready(Err(None));
            }
            timer.poll(cx, self.settings.connect_timeout).map(|()| Err(Some(Next::TIMEOUT)))
        });
        let done = match done.await {
            Ok(done) => done,
            Err(Some(why)) => {
                io.abandon_session();
                self.timed_out(action::HANDSHAKING);
                return Err(Stop::Next(why));
            }
            Err(None) => {
                self.client_gone();
                return Err(Stop::Refuse(Refusal::Close));
            }
        };
        timer.disarm();
        if let Err(error) = done {
            return Err(match tls::error::of(&error) {
                Some(why) => failed(format_args!("SSL_do_handshake() failed {}", tls::error::cause(why).text)),
                None if error.kind() == io::ErrorKind::UnexpectedEof => {
                    failed(format_args!("peer closed connection in SSL handshake"))
                }
                None => failed(format_args!("peer closed connection in SSL handshake {}", errno(&error))),
            });
        }
        match io.session(|session| wanted.judge(session)) {
            Some(Err(why)) => Err(failed(format_args!("{why}"))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// The connection failed before it was begun.
    #[cold]
    fn not_connected(&self, failed: &connect::Failed, peer: &str) -> Stop {
        let connect::Failed { call, error } = failed;
        if *call != "connect" {
            self.at.log(Level::Alert, format_args!("{call}() failed {}", errno(error)), action::CONNECTING);
            return Stop::Refuse(Refusal::Status(500));
        }
        let level = match error.raw_os_error() {
            Some(
                libc::ECONNREFUSED
                | libc::EAGAIN
                | libc::ECONNRESET
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH,
            ) => Level::Error,
            _ => Level::Crit,
        };
        self.at.log(level, format_args!("connect() to {peer} failed {}", errno(error)), action::CONNECTING);
        Stop::Next(Next::ERROR)
    }

    #[cold]
    fn timed_out(&self, action: &str) {
        self.at.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"), action);
    }

    /// nginx: 499 in the log.
    #[cold]
    fn client_gone(&self) {
        let action = self.doing();
        let message = format_args!("client prematurely closed connection, so upstream connection is closed too");
        self.at.log(Level::Info, message, action);
        self.at.request.status.set(499);
    }

    fn doing(&self) -> &'static str {
        match (&self.at.link, self.body_sent) {
            (None, _) => action::CONNECTING,
            (Some(_), true) => action::HEAD,
            (Some(_), false) => action::SENDING,
        }
    }

    /// Sends and reads until the head is there.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<Reply>, Stop>> {
        // An answer may come before everything is sent, and then the rest is not wanted.
        if let Poll::Ready(result) = self.poll_reply(cx) {
            return Poll::Ready(result);
        }
        let waits = match self.poll_send(cx) {
            Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
            Poll::Ready(Ok(())) => {
                self.body_sent = true;
                Some(self.settings.read_timeout)
            }
            Poll::Pending if !self.output.is_empty() => Some(self.settings.send_timeout),
            // The client's body is being waited for; it has its own timeout.
            Poll::Pending => None,
        };
        let reading_body = self.streamed && !self.body_sent;
        if !reading_body && self.minds_client && is_gone(&self.at.request, cx) {
            self.client_gone();
            return Poll::Ready(Err(Stop::Refuse(Refusal::Close)));
        }
        let Some(timeout) = waits else { return Poll::Pending };
        let Some(link) = &mut self.at.link else { return Poll::Pending };
        ready!(link.timer.poll(cx, timeout));
        link.timer.disarm();
        self.timed_out(self.doing());
        Poll::Ready(Err(Stop::Next(Next::TIMEOUT)))
    }

    /// Sends the request. Ready when all of it is with the kernel.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            while !self.output.is_empty() {
                let Some(link) = &mut self.at.link else { return Poll::Pending };
                link.will_write(self.at.request.plan().core.tcp_nodelay);
                let wrote = match ready!(poll_write(&link.io, &mut self.output, cx)) {
                    Ok(wrote) => wrote,
                    Err((call, error)) => {
                        self.at.log(Level::Error, format_args!("{call}() failed {}", errno(&error)), action::SENDING);
                        return Poll::Ready(Err(Stop::Next(Next::ERROR)));
                    }
                };
                link.timer.disarm();
                self.at.note(|attempt| attempt.bytes_sent += wrote);
            }
            if !self.streamed || self.body_sent || self.body_read {
                return Poll::Ready(Ok(()));
            }
            let mut parts = Vec::new();
            let mut size = 0;
            while size < GATHER && !self.body_read {
                match Upload::poll_bytes(&self.at.request, cx) {
                    Poll::Ready(Ok(Some(part))) => {
                        size += part.len();
                        parts.push(part);
                    }
                    Poll::Ready(Ok(None)) => self.body_read = true,
                    Poll::Ready(Err(refusal)) => return Poll::Ready(Err(Stop::Refuse(refusal))),
                    Poll::Pending if size > 0 => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let trailers = if self.body_read { self.at.request.body.trailers() } else { Vec::new() };
            self.codec.wrap(parts, self.body_read.then_some(&trailers), &mut self.output);
        }
    }

    /// Reads until the head is there.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<Reply>, Stop>> {
        loop {
            let Some(link) = &mut self.at.link else { return Poll::Pending };
            if self.input.capacity() == 0 {
                // A request that waits has no buffer. What is wrong with the connection, the read says.
                let _ = ready!(link.io.poll_readable(cx));
                self.input = buffers::borrow(self.settings.buffer_size);
            }
            let read = match ready!(link.io.poll_read(cx, &mut self.input)) {
                Ok(0) => {
                    let message = format_args!("upstream prematurely closed connection");
                    self.at.log(Level::Error, message, action::HEAD);
                    return Poll::Ready(Err(Stop::Next(Next::ERROR)));
                }
                Ok(read) => read,
                Err(error) => {
                    self.at.log(Level::Error, format_args!("recv() failed {}", errno(&error)), action::HEAD);
                    return Poll::Ready(Err(Stop::Next(Next::ERROR)));
                }
            };
            link.timer.disarm();
            self.at.note(|attempt| attempt.bytes_received += read as u64);
            if let Some(raw) = &mut self.raw {
                raw.extend_from_slice(&self.input[self.input.len() - read..]);
            }
            loop {
                let before = self.input.len();
                match self.codec.head(&self.at.request, &mut self.input) {
                    Looked::More => {
                        // What came before the head is not kept.
                        if let Some(raw) = self.raw.as_mut().filter(|_| self.input.is_empty()) {
                            raw.clear();
                        }
                        break;
                    }
                    Looked::Head(reply) => {
                        let elapsed = self.at.elapsed();
                        self.at.note(|attempt| {
                            attempt.header_time = Some(elapsed);
                            attempt.status = reply.status;
                        });
                        return Poll::Ready(self.consider(reply));
                    }
                    Looked::Hints(fields) => {
                        self.hint(&fields, before - self.input.len());
                        if let Some(raw) = &mut self.raw {
                            *raw = self.input.clone();
                        }
                    }
                    Looked::Invalid => return Poll::Ready(Err(Stop::Next(Next::INVALID_HEADER))),
                }
            }
            if self.input.len() >= self.head_size {
                self.at.log(Level::Error, format_args!("upstream sent too big header"), action::HEAD);
                return Poll::Ready(Err(Stop::Next(Next::INVALID_HEADER)));
            }
            if self.input.len() == self.input.capacity() {
                // Early hints were taken off the front.
                self.input.reserve(self.settings.buffer_size - self.input.len());
            }
        }
    }

    /// 103: goes to the client at once.
    fn hint(&mut self, fields: &Fields, size: usize) {
        self.hints += size;
        if self.hints > self.settings.buffer_size {
            let message = format_args!("upstream sent too big early hints");
            return self.at.log(Level::Info, message, action::HEAD);
        }
        let shown = fields.iter().filter(|field| !self.settings.hide.has(field.name));
        crate::http::respond::early_hints(&self.at.request, shown);
    }

    /// Whether another peer should be asked instead.
    fn consider(&self, reply: Box<Reply>) -> Result<Box<Reply>, Stop> {
        let Some(why) = Next::of_status(reply.status) else { return Ok(reply) };
        if self.choice.tries > 1 && self.may_repeat(why) { Err(Stop::Next(why)) } else { Ok(reply) }
    }

    /// Whether what has happened so far allows to ask again.
    fn may_repeat(&self, why: Next) -> bool {
        let settings = &self.settings;
        let method = self.at.request.method();
        let harmless = !self.request_sent || !matches!(method.as_ref(), b"POST" | b"LOCK" | b"PATCH");
        let why = if harmless { why } else { why.and(Next::NON_IDEMPOTENT) };
        let limit = settings.next_upstream_timeout;
        let late = !limit.is_zero() && clock::now().saturating_duration_since(self.begun) >= limit;
        settings.next_upstream.has(why) && !(self.request_sent && self.streamed) && !late
    }

    /// A try has failed: `Err` when it was the last.
    fn next(&mut self, why: Next) -> Result<(), Failed> {
        let doing = self.doing();
        let cached = self.at.link.take().is_some_and(|link| link.cached);
        let status = match why {
            Next::TIMEOUT | Next::HTTP_504 => 504,
            Next::HTTP_500 => 500,
            Next::HTTP_503 => 503,
            Next::HTTP_403 => 403,
            Next::HTTP_404 => 404,
            Next::HTTP_429 => 429,
            _ => 502,
        };
        self.at.note(|attempt| attempt.status = status);
        if self.at.held.is_some() {
            let outcome = if matches!(why, Next::HTTP_403 | Next::HTTP_404) { Outcome::Next } else { Outcome::Failed };
            if self.at.finish(Some(outcome)) {
                self.at.log(Level::Warn, format_args!("upstream server temporarily disabled"), doing);
            }
            self.choice.spend();
        } else {
            self.at.finish(None);
        }
        if cached && why == Next::ERROR {
            // It may have been closed for its age just now: that says nothing of the peer.
            self.choice.tries += 1;
        }
        self.output.clear();
        if self.choice.tries == 0 || !self.may_repeat(why) {
            return Err(Failed { why: Some(why), refusal: Refusal::Status(status) });
        }
        Ok(())
    }

    /// The answer is there: what the client gets of it.
    #[expect(clippy::boxed_local, reason = "it stands in a box already; out of it, it would move once more")]
    fn answer(
        mut self: Box<Self>,
        reply: &Reply,
        intercepted: bool,
        copy: Option<Copy>,
        role: Role,
    ) -> Result<Response, Refusal> {
        let request = self.at.request.clone();
        request.replied.replace(Some(reply.replied.clone()));
        if intercepted {
            if reply.status == 401 {
                for field in reply.replied.fields.all("WWW-Authenticate") {
                    request.owe(field.name_bytes(), field.value_bytes());
                }
            }
            self.leave();
            return Err(Refusal::Status(reply.status));
        }
        self.at.head_came();
        if let Err(jump) = reply.obey(&request, &self.settings) {
            self.leave();
            return Err(jump);
        }
        let codec = &self.codec;
        let head = reply.head(&self.settings, role, |what, value| codec.rewrite(&request, what, value));
        if self.codec.is_upgraded() {
            let Some(link) = self.at.link.take() else { return Err(Refusal::Status(502)) };
            request.keepalive.set(false);
            let Self { at, settings, input, .. } = *self;
            let tunnel = Tunnel::new(at, link, settings, input);
            return Ok(Response::new(head, Body::Tunnel(Box::new(tunnel))));
        }
        let buffering = reply.is_buffered(&self.settings);
        let stores = !matches!(self.settings.store, Store::Off);
        if request.is_head() && !stores && copy.is_none() {
            self.leave();
            return Ok(Response::new(head, Body::Empty));
        }
        let came = self.input.len() as u64;
        self.at.note(|attempt| attempt.response_length += came);
        // Its room may be used again: what has not been sent by now is not wanted.
        let mut queue = std::mem::take(&mut self.output);
        queue.clear();
        let flow = self.codec.body(&request, &mut self.input, &mut queue);
        match flow {
            Flow::End if !stores && !self.codec.has_trailers() => {
                // The usual answer is small, and all of it is here.
                self.part();
                if let Some(copy) = copy {
                    copy.write_whole(&request, &queue, &self.settings);
                }
                buffers::give_back(std::mem::take(&mut self.input), self.settings.buffer_size);
                let body = match queue.len() {
                    0 => Body::Empty,
                    1 => queue.pop_front().map_or(Body::Empty, Body::One),
                    _ => Body::pieces(queue.into()),
                };
                return Ok(Response::new(head, body));
            }
            Flow::Broken if queue.is_empty() => {
                // nginx: the head has not left when its body turns out to be nonsense
                request.status.set(reply.status);
                return Err(Refusal::Close);
            }
            Flow::More | Flow::End | Flow::Cut | Flow::Broken => {}
        }
        let Self { at, settings, input, body_sent, codec, .. } = *self;
        let start = Start { at, settings, input, queue, flow, body_sent };
        let relay = Relay::new(start, codec, buffering, reply, copy);
        Ok(Response::new(head, Body::stream(relay)))
    }

    /// The body is not wanted. A connection on which none follows can be kept.
    fn leave(&mut self) {
        if self.codec.expected() == 0 {
            return self.part();
        }
        self.at.link = None;
        self.at.finish(None);
    }

    /// The answer has ended. The connection is kept if it can be.
    fn part(&mut self) {
        if self.codec.is_reusable() && self.body_sent && self.input.is_empty() {
            self.at.keep(self.tag());
        }
        self.at.link = None;
        self.at.finish(None);
    }
}

/// Whether the client has closed its connection. A part of a page does not ask.
fn is_gone(request: &Request, cx: &mut Context<'_>) -> bool {
    request.poll_gone(cx).is_ready()
}

/// So much of a body that is sent as it comes is gathered for one write.
const GATHER: usize = 64 * 1024;
