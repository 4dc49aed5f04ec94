//! Writing a response: pieces from its body, into the socket, in as few system calls as there are turns.
//!
//! In: an encoded head and a body. Out: bytes on the wire, and the request's counters. Memory goes out by writev
//! together with the head; a large piece of a file by sendfile; while the socket is full the body's source may read
//! ahead within its own bounds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::encode::{self, Framing};
use crate::http::body::{Body, FilePiece, Piece, Source, Spliced};
use crate::http::connection::Connection;
use crate::http::pace::{Pace, Quota};
use crate::http::request::Request;
use crate::http::response::Field;
use crate::log::Level;
use crate::net::timer::Timer;
use crate::wire::http1::chunked::SizeLine;

/// Why a response was not sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The client is gone or too slow.
    Client,
    /// The body broke off.
    Body,
}

/// What comes behind a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another response, at once: a small one may wait for it in [`Output`].
    Response,
    Unknown,
    /// The end of the connection, at once.
    End,
}

/// What waits to be written on a connection. It outlives a request so that answers to pipelined requests leave
/// together.
#[derive(Debug, Default)]
pub struct Output {
    queue: VecDeque<Piece>,
    /// Bytes of `queue`.
    queued: u64,
    timer: Timer,
}

/// So much is gathered from a body before it is written.
const GATHER: u64 = 64 * 1024;
/// Files up to this size are read and go out with the head; above, sendfile is cheaper.
const INLINE: u64 = crate::http::open_file::SMALL;
/// Bodies up to this size are copied behind their head. Measured: send of 250 and 1,024 bytes in one slice takes 0.25 µs
/// less than writev of two.
const JOIN: u64 = 4 * 1024;
/// The most pieces in one writev.
const SLICES: usize = 64;

impl Output {
    fn push(&mut self, piece: Piece) {
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Sends a whole response, whose head the request knows already.
pub async fn send(request: &Request, mut body: Body, framing: Framing, next: Next) -> Result<(), Unsent> {
    let mut sender = Sender {
        request,
        connection: &request.connection,
        output: &request.connection.output,
        pace: Pace::new(request),
        chunked: framing == Framing::Chunked,
        earlier: request.connection.output.borrow().queued,
        ended: None,
    };
    match std::future::poll_fn(|cx| Poll::Ready(sender.begin(cx, &mut body, framing, next))).await? {
        Begun::Sent => return Ok(()),
        Begun::Queued => return sender.end(next).await,
        Begun::Head if framing == Framing::None => return sender.end(next).await,
        Begun::Head => {}
    }
    let mut left = match framing {
        Framing::Length(length) => length,
        Framing::None | Framing::Chunked | Framing::Close => u64::MAX,
    };
    loop {
        if matches!(framing, Framing::Length(_)) {
            sender.splice(&mut body, &mut left).await?;
        }
        let more = match sender.gather(&mut body, &mut left).await {
            Ok(more) => more,
            // nothing is on its way yet
            Err(unsent) if body.holds_back() && sender.earlier == 0 => return Err(unsent),
            Err(unsent) => {
                // What came before the break still goes out: the client sees how far it got.
                sender.flush(&mut body).await?;
                return Err(unsent);
            }
        };
        if !more {
            break;
        }
        sender.flush(&mut body).await?;
    }
    if sender.chunked {
        let trailers = body.trailers();
        sender.queue(Piece::Mem(last_chunk(&trailers)));
        request.trailers.replace(trailers);
    } else if let Framing::Length(_) = framing
        && left != 0
    {
        // nginx closes; what was promised did not come.
        sender.flush(&mut body).await?;
        return Err(Unsent::Body);
    }
    sender.end(next).await
}

/// Writes what is held back.
pub async fn flush(request: &Request) -> Result<(), Unsent> {
    if request.connection.output.borrow().is_empty() {
        return Ok(());
    }
    let mut sender = Sender {
        request,
        connection: &request.connection,
        output: &request.connection.output,
        pace: Pace::default(),
        chunked: false,
        earlier: u64::MAX,
        ended: None,
    };
    // Rare, and so in a box: who may have to wait for it need not have the room.
    Box::pin(sender.flush(&mut Body::Empty)).await
}

/// Adds to the queue and writes of it what the socket takes at this moment.
pub fn send_now(request: &Request, bytes: Bytes) {
    let output = &request.connection.output;
    let pace = Pace::default();
    let mut sender = Sender {
        request,
        connection: &request.connection,
        output,
        pace,
        chunked: false,
        earlier: u64::MAX,
        ended: None,
    };
    request.bytes_sent.set(request.bytes_sent.get() + bytes.len() as u64);
    sender.queue(Piece::Mem(bytes));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while !output.borrow().is_empty() && matches!(sender.poll_write(&mut cx, u64::MAX), Poll::Ready(Ok(_))) {}
}

struct Sender<'a> {
    request: &'a Request,
    connection: &'a Connection,
    output: &'a RefCell<Output>,
    pace: Pace,
    chunked: bool,
    /// Bytes in the queue that belong to earlier requests, which have counted them.
    earlier: u64,
    /// The client had ended its side before the first wait.
    ended: Option<bool>,
}

/// How far [`Sender::begin`] came.
enum Begun {
    /// All of the response is sent.
    Sent,
    /// All of the response is in memory, and the socket took less than that: the rest is in the queue.
    Queued,
    /// The head is in the queue, and the body is still to come.
    Head,
}

impl Sender<'_> {
    /// Writes the head. The common answer has at most one piece that is in memory: it leaves with its head in one call,
    /// past the queue.
    fn begin(&mut self, cx: &mut Context<'_>, body: &mut Body, framing: Framing, next: Next) -> Result<Begun, Unsent> {
        encode::with_head(self.request, framing, |head| {
            self.request.head_sent.set(head.len() as u64);
            let alone = next != Next::Response && self.earlier == 0 && self.pace.rate == 0;
            let rest = match alone {
                true if join(head, body, framing) => Some(Bytes::new()),
                true => whole(body, framing),
                false => None,
            };
            let Some(rest) = rest else {
                self.queue(Piece::Mem(head.split().freeze()));
                return Ok(Begun::Head);
            };
            // A call with one slice is the cheaper one, by more than the copy of a small body.
            let joined = rest.len() as u64 <= JOIN;
            if joined {
                head.extend_from_slice(&rest);
            }
            let both = [IoSlice::new(head), IoSlice::new(&rest)];
            let slices = if joined { &both[..1] } else { &both };
            let wrote = match next {
                Next::End => self.connection.io.poll_write_last(cx, slices),
                Next::Response | Next::Unknown => self.connection.io.poll_writev(cx, slices),
            };
            let wrote = match wrote {
                Poll::Ready(Ok(wrote)) => wrote,
                Poll::Ready(Err(error)) => {
                    head.clear();
                    return Err(self.lost("writev", &error));
                }
                Poll::Pending => 0,
            };
            self.request.bytes_sent.set(self.request.bytes_sent.get() + wrote as u64);
            let in_head = wrote.min(head.len());
            if in_head < head.len() {
                self.queue(Piece::Mem(head.split().freeze().slice(in_head..)));
            }
            head.clear();
            if !joined {
                self.queue(Piece::Mem(rest.slice((wrote - in_head).min(rest.len())..)));
            }
            Ok(if self.output.borrow().is_empty() { Begun::Sent } else { Begun::Queued })
        })
    }

    /// Lets the body move past us what nobody must see, as long as it can and nothing else waits to be written.
    async fn splice(&mut self, body: &mut Body, left: &mut u64) -> Result<(), Unsent> {
        if !matches!(self.pace.quota(self.request), Quota::Bytes(u64::MAX)) || !self.output.borrow().is_empty() {
            return Ok(());
        }
        let io = &self.connection.io;
        std::future::poll_fn(|cx| {
            while *left > 0 {
                match body.poll_splice(cx, io, *left) {
                    Spliced::Not => break,
                    Spliced::Moved(moved) => {
                        *left = left.saturating_sub(moved);
                        self.request.bytes_sent.set(self.request.bytes_sent.get() + moved);
                        self.output.borrow_mut().timer.disarm();
                    }
                    Spliced::Waits => return Poll::Pending,
                    Spliced::Full => return self.poll_patience(cx, &mut self.output.borrow_mut().timer).map(Err),
                    Spliced::Failed(error) => return Poll::Ready(Err(self.lost("splice", &error))),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The client's socket takes nothing: for how long that is borne.
    fn poll_patience(&self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<Unsent> {
        let core = &self.request.plan().core;
        ready!(timer.poll(cx, core.send_timeout));
        self.request.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
        // nginx: whoever got nothing is logged with the status of his slowness
        if self.request.bytes_sent.get() == 0 {
            self.request.status.set(408);
        }
        if core.reset_timedout_connection {
            self.connection.io.reset_on_close();
        }
        Poll::Ready(Unsent::Client)
    }

    fn queue(&mut self, piece: Piece) {
        if !piece.is_empty() {
            self.output.borrow_mut().push(piece);
        }
    }

    /// Takes pieces off the body until there is enough for a write, or it has nothing at the moment. `false`: the end.
    async fn gather(&mut self, body: &mut Body, left: &mut u64) -> Result<bool, Unsent> {
        let mut gathered: Vec<Piece> = Vec::new();
        let splices = !self.chunked && self.pace.rate == 0 && !self.connection.io.is_secure();
        let mut size = 0;
        let result = std::future::poll_fn(|cx| {
            loop {
                let piece = match body.poll_piece(cx) {
                    Poll::Ready(Ok(Some(piece))) => piece,
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(false)),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Unsent::Body)),
                    Poll::Pending if body.holds_back() => return Poll::Pending,
                    Poll::Pending if size > 0 || !self.output.borrow().is_empty() => return Poll::Ready(Ok(true)),
                    Poll::Pending => return Poll::Pending,
                };
                let len = piece.len();
                if matches!(piece, Piece::Flush) {
                    if size > 0 {
                        return Poll::Ready(Ok(true));
                    }
                    continue;
                }
                if len == 0 {
                    continue;
                }
                // More than the head promised would be read as the next answer.
                let piece = if len > *left { piece.slice(0, *left) } else { piece };
                *left -= piece.len();
                size += piece.len();
                if !piece.is_empty() {
                    gathered.push(piece);
                }
                if size >= GATHER || splices && body.may_splice() {
                    return Poll::Ready(Ok(true));
                }
            }
        })
        .await;
        if size > 0 {
            if self.chunked {
                self.queue(Piece::Mem(Bytes::copy_from_slice(SizeLine::new(size).as_ref())));
            }
            for piece in gathered {
                self.queue(piece);
            }
            if self.chunked {
                self.queue(Piece::Mem(Bytes::from_static(b"\r\n")));
            }
        }
        result
    }

    /// The response is complete in the queue.
    async fn end(&mut self, next: Next) -> Result<(), Unsent> {
        let small = {
            let output = self.output.borrow();
            output.queued <= GATHER && output.queue.iter().all(|piece| matches!(piece, Piece::Mem(_)))
        };
        if next == Next::Response && small {
            let queued = self.output.borrow().queued.saturating_sub(self.earlier);
            self.request.bytes_sent.set(self.request.bytes_sent.get() + queued);
            return Ok(());
        }
        self.flush(&mut Body::Empty).await
    }

    /// Writes the queue. While the socket takes nothing, the body may read ahead.
    async fn flush(&mut self, body: &mut Body) -> Result<(), Unsent> {
        loop {
            if self.output.borrow().is_empty() {
                return Ok(());
            }
            let quota = match self.pace.quota(self.request) {
                Quota::Bytes(bytes) => bytes,
                Quota::Wait(delay) => {
                    Box::pin(self.rest(delay, body)).await?;
                    continue;
                }
            };
            while let Some(cold) = self.fill()? {
                let warm_only = cold.warm_only;
                Box::pin(self.warm(cold)).await?;
                if warm_only {
                    break; // once is enough: some file systems never say that they are ready
                }
            }
            let wrote = std::future::poll_fn(|cx| {
                let wrote = self.poll_write(cx, quota);
                if wrote.is_pending() {
                    body.poll_ahead(cx);
                }
                wrote
            })
            .await?;
            let own = wrote.saturating_sub(self.earlier);
            self.earlier = self.earlier.saturating_sub(wrote);
            self.request.bytes_sent.set(self.request.bytes_sent.get() + own);
            if let Some(delay) = self.pace.after(wrote) {
                Box::pin(self.rest(delay, body)).await?;
            } else if wrote >= self.chunk() as u64 {
                // A client that takes all there is must not keep the others waiting.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits, for the pace's sake. Whoever leaves meanwhile need not be waited for.
    async fn rest(&mut self, delay: Duration, body: &mut Body) -> Result<(), Unsent> {
        let io = &self.connection.io;
        let mut sleep = std::pin::pin!(tokio::time::sleep(delay));
        let watched = self.request.body.is_done();
        // nginx: an end that came with the request itself says only that no other request will follow.
        let mut noop = Context::from_waker(std::task::Waker::noop());
        let ended = *self.ended.get_or_insert_with(|| io.poll_gone(&mut noop).is_ready());
        std::future::poll_fn(|cx| {
            body.poll_ahead(cx);
            if watched && !ended && io.poll_gone(cx).is_ready() {
                self.request.log(Level::Info, format_args!("client prematurely closed connection"));
                return Poll::Ready(Err(Unsent::Client));
            }
            sleep.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// `sendfile_max_chunk`.
    fn chunk(&self) -> usize {
        match self.request.plan().core.sendfile_max_chunk {
            0 => SENDFILE,
            chunk => chunk.min(SENDFILE),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, quota: u64) -> Poll<Result<u64, Unsent>> {
        let output = &mut *self.output.borrow_mut();
        let written = match output.queue.front_mut() {
            Some(Piece::File(file)) => {
                let len = usize::try_from(file.len.min(quota)).unwrap_or(usize::MAX).min(self.chunk());
                self.connection.io.poll_sendfile(cx, &file.file, file.offset, len).map(|sent| ("sendfile", sent))
            }
            _ => {
                let mut slices: [IoSlice<'_>; SLICES] = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                let mut room = quota;
                for piece in output.queue.iter().take(SLICES) {
                    let Piece::Mem(bytes) = piece else { break };
                    let len = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
                    if len == 0 {
                        break;
                    }
                    slices[count] = IoSlice::new(&bytes[..len]);
                    count += 1;
                    room -= len as u64;
                }
                let file_follows = matches!(output.queue.get(count), Some(Piece::File(_)));
                if file_follows && quota == u64::MAX && !self.request.plan().core.aio {
                    self.connection.io.poll_send_more(cx, &slices[..count]).map(|sent| ("sendmsg", sent))
                } else {
                    self.connection.io.poll_writev(cx, &slices[..count]).map(|sent| ("writev", sent))
                }
            }
        };
        match written {
            Poll::Pending => {
                let unsent = ready!(self.poll_patience(cx, &mut output.timer));
                Poll::Ready(Err(unsent))
            }
            Poll::Ready((call, Ok(0))) => {
                let _ = call;
                self.request.log(Level::Alert, format_args!("sendfile() reported that the file was truncated"));
                Poll::Ready(Err(Unsent::Body))
            }
            Poll::Ready((_, Ok(wrote))) => {
                output.timer.disarm();
                output.consume(wrote as u64);
                Poll::Ready(Ok(wrote as u64))
            }
            Poll::Ready((call, Err(error))) => Poll::Ready(Err(self.lost(call, &error))),
        }
    }

    /// Reads those parts of files at the front of the queue that go out as memory: small ones, and without sendfile
    /// all. What the disk must be asked for is handed back.
    fn fill(&self) -> Result<Option<Cold>, Unsent> {
        let core = &self.request.plan().core;
        let output = &mut *self.output.borrow_mut();
        let (limit, most) = match core.sendfile {
            true => (INLINE as usize, INLINE),
            false => (core.output_buffers.size, core.output_buffers.total() as u64),
        };
        let mut ahead = 0;
        let mut n = 0;
        while ahead < most {
            let Some(piece) = output.queue.get_mut(n) else { break };
            let Piece::File(file) = piece else {
                ahead += piece.len();
                n += 1;
                continue;
            };
            let direct = file.file.is_direct();
            if core.sendfile && !direct && file.len + ahead > INLINE {
                let cold = n == 0 && core.aio && !file.file.is_ready(file.offset);
                return Ok(cold.then(|| Cold { file: file.clone(), place: n, limit: self.chunk(), warm_only: true }));
            }
            let limit = if direct { core.output_buffers.size } else { limit };
            match file.read_ready(limit) {
                Ok(Some(bytes)) => {
                    ahead += bytes.len() as u64;
                    output.replace(n, bytes);
                }
                Ok(None) | Err(_) if n > 0 => break, // what is before it can go first
                Ok(None) => return Ok(Some(Cold { file: file.clone(), place: n, limit, warm_only: false })),
                Err(error) => return Err(self.lost("read", &error)),
            }
            n += 1;
        }
        Ok(None)
    }

    /// Has a thread ask the disk.
    async fn warm(&self, cold: Cold) -> Result<(), Unsent> {
        let Cold { mut file, place, limit, warm_only } = cold;
        let read = self.request.plan().core.pool.run(move || {
            if !warm_only {
                return file.read(limit);
            }
            // The page cache is what it is read for; sendfile takes it from there.
            let end = file.offset.saturating_add(file.len.min(limit as u64));
            while file.offset < end && file.len > 0 {
                file.read(WARM)?;
            }
            Ok(Bytes::new())
        });
        match read.await {
            Ok(_) if warm_only => Ok(()),
            Ok(bytes) => {
                let output = &mut *self.output.borrow_mut();
                if let Some(Piece::File(file)) = output.queue.get_mut(place) {
                    file.skip(bytes.len(), bytes.len()).map_err(|error| self.lost("read", &error))?;
                    output.replace(place, bytes);
                }
                Ok(())
            }
            Err(error) => Err(self.lost("read", &error)),
        }
    }

    #[cold]
    fn lost(&self, call: &str, error: &io::Error) -> Unsent {
        let level = match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ETIMEDOUT) => Level::Info,
            _ => Level::Alert,
        };
        self.request.log(level, format_args!("{call}() failed {}", crate::base::text::errno(error)));
        if call == "read" { Unsent::Body } else { Unsent::Client }
    }
}

/// Puts a small body behind its head, if it is a file whose bytes are kept.
fn join(head: &mut BytesMut, body: &Body, framing: Framing) -> bool {
    let (Framing::Length(length @ ..=JOIN), Body::One(Piece::File(file))) = (framing, body) else { return false };
    let Some(bytes) = file.kept().filter(|bytes| bytes.len() as u64 == length) else { return false };
    head.extend_from_slice(bytes);
    true
}

/// Takes a body of the kind that goes with its head: in memory, and as long as the head says.
fn whole(body: &mut Body, framing: Framing) -> Option<Bytes> {
    match (framing, body) {
        (Framing::None, _) | (Framing::Length(0), Body::Empty) => Some(Bytes::new()),
        (Framing::Length(length), Body::One(Piece::Mem(bytes))) if bytes.len() as u64 == length => {
            Some(std::mem::take(bytes))
        }
        (Framing::Length(length), Body::One(Piece::File(file))) if file.len == length && length <= INLINE => {
            let bytes = file.read_ready(INLINE as usize).ok()??;
            if file.len > 0 {
                // The file has become shorter, or will be in a moment: the long way finds out.
                file.offset -= bytes.len() as u64;
                file.len += bytes.len() as u64;
                return None;
            }
            Some(bytes)
        }
        _ => None,
    }
}

/// Linux sends at most this much at once.
const SENDFILE: usize = 0x7fff_f000;
/// How much a thread reads at a time to have it in memory.
const WARM: usize = 128 * 1024;

/// A part of a file that is not in memory.
struct Cold {
    file: FilePiece,
    /// Its place in the queue.
    place: usize,
    limit: usize,
    /// It is to be sent by sendfile: being in memory is enough.
    warm_only: bool,
}

impl Output {
    /// Puts bytes before the piece of a file that they were read from; the piece goes when nothing is left of it.
    fn replace(&mut self, place: usize, bytes: Bytes) {
        match self.queue.get_mut(place) {
            Some(piece @ Piece::File(FilePiece { len: 0, .. })) => *piece = Piece::Mem(bytes),
            _ => self.queue.insert(place, Piece::Mem(bytes)),
        }
    }

    /// Forgets what was written.
    fn consume(&mut self, mut wrote: u64) {
        self.queued = self.queued.saturating_sub(wrote);
        while wrote > 0 {
            let Some(front) = self.queue.front_mut() else { return };
            let len = front.len();
            if len <= wrote {
                wrote -= len;
                self.queue.pop_front();
                continue;
            }
            match front {
                Piece::Mem(bytes) => bytes.advance(usize::try_from(wrote).unwrap_or(usize::MAX).min(bytes.len())),
                Piece::File(file) => {
                    file.offset += wrote;
                    file.len -= wrote;
                }
                Piece::Flush => {}
            }
            return;
        }
    }
}

/// The end of a chunked body.
fn last_chunk(trailers: &[Field]) -> Bytes {
    if trailers.is_empty() {
        return Bytes::from_static(b"0\r\n\r\n");
    }
    let mut out = b"0\r\n".to_vec();
    for field in trailers {
        out.extend_from_slice(&field.name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(&field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}
