//! A client that sends exactly the bytes it is given and keeps exactly the bytes it gets.
//!
//! In: bytes. Out: responses whose head is kept as it came (order, spelling), with the body taken out of its framing.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// A connection to a server.
pub struct Client {
    pub stream: TcpStream,
    /// What has come and was not yet read as part of a response.
    pub buffer: Vec<u8>,
    /// The server has closed its side, or reset the connection.
    pub ended: bool,
    /// The request that is being answered was a HEAD.
    head_only: bool,
}

impl Client {
    #[track_caller]
    pub fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_nodelay(true).expect("the connection is open");
        Client::from_stream(stream)
    }

    pub fn from_stream(stream: TcpStream) -> Client {
        Client { stream, buffer: Vec::new(), ended: false, head_only: false }
    }

    /// Sends bytes as they are. A server may close before it has read everything; what it answered is still there to
    /// read, so that is no error here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        let bytes = bytes.as_ref();
        self.head_only = bytes.starts_with(b"HEAD ");
        self.stream.set_write_timeout(Some(DEADLINE)).expect("a timeout is set");
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
            Err(error) => panic!("sending {} bytes: {error}", bytes.len()),
        }
        self
    }

    /// A GET with `Host: localhost` that keeps the connection.
    pub fn get(&mut self, path: &str) -> &mut Client {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) -> &mut Client {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Reads one final response (informational ones are skipped).
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self.try_response(DEADLINE) {
            Ok(response) => response,
            Err(why) => panic!("{why}; so far {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// Reads one final response, or says what stood in the way.
    pub fn try_response(&mut self, limit: Duration) -> Result<Response, String> {
        let end = Instant::now() + limit;
        let mut interim = Vec::new();
        loop {
            let mut response = self.any_response(end)?;
            if (100..200).contains(&response.status) && response.status != 101 {
                interim.extend_from_slice(&response.head);
                continue;
            }
            response.interim = interim;
            return Ok(response);
        }
    }

    fn any_response(&mut self, end: Instant) -> Result<Response, String> {
        if !self.fill(end, |buffer| buffer.len() >= 5) && !self.ended {
            return Err("no response within the deadline".to_owned());
        }
        if self.buffer.is_empty() {
            return Err("the connection ended without a response".to_owned());
        }
        if !self.buffer.starts_with(b"HTTP/") {
            // HTTP/0.9: the body is all there is.
            self.read_to_end(end)?;
            return Ok(Response { body: std::mem::take(&mut self.buffer), ..Response::default() });
        }
        if !self.fill(end, |buffer| find(buffer, b"\r\n\r\n").is_some()) {
            return Err("the response head is not complete".to_owned());
        }
        let length = find(&self.buffer, b"\r\n\r\n").expect("it was found") + 4;
        let mut response = Response::parse(self.buffer.drain(..length).collect())?;
        let bodiless = self.head_only || response.status < 200 || [204, 304].contains(&response.status);
        if bodiless {
            return Ok(response);
        }
        if response.all("Transfer-Encoding").iter().any(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.chunked(&mut response, end)?;
        } else if let Some(length) = response.field("Content-Length") {
            let length: usize = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
            if !self.fill(end, |buffer| buffer.len() >= length) {
                return Err(format!("the body is short: {} of {length} bytes", self.buffer.len()));
            }
            response.body = self.buffer.drain(..length).collect();
        } else {
            self.read_to_end(end)?;
            response.body = std::mem::take(&mut self.buffer);
            response.until_close = true;
        }
        Ok(response)
    }

    /// Reads a chunked body from what comes next; false when it did not come whole.
    pub fn chunked_body(&mut self, end: Instant) -> (Vec<u8>, bool) {
        let mut message = Response::default();
        let read = self.chunked(&mut message, end);
        (message.body, read.is_ok())
    }

    fn chunked(&mut self, response: &mut Response, end: Instant) -> Result<(), String> {
        loop {
            let line = self.line(end)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| format!("chunk size {line:?}"))?;
            if size == 0 {
                break;
            }
            if !self.fill(end, |buffer| buffer.len() >= size + 2) {
                return Err("a chunk is not complete".to_owned());
            }
            response.body.extend(self.buffer.drain(..size));
            let mark: Vec<u8> = self.buffer.drain(..2).collect();
            if mark != b"\r\n" {
                return Err("a chunk does not end where it said".to_owned());
            }
        }
        loop {
            let line = self.line(end)?;
            if line == "\r\n" {
                return Ok(());
            }
            response.trailers.push_str(&line);
        }
    }

    fn line(&mut self, end: Instant) -> Result<String, String> {
        if !self.fill(end, |buffer| find(buffer, b"\r\n").is_some()) {
            return Err("a line is not complete".to_owned());
        }
        let length = find(&self.buffer, b"\r\n").expect("it was found") + 2;
        Ok(String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<u8>>()).into_owned())
    }

    /// Reads until the bytes that have come end a wait; hands them out up to and including `mark`.
    #[track_caller]
    pub fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        let found = self.fill(Instant::now() + DEADLINE, |buffer| find(buffer, mark).is_some());
        let so_far = String::from_utf8_lossy(&self.buffer).into_owned();
        assert!(found, "{:?} did not come; so far {so_far:?}", String::from_utf8_lossy(mark));
        let length = find(&self.buffer, mark).expect("it was found") + mark.len();
        self.buffer.drain(..length).collect()
    }

    /// Reads exactly so many bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        let full = self.fill(Instant::now() + DEADLINE, |buffer| buffer.len() >= length);
        assert!(full, "{} of {length} bytes came", self.buffer.len());
        self.buffer.drain(..length).collect()
    }

    /// Waits for the server to close, and returns what it still sent.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let ended = self.read_to_end(Instant::now() + DEADLINE);
        assert!(ended.is_ok(), "the server keeps the connection; so far {:?}", String::from_utf8_lossy(&self.buffer));
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the server to close without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "before the end came {:?}", String::from_utf8_lossy(&rest));
    }

    pub fn read_to_end(&mut self, end: Instant) -> Result<(), String> {
        self.fill(end, |_| false);
        if self.ended { Ok(()) } else { Err("the connection is still open".to_owned()) }
    }

    /// Reads until `enough`; false when the connection or the time ended first.
    pub fn fill(&mut self, end: Instant, enough: impl Fn(&[u8]) -> bool) -> bool {
        let mut block = vec![0; 64 * 1024];
        loop {
            if enough(&self.buffer) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.ended || left.is_zero() {
                return false;
            }
            self.stream.set_read_timeout(Some(left)).expect("a timeout is set");
            match self.stream.read(&mut block) {
                Ok(0) => self.ended = true,
                Ok(count) => self.buffer.extend_from_slice(&block[..count]),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
    }
}

/// One response, its head as it came.
#[derive(Default, Clone)]
pub struct Response {
    /// Status line, fields and the empty line. Empty for HTTP/0.9.
    pub head: Vec<u8>,
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The trailer fields, one a line.
    pub trailers: String,
    /// The heads of informational responses that came before.
    pub interim: Vec<u8>,
    /// The end of the connection was the end of the body.
    pub until_close: bool,
}

impl Response {
    fn parse(head: Vec<u8>) -> Result<Response, String> {
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| format!("status line {first:?}"))?;
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
            fields.push((name.to_owned(), value.trim_start_matches(' ').to_owned()));
        }
        Ok(Response { head, status, fields, ..Response::default() })
    }

    /// The value of the first field of that name, in any spelling.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|field| field.1.as_str()).collect()
    }

    /// The body as text.
    pub fn text_body(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Head and body as text, for messages.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.interim).into_owned();
        text.push_str(&String::from_utf8_lossy(&self.head));
        if self.body.len() > 2000 {
            write!(text, "({} bytes)", self.body.len()).expect("a string takes text");
        } else {
            text.push_str(&self.text_body());
        }
        text.push_str(&self.trailers);
        text
    }

    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Response {
        assert_eq!(self.status, status, "in\n{}", self.text());
        self
    }

    #[track_caller]
    pub fn expect_field(&self, name: &str, value: &str) -> &Response {
        assert_eq!(self.all(name), [value], "{name} in\n{}", self.text());
        self
    }

    #[track_caller]
    pub fn expect_body(&self, body: impl AsRef<[u8]>) -> &Response {
        let body = body.as_ref();
        let same = self.body == body;
        assert!(same, "expected body {:?} in\n{}", String::from_utf8_lossy(&body[..body.len().min(500)]), self.text());
        self
    }

    #[track_caller]
    pub fn expect_in_body(&self, part: &str) -> &Response {
        assert!(self.text_body().contains(part), "expected {part:?} in\n{}", self.text());
        self
    }
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(hay, needle)
}
