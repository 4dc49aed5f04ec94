//! Names at run time: the `resolver` directive.
//!
//! In: the directive's words. Out: the addresses of a name, asked of those servers alone and remembered as long as they say,
//! or as long as `valid=` says. Each thread asks and remembers for itself; files such as /etc/hosts are not looked at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

use crate::base::addr::{self, Address, Form};
use crate::base::units;

/// See the module's head.
#[derive(Debug)]
pub struct Resolver {
    id: u64,
    servers: Vec<SocketAddr>,
    valid: Option<Duration>,
    families: LookupIpStrategy,
    /// Ends with the configuration, and with it what the threads remember.
    alive: Arc<()>,
}

/// Why a name has no addresses: nginx's number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    Format,
    ServerFailure,
    NotFound,
    NotImplemented,
    Refused,
    TimedOut,
}

impl Unresolved {
    /// `3: Host not found`
    pub fn text(self) -> &'static str {
        match self {
            Self::Format => "1: Format error",
            Self::ServerFailure => "2: Server failure",
            Self::NotFound => "3: Host not found",
            Self::NotImplemented => "4: Unimplemented",
            Self::Refused => "5: Operation refused",
            Self::TimedOut => "110: Operation timed out",
        }
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static ASKING: RefCell<HashMap<u64, (Weak<()>, TokioResolver)>> = RefCell::default();
}

impl Resolver {
    /// Reads the words of the directive; `None` for `resolver off`. The error is nginx's sentence.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, String> {
        let mut servers = Vec::new();
        let mut valid = None;
        let (mut v4, mut v6) = (true, true);
        for word in words {
            let flag = |value: &str| match value {
                "on" => Ok(true),
                "off" => Ok(false),
                _ => Err(format!("invalid parameter: {word}")),
            };
            if let Some(value) = word.strip_prefix("valid=") {
                let time = units::seconds(value).ok_or_else(|| format!("invalid parameter: {word}"))?;
                valid = Some(Duration::from_secs(time));
            } else if let Some(value) = word.strip_prefix("ipv4=") {
                v4 = flag(value)?;
            } else if let Some(value) = word.strip_prefix("ipv6=") {
                v6 = flag(value)?;
            } else if word == "off" {
                return Ok(None);
            } else if !word.starts_with("status_zone=") {
                let form = Form { listen: false, uri: false, default_port: 53 };
                let found = addr::parse(word, form).and_then(|url| url.addresses());
                let found = found.map_err(|why| format!("{why} in resolver \"{word}\""))?;
                servers.extend(found.into_iter().filter_map(|address| match address {
                    Address::Inet(inet) => Some(inet),
                    Address::Unix(_) => None,
                }));
            }
        }
        let families = match (v4, v6) {
            (true, true) => LookupIpStrategy::Ipv4AndIpv6,
            (true, false) => LookupIpStrategy::Ipv4Only,
            (false, true) => LookupIpStrategy::Ipv6Only,
            (false, false) => return Err("\"ipv4\" and \"ipv6\" cannot both be \"off\"".to_owned()),
        };
        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok((!servers.is_empty()).then_some(Self { id, servers, valid, families, alive: Arc::default() }))
    }

    /// The addresses of `name`, at least one.
    pub async fn resolve(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, Unresolved> {
        let asking = self.here(timeout)?;
        // A name is meant as it stands, whether or not it ends in a dot: there is no search list.
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        match tokio::time::timeout(timeout, asking.lookup_ip(name)).await {
            Err(_) => Err(Unresolved::TimedOut),
            Ok(Err(error)) => Err(reason(&error)),
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() { Err(Unresolved::NotFound) } else { Ok(addresses) }
            }
        }
    }

    /// This thread's own: its sockets belong to its loop.
    fn here(&self, timeout: Duration) -> Result<TokioResolver, Unresolved> {
        ASKING.with_borrow_mut(|asking| {
            if let Some((_, known)) = asking.get(&self.id) {
                return Ok(known.clone());
            }
            let servers = self.servers.iter().map(|server| {
                let connection = |mut config: ConnectionConfig| {
                    config.port = server.port();
                    config
                };
                let ways = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
                NameServerConfig::new(server.ip(), true, ways)
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            let options = builder.options_mut();
            options.ip_strategy = self.families;
            options.use_hosts_file = ResolveHosts::Never;
            options.positive_min_ttl = self.valid;
            options.positive_max_ttl = self.valid;
            options.negative_min_ttl = self.valid;
            options.negative_max_ttl = self.valid;
            // nginx asks again every 5 seconds until `resolver_timeout`.
            options.timeout = AGAIN.min(timeout);
            options.attempts = usize::try_from(timeout.as_secs() / AGAIN.as_secs()).unwrap_or(1).max(1);
            let built = builder.build().map_err(|_| Unresolved::ServerFailure)?;
            asking.retain(|_, (alive, _)| alive.strong_count() > 0);
            asking.insert(self.id, (Arc::downgrade(&self.alive), built.clone()));
            Ok(built)
        })
    }
}

const AGAIN: Duration = Duration::from_secs(5);

fn reason(error: &NetError) -> Unresolved {
    match error {
        NetError::Timeout => Unresolved::TimedOut,
        NetError::Dns(DnsError::NoRecordsFound(none)) => code(none.response_code),
        NetError::Dns(DnsError::ResponseCode(response)) => code(*response),
        _ => Unresolved::ServerFailure,
    }
}

fn code(code: ResponseCode) -> Unresolved {
    match code {
        ResponseCode::FormErr => Unresolved::Format,
        ResponseCode::NotImp => Unresolved::NotImplemented,
        ResponseCode::Refused => Unresolved::Refused,
        ResponseCode::NoError | ResponseCode::NXDomain => Unresolved::NotFound,
        _ => Unresolved::ServerFailure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_directive() {
        let read =
            |words: &str| Resolver::read(words.split(' ')).map(|resolver| resolver.map(|it| (it.servers, it.valid)));
        let one: SocketAddr = "127.0.0.1:53".parse().expect("an address");
        let two: SocketAddr = "[::1]:5353".parse().expect("an address");
        let half_a_minute = Some(Duration::from_secs(30));
        assert_eq!(read("127.0.0.1 [::1]:5353 valid=30s ipv6=off"), Ok(Some((vec![one, two], half_a_minute))));
        assert_eq!(read("off"), Ok(None));
        assert_eq!(read("127.0.0.1 valid=x"), Err("invalid parameter: valid=x".to_owned()));
        assert_eq!(read("127.0.0.1 ipv6=maybe"), Err("invalid parameter: ipv6=maybe".to_owned()));
        assert_eq!(read("127.0.0.1:0"), Err("invalid port in resolver \"127.0.0.1:0\"".to_owned()));
        assert!(read("127.0.0.1 ipv4=off ipv6=off").is_err());
    }
}
