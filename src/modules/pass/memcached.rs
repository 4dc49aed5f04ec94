//! `memcached_pass`: answers that somebody else has put into memcached.
//!
//! In: a request for GET or HEAD, and `$memcached_key`. Out: the value, or 404. What a value is follows from the path;
//! `memcached_gzip_flag` says which are compressed. nginx: `ngx_http_memcached_module`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::address::{PassAddress, Target};
use super::cache;
use super::cache::origin::Origin;
use super::cache::serve;
use super::codec::{Codec, Flow, Looked};
use super::exchange::{self, Job, Keeping, Ready, action};
use super::group;
use super::reply::Reply;
use super::settings::{self, Family, Next, Settings};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::body::Piece;
use crate::http::core::Core;
use crate::http::location::Matcher;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Field, Refusal};
use crate::log::{Level as LogLevel, Raw};
use crate::modules::content::static_file;
use crate::wire::memcached::{self, END, Line, Why};
use crate::wire::uri::{Escape, escape};

/// The common directives under `memcached`: few, for there is no body to send, nothing to keep and nothing to pass on.
pub struct Memory;

impl Family for Memory {
    const PREFIX: &'static str = "memcached";
    const NAME: &'static str = "http_memcached_pass";
    const CACHE_NAME: &'static str = "http_memcached_cache";
    const HIDDEN: &'static [&'static str] = &[];
    const NEXT: &'static [(&'static str, Next)] = &[
        ("error", Next::ERROR),
        ("timeout", Next::TIMEOUT),
        ("invalid_response", Next::INVALID_HEADER),
        ("not_found", Next::HTTP_404),
        ("off", Next::OFF),
    ];
    const TEMP: &'static str = "";
    const LACKS: &'static [&'static str] = &[
        "_socket_rcvbuf",
        "_socket_sndbuf",
        "_send_lowat",
        "_buffering",
        "_request_buffering",
        "_buffers",
        "_busy_buffers_size",
        "_max_temp_file_size",
        "_temp_file_write_size",
        "_temp_path",
        "_limit_rate",
        "_force_ranges",
        "_ignore_client_abort",
        "_intercept_errors",
        "_pass_request_headers",
        "_pass_request_body",
        "_hide_header",
        "_pass_header",
        "_ignore_headers",
        "_store",
        "_store_access",
    ];
}

/// `ngx_http_memcached_module`: what is memcached's own.
pub struct MemcachedModule;

impl Module for MemcachedModule {
    const NAME: &'static str = "http_memcached";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("memcached_pass", LOCATION.or(IF_LOCATION), Arity::Exactly(1), Conf::memcached_pass),
        Directive::location("memcached_gzip_flag", EVERYWHERE, Arity::Exactly(1), Conf::memcached_gzip_flag),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let own = conf.pass.as_ref();
        // nginx: `limit_except` does not pass where its location does
        let outer = conf.outer.as_ref().filter(|_| level.place() == IF_LOCATION);
        let Some(pass) = PassAddress::of(own, outer, level, plan) else { return Ok(()) };
        let settings = Settings {
            scheme: "memcached://",
            buffering: false,
            force_ranges: true,
            intercept_errors: true,
            intercepts_not_found: true,
            ..settings::settings::<Memory>(level, &plan.core.root)?
        };
        let memcached = Memcached {
            target: Target::link(level, pass).map_err(|fault| fault.or_at(&pass.at))?,
            key: Template::new("$memcached_key", &level.cx.names)?,
            gzip_flag: conf.memcached_gzip_flag.or(0),
            settings: Arc::new(settings),
        };
        plan.handler = Some(Box::new(Handler { memcached: Arc::new(memcached) }));
        let tree = matches!(&level.location::<Core>().matcher,
            Some(Matcher::Exact(path) | Matcher::Prefix { path, .. }) if path.ends_with('/'));
        plan.auto_redirect |= own.is_some() && tree;
        Ok(())
    }
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    pass: Option<PassAddress>,
    /// What the level around says: an `if` of a location passes where it does.
    outer: Option<PassAddress>,
    memcached_gzip_flag: Setting<u32>,
}

impl Conf {
    /// Syntax: `memcached_pass address;`
    fn memcached_pass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.pass.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        words.cx.names.id("memcached_key");
        self.pass = Some(PassAddress::read_fixed(words)?);
        Ok(())
    }

    /// Syntax: `memcached_gzip_flag flag;`
    ///
    /// Values with one of these bits among their flags go out as `Content-Encoding: gzip`.
    fn memcached_gzip_flag(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let flag = u32::try_from(words.number(0)?).map_err(|_| words.fault(0, "invalid number"))?;
        self.memcached_gzip_flag.set(flag)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { pass: _, outer: around, memcached_gzip_flag } = self;
        around.clone_from(&outer.pass);
        memcached_gzip_flag.inherit(&outer.memcached_gzip_flag);
        Ok(())
    }
}

/// One location's memcached, finished.
struct Memcached {
    target: Target,
    key: Template,
    gzip_flag: u32,
    settings: Arc<Settings>,
}

struct Handler {
    memcached: Arc<Memcached>,
}

impl Content for Handler {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        serve::answer(&self.memcached, request)
    }
}

impl Origin for Memcached {
    type Codec = Value;

    fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn cache(&self) -> Option<&cache::Plan> {
        None
    }

    fn key(&self, _: &Rc<Request>) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    fn codec(self: &Arc<Self>, _: &Request) -> Value {
        Value::new(self.clone(), Bytes::new())
    }

    async fn ready(self: &Arc<Self>, request: &Rc<Request>, keeping: Option<Keeping>) -> Result<Ready<Value>, Refusal> {
        if !matches!(request.method().as_ref(), b"GET" | b"HEAD") {
            return Err(Refusal::Status(405));
        }
        let key = self.key.eval(request.as_ref());
        if key.is_empty() {
            request.log(LogLevel::Error, format_args!("the \"$memcached_key\" variable is not set"));
            return Err(Refusal::Status(500));
        }
        let found = self.target.find(request, self.settings.minds_client()).await?;
        let key = Bytes::from(escape(Escape::Memcached, &key).into_owned());
        let asked = Bytes::from([b"get ", &key[..], b"\r\n"].concat());
        let job = Job {
            request: request.clone(),
            settings: self.settings.clone(),
            choice: group::choice(request, found.group),
            codec: Value::new(self.clone(), key),
            pieces: smallvec::smallvec![Piece::Mem(asked)],
            streamed: false,
            early: Vec::new(),
            uri: Bytes::new(),
            keeping,
        };
        Ok(exchange::ready(job, None))
    }
}

/// One exchange with memcached.
struct Value {
    memcached: Arc<Memcached>,
    /// As it was sent.
    key: Bytes,
    left: Left,
}

/// What of an answer is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// So many bytes of the value, and what ends it.
    Value(u64),
    /// What ends it, from here on.
    End(usize),
    /// Nothing, and whether the connection may be used again.
    Over { clean: bool },
}

impl Value {
    fn new(memcached: Arc<Memcached>, key: Bytes) -> Self {
        Self { memcached, key, left: Left::Over { clean: false } }
    }

    fn value(&mut self, request: &Request, flags: u32, length: u64) -> Looked {
        let mut fields = vec![
            Field::new("Content-Type", static_file::content_type(request, &request.path())),
            Field::new("Content-Length", length.to_string()),
        ];
        if flags & self.memcached.gzip_flag != 0 {
            fields.push(Field::new("Content-Encoding", "gzip"));
        }
        self.left = if length > 0 { Left::Value(length) } else { Left::End(0) };
        match Reply::new(request, 200, None, fields.into_iter().collect()) {
            Ok(reply) => Looked::Head(Box::new(reply)),
            Err(_) => Looked::Invalid,
        }
    }

    #[cold]
    fn refuse(&self, request: &Request, bad: memcached::BadLine, input: &[u8]) {
        let (line, key) = (Raw(bad.line.of(input)), Raw(&self.key));
        let part = match bad.why {
            Why::Response => {
                let message = format_args!("memcached sent invalid response: \"{line}\" while {}", action::HEAD);
                return request.log(LogLevel::Error, message);
            }
            Why::Key => "key",
            Why::Flags => "flags",
            Why::Length => "length",
        };
        let message = format_args!(
            "memcached sent invalid {part} in response \"{line}\" for key \"{key}\" while {}",
            action::HEAD
        );
        request.log(LogLevel::Error, message);
    }
}

impl Codec for Value {
    fn begin(&mut self) {
        self.left = Left::Over { clean: false };
    }

    fn wrap(&mut self, _: Vec<Bytes>, _: Option<&[Field]>, _: &mut VecDeque<Piece>) {}

    fn head(&mut self, request: &Request, input: &mut BytesMut) -> Looked {
        match memcached::first_line(input, &self.key, self.memcached.gzip_flag != 0) {
            Ok(None) => Looked::More,
            Ok(Some(Line::Value { flags, length, at })) => {
                input.advance(at as usize);
                self.value(request, flags, length)
            }
            Ok(Some(Line::NotFound { at })) => {
                input.advance(at as usize);
                let message =
                    format_args!("key: \"{}\" was not found by memcached while {}", Raw(&self.key), action::HEAD);
                request.log(LogLevel::Info, message);
                self.left = Left::Over { clean: true };
                let length = Field::new("Content-Length", "0");
                match Reply::new(request, 404, None, [length].into_iter().collect()) {
                    Ok(reply) => Looked::Head(Box::new(reply)),
                    Err(_) => Looked::Invalid,
                }
            }
            Err(bad) => {
                self.refuse(request, bad, input);
                Looked::Invalid
            }
        }
    }

    fn body(&mut self, request: &Request, input: &mut BytesMut, out: &mut VecDeque<Piece>) -> Flow {
        if let Left::Value(left) = self.left {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            if len > 0 {
                out.push_back(Piece::Mem(input.split_to(len).freeze()));
                self.passed(len as u64);
            }
        }
        if let Left::End(at) = self.left {
            let wanted = END.get(at..).unwrap_or_default();
            if input.len() > wanted.len() || !wanted.starts_with(input) {
                request.log(LogLevel::Error, format_args!("memcached sent invalid trailer while {}", action::BODY));
                input.clear();
                self.left = Left::Over { clean: false };
            } else {
                let at = at + input.len();
                input.clear();
                self.left = if at == END.len() { Left::Over { clean: true } } else { Left::End(at) };
            }
        }
        match self.left {
            Left::Value(_) | Left::End(_) => Flow::More,
            Left::Over { .. } => Flow::End,
        }
    }

    fn ends_with_connection(&self) -> bool {
        matches!(self.left, Left::Over { .. })
    }

    fn plain(&self) -> u64 {
        match self.left {
            Left::Value(left) => left,
            Left::End(_) | Left::Over { .. } => 0,
        }
    }

    fn passed(&mut self, bytes: u64) {
        let Left::Value(left) = &mut self.left else { return };
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            self.left = Left::End(0);
        }
    }

    fn expected(&self) -> u64 {
        match self.left {
            Left::Value(left) => left.saturating_add(END.len() as u64),
            Left::End(at) => END.len().saturating_sub(at) as u64,
            Left::Over { .. } => 0,
        }
    }

    fn is_reusable(&self) -> bool {
        self.left == Left::Over { clean: true }
    }
}
