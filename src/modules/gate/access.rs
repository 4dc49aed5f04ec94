//! `allow` and `deny`: who may come, by address.
//!
//! The first rule that the client's address fits decides; a client that no rule fits is nobody's business here.

use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use crate::base::addr;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, LIMIT_EXCEPT, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::http::settings::Satisfy;
use crate::log::Level as LogLevel;
use crate::net::accept::Peer;

/// `ngx_http_access_module`.
pub struct Access;

impl Module for Access {
    const NAME: &'static str = "http_access";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("allow", EVERYWHERE.or(LIMIT_EXCEPT), Arity::Exactly(1), Conf::allow),
        Directive::location("deny", EVERYWHERE.or(LIMIT_EXCEPT), Arity::Exactly(1), Conf::deny),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if let Some(rules) = level.location::<Self>().rules.said() {
            let has_v4 = rules.iter().any(|rule| matches!(rule.whom, Whom::All | Whom::Inet(IpNet::V4(_))));
            plan.access.push(Box::new(Rules { rules, has_v4 }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    rules: Setting<Vec<Rule>>,
}

#[derive(Clone, Copy)]
struct Rule {
    whom: Whom,
    deny: bool,
}

#[derive(Clone, Copy)]
enum Whom {
    All,
    /// `unix:`, whatever the path.
    Unix,
    Inet(IpNet),
}

impl Conf {
    /// Syntax: `allow address | CIDR | unix: | all;`
    fn allow(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.rule(words, false)
    }

    /// Syntax: `deny address | CIDR | unix: | all;`
    fn deny(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.rule(words, true)
    }

    fn rule(&mut self, words: &Words<'_>, deny: bool) -> Result<(), Fault> {
        let whom = match words.one() {
            "all" => Whom::All,
            "unix:" => Whom::Unix,
            word => {
                let cidr = addr::cidr(word).ok_or_else(|| words.invalid_parameter(0))?;
                if cidr.meaningless_bits {
                    words.cx.warn(words.fault(0, format!("low address bits of {word} are meaningless")));
                }
                Whom::Inet(cidr.net)
            }
        };
        self.rules.list().push(Rule { whom, deny });
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { rules } = self;
        rules.inherit(&outer.rules);
        Ok(())
    }
}

/// The rules of one location.
struct Rules {
    rules: Vec<Rule>,
    /// Some are about IPv4: then an IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) is one of them.
    has_v4: bool,
}

impl Rules {
    fn rule_for(&self, peer: &Peer) -> Option<&Rule> {
        let address = match peer {
            Peer::Unix(_) => None,
            Peer::Inet(address) => Some(match address.ip() {
                IpAddr::V6(v6) if self.has_v4 => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
                ip => ip,
            }),
        };
        self.rules.iter().find(|rule| match rule.whom {
            Whom::All => true,
            Whom::Unix => address.is_none(),
            Whom::Inet(net) => address.is_some_and(|address| net.contains(&address)),
        })
    }
}

impl Gate for Rules {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        match self.rule_for(request.peer()) {
            None => Verdict::Next,
            Some(Rule { deny: false, .. }) => Verdict::Allow,
            Some(Rule { deny: true, .. }) => {
                // Otherwise it is said when nobody else lets the client in.
                if request.plan().core.satisfy == Satisfy::All {
                    request.log(LogLevel::Error, format_args!("access forbidden by rule"));
                }
                Verdict::Refuse(Refusal::Status(403))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn rules(words: &[&str]) -> Rules {
        let rule = |word: &&str| {
            let (verb, whom) = word.split_once(' ').expect("two words");
            let whom = match whom {
                "all" => Whom::All,
                "unix:" => Whom::Unix,
                net => Whom::Inet(addr::cidr(net).expect("a range").net),
            };
            Rule { whom, deny: verb == "deny" }
        };
        let rules: Vec<Rule> = words.iter().map(rule).collect();
        let has_v4 = rules.iter().any(|rule| matches!(rule.whom, Whom::All | Whom::Inet(IpNet::V4(_))));
        Rules { rules, has_v4 }
    }

    fn denied(rules: &Rules, ip: &str) -> Option<bool> {
        let ip: IpAddr = ip.parse().expect("an address");
        rules.rule_for(&Peer::Inet(SocketAddr::new(ip, 1))).map(|rule| rule.deny)
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let both = rules(&["allow 192.0.2.0/24", "deny 192.0.2.1", "allow 2001:db8::/32", "deny all"]);
        for (ip, expected) in [
            ("192.0.2.1", Some(false)),
            ("192.0.3.1", Some(true)),
            ("2001:db8::1", Some(false)),
            ("2001:db9::1", Some(true)),
            ("::ffff:192.0.2.1", Some(false)),
            ("::ffff:192.0.3.1", Some(true)),
        ] {
            assert_eq!(denied(&both, ip), expected, "{ip}");
        }
        assert_eq!(denied(&rules(&["deny 192.0.2.1"]), "2001:db8::1"), None);
        assert_eq!(denied(&rules(&["deny ::ffff:0:0/96"]), "::ffff:192.0.2.1"), Some(true));
        assert_eq!(denied(&rules(&["deny unix:"]), "192.0.2.1"), None);
    }
}
