//! `limit_req`: so many requests in a time, by a key; bursts wait or pass, what is beyond them is refused.
//!
//! A leaky bucket for each key: a request fills in a thousand, time takes out `rate` a second, and what is in it, the
//! excess, decides: up to `delay` it passes, up to `burst` it waits until it would not have exceeded, beyond that it is
//! refused. Excess and rate are counted in thousandths, as in nginx, so that both come to the same numbers.
//!
//! The rule: a zone holds what its size allows. It forgets the key that was quiet for longest first, and refuses when all
//! others have requests that wait for another zone's word.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::zone::{self, Keyed, LEVELS, Named, Zone};
use crate::base::row::{Place, Row};
use crate::base::{clock, units};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Main, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level as LogLevel;
use crate::state::{self, Registry};

/// `ngx_http_limit_req_module`.
pub struct LimitReq;

impl Module for LimitReq {
    const NAME: &'static str = "http_limit_req";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::main("limit_req_zone", HTTP, Arity::Exactly(3), Zones::limit_req_zone),
        Directive::location("limit_req", EVERYWHERE, Arity::Between(1, 3), Conf::limit_req),
        Directive::location("limit_req_log_level", EVERYWHERE, Arity::Exactly(1), Conf::limit_req_log_level),
        Directive::location("limit_req_status", EVERYWHERE, Arity::Exactly(1), Conf::limit_req_status),
        Directive::location("limit_req_dry_run", EVERYWHERE, Arity::Flag, Conf::limit_req_dry_run),
    ];
    type Plan = Plan;
    type Main = Zones;
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let status = |request: &Request| {
            let word = request.main().limits.get()?.req.get()?;
            Some(Bytes::from_static(word.as_bytes()))
        };
        main.vars.define("limit_req_status", vars::Row::each(status))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let Some(named) = conf.limits.as_ref() else { return Ok(()) };
        let zones = &level.main::<Self>().zones;
        let limit = |named: &Named<Bucket>| {
            let zone = Zone::find(zones, &named.zone)?.clone();
            let Bucket { burst, delay, .. } = named.limit;
            let rate = level.main::<Self>().rate(&named.zone);
            Ok(Limit { zone, bucket: Bucket { rate, burst, delay } })
        };
        let refused = conf.log_level.or(LogLevel::Error);
        plan.preaccess.push(Box::new(Limits {
            limits: named.iter().map(limit).collect::<Result<_, Fault>>()?,
            refused,
            delayed: match refused {
                LogLevel::Error => LogLevel::Warn,
                LogLevel::Warn => LogLevel::Notice,
                _ => LogLevel::Info,
            },
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
    /// Thousandths of requests a second, of each.
    rates: Vec<u64>,
}

static STORES: Registry<Store> = Registry::new();

impl Zones {
    /// Syntax: `limit_req_zone key zone=name:size rate=rate;`
    ///
    /// A zone of the same name and size survives a reload.
    fn limit_req_zone(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let (mut named, mut rate, mut scale) = (None, 1, 1);
        for (n, word) in words.texts().enumerate().skip(1) {
            if let Some(zone) = word.strip_prefix("zone=") {
                named = Some(zone::name_and_size(words, n, zone)?);
            } else if let Some(text) = word.strip_prefix("rate=") {
                let (text, unit) = match text.strip_suffix("r/s") {
                    Some(text) => (text, 1),
                    None => text.strip_suffix("r/m").map_or((text, scale), |text| (text, 60)),
                };
                let invalid = || words.fault(n, format!("invalid rate \"{word}\""));
                rate = units::number(text).filter(|rate| *rate > 0).ok_or_else(invalid)?;
                scale = unit;
            } else {
                return Err(words.invalid_parameter(n));
            }
        }
        let zone = Zone::read(words, named, &self.zones, &STORES, Store::new)?;
        self.zones.push(zone);
        self.rates.push(rate.saturating_mul(1000) / scale);
        Ok(())
    }

    fn rate(&self, name: &str) -> u64 {
        let place = self.zones.iter().position(|zone| zone.name == name);
        place.and_then(|place| self.rates.get(place)).copied().unwrap_or(1000)
    }
}

impl Section for Zones {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

#[derive(Default)]
pub struct Conf {
    limits: Setting<Vec<Named<Bucket>>>,
    log_level: Setting<LogLevel>,
    status: Setting<u16>,
    dry_run: Setting<bool>,
}

/// Requests, in thousandths.
#[derive(Clone, Copy)]
struct Bucket {
    /// What leaves in a second.
    rate: u64,
    burst: u64,
    delay: u64,
}

impl Conf {
    /// Syntax: `limit_req zone=name [burst=number] [nodelay | delay=number];`
    fn limit_req(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let (mut zone, mut burst, mut delay) = (None, 0, 0);
        for (n, word) in words.texts().enumerate() {
            let number = |text: &str| units::number(text).filter(|number| *number > 0);
            if let Some(name) = word.strip_prefix("zone=") {
                zone = Some(name.to_owned());
            } else if let Some(text) = word.strip_prefix("burst=") {
                burst = number(text).ok_or_else(|| words.fault(n, format!("invalid burst value \"{word}\"")))?;
            } else if let Some(text) = word.strip_prefix("delay=") {
                delay = number(text).ok_or_else(|| words.fault(n, format!("invalid delay value \"{word}\"")))?;
            } else if word == "nodelay" {
                delay = u64::MAX;
            } else {
                return Err(words.invalid_parameter(n));
            }
        }
        let missing = || Fault::at("\"limit_req\" must have \"zone\" parameter", words.at());
        let zone = zone.ok_or_else(missing)?;
        let limits = self.limits.list();
        if limits.iter().any(|named| named.zone == zone) {
            return Err(Fault::directive("is duplicate"));
        }
        let (burst, delay) = (burst.saturating_mul(1000), delay.saturating_mul(1000));
        limits.push(Named { zone, limit: Bucket { rate: 0, burst, delay } });
        Ok(())
    }

    /// Syntax: `limit_req_log_level info | notice | warn | error;`  Default: `error`
    fn limit_req_log_level(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.log_level.set(words.choice(0, LEVELS)?)
    }

    /// Syntax: `limit_req_status code;`  Default: `503`
    fn limit_req_status(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.status.set(zone::status(words)?)
    }

    /// Syntax: `limit_req_dry_run on | off;`  Default: `off`
    fn limit_req_dry_run(&mut self, words: &Words<'_>) -> Result<(), Fault> {
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
    refused: LogLevel,
    delayed: LogLevel,
    status: u16,
    dry_run: bool,
}

struct Limit {
    zone: Zone<Store>,
    bucket: Bucket,
}

/// nginx: a key's length is kept in two bytes.
const LONGEST_KEY: usize = 65_535;

impl Gate for Limits {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        let told = &request.main().limits.get_or_init(Box::default).req;
        if told.get().is_some() {
            return Verdict::Next;
        }
        let now = clock::now();
        // Zones in which the key is remembered until the last of them has had its say.
        let mut held: Vec<(&Limit, Bytes)> = Vec::new();
        let mut last = None;
        for (n, limit) in self.limits.iter().enumerate() {
            let Zone { name, store, .. } = &limit.zone;
            let Some(value) = limit.zone.value(request, LONGEST_KEY) else { continue };
            let account = n + 1 == self.limits.len();
            match store.lock().look_up(&value, limit.bucket, now, account) {
                Found::Held => held.push((limit, value)),
                Found::Counted(excess) => {
                    last = Some((limit, excess));
                }
                Found::Busy(excess) => {
                    let (whole, part) = (excess / 1000, excess % 1000);
                    let dry = if self.dry_run { ", dry run" } else { "" };
                    let message = format_args!("limiting requests{dry}, excess: {whole}.{part:03} by zone \"{name}\"");
                    request.log(self.refused, message);
                    return self.refuse(request, &held);
                }
                Found::Full => {
                    let message = format_args!("could not allocate node in limit_req zone \"{name}\"");
                    request.log(LogLevel::Alert, message);
                    return self.refuse(request, &held);
                }
            }
        }
        if held.is_empty() && last.is_none() {
            return Verdict::Next;
        }
        let mut longest = Duration::ZERO;
        let mut by = None;
        let mut consider = |limit: &'a Limit, excess: u64| {
            let delay = limit.bucket.delay_for(excess);
            if delay > longest {
                (longest, by) = (delay, Some((limit, excess)));
            }
        };
        if let Some((limit, excess)) = last {
            consider(limit, excess);
        }
        for (limit, value) in held.iter().rev() {
            let excess = limit.zone.store.lock().account(value, limit.bucket.rate, now);
            consider(limit, excess);
        }
        let Some((limit, excess)) = by else {
            told.set(Some("PASSED"));
            return Verdict::Next;
        };
        let (whole, part, name) = (excess / 1000, excess % 1000, &limit.zone.name);
        let dry = if self.dry_run { ", dry run" } else { "" };
        let message = format_args!("delaying request{dry}, excess: {whole}.{part:03}, by zone \"{name}\"");
        request.log(self.delayed, message);
        if self.dry_run {
            told.set(Some("DELAYED_DRY_RUN"));
            return Verdict::Next;
        }
        told.set(Some("DELAYED"));
        Verdict::Wait(Box::pin(async move {
            tokio::time::sleep(longest).await;
            Verdict::Next
        }))
    }
}

impl Limits {
    fn refuse(&self, request: &Request, held: &[(&Limit, Bytes)]) -> Verdict<'static> {
        for (limit, value) in held {
            limit.zone.store.lock().release(value);
        }
        let told = &request.main().limits.get_or_init(Box::default).req;
        if self.dry_run {
            told.set(Some("REJECTED_DRY_RUN"));
            return Verdict::Next;
        }
        told.set(Some("REJECTED"));
        Verdict::Refuse(Refusal::Status(self.status))
    }
}

impl Bucket {
    /// How long a request waits that leaves `excess` in the bucket.
    fn delay_for(self, excess: u64) -> Duration {
        let beyond = excess.saturating_sub(self.delay);
        Duration::from_millis(beyond * 1000 / self.rate.max(1))
    }
}

/// The memory of one zone.
pub(super) struct Store {
    key_text: String,
    room: usize,
    inner: Mutex<Buckets>,
}

impl Keyed for Store {
    fn key_text(&self) -> &str {
        &self.key_text
    }
}

/// What a zone knows of each key. Clients choose the keys, so the table's hash is one that they cannot foresee.
#[derive(Default)]
struct Buckets {
    places: HashMap<Arc<[u8]>, Place>,
    /// Those asked for longest ago first.
    order: Row<Known>,
    used: usize,
    room: usize,
}

struct Known {
    key: Arc<[u8]>,
    excess: u64,
    /// When the excess was this; `None`: long ago.
    since: Option<Instant>,
    /// Requests for which another zone has yet to decide.
    waiting: u32,
}

enum Found {
    /// It does not exceed here; to be counted when the other zones agree.
    Held,
    /// Counted; so much is in the bucket.
    Counted(u64),
    Busy(u64),
    /// There is no room for another key.
    Full,
}

/// After so long a quiet key may be forgotten, if its bucket is empty.
const QUIET: Duration = Duration::from_secs(60);

impl Store {
    fn new(key_text: String, room: usize) -> Self {
        Self { key_text, room, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.room = self.room;
        inner
    }
}

impl Buckets {
    /// Asks for a key. With `account` the request is counted at once.
    fn look_up(&mut self, key: &[u8], bucket: Bucket, now: Instant, account: bool) -> Found {
        if let Some(known) = self.renew(key) {
            let excess = known.excess_at(now, bucket.rate) + 1000;
            if excess > bucket.burst + 1000 {
                return Found::Busy(excess - 1000);
            }
            let excess = excess - 1000;
            if account {
                known.count(excess, now);
                return Found::Counted(excess);
            }
            known.waiting += 1;
            return Found::Held;
        }
        self.expire(now, bucket.rate);
        let bytes = cost(key);
        while self.used + bytes > self.room {
            if !self.forget_first(|_| true) {
                return Found::Full;
            }
        }
        self.used += bytes;
        let key: Arc<[u8]> = key.into();
        let (since, waiting) = if account { (Some(now), 0) } else { (None, 1) };
        let place = self.order.push(Known { key: key.clone(), excess: 0, since, waiting });
        self.places.insert(key, place);
        if account { Found::Counted(0) } else { Found::Held }
    }

    /// Counts a request that was held. Gives what is in the bucket then.
    fn account(&mut self, key: &[u8], rate: u64, now: Instant) -> u64 {
        let Some(known) = self.find(key) else { return 0 };
        let excess = known.excess_at(now, rate);
        known.count(excess, now);
        known.waiting = known.waiting.saturating_sub(1);
        excess
    }

    /// Gives a request up that was held.
    fn release(&mut self, key: &[u8]) {
        if let Some(known) = self.find(key) {
            known.waiting = known.waiting.saturating_sub(1);
        }
    }

    fn find(&mut self, key: &[u8]) -> Option<&mut Known> {
        self.order.get_mut(*self.places.get(key)?)
    }

    /// As [`Buckets::find`]; the key is now the one asked for last.
    fn renew(&mut self, key: &[u8]) -> Option<&mut Known> {
        let place = self.places.get_mut(key)?;
        let known = self.order.remove(*place)?;
        *place = self.order.push(known);
        self.order.get_mut(*place)
    }

    /// Forgets up to two keys that were quiet for a minute and owe nothing.
    fn expire(&mut self, now: Instant, rate: u64) {
        let quiet = |known: &Known| {
            let still = known.since.is_none_or(|since| now.saturating_duration_since(since) >= QUIET);
            still && known.left_at(now, rate) == 0
        };
        let _ = self.forget_first(quiet) && self.forget_first(quiet);
    }

    /// Forgets the key asked for longest ago, unless somebody waits with it, or `may` says no.
    fn forget_first(&mut self, may: impl FnOnce(&Known) -> bool) -> bool {
        let Some(first) = self.order.front().filter(|first| first.waiting == 0 && may(first)) else { return false };
        self.used = self.used.saturating_sub(cost(&first.key));
        if let Some(first) = self.order.pop_front() {
            self.places.remove(&first.key);
        }
        true
    }
}

impl Known {
    /// What is left in the bucket.
    fn left_at(&self, now: Instant, rate: u64) -> u64 {
        let Some(since) = self.since else { return 0 };
        let passed = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        self.excess.saturating_sub(rate.saturating_mul(passed) / 1000)
    }

    /// The same with one request more. nginx: the first of a full second comes out even.
    fn excess_at(&self, now: Instant, rate: u64) -> u64 {
        let Some(since) = self.since else { return 0 };
        let passed = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        (self.excess + 1000).saturating_sub(rate.saturating_mul(passed) / 1000)
    }

    fn count(&mut self, excess: u64, now: Instant) {
        self.excess = excess;
        // Less than a millisecond does not count, and must not be lost either.
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_millis(1)) {
            self.since = Some(now);
        }
    }
}

/// Bytes that nginx takes for a key: a node of its tree, and what is known of it.
fn cost(key: &[u8]) -> usize {
    state::taken(80 + key.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_A_SECOND: Bucket = Bucket { rate: 1000, burst: 2000, delay: 0 };

    fn buckets(room: usize) -> Buckets {
        Buckets { room, ..Buckets::default() }
    }

    fn counted(found: Found) -> Result<u64, u64> {
        match found {
            Found::Counted(excess) => Ok(excess),
            Found::Busy(excess) => Err(excess),
            Found::Held => panic!("held"),
            Found::Full => panic!("full"),
        }
    }

    #[test]
    fn a_bucket_fills_with_requests_and_empties_with_time() {
        let mut zone = buckets(1 << 20);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut ask = |ms: u64| counted(zone.look_up(b"a", ONE_A_SECOND, at(ms), true));
        assert_eq!([ask(0), ask(0), ask(0), ask(0)], [Ok(0), Ok(1000), Ok(2000), Err(3000)]);
        assert_eq!([ask(500), ask(1000), ask(1000)], [Err(2500), Ok(2000), Err(3000)]);
        assert_eq!([ask(60_000), ask(60_000)], [Ok(0), Ok(1000)]);
        assert_eq!(ONE_A_SECOND.delay_for(1500), Duration::from_millis(1500));
        assert_eq!(Bucket { delay: 1000, ..ONE_A_SECOND }.delay_for(1500), Duration::from_millis(500));
        assert_eq!(Bucket { delay: u64::MAX, ..ONE_A_SECOND }.delay_for(1500), Duration::ZERO);
    }

    #[test]
    fn a_zone_that_is_full_forgets_whom_it_has_not_seen_for_longest() {
        let mut zone = buckets(2 * 128);
        let now = Instant::now();
        for key in [b"a", b"b", b"a", b"c"] {
            let _ = zone.look_up(key, ONE_A_SECOND, now, true);
        }
        assert!(zone.find(b"a").is_some() && zone.find(b"b").is_none() && zone.find(b"c").is_some());
        assert_eq!((zone.used, zone.places.len(), zone.order.len()), (256, 2, 2));
        // Those that wait are not forgotten.
        for key in [b"a", b"c"] {
            assert!(matches!(zone.look_up(key, ONE_A_SECOND, now, false), Found::Held));
        }
        assert!(matches!(zone.look_up(b"d", ONE_A_SECOND, now, true), Found::Full));
        zone.release(b"a");
        assert_eq!(counted(zone.look_up(b"d", ONE_A_SECOND, now, true)), Ok(0));
    }

    #[test]
    fn a_request_is_counted_when_all_zones_agree() {
        let mut zone = buckets(1 << 20);
        let now = Instant::now();
        assert!(matches!(zone.look_up(b"a", ONE_A_SECOND, now, false), Found::Held));
        assert_eq!(zone.account(b"a", 1000, now), 0);
        assert!(matches!(zone.look_up(b"a", ONE_A_SECOND, now, false), Found::Held));
        assert_eq!(zone.account(b"a", 1000, now), 1000);
        assert_eq!(zone.find(b"a").map(|known| known.waiting), Some(0));
    }
}
