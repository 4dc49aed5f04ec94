//! The request line: `GET /target?args HTTP/1.1`.
//!
//! In: the connection's buffer, as often as it grows. Out: one [`RequestLine`] of spans, or nginx's refusal
//! (`ngx_http_parse_request_line`). The rule: a verdict is given at the first byte that decides it, and a byte is
//! looked at once, however the bytes are cut into packets.

use crate::wire::byte::{self, HOST, LITERAL, METHOD, SCHEME, USUAL};
pub use crate::wire::http1::method::{Method, Version};
use crate::wire::span::{Span, visible};
use crate::wire::uri::Shape;

/// A whole request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// The line without its end: `$request`.
    pub line: Span,
    /// The method as it was sent: `$request_method`.
    pub method: Span,
    pub known: Method,
    /// The path and arguments as they were sent: `$request_uri`. In an absolute target this begins behind the host;
    /// where there is no path at all it is some `/` of the line, so that it is never empty except before `?args`.
    pub target: Span,
    /// What was seen in the target on the way; `uri::normalise` wants it.
    pub shape: Shape,
    /// `http` of an absolute target.
    pub scheme: Option<Span>,
    /// `host:port` of an absolute target and of CONNECT. Not yet validated.
    pub host: Option<Span>,
    /// `HTTP/1.1`: `$server_protocol`. Empty for HTTP/0.9, which does not name itself.
    pub protocol: Span,
    pub version: Version,
    /// Where the next byte after the line is: the fields, or for HTTP/0.9 the end.
    pub end: u32,
}

/// Why a request line is refused. `Display` is nginx's sentence for the log, to which the log adds what the
/// connection was doing (`… while reading client request line`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    Method,
    Request,
    Version,
    MethodIn09,
}

impl LineError {
    pub fn status(self) -> u16 {
        match self {
            Self::Method | Self::Request | Self::MethodIn09 => 400,
            Self::Version => 505,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Method => "client sent invalid method",
            Self::Request => "client sent invalid request",
            Self::Version => "client sent invalid version",
            Self::MethodIn09 => "client sent invalid method in HTTP/0.9 request",
        }
    }
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// What a client that speaks HTTP/2 without asking sends first.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How the first bytes of a connection compare with the preface of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    Http2,
    Other,
    /// A beginning of it: more bytes decide.
    Undecided,
}

impl Preface {
    pub fn of(buf: &[u8]) -> Self {
        if buf.starts_with(HTTP2_PREFACE) {
            Self::Http2
        } else if HTTP2_PREFACE.starts_with(buf) {
            Self::Undecided
        } else {
            Self::Other
        }
    }
}

/// Reads one request line. Show it the same buffer again, grown, until it answers; then make a new one for the next.
#[derive(Clone, Debug)]
pub struct LineParser {
    part: Part,
    pos: usize,
    start: usize,
    method: Span,
    known: Method,
    scheme: Option<Span>,
    host_start: usize,
    host: Option<Span>,
    target_start: usize,
    target: Span,
    shape: Shape,
    protocol_start: usize,
    protocol: Span,
    version: Version,
}

/// Where in the line the parser stands. Each part can be left and entered again between any two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Start,
    Method,
    BeforeTarget,
    Scheme,
    Slashes,
    Host,
    HostName,
    IpLiteral,
    HostEnd,
    PortStart,
    Port,
    AfterSlash,
    Path,
    Rest,
    AfterTarget,
    Protocol,
    AfterVersion,
    LineFeed,
    Done,
}

/// `None` is "more bytes".
type Step = Result<Option<Part>, LineError>;

impl LineParser {
    /// A parser for the line that begins at `pos` of the buffer: 0, or where a pipelined request begins.
    pub fn new(pos: usize) -> Self {
        Self {
            part: Part::Start,
            pos,
            start: pos,
            method: Span::default(),
            known: Method::Other,
            scheme: None,
            host_start: 0,
            host: None,
            target_start: 0,
            target: Span::default(),
            shape: Shape::default(),
            protocol_start: 0,
            protocol: Span::default(),
            version: Version::HTTP_09,
        }
    }

    /// Where the line begins, behind the empty lines that some clients send first. After an error, the bytes from
    /// here to the end of the line are `$request`.
    pub fn start(&self) -> usize {
        self.start
    }

    /// False as long as only empty lines came: the caller may drop them.
    pub fn has_begun(&self) -> bool {
        self.part != Part::Start
    }

    pub fn parse(&mut self, buf: &[u8]) -> Result<Option<RequestLine>, LineError> {
        let buf = visible(buf);
        loop {
            let step = match self.part {
                Part::Start => self.start_of_line(buf),
                Part::Method => self.method(buf),
                Part::BeforeTarget => self.before_target(buf),
                Part::Scheme => self.scheme(buf),
                Part::Slashes => self.slashes(buf),
                Part::Host => self.host(buf),
                Part::HostName => self.host_name(buf),
                Part::IpLiteral => self.ip_literal(buf),
                Part::HostEnd => self.host_end(buf),
                Part::PortStart => self.port_start(buf),
                Part::Port => self.port(buf),
                Part::AfterSlash => self.after_slash(buf),
                Part::Path => self.path(buf),
                Part::Rest => self.rest(buf),
                Part::AfterTarget => self.after_target(buf),
                Part::Protocol => self.protocol(buf),
                Part::AfterVersion => self.after_version(buf),
                Part::LineFeed => self.line_feed(buf),
                Part::Done => return self.line(buf).map(Some),
            };
            match step? {
                Some(part) => self.part = part,
                None => return Ok(None),
            }
        }
    }

    fn start_of_line(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            match byte {
                b'\r' | b'\n' => self.pos += 1,
                _ => {
                    self.start = self.pos;
                    return Ok(Some(Part::Method));
                }
            }
        }
        self.start = self.pos;
        Ok(None)
    }

    fn method(&mut self, buf: &[u8]) -> Step {
        self.pos = byte::skip(buf, self.pos, METHOD);
        match buf.get(self.pos) {
            None => Ok(None),
            Some(b' ') if self.pos > self.start => {
                self.method = Span::new(self.start, self.pos);
                self.known = Method::of(self.method.of(buf));
                self.pos += 1;
                Ok(Some(Part::BeforeTarget))
            }
            Some(_) => Err(LineError::Method),
        }
    }

    fn before_target(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            if byte == b' ' {
                self.pos += 1;
                continue;
            }
            if self.known == Method::Connect {
                return Ok(Some(Part::Host));
            }
            if byte == b'/' {
                return Ok(Some(self.begin_path()));
            }
            if byte.is_ascii_alphabetic() {
                self.target_start = self.pos;
                return Ok(Some(Part::Scheme));
            }
            return Err(LineError::Request);
        }
        Ok(None)
    }

    /// The byte at hand is the `/` with which a path begins.
    fn begin_path(&mut self) -> Part {
        self.target_start = self.pos;
        self.pos += 1;
        Part::AfterSlash
    }

    fn scheme(&mut self, buf: &[u8]) -> Step {
        self.pos = byte::skip(buf, self.pos, SCHEME);
        match buf.get(self.pos) {
            None => Ok(None),
            Some(b':') => {
                self.scheme = Some(Span::new(self.target_start, self.pos));
                self.pos += 1;
                Ok(Some(Part::Slashes))
            }
            Some(_) => Err(LineError::Request),
        }
    }

    /// Exactly `//`.
    fn slashes(&mut self, buf: &[u8]) -> Step {
        let first = self.scheme.map_or(0, |scheme| scheme.end as usize + 1);
        while self.pos < first + 2 {
            match buf.get(self.pos) {
                None => return Ok(None),
                Some(b'/') => self.pos += 1,
                Some(_) => return Err(LineError::Request),
            }
        }
        Ok(Some(Part::Host))
    }

    fn host(&mut self, buf: &[u8]) -> Step {
        self.host_start = self.pos;
        match buf.get(self.pos) {
            None => Ok(None),
            Some(b'[') => {
                self.pos += 1;
                Ok(Some(Part::IpLiteral))
            }
            Some(_) => Ok(Some(Part::HostName)),
        }
    }

    fn host_name(&mut self, buf: &[u8]) -> Step {
        self.pos = byte::skip(buf, self.pos, HOST);
        Ok(Some(Part::HostEnd))
    }

    fn ip_literal(&mut self, buf: &[u8]) -> Step {
        self.pos = byte::skip(buf, self.pos, LITERAL);
        match buf.get(self.pos) {
            None => Ok(None),
            Some(b']') => {
                self.pos += 1;
                Ok(Some(Part::HostEnd))
            }
            Some(_) => Err(LineError::Request),
        }
    }

    fn host_end(&mut self, buf: &[u8]) -> Step {
        match buf.get(self.pos) {
            // a name may go on with the next packet, a bracket may not
            None if self.pos > self.host_start && buf.get(self.pos - 1) == Some(&b']') => Ok(None),
            None => {
                self.part = Part::HostName;
                Ok(None)
            }
            Some(b':') => {
                self.pos += 1;
                Ok(Some(Part::PortStart))
            }
            Some(_) if self.known == Method::Connect => Err(LineError::Request),
            Some(&byte) => self.behind_host(byte),
        }
    }

    fn port_start(&mut self, buf: &[u8]) -> Step {
        match buf.get(self.pos) {
            None => Ok(None),
            Some(byte) if !byte.is_ascii_digit() && self.known == Method::Connect => Err(LineError::Request),
            Some(_) => Ok(Some(Part::Port)),
        }
    }

    fn port(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            if byte.is_ascii_digit() {
                self.pos += 1;
                continue;
            }
            if self.known != Method::Connect {
                return self.behind_host(byte);
            }
            if byte != b' ' {
                return Err(LineError::Request);
            }
            self.host = Some(Span::new(self.host_start, self.pos));
            self.pos += 1;
            return Ok(Some(Part::AfterTarget));
        }
        Ok(None)
    }

    /// The host of an absolute target has ended before `byte`.
    fn behind_host(&mut self, byte: u8) -> Step {
        self.host = Some(Span::new(self.host_start, self.pos));
        match byte {
            b'/' => Ok(Some(self.begin_path())),
            b'?' => {
                self.target_start = self.pos;
                self.pos += 1;
                self.shape.empty_path = true;
                self.shape.args = Some(self.pos as u32);
                Ok(Some(Part::Rest))
            }
            b' ' => {
                // no path: the first slash of "//" stands for it
                let slash = self.scheme.map_or(0, |scheme| scheme.end as usize + 1);
                self.target = Span::new(slash, slash + 1);
                self.pos += 1;
                Ok(Some(Part::AfterTarget))
            }
            _ => Err(LineError::Request),
        }
    }

    /// Behind a slash `.` and `/` may mean something.
    fn after_slash(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            if byte::is(byte, USUAL) {
                return Ok(Some(Part::Path));
            }
            match byte {
                b'.' | b'/' | b'#' => {
                    self.shape.complex = true;
                    return Ok(Some(Part::Rest));
                }
                b'+' => {
                    self.shape.plus = true;
                    self.pos += 1;
                }
                b'%' => return Ok(Some(self.quoted())),
                b'?' => return Ok(Some(self.begin_args())),
                _ => return self.end_of_target(byte),
            }
        }
        Ok(None)
    }

    fn path(&mut self, buf: &[u8]) -> Step {
        loop {
            self.pos = byte::skip(buf, self.pos, USUAL);
            let Some(&byte) = buf.get(self.pos) else {
                return Ok(None);
            };
            match byte {
                b'/' => {
                    self.shape.extension = None;
                    self.pos += 1;
                    return Ok(Some(Part::AfterSlash));
                }
                b'.' => {
                    self.pos += 1;
                    self.shape.extension = Some(self.pos as u32);
                }
                b'+' => {
                    self.shape.plus = true;
                    self.pos += 1;
                }
                b'%' => return Ok(Some(self.quoted())),
                b'?' => return Ok(Some(self.begin_args())),
                b'#' => {
                    self.shape.complex = true;
                    return Ok(Some(Part::Rest));
                }
                _ => return self.end_of_target(byte),
            }
        }
    }

    fn quoted(&mut self) -> Part {
        self.shape.quoted = true;
        Part::Rest
    }

    fn begin_args(&mut self) -> Part {
        self.pos += 1;
        self.shape.args = Some(self.pos as u32);
        Part::Rest
    }

    /// The arguments, or a path that must be normalised anyway: only its end matters here.
    fn rest(&mut self, buf: &[u8]) -> Step {
        loop {
            self.pos = byte::skip(buf, self.pos, USUAL);
            let Some(&byte) = buf.get(self.pos) else {
                return Ok(None);
            };
            match byte {
                b'%' | b'+' | b'.' | b'/' | b'?' => self.pos += 1,
                b'#' => {
                    self.shape.complex = true;
                    self.pos += 1;
                }
                _ => return self.end_of_target(byte),
            }
        }
    }

    /// A space or the end of the line; anything else that means something is a control and refused.
    fn end_of_target(&mut self, byte: u8) -> Step {
        let target = Span::new(self.target_start, self.pos);
        match byte {
            b' ' => {
                self.target = target;
                self.pos += 1;
                Ok(Some(Part::AfterTarget))
            }
            b'\r' | b'\n' => {
                self.target = target;
                Ok(Some(self.end_of_line(byte)))
            }
            _ => Err(LineError::Request),
        }
    }

    /// The line ends at `byte`, CR or LF; the protocol, if any, ends with it.
    fn end_of_line(&mut self, byte: u8) -> Part {
        if self.protocol_start > 0 {
            self.protocol = Span::new(self.protocol_start, self.pos);
        }
        self.pos += 1;
        if byte == b'\n' { Part::Done } else { Part::LineFeed }
    }

    fn after_target(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            match byte {
                b' ' => self.pos += 1,
                b'\r' | b'\n' => return Ok(Some(self.end_of_line(byte))),
                b'H' => {
                    self.protocol_start = self.pos;
                    return Ok(Some(Part::Protocol));
                }
                _ => return Err(LineError::Request),
            }
        }
        Ok(None)
    }

    /// `HTTP/1.` and one to three digits: short enough to begin again when it comes in pieces.
    fn protocol(&mut self, buf: &[u8]) -> Step {
        let text = buf.get(self.protocol_start..).unwrap_or_default();
        if text.starts_with(b"HTTP/1.1\r") {
            self.version = Version::HTTP_11;
            self.pos = self.protocol_start + 8;
        } else {
            match version(text)? {
                Some((version, len)) => {
                    self.version = version;
                    self.pos = self.protocol_start + len;
                }
                None => return Ok(None),
            }
        }
        if self.known == Method::Connect {
            // CONNECT has no path: the slash of "HTTP/" stands for it
            self.target = Span::new(self.protocol_start + 4, self.protocol_start + 5);
        }
        Ok(Some(Part::AfterVersion))
    }

    fn after_version(&mut self, buf: &[u8]) -> Step {
        while let Some(&byte) = buf.get(self.pos) {
            match byte {
                b' ' => self.pos += 1,
                b'\r' | b'\n' => return Ok(Some(self.end_of_line(byte))),
                _ => return Err(LineError::Request),
            }
        }
        Ok(None)
    }

    fn line_feed(&mut self, buf: &[u8]) -> Step {
        match buf.get(self.pos) {
            None => Ok(None),
            Some(b'\n') => {
                self.pos += 1;
                Ok(Some(Part::Done))
            }
            Some(_) => Err(LineError::Request),
        }
    }

    fn line(&self, buf: &[u8]) -> Result<RequestLine, LineError> {
        if self.version == Version::HTTP_09 && self.known != Method::Get {
            return Err(LineError::MethodIn09);
        }
        let mut line = Span::new(self.start, self.pos.saturating_sub(1));
        if line.of(buf).ends_with(b"\r") {
            line.end -= 1;
        }
        Ok(RequestLine {
            line,
            method: self.method,
            known: self.known,
            target: self.target,
            shape: self.shape,
            scheme: self.scheme,
            host: self.host,
            protocol: self.protocol,
            version: self.version,
            end: self.pos as u32,
        })
    }
}

/// `HTTP/1.x` with its length; `None` when the bytes end too early to tell.
fn version(text: &[u8]) -> Result<Option<(Version, usize)>, LineError> {
    const NAME: &[u8] = b"HTTP/";
    if text.len() < NAME.len() {
        return if NAME.starts_with(text) { Ok(None) } else { Err(LineError::Request) };
    }
    let Some(digits) = text.strip_prefix(NAME) else {
        return Err(LineError::Request);
    };
    let mut digits = digits.iter();
    match digits.next() {
        None => return Ok(None),
        Some(b'1') => {}
        Some(b'2'..=b'9') => return Err(LineError::Version),
        Some(_) => return Err(LineError::Request),
    }
    match digits.next() {
        None => return Ok(None),
        Some(b'.') => {}
        Some(b'0'..=b'9') => return Err(LineError::Version),
        Some(_) => return Err(LineError::Request),
    }
    let mut minor = match digits.next() {
        None => return Ok(None),
        Some(byte @ b'0'..=b'9') => u32::from(byte - b'0'),
        Some(_) => return Err(LineError::Request),
    };
    for (len, byte) in (NAME.len() + 3..).zip(digits) {
        match byte {
            b'0'..=b'9' if minor > 99 => return Err(LineError::Request),
            b'0'..=b'9' => minor = minor * 10 + u32::from(byte - b'0'),
            b' ' | b'\r' | b'\n' => return Ok(Some((Version(1000 + minor), len))),
            _ => return Err(LineError::Request),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on whole bytes, after checking that every cut of them gives the same one.
    fn parse(bytes: &[u8]) -> Result<Option<RequestLine>, LineError> {
        let whole = LineParser::new(0).parse(bytes);
        for cut in 0..bytes.len() {
            let mut parser = LineParser::new(0);
            let verdict = match parser.parse(&bytes[..cut]) {
                Ok(None) => parser.parse(bytes),
                early => early,
            };
            assert_eq!(verdict, whole, "{:?} cut at {cut}", String::from_utf8_lossy(bytes));
        }
        let mut parser = LineParser::new(0);
        let verdict = (0..=bytes.len()).map(|len| parser.parse(&bytes[..len])).find(|verdict| *verdict != Ok(None));
        assert_eq!(verdict.unwrap_or(Ok(None)), whole, "{:?} byte by byte", String::from_utf8_lossy(bytes));
        whole
    }

    fn good(bytes: &[u8]) -> RequestLine {
        parse(bytes).expect("a good line").expect("a whole line")
    }

    #[test]
    fn good_lines() {
        // line, method, target, protocol, version
        let cases: &[(&str, &str, &str, &str, u32)] = &[
            ("GET / HTTP/1.1\r\n", "GET", "/", "HTTP/1.1", 1001),
            ("GET / HTTP/1.0\n", "GET", "/", "HTTP/1.0", 1000),
            ("GET /\r\n", "GET", "/", "", 9),
            ("GET /a.b?c\n", "GET", "/a.b?c", "", 9),
            ("GET /  \n", "GET", "/", "", 9),
            ("\r\n\n\rGET / HTTP/1.1\r\n", "GET", "/", "HTTP/1.1", 1001),
            ("M-SEARCH    /x   HTTP/1.1\r\n", "M-SEARCH", "/x", "HTTP/1.1", 1001),
            ("_ /x HTTP/1.999   \r\n", "_", "/x", "HTTP/1.999   ", 1999),
            ("POST /a/../b//c?d#e HTTP/1.2\r\n", "POST", "/a/../b//c?d#e", "HTTP/1.2", 1002),
            ("GET /\u{431}\"<>\\^`{|} HTTP/1.1\r\n", "GET", "/\u{431}\"<>\\^`{|}", "HTTP/1.1", 1001),
        ];
        for &(line, method, target, protocol, version) in cases {
            let bytes = line.as_bytes();
            let parsed = good(bytes);
            let text = |span: Span| std::str::from_utf8(span.of(bytes)).expect("a case is text");
            assert_eq!(text(parsed.method), method, "{line}");
            assert_eq!(text(parsed.target), target, "{line}");
            assert_eq!(text(parsed.protocol), protocol, "{line}");
            assert_eq!(parsed.version, Version(version), "{line}");
            assert_eq!(text(parsed.line), line.trim_matches(['\r', '\n']), "{line}");
            assert_eq!(parsed.end as usize, bytes.len(), "{line}");
            assert_eq!((parsed.scheme, parsed.host), (None, None), "{line}");
        }
    }

    #[test]
    fn absolute_targets_and_authorities() {
        // line, scheme, host, target
        let cases: &[(&str, Option<&str>, &str, &str)] = &[
            ("GET http://a.b/c?d HTTP/1.1\r\n", Some("http"), "a.b", "/c?d"),
            ("GET h+t-t.p2://A-1:8080/ HTTP/1.1\r\n", Some("h+t-t.p2"), "A-1:8080", "/"),
            ("GET http://a HTTP/1.1\r\n", Some("http"), "a", "/"),
            ("GET http://a: HTTP/1.1\r\n", Some("http"), "a:", "/"),
            ("GET http://a?b HTTP/1.1\r\n", Some("http"), "a", "?b"),
            ("GET http://[::1]:80/ HTTP/1.1\r\n", Some("http"), "[::1]:80", "/"),
            ("GET http://[v1.a!$&'()*+,;=_~-]/ HTTP/1.1\r\n", Some("http"), "[v1.a!$&'()*+,;=_~-]", "/"),
            ("GET http:///x HTTP/1.1\r\n", Some("http"), "", "/x"),
            ("CONNECT a.b:443 HTTP/1.1\r\n", None, "a.b:443", "/"),
            ("CONNECT  [::1]:443  HTTP/1.1\r\n", None, "[::1]:443", "/"),
        ];
        for &(line, scheme, host, target) in cases {
            let bytes = line.as_bytes();
            let parsed = good(bytes);
            let text = |span: Span| std::str::from_utf8(span.of(bytes)).expect("a case is text");
            assert_eq!(parsed.scheme.map(text), scheme, "{line}");
            assert_eq!(parsed.host.map(text), Some(host), "{line}");
            assert_eq!(text(parsed.target), target, "{line}");
            assert_eq!(parsed.shape.empty_path, target.starts_with('?'), "{line}");
        }
    }

    #[test]
    fn bad_lines() {
        use LineError::*;
        let cases: &[(&[u8], LineError)] = &[
            (b"get / HTTP/1.1\r\n", Method),
            (b" GET / HTTP/1.1\r\n", Method),
            (b"GET\t/", Method),
            (b"GET\r\n", Method),
            (b"\x16\x03\x01", Method),
            (b"G3T /", Method),
            (b"GET *", Request),
            (b"OPTIONS *", Request),
            (b"PRI * HTTP/2.0", Request),
            (b"GET ?a", Request),
            (b"GET \r\n", Request),
            (b"GET /\0", Request),
            (b"GET /a\x01", Request),
            (b"GET /a?b\x7f", Request),
            (b"GET /a\tb", Request),
            (b"GET /a b", Request),
            (b"GET /a\rb", Request),
            (b"GET http:/a", Request),
            (b"GET http:a", Request),
            (b"GET http//a", Request),
            (b"GET http://a_b/ HTTP/1.1\r\n", Request),
            (b"GET http://a@b/ HTTP/1.1\r\n", Request),
            (b"GET http://a:8x", Request),
            (b"GET http://a#", Request),
            (b"GET http://[::1 ", Request),
            (b"GET http://[::1]x", Request),
            (b"GET http://[a@b]", Request),
            (b"CONNECT a HTTP/1.1\r\n", Request),
            (b"CONNECT a: HTTP/1.1\r\n", Request),
            (b"CONNECT a:1/", Request),
            (b"CONNECT /x", Request),
            (b"GET / HTTQ", Request),
            (b"GET / http/1.1\r\n", Request),
            (b"GET / HTTP/0.9\r\n", Request),
            (b"GET / HTTP/x", Request),
            (b"GET / HTTP/1x", Request),
            (b"GET / HTTP/1.x", Request),
            (b"GET / HTTP/1.1x", Request),
            (b"GET / HTTP/1.1000", Request),
            (b"GET / HTTP/1.1 x", Request),
            (b"GET / HTTP/1.1\rx", Request),
            (b"GET / HTTP/2.0\r\n", Version),
            (b"GET / HTTP/9", Version),
            (b"GET / HTTP/10", Version),
            (b"POST /\r\n", MethodIn09),
            (b"CONNECT a:1\r\n", Request),
            (b"CONNECT a:1 \r\n", MethodIn09),
        ];
        for &(line, error) in cases {
            assert_eq!(parse(line), Err(error), "{:?}", String::from_utf8_lossy(line));
        }
        assert_eq!((Version.status(), Request.status()), (505, 400));
    }

    #[test]
    fn shapes() {
        let shape = |target: &str| good(format!("GET {target} HTTP/1.1\r\n").as_bytes()).shape;
        let plain = Shape::default();
        assert_eq!(shape("/"), plain);
        assert_eq!(shape("/a-b_c~!$&'()*,;=:@"), plain);
        assert_eq!(shape("/a.b"), Shape { extension: Some(7), ..plain });
        assert_eq!(shape("/a.b.c"), Shape { extension: Some(9), ..plain });
        assert_eq!(shape("/a.b/c"), plain);
        assert_eq!(shape("/a.b?c/d.e"), Shape { extension: Some(7), args: Some(9), ..plain });
        assert_eq!(shape("/?"), Shape { args: Some(6), ..plain });
        assert_eq!(shape("/.a"), Shape { complex: true, ..plain });
        assert_eq!(shape("//"), Shape { complex: true, ..plain });
        assert_eq!(shape("/a/b/./c"), Shape { complex: true, ..plain });
        assert_eq!(shape("/a%20"), Shape { quoted: true, ..plain });
        assert_eq!(shape("/a#b"), Shape { complex: true, ..plain });
        assert_eq!(shape("/a?b#c"), Shape { complex: true, args: Some(7), ..plain });
        assert_eq!(shape("/a+b/+c"), Shape { plus: true, ..plain });
        assert_eq!(shape("/a?b+%c"), Shape { args: Some(7), ..plain });
        assert_eq!(shape("/+."), Shape { plus: true, complex: true, ..plain });
    }

    #[test]
    fn a_pipelined_line_begins_where_the_first_request_ended() {
        let buf = b"GET /one HTTP/1.1\r\n\r\n\r\nGET /two HTTP/1.1\r\n\r\n";
        let first = LineParser::new(0).parse(buf).expect("good").expect("whole");
        let mut parser = LineParser::new(first.end as usize + 2);
        let second = parser.parse(buf).expect("good").expect("whole");
        assert_eq!(second.target.of(buf), b"/two");
        assert_eq!(parser.start(), second.line.start as usize);
        assert!(parser.has_begun());
    }

    #[test]
    fn the_preface_of_http2_is_told_from_a_line() {
        assert_eq!(Preface::of(b""), Preface::Undecided);
        assert_eq!(Preface::of(b"PRI * HT"), Preface::Undecided);
        assert_eq!(Preface::of(b"PROPFIND"), Preface::Other);
        assert_eq!(Preface::of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"), Preface::Http2);
    }
}
