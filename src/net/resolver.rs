//! Names at run time: the `resolver` directive.
//!
//! In: the directive's words. Out: the addresses of a name, asked of those servers alone and remembered as long as they say,
//! or as long as `valid=` says. Each thread asks and remembers for itself; files such as /etc/hosts are not looked at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::FirstAnswer;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use crate::base::addr::{self, Address, Form};
use crate::base::units;

/// See the module's head.
#[derive(Debug)]
pub struct Resolver {
    id: u64,
    servers: Vec<SocketAddr>,
    valid: Option<Duration>,
    v4: bool,
    v6: bool,
    /// Ends with the configuration, and with it what the threads remember.
    alive: Arc<()>,
}

/// An address of a name or a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub address: SocketAddr,
    /// The host that offers the service.
    pub name: String,
    pub weight: u16,
    pub priority: u16,
}

impl From<SocketAddr> for Located {
    fn from(address: SocketAddr) -> Self {
        Self { address, name: String::new(), weight: 1, priority: 0 }
    }
}

/// What came of asking for a name for a group of servers.
pub struct Answer {
    pub found: Result<Vec<Located>, Unresolved>,
    /// How long it holds.
    pub valid: Duration,
    /// Hosts of a service that have no addresses.
    pub failed: Vec<(String, Unresolved)>,
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
    static ASKING: RefCell<HashMap<u64, Asking>> = RefCell::default();
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
        if !v4 && !v6 {
            return Err("\"ipv4\" and \"ipv6\" cannot both be \"off\"".to_owned());
        }
        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok((!servers.is_empty()).then_some(Self { id, servers, valid, v4, v6, alive: Arc::default() }))
    }

    /// The addresses of `name`, at least one. nginx's servers decide about every name, `localhost` too.
    pub async fn resolve(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, Unresolved> {
        let name = full_name(name)?;
        let now = Instant::now();
        let known = |asking: &mut Asking| {
            let known = asking.known.get(&name).filter(|known| known.until > now);
            known.map(|known| known.found.clone())
        };
        if let Some(found) = self.here(known)? {
            return Ok(found);
        }
        // nginx: what was not found is not remembered
        let (found, ttl) = within(timeout, self.ask(&name)).await?;
        let until = Instant::now() + self.valid.unwrap_or(ttl).min(LONGEST);
        self.here(|asking| {
            if asking.known.len() >= KNOWN {
                asking.known.retain(|_, known| known.until > now);
            }
            if asking.known.len() < KNOWN {
                asking.known.insert(name, Known { found: found.clone(), until });
            }
        })?;
        Ok(found)
    }

    /// Asks for the addresses of a name, whatever is remembered of it.
    pub async fn locate(&self, host: &str, timeout: Duration) -> Answer {
        let asked = within(timeout, self.addresses_of(host)).await;
        let (found, valid) = self.judge(asked);
        let located = |ip| Located::from(SocketAddr::new(ip, 0));
        Answer { found: found.map(|all| all.into_iter().map(located).collect()), valid, failed: Vec::new() }
    }

    /// Asks for the hosts that offer a service, and for their addresses: `http` is `_http._tcp`.
    pub async fn locate_service(&self, host: &str, service: &str, timeout: Duration) -> Answer {
        let name = match service.contains('.') {
            true => format!("{service}.{host}"),
            false => format!("_{service}._tcp.{host}"),
        };
        let mut failed = Vec::new();
        let asked = within(timeout, self.hosts_of(&name, &mut failed)).await;
        let (found, valid) = self.judge(asked);
        Answer { found, valid, failed }
    }

    /// How long an answer holds, or a failure.
    fn judge<T>(&self, asked: Result<(T, Duration), Unresolved>) -> (Result<T, Unresolved>, Duration) {
        match asked {
            Ok((found, ttl)) => (Ok(found), self.valid.unwrap_or(ttl)),
            Err(why) => (Err(why), self.valid.unwrap_or(FAILURE)),
        }
    }

    async fn addresses_of(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), Unresolved> {
        self.ask(&full_name(host)?).await
    }

    async fn hosts_of(
        &self,
        name: &str,
        failed: &mut Vec<(String, Unresolved)>,
    ) -> Result<(Vec<Located>, Duration), Unresolved> {
        let (response, mut least) = self.services_of(full_name(name)?).await?;
        let mut all = Vec::new();
        for record in response.answers.iter().take(HOSTS) {
            let RData::SRV(srv) = &record.data else { continue };
            let host = srv.target.to_utf8();
            let host = host.trim_end_matches('.');
            match self.ask(&full_name(host)?).await {
                Ok((addresses, ttl)) => {
                    least = least.min(ttl);
                    all.extend(addresses.into_iter().map(|ip| Located {
                        address: SocketAddr::new(ip, srv.port),
                        name: host.to_owned(),
                        weight: srv.weight,
                        priority: srv.priority,
                    }));
                }
                Err(why) => failed.push((host.to_owned(), why)),
            }
        }
        match failed.first() {
            _ if !all.is_empty() => Ok((all, least)),
            Some((_, why)) if failed.iter().all(|(_, why)| *why != Unresolved::NotFound) => Err(*why),
            Some(_) | None => Err(Unresolved::NotFound),
        }
    }

    /// Asks for addresses of both families, or of the one that is wanted, again and again until somebody answers; and
    /// where there are none and the name is but an alias, for those of what it stands for.
    async fn ask(&self, name: &Name) -> Result<(Vec<IpAddr>, Duration), Unresolved> {
        let mut name = name.clone();
        let mut least = Duration::MAX;
        for _ in 0..ALIASES {
            let server = self.next_server()?;
            let (v4, v6) = tokio::join!(
                self.ask_if(self.v4, server, &name, RecordType::A),
                self.ask_if(self.v6, server, &name, RecordType::AAAA),
            );
            // nginx: half an answer is none
            let answers = [v4?, v6?];
            let found: Vec<IpAddr> = answers.iter().flatten().flat_map(addresses).collect();
            least = answers.iter().flatten().map(ttl).fold(least, Duration::min);
            if !found.is_empty() {
                return Ok((found, least));
            }
            let alias = |response: &Message| alias(response, &name);
            name = answers.iter().flatten().rev().find_map(alias).ok_or(Unresolved::NotFound)?;
        }
        Err(Unresolved::NotFound)
    }

    /// Asks for a service's hosts. With the answer, how long what led to it holds.
    async fn services_of(&self, mut name: Name) -> Result<(Message, Duration), Unresolved> {
        let mut least = Duration::MAX;
        for _ in 0..ALIASES {
            let server = self.next_server()?;
            let response = self.ask_if(true, server, &name, RecordType::SRV).await?.ok_or(Unresolved::NotFound)?;
            least = least.min(ttl(&response));
            if response.answers.iter().any(|record| record.record_type() == RecordType::SRV) {
                return Ok((response, least));
            }
            name = alias(&response, &name).ok_or(Unresolved::NotFound)?;
        }
        Err(Unresolved::NotFound)
    }

    /// `None`: nothing was asked, or there is nothing.
    async fn ask_if(
        &self,
        wanted: bool,
        mut server: usize,
        name: &Name,
        kind: RecordType,
    ) -> Result<Option<Message>, Unresolved> {
        if !wanted {
            return Ok(None);
        }
        loop {
            let pool = self.here(|asking| asking.pools.get(server % asking.pools.len().max(1)).cloned())?;
            let pool = pool.ok_or(Unresolved::ServerFailure)?;
            let query = Query::query(name.clone(), kind);
            let again = Instant::now() + AGAIN;
            let error = match pool.lookup(query, DnsRequestOptions::default()).first_answer().await {
                Ok(response) => return Ok(Some(response.into_message())),
                Err(error) => error,
            };
            match reason(&error) {
                // nginx asks the next one until `resolver_timeout`, which the caller keeps.
                Unresolved::TimedOut => server = server.wrapping_add(1),
                // Nor does it believe one that does not understand the question.
                Unresolved::Format => {
                    tokio::time::sleep_until(again.into()).await;
                    server = server.wrapping_add(1);
                }
                Unresolved::NotFound => return Ok(None),
                why => return Err(why),
            }
        }
    }

    /// nginx: servers are asked in turn.
    fn next_server(&self) -> Result<usize, Unresolved> {
        self.here(|asking| {
            let server = asking.turn;
            asking.turn = server.wrapping_add(1);
            server
        })
    }

    /// This thread's own: its sockets belong to its loop.
    fn here<T>(&self, work: impl FnOnce(&mut Asking) -> T) -> Result<T, Unresolved> {
        ASKING.with_borrow_mut(|all| {
            if !all.contains_key(&self.id) {
                all.retain(|_, asking| asking.alive.strong_count() > 0);
                all.insert(self.id, self.asking()?);
            }
            all.get_mut(&self.id).map(work).ok_or(Unresolved::ServerFailure)
        })
    }

    fn asking(&self) -> Result<Asking, Unresolved> {
        let mut options = ResolverOpts::default();
        options.timeout = AGAIN;
        options.attempts = 1;
        let tls = TlsConfig::new().map_err(|_| Unresolved::ServerFailure)?;
        let context = Arc::new(PoolContext::new(options, tls));
        let pools = self.servers.iter().map(|server| {
            let connection = |mut config: ConnectionConfig| {
                config.port = server.port();
                config
            };
            let ways = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
            let server = NameServerConfig::new(server.ip(), true, ways);
            NameServerPool::from_config([server], context.clone(), TokioRuntimeProvider::default())
        });
        Ok(Asking { alive: Arc::downgrade(&self.alive), pools: pools.collect(), turn: 0, known: HashMap::new() })
    }
}

fn full_name(name: &str) -> Result<Name, Unresolved> {
    let mut name = Name::from_utf8(name).map_err(|_| Unresolved::NotFound)?;
    name.set_fqdn(true);
    Ok(name)
}

async fn within<T>(timeout: Duration, asked: impl Future<Output = Result<T, Unresolved>>) -> Result<T, Unresolved> {
    tokio::time::timeout(timeout, asked).await.unwrap_or(Err(Unresolved::TimedOut))
}

type Pool = NameServerPool<TokioRuntimeProvider>;

/// One resolver's memory in one thread.
struct Asking {
    /// Ends with the configuration.
    alive: Weak<()>,
    /// One for each server.
    pools: Vec<Pool>,
    /// Whose turn it is.
    turn: usize,
    known: HashMap<Name, Known>,
}

struct Known {
    found: Vec<IpAddr>,
    until: Instant,
}

/// nginx asks again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// nginx: after so long a group asks again for a name that does not exist.
const FAILURE: Duration = Duration::from_secs(10);
/// What a record may say is more than a clock can count.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// nginx: so many aliases may stand for one another.
const ALIASES: usize = 50;
/// The most hosts of one service.
const HOSTS: usize = 1000;
/// The most names that one thread remembers.
const KNOWN: usize = 10_000;

/// The addresses in an answer, at the end of whatever aliases.
fn addresses(response: &Message) -> impl Iterator<Item = IpAddr> {
    response.answers.iter().filter_map(|record| match &record.data {
        RData::A(v4) => Some(IpAddr::V4(v4.0)),
        RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
        _ => None,
    })
}

/// How long all of an answer holds.
fn ttl(response: &Message) -> Duration {
    let least = response.answers.iter().map(|record| record.ttl).min();
    least.map_or(Duration::MAX, |least| Duration::from_secs(u64::from(least)))
}

/// What the name stands for, by this answer.
fn alias(response: &Message, name: &Name) -> Option<Name> {
    response.answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name == *name => Some(target.0.clone()),
        _ => None,
    })
}

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
