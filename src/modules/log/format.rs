//! A `log_format`, compiled: the operations that make a line.
//!
//! In: the strings of the directive. Out: literals, values that are written straight from the request, and variables.
//! What is escaped, and what stands for a value that is not there, is `log/escape.rs`.

use std::time::Duration;

use crate::base::{clock, text};
use crate::conf::error::Fault;
use crate::conf::vars::{Names, Values, VarId};
use crate::http::request::Request;
use crate::http::vars::{push_seconds, push_status};
use crate::log::escape::Escape;
use crate::wire::{basic, byte};

#[derive(Debug)]
pub(super) struct Format {
    ops: Vec<Op>,
    escape: Escape,
}

#[derive(Debug, PartialEq)]
enum Op {
    Literal(Vec<u8>),
    Fact(Fact),
    Variable(VarId),
}

/// What is written without making a value of it first: nginx's own short cuts, which cannot need an escape, and the
/// variables that most formats name and nobody can redefine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fact {
    Pipe,
    TimeLocal,
    TimeIso8601,
    Msec,
    RequestTime,
    Status,
    BytesSent,
    BodyBytesSent,
    RequestLength,
    RemoteAddr,
    RemoteUser,
    Request,
    Host,
    /// A request field, by its name as most clients write it: that is found soonest.
    Field(&'static str),
}

/// By their variables' names; nginx knows those without a field only in small letters.
const FACTS: [(&str, Fact); 16] = [
    ("pipe", Fact::Pipe),
    ("time_local", Fact::TimeLocal),
    ("time_iso8601", Fact::TimeIso8601),
    ("msec", Fact::Msec),
    ("request_time", Fact::RequestTime),
    ("status", Fact::Status),
    ("bytes_sent", Fact::BytesSent),
    ("body_bytes_sent", Fact::BodyBytesSent),
    ("request_length", Fact::RequestLength),
    ("remote_addr", Fact::RemoteAddr),
    ("remote_user", Fact::RemoteUser),
    ("request", Fact::Request),
    ("host", Fact::Host),
    ("http_referer", Fact::Field("Referer")),
    ("http_user_agent", Fact::Field("User-Agent")),
    ("http_x_forwarded_for", Fact::Field("X-Forwarded-For")),
];

impl Format {
    /// Compiles the words behind a format's name.
    pub(super) fn new(strings: &[&str], names: &Names) -> Result<Self, Fault> {
        let (escape, strings) = match strings.split_first() {
            Some((first, rest)) if first.starts_with("escape=") => {
                (Escape::parse(&first["escape=".len()..]).map_err(Fault::new)?, rest)
            }
            _ => (Escape::Default, strings),
        };
        let mut format = Self { ops: Vec::new(), escape };
        for string in strings {
            format.string(string, names)?;
        }
        Ok(format)
    }

    fn string(&mut self, string: &str, names: &Names) -> Result<(), Fault> {
        let mut rest = string;
        while let Some(dollar) = rest.find('$') {
            self.literal(&rest[..dollar]);
            let (name, tail) = variable(&rest[dollar..])?;
            self.ops.push(match FACTS.iter().find(|(known, _)| *known == name) {
                Some((_, fact)) => Op::Fact(*fact),
                None => Op::Variable(names.id(name)),
            });
            rest = tail;
        }
        self.literal(rest);
        Ok(())
    }

    fn literal(&mut self, literal: &str) {
        if literal.is_empty() {
            return;
        }
        match self.ops.last_mut() {
            Some(Op::Literal(before)) => before.extend_from_slice(&text::bytes(literal)),
            _ => self.ops.push(Op::Literal(text::bytes(literal))),
        }
    }

    /// Appends the line of one request, without a newline.
    pub(super) fn append(&self, request: &Request, line: &mut Vec<u8>) {
        for op in &self.ops {
            match op {
                Op::Literal(bytes) => line.extend_from_slice(bytes),
                Op::Fact(fact) => self.fact(*fact, request, line),
                Op::Variable(id) => request.with_value(*id, |value| match value {
                    Some(value) => self.escape.append(value, line),
                    None => self.escape.append_missing(line),
                }),
            }
        }
    }

    fn fact(&self, fact: Fact, request: &Request, line: &mut Vec<u8>) {
        match fact {
            Fact::Pipe => line.push(if request.connection.pipelined.get() { b'p' } else { b'.' }),
            Fact::TimeLocal => line.extend_from_slice(clock::time_local().bytes()),
            Fact::TimeIso8601 => line.extend_from_slice(clock::time_iso8601().bytes()),
            Fact::Msec => push_seconds(line, Duration::from_millis(clock::milliseconds())),
            Fact::RequestTime => push_seconds(line, request.elapsed()),
            Fact::Status => push_status(line, request.status_shown()),
            Fact::BytesSent => byte::push_decimal(line, request.bytes_sent.get()),
            Fact::BodyBytesSent => byte::push_decimal(line, request.body_bytes_sent()),
            Fact::RequestLength => byte::push_decimal(line, request.bytes_read.get()),
            Fact::RemoteAddr => self.escape.append(request.client(), line),
            Fact::RemoteUser => {
                let user = request.field("Authorization").and_then(basic::credentials);
                match user {
                    Some((user, _)) => self.escape.append(&user, line),
                    None => self.escape.append_missing(line),
                }
            }
            Fact::Request => self.escape.append(request.head.line(), line),
            Fact::Host => self.escape.append(request.host(), line),
            Fact::Field(name) => self.field(name, request, line),
        }
    }

    /// All lines of the field, as the variable joins them.
    fn field(&self, name: &str, request: &Request, line: &mut Vec<u8>) {
        let mut fields = request.head.fields.all(name);
        let Some(first) = fields.next() else { return self.escape.append_missing(line) };
        self.escape.append(first.value, line);
        for more in fields {
            line.extend_from_slice(b", ");
            self.escape.append(more.value, line);
        }
    }
}

/// The name behind a `$`, and what follows it. Unlike elsewhere, `$1` is a name here: formats see no captures.
fn variable(from: &str) -> Result<(&str, &str), Fault> {
    let invalid = || Fault::new(format!("invalid parameter \"{from}\""));
    let after = &from[1..];
    let (braced, body) = match after.strip_prefix('{') {
        Some(body) => (true, body),
        None => (false, after),
    };
    if body.is_empty() {
        return Err(invalid());
    }
    let end = body.bytes().position(|b| !b.is_ascii_alphanumeric() && b != b'_').unwrap_or(body.len());
    let (name, mut tail) = body.split_at(end);
    if braced {
        let missing = || Fault::new(format!("the closing bracket in \"{name}\" variable is missing"));
        tail = tail.strip_prefix('}').ok_or_else(missing)?;
    }
    if name.is_empty() { Err(invalid()) } else { Ok((name, tail)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_become_operations() {
        let names = Names::default();
        let literal = |text: &str| Op::Literal(text.into());
        let format = Format::new(&["a ", "b$uri", "${status}x$STATUS-$1$http_referer"], &names).expect("good");
        assert_eq!(format.escape, Escape::Default);
        assert_eq!(
            format.ops,
            [
                literal("a b"),
                Op::Variable(names.id("uri")),
                Op::Fact(Fact::Status),
                literal("x"),
                Op::Variable(names.id("status")),
                literal("-"),
                Op::Variable(names.id("1")),
                Op::Fact(Fact::Field("Referer")),
            ]
        );
        let json = Format::new(&["escape=json", "{}"], &names).expect("good");
        assert_eq!((json.escape, json.ops), (Escape::Json, vec![literal("{}")]));
        // nginx: only the first string may be an escape
        let plain = Format::new(&["x", "escape=json"], &names).expect("good");
        assert_eq!(plain.ops, [literal("xescape=json")]);
    }

    #[test]
    fn faults_in_nginx_words() {
        for (string, expected) in [
            ("a$", "invalid parameter \"$\""),
            ("a$-b", "invalid parameter \"$-b\""),
            ("a${", "invalid parameter \"${\""),
            ("a${}b", "invalid parameter \"${}b\""),
            ("a${uri", "the closing bracket in \"uri\" variable is missing"),
            ("a${uri-}", "the closing bracket in \"uri\" variable is missing"),
            ("escape=xml", "unknown log format escaping \"xml\""),
        ] {
            let fault = Format::new(&[string], &Names::default()).expect_err(string);
            assert_eq!(fault.message, expected);
        }
    }
}
