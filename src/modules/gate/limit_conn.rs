//! `limit_conn`: so many requests of a key at a time.
//!
//! A request counts from here to its end, whatever becomes of it: what it took is given back when it is dropped.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::zone::{self, Keyed, LEVELS, Named, Zone};
use crate::base::units;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Main, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level as LogLevel;
use crate::state::{self, Registry};

/// `ngx_http_limit_conn_module`.
pub struct LimitConn;

impl Module for LimitConn {
    const NAME: &'static str = "http_limit_conn";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::main("limit_conn_zone", HTTP, Arity::Exactly(2), Zones::limit_conn_zone),
        Directive::location("limit_conn", EVERYWHERE, Arity::Exactly(2), Conf::limit_conn),
        Directive::location("limit_conn_log_level", EVERYWHERE, Arity::Exactly(1), Conf::limit_conn_log_level),
        Directive::location("limit_conn_status", EVERYWHERE, Arity::Exactly(1), Conf::limit_conn_status),
        Directive::location("limit_conn_dry_run", EVERYWHERE, Arity::Flag, Conf::limit_conn_dry_run),
    ];
    type Plan = Plan;
    type Main = Zones;
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let status = |request: &Request| {
            let word = request.main().limits.get()?.conn.get()?;
            Some(Bytes::from_static(word.as_bytes()))
        };
        main.vars.define("limit_conn_status", Row::each(status))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let Some(named) = conf.limits.as_ref() else { return Ok(()) };
        let zones = &level.main::<Self>().zones;
        let limit =
            |named: &Named<u32>| Ok(Limit { zone: Zone::find(zones, &named.zone)?.clone(), at_most: named.limit });
        plan.preaccess.push(Box::new(Limits {
            limits: named.iter().map(limit).collect::<Result<_, Fault>>()?,
            level: conf.log_level.or(LogLevel::Error),
            status: conf.status.or(503),
            dry_run: conf.dry_run.or(false),
        }));
        Ok(())
    }
}

/// The zones of the block.
#[derive(Default)]
pub struct Zones {
    zones: Vec<Zone<Store>>,
}

static STORES: Registry<Store> = Registry::new();

impl Zones {
    /// Syntax: `limit_conn_zone key zone=name:size;`
    ///
    /// A zone of the same name and size survives a reload.
    fn limit_conn_zone(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let zone = words.arg(1).strip_prefix("zone=").ok_or_else(|| words.invalid_parameter(1))?;
        let named = Some(zone::name_and_size(words, 1, zone)?);
        let zone = Zone::read(words, named, &self.zones, &STORES, Store::new)?;
        self.zones.push(zone);
        Ok(())
    }
}

impl Section for Zones {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

#[derive(Default)]
pub struct Conf {
    limits: Setting<Vec<Named<u32>>>,
    log_level: Setting<LogLevel>,
    status: Setting<u16>,
    dry_run: Setting<bool>,
}

impl Conf {
    /// Syntax: `limit_conn zone number;`
    fn limit_conn(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let zone = words.arg(0).to_owned();
        let limits = self.limits.list();
        if limits.iter().any(|named| named.zone == zone) {
            return Err(Fault::directive("is duplicate"));
        }
        let number = units::number(words.arg(1)).filter(|number| *number > 0);
        let number =
            number.ok_or_else(|| words.fault(1, format!("invalid number of connections \"{}\"", words.arg(1))))?;
        let limit = u32::try_from(number).ok().filter(|limit| *limit < 65_536);
        let limit = limit.ok_or_else(|| words.fault(1, "connection limit must be less 65536"))?;
        limits.push(Named { zone, limit });
        Ok(())
    }

    /// Syntax: `limit_conn_log_level info | notice | warn | error;`  Default: `error`
    fn limit_conn_log_level(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.log_level.set(words.choice(0, LEVELS)?)
    }

    /// Syntax: `limit_conn_status code;`  Default: `503`
    fn limit_conn_status(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.status.set(zone::status(words)?)
    }

    /// Syntax: `limit_conn_dry_run on | off;`  Default: `off`
    fn limit_conn_dry_run(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.dry_run.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { limits, log_level, status, dry_run } = self;
        limits.inherit(&outer.limits);
        log_level.inherit(&outer.log_level);
        status.inherit(&outer.status);
        dry_run.inherit(&outer.dry_run);
        Ok(())
    }
}

/// All limits of one location.
struct Limits {
    limits: Vec<Limit>,
    level: LogLevel,
    status: u16,
    dry_run: bool,
}

struct Limit {
    zone: Zone<Store>,
    at_most: u32,
}

/// nginx: a key's length is kept in one byte.
const LONGEST_KEY: usize = 255;

impl Gate for Limits {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        let told = request.main().limits.get_or_init(Box::default);
        if told.conn.get().is_some() {
            return Verdict::Next;
        }
        for Limit { zone, at_most } in &self.limits {
            let Zone { name, store, .. } = zone;
            let Some(value) = zone.value(request, LONGEST_KEY) else { continue };
            told.conn.set(Some("PASSED"));
            match Store::take(store, &value, *at_most) {
                Ok(held) => told.held.borrow_mut().push(Box::new(held)),
                Err(refused) => {
                    if refused == Refused::Busy {
                        let dry = if self.dry_run { ", dry run," } else { "" };
                        request.log(self.level, format_args!("limiting connections{dry} by zone \"{name}\""));
                    }
                    told.held.borrow_mut().clear();
                    if self.dry_run {
                        told.conn.set(Some("REJECTED_DRY_RUN"));
                        return Verdict::Next;
                    }
                    told.conn.set(Some("REJECTED"));
                    return Verdict::Refuse(Refusal::Status(self.status));
                }
            }
        }
        Verdict::Next
    }
}

/// The memory of one zone.
pub(super) struct Store {
    key_text: String,
    room: usize,
    inner: Mutex<Counts>,
}

impl Keyed for Store {
    fn key_text(&self) -> &str {
        &self.key_text
    }
}

/// How many there are of each key. Clients choose the keys, so the table's hash is one that they cannot foresee.
#[derive(Default)]
struct Counts {
    counts: HashMap<Bytes, u32>,
    used: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// There are as many as may be.
    Busy,
    /// There is no room for another key.
    Full,
}

/// One that counts, until it is dropped.
struct Held {
    store: Arc<Store>,
    key: Bytes,
}

impl Store {
    fn new(key_text: String, room: usize) -> Self {
        Self { key_text, room, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(store: &Arc<Self>, key: &Bytes, at_most: u32) -> Result<Held, Refused> {
        let mut inner = store.lock();
        match inner.counts.get_mut(key) {
            Some(count) if *count >= at_most => return Err(Refused::Busy),
            Some(count) => *count += 1,
            None => {
                if inner.used + cost(key) > store.room {
                    return Err(Refused::Full);
                }
                inner.used += cost(key);
                // A copy: the value may be a part of a whole head.
                inner.counts.insert(Bytes::copy_from_slice(key), 1);
            }
        }
        Ok(Held { store: store.clone(), key: key.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.store.lock();
        let Some(count) = inner.counts.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            inner.counts.remove(&self.key);
            inner.used = inner.used.saturating_sub(cost(&self.key));
        }
    }
}

/// Bytes that nginx takes for a key: a node of its tree, and what is known of it.
fn cost(key: &[u8]) -> usize {
    state::taken(36 + key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let store = Arc::new(Store::new("$a".to_owned(), 2 * 64));
        let key = |name: &'static str| Bytes::from_static(name.as_bytes());
        let first = Store::take(&store, &key("a"), 2);
        let second = Store::take(&store, &key("a"), 2);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(Store::take(&store, &key("a"), 2).err(), Some(Refused::Busy));
        drop(first);
        let third = Store::take(&store, &key("a"), 2);
        assert!(third.is_ok());
        let other = Store::take(&store, &key("b"), 1);
        assert!(other.is_ok());
        assert_eq!(Store::take(&store, &key("c"), 1).err(), Some(Refused::Full));
        drop((second, third, other));
        let inner = store.lock();
        assert_eq!((inner.used, inner.counts.len()), (0, 0));
    }
}
