//! A body on its way from the upstream to the client.
//!
//! In: the upstream's connection and what of the body came with the head. Out: pieces, as the client takes them. While
//! the client is slow, buffered bodies are read on: into memory as far as `*_buffers` go, then into a temporary file up
//! to `*_max_temp_file_size`, whose parts go out as file pieces. An unbuffered body is read as fast as it is taken.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;

use super::cache::keep::Copy;
use super::codec::{Codec, Flow};
use super::exchange::{At, action};
use super::reply::Reply;
use super::settings::Settings;
use super::store::Keeper;
use crate::base::temp::Refused;
use crate::base::text::errno;
use crate::base::units;
use crate::base::{buffers, clock};
use crate::http::body::{Broken, FilePiece, Next, Piece, Source, Spliced};
use crate::http::open_file::OpenFile;
use crate::http::response::{Field, Replied};
use crate::log::Level;
use crate::net::io::Io;
use crate::net::pipe::Pipe;
use crate::net::timer::Timer;

/// See the module's head. It outlives the client only where the answer is to be stored.
pub struct Relay<C: Codec>(Option<Box<Inner<C>>>);

struct Inner<C> {
    at: At,
    settings: Arc<Settings>,
    codec: C,
    replied: Arc<Replied>,
    input: BytesMut,
    /// What waits for the client.
    queue: VecDeque<Piece>,
    /// Bytes of `queue` that are in memory.
    memory: usize,
    temp: Option<Temp>,
    /// The disk has refused: what waits stays in memory, and the upstream is read as fast as the client takes it.
    refused: bool,
    /// The cache file that is being made of it, for a client that is slower than the upstream.
    kept: Option<Arc<OpenFile>>,
    state: State,
    /// The whole request was sent, so the connection can be kept.
    body_sent: bool,
    buffering: bool,
    /// A 101 that nobody asked for: nothing behind it is shown until the upstream has closed, as nginx's buffers have it.
    hold: bool,
    pace: Option<Pace>,
    copy: Option<Copy>,
    /// A client that goes away takes the upstream's connection with it.
    minds_client: bool,
    /// While bytes pass that nobody looks at.
    pipe: Option<Pipe>,
    /// The upstream's connection is readable when so many bytes are there.
    readable_at: u32,
    /// The last time that buffers were waited for they were not full by the end of [`HOLD`].
    trickles: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Broken,
}

/// The temporary file of one body.
struct Temp {
    file: Arc<OpenFile>,
    /// Its name, which nothing else has any more.
    path: PathBuf,
    len: u64,
}

/// The most that is read at once.
const READ: usize = 256 * 1024;

/// Less than this is copied.
const SPLICE: usize = 16 * 1024;

/// So long half of the buffers may take to be full before what is there goes on.
const HOLD: Duration = Duration::from_millis(20);

/// What is there when the body's relay begins.
pub struct Start {
    pub at: At,
    pub settings: Arc<Settings>,
    /// What was read and not yet understood.
    pub input: BytesMut,
    /// What of the body came with the head, and whether that is all.
    pub queue: VecDeque<Piece>,
    pub flow: Flow,
    /// The whole request was sent.
    pub body_sent: bool,
}

impl<C: Codec> Relay<C> {
    pub fn new(start: Start, codec: C, buffering: bool, reply: &Reply, copy: Option<Copy>) -> Self {
        let Start { at, settings, input, queue, flow, body_sent } = start;
        let pace = settings.limit_rate.as_ref().filter(|_| buffering).and_then(|template| {
            let text = template.eval(at.request.as_ref());
            let rate = units::size(std::str::from_utf8(&text).ok()?).filter(|rate| *rate > 0)?;
            Some(Pace { rate, read: 0, started: clock::seconds(), timer: Timer::default(), rest: None })
        });
        let copy = copy.or_else(|| Keeper::new(&at.request, &settings, reply).map(Copy::File));
        let minds_client = settings.minds_client() && copy.is_none();
        let mut inner = Box::new(Inner {
            at,
            settings,
            codec,
            replied: reply.replied.clone(),
            input,
            queue,
            memory: 0,
            temp: None,
            refused: false,
            kept: None,
            state: State::Reading,
            body_sent,
            buffering,
            hold: buffering && reply.status == 101,
            pace,
            copy,
            minds_client,
            pipe: None,
            readable_at: 1,
            trickles: false,
        });
        inner.took(0, flow);
        Self(Some(inner))
    }
}

impl<C: Codec> Source for Relay<C> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let Some(inner) = &mut self.0 else { return Poll::Ready(Ok(None)) };
        inner.surface();
        loop {
            if inner.hold && inner.state == State::Reading && inner.memory < inner.settings.buffers.total() {
                ready!(inner.poll_input(cx));
                continue;
            }
            if inner.hold && inner.state == State::Broken {
                return Poll::Ready(Err(Broken));
            }
            if let Some(piece) = inner.queue.pop_front() {
                if let Piece::Mem(bytes) = &piece {
                    inner.memory = inner.memory.saturating_sub(bytes.len());
                }
                return Poll::Ready(Ok(Some(piece)));
            }
            match inner.state {
                State::Reading => ready!(inner.poll_input(cx)),
                State::Ended => return Poll::Ready(Ok(None)),
                State::Broken => return Poll::Ready(Err(Broken)),
            }
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        let Some(inner) = &mut self.0 else { return };
        if !inner.buffering {
            return;
        }
        while inner.state == State::Reading && inner.makes_room() {
            if inner.poll_input(cx).is_pending() {
                return;
            }
        }
        if let (State::Reading, Some(link)) = (inner.state, &mut inner.at.link) {
            // Nothing is being waited for: the client's slowness is not the upstream's.
            link.timer.disarm();
        }
    }

    fn may_splice(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.may_splice())
    }

    fn poll_splice(&mut self, cx: &mut Context<'_>, client: &Io, limit: u64) -> Spliced {
        let Some(inner) = &mut self.0 else { return Spliced::Not };
        inner.poll_splice(cx, client, limit)
    }

    fn promises_trailers(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.codec.has_trailers())
    }

    fn trailers(&mut self) -> Vec<Field> {
        let Some(inner) = &mut self.0 else { return Vec::new() };
        let hide = &inner.settings.hide;
        inner.replied.trailers.get().into_iter().flatten().filter(|field| !hide.has(&field.name)).cloned().collect()
    }
}

impl<C: Codec> Drop for Relay<C> {
    fn drop(&mut self) {
        // nginx: what is being stored is read to its end, though nobody takes it any more.
        if let Some(mut inner) = self.0.take_if(|inner| inner.state == State::Reading && inner.copy.is_some()) {
            tokio::task::spawn_local(async move {
                std::future::poll_fn(|cx| {
                    while inner.state == State::Reading {
                        ready!(inner.poll_input(cx));
                        inner.queue.clear();
                        inner.memory = 0;
                    }
                    Poll::Ready(())
                })
                .await;
            });
        }
    }
}

impl<C: Codec> Inner<C> {
    /// Nobody needs to see what comes next, and there is enough of it.
    fn may_splice(&self) -> bool {
        let idle = self.queue.is_empty() && self.input.is_empty() && self.temp.is_none();
        let free = self.copy.is_none() && self.pace.is_none() && !self.hold;
        self.state == State::Reading && idle && free && !self.is_secure() && self.codec.plain() >= SPLICE as u64
    }

    /// What comes is not what the socket has.
    fn is_secure(&self) -> bool {
        self.at.link.as_ref().is_none_or(|link| link.io.is_secure())
    }

    /// Moves bytes from the upstream to the client through a pipe: a body of known length that is not kept, not slowed
    /// and not changed. A buffered body comes back to memory when the client is slow, to be read ahead.
    fn poll_splice(&mut self, cx: &mut Context<'_>, client: &Io, limit: u64) -> Spliced {
        let half = self.half();
        loop {
            if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
                return match pipe.poll_pour(cx, client) {
                    Poll::Ready(Ok(moved)) => Spliced::Moved(moved as u64),
                    Poll::Ready(Err(error)) => Spliced::Failed(error),
                    Poll::Pending if self.buffering => {
                        self.surface();
                        Spliced::Not
                    }
                    Poll::Pending => Spliced::Full,
                };
            }
            if client.is_secure() || !self.may_splice() {
                return Spliced::Not;
            }
            let plain = self.codec.plain().min(limit);
            let Ok(pipe) = self.pipe.take().map_or_else(Pipe::take, Ok) else { return Spliced::Not };
            let pipe = self.pipe.insert(pipe);
            let Some(link) = &mut self.at.link else { return Spliced::Not };
            // A short rest goes with what is before it: by itself it would have to be copied, in two calls of its own.
            let most = self.settings.buffers.total();
            let rest = usize::try_from(plain).unwrap_or(usize::MAX);
            let limit = if rest < most.saturating_add(SPLICE) { rest } else { most };
            match pipe.poll_fill(cx, &link.io, limit) {
                Poll::Pending => {
                    return match self.poll_patience(cx) {
                        Poll::Pending => Spliced::Waits,
                        Poll::Ready(()) => Spliced::Not,
                    };
                }
                Poll::Ready(Ok(0)) => {
                    self.closed();
                    return Spliced::Not;
                }
                Poll::Ready(Ok(read)) => {
                    link.timer.disarm();
                    self.trickles &= read < half;
                    self.codec.passed(read as u64);
                    // Something that is no body may follow, and be here already.
                    let ended = self.codec.expected() == 0;
                    if ended {
                        link.io.drained();
                    }
                    self.at.note(|attempt| {
                        attempt.bytes_received += read as u64;
                        attempt.response_length += read as u64;
                    });
                    if ended {
                        self.end();
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.at.log(Level::Error, format_args!("splice() failed {}", errno(&error)), action::BODY);
                    self.fail();
                    return Spliced::Not;
                }
            }
        }
    }

    /// What is in the pipe becomes a piece like any other.
    fn surface(&mut self) {
        let Some(mut pipe) = self.pipe.take().filter(|pipe| !pipe.is_empty()) else { return };
        match pipe.drain() {
            Ok(bytes) => {
                self.memory += bytes.len();
                self.queue.push_back(Piece::Mem(bytes.freeze()));
            }
            Err(error) => {
                self.at.log(Level::Alert, format_args!("read() of a pipe failed {}", errno(&error)), action::BODY);
                self.fail();
            }
        }
    }

    /// A buffered body of known length goes on when half of the buffers is full of it, or all that is left is there: so a long one
    /// is moved in few pieces. But what is there waits no longer than [`HOLD`].
    fn wait_for_buffers(&mut self) {
        let left = usize::try_from(self.codec.plain()).unwrap_or(usize::MAX);
        let full = self.half().min(left);
        let waits = self.buffering && full >= SPLICE && !self.is_secure() && !self.trickles && self.pace.is_none();
        self.set_readable_at(if waits { u32::try_from(full).unwrap_or(u32::MAX) } else { 1 });
    }

    /// What is waited for where it comes fast enough.
    fn half(&self) -> usize {
        self.settings.buffers.total() / 2
    }

    /// `false`: the system refused.
    fn set_readable_at(&mut self, bytes: u32) -> bool {
        if bytes != self.readable_at {
            let set = self.at.link.as_ref().is_some_and(|link| link.io.socket().set_readable_at(bytes).is_ok());
            if !set {
                return false;
            }
            self.readable_at = bytes;
        }
        true
    }

    /// Nothing comes from the upstream: whether that is still borne.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.minds_client && self.at.request.poll_gone(cx).is_ready() {
            let message = format_args!("client prematurely closed connection, so upstream connection is closed too");
            self.at.log(Level::Info, message, action::BODY);
            self.fail();
            return Poll::Ready(());
        }
        self.wait_for_buffers();
        let Some(link) = &mut self.at.link else { return Poll::Pending };
        if self.readable_at > 1 {
            ready!(link.timer.poll(cx, HOLD));
            link.timer.disarm();
            self.trickles = true;
            self.set_readable_at(1);
        }
        let Some(link) = &mut self.at.link else { return Poll::Pending };
        ready!(link.timer.poll(cx, self.settings.read_timeout));
        self.at.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"), action::BODY);
        self.fail();
        Poll::Ready(())
    }

    /// Reads once, and takes what came apart. Ready when something changed.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut limit = usize::MAX;
        if let Some(pace) = &mut self.pace {
            limit = ready!(pace.poll(cx));
        }
        let Some(link) = &mut self.at.link else {
            self.state = State::Broken;
            return Poll::Ready(());
        };
        let most = if self.buffering { self.settings.buffers.total().min(READ) } else { self.settings.buffer_size };
        if link.io.poll_readable(cx).is_pending() {
            // Who waits has no buffer.
            if self.input.is_empty() {
                buffers::give_back(std::mem::take(&mut self.input), most);
            }
            return self.poll_patience(cx);
        }
        let want = usize::try_from(self.codec.expected()).unwrap_or(usize::MAX).clamp(1, most).min(limit);
        if self.input.capacity() == 0 {
            self.input = buffers::borrow(want);
        }
        // What is left of the last buffer is used up, unless that would make for many small reads.
        if self.input.capacity() - self.input.len() < want.min(most / 4 + 1) || limit != usize::MAX {
            self.input.reserve(want);
        }
        let read = match link.io.poll_read_at_most(cx, &mut self.input, limit) {
            Poll::Pending => return self.poll_patience(cx),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => {
                self.at.log(Level::Error, format_args!("recv() failed {}", errno(&error)), action::BODY);
                self.fail();
                return Poll::Ready(());
            }
        };
        link.timer.disarm();
        if read == 0 {
            self.closed();
            return Poll::Ready(());
        }
        self.trickles &= read < self.half();
        if let Some(pace) = &mut self.pace {
            pace.took(read as u64);
        }
        self.at.note(|attempt| {
            attempt.bytes_received += read as u64;
            attempt.response_length += read as u64;
        });
        self.digest();
        Poll::Ready(())
    }

    /// The upstream has closed.
    fn closed(&mut self) {
        if self.codec.ends_with_connection() {
            self.at.link = None;
            self.end();
            return;
        }
        self.at.log(Level::Error, format_args!("upstream prematurely closed connection"), action::BODY);
        self.fail();
    }

    /// It comes to no good end, but it has begun well.
    fn cut(&mut self) {
        self.fail();
        self.queue.push_back(Piece::Flush);
    }

    fn fail(&mut self) {
        self.state = State::Broken;
        self.copy = None;
        self.at.link = None;
        self.at.finish(None);
    }

    /// Takes what came apart.
    fn digest(&mut self) {
        let before = self.queue.len();
        let flow = self.codec.body(&self.at.request, &mut self.input, &mut self.queue);
        self.took(before, flow);
    }

    /// Counts the pieces from `before` on, and goes where the body goes.
    fn took(&mut self, before: usize, flow: Flow) {
        for n in before..self.queue.len() {
            self.memory += usize::try_from(self.queue[n].len()).unwrap_or(usize::MAX);
            if let (Some(copy), Piece::Mem(bytes)) = (&mut self.copy, &self.queue[n]) {
                copy.write(&self.at.request, bytes);
            }
        }
        if !self.buffering && self.queue.len() > before {
            self.queue.push_back(Piece::Flush);
        }
        match flow {
            Flow::More => {}
            Flow::End => self.end(),
            Flow::Cut => self.cut(),
            Flow::Broken => self.fail(),
        }
    }

    /// The body has ended.
    fn end(&mut self) {
        self.state = State::Ended;
        let _ = self.replied.trailers.set(self.codec.take_trailers()); // a body ends once
        if self.codec.is_reusable() && self.body_sent && self.input.is_empty() && self.set_readable_at(1) {
            self.at.keep(Arc::as_ptr(&self.settings) as usize);
        }
        self.at.link = None;
        self.at.finish(None);
        if let Some(copy) = self.copy.take() {
            copy.finish(&self.at.request, &self.settings);
        }
    }

    /// Whether more may be read though the client takes nothing. Memory that is full goes to the file.
    fn makes_room(&mut self) -> bool {
        if self.memory < self.settings.buffers.total() || self.leave_to_cache() {
            return true;
        }
        let limit = self.settings.max_temp_file_size;
        if self.refused || self.temp.as_ref().map_or(0, |temp| temp.len) >= limit {
            return false;
        }
        if let Err(refused) = self.spill() {
            self.at.log(Level::Crit, format_args!("{refused}"), action::BODY);
            self.refused = true;
        }
        !self.refused
    }

    /// What waits in memory is in the cache file too, or will be at once: the client has it from there when it is ready. So
    /// a slow client holds up nobody who waits for the same answer, and nothing is written twice. nginx: `p->cacheable`.
    fn leave_to_cache(&mut self) -> bool {
        let Some((file, end)) = self.copy.as_mut().and_then(|copy| copy.on_disk(&self.at.request)) else {
            return false;
        };
        let kept = match &self.kept {
            Some(kept) => kept.clone(),
            None => match file.try_clone() {
                Ok(file) => self.kept.insert(Arc::new(file.into())).clone(),
                Err(_) => return false, // there is still the temporary file
            },
        };
        let waits = self.queue.iter().rposition(|piece| matches!(piece, Piece::File(_))).map_or(0, |n| n + 1);
        let len = self.queue.drain(waits..).map(|piece| piece.len()).sum::<u64>();
        self.memory = 0;
        self.put_part(waits, FilePiece { file: kept, offset: end.saturating_sub(len), len });
        true
    }

    /// Part of a file is the piece at this place of the queue, or goes with the one before.
    fn put_part(&mut self, at: usize, part: FilePiece) {
        match at.checked_sub(1).and_then(|before| self.queue.get_mut(before)) {
            Some(Piece::File(last)) if Arc::ptr_eq(&last.file, &part.file) && last.offset + last.len == part.offset => {
                last.len += part.len;
            }
            _ => self.queue.insert(at, Piece::File(part)),
        }
    }

    /// Moves what waits in memory behind the last piece of the file into it, as far as the disk takes it.
    fn spill(&mut self) -> Result<(), Refused> {
        let temp = match &mut self.temp {
            Some(temp) => temp,
            None => {
                let (file, path) = self.settings.temp_path.create()?;
                let _ = std::fs::remove_file(&path); // as nginx: whether that works or not
                let message = format_args!(
                    "an upstream response is buffered to a temporary file {} while {}",
                    path.display(),
                    action::BODY
                );
                self.at.request.log(Level::Warn, message);
                self.temp.insert(Temp { file: Arc::new(file.into()), path, len: 0 })
            }
        };
        let first = self.queue.iter().rposition(|piece| matches!(piece, Piece::File(_))).map_or(0, |n| n + 1);
        let (offset, mut end, mut done) = (temp.len, first, Ok(()));
        for piece in self.queue.range(first..) {
            if let Piece::Mem(bytes) = piece {
                if let Err(error) = temp.file.write_all_at(bytes, temp.len) {
                    done = Err(Refused { call: "pwritev", path: temp.path.clone(), error });
                    break;
                }
                temp.len += bytes.len() as u64;
                self.memory = self.memory.saturating_sub(bytes.len());
            }
            end += 1;
        }
        let part = FilePiece { file: temp.file.clone(), offset, len: temp.len - offset };
        self.queue.drain(first..end);
        if part.len > 0 {
            self.put_part(first, part);
        }
        done
    }
}

/// `*_limit_rate`: how fast an upstream is read.
struct Pace {
    rate: u64,
    read: u64,
    started: u64,
    timer: Timer,
    /// How long nothing is read after the last read.
    rest: Option<Duration>,
}

impl Pace {
    /// How much may be read now. nginx counts whole seconds and grants one ahead.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(rest) = self.rest {
                ready!(self.timer.poll(cx, rest));
                self.timer.disarm();
                self.rest = None;
            }
            let seconds = clock::seconds().saturating_sub(self.started) + 1;
            let granted = self.rate.saturating_mul(seconds);
            match granted.checked_sub(self.read) {
                Some(bytes @ 1..) => return Poll::Ready(usize::try_from(bytes).unwrap_or(usize::MAX)),
                _ => {
                    let over = self.read.saturating_sub(granted);
                    self.rest = Some(Duration::from_millis(over.saturating_mul(1000) / self.rate + 1));
                }
            }
        }
    }

    fn took(&mut self, read: u64) {
        self.read += read;
        let rest = Duration::from_millis(read.saturating_mul(1000) / self.rate);
        self.rest = (!rest.is_zero()).then_some(rest);
    }
}
