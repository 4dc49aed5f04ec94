//! Which entry a request is about.
//!
//! In: a request, and what `*_cache` and `*_cache_key` say. Out: an [`Entry`]: its zone, the text that it is named by, its
//! key, and that of its variant once `Vary` is known.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::origin::Origin;
use super::strict;
use super::{Plan, Zones};
use crate::base::clock;
use crate::cache::control::Control;
use crate::cache::filling::Name;
use crate::cache::key::Key;
use crate::cache::meta::{self, Meta};
use crate::cache::policy;
use crate::cache::{Seen, Zone};
use crate::http::fields::Fields;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::http::upload::Upload;
use crate::log::{Level, Raw};

/// Which entry a request is about.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) zone: Arc<Zone>,
    /// What its name was made of.
    pub(super) text: Bytes,
    pub(super) main: Key,
    /// The key of its variant once that is known to be another.
    pub(super) key: Key,
    /// It is fetched beside an answer that has left already.
    pub(super) background: bool,
    /// What the client asks of caches, where it has a say (`*_cache_rfc9111 on`).
    pub(super) wish: Option<Control>,
}

impl Entry {
    pub(super) fn is_variant(&self) -> bool {
        self.key != self.main
    }

    pub(super) fn name(&self) -> Name {
        Name { main: self.main, text: self.text.clone() }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.zone.store.file(self.key)
    }
}

pub(super) fn now() -> i64 {
    i64::try_from(clock::seconds()).unwrap_or(i64::MAX)
}

pub(super) fn pairs(fields: &Fields) -> impl Iterator<Item = policy::Pair<'_>> + Clone {
    fields.iter().map(|field| (field.name, field.value))
}

/// The entry of a request; `None` where none is to be looked for.
pub(super) async fn find<O: Origin>(origin: &O, plan: &Plan, request: &Rc<Request>) -> Result<Option<Entry>, Refusal> {
    prepare(origin, request).await?;
    known(origin, plan, request)
}

/// Everything is there that the key may be made of.
pub(super) fn is_known<O: Origin>(origin: &O, request: &Request) -> bool {
    !origin.settings().request_buffering || request.body.is_done()
}

/// Waits for what the key may be made of.
pub(super) async fn prepare<O: Origin>(origin: &O, request: &Rc<Request>) -> Result<(), Refusal> {
    if origin.settings().request_buffering {
        Upload::read(request).await?;
    }
    Ok(())
}

/// As [`find`], when everything is there.
pub(super) fn known<O: Origin>(origin: &O, plan: &Plan, request: &Rc<Request>) -> Result<Option<Entry>, Refusal> {
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
    let main = Key::recalled(&text);
    request.cache.replace(Seen { key: text.clone(), ..Seen::default() });
    let wish = plan.rules.rfc9111.then(|| strict::wish(request));
    Ok(Some(Entry { zone, text, main, key: main, background: false, wish }))
}

/// The variant that a request asks for, where a file has another.
pub(super) fn other_variant(request: &Request, entry: &Entry, meta: &Meta) -> Option<Key> {
    if meta.vary.is_empty() {
        return None;
    }
    let variant = variant(request, entry, &meta.vary);
    (variant.0 != meta.variant).then_some(variant)
}

pub(super) fn variant(request: &Request, entry: &Entry, vary: &[u8]) -> Key {
    entry.main.variant(vary, pairs(&request.head.fields))
}
