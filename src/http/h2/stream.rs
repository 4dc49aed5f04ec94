//! One stream: what the client sends of a body, and how much of an answer it takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::session::{FULL, Session};
use crate::http::fields::FieldRef;
use crate::http::request::Request;
use crate::http::response::{Field, Refusal};
use crate::http::stream;
use crate::log::Level;
use crate::net::timer::Timer;
use crate::wire::http2::frame::{MAX_WINDOW, flag};
use crate::wire::http2::{Code, FrameHead, Kind};

/// See the module's head. The connection has it until the answer is done.
pub(super) struct Stream {
    pub(super) id: u32,
    session: Rc<Session>,
    pub(super) inner: RefCell<Inner>,
}

/// What changes.
pub(super) struct Inner {
    /// What may be sent. Negative after the client has made its windows smaller.
    pub(super) window: i64,
    /// What the client may send.
    pub(super) receive: u32,
    /// Somebody takes the body as fast as it comes.
    hurried: bool,
    /// The client has said all it has to say.
    pub(super) in_closed: bool,
    /// We have.
    pub(super) out_closed: bool,
    /// The client has given up, or the stream was reset.
    pub(super) gone: bool,
    /// We have reset it.
    pub(super) reset: bool,
    /// Nobody wants what the client sends.
    skip: bool,
    /// What came and was not taken yet; never more than `receive` once allowed.
    data: VecDeque<Bytes>,
    /// Bytes of the body that were taken.
    taken: u64,
    trailers: Vec<Field>,
    /// Whoever waits: the future that answers, which is one task.
    waker: Option<Waker>,
    /// It stands in the connection's queue for room.
    pub(super) queued: bool,
    reading: Timer,
    pub(super) timed_out: bool,
}

/// The client does not want the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Stream {
    pub(super) fn new(id: u32, session: Rc<Session>, window: i64, receive: u32, in_closed: bool) -> Self {
        let inner = Inner {
            window,
            receive,
            hurried: false,
            in_closed,
            out_closed: false,
            gone: false,
            reset: false,
            skip: false,
            data: VecDeque::new(),
            taken: 0,
            trailers: Vec::new(),
            waker: None,
            queued: false,
            reading: Timer::default(),
            timed_out: false,
        };
        Self { id, session, inner: RefCell::new(inner) }
    }

    /// How much of a body may be sent now.
    pub(super) fn poll_room(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        self.room(Some(self), cx)
    }

    fn room(&self, own: Option<&Rc<Self>>, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        let state = &mut *self.session.state.borrow_mut();
        let inner = &mut *self.inner.borrow_mut();
        if inner.gone {
            return Poll::Ready(Err(Gone));
        }
        if inner.window <= 0 {
            inner.park(cx);
            return Poll::Pending;
        }
        if state.window <= 0 || state.output.len() >= FULL {
            inner.park(cx);
            if !std::mem::replace(&mut inner.queued, true) {
                let own = own.cloned().or_else(|| state.stream(self.id));
                state.waiting.extend(own);
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(usize::try_from(inner.window.min(state.window)).unwrap_or(0)))
    }

    /// The largest frame that the client takes.
    pub(super) fn frame_size(&self) -> usize {
        self.session.state.borrow().frame_size
    }

    /// Sends a frame of these bytes, of which there is room for all.
    pub(super) fn send_data(&self, pieces: impl Iterator<Item = Bytes>, len: usize, last: bool) {
        let state = &mut *self.session.state.borrow_mut();
        let inner = &mut *self.inner.borrow_mut();
        let flags = if last { flag::END_STREAM } else { 0 };
        let head = FrameHead { len: len as u32, kind: Kind::Data, flags, stream: self.id };
        state.output.put(|out| head.put(out));
        for piece in pieces {
            state.output.push(piece);
        }
        state.window -= len as i64;
        inner.window -= len as i64;
        inner.out_closed |= last;
        state.sent(len);
    }

    /// Sends a block of fields; says how many bytes that was.
    pub(super) fn send_block(&self, last: bool, write: impl FnOnce(&mut BytesMut)) -> usize {
        let state = &mut *self.session.state.borrow_mut();
        let inner = &mut *self.inner.borrow_mut();
        inner.out_closed |= last;
        state.put_block(self.id, last, write)
    }

    /// Ends the stream before its time.
    pub(super) fn reset(&self, code: Code) {
        let state = &mut *self.session.state.borrow_mut();
        state.reset(self, code);
    }

    /// Bytes of the body, as they come.
    pub(super) fn take_in(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        if !inner.skip && !bytes.is_empty() {
            inner.data.push_back(Bytes::copy_from_slice(bytes));
            inner.wake();
        }
    }

    /// The client's side has ended.
    pub(super) fn end_in(&self, trailers: Vec<Field>) {
        let mut inner = self.inner.borrow_mut();
        inner.in_closed = true;
        inner.trailers = trailers;
        inner.wake();
    }

    /// The client has given up, or the connection ends.
    pub(super) fn abandon(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.gone = true;
        inner.in_closed = true;
        inner.data.clear();
        inner.wake();
    }

    /// How much a client may have on the way of a body that is taken piece by piece: nginx's buffer for it.
    fn target(&self, request: &Request) -> u32 {
        let buffer = request.plan().core.client_body_buffer_size as u64;
        let size = request.head.content_length.map_or(buffer, |length| (length + 1).min(buffer));
        let size = u32::try_from(size).unwrap_or(MAX_WINDOW).min(MAX_WINDOW);
        size.max(request.server().http2.body_preread_size)
    }

    /// Lets the client send as much again as was taken.
    fn widen(&self, target: u32) {
        let state = &mut *self.session.state.borrow_mut();
        let inner = &mut *self.inner.borrow_mut();
        if inner.in_closed || inner.receive >= target {
            return;
        }
        state.put_window_update(self.id, target - inner.receive);
        inner.receive = target;
    }

    /// Takes one piece of the body, or says that there is none yet.
    fn next(&self) -> Option<Bytes> {
        let mut inner = self.inner.borrow_mut();
        let bytes = inner.data.pop_front()?;
        inner.taken += bytes.len() as u64;
        inner.reading.disarm();
        Some(bytes)
    }

    /// nginx's checks of a body as it grows.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let taken = self.inner.borrow().taken;
        let max = request.plan().core.client_max_body_size;
        match request.head.content_length {
            Some(length) if taken > length => {
                request.log(Level::Info, format_args!("client intended to send body data larger than declared"));
                self.discard_all();
                Err(Refusal::Status(400))
            }
            None if max != 0 && taken > max => {
                let message = format_args!("client intended to send too large chunked body: {taken} bytes");
                request.log(Level::Error, message);
                self.discard_all();
                Err(Refusal::Status(413))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn discard_all(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.skip = true;
        inner.data.clear();
    }
}

impl Inner {
    fn park(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The body is being taken as fast as it comes, and the client may be told so again.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried
    }
}

impl stream::Stream for Stream {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.borrow_mut();
        if inner.gone {
            return Poll::Ready(());
        }
        inner.park(cx);
        Poll::Pending
    }

    fn poll_data(&self, request: &Request, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
        if let Some(bytes) = self.next() {
            request.bytes_read.set(request.bytes_read.get() + bytes.len() as u64);
            self.check(request)?;
            return Poll::Ready(Ok(Some(bytes)));
        }
        let (gone, over, taken, hurried) = {
            let inner = self.inner.borrow();
            (inner.gone, inner.in_closed || inner.skip, inner.taken, inner.hurried)
        };
        if gone {
            request.log(Level::Info, format_args!("client prematurely closed stream"));
            return Poll::Ready(Err(Refusal::Status(499)));
        }
        if over {
            return Poll::Ready(match request.head.content_length {
                Some(length) if length != taken && !self.inner.borrow().skip => {
                    let message = format_args!(
                        "client prematurely closed stream: only {taken} out of {length} bytes of request body received"
                    );
                    request.log(Level::Info, message);
                    self.discard_all();
                    Err(Refusal::Status(400))
                }
                Some(_) | None => Ok(None),
            });
        }
        if !hurried {
            self.widen(self.target(request));
        }
        let inner = &mut *self.inner.borrow_mut();
        inner.park(cx);
        ready!(inner.reading.poll(cx, request.plan().core.client_body_timeout));
        inner.timed_out = true;
        inner.skip = true;
        request.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
        Poll::Ready(Err(Refusal::Status(408)))
    }

    fn hurry(&self) {
        if !std::mem::replace(&mut self.inner.borrow_mut().hurried, true) {
            self.widen(MAX_WINDOW);
        }
    }

    fn discard(&self) {
        self.discard_all();
    }

    fn is_done(&self) -> bool {
        self.inner.borrow().skip
    }

    fn trailers(&self) -> Vec<Field> {
        self.inner.borrow().trailers.clone()
    }

    fn early_hints(&self, request: &Request, fields: &[FieldRef<'_>]) {
        if self.inner.borrow().gone {
            return;
        }
        let size = self.send_block(false, |out| super::encode::early_hints(fields, out));
        request.bytes_sent.set(request.bytes_sent.get() + size as u64);
        request.head_sent.set(request.head_sent.get() + size as u64);
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = buffer.capacity() - buffer.len();
        let mut read = 0;
        {
            let inner = &mut *self.inner.borrow_mut();
            while let Some(front) = inner.data.front_mut().filter(|_| read < room) {
                let len = front.len().min(room - read);
                buffer.extend_from_slice(&front[..len]);
                front.advance(len);
                read += len;
                if front.is_empty() {
                    inner.data.pop_front();
                }
            }
            if read == 0 && inner.gone {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if read == 0 && inner.in_closed {
                return Poll::Ready(Ok(0));
            }
            if read == 0 {
                inner.park(cx);
            }
        }
        if self.inner.borrow().data.is_empty() {
            self.widen(TUNNEL);
        }
        if read == 0 { Poll::Pending } else { Poll::Ready(Ok(read)) }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Ok(room) = ready!(self.room(None, cx)) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let len = bytes.len().min(room).min(self.frame_size());
        self.send_data(std::iter::once(Bytes::copy_from_slice(&bytes[..len])), len, false);
        Poll::Ready(Ok(len))
    }
}

/// What a client may have on the way through a tunnel.
const TUNNEL: u32 = 64 * 1024;
