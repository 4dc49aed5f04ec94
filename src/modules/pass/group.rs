//! `upstream {}` blocks, and the groups that addresses in `proxy_pass` and its kin stand for.
//!
//! In: the blocks' directives. Out: [`Groups`], in which every protocol finds the group that a host means: at load for a
//! fixed one, at run time for one that variables make.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use crate::base::addr::{self, Form, Host, Url};
use crate::base::text;
use crate::base::units;
use crate::conf::error::{At, Fault};
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, Row, Section, Table, UPSTREAM};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::{Main, Plan};
use crate::upstream::group::{Group, Keepalive};
use crate::upstream::peer::Peer;

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
            conf.groups.add(block.finish()?);
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
        if block.primary.is_empty() && block.backup.is_empty() {
            return Err(Fault::at("no servers are inside upstream", words.at()));
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
    zone: Setting<String>,
    keepalive: Setting<(usize, bool)>,
    keepalive_requests: Setting<u64>,
    keepalive_time: Setting<Duration>,
    keepalive_timeout: Setting<Duration>,
}

impl Block {
    /// Syntax: `server address [weight=n] [max_conns=n] [max_fails=n] [fail_timeout=time] [backup] [down];`
    fn server(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut model = Peer::new(addr::Address::Unix(Default::default()));
        let mut backup = false;
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
                ("backup", None) => backup = true,
                ("down", None) => model.down = true,
                _ => return Err(words.invalid_parameter(n)),
            }
        }
        let text = words.arg(0);
        let form = Form { listen: false, uri: false, default_port: 80 };
        let addresses = addr::parse(text, form).and_then(|url| url.addresses());
        let addresses = addresses.map_err(|why| words.fault(0, format!("{why} in upstream \"{text}\"")))?;
        let peers = addresses.into_iter().map(|address| {
            let Peer { weight, max_conns, max_fails, fail_timeout, down, .. } = model;
            Peer { weight, max_conns, max_fails, fail_timeout, down, ..Peer::new(address) }
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
        if words.len() == 2 {
            let size = words.size(1).map_err(|_| words.fault(1, format!("invalid zone size \"{}\"", words.arg(1))))?;
            if size < 8 * 4096 {
                return Err(words.fault(0, format!("zone \"{}\" is too small", words.arg(0))));
            }
        }
        self.zone.set(words.arg(0).to_owned())
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

    fn finish(&self) -> Result<Known, Fault> {
        if self.primary.is_empty() {
            let message = format!("no servers in upstream \"{}\"", self.name);
            return Err(self.at.as_ref().map_or_else(|| Fault::new(&message), |at| Fault::at(&message, at)));
        }
        let default = Keepalive::default();
        let (connections, local) = self.keepalive.or((default.connections, default.local));
        let keepalive = Keepalive {
            connections,
            local,
            requests: self.keepalive_requests.or(default.requests),
            time: self.keepalive_time.or(default.time),
            timeout: self.keepalive_timeout.or(default.timeout),
        };
        let name = Bytes::from(text::bytes(&self.name));
        let group = Group::new(name, self.primary.clone(), self.backup.clone(), Some(keepalive));
        Ok(Known { host: self.name.clone(), port: None, explicit: true, group: Arc::new(group) })
    }
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
        let group = Arc::new(Group::new(name, peers, Vec::new(), None));
        self.add(Known { host: url.host_text.clone(), port: Some(url.port), explicit: false, group: group.clone() });
        Ok(group)
    }
}
