//! `$upstream_*`: what the tries of a request came to, and what the last upstream sent.

use std::time::Duration;

use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::fields::{FieldRef, Fields};
use crate::http::request::Request;
use crate::http::vars::push_seconds;
use crate::upstream::Attempt;
use crate::wire::byte;

/// Defines them.
pub fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    let each = |word: fn(&Attempt) -> Word| Row::each(move |r: &Request| list(r, |try_, out| word(try_).append(out)));
    let peer = |try_: &Attempt, out: &mut Vec<u8>| out.extend_from_slice(&try_.peer);
    vars.define("upstream_addr", Row::each(move |r: &Request| list(r, peer)))?;
    vars.define("upstream_status", each(|try_| Word::of_status(try_.status)))?;
    vars.define("upstream_connect_time", each(|try_| Word::of_time(try_.connect_time)))?;
    vars.define("upstream_header_time", each(|try_| Word::of_time(try_.header_time)))?;
    vars.define("upstream_response_time", each(|try_| Word::of_time(try_.response_time)))?;
    vars.define("upstream_response_length", each(|try_| Word::Number(try_.response_length)))?;
    vars.define("upstream_bytes_received", each(|try_| Word::Number(try_.bytes_received)))?;
    vars.define("upstream_bytes_sent", each(|try_| Word::Number(try_.bytes_sent)))?;
    vars.family("upstream_http_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| joined(r.replied.borrow().as_ref()?.fields.iter(), &name))
    });
    vars.family("upstream_trailer_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| {
            joined(r.replied.borrow().as_ref()?.trailers.get()?.iter().map(FieldRef::from), &name)
        })
    });
    vars.family("upstream_cookie_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| cookie(&r.replied.borrow().as_ref()?.fields, &name))
    });
    super::cache::vars::define(vars)
}

/// One word for each try: `, ` between tries, ` : ` behind an internal redirect.
fn list(request: &Request, word: impl Fn(&Attempt, &mut Vec<u8>)) -> Value {
    let attempts = request.attempts.borrow();
    if attempts.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(32);
    for (n, attempt) in attempts.iter().enumerate() {
        match n {
            0 => {}
            _ if attempt.after_redirect => out.extend_from_slice(b" : "),
            _ => out.extend_from_slice(b", "),
        }
        word(attempt, &mut out);
    }
    Some(out.into())
}

/// What a variable says of one try.
enum Word {
    /// It did not come to be: `-`.
    Nothing,
    Number(u64),
    Time(Duration),
}

impl Word {
    fn of_status(status: u16) -> Self {
        if status == 0 { Self::Nothing } else { Self::Number(u64::from(status)) }
    }

    fn of_time(time: Option<Duration>) -> Self {
        time.map_or(Self::Nothing, Self::Time)
    }

    fn append(self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => out.push(b'-'),
            Self::Number(number) => byte::push_decimal(out, number),
            // Milliseconds behind the point, as nginx counts.
            Self::Time(time) => push_seconds(out, time),
        }
    }
}

/// All fields of that name, in which `_` stands for any `-`, joined by commas.
fn joined<'a>(fields: impl Iterator<Item = FieldRef<'a>>, name: &str) -> Value {
    let mut found = fields.filter(|field| same(field.name, name));
    let first = found.next()?.value_bytes();
    let mut out = Vec::new();
    for field in found {
        if out.is_empty() {
            out.extend_from_slice(&first);
        }
        out.extend_from_slice(b", ");
        out.extend_from_slice(field.value);
    }
    Some(if out.is_empty() { first } else { out.into() })
}

/// nginx: a variable's name has `_` where the field has `-`.
pub fn same(field: &[u8], name: &str) -> bool {
    field.len() == name.len()
        && field.iter().zip(name.bytes()).all(|(&a, b)| {
            let a = if a == b'-' { b'_' } else { a.to_ascii_lowercase() };
            a == b
        })
}

/// The value of the first cookie of that name that the upstream sets.
fn cookie(fields: &Fields, name: &str) -> Value {
    fields.iter().filter(|field| field.is("Set-Cookie")).find_map(|field| {
        let rest = field.value.get(name.len()..)?;
        if !field.value[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        let value = skip_spaces(skip_spaces(rest).strip_prefix(b"=")?);
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let start = field.value.len() - value.len();
        Some(field.value_bytes().slice(start..start + end))
    })
}

fn skip_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
    &bytes[spaces..]
}
