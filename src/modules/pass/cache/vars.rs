//! `$upstream_cache_*`: what came of asking the cache.

use crate::base::clock;
use crate::cache::{Seen, Status};
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::request::Request;

/// Defines them.
pub fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    let mut row = |name: &str, value: fn(&Seen) -> Value| {
        vars.define(name, Row::each(move |request: &Request| value(&request.cache.borrow())))
    };
    row("upstream_cache_status", |seen| Some(seen.status?.word().into()))?;
    row("upstream_cache_key", |seen| Some(seen.key.clone()).filter(|key| !key.is_empty()))?;
    row("upstream_cache_age", |seen| {
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        (seen.date > 0).then(|| now.saturating_sub(seen.date).max(0).to_string().into())
    })?;
    // nginx: while the upstream is asked whether it has changed, and at no other time
    row("upstream_cache_last_modified", |seen| {
        let second = seen.last_modified.filter(|_| seen.status == Some(Status::Expired))?;
        Some(bytes::Bytes::copy_from_slice(clock::http_date_of(second).bytes()))
    })?;
    row("upstream_cache_etag", |seen| {
        Some(seen.etag.clone()).filter(|etag| !etag.is_empty() && seen.status == Some(Status::Expired))
    })
}
