//! HTTP/1 towards an upstream: heads and bodies as it sends them.
//!
//! nginx: `ngx_http_proxy_process_status_line`, `…_process_header`, `…_copy_filter`, `…_chunked_filter`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::Proxy;
use crate::http::body::Piece;
use crate::http::fields::{Fields, Lines};
use crate::http::request::Request;
use crate::http::response::Field;
use crate::log::{Level, Raw};
use crate::modules::pass::cache::origin::Origin;
use crate::modules::pass::codec::{Codec, Flow, Looked};
use crate::modules::pass::exchange::action;
use crate::modules::pass::reply::{Reply, Rewritten};
use crate::wire::http1::chunked::{Chunk, Decoder, SizeLine, Trailers};
use crate::wire::http1::field::{self, FieldParser, Line, NameRules};
use crate::wire::http1::name::Kind;
use crate::wire::http1::request::Version;
use crate::wire::http1::response::{StatusLine, status_line};

/// One exchange in HTTP/1.
pub struct Http1 {
    proxy: Arc<Proxy>,
    /// The request was HEAD: no body follows.
    head_only: bool,
    /// The request's body goes out in chunks.
    chunked_request: bool,
    /// The client asked for another protocol.
    may_upgrade: bool,
    parsing: Parsing,
    left: Left,
    /// The answer comes in chunks.
    chunked_reply: bool,
    /// The upstream allows another request on this connection.
    keepalive: bool,
    upgraded: bool,
    trailers: Vec<Field>,
}

/// How far the head is read.
enum Parsing {
    StatusLine,
    Fields { line: StatusLine, parser: FieldParser, fields: Lines },
}

/// What is left of the body.
enum Left {
    Length(u64),
    Chunked(Decoder),
    /// The trailers behind the last chunk.
    Trailers(FieldParser, Vec<field::Field>),
    UntilClose,
    /// Nothing; whatever comes is too much.
    Over,
}

impl Http1 {
    pub fn new(proxy: Arc<Proxy>, request: &Request, head_only: bool, chunked_request: bool) -> Self {
        Self {
            proxy,
            head_only,
            chunked_request,
            may_upgrade: request.field("Upgrade").is_some() && !request.is_subrequest(),
            parsing: Parsing::StatusLine,
            left: Left::UntilClose,
            chunked_reply: false,
            keepalive: false,
            upgraded: false,
            trailers: Vec::new(),
        }
    }

    /// The head has ended at `end` of the input.
    fn finish(
        &mut self,
        request: &Request,
        input: &mut BytesMut,
        end: usize,
        line: StatusLine,
        lines: Lines,
    ) -> Looked {
        let bytes = input.split_to(end.min(input.len())).freeze();
        // The usual one goes to the client without being kept.
        let text = Some(line.text).filter(|text| text.of(&bytes) != b"200 OK").map(|text| text.slice(&bytes));
        let fields = Fields::of(bytes, lines);
        if line.is_early_hints() {
            return Looked::Hints(fields);
        }
        let Ok(reply) = Reply::new(request, line.code, text, fields) else { return Looked::Invalid };
        self.chunked_reply = reply.framing.chunked;
        let close = reply.framing.close || line.version < Version::HTTP_11;
        self.keepalive = !close;
        self.left = if self.head_only || matches!(line.code, 204 | 304) {
            Left::Over
        } else if reply.framing.chunked {
            let trailers = if self.proxy.settings.pass_trailers { Trailers::Leave } else { Trailers::Skip };
            Left::Chunked(Decoder::new(trailers))
        } else {
            match reply.framing.length {
                Some(0) => Left::Over,
                Some(length) => Left::Length(length),
                None => Left::UntilClose,
            }
        };
        if line.code == 101 {
            self.keepalive = false;
            self.upgraded = self.may_upgrade;
        }
        Looked::Head(Box::new(reply))
    }

    /// No status line at all: everything is the body of an answer without a head.
    #[cold]
    fn headless(&mut self, request: &Request) -> Looked {
        let message = format_args!("upstream sent no valid HTTP/1.0 header while {}", action::HEAD);
        request.log(Level::Error, message);
        self.keepalive = false;
        self.left = Left::UntilClose;
        Reply::without_head(request).map_or(Looked::Invalid, |reply| Looked::Head(Box::new(reply)))
    }

    fn chunk(&mut self, request: &Request, input: &mut BytesMut, out: &mut VecDeque<Piece>) -> Flow {
        let Left::Chunked(decoder) = &mut self.left else { return Flow::More };
        let mut crumbs = Crumbs::default();
        loop {
            let chunk = decoder.next(input, 0);
            if !matches!(chunk, Ok(Chunk::Data { .. })) {
                crumbs.flush(out);
            }
            match chunk {
                Ok(Chunk::Data { data, .. }) => {
                    input.advance(data.start as usize);
                    crumbs.push(input.split_to(data.len()).freeze(), out);
                }
                Ok(Chunk::More) => {
                    input.clear();
                    return Flow::More;
                }
                Ok(Chunk::End(at)) => {
                    input.advance((at as usize).min(input.len()));
                    if self.proxy.settings.pass_trailers {
                        self.left = Left::Trailers(FieldParser::new(0), Vec::new());
                        return self.read_trailers(request, input);
                    }
                    if !input.is_empty() {
                        self.keepalive = false;
                        let message = format_args!("upstream sent data after final chunk while {}", action::BODY);
                        request.log(Level::Warn, message);
                        input.clear();
                    }
                    self.left = Left::Over;
                    return Flow::End;
                }
                Err(_) => {
                    let message = format_args!("upstream sent invalid chunked response while {}", action::BODY);
                    request.log(Level::Error, message);
                    return Flow::Broken;
                }
            }
        }
    }

    fn read_trailers(&mut self, request: &Request, input: &mut BytesMut) -> Flow {
        let Left::Trailers(parser, fields) = &mut self.left else { return Flow::More };
        loop {
            match parser.next(input, NameRules::UPSTREAM) {
                Ok(None) if input.len() > self.proxy.settings.buffer_size => {
                    let message = format_args!("upstream sent too big trailers while {}", action::BODY);
                    request.log(Level::Error, message);
                    return Flow::Broken;
                }
                Ok(None) => return Flow::More,
                Ok(Some(Line::Field(field))) => fields.push(field),
                Ok(Some(Line::End(end))) => {
                    let bytes = input.split_to((end as usize).min(input.len())).freeze();
                    let field =
                        |at: &field::Field| Field { name: at.name.slice(&bytes), value: at.value.slice(&bytes) };
                    self.trailers = fields.iter().map(field).collect();
                    self.left = Left::Over;
                    return Flow::End;
                }
                Err(broken) => {
                    let line = Raw(broken.line.of(input));
                    let message = format_args!(
                        "upstream sent invalid trailer: \"{line}\\x{:02x}...\" while {}",
                        broken.byte,
                        action::BODY
                    );
                    request.log(Level::Error, message);
                    return Flow::Broken;
                }
            }
        }
    }
}

/// Small chunks are joined: each would be a piece, and pin the buffer that it came in.
#[derive(Default)]
struct Crumbs {
    one: Option<Bytes>,
    many: BytesMut,
}

impl Crumbs {
    const SMALL: usize = 1024;

    fn push(&mut self, bytes: Bytes, out: &mut VecDeque<Piece>) {
        if bytes.len() >= Self::SMALL {
            self.flush(out);
            return out.push_back(Piece::Mem(bytes));
        }
        match self.one.take() {
            Some(first) => {
                self.many.extend_from_slice(&first);
                self.many.extend_from_slice(&bytes);
            }
            None if self.many.is_empty() => self.one = Some(bytes),
            None => self.many.extend_from_slice(&bytes),
        }
    }

    fn flush(&mut self, out: &mut VecDeque<Piece>) {
        out.extend(self.one.take().map(Piece::Mem));
        if !self.many.is_empty() {
            out.push_back(Piece::Mem(self.many.split().freeze()));
        }
    }
}

impl Codec for Http1 {
    fn begin(&mut self) {
        self.parsing = Parsing::StatusLine;
        self.left = Left::UntilClose;
        self.keepalive = false;
        self.upgraded = false;
        self.trailers.clear();
    }

    fn wrap(&mut self, parts: Vec<Bytes>, end: Option<&[Field]>, out: &mut VecDeque<Piece>) {
        let size: usize = parts.iter().map(Bytes::len).sum();
        if !self.chunked_request {
            return out.extend(parts.into_iter().map(Piece::Mem));
        }
        if size > 0 {
            out.push_back(Piece::Mem(Bytes::copy_from_slice(SizeLine::new(size as u64).as_ref())));
            out.extend(parts.into_iter().map(Piece::Mem));
            out.push_back(Piece::Mem(Bytes::from_static(b"\r\n")));
        }
        if let Some(trailers) = end {
            out.push_back(Piece::Mem(self.proxy.last_chunk(trailers)));
        }
    }

    fn head(&mut self, request: &Request, input: &mut BytesMut) -> Looked {
        loop {
            match &mut self.parsing {
                Parsing::StatusLine => match status_line(input, 0) {
                    Ok(None) => return Looked::More,
                    Ok(Some(line)) => {
                        if line.is_early_hints() && line.version < Version::HTTP_11 {
                            let message =
                                format_args!("upstream sent HTTP/1.0 response with early hints while {}", action::HEAD);
                            request.log(Level::Error, message);
                            return Looked::Invalid;
                        }
                        let parser = FieldParser::new(line.end as usize);
                        self.parsing = Parsing::Fields { line, parser, fields: Lines::default() };
                    }
                    Err(_) => return self.headless(request),
                },
                Parsing::Fields { line, parser, fields } => match parser.next(input, NameRules::UPSTREAM) {
                    Ok(None) => return Looked::More,
                    Ok(Some(Line::Field(field))) => fields.push(field, Kind::of(field.name.of(input))),
                    Ok(Some(Line::End(end))) => {
                        let (line, fields) = (*line, std::mem::take(fields));
                        self.parsing = Parsing::StatusLine;
                        return self.finish(request, input, end as usize, line, fields);
                    }
                    Err(broken) => {
                        let message = format_args!(
                            "upstream sent invalid header: \"{}\\x{:02x}...\" while {}",
                            Raw(broken.line.of(input)),
                            broken.byte,
                            action::HEAD
                        );
                        request.log(Level::Error, message);
                        return Looked::Invalid;
                    }
                },
            }
        }
    }

    fn body(&mut self, request: &Request, input: &mut BytesMut, out: &mut VecDeque<Piece>) -> Flow {
        match &mut self.left {
            Left::Chunked(_) => self.chunk(request, input, out),
            Left::Trailers(..) => self.read_trailers(request, input),
            Left::UntilClose => {
                if !input.is_empty() {
                    out.push_back(Piece::Mem(input.split().freeze()));
                }
                Flow::More
            }
            Left::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                if len > 0 {
                    out.push_back(Piece::Mem(input.split_to(len).freeze()));
                    *left -= len as u64;
                }
                if *left > 0 {
                    return Flow::More;
                }
                self.left = Left::Over;
                self.body(request, input, out)
            }
            Left::Over => {
                if !input.is_empty() {
                    let message = format_args!(
                        "upstream sent more data than specified in \"Content-Length\" header while {}",
                        action::BODY
                    );
                    request.log(Level::Warn, message);
                    self.keepalive = false;
                    input.clear();
                }
                Flow::End
            }
        }
    }

    fn ends_with_connection(&self) -> bool {
        matches!(self.left, Left::UntilClose | Left::Over)
    }

    fn plain(&self) -> u64 {
        match &self.left {
            Left::Length(left) => *left,
            Left::Chunked(_) | Left::Trailers(..) | Left::UntilClose | Left::Over => 0,
        }
    }

    fn passed(&mut self, bytes: u64) {
        let Left::Length(left) = &mut self.left else { return };
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            self.left = Left::Over;
        }
    }

    fn expected(&self) -> u64 {
        match &self.left {
            Left::Length(left) => *left,
            Left::Chunked(decoder) => decoder.expected().max(16 * 1024),
            Left::Trailers(..) => 1024,
            Left::UntilClose => u64::MAX,
            Left::Over => 0,
        }
    }

    fn is_reusable(&self) -> bool {
        self.keepalive && matches!(self.left, Left::Over)
    }

    fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    fn take_trailers(&mut self) -> Vec<Field> {
        std::mem::take(&mut self.trailers)
    }

    fn has_trailers(&self) -> bool {
        self.chunked_reply && self.proxy.settings.pass_trailers
    }

    fn rewrite(&self, request: &Request, what: Rewritten, value: &Bytes) -> Option<Bytes> {
        Origin::rewrite(&*self.proxy, request, what, value)
    }
}
