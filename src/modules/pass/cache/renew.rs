//! What an upstream says of a copy that is there already.
//!
//! In: a 304, or what answered HEAD. Out: the copy with another lifetime, or with newer fields in a file of its own; or no
//! copy any more.

use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use super::Plan;
use super::copied::{self, Copied, Opened};
use super::entry::{self, Entry, now, other_variant, pairs};
use super::keep;
use super::origin::Origin;
use super::strict;
use crate::base::temp::Refused;
use crate::base::text::errno;
use crate::cache::filling::Filling;
use crate::cache::head;
use crate::cache::hot;
use crate::cache::index::{Found, Turn};
use crate::cache::policy::{Rules, Verdict};
use crate::cache::purge::What;
use crate::cache::stored::{SMALL, Stored};
use crate::http::fields::Fields;
use crate::http::open_file::OpenFile;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level;
use crate::modules::pass::reply::Reply;

/// 304: the copy is good for some more time.
pub(super) fn renew(
    plan: &Plan,
    request: &Request,
    entry: &Entry,
    turn: Option<&Turn>,
    copied: &Copied,
    reply: &Reply,
) -> Stored {
    let mut stored = Stored::clone(&copied.stored);
    let now = now();
    let said = Rules { valid: Vec::new(), ..plan.rules.clone() };
    let judged = |fields: &Fields, rules: &Rules| match rules.judge(copied.reply().status, pairs(fields), false, now) {
        Verdict::Keep(keep) => Some(keep),
        Verdict::Pass(_) => None,
    };
    // nginx: what the 304 says counts, then what the copy says, then what the operator says
    let keep = judged(&reply.replied.fields, &said).or_else(|| judged(&copied.reply().replied.fields, &plan.rules));
    let Some(keep) = keep else { return stored };
    let meta = &mut stored.meta;
    (meta.valid, meta.updating, meta.error, meta.date) = (keep.valid, keep.updating, keep.error, now);
    let path = entry.path();
    let purges = &entry.zone.store.index.purges;
    if turn.is_some_and(|turn| purges.has(entry.main, &entry.text, turn.fill.since, i64::MAX)) {
        return stored; // its date would say that it came after the purge
    }
    let renewed = stored.renew(&path, &stored.meta);
    hot::forget(entry.zone.store.number, entry.key);
    if let Err((call, error)) = renewed {
        request.log(Level::Crit, format_args!("{call} \"{}\" failed {}", path.display(), errno(&error)));
    }
    stored
}

/// 304, and its fields take the place of those that are kept (RFC 9111, 4.3.4): the file is made anew, with the body of the
/// old one. What cannot be kept so stays as it was.
pub(super) async fn replace<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
    entry: &Entry,
    turn: Option<Turn>,
    copied: Copied,
    newer: &Fields,
) -> Copied {
    let stored = copied.stored.with_head(head::updated(&copied.stored.head, pairs(newer)).into());
    let Some(mut fresh) = copied::understand(origin, request, entry, Arc::new(stored), copied.file.clone()) else {
        return copied;
    };
    let authorized = request.field("Authorization").is_some();
    let verdict = plan.rules.judge(fresh.reply().status, pairs(&fresh.reply().replied.fields), authorized, now());
    let (Verdict::Keep(keep), Some(turn)) = (verdict, turn) else { return fresh };
    let Stored { meta, head, .. } = Arc::make_mut(&mut fresh.stored);
    (meta.valid, meta.updating, meta.error, meta.date) = (keep.valid, keep.updating, keep.error, now());
    let long = copied.stored.body_len() > SMALL;
    let front = meta.front(&entry.text, head, long, origin.settings().buffer_size);
    let Some(front) = front.ok().filter(|_| keep.vary == meta.vary) else { return fresh };
    let temporary = entry.zone.use_temp_path.then_some(&origin.settings().temp_path);
    let filling = Filling::begin(&entry.zone.store, (entry.key, entry.name()), turn, temporary, front, true);
    if let Err(refused) = filled(filling, &copied.stored, copied.file).await {
        keep::log(request, &refused);
    }
    fresh
}

/// The GET that a HEAD is about, and its entry.
pub(super) async fn as_get<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    request: &Rc<Request>,
) -> Result<Option<(Rc<Request>, Entry)>, Refusal> {
    let Some(get) = strict::as_get(request) else { return Ok(None) };
    Ok(entry::find(&**origin, plan, &get).await?.map(|entry| (get, entry)))
}

/// What answered HEAD tells of the copy that answers GET (RFC 9111, 4.3.5): either it is still that, and gets these fields, or
/// it is not, and goes.
pub(super) async fn freshen<O: Origin>(
    origin: &Arc<O>,
    plan: &Plan,
    get: &Rc<Request>,
    mut entry: Entry,
    fields: &Fields,
) {
    loop {
        let store = entry.zone.store.clone();
        let Ok((held, Found::Entry { on_disk: true, .. })) = store.look_up(entry.key, plan.min_uses, now()) else {
            return;
        };
        let opened = copied::open(get, &entry, held.made, origin.settings().buffer_size, true);
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
        let Some(copied) = copied::understand(origin, get, &entry, stored, file) else { return };
        if strict::is_same(&copied.reply().replied.fields, fields, copied.stored.body_len()) {
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
pub(super) async fn filled(mut filling: Filling, from: &Stored, file: Option<Arc<OpenFile>>) -> Result<(), Refused> {
    const STEP: usize = 256 * 1024;
    if let Some(bytes) = &from.body {
        filling.write(bytes)?;
    }
    let Some(file) = file.filter(|_| from.body.is_none()) else { return filling.finish() };
    let (mut at, mut bytes) = (u64::from(from.meta.body_start), vec![0; STEP]);
    loop {
        let read = file.read_at(&mut bytes, at);
        let refused = |error| Refused { call: "pread", path: filling.place(), error };
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
