//! `upstream {}` blocks, and the groups that addresses in `proxy_pass` and its kin stand for.
//!
//! In: the blocks' directives. Out: [`Groups`], in which every protocol finds the group that a host means: at load for a
//! fixed one, at run time for one that variables make; and for each request its way through that group ([`choice`]).

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::sticky;
use crate::base::addr::{self, Form, Host, Url};
use crate::base::text;
use crate::base::units;
use crate::conf::error::{At, Fault};
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, Row, Section, Table, UPSTREAM};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::core;
use crate::http::plan::{Main, Plan};
use crate::http::request::Request;
use crate::net::accept::Peer as Client;
use crate::net::resolver::Resolver;
use crate::state::Registry;
use crate::upstream::balance::Method;
use crate::upstream::balance::consistent::Ring;
use crate::upstream::balance::ip_hash;
use crate::upstream::balance::least_time::{LeastTime, Until};
use crate::upstream::balance::peers::Way;
use crate::upstream::group::{Choice, Group, Keepalive};
use crate::upstream::moving::{Found, Moving, Named, Setup};
use crate::upstream::peer::{Peer, Service};

/// `ngx_http_upstream_module`.
pub struct Upstream;

impl Module for Upstream {
    const NAME: &'static str = "http_upstream";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::main_block("upstream", HTTP, Arity::Exactly(1), Conf::upstream)];
    type Plan = Plan;
    type Main = Conf;
    type Server = ();
    type Location = ();

    fn link_main(level: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let conf = level.main::<Self>();
        conf.groups.clear();
        for block in &conf.blocks {
            let group = match block.names.is_empty() {
                true => block.fixed()?,
                false => {
                    let moving = block.moving(level)?;
                    main.moving.push(moving.clone());
                    Group::front(moving)
                }
            };
            conf.groups.add(Known { host: block.name.clone(), port: None, explicit: true, group: Arc::new(group) });
        }
        super::vars::define(&mut main.vars)
    }
}

/// The blocks of a configuration.
#[derive(Default)]
pub struct Conf {
    blocks: Vec<Block>,
    groups: Groups,
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        let Self { blocks: _, groups: _ } = self;
        Ok(())
    }
}

/// The directives inside a block.
pub const BLOCK: Table<Block> = Table {
    rows: &[
        Row::line("server", UPSTREAM, Arity::AtLeast(1), Block::server),
        Row::line("zone", UPSTREAM, Arity::Between(1, 2), Block::zone),
        Row::line("hash", UPSTREAM, Arity::Between(1, 2), Block::hash),
        Row::line("ip_hash", UPSTREAM, Arity::None, Block::ip_hash),
        Row::line("least_conn", UPSTREAM, Arity::None, Block::least_conn),
        Row::line("least_time", UPSTREAM, Arity::Between(1, 2), Block::least_time),
        Row::line("random", UPSTREAM, Arity::Between(0, 2), Block::random),
        Row::line("sticky", UPSTREAM, Arity::AtLeast(2), Block::sticky),
        Row::line("resolver", UPSTREAM, Arity::AtLeast(1), Block::resolver),
        Row::line("resolver_timeout", UPSTREAM, Arity::Exactly(1), Block::resolver_timeout),
        Row::line("keepalive", UPSTREAM, Arity::Between(1, 2), Block::keepalive),
        Row::line("keepalive_requests", UPSTREAM, Arity::Exactly(1), Block::keepalive_requests),
        Row::line("keepalive_time", UPSTREAM, Arity::Exactly(1), Block::keepalive_time),
        Row::line("keepalive_timeout", UPSTREAM, Arity::Exactly(1), Block::keepalive_timeout),
    ],
};

impl Conf {
    /// Syntax: `upstream name { ... }`
    fn upstream(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let name = words.one();
        if self.blocks.iter().any(|block| block.name.eq_ignore_ascii_case(name)) {
            return Err(words.fault(0, format!("duplicate upstream \"{name}\"")));
        }
        let mut block = Block { name: name.to_owned(), at: Some(words.at().clone()), ..Block::default() };
        BLOCK.read(&mut block, words.block(), UPSTREAM, words.cx)?;
        if block.primary.is_empty() && block.backup.is_empty() && block.names.is_empty() {
            return Err(Fault::at("no servers are inside upstream", words.at()));
        }
        let zone = block.sticky.as_ref().and_then(sticky::Said::zone);
        let taken = |other: &&Block| zone.is_some() && other.sticky.as_ref().and_then(sticky::Said::zone) == zone;
        if let (Some(zone), Some(other)) = (zone, self.blocks.iter().find(taken)) {
            let message = format!("sticky zone \"{zone}\" is already used in upstream \"{}\"", other.name);
            return Err(Fault::at(message, words.at()));
        }
        self.blocks.push(block);
        Ok(())
    }
}

/// One `upstream {}` block.
#[derive(Default)]
pub struct Block {
    name: String,
    at: Option<At>,
    primary: Vec<Peer>,
    backup: Vec<Peer>,
    /// Servers that are found by name.
    names: Vec<Named>,
    zone: Setting<(String, usize)>,
    resolver: Setting<Option<Arc<Resolver>>>,
    resolver_timeout: Setting<Duration>,
    balance: Balance,
    sticky: Option<sticky::Said>,
    keepalive: Setting<(usize, bool)>,
    keepalive_requests: Setting<u64>,
    keepalive_time: Setting<Duration>,
    keepalive_timeout: Setting<Duration>,
}

/// The balancing method, as it was said.
#[derive(Clone, Debug, Default)]
enum Balance {
    #[default]
    RoundRobin,
    Hash(Template),
    Consistent(Template),
    IpHash,
    LeastConn,
    Random {
        two: bool,
    },
    LeastTime(LeastTime),
}

impl Balance {
    fn knows_backups(&self) -> bool {
        match self {
            Self::RoundRobin | Self::LeastConn | Self::LeastTime(_) => true,
            Self::Hash(_) | Self::Consistent(_) | Self::IpHash | Self::Random { .. } => false,
        }
    }

    fn finish(&self, primary: &[Peer]) -> Method {
        match self.clone() {
            Self::RoundRobin => Method::RoundRobin,
            Self::Hash(key) => Method::Hash(key),
            Self::Consistent(key) => Method::Consistent(key, Ring::of(primary)),
            Self::IpHash => Method::IpHash,
            Self::LeastConn => Method::LeastConn,
            Self::Random { two } => Method::Random { two },
            Self::LeastTime(least_time) => Method::LeastTime(least_time),
        }
    }
}

impl Block {
    /// Syntax: `server address [weight=n] [max_conns=n] [max_fails=n] [fail_timeout=time] [backup] [down] [drain]
    /// [route=string] [resolve] [service=name];`
    fn server(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut model = Peer::new(addr::Address::Unix(Default::default()));
        let mut backup = false;
        let mut resolve = false;
        let mut service = "";
        for (n, word) in words.texts().enumerate().skip(1) {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let number = || value.and_then(units::number).ok_or_else(|| words.invalid_parameter(n));
            match (name, value) {
                ("weight", Some(_)) => {
                    let weight = number()?;
                    model.weight = i64::try_from(weight)
                        .ok()
                        .filter(|weight| *weight > 0 && *weight < 1 << 32)
                        .ok_or_else(|| words.invalid_parameter(n))?;
                }
                ("max_conns", Some(_)) => model.max_conns = number()?,
                ("max_fails", Some(_)) => model.max_fails = number()?,
                ("fail_timeout", Some(value)) => {
                    model.fail_timeout = units::seconds(value).ok_or_else(|| words.invalid_parameter(n))?;
                }
                ("backup", None) if !self.balance.knows_backups() => {
                    let message = format!("balancing method does not support parameter \"{word}\"");
                    return Err(words.fault(n, message));
                }
                ("backup", None) => backup = true,
                ("down", None) => model.service = Service::Down,
                ("drain", None) => model.service = Service::Draining,
                ("route", Some("")) => return Err(words.fault(n, "route is empty")),
                ("route", Some(route)) => {
                    model.id = text::bytes(route).into();
                    if model.id.len() > LONGEST_ROUTE {
                        return Err(words.fault(n, format!("route is longer than {LONGEST_ROUTE}")));
                    }
                }
                ("resolve", None) => resolve = true,
                ("service", Some("")) => return Err(words.fault(n, "service is empty")),
                ("service", Some(name)) => service = name,
                _ => return Err(words.invalid_parameter(n)),
            }
        }
        let text = words.arg(0);
        let form = Form { listen: false, uri: false, default_port: 80 };
        let of_service = |what: &str| words.fault(0, format!("service upstream \"{text}\" {what}"));
        if !service.is_empty() && !resolve {
            return Err(of_service("requires \"resolve\" parameter"));
        }
        let bad = |why| words.fault(0, format!("{why} in upstream \"{text}\""));
        let url = addr::parse(text, form).map_err(bad)?;
        if !service.is_empty() && !url.no_port {
            return Err(of_service("may not have port"));
        }
        model.server = text::bytes(text).into();
        match &url.host {
            Host::Name(host) if resolve => {
                let (host, service) = (host.clone(), service.to_owned());
                self.names.push(Named { host, service, port: url.port, model, is_backup: backup });
                return Ok(());
            }
            Host::Ip(_) | Host::Unix(_) if !service.is_empty() => return Err(of_service("requires domain name")),
            Host::Name(_) | Host::Ip(_) | Host::Unix(_) => {}
        }
        let addresses = url.addresses().map_err(bad)?;
        let peers = addresses.into_iter().map(|address| {
            let Peer { name, address, .. } = Peer::new(address);
            Peer { name, address, ..model.clone() }
        });
        if backup {
            self.backup.extend(peers)
        } else {
            self.primary.extend(peers)
        }
        Ok(())
    }

    /// Syntax: `zone name [size];` Our groups are shared by all threads anyway.
    fn zone(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if words.arg(0).is_empty() {
            return Err(words.fault(0, "invalid zone name \"\""));
        }
        let mut size = 0;
        if words.len() == 2 {
            size = words.size(1).map_err(|_| words.fault(1, format!("invalid zone size \"{}\"", words.arg(1))))?;
            if size < 8 * 4096 {
                return Err(words.fault(0, format!("zone \"{}\" is too small", words.arg(0))));
            }
        }
        self.zone.set((words.arg(0).to_owned(), size))
    }

    /// As the directive of the same name in `http`, for the names of this group.
    fn resolver(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let resolver = Resolver::read(words.texts()).map_err(|why| words.fault(0, why))?;
        self.resolver.set(resolver.map(Arc::new))
    }

    /// As the directive of the same name in `http`, for the names of this group.
    fn resolver_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.resolver_timeout.set(words.time(0)?)
    }

    /// Syntax: `hash key [consistent];`
    fn hash(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let key = words.template(0)?;
        let balance = match words.arg(1) {
            "" => Balance::Hash(key),
            "consistent" => Balance::Consistent(key),
            _ => return Err(words.invalid_parameter(1)),
        };
        self.balance_by(words, balance)
    }

    /// Syntax: `ip_hash;`
    fn ip_hash(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.balance_by(words, Balance::IpHash)
    }

    /// Syntax: `least_conn;`
    fn least_conn(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.balance_by(words, Balance::LeastConn)
    }

    /// Syntax: `least_time header | last_byte [inflight];`
    fn least_time(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let inflight = match words.arg(1) {
            "" => false,
            "inflight" => true,
            _ => return Err(words.invalid_parameter(1)),
        };
        let until = words.choice(0, &[("header", Until::Header), ("last_byte", Until::LastByte)])?;
        self.balance_by(words, Balance::LeastTime(LeastTime { until, inflight }))
    }

    /// Syntax: `random [two [least_conn]];`
    fn random(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let two = match words.arg(0) {
            _ if words.is_empty() => false,
            "two" => true,
            _ => return Err(words.invalid_parameter(0)),
        };
        if words.len() > 1 && words.arg(1) != "least_conn" {
            return Err(words.invalid_parameter(1));
        }
        self.balance_by(words, Balance::Random { two })
    }

    fn balance_by(&mut self, words: &Words<'_>, balance: Balance) -> Result<(), Fault> {
        if !matches!(self.balance, Balance::RoundRobin) {
            words.cx.warn(words.fault(0, "load balancing method redefined"));
        }
        self.balance = balance;
        Ok(())
    }

    /// Syntax: `sticky cookie name [expires=time] [domain=domain] [httponly] [samesite=strict | lax | none | $variable]
    /// [secure] [path=path]; | sticky route $variable ...; | sticky learn create=$variable lookup=$variable
    /// zone=name:size [timeout=time] [header];`
    fn sticky(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.sticky.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        self.sticky = Some(sticky::Said::read(words)?);
        Ok(())
    }

    /// Syntax: `keepalive connections [local];`  Default: `32 local`
    fn keepalive(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let connections = units::number(words.arg(0)).and_then(|number| usize::try_from(number).ok());
        let connections = connections
            .ok_or_else(|| words.fault(0, format!("invalid value \"{}\" in \"keepalive\" directive", words.arg(0))))?;
        let local = match words.arg(1) {
            "" => false,
            "local" => true,
            _ => return Err(words.invalid_parameter(1)),
        };
        self.keepalive.set((connections, local))
    }

    /// Syntax: `keepalive_requests number;`  Default: `1000`
    fn keepalive_requests(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_requests.set(words.number(0)?)
    }

    /// Syntax: `keepalive_time time;`  Default: `1h`
    fn keepalive_time(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_time.set(words.time(0)?)
    }

    /// Syntax: `keepalive_timeout timeout;`  Default: `60s`
    fn keepalive_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_timeout.set(words.time(0)?)
    }

    /// A group whose servers have addresses.
    fn fixed(&self) -> Result<Group, Fault> {
        if self.primary.is_empty() {
            return Err(self.fault("no servers"));
        }
        let [primary, backup] = self.peers();
        let method = self.balance.finish(&primary);
        let mut group = Group::of(text::bytes(&self.name).into(), primary, backup, method);
        self.finisher()?(&mut group);
        Ok(group)
    }

    /// A group of which some servers are found by name.
    fn moving(&self, level: &Level<'_>) -> Result<Arc<Moving>, Fault> {
        let Some((zone, size)) = self.zone.as_ref() else {
            // nginx: this one has the place within its sentence
            let place = self.at.as_ref().map(|at| format!(" in {}:{}", at.file, at.line)).unwrap_or_default();
            return Err(Fault::nowhere(format!(
                "resolving names at run time requires upstream \"{}\"{place} to be in shared memory",
                self.name
            )));
        };
        let resolver = self.resolver.said().flatten().or_else(|| Some(core::resolver(level)?.0));
        let resolver = resolver.ok_or_else(|| self.fault("no resolver defined to resolve names at run time"))?;
        if self.primary.is_empty() && self.names.iter().all(|named| named.is_backup) {
            return Err(self.fault("no servers"));
        }
        let balance = self.balance.clone();
        Ok(Moving::new(Setup {
            name: self.name.clone(),
            fixed: self.peers(),
            names: self.names.clone(),
            knows_backups: balance.knows_backups(),
            is_sticky: self.sticky.is_some(),
            method: Box::new(move |primary| balance.finish(primary)),
            finish: Box::new(self.finisher()?),
            resolver,
            timeout: self.resolver_timeout.or_else(|| core::resolver_timeout(level)),
            found: FOUND.zone(zone, *size, Found::default),
        }))
    }

    /// A fault of the whole block.
    fn fault(&self, what: &str) -> Fault {
        let message = format!("{what} in upstream \"{}\"", self.name);
        self.at.as_ref().map_or_else(|| Fault::nowhere(&message), |at| Fault::at(&message, at))
    }

    fn peers(&self) -> [Vec<Peer>; 2] {
        let mut ranks = [self.primary.clone(), self.backup.clone()];
        if self.sticky.is_some() {
            ranks.iter_mut().flatten().for_each(Peer::identify);
        }
        ranks
    }

    /// What every group of this block is given.
    fn finisher(&self) -> Result<impl Fn(&mut Group) + Send + Sync + 'static, Fault> {
        let default = Keepalive::default();
        let (connections, local) = self.keepalive.or((default.connections, default.local));
        let keepalive = Keepalive {
            connections,
            local,
            requests: self.keepalive_requests.or(default.requests),
            time: self.keepalive_time.or(default.time),
            timeout: self.keepalive_timeout.or(default.timeout),
        };
        let sticky = self.sticky.clone().map(|said| said.finish(&self.name)).transpose()?.map(Arc::new);
        Ok(move |group: &mut Group| {
            group.keepalive = Some(keepalive.clone()).filter(|keepalive| keepalive.connections > 0);
            group.sticky.clone_from(&sticky);
        })
    }
}

/// What names were found to be, by zone.
static FOUND: Registry<Found> = Registry::new();

/// nginx: a route takes the place of an MD5 in hexadecimal digits.
const LONGEST_ROUTE: usize = 32;

/// A request's way through a group: what its method and `sticky` want to know of the request is asked now.
pub fn choice(request: &Request, group: Arc<Group>) -> Choice {
    let group = group.current();
    let mut way = match &group.method {
        Method::RoundRobin | Method::LeastConn | Method::Random { .. } | Method::LeastTime(_) => Way::default(),
        Method::Hash(key) => Way { key: key.eval(request), ..Way::default() },
        Method::Consistent(key, ring) => {
            let key = key.eval(request);
            Way { hash: ring.place(&key), key, ..Way::default() }
        }
        Method::IpHash => match request.peer() {
            Client::Inet(client) => match client.ip() {
                IpAddr::V4(v4) => ip_hash::begin(&v4.octets()[..3]),
                IpAddr::V6(v6) => ip_hash::begin(&v6.octets()),
            },
            Client::Unix(_) => ip_hash::begin(&[0; 3]),
        },
    };
    if let Some(sticky) = &group.sticky {
        way.hint = sticky::hint(request, sticky);
    }
    Choice::new(group, way)
}

/// Every group of a configuration. A handle: copies see the same.
#[derive(Clone, Debug, Default)]
pub struct Groups(Arc<RwLock<Vec<Known>>>);

#[derive(Clone, Debug)]
struct Known {
    host: String,
    /// `None`: an `upstream {}` block, whose servers have ports of their own.
    port: Option<u16>,
    explicit: bool,
    group: Arc<Group>,
}

impl Groups {
    /// Those of the configuration at hand.
    pub fn of(level: &Level<'_>) -> Self {
        level.main::<Upstream>().groups.clone()
    }

    fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn add(&self, known: Known) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(known);
    }

    /// The group that a host and a port mean, if any. nginx: a block is meant by its name alone.
    pub fn find(&self, url: &Url) -> Option<Arc<Group>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |known: &&Known| {
            known.host.eq_ignore_ascii_case(&url.host_text)
                && match known.port {
                    None => url.no_port,
                    Some(port) => port == url.port && !matches!(url.host, Host::Unix(_)) || url.port == 0 && port == 0,
                }
        };
        all.iter().find(fits).map(|known| known.group.clone())
    }

    /// At load: the group of a fixed address, made when it is new. Names are resolved here and now.
    pub fn make(&self, url: &Url, at: &At) -> Result<Arc<Group>, Fault> {
        if let Some(group) = self.find(url) {
            return Ok(group);
        }
        {
            let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let block = all.iter().find(|known| known.explicit && known.host.eq_ignore_ascii_case(&url.host_text));
            if block.is_some() && !url.no_port {
                let message = format!("upstream \"{}\" may not have port {}", url.host_text, url.port);
                return Err(Fault::at(message, at));
            }
        }
        let addresses = url.addresses();
        let addresses = addresses.map_err(|why| Fault::at(format!("{why} in upstream \"{}\"", url.host_text), at))?;
        let peers = addresses.into_iter().map(Peer::new).collect();
        let name = Bytes::from(text::bytes(&url.host_text));
        // nginx: only the connections of a block are kept
        let group = Arc::new(Group::new(name, peers));
        self.add(Known { host: url.host_text.clone(), port: Some(url.port), explicit: false, group: group.clone() });
        Ok(group)
    }
}
