//! A client of HTTP/2 that sends exactly the frames it is told to and shows what comes back.
//!
//! In: frames, right or wrong. Out: frames. It keeps no rules: whoever tests the server's rules must be able to break each.
//! Fields go out as literals that are never indexed; what comes is decoded by the project's own decoder, which its unit
//! tests hold to the examples of the RFC.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weir::wire::http2::hpack::{Decoder, Limits};

use super::DEADLINE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY_FLAG: u8 = 0x20;

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a payload is short").to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as a block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

/// One field as a literal that is never indexed.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10];
    for text in [name, value] {
        let mut len = text.len();
        if len < 127 {
            bytes.push(len as u8);
        } else {
            bytes.push(127);
            len -= 127;
            while len >= 128 {
                bytes.push(len as u8 | 0x80);
                len >>= 7;
            }
            bytes.push(len as u8);
        }
        bytes.extend(text);
    }
    bytes
}

/// What every request has.
pub const fn base(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number at `at`: an error code, an increment.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.expect("the frame has a number there"))
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// What came before the answer's own head: 103.
    pub interim: Vec<(String, String)>,
    /// The code of a RST_STREAM that cut it off.
    pub reset: Option<u32>,
}

impl Answer {
    #[track_caller]
    pub fn expect_status(self, status: &str) -> Self {
        assert_eq!(self.field(":status"), Some(status), "{self:?}");
        self
    }

    #[track_caller]
    pub fn expect_body(self, body: &str) -> Self {
        assert_eq!(String::from_utf8_lossy(&self.body), body);
        self
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }
}

/// See the module's head.
pub struct Http2 {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    decoder: Decoder,
    /// The server has closed its side, or reset the connection.
    pub ended: bool,
}

impl Http2 {
    /// Connects and says the preface with empty settings.
    pub fn connect(address: &str) -> Http2 {
        let mut client = Http2::raw(address);
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(SETTINGS, 0, 0, &[]));
        client
    }

    /// Connects and says nothing.
    pub fn raw(address: &str) -> Http2 {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_nodelay(true).expect("the connection is open");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout is set");
        Http2 { stream, buffer: Vec::new(), decoder: Decoder::default(), ended: false }
    }

    /// Sends bytes. A server may close before it has read all of them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Http2 {
        match self.stream.write_all(bytes.as_ref()) {
            Ok(()) => {}
            Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
            Err(error) => panic!("sending: {error}"),
        }
        self
    }

    /// Sends a GET that is whole.
    pub fn get(&mut self, stream: u32, path: &str) -> &mut Http2 {
        self.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&base(path))))
    }

    /// The next frame; `None` is the end of the connection.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        self.try_frame(DEADLINE).expect("a frame comes in time")
    }

    /// The next frame, or an error when the time is over.
    pub fn try_frame(&mut self, limit: Duration) -> Result<Option<Frame>, ()> {
        let end = Instant::now() + limit;
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>() {
                let [_, a, b] = [0, head[1], head[2]];
                let len = usize::from(head[0]) << 16 | usize::from(a) << 8 | usize::from(b);
                if self.buffer.len() >= 9 + len {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let (kind, flags) = (head[3], head[4]);
                    let payload = self.buffer[9..9 + len].to_vec();
                    self.buffer.drain(..9 + len);
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            if self.ended {
                return Ok(None);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(());
            }
            self.stream.set_read_timeout(Some(left)).expect("a timeout is set");
            let mut bytes = vec![0; 65536];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// The next frame of a kind, whatever comes before it.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) -> Frame {
        loop {
            match self.frame() {
                Some(frame) if frame.kind == kind => return frame,
                Some(_) => {}
                None => panic!("the connection ended before a frame of kind {kind} came"),
            }
        }
    }

    /// Reads the answer on a stream, and says nothing of other streams.
    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        loop {
            let Some(frame) = self.frame() else { panic!("the connection ended amid {answer:?}") };
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS => {
                    let fields = self.fields(&frame.payload);
                    match fields.first() {
                        Some((_, status)) if status == "103" => answer.interim = fields,
                        _ if answer.fields.is_empty() => answer.fields = fields,
                        _ => answer.trailers = fields,
                    }
                }
                DATA => answer.body.extend(&frame.payload),
                RST_STREAM => {
                    answer.reset = Some(frame.number(0));
                    return answer;
                }
                _ => {}
            }
            if frame.ends_stream() {
                return answer;
            }
        }
    }

    /// Decodes a block.
    pub fn fields(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let limits = Limits { text: 1 << 20, total: 1 << 20 };
        let fields = self.decoder.decode(block, limits).expect("the server sends what can be read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// Makes sure that the server has looked at everything so far: it answers a PING.
    #[track_caller]
    pub fn settle(&mut self) -> &mut Http2 {
        self.send(frame(PING, 0, 0, b"settled?"));
        loop {
            let frame = self.expect(PING);
            if frame.flags & ACK != 0 && frame.payload == b"settled?" {
                return self;
            }
        }
    }
}
