//! Static files: what `root` and `alias` lead to.
//!
//! In: GET or HEAD for a path that does not end in a slash. Out: the file, as a piece that nobody has read yet; for a
//! directory the redirect to its path with a slash. nginx: `ngx_http_static_module`.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Directive, Level, Module};
use crate::http::body::{Body, FilePiece, Piece};
use crate::http::open_file::{Found, Kind, Stat, Unopened};
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::http::root::map_path;
use crate::log::{Level as LogLevel, Raw};
use crate::wire::uri::{self, Escape};

/// `ngx_http_static_module`. It has no directives: it answers wherever nothing else does.
pub struct Static;

impl Module for Static {
    const NAME: &'static str = "http_static";
    const DIRECTIVES: &'static [Directive<Self>] = &[];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = ();

    fn link(_: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.contents.push(Box::new(Files));
        Ok(())
    }
}

struct Files;

impl Content for Files {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        let posted = request.is_method("POST");
        if !request.is_get_or_head() && !posted {
            return Answer::Now(Err(Refusal::Status(405)));
        }
        if request.is_for_directory() {
            return Answer::Decline;
        }
        Answer::Now(request.with_path(|path| file(request, path, posted)))
    }
}

/// The answer to `path`.
fn file(request: &Request, path: &[u8], posted: bool) -> Result<Response, Refusal> {
    let name = map_path(request, path)?;
    let found = request.plan().files.open(request, &name).map_err(|unopened| refuse(request, &name, unopened))?;
    match found.stat.kind {
        Kind::Directory => Err(add_slash(request, path)),
        Kind::Other => {
            request.log(LogLevel::Crit, format_args!("\"{}\" is not a regular file", Raw(&name)));
            Err(Refusal::Status(404))
        }
        Kind::File if posted => Err(Refusal::Status(405)),
        Kind::File => {
            request.body.discard();
            Ok(respond(request, path, found))
        }
    }
}

/// What the client is told of a path that cannot be opened, and the log.
fn refuse(request: &Request, name: &[u8], unopened: Unopened) -> Refusal {
    let (level, status) = match () {
        () if unopened.is_missing() => (LogLevel::Error, 404),
        () if unopened.is_forbidden() => (LogLevel::Error, 403),
        () => (LogLevel::Crit, 500),
    };
    if status != 404 || request.plan().core.log_not_found {
        let errno = errno(&unopened.error());
        request.log(level, format_args!("{} \"{}\" failed {errno}", unopened.call, Raw(name)));
    }
    Refusal::Status(status)
}

/// A directory without its slash: relative links in its pages would lead astray.
fn add_slash(request: &Request, path: &[u8]) -> Refusal {
    let path = uri::escape(Escape::Uri, path);
    let args = request.args();
    let mark: &[u8] = if args.is_empty() { b"/" } else { b"/?" };
    request.owe_location([path.as_ref(), mark, args.as_ref()].concat().into());
    Refusal::Status(301)
}

/// A file that was found, as the answer to `path`.
pub fn respond(request: &Request, path: &[u8], found: Found) -> Response {
    let Found { file, stat } = found;
    let mut head = Head::boxed(200);
    head.content_length = Some(stat.size);
    head.last_modified = Some(stat.mtime);
    head.content_type = Some(content_type(request, path));
    head.allow_ranges = true;
    if request.plan().core.etag {
        let make = || etag(&stat);
        head.add("ETag", file.as_ref().map_or_else(make, |file| file.etag(make)));
    }
    let body = match file {
        Some(file) if stat.size > 0 => Body::One(Piece::File(FilePiece { file, offset: 0, len: stat.size })),
        _ => Body::Empty,
    };
    Response::new(head, body)
}

/// nginx's entity tag of a file: its date and its size.
pub fn etag(stat: &Stat) -> Bytes {
    let mut tag = BytesMut::with_capacity(36);
    tag.put_u8(b'"');
    put_hex(&mut tag, stat.mtime as u64); // nginx: a date before 1970 shows as its two's complement
    tag.put_u8(b'-');
    put_hex(&mut tag, stat.size);
    tag.put_u8(b'"');
    tag.freeze()
}

fn put_hex(out: &mut BytesMut, number: u64) {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.put_u8(b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]);
    }
}

/// The media type by the path's extension.
pub fn content_type(request: &Request, path: &[u8]) -> Bytes {
    if let Some(owed) = request.take_owed_type() {
        return owed;
    }
    let core = &request.plan().core;
    let extension = uri::extension(path).and_then(|start| path.get(start..)).unwrap_or_default();
    let found = match extension.iter().any(u8::is_ascii_uppercase) {
        true => core.types.get(extension.to_ascii_lowercase().as_slice()),
        false => core.types.get(extension),
    };
    found.unwrap_or(&core.default_type).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_without_leading_zeros() {
        for number in [0, 1, 9, 10, 15, 16, 255, 4096, 0x6720_ab3c, u64::MAX] {
            let mut out = BytesMut::new();
            put_hex(&mut out, number);
            assert_eq!(out, format!("{number:x}"));
        }
    }
}
