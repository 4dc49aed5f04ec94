//! `*_cache_rfc9111 on`: where the decisions of [`crate::cache::rfc9111`] meet requests and stored answers.
//!
//! In: what [`super::serve`] is about to do. Out: what it shall do instead. Nothing here is called where the directive is
//! off.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::clock;
use crate::cache::control::Control;
use crate::cache::meta::Meta;
use crate::cache::policy::{self, named};
use crate::cache::rfc9111::{self, Reuse};
use crate::http::fields::Fields;
use crate::http::request::Request;
use crate::http::response::Head;
use crate::http::upload;
use crate::wire::{byte, date, uri};

/// What the client asks of caches.
pub fn wish(request: &Request) -> Control {
    let fields = request.head.fields.iter().map(|field| (field.name, field.value));
    Control::of(named(fields, b"Cache-Control"))
}

/// Whether a stored answer may be served to who wishes this, and whether it might be if it were fresh: a client that wants
/// another does not get it for being stale either.
pub fn reuse(wish: &Control, fields: &Fields, meta: &Meta, now: i64) -> (Reuse, bool) {
    let all = || fields.iter().map(|field| (field.name, field.value));
    let control = rfc9111::stored_control(named(all(), b"Cache-Control"), named(all(), b"CDN-Cache-Control"));
    let fresh = meta.valid.saturating_sub(now);
    let stored = rfc9111::Stored { control: &control, age: age(fields, meta, now), fresh };
    let as_if = rfc9111::Stored { fresh: fresh.max(0), ..stored };
    (rfc9111::reuse(wish, stored), rfc9111::reuse(wish, as_if) == Reuse::Serve)
}

/// RFC 9111, 4.2.3.
fn age(fields: &Fields, meta: &Meta, now: i64) -> i64 {
    let all = fields.iter().map(|field| (field.name, field.value));
    let date = named(all.clone(), b"Date").next().and_then(date::parse);
    rfc9111::current_age(policy::age(all), date, meta.date, now)
}

/// A stored answer says how old it is and when it was made (RFC 9111, 4; RFC 9110, 6.6.1).
pub fn dress(head: &mut Head, fields: &Fields, meta: &Meta, now: i64) {
    let made = fields.first("Date").map(|field| field.value_bytes());
    let made = made.unwrap_or_else(|| Bytes::copy_from_slice(clock::http_date_of(meta.date).bytes()));
    head.set("Date", made);
    head.set("Age", age(fields, meta, now).to_string());
}

/// The requests whose answers a request has changed that was answered so (RFC 9111, 4.4): the same target, and those that
/// the answer names, if they are of the same origin.
pub fn changed(request: &Rc<Request>, head: &Head) -> Vec<Rc<Request>> {
    if !rfc9111::invalidates(&request.method(), head.status) {
        return Vec::new();
    }
    let own = request.head.target_bytes();
    let scheme = request.value_of("scheme").unwrap_or_default();
    let host = request.field_bytes("Host").unwrap_or_else(|| request.host().clone());
    let path = uri::split_args(&own).0.to_vec();
    let location = head.location.as_deref().or_else(|| head.field("Location"));
    let named = [location, head.field("Content-Location")].into_iter().flatten();
    let named = named.filter_map(|reference| rfc9111::same_origin(reference, &scheme, &host, &path)).map(Bytes::from);
    std::iter::once(own.clone()).chain(named).filter_map(|target| about(request, &target)).collect()
}

/// The GET that a HEAD is about.
pub fn as_get(request: &Rc<Request>) -> Option<Rc<Request>> {
    about(request, request.head.target())
}

/// Whether what answered HEAD would, as an answer to GET, be what is stored: nothing that it says of itself is otherwise
/// (RFC 9111, 4.3.5).
pub fn is_same(stored: &Fields, newer: &Fields, len: u64) -> bool {
    let value = |fields: &Fields, name| fields.first(name).map(|field| field.value_bytes());
    let agrees = |name| value(newer, name).is_none_or(|now| value(stored, name).is_none_or(|then| now == then));
    let length = newer.first("Content-Length").and_then(|field| byte::offset(field.value));
    agrees("ETag") && agrees("Last-Modified") && length.is_none_or(|length| length == len)
}

/// The GET of another target, as the client would send it: to ask what it is kept under, not to answer it.
fn about(request: &Rc<Request>, target: &[u8]) -> Option<Rc<Request>> {
    let parts = uri::untrusted(target).ok()?;
    let args = parts.args.map(Bytes::copy_from_slice).unwrap_or_default();
    let path = Bytes::copy_from_slice(&parts.path);
    let about = request.about(target, path, args);
    about.body.store(upload::Stored::default());
    Some(Rc::new(about))
}
