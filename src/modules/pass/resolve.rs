//! Names that variables make: resolved while the request waits, by the location's `resolver`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use crate::base::addr::{Address, Host, Url};
use crate::base::text;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level;
use crate::upstream::group::Group;
use crate::upstream::peer::Peer;

/// A group for this request alone.
pub async fn group(request: &Request, url: &Url, minds_client: bool) -> Result<Arc<Group>, Refusal> {
    let name = Bytes::from(text::bytes(&url.host_text));
    let peers = match &url.host {
        Host::Name(name) => {
            let core = &request.plan().core;
            let Some(resolver) = &core.resolver else {
                request.log(Level::Error, format_args!("no resolver defined to resolve {name}"));
                return Err(Refusal::Status(502));
            };
            let found = until_gone(request, minds_client, resolver.resolve(name, core.resolver_timeout)).await?;
            let found = found.map_err(|why| {
                request.log(Level::Error, format_args!("{name} could not be resolved ({})", why.text()));
                Refusal::Status(502)
            })?;
            found.into_iter().map(|ip| Peer::new(Address::Inet(SocketAddr::new(ip, url.port)))).collect()
        }
        Host::Ip(_) | Host::Unix(_) => match url.addresses() {
            Ok(addresses) => addresses.into_iter().map(Peer::new).collect(),
            Err(_) => return Err(Refusal::Status(500)),
        },
    };
    Ok(Arc::new(Group::new(name, peers)))
}

/// Waits, unless the client goes away first.
async fn until_gone<T>(request: &Request, minds_client: bool, future: impl Future<Output = T>) -> Result<T, Refusal> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if minds_client && request.poll_gone(cx).is_ready() {
            request.log(Level::Info, format_args!("client prematurely closed connection"));
            request.status.set(499);
            return Poll::Ready(Err(Refusal::Close));
        }
        Poll::Pending
    })
    .await
}
