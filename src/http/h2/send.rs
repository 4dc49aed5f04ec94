//! Answering one stream: from its request to the last frame.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::encode;
use super::head::Refused;
use super::session::Session;
use super::stream::{Gone, Stream};
use crate::base::text::errno;
use crate::http::body::{Body, Piece, Source};
use crate::http::pace::{Pace, Quota};
use crate::http::phase;
use crate::http::request::Request;
use crate::http::response::{Head, Response};
use crate::log::Level;
use crate::net::timer::Timer;
use crate::wire::http2::Code;
use crate::wire::http2::frame::HEAD;

/// Answers a request, to its line in the log.
pub(super) async fn answer(session: Rc<Session>, request: Rc<Request>, stream: Rc<Stream>, refused: Option<Refused>) {
    if stream.inner.borrow().gone {
        // It was taken back in the same breath.
        request.status.set(499);
        request.write_logs();
        return session.finish(&stream);
    }
    let response = match refused {
        None => phase::answer(&request).await,
        Some(refused) => phase::refuse(&request, refused.status).await,
    };
    let response = match response {
        Ok(response) if is_deaf(&request, &response) => phase::refuse(&request, 501).await,
        other => other,
    };
    match response {
        Ok(response) => {
            let sent = send(&request, &stream, response).await;
            request.complete.set(sent.is_ok());
            phase::post_action(&request).await;
        }
        Err(phase::Hangup) => {
            if request.status.get() == 0 {
                request.status.set(444);
            }
            if matches!(request.status.get(), 408 | 499) {
                phase::post_action(&request).await;
            }
        }
    }
    request.write_logs();
    if refused.is_some_and(|refused| refused.malformed) {
        stream.reset(Code::Protocol);
    }
    session.finish(&stream);
}

/// A client that asks for a tunnel would take any success for one (RFC 8441, 4).
fn is_deaf(request: &Request, response: &Response) -> bool {
    let asked = request.head.line().starts_with(b"CONNECT ");
    asked && matches!(response.head.status, 101 | 200..300) && !matches!(response.body, Body::Tunnel(_))
}

/// The answer was not sent whole; why is in the log, if it is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsent;

impl From<Gone> for Unsent {
    fn from(_: Gone) -> Self {
        Self
    }
}

async fn send(request: &Rc<Request>, stream: &Rc<Stream>, response: Response) -> Result<(), Unsent> {
    let Response { mut head, body } = response;
    if stream.inner.borrow().gone {
        request.sent(head); // for the log
        return Err(Unsent);
    }
    if let Body::Tunnel(mut tunnel) = body {
        opened(&mut head);
        put_head(request, stream, head, false);
        std::future::poll_fn(|cx| tunnel.poll(cx)).await;
        if !stream.inner.borrow().gone {
            stream.send_data(std::iter::empty(), 0, true);
        }
        return Ok(());
    }
    let bare = request.is_head() || matches!(head.status, 204 | 304);
    let trailers = !bare && body.promises_trailers();
    let promised = head.content_length.is_some();
    let left = head.content_length.unwrap_or(u64::MAX);
    let empty = bare || !trailers && (left == 0 || matches!(body, Body::Empty));
    put_head(request, stream, head, empty);
    if empty {
        return Ok(());
    }
    let sender = Sender {
        request,
        stream,
        chunk: request.plan().http2_chunk_size,
        body,
        queue: VecDeque::new(),
        queued: 0,
        left,
        promised,
        ended: false,
        trailers,
        pace: Pace::new(request),
        timer: Timer::default(),
    };
    sender.run().await
}

/// RFC 8441, 5: the answer that opens a tunnel is a 200, and what an upgrade says of itself stays behind.
fn opened(head: &mut Head) {
    head.status = 200;
    head.status_line = None;
    head.content_length = None;
    head.fields.retain(|field| !["Upgrade", "Connection", "Sec-WebSocket-Accept"].iter().any(|name| field.is(name)));
}

fn put_head(request: &Request, stream: &Stream, head: Box<Head>, last: bool) {
    let size = stream.send_block(last, |out| encode::head(request, &head, out));
    request.sent(head);
    count(request, size, size);
}

/// So many bytes were sent, and so many of them are not the body's.
fn count(request: &Request, size: usize, around: usize) {
    request.bytes_sent.set(request.bytes_sent.get() + size as u64);
    request.head_sent.set(request.head_sent.get() + around as u64);
}

/// So much is gathered from a body at a time.
const GATHER: u64 = 64 * 1024;

struct Sender<'a> {
    request: &'a Rc<Request>,
    stream: &'a Rc<Stream>,
    /// `http2_chunk_size`
    chunk: usize,
    body: Body,
    queue: VecDeque<Piece>,
    /// Bytes of `queue`.
    queued: u64,
    /// What of the promised length the body has still to give.
    left: u64,
    /// A length was promised.
    promised: bool,
    /// The body has ended.
    ended: bool,
    trailers: bool,
    pace: Pace,
    timer: Timer,
}

impl Sender<'_> {
    async fn run(mut self) -> Result<(), Unsent> {
        loop {
            let gathered = self.gather().await;
            if gathered.is_err() {
                // What came before the break still goes out.
                while self.queued > 0 {
                    self.frame().await?;
                }
                return Err(Unsent);
            }
            if self.queued == 0 {
                break;
            }
            self.frame().await?;
            if self.stream.inner.borrow().out_closed {
                return Ok(());
            }
        }
        if self.promised && self.left != 0 {
            return Err(Unsent); // what was promised did not come
        }
        let trailers = self.body.trailers();
        if trailers.is_empty() {
            self.stream.send_data(std::iter::empty(), 0, true);
            count(self.request, HEAD, HEAD);
            return Ok(());
        }
        let size = self.stream.send_block(true, |out| encode::trailers(&trailers, out));
        count(self.request, size, size);
        self.request.trailers.replace(trailers);
        Ok(())
    }

    /// Takes pieces off the body until there is enough for a few frames, or it has nothing at the moment.
    async fn gather(&mut self) -> Result<(), Unsent> {
        std::future::poll_fn(|cx| {
            while !self.ended && self.queued < GATHER {
                match self.body.poll_piece(cx) {
                    Poll::Ready(Ok(Some(piece))) => {
                        // More than the head promised is nobody's.
                        let piece = if piece.len() > self.left { piece.slice(0, self.left) } else { piece };
                        if !piece.is_empty() {
                            self.left -= piece.len();
                            self.queued += piece.len();
                            self.queue.push_back(piece);
                        } else if matches!(piece, Piece::Flush) && self.queued > 0 {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(Ok(None)) => self.ended = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Unsent)),
                    Poll::Pending if self.queued > 0 => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends one frame of what was gathered.
    async fn frame(&mut self) -> Result<(), Unsent> {
        let room = self.room().await?;
        let quota = loop {
            match self.pace.quota(self.request) {
                Quota::Bytes(bytes) => break usize::try_from(bytes).unwrap_or(usize::MAX),
                Quota::Wait(delay) => self.wait(delay).await?,
            }
        };
        let most = room.min(quota).min(self.chunk).min(self.stream.frame_size());
        self.read(most).await?;
        let mut parts: [Bytes; PARTS] = Default::default();
        let (mut count_of, mut len) = (0, 0);
        while let Some(Piece::Mem(bytes)) = self.queue.front_mut().filter(|_| len < most && count_of < PARTS) {
            let part = bytes.split_to(bytes.len().min(most - len));
            len += part.len();
            parts[count_of] = part;
            count_of += 1;
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        self.queued = self.queued.saturating_sub(len as u64);
        let last = self.ended && self.queued == 0 && !self.trailers && (self.left == 0 || !self.promised);
        self.stream.send_data(parts.into_iter().take(count_of), len, last);
        count(self.request, HEAD + len, HEAD);
        if let Some(delay) = self.pace.after(len as u64) {
            self.wait(delay).await?;
        }
        Ok(())
    }

    /// Waits until the client and the connection have room.
    async fn room(&mut self) -> Result<usize, Unsent> {
        let timeout = self.request.plan().core.send_timeout;
        let room = std::future::poll_fn(|cx| match self.stream.poll_room(cx) {
            Poll::Ready(room) => Poll::Ready(room.map_err(Unsent::from)),
            Poll::Pending => {
                self.body.poll_ahead(cx);
                std::task::ready!(self.timer.poll(cx, timeout));
                self.request.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
                self.stream.inner.borrow_mut().timed_out = true;
                Poll::Ready(Err(Unsent))
            }
        })
        .await;
        self.timer.disarm();
        room
    }

    /// Waits, for the pace's sake, unless the client leaves.
    async fn wait(&mut self, delay: std::time::Duration) -> Result<(), Unsent> {
        let mut sleep = std::pin::pin!(tokio::time::sleep(delay));
        std::future::poll_fn(|cx| {
            self.body.poll_ahead(cx);
            if self.request.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Unsent));
            }
            sleep.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Reads files at the front until `most` bytes are in memory: frames go around them.
    async fn read(&mut self, most: usize) -> Result<(), Unsent> {
        let (mut ready, mut n) = (0, 0);
        while ready < most && n < PARTS {
            match self.queue.get_mut(n) {
                None => return Ok(()),
                Some(Piece::Flush) => {}
                Some(Piece::Mem(bytes)) => ready += bytes.len(),
                Some(Piece::File(file)) => {
                    let bytes = match file.read_ready(GATHER as usize) {
                        Ok(Some(bytes)) => bytes,
                        Ok(None) => {
                            // The disk must be asked, and a thread asks it.
                            let mut cold = file.clone();
                            let pool = &self.request.plan().core.pool;
                            let read = pool.run(move || cold.read(GATHER as usize)).await;
                            match read.and_then(|bytes| file.skip(bytes.len(), GATHER as usize).map(|()| bytes)) {
                                Ok(bytes) => bytes,
                                Err(error) => return Err(self.lost(&error)),
                            }
                        }
                        Err(error) => return Err(self.lost(&error)),
                    };
                    ready += bytes.len();
                    match self.queue.get_mut(n) {
                        Some(piece) if piece.is_empty() => *piece = Piece::Mem(bytes),
                        _ => self.queue.insert(n, Piece::Mem(bytes)),
                    }
                }
            }
            n += 1;
        }
        Ok(())
    }

    fn lost(&self, error: &std::io::Error) -> Unsent {
        self.request.log(Level::Alert, format_args!("read() failed {}", errno(error)));
        Unsent
    }
}

/// The most pieces in one frame.
const PARTS: usize = 16;
