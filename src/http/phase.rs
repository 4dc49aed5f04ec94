//! The walk of one request: server rules, location, rewriting, limits, access, content, filters.
//!
//! In: a request whose head is read. Out: the response that goes to the client, or nothing when the connection shall
//! just end. Reads top to bottom in the order in which things happen.

use std::rc::Rc;

use bytes::Bytes;

use super::body::Source;
use super::location::Found;
use super::plan::{Answer, Gate, LocationId, Verdict};
use super::request::Request;
use super::respond;
use super::response::{Jump, Refusal, Response};
use super::settings::Satisfy;
use super::upload::Upload;
use crate::log::{Level, Raw};
use crate::wire::uri::{self, Escape};

/// The connection ends without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hangup;

/// Answers a request, error pages and internal redirects included; filters are applied.
pub async fn answer(request: &Rc<Request>) -> Result<Response, Hangup> {
    let first = match post_read(request).await {
        Ok(()) => serve(request).await,
        Err(refusal) => Err(refusal),
    };
    finish(request, first).await
}

/// Answers a request that is refused before it is looked at: its head is too large, say.
pub async fn refuse(request: &Rc<Request>, status: u16) -> Result<Response, Hangup> {
    finish(request, Err(Refusal::Status(status))).await
}

/// Why [`attempt`] gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody has made an error page of this status yet.
    Refused(u16),
    Hangup,
}

/// Answers a request, but leaves refusals to the caller, who may have something better than an error page.
pub async fn attempt(request: &Rc<Request>) -> Result<Response, Unanswered> {
    let mut outcome = serve(request).await;
    loop {
        outcome = match outcome {
            Ok(mut response) => match respond::filter(request, &mut response) {
                Ok(()) => return Ok(response),
                Err(refusal) => Err(refusal),
            },
            Err(Refusal::Close | Refusal::Status(444)) => return Err(Unanswered::Hangup),
            Err(Refusal::Status(status)) => return Err(Unanswered::Refused(status)),
            Err(Refusal::Jump(jump)) => follow(request, jump).await,
        };
    }
}

/// Follows refusals until somebody answers.
async fn finish(request: &Rc<Request>, first: Result<Response, Refusal>) -> Result<Response, Hangup> {
    let mut outcome = first;
    loop {
        outcome = match outcome {
            Ok(mut response) => {
                match Upload::drop_ready(request).and_then(|()| respond::filter(request, &mut response)) {
                    Ok(()) => return Ok(response),
                    Err(refusal) => Err(refusal),
                }
            }
            Err(Refusal::Close | Refusal::Status(444)) => return Err(Hangup),
            // nginx: who sends nothing, or is gone, is not answered.
            Err(Refusal::Status(status @ (408 | 499))) => {
                request.status.set(status);
                return Err(Hangup);
            }
            Err(Refusal::Status(status)) => respond::special(request, status).await,
            Err(Refusal::Jump(jump)) => follow(request, jump).await,
        };
    }
}

/// `post_action`: what is done for its own sake once the client has its answer.
pub async fn post_action(request: &Rc<Request>) {
    while let Some(target) = &request.plan().core.post_action {
        if request.jumps.get() == 0 {
            return;
        }
        let jump = match target.starts_with(b"/") {
            true => Jump::Path { path: target.clone(), args: Some(Bytes::new()) },
            false => Jump::Named(target.clone()),
        };
        let Ok(mut response) = finish(request, Err(Refusal::Jump(Box::new(jump)))).await else { return };
        while let Ok(Some(_)) = std::future::poll_fn(|cx| response.body.poll_piece(cx)).await {}
    }
}

/// Asked once for each request of a client.
async fn post_read(request: &Rc<Request>) -> Result<(), Refusal> {
    if request.is_subrequest() || request.plan().post_read.is_empty() {
        return Ok(());
    }
    gates(request, &request.plan().post_read).await.map(drop)
}

/// From the server's own rules to the content.
async fn serve(request: &Rc<Request>) -> Result<Response, Refusal> {
    request.enter(request.server().root);
    if !request.plan().rewrite.is_empty()
        && let Some(response) = gates(request, &request.plan().rewrite).await?
    {
        return Ok(response);
    }
    find(request)?;
    serve_location(request).await
}

/// From a location's rules to the content.
async fn serve_location(request: &Rc<Request>) -> Result<Response, Refusal> {
    loop {
        request.path_changed.set(false);
        // The server's own rules have had their turn where no location matched.
        if request.location_id() != request.server().root
            && !request.plan().rewrite.is_empty()
            && let Some(response) = gates(request, &request.plan().rewrite).await?
        {
            return Ok(response);
        }
        if !request.path_changed.get() {
            break;
        }
        let path = request.path();
        spend_jump(request, format_args!("processing \"{}\"", Raw(&path)))?;
        request.enter(request.server().root);
        find(request)?;
    }
    if !request.plan().preaccess.is_empty()
        && let Some(response) = gates(request, &request.plan().preaccess).await?
    {
        return Ok(response);
    }
    if !request.plan().access.is_empty()
        && let Some(response) = access(request).await?
    {
        return Ok(response);
    }
    if !request.plan().precontent.is_empty()
        && let Some(response) = gates(request, &request.plan().precontent).await?
    {
        return Ok(response);
    }
    content(request).await
}

/// Every change of the path costs one; nginx grants ten.
fn spend_jump(request: &Request, doing: std::fmt::Arguments<'_>) -> Result<(), Refusal> {
    let left = request.jumps.get().saturating_sub(1);
    request.jumps.set(left);
    if left > 0 {
        return Ok(());
    }
    request.log(Level::Error, format_args!("rewrite or internal redirection cycle while {doing}"));
    Err(Refusal::Status(500))
}

/// An internal redirect. Modules forget what they knew of the location before; variables stay.
async fn follow(request: &Rc<Request>, jump: Box<Jump>) -> Result<Response, Refusal> {
    match *jump {
        Jump::Path { path, args } => {
            spend_jump(request, format_args!("internally redirecting to \"{}\"", Raw(&path)))?;
            request.set_path(path);
            if let Some(args) = args {
                request.set_args(args);
            }
            request.internal.set(true);
            request.location_valid.set(true);
            request.add_path_to_alias.set(false);
            request.forget_extensions();
            serve(request).await
        }
        Jump::Named(name) => {
            spend_jump(request, format_args!("redirect to named location \"{}\"", Raw(&name)))?;
            if request.path().is_empty() {
                request.log(Level::Error, format_args!("empty URI in redirect to named location \"{}\"", Raw(&name)));
                return Err(Refusal::Status(500));
            }
            let Some(&(_, id)) = request.server().named.iter().find(|(known, _)| *known == name) else {
                request.log(Level::Error, format_args!("could not find named location \"{}\"", Raw(&name)));
                return Err(Refusal::Status(500));
            };
            request.internal.set(true);
            request.forget_extensions();
            enter(request, id);
            serve_location(request).await
        }
    }
}

/// Finds the location of the path, from where the lookup stands inwards.
fn find(request: &Rc<Request>) -> Result<(), Refusal> {
    let slash = request.with_path(|path| search(request, path))? == Sought::Slash;
    let location = request.location();
    let core = &location.plan.core;
    if core.internal && !request.internal.get() {
        return Err(Refusal::Status(404));
    }
    enter(request, request.location_id());
    let too_large = |length: u64| core.client_max_body_size != 0 && length > core.client_max_body_size;
    if let Some(length) = request.head.content_length.filter(|&length| too_large(length))
        && !request.is_subrequest()
        && !request.body.is_discarded()
    {
        let message = format_args!("client intended to send too large body: {length} bytes");
        request.log(Level::Error, message);
        request.body.reject();
        return Err(Refusal::Status(413));
    }
    if slash {
        let path = uri::escape(Escape::Uri, &location.name);
        let args = request.args();
        let mark: &[u8] = if args.is_empty() { b"" } else { b"?" };
        request.owe_location([path.as_ref(), mark, args.as_ref()].concat().into());
        return Err(Refusal::Status(301));
    }
    Ok(())
}

/// How a search for a location ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sought {
    /// By an exact name or a pattern.
    Decided,
    /// At a location whose name is the path and a slash.
    Slash,
    /// With the longest prefix or with none: a pattern further out may be better.
    Open,
}

/// nginx: `ngx_http_core_find_location`.
fn search(request: &Request, path: &Bytes) -> Result<Sought, Refusal> {
    let here = &request.location().inner;
    let mut patterns = true;
    match here.find(path) {
        Found::Exact(id) => {
            request.enter(id);
            return Ok(Sought::Decided);
        }
        Found::Slash(id) => {
            request.enter(id);
            return Ok(Sought::Slash);
        }
        Found::Prefix { id, final_ } => {
            patterns = !final_;
            request.enter(id);
            match search(request, path)? {
                Sought::Open => {}
                decided => return Ok(decided),
            }
        }
        Found::Nothing => {}
    }
    if patterns {
        for (regex, id) in here.regexes() {
            if regex.matches(path, request)? {
                request.enter(*id);
                search(request, path)?;
                return Ok(Sought::Decided);
            }
        }
    }
    Ok(Sought::Open)
}

/// Enters a location, or the `limit_except` block in it that concerns this method. `if` blocks enter themselves.
pub fn enter(request: &Request, id: LocationId) {
    request.enter(id);
    let location = request.location();
    let Some(child) = location.plan.core.limit_except else { return };
    let Some(Some(block)) = location.blocks.get(child) else { return };
    let method = request.method();
    if !request.http().location(*block).plan.core.except.contains(&method) {
        request.enter(*block);
    }
}

/// Runs the gates of one phase. Callers look first whether it has any: most have none, and an await moves an answer
/// through one more place.
async fn gates(request: &Rc<Request>, gates: &[Box<dyn Gate>]) -> Result<Option<Response>, Refusal> {
    for gate in gates {
        match settle(gate.as_ref(), request).await {
            Verdict::Next | Verdict::Allow | Verdict::Wait(_) => {}
            Verdict::Refuse(refusal) => return Err(refusal),
            Verdict::Answer(response) => return Ok(Some(response)),
        }
    }
    Ok(None)
}

/// A gate's verdict, waited for if need be.
async fn settle<'a>(gate: &'a dyn Gate, request: &'a Rc<Request>) -> Verdict<'a> {
    match gate.pass(request) {
        Verdict::Wait(later) => later.await,
        verdict => verdict,
    }
}

/// Who may: all gates must agree, or with `satisfy any` one of them. Subrequests were let in with their parent.
async fn access(request: &Rc<Request>) -> Result<Option<Response>, Refusal> {
    let plan = request.plan();
    if request.is_subrequest() || plan.access.is_empty() {
        return Ok(None);
    }
    let mut refused = None;
    for gate in &plan.access {
        match (settle(gate.as_ref(), request).await, plan.core.satisfy) {
            (Verdict::Answer(response), _) => return Ok(Some(response)),
            (Verdict::Allow, Satisfy::Any) => {
                // A gate before this one may have asked for a password.
                request.forgive("WWW-Authenticate");
                return Ok(None);
            }
            (Verdict::Refuse(Refusal::Status(status @ (401 | 403))), Satisfy::Any) => {
                // nginx: asking for a password is the better answer of the two.
                if refused != Some(401) {
                    refused = Some(status);
                }
            }
            (Verdict::Refuse(refusal), _) => return delayed(request, refusal).await,
            (Verdict::Next | Verdict::Allow | Verdict::Wait(_), _) => {}
        }
    }
    match refused {
        None => Ok(None),
        Some(status) => {
            if status == 403 {
                request.log(Level::Error, format_args!("access forbidden by rule"));
            }
            delayed(request, Refusal::Status(status)).await
        }
    }
}

/// `auth_delay` slows guessing: a 401 comes late.
async fn delayed(request: &Rc<Request>, refusal: Refusal) -> Result<Option<Response>, Refusal> {
    let delay = request.plan().core.auth_delay;
    if !delay.is_zero() && matches!(refusal, Refusal::Status(401)) {
        tokio::time::sleep(delay).await;
    }
    Err(refusal)
}

/// Asks the location's handler, or index, autoindex and static files in turn.
pub async fn content(request: &Rc<Request>) -> Result<Response, Refusal> {
    let plan = request.plan();
    let handlers = match &plan.handler {
        Some(handler) => std::slice::from_ref(handler),
        None => plan.contents.as_slice(),
    };
    for handler in handlers {
        match handler.answer(request) {
            Answer::Decline => {}
            Answer::Now(answer) => return answer,
            Answer::Wait(later) => {
                if let Some(answer) = later.await {
                    return answer;
                }
            }
        }
    }
    if plan.handler.is_some() {
        return Err(Refusal::Status(404));
    }
    let path = request.path();
    if path.ends_with(b"/") {
        let directory = super::root::file_path(request, &path);
        request.log(Level::Error, format_args!("directory index of \"{}\" is forbidden", Raw(&directory)));
        return Err(Refusal::Status(403));
    }
    Err(Refusal::Status(404))
}
