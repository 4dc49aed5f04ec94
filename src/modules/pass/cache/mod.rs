//! `*_cache` and its kin: answers of an upstream that are kept on disk, for every protocol alike.
//!
//! In: the directives of one protocol. Out: [`Plan`], by which [`serve`] answers a request from the cache or lets the
//! exchange fetch it. nginx repeats these directives for each protocol, and gives each its own zones; so is it here.

mod copied; // a copy, and how it answers
mod entry; // which entry a request is about
pub mod keep; // an answer on its way into the cache
pub mod origin; // what the cache asks of a protocol
mod renew; // what an upstream says of a copy
pub mod serve; // look up, serve or fetch
pub mod strict; // what `*_cache_rfc9111 on` changes
pub mod vars; // $upstream_cache_*
pub mod waiting; // a body that is still being fetched

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::settings::{self, Family, Ignore, Next};
use crate::base::units;
use crate::cache::key::Levels;
use crate::cache::policy::{Ignored, Rules, Valid};
use crate::cache::{Limits, Zone};
use crate::conf::error::{At, Fault};
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::plan::{Main, Plan as HttpPlan};
use crate::http::request::Request;

/// The cache's directives of one protocol.
pub struct Cache<F>(PhantomData<F>);

impl<F: Family> Module for Cache<F> {
    const NAME: &'static str = F::CACHE_NAME;
    const PREFIX: &'static str = F::PREFIX;
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::main("_cache_path", HTTP, Arity::AtLeast(2), Paths::cache_path),
        Directive::main("_cache_memory", HTTP, Arity::Exactly(1), Paths::cache_memory),
        Directive::location("_cache", EVERYWHERE, Arity::Exactly(1), Conf::cache),
        Directive::location("_cache_key", EVERYWHERE, Arity::Exactly(1), Conf::cache_key),
        Directive::location("_cache_valid", EVERYWHERE, Arity::AtLeast(1), Conf::cache_valid),
        Directive::location("_cache_methods", EVERYWHERE, Arity::AtLeast(1), Conf::cache_methods),
        Directive::location("_cache_min_uses", EVERYWHERE, Arity::Exactly(1), Conf::cache_min_uses),
        Directive::location("_cache_max_range_offset", EVERYWHERE, Arity::Exactly(1), Conf::cache_max_range_offset),
        Directive::location("_cache_bypass", EVERYWHERE, Arity::AtLeast(1), Conf::cache_bypass),
        Directive::location("_cache_purge", EVERYWHERE, Arity::AtLeast(1), Conf::cache_purge),
        Directive::location("_no_cache", EVERYWHERE, Arity::AtLeast(1), Conf::no_cache),
        Directive::location("_cache_lock", EVERYWHERE, Arity::Flag, Conf::cache_lock),
        Directive::location("_cache_lock_age", EVERYWHERE, Arity::Exactly(1), Conf::cache_lock_age),
        Directive::location("_cache_lock_timeout", EVERYWHERE, Arity::Exactly(1), Conf::cache_lock_timeout),
        Directive::location("_cache_use_stale", EVERYWHERE, Arity::AtLeast(1), Conf::cache_use_stale::<F>),
        Directive::location("_cache_background_update", EVERYWHERE, Arity::Flag, Conf::cache_background_update),
        Directive::location("_cache_revalidate", EVERYWHERE, Arity::Flag, Conf::cache_revalidate),
        Directive::location("_cache_rfc9111", EVERYWHERE, Arity::Flag, Conf::cache_rfc9111),
    ];
    type Plan = HttpPlan;
    type Main = Paths;
    type Server = ();
    type Location = Conf;

    fn link_main(level: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let paths = level.main::<Self>();
        // One bound counts for all protocols: the largest that is asked for.
        main.cache_memory = main.cache_memory.max(paths.cache_memory.said());
        for (zone, at) in &paths.zones {
            if main.caches.iter().any(|other| other.name == zone.name) {
                let message =
                    format!("the shared memory zone \"{}\" is already declared for a different use", zone.name);
                return Err(Fault::at(message, at));
            }
            main.caches.push(zone.clone());
        }
        Ok(())
    }

    fn link(level: &Level<'_>, _: &mut HttpPlan) -> Result<(), Fault> {
        // A level that nothing is passed from is wrong all the same.
        level.location::<Self>().zones::<F>(level).map(drop)
    }
}

/// The zones of one protocol.
#[derive(Default)]
pub struct Paths {
    zones: Vec<(Arc<Zone>, At)>,
    cache_memory: Setting<u64>,
}

impl Paths {
    /// Syntax: `proxy_cache_memory size;`  Default: `64m`  Context: http
    fn cache_memory(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_memory.set(words.offset(0)?)
    }

    /// Syntax: `proxy_cache_path path [levels=levels] [use_temp_path=on|off] keys_zone=name:size [inactive=time]
    /// [max_size=size] [min_free=size] [manager_files=number] [manager_sleep=time] [manager_threshold=time]
    /// [loader_files=number] [loader_sleep=time] [loader_threshold=time] [purger=on|off] [purger_files=number]
    /// [purger_sleep=time] [purger_threshold=time];`  Context: http
    fn cache_path(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut limits = Limits::default();
        let mut levels = Levels::default();
        let mut use_temp_path = true;
        let mut name = None;
        for (n, word) in words.texts().enumerate().skip(1) {
            let (parameter, value) = word.split_once('=').unwrap_or((word, ""));
            let invalid = || words.fault(n, format!("invalid {parameter} value \"{word}\""));
            let on_or_off = || match value {
                "on" => Ok(true),
                "off" => Ok(false),
                _ => {
                    let message = format!("invalid {parameter} value \"{word}\", it must be \"on\" or \"off\"");
                    Err(words.fault(n, message))
                }
            };
            let time = |value| units::milliseconds(value).map(Duration::from_millis).ok_or_else(invalid);
            match parameter {
                _ if !word.contains('=') => return Err(words.invalid_parameter(n)),
                "levels" => {
                    levels =
                        Levels::parse(value).ok_or_else(|| words.fault(n, format!("invalid \"levels\" \"{word}\"")))?;
                }
                "use_temp_path" => use_temp_path = on_or_off()?,
                "keys_zone" => {
                    let bad = || words.fault(n, format!("invalid keys zone size \"{word}\""));
                    let (zone, size) = value.split_once(':').ok_or_else(bad)?;
                    limits.keys = units::size(size).and_then(|size| usize::try_from(size).ok()).ok_or_else(bad)?;
                    if limits.keys < 2 * PAGE {
                        return Err(words.fault(n, format!("keys zone \"{word}\" is too small")));
                    }
                    name = Some(zone).filter(|zone| !zone.is_empty());
                }
                "inactive" => {
                    let seconds = units::seconds(value).and_then(|seconds| i64::try_from(seconds).ok());
                    limits.inactive = seconds.ok_or_else(invalid)?;
                }
                "max_size" => limits.max_size = units::offset(value).ok_or_else(invalid)?,
                "min_free" => limits.min_free = units::offset(value).ok_or_else(invalid)?,
                "loader_files" => limits.loader.files = units::number(value).ok_or_else(invalid)?,
                "loader_sleep" => limits.loader.sleep = time(value)?,
                "loader_threshold" => limits.loader.threshold = time(value)?,
                "manager_files" => limits.manager.files = units::number(value).ok_or_else(invalid)?,
                "manager_sleep" => limits.manager.sleep = time(value)?,
                "manager_threshold" => limits.manager.threshold = time(value)?,
                "purger" => limits.purges = on_or_off()?,
                "purger_files" => limits.purger.files = units::number(value).ok_or_else(invalid)?,
                "purger_sleep" => limits.purger.sleep = time(value)?,
                "purger_threshold" => limits.purger.threshold = time(value)?,
                _ => return Err(words.invalid_parameter(n)),
            }
        }
        let missing = || Fault::new(format!("\"{}\" must have \"keys_zone\" parameter", words.name()));
        let name = name.ok_or_else(missing)?;
        if self.zones.iter().any(|(zone, _)| zone.name == name) {
            return Err(Fault::at(format!("duplicate zone \"{name}\""), words.at()));
        }
        let mut path = words.cx.path(words.arg(0));
        if words.arg(0).ends_with('/') {
            path = PathBuf::from_iter(path.components());
        }
        words.cx.need_directory(&path);
        let zone = Zone::new(name, path, levels, use_temp_path, limits).map_err(Fault::new)?;
        self.zones.push((Arc::new(zone), words.at().clone()));
        Ok(())
    }
}

/// nginx: a page of memory.
const PAGE: usize = 4096;

impl Section for Paths {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { zones, cache_memory } = self;
        cache_memory.inherit(&outer.cache_memory);
        zones.extend(outer.zones.iter().cloned());
        Ok(())
    }
}

/// `*_cache`.
#[derive(Clone, Debug)]
enum Which {
    Off,
    Zone(String, At),
    /// Variables name it.
    Named(Template),
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    cache: Setting<Which>,
    /// `*_cache` was said at this very level.
    caches_itself: bool,
    cache_key: Setting<Template>,
    cache_valid: Setting<Vec<Valid>>,
    cache_methods: Setting<Vec<&'static str>>,
    cache_min_uses: Setting<u64>,
    cache_max_range_offset: Setting<u64>,
    cache_bypass: Setting<Vec<Template>>,
    cache_purge: Setting<Vec<Template>>,
    no_cache: Setting<Vec<Template>>,
    cache_lock: Setting<bool>,
    cache_lock_age: Setting<Duration>,
    cache_lock_timeout: Setting<Duration>,
    cache_use_stale: Setting<Next>,
    cache_background_update: Setting<bool>,
    cache_revalidate: Setting<bool>,
    cache_rfc9111: Setting<bool>,
}

/// The methods that `*_cache_methods` may name.
const METHODS: &[(&str, &str)] = &[("GET", "GET"), ("HEAD", "HEAD"), ("POST", "POST")];

impl Conf {
    /// Syntax: `proxy_cache zone | off;`  Default: `off`
    fn cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let which = match words.one() {
            "off" => Which::Off,
            name => {
                let template = words.template(0)?;
                match template.constant() {
                    Some(_) => Which::Zone(name.to_owned(), words.at().clone()),
                    None => Which::Named(template),
                }
            }
        };
        self.caches_itself = !matches!(which, Which::Off);
        self.cache.set(which)
    }

    /// Syntax: `proxy_cache_key string;`  Default: `$scheme$proxy_host$request_uri`
    fn cache_key(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_key.set(words.template(0)?)
    }

    /// Syntax: `proxy_cache_valid [code ...] time;`
    fn cache_valid(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let last = words.len() - 1;
        let time = units::seconds(words.arg(last)).and_then(|seconds| i64::try_from(seconds).ok());
        let seconds = time.ok_or_else(|| words.fault(last, format!("invalid time value \"{}\"", words.arg(last))))?;
        let list = self.cache_valid.list();
        if last == 0 {
            list.extend([200, 301, 302].map(|status| Valid { status: Some(status), seconds }));
        }
        for n in 0..last {
            let status = match words.arg(n) {
                "any" => None,
                word => {
                    let status = word.parse().ok().filter(|status| (100..600).contains(status));
                    Some(status.ok_or_else(|| words.fault(n, format!("invalid status \"{word}\"")))?)
                }
            };
            list.push(Valid { status, seconds });
        }
        Ok(())
    }

    /// Syntax: `proxy_cache_methods GET | HEAD | POST ...;`  Default: `GET HEAD`
    fn cache_methods(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let methods = self.cache_methods.list();
        for n in 0..words.len() {
            methods.push(words.choice(n, METHODS)?);
        }
        Ok(())
    }

    /// Syntax: `proxy_cache_min_uses number;`  Default: `1`
    fn cache_min_uses(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_min_uses.set(words.number(0)?)
    }

    /// Syntax: `proxy_cache_max_range_offset number;`
    fn cache_max_range_offset(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_max_range_offset.set(words.offset(0)?)
    }

    /// Syntax: `proxy_cache_bypass string ...;`
    fn cache_bypass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        conditions(&mut self.cache_bypass, words)
    }

    /// Syntax: `proxy_cache_purge string ...;`
    fn cache_purge(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        conditions(&mut self.cache_purge, words)
    }

    /// Syntax: `proxy_no_cache string ...;`
    fn no_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        conditions(&mut self.no_cache, words)
    }

    /// Syntax: `proxy_cache_lock on | off;`  Default: `off`
    fn cache_lock(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_lock.set(words.flag()?)
    }

    /// Syntax: `proxy_cache_lock_age time;`  Default: `5s`
    fn cache_lock_age(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_lock_age.set(words.time(0)?)
    }

    /// Syntax: `proxy_cache_lock_timeout time;`  Default: `5s`
    fn cache_lock_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_lock_timeout.set(words.time(0)?)
    }

    /// Syntax: `proxy_cache_use_stale error | timeout | invalid_header | updating | http_500 | … | off ...;`
    /// Default: `off`
    fn cache_use_stale<F: Family>(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let stale = self.cache_use_stale.list();
        *stale = Next::of_words(words, F::NEXT, *stale)?;
        Ok(())
    }

    /// Syntax: `proxy_cache_background_update on | off;`  Default: `off`
    fn cache_background_update(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_background_update.set(words.flag()?)
    }

    /// Syntax: `proxy_cache_revalidate on | off;`  Default: `off`, and `on` with `proxy_cache_rfc9111 on`
    fn cache_revalidate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_revalidate.set(words.flag()?)
    }

    /// Syntax: `proxy_cache_rfc9111 on | off;`  Default: `off`
    fn cache_rfc9111(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.cache_rfc9111.set(words.flag()?)
    }

    /// Which zones a level names.
    fn zones<F: Family>(&self, level: &Level<'_>) -> Result<Option<Zones>, Fault> {
        let known = &level.main::<Cache<F>>().zones;
        match self.cache.as_ref() {
            None | Some(Which::Off) => Ok(None),
            Some(Which::Named(template)) => {
                let zones = known.iter().map(|(zone, _)| zone.clone()).collect();
                Ok(Some(Zones::Named(template.clone(), zones)))
            }
            Some(Which::Zone(name, at)) => match known.iter().find(|(zone, _)| zone.name == *name) {
                Some((zone, _)) => Ok(Some(Zones::One(zone.clone()))),
                None => {
                    let message = format!("\"{}_cache\" zone \"{name}\" is unknown", F::PREFIX);
                    Err(Fault::at(message, at))
                }
            },
        }
    }
}

fn conditions(setting: &mut Setting<Vec<Template>>, words: &Words<'_>) -> Result<(), Fault> {
    let list = setting.list();
    for n in 0..words.len() {
        list.push(words.template(n)?);
    }
    Ok(())
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            cache,
            caches_itself: _,
            cache_key,
            cache_valid,
            cache_methods,
            cache_min_uses,
            cache_max_range_offset,
            cache_bypass,
            cache_purge,
            no_cache,
            cache_lock,
            cache_lock_age,
            cache_lock_timeout,
            cache_use_stale,
            cache_background_update,
            cache_revalidate,
            cache_rfc9111,
        } = self;
        cache.inherit(&outer.cache);
        cache_key.inherit(&outer.cache_key);
        cache_valid.inherit(&outer.cache_valid);
        cache_methods.inherit(&outer.cache_methods);
        cache_min_uses.inherit(&outer.cache_min_uses);
        cache_max_range_offset.inherit(&outer.cache_max_range_offset);
        cache_bypass.inherit(&outer.cache_bypass);
        cache_purge.inherit(&outer.cache_purge);
        no_cache.inherit(&outer.no_cache);
        cache_lock.inherit(&outer.cache_lock);
        cache_lock_age.inherit(&outer.cache_lock_age);
        cache_lock_timeout.inherit(&outer.cache_lock_timeout);
        cache_use_stale.inherit(&outer.cache_use_stale);
        cache_background_update.inherit(&outer.cache_background_update);
        cache_revalidate.inherit(&outer.cache_revalidate);
        cache_rfc9111.inherit(&outer.cache_rfc9111);
        Ok(())
    }
}

/// The zone of a request.
#[derive(Debug)]
enum Zones {
    One(Arc<Zone>),
    Named(Template, Vec<Arc<Zone>>),
}

/// How one location keeps answers.
#[derive(Debug)]
pub struct Plan {
    /// `proxy`, `fastcgi`: for the log.
    prefix: &'static str,
    zones: Zones,
    key: Option<Template>,
    rules: Rules,
    methods: Vec<&'static str>,
    min_uses: u32,
    max_range_offset: Option<u64>,
    bypass: Vec<Template>,
    purge: Vec<Template>,
    no_cache: Vec<Template>,
    /// Milliseconds.
    lock: Option<u64>,
    lock_timeout: Duration,
    use_stale: Next,
    background_update: bool,
    revalidate: bool,
    /// HEAD is fetched as GET.
    pub convert_head: bool,
    /// What answers HEAD is kept only if a body came with it that is as long as it says.
    pub measures_head: bool,
}

impl Plan {
    /// Answers to this method are kept.
    fn is_asked(&self, request: &Request) -> bool {
        let method = request.method();
        self.methods.iter().any(|known| known.as_bytes() == method)
    }

    /// `*_cache_purge`: the request is for the entry to go.
    fn purges(&self, request: &Request) -> bool {
        !self.purge.is_empty() && any(&self.purge, request)
    }
}

/// The finished plan of one location; `None` where nothing is kept.
///
/// Of `*_cache` and `*_store` the inner one counts; at the same level they are too much.
pub fn plan<F: Family>(level: &Level<'_>, settings: &mut settings::Settings) -> Result<Option<Plan>, Fault> {
    let conf = level.location::<Cache<F>>();
    let Some(zones) = conf.zones::<F>(level)? else { return Ok(None) };
    match (conf.caches_itself, level.location::<settings::Pass<F>>().stores_itself()) {
        (true, true) => {
            let prefix = F::PREFIX;
            let message = format!("\"{prefix}_cache\" directive is incompatible with \"{prefix}_store\"");
            return Err(Fault::at(message, level.at()));
        }
        (false, true) => return Ok(None),
        (true | false, false) => settings.store = settings::Store::Off,
    }
    let ignore = settings.ignore;
    let ignored = Ignored {
        accel_expires: ignore.has(Ignore::ACCEL_EXPIRES),
        expires: ignore.has(Ignore::EXPIRES),
        cache_control: ignore.has(Ignore::CACHE_CONTROL),
        set_cookie: ignore.has(Ignore::SET_COOKIE),
        vary: ignore.has(Ignore::VARY),
    };
    let rfc9111 = conf.cache_rfc9111.or(false);
    settings.drops_connection_fields = rfc9111;
    let revalidate = conf.cache_revalidate.or(rfc9111);
    let rules = Rules { ignored, valid: conf.cache_valid.or_else(Vec::new), rfc9111, revalidate };
    let mut methods = vec!["GET", "HEAD"];
    methods.extend(conf.cache_methods.or_else(Vec::new));
    let age = conf.cache_lock_age.or(Duration::from_secs(5));
    Ok(Some(Plan {
        prefix: F::PREFIX,
        zones,
        key: conf.cache_key.said(),
        rules,
        methods,
        min_uses: u32::try_from(conf.cache_min_uses.or(1)).unwrap_or(u32::MAX),
        max_range_offset: conf.cache_max_range_offset.said(),
        bypass: conf.cache_bypass.or_else(Vec::new),
        purge: conf.cache_purge.or_else(Vec::new),
        no_cache: conf.no_cache.or_else(Vec::new),
        lock: conf.cache_lock.or(false).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        lock_timeout: conf.cache_lock_timeout.or(Duration::from_secs(5)),
        use_stale: match conf.cache_use_stale.or(Next::default()) {
            // nginx: to have nobody to ask is an error, too
            stale if stale.has(Next::ERROR) => stale.and(Next::NO_LIVE),
            stale => stale,
        },
        background_update: conf.cache_background_update.or(false),
        revalidate,
        convert_head: false,
        measures_head: false,
    }))
}

/// Whether any of these is neither empty nor `0`.
fn any(conditions: &[Template], request: &Request) -> bool {
    conditions.iter().any(|condition| !matches!(condition.eval(request).as_ref(), b"" | b"0"))
}
