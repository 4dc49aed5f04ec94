//! Groups whose servers are found by name while they work: `server … resolve`, and `service=`.
//!
//! ```text
//! a name ─► the resolver ─► addresses ─► a new group, with the standing of those that stay ─► `current`
//! ```
//!
//! A group never changes; another takes its place. What a request holds it lets go of in both, so that the new one's counts
//! are right. What was found is kept beside the zone of the group's name, and a reload begins with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::balance::Method;
use super::group::Group;
use super::peer::Peer;
use crate::base::addr::Address;
use crate::log::Level;
use crate::log::error::{self, Context};
use crate::net::resolver::{Located, Resolver, Unresolved};

/// See the module's head.
pub struct Moving {
    current: ArcSwap<Group>,
    /// Held while the group changes, and while a peer of it is taken or let go.
    change: Mutex<()>,
    setup: Setup,
    begun: AtomicBool,
}

/// What a group is made of, again and again.
pub struct Setup {
    pub name: String,
    /// Those that have addresses, primary ones and backups.
    pub fixed: [Vec<Peer>; 2],
    pub names: Vec<Named>,
    /// The method takes backups.
    pub knows_backups: bool,
    /// Peers need ids.
    pub is_sticky: bool,
    pub method: MakeMethod,
    /// Gives a new group what does not change.
    pub finish: Finish,
    pub resolver: Arc<Resolver>,
    pub timeout: Duration,
    pub found: Arc<Found>,
}

type MakeMethod = Box<dyn Fn(&[Peer]) -> Method + Send + Sync>;
type Finish = Box<dyn Fn(&mut Group) + Send + Sync>;

/// A server that is found by its name.
#[derive(Clone, Debug)]
pub struct Named {
    pub host: String,
    /// `http`, `_http._tcp`; empty: the name's own addresses, with this port.
    pub service: String,
    pub port: u16,
    /// What its peers have in common.
    pub model: Peer,
    pub is_backup: bool,
}

/// What names were found to be, and until when.
#[derive(Debug, Default)]
pub struct Found(Mutex<HashMap<Key, (Vec<Located>, Instant)>>);

/// A group, a host, a service.
type Key = (String, String, String);

impl std::fmt::Debug for Moving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving").field("name", &self.setup.name).finish_non_exhaustive()
    }
}

impl Moving {
    pub fn new(setup: Setup) -> Arc<Self> {
        Arc::new_cyclic(|home| {
            let [primary, backup] = setup.peers();
            let method = (setup.method)(&primary);
            let mut group = Group::of(setup.name.clone().into_bytes().into(), primary, backup, method);
            (setup.finish)(&mut group);
            group.stay_at(home.clone());
            Self { current: ArcSwap::from_pointee(group), change: Mutex::new(()), setup, begun: AtomicBool::new(false) }
        })
    }

    /// The group as it is now.
    pub fn current(&self) -> Arc<Group> {
        self.current.load_full()
    }

    /// As [`Moving::current`], which does not change until the guard is dropped.
    pub fn hold(&self) -> (MutexGuard<'_, ()>, Arc<Group>) {
        let guard = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        (guard, self.current())
    }

    /// Begins to ask for the names, on this thread. They are asked for until nobody has the group any more.
    pub fn begin(self: &Arc<Self>) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            for n in 0..self.setup.names.len() {
                tokio::task::spawn_local(follow(Arc::downgrade(self), n));
            }
        }
    }

    /// Asks for a name. Returns after how long to ask again.
    async fn ask(&self, n: usize) -> Duration {
        let Setup { resolver, timeout, found, names, .. } = &self.setup;
        let Some(name) = names.get(n) else { return *timeout };
        let answer = match name.service.is_empty() {
            true => resolver.locate(&name.host, *timeout).await,
            false => resolver.locate_service(&name.host, &name.service, *timeout).await,
        };
        for (target, why) in &answer.failed {
            let (text, service, host) = (why.text(), &name.service, &name.host);
            log(format_args!("{target} could not be resolved ({text}) while resolving service {service} of {host}"));
        }
        let located = match answer.found {
            Ok(located) => located,
            Err(why) => {
                let (host, service, text) = (&name.host, &name.service, why.text());
                match service.is_empty() {
                    true => log(format_args!("{host} could not be resolved ({text})")),
                    false => log(format_args!("service {service} of {host} could not be resolved ({text})")),
                }
                if why != Unresolved::NotFound {
                    // nginx: what was known goes on being true
                    return (*timeout).max(SECOND);
                }
                Vec::new()
            }
        };
        let valid = answer.valid.min(LONGEST);
        found.put(self.setup.key(name), located, Instant::now() + valid);
        self.change();
        valid + SECOND
    }

    /// Makes the group anew of what is known.
    fn change(&self) {
        let [primary, backup] = self.setup.peers();
        let (_guard, before) = self.hold();
        if before.consists_of(&primary, &backup) {
            return;
        }
        let method = (self.setup.method)(&primary);
        self.current.store(Arc::new(before.successor(primary, backup, method, &self.setup.finish)));
    }
}

async fn follow(home: Weak<Moving>, n: usize) {
    let mut wait = match home.upgrade() {
        Some(moving) => moving.setup.remaining(n),
        None => return,
    };
    loop {
        tokio::time::sleep(wait).await;
        let Some(moving) = home.upgrade() else { return };
        wait = moving.ask(n).await;
    }
}

#[cold]
fn log(message: std::fmt::Arguments<'_>) {
    if let Some(log) = error::main() {
        log.write(Level::Error, &Context::default(), message);
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// What a record may say is more than a clock can count.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Setup {
    fn key(&self, named: &Named) -> Key {
        (self.name.clone(), named.host.clone(), named.service.clone())
    }

    /// How long what is known of a name holds.
    fn remaining(&self, n: usize) -> Duration {
        let until = self.names.get(n).and_then(|named| Some(self.found.get(&self.key(named))?.1));
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// All peers that are known, primary ones and backups.
    fn peers(&self) -> [Vec<Peer>; 2] {
        let mut ranks = self.fixed.clone();
        for named in &self.names {
            let Some((located, _)) = self.found.get(&self.key(named)) else { continue };
            let first = located.iter().map(|located| located.priority).min().unwrap_or(0);
            for located in located {
                let is_first = located.priority == first;
                let rank = match (named.is_backup, is_first) {
                    (false, true) => 0,
                    (false, false) if self.knows_backups => 1,
                    (true, true) => 1,
                    // nginx: there is nobody behind the backups
                    (false | true, false) => continue,
                };
                ranks[rank].push(named.peer(located));
            }
        }
        if self.is_sticky {
            ranks.iter_mut().flatten().for_each(Peer::identify);
        }
        ranks
    }
}

impl Named {
    fn peer(&self, located: Located) -> Peer {
        let mut address = located.address;
        let mut peer = self.model.clone();
        if self.service.is_empty() {
            address.set_port(self.port);
        } else {
            peer.server = Bytes::from(located.name);
            if peer.weight == 1 {
                peer.weight = i64::from(located.weight.max(1));
            }
        }
        let Peer { name, address, .. } = Peer::new(Address::Inet(address));
        Peer { name, address, ..peer }
    }
}

impl Found {
    fn get(&self, key: &Key) -> Option<(Vec<Located>, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: Key, mut located: Vec<Located>, until: Instant) {
        // Servers rotate their answers: an order of our own tells whether anything has changed.
        located.sort_by(|one, other| {
            (one.priority, one.address, &one.name).cmp(&(other.priority, other.address, &other.name))
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (located, until));
    }
}
