//! What was answered: status, sizes, the fields of the answer.
//!
//! Filters ask before the head is written, logs after it: [`Sent`] holds what they see.

use bytes::Bytes;

use super::{decimal, joined, named, push_status};
use crate::base::clock;
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::request::Request;
use crate::http::response::{Field, Head};

/// The answer's head as far as it has come.
#[derive(Debug, Default)]
pub enum Sent {
    /// There is none yet.
    #[default]
    Nothing,
    /// On its way through the filters.
    Made(Head),
    /// Written.
    Written {
        head: Head,
        /// In chunks: there is no `Content-Length` then.
        chunked: bool,
        /// The redirect's target as it was written.
        location: Option<Bytes>,
    },
}

impl Sent {
    fn head(&self) -> Option<&Head> {
        match self {
            Self::Nothing => None,
            Self::Made(head) | Self::Written { head, .. } => Some(head),
        }
    }

    fn is_written(&self) -> bool {
        matches!(self, Self::Written { .. })
    }
}

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
        Row::once(move |r: &Request| joined(named(&r.trailers.borrow(), &rest), b", "))
    });
    Ok(())
}

fn status(request: &Request) -> Value {
    let mut text = Vec::with_capacity(3);
    push_status(&mut text, request.status());
    Some(text.into())
}

fn completion(request: &Request) -> Value {
    Some(Bytes::from_static(if request.complete.get() { b"OK" } else { b"" }))
}

fn field(request: &Request, name: &str) -> Value {
    let sent = request.sent.borrow();
    joined(named(&sent.head()?.fields, name), b", ")
}

/// Filters see the bare type, logs the one that was written, with its `charset`.
fn content_type(request: &Request) -> Value {
    let sent = request.sent.borrow();
    let head = sent.head()?;
    let media = head.content_type.as_ref().filter(|media| !media.is_empty())?;
    match &head.charset {
        _ if sent.is_written() && head.status == 204 => None,
        Some(charset) if sent.is_written() => Some([media.as_ref(), b"; charset=", charset.as_ref()].concat().into()),
        _ => Some(media.clone()),
    }
}

fn content_length(request: &Request) -> Value {
    let sent = request.sent.borrow();
    let head = sent.head()?;
    if let Sent::Written { chunked: true, .. } = &*sent {
        return None;
    }
    match own(head, "Content-Length") {
        Some(length) => Some(length),
        None if sent.is_written() && head.status == 204 => None,
        None => decimal(head.content_length?),
    }
}

fn location(request: &Request) -> Value {
    let sent = request.sent.borrow();
    match &*sent {
        Sent::Written { location: Some(location), .. } => Some(location.clone()),
        other => other.head()?.location.clone().or_else(|| own(other.head()?, "Location")),
    }
}

fn last_modified(request: &Request) -> Value {
    let sent = request.sent.borrow();
    let head = sent.head()?;
    if sent.is_written() && !matches!(head.status, 200 | 206 | 304) {
        return None;
    }
    own(head, "Last-Modified").or_else(|| {
        let date = clock::http_date_of(head.last_modified?);
        Some(Bytes::copy_from_slice(date.as_bytes()))
    })
}

fn connection(request: &Request) -> Value {
    let upgraded = request.sent.borrow().head().is_some_and(|head| head.status == 101);
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
    let chunked = matches!(&*request.sent.borrow(), Sent::Written { chunked: true, .. });
    chunked.then_some(Bytes::from_static(b"chunked"))
}

/// A field that an upstream or a module has given itself.
fn own(head: &Head, name: &str) -> Value {
    head.fields.iter().find(|field: &&Field| field.is(name)).map(|field| field.value.clone())
}
