//! `slice`: a body is fetched in parts of one size, so that each can be kept by itself.
//!
//! In: a 206 that answers the request for the slice that `$slice_range` named. Out: a 200 of the whole length, whose body
//! asks for one slice after the other, in subrequests of the same location, as far as the client wants them. The rule: what
//! goes out is of one piece; a slice that does not fit ends the connection. nginx: `ngx_http_slice_filter_module`.
//!
//! In nginx each subrequest passes the body filters by itself. Here the whole does, once all slices are joined, so that what
//! a filter looks for may lie across a border.

use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::range::Cut;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::{Row, Value};
use crate::conf::words::Words;
use crate::http::body::{Body, Broken, Next, Source};
use crate::http::plan::{Filter, Later, Main, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal};
use crate::http::subrequest;
use crate::log::Level as LogLevel;
use crate::wire::range;

/// `ngx_http_slice_filter_module`.
pub struct Slice;

impl Module for Slice {
    const NAME: &'static str = "http_slice";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("slice", EVERYWHERE, Arity::Exactly(1), Conf::slice)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars.define("slice_range", Row::each(slice_range))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.slice = level.location::<Self>().slice.or(0);
        if plan.slice > 0 {
            plan.filters.push(Box::new(Joiner { size: plan.slice }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    slice: Setting<u64>,
}

impl Conf {
    /// Syntax: `slice size;`  Default: `0`
    fn slice(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.slice.set(words.size(0)? as u64)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { slice } = self;
        slice.inherit(&outer.slice);
        Ok(())
    }
}

/// `$slice_range`: the slice that this request is for. Whoever asks for it first, before there is an answer, makes this a
/// request for slices.
fn slice_range(request: &Request) -> Value {
    let size = request.plan().slice;
    let start = match request.slice.get() {
        Some(start) => start,
        None if size == 0 || request.is_subrequest() || request.answered().is_some() => return None,
        None => {
            let start = wanted(request) / size * size;
            request.slice.set(Some(start));
            start
        }
    };
    // a location without slices may follow one with them: nginx goes on with the size of the one at hand
    let last = start.saturating_add(size).saturating_sub(1);
    Some(format!("bytes={start}-{last}").into())
}

/// The first byte that the client wants, as far as that is known before there is an answer.
fn wanted(request: &Request) -> u64 {
    match request.field("Range") {
        Some(value) if request.field("If-Range").is_none() => range::first(value).unwrap_or(0),
        _ => 0,
    }
}

/// `slice` at one location, resolved.
struct Joiner {
    size: u64,
}

impl Filter for Joiner {
    fn stage(&self) -> Stage {
        Stage::Slice
    }

    fn check(&self, request: &Request, head: &mut Head, _: &Body) -> Result<(), Refusal> {
        let Some(start) = request.slice.get().filter(|_| !request.is_subrequest()) else { return Ok(()) };
        if head.status != 206 {
            request.slice.set(None);
            request.show(head); // there is an answer: whoever asks for `$slice_range` now gets none
            return Ok(());
        }
        let complete = fitting(request, head, start, self.size, None).map_err(|Broken| Refusal::Close)?;
        head.status = 200;
        head.status_line = None;
        head.clear_content_length();
        head.content_length = Some(complete);
        head.offset = start;
        head.remove("Content-Range");
        head.remove("Accept-Ranges");
        head.allow_ranges = true;
        head.single_range = true;
        Ok(())
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        let (Some(start), Some(complete)) = (request.slice.get(), head.content_length) else { return body };
        if request.is_subrequest() || request.is_head() {
            return body;
        }
        let end = start.saturating_add(self.size).min(complete);
        Body::stream(Slices {
            request: request.clone(),
            size: self.size,
            etag: head.field_bytes("ETag"),
            range: 0..complete,
            next: end,
            gone: 0,
            part: Part::First(body, start),
        })
    }
}

/// The length of the whole, when an answer is the slice that was asked for; if not, why is in the log. `etag` is that of the
/// slices before.
fn fitting(request: &Request, head: &Head, start: u64, size: u64, etag: Option<&Bytes>) -> Result<u64, Broken> {
    let refuse = |fault: std::fmt::Arguments<'_>, which: &str| {
        let doing = match request.attempts.borrow().is_empty() {
            true => "sending response to client",
            false => "reading response header from upstream",
        };
        request.log(LogLevel::Error, format_args!("{fault} in slice response{which} while {doing}"));
        Broken
    };
    if head.status != 206 {
        return Err(refuse(format_args!("unexpected status code {}", head.status), ""));
    }
    if etag.is_some() && head.field("ETag") != etag.map(AsRef::as_ref) {
        return Err(refuse(format_args!("etag mismatch"), ""));
    }
    let part = head.field("Content-Range").and_then(range::content_range);
    let Some(part) = part else { return Err(refuse(format_args!("invalid range"), "")) };
    let Some(complete) = part.complete else { return Err(refuse(format_args!("no complete length"), "")) };
    let end = start.saturating_add(size).min(complete);
    if part.start != start || part.end != end {
        let which = format!(": {}-{}, expected: {start}-{end}", part.start, part.end);
        return Err(refuse(format_args!("unexpected range"), &which));
    }
    Ok(complete)
}

/// The whole body, or the range of it that is wanted.
struct Slices {
    request: Rc<Request>,
    size: u64,
    etag: Option<Bytes>,
    range: Range<u64>,
    /// Where the next slice begins.
    next: u64,
    /// Bytes that were handed on.
    gone: u64,
    part: Part,
}

/// So much of the body waits for the slice behind it: if that cannot be had, the client gets no answer rather than half of
/// one. nginx: the default of `postpone_output`.
const HELD: u64 = 1460;

enum Part {
    /// The slice that came with the head, and where it begins: its use shows when the first piece is asked for.
    First(Body, u64),
    Asking(Rc<Request>, Later<'static, Result<(Body, Option<Bytes>), Broken>>),
    Sending(Option<Rc<Request>>, Cut),
}

impl Slices {
    fn cut(&self, inner: Body, place: u64) -> Cut {
        Cut { inner, place, range: self.range.clone() }
    }

    /// Takes the first slice in, and finds where to go on. It is read to its end even when nobody wants it: somebody may be
    /// keeping it.
    fn begin(&mut self, body: Body, start: u64) {
        let first_wanted = self.range.start / self.size * self.size;
        self.next = match start > self.range.start {
            // it was asked for a range that in the end nobody cut
            true => first_wanted,
            false => self.next.max(first_wanted),
        };
        let mut cut = self.cut(body, start);
        if start > self.range.start {
            cut.range = 0..0;
        }
        self.part = Part::Sending(None, cut);
    }

    fn ask(&mut self) -> Result<(), Broken> {
        let child = subrequest::again(&self.request, " while sending response to client").ok_or(Broken)?;
        child.slice.set(Some(self.next));
        let answer = answer(child.clone(), self.next, self.size, self.etag.clone());
        self.part = Part::Asking(child, Box::pin(answer));
        Ok(())
    }
}

/// The body of one slice, and its entity tag.
async fn answer(
    child: Rc<Request>,
    start: u64,
    size: u64,
    etag: Option<Bytes>,
) -> Result<(Body, Option<Bytes>), Broken> {
    let response = match subrequest::content(&child).await {
        Ok(response) => response,
        Err(Refusal::Status(status)) => {
            return Err(fitting(&child, &Head::new(status), start, size, None).err().unwrap_or(Broken));
        }
        Err(Refusal::Jump(_) | Refusal::Close) => return Err(Broken),
    };
    subrequest::answered(&child, &response);
    fitting(&child, &response.head, start, size, etag.as_ref())?;
    Ok((response.body, response.head.field_bytes("ETag")))
}

impl Source for Slices {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match &mut self.part {
                Part::First(body, start) => {
                    let (body, start) = (std::mem::take(body), *start);
                    self.begin(body, start);
                }
                Part::Asking(child, answer) => {
                    let (body, etag) = ready!(answer.as_mut().poll(cx))?;
                    self.etag = etag.or(self.etag.take());
                    let child = child.clone();
                    self.part = Part::Sending(Some(child), self.cut(body, self.next));
                    self.next = self.next.saturating_add(self.size);
                }
                Part::Sending(child, cut) => {
                    if let Some(piece) = ready!(cut.poll_piece(cx))? {
                        self.gone += piece.len();
                        return Poll::Ready(Ok(Some(piece)));
                    }
                    if let Some(child) = child.take() {
                        subrequest::finish(&child);
                    }
                    if self.next >= self.range.end {
                        return Poll::Ready(Ok(None));
                    }
                    self.ask()?;
                }
            }
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        match &mut self.part {
            Part::First(body, _) => body.poll_ahead(cx),
            Part::Sending(_, cut) => cut.poll_ahead(cx),
            Part::Asking(..) => {} // one slice is enough to be ahead
        }
    }

    fn holds_back(&self) -> bool {
        matches!(self.part, Part::Asking(..)) && self.gone < HELD
    }

    fn narrow(&mut self, range: &Range<u64>) -> bool {
        self.range = range.clone();
        true
    }
}
