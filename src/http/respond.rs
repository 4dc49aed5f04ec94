//! From a refusal to what the client sees: `error_page`, or a built-in page.
//!
//! The one home of error answers. In: a status. Out: a response, or a jump to the operator's own page.

use std::rc::Rc;

use bytes::Bytes;

use super::body::Body;
use super::fields::FieldRef;
use super::h1;
use super::request::Request;
use super::response::{Head, Jump, Refusal, Response};
use super::settings::{ErrorPage, Overwrite, Tokens};
use crate::conf::template::Template;
use crate::wire::http1::request::Version;
use crate::wire::uri;

/// Answers with a status: by the location's `error_page`, or with the built-in page.
pub async fn special(request: &Rc<Request>, status: u16) -> Result<Response, Refusal> {
    request.error_status.set(status);
    // These leave it unclear where the next request begins, or that it would fare better.
    if matches!(status, 400 | 413 | 414 | 497 | 495 | 496 | 500 | 501) {
        request.keepalive.set(false);
    }
    if matches!(status, 400 | 497 | 495 | 496) {
        request.body.forbid_lingering();
    }
    let core = &request.plan().core;
    if !request.in_error_page.get() && !core.error_pages.is_empty() && request.jumps.get() != 0 {
        request.in_error_page.set(!core.recursive_error_pages);
        if let Some(page) = core.error_pages.iter().find(|page| page.status == status) {
            return operators(request, page);
        }
    }
    request.body.reject();
    if core.msie_refresh && matches!(status, 301 | 302) && is_msie(request) {
        return Ok(refresh(request));
    }
    if matches!(status, 494..=497) {
        request.error_status.set(400);
    }
    Ok(builtin(request, status))
}

/// What `error_page` says.
fn operators(request: &Rc<Request>, page: &ErrorPage) -> Result<Response, Refusal> {
    match page.overwrite {
        Overwrite::Keep => {}
        Overwrite::Page => request.error_status.set(0),
        Overwrite::With(status) => request.error_status.set(status),
    }
    if !matches!(page.overwrite, Overwrite::Page | Overwrite::With(200)) {
        request.body.never_invite();
    }
    let target = page.target.eval(request.as_ref());
    if target.starts_with(b"/") {
        if !request.is_head() {
            request.set_method(Bytes::from_static(b"GET"));
        }
        let (path, args) = uri::split_args(&target);
        let (path, args) = (target.slice_ref(path), target.slice_ref(args.unwrap_or_default()));
        return Err(Refusal::Jump(Box::new(Jump::Path { path, args: Some(args) })));
    }
    if target.starts_with(b"@") {
        return Err(Refusal::Jump(Box::new(Jump::Named(target))));
    }
    // A target elsewhere is a redirect.
    request.body.reject();
    let status = match page.overwrite {
        Overwrite::With(status @ (301 | 302 | 303 | 307 | 308)) => status,
        Overwrite::Keep | Overwrite::Page | Overwrite::With(_) => 302,
    };
    request.error_status.set(status);
    request.owe_location(target);
    if request.plan().core.msie_refresh && is_msie(request) {
        return Ok(refresh(request));
    }
    Ok(builtin(request, status))
}

/// 103: fields that the client may use before the answer is there, where `early_hints` lets them pass. nginx's fields
/// are the upstream's, as they came.
pub fn early_hints<'a>(request: &Request, fields: impl Iterator<Item = FieldRef<'a>>) {
    let core = &request.plan().core;
    let wanted = |template: &Template| !matches!(template.eval(request).as_ref(), b"" | b"0");
    if request.is_subrequest() || request.head.version < Version::HTTP_11 || !core.early_hints.iter().any(wanted) {
        return;
    }
    let fields: Vec<FieldRef<'_>> = fields.collect();
    if fields.is_empty() {
        return;
    }
    match &request.stream {
        None => h1::early_hints(request, &fields),
        Some(stream) => stream.early_hints(request, &fields),
    }
}

/// The filters' turn, and the status that an error page keeps. A filter may refuse: then the answer is another.
pub fn complete(request: &Rc<Request>, mut response: Response) -> Result<Response, Refusal> {
    filter(request, &mut response)?;
    Ok(response)
}

/// As [`complete`], where the response stands.
pub fn filter(request: &Rc<Request>, response: &mut Response) -> Result<(), Refusal> {
    let Response { head, body } = response;
    request.pay(head);
    let status = request.error_status.get();
    if status != 0 {
        head.status = status;
        head.status_line = None;
    }
    for filter in &request.plan().filters {
        if request.is_subrequest() && !filter.stage().concerns_parts() {
            continue;
        }
        filter.check(request, head, body)?;
        if request.http().head_is_asked_for {
            request.show(head);
        }
        *body = filter.apply(request, head, std::mem::take(body));
    }
    Ok(())
}

/// The built-in page of a status; a status without a page gets an empty body.
fn builtin(request: &Request, status: u16) -> Response {
    let Some(title) = title(status) else {
        return Response::empty(status);
    };
    let core = &request.plan().core;
    let foot: &str = match core.server_tokens {
        Tokens::On | Tokens::Build => concat!("weir/", env!("CARGO_PKG_VERSION")),
        Tokens::Off => "weir",
    };
    let (heading, note) = match status {
        494 => ("400 Bad Request", "Request Header Or Cookie Too Large"),
        495 => ("400 Bad Request", "The SSL certificate error"),
        496 => ("400 Bad Request", "No required SSL certificate was sent"),
        497 => ("400 Bad Request", "The plain HTTP request was sent to HTTPS port"),
        _ => (title, ""),
    };
    let note = if note.is_empty() { String::new() } else { format!("<center>{note}</center>\r\n") };
    let mut page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{heading}</h1></center>\r\n{note}\
         <hr><center>{foot}</center>\r\n</body>\r\n</html>\r\n"
    );
    if core.msie_padding && status >= 400 && request.head.version >= Version::HTTP_10 && pads(request) {
        // Old browsers show a page of their own instead of one below 512 bytes.
        for _ in 0..6 {
            page.push_str("<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n");
        }
    }
    let mut head = Head::boxed(status);
    head.content_type = Some(Bytes::from_static(b"text/html"));
    head.content_length = Some(page.len() as u64);
    Response::new(head, Body::memory(page))
}

/// nginx's titles of the statuses that have a page.
fn title(status: u16) -> Option<&'static str> {
    Some(match status {
        301 => "301 Moved Permanently",
        302 => "302 Found",
        303 => "303 See Other",
        307 => "307 Temporary Redirect",
        308 => "308 Permanent Redirect",
        400 => "400 Bad Request",
        401 => "401 Authorization Required",
        402 => "402 Payment Required",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Not Allowed",
        406 => "406 Not Acceptable",
        408 => "408 Request Time-out",
        409 => "409 Conflict",
        410 => "410 Gone",
        411 => "411 Length Required",
        412 => "412 Precondition Failed",
        413 => "413 Request Entity Too Large",
        414 => "414 Request-URI Too Large",
        415 => "415 Unsupported Media Type",
        416 => "416 Requested Range Not Satisfiable",
        421 => "421 Misdirected Request",
        429 => "429 Too Many Requests",
        494 => "400 Request Header Or Cookie Too Large",
        495 => "400 The SSL certificate error",
        496 => "400 No required SSL certificate was sent",
        497 => "400 The plain HTTP request was sent to HTTPS port",
        500 => "500 Internal Server Error",
        501 => "501 Not Implemented",
        502 => "502 Bad Gateway",
        503 => "503 Service Temporarily Unavailable",
        504 => "504 Gateway Time-out",
        505 => "505 HTTP Version Not Supported",
        507 => "507 Insufficient Storage",
        _ => return None,
    })
}

fn user_agent(request: &Request) -> &[u8] {
    request.field("User-Agent").map_or(&[], |agent| agent)
}

fn has(agent: &[u8], word: &str) -> bool {
    memchr::memmem::find(agent, word.as_bytes()).is_some()
}

/// nginx: `MSIE ` anywhere, unless it is Opera in disguise.
fn is_msie(request: &Request) -> bool {
    let agent = user_agent(request);
    has(agent, "MSIE ") && !has(agent, "Opera")
}

fn pads(request: &Request) -> bool {
    is_msie(request) || has(user_agent(request), "Chrome/")
}

/// `msie_refresh`: a page that redirects itself.
fn refresh(request: &Request) -> Response {
    let mut head = Head::boxed(200);
    request.pay(&mut head);
    request.error_status.set(200);
    let target = head.location.take().unwrap_or_default();
    let target = uri::escape(uri::Escape::Refresh, &target);
    let page = [
        b"<html><head><meta http-equiv=\"Refresh\" content=\"0; URL=".as_slice(),
        &target,
        b"\"></head><body></body></html>\r\n",
    ]
    .concat();
    head.content_type = Some(Bytes::from_static(b"text/html"));
    head.content_length = Some(page.len() as u64);
    Response::new(head, Body::memory(page))
}
