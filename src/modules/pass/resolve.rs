//! Names that variables make: resolved while the request waits, by the location's `resolver`.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::addr::{Host, Url};
use crate::base::text;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level;
use crate::upstream::group::Group;
use crate::upstream::peer::Peer;

/// A group for this request alone.
pub async fn group(request: &Request, url: &Url) -> Result<Arc<Group>, Refusal> {
    let name = Bytes::from(text::bytes(&url.host_text));
    let peers = match &url.host {
        Host::Name(_) => {
            request.log(Level::Error, format_args!("no resolver defined to resolve {}", url.host_text));
            return Err(Refusal::Status(502));
        }
        Host::Ip(_) | Host::Unix(_) => match url.addresses() {
            Ok(addresses) => addresses.into_iter().map(Peer::new).collect(),
            Err(_) => return Err(Refusal::Status(500)),
        },
    };
    Ok(Arc::new(Group::new(name, peers, Vec::new(), None)))
}
