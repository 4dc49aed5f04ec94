//! The http core module: what every location is told before any feature is.
//!
//! In: the directives of nginx's `ngx_http_core_module`. Out: [`Settings`](super::settings::Settings), the plain values that a location's plan
//! carries. What belongs to a server or its listening sockets is in `http/server.rs`, which shares the table.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::location::Matcher;
use super::plan::{Main, Plan, ServerPlan};
use super::root::{Alias, Root};
use super::server;
use super::settings::{
    ErrorPage, IfModifiedSince, InFile, KeepaliveDisable, KeepaliveTimeout, Lingering, Overwrite, Satisfy, Settings,
    Tokens, Types,
};
use crate::base::temp::TempPath;
use crate::base::text;
use crate::base::threads::Pool;
use crate::conf::error::Fault;
use crate::conf::lex::Node;
use crate::conf::module::{
    Arity, Directive, EVERYWHERE, HTTP, IF_LOCATION, LIMIT_EXCEPT, LOCATION, Level, Module, SERVER, Section,
};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::{Buffers, Words};
use crate::log::error::{Entry, ErrorLog};
use crate::net::resolver::Resolver;

/// `ngx_http_core_module`.
pub struct Core;

impl Module for Core {
    const NAME: &'static str = "http_core";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        // Blocks.
        Directive::level("server", HTTP, Arity::None, |_| SERVER, Conf::server),
        Directive::level("location", SERVER.or(LOCATION), Arity::Between(1, 2), |_| LOCATION, Conf::location),
        Directive::level("limit_except", LOCATION, Arity::AtLeast(1), |_| LIMIT_EXCEPT, Conf::limit_except),
        // Servers: http/server.rs.
        Directive::server("listen", SERVER, Arity::AtLeast(1), server::Conf::listen),
        Directive::server("server_name", SERVER, Arity::AtLeast(1), server::Conf::server_name),
        Directive::server(
            "client_header_buffer_size",
            HTTP.or(SERVER),
            Arity::Exactly(1),
            server::Conf::client_header_buffer_size,
        ),
        Directive::server(
            "large_client_header_buffers",
            HTTP.or(SERVER),
            Arity::Exactly(2),
            server::Conf::large_client_header_buffers,
        ),
        Directive::server(
            "client_header_timeout",
            HTTP.or(SERVER),
            Arity::Exactly(1),
            server::Conf::client_header_timeout,
        ),
        Directive::server("ignore_invalid_headers", HTTP.or(SERVER), Arity::Flag, server::Conf::ignore_invalid_headers),
        Directive::server("underscores_in_headers", HTTP.or(SERVER), Arity::Flag, server::Conf::underscores_in_headers),
        Directive::server("merge_slashes", HTTP.or(SERVER), Arity::Flag, server::Conf::merge_slashes),
        Directive::server("max_headers", HTTP.or(SERVER), Arity::Exactly(1), server::Conf::max_headers),
        Directive::server(
            "connection_pool_size",
            HTTP.or(SERVER),
            Arity::Exactly(1),
            server::Conf::connection_pool_size,
        ),
        Directive::server("request_pool_size", HTTP.or(SERVER), Arity::Exactly(1), server::Conf::pool_size),
        // Hash sizes: our tables size themselves.
        Directive::main("server_names_hash_max_size", HTTP, Arity::Exactly(1), hash_size),
        Directive::main("server_names_hash_bucket_size", HTTP, Arity::Exactly(1), hash_size),
        Directive::main("variables_hash_max_size", HTTP, Arity::Exactly(1), hash_size),
        Directive::main("variables_hash_bucket_size", HTTP, Arity::Exactly(1), hash_size),
        Directive::location("types_hash_max_size", EVERYWHERE, Arity::Exactly(1), Conf::hash_size),
        Directive::location("types_hash_bucket_size", EVERYWHERE, Arity::Exactly(1), Conf::hash_size),
        // Locations.
        Directive::location("root", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::root),
        Directive::location("alias", LOCATION, Arity::Exactly(1), Conf::alias),
        Directive::location("internal", LOCATION, Arity::None, Conf::internal),
        Directive::location_block("types", EVERYWHERE, Arity::None, Conf::types),
        Directive::location("default_type", EVERYWHERE, Arity::Exactly(1), Conf::default_type),
        Directive::location("error_page", EVERYWHERE.or(IF_LOCATION), Arity::AtLeast(2), Conf::error_page),
        Directive::location("error_log", EVERYWHERE, Arity::AtLeast(1), Conf::error_log),
        Directive::location("satisfy", EVERYWHERE, Arity::Exactly(1), Conf::satisfy),
        Directive::location("server_tokens", EVERYWHERE, Arity::Exactly(1), Conf::server_tokens),
        Directive::location("if_modified_since", EVERYWHERE, Arity::Exactly(1), Conf::if_modified_since),
        Directive::location("max_ranges", EVERYWHERE, Arity::Exactly(1), Conf::max_ranges),
        Directive::location("keepalive_timeout", EVERYWHERE, Arity::Between(1, 2), Conf::keepalive_timeout),
        Directive::location("keepalive_disable", EVERYWHERE, Arity::AtLeast(1), Conf::keepalive_disable),
        Directive::location("lingering_close", EVERYWHERE, Arity::Exactly(1), Conf::lingering_close),
        Directive::location("limit_rate", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::limit_rate),
        Directive::location("limit_rate_after", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::limit_rate_after),
        Directive::location("client_body_in_file_only", EVERYWHERE, Arity::Exactly(1), Conf::client_body_in_file_only),
        Directive::location("client_body_temp_path", EVERYWHERE, Arity::Between(1, 4), Conf::client_body_temp_path),
        Directive::location("aio", EVERYWHERE, Arity::Exactly(1), Conf::aio),
        Directive::location("directio", EVERYWHERE, Arity::Exactly(1), Conf::directio),
        Directive::location("directio_alignment", EVERYWHERE, Arity::Exactly(1), Conf::directio_alignment),
        Directive::location("output_buffers", EVERYWHERE, Arity::Exactly(2), Conf::output_buffers),
        Directive::location("postpone_output", EVERYWHERE, Arity::Exactly(1), Conf::checked_size),
        Directive::location("send_lowat", EVERYWHERE, Arity::Exactly(1), Conf::checked_size),
        Directive::location("resolver", EVERYWHERE, Arity::AtLeast(1), Conf::resolver),
        Directive::location("absolute_redirect", EVERYWHERE, Arity::Flag, Conf::absolute_redirect),
        Directive::location("aio_write", EVERYWHERE, Arity::Flag, Conf::aio_write),
        Directive::location("auth_delay", EVERYWHERE, Arity::Exactly(1), Conf::auth_delay),
        Directive::location("chunked_transfer_encoding", EVERYWHERE, Arity::Flag, Conf::chunked_transfer_encoding),
        Directive::location("client_body_buffer_size", EVERYWHERE, Arity::Exactly(1), Conf::client_body_buffer_size),
        Directive::location(
            "client_body_in_single_buffer",
            EVERYWHERE,
            Arity::Flag,
            Conf::client_body_in_single_buffer,
        ),
        Directive::location("client_body_timeout", EVERYWHERE, Arity::Exactly(1), Conf::client_body_timeout),
        Directive::location("client_max_body_size", EVERYWHERE, Arity::Exactly(1), Conf::client_max_body_size),
        Directive::location("early_hints", EVERYWHERE, Arity::AtLeast(1), Conf::early_hints),
        Directive::location("etag", EVERYWHERE, Arity::Flag, Conf::etag),
        Directive::location("keepalive_min_timeout", EVERYWHERE, Arity::Exactly(1), Conf::keepalive_min_timeout),
        Directive::location("keepalive_requests", EVERYWHERE, Arity::Exactly(1), Conf::keepalive_requests),
        Directive::location("keepalive_time", EVERYWHERE, Arity::Exactly(1), Conf::keepalive_time),
        Directive::location("lingering_time", EVERYWHERE, Arity::Exactly(1), Conf::lingering_time),
        Directive::location("lingering_timeout", EVERYWHERE, Arity::Exactly(1), Conf::lingering_timeout),
        Directive::location("log_not_found", EVERYWHERE, Arity::Flag, Conf::log_not_found),
        Directive::location("log_subrequest", EVERYWHERE, Arity::Flag, Conf::log_subrequest),
        Directive::location("msie_padding", EVERYWHERE, Arity::Flag, Conf::msie_padding),
        Directive::location("msie_refresh", EVERYWHERE, Arity::Flag, Conf::msie_refresh),
        Directive::location("post_action", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::post_action),
        Directive::location("port_in_redirect", EVERYWHERE, Arity::Flag, Conf::port_in_redirect),
        Directive::location("recursive_error_pages", EVERYWHERE, Arity::Flag, Conf::recursive_error_pages),
        Directive::location("reset_timedout_connection", EVERYWHERE, Arity::Flag, Conf::reset_timedout_connection),
        Directive::location("resolver_timeout", EVERYWHERE, Arity::Exactly(1), Conf::resolver_timeout),
        Directive::location("send_timeout", EVERYWHERE, Arity::Exactly(1), Conf::send_timeout),
        Directive::location("sendfile", EVERYWHERE.or(IF_LOCATION), Arity::Flag, Conf::sendfile),
        Directive::location("sendfile_max_chunk", EVERYWHERE, Arity::Exactly(1), Conf::sendfile_max_chunk),
        Directive::location("server_name_in_redirect", EVERYWHERE, Arity::Flag, Conf::server_name_in_redirect),
        Directive::location(
            "subrequest_output_buffer_size",
            EVERYWHERE,
            Arity::Exactly(1),
            Conf::subrequest_output_buffer_size,
        ),
        Directive::location("tcp_nodelay", EVERYWHERE, Arity::Flag, Conf::tcp_nodelay),
        Directive::location("tcp_nopush", EVERYWHERE, Arity::Flag, Conf::tcp_nopush),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = server::Conf;
    type Location = Conf;

    fn link_main(level: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        super::vars::define(level, &mut main.vars)
    }

    fn link_server(level: &Level<'_>, server: &mut ServerPlan) -> Result<(), Fault> {
        server.settings = level.server::<Self>().settings()?;
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.core = level.location::<Self>().settings(level)?;
        Ok(())
    }
}

/// Syntax: `server_names_hash_max_size size;` and its kin. Our tables size themselves; the word must be a number.
fn hash_size(_: &mut (), words: &Words<'_>) -> Result<(), Fault> {
    words.number(0).map(drop)
}

/// What the core module was told at one level.
#[derive(Default)]
pub struct Conf {
    /// How requests find this location; `None` for a server's own level and for `if`.
    pub matcher: Option<Matcher>,
    /// The methods that a `limit_except` block does not concern.
    pub except: Vec<String>,
    /// The numbers of the `limit_except` blocks inside.
    pub limit_except: Option<usize>,
    internal: bool,
    root: Setting<Root>,
    types: Setting<Types>,
    default_type: Setting<Bytes>,
    error_page: Setting<Vec<ErrorPage>>,
    error_log: Setting<Vec<Entry>>,
    satisfy: Setting<Satisfy>,
    server_tokens: Setting<Tokens>,
    if_modified_since: Setting<IfModifiedSince>,
    max_ranges: Setting<u64>,
    keepalive_timeout: Setting<KeepaliveTimeout>,
    keepalive_disable: Setting<KeepaliveDisable>,
    lingering_close: Setting<Lingering>,
    limit_rate: Setting<Template>,
    limit_rate_after: Setting<Template>,
    client_body_in_file_only: Setting<InFile>,
    client_body_temp_path: Setting<TempPath>,
    aio: Setting<Aio>,
    directio: Setting<Option<u64>>,
    directio_alignment: Setting<usize>,
    output_buffers: Setting<Buffers>,
    resolver: Setting<Option<Arc<Resolver>>>,
    absolute_redirect: Setting<bool>,
    aio_write: Setting<bool>,
    auth_delay: Setting<Duration>,
    chunked_transfer_encoding: Setting<bool>,
    client_body_buffer_size: Setting<usize>,
    client_body_in_single_buffer: Setting<bool>,
    client_body_timeout: Setting<Duration>,
    client_max_body_size: Setting<u64>,
    early_hints: Setting<Vec<Template>>,
    etag: Setting<bool>,
    keepalive_min_timeout: Setting<Duration>,
    keepalive_requests: Setting<u64>,
    keepalive_time: Setting<Duration>,
    lingering_time: Setting<Duration>,
    lingering_timeout: Setting<Duration>,
    log_not_found: Setting<bool>,
    log_subrequest: Setting<bool>,
    msie_padding: Setting<bool>,
    msie_refresh: Setting<bool>,
    post_action: Setting<Bytes>,
    port_in_redirect: Setting<bool>,
    recursive_error_pages: Setting<bool>,
    reset_timedout_connection: Setting<bool>,
    resolver_timeout: Setting<Duration>,
    send_timeout: Setting<Duration>,
    sendfile: Setting<bool>,
    sendfile_max_chunk: Setting<usize>,
    server_name_in_redirect: Setting<bool>,
    subrequest_output_buffer_size: Setting<usize>,
    tcp_nodelay: Setting<bool>,
    tcp_nopush: Setting<bool>,
}

/// Reads `path [level1 [level2 [level3]]]`.
pub fn temp_path(words: &Words<'_>) -> Result<TempPath, Fault> {
    let levels = (1..words.len()).map(|n| match words.number(n) {
        Ok(digits @ 1..=3) => Ok(digits as usize),
        _ => Err(words.fault(n, "invalid value")),
    });
    Ok(TempPath { path: words.path(0, &words.cx.prefix), levels: levels.collect::<Result<_, _>>()? })
}

#[derive(Clone, Default)]
pub enum Aio {
    #[default]
    Off,
    /// `threads` or `threads=pool`.
    Threads(Arc<Pool>),
}

impl Conf {
    /// Syntax: `server { ... }`
    fn server(&mut self, _: &mut Self, _: &Words<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Syntax: `location [ = | ~ | ~* | ^~ ] uri { ... }`, `location @name { ... }`
    fn location(&mut self, inner: &mut Self, words: &Words<'_>) -> Result<(), Fault> {
        let matcher = Matcher::read(words)?;
        if let Some(outer) = &self.matcher {
            matcher.inside(outer).map_err(|message| words.fault(words.len() - 1, message))?;
        }
        inner.matcher = Some(matcher);
        Ok(())
    }

    /// Syntax: `limit_except method ... { ... }`
    fn limit_except(&mut self, inner: &mut Self, words: &Words<'_>) -> Result<(), Fault> {
        const METHODS: &[&str] = &[
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "DELETE",
            "MKCOL",
            "COPY",
            "MOVE",
            "OPTIONS",
            "PROPFIND",
            "PROPPATCH",
            "LOCK",
            "UNLOCK",
            "PATCH",
            "CONNECT",
            "TRACE",
        ];
        for (n, word) in words.texts().enumerate() {
            let Some(method) = METHODS.iter().find(|method| method.eq_ignore_ascii_case(word)) else {
                return Err(words.fault(n, format!("invalid method \"{word}\"")));
            };
            inner.except.push((*method).to_owned());
            if *method == "GET" {
                inner.except.push("HEAD".to_owned()); // nginx: who may GET may HEAD
            }
        }
        self.limit_except = Some(words.child);
        Ok(())
    }

    /// Syntax: `root path;`  Default: `html`
    fn root(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.place(words, None)
    }

    /// Syntax: `alias path;`
    fn alias(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let alias = match &self.matcher {
            Some(Matcher::Named(_)) => {
                return Err(words.fault(0, "the \"alias\" directive cannot be used inside the named location"));
            }
            Some(Matcher::Regex(_)) | None => Alias::Whole,
            Some(other) => Alias::Prefix(text::bytes(other.name()).len()),
        };
        self.place(words, Some(alias))
    }

    fn place(&mut self, words: &Words<'_>, alias: Option<Alias>) -> Result<(), Fault> {
        if let Some(before) = self.root.as_ref() {
            return Err(Fault::directive(match before.alias.is_some() == alias.is_some() {
                true => "is duplicate".to_owned(),
                false => {
                    let earlier = if before.alias.is_some() { "alias" } else { "root" };
                    format!("is duplicate, \"{earlier}\" directive was specified earlier")
                }
            }));
        }
        let word = words.one();
        for name in ["document_root", "realpath_root"] {
            if word.contains(&format!("${name}")) || word.contains(&format!("${{{name}}}")) {
                let message = format!("the ${name} variable cannot be used in the \"{}\" directive", words.name());
                return Err(words.fault(0, message));
            }
        }
        // nginx: a root loses its trailing slash, for URIs begin with one.
        let word = if alias.is_some() { word } else { word.strip_suffix('/').unwrap_or(word) };
        let absolute = match word.starts_with('/') || word.starts_with('$') || (word.is_empty() && alias.is_none()) {
            true => word.to_owned(),
            false => {
                format!("{}/{word}", text::decode(words.cx.prefix.as_os_str().as_encoded_bytes()).trim_end_matches('/'))
            }
        };
        self.root.set(Root { path: words.compile(0, &absolute)?, alias, prefix: words.cx.prefix.clone() })
    }

    /// Syntax: `internal;`
    fn internal(&mut self, _: &Words<'_>) -> Result<(), Fault> {
        self.internal = true;
        Ok(())
    }

    /// Syntax: `types { ... }`  Default: `text/html html; image/gif gif; image/jpeg jpg;`
    fn types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let types = Arc::make_mut(self.types.list());
        for node in words.block() {
            let statement = match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => statement,
            };
            let [media, extensions @ ..] = statement.words.as_slice() else { continue };
            if let Some(_block) = &statement.block {
                return Err(Fault::at("unexpected \"{\"", &media.at));
            }
            for extension in extensions {
                let key = Bytes::from(text::bytes(&extension.text).to_ascii_lowercase());
                let value = Bytes::from(text::bytes(&media.text));
                if let Some(before) = types.insert(key, value.clone()) {
                    words.cx.warn(Fault::at(
                        format!(
                            "duplicate extension \"{}\", content type: \"{}\", previous content type: \"{}\"",
                            extension.text,
                            String::from_utf8_lossy(&value),
                            String::from_utf8_lossy(&before)
                        ),
                        &extension.at,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Syntax: `default_type mime-type;`  Default: `text/plain`
    fn default_type(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.default_type.set(text::bytes(words.one()).into())
    }

    /// Syntax: `error_page code ... [=[response]] uri;`
    fn error_page(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let last = words.len() - 1;
        let second = words.arg(last - 1);
        let (overwrite, codes) = match second.strip_prefix('=') {
            None => (Overwrite::Keep, last),
            Some(_) if last < 2 => return Err(words.invalid_value(last - 1)),
            Some("") => (Overwrite::Page, last - 1),
            Some(code) => (Overwrite::With(code.parse().map_err(|_| words.invalid_value(last - 1))?), last - 1),
        };
        let target = words.template(last)?;
        for n in 0..codes {
            let status = words.arg(n).parse::<u16>().map_err(|_| words.invalid_value(n))?;
            if status == 499 || !(300..=599).contains(&status) {
                let message = format!("value \"{}\" must be between 300 and 599", words.arg(n));
                return Err(match status {
                    499 => words.invalid_value(n),
                    _ => words.fault(n, message),
                });
            }
            // nginx: without `=`, the pages for its own special statuses say 400.
            let overwrite = match (overwrite, status) {
                (Overwrite::Keep, 494..=497) => Overwrite::With(400),
                (other, _) => other,
            };
            self.error_page.list().push(ErrorPage { status, overwrite, target: target.clone() });
        }
        Ok(())
    }

    /// Syntax: `error_log file [level];`  Default: `logs/error.log error`
    fn error_log(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.error_log.list().push(words.error_log()?);
        Ok(())
    }

    /// Syntax: `satisfy all | any;`  Default: `all`
    fn satisfy(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.satisfy.set(words.choice(0, &[("all", Satisfy::All), ("any", Satisfy::Any)])?)
    }

    /// Syntax: `server_tokens on | off | build;`  Default: `on`
    fn server_tokens(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.server_tokens.set(match words.one() {
            "on" => Tokens::On,
            "off" => Tokens::Off,
            "build" => Tokens::Build,
            _ => return Err(words.invalid_value(0)),
        })
    }

    /// Syntax: `if_modified_since off | exact | before;`  Default: `exact`
    fn if_modified_since(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        use IfModifiedSince::{Before, Exact, Off};
        self.if_modified_since.set(words.choice(0, &[("off", Off), ("exact", Exact), ("before", Before)])?)
    }

    /// Syntax: `max_ranges number;`
    fn max_ranges(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.max_ranges.set(words.number(0)?)
    }

    /// Syntax: `keepalive_timeout timeout [header_timeout];`  Default: `75s`
    fn keepalive_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let server = words.time(0)?;
        let header = if words.len() == 2 { Some(words.seconds(1)?.as_secs()) } else { None };
        self.keepalive_timeout.set(KeepaliveTimeout { server, header })
    }

    /// Syntax: `keepalive_disable none | browser ...;`  Default: `msie6`
    fn keepalive_disable(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut disable = KeepaliveDisable { msie6: false, safari: false };
        for n in 0..words.len() {
            match words.arg(n) {
                "none" => {}
                "msie6" => disable.msie6 = true,
                "safari" => disable.safari = true,
                _ => return Err(words.invalid_value(n)),
            }
        }
        self.keepalive_disable.set(disable)
    }

    /// Syntax: `lingering_close off | on | always;`  Default: `on`
    fn lingering_close(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        use Lingering::{Always, Off, On};
        self.lingering_close.set(words.choice(0, &[("off", Off), ("on", On), ("always", Always)])?)
    }

    /// Syntax: `limit_rate rate;`  Default: `0`
    fn limit_rate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.limit_rate.set(rate(words)?)
    }

    /// Syntax: `limit_rate_after size;`  Default: `0`
    fn limit_rate_after(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.limit_rate_after.set(rate(words)?)
    }

    /// Syntax: `client_body_in_file_only on | clean | off;`  Default: `off`
    fn client_body_in_file_only(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        use InFile::{Clean, Off, On};
        self.client_body_in_file_only.set(words.choice(0, &[("off", Off), ("on", On), ("clean", Clean)])?)
    }

    /// Syntax: `client_body_temp_path path [level1 [level2 [level3]]];`  Default: `client_body_temp`
    fn client_body_temp_path(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_body_temp_path.set(temp_path(words)?)
    }

    /// Syntax: `aio on | off | threads[=pool];`  Default: `off`
    fn aio(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.aio.set(match words.one() {
            "off" => Aio::Off,
            // Kernel AIO reads files past the page cache; ours has the same effect on a thread.
            "on" | "threads" => Aio::Threads(words.pool(0, "default")),
            other => match other.strip_prefix("threads=") {
                Some(pool) if !pool.is_empty() && !pool.contains('$') => Aio::Threads(words.pool(0, pool)),
                _ => return Err(words.fault(0, "invalid value")),
            },
        })
    }

    /// Syntax: `directio size | off;`  Default: `off`
    fn directio(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.directio.set(if words.one() == "off" { None } else { Some(words.offset(0)?) })
    }

    /// Syntax: `directio_alignment size;`  Default: `512`
    fn directio_alignment(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.directio_alignment.set(words.size(0)?)
    }

    /// Syntax: `output_buffers number size;`  Default: `2 32k`
    fn output_buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.output_buffers.set(words.buffers()?)
    }

    /// Syntax: `postpone_output size;` and its kin: answers always leave in as few writes as there are loop turns, so
    /// the word is checked and has no effect.
    fn checked_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.size(0).map(drop)
    }

    /// Syntax: `types_hash_max_size size;` and its kin. Our tables size themselves.
    fn hash_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.number(0).map(drop)
    }

    /// Syntax: `resolver address ... [valid=time] [ipv4=on|off] [ipv6=on|off];`
    fn resolver(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let resolver = Resolver::read(words.texts()).map_err(|why| words.fault(0, why))?;
        self.resolver.set(resolver.map(Arc::new))
    }

    /// Syntax: `absolute_redirect on | off;`  Default: `on`
    fn absolute_redirect(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.absolute_redirect.set(words.flag()?)
    }

    /// Syntax: `aio_write on | off;`  Default: `off`
    fn aio_write(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.aio_write.set(words.flag()?)
    }

    /// Syntax: `auth_delay time;`  Default: `0s`
    fn auth_delay(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.auth_delay.set(words.time(0)?)
    }

    /// Syntax: `chunked_transfer_encoding on | off;`  Default: `on`
    fn chunked_transfer_encoding(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.chunked_transfer_encoding.set(words.flag()?)
    }

    /// Syntax: `client_body_buffer_size size;`  Default: `16k`
    fn client_body_buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_body_buffer_size.set(words.size(0)?)
    }

    /// Syntax: `client_body_in_single_buffer on | off;`  Default: `off`
    fn client_body_in_single_buffer(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_body_in_single_buffer.set(words.flag()?)
    }

    /// Syntax: `client_body_timeout time;`  Default: `60s`
    fn client_body_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_body_timeout.set(words.time(0)?)
    }

    /// Syntax: `client_max_body_size size;`  Default: `1m`
    fn client_max_body_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_max_body_size.set(words.offset(0)?)
    }

    /// Syntax: `early_hints string ...;`
    fn early_hints(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let templates = (0..words.len()).map(|n| words.template(n));
        self.early_hints.set(templates.collect::<Result<_, _>>()?)
    }

    /// Syntax: `etag on | off;`  Default: `on`
    fn etag(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.etag.set(words.flag()?)
    }

    /// Syntax: `keepalive_min_timeout timeout;`  Default: `0`
    fn keepalive_min_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_min_timeout.set(words.time(0)?)
    }

    /// Syntax: `keepalive_requests number;`  Default: `1000`
    fn keepalive_requests(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_requests.set(words.number(0)?)
    }

    /// Syntax: `keepalive_time time;`  Default: `1h`
    fn keepalive_time(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keepalive_time.set(words.time(0)?)
    }

    /// Syntax: `lingering_time time;`  Default: `30s`
    fn lingering_time(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.lingering_time.set(words.time(0)?)
    }

    /// Syntax: `lingering_timeout time;`  Default: `5s`
    fn lingering_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.lingering_timeout.set(words.time(0)?)
    }

    /// Syntax: `log_not_found on | off;`  Default: `on`
    fn log_not_found(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.log_not_found.set(words.flag()?)
    }

    /// Syntax: `log_subrequest on | off;`  Default: `off`
    fn log_subrequest(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.log_subrequest.set(words.flag()?)
    }

    /// Syntax: `msie_padding on | off;`  Default: `on`
    fn msie_padding(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.msie_padding.set(words.flag()?)
    }

    /// Syntax: `msie_refresh on | off;`  Default: `off`
    fn msie_refresh(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.msie_refresh.set(words.flag()?)
    }

    /// Syntax: `post_action uri;`
    fn post_action(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.post_action.set(text::bytes(words.one()).into())
    }

    /// Syntax: `port_in_redirect on | off;`  Default: `on`
    fn port_in_redirect(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.port_in_redirect.set(words.flag()?)
    }

    /// Syntax: `recursive_error_pages on | off;`  Default: `off`
    fn recursive_error_pages(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.recursive_error_pages.set(words.flag()?)
    }

    /// Syntax: `reset_timedout_connection on | off;`  Default: `off`
    fn reset_timedout_connection(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.reset_timedout_connection.set(words.flag()?)
    }

    /// Syntax: `resolver_timeout time;`  Default: `30s`
    fn resolver_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.resolver_timeout.set(words.time(0)?)
    }

    /// Syntax: `send_timeout time;`  Default: `60s`
    fn send_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.send_timeout.set(words.time(0)?)
    }

    /// Syntax: `sendfile on | off;`  Default: `off`
    fn sendfile(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.sendfile.set(words.flag()?)
    }

    /// Syntax: `sendfile_max_chunk size;`  Default: `2m`
    fn sendfile_max_chunk(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.sendfile_max_chunk.set(words.size(0)?)
    }

    /// Syntax: `server_name_in_redirect on | off;`  Default: `off`
    fn server_name_in_redirect(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.server_name_in_redirect.set(words.flag()?)
    }

    /// Syntax: `subrequest_output_buffer_size size;`  Default: `8k`
    fn subrequest_output_buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.subrequest_output_buffer_size.set(words.size(0)?)
    }

    /// Syntax: `tcp_nodelay on | off;`  Default: `on`
    fn tcp_nodelay(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.tcp_nodelay.set(words.flag()?)
    }

    /// Syntax: `tcp_nopush on | off;`  Default: `off`
    fn tcp_nopush(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.tcp_nopush.set(words.flag()?)
    }

    /// The values of a location, with nginx's defaults.
    fn settings(&self, level: &Level<'_>) -> Result<Settings, Fault> {
        let conf = self;
        let prefix = &level.cx.prefix;
        let html = || {
            let path = prefix.join("html").into_os_string().into_encoded_bytes();
            Root { path: Template::literal(path), alias: None, prefix: prefix.clone() }
        };
        let rate = |setting: &Setting<Template>| setting.said().filter(|rate| !rate.is_empty());
        let client_body_temp_path = conf.client_body_temp_path.or_else(|| TempPath::below(prefix, "client_body_temp"));
        // The worker could not make it where an installed server has it.
        level.cx.need_directory(&client_body_temp_path.path);
        Ok(Settings {
            internal: conf.internal,
            limit_except: conf.limit_except,
            except: conf.except.iter().map(|method| Bytes::copy_from_slice(method.as_bytes())).collect(),
            root: conf.root.or_else(html),
            types: conf.types.or_else(default_types),
            default_type: conf.default_type.or(Bytes::from_static(b"text/plain")),
            error_pages: conf.error_page.or_else(Vec::new),
            error_log: conf.error_log.said().map(ErrorLog::new),
            satisfy: conf.satisfy.or_else(Satisfy::default),
            server_tokens: conf.server_tokens.or(Tokens::On),
            if_modified_since: conf.if_modified_since.or_else(IfModifiedSince::default),
            max_ranges: conf.max_ranges.said(),
            keepalive_timeout: conf
                .keepalive_timeout
                .or(KeepaliveTimeout { server: Duration::from_secs(75), header: None }),
            keepalive_disable: conf.keepalive_disable.or(KeepaliveDisable { msie6: true, safari: false }),
            lingering_close: conf.lingering_close.or_else(Lingering::default),
            limit_rate: rate(&conf.limit_rate),
            limit_rate_after: rate(&conf.limit_rate_after),
            client_body_in_file_only: conf.client_body_in_file_only.or_else(InFile::default),
            client_body_temp_path,
            pool: match conf.aio.as_ref() {
                Some(Aio::Threads(pool)) => pool.clone(),
                Some(Aio::Off) | None => level.cx.pools.named("default"),
            },
            aio: matches!(conf.aio.as_ref(), Some(Aio::Threads(_))),
            directio: conf.directio.or(None),
            directio_alignment: conf.directio_alignment.or(512),
            output_buffers: conf.output_buffers.or(Buffers { number: 2, size: 32 * 1024 }),
            resolver: conf.resolver.or(None),
            absolute_redirect: conf.absolute_redirect.or(true),
            aio_write: conf.aio_write.or(false),
            auth_delay: conf.auth_delay.or(Duration::ZERO),
            chunked_transfer_encoding: conf.chunked_transfer_encoding.or(true),
            client_body_buffer_size: conf.client_body_buffer_size.or(16 * 1024),
            client_body_in_single_buffer: conf.client_body_in_single_buffer.or(false),
            client_body_timeout: conf.client_body_timeout.or(Duration::from_secs(60)),
            client_max_body_size: conf.client_max_body_size.or(1024 * 1024),
            early_hints: conf.early_hints.or_else(Vec::new),
            etag: conf.etag.or(true),
            keepalive_min_timeout: conf.keepalive_min_timeout.or(Duration::ZERO),
            keepalive_requests: conf.keepalive_requests.or(1000),
            keepalive_time: conf.keepalive_time.or(Duration::from_secs(3600)),
            lingering_time: conf.lingering_time.or(Duration::from_secs(30)),
            lingering_timeout: conf.lingering_timeout.or(Duration::from_secs(5)),
            log_not_found: conf.log_not_found.or(true),
            log_subrequest: conf.log_subrequest.or(false),
            msie_padding: conf.msie_padding.or(true),
            msie_refresh: conf.msie_refresh.or(false),
            post_action: conf.post_action.said(),
            port_in_redirect: conf.port_in_redirect.or(true),
            recursive_error_pages: conf.recursive_error_pages.or(false),
            reset_timedout_connection: conf.reset_timedout_connection.or(false),
            resolver_timeout: conf.resolver_timeout.or(Duration::from_secs(30)),
            send_timeout: conf.send_timeout.or(Duration::from_secs(60)),
            sendfile: conf.sendfile.or(false),
            sendfile_max_chunk: conf.sendfile_max_chunk.or(2 * 1024 * 1024),
            server_name_in_redirect: conf.server_name_in_redirect.or(false),
            subrequest_output_buffer_size: conf.subrequest_output_buffer_size.or(8 * 1024),
            tcp_nodelay: conf.tcp_nodelay.or(true),
            tcp_nopush: conf.tcp_nopush.or(false),
        })
    }
}

/// A rate in bytes per second, which may have variables.
fn rate(words: &Words<'_>) -> Result<Template, Fault> {
    if !words.one().contains('$') {
        words.size(0)?;
    }
    words.template(0)
}

/// nginx's three types for a configuration without `types`.
fn default_types() -> Types {
    let pairs = [("html", "text/html"), ("gif", "image/gif"), ("jpg", "image/jpeg")];
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    Arc::new(pairs.iter().map(|(extension, media)| (bytes(extension), bytes(media))).collect())
}

/// Who resolves names at this level, and for how long one may wait.
pub fn resolver(level: &Level<'_>) -> Option<(Arc<Resolver>, Duration)> {
    level.location::<Core>().resolver.or(None).map(|resolver| (resolver, resolver_timeout(level)))
}

/// How long one may wait for names at this level.
pub fn resolver_timeout(level: &Level<'_>) -> Duration {
    level.location::<Core>().resolver_timeout.or(Duration::from_secs(30))
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            matcher,
            except: _,
            limit_except: _,
            internal: _,
            root,
            types,
            default_type,
            error_page,
            error_log,
            satisfy,
            server_tokens,
            if_modified_since,
            max_ranges,
            keepalive_timeout,
            keepalive_disable,
            lingering_close,
            limit_rate,
            limit_rate_after,
            client_body_in_file_only,
            client_body_temp_path,
            aio,
            directio,
            directio_alignment,
            output_buffers,
            resolver,
            absolute_redirect,
            aio_write,
            auth_delay,
            chunked_transfer_encoding,
            client_body_buffer_size,
            client_body_in_single_buffer,
            client_body_timeout,
            client_max_body_size,
            early_hints,
            etag,
            keepalive_min_timeout,
            keepalive_requests,
            keepalive_time,
            lingering_time,
            lingering_timeout,
            log_not_found,
            log_subrequest,
            msie_padding,
            msie_refresh,
            post_action,
            port_in_redirect,
            recursive_error_pages,
            reset_timedout_connection,
            resolver_timeout,
            send_timeout,
            sendfile,
            sendfile_max_chunk,
            server_name_in_redirect,
            subrequest_output_buffer_size,
            tcp_nodelay,
            tcp_nopush,
        } = self;
        // An `if` block is a part of its location and goes by its name.
        if matcher.is_none() {
            matcher.clone_from(&outer.matcher);
        }
        root.inherit(&outer.root);
        types.inherit(&outer.types);
        default_type.inherit(&outer.default_type);
        error_page.inherit(&outer.error_page);
        error_log.inherit(&outer.error_log);
        satisfy.inherit(&outer.satisfy);
        server_tokens.inherit(&outer.server_tokens);
        if_modified_since.inherit(&outer.if_modified_since);
        max_ranges.inherit(&outer.max_ranges);
        keepalive_timeout.inherit(&outer.keepalive_timeout);
        keepalive_disable.inherit(&outer.keepalive_disable);
        lingering_close.inherit(&outer.lingering_close);
        limit_rate.inherit(&outer.limit_rate);
        limit_rate_after.inherit(&outer.limit_rate_after);
        client_body_in_file_only.inherit(&outer.client_body_in_file_only);
        client_body_temp_path.inherit(&outer.client_body_temp_path);
        aio.inherit(&outer.aio);
        directio.inherit(&outer.directio);
        directio_alignment.inherit(&outer.directio_alignment);
        output_buffers.inherit(&outer.output_buffers);
        resolver.inherit(&outer.resolver);
        absolute_redirect.inherit(&outer.absolute_redirect);
        aio_write.inherit(&outer.aio_write);
        auth_delay.inherit(&outer.auth_delay);
        chunked_transfer_encoding.inherit(&outer.chunked_transfer_encoding);
        client_body_buffer_size.inherit(&outer.client_body_buffer_size);
        client_body_in_single_buffer.inherit(&outer.client_body_in_single_buffer);
        client_body_timeout.inherit(&outer.client_body_timeout);
        client_max_body_size.inherit(&outer.client_max_body_size);
        early_hints.inherit(&outer.early_hints);
        etag.inherit(&outer.etag);
        keepalive_min_timeout.inherit(&outer.keepalive_min_timeout);
        keepalive_requests.inherit(&outer.keepalive_requests);
        keepalive_time.inherit(&outer.keepalive_time);
        lingering_time.inherit(&outer.lingering_time);
        lingering_timeout.inherit(&outer.lingering_timeout);
        log_not_found.inherit(&outer.log_not_found);
        log_subrequest.inherit(&outer.log_subrequest);
        msie_padding.inherit(&outer.msie_padding);
        msie_refresh.inherit(&outer.msie_refresh);
        post_action.inherit(&outer.post_action);
        port_in_redirect.inherit(&outer.port_in_redirect);
        recursive_error_pages.inherit(&outer.recursive_error_pages);
        reset_timedout_connection.inherit(&outer.reset_timedout_connection);
        resolver_timeout.inherit(&outer.resolver_timeout);
        send_timeout.inherit(&outer.send_timeout);
        sendfile.inherit(&outer.sendfile);
        sendfile_max_chunk.inherit(&outer.sendfile_max_chunk);
        server_name_in_redirect.inherit(&outer.server_name_in_redirect);
        subrequest_output_buffer_size.inherit(&outer.subrequest_output_buffer_size);
        tcp_nodelay.inherit(&outer.tcp_nodelay);
        tcp_nopush.inherit(&outer.tcp_nopush);
        Ok(())
    }
}
