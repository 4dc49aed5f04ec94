//! The frames of one connection: who may send what, and what each frame does.
//!
//! In: bytes as they come, cut anywhere. Out: streams that begin, grow and end, and frames that answer at once. RFC 9113, 5
//! and 6. The rule: nothing waits here for a whole frame but the head of one, small ones and blocks of fields, and the
//! last are bounded by `large_client_header_buffers`; every other way to make us work for nothing is counted, and whoever
//! overdoes it is sent away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};

use super::head;
use super::load::Load;
use super::output::Output;
use super::state::{Block, Part, Purpose, State};
use super::stream::Stream;
use crate::http::connection::Connection;
use crate::http::response::Field;
use crate::log::Level;
use crate::wire::http1::request::HTTP2_PREFACE;
use crate::wire::http2::frame::{self, DEFAULT_SIZE, DEFAULT_WINDOW, HEAD, MAX_SIZE, MAX_WINDOW, flag};
use crate::wire::http2::hpack::{self, Bad, Decoder, Fields, Limits};
use crate::wire::http2::{Code, FrameHead, Kind, Setting};

/// nginx's phrase for the log.
pub(super) const PROCESSING: &str = "processing HTTP/2 connection";

/// When so much waits to be written, bodies wait and nothing more is read.
pub(super) const FULL: usize = 128 * 1024;

/// See the module's head.
pub(super) struct Session {
    pub(super) connection: Rc<Connection>,
    pub(super) state: RefCell<State>,
    limits: Limits,
    /// `http2_max_concurrent_streams`
    concurrent: u32,
    /// `http2_body_preread_size`
    preread: u32,
}

/// The connection must end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) code: Code,
    pub(super) why: String,
}

impl End {
    pub(super) fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

/// A request that has begun and waits for its answer.
pub(super) struct Born {
    pub(super) request: Rc<crate::http::request::Request>,
    pub(super) stream: Rc<Stream>,
    pub(super) refused: Option<head::Refused>,
}

impl Session {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        let server = connection.default_server();
        let large = server.settings.large_buffers();
        let limits = Limits { text: large.size, total: large.total() };
        let (concurrent, preread) = (server.http2.max_concurrent_streams, server.http2.body_preread_size);
        let mut state = State {
            part: Part::Preface(0),
            decoder: Decoder::default(),
            streams: Vec::new(),
            last: 0,
            window: i64::from(DEFAULT_WINDOW),
            receive: MAX_WINDOW,
            initial: i64::from(DEFAULT_WINDOW),
            frame_size: DEFAULT_SIZE as usize,
            table_update: false,
            acknowledged: false,
            leaving: false,
            output: Output::default(),
            waiting: VecDeque::new(),
            born: Vec::new(),
            forgiven: VecDeque::new(),
            load: Load::default(),
        };
        let settings = [
            (Setting::MaxConcurrentStreams, concurrent),
            (Setting::InitialWindowSize, preread),
            (Setting::MaxFrameSize, MAX_SIZE),
            (Setting::EnableConnectProtocol, 1), // RFC 8441
        ];
        state.output.put(|out| frame::put_settings(&settings, out));
        state.put_window_update(0, MAX_WINDOW - DEFAULT_WINDOW);
        Self { connection, state: RefCell::new(state), limits, concurrent, preread }
    }

    /// Takes what it can of `input`; the rest is wanted again with more behind it.
    pub(super) fn feed(self: &Rc<Self>, input: &[u8]) -> Result<usize, End> {
        let state = &mut *self.state.borrow_mut();
        state.load.fresh = 0;
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            match self.step(state, rest)? {
                Some(used) => at += used,
                None => break,
            }
        }
        state.load.total += at as u64;
        if state.load.total / 8 > state.load.payload + FLOOD {
            return Err(End::new(Code::None, "http2 flood detected"));
        }
        Ok(at)
    }

    /// Takes the next piece; `None` when there is too little of it.
    fn step(self: &Rc<Self>, state: &mut State, rest: &[u8]) -> Result<Option<usize>, End> {
        match &mut state.part {
            Part::Preface(come) => {
                let wanted = HTTP2_PREFACE.get(*come..).unwrap_or_default();
                let used = wanted.len().min(rest.len());
                if rest.get(..used) != wanted.get(..used) {
                    return Err(End::new(Code::Protocol, "invalid connection preface"));
                }
                *come += used;
                if *come < HTTP2_PREFACE.len() {
                    return Ok((used > 0).then_some(used));
                }
                state.part = Part::Head;
                Ok(Some(used))
            }
            Part::Head => {
                let Some(head) = FrameHead::parse(rest) else { return Ok(None) };
                let payload = rest.get(HEAD..).unwrap_or_default();
                Ok(self.begin(state, head, payload)?.map(|used| HEAD + used))
            }
            Part::Skip(left) => {
                let used = (*left).min(u32::try_from(rest.len()).unwrap_or(u32::MAX));
                *left -= used;
                if *left > 0 {
                    return Ok((used > 0).then_some(used as usize));
                }
                state.part = Part::Head;
                Ok(Some(used as usize))
            }
            Part::Data { head, stream, left, padding } => {
                let used = (*left).min(u32::try_from(rest.len()).unwrap_or(u32::MAX));
                stream.take_in(rest.get(..used as usize).unwrap_or_default());
                *left -= used;
                state.load.payload += u64::from(used);
                if *left > 0 {
                    return Ok((used > 0).then_some(used as usize));
                }
                if head.has(flag::END_STREAM) {
                    stream.end_in(Vec::new());
                }
                state.part = Part::Skip(*padding);
                Ok(Some(used as usize))
            }
            Part::Settings { left, delta } => {
                if *left == 0 {
                    let delta = *delta;
                    state.part = Part::Head;
                    state.output.put(frame::put_settings_ack);
                    state.shift_windows(delta);
                    return Ok(Some(0));
                }
                let Some(&[a, b, v0, v1, v2, v3]) = rest.first_chunk() else { return Ok(None) };
                *left = left.saturating_sub(6);
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                state.setting(u16::from_be_bytes([a, b]), value)?;
                Ok(Some(6))
            }
            Part::Block(_) => self.block(state, rest),
        }
    }

    /// A frame begins. Says how much of its payload was used.
    fn begin(self: &Rc<Self>, state: &mut State, head: FrameHead, payload: &[u8]) -> Result<Option<usize>, End> {
        match head.kind {
            Kind::Data => self.data(state, head, payload),
            Kind::Headers => self.headers(state, head, payload),
            Kind::Priority => {
                check_len(&head, 5, "PRIORITY")?;
                let Some(&[d0, d1, d2, d3, _]) = payload.first_chunk() else { return Ok(None) };
                state.load.count(1)?;
                if head.stream == 0 {
                    return Err(wrong_stream("PRIORITY"));
                }
                depends(&head, u32::from_be_bytes([d0, d1, d2, d3]), "PRIORITY")?;
                Ok(Some(5))
            }
            Kind::RstStream => {
                check_len(&head, 4, "RST_STREAM")?;
                let Some(&code) = payload.first_chunk() else { return Ok(None) };
                if head.stream == 0 {
                    return Err(wrong_stream("RST_STREAM"));
                }
                self.was_reset(state, head.stream, u32::from_be_bytes(code))?;
                Ok(Some(4))
            }
            Kind::Settings => {
                if head.stream != 0 {
                    return Err(wrong_stream("SETTINGS"));
                }
                if head.has(flag::ACK) {
                    if head.len != 0 {
                        let why = "client sent SETTINGS frame with the ACK flag and nonzero length";
                        return Err(End::new(Code::FrameSize, why));
                    }
                    state.acknowledged = true;
                    state.load.count(1)?;
                    return Ok(Some(0));
                }
                if !head.len.is_multiple_of(6) {
                    return Err(wrong_len(&head, "SETTINGS"));
                }
                state.load.count(1 + head.len / 6)?;
                state.part = Part::Settings { left: head.len, delta: 0 };
                Ok(Some(0))
            }
            Kind::PushPromise => Err(End::new(Code::Protocol, "client sent PUSH_PROMISE frame")),
            Kind::Ping => {
                check_len(&head, 8, "PING")?;
                let Some(&opaque) = payload.first_chunk() else { return Ok(None) };
                if head.stream != 0 {
                    return Err(wrong_stream("PING"));
                }
                state.load.count(1)?;
                if !head.has(flag::ACK) {
                    state.output.put(|out| frame::put_ping_ack(opaque, out));
                }
                Ok(Some(8))
            }
            Kind::GoAway => {
                if head.len < 8 {
                    return Err(wrong_len(&head, "GOAWAY"));
                }
                if head.stream != 0 {
                    return Err(wrong_stream("GOAWAY"));
                }
                state.load.count(1)?;
                state.part = Part::Skip(head.len);
                Ok(Some(0))
            }
            Kind::WindowUpdate => {
                check_len(&head, 4, "WINDOW_UPDATE")?;
                let Some(&increment) = payload.first_chunk() else { return Ok(None) };
                state.widened(head.stream, u32::from_be_bytes(increment) & MAX_WINDOW)?;
                Ok(Some(4))
            }
            Kind::Continuation => Err(End::new(Code::Protocol, "client sent unexpected CONTINUATION frame")),
            Kind::Unknown(kind) => {
                let message = format_args!("client sent frame with unknown type {kind}");
                self.connection.log(Level::Info, PROCESSING, message);
                state.load.count(1)?;
                state.part = Part::Skip(head.len);
                Ok(Some(0))
            }
        }
    }

    fn data(&self, state: &mut State, head: FrameHead, payload: &[u8]) -> Result<Option<usize>, End> {
        let size = head.len;
        let mut used = 0;
        let mut padding = 0;
        if head.has(flag::PADDED) {
            if size == 0 {
                let why = "client sent padded DATA frame with incorrect length: 0";
                return Err(End::new(Code::FrameSize, why));
            }
            let Some(&byte) = payload.first() else { return Ok(None) };
            padding = u32::from(byte);
            if padding >= size {
                let why = format!("client sent padded DATA frame with incorrect length: {size}, padding: {padding}");
                return Err(End::new(Code::Protocol, why));
            }
            used = 1;
        }
        if head.stream == 0 {
            return Err(wrong_stream("DATA"));
        }
        if size > state.receive {
            let receive = state.receive;
            let why = format!(
                "client violated connection flow control: received DATA frame length {size}, available window {receive}"
            );
            return Err(End::new(Code::FlowControl, why));
        }
        state.receive -= size;
        if state.receive < MAX_WINDOW / 4 {
            state.put_window_update(0, MAX_WINDOW - state.receive);
            state.receive = MAX_WINDOW;
        }
        if size <= padding + 1 && !head.has(flag::END_STREAM) {
            state.load.count(1)?; // it says nothing
        }
        let skip = Part::Skip(size - used);
        let Some(stream) = state.stream(head.stream) else {
            state.closed(head.stream, "DATA")?;
            state.part = skip;
            return Ok(Some(used as usize));
        };
        let (allowed, in_closed, gone) = {
            let inner = stream.inner.borrow();
            (inner.receive, inner.in_closed, inner.gone)
        };
        if size > allowed {
            let message = format_args!(
                "client violated flow control for stream {}: received DATA frame length {size}, available window {allowed}",
                head.stream
            );
            self.connection.log(Level::Info, PROCESSING, message);
            state.reset(&stream, Code::FlowControl);
            state.part = skip;
            return Ok(Some(used as usize));
        }
        if in_closed {
            if !gone {
                let message = format_args!("client sent DATA frame for half-closed stream {}", head.stream);
                self.connection.log(Level::Info, PROCESSING, message);
                state.reset(&stream, Code::StreamClosed);
            }
            state.part = skip;
            return Ok(Some(used as usize));
        }
        let again = {
            let inner = &mut *stream.inner.borrow_mut();
            inner.receive -= size;
            let again = inner.is_hurried() && inner.receive < MAX_WINDOW / 4;
            again.then(|| MAX_WINDOW - std::mem::replace(&mut inner.receive, MAX_WINDOW))
        };
        if let Some(again) = again {
            state.put_window_update(head.stream, again);
        }
        state.part = Part::Data { head, stream, left: size - used - padding, padding };
        Ok(Some(used as usize))
    }

    fn headers(self: &Rc<Self>, state: &mut State, head: FrameHead, payload: &[u8]) -> Result<Option<usize>, End> {
        let (padded, priority) = (head.has(flag::PADDED), head.has(flag::PRIORITY));
        let size = u32::from(padded) + if priority { 5 } else { 0 };
        if head.len < size {
            return Err(wrong_len(&head, "HEADERS"));
        }
        if head.len == size {
            return Err(End::new(Code::FrameSize, "client sent HEADERS frame with empty header block"));
        }
        let Some(mut prefix) = payload.get(..size as usize) else { return Ok(None) };
        let mut left = head.len - size;
        let mut padding = 0;
        if padded && let Some((byte, rest)) = prefix.split_first() {
            padding = u32::from(*byte);
            prefix = rest;
            if padding > left {
                let why = format!("client sent padded HEADERS frame with incorrect length: {left}, padding: {padding}");
                return Err(End::new(Code::Protocol, why));
            }
            left -= padding;
        }
        if let Some(&[d0, d1, d2, d3]) = prefix.first_chunk() {
            depends(&head, u32::from_be_bytes([d0, d1, d2, d3]), "HEADERS")?;
        }
        let purpose = self.purpose(state, &head)?;
        state.part = Part::Block(Block {
            stream: head.stream,
            end_stream: head.has(flag::END_STREAM),
            purpose,
            fields: hpack::Block::new(self.limits),
            rest: BytesMut::new(),
            size: 0,
            left,
            padding,
            more: !head.has(flag::END_HEADERS),
        });
        Ok(Some(size as usize))
    }

    /// What a HEADERS frame is for.
    fn purpose(self: &Rc<Self>, state: &mut State, head: &FrameHead) -> Result<Purpose, End> {
        if head.stream.is_multiple_of(2) || head.stream <= state.last {
            if let Some(stream) = state.stream(head.stream) {
                let (in_closed, gone) = {
                    let inner = stream.inner.borrow();
                    (inner.in_closed, inner.gone)
                };
                return Ok(match (gone, in_closed) {
                    (true, _) => Purpose::Nothing,
                    (false, true) => {
                        let message = format_args!("client sent HEADERS frame for half-closed stream {}", head.stream);
                        self.connection.log(Level::Info, PROCESSING, message);
                        state.reset(&stream, Code::StreamClosed);
                        Purpose::Nothing
                    }
                    (false, false) => Purpose::Trailers(stream),
                });
            }
            if state.forgiven.contains(&head.stream) {
                state.load.count(1)?;
                return Ok(Purpose::Nothing);
            }
            let why = format!(
                "client sent HEADERS frame with incorrect identifier {}, the last was {}",
                head.stream, state.last
            );
            return Err(End::new(Code::Protocol, why));
        }
        if state.leaving {
            state.load.count(1)?;
            return Ok(Purpose::Nothing);
        }
        state.last = head.stream;
        let fresh = state.load.fresh;
        state.load.fresh += 1;
        let refused = if state.streams.len() >= self.concurrent as usize {
            Some(format!("concurrent streams exceeded {}", state.streams.len()))
        } else if fresh >= self.concurrent.saturating_mul(2) {
            Some("client sent too many streams at once".to_owned())
        } else if !state.acknowledged && !head.has(flag::END_STREAM) && self.preread < DEFAULT_WINDOW {
            Some("client sent stream with data before settings were acknowledged".to_owned())
        } else {
            None
        };
        if let Some(why) = refused {
            self.connection.log(Level::Info, PROCESSING, format_args!("{why}"));
            state.load.refused += 1;
            if state.load.refused > self.concurrent.max(100) {
                return Err(End::new(Code::None, "client sent too many refused streams"));
            }
            state.put_rst_stream(head.stream, Code::RefusedStream);
            return Ok(Purpose::Nothing);
        }
        let connection = &self.connection;
        connection.requests.set(connection.requests.get() + 1);
        let stream =
            Rc::new(Stream::new(head.stream, self.clone(), state.initial, self.preread, head.has(flag::END_STREAM)));
        state.streams.push(stream.clone());
        let core = &connection.http.location(connection.default_server().root).plan.core;
        // nginx counts the requests before this one and this one.
        let spent = core.keepalive_timeout.server.is_zero()
            || connection.requests.get() >= core.keepalive_requests
            || connection.now().saturating_duration_since(connection.started) > core.keepalive_time;
        if spent {
            state.goodbye(Code::None);
        }
        Ok(Purpose::Request(stream))
    }

    /// Collects a block, which may go on in further frames.
    fn block(self: &Rc<Self>, state: &mut State, rest: &[u8]) -> Result<Option<usize>, End> {
        let Part::Block(block) = &mut state.part else { return Ok(None) };
        if block.left > 0 {
            let used = (block.left as usize).min(rest.len());
            if used == 0 {
                return Ok(None);
            }
            let fresh = &rest[..used];
            let kept = match block.rest.is_empty() {
                true => &fresh[state.decoder.read(fresh, &mut block.fields).map_err(bad)?..],
                false => {
                    block.rest.extend_from_slice(fresh);
                    let read = state.decoder.read(&block.rest, &mut block.fields).map_err(bad)?;
                    block.rest.advance(read);
                    &[]
                }
            };
            block.rest.extend_from_slice(kept);
            if block.rest.len() > 2 * self.limits.text + OVERHEAD {
                return Err(End::new(Code::EnhanceYourCalm, "client sent too large header"));
            }
            block.left -= used as u32; // no more than `left`
            block.size += used as u64;
            return Ok(Some(used));
        }
        if block.padding > 0 {
            let used = (block.padding as usize).min(rest.len());
            block.padding -= used as u32; // no more than `padding`
            return Ok((used > 0).then_some(used));
        }
        if block.more {
            let Some(head) = FrameHead::parse(rest) else { return Ok(None) };
            if head.kind != Kind::Continuation {
                let why = "client sent inappropriate frame while CONTINUATION was expected";
                return Err(End::new(Code::Protocol, why));
            }
            if head.stream != block.stream {
                return Err(End::new(Code::Protocol, "client sent CONTINUATION frame with incorrect identifier"));
            }
            block.left = head.len;
            block.more = !head.has(flag::END_HEADERS);
            state.load.count(1)?;
            return Ok(Some(HEAD));
        }
        let Part::Block(block) = std::mem::replace(&mut state.part, Part::Head) else { return Ok(None) };
        if !block.rest.is_empty() {
            return Err(bad(Bad::Cut));
        }
        let (fields, size) = (block.fields.finish(), block.size);
        match block.purpose {
            Purpose::Nothing => {}
            Purpose::Trailers(stream) => {
                state.load.payload += size;
                match trailers(&fields).filter(|_| block.end_stream) {
                    Some(fields) => stream.end_in(fields),
                    None => {
                        let message = format_args!("client sent invalid trailers on stream {}", block.stream);
                        self.connection.log(Level::Info, PROCESSING, message);
                        state.reset(&stream, Code::Protocol);
                    }
                }
            }
            Purpose::Request(stream) => {
                state.load.payload += size;
                state.load.relieve();
                let gone = stream.inner.borrow().gone;
                if gone {
                    state.forget(&stream);
                    return Ok(Some(0));
                }
                let (request, refused) = head::read(&self.connection, &stream, fields, size);
                state.born.push(Born { request, stream, refused });
            }
        }
        Ok(Some(0))
    }

    /// The client has reset a stream.
    fn was_reset(&self, state: &mut State, id: u32, code: u32) -> Result<(), End> {
        let Some(stream) = state.stream(id) else {
            if state.is_idle(id) {
                return Err(End::new(Code::Protocol, format!("client sent RST_STREAM frame for idle stream {id}")));
            }
            return state.load.count(1);
        };
        // CVE-2023-44487: whoever takes back most of what it asks for wants us to work for nothing.
        state.load.resets += 1;
        if state.load.resets > self.concurrent.max(100).saturating_mul(2) {
            return Err(End::new(Code::EnhanceYourCalm, "client sent too many RST_STREAM frames"));
        }
        let log = |message: std::fmt::Arguments<'_>| self.connection.log(Level::Info, PROCESSING, message);
        match code {
            8 => log(format_args!("client canceled stream {id}")),
            2 => log(format_args!("client terminated stream {id} due to internal error")),
            _ => log(format_args!("client terminated stream {id} with status {code}")),
        }
        {
            let mut inner = stream.inner.borrow_mut();
            inner.out_closed = true;
        }
        stream.abandon();
        Ok(())
    }

    /// The answer to a stream is over. What it leaves open is reset.
    pub(super) fn finish(&self, stream: &Rc<Stream>) {
        let state = &mut *self.state.borrow_mut();
        let (in_closed, out_closed, gone, timed_out) = {
            let inner = stream.inner.borrow();
            (inner.in_closed, inner.out_closed, inner.gone, inner.timed_out)
        };
        if !gone && !out_closed {
            state.reset(stream, if timed_out { Code::Protocol } else { Code::Internal });
        } else if !gone && !in_closed {
            state.reset(stream, Code::None);
        } else if !gone {
            state.load.resets = state.load.resets.saturating_sub(1);
        }
        state.forget(stream);
    }

    /// Whether something has begun to come and is not whole yet.
    pub(super) fn is_amid(&self) -> bool {
        !matches!(self.state.borrow().part, Part::Head | Part::Preface(0)) || !self.connection.input.borrow().is_empty()
    }

    /// The rest of a block did not come in time: its stream ends, and what may still come of it is read for the table's
    /// sake.
    pub(super) fn give_up_heading(&self) {
        let state = &mut *self.state.borrow_mut();
        let Part::Block(block) = &mut state.part else { return };
        let purpose = std::mem::replace(&mut block.purpose, Purpose::Nothing);
        let size = block.size;
        let (Purpose::Request(stream) | Purpose::Trailers(stream)) = &purpose else { return };
        if let Purpose::Request(stream) = &purpose {
            let request = head::unfinished(&self.connection, stream, size);
            request.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
            request.status.set(408);
            request.write_logs();
        }
        state.reset(stream, Code::Protocol);
        if let Purpose::Request(stream) = &purpose {
            state.forget(stream);
        }
    }

    /// Whether fields have begun to come that somebody waits for, and are not whole yet.
    pub(super) fn is_heading(&self) -> bool {
        let waited = |block: &Block| !matches!(block.purpose, Purpose::Nothing);
        matches!(&self.state.borrow().part, Part::Block(block) if waited(block))
    }
}

/// What a field may have beside its text: a number and two lengths.
const OVERHEAD: usize = 16;
/// nginx: when a connection has moved eight times more than what it was for, and this much beside.
const FLOOD: u64 = 1024 * 1024;
fn check_len(head: &FrameHead, len: u32, name: &str) -> Result<(), End> {
    if head.len == len { Ok(()) } else { Err(wrong_len(head, name)) }
}

fn wrong_len(head: &FrameHead, name: &str) -> End {
    End::new(Code::FrameSize, format!("client sent {name} frame with incorrect length {}", head.len))
}

fn wrong_stream(name: &str) -> End {
    End::new(Code::Protocol, format!("client sent {name} frame with incorrect identifier"))
}

/// nginx: a stream that depends on itself is a fault, though nobody looks at dependencies any more.
fn depends(head: &FrameHead, on: u32, name: &str) -> Result<(), End> {
    if on & MAX_WINDOW != head.stream {
        return Ok(());
    }
    let why = format!("client sent {name} frame for stream {} with incorrect dependency", head.stream);
    Err(End::new(Code::Protocol, why))
}

fn bad(bad: Bad) -> End {
    let code = match bad {
        Bad::Cut => Code::FrameSize,
        Bad::LongInteger | Bad::Index | Bad::TableSize | Bad::Huffman => Code::Compression,
        Bad::NoName => Code::Protocol,
        Bad::LargeField | Bad::Large => Code::EnhanceYourCalm,
    };
    End::new(code, bad.to_string())
}

/// The fields behind a body; `None` when there is something among them that may not be (RFC 9113, 8.1).
fn trailers(fields: &Fields) -> Option<Vec<Field>> {
    let field = |(name, value): (&[u8], &[u8])| {
        let clean = !name.starts_with(b":") && head::name(name, true).is_some() && head::value(value);
        clean.then(|| Field::new(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)))
    };
    fields.iter().map(field).collect()
}
