//! FastCGI towards an upstream: records around what a program reads and writes.
//!
//! In: the records of one answer, as they come. Out: its head, made of the fields that the program wrote first; its body;
//! and in the error log what it wrote to stderr. nginx: `ngx_http_fastcgi_process_header`, `…_input_filter`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::FastCgi;
use crate::http::body::{FilePiece, Piece};
use crate::http::fields::{Fields, Lines};
use crate::http::request::Request;
use crate::http::response::Field;
use crate::http::upload::Stored;
use crate::log::{Level, Raw};
use crate::modules::pass::cgi::status;
use crate::modules::pass::codec::{Codec, Flow, Looked};
use crate::modules::pass::exchange::{Pieces, action};
use crate::modules::pass::params::Writer;
use crate::modules::pass::reply::{InvalidHead, Reply};
use crate::wire::fastcgi::{self, MAX_STDIN, Record, RecordReader, RequestWriter, STDIN_END, trim_stderr};
use crate::wire::http1::field::{FieldParser, Line, NameRules};
use crate::wire::http1::name::Kind;
use crate::wire::span::Span;

/// One exchange in FastCGI.
pub struct Records {
    fastcgi: Arc<FastCgi>,
    reader: RecordReader,
    /// How far the input of an unfinished head was looked at.
    seen: usize,
    /// What the program wrote so far, out of its records: the lines of the head; behind the head, a message whose record
    /// is still on its way.
    text: BytesMut,
    parser: FieldParser,
    fields: Lines,
    /// The lines of the head, once it is whole.
    head: Bytes,
    state: State,
    /// What is left of the length that the head announced.
    left: Left,
    keepalive: bool,
}

/// How much the program still writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The answer goes on.
    Open,
    /// The answer is whole; the request has not ended.
    Written,
    /// The request has ended, or we do not care to see it end.
    Over,
}

/// How much of a body is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nobody said.
    Unknown,
    Bytes(u64),
    /// Behind HEAD nothing need come; what does come is measured.
    Perhaps(Option<u64>),
}

impl Left {
    fn announced(length: Option<u64>) -> Self {
        length.map_or(Self::Unknown, Self::Bytes)
    }

    fn is_short(self) -> bool {
        matches!(self, Self::Bytes(1..))
    }
}

impl Records {
    pub fn new(fastcgi: Arc<FastCgi>) -> Self {
        Self {
            fastcgi,
            reader: RecordReader::new(),
            seen: 0,
            text: BytesMut::new(),
            parser: FieldParser::new(0),
            fields: Lines::default(),
            head: Bytes::new(),
            state: State::Open,
            left: Left::Unknown,
            keepalive: false,
        }
    }

    /// Reads lines of the head, of which `text` is what came so far. `None`: it goes on in the next record.
    fn lines(&mut self, request: &Request, text: &[u8]) -> Option<Result<usize, InvalidHead>> {
        loop {
            match self.parser.next(text, NameRules::UPSTREAM) {
                Ok(None) => return None,
                Ok(Some(Line::Field(field))) => self.fields.push(field, Kind::of(field.name.of(text))),
                Ok(Some(Line::End(end))) => return Some(Ok(end as usize)),
                Err(broken) => {
                    let message = format_args!(
                        "upstream sent invalid header: \"{}\\x{:02x}...\" while {}",
                        Raw(broken.line.of(text)),
                        broken.byte,
                        action::HEAD
                    );
                    request.log(Level::Error, message);
                    return Some(Err(InvalidHead));
                }
            }
        }
    }

    /// The program has written this at `span` of the input. Most heads are whole in their first record, and read where
    /// they stand.
    fn wrote(&mut self, request: &Request, input: &mut BytesMut, span: Span) -> Option<Looked> {
        let mut text = std::mem::take(&mut self.text);
        let first = text.is_empty();
        if !first {
            text.extend_from_slice(span.of(input));
        }
        let end = match self.lines(request, if first { span.of(input) } else { &text }) {
            Some(Ok(end)) => end,
            Some(Err(InvalidHead)) => return Some(Looked::Invalid),
            None => {
                if first {
                    text.extend_from_slice(span.of(input));
                }
                self.text = text;
                return None;
            }
        };
        // What follows in the record belongs to the body, and stays in the input.
        let body = if first { span.len() } else { text.len() }.saturating_sub(end);
        self.reader.put_back(body);
        let head_end = (span.end as usize).saturating_sub(body).min(input.len());
        let head = match first {
            true => {
                input.advance(span.start as usize);
                input.split_to(head_end.saturating_sub(span.start as usize))
            }
            false => {
                input.advance(head_end);
                text.truncate(end);
                text
            }
        };
        self.seen = 0;
        Some(self.finish(request, head.freeze()))
    }

    /// The head is whole.
    fn finish(&mut self, request: &Request, head: Bytes) -> Looked {
        self.head = head.clone();
        let fields = Fields::of(head, std::mem::take(&mut self.fields));
        let Some((status, line)) = status(request, &fields) else { return Looked::Invalid };
        let Ok(reply) = Reply::new(request, status, line, fields) else { return Looked::Invalid };
        self.left = match status {
            204 | 304 => Left::Bytes(0),
            _ if request.is_head() => Left::Perhaps(reply.framing.length),
            _ => Left::announced(reply.framing.length),
        };
        Looked::Head(Box::new(reply))
    }

    /// A message for the error log. `false`: it is one that means failure.
    fn stderr(&self, request: &Request, message: &[u8], doing: &str) -> bool {
        let message = trim_stderr(message);
        request.log(Level::Error, format_args!("FastCGI sent in stderr: \"{}\" while {doing}", Raw(message)));
        !self.fastcgi.catch_stderr.iter().any(|pattern| memchr::memmem::find(message, pattern).is_some())
    }

    /// Data of the body.
    fn data(&mut self, request: &Request, mut data: Bytes, out: &mut VecDeque<Piece>) {
        if let Left::Perhaps(length) = self.left {
            self.left = Left::announced(length);
        }
        if let Left::Bytes(left) = &mut self.left {
            if data.len() as u64 > *left {
                let message = format_args!(
                    "upstream sent more data than specified in \"Content-Length\" header while {}",
                    action::BODY
                );
                request.log(Level::Warn, message);
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                self.state = State::Over;
            }
            *left -= data.len() as u64;
        }
        if !data.is_empty() {
            out.push_back(Piece::Mem(data));
        }
    }

    /// The program has ended its answer, or the request, before it wrote what it had announced.
    fn cut(&self, request: &Request, what: &str) -> Flow {
        request.log(Level::Error, format_args!("upstream prematurely closed FastCGI {what} while {}", action::BODY));
        Flow::Cut
    }
}

impl Codec for Records {
    fn begin(&mut self) {
        *self = Self::new(self.fastcgi.clone());
    }

    fn wrap(&mut self, parts: Vec<Bytes>, end: Option<&[Field]>, out: &mut VecDeque<Piece>) {
        out.extend(parts.into_iter().flat_map(|part| stdin(Piece::Mem(part))));
        if end.is_some() {
            out.push_back(Piece::Mem(Bytes::from_static(&STDIN_END)));
        }
    }

    fn head(&mut self, request: &Request, input: &mut BytesMut) -> Looked {
        let had_written = |codec: &Self| !codec.text.is_empty() || !codec.fields.is_empty();
        loop {
            let record = self.reader.next(input, self.seen);
            if self.reader.is_ending() {
                let message = format_args!("upstream sent unexpected FastCGI record: 3 while {}", action::HEAD);
                request.log(Level::Error, message);
                return Looked::Invalid;
            }
            match record {
                Ok(Record::Stdout(span)) => {
                    self.seen = span.end as usize;
                    if let Some(looked) = self.wrote(request, input, span) {
                        return looked;
                    }
                }
                Ok(Record::Stderr(span)) => {
                    self.seen = span.end as usize;
                    if !self.stderr(request, span.of(input), action::HEAD) {
                        return Looked::Invalid;
                    }
                }
                Ok(Record::StdoutEnd(_) | Record::End(_)) => {
                    let message = format_args!("upstream prematurely closed FastCGI stdout while {}", action::HEAD);
                    request.log(Level::Error, message);
                    return Looked::Invalid;
                }
                Ok(Record::More) => {
                    self.seen = input.len();
                    // nginx: programs may say more to stderr than fits a buffer, as long as they say it first
                    if !had_written(self) {
                        input.clear();
                        self.seen = 0;
                    }
                    return Looked::More;
                }
                Err(bad) => {
                    request.log(Level::Error, format_args!("{bad} while {}", action::HEAD));
                    return Looked::Invalid;
                }
            }
        }
    }

    /// nginx keeps the records as they come, with what was written to stderr before the head; one record says the same.
    fn kept_head(&self) -> Option<Bytes> {
        Some([&fastcgi::stdout(self.head.len())[..], &self.head].concat().into())
    }

    fn body(&mut self, request: &Request, input: &mut BytesMut, out: &mut VecDeque<Piece>) -> Flow {
        while self.state != State::Over {
            let record = match self.reader.next(input, 0) {
                Ok(record) => record,
                Err(bad) => {
                    request.log(Level::Error, format_args!("{bad} while {}", action::BODY));
                    return Flow::Broken;
                }
            };
            if self.reader.is_ending() && self.left.is_short() {
                return self.cut(request, "request");
            }
            match record {
                Record::Stdout(span) => {
                    input.advance(span.start as usize);
                    let data = input.split_to((span.end - span.start) as usize).freeze();
                    self.data(request, data, out);
                }
                Record::Stderr(span) => {
                    self.text.extend_from_slice(span.of(input));
                    input.advance(span.end as usize);
                    // One line for a record that comes in pieces, as far as a buffer goes.
                    if !self.reader.is_within() || self.text.len() >= self.fastcgi.settings.buffer_size {
                        let message = self.text.split();
                        self.stderr(request, &message, action::BODY);
                    }
                }
                Record::StdoutEnd(at) => {
                    input.advance(at as usize);
                    if self.left.is_short() {
                        return self.cut(request, "stdout");
                    }
                    self.state = State::Written;
                }
                Record::End(at) => {
                    input.advance(at as usize);
                    self.keepalive = self.fastcgi.keep_conn;
                    self.state = State::Over;
                }
                Record::More => {
                    // Programs that are cut off while they end the request may take it for a failure.
                    input.clear();
                    return Flow::More;
                }
            }
        }
        Flow::End
    }

    fn ends_with_connection(&self) -> bool {
        match self.state {
            // nginx: the connection's end is the answer's, for those who do not keep it
            State::Open => self.reader.is_ending() || !self.fastcgi.keep_conn && !self.left.is_short(),
            State::Written | State::Over => true,
        }
    }

    fn expected(&self) -> u64 {
        match (self.state, self.left) {
            (State::Open, Left::Bytes(left)) => left.saturating_add(4 * fastcgi::HEADER as u64),
            (State::Open, Left::Unknown | Left::Perhaps(_)) => u64::MAX,
            (State::Written, _) => 4 * fastcgi::HEADER as u64,
            (State::Over, _) => 0,
        }
    }

    fn is_reusable(&self) -> bool {
        self.keepalive
    }
}

impl Writer for RequestWriter {
    fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        Self::param(self, name, if_not_empty, value);
    }

    fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        Self::field(self, name, values);
    }
}

/// A body that was read before, in records, and its end.
pub fn whole(body: Option<Stored>, out: &mut Pieces) {
    if let Some(stored) = body {
        if let Some(file) = &stored.file {
            out.extend(stdin(Piece::File(FilePiece { file: file.file.clone(), offset: 0, len: file.len })));
        }
        out.extend(stdin(Piece::Mem(stored.memory)));
    }
    out.push(Piece::Mem(Bytes::from_static(&STDIN_END)));
}

/// A part of a body in records: a header, what fits one record, what fills it up, and so on.
fn stdin(body: Piece) -> impl Iterator<Item = Piece> {
    let len = body.len();
    (0..len).step_by(MAX_STDIN).flat_map(move |from| {
        let here = (len - from).min(MAX_STDIN as u64);
        let size = usize::try_from(here).unwrap_or(MAX_STDIN);
        let header = Bytes::copy_from_slice(&fastcgi::stdin(size));
        let padding = Bytes::from_static(fastcgi::padding(size));
        [Piece::Mem(header), body.slice(from, here), Piece::Mem(padding)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_goes_in_records() {
        let body = Bytes::from(vec![b'b'; MAX_STDIN + 3]);
        let pieces: Vec<Piece> = stdin(Piece::Mem(body)).collect();
        let lengths: Vec<u64> = pieces.iter().map(Piece::len).collect();
        assert_eq!(lengths, [8, MAX_STDIN as u64, 0, 8, 3, 5]);
        assert_eq!(stdin(Piece::Mem(Bytes::new())).count(), 0);
    }
}
