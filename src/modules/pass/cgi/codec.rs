//! What a CGI program answers, or a program that is spoken to by uwsgi or SCGI: fields, and behind them the body.
//!
//! In: the bytes of one connection. Out: the head, whose status stands in a status line as HTTP has it, in a `Status` field, or
//! nowhere; and the body, which ends with its length or the connection. nginx: `ngx_http_uwsgi_process_status_line`,
//! `…_process_header`, `ngx_event_pipe_copy_input_filter`; the same for SCGI.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::http::body::Piece;
use crate::http::fields::{Fields, Lines};
use crate::http::request::Request;
use crate::http::response::Field;
use crate::log::{Level, Raw};
use crate::modules::pass::codec::{Codec, Flow, Looked};
use crate::modules::pass::exchange::action;
use crate::modules::pass::reply::Reply;
use crate::wire::http1::field::{FieldParser, Line, NameRules};
use crate::wire::http1::name::Kind;
use crate::wire::http1::response::{StatusLine, status_line};

/// One exchange with such a program.
pub struct Program {
    /// The client asked for another protocol.
    may_upgrade: bool,
    parsing: Parsing,
    left: Left,
    upgraded: bool,
}

/// How far the head is read.
enum Parsing {
    Begin,
    Fields { line: Option<StatusLine>, parser: FieldParser, fields: Lines },
}

/// What is left of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Length(u64),
    UntilClose,
    /// Nothing; whatever comes is too much.
    Over,
}

impl Program {
    pub fn new(request: &Request) -> Self {
        Self {
            may_upgrade: request.field("Upgrade").is_some() && !request.is_subrequest(),
            parsing: Parsing::Begin,
            left: Left::UntilClose,
            upgraded: false,
        }
    }

    /// The head has ended at `end` of the input.
    fn finish(
        &mut self,
        request: &Request,
        input: &mut BytesMut,
        end: usize,
        line: Option<StatusLine>,
        lines: Lines,
    ) -> Looked {
        let bytes = input.split_to(end.min(input.len())).freeze();
        let said = line.map(|line| (line.code, Some(line.text.slice(&bytes))));
        let fields = Fields::of(bytes, lines);
        let Some((status, words)) = said.or_else(|| status(request, &fields)) else { return Looked::Invalid };
        let Ok(reply) = Reply::new(request, status, words, fields) else { return Looked::Invalid };
        self.left = match (status, reply.framing.length) {
            (204 | 304, _) => Left::Over,
            _ if request.is_head() => Left::UntilClose,
            (_, Some(0)) => Left::Over,
            (_, Some(length)) => Left::Length(length),
            (_, None) => Left::UntilClose,
        };
        self.upgraded = status == 101 && self.may_upgrade;
        Looked::Head(Box::new(reply))
    }
}

impl Codec for Program {
    fn begin(&mut self) {
        self.parsing = Parsing::Begin;
        self.left = Left::UntilClose;
        self.upgraded = false;
    }

    fn wrap(&mut self, parts: Vec<Bytes>, _: Option<&[Field]>, out: &mut VecDeque<Piece>) {
        out.extend(parts.into_iter().map(Piece::Mem));
    }

    fn head(&mut self, request: &Request, input: &mut BytesMut) -> Looked {
        loop {
            match &mut self.parsing {
                Parsing::Begin => {
                    let line = match status_line(input, 0) {
                        Ok(None) => return Looked::More,
                        Ok(Some(line)) => Some(line),
                        Err(_) => None,
                    };
                    let parser = FieldParser::new(line.map_or(0, |line| line.end as usize));
                    self.parsing = Parsing::Fields { line, parser, fields: Lines::default() };
                }
                Parsing::Fields { line, parser, fields } => match parser.next(input, NameRules::UPSTREAM) {
                    Ok(None) => return Looked::More,
                    Ok(Some(Line::Field(field))) => fields.push(field, Kind::of(field.name.of(input))),
                    Ok(Some(Line::End(end))) => {
                        let (line, fields) = (*line, std::mem::take(fields));
                        self.parsing = Parsing::Begin;
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
        let len = match self.left {
            Left::UntilClose => input.len(),
            Left::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(input.len()),
            Left::Over => 0,
        };
        if len > 0 {
            out.push_back(Piece::Mem(input.split_to(len).freeze()));
            self.passed(len as u64);
        }
        if self.left != Left::Over {
            return Flow::More;
        }
        if !input.is_empty() {
            let message = format_args!(
                "upstream sent more data than specified in \"Content-Length\" header while {}",
                action::BODY
            );
            request.log(Level::Warn, message);
            input.clear();
        }
        Flow::End
    }

    fn ends_with_connection(&self) -> bool {
        !matches!(self.left, Left::Length(_))
    }

    fn plain(&self) -> u64 {
        match self.left {
            Left::Length(left) => left,
            Left::UntilClose | Left::Over => 0,
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
        match self.left {
            Left::Length(left) => left,
            Left::UntilClose => u64::MAX,
            Left::Over => 0,
        }
    }

    /// nginx: such a program serves one request per connection.
    fn is_reusable(&self) -> bool {
        false
    }

    fn is_upgraded(&self) -> bool {
        self.upgraded
    }
}

/// The status that the fields give, and its line if there is more of it.
pub fn status(request: &Request, fields: &Fields) -> Option<(u16, Option<Bytes>)> {
    let Some(said) = fields.first("Status") else {
        // nginx: a program that sends somewhere else need not say so
        let redirects = fields.first("Location").is_some();
        return Some((if redirects { 302 } else { 200 }, None));
    };
    let digits = said.value.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let Some(digits) = digits else {
        let message = format_args!("upstream sent invalid status \"{}\" while {}", Raw(said.value), action::HEAD);
        request.log(Level::Error, message);
        return None;
    };
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    Some((code, (said.value.len() > 3).then(|| said.value_bytes())))
}
