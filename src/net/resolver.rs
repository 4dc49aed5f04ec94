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
        let name = Name::from_utf8(name).map(|mut name| {
            name.set_fqdn(true);
            name
        });
        let name = name.map_err(|_| Unresolved::NotFound)?;
        let now = Instant::now();
        let known = |asking: &mut Asking| asking.known.get(&name).filter(|known| known.until > now).map(Known::found);
        if let Some(found) = self.here(known)? {
            return found;
        }
        let pool = self.here(|asking| asking.pool.clone())?;
        let (found, ttl) = match tokio::time::timeout(timeout, self.ask(&pool, &name)).await {
            Err(_) => return Err(Unresolved::TimedOut),
            Ok(Err(Unresolved::TimedOut)) => return Err(Unresolved::TimedOut),
            Ok(Err(why)) => (Err(why), FAILURE),
            Ok(Ok((addresses, ttl))) => (Ok(addresses), ttl),
        };
        let until = Instant::now() + self.valid.unwrap_or(ttl);
        self.here(|asking| {
            if asking.known.len() >= KNOWN {
                asking.known.retain(|_, known| known.until > now);
            }
            if asking.known.len() < KNOWN {
                asking.known.insert(name, Known { found: found.clone(), until });
            }
        })?;
        found
    }

    /// Asks for addresses of both families, or of the one that is wanted, again and again until somebody answers.
    async fn ask(&self, pool: &Pool, name: &Name) -> Result<(Vec<IpAddr>, Duration), Unresolved> {
        let (v4, v6) = tokio::join!(
            self.ask_for(pool, name, RecordType::A, self.v4),
            self.ask_for(pool, name, RecordType::AAAA, self.v6),
        );
        let mut all = Vec::new();
        let mut least = Duration::MAX;
        let mut failed = Unresolved::NotFound;
        for answer in [v4, v6].into_iter().flatten() {
            match answer {
                Ok((mut addresses, ttl)) => {
                    all.append(&mut addresses);
                    least = least.min(ttl);
                }
                Err(why) => failed = why,
            }
        }
        if all.is_empty() { Err(failed) } else { Ok((all, least)) }
    }

    async fn ask_for(
        &self,
        pool: &Pool,
        name: &Name,
        kind: RecordType,
        wanted: bool,
    ) -> Option<Result<(Vec<IpAddr>, Duration), Unresolved>> {
        if !wanted {
            return None;
        }
        loop {
            let query = Query::query(name.clone(), kind);
            let error = match pool.lookup(query, DnsRequestOptions::default()).first_answer().await {
                Ok(response) => return Some(addresses(&response)),
                Err(error) => error,
            };
            match reason(&error) {
                // nginx asks again until `resolver_timeout`, which the caller keeps.
                Unresolved::TimedOut => {}
                why => return Some(Err(why)),
            }
        }
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
        let servers = self.servers.iter().map(|server| {
            let connection = |mut config: ConnectionConfig| {
                config.port = server.port();
                config
            };
            let ways = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
            NameServerConfig::new(server.ip(), true, ways)
        });
        let mut options = ResolverOpts::default();
        options.timeout = AGAIN;
        options.attempts = 1;
        let tls = TlsConfig::new().map_err(|_| Unresolved::ServerFailure)?;
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Ok(Asking { alive: Arc::downgrade(&self.alive), pool, known: HashMap::new() })
    }
}

type Pool = NameServerPool<TokioRuntimeProvider>;

/// One resolver's memory in one thread.
struct Asking {
    /// Ends with the configuration.
    alive: Weak<()>,
    pool: Pool,
    known: HashMap<Name, Known>,
}

struct Known {
    found: Result<Vec<IpAddr>, Unresolved>,
    until: Instant,
}

impl Known {
    fn found(&self) -> Result<Vec<IpAddr>, Unresolved> {
        self.found.clone()
    }
}

/// nginx asks again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// nginx: how long a failure is remembered.
const FAILURE: Duration = Duration::from_secs(10);
/// The most names that one thread remembers.
const KNOWN: usize = 10_000;

/// The addresses in an answer, at the end of whatever aliases, and how long they hold.
fn addresses(response: &Message) -> Result<(Vec<IpAddr>, Duration), Unresolved> {
    let mut found = Vec::new();
    let mut ttl = u32::MAX;
    for record in &response.answers {
        let address = match &record.data {
            RData::A(v4) => IpAddr::V4(v4.0),
            RData::AAAA(v6) => IpAddr::V6(v6.0),
            _ => continue,
        };
        found.push(address);
        ttl = ttl.min(record.ttl);
    }
    if found.is_empty() { Err(Unresolved::NotFound) } else { Ok((found, Duration::from_secs(u64::from(ttl)))) }
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
