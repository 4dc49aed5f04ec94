//! What was answered: status, sizes, the fields of the answer.
//!
//! Filters ask before the head is written and see it as far as it has come ([`Request::show`]), logs ask afterwards.

use bytes::Bytes;

use super::{decimal, joined, named, push_status};
use crate::base::clock;
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::fields::FieldRef;
use crate::http::h1;
use crate::http::request::Request;

pub(super) fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("status", Row::each(status))?;
    vars.define("bytes_sent", Row::once(|r: &Request| decimal(r.bytes_sent.get())))?;
    vars.define("body_bytes_sent", Row::once(|r: &Request| decimal(r.body_bytes_sent())))?;
    vars.define("request_completion", Row::once(completion))?;
    vars.define("sent_http_content_type", Row::once(content_type))?;
    vars.define("sent_http_content_length", Row::once(content_length))?;
    vars.define("sent_http_location", Row::once(location))?;
    vars.define("sent_http_last_modified", Row::once(last_modified))?;
    vars.define("sent_http_connection", Row::once(connection))?;
    vars.define("sent_http_keep_alive", Row::once(keep_alive))?;
    vars.define("sent_http_transfer_encoding", Row::once(transfer_encoding))?;
    vars.define("sent_http_cache_control", Row::once(|r: &Request| field(r, "cache_control")))?;
    vars.define("sent_http_link", Row::once(|r: &Request| field(r, "link")))?;
    vars.family("sent_http_", |rest| {
        let rest = rest.to_owned();
        Row::once(move |r: &Request| field(r, &rest))
    });
    vars.family("sent_trailer_", |rest| {
        let rest = rest.to_owned();
        Row::once(move |r: &Request| joined(named(r.trailers.borrow().iter().map(FieldRef::from), &rest), b", "))
    });
    Ok(())
}

fn status(request: &Request) -> Value {
    let mut text = Vec::with_capacity(3);
    push_status(&mut text, request.status_shown());
    Some(text.into())
}

fn completion(request: &Request) -> Value {
    Some(Bytes::from_static(if request.complete.get() { b"OK" } else { b"" }))
}

fn field(request: &Request, name: &str) -> Value {
    joined(named(request.answered()?.fields.iter(), name), b", ")
}

/// Filters see the bare type, logs the one that was written, with its `charset`.
fn content_type(request: &Request) -> Value {
    let head = request.answered()?;
    let media = head.content_type.as_ref().filter(|media| !media.is_empty())?;
    match &head.charset {
        _ if request.written.get() && head.status == 204 => None,
        Some(charset) if request.written.get() => {
            Some([media.as_ref(), b"; charset=", charset.as_ref()].concat().into())
        }
        _ => Some(media.clone()),
    }
}

fn content_length(request: &Request) -> Value {
    let head = request.answered()?;
    if request.chunked.get() || request.written.get() && head.status == 204 {
        return None;
    }
    head.field_bytes("Content-Length").or_else(|| decimal(head.content_length?))
}

/// Filters see the target as it was given, logs the whole URL that was made of it.
fn location(request: &Request) -> Value {
    let head = request.answered()?;
    match &head.location {
        Some(target) if request.written.get() => Some(h1::location(request, target)),
        Some(target) => Some(target.clone()),
        None => head.field_bytes("Location"),
    }
}

fn last_modified(request: &Request) -> Value {
    let head = request.answered()?;
    if request.written.get() && !matches!(head.status, 200 | 206 | 304) {
        return None;
    }
    head.field_bytes("Last-Modified").or_else(|| {
        let date = clock::http_date_of(head.last_modified?);
        Some(Bytes::copy_from_slice(date.as_bytes()))
    })
}

fn connection(request: &Request) -> Value {
    let upgraded = request.answered().is_some_and(|head| head.status == 101);
    Some(Bytes::from_static(match request.main().keepalive.get() {
        _ if upgraded => b"upgrade",
        true => b"keep-alive",
        false => b"close",
    }))
}

fn keep_alive(request: &Request) -> Value {
    let seconds = request.plan().core.keepalive_timeout.header.filter(|_| request.main().keepalive.get())?;
    Some(format!("timeout={seconds}").into())
}

fn transfer_encoding(request: &Request) -> Value {
    request.chunked.get().then_some(Bytes::from_static(b"chunked"))
}
