//! What the client asks: the request line, the fields, the arguments, the body, and where the path leads.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use bytes::Bytes;

use super::{decimal, joined, named, port};
use crate::base::text::errno;
use crate::base::units;
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Lend, Lent, Row, Value};
use crate::http::fields::FieldRef;
use crate::http::request::Request;
use crate::http::root::{document_root, file_path};
use crate::http::upload::Stored;
use crate::log::{Level, Raw};
use crate::wire::span::Span;
use crate::wire::{basic, list};

pub(super) fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    line(vars)?;
    uri(vars)?;
    fields(vars)?;
    body(vars)?;
    vars.define("host", Row::lent(|r| Some(Lent::Shared(r.host()))))?;
    vars.define("server_name", Row::lent(|r| Some(Lent::Shared(&r.server().name))))?;
    vars.define("request_port", Row::lent(|r| Some(port(r.head.host_port))))?;
    vars.define("is_request_port", Row::lent(|r| mark(r.head.host_port != 0, b":")))?;
    vars.define("remote_user", Row::once(remote_user))?;
    vars.define("request_id", Row::once(|_: &Request| Some(request_id())))?;
    vars.define("limit_rate", Row::each(|r: &Request| decimal(r.limit_rate.get().unwrap_or(0))).settable(limit_rate))
}

fn line(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("request", Row::lent(|r| Some(Lent::Part(&r.head.line.text, r.head.line.whole))))?;
    vars.define("request_method", Row::lent(|r| own(r.main().method())))?;
    // nginx: a target that makes no sense is none.
    vars.define("request_uri", Row::lent(|r| said(r, r.head.line.target).filter(|_| !r.with_path(Bytes::is_empty))))?;
    vars.define("server_protocol", Row::lent(|r| said(r, r.head.line.protocol)))
}

fn uri(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    for name in ["uri", "document_uri"] {
        // nginx: a path that could not be made sense of is empty, one that was never read is not there.
        vars.define(name, Row::lent(|r| Some(Lent::Own(r.path())).filter(|_| !r.head.target().is_empty())))?;
    }
    vars.define("query_string", Row::lent(|r| own(r.args())))?;
    vars.define(
        "args",
        Row::lent(|r: &Request| own(r.args())).settable(|r, value| r.set_args(value.unwrap_or_default())),
    )?;
    vars.define("is_args", Row::lent(|r| mark(!r.args().is_empty(), b"?")))?;
    vars.family("arg_", |name| {
        let name = name.to_owned();
        Row::each(move |r: &Request| {
            let args = r.args();
            list::argument(&args, name.as_bytes()).map(|value| args.slice_ref(value))
        })
    });
    vars.define("document_root", Row::lent(|r| Some(document_root(r))))?;
    vars.define("request_filename", Row::each(|r: &Request| Some(file_path(r, &r.path()).into())))?;
    vars.define("realpath_root", Row::each(realpath_root))
}

fn fields(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    // These belong to the core, so `set` may not redefine them. They mean the field of exactly that name.
    let known: [(&str, Lend<Request>); 7] = [
        ("http_host", |r| field(r, "host", b", ")),
        ("http_user_agent", |r| field(r, "user-agent", b", ")),
        ("http_referer", |r| field(r, "referer", b", ")),
        ("http_via", |r| field(r, "via", b", ")),
        ("http_x_forwarded_for", |r| field(r, "x-forwarded-for", b", ")),
        ("http_cookie", |r| field(r, "cookie", b"; ")),
        ("content_type", |r| field(r, "content-type", b", ")),
    ];
    for (name, lend) in known {
        vars.define(name, Row::lent(lend))?;
    }
    vars.family("http_", |rest| {
        let rest = rest.to_owned();
        Row::once(move |r: &Request| joined(named(r.head.fields.iter(), &rest), b", "))
    });
    vars.family("cookie_", |name| {
        let name = name.to_owned();
        Row::once(move |r: &Request| {
            let cookie = |line: FieldRef<'_>| {
                list::pair(line.value, name.as_bytes(), b';').map(|value| line.value_bytes().slice_ref(value))
            };
            lines(r, "cookie").find_map(cookie)
        })
    });
    Ok(())
}

fn body(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("content_length", Row::each(content_length))?;
    vars.define(
        "request_body",
        Row::once(|r: &Request| stored(r).filter(|body| body.file.is_none()).and_then(|body| some(&body.memory))),
    )?;
    vars.define(
        "request_body_file",
        Row::once(|r: &Request| Some(stored(r)?.file?.path.as_os_str().as_bytes().to_vec().into())),
    )?;
    vars.define("request_length", Row::each(|r: &Request| decimal(r.bytes_read.get())))
}

/// The value, unless the request never got so far.
fn some(value: &Bytes) -> Value {
    Some(value.clone()).filter(|value| !value.is_empty())
}

fn own(value: Bytes) -> Option<Lent<'static>> {
    Some(Lent::Own(value)).filter(|value| !value.is_empty())
}

/// A part of the request line, unless there is none.
fn said(request: &Request, part: Span) -> Option<Lent<'_>> {
    Some(Lent::Part(&request.head.line.text, part)).filter(|part| !part.is_empty())
}

fn mark(there: bool, text: &'static [u8]) -> Option<Lent<'static>> {
    Some(Lent::Fixed(if there { text } else { b"" }))
}

fn field<'a>(request: &'a Request, name: &str, separator: &[u8]) -> Option<Lent<'a>> {
    joined(lines(request, name), separator).map(Lent::Own)
}

fn lines<'a>(request: &'a Request, name: &str) -> impl Iterator<Item = FieldRef<'a>> {
    request.head.fields.all(name)
}

/// The body, once somebody has read it. Subrequests see that of the request around.
fn stored(request: &Request) -> Option<Stored> {
    request.body.stored().or_else(|| stored(request.parent.as_deref()?))
}

/// As the client wrote it; of a chunked body the length that it turned out to have.
fn content_length(request: &Request) -> Value {
    match request.field_bytes("Content-Length") {
        Some(length) => Some(length),
        None if !request.head.chunked => None,
        None => match stored(request) {
            Some(body) => decimal(body.len),
            // nginx: nothing is left of what was thrown away
            None => decimal(0).filter(|_| request.body.is_discarded()),
        },
    }
}

fn remote_user(request: &Request) -> Value {
    basic::credentials(request.field("Authorization")?).map(|(user, _)| user.into())
}

fn realpath_root(request: &Request) -> Value {
    let root = file_path(request, b"");
    match std::fs::canonicalize(PathBuf::from(OsString::from_vec(root.clone()))) {
        Ok(real) => Some(real.into_os_string().into_vec().into()),
        Err(error) => {
            request.log(Level::Crit, format_args!("realpath() \"{}\" failed {}", Raw(&root), errno(&error)));
            None
        }
    }
}

/// `set $limit_rate`
fn limit_rate(request: &Request, value: Value) {
    let value = value.unwrap_or_default();
    let size = std::str::from_utf8(&value).ok().and_then(units::size);
    match size {
        Some(rate) => request.limit_rate.set(Some(rate)),
        None => request.log(Level::Error, format_args!("invalid $limit_rate \"{}\"", Raw(&value))),
    }
}

/// 32 hexadecimal digits that nobody can foretell: a counter under a keyed hash, as in nginx. Every thread has keys of
/// its own from the system.
fn request_id() -> Bytes {
    thread_local! {
        static KEYS: RandomState = RandomState::new();
        static COUNTER: Cell<u64> = const { Cell::new(0) };
    }
    let next = || {
        let counter = COUNTER.get().wrapping_add(1);
        COUNTER.set(counter);
        KEYS.with(|keys| keys.hash_one(counter))
    };
    format!("{:016x}{:016x}", next(), next()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        let (a, b) = (request_id(), request_id());
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!(id.len(), 32);
            assert!(id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        }
    }
}
