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

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::keep::{self, Copy, Kept};
use super::strict;
use super::waiting::Waiting;
use super::{Plan, Zones, any};
use crate::base::clock;
use crate::base::text::errno;
use crate::cache::control::Control;
use crate::cache::fill::{Fill, Progress, Waiter};
use crate::cache::filling::{Filling, Name, Refused};
use crate::cache::head;
use crate::cache::index::{Found, Full, Turn};
use crate::cache::key::Key;
use crate::cache::meta::{self, Meta, Unusable};
use crate::cache::policy::{self, Rules, Verdict, Why};
use crate::cache::purge::What;
use crate::cache::rfc9111::Reuse;
use crate::cache::stored::{Stamp, Stored, Unread};
use crate::cache::{Seen, Status, Zone, hot};
use crate::http::body::{Body, FilePiece, Piece};
use crate::http::fields::Fields;
use crate::http::open_file::{Kind, OpenFile};
use crate::http::plan::Answer;
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::http::upload::Upload;
use crate::log::{Level, Raw};
use crate::modules::pass::exchange::{Asked, Codec, Failed, Keeping, Looked, Ready};
use crate::modules::pass::reply::{Reply, Role};
use crate::modules::pass::settings::{Next, Settings};
use crate::net::timer::Timer;
use crate::wire::date;

/// A protocol whose answers may be kept.
pub trait Origin: 'static {
    type Codec: Codec;

    fn settings(&self) -> &Arc<Settings>;

    fn cache(&self) -> Option<&Plan>;

    /// What a request's entry is named by, unless `*_cache_key` says so.
    fn key(&self, request: &Rc<Request>) -> Result<Bytes, Refusal>;

    /// What reads a head that was kept.
    fn codec(self: &Arc<Self>, request: &Request) -> Self::Codec;

    /// What asks the upstream. `keeping`: the answer may be kept, so it is to be one for all.
    fn ready(
        self: &Arc<Self>,
        request: &Rc<Request>,
        keeping: Option<Keeping>,
    ) -> impl Future<Output = Result<Ready<Self::Codec>, Refusal>>;
}

/// Answers a request: from the cache where there is one, else by asking. Asking is a large future, and is boxed apart from
/// the one that finds a copy, so that a hit does not pay for it.
pub fn answer<'a, O: Origin>(origin: &'a Arc<O>, request: &'a Rc<Request>) -> Answer<'a> {
    match origin.cache() {
        Some(plan) => Answer::Wait(Box::pin(async move { Some(cached(origin, plan, request).await) })),
        None => Answer::Wait(Box::pin(async move { Some(pass(origin, request).await) })),
    }
}

async fn cached<O: Origin>(origin: &Arc<O>, plan: &Plan, request: &Rc<Request>) -> Result<Response, Refusal> {
    if !plan.purge.is_empty() && any(&plan.purge, request) {
        return purge(&**origin, plan, request).await;
    }
    let method = request.method();
    if plan.methods.iter().any(|known| known.as_bytes() == method)
        && let Some(entry) = entry(&**origin, plan, request).await?
    {
        return through_cache(origin, plan, request, entry).await;
    }
    let response = Box::pin(pass(origin, request)).await?;
    if plan.rules.rfc9111 {
        for changed in strict::changed(request, &response.head) {
            if let Some(entry) = entry(&**origin, plan, &changed).await? {
                entry.zone.store.purge(What::Key(entry.main), now());
            }
        }
    }
    Ok(response)
}

/// `*_cache_purge`: 204 when something was purged, 404 when there was nothing. The entry of the key goes with all its
/// variants; a key that ends in `*` means all that begin so.
async fn purge<O: Origin>(origin: &O, plan: &Plan, request: &Rc<Request>) -> Result<Response, Refusal> {
    let Some(entry) = entry(origin, plan, request).await? else { return Err(Refusal::Status(404)) };
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

/// Which entry a request is about.
#[derive(Clone)]
struct Entry {
    zone: Arc<Zone>,
    /// What its name was made of.
    text: Bytes,
    main: Key,
    /// The key of its variant once that is known to be another.
    key: Key,
    /// It is fetched beside an answer that has left already.
    background: bool,
    /// What the client asks of caches, where it has a say (`*_cache_rfc9111 on`).
    wish: Option<Control>,
}

impl Entry {
    fn is_variant(&self) -> bool {
        self.key != self.main
    }

    fn name(&self) -> Name {
        Name { main: self.main, text: self.text.clone() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.zone.store.file(self.key)
    }
}

/// What of an answer that is there already.
struct Copied<C> {
    stored: Arc<Stored>,
    /// What has the body, unless that is in memory.
    file: Option<Arc<OpenFile>>,
    reply: Box<Reply>,
    codec: C,
}

/// What is to be done.
enum Way<C> {
    /// The copy answers.
    Serve(Copied<C>, Status),
    /// The copy answers, and is fetched anew beside.
    Refresh(Copied<C>, Turn),
    /// A status answers.
    Refuse(u16),
    /// The upstream is asked. Without a turn its answer is not kept.
    Fetch { turn: Option<Turn>, stale: Option<Copied<C>>, status: Status },
    /// Somebody is asking; until then at most.
    Wait { fill: Arc<Fill>, until: u64 },
    /// Another variant is asked for.
    Variant(Key),
    /// The disk has to be waited for.
    Cold(Arc<OpenFile>),
}

fn now() -> i64 {
    i64::try_from(clock::seconds()).unwrap_or(i64::MAX)
}

fn pairs(fields: &Fields) -> impl Iterator<Item = policy::Pair<'_>> + Clone {
    fields.iter().map(|field| (field.name, field.value))
}

/// The entry of a request; `None` where none is to be looked for.
async fn entry<O: Origin>(origin: &O, plan: &Plan, request: &Rc<Request>) -> Result<Option<Entry>, Refusal> {
    let zone = match &plan.zones {
        Zones::One(zone) => zone.clone(),
        Zones::Named(template, zones) => {
            let name = template.eval(request.as_ref());
            if name.is_empty() || name == "off" {
                return Ok(None);
            }
            let found = zones.iter().find(|zone| zone.name.as_bytes() == name);
            let missing = || {
                request.log(Level::Error, format_args!("cache \"{}\" not found", Raw(&name)));
                Refusal::Status(500)
            };
            found.ok_or_else(missing)?.clone()
        }
    };
    if origin.settings().request_buffering {
        // The key may be made of it.
        Upload::read(request).await?;
    }
    let text = match &plan.key {
        Some(template) => template.eval(request.as_ref()),
        None => origin.key(request)?,
    };
    let settings = origin.settings();
    let room = meta::header_start(text.len()).map_or(usize::MAX, usize::from);
    if room.saturating_add(256) > settings.buffer_size {
        let (prefix, size) = (plan.prefix, settings.buffer_size);
        let least = room.saturating_add(256).checked_next_multiple_of(1024).unwrap_or(usize::MAX);
        let message = format_args!(
            "{prefix}_buffer_size {size} is not enough for cache key, it should be increased to at least {least}"
        );
        request.log(Level::Error, message);
        return Ok(None);
    }
    let main = Key::of(&text);
    request.cache.replace(Seen { key: text.clone(), ..Seen::default() });
    let wish = plan.rules.rfc9111.then(|| strict::wish(request));
    Ok(Some(Entry { zone, text, main, key: main, background: false, wish }))
}

async fn through_cache<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
    mut entry: Entry,
) -> Result<Response, Refusal> {
    if any(&plan.bypass, request) {
        return Box::pin(fetch(origin, plan, request, &entry, None, None, Status::Bypass)).await;
    }
    let mut patience = Patience::new(plan.lock_timeout);
    let mut waited = false;
    loop {
        match find(origin, plan, request, &entry, waited) {
            Way::Serve(copied, status) => return serve(origin, request, copied, status),
            Way::Refresh(copied, turn) => {
                refresh(origin, request, &entry, &copied, turn);
                return serve(origin, request, copied, Status::Stale);
            }
            Way::Refuse(status) => {
                saw(request, Status::Hit);
                return Err(Refusal::Status(status));
            }
            Way::Fetch { turn, stale, status } => {
                return Box::pin(fetch(origin, plan, request, &entry, turn, stale, status)).await;
            }
            Way::Variant(key) => {
                entry.key = key;
                waited = false;
            }
            Way::Cold(file) => {
                Box::pin(warm(request, file, origin.settings().buffer_size)).await;
                waited = true;
            }
            Way::Wait { .. } if entry.wish.is_some_and(|wish| wish.only_if_cached) => {
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
    }
}

/// Notes what came of it.
fn saw(request: &Request, status: Status) {
    request.cache.borrow_mut().status = Some(status);
}

/// Has a thread read the beginning of a file, so that nobody has to wait who reads it next.
async fn warm(request: &Request, file: Arc<OpenFile>, limit: usize) {
    // What went wrong shows when it is read again.
    let _ = request.plan().core.pool.run(move || file.read(0, limit.max(SMALL)).map(drop)).await;
}

/// Looks once. `waited`: the disk was waited for, and is read whether or not that takes time.
fn find<O: Origin>(origin: &Arc<O>, plan: &Plan, request: &Rc<Request>, entry: &Entry, waited: bool) -> Way<O::Codec> {
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
        Found::Entry { on_disk, keep } => (on_disk, keep),
    };
    if on_disk {
        let path = entry.path();
        match open(request, entry, &path, held.made, origin.settings().buffer_size, waited) {
            Opened::Cold(file) => return Way::Cold(file),
            Opened::Stored(stored, _) if held.is_purged(entry.main, &entry.text, stored.meta.date) => {
                let _ = std::fs::remove_file(&path); // somebody else may have been quicker
                held.is_gone();
            }
            Opened::Stored(stored, file) => {
                if let Some(variant) = other_variant(request, entry, &stored.meta) {
                    if !entry.is_variant() {
                        return Way::Variant(variant);
                    }
                    let shown = path.display();
                    request.log(Level::Crit, format_args!("cache file \"{shown}\" has incorrect vary hash"));
                    held.is_gone();
                } else if let Some(copied) = understand(origin, request, stored, file, &path) {
                    held.is_there(|| store.size_of(entry.key));
                    let now = now();
                    let is_fresh = copied.stored.meta.is_fresh(now);
                    let (serve, pleases) = match &entry.wish {
                        None => (is_fresh, true),
                        Some(wish) => {
                            let fields = &copied.reply.replied.fields;
                            let (reuse, pleases) = strict::reuse(wish, fields, &copied.stored.meta, now);
                            (reuse == Reuse::Serve, pleases)
                        }
                    };
                    if serve {
                        return Way::Serve(copied, if is_fresh { Status::Hit } else { Status::Stale });
                    }
                    let updating = plan.use_stale.has(Next::UPDATING) || copied.stored.meta.stale_while_updating(now);
                    let usable = updating && pleases && !entry.background && may_be_stale(plan, &copied);
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
                request.log(level, format_args!("cache file \"{}\" {why}", path.display()));
                held.is_gone();
            }
            Opened::Not(Unread::Failed(call, error)) => {
                let shown = path.display();
                request.log(Level::Crit, format_args!("{call} \"{shown}\" failed {}", errno(&error)));
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
        Err((_held, fill, until)) => Way::Wait { fill, until },
    }
}

/// What became of a file.
enum Opened {
    Stored(Arc<Stored>, Option<Arc<OpenFile>>),
    /// It is not in memory, and the disk takes its time.
    Cold(Arc<OpenFile>),
    Not(Unread),
}

/// The largest file that is read at once.
const SMALL: usize = crate::cache::stored::SMALL as usize;

/// The file of an entry: from memory if it is there and still what the disk has. `number` is the file that the index knows.
fn open(request: &Request, entry: &Entry, path: &std::path::Path, number: u32, limit: usize, waited: bool) -> Opened {
    let store = entry.zone.store.number;
    if let Some(stored) = hot::get(store, entry.key) {
        if stored.text == entry.text && stored.is_current(path) {
            return Opened::Stored(stored, None);
        }
        hot::forget(store, entry.key);
    }
    let found = match request.plan().files.open_kept(path.as_os_str().as_bytes(), number) {
        Ok(found) => found,
        Err(unopened) if matches!(unopened.errno, libc::ENOENT | libc::ENOTDIR) => return Opened::Not(Unread::Missing),
        Err(unopened) => return Opened::Not(Unread::Failed(unopened.call, unopened.error())),
    };
    let (Some(file), Kind::File) = (found.file, found.stat.kind) else {
        return Opened::Not(Unread::Unusable(Unusable::Broken));
    };
    let len = found.stat.size;
    let want = Stored::appetite(len, limit);
    let read = if waited { file.read(0, want).map(Some) } else { file.read_ready(0, want) };
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Opened::Cold(file),
        Err(error) => return Opened::Not(Unread::Failed("pread()", error)),
    };
    let (id, written) = found.stat.identity();
    match Stored::read(bytes, Stamp { id, len, written }, len, &entry.text) {
        Err(why) => Opened::Not(Unread::Unusable(why)),
        Ok(stored) if stored.is_in_memory() => {
            let stored = Arc::new(stored);
            hot::put(store, entry.key, &stored);
            Opened::Stored(stored, None)
        }
        Ok(stored) => Opened::Stored(Arc::new(stored), Some(file)),
    }
}

/// The variant that a request asks for, where a file has another.
fn other_variant(request: &Request, entry: &Entry, meta: &Meta) -> Option<Key> {
    if meta.vary.is_empty() {
        return None;
    }
    let variant = variant(request, entry, &meta.vary);
    (variant.0 != meta.variant).then_some(variant)
}

fn variant(request: &Request, entry: &Entry, vary: &[u8]) -> Key {
    entry.main.variant(vary, pairs(&request.head.fields))
}

/// Reads the head of a copy. `None`: it cannot be understood, as the log says.
fn understand<O: Origin>(
    origin: &Arc<O>,
    request: &Request,
    stored: Arc<Stored>,
    file: Option<Arc<OpenFile>>,
    path: &std::path::Path,
) -> Option<Copied<O::Codec>> {
    let settings = origin.settings();
    let converts = origin.cache().is_some_and(|plan| plan.convert_head);
    let mut codec = origin.codec(request);
    codec.begin();
    let looked = match stored.head.is_empty() {
        true => Reply::without_head(request, settings).map(Box::new).ok(),
        false => match codec.head(request, settings, &mut BytesMut::from(&stored.head[..])) {
            Looked::Head(reply) => Some(reply),
            Looked::More | Looked::Hints(_) | Looked::Invalid => None,
        },
    };
    // What was kept is whole, or the disk has lost some of it. nginx: what answered HEAD answers GET, where that is
    // what the operator wants.
    let len = stored.body_len();
    let whole = |reply: &Reply| {
        request.is_head()
            || matches!(reply.status, 204 | 304)
            || len == 0 && !converts
            || reply.framing.length.is_none_or(|length| length == len)
    };
    match looked {
        Some(reply) if whole(&reply) => Some(Copied { stored, file, reply, codec }),
        Some(_) | None => {
            let shown = path.display();
            request.log(Level::Crit, format_args!("cache file \"{shown}\" contains invalid header"));
            None
        }
    }
}

/// Nothing in the answer itself forbids to serve it stale.
fn may_be_stale<C>(plan: &Plan, copied: &Copied<C>) -> bool {
    !policy::forbids_stale(pairs(&copied.reply.replied.fields), &plan.rules.ignored)
}

/// Answers with a copy.
fn serve<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    copied: Copied<O::Codec>,
    status: Status,
) -> Result<Response, Refusal> {
    let Copied { stored, file, reply, codec } = copied;
    let len = stored.body_len();
    let offset = u64::from(stored.meta.body_start);
    respond(origin, request, &reply, &codec, &stored.meta, status, || {
        Ok(match (&stored.body, file) {
            (Some(bytes), _) => Body::memory(bytes.clone()),
            (None, Some(file)) if len > 0 => Body::One(Piece::File(FilePiece { file, offset, len })),
            (None, _) => Body::Empty,
        })
    })
}

fn respond<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    reply: &Reply,
    codec: &O::Codec,
    meta: &Meta,
    status: Status,
    body: impl FnOnce() -> std::io::Result<Body>,
) -> Result<Response, Refusal> {
    {
        let mut seen = request.cache.borrow_mut();
        seen.status = Some(status);
        seen.date = meta.date;
    }
    request.replied.replace(Some(reply.replied.clone()));
    request.body.discard();
    reply.obey(request, origin.settings())?;
    let mut head = reply.head(origin.settings(), Role::Cached, |what, value| codec.rewrite(request, what, value));
    if origin.cache().is_some_and(|plan| plan.rules.rfc9111) {
        strict::dress(&mut head, &reply.replied.fields, meta, now());
    }
    let body = match request.is_head() {
        true => Body::Empty,
        false => body().map_err(|error| {
            request.log(Level::Crit, format_args!("dup() failed {}", errno(&error)));
            Refusal::Status(500)
        })?,
    };
    Ok(Response::new(head, body))
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
        until: u64,
    ) -> Result<Waited, Refusal> {
        if self.left.is_zero() {
            return Ok(Waited::Enough);
        }
        let left = self.left.saturating_sub(clock::now().saturating_duration_since(self.since));
        let age = Duration::from_millis(until.saturating_sub(clock::milliseconds()).max(1));
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
    let mut codec = origin.codec(request);
    codec.begin();
    let looked = codec.head(request, origin.settings(), &mut BytesMut::from(&stored.head[..]));
    let Looked::Head(reply) = looked else { return Joined::Not };
    let place = u64::from(stored.meta.body_start);
    let response = respond(origin, request, &reply, &codec, &stored.meta, Status::Hit, || {
        Ok(Body::stream(Waiting::new(waiter, &file, place)?))
    });
    Joined::Response(response)
}

/// Fetches a stale entry anew while its copy is served.
fn refresh<O: Origin>(origin: &Arc<O>, request: &Rc<Request>, entry: &Entry, copied: &Copied<O::Codec>, turn: Turn) {
    let again = Rc::new(request.again());
    let entry = Entry { background: true, wish: None, ..entry.clone() };
    let origin = origin.clone();
    let path = entry.path();
    let stale = understand(&origin, &again, copied.stored.clone(), copied.file.clone(), &path);
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
    stale: Option<Copied<O::Codec>>,
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
                && may_be_stale(plan, &copied)
            {
                return serve(origin, request, copied, Status::Stale);
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
            return serve(origin, request, copied, Status::Stale);
        }
        Some(copied) if asked.reply.status == 304 && plan.rules.rfc9111 && turn.is_some() => {
            let fields = asked.reply.replied.clone();
            asked.leave();
            let fresh = replace(origin, plan, request, entry, turn, copied, &fields.fields).await;
            return serve(origin, request, fresh, Status::Revalidated);
        }
        Some(copied) if asked.reply.status == 304 && plan.revalidate => {
            let fresh = renew(plan, request, entry, turn.as_ref(), &copied, &asked.reply);
            asked.leave();
            return serve(origin, request, Copied { stored: Arc::new(fresh), ..copied }, Status::Revalidated);
        }
        other => other,
    };
    drop(stale);
    request.replied.replace(Some(asked.reply.replied.clone()));
    let (mut turn, mut may_keep) = (turn, may_keep);
    if plan.rules.rfc9111
        && !plan.convert_head
        && (request.is_head() && asked.reply.status == 200)
        && let Some((get, its)) = as_get(origin, plan, request).await?
    {
        if its.main == entry.main {
            // without its body it must not take the place of what answers GET
            (turn, may_keep) = (None, false);
        }
        freshen(origin, plan, &get, its, &asked.reply.replied.fields).await;
    }
    if !may_keep || asked.is_upgraded() || asked.reply.redirects() {
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
    let buffering = asked.reply.buffering.unwrap_or(origin.settings().buffering);
    if !buffering || any(&plan.no_cache, request) {
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
fn prefers_stale<C: Codec>(plan: &Plan, asked: &Asked<C>, copied: &Copied<C>) -> bool {
    let status = asked.reply.status;
    let Some(why) = Next::of_status(status) else { return false };
    // RFC 5861, 4: these are errors
    let excused = matches!(status, 500 | 502 | 503 | 504) && copied.stored.meta.stale_on_error(now());
    (plan.use_stale.has_any(why) || excused) && may_be_stale(plan, copied)
}

/// 304: the copy is good for some more time.
fn renew<C>(
    plan: &Plan,
    request: &Request,
    entry: &Entry,
    turn: Option<&Turn>,
    copied: &Copied<C>,
    reply: &Reply,
) -> Stored {
    let mut stored = Stored::clone(&copied.stored);
    let now = now();
    let said = Rules { valid: Vec::new(), ..plan.rules.clone() };
    let judged = |fields: &Fields, rules: &Rules| match rules.judge(copied.reply.status, pairs(fields), false, now) {
        Verdict::Keep(keep) => Some(keep),
        Verdict::Pass(_) => None,
    };
    // nginx: what the 304 says counts, then what the copy says, then what the operator says
    let keep = judged(&reply.replied.fields, &said).or_else(|| judged(&copied.reply.replied.fields, &plan.rules));
    let Some(keep) = keep else { return stored };
    let meta = &mut stored.meta;
    (meta.valid, meta.updating, meta.error, meta.date) = (keep.valid, keep.updating, keep.error, now);
    let path = entry.path();
    let purges = &entry.zone.store.index.purges;
    if turn.is_some_and(|turn| purges.has(entry.main, &entry.text, turn.fill.since, i64::MAX)) {
        return stored; // its date would say that it came after the purge
    }
    if let Err((call, error)) = stored.renew(&path, &stored.meta) {
        request.log(Level::Crit, format_args!("{call} \"{}\" failed {}", path.display(), errno(&error)));
    }
    stored
}

/// 304, and its fields take the place of those that are kept (RFC 9111, 4.3.4): the file is made anew, with the body of the
/// old one. What cannot be kept so stays as it was.
async fn replace<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
    entry: &Entry,
    turn: Option<Turn>,
    copied: Copied<O::Codec>,
    newer: &Fields,
) -> Copied<O::Codec> {
    let path = entry.path();
    let mut stored = Stored::clone(&copied.stored);
    stored.head = head::updated(&stored.head, pairs(newer)).into();
    let Some(mut fresh) = understand(origin, request, Arc::new(stored), copied.file.clone(), &path) else {
        return copied;
    };
    let authorized = request.field("Authorization").is_some();
    let verdict = plan.rules.judge(fresh.reply.status, pairs(&fresh.reply.replied.fields), authorized, now());
    let (Verdict::Keep(keep), Some(turn)) = (verdict, turn) else { return fresh };
    let Stored { meta, head, .. } = Arc::make_mut(&mut fresh.stored);
    (meta.valid, meta.updating, meta.error, meta.date) = (keep.valid, keep.updating, keep.error, now());
    let mut header = Vec::new();
    if keep.vary != meta.vary || meta.encode(&mut header, &entry.text, head.len()).is_err() {
        return fresh;
    }
    header.extend_from_slice(head);
    let temporary = entry.zone.use_temp_path.then_some(&origin.settings().temp_path);
    let made = match Filling::begin(&entry.zone.store, (entry.key, entry.name()), turn, temporary, header, true) {
        Ok(filling) => filled(filling, &copied.stored, copied.file).await,
        Err(refused) => Err(refused),
    };
    if let Err(refused) = made {
        keep::log(request, &refused);
    }
    fresh
}

/// The GET that a HEAD is about, and its entry.
async fn as_get<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
) -> Result<Option<(Rc<Request>, Entry)>, Refusal> {
    let Some(get) = strict::as_get(request) else { return Ok(None) };
    Ok(entry(&**origin, plan, &get).await?.map(|entry| (get, entry)))
}

/// What answered HEAD tells of the copy that answers GET (RFC 9111, 4.3.5): either it is still that, and gets these fields, or
/// it is not, and goes.
async fn freshen<O: Origin>(origin: &Arc<O>, plan: &Plan, get: &Rc<Request>, mut entry: Entry, fields: &Fields) {
    loop {
        let store = entry.zone.store.clone();
        let Ok((held, Found::Entry { on_disk: true, .. })) = store.look_up(entry.key, plan.min_uses, now()) else {
            return;
        };
        let path = entry.path();
        let opened = open(get, &entry, &path, held.made, origin.settings().buffer_size, true);
        let Opened::Stored(stored, file) = opened else { return };
        if held.is_purged(entry.main, &entry.text, stored.meta.date) {
            return;
        }
        match other_variant(get, &entry, &stored.meta) {
            None => {}
            Some(variant) if !entry.is_variant() => {
                entry.key = variant;
                continue;
            }
            Some(_) => return,
        }
        let Some(copied) = understand(origin, get, stored, file, &path) else { return };
        if strict::is_same(&copied.reply.replied.fields, fields, copied.stored.body_len()) {
            // somebody fetches it all, and that is better
            let Ok(turn) = held.renewal() else { return };
            replace(origin, plan, get, &entry, Some(turn), copied, fields).await;
        } else {
            drop(held);
            store.purge(What::Key(entry.main), now());
        }
        return;
    }
}

/// Fills a file with the body of another.
async fn filled(mut filling: Filling, from: &Stored, file: Option<Arc<OpenFile>>) -> Result<(), Refused> {
    const STEP: usize = 256 * 1024;
    if let Some(bytes) = &from.body {
        filling.write(bytes)?;
    }
    let Some(file) = file.filter(|_| from.body.is_none()) else { return filling.finish() };
    let (mut at, mut bytes) = (u64::from(from.meta.body_start), vec![0; STEP]);
    loop {
        let read = file.read_at(&mut bytes, at);
        let refused = |error| Refused { call: "pread", path: filling.temporary().to_owned(), error };
        let got = read.map_err(refused)?;
        if got == 0 {
            return filling.finish();
        }
        filling.write(bytes.get(..got).unwrap_or_default())?;
        at += got as u64;
        if at.is_multiple_of(1 << 20) {
            tokio::task::yield_now().await; // a large body must not keep others waiting
        }
    }
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
    let mut header = Vec::new();
    meta.encode(&mut header, &entry.text, kept.len()).ok()?;
    header.extend_from_slice(&kept);
    let temporary = entry.zone.use_temp_path.then_some(&settings.temp_path);
    match Filling::begin(store, (key, entry.name()), turn, temporary, header, asked.ends_by_itself()) {
        Ok(filling) => {
            // What answers HEAD announces a body that does not come.
            let bodiless = !asked.has_body() || request.is_head() && !plan.convert_head;
            let length = reply.framing.length.filter(|_| !bodiless);
            Some(Copy::Cache(Kept::new(filling, length)))
        }
        Err(refused) => {
            keep::log(request, &refused);
            None
        }
    }
}
