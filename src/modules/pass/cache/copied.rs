//! A copy of an answer, and how it answers.
//!
//! In: an entry's file. Out: its bytes or the file itself, what the head in it says, and a response made of both. A file
//! that cannot be used is a line in the log and no copy.

use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;

use super::Plan;
use super::entry::{Entry, now, pairs};
use super::origin::Origin;
use super::strict;
use crate::base::text::errno;
use crate::cache::meta::{Meta, Unusable};
use crate::cache::policy;
use crate::cache::stored::{Stamp, Stored, Unread};
use crate::cache::{Status, hot};
use crate::http::body::{Body, FilePiece, Piece};
use crate::http::open_file::{Kind, OpenFile};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::log::Level;
use crate::modules::pass::codec::{Codec, Looked};
use crate::modules::pass::reply::{Reply, Role};
use crate::modules::pass::settings::Settings;

/// What of an answer that is there already.
#[derive(Clone)]
pub(super) struct Copied {
    pub(super) stored: Arc<Stored>,
    /// What has the body, unless that is in memory.
    pub(super) file: Option<Arc<OpenFile>>,
    read: Arc<Read>,
}

impl Copied {
    pub(super) fn reply(&self) -> &Reply {
        &self.read.reply
    }

    /// The same copy, in another file or with another header.
    pub(super) fn with(&self, stored: Stored) -> Self {
        Self { stored: Arc::new(stored), ..self.clone() }
    }
}

/// A head that a protocol has read.
struct Read {
    /// `proxy`: another protocol reads another head in the same bytes.
    prefix: &'static str,
    reply: Reply,
    /// What a location makes of it: the last that asked.
    made: ArcSwapOption<Made>,
}

/// A head as clients get it that have no say in it.
struct Made {
    settings: Weak<Settings>,
    head: Box<Head>,
}

impl Read {
    fn head<O: Origin>(&self, origin: &Arc<O>, request: &Request) -> Box<Head> {
        let settings = origin.settings();
        let made = self.made.load();
        if let Some(made) = made.as_ref().filter(|made| made.settings.as_ptr() == Arc::as_ptr(settings)) {
            return made.head.clone();
        }
        let head = head(origin, request, &self.reply);
        if !self.reply.is_rewritten() {
            let settings = Arc::downgrade(settings);
            self.made.store(Some(Arc::new(Made { settings, head: head.clone() })));
        }
        head
    }
}

fn head<O: Origin>(origin: &Arc<O>, request: &Request, reply: &Reply) -> Box<Head> {
    reply.head(origin.settings(), Role::Cached, |what, value| origin.rewrite(request, what, value))
}

/// What became of a file.
pub(super) enum Opened {
    Stored(Arc<Stored>, Option<Arc<OpenFile>>),
    /// It is not in memory, and the disk takes its time.
    Cold(Arc<OpenFile>),
    Not(Unread),
}

/// The largest file that is read at once.
pub(super) const SMALL: usize = crate::cache::stored::SMALL as usize;

/// The file of an entry: from memory if it is there and still what the disk has. `number` is the file that the index knows.
pub(super) fn open(request: &Request, entry: &Entry, number: u32, limit: usize, waited: bool) -> Opened {
    let store = entry.zone.store.number;
    let files = &request.plan().files;
    let kept = hot::get(store, entry.key, number).filter(|kept| kept.stored.text == entry.text);
    if let Some(kept) = kept.as_ref().filter(|kept| kept.stored.is_in_memory()) {
        if kept.is_current(files.trust(), || entry.path()) {
            return Opened::Stored(kept.stored.clone(), None);
        }
        hot::forget(store, entry.key);
    }
    let found = match files.open_kept(entry.path().as_os_str().as_bytes(), number) {
        Ok(found) => found,
        Err(unopened) if matches!(unopened.errno, libc::ENOENT | libc::ENOTDIR) => return Opened::Not(Unread::Missing),
        Err(unopened) => return Opened::Not(Unread::Failed(unopened.call, unopened.error())),
    };
    let (Some(file), Kind::File) = (found.file, found.stat.kind) else {
        return Opened::Not(Unread::Unusable(Unusable::Broken));
    };
    let len = found.stat.size;
    let (id, written) = found.stat.identity();
    let stamp = Stamp { id, len, written };
    if let Some(kept) = kept.filter(|kept| !kept.stored.is_in_memory() && kept.stored.is_of(stamp)) {
        return Opened::Stored(kept.stored.clone(), Some(file));
    }
    let want = Stored::appetite(len, limit);
    let read = if waited { file.read(0, want).map(Some) } else { file.read_ready(0, want) };
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Opened::Cold(file),
        Err(error) => return Opened::Not(Unread::Failed("pread()", error)),
    };
    match Stored::read(bytes, stamp, len, &entry.text) {
        Err(why) => Opened::Not(Unread::Unusable(why)),
        Ok(stored) => {
            let stored = Arc::new(stored);
            hot::put(store, entry.key, number, &stored);
            let file = (!stored.is_in_memory()).then_some(file);
            Opened::Stored(stored, file)
        }
    }
}

/// Reads the head of a copy. `None`: it cannot be understood, as the log says.
pub(super) fn understand<O: Origin>(
    origin: &Arc<O>,
    request: &Request,
    entry: &Entry,
    stored: Arc<Stored>,
    file: Option<Arc<OpenFile>>,
) -> Option<Copied> {
    let plan = origin.cache()?;
    let (prefix, converts) = (plan.prefix, plan.convert_head);
    let read = stored.reading::<Read>().filter(|read| read.prefix == prefix).or_else(|| {
        let reply = read_head(origin, request, &stored.head)?;
        let read = Arc::new(Read { prefix, reply, made: ArcSwapOption::empty() });
        stored.set_reading(read.clone());
        Some(read)
    });
    // What was kept is whole, or the disk has lost some of it. nginx: what answered HEAD answers GET, where that is
    // what the operator wants.
    let len = stored.body_len();
    let whole = |reply: &Reply| {
        request.is_head()
            || matches!(reply.status, 204 | 304)
            || len == 0 && !converts
            || reply.framing.length.is_none_or(|length| length == len)
    };
    match read {
        Some(read) if whole(&read.reply) => Some(Copied { stored, file, read }),
        Some(_) | None => {
            let path = entry.path();
            request.log(Level::Crit, format_args!("cache file \"{}\" contains invalid header", path.display()));
            None
        }
    }
}

/// What a kept head says.
fn read_head<O: Origin>(origin: &Arc<O>, request: &Request, head: &[u8]) -> Option<Reply> {
    if head.is_empty() {
        return Reply::without_head(request).ok();
    }
    let mut codec = origin.codec(request);
    codec.begin();
    match codec.head(request, &mut BytesMut::from(head)) {
        Looked::Head(reply) => Some(*reply),
        Looked::More | Looked::Hints(_) | Looked::Invalid => None,
    }
}

/// Nothing in the answer itself forbids to serve it stale.
pub(super) fn may_be_stale(plan: &Plan, copied: &Copied) -> bool {
    !policy::forbids_stale(pairs(&copied.reply().replied.fields), &plan.rules.ignored)
}

/// Answers with a copy.
pub(super) fn serve<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    copied: Copied,
    status: Status,
) -> Result<Response, Refusal> {
    let Copied { stored, file, read } = copied;
    let len = stored.body_len();
    let offset = u64::from(stored.meta.body_start);
    let head = read.head(origin, request);
    respond(origin, request, &read.reply, head, &stored.meta, status, || {
        Ok(match (&stored.body, file) {
            (Some(bytes), _) => Body::memory(bytes.clone()),
            (None, Some(file)) if len > 0 => Body::One(Piece::File(FilePiece { file, offset, len })),
            (None, _) => Body::Empty,
        })
    })
}

/// Answers with what has not been read to its end yet.
pub(super) fn serve_growing<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    stored: &Stored,
    body: impl FnOnce() -> std::io::Result<Body>,
) -> Option<Result<Response, Refusal>> {
    let reply = read_head(origin, request, &stored.head)?;
    let head = head(origin, request, &reply);
    Some(respond(origin, request, &reply, head, &stored.meta, Status::Hit, body))
}

fn respond<O: Origin>(
    origin: &Arc<O>,
    request: &Rc<Request>,
    reply: &Reply,
    mut head: Box<Head>,
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

/// Notes what came of it.
pub(super) fn saw(request: &Request, status: Status) {
    request.cache.borrow_mut().status = Some(status);
}

/// Has a thread read the beginning of a file, so that nobody has to wait who reads it next.
pub(super) async fn warm(request: &Request, file: Arc<OpenFile>, limit: usize) {
    // What went wrong shows when it is read again.
    let _ = request.plan().core.pool.run(move || file.read(0, limit.max(SMALL)).map(drop)).await;
}
