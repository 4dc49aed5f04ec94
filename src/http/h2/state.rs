//! What a connection remembers: its streams and windows, what waits to be written, and where in the input it is.
//!
//! In: what the session has understood of a frame. Out: frames in `output`, and streams that are woken. The rule: each
//! stream that lives is in `streams`, in order of its number, until its answer is over and the client has been told.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::load::Load;
use super::output::Output;
use super::session::{Born, End, FULL};
use super::stream::Stream;
use crate::wire::http2::frame::{self, DEFAULT_SIZE, HEAD, MAX_SIZE, MAX_WINDOW, flag};
use crate::wire::http2::hpack::{self, Decoder};
use crate::wire::http2::{Code, FrameHead, Kind, Setting};

/// What changes.
pub(super) struct State {
    pub(super) part: Part,
    pub(super) decoder: Decoder,
    /// By number.
    pub(super) streams: Vec<Rc<Stream>>,
    /// The highest number that the client has used.
    pub(super) last: u32,
    /// What may be sent, all streams together.
    pub(super) window: i64,
    /// What the client may send, all streams together.
    pub(super) receive: u32,
    /// What may be sent on a new stream.
    pub(super) initial: i64,
    /// The largest frame that the client takes.
    pub(super) frame_size: usize,
    /// The client wants to be told what we do with its table.
    pub(super) table_update: bool,
    /// The client knows our settings.
    pub(super) acknowledged: bool,
    /// We have said goodbye: no new streams.
    pub(super) leaving: bool,
    pub(super) output: Output,
    /// Streams that wait for room.
    pub(super) waiting: VecDeque<Rc<Stream>>,
    pub(super) born: Vec<Born>,
    /// Streams that we reset lately: what the client had on the way for them is no fault.
    pub(super) forgiven: VecDeque<u32>,
    pub(super) load: Load,
}

/// Where in the input the next byte belongs.
pub(super) enum Part {
    /// What the client must begin with; so much of it has come.
    Preface(usize),
    Head,
    Data {
        head: FrameHead,
        stream: Rc<Stream>,
        left: u32,
        padding: u32,
    },
    Skip(u32),
    Settings {
        left: u32,
        delta: i64,
    },
    Block(Block),
}

/// Fields that are being collected.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) purpose: Purpose,
    pub(super) fields: hpack::Block,
    /// What came and is not a whole field yet.
    pub(super) rest: BytesMut,
    /// Bytes of the block so far.
    pub(super) size: u64,
    /// Bytes of the frame at hand.
    pub(super) left: u32,
    pub(super) padding: u32,
    /// `END_HEADERS` has not come.
    pub(super) more: bool,
}

/// What a block is for.
pub(super) enum Purpose {
    Request(Rc<Stream>),
    Trailers(Rc<Stream>),
    /// It is read for the table's sake alone.
    Nothing,
}

impl State {
    /// A stream that lives.
    pub(super) fn stream(&self, id: u32) -> Option<Rc<Stream>> {
        let place = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.streams.get(place).cloned()
    }

    pub(super) fn streams(&self) -> &[Rc<Stream>] {
        &self.streams
    }

    /// Forgets all streams.
    pub(super) fn let_go(&mut self) {
        self.streams.clear();
        self.waiting.clear();
        self.born.clear();
        self.part = Part::Head;
    }

    pub(super) fn forget(&mut self, stream: &Stream) {
        if let Ok(place) = self.streams.binary_search_by_key(&stream.id, |stream| stream.id) {
            self.streams.remove(place);
        }
    }

    /// Nobody has opened this stream. Behind a GOAWAY the client may have, and did not know better.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2) || id > self.last && !self.leaving
    }

    /// A frame came for a stream that does not live.
    pub(super) fn closed(&mut self, id: u32, frame: &str) -> Result<(), End> {
        if self.is_idle(id) {
            // RFC 9113, 5.1
            return Err(End::new(Code::Protocol, format!("client sent {frame} frame for idle stream {id}")));
        }
        self.load.count(1)?;
        if id <= self.last && !self.forgiven.contains(&id) {
            self.put_rst_stream(id, Code::StreamClosed);
        }
        Ok(())
    }

    /// Resets a stream that lives; its answer finds out.
    pub(super) fn reset(&mut self, stream: &Stream, code: Code) {
        let already = std::mem::replace(&mut stream.inner.borrow_mut().reset, true);
        if already {
            return;
        }
        self.put_rst_stream(stream.id, code);
        stream.abandon();
    }

    pub(super) fn put_rst_stream(&mut self, id: u32, code: Code) {
        self.output.put(|out| frame::put_rst_stream(id, code, out));
        if self.forgiven.len() >= FORGIVEN {
            self.forgiven.pop_front();
        }
        self.forgiven.push_back(id);
    }

    pub(super) fn put_window_update(&mut self, stream: u32, increment: u32) {
        self.output.put(|out| frame::put_window_update(stream, increment, out));
    }

    /// Sends GOAWAY, once.
    pub(super) fn goodbye(&mut self, code: Code) {
        if !std::mem::replace(&mut self.leaving, true) || code != Code::None {
            let last = self.last;
            self.output.put(|out| frame::put_goaway(last, code, out));
        }
    }

    /// Sends a block of fields, in as many frames as the client wants it in. Says how many bytes that was.
    pub(super) fn put_block(&mut self, id: u32, last: bool, write: impl FnOnce(&mut BytesMut)) -> usize {
        let table_update = std::mem::take(&mut self.table_update);
        let frame_size = self.frame_size;
        let end = if last { flag::END_STREAM } else { 0 };
        let size = self.output.put(|out| {
            let start = out.len();
            let head = FrameHead { len: 0, kind: Kind::Headers, flags: flag::END_HEADERS | end, stream: id };
            head.put(out);
            if table_update {
                crate::wire::http2::hpack::put_table_size_zero(out);
            }
            write(out);
            let len = out.len() - start - HEAD;
            if len <= frame_size {
                if let Some(place) = out.get_mut(start..start + 3) {
                    place.copy_from_slice(&(len as u32).to_be_bytes()[1..]);
                }
                return;
            }
            let block = out.split_off(start + HEAD).freeze();
            out.truncate(start);
            for (n, piece) in block.chunks(frame_size).enumerate() {
                let first = n == 0;
                let done = (n + 1) * frame_size >= block.len();
                let flags = if first { end } else { 0 } | if done { flag::END_HEADERS } else { 0 };
                let kind = if first { Kind::Headers } else { Kind::Continuation };
                FrameHead { len: piece.len() as u32, kind, flags, stream: id }.put(out);
                out.put_slice(piece);
            }
        });
        self.load.total += size as u64;
        self.load.payload += size as u64;
        size
    }

    /// So much of a body was sent in a frame.
    pub(super) fn sent(&mut self, len: usize) {
        self.load.total += (len + HEAD) as u64;
        self.load.payload += len as u64;
        // A client that grants a byte at a time gets no credit for the frames that it makes of them.
        self.load.updates = self.load.updates.saturating_sub((len / 16).min(4) as u32);
    }

    pub(super) fn setting(&mut self, id: u16, value: u32) -> Result<(), End> {
        let wrong = |name: &str| format!("client sent SETTINGS frame with incorrect {name} value {value}");
        match Setting::of(id) {
            Some(Setting::InitialWindowSize) => {
                if value > MAX_WINDOW {
                    return Err(End::new(Code::FlowControl, wrong("INITIAL_WINDOW_SIZE")));
                }
                let difference = i64::from(value) - self.initial;
                if let Part::Settings { delta, .. } = &mut self.part {
                    *delta = difference;
                }
            }
            Some(Setting::MaxFrameSize) => {
                if !(DEFAULT_SIZE..=MAX_SIZE).contains(&value) {
                    return Err(End::new(Code::Protocol, wrong("MAX_FRAME_SIZE")));
                }
                self.frame_size = value as usize;
            }
            Some(Setting::EnablePush) if value > 1 => {
                return Err(End::new(Code::Protocol, wrong("ENABLE_PUSH")));
            }
            Some(Setting::HeaderTableSize) => self.table_update = true,
            Some(Setting::EnablePush | Setting::MaxConcurrentStreams | Setting::EnableConnectProtocol) | None => {}
        }
        Ok(())
    }

    /// The client has changed what new streams, and those that there are, may send.
    pub(super) fn shift_windows(&mut self, delta: i64) {
        if delta == 0 {
            return;
        }
        self.initial += delta;
        for stream in self.streams.clone() {
            let fits = {
                let inner = &mut *stream.inner.borrow_mut();
                inner.window += delta;
                if inner.window > 0 {
                    inner.wake();
                }
                inner.window <= i64::from(MAX_WINDOW)
            };
            if !fits {
                self.reset(&stream, Code::FlowControl);
            }
        }
    }

    /// WINDOW_UPDATE
    pub(super) fn widened(&mut self, id: u32, increment: u32) -> Result<(), End> {
        self.load.updates += 1;
        if self.load.updates > UPDATES {
            self.load.updates = 0;
            self.load.count(UPDATES)?;
        }
        if increment == 0 {
            let why = "client sent WINDOW_UPDATE frame with incorrect window increment 0";
            return Err(End::new(Code::Protocol, why));
        }
        if id == 0 {
            if i64::from(increment) > i64::from(MAX_WINDOW) - self.window {
                let why = format!(
                    "client violated connection flow control: received WINDOW_UPDATE frame with window increment \
                     {increment} not allowed for window {}",
                    self.window
                );
                return Err(End::new(Code::FlowControl, why));
            }
            self.window += i64::from(increment);
            self.make_room();
            return Ok(());
        }
        let Some(stream) = self.stream(id) else {
            if self.is_idle(id) {
                return Err(End::new(Code::Protocol, format!("client sent WINDOW_UPDATE frame for idle stream {id}")));
            }
            return Ok(());
        };
        let fits = {
            let inner = &mut *stream.inner.borrow_mut();
            let fits = i64::from(increment) <= i64::from(MAX_WINDOW) - inner.window;
            if fits {
                inner.window += i64::from(increment);
                inner.wake();
            }
            fits
        };
        if !fits {
            self.reset(&stream, Code::FlowControl);
        }
        Ok(())
    }

    /// Those who wait for room look again, if there is some.
    pub(super) fn make_room(&mut self) -> bool {
        if self.window <= 0 || self.output.len() >= FULL / 2 || self.waiting.is_empty() {
            return false;
        }
        for stream in self.waiting.drain(..) {
            let inner = &mut *stream.inner.borrow_mut();
            inner.queued = false;
            inner.wake();
        }
        true
    }
}

/// So many of the streams that we reset are remembered.
const FORGIVEN: usize = 64;
/// A client answers each frame of a body with a window update or two; what goes beyond counts.
const UPDATES: u32 = 1000;
