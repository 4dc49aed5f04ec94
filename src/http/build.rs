//! From a tree of levels to an [`Http`]: servers, locations, and who listens where.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::core::Core;
use super::location::{Locations, Matcher};
use super::names::Names;
use super::plan::{Http, Location, LocationId, Main, Plan, Server, ServerId, ServerPlan};
use super::server::{ListenConf, Name};
use crate::base::addr::Address;
use crate::base::names::Unplaced;
use crate::base::text;
use crate::conf::error::{At, Fault};
use crate::conf::lex::Node;
use crate::conf::module::{LOCATION, Level, Linker, Modules};
use crate::conf::vars::Table;
use crate::conf::words::Context;
use crate::net::listen::Options;

/// One listening socket and the addresses that it serves: more than one when a wildcard covers others.
#[derive(Debug)]
pub struct Listen {
    pub options: Options,
    pub addresses: Vec<ListenAddress>,
}

/// The servers of one address.
#[derive(Debug)]
pub struct ListenAddress {
    /// `None` answers for every address that has no entry of its own.
    pub local: Option<IpAddr>,
    pub address: Address,
    pub names: Names,
    pub proxy_protocol: bool,
    /// HTTP/2 is spoken whatever the servers say: `listen … http2`.
    pub http2: bool,
    pub ssl: bool,
}

impl Listen {
    /// Which of `addresses` a connection belongs to, by its local address, which is asked for only when it matters.
    pub fn choose(&self, local: impl FnOnce() -> Option<IpAddr>) -> usize {
        if self.addresses.len() < 2 {
            return 0;
        }
        let local = local();
        let own = self.addresses.iter().position(|address| address.local.is_some() && address.local == local);
        own.or_else(|| self.addresses.iter().position(|address| address.local.is_none())).unwrap_or(0)
    }
}

/// Reads the `http` block with these modules.
pub fn load(modules: &Modules<Plan>, block: &[Node], at: &At, cx: &Context) -> Result<Http, Fault> {
    modules.load(block, at, cx, |linker, level| Builder { linker, locations: Vec::new() }.http(&level))
}

struct Builder<'a> {
    linker: &'a Linker<'a, Plan>,
    locations: Vec<Location>,
}

impl Builder<'_> {
    fn http(mut self, level: &Level<'_>) -> Result<Http, Fault> {
        let mut main = Main::default();
        self.linker.main(level, &mut main)?;
        let mut servers = Vec::new();
        let mut conf = Vec::new();
        for child in level.children() {
            servers.push(self.server(&child)?);
            conf.push(child);
        }
        let listens = listens(&conf, &servers)?;
        let vars = Table::new(&level.cx.names, std::mem::take(&mut main.vars))?;
        let head_is_asked_for = vars.names().any(|name| name.starts_with("sent_") || name == "status");
        let hello_is_asked_for = vars.names().any(|name| matches!(name, "ssl_ciphers" | "ssl_curves" | "ssl_sigalgs"));
        let signature_is_asked_for = vars.names().any(|name| matches!(name, "ssl_sigalg" | "ssl_client_sigalg"));
        let Main { http2_recv_buffer_size, caches, cache_memory, moving, .. } = main;
        Ok(Http {
            head_is_asked_for,
            hello_is_asked_for,
            signature_is_asked_for,
            servers,
            locations: self.locations,
            listens,
            vars,
            http2_recv_buffer_size,
            caches,
            moving,
            cache_memory: cache_memory.unwrap_or(64 * 1024 * 1024),
        })
    }

    fn server(&mut self, level: &Level<'_>) -> Result<Server, Fault> {
        let mut plan = ServerPlan::default();
        self.linker.server(level, &mut plan)?;
        let mut named = Vec::new();
        let root = self.location(level, Bytes::new(), &mut named)?;
        let name = level.server::<Core>().names.first().map(|name| name.text.clone()).unwrap_or_default();
        // nginx: `.example.com` calls itself `example.com`.
        let name = name.strip_prefix(b".").map_or(name.clone(), |rest| name.slice_ref(rest));
        Ok(Server { name, settings: plan.settings, http2: plan.http2, tls: plan.tls, root, named })
    }

    fn location(
        &mut self,
        level: &Level<'_>,
        name: Bytes,
        named: &mut Vec<(Bytes, LocationId)>,
    ) -> Result<LocationId, Fault> {
        let mut plan = self.linker.location(level)?;
        plan.filters.sort_by_key(|filter| filter.stage());
        let id = LocationId(u32::try_from(self.locations.len()).map_err(|_| Fault::new("too many locations"))?);
        let is_block = level.place() != LOCATION;
        self.locations.push(Location { name, plan, inner: Locations::default(), blocks: Vec::new(), is_block });
        let mut inner = Locations::default();
        let mut blocks = Vec::new();
        for child in level.children() {
            let matcher = child.location::<Core>().matcher.as_ref().filter(|_| child.place() == LOCATION);
            let Some(matcher) = matcher else {
                // An `if` or `limit_except` block is a part of its location and goes by its name.
                let name = self.locations[id.0 as usize].name.clone();
                blocks.push(Some(self.location(&child, name, named)?));
                continue;
            };
            let bytes = Bytes::from(text::bytes(matcher.name()));
            let inner_id = self.location(&child, bytes.clone(), named)?;
            blocks.push(None);
            let redirect = self.locations[inner_id.0 as usize].plan.auto_redirect && bytes.ends_with(b"/");
            inner.add(matcher, inner_id, redirect).map_err(|message| Fault::at(message, child.at()))?;
            if let Matcher::Named(_) = matcher {
                named.push((bytes, inner_id));
            }
        }
        inner.finish();
        let place = &mut self.locations[id.0 as usize];
        place.inner = inner;
        place.blocks = blocks;
        Ok(id)
    }
}

/// Joins the `listen` directives of all servers by address, and addresses by socket.
fn listens(servers: &[Level<'_>], linked: &[Server]) -> Result<Vec<Listen>, Fault> {
    let mut addresses: Vec<(ListenConf, ListenAddress)> = Vec::new();
    let mut there: Vec<Vec<ServerId>> = Vec::new();
    for (n, level) in servers.iter().enumerate() {
        let id = ServerId(u32::try_from(n).map_err(|_| Fault::new("too many servers"))?);
        let conf = level.server::<Core>();
        let default_listen;
        let listens = if conf.listens.is_empty() {
            let port = if nix::unistd::geteuid().is_root() { 80 } else { 8000 };
            default_listen = [ListenConf::plain(Address::Inet(SocketAddr::from(([0, 0, 0, 0], port))), level.at())];
            &default_listen[..]
        } else {
            &conf.listens
        };
        for listen in listens {
            let place = join(&mut addresses, listen, id)?;
            there.resize_with(addresses.len(), Vec::new);
            there[place].push(id);
        }
    }
    for ((_, address), ids) in addresses.iter_mut().zip(there) {
        if address.ssl {
            certified(address, &ids, servers, linked)?;
        }
        // nginx: where there is nothing to choose from, names are not looked at.
        if let [only] = ids[..] {
            let names = &servers[only.0 as usize].server::<Core>().names;
            if names.iter().all(|name| name.regex.is_none()) {
                continue;
            }
        }
        for id in ids {
            name_server(address, &servers[id.0 as usize], id)?;
        }
    }
    Ok(sockets(addresses))
}

/// nginx: whoever may answer first at an address with TLS has a certificate, or rejects all handshakes.
fn certified(address: &ListenAddress, ids: &[ServerId], servers: &[Level<'_>], linked: &[Server]) -> Result<(), Fault> {
    let lacks = |id: &ServerId| {
        let tls = &linked[id.0 as usize].tls;
        tls.config.is_none() && !tls.reject
    };
    let default = address.names.default;
    let all = if linked[default.0 as usize].tls.config.is_some() { &[][..] } else { ids };
    match std::iter::once(&default).chain(all).find(|id| lacks(id)) {
        None => Ok(()),
        Some(id) => {
            let at = servers[id.0 as usize].at();
            let place = format!("{}:{}", at.file, at.line);
            let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive in";
            Err(Fault::nowhere(format!("{message} {place}")))
        }
    }
}

/// Adds the names of a server to those of an address.
fn name_server(address: &mut ListenAddress, level: &Level<'_>, id: ServerId) -> Result<(), Fault> {
    let names = &level.server::<Core>().names;
    let nameless = [Name { text: Bytes::new(), regex: None }];
    for name in if names.is_empty() { &nameless[..] } else { names } {
        let shown = text::decode(&name.text);
        match address.names.add(name, id) {
            Ok(()) => {}
            Err(Unplaced::Taken) => {
                let message = format!("conflicting server name \"{shown}\" on {}, ignored", address.address);
                level.cx.warn(Fault::new(message));
            }
            Err(Unplaced::Invalid) => {
                let message = format!("invalid server name or wildcard \"{shown}\" on {}", address.address);
                return Err(Fault::new(message));
            }
        }
    }
    Ok(())
}

/// Finds the entry of a directive's address, or makes it.
fn join(
    addresses: &mut Vec<(ListenConf, ListenAddress)>,
    listen: &ListenConf,
    server: ServerId,
) -> Result<usize, Fault> {
    let address = &listen.options.address;
    let Some(place) = addresses.iter().position(|(conf, _)| conf.options.address == *address) else {
        let local = match address {
            Address::Inet(inet) if !inet.ip().is_unspecified() => Some(inet.ip()),
            _ => None,
        };
        let names = Names::new(server);
        let (proxy_protocol, ssl, http2) = (listen.proxy_protocol, listen.ssl, listen.http2);
        let entry = ListenAddress { local, address: address.clone(), names, proxy_protocol, ssl, http2 };
        addresses.push((listen.clone(), entry));
        return Ok(addresses.len() - 1);
    };
    let (first, entry) = &mut addresses[place];
    if listen.explicit {
        if first.explicit {
            return Err(Fault::at(format!("duplicate listen options for {address}"), &listen.at));
        }
        first.options = listen.options.clone();
        first.bind |= listen.bind;
        first.explicit = true;
    }
    if listen.default_server {
        if first.default_server {
            return Err(Fault::at(format!("a duplicate default server for {address}"), &listen.at));
        }
        first.default_server = true;
        entry.names.default = server;
    }
    entry.proxy_protocol |= listen.proxy_protocol;
    entry.http2 |= listen.http2;
    entry.ssl |= listen.ssl;
    Ok(place)
}

/// nginx binds a wildcard once and tells the other addresses of its port by the connection's own address, unless an
/// address has socket parameters of its own.
fn sockets(addresses: Vec<(ListenConf, ListenAddress)>) -> Vec<Listen> {
    let wildcard = |address: &Address| match address {
        Address::Inet(inet) if inet.ip().is_unspecified() => Some((inet.is_ipv6(), inet.port())),
        _ => None,
    };
    let wildcards: Vec<_> = addresses.iter().filter_map(|(conf, _)| wildcard(&conf.options.address)).collect();
    let covered = |conf: &ListenConf| match &conf.options.address {
        Address::Inet(inet) if !inet.ip().is_unspecified() && !conf.bind => {
            Some((inet.is_ipv6(), inet.port())).filter(|key| wildcards.contains(key))
        }
        _ => None,
    };
    let mut listens: Vec<Listen> = Vec::new();
    let mut below = Vec::new();
    for (conf, entry) in addresses {
        match covered(&conf) {
            Some(key) => below.push((key, entry)),
            None => listens.push(Listen { options: conf.options, addresses: vec![entry] }),
        }
    }
    for (key, entry) in below {
        if let Some(listen) = listens.iter_mut().find(|listen| wildcard(&listen.options.address) == Some(key)) {
            listen.addresses.push(entry);
        }
    }
    listens
}
