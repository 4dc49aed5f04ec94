//! From the fields of a block to a request: nginx's checks, in its order.
//!
//! In: the fields as they came. Out: a request that knows its server, or one that knows as much as was understood, and the
//! status that refuses it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;

use base64::Engine;
use bytes::{Bytes, BytesMut};

use super::stream::Stream;
use crate::http::connection::Connection;
use crate::http::plan::ServerId;
use crate::http::request::{Begun, LineText, Request, RequestHead};
use crate::http::response::Field;
use crate::http::upload::Upload;
use crate::log::{Level, Raw};
use crate::wire::byte;
use crate::wire::http1::message;
use crate::wire::http1::method::{Method, Version};
use crate::wire::http1::name::{Kind, Rule};
use crate::wire::http2::hpack::Fields;
use crate::wire::span::Span;
use crate::wire::uri::{self, Normal, Shape};

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// It breaks the protocol: the stream is reset behind the answer (RFC 9113, 8.1.1).
    pub(super) malformed: bool,
}

/// What was wrong, for the log.
struct Fault {
    status: u16,
    malformed: bool,
    why: String,
}

fn malformed(why: impl Into<String>) -> Fault {
    Fault { status: 400, malformed: true, why: why.into() }
}

fn refused(status: u16, why: impl Into<String>) -> Fault {
    Fault { status, malformed: false, why: why.into() }
}

/// What of a head is known so far.
struct Parts<'a> {
    connection: &'a Rc<Connection>,
    text: &'a Bytes,
    server: ServerId,
    method: Span,
    scheme: Span,
    path: Span,
    normal: Option<Normal>,
    shape: Shape,
    /// `:authority` as it came.
    authority: Option<Span>,
    /// `:protocol` (RFC 8441).
    protocol: Option<Span>,
    host: Option<Bytes>,
    port: u16,
    /// The pseudo-fields are over.
    line: Option<LineText>,
    fields: Vec<Field>,
    cookies: Vec<Span>,
}

/// Makes the request of a stream. `size` is that of the block.
pub(super) fn read(
    connection: &Rc<Connection>,
    stream: &Rc<Stream>,
    fields: Fields,
    size: u64,
) -> (Rc<Request>, Option<Refused>) {
    let mut parts = Parts::new(connection, &fields.text);
    let in_closed = stream.inner.borrow().in_closed;
    let fault = parts.all(&fields).and_then(|()| parts.whole(in_closed)).err();
    let request = parts.finish(stream, size, fault.is_some());
    let refused = fault.map(|Fault { status, malformed, why }| {
        request.log(Level::Info, format_args!("{why} while {READING}"));
        Refused { status, malformed }
    });
    (request, refused)
}

/// The request of a stream whose fields never came to their end, for its line in the log.
pub(super) fn unfinished(connection: &Rc<Connection>, stream: &Rc<Stream>, size: u64) -> Rc<Request> {
    Parts::new(connection, &Bytes::new()).finish(stream, size, true)
}

/// nginx's phrase for the log.
const READING: &str = "reading client request headers";

impl<'a> Parts<'a> {
    fn new(connection: &'a Rc<Connection>, text: &'a Bytes) -> Self {
        Self {
            connection,
            text,
            server: connection.address().names.default,
            method: Span::default(),
            scheme: Span::default(),
            path: Span::default(),
            normal: None,
            shape: Shape::default(),
            authority: None,
            protocol: None,
            host: None,
            port: 0,
            line: None,
            fields: Vec::with_capacity(16),
            cookies: Vec::new(),
        }
    }

    /// What was understood, as a request.
    fn finish(mut self, stream: &Rc<Stream>, size: u64, refused: bool) -> Rc<Request> {
        let in_closed = stream.inner.borrow().in_closed;
        let content_length = self.length();
        let upgrade = self.upgrade().filter(|_| !refused);
        let uri = self.normal.take().map(|normal| normal.freeze(self.text));
        let tunnel = upgrade.is_some();
        let line = match self.line.take() {
            Some(line) => line,
            None => LineText { whole: Span::default(), ..self.line_text() },
        };
        self.fields.extend(upgrade.into_iter().flatten());
        let head = RequestHead {
            line,
            version: Version::HTTP_20,
            fields: self.fields.into_iter().collect(),
            host: self.host,
            host_port: self.port,
            content_length,
            chunked: content_length.is_none() && !in_closed && !tunnel,
            escaped: self.shape.quoted || self.shape.plus,
            size,
        };
        let (path, args) = match uri {
            Some(Ok(uri)) => (uri.path.into_bytes(), uri.args),
            Some(Err(_)) | None => Default::default(),
        };
        let connection = self.connection;
        connection.begun.set(connection.now());
        let body = if tunnel || in_closed { Upload::default() } else { Upload::of(stream.clone()) };
        let begun = Begun { path, args, server: self.server, body, stream: Some(stream.clone()) };
        let request = Request::new(connection.clone(), Rc::new(head), begun);
        if tunnel {
            request.set_method(Bytes::from_static(b"GET"));
        }
        let names = &connection.address().names;
        if let Some(host) = request.head.host.as_ref().filter(|_| names.has_patterns()) {
            names.choose(host).fill(&request);
        }
        request
    }

    /// Field by field, up to the first that is wrong.
    fn all(&mut self, fields: &Fields) -> Result<(), Fault> {
        for pair in &fields.pairs {
            self.field(pair.name, pair.value)?;
        }
        Ok(())
    }

    fn field(&mut self, name_at: Span, value_at: Span) -> Result<(), Fault> {
        let (name, value) = (name_at.of(self.text), value_at.of(self.text));
        let settings = &self.connection.http.server(self.server).settings;
        let pseudo = name.strip_prefix(b":");
        let Some(plain) = self::name(pseudo.unwrap_or(name), settings.underscores_in_headers) else {
            return Err(malformed(format!("client sent invalid header name: \"{}\"", Raw(name))));
        };
        if !self::value(value) {
            let why = format!("client sent header \"{}\" with invalid value: \"{}\"", Raw(name), Raw(value));
            return Err(malformed(why));
        }
        if let Some(pseudo) = pseudo {
            return self.pseudo(pseudo, value_at);
        }
        self.construct_line()?;
        if plain == Plain::Odd && settings.ignore_invalid_headers {
            let server = self.connection.http.server(self.server);
            let message = format_args!("client sent invalid header: \"{}\", server: {}", Raw(name), Raw(&server.name));
            self.connection.log(Level::Info, READING, message);
            return Ok(());
        }
        if name == b"cookie" {
            self.cookies.push(value_at);
            return Ok(());
        }
        if self.fields.len() as u64 >= settings.max_headers {
            return Err(refused(494, "client sent too many header lines"));
        }
        self.push(name_at.slice(self.text), value_at)
    }

    /// Takes a field in, by the rules for its name.
    fn push(&mut self, name: Bytes, value_at: Span) -> Result<(), Fault> {
        let value = value_at.slice(self.text);
        let rule = Rule::of(&name, Kind::of(&name));
        if rule != Rule::Many
            && let Some(before) = self.fields.iter().find(|field| field.name == name)
        {
            let what = if rule == Rule::Host { "host header" } else { "header line" };
            let why = format!(
                "client sent duplicate {what}: \"{}: {}\", previous value: \"{}: {}\"",
                Raw(&name),
                Raw(&value),
                Raw(&before.name),
                Raw(&before.value)
            );
            return Err(refused(400, why));
        }
        if rule == Rule::Host && self.host.is_none() {
            match message::host(&value) {
                Some(host) => {
                    self.server = self.connection.address().names.choose(&host.name).id();
                    (self.host, self.port) = (Some(Bytes::copy_from_slice(&host.name)), host.port);
                }
                None => {
                    self.fields.push(Field { name, value });
                    return Err(refused(400, "client sent invalid host header"));
                }
            }
        }
        self.fields.push(Field { name, value });
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value_at: Span) -> Result<(), Fault> {
        if self.line.is_some() {
            return Err(malformed("client sent out of order pseudo-headers"));
        }
        let value = value_at.of(self.text);
        let once = |before: Span, name: &str| match () {
            () if !before.is_empty() => Err(malformed(format!("client sent duplicate :{name} header"))),
            () if value.is_empty() => Err(malformed(format!("client sent empty :{name} header"))),
            () => Ok(()),
        };
        match name {
            b"path" => {
                once(self.path, "path")?;
                let Ok(shape) = Shape::of(self.text, value_at) else {
                    return Err(malformed(format!("client sent invalid :path header: \"{}\"", Raw(value))));
                };
                self.path = value_at;
                self.shape = shape;
                let merge = self.connection.http.server(self.server).settings.merge_slashes;
                self.normal = uri::normalise(self.text, value_at, &shape, merge).ok();
                if self.normal.is_none() {
                    return Err(refused(400, "client sent invalid request"));
                }
            }
            b"method" => {
                once(self.method, "method")?;
                if value.iter().any(|byte| !matches!(byte, b'A'..=b'Z' | b'_' | b'-')) {
                    return Err(malformed(format!("client sent invalid method: \"{}\"", Raw(value))));
                }
                self.method = value_at;
            }
            b"scheme" => {
                once(self.scheme, "scheme")?;
                let fine = |(n, byte): (usize, &u8)| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' => true,
                    b'0'..=b'9' | b'+' | b'-' | b'.' => n > 0,
                    _ => false,
                };
                if !value.iter().enumerate().all(fine) {
                    return Err(malformed(format!("client sent invalid :scheme header: \"{}\"", Raw(value))));
                }
                self.scheme = value_at;
            }
            b"authority" => {
                if self.authority.replace(value_at).is_some() {
                    return Err(malformed("client sent duplicate \":authority\" header"));
                }
                let Some(host) = message::host(value) else {
                    return Err(malformed("client sent invalid \":authority\" header"));
                };
                self.server = self.connection.address().names.choose(&host.name).id();
                (self.host, self.port) = (Some(Bytes::copy_from_slice(&host.name)), host.port);
            }
            b"protocol" => {
                once(self.protocol.unwrap_or_default(), "protocol")?;
                self.protocol = Some(value_at);
            }
            _ => return Err(malformed(format!("client sent unknown pseudo-header \":{}\"", Raw(name)))),
        }
        Ok(())
    }

    /// The request line that HTTP/1 would have had: `$request`.
    fn construct_line(&mut self) -> Result<(), Fault> {
        if self.line.is_some() {
            return Ok(());
        }
        for (part, name) in [(self.method, "method"), (self.scheme, "scheme"), (self.path, "path")] {
            if part.is_empty() {
                return Err(malformed(format!("client sent no :{name} header")));
            }
        }
        self.line = Some(self.line_text());
        Ok(())
    }

    fn line_text(&self) -> LineText {
        LineText::of(self.method.of(self.text), self.path.of(self.text), b"HTTP/2.0")
    }

    /// The head is whole: what it says taken together.
    fn whole(&mut self, in_closed: bool) -> Result<(), Fault> {
        let address = self.connection.address();
        if !self.connection.http.server(self.server).http2.on && !address.http2 {
            let why = "client attempted to request the server name for which the negotiated protocol is disabled";
            return Err(refused(421, why));
        }
        self.construct_line()?;
        if !self.cookies.is_empty() {
            let mut all = BytesMut::new();
            for (n, cookie) in self.cookies.iter().enumerate() {
                all.extend_from_slice(if n > 0 { b"; " } else { b"" });
                all.extend_from_slice(cookie.of(self.text));
            }
            self.fields.push(Field { name: Bytes::from_static(b"cookie"), value: all.freeze() });
        }
        let has = |name: &str| self.fields.iter().any(|field| field.is(name));
        for name in ["Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade"] {
            if has(name) {
                return Err(malformed(format!("client sent \"{name}\" header")));
            }
        }
        let mut te = self.fields.iter().filter(|field| field.is("TE"));
        if te.next().is_some_and(|field| !field.value.eq_ignore_ascii_case(b"trailers")) || te.next().is_some() {
            return Err(malformed("client sent invalid \"TE\" header"));
        }
        if self.host.as_ref().is_none_or(|host| host.is_empty()) {
            return Err(refused(400, "client sent neither \":authority\" nor \"Host\" header"));
        }
        if let Some(authority) = self.authority {
            let host = self.fields.iter().find(|field| field.is("Host")).map(|field| field.value.clone());
            match host {
                Some(host) if host != authority.of(self.text) => {
                    let why = "client sent \":authority\" and \"Host\" headers with different values";
                    return Err(malformed(why));
                }
                Some(_) => {}
                // nginx: for `$http_host`
                None => self.push(Bytes::from_static(b"host"), authority)?,
            }
        }
        if let Some(value) = self.fields.iter().find(|field| field.is("Content-Length")) {
            match byte::offset(&value.value) {
                None => return Err(malformed("client sent invalid \"Content-Length\" header")),
                Some(1..) if in_closed => return Err(malformed("client prematurely closed stream")),
                Some(_) => {}
            }
        }
        match (Method::of(self.method.of(self.text)), self.protocol) {
            (Method::Connect, Some(protocol)) if protocol.of(self.text).eq_ignore_ascii_case(b"websocket") => {
                match in_closed {
                    true => Err(malformed("client prematurely closed stream")),
                    false => Ok(()),
                }
            }
            // RFC 9220, 3
            (Method::Connect, Some(protocol)) => {
                Err(refused(501, format!("client sent unknown protocol \"{}\"", Raw(protocol.of(self.text)))))
            }
            (_, Some(_)) => Err(malformed("client sent unknown pseudo-header \":protocol\"")),
            (Method::Connect, None) => Err(refused(405, "client sent CONNECT method")),
            (Method::Trace, None) => Err(refused(405, "client sent TRACE method")),
            (_, None) => Ok(()),
        }
    }

    fn length(&self) -> Option<u64> {
        let field = self.fields.iter().find(|field| field.is("Content-Length"))?;
        byte::offset(&field.value)
    }

    /// RFC 8441: what a WebSocket asks for in HTTP/1, so that the same locations serve it.
    fn upgrade(&self) -> Option<Vec<Field>> {
        self.protocol?;
        let key = [RandomState::new().hash_one(0).to_ne_bytes(), RandomState::new().hash_one(1).to_ne_bytes()].concat();
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        let field = |name: &'static str, value: Bytes| Field { name: name.into(), value };
        Some(vec![
            field("upgrade", Bytes::from_static(b"websocket")),
            field("connection", Bytes::from_static(b"Upgrade")),
            field("sec-websocket-key", key.into()),
        ])
    }
}

/// How a name looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    /// As names are.
    Plain,
    /// `ignore_invalid_headers` decides.
    Odd,
}

/// nginx's view of a name; `None` where none can be like that.
pub(super) fn name(name: &[u8], underscores: bool) -> Option<Plain> {
    let mut plain = Plain::Plain;
    for byte in name {
        match byte {
            b'a'..=b'z' | b'-' | b'0'..=b'9' => {}
            b'_' if underscores => {}
            0..=b' ' | 0x7f | b':' | b'A'..=b'Z' => return None,
            _ => plain = Plain::Odd,
        }
    }
    Some(plain)
}

/// Whether this may be a value.
pub(super) fn value(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}
