//! The body of a client's request: read whole into memory and a file, streamed, or thrown away.
//!
//! In: the connection's bytes behind the head. Out: a [`Stored`] body, or one [`Bytes`] at a time. Nothing is read
//! before somebody asks, and `Expect: 100-continue` is answered at that moment.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::open_file::OpenFile;
use super::request::Request;
use super::response::{Field, Refusal};
use super::settings::InFile;
use super::stream::Stream;
use crate::base::text::errno;
use crate::log::Level;
use crate::net::pipe::Pipe;
use crate::net::timer::Timer;
use crate::wire::http1::chunked::{Chunk, Decoder};
use crate::wire::http1::request::Version;

/// How the end of a body is known.
#[derive(Debug)]
pub enum Framing {
    /// This many bytes are still to come.
    Length(u64),
    Chunked(Decoder),
}

impl Default for Framing {
    fn default() -> Self {
        Self::Length(0)
    }
}

/// A body that was read whole.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// What did not go to the file: all of a small body, nothing of a large one.
    pub memory: Bytes,
    pub file: Option<Rc<StoredFile>>,
    pub len: u64,
}

/// The temporary file of a body. Without `client_body_in_file_only` its name goes as soon as it is made, so that nothing is
/// left of it however the request ends; with `clean` the name goes with the request, with `on` never.
#[derive(Debug)]
pub struct StoredFile {
    pub file: Arc<OpenFile>,
    pub path: PathBuf,
    pub len: u64,
    clean: bool,
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        if self.clean {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The body of one request.
#[derive(Default)]
pub struct Upload {
    /// Where it comes from, if not from the connection itself. Then nothing but this knows its end.
    stream: Option<Rc<dyn Stream>>,
    framing: RefCell<Framing>,
    stored: RefCell<Option<Stored>>,
    /// Bytes of the body so far, for `client_max_body_size` of a body whose length nobody announced.
    received: Cell<u64>,
    /// Somebody asked for the body, or nobody will.
    begun: Cell<bool>,
    discarded: Cell<bool>,
    /// `Expect` was answered, or will not be.
    invited: Cell<bool>,
    no_lingering: Cell<bool>,
    /// The client cannot be understood any more.
    broken: Cell<bool>,
    timer: RefCell<Timer>,
}

impl Upload {
    pub fn new(framing: Framing) -> Self {
        Self { framing: RefCell::new(framing), ..Self::default() }
    }

    /// A body that a stream brings.
    pub fn of(stream: Rc<dyn Stream>) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    /// Nobody wants the body: what is left will be read and thrown away after the answer.
    pub fn discard(&self) {
        self.discarded.set(true);
        if let Some(stream) = &self.stream {
            stream.discard();
        }
    }

    /// As [`Upload::discard`], when the answer is an error: the client is not even invited to send its body.
    pub fn reject(&self) {
        self.never_invite();
        self.discard();
    }

    /// The answer will be an error, whoever makes it.
    pub fn never_invite(&self) {
        self.invited.set(true);
    }

    /// The answer is there and nobody wanted the body. nginx still tells a client that waits to go on.
    pub fn skip(request: &Request) {
        if !request.body.begun.get() {
            invite(request);
        }
    }

    pub fn is_discarded(&self) -> bool {
        self.discarded.get()
    }

    /// After the answer the connection just closes: what the client says cannot be trusted.
    pub fn forbid_lingering(&self) {
        self.no_lingering.set(true);
    }

    pub fn may_linger(&self) -> bool {
        !self.no_lingering.get()
    }

    /// Nothing of the body is left on the connection.
    pub fn is_done(&self) -> bool {
        if let Some(stream) = &self.stream {
            return stream.is_done();
        }
        !self.broken.get()
            && match &*self.framing.borrow() {
                Framing::Length(left) => *left == 0,
                Framing::Chunked(decoder) => decoder.is_done(),
            }
    }

    /// The fields behind the body, once it has ended. nginx drops those of HTTP/1, and so do we.
    pub fn trailers(&self) -> Vec<Field> {
        self.stream.as_ref().map_or_else(Vec::new, |stream| stream.trailers())
    }

    /// The body, once it was read whole.
    pub fn stored(&self) -> Option<Stored> {
        self.stored.borrow().clone()
    }

    /// Makes this the body: a subrequest's, or one that a directive gives.
    pub fn store(&self, body: Stored) {
        self.begun.set(true);
        self.stored.replace(Some(body));
    }

    /// Reads the body whole: into memory up to `client_body_buffer_size`, else into a temporary file.
    pub async fn read(request: &Request) -> Result<Stored, Refusal> {
        let upload = &request.body;
        if let Some(stored) = upload.stored() {
            return Ok(stored);
        }
        let core = &request.plan().core;
        let limit = core.client_body_buffer_size;
        let mut keeper = Keeper { request, limit, memory: BytesMut::new(), file: None };
        if core.client_body_in_file_only != InFile::Off && !upload.is_done() {
            keeper.open()?;
        }
        if let Some(stream) = &upload.stream {
            stream.hurry();
        }
        while let Some(bytes) = std::future::poll_fn(|cx| Self::poll_bytes(request, cx)).await? {
            keeper.take(bytes)?;
            if keeper.file.is_some() && upload.may_splice(request) {
                upload.splice(request, &mut keeper).await?;
            }
        }
        let stored = keeper.finish()?;
        upload.store(stored.clone());
        Ok(stored)
    }

    /// The next bytes of the body as they come; `None` is its end. Refusals are nginx's: 400, 408, 413.
    pub fn poll_bytes(request: &Request, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
        let upload = &request.body;
        if !upload.begun.replace(true) {
            invite(request);
        }
        if let Some(stream) = &upload.stream {
            return stream.poll_data(request, cx);
        }
        loop {
            if upload.is_done() {
                return Poll::Ready(Ok(None));
            }
            if let Some(bytes) = upload.take_input(request)? {
                upload.timer.borrow_mut().disarm();
                return Poll::Ready(Ok(Some(bytes)));
            }
            if upload.is_done() {
                return Poll::Ready(Ok(None));
            }
            ready!(upload.poll_input(request, cx))?;
        }
    }

    /// Takes what the connection has already read. `None`: more is needed, or this was the end.
    fn take_input(&self, request: &Request) -> Result<Option<Bytes>, Refusal> {
        let mut input = request.connection.input.borrow_mut();
        if input.is_empty() {
            return Ok(None);
        }
        let max = request.plan().core.client_max_body_size;
        let before = input.len();
        let taken = match &mut *self.framing.borrow_mut() {
            Framing::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= len as u64;
                Some(input.split_to(len).freeze())
            }
            Framing::Chunked(decoder) => self.decode(request, decoder, &mut input, max)?,
        };
        // nginx: what is thrown away is not part of `$request_length`
        if !self.is_discarded() {
            request.bytes_read.set(request.bytes_read.get() + (before - input.len()) as u64);
        }
        Ok(taken)
    }

    fn decode(
        &self,
        request: &Request,
        decoder: &mut Decoder,
        input: &mut BytesMut,
        max: u64,
    ) -> Result<Option<Bytes>, Refusal> {
        match decoder.next(input, 0) {
            Ok(Chunk::Data { data, rest }) => {
                let received = self.received.get();
                let len = data.len() as u64;
                if max != 0 && !self.is_discarded() && received.saturating_add(len).saturating_add(rest) > max {
                    request.log(
                        Level::Error,
                        format_args!(
                            "client intended to send too large chunked body: {}+{} bytes",
                            received,
                            len + rest
                        ),
                    );
                    self.discard();
                    // The decoder has seen it, so it must not see it again.
                    input.advance(data.start as usize + data.len());
                    return Err(Refusal::Status(413));
                }
                self.received.set(received + len);
                input.advance(data.start as usize);
                Ok(Some(input.split_to(data.len()).freeze()))
            }
            Ok(Chunk::More) => {
                input.clear();
                Ok(None)
            }
            Ok(Chunk::End(at)) => {
                input.advance(at as usize);
                Ok(None)
            }
            Err(_) => {
                request.log(Level::Error, format_args!("client sent invalid chunked body"));
                self.broken.set(true);
                request.keepalive.set(false);
                Err(Refusal::Status(400))
            }
        }
    }

    /// Reads from the socket.
    fn poll_input(&self, request: &Request, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let core = &request.plan().core;
        let mut input = request.connection.input.borrow_mut();
        let want = match &*self.framing.borrow() {
            Framing::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
            Framing::Chunked(decoder) => usize::try_from(decoder.expected()).unwrap_or(usize::MAX),
        };
        input.reserve(want.clamp(1024, core.client_body_buffer_size.max(1024)).min(READ));
        let read = request.connection.io.poll_read(cx, &mut input);
        self.arrived(request, cx, read).map_ok(drop)
    }

    /// What came of asking the socket for more.
    fn arrived(
        &self,
        request: &Request,
        cx: &mut Context<'_>,
        read: Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Refusal>> {
        match read {
            Poll::Pending => {
                ready!(self.timer.borrow_mut().poll(cx, request.plan().core.client_body_timeout));
                Poll::Ready(Err(self.lost(request, 408, format_args!("client timed out (110: Connection timed out)"))))
            }
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(self.lost(request, 400, format_args!("client prematurely closed connection"))))
            }
            Poll::Ready(Ok(count)) => {
                self.timer.borrow_mut().disarm();
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(self.lost(request, 400, format_args!("recv() failed {}", errno(&error)))))
            }
        }
    }

    /// The next bytes can go from the socket to a file without being looked at, and there are enough of them.
    fn may_splice(&self, request: &Request) -> bool {
        let enough = matches!(&*self.framing.borrow(), Framing::Length(left) if *left >= READ as u64);
        let connection = &request.connection;
        enough && self.stream.is_none() && connection.input.borrow().is_empty() && !connection.io.is_secure()
    }

    /// Moves the rest of a body of known length from the socket to the file, through a pipe. Where that cannot be done it
    /// ends early, and the rest is read.
    async fn splice(&self, request: &Request, keeper: &mut Keeper<'_>) -> Result<(), Refusal> {
        keeper.flush()?;
        let Ok(mut pipe) = Pipe::take() else { return Ok(()) };
        loop {
            let left = match &*self.framing.borrow() {
                Framing::Length(left @ 1..) => *left,
                Framing::Length(0) | Framing::Chunked(_) => return Ok(()),
            };
            let limit = usize::try_from(left).unwrap_or(usize::MAX);
            let came = std::future::poll_fn(|cx| {
                let filled = pipe.poll_fill(cx, &request.connection.io, limit);
                self.arrived(request, cx, filled)
            });
            let came = came.await? as u64;
            self.framing.replace(Framing::Length(left.saturating_sub(came)));
            request.bytes_read.set(request.bytes_read.get() + came);
            if !keeper.pour(&mut pipe)? {
                return Ok(());
            }
        }
    }

    /// The rest of the body will not come. nginx: whoever is gone or too slow gets no answer, but the log a status; and
    /// of a body that is thrown away it says nothing.
    #[cold]
    fn lost(&self, request: &Request, status: u16, why: std::fmt::Arguments<'_>) -> Refusal {
        if !self.is_discarded() {
            request.log(Level::Info, why);
        }
        if !request.written.get() {
            request.status.set(status);
        }
        self.broken.set(true);
        request.keepalive.set(false);
        Refusal::Close
    }

    /// Drops what is there already of a body that nobody wants. nginx: nonsense in it is worth a 400, as long as the
    /// answer has not begun.
    pub fn drop_ready(request: &Request) -> Result<(), Refusal> {
        let upload = &request.body;
        if !upload.is_discarded() || upload.broken.get() || upload.is_done() {
            return Ok(());
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            match Self::poll_bytes(request, &mut cx) {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(Err(Refusal::Status(400))) => return Err(Refusal::Status(400)),
                Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => return Ok(()),
            }
        }
    }

    /// Reads and drops what the client has already sent or sends soon, within `lingering_time`, so that the
    /// connection can be used again. `false`: it cannot.
    pub async fn drain(request: &Request) -> bool {
        let upload = &request.body;
        upload.discard();
        upload.begun.set(true);
        std::future::poll_fn(|cx| {
            loop {
                match ready!(Self::poll_bytes(request, cx)) {
                    Ok(Some(_)) => {}
                    Ok(None) => return Poll::Ready(true),
                    Err(_) => return Poll::Ready(false),
                }
            }
        })
        .await
    }
}

/// The most that is read at once.
const READ: usize = 64 * 1024;

/// Tells a client that waits for it to go on (RFC 9110, 10.1.1).
fn invite(request: &Request) {
    if request.is_subrequest() || request.body.invited.replace(true) || request.head.version < Version::HTTP_11 {
        return;
    }
    if request.stream.is_some() {
        return; // nginx: where requests do not wait for each other, none waits for an invitation
    }
    if request.field("Expect").is_none_or(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return;
    }
    // The socket is empty at this point: what it does not take at once, it would not take at all.
    let line = IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n");
    match request.connection.io.poll_writev(&mut Context::from_waker(Waker::noop()), &[line]) {
        Poll::Ready(Ok(sent)) => request.bytes_sent.set(request.bytes_sent.get() + sent as u64),
        Poll::Ready(Err(_)) | Poll::Pending => request.keepalive.set(false),
    }
}

/// Takes a body in and keeps it.
struct Keeper<'a> {
    request: &'a Request,
    limit: usize,
    memory: BytesMut,
    file: Option<StoredFile>,
}

impl Keeper<'_> {
    fn take(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        if self.file.is_none() && self.memory.len() + bytes.len() > self.limit {
            self.open()?;
        }
        if self.file.is_none() {
            self.memory.extend_from_slice(&bytes);
            return Ok(());
        }
        // Collect a few reads for one write.
        if self.memory.len() + bytes.len() > self.limit.max(READ) {
            self.flush()?;
        }
        if bytes.len() >= READ / 2 && self.memory.is_empty() {
            return self.write(&bytes);
        }
        self.memory.extend_from_slice(&bytes);
        Ok(())
    }

    fn open(&mut self) -> Result<(), Refusal> {
        let core = &self.request.plan().core;
        let temp = &core.client_body_temp_path;
        match temp.create() {
            Ok((file, path)) => {
                if core.client_body_in_file_only == InFile::Off {
                    let _ = std::fs::remove_file(&path); // as nginx: whether that works or not
                }
                self.request.log(
                    Level::Warn,
                    format_args!("a client request body is buffered to a temporary file {}", path.display()),
                );
                let clean = core.client_body_in_file_only == InFile::Clean;
                self.file = Some(StoredFile { file: Arc::new(file.into()), path, len: 0, clean });
                Ok(())
            }
            Err(refused) => {
                self.request.log(Level::Crit, format_args!("{refused}"));
                Err(Refusal::Status(500))
            }
        }
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let bytes = std::mem::take(&mut self.memory);
        self.write(&bytes)?;
        self.memory = bytes;
        self.memory.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(StoredFile { file, path, len, .. }) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.write_all_at(bytes, *len) {
            let message = format_args!("pwrite() \"{}\" failed {}", path.display(), errno(&error));
            self.request.log(Level::Crit, message);
            return Err(Refusal::Status(500));
        }
        *len += bytes.len() as u64;
        Ok(())
    }

    /// Moves what is in a pipe to the file. `false`: this file takes nothing from pipes.
    fn pour(&mut self, pipe: &mut Pipe) -> Result<bool, Refusal> {
        let Some(StoredFile { file, path, len, .. }) = &mut self.file else { return Ok(false) };
        match pipe.pour_into_file(file, *len) {
            Ok(moved) => {
                *len += moved;
                Ok(true)
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let bytes = pipe.drain().map_err(|_| Refusal::Status(500))?;
                self.write(&bytes)?;
                Ok(false)
            }
            Err(error) => {
                // nginx's word for it
                let message = format_args!("pwrite() \"{}\" failed {}", path.display(), errno(&error));
                self.request.log(Level::Crit, message);
                Err(Refusal::Status(500))
            }
        }
    }

    fn finish(mut self) -> Result<Stored, Refusal> {
        if self.file.is_some() {
            self.flush()?;
        }
        let file = self.file.take();
        let memory = std::mem::take(&mut self.memory).freeze();
        let len = file.as_ref().map_or(0, |file| file.len) + memory.len() as u64;
        Ok(Stored { memory, file: file.map(Rc::new), len })
    }
}
