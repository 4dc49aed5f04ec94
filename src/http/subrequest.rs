//! Subrequests: a part of an answer, asked for by the request that the answer is for.
//!
//! In: a parent and a path. Out: the response that this path has, as any request to it would get, but that it is only
//! filtered by what concerns parts ([`super::plan::Stage::concerns_parts`]) and that nobody checks its access again. The
//! rule: variables are the parent's, and so is the body that the client sent; where the lookup stands is its own.
//!
//! Whoever asks decides when the parts run: an answer is a future, several may be polled side by side, and their
//! bodies are put in order by who pulls them.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::body::{Body, Broken, Piece, Source};
use super::phase::{self, Hangup};
use super::request::Request;
use super::response::{Refusal, Response};
use crate::log::{Level, Raw};

/// nginx: `NGX_HTTP_MAX_SUBREQUESTS`. A subrequest may have a part of its own, and so on, this deep.
const DEPTH: usize = 50;

/// So many requests may make one answer at the same time; nginx counts them in 16 bits.
const FAMILY: usize = 65535 - 1000;

/// A subrequest of `parent`, ready to be answered. `None`: they are too many, as the log says; `doing` is the end of what
/// it says, ` while …` or nothing.
pub fn new(parent: &Rc<Request>, path: Bytes, args: Bytes, doing: &str) -> Option<Rc<Request>> {
    let child = bare(parent, path, args, doing)?;
    if let Some(body) = parent.body.stored() {
        child.body.store(body);
    }
    Some(child)
}

/// As [`new`], but the body is not the parent's: there is none.
pub fn bare(parent: &Rc<Request>, path: Bytes, args: Bytes, doing: &str) -> Option<Rc<Request>> {
    may_have_another(parent, &path, doing).then(|| Rc::new(Request::child(parent, path, args)))
}

/// A subrequest that asks for the same as `parent`, in the location where that stands; see [`content`]. `None`: as above.
pub fn again(parent: &Rc<Request>, doing: &str) -> Option<Rc<Request>> {
    may_have_another(parent, &parent.path(), doing).then(|| Rc::new(parent.again()))
}

fn may_have_another(parent: &Request, path: &[u8], doing: &str) -> bool {
    let fault = match () {
        () if parent.generation() > DEPTH => Some((Level::Error, "subrequests cycle")),
        () if parent.family() >= FAMILY => Some((Level::Crit, "request reference counter overflow")),
        () => None,
    };
    if let Some((level, fault)) = fault {
        parent.log(level, format_args!("{fault} while processing \"{}\"{doing}", Raw(path)));
    }
    fault.is_none()
}

/// The response, error pages and internal redirects included.
pub async fn answer(request: &Rc<Request>) -> Result<Response, Hangup> {
    phase::answer(request).await
}

/// The body of [`answer`], the head apart.
pub async fn body(request: Rc<Request>) -> Result<Body, Broken> {
    let response = answer(&request).await.map_err(|Hangup| Broken)?;
    answered(&request, &response);
    Ok(response.body)
}

/// The answer of the handler alone: no rule, no filter, no error page.
pub async fn content(request: &Rc<Request>) -> Result<Response, Refusal> {
    phase::content(request).await
}

/// Notes what was answered, for `$status` and `$sent_http_` of the log.
pub fn answered(request: &Request, response: &Response) {
    request.status.set(response.head.status);
    request.show(&response.head);
}

/// The subrequest is over: `log_subrequest` has it logged as requests are.
pub fn finish(request: &Request) {
    let plan = request.plan();
    if !plan.core.log_subrequest {
        return;
    }
    // nginx: the counter is the connection's.
    request.bytes_sent.set(request.main().bytes_sent.get());
    for log in &plan.logs {
        log.log(request);
    }
}

/// The whole body, up to `subrequest_output_buffer_size`.
pub async fn in_memory(request: &Request, response: Response) -> Result<Bytes, Broken> {
    let limit = request.plan().core.subrequest_output_buffer_size;
    let Response { head, mut body } = response;
    if let Some(length) = head.content_length.filter(|&length| length > limit as u64) {
        request.log(Level::Error, format_args!("too big subrequest response: {length}"));
        return Err(Broken);
    }
    let mut all = BytesMut::new();
    while let Some(piece) = next(&mut body).await? {
        if piece.len() > (limit - all.len()) as u64 {
            request.log(Level::Error, format_args!("too big subrequest response"));
            return Err(Broken);
        }
        match piece {
            Piece::Mem(bytes) => all.extend_from_slice(&bytes),
            Piece::File(mut file) => {
                while file.len > 0 {
                    all.extend_from_slice(&file.read(limit).map_err(|_| Broken)?);
                }
            }
            Piece::Flush => {}
        }
    }
    Ok(all.freeze())
}

/// The next piece of a body, waited for.
pub async fn next(body: &mut Body) -> Result<Option<Piece>, Broken> {
    std::future::poll_fn(|cx| body.poll_piece(cx)).await
}
