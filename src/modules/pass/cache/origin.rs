//! What the cache asks of a protocol.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::Plan;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::modules::pass::codec::Codec;
use crate::modules::pass::exchange::{Keeping, Ready};
use crate::modules::pass::reply::Rewritten;
use crate::modules::pass::settings::Settings;

/// A protocol whose answers may be kept.
pub trait Origin: 'static {
    type Codec: Codec;

    fn settings(&self) -> &Arc<Settings>;

    fn cache(&self) -> Option<&Plan>;

    /// What a request's entry is named by, unless `*_cache_key` says so.
    fn key(&self, request: &Rc<Request>) -> Result<Bytes, Refusal>;

    /// What reads a head that was kept.
    fn codec(self: &Arc<Self>, request: &Request) -> Self::Codec;

    /// Changes a field's value on its way to the client.
    fn rewrite(&self, _: &Request, _: Rewritten, _: &Bytes) -> Option<Bytes> {
        None
    }

    /// What asks the upstream. `keeping`: the answer may be kept, so it is to be one for all.
    fn ready(
        self: &Arc<Self>,
        request: &Rc<Request>,
        keeping: Option<Keeping>,
    ) -> impl Future<Output = Result<Ready<Self::Codec>, Refusal>>;
}
