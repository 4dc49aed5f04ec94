//! `realip`: who the client is behind the proxies in front of us.
//!
//! In: a request of somebody whose word is believed, with a field (or a PROXY protocol header) that names a client. Out:
//! that client is who asks, for everything that looks at addresses and for the logs. The rule: it is found once in a
//! request, when it is read or where its location says more. nginx: `ngx_http_realip_module`.

use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::addr::{self, Address};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Main, Plan, Verdict};
use crate::http::request::{Client, Request};
use crate::http::vars;
use crate::wire::forwarded::{self, Trusted};

/// `ngx_http_realip_module`.
pub struct RealIp;

impl Module for RealIp {
    const NAME: &'static str = "http_realip";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("set_real_ip_from", EVERYWHERE, Arity::Exactly(1), Conf::set_real_ip_from),
        Directive::location("real_ip_header", EVERYWHERE, Arity::Exactly(1), Conf::real_ip_header),
        Directive::location("real_ip_recursive", EVERYWHERE, Arity::Flag, Conf::real_ip_recursive),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars.define("realip_remote_addr", Row::once(|r: &Request| Some(r.connection.client().clone())))?;
        main.vars.define("realip_remote_port", Row::lent(|r| Some(vars::port(r.connection.peer.port().unwrap_or(0)))))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let Some(from) = conf.set_real_ip_from.said() else { return Ok(()) };
        let finder = Arc::new(Finder {
            from,
            told_by: conf.real_ip_header.or_else(|| TellTale::Field("X-Real-IP".into())),
            recursive: conf.real_ip_recursive.or(false),
        });
        plan.post_read.push(Box::new(finder.clone()));
        plan.preaccess.push(Box::new(finder));
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    set_real_ip_from: Setting<Trusted>,
    real_ip_header: Setting<TellTale>,
    real_ip_recursive: Setting<bool>,
}

/// What names the client.
#[derive(Clone)]
enum TellTale {
    /// The first field of this name.
    Field(String),
    /// All lines of `X-Forwarded-For`.
    Forwarded,
    ProxyProtocol,
}

impl Conf {
    /// Syntax: `set_real_ip_from address | CIDR | unix: | hostname;`
    fn set_real_ip_from(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.one();
        let from = self.set_real_ip_from.list();
        if word == "unix:" {
            from.unix = true;
            return Ok(());
        }
        if let Some(cidr) = addr::cidr(word) {
            if cidr.meaningless_bits {
                words.cx.warn(words.fault(0, format!("low address bits of {word} are meaningless")));
            }
            from.nets.push(cidr.net);
            return Ok(());
        }
        let found =
            addr::resolve(word).map_err(|error| words.fault(0, format!("{error} in set_real_ip_from \"{word}\"")))?;
        from.nets.extend(found.into_iter().map(|address| IpNet::from(address.ip())));
        Ok(())
    }

    /// Syntax: `real_ip_header field | X-Real-IP | X-Forwarded-For | proxy_protocol;`  Default: `X-Real-IP`
    fn real_ip_header(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.real_ip_header.set(match words.one() {
            "X-Forwarded-For" => TellTale::Forwarded,
            "proxy_protocol" => TellTale::ProxyProtocol,
            field => TellTale::Field(field.to_owned()),
        })
    }

    /// Syntax: `real_ip_recursive on | off;`  Default: `off`
    fn real_ip_recursive(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.real_ip_recursive.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { set_real_ip_from, real_ip_header, real_ip_recursive } = self;
        set_real_ip_from.inherit(&outer.set_real_ip_from);
        real_ip_header.inherit(&outer.real_ip_header);
        real_ip_recursive.inherit(&outer.real_ip_recursive);
        Ok(())
    }
}

/// `set_real_ip_from` at one location, resolved.
struct Finder {
    from: Trusted,
    told_by: TellTale,
    recursive: bool,
}

impl Gate for Arc<Finder> {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        let main = request.main();
        if main.named.get().is_none()
            && let Some(client) = self.find(request)
        {
            let text = text::bytes(&client.host()).into();
            let _ = main.named.set(Box::new(Client { peer: client, text })); // it was empty a moment ago
        }
        Verdict::Next
    }
}

impl Finder {
    fn find(&self, request: &Request) -> Option<Address> {
        let peer = &request.connection.peer;
        let client = |line: &[u8]| forwarded::client(peer, [line].into_iter(), &self.from, self.recursive);
        match &self.told_by {
            TellTale::Field(name) => client(request.field(name)?),
            TellTale::Forwarded => {
                let lines: Vec<&[u8]> = request.head.fields.all("X-Forwarded-For").map(|line| line.value).collect();
                forwarded::client(peer, lines.into_iter(), &self.from, self.recursive)
            }
            TellTale::ProxyProtocol => {
                let source = &request.connection.proxied.get()?.header.proxied.as_ref()?.source;
                let Address::Inet(mut inet) = client(source.addr.as_bytes())? else { return None };
                inet.set_port(source.port);
                Some(Address::Inet(inet))
            }
        }
    }
}
