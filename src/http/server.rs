//! What a `server` block says of itself: where it listens, how it is called, how heads are read.
//!
//! The directives are in the core module's table (`http/core.rs`); `http/names.rs` chooses among servers.

use std::time::Duration;

use bytes::Bytes;

use crate::base::addr::{self, Address, Form};
use crate::base::text;
use crate::conf::error::{At, Fault};
use crate::conf::module::Section;
use crate::conf::setting::Setting;
use crate::conf::words::{Buffers, Words};
use crate::net::listen::{Keepalive, Options};

use super::location::Regex;

/// What the core module was told of one server.
#[derive(Default)]
pub struct Conf {
    pub listens: Vec<ListenConf>,
    pub names: Vec<Name>,
    client_header_buffer_size: Setting<usize>,
    large_client_header_buffers: Setting<Buffers>,
    connection_pool_size: Setting<usize>,
    client_header_timeout: Setting<Duration>,
    ignore_invalid_headers: Setting<bool>,
    underscores_in_headers: Setting<bool>,
    merge_slashes: Setting<bool>,
    max_headers: Setting<u64>,
}

/// One `listen` directive, one address of it.
#[derive(Clone, Debug)]
pub struct ListenConf {
    pub options: Options,
    pub default_server: bool,
    pub proxy_protocol: bool,
    pub http2: bool,
    pub ssl: bool,
    /// Parameters that only a socket of its own can have were given.
    pub bind: bool,
    /// Any socket parameter was given: two directives for one address may not both have some.
    pub explicit: bool,
    pub at: At,
}

/// One `server_name`.
#[derive(Clone, Debug)]
pub struct Name {
    pub text: Bytes,
    pub regex: Option<Regex>,
}

/// The values of a server's own settings.
#[derive(Clone, Debug, Default)]
pub struct ServerSettings {
    pub client_header_buffer_size: usize,
    pub large_client_header_buffers: Option<Buffers>,
    pub client_header_timeout: Duration,
    pub ignore_invalid_headers: bool,
    pub underscores_in_headers: bool,
    pub merge_slashes: bool,
    pub max_headers: u64,
}

impl ServerSettings {
    /// How large a head may become: the first buffer and the large ones.
    pub fn large_buffers(&self) -> Buffers {
        self.large_client_header_buffers.unwrap_or(Buffers { number: 4, size: 8 * 1024 })
    }
}

impl Conf {
    /// Syntax: `listen address[:port] [default_server] [ssl] [http2] [proxy_protocol] [setfib=number] [fastopen=number]
    /// [backlog=number] [rcvbuf=size] [sndbuf=size] [deferred] [bind] [ipv6only=on|off] [reuseport]
    /// [so_keepalive=on|off|[keepidle]:[keepintvl]:[keepcnt]];`  Default: `*:80`, `*:8000` for an ordinary user
    pub fn listen(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.one();
        let refused = |why: &str| words.fault(0, format!("{why} in \"{word}\" of the \"listen\" directive"));
        let addresses = addr::parse(word, Form { listen: true, default_port: 80, ..Form::default() })
            .and_then(|url| url.addresses())
            .map_err(refused)?;
        let Some(first) = addresses.first() else { return Ok(()) };
        let mut listen = ListenConf {
            options: Options::new(first.clone()),
            default_server: false,
            proxy_protocol: false,
            http2: false,
            ssl: false,
            bind: false,
            explicit: false,
            at: words.at().clone(),
        };
        for n in 1..words.len() {
            listen.parameter(n, words)?;
        }
        for address in addresses {
            if self.listens.iter().any(|other| other.options.address == address) {
                return Err(words.fault(0, format!("a duplicate listen {word}")));
            }
            self.listens.push(ListenConf { options: Options { address, ..listen.options.clone() }, ..listen.clone() });
        }
        Ok(())
    }

    /// Syntax: `server_name name ...;`  Default: `""`
    pub fn server_name(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        for (n, word) in words.texts().enumerate() {
            // Wildcards that are neither at the beginning nor at the end are found out where names are compared.
            let bytes = word.as_bytes();
            let invalid = match bytes.first() {
                Some(b'*') => bytes.len() < 3 || bytes[1] != b'.',
                Some(b'.') => bytes.len() < 2,
                _ => false,
            };
            if invalid {
                return Err(words.fault(n, format!("server name \"{word}\" is invalid")));
            }
            if word.contains('/') {
                words.cx.warn(words.fault(n, format!("server name \"{word}\" has suspicious symbols")));
            }
            self.names.push(match word.strip_prefix('~') {
                Some("") => return Err(words.fault(n, "empty regex in server name \"~\"".to_owned())),
                Some(pattern) => Name {
                    text: text::bytes(word).into(),
                    // nginx matches lower-cased hosts: a pattern with capitals would never do, so it ignores case.
                    regex: Some(
                        Regex::new(pattern, pattern.bytes().any(|b| b.is_ascii_uppercase()), words)
                            .map_err(|fault| fault.or_at(words.at()))?,
                    ),
                },
                None if word.eq_ignore_ascii_case("$hostname") => {
                    Name { text: words.cx.hostname.to_ascii_lowercase().into(), regex: None }
                }
                None => Name { text: text::bytes(word).to_ascii_lowercase().into(), regex: None },
            });
        }
        Ok(())
    }

    /// Syntax: `client_header_buffer_size size;`  Default: `1k`
    pub fn client_header_buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_header_buffer_size.set(words.size(0)?)
    }

    /// Syntax: `large_client_header_buffers number size;`  Default: `4 8k`
    pub fn large_client_header_buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.large_client_header_buffers.set(words.buffers()?)
    }

    /// Syntax: `client_header_timeout time;`  Default: `60s`
    pub fn client_header_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_header_timeout.set(words.time(0)?)
    }

    /// Syntax: `ignore_invalid_headers on | off;`  Default: `on`
    pub fn ignore_invalid_headers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ignore_invalid_headers.set(words.flag()?)
    }

    /// Syntax: `underscores_in_headers on | off;`  Default: `off`
    pub fn underscores_in_headers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.underscores_in_headers.set(words.flag()?)
    }

    /// Syntax: `merge_slashes on | off;`  Default: `on`
    pub fn merge_slashes(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.merge_slashes.set(words.flag()?)
    }

    /// Syntax: `max_headers number;`  Default: `1000`
    pub fn max_headers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.max_headers.set(words.number(0)?)
    }

    /// Syntax: `request_pool_size size;`. We have no pools; the word must be a size.
    pub fn pool_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.size(0).map(drop)
    }

    /// Syntax: `connection_pool_size size;`  Default: `512`  We have no pools; header buffers may not be smaller.
    pub fn connection_pool_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.connection_pool_size.set(words.size(0)?)
    }

    /// The values, with nginx's defaults.
    pub fn settings(&self) -> Result<ServerSettings, Fault> {
        let large = self.large_client_header_buffers.said();
        if large.is_some_and(|large| large.size < self.connection_pool_size.or(512)) {
            return Err(Fault::new(
                "the \"large_client_header_buffers\" size must be equal to or greater than \"connection_pool_size\"",
            ));
        }
        Ok(ServerSettings {
            client_header_buffer_size: self.client_header_buffer_size.or(1024),
            large_client_header_buffers: self.large_client_header_buffers.said(),
            client_header_timeout: self.client_header_timeout.or(Duration::from_secs(60)),
            ignore_invalid_headers: self.ignore_invalid_headers.or(true),
            underscores_in_headers: self.underscores_in_headers.or(false),
            merge_slashes: self.merge_slashes.or(true),
            max_headers: self.max_headers.or(1000),
        })
    }
}

impl ListenConf {
    /// `listen ADDRESS;` without parameters, for a server that has none.
    pub fn plain(address: Address, at: &At) -> Self {
        Self {
            options: Options::new(address),
            default_server: false,
            proxy_protocol: false,
            http2: false,
            ssl: false,
            bind: false,
            explicit: false,
            at: at.clone(),
        }
    }

    fn parameter(&mut self, n: usize, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.arg(n);
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let invalid = || match name {
            "rcvbuf" | "sndbuf" => words.fault(n, format!("invalid {name} value \"{word}\"")),
            _ => words.fault(n, format!("invalid {name} \"{word}\"")),
        };
        let number = |value: &str| value.parse::<i32>().ok().filter(|number| *number > 0).ok_or_else(invalid);
        let size = |value: &str| {
            crate::base::units::size(value).and_then(|size| usize::try_from(size).ok()).ok_or_else(invalid)
        };
        let options = &mut self.options;
        match (name, value) {
            ("default_server" | "default", None) => {
                self.default_server = true;
                return Ok(());
            }
            ("proxy_protocol", None) => {
                self.proxy_protocol = true;
                return Ok(());
            }
            ("ssl", None) => {
                self.ssl = true;
                return Ok(());
            }
            ("bind", None) => {}
            ("setfib", Some(_)) => return Err(words.fault(n, "setfib is not supported on this platform")),
            ("accept_filter", Some(value)) => {
                let message = format!("accept filters \"{value}\" are not supported on this platform, ignored");
                words.cx.warn(words.fault(n, message));
                return Ok(());
            }
            ("fastopen", Some(value)) => options.fastopen = Some(number(value)?.unsigned_abs()),
            ("backlog", Some(value)) => options.backlog = number(value)?,
            ("rcvbuf", Some(value)) => options.rcvbuf = Some(size(value)?),
            ("sndbuf", Some(value)) => options.sndbuf = Some(size(value)?),
            ("deferred", None) => options.deferred = true,
            ("ipv6only", Some(value)) => {
                if !matches!(options.address, Address::Inet(std::net::SocketAddr::V6(_))) {
                    return Err(words.fault(n, format!("ipv6only is not supported on addr \"{}\"", words.one())));
                }
                options.ipv6only = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(words.fault(n, format!("invalid ipv6only flags \"{value}\""))),
                };
            }
            ("reuseport", None) => options.reuseport = true,
            ("multipath", None) => options.multipath = true,
            ("so_keepalive", Some(value)) => {
                options.keepalive = keepalive(value)
                    .ok_or_else(|| words.fault(n, format!("invalid so_keepalive value: \"{value}\"")))?
            }
            ("http2", None) => {
                let message = "the \"listen ... http2\" directive is deprecated, use the \"http2\" directive instead";
                words.cx.warn(words.fault(n, message));
                self.http2 = true;
                return Ok(());
            }
            ("quic", None) => {
                return Err(words.fault(n, "the \"quic\" parameter requires ngx_http_v3_module"));
            }
            _ => return Err(words.invalid_parameter(n)),
        }
        self.bind = true;
        self.explicit = true;
        Ok(())
    }
}

/// `on`, `off`, or `[idle]:[interval]:[count]`.
fn keepalive(value: &str) -> Option<Keepalive> {
    match value {
        "on" => return Some(Keepalive::On),
        "off" => return Some(Keepalive::Off),
        _ => {}
    }
    let mut parts = value.split(':');
    let (idle, interval, count) = (parts.next()?, parts.next()?, parts.next().unwrap_or(""));
    if parts.next().is_some() || (idle.is_empty() && interval.is_empty() && count.is_empty()) {
        return None;
    }
    let time = |text: &str| match text {
        "" => Some(None),
        text => crate::base::units::seconds(text).map(|seconds| Some(Duration::from_secs(seconds))),
    };
    let count = if count.is_empty() { None } else { Some(count.parse().ok()?) };
    Some(Keepalive::Tuned { idle: time(idle)?, interval: time(interval)?, count })
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            listens: _,
            names: _,
            client_header_buffer_size,
            large_client_header_buffers,
            connection_pool_size,
            client_header_timeout,
            ignore_invalid_headers,
            underscores_in_headers,
            merge_slashes,
            max_headers,
        } = self;
        client_header_buffer_size.inherit(&outer.client_header_buffer_size);
        large_client_header_buffers.inherit(&outer.large_client_header_buffers);
        connection_pool_size.inherit(&outer.connection_pool_size);
        client_header_timeout.inherit(&outer.client_header_timeout);
        ignore_invalid_headers.inherit(&outer.ignore_invalid_headers);
        underscores_in_headers.inherit(&outer.underscores_in_headers);
        merge_slashes.inherit(&outer.merge_slashes);
        max_headers.inherit(&outer.max_headers);
        Ok(())
    }
}
