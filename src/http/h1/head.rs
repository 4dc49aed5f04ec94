//! Reading the head of a request: buffers, limits, and nginx's refusals.
//!
//! In: the connection's bytes. Out: a [`Request`] that knows its server, or a status and what to log. nginx reads
//! into one small buffer and then into a few large ones; we read into one that grows, and count as if it were those,
//! for what is too large is refused by the same rule.

use std::borrow::Cow;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::base::place;
use crate::http::connection::Connection;
use crate::http::fields::{Fields, Lines};
use crate::http::plan::ServerId;
use crate::http::request::{Begun, LineText, Request, RequestHead};
use crate::http::server::ServerSettings;
use crate::http::upload::{Framing, Upload};
use crate::log::{Level, Raw};
use crate::net::timer::Timer;
use crate::wire::http1::chunked::{Decoder, Trailers};
use crate::wire::http1::field::{self, FieldParser, Line, NameRules};
use crate::wire::http1::message::{self, Essentials};
use crate::wire::http1::name::{Kind, Rule};
use crate::wire::http1::request::{LineParser, RequestLine, Version};
use crate::wire::span::Span;
use crate::wire::uri::{self, Normal};

/// What reading a head came to.
pub enum Head {
    Request(Rc<Request>),
    /// Refused; the request knows as much as was understood.
    Refused(Rc<Request>, u16),
    /// The client went away, or was too slow: the connection ends, and a request that had begun is logged with this
    /// status.
    Gone(Option<(Rc<Request>, u16)>),
}

/// Counts bytes as nginx's buffers would take them.
struct Buffers {
    room: usize,
    size: usize,
    left: usize,
}

/// The line does not fit in any buffer: it is longer than one, or there are too few.
struct Full;

impl Buffers {
    fn new(settings: &ServerSettings) -> Self {
        let large = settings.large_buffers();
        Self { room: settings.client_header_buffer_size, size: large.size, left: large.number }
    }

    /// A line of this length has come whole.
    fn take(&mut self, len: usize) -> Result<(), Full> {
        if len > self.room {
            self.enlarge(len)?;
        }
        self.room -= len;
        Ok(())
    }

    fn enlarge(&mut self, len: usize) -> Result<(), Full> {
        if len > self.size {
            return Err(Full);
        }
        self.left = self.left.checked_sub(1).ok_or(Full)?;
        self.room = self.size;
        Ok(())
    }

    /// A line of which this much has come is not at its end. How many more bytes may be read.
    fn more(&mut self, len: usize) -> Result<usize, Full> {
        if len >= self.room {
            if len >= self.size {
                return Err(Full);
            }
            self.enlarge(len)?;
        }
        Ok(self.room - len)
    }
}

/// What of the head is known so far.
struct Parts<'a> {
    connection: &'a Rc<Connection>,
    line: Option<RequestLine>,
    /// The target's path and arguments, once the line is there and they make sense.
    normal: Option<Normal>,
    fields: Lines,
    /// Of the request line, or of `Host`.
    host: Option<KnownHost>,
    /// The request line or a field speaks of a host.
    has_host: bool,
    /// Where the last line ended that was understood.
    end: usize,
    /// What is being read, for the log.
    doing: &'static str,
    server: ServerId,
    settings: &'a ServerSettings,
}

/// What a walk over the field lines at hand came to.
enum Walked {
    /// The head ends here.
    End(usize),
    /// So many more bytes may be read.
    More(usize),
    Refused(u16, Cow<'static, str>),
    /// The line at hand fits in no buffer.
    TooLarge,
}

/// Reads one head. The first byte is there or about to come.
pub async fn read(connection: &Rc<Connection>, timer: &mut Timer) -> Head {
    let default = connection.server.get();
    let http = &connection.http;
    let settings = &http.server(default).settings;
    let mut buffers = Buffers::new(settings);
    let mut parts = Parts::new(connection, default, settings);

    // The request line.
    let mut parser = LineParser::new(0);
    let line = loop {
        let parsed = parser.parse(&connection.input.borrow());
        match parsed {
            Ok(Some(line)) => break line,
            Ok(None) => {
                let len = connection.input.borrow().len();
                match buffers.more(len) {
                    Err(_) => return parts.refuse(414, "client sent too long URI"),
                    Ok(room) => {
                        if let Err(gone) = parts.fill(room, timer).await {
                            return gone;
                        }
                    }
                }
            }
            Err(error) => return parts.refuse(error.status(), error.text()),
        }
    };
    let end = line.end as usize;
    if buffers.take(end).is_err() {
        return parts.refuse(414, "client sent too long URI");
    }
    parts.line = Some(line);
    parts.end = end;
    // Now, not when the fields are there: nginx does not read them for a target that makes no sense.
    parts.normal = uri::normalise(&connection.input.borrow(), line.target, &line.shape, settings.merge_slashes).ok();
    if parts.normal.is_none() {
        return parts.refuse(400, "client sent invalid request");
    }
    if line.version < Version::HTTP_10 {
        return parts.finish(line, end);
    }
    if let Some(host) = line.host {
        parts.has_host = true;
        let input = connection.input.borrow();
        match message::host(host.of(&input)) {
            Some(name) => {
                parts.server = connection.address().names.choose(&name.name).id();
                parts.host = Some(KnownHost::new(name, host));
            }
            None => {
                drop(input);
                return parts.refuse(400, "client sent invalid host in request line");
            }
        }
    }

    // The fields.
    parts.doing = READING_FIELDS;
    let mut parser = FieldParser::new(end);
    loop {
        match parts.walk(&mut parser, &mut buffers) {
            Walked::End(end) => return parts.finish(line, end),
            Walked::Refused(status, why) => return parts.refuse(status, &why),
            Walked::TooLarge => return parts.too_large(),
            Walked::More(room) => {
                if let Err(gone) = parts.fill(room, timer).await {
                    return gone;
                }
            }
        }
    }
}

impl<'a> Parts<'a> {
    fn new(connection: &'a Rc<Connection>, server: ServerId, settings: &'a ServerSettings) -> Self {
        Self {
            connection,
            line: None,
            normal: None,
            fields: Lines::default(),
            host: None,
            has_host: false,
            end: 0,
            doing: READING_LINE,
            server,
            settings,
        }
    }

    /// Reads more from the socket, at most `room`.
    async fn fill(&mut self, room: usize, timer: &mut Timer) -> Result<(), Head> {
        let (connection, doing) = (self.connection, self.doing);
        if !connection.output.borrow().is_empty() {
            // The rest may not come before the client has its earlier answers.
            let _ = super::send::flush(&self.begin()).await;
        }
        let timeout = self.settings.client_header_timeout;
        connection.input.borrow_mut().reserve(room.clamp(1, READ));
        let read = std::future::poll_fn(|cx| match connection.io.poll_read(cx, &mut connection.input.borrow_mut()) {
            Poll::Ready(read) => Poll::Ready(Ok(read)),
            Poll::Pending => {
                ready!(timer.poll(cx, timeout));
                Poll::Ready(Err(()))
            }
        })
        .await;
        match read {
            Ok(Ok(0)) => {
                let request = self.begin();
                request.log(Level::Info, format_args!("client prematurely closed connection{doing}"));
                Err(Head::Gone(Some((request, 400))))
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let request = self.begin();
                let errno = crate::base::text::errno(&error);
                request.log(Level::Info, format_args!("recv() failed {errno}{doing}"));
                Err(Head::Gone(Some((request, 400))))
            }
            Err(()) => {
                let request = self.begin();
                request.log(Level::Info, format_args!("client timed out (110: Connection timed out){doing}"));
                if request.plan().core.reset_timedout_connection {
                    connection.io.reset_on_close();
                }
                Err(Head::Gone(Some((request, 408))))
            }
        }
    }

    /// Takes in the field lines that are there.
    fn walk(&mut self, parser: &mut FieldParser, buffers: &mut Buffers) -> Walked {
        let connection = self.connection;
        let input = connection.input.borrow();
        let (mut server, mut settings) = (self.server, &connection.http.server(self.server).settings);
        loop {
            // The Host line may have chosen another server.
            if server != self.server {
                (server, settings) = (self.server, &connection.http.server(self.server).settings);
            }
            let rules = NameRules { underscores: settings.underscores_in_headers, upstream: false };
            match parser.next(&input, rules) {
                Ok(Some(Line::End(end))) => return Walked::End(end as usize),
                Ok(Some(Line::Field(field))) => {
                    let end = field.end as usize;
                    if buffers.take(end.saturating_sub(self.end)).is_err() {
                        return Walked::TooLarge;
                    }
                    self.end = end;
                    if let Err((status, why)) = self.field(field, settings, &input) {
                        return Walked::Refused(status, why);
                    }
                }
                Ok(None) => {
                    let room = buffers.more(input.len().saturating_sub(self.end));
                    return room.map_or(Walked::TooLarge, Walked::More);
                }
                Err(broken) => {
                    let line = Raw(broken.line.of(&input));
                    let why = format!("client sent invalid header line: \"{line}\\x{:02x}...\"", broken.byte);
                    return Walked::Refused(400, why.into());
                }
            }
        }
    }

    /// Takes one field line in, or says why it is refused.
    #[inline]
    fn field(
        &mut self,
        field: field::Field,
        settings: &ServerSettings,
        input: &[u8],
    ) -> Result<(), (u16, Cow<'static, str>)> {
        let name = field.name.of(input);
        if field.invalid && settings.ignore_invalid_headers {
            let line = Raw(field.line().of(input));
            let message = format_args!("client sent invalid header line: \"{line}\"{}", self.doing);
            self.begin().log(Level::Info, message);
            return Ok(());
        }
        if self.fields.len() as u64 >= settings.max_headers {
            return Err((494, "client sent too many header lines".into()));
        }
        let kind = Kind::of(name);
        let rule = Rule::of(name, kind);
        if rule != Rule::Many
            && let Some((before, previous)) = self.fields.first(name, kind, input)
        {
            let what = if rule == Rule::Host { "host header" } else { "header line" };
            let why = format!(
                "client sent duplicate {what}: \"{}: {}\", previous value: \"{}: {}\"",
                Raw(name),
                Raw(field.value.of(input)),
                Raw(before),
                Raw(previous)
            );
            return Err((400, why.into()));
        }
        self.fields.push(field, kind);
        if rule == Rule::Host {
            self.has_host = true;
            let Some(host) = message::host(field.value.of(input)) else {
                return Err((400, "client sent invalid host header".into()));
            };
            // The host of the request line, where there is one, has precedence (RFC 9112, 3.2.2).
            if self.line.is_some_and(|line| line.host.is_none()) {
                self.server = self.connection.address().names.choose(&host.name).id();
                self.host = Some(KnownHost::new(host, field.value));
            }
        }
        Ok(())
    }

    /// The head is whole: takes it off the connection and makes the request of it.
    fn finish(&mut self, line: RequestLine, end: usize) -> Head {
        let connection = self.connection.clone();
        if !self.has_host {
            // Without a host it is the server without a name that is meant, where there is one.
            self.server = connection.address().names.choose(b"").id();
        }
        let raw = connection.input.borrow_mut().split_to(end).freeze();
        self.end = end;
        let uri = self.normal.take().map(|normal| normal.freeze(&raw));
        let fields = Fields::of(raw.clone(), std::mem::take(&mut self.fields));
        let first = |name| fields.first(name).map(|field| field.value);
        let essentials = Essentials {
            host: first("Host"),
            content_length: first("Content-Length"),
            transfer_encoding: first("Transfer-Encoding"),
        };
        let body = essentials.body(line.known, line.version, false);
        let framing = match body {
            Ok(message::Body::Length(length)) => Framing::Length(length),
            Ok(message::Body::Chunked) => Framing::Chunked(Decoder::new(Trailers::Skip)),
            Ok(message::Body::None) | Err(_) => Framing::Length(0),
        };
        let (path, args, clean) = match uri {
            Some(Ok(uri)) => (uri.path.into_bytes(), uri.args, true),
            Some(Err(_)) | None => (Bytes::new(), Bytes::new(), false),
        };
        let length = match body {
            Ok(message::Body::Length(length)) => Some(length),
            _ => None,
        };
        let chunked = matches!(body, Ok(message::Body::Chunked));
        let head = place::counted(|| self.head(raw, fields, Some(line), (length, chunked)));
        let keepalive = keeps_alive(&head);
        let begun = Begun { path, args, server: self.server, body: Upload::new(framing), stream: None };
        let request = Request::new(connection.clone(), head, begun);
        request.keepalive.set(keepalive);
        let names = &connection.address().names;
        if let Some(host) = request.head.host.as_ref().filter(|_| names.has_patterns()) {
            names.choose(host).fill(&request);
        }
        if !clean {
            request.log(Level::Info, format_args!("client sent invalid request{READING_LINE}"));
            request.keepalive.set(false);
            return Head::Refused(request, 400);
        }
        if let Err(error) = body {
            let value = match error {
                message::HeadError::TransferEncoding => request.field("Transfer-Encoding"),
                _ => None,
            };
            let value = value.map(|value| format!(": \"{}\"", Raw(value))).unwrap_or_default();
            request.log(Level::Info, format_args!("{}{value}{READING_FIELDS}", error.text()));
            request.keepalive.set(false);
            return Head::Refused(request, error.status());
        }
        request.last_word.set(!keepalive && matches!(body, Ok(message::Body::None)));
        Head::Request(request)
    }

    /// What was understood so far, over the bytes `raw`.
    #[inline(always)] // made where it will stand
    fn head(
        &self,
        raw: Bytes,
        fields: Fields,
        line: Option<RequestLine>,
        (content_length, chunked): (Option<u64>, bool),
    ) -> RequestHead {
        let (host, host_port) = self.host.as_ref().map_or((None, 0), |host| (Some(host.bytes(&raw)), host.port));
        let text = match line {
            Some(RequestLine { line: whole, method, target, protocol, .. }) => {
                LineText { text: raw, whole, method, target, protocol }
            }
            None => LineText::default(),
        };
        RequestHead {
            line: text,
            version: line.map_or(Version::HTTP_09, |line| line.version),
            fields,
            host,
            host_port,
            content_length,
            chunked,
            escaped: line.is_some_and(|line| line.shape.quoted || line.shape.plus),
            size: line.map_or(0, |line| self.end.saturating_sub(line.line.start as usize) as u64),
        }
    }

    /// A request of what is there: for the log, and for the answer to a head that is refused.
    #[cold]
    fn begin(&self) -> Rc<Request> {
        let raw = Bytes::copy_from_slice(&self.connection.input.borrow());
        let head = self.head(raw.clone(), Fields::of(raw.clone(), self.fields.clone()), self.line, (None, false));
        let head = match self.line {
            Some(_) => head,
            // nginx shows what it has of a line that it could not read, and answers as to HTTP/1.0.
            None => {
                let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
                let start = raw.iter().position(|byte| !is_end(byte)).unwrap_or(raw.len());
                let held = raw.len().min(start.saturating_add(self.settings.large_buffers().size));
                let end = raw.iter().take(held).skip(start).position(is_end).map_or(held, |len| start + len);
                let line = LineText { text: raw.slice(start..end), whole: Span::new(0, end - start), ..head.line };
                RequestHead { line, version: Version::HTTP_10, ..head }
            }
        };
        let uri = self.normal.clone().and_then(|normal| normal.freeze(&raw).ok());
        let (path, args) = uri.map_or_else(Default::default, |uri| (uri.path.into_bytes(), uri.args));
        Request::new(
            self.connection.clone(),
            Rc::new(head),
            Begun { path, args, server: self.server, ..Begun::default() },
        )
    }

    #[cold]
    fn too_large(&self) -> Head {
        let input = self.connection.input.borrow();
        let line = input.get(self.end..).unwrap_or_default();
        if line.is_empty() {
            drop(input);
            return self.refuse(494, "client sent too large request");
        }
        // nginx shows what its buffer holds, which is no whole line.
        let len = line.len().min(LOGGED).min(self.settings.large_buffers().size);
        let shown = &line[..memchr::memchr2(b'\r', b'\n', &line[..len]).unwrap_or(len)];
        let text = format!("client sent too long header line: \"{}...\"", Raw(shown));
        drop(input);
        self.refuse(494, &text)
    }

    #[cold]
    fn refuse(&self, status: u16, why: &str) -> Head {
        let request = self.begin();
        request.log(Level::Info, format_args!("{why}{}", self.doing));
        request.keepalive.set(false);
        // What follows cannot be told from the head any more.
        self.connection.input.replace(BytesMut::new());
        Head::Refused(request, status)
    }
}

/// A valid host, without its port.
struct KnownHost {
    span: Span,
    /// In lower case, if it was not sent so.
    lower: Option<Vec<u8>>,
    port: u16,
}

impl KnownHost {
    /// `sent` is where the host stands, port and all.
    fn new(host: message::Host<'_>, sent: Span) -> Self {
        let message::Host { name, port } = host;
        let end = sent.start + name.len() as u32; // a part of what the span has
        let lower = match name {
            Cow::Borrowed(_) => None,
            Cow::Owned(name) => Some(name),
        };
        Self { span: Span { start: sent.start, end }, lower, port }
    }

    fn bytes(&self, raw: &Bytes) -> Bytes {
        match &self.lower {
            Some(lower) => Bytes::copy_from_slice(lower),
            None => self.span.slice(raw),
        }
    }
}

const READING_LINE: &str = " while reading client request line";
const READING_FIELDS: &str = " while reading client request headers";

/// The most that is read at once.
const READ: usize = 16 * 1024;

/// nginx: so much of a line that is too long goes to the log.
const LOGGED: usize = 2048 - 300;

/// RFC 9112, 9.3, by nginx's reading of `Connection`.
fn keeps_alive(head: &RequestHead) -> bool {
    let said = head.fields.all("Connection");
    let said = said.filter_map(|field| message::Connection::of(field.value)).last();
    match said {
        Some(message::Connection::Close) => false,
        Some(message::Connection::KeepAlive) => true,
        None => head.version > Version::HTTP_10,
    }
}
