//! `$upstream_*`: what the tries of a request came to, and what the last upstream sent.

use std::time::Duration;

use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::request::Request;
use crate::http::response::Field;
use crate::upstream::Attempt;

/// Defines them.
pub fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("upstream_addr", Row::each(|r: &Request| list(r, |try_| Some(try_.peer.to_vec()))))?;
    vars.define("upstream_status", Row::each(|r: &Request| list(r, |try_| number(u64::from(try_.status)))))?;
    vars.define("upstream_connect_time", Row::each(|r: &Request| list(r, |try_| try_.connect_time.map(seconds))))?;
    vars.define("upstream_header_time", Row::each(|r: &Request| list(r, |try_| try_.header_time.map(seconds))))?;
    vars.define("upstream_response_time", Row::each(|r: &Request| list(r, |try_| try_.response_time.map(seconds))))?;
    vars.define("upstream_response_length", Row::each(|r: &Request| list(r, |try_| digits(try_.response_length))))?;
    vars.define("upstream_bytes_received", Row::each(|r: &Request| list(r, |try_| digits(try_.bytes_received))))?;
    vars.define("upstream_bytes_sent", Row::each(|r: &Request| list(r, |try_| digits(try_.bytes_sent))))?;
    vars.family("upstream_http_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| joined(&r.replied.borrow().as_ref()?.fields, &name))
    });
    vars.family("upstream_trailer_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| joined(&r.replied.borrow().as_ref()?.trailers.borrow(), &name))
    });
    vars.family("upstream_cookie_", |rest| {
        let name = rest.to_owned();
        Row::each(move |r: &Request| cookie(&r.replied.borrow().as_ref()?.fields, &name))
    });
    super::cache::vars::define(vars)
}

/// One word for each try: `, ` between tries, ` : ` behind an internal redirect; `-` for what did not come to be.
fn list(request: &Request, word: impl Fn(&Attempt) -> Option<Vec<u8>>) -> Value {
    let attempts = request.attempts.borrow();
    if attempts.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for (n, attempt) in attempts.iter().enumerate() {
        match n {
            0 => {}
            _ if attempt.after_redirect => out.extend_from_slice(b" : "),
            _ => out.extend_from_slice(b", "),
        }
        match word(attempt) {
            Some(word) => out.extend_from_slice(&word),
            None => out.push(b'-'),
        }
    }
    Some(out.into())
}

fn digits(number: u64) -> Option<Vec<u8>> {
    Some(number.to_string().into_bytes())
}

fn number(status: u64) -> Option<Vec<u8>> {
    if status == 0 { None } else { digits(status) }
}

/// Milliseconds behind the point, as nginx counts.
fn seconds(time: Duration) -> Vec<u8> {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis()).into_bytes()
}

/// All fields of that name, in which `_` stands for any `-`, joined by commas.
fn joined(fields: &[Field], name: &str) -> Value {
    let mut found = fields.iter().filter(|field| same(&field.name, name));
    let first = found.next()?.value.clone();
    let mut out = Vec::new();
    for field in found {
        if out.is_empty() {
            out.extend_from_slice(&first);
        }
        out.extend_from_slice(b", ");
        out.extend_from_slice(&field.value);
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
fn cookie(fields: &[Field], name: &str) -> Value {
    fields.iter().filter(|field| field.is("Set-Cookie")).find_map(|field| {
        let rest = field.value.get(name.len()..)?;
        if !field.value[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        let value = skip_spaces(skip_spaces(rest).strip_prefix(b"=")?);
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let start = field.value.len() - value.len();
        Some(field.value.slice(start..start + end))
    })
}

fn skip_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
    &bytes[spaces..]
}
