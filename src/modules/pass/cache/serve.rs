//! A request's way through the cache.
//!
//! ```text
//! key ─► look up ─┬─► fresh ───────────────────────────────────► served from the file
//!                 ├─► stale ─┬─► may be served, one fetches it ──► served, and fetched beside
//!                 │          └─► fetched, or asked for changes ─┬─► the new answer, kept
//!                 │                                             ├─► unchanged: served, and fresh again
//!                 │                                             └─► the upstream fails: the stale one, where allowed
//!                 ├─► somebody fetches it ─► waits ──────────────► served while it grows
//!                 └─► nothing ─► fetched ────────────────────────► passed on, and kept
//! ```
//!
//! In: a request and an [`Origin`]. Out: a response. The rule: what goes wrong on the disk is a line in the log and an
//! answer that is not kept; the client never sees it. nginx: `ngx_http_upstream_cache` and `ngx_http_file_cache_open`.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::copied::{self, Copied, Opened};
use super::entry::{self, Entry, now, other_variant, pairs, variant};
use super::keep::{Copy, Kept};
use super::origin::Origin;
use super::renew;
use super::strict;
use super::waiting::Waiting;
use super::{Plan, any};
use crate::base::clock;
use crate::base::place;
use crate::base::text::errno;
use crate::cache::fill::{Fill, Progress, Waiter};
use crate::cache::filling::Filling;
use crate::cache::head;
use crate::cache::index::{Found, Full, Turn};
use crate::cache::key::Key;
use crate::cache::meta::{self, Meta, Unusable};
use crate::cache::policy::{self, Verdict, Why};
use crate::cache::purge::What;
use crate::cache::rfc9111::Reuse;
use crate::cache::stored::{SMALL, Stored, Unread};
use crate::cache::{Seen, Status};
use crate::http::body::Body;
use crate::http::open_file::OpenFile;
use crate::http::plan::Answer;
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::log::Level;
use crate::modules::pass::codec::Codec;
use crate::modules::pass::exchange::{Asked, Failed, Keeping};
use crate::modules::pass::reply::Role;
use crate::modules::pass::settings::{Next, Settings};
use crate::net::timer::Timer;
use crate::wire::date;

/// Answers a request: from the cache where there is one, else by asking. Asking is a large future, and is boxed apart from
/// the one that finds a copy, so that a hit does not pay for it.
pub fn answer<'a, O: Origin>(origin: &'a Arc<O>, request: &'a Rc<Request>) -> Answer<'a> {
    let Some(plan) = origin.cache() else {
        let passed = place::pinned(|| async move { Some(pass(origin, request).await) });
        return Answer::Wait(passed);
    };
    let mut seen = None;
    if plan.is_asked(request) && !plan.purges(request) && entry::is_known(&**origin, request) {
        // A copy that is there answers at once.
        seen = match look(origin, plan, request) {
            Ok(Some((_, Way::Serve(copied, status)))) => {
                return Answer::Now(copied::serve(origin, request, copied, status));
            }
            Ok(seen) => seen,
            Err(refusal) => return Answer::Now(Err(refusal)),
        };
    }
    Answer::Wait(place::pinned(|| async move {
        Some(match seen {
            Some((entry, way)) => through_cache(origin, plan, request, entry, way).await,
            None => cached(origin, plan, request).await,
        })
    }))
}

/// The entry of a request, and what is to be done about it.
fn look<O: Origin>(origin: &Arc<O>, plan: &Plan, request: &Rc<Request>) -> Result<Option<(Entry, Way)>, Refusal> {
    let Some(entry) = entry::known(&**origin, plan, request)? else { return Ok(None) };
    let way = match any(&plan.bypass, request) {
        true => Way::Fetch { turn: None, stale: None, status: Status::Bypass },
        false => find(origin, plan, request, &entry, false),
    };
    Ok(Some((entry, way)))
}

async fn cached<O: Origin>(origin: &Arc<O>, plan: &Plan, request: &Rc<Request>) -> Result<Response, Refusal> {
    if plan.purges(request) {
        return purge(&**origin, plan, request).await;
    }
    if plan.is_asked(request) {
        entry::prepare(&**origin, request).await?;
        if let Some((entry, way)) = look(origin, plan, request)? {
            return through_cache(origin, plan, request, entry, way).await;
        }
    }
    let response = Box::pin(pass(origin, request)).await?;
    if plan.rules.rfc9111 {
        for changed in strict::changed(request, &response.head) {
            if let Some(entry) = entry::find(&**origin, plan, &changed).await? {
                entry.zone.store.purge(What::Key(entry.main), now());
            }
        }
    }
    Ok(response)
}

/// `*_cache_purge`: 204 when something was purged, 404 when there was nothing. The entry of the key goes with all its
/// variants; a key that ends in `*` means all that begin so.
async fn purge<O: Origin>(origin: &O, plan: &Plan, request: &Rc<Request>) -> Result<Response, Refusal> {
    let Some(entry) = entry::find(origin, plan, request).await? else { return Err(Refusal::Status(404)) };
    request.body.discard();
    let what = match entry.text.strip_suffix(b"*") {
        Some(prefix) => What::Prefix(prefix),
        None => What::Key(entry.main),
    };
    match entry.zone.store.purge(what, now()) {
        true => Ok(Response::new(Head::new(204), Body::Empty)),
        false => Err(Refusal::Status(404)),
    }
}

/// Nothing is kept.
async fn pass<O: Origin>(origin: &Arc<O>, request: &Rc<Request>) -> Result<Response, Refusal> {
    match origin.ready(request, None).await?.ask().await {
        Ok(asked) => asked.answer(None, Role::Passed),
        Err(failed) => Err(failed.refusal),
    }
}

/// What is to be done.
enum Way {
    /// The copy answers.
    Serve(Copied, Status),
    /// The copy answers, and is fetched anew beside.
    Refresh(Copied, Turn),
    /// A status answers.
    Refuse(u16),
    /// The upstream is asked. Without a turn its answer is not kept.
    Fetch { turn: Option<Turn>, stale: Option<Copied>, status: Status },
    /// Somebody is asking; until then at most. Without a time, all of the answer has come.
    Wait { fill: Arc<Fill>, until: Option<u64> },
    /// Another variant is asked for.
    Variant(Key),
    /// The disk has to be waited for.
    Cold(Arc<OpenFile>),
}

async fn through_cache<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
    mut entry: Entry,
    mut way: Way,
) -> Result<Response, Refusal> {
    let mut patience = Patience::new(plan.lock_timeout);
    let mut waited = false;
    loop {
        match way {
            Way::Serve(copied, status) => return copied::serve(origin, request, copied, status),
            Way::Refresh(copied, turn) => {
                refresh(origin, request, &entry, &copied, turn);
                return copied::serve(origin, request, copied, Status::Stale);
            }
            Way::Refuse(status) => {
                copied::saw(request, Status::Hit);
                return Err(Refusal::Status(status));
            }
            Way::Fetch { turn, stale, status } => {
                return place::pinned(|| fetch(origin, plan, request, &entry, turn, stale, status)).await;
            }
            Way::Variant(key) => {
                entry.key = key;
                waited = false;
            }
            Way::Cold(file) => {
                Box::pin(copied::warm(request, file, origin.settings().buffer_size)).await;
                waited = true;
            }
            Way::Wait { until: Some(_), .. } if entry.wish.is_some_and(|wish| wish.only_if_cached) => {
                return Err(Refusal::Status(504));
            }
            Way::Wait { fill, until } => match patience.wait(origin.settings(), request, fill, until).await? {
                Waited::Again => {}
                Waited::Growing(waiter, file, len) => match join(origin, request, &entry, waiter, file, len) {
                    Joined::Response(response) => return response,
                    Joined::Variant(key) => entry.key = key,
                    Joined::Not => {
                        return Box::pin(fetch(origin, plan, request, &entry, None, None, Status::Miss)).await;
                    }
                },
                Waited::Enough => {
                    return Box::pin(fetch(origin, plan, request, &entry, None, None, Status::Miss)).await;
                }
            },
        }
        way = find(origin, plan, request, &entry, waited);
    }
}

/// Looks once. `waited`: the disk was waited for, and is read whether or not that takes time.
fn find<O: Origin>(origin: &Arc<O>, plan: &Plan, request: &Rc<Request>, entry: &Entry, waited: bool) -> Way {
    let store = &entry.zone.store;
    let missing = |turn| Way::Fetch { turn, stale: None, status: Status::Miss };
    let (held, found) = match store.look_up(entry.key, plan.min_uses, now()) {
        Ok(found) => found,
        Err(Full) => {
            let name = &entry.zone.name;
            request.log(Level::Alert, format_args!("could not allocate node in cache keys zone \"{name}\""));
            return missing(None);
        }
    };
    let (on_disk, keep) = match found {
        Found::Error(status) => return Way::Refuse(status),
        Found::Arrives => match held.fill() {
            Some(fill) => return Way::Wait { fill, until: None },
            None => (true, true), // it has come meanwhile
        },
        Found::Entry { on_disk, keep } => (on_disk, keep),
    };
    if on_disk {
        match copied::open(request, entry, held.made, origin.settings().buffer_size, waited) {
            Opened::Cold(file) => return Way::Cold(file),
            Opened::Stored(stored, _) if held.is_purged(entry.main, &entry.text, stored.meta.date) => {
                let _ = std::fs::remove_file(entry.path()); // somebody else may have been quicker
                held.is_gone();
            }
            Opened::Stored(stored, file) => {
                if let Some(variant) = other_variant(request, entry, &stored.meta) {
                    if !entry.is_variant() {
                        return Way::Variant(variant);
                    }
                    let path = entry.path();
                    request.log(Level::Crit, format_args!("cache file \"{}\" has incorrect vary hash", path.display()));
                    held.is_gone();
                } else if let Some(copied) = copied::understand(origin, request, entry, stored, file) {
                    held.is_there(|| store.size_of(entry.key));
                    let now = now();
                    let is_fresh = copied.stored.meta.is_fresh(now);
                    let (serve, pleases) = match &entry.wish {
                        None => (is_fresh, true),
                        Some(wish) => {
                            let fields = &copied.reply().replied.fields;
                            let (reuse, pleases) = strict::reuse(wish, fields, &copied.stored.meta, now);
                            (reuse == Reuse::Serve, pleases)
                        }
                    };
                    if serve {
                        return Way::Serve(copied, if is_fresh { Status::Hit } else { Status::Stale });
                    }
                    let updating = plan.use_stale.has(Next::UPDATING) || copied.stored.meta.stale_while_updating(now);
                    let usable = updating && pleases && !entry.background && copied::may_be_stale(plan, &copied);
                    return match held.renewal() {
                        Ok(turn) if usable && plan.background_update => Way::Refresh(copied, turn),
                        Ok(turn) => Way::Fetch { turn: Some(turn), stale: Some(copied), status: Status::Expired },
                        Err(_) if usable => Way::Serve(copied, Status::Updating),
                        Err(held) => {
                            Way::Fetch { turn: Some(held.share()), stale: Some(copied), status: Status::Expired }
                        }
                    };
                } else {
                    held.is_gone();
                }
            }
            Opened::Not(Unread::Missing) => held.is_gone(),
            Opened::Not(Unread::Unusable(why)) => {
                let level = if why == Unusable::Version { Level::Info } else { Level::Crit };
                request.log(level, format_args!("cache file \"{}\" {why}", entry.path().display()));
                held.is_gone();
            }
            Opened::Not(Unread::Failed(call, error)) => {
                let path = entry.path();
                let message = format_args!("{call} \"{}\" failed {}", path.display(), errno(&error));
                request.log(Level::Crit, message);
                return missing(None);
            }
        }
    }
    if !keep {
        return missing(None);
    }
    let Some(age) = plan.lock else { return missing(Some(held.share())) };
    match held.turn(clock::milliseconds(), age) {
        Ok(turn) => missing(Some(turn)),
        Err((_held, fill, until)) => Way::Wait { fill, until: Some(until) },
    }
}

/// How long a request waits for another.
struct Patience {
    left: Duration,
    since: std::time::Instant,
}

enum Waited {
    /// Who was waited for has ended, or is given up: look again.
    Again,
    Growing(Waiter, Arc<std::fs::File>, u64),
    /// It is fetched, and not kept.
    Enough,
}

impl Patience {
    fn new(left: Duration) -> Self {
        Self { left, since: clock::now() }
    }

    async fn wait(
        &mut self,
        settings: &Settings,
        request: &Rc<Request>,
        fill: Arc<Fill>,
        until: Option<u64>,
    ) -> Result<Waited, Refusal> {
        if self.left.is_zero() {
            return Ok(Waited::Enough);
        }
        let left = self.left.saturating_sub(clock::now().saturating_duration_since(self.since));
        let age = until.map_or(left, |until| Duration::from_millis(until.saturating_sub(clock::milliseconds()).max(1)));
        let waiter = Waiter::new(fill);
        let mut timer = Timer::default();
        let waited = std::future::poll_fn(|cx: &mut Context<'_>| {
            if let Poll::Ready(progress) = waiter.poll_past(0, cx) {
                return Poll::Ready(Ok(Some(progress)));
            }
            if settings.minds_client() && request.poll_gone(cx).is_ready() {
                request.log(Level::Info, format_args!("client prematurely closed connection"));
                request.status.set(499);
                return Poll::Ready(Err(Refusal::Close));
            }
            timer.poll(cx, left.min(age)).map(|()| Ok(None))
        });
        match waited.await? {
            Some(Progress::Growing(file, len) | Progress::Whole(file, len)) => Ok(Waited::Growing(waiter, file, len)),
            Some(Progress::Asked | Progress::Ended) => Ok(Waited::Again),
            None if left <= age => {
                request.log(Level::Info, format_args!("cache lock timeout"));
                Ok(Waited::Enough)
            }
            None => Ok(Waited::Again),
        }
    }
}

enum Joined {
    Response(Result<Response, Refusal>),
    /// What is being fetched is for others.
    Variant(Key),
    Not,
}

/// Answers with a file that is still growing.
fn join<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    entry: &Entry,
    waiter: Waiter,
    file: Arc<std::fs::File>,
    len: u64,
) -> Joined {
    if entry.zone.store.index.purges.has(entry.main, &entry.text, waiter.since(), i64::MAX) {
        return Joined::Not;
    }
    let Ok(stored) = Stored::growing(&file, len, &entry.text, origin.settings().buffer_size) else {
        return Joined::Not;
    };
    if let Some(variant) = other_variant(request, entry, &stored.meta) {
        return if entry.is_variant() { Joined::Not } else { Joined::Variant(variant) };
    }
    let place = u64::from(stored.meta.body_start);
    let response =
        copied::serve_growing(origin, request, &stored, || Ok(Body::stream(Waiting::new(waiter, &file, place)?)));
    response.map_or(Joined::Not, Joined::Response)
}

/// Fetches a stale entry anew while its copy is served.
fn refresh<O: Origin>(origin: &Arc<O>, request: &Rc<Request>, entry: &Entry, copied: &Copied, turn: Turn) {
    let again = Rc::new(request.again());
    again.background.set(true);
    let entry = Entry { background: true, wish: None, ..entry.clone() };
    let origin = origin.clone();
    let stale = Some(copied.clone());
    tokio::task::spawn_local(async move {
        let Some(plan) = origin.cache() else { return };
        // What is being kept is read to its end by itself.
        let _ = fetch(&origin, plan, &again, &entry, Some(turn), stale, Status::Expired).await;
    });
}

/// Asks the upstream, and keeps the answer where that is right.
async fn fetch<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
    entry: &Entry,
    turn: Option<Turn>,
    stale: Option<Copied>,
    status: Status,
) -> Result<Response, Refusal> {
    {
        let mut seen = request.cache.borrow_mut();
        let old = stale.as_ref().filter(|_| plan.revalidate).map(|copied| &copied.stored.meta);
        *seen = Seen {
            status: Some(status),
            key: entry.text.clone(),
            date: 0,
            last_modified: old.map(|meta| meta.last_modified).filter(|&second| second != -1),
            etag: old.map(|meta| meta.etag.clone()).unwrap_or_default(),
        };
    }
    let wish = entry.wish.unwrap_or_default();
    if wish.only_if_cached {
        return Err(Refusal::Status(504));
    }
    let may_keep = (turn.is_some() || status == Status::Bypass) && !is_too_far(plan, request) && !wish.no_store;
    let keeping = may_keep.then(|| Keeping { room: meta::header_start(entry.text.len()).map_or(0, usize::from) });
    let asked = match origin.ready(request, keeping).await {
        Ok(ready) => ready.ask().await,
        Err(refusal) => Err(refusal.into()),
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(Failed { why, refusal }) => {
            if let (Some(copied), Some(why)) = (stale, why)
                && (plan.use_stale.has_any(why) || copied.stored.meta.stale_on_error(now()))
                && copied::may_be_stale(plan, &copied)
            {
                return copied::serve(origin, request, copied, Status::Stale);
            }
            if let (Some(turn), Refusal::Status(code @ (502 | 504)), true) = (turn, &refusal, may_keep)
                && let Some(seconds) = plan.rules.configured(*code)
            {
                turn.failed(*code, now().saturating_add(seconds));
            }
            return Err(refusal);
        }
    };
    let stale = match stale {
        Some(copied) if prefers_stale(plan, &asked, &copied) => {
            asked.leave();
            return copied::serve(origin, request, copied, Status::Stale);
        }
        Some(copied) if asked.reply.status == 304 && plan.rules.rfc9111 && turn.is_some() => {
            let fields = asked.reply.replied.clone();
            asked.leave();
            let fresh = renew::replace(origin, plan, request, entry, turn, copied, &fields.fields).await;
            return copied::serve(origin, request, fresh, Status::Revalidated);
        }
        Some(copied) if asked.reply.status == 304 && plan.revalidate => {
            let fresh = renew::renew(plan, request, entry, turn.as_ref(), &copied, &asked.reply);
            asked.leave();
            return copied::serve(origin, request, copied.with(fresh), Status::Revalidated);
        }
        other => other,
    };
    drop(stale);
    request.replied.replace(Some(asked.reply.replied.clone()));
    let (mut turn, mut may_keep) = (turn, may_keep);
    if plan.rules.rfc9111
        && !plan.convert_head
        && (request.is_head() && asked.reply.status == 200)
        && let Some((get, its)) = renew::as_get(origin, plan, request).await?
    {
        if its.main == entry.main {
            // without its body it must not take the place of what answers GET
            (turn, may_keep) = (None, false);
        }
        renew::freshen(origin, plan, &get, its, &asked.reply.replied.fields).await;
    }
    if !may_keep || asked.is_upgraded() || asked.reply.redirects(origin.settings()) {
        return asked.answer(None, Role::Passed);
    }
    let authorized = request.field("Authorization").is_some();
    let verdict = plan.rules.judge(asked.reply.status, pairs(&asked.reply.replied.fields), authorized, now());
    let keep = match verdict {
        Verdict::Keep(keep) => keep,
        Verdict::Pass(why) => {
            let role = if why == Why::NoLifetime { Role::Kept } else { Role::Passed };
            return asked.answer(None, role);
        }
    };
    if asked.is_intercepted() {
        if let Some(turn) = turn {
            turn.failed(asked.reply.status, keep.valid);
        }
        return asked.answer(None, Role::Kept);
    }
    if !asked.reply.is_buffered(origin.settings()) || any(&plan.no_cache, request) {
        return asked.answer(None, Role::Kept);
    }
    let copy = begin(origin.settings(), plan, request, entry, turn, &keep, &asked);
    asked.answer(copy, Role::Kept)
}

/// `*_cache_max_range_offset`: a range so far behind is not worth fetching all before it.
fn is_too_far(plan: &Plan, request: &Request) -> bool {
    let (Some(max), Some(range)) = (plan.max_range_offset, request.field("Range")) else { return false };
    if max == 0 {
        return true;
    }
    if range.len() < 7 || !range[..6].eq_ignore_ascii_case(b"bytes=") {
        return false;
    }
    let rest = range[6..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.first() {
        Some(b'-') => true,
        _ => crate::wire::byte::offset(&rest[..digits]).is_none_or(|offset| offset >= max),
    }
}

/// The upstream's answer is an error, and the copy is better.
fn prefers_stale<C: Codec>(plan: &Plan, asked: &Asked<C>, copied: &Copied) -> bool {
    let status = asked.reply.status;
    let Some(why) = Next::of_status(status) else { return false };
    // RFC 5861, 4: these are errors
    let excused = matches!(status, 500 | 502 | 503 | 504) && copied.stored.meta.stale_on_error(now());
    (plan.use_stale.has_any(why) || excused) && copied::may_be_stale(plan, copied)
}

/// Begins a cache file for an answer. `None`: it cannot be kept, as the log says.
fn begin<C: Codec>(
    settings: &Settings,
    plan: &Plan,
    request: &Request,
    entry: &Entry,
    turn: Option<Turn>,
    keep: &policy::Keep,
    asked: &Asked<C>,
) -> Option<Copy> {
    let mut meta = Meta {
        valid: keep.valid,
        updating: keep.updating,
        error: keep.error,
        last_modified: -1,
        date: now(),
        vary: keep.vary.clone().into(),
        ..Meta::default()
    };
    let reply = &asked.reply;
    if matches!(reply.status, 200 | 206) {
        let field = |name| reply.replied.fields.first(name);
        meta.last_modified = field("Last-Modified").and_then(|field| date::parse(field.value)).unwrap_or(-1);
        meta.etag = field("ETag").map(|field| field.value_bytes()).unwrap_or_default();
    }
    let mut key = entry.key;
    if !keep.vary.is_empty() {
        let variant = variant(request, entry, &keep.vary);
        meta.variant = variant.0;
        if entry.is_variant() && variant != key {
            key = entry.main;
        }
    } else if entry.is_variant() {
        key = entry.main;
    }
    // What was looked for was another variant than what came; or the cache was passed by.
    let store = &entry.zone.store;
    let turn = match turn.filter(|_| key == entry.key) {
        Some(turn) => turn,
        None => store.look_up(key, plan.min_uses, now()).ok()?.0.share(),
    };
    let kept = match plan.rules.rfc9111 {
        true => head::without_connection(&asked.head).into(),
        false => asked.head.clone(),
    };
    // What answers HEAD announces a body that does not come.
    let bodiless = !asked.has_body() || request.is_head() && !plan.convert_head && !plan.measures_head;
    let length = reply.framing.length.filter(|_| !bodiless);
    let long = length.is_some_and(|length| length > SMALL);
    let front = meta.front(&entry.text, &kept, long, settings.buffer_size).ok()?;
    let temporary = entry.zone.use_temp_path.then_some(&settings.temp_path);
    let filling = Filling::begin(store, (key, entry.name()), turn, temporary, front, asked.ends_by_itself());
    Some(Copy::Cache(Kept::new(filling, length)))
}
