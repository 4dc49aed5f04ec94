//! The head of a response as bytes, in nginx's order.
//!
//! nginx: `ngx_http_header_filter`, `ngx_http_chunked_header_filter`. RFC 9112, 4 to 6.

use std::cell::RefCell;

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::clock;
use crate::http::request::Request;
use crate::http::response::Head;
use crate::http::settings::Tokens;
use crate::wire::byte;
use crate::wire::http1::request::Version;
use crate::wire::http1::status;

/// How the client will know where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none: HEAD, 204, 304.
    None,
    /// By the length in the head.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Decides the framing. An answer that only the connection's end can delimit costs the connection.
pub fn framing(request: &Request, head: &Head, trailers: bool) -> Framing {
    if request.is_head() || matches!(head.status, 101 | 204 | 304) || head.status < 200 && !head.foreign {
        return Framing::None;
    }
    if head.status < 200 {
        // nginx: what is no answer at all ends with the connection
        request.keepalive.set(false);
        return Framing::Close;
    }
    if head.headless {
        request.keepalive.set(false);
        return Framing::Close;
    }
    let chunks = request.plan().core.chunked_transfer_encoding && request.head.version >= Version::HTTP_11;
    match head.content_length {
        Some(length) if !(trailers && chunks) => Framing::Length(length),
        Some(_) | None if chunks => Framing::Chunked,
        Some(_) | None => {
            request.keepalive.set(false);
            Framing::Close
        }
    }
}

/// Writes the head of the request's answer and lends it to `send`, which leaves nothing of it behind. HTTP/0.9 has none.
pub fn with_head<T>(request: &Request, framing: Framing, send: impl FnOnce(&mut BytesMut) -> T) -> T {
    HEADS.with_borrow_mut(|heads| {
        heads.reserve(ROOM);
        if let Some(head) = request.answered().filter(|head| request.head.version >= Version::HTTP_10 && !head.headless)
        {
            write(request, &head, framing, heads);
        }
        send(heads)
    })
}

/// Heads are written one behind the other, so that most need no memory of their own; a block is used again when all of
/// its heads are sent.
const BLOCK: usize = 8 * 1024;
/// What nearly every head fits in.
const ROOM: usize = 512;

thread_local! {
    static HEADS: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(BLOCK));
}

/// nginx: an answer without content has no type, unless an upstream gave it one along with a status line of its own.
pub(in crate::http) fn shows_type(head: &Head) -> bool {
    head.status != 204 || head.status_line.is_some()
}

/// Every piece brings the end of the line before it: they are fewer so.
fn write(request: &Request, head: &Head, framing: Framing, out: &mut BytesMut) {
    let core = &request.plan().core;
    status_line(head, out);
    let own = Own::of(head);
    if !own.server && !head.no_server {
        let server: &[u8] = match core.server_tokens {
            Tokens::On | Tokens::Build => concat!("\r\nServer: weir/", env!("CARGO_PKG_VERSION")).as_bytes(),
            Tokens::Off => b"\r\nServer: weir",
        };
        out.extend_from_slice(server);
    }
    if !own.date && !head.no_date {
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(clock::http_date().bytes());
    }
    if let Some(content_type) = head.content_type.as_ref().filter(|text| shows_type(head) && !text.is_empty()) {
        out.extend_from_slice(b"\r\nContent-Type: ");
        out.extend_from_slice(content_type);
        if let Some(charset) = &head.charset {
            out.extend_from_slice(b"; charset=");
            out.extend_from_slice(charset);
        }
    }
    if let (Some(length), false) = (head.content_length, own.content_length)
        && framing != Framing::Chunked
        && (head.status != 204 || head.foreign)
    {
        out.extend_from_slice(b"\r\nContent-Length: ");
        out.extend_from_slice(byte::decimal(length, &mut [0; 20]));
    }
    if let (Some(second), false) = (head.last_modified, own.last_modified) {
        // nginx: the page of an error is not as old as what it is about.
        if matches!(head.status, 200 | 206 | 304) {
            out.extend_from_slice(b"\r\nLast-Modified: ");
            out.extend_from_slice(clock::http_date_of(second).bytes());
        }
    }
    let absolute = |target: &&Bytes| is_made_absolute(request, target);
    if let Some(target) = head.location.as_ref().filter(absolute) {
        out.extend_from_slice(b"\r\nLocation: ");
        put_authority(request, out);
        out.extend_from_slice(target);
    }
    if framing == Framing::Chunked {
        out.extend_from_slice(b"\r\nTransfer-Encoding: chunked");
    }
    if head.status == 101 {
        out.extend_from_slice(b"\r\nConnection: upgrade");
    } else if request.keepalive.get() {
        out.extend_from_slice(b"\r\nConnection: keep-alive");
        if let Some(seconds) = core.keepalive_timeout.header {
            out.extend_from_slice(b"\r\nKeep-Alive: timeout=");
            out.extend_from_slice(byte::decimal(seconds, &mut [0; 20]));
        }
    } else {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    if head.vary_encoding {
        out.extend_from_slice(b"\r\nVary: Accept-Encoding");
    }
    // nginx: a target that is sent as it is counts among the other fields.
    if let Some(target) = head.location.as_ref().filter(|target| !absolute(target)) {
        out.extend_from_slice(b"\r\nLocation: ");
        out.extend_from_slice(target);
    }
    for field in head.fields.iter() {
        if framing == Framing::Chunked && field.is("Content-Length") {
            continue;
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(field.name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

fn status_line(head: &Head, out: &mut BytesMut) {
    if let Some(line) = &head.status_line {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(line);
        return;
    }
    match status::status_line(head.status) {
        Some(line) => out.extend_from_slice(line),
        None => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(&status::digits(head.status));
            out.extend_from_slice(b" ");
        }
    }
}

/// Which fields an upstream or a module has given itself.
#[derive(Default)]
pub(in crate::http) struct Own {
    pub(in crate::http) server: bool,
    pub(in crate::http) date: bool,
    pub(in crate::http) content_length: bool,
    pub(in crate::http) last_modified: bool,
}

impl Own {
    pub(in crate::http) fn of(head: &Head) -> Self {
        let mut own = Self::default();
        for field in head.fields.iter() {
            match field.name.len() {
                4 => own.date |= field.is("Date"),
                6 => own.server |= field.is("Server"),
                13 => own.last_modified |= field.is("Last-Modified"),
                14 => own.content_length |= field.is("Content-Length"),
                _ => {}
            }
        }
        own
    }
}

/// `absolute_redirect`: a path goes out as a whole URL.
fn is_made_absolute(request: &Request, target: &[u8]) -> bool {
    request.plan().core.absolute_redirect && target.starts_with(b"/")
}

/// What makes a path a whole URL, with the host that the client asked for.
fn put_authority(request: &Request, out: &mut BytesMut) {
    let core = &request.plan().core;
    let secure = request.connection.io.is_secure();
    out.put_slice(if secure { b"https://" } else { b"http://" });
    let server = &request.server().name;
    match &request.head.host {
        _ if core.server_name_in_redirect => out.put_slice(server),
        Some(host) => out.put_slice(host),
        None => match request.connection.local() {
            Some(local) if local.is_ipv6() => out.put_slice(format!("[{}]", local.ip()).as_bytes()),
            Some(local) => out.put_slice(local.ip().to_string().as_bytes()),
            None => out.put_slice(server),
        },
    }
    let port = request.connection.local().map_or(0, |local| local.port());
    if core.port_in_redirect && port != if secure { 443 } else { 80 } && port != 0 {
        out.put_slice(b":");
        out.put_slice(byte::decimal(u64::from(port), &mut [0; 20]));
    }
}

/// The target of a redirect as it is written.
pub fn location(request: &Request, target: &Bytes) -> Bytes {
    if !is_made_absolute(request, target) {
        return target.clone();
    }
    let mut whole = BytesMut::with_capacity(target.len() + 64);
    put_authority(request, &mut whole);
    whole.put_slice(target);
    whole.freeze()
}
