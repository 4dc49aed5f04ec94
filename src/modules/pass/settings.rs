//! What every protocol to an upstream is told alike: one table, mounted under `proxy`, `fastcgi` and so on.
//!
//! In: the directives that nginx repeats for each protocol. Out: [`Settings`], which the exchange works by.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::names::FieldNames;
use crate::base::addr;
use crate::base::temp::TempPath;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::{Buffers, Words, Writes};
use crate::http::core::temp_path;
use crate::http::plan::Plan;
use crate::http::request::Request;
use crate::http::root::Root;
use crate::log::{Level as LogLevel, Raw};

/// What one protocol gives the table that all share.
pub trait Family: 'static {
    /// `proxy`, `fastcgi`: what the directives begin with.
    const PREFIX: &'static str;
    /// The module's name, after nginx's.
    const NAME: &'static str;
    /// The same of its cache's directives.
    const CACHE_NAME: &'static str;
    /// Fields of an upstream's answer that clients do not see unless `*_pass_header` says so.
    const HIDDEN: &'static [&'static str];
    /// What `*_next_upstream` may name.
    const NEXT: &'static [(&'static str, Next)];
    /// The directory for temporary files.
    const TEMP: &'static str;
    /// What the protocol has not, of the directives that most have.
    const LACKS: &'static [&'static str] = &[];
}

/// [`Family::HIDDEN`] of the protocols by which programs answer: the status that is a field, and what is meant for us.
pub const HIDDEN_OF_PROGRAMS: &[&str] =
    &["Status", "X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset"];

/// The common directives of one protocol.
pub struct Pass<F>(PhantomData<F>);

impl<F: Family> Module for Pass<F> {
    const NAME: &'static str = F::NAME;
    const PREFIX: &'static str = F::PREFIX;
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("_bind", EVERYWHERE, Arity::Between(1, 2), Conf::bind),
        Directive::location("_socket_keepalive", EVERYWHERE, Arity::Flag, Conf::socket_keepalive),
        Directive::location("_socket_rcvbuf", EVERYWHERE, Arity::Exactly(1), Conf::socket_rcvbuf),
        Directive::location("_socket_sndbuf", EVERYWHERE, Arity::Exactly(1), Conf::socket_sndbuf),
        Directive::location("_connect_timeout", EVERYWHERE, Arity::Exactly(1), Conf::connect_timeout),
        Directive::location("_send_timeout", EVERYWHERE, Arity::Exactly(1), Conf::send_timeout),
        Directive::location("_read_timeout", EVERYWHERE, Arity::Exactly(1), Conf::read_timeout),
        Directive::location("_send_lowat", EVERYWHERE, Arity::Exactly(1), Conf::send_lowat),
        Directive::location("_buffering", EVERYWHERE, Arity::Flag, Conf::buffering),
        Directive::location("_request_buffering", EVERYWHERE, Arity::Flag, Conf::request_buffering),
        Directive::location("_buffer_size", EVERYWHERE, Arity::Exactly(1), Conf::buffer_size),
        Directive::location("_buffers", EVERYWHERE, Arity::Exactly(2), Conf::buffers),
        Directive::location("_busy_buffers_size", EVERYWHERE, Arity::Exactly(1), Conf::busy_buffers_size),
        Directive::location("_max_temp_file_size", EVERYWHERE, Arity::Exactly(1), Conf::max_temp_file_size),
        Directive::location("_temp_file_write_size", EVERYWHERE, Arity::Exactly(1), Conf::temp_file_write_size),
        Directive::location("_temp_path", EVERYWHERE, Arity::Between(1, 4), Conf::temp_path),
        Directive::location("_limit_rate", EVERYWHERE, Arity::Exactly(1), Conf::limit_rate),
        Directive::location("_force_ranges", EVERYWHERE, Arity::Flag, Conf::force_ranges),
        Directive::location("_ignore_client_abort", EVERYWHERE, Arity::Flag, Conf::ignore_client_abort),
        Directive::location("_intercept_errors", EVERYWHERE, Arity::Flag, Conf::intercept_errors),
        Directive::location("_pass_request_headers", EVERYWHERE, Arity::Flag, Conf::pass_request_headers),
        Directive::location("_pass_request_body", EVERYWHERE, Arity::Flag, Conf::pass_request_body),
        Directive::location("_next_upstream", EVERYWHERE, Arity::AtLeast(1), Conf::next_upstream::<F>),
        Directive::location("_next_upstream_tries", EVERYWHERE, Arity::Exactly(1), Conf::next_upstream_tries),
        Directive::location("_next_upstream_timeout", EVERYWHERE, Arity::Exactly(1), Conf::next_upstream_timeout),
        Directive::location("_hide_header", EVERYWHERE, Arity::Exactly(1), Conf::hide_header),
        Directive::location("_pass_header", EVERYWHERE, Arity::Exactly(1), Conf::pass_header),
        Directive::location("_ignore_headers", EVERYWHERE, Arity::AtLeast(1), Conf::ignore_headers),
        Directive::location("_store", EVERYWHERE, Arity::Exactly(1), Conf::store),
        Directive::location("_store_access", EVERYWHERE, Arity::Between(1, 3), Conf::store_access),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn has(row: &str) -> bool {
        !F::LACKS.contains(&row)
    }

    fn link(level: &Level<'_>, _: &mut Plan) -> Result<(), Fault> {
        // A level that nothing is passed from is wrong all the same.
        level.location::<Self>().sizes::<F>().map(drop).map_err(|fault| fault.or_at(level.at()))
    }
}

/// The finished settings of one location.
pub fn settings<F: Family>(level: &Level<'_>, root: &Root) -> Result<Settings, Fault> {
    let settings = level.location::<Pass<F>>().finish::<F>(level)?;
    match &settings.store {
        Store::Off => {}
        Store::On => level.cx.will_write(&root.fixed(), &root.prefix, Writes::Files),
        Store::At(path) => level.cx.will_write(path.fixed(), &root.prefix, Writes::Files),
    }
    Ok(settings)
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    bind: Setting<Option<Bind>>,
    socket_keepalive: Setting<bool>,
    socket_rcvbuf: Setting<usize>,
    socket_sndbuf: Setting<usize>,
    connect_timeout: Setting<Duration>,
    send_timeout: Setting<Duration>,
    read_timeout: Setting<Duration>,
    send_lowat: Setting<usize>,
    buffering: Setting<bool>,
    request_buffering: Setting<bool>,
    buffer_size: Setting<usize>,
    buffers: Setting<Buffers>,
    busy_buffers_size: Setting<usize>,
    max_temp_file_size: Setting<u64>,
    temp_file_write_size: Setting<usize>,
    temp_path: Setting<TempPath>,
    limit_rate: Setting<Template>,
    force_ranges: Setting<bool>,
    ignore_client_abort: Setting<bool>,
    intercept_errors: Setting<bool>,
    pass_request_headers: Setting<bool>,
    pass_request_body: Setting<bool>,
    next_upstream: Setting<Next>,
    next_upstream_tries: Setting<u64>,
    next_upstream_timeout: Setting<Duration>,
    hide_header: Setting<Vec<String>>,
    pass_header: Setting<Vec<String>>,
    ignore_headers: Setting<Ignore>,
    store: Setting<Store>,
    store_access: Setting<u32>,
    /// `*_store` was said at this very level: then it has precedence over a cache further out.
    stores_itself: bool,
}

/// Where connections come from: `*_bind`.
#[derive(Clone, Debug)]
pub struct Bind {
    address: Template,
    pub transparent: bool,
}

impl Bind {
    /// The address for this request; `None` for an empty or a wrong one.
    pub fn address(&self, request: &Request) -> Option<SocketAddr> {
        let text = self.address.eval(request);
        if text.is_empty() {
            return None;
        }
        let parsed = std::str::from_utf8(&text).ok().and_then(local);
        if parsed.is_none() {
            request.log(LogLevel::Error, format_args!("invalid local address \"{}\"", Raw(&text)));
        }
        parsed
    }
}

/// An address with or without a port.
fn local(text: &str) -> Option<SocketAddr> {
    match addr::ip(text) {
        Some(ip) => Some(SocketAddr::new(ip, 0)),
        None => text.parse().ok(),
    }
}

/// What makes a request go to the next upstream, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next(u32);

impl Next {
    pub const ERROR: Self = Self(1);
    pub const TIMEOUT: Self = Self(1 << 1);
    pub const INVALID_HEADER: Self = Self(1 << 2);
    pub const HTTP_500: Self = Self(1 << 3);
    pub const HTTP_502: Self = Self(1 << 4);
    pub const HTTP_503: Self = Self(1 << 5);
    pub const HTTP_504: Self = Self(1 << 6);
    pub const HTTP_403: Self = Self(1 << 7);
    pub const HTTP_404: Self = Self(1 << 8);
    pub const HTTP_429: Self = Self(1 << 9);
    pub const NON_IDEMPOTENT: Self = Self(1 << 10);
    /// No live upstream: there is nobody to go to.
    pub const NO_LIVE: Self = Self(1 << 11);
    pub const OFF: Self = Self(1 << 12);
    /// Somebody is fetching it anew; this means something to caches only.
    pub const UPDATING: Self = Self(1 << 13);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All of `other` is in here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Something of `other` is in here.
    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What the words of a directive name, beside what was named before; `off` outweighs them all.
    pub fn of_words(words: &Words<'_>, table: &[(&str, Self)], before: Self) -> Result<Self, Fault> {
        let next = bits(words, table, Self::and, before)?;
        Ok(if next.has(Self::OFF) { Self::OFF } else { next })
    }

    /// The bit of an upstream's answer.
    pub fn of_status(status: u16) -> Option<Self> {
        Some(match status {
            500 => Self::HTTP_500,
            502 => Self::HTTP_502,
            503 => Self::HTTP_503,
            504 => Self::HTTP_504,
            403 => Self::HTTP_403,
            404 => Self::HTTP_404,
            429 => Self::HTTP_429,
            _ => return None,
        })
    }

    /// What HTTP servers may do wrong.
    pub const OF_HTTP: &'static [(&'static str, Self)] = &[
        ("error", Self::ERROR),
        ("timeout", Self::TIMEOUT),
        ("invalid_header", Self::INVALID_HEADER),
        ("non_idempotent", Self::NON_IDEMPOTENT),
        ("http_500", Self::HTTP_500),
        ("http_502", Self::HTTP_502),
        ("http_503", Self::HTTP_503),
        ("http_504", Self::HTTP_504),
        ("http_403", Self::HTTP_403),
        ("http_404", Self::HTTP_404),
        ("http_429", Self::HTTP_429),
        ("updating", Self::UPDATING),
        ("off", Self::OFF),
    ];

    /// What programs may do wrong, which are no gateways themselves.
    pub const OF_PROGRAMS: &'static [(&'static str, Self)] = &[
        ("error", Self::ERROR),
        ("timeout", Self::TIMEOUT),
        ("invalid_header", Self::INVALID_HEADER),
        ("non_idempotent", Self::NON_IDEMPOTENT),
        ("http_500", Self::HTTP_500),
        ("http_503", Self::HTTP_503),
        ("http_403", Self::HTTP_403),
        ("http_404", Self::HTTP_404),
        ("http_429", Self::HTTP_429),
        ("updating", Self::UPDATING),
        ("off", Self::OFF),
    ];
}

/// Fields of an upstream's answer whose meaning is ignored, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignore(u32);

impl Ignore {
    pub const ACCEL_REDIRECT: Self = Self(1);
    pub const ACCEL_EXPIRES: Self = Self(1 << 1);
    pub const ACCEL_LIMIT_RATE: Self = Self(1 << 2);
    pub const ACCEL_BUFFERING: Self = Self(1 << 3);
    pub const ACCEL_CHARSET: Self = Self(1 << 4);
    pub const EXPIRES: Self = Self(1 << 5);
    pub const CACHE_CONTROL: Self = Self(1 << 6);
    pub const SET_COOKIE: Self = Self(1 << 7);
    pub const VARY: Self = Self(1 << 8);

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const WORDS: &'static [(&'static str, Self)] = &[
        ("X-Accel-Redirect", Self::ACCEL_REDIRECT),
        ("X-Accel-Expires", Self::ACCEL_EXPIRES),
        ("X-Accel-Limit-Rate", Self::ACCEL_LIMIT_RATE),
        ("X-Accel-Buffering", Self::ACCEL_BUFFERING),
        ("X-Accel-Charset", Self::ACCEL_CHARSET),
        ("Expires", Self::EXPIRES),
        ("Cache-Control", Self::CACHE_CONTROL),
        ("Set-Cookie", Self::SET_COOKIE),
        ("Vary", Self::VARY),
    ];
}

/// Whether answers are kept as files.
#[derive(Clone, Debug, Default)]
pub enum Store {
    #[default]
    Off,
    /// Where `root` or `alias` would look for them.
    On,
    At(Template),
}

impl Conf {
    /// Whether `*_store` was switched on at this very level.
    pub fn stores_itself(&self) -> bool {
        self.stores_itself
    }

    /// Syntax: `proxy_bind address [transparent] | off;`
    fn bind(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if words.len() == 1 && words.one() == "off" {
            return self.bind.set(None);
        }
        let address = words.template(0)?;
        if address.constant().is_some() && local(words.arg(0)).is_none() {
            return Err(words.fault(0, format!("invalid address \"{}\"", words.arg(0))));
        }
        let transparent = match words.arg(1) {
            "" => false,
            "transparent" => true,
            _ => return Err(words.invalid_parameter(1)),
        };
        self.bind.set(Some(Bind { address, transparent }))
    }

    /// Syntax: `proxy_socket_keepalive on | off;`  Default: `off`
    fn socket_keepalive(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.socket_keepalive.set(words.flag()?)
    }

    /// Syntax: `proxy_socket_rcvbuf size;`
    fn socket_rcvbuf(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.socket_rcvbuf.set(words.size(0)?)
    }

    /// Syntax: `proxy_socket_sndbuf size;`
    fn socket_sndbuf(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.socket_sndbuf.set(words.size(0)?)
    }

    /// Syntax: `proxy_connect_timeout time;`  Default: `60s`
    fn connect_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.connect_timeout.set(words.time(0)?)
    }

    /// Syntax: `proxy_send_timeout time;`  Default: `60s`
    fn send_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.send_timeout.set(words.time(0)?)
    }

    /// Syntax: `proxy_read_timeout time;`  Default: `60s`
    fn read_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.read_timeout.set(words.time(0)?)
    }

    /// Syntax: `proxy_send_lowat size;`  Default: `0`. Linux has no such setting; nginx warns there too.
    fn send_lowat(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.cx.warn(words.fault(0, format!("\"{}\" is not supported, ignored", words.name())));
        self.send_lowat.set(words.size(0)?)
    }

    /// Syntax: `proxy_buffering on | off;`  Default: `on`
    fn buffering(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.buffering.set(words.flag()?)
    }

    /// Syntax: `proxy_request_buffering on | off;`  Default: `on`
    fn request_buffering(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.request_buffering.set(words.flag()?)
    }

    /// Syntax: `proxy_buffer_size size;`  Default: `4k`
    fn buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.buffer_size.set(words.size(0)?)
    }

    /// Syntax: `proxy_buffers number size;`  Default: `8 4k`
    fn buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.buffers.set(words.buffers()?)
    }

    /// Syntax: `proxy_busy_buffers_size size;`  Default: `8k`
    fn busy_buffers_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.busy_buffers_size.set(words.size(0)?)
    }

    /// Syntax: `proxy_max_temp_file_size size;`  Default: `1024m`
    fn max_temp_file_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.max_temp_file_size.set(words.size(0)? as u64)
    }

    /// Syntax: `proxy_temp_file_write_size size;`  Default: `8k`
    fn temp_file_write_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.temp_file_write_size.set(words.size(0)?)
    }

    /// Syntax: `proxy_temp_path path [level1 [level2 [level3]]];`  Default: `proxy_temp`
    fn temp_path(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.temp_path.set(temp_path(words)?)
    }

    /// Syntax: `proxy_limit_rate rate;`  Default: `0`
    fn limit_rate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if !words.one().contains('$') {
            words.size(0)?;
        }
        self.limit_rate.set(words.template(0)?)
    }

    /// Syntax: `proxy_force_ranges on | off;`  Default: `off`
    fn force_ranges(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.force_ranges.set(words.flag()?)
    }

    /// Syntax: `proxy_ignore_client_abort on | off;`  Default: `off`
    fn ignore_client_abort(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ignore_client_abort.set(words.flag()?)
    }

    /// Syntax: `proxy_intercept_errors on | off;`  Default: `off`
    fn intercept_errors(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.intercept_errors.set(words.flag()?)
    }

    /// Syntax: `proxy_pass_request_headers on | off;`  Default: `on`
    fn pass_request_headers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.pass_request_headers.set(words.flag()?)
    }

    /// Syntax: `proxy_pass_request_body on | off;`  Default: `on`
    fn pass_request_body(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.pass_request_body.set(words.flag()?)
    }

    /// Syntax: `proxy_next_upstream error | timeout | invalid_header | http_500 | … | non_idempotent | off ...;`
    /// Default: `error timeout`
    fn next_upstream<F: Family>(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let next = self.next_upstream.list();
        *next = Next::of_words(words, F::NEXT, *next)?;
        Ok(())
    }

    /// Syntax: `proxy_next_upstream_tries number;`  Default: `0`
    fn next_upstream_tries(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.next_upstream_tries.set(words.number(0)?)
    }

    /// Syntax: `proxy_next_upstream_timeout time;`  Default: `0`
    fn next_upstream_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.next_upstream_timeout.set(words.time(0)?)
    }

    /// Syntax: `proxy_hide_header field;`
    fn hide_header(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.hide_header.list().push(words.one().to_owned());
        Ok(())
    }

    /// Syntax: `proxy_pass_header field;`
    fn pass_header(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.pass_header.list().push(words.one().to_owned());
        Ok(())
    }

    /// Syntax: `proxy_ignore_headers field ...;`
    fn ignore_headers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let ignore = self.ignore_headers.list();
        *ignore = bits(words, Ignore::WORDS, |all, word| Ignore(all.0 | word.0), *ignore)?;
        Ok(())
    }

    /// Syntax: `proxy_store on | off | string;`  Default: `off`
    fn store(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let store = match words.one() {
            "off" => Store::Off,
            "on" => Store::On,
            "" => return Err(words.fault(0, "empty path")),
            _ => Store::At(words.template(0)?),
        };
        self.stores_itself = !matches!(store, Store::Off);
        self.store.set(store)
    }

    /// Syntax: `proxy_store_access users:permissions ...;`  Default: `user:rw`
    fn store_access(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        // nginx: the user may read and write unless `user:` says what it may.
        let mut user = 0o600;
        let mut mode = 0;
        for (n, word) in words.texts().enumerate() {
            let (who, what) = word.split_once(':').ok_or_else(|| words.invalid_value(n))?;
            let shift = match who {
                "user" => {
                    user = 0;
                    6
                }
                "group" => 3,
                "all" => 0,
                _ => return Err(words.invalid_value(n)),
            };
            let may = match what {
                "rw" => 6,
                "r" => 4,
                _ => return Err(words.invalid_value(n)),
            };
            mode |= may << shift;
        }
        self.store_access.set(mode | user)
    }

    /// The sizes, which depend on each other.
    fn sizes<F: Family>(&self) -> Result<Sizes, Fault> {
        let prefix = F::PREFIX;
        if F::LACKS.contains(&"_buffers") {
            // What comes goes: one buffer does, and no file.
            let buffer_size = self.buffer_size.or(PAGE);
            let buffers = Buffers { number: 1, size: buffer_size };
            return Ok(Sizes { buffer_size, buffers, max_temp_file_size: 0, write_size: buffer_size });
        }
        let buffers = self.buffers.or(Buffers { number: 8, size: PAGE });
        if buffers.number < 2 {
            return Err(Fault::new(format!("there must be at least 2 \"{prefix}_buffers\"")));
        }
        let buffer_size = self.buffer_size.or(PAGE);
        let largest = buffer_size.max(buffers.size);
        let the_largest =
            || format!("the maximum of the value of \"{prefix}_buffer_size\" and one of the \"{prefix}_buffers\"");
        let busy = self.busy_buffers_size.or(2 * largest);
        if busy < largest {
            return Err(Fault::new(format!(
                "\"{prefix}_busy_buffers_size\" must be equal to or greater than {}",
                the_largest()
            )));
        }
        if busy > (buffers.number - 1).saturating_mul(buffers.size) {
            return Err(Fault::new(format!(
                "\"{prefix}_busy_buffers_size\" must be less than the size of all \"{prefix}_buffers\" minus one buffer"
            )));
        }
        let write_size = self.temp_file_write_size.or(2 * largest);
        if write_size < largest {
            return Err(Fault::new(format!(
                "\"{prefix}_temp_file_write_size\" must be equal to or greater than {}",
                the_largest()
            )));
        }
        let max_temp_file_size = self.max_temp_file_size.or(1 << 30);
        if max_temp_file_size != 0 && max_temp_file_size < largest as u64 {
            return Err(Fault::new(format!(
                "\"{prefix}_max_temp_file_size\" must be equal to zero to disable temporary files usage or must be \
                 equal to or greater than {}",
                the_largest()
            )));
        }
        Ok(Sizes { buffer_size, buffers, max_temp_file_size, write_size })
    }

    fn finish<F: Family>(&self, level: &Level<'_>) -> Result<Settings, Fault> {
        let Sizes { buffer_size, buffers, max_temp_file_size, write_size } =
            self.sizes::<F>().map_err(|fault| fault.or_at(level.at()))?;
        let mut hide: FieldNames = F::HIDDEN.iter().copied().collect();
        for name in self.hide_header.or_else(Vec::new) {
            hide.insert(name.as_bytes());
        }
        for name in self.pass_header.or_else(Vec::new) {
            hide.remove(name.as_bytes());
        }
        let minute = Duration::from_secs(60);
        let temp_path = self.temp_path.or_else(|| TempPath::below(&level.cx.prefix, F::TEMP));
        if !F::LACKS.contains(&"_temp_path") {
            level.cx.need_directory(&temp_path.path);
        }
        Ok(Settings {
            bind: self.bind.or(None),
            socket_keepalive: self.socket_keepalive.or(false),
            socket_rcvbuf: self.socket_rcvbuf.or(0),
            socket_sndbuf: self.socket_sndbuf.or(0),
            connect_timeout: self.connect_timeout.or(minute),
            send_timeout: self.send_timeout.or(minute),
            read_timeout: self.read_timeout.or(minute),
            buffering: self.buffering.or(true),
            request_buffering: self.request_buffering.or(true),
            buffer_size,
            buffers,
            max_temp_file_size,
            temp_file_write_size: write_size,
            temp_path: Arc::new(temp_path),
            limit_rate: self.limit_rate.said().filter(|rate| rate.constant().is_none_or(|rate| rate != "0")),
            force_ranges: self.force_ranges.or(false),
            ignore_client_abort: self.ignore_client_abort.or(false),
            intercept_errors: self.intercept_errors.or(false),
            intercepts_not_found: false,
            pass_request_headers: self.pass_request_headers.or(true),
            pass_request_body: self.pass_request_body.or(true),
            next_upstream: self.next_upstream.or(Next::ERROR.and(Next::TIMEOUT)),
            next_upstream_tries: usize::try_from(self.next_upstream_tries.or(0)).unwrap_or(usize::MAX),
            next_upstream_timeout: self.next_upstream_timeout.or(Duration::ZERO),
            hide,
            ignore: self.ignore_headers.or(Ignore::default()),
            store: self.store.or_else(Store::default),
            store_access: self.store_access.or(0o600),
            pass_trailers: false,
            are_servers: false,
            drops_connection_fields: false,
            scheme: "",
            secure_scheme: "",
        })
    }
}

impl Settings {
    /// Whether a client that goes away takes the upstream's connection with it.
    pub fn minds_client(&self) -> bool {
        !self.ignore_client_abort && matches!(self.store, Store::Off)
    }
}

/// nginx: a page of memory.
const PAGE: usize = 4096;

struct Sizes {
    buffer_size: usize,
    buffers: Buffers,
    max_temp_file_size: u64,
    write_size: usize,
}

/// Joins the bits that all arguments name.
fn bits<T: Copy>(words: &Words<'_>, table: &[(&str, T)], join: fn(T, T) -> T, none: T) -> Result<T, Fault> {
    (0..words.len()).try_fold(none, |all, n| Ok(join(all, words.choice(n, table)?)))
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            bind,
            socket_keepalive,
            socket_rcvbuf,
            socket_sndbuf,
            connect_timeout,
            send_timeout,
            read_timeout,
            send_lowat,
            buffering,
            request_buffering,
            buffer_size,
            buffers,
            busy_buffers_size,
            max_temp_file_size,
            temp_file_write_size,
            temp_path,
            limit_rate,
            force_ranges,
            ignore_client_abort,
            intercept_errors,
            pass_request_headers,
            pass_request_body,
            next_upstream,
            next_upstream_tries,
            next_upstream_timeout,
            hide_header,
            pass_header,
            ignore_headers,
            store,
            store_access,
            stores_itself: _,
        } = self;
        bind.inherit(&outer.bind);
        socket_keepalive.inherit(&outer.socket_keepalive);
        socket_rcvbuf.inherit(&outer.socket_rcvbuf);
        socket_sndbuf.inherit(&outer.socket_sndbuf);
        connect_timeout.inherit(&outer.connect_timeout);
        send_timeout.inherit(&outer.send_timeout);
        read_timeout.inherit(&outer.read_timeout);
        send_lowat.inherit(&outer.send_lowat);
        buffering.inherit(&outer.buffering);
        request_buffering.inherit(&outer.request_buffering);
        buffer_size.inherit(&outer.buffer_size);
        buffers.inherit(&outer.buffers);
        busy_buffers_size.inherit(&outer.busy_buffers_size);
        max_temp_file_size.inherit(&outer.max_temp_file_size);
        temp_file_write_size.inherit(&outer.temp_file_write_size);
        temp_path.inherit(&outer.temp_path);
        limit_rate.inherit(&outer.limit_rate);
        force_ranges.inherit(&outer.force_ranges);
        ignore_client_abort.inherit(&outer.ignore_client_abort);
        intercept_errors.inherit(&outer.intercept_errors);
        pass_request_headers.inherit(&outer.pass_request_headers);
        pass_request_body.inherit(&outer.pass_request_body);
        next_upstream.inherit(&outer.next_upstream);
        next_upstream_tries.inherit(&outer.next_upstream_tries);
        next_upstream_timeout.inherit(&outer.next_upstream_timeout);
        hide_header.inherit(&outer.hide_header);
        pass_header.inherit(&outer.pass_header);
        ignore_headers.inherit(&outer.ignore_headers);
        store.inherit(&outer.store);
        store_access.inherit(&outer.store_access);
        Ok(())
    }
}

/// What the exchange works by. nginx's defaults are in [`Conf::finish`].
#[derive(Debug)]
pub struct Settings {
    pub bind: Option<Bind>,
    pub socket_keepalive: bool,
    pub socket_rcvbuf: usize,
    pub socket_sndbuf: usize,
    pub connect_timeout: Duration,
    pub send_timeout: Duration,
    pub read_timeout: Duration,
    pub buffering: bool,
    pub request_buffering: bool,
    pub buffer_size: usize,
    pub buffers: Buffers,
    pub max_temp_file_size: u64,
    pub temp_file_write_size: usize,
    pub temp_path: Arc<TempPath>,
    pub limit_rate: Option<Template>,
    pub force_ranges: bool,
    pub ignore_client_abort: bool,
    pub intercept_errors: bool,
    /// An upstream's 404 is always ours to answer.
    pub intercepts_not_found: bool,
    pub pass_request_headers: bool,
    pub pass_request_body: bool,
    pub next_upstream: Next,
    pub next_upstream_tries: usize,
    pub next_upstream_timeout: Duration,
    pub hide: FieldNames,
    pub ignore: Ignore,
    pub store: Store,
    pub store_access: u32,
    /// Set by protocols that know trailers.
    pub pass_trailers: bool,
    /// Upstreams are HTTP servers: where such a one is silent on `Server` and `Date`, and those pass, so are we.
    pub are_servers: bool,
    /// Fields that an upstream's `Connection` names stay here (`*_cache_rfc9111 on`).
    pub drops_connection_fields: bool,
    /// `http://`: how the error log begins the upstream's address.
    pub scheme: &'static str,
    /// `https://`: the same where TLS is spoken.
    pub secure_scheme: &'static str,
}
