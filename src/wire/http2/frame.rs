//! Frames: their heads, and those that we send whole. RFC 9113, 4 and 6.

use bytes::{BufMut, BytesMut};

/// Bytes of a frame's head.
pub const HEAD: usize = 9;
/// The window that a connection and its streams begin with.
pub const DEFAULT_WINDOW: u32 = 65_535;
/// No window may become larger.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The largest payload that everybody takes.
pub const DEFAULT_SIZE: u32 = 1 << 14;
/// The largest payload that there is.
pub const MAX_SIZE: u32 = (1 << 24) - 1;

/// What a frame is. RFC 9113, 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be skipped.
    Unknown(u8),
}

impl Kind {
    pub fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::RstStream,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Unknown(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::RstStream => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Unknown(other) => other,
        }
    }
}

/// Flags, whose meaning depends on the kind.
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Why a stream or a connection ends. RFC 9113, 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    None = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// Names of settings. RFC 9113, 6.5.2; RFC 8441, 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    HeaderTableSize = 1,
    EnablePush = 2,
    MaxConcurrentStreams = 3,
    InitialWindowSize = 4,
    MaxFrameSize = 5,
    EnableConnectProtocol = 8,
}

impl Setting {
    /// `None`: a setting that means nothing to us.
    pub fn of(id: u16) -> Option<Self> {
        Some(match id {
            1 => Self::HeaderTableSize,
            2 => Self::EnablePush,
            3 => Self::MaxConcurrentStreams,
            4 => Self::InitialWindowSize,
            5 => Self::MaxFrameSize,
            8 => Self::EnableConnectProtocol,
            _ => return None,
        })
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the payload.
    pub len: u32,
    pub kind: Kind,
    pub flags: u8,
    /// 0: the connection itself.
    pub stream: u32,
}

impl FrameHead {
    /// The head at the front of `bytes`; `None` until all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head: [u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        Some(Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn put(&self, out: &mut BytesMut) {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        out.put_slice(&[a, b, c, self.kind.byte(), self.flags, s0, s1, s2, s3]);
    }
}

fn head(len: u32, kind: Kind, flags: u8, stream: u32, out: &mut BytesMut) {
    FrameHead { len, kind, flags, stream }.put(out);
}

pub fn put_settings(settings: &[(Setting, u32)], out: &mut BytesMut) {
    head(settings.len() as u32 * 6, Kind::Settings, 0, 0, out);
    for (setting, value) in settings {
        out.put_u16(*setting as u16);
        out.put_u32(*value);
    }
}

pub fn put_settings_ack(out: &mut BytesMut) {
    head(0, Kind::Settings, flag::ACK, 0, out);
}

pub fn put_ping_ack(payload: [u8; 8], out: &mut BytesMut) {
    head(8, Kind::Ping, flag::ACK, 0, out);
    out.put_slice(&payload);
}

pub fn put_window_update(stream: u32, increment: u32, out: &mut BytesMut) {
    head(4, Kind::WindowUpdate, 0, stream, out);
    out.put_u32(increment);
}

pub fn put_rst_stream(stream: u32, code: Code, out: &mut BytesMut) {
    head(4, Kind::RstStream, 0, stream, out);
    out.put_u32(code as u32);
}

pub fn put_goaway(last: u32, code: Code, out: &mut BytesMut) {
    head(8, Kind::GoAway, 0, 0, out);
    out.put_u32(last);
    out.put_u32(code as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_there_and_back() {
        let mut out = BytesMut::new();
        for kind in 0..=11 {
            let sent = FrameHead { len: 0x01_02_03, kind: Kind::of(kind), flags: 0x2d, stream: 0x7f_00_00_01 };
            out.clear();
            sent.put(&mut out);
            assert_eq!(FrameHead::parse(&out), Some(sent));
            assert_eq!(FrameHead::parse(&out[..8]), None);
        }
        // The reserved bit is ignored (RFC 9113, 4.1).
        assert_eq!(FrameHead::parse(&[0, 0, 0, 6, 0, 0x80, 0, 0, 1]).map(|head| head.stream), Some(1));
    }

    #[test]
    fn small_frames() {
        let mut out = BytesMut::new();
        put_settings(&[(Setting::MaxConcurrentStreams, 128)], &mut out);
        put_goaway(5, Code::EnhanceYourCalm, &mut out);
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 128];
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 11];
        assert_eq!(out[..], [&settings[..], &goaway[..]].concat());
    }
}
