//! What a configuration says of HTTP/2.
//!
//! nginx: `ngx_http_v2_module`. Where it is spoken: `http2 on` of the server that an address belongs to by default, or
//! `listen … http2`, nginx's old way to say it.

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, Level, Module, SERVER, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::plan::{Main, Plan, ServerPlan};
use crate::http::request::Request;
use crate::wire::http2::frame::{MAX_SIZE, MAX_WINDOW};

/// `ngx_http_v2_module`.
pub struct Http2;

const HTTP_SERVER: crate::conf::module::Place = HTTP.or(SERVER);

impl Module for Http2 {
    const NAME: &'static str = "http_v2";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::server("http2", HTTP_SERVER, Arity::Flag, Server::http2),
        Directive::server("http2_max_concurrent_streams", HTTP_SERVER, ONE, Server::http2_max_concurrent_streams),
        Directive::server("http2_body_preread_size", HTTP_SERVER, ONE, Server::http2_body_preread_size),
        Directive::server("http2_pool_size", HTTP_SERVER, ONE, Server::http2_pool_size),
        Directive::server("http2_streams_index_size", HTTP_SERVER, ONE, Server::http2_streams_index_size),
        Directive::main("http2_recv_buffer_size", HTTP, ONE, Whole::http2_recv_buffer_size),
        Directive::location("http2_chunk_size", EVERYWHERE, ONE, Location::http2_chunk_size),
        // What nginx once had, and now only warns of.
        Directive::server("http2_max_requests", HTTP_SERVER, ONE, Server::obsolete),
        Directive::server("http2_max_field_size", HTTP_SERVER, ONE, Server::obsolete),
        Directive::server("http2_max_header_size", HTTP_SERVER, ONE, Server::obsolete),
        Directive::server("http2_recv_timeout", HTTP_SERVER, ONE, Server::obsolete),
        Directive::server("http2_idle_timeout", HTTP_SERVER, ONE, Server::obsolete),
        Directive::server("http2_max_concurrent_pushes", HTTP_SERVER, ONE, Server::ignored),
        Directive::location("http2_push_preload", EVERYWHERE, Arity::Flag, Location::ignored),
        Directive::location("http2_push", EVERYWHERE, ONE, Location::ignored),
    ];
    type Plan = Plan;
    type Main = Whole;
    type Server = Server;
    type Location = Location;

    fn link_main(level: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.http2_recv_buffer_size = level.main::<Self>().http2_recv_buffer_size.or(256 * 1024);
        main.vars.define("http2", Row::once(|r: &Request| Some(Bytes::from_static(super::name_for(r)))))
    }

    fn link_server(level: &Level<'_>, server: &mut ServerPlan) -> Result<(), Fault> {
        let conf = level.server::<Self>();
        server.http2 = Settings {
            on: conf.http2.or(false),
            max_concurrent_streams: conf.http2_max_concurrent_streams.or(128),
            body_preread_size: conf.http2_body_preread_size.or(64 * 1024),
        };
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.http2_chunk_size = level.location::<Self>().http2_chunk_size.or(8 * 1024);
        Ok(())
    }
}

const ONE: Arity = Arity::Exactly(1);

/// One server's HTTP/2, resolved.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub on: bool,
    pub max_concurrent_streams: u32,
    /// How much of a body the client may send before somebody asks for it.
    pub body_preread_size: u32,
}

/// What was said in the `http` block alone.
#[derive(Default)]
pub struct Whole {
    http2_recv_buffer_size: Setting<usize>,
}

impl Whole {
    /// Syntax: `http2_recv_buffer_size size;`  Default: `256k`
    fn http2_recv_buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let size = words.size(0)?;
        if size <= STATE_BUFFER {
            return Err(words.fault(0, "\"http2_recv_buffer_size\" directive value is too small"));
        }
        self.http2_recv_buffer_size.set(size)
    }
}

/// nginx keeps so much of it for what is not whole yet.
const STATE_BUFFER: usize = 16;

impl Section for Whole {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { http2_recv_buffer_size } = self;
        http2_recv_buffer_size.inherit(&outer.http2_recv_buffer_size);
        Ok(())
    }
}

/// What was said of one server.
#[derive(Default)]
pub struct Server {
    http2: Setting<bool>,
    http2_max_concurrent_streams: Setting<u32>,
    http2_body_preread_size: Setting<u32>,
    http2_pool_size: Setting<usize>,
    http2_streams_index_size: Setting<u64>,
}

impl Server {
    /// Syntax: `http2 on | off;`  Default: `off`
    fn http2(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.http2.set(words.flag()?)
    }

    /// Syntax: `http2_max_concurrent_streams number;`  Default: `128`
    fn http2_max_concurrent_streams(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.http2_max_concurrent_streams.set(u32::try_from(words.number(0)?).unwrap_or(u32::MAX))
    }

    /// Syntax: `http2_body_preread_size size;`  Default: `64k`
    fn http2_body_preread_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let size = u32::try_from(words.size(0)?).ok().filter(|size| *size <= MAX_WINDOW);
        let size =
            size.ok_or_else(|| words.fault(0, format!("the maximum body preread buffer size is {MAX_WINDOW}")))?;
        self.http2_body_preread_size.set(size)
    }

    /// Syntax: `http2_pool_size size;`  Default: `4k`  We have no pools; the word must be one that nginx takes.
    fn http2_pool_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let size = words.size(0)?;
        if size < MIN_POOL {
            return Err(words.fault(0, format!("the pool size must be no less than {MIN_POOL}")));
        }
        if size % POOL_ALIGNMENT != 0 {
            return Err(words.fault(0, format!("the pool size must be a multiple of {POOL_ALIGNMENT}")));
        }
        self.http2_pool_size.set(size)
    }

    /// Syntax: `http2_streams_index_size number;`  Default: `32`  Our table of streams sizes itself.
    fn http2_streams_index_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let number = words.number(0)?;
        if !number.is_power_of_two() {
            return Err(words.fault(0, "\"http2_streams_index_size\" directive must be a power of two"));
        }
        self.http2_streams_index_size.set(number)
    }

    /// Syntax: `http2_idle_timeout time;` and its kin: other directives have taken their place.
    fn obsolete(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let name = words.name();
        let instead = match name {
            "http2_max_requests" => "keepalive_requests",
            "http2_recv_timeout" => "client_header_timeout",
            "http2_idle_timeout" => "keepalive_timeout",
            _ => "large_client_header_buffers",
        };
        let message = format!("the \"{name}\" directive is obsolete, use the \"{instead}\" directive instead");
        words.cx.warn(words.fault(0, message));
        Ok(())
    }

    /// Syntax: `http2_max_concurrent_pushes number;`  Nobody pushes any more.
    fn ignored(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        ignored(words);
        Ok(())
    }
}

/// nginx's `NGX_MIN_POOL_SIZE` on 64-bit Linux.
const MIN_POOL: usize = 112;
const POOL_ALIGNMENT: usize = 16;

fn ignored(words: &Words<'_>) {
    words.cx.warn(words.fault(0, format!("the \"{}\" directive is obsolete, ignored", words.name())));
}

impl Section for Server {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            http2,
            http2_max_concurrent_streams,
            http2_body_preread_size,
            http2_pool_size,
            http2_streams_index_size,
        } = self;
        http2.inherit(&outer.http2);
        http2_max_concurrent_streams.inherit(&outer.http2_max_concurrent_streams);
        http2_body_preread_size.inherit(&outer.http2_body_preread_size);
        http2_pool_size.inherit(&outer.http2_pool_size);
        http2_streams_index_size.inherit(&outer.http2_streams_index_size);
        Ok(())
    }
}

/// What was said at one location.
#[derive(Default)]
pub struct Location {
    http2_chunk_size: Setting<usize>,
}

impl Location {
    /// Syntax: `http2_chunk_size size;`  Default: `8k`
    fn http2_chunk_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let size = words.size(0)?;
        if size == 0 {
            return Err(words.fault(0, "the http2 chunk size cannot be zero"));
        }
        self.http2_chunk_size.set(size.min(MAX_SIZE as usize))
    }

    /// Syntax: `http2_push uri | off;`, `http2_push_preload on | off;`  Nobody pushes any more.
    fn ignored(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        ignored(words);
        Ok(())
    }
}

impl Section for Location {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { http2_chunk_size } = self;
        http2_chunk_size.inherit(&outer.http2_chunk_size);
        Ok(())
    }
}
