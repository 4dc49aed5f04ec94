//! Ranges: the part of a body that the client asks for, or several of them.
//!
//! In: a 200 whose length is known and that may be cut. Out: 206 with the part, 206 with several parts in a
//! `multipart/byteranges`, or 416. A piece of a file stays one. nginx: `ngx_http_range_filter_module`; RFC 9110, 14.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::module::{Directive, Level, Module};
use crate::http::body::{Body, Next, Piece, Source};
use crate::http::plan::{Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Field, Head, Refusal};
use crate::wire::date;
use crate::wire::http1::request::Version;
use crate::wire::range::{self, Ranges};

/// `ngx_http_range_filter_module`. `max_ranges` is the core module's.
pub struct RangeFilter;

impl Module for RangeFilter {
    const NAME: &'static str = "http_range";
    const DIRECTIVES: &'static [Directive<Self>] = &[];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = ();

    fn link(_: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if plan.core.max_ranges != Some(0) {
            plan.filters.push(Box::new(Cutter));
        }
        Ok(())
    }
}

struct Cutter;

impl Filter for Cutter {
    fn stage(&self) -> Stage {
        Stage::Range
    }

    fn check(&self, request: &Request, head: &mut Head, body: &Body) -> Result<(), Refusal> {
        let Some(Ranges::Unsatisfiable) = asked(request, head, body) else { return Ok(()) };
        // nginx: the answer keeps the fields that other filters have added to it so far.
        for field in std::mem::take(&mut head.fields).iter() {
            if !REPLACED.iter().any(|name| field.is(name)) {
                request.owe(field.name_bytes(), field.value_bytes());
            }
        }
        let length = head.content_length.unwrap_or(0);
        request.owe("Content-Range", format!("bytes */{length}"));
        Err(Refusal::Status(416))
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if !may_cut(request, head) {
            return body;
        }
        match asked(request, head, &body) {
            Some(Ranges::One(range)) => one(range, head, body),
            Some(Ranges::Many(ranges)) => many(&ranges, head, body),
            Some(Ranges::Whole | Ranges::Unsatisfiable) | None => {
                head.add("Accept-Ranges", "bytes");
                body
            }
        }
    }
}

/// What a 416 has of its own, or not at all.
const REPLACED: [&str; 5] = ["ETag", "Accept-Ranges", "Last-Modified", "Content-Length", "Content-Range"];

fn may_cut(request: &Request, head: &Head) -> bool {
    head.status == 200
        && head.allow_ranges
        && head.content_length.is_some()
        && request.head.version >= Version::HTTP_10
        && !request.is_subrequest()
}

/// What the request asks for; `None` when it does not, or not of this representation.
fn asked(request: &Request, head: &Head, body: &Body) -> Option<Ranges> {
    let asked = request.field("Range").filter(|_| may_cut(request, head))?;
    if let Some(condition) = request.field("If-Range")
        && !is_same(condition, head)
    {
        return None;
    }
    // Parts are picked from a body that is at hand as a whole, not from one that flows by.
    let single = head.single_range || matches!(body, Body::Stream(_));
    let limit = request.plan().core.max_ranges.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
    let limit = if single { Some(1) } else { limit };
    Some(range::ranges(asked, head.content_length?, limit))
}

/// `If-Range`: a tag, which ends in a quote, or a date. RFC 9110, 13.1.5.
fn is_same(condition: &[u8], head: &Head) -> bool {
    if condition.len() >= 2 && condition.ends_with(b"\"") {
        return head.field("ETag").is_some_and(|tag| tag == condition);
    }
    head.last_modified.is_some_and(|modified| date::parse(condition) == Some(modified))
}

fn one(range: Range<u64>, head: &mut Head, body: Body) -> Body {
    let length = head.content_length.unwrap_or(0);
    let before = head.offset;
    partial(head);
    head.add("Content-Range", format!("bytes {}-{}/{length}", range.start, range.end - 1));
    head.content_length = Some(range.end - range.start);
    head.offset = range.start;
    match body {
        Body::Empty | Body::Tunnel(_) => Body::Empty,
        Body::One(piece) => Body::One(piece.slice(range.start.saturating_sub(before), range.end - range.start)),
        Body::Stream(mut source) => match source.narrow(&range) {
            true => Body::Stream(source),
            false => Body::stream(Cut { inner: Body::Stream(source), place: before, range }),
        },
    }
}

/// RFC 9110, 14.6, in the form that nginx gives it.
fn many(ranges: &[Range<u64>], head: &mut Head, body: Body) -> Body {
    static BOUNDARIES: AtomicU64 = AtomicU64::new(1);
    let boundary = format!("{:020}", BOUNDARIES.fetch_add(1, Ordering::Relaxed));
    let length = head.content_length.unwrap_or(0);
    let media = match (&head.content_type, &head.charset) {
        (None, _) => Vec::new(),
        (Some(media), None) => [b"Content-Type: ", media.as_ref(), b"\r\n"].concat(),
        (Some(media), Some(charset)) => {
            [b"Content-Type: ", media.as_ref(), b"; charset=", charset.as_ref(), b"\r\n"].concat()
        }
    };
    let whole = match body {
        Body::One(piece) => Some(piece),
        Body::Empty | Body::Stream(_) | Body::Tunnel(_) => None,
    };
    let mut pieces = Vec::with_capacity(ranges.len() * 2 + 1);
    let mut total = 0;
    for range in ranges {
        let size = range.end - range.start;
        let mut part = format!("\r\n--{boundary}\r\n").into_bytes();
        part.extend_from_slice(&media);
        let shown = format!("Content-Range: bytes {}-{}/{length}\r\n\r\n", range.start, range.end - 1);
        part.extend_from_slice(shown.as_bytes());
        total += part.len() as u64 + size;
        pieces.push(Piece::Mem(part.into()));
        pieces.extend(whole.as_ref().map(|piece| piece.slice(range.start, size)));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    total += end.len() as u64;
    pieces.push(Piece::Mem(end.into()));
    partial(head);
    head.content_type = Some(Bytes::from(format!("multipart/byteranges; boundary={boundary}")));
    head.charset = None;
    head.content_length = Some(total);
    if whole.is_none() { Body::Empty } else { Body::pieces(pieces) }
}

fn partial(head: &mut Head) {
    head.status = 206;
    head.status_line = None;
    head.clear_content_length();
    head.remove("Content-Range");
}

/// A range of a body that flows by. What comes behind it is read and dropped: somebody may be keeping a copy.
pub(super) struct Cut {
    pub(super) inner: Body,
    /// Where in the whole the next piece begins.
    pub(super) place: u64,
    pub(super) range: Range<u64>,
}

impl Source for Cut {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let Some(piece) = ready!(self.inner.poll_piece(cx))? else { return Poll::Ready(Ok(None)) };
            if matches!(piece, Piece::Flush) {
                if self.place < self.range.end {
                    return Poll::Ready(Ok(Some(piece)));
                }
                continue;
            }
            let start = self.place;
            self.place += piece.len();
            let from = self.range.start.max(start);
            let to = self.range.end.min(self.place);
            if from < to {
                return Poll::Ready(Ok(Some(piece.slice(from - start, to - from))));
            }
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        self.inner.poll_ahead(cx);
    }

    fn promises_trailers(&self) -> bool {
        self.inner.promises_trailers()
    }

    fn trailers(&mut self) -> Vec<Field> {
        self.inner.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(mut body: Body) -> Vec<u8> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Ok(Some(piece))) = body.poll_piece(&mut cx) {
            match piece {
                Piece::Mem(bytes) => all.extend_from_slice(&bytes),
                Piece::Flush | Piece::File(_) => all.push(b'|'),
            }
        }
        all
    }

    fn whole(length: u64) -> Head {
        let mut head = Head::new(200);
        head.content_type = Some(Bytes::from_static(b"text/plain"));
        head.content_length = Some(length);
        head
    }

    #[test]
    fn a_flowing_body_is_cut_across_its_pieces() {
        let piece = |text: &'static str| Piece::Mem(Bytes::from_static(text.as_bytes()));
        for (range, expected) in
            [(0..3, "012"), (2..7, "2|3456"), (3..6, "|345"), (5..6, "|5"), (0..10, "012|3456789"), (9..10, "|9")]
        {
            let body = Body::pieces(vec![piece("012"), Piece::Flush, piece("345"), piece("6789"), Piece::Flush]);
            let mut head = whole(10);
            let cut = one(range.clone(), &mut head, body);
            assert_eq!(String::from_utf8_lossy(&bytes(cut)), expected, "{range:?}");
            assert_eq!(head.content_length, Some(range.end - range.start));
        }
        let mut slice = whole(10);
        slice.offset = 4;
        let body = Body::pieces(vec![piece("4567")]);
        assert_eq!(bytes(one(5..7, &mut slice, body)), b"56");
    }

    #[test]
    fn several_parts_and_their_length() {
        let mut head = whole(10);
        head.charset = Some(Bytes::from_static(b"utf-8"));
        let body = many(&[1..3, 8..10], &mut head, Body::memory("0123456789"));
        let media = head.content_type.clone().expect("a type");
        let media = String::from_utf8_lossy(&media);
        let boundary = media.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
        let part = |range: &str, text: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {range}/10\r\n\r\n{text}"
            )
        };
        let expected = [part("1-2", "12"), part("8-9", "89"), format!("\r\n--{boundary}--\r\n")].concat();
        assert_eq!(head.content_length, Some(expected.len() as u64));
        assert_eq!((head.status, head.charset), (206, None));
        assert_eq!(String::from_utf8_lossy(&bytes(body)), expected);

        let mut asked_for_the_head = whole(10);
        assert!(matches!(many(&[1..3, 8..10], &mut asked_for_the_head, Body::Empty), Body::Empty));
        assert_eq!(asked_for_the_head.content_length, Some(expected.len() as u64 - 2 * "; charset=utf-8".len() as u64));
    }

    #[test]
    fn the_condition_is_exact() {
        let mut head = whole(10);
        head.last_modified = Some(784_111_777);
        head.add("ETag", "\"a\"");
        for (condition, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("\"b\"", false),
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_same(condition.as_bytes(), &head), expected, "{condition}");
        }
        assert!(!is_same(b"\"a\"", &whole(10)) && !is_same(b"nonsense", &whole(10)));
    }
}
