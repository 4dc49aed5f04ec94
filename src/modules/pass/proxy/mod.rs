//! `proxy_pass`: HTTP servers behind us.
//!
//! In: a request and what its location says. Out: the request's bytes for the upstream, and through the exchange the
//! answer. nginx: `ngx_http_proxy_module`.

mod codec;
mod head;
mod rewrite;
mod target;

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::codec::Http1;
use self::head::RequestHead;
use self::rewrite::{Cookies, Flags, Pattern, Rule, Rules};
use self::target::Target;
use super::cache;
use super::cache::origin::Origin;
use super::cache::serve;
use super::exchange::{self, Job, Keeping, Pieces, Ready};
use super::group;
use super::reply::Rewritten;
use super::settings::{self, Family, Next, Settings};
use super::tls::{self, Secure, Tls};
use crate::conf::error::{At, Fault};
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, LIMIT_EXCEPT, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::vars::{Names, Row};
use crate::conf::words::Words;
use crate::http::body::{FilePiece, Piece};
use crate::http::core::Core;
use crate::http::location::Matcher;
use crate::http::plan::{Answer, Content, Main, Plan};
use crate::http::request::Request;
use crate::http::response::{Field, Refusal};
use crate::http::upload::{Stored, Upload};
use crate::wire::http1::chunked::SizeLine;

/// The common directives under `proxy`.
pub struct Http;

impl Secure for Http {
    const TLS_NAME: &'static str = "http_proxy_ssl";
}

impl Family for Http {
    const PREFIX: &'static str = "proxy";
    const NAME: &'static str = "http_proxy_pass";
    const CACHE_NAME: &'static str = "http_proxy_cache";
    const HIDDEN: &'static [&'static str] = &[
        "Date",
        "Server",
        "X-Pad",
        "X-Accel-Expires",
        "X-Accel-Redirect",
        "X-Accel-Limit-Rate",
        "X-Accel-Buffering",
        "X-Accel-Charset",
    ];
    const NEXT: &'static [(&'static str, Next)] = Next::OF_HTTP;
    const TEMP: &'static str = "proxy_temp";
}

/// `ngx_http_proxy_module`: what is HTTP's own.
pub struct ProxyModule;

impl Module for ProxyModule {
    const NAME: &'static str = "http_proxy";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location(
            "proxy_pass",
            LOCATION.or(IF_LOCATION).or(LIMIT_EXCEPT),
            Arity::Exactly(1),
            Conf::proxy_pass,
        ),
        Directive::location("proxy_redirect", EVERYWHERE, Arity::Between(1, 2), Conf::proxy_redirect),
        Directive::location("proxy_cookie_domain", EVERYWHERE, Arity::Between(1, 2), Conf::proxy_cookie_domain),
        Directive::location("proxy_cookie_path", EVERYWHERE, Arity::Between(1, 2), Conf::proxy_cookie_path),
        Directive::location("proxy_cookie_flags", EVERYWHERE, Arity::Between(1, 4), Conf::proxy_cookie_flags),
        Directive::location("proxy_set_header", EVERYWHERE, Arity::Exactly(2), Conf::proxy_set_header),
        Directive::location("proxy_set_body", EVERYWHERE, Arity::Exactly(1), Conf::proxy_set_body),
        Directive::location("proxy_method", EVERYWHERE, Arity::Exactly(1), Conf::proxy_method),
        Directive::location("proxy_http_version", EVERYWHERE, Arity::Exactly(1), Conf::proxy_http_version),
        Directive::location("proxy_cache_convert_head", EVERYWHERE, Arity::Flag, Conf::proxy_cache_convert_head),
        Directive::location("proxy_pass_trailers", EVERYWHERE, Arity::Flag, Conf::proxy_pass_trailers),
        Directive::location("proxy_headers_hash_max_size", EVERYWHERE, Arity::Exactly(1), Conf::hash_size),
        Directive::location("proxy_headers_hash_bucket_size", EVERYWHERE, Arity::Exactly(1), Conf::hash_size),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let vars = &mut main.vars;
        vars.define("proxy_host", Row::each(|r: &Request| memory(r, |sent| sent.host.clone())).changeable())?;
        vars.define("proxy_port", Row::each(|r: &Request| memory(r, |sent| sent.port.clone())).changeable())?;
        vars.define(
            "proxy_internal_body_length",
            Row::each(|r: &Request| memory(r, |sent| sent.body_length.map(|length| length.to_string().into()))),
        )?;
        vars.define(
            "proxy_internal_chunked",
            Row::each(|r: &Request| memory(r, |sent| sent.chunked.then(|| Bytes::from_static(b"chunked")))),
        )?;
        vars.define("proxy_add_x_forwarded_for", Row::once(forwarded_for))?;
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let is_block = level.place() != LOCATION;
        let own = conf.pass.as_ref();
        // nginx: an `if` or `limit_except` block passes where its location does
        let Some(pass) = own.or(conf.outer.as_ref().filter(|_| is_block)) else { return Ok(()) };
        let core = level.location::<Core>();
        let matcher = core.matcher.as_ref();
        if own.is_none() && plan.handler.is_some() {
            return Ok(());
        }
        let fault = |fault: Fault| fault.or_at(&pass.at);
        let location = match matcher {
            Some(Matcher::Exact(path) | Matcher::Prefix { path, .. }) => path.as_str(),
            Some(Matcher::Regex(_) | Matcher::Named(_)) | None => "",
        };
        let fixed = own.is_some() && (location.is_empty() || is_block);
        let target = Target::link(level, pass, if fixed { "" } else { location }, fixed).map_err(fault)?;
        let mut settings = settings::settings::<Http>(level, &plan.core.root)?;
        settings.scheme = "http://";
        settings.secure_scheme = "https://";
        settings.are_servers = true;
        settings.pass_trailers = conf.proxy_pass_trailers.or(false);
        let version = conf.proxy_http_version.or(HttpVersion::One);
        let headers = conf.proxy_set_header.or_else(Vec::new);
        let mut cache = cache::plan::<Http>(level, &mut settings)?;
        if let Some(plan) = &mut cache {
            plan.convert_head = conf.proxy_cache_convert_head.or(true);
        }
        let kept_head = match &cache {
            Some(_) => Some(RequestHead::link(&for_all(&headers, &level.cx.names)?, version)),
            None => None,
        };
        let proxy = Arc::new(Proxy {
            head: RequestHead::link(&headers, version),
            cache,
            kept_head,
            redirects: redirects(conf, pass, location)?,
            cookies: Cookies {
                domains: conf.proxy_cookie_domain.said().flatten().unwrap_or_default(),
                paths: conf.proxy_cookie_path.said().flatten().unwrap_or_default(),
                flags: conf.proxy_cookie_flags.said().flatten().unwrap_or_default(),
            },
            method: conf.proxy_method.said(),
            set_body: conf.proxy_set_body.said(),
            version,
            settings: Arc::new(settings),
            tls: if target.may_be_secure() { Some(tls::tls::<Http>(level)?) } else { None },
            target,
            wants_memory: MEMORY.iter().any(|name| level.cx.names.mentions(name)),
        });
        plan.handler = Some(Box::new(Handler { proxy }));
        plan.auto_redirect |= own.is_some() && location.ends_with('/');
        Ok(())
    }
}

/// `proxy_http_version`, except 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Zero,
    One,
}

/// What `proxy_pass` said.
#[derive(Clone, Debug)]
pub struct PassUrl {
    text: String,
    template: Template,
    at: At,
}

/// `proxy_redirect default` stands for a rule that `proxy_pass` gives.
#[derive(Clone, Debug)]
enum Redirect {
    Default,
    Rule(Rule),
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    pass: Option<PassUrl>,
    /// What the level around says: the blocks of a location pass where it does.
    outer: Option<PassUrl>,
    /// `None`: off.
    proxy_redirect: Setting<Option<Vec<Redirect>>>,
    proxy_cookie_domain: Setting<Option<Rules>>,
    proxy_cookie_path: Setting<Option<Rules>>,
    proxy_cookie_flags: Setting<Option<Vec<Flags>>>,
    proxy_set_header: Setting<Vec<(String, Template)>>,
    proxy_set_body: Setting<Template>,
    proxy_method: Setting<Template>,
    proxy_http_version: Setting<HttpVersion>,
    proxy_cache_convert_head: Setting<bool>,
    proxy_pass_trailers: Setting<bool>,
}

impl Conf {
    /// Syntax: `proxy_pass URL;`
    fn proxy_pass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.pass.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        let text = words.one();
        let template = words.template(0)?;
        if template.constant().is_some() {
            target::fixed(text).map_err(|why| words.fault(0, why))?;
        }
        self.pass = Some(PassUrl { text: text.to_owned(), template, at: words.at().clone() });
        Ok(())
    }

    /// Syntax: `proxy_redirect default; | proxy_redirect off; | proxy_redirect redirect replacement;`
    /// Default: `default`
    fn proxy_redirect(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if matches!(self.proxy_redirect.as_ref(), Some(None)) {
            return Err(Fault::directive("is duplicate"));
        }
        let rule = match (words.len(), words.one()) {
            (1, "off") => return self.proxy_redirect.set(None),
            (1, "default") => {
                let pass = self.pass.as_ref().ok_or_else(|| {
                    words.fault(0, "\"proxy_redirect default\" should be placed after the \"proxy_pass\" directive")
                })?;
                if pass.template.constant().is_none() {
                    let message =
                        "\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive with variables";
                    return Err(words.fault(0, message));
                }
                Redirect::Default
            }
            (1, _) => return Err(words.invalid_parameter(0)),
            _ => Redirect::Rule(Rule { pattern: Pattern::read(words)?, replacement: words.template(1)? }),
        };
        self.proxy_redirect.list().get_or_insert_default().push(rule);
        Ok(())
    }

    /// Syntax: `proxy_cookie_domain off; | proxy_cookie_domain domain replacement;`  Default: `off`
    fn proxy_cookie_domain(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        // nginx: the dot in front of a domain is kept from what is replaced
        let plain = words.arg(1).strip_prefix('.').filter(|_| !words.arg(0).starts_with('~'));
        let replacement = words.compile(1, plain.unwrap_or(words.arg(1)))?;
        cookie_rule(&mut self.proxy_cookie_domain, words, Pattern::read_domain, replacement)
    }

    /// Syntax: `proxy_cookie_path off; | proxy_cookie_path path replacement;`  Default: `off`
    fn proxy_cookie_path(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let replacement = words.template(1)?;
        cookie_rule(&mut self.proxy_cookie_path, words, Pattern::read, replacement)
    }

    /// Syntax: `proxy_cookie_flags off | cookie [flag ...];`  Default: `off`
    fn proxy_cookie_flags(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if matches!(self.proxy_cookie_flags.as_ref(), Some(None)) {
            return Err(Fault::directive("is duplicate"));
        }
        if words.len() == 1 {
            return match words.one() {
                "off" => self.proxy_cookie_flags.set(None),
                _ => Err(words.invalid_parameter(0)),
            };
        }
        let flags = (1..words.len()).map(|n| words.template(n)).collect::<Result<_, _>>()?;
        let flags = Flags { cookie: Pattern::read_caseless(words)?, flags };
        self.proxy_cookie_flags.list().get_or_insert_default().push(flags);
        Ok(())
    }

    /// Syntax: `proxy_set_header field value;`  Default: `Host $proxy_host`
    fn proxy_set_header(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_set_header.list().push((words.arg(0).to_owned(), words.template(1)?));
        Ok(())
    }

    /// Syntax: `proxy_set_body value;`
    fn proxy_set_body(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_set_body.set(words.template(0)?)
    }

    /// Syntax: `proxy_method method;`
    fn proxy_method(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_method.set(words.template(0)?)
    }

    /// Syntax: `proxy_http_version 1.0 | 1.1;`  Default: `1.1`
    fn proxy_http_version(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_http_version.set(words.choice(0, &[("1.0", HttpVersion::Zero), ("1.1", HttpVersion::One)])?)
    }

    /// Syntax: `proxy_cache_convert_head on | off;`  Default: `on`
    fn proxy_cache_convert_head(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_cache_convert_head.set(words.flag()?)
    }

    /// Syntax: `proxy_pass_trailers on | off;`  Default: `off`
    fn proxy_pass_trailers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.proxy_pass_trailers.set(words.flag()?)
    }

    /// Syntax: `proxy_headers_hash_max_size size;` and its kin. Our tables size themselves.
    fn hash_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.number(0).map(drop)
    }
}

/// The fields that are set where the answer may be kept: what makes an answer one client's own is left out, unless the
/// operator sets it.
fn for_all(set: &[(String, Template)], names: &Names) -> Result<Vec<(String, Template)>, Fault> {
    let mut set = set.to_vec();
    for (name, value) in [
        ("If-Modified-Since", "$upstream_cache_last_modified"),
        ("If-Unmodified-Since", ""),
        ("If-None-Match", "$upstream_cache_etag"),
        ("If-Match", ""),
        ("Range", ""),
        ("If-Range", ""),
    ] {
        if !set.iter().any(|(said, _)| said.eq_ignore_ascii_case(name)) {
            set.push((name.to_owned(), Template::new(value, names)?));
        }
    }
    Ok(set)
}

fn cookie_rule(
    setting: &mut Setting<Option<Rules>>,
    words: &Words<'_>,
    read: impl Fn(&Words<'_>) -> Result<Pattern, Fault>,
    replacement: Template,
) -> Result<(), Fault> {
    if matches!(setting.as_ref(), Some(None)) {
        return Err(Fault::directive("is duplicate"));
    }
    if words.len() == 1 {
        return match words.one() {
            "off" => setting.set(None),
            _ => Err(words.invalid_parameter(0)),
        };
    }
    let rule = Rule { pattern: read(words)?, replacement };
    setting.list().get_or_insert_default().0.push(rule);
    Ok(())
}

/// The rules for `Location`. Without any, redirects to the upstream itself become redirects to us.
fn redirects(conf: &Conf, pass: &PassUrl, location: &str) -> Result<Rules, Fault> {
    let default = || -> Result<Vec<Rule>, Fault> {
        if pass.template.constant().is_none() {
            return Ok(Vec::new());
        }
        let has_uri = target::fixed(&pass.text).is_ok_and(|(url, _)| !url.uri.is_empty());
        let bytes = |text: &str| Template::literal(crate::base::text::bytes(text));
        let (from, to) = match has_uri {
            true => (bytes(&pass.text), bytes(location)),
            false => (bytes(&format!("{}/", pass.text)), bytes("/")),
        };
        Ok(vec![Rule { pattern: Pattern::Text(from), replacement: to }])
    };
    let mut rules = Vec::new();
    match conf.proxy_redirect.said() {
        None => rules = default()?,
        Some(None) => {}
        Some(Some(list)) => {
            for redirect in list {
                match redirect {
                    Redirect::Default => rules.append(&mut default()?),
                    Redirect::Rule(rule) => rules.push(rule),
                }
            }
        }
    }
    Ok(Rules(rules))
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            pass: _,
            outer: around,
            proxy_redirect,
            proxy_cookie_domain,
            proxy_cookie_path,
            proxy_cookie_flags,
            proxy_set_header,
            proxy_set_body,
            proxy_method,
            proxy_http_version,
            proxy_cache_convert_head,
            proxy_pass_trailers,
        } = self;
        around.clone_from(&outer.pass);
        proxy_redirect.inherit(&outer.proxy_redirect);
        proxy_cookie_domain.inherit(&outer.proxy_cookie_domain);
        proxy_cookie_path.inherit(&outer.proxy_cookie_path);
        proxy_cookie_flags.inherit(&outer.proxy_cookie_flags);
        proxy_set_header.inherit(&outer.proxy_set_header);
        proxy_set_body.inherit(&outer.proxy_set_body);
        proxy_method.inherit(&outer.proxy_method);
        proxy_http_version.inherit(&outer.proxy_http_version);
        proxy_cache_convert_head.inherit(&outer.proxy_cache_convert_head);
        proxy_pass_trailers.inherit(&outer.proxy_pass_trailers);
        Ok(())
    }
}

/// The variables that tell what is being sent.
const MEMORY: [&str; 4] = ["proxy_host", "proxy_port", "proxy_internal_body_length", "proxy_internal_chunked"];

/// One location's proxy, finished.
pub struct Proxy {
    head: RequestHead,
    cache: Option<cache::Plan>,
    /// The head where the answer may be kept.
    kept_head: Option<RequestHead>,
    redirects: Rules,
    cookies: Cookies,
    method: Option<Template>,
    set_body: Option<Template>,
    version: HttpVersion,
    settings: Arc<Settings>,
    /// Where the target may be `https`.
    tls: Option<Arc<Tls>>,
    target: Target,
    /// Somebody may ask what is being sent.
    wants_memory: bool,
}

/// What was sent, for the variables that headers are made of.
#[derive(Clone, Debug, Default)]
struct Sent {
    host: Option<Bytes>,
    port: Option<Bytes>,
    body_length: Option<u64>,
    chunked: bool,
}

type Memory = std::cell::RefCell<Sent>;

fn memory(request: &Request, part: impl Fn(&Sent) -> Option<Bytes>) -> Option<Bytes> {
    part(&request.extension::<Memory>().borrow())
}

/// `$proxy_add_x_forwarded_for`: what came, and the client.
fn forwarded_for(request: &Request) -> Option<Bytes> {
    let client = request.client();
    let mut all: Vec<&[u8]> = Vec::new();
    for field in request.head.fields.all("X-Forwarded-For") {
        all.push(field.value);
        all.push(b", ");
    }
    if all.is_empty() {
        return Some(client.clone());
    }
    all.push(client);
    Some(all.concat().into())
}

struct Handler {
    proxy: Arc<Proxy>,
}

impl Content for Handler {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        serve::answer(&self.proxy, request)
    }
}

impl Origin for Proxy {
    type Codec = Http1;

    fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn cache(&self) -> Option<&cache::Plan> {
        self.cache.as_ref()
    }

    fn key(&self, request: &Rc<Request>) -> Result<Bytes, Refusal> {
        let upstream = self.target.find(request)?.upstream;
        let mut key = BytesMut::with_capacity(upstream.key.len() + request.head.target().len() + 32); // most are no longer
        key.extend_from_slice(&upstream.key);
        head::target(request, &upstream.uri, &mut key);
        Ok(key.freeze())
    }

    fn codec(self: &Arc<Self>, request: &Request) -> Http1 {
        Http1::new(self.clone(), request, false, false)
    }

    fn rewrite(&self, request: &Request, what: Rewritten, value: &Bytes) -> Option<Bytes> {
        match what {
            Rewritten::Location | Rewritten::Refresh => self.redirects.apply(request, value),
            Rewritten::Cookie => self.cookies.apply(request, value),
        }
    }

    async fn ready(self: &Arc<Self>, request: &Rc<Request>, keeping: Option<Keeping>) -> Result<Ready<Http1>, Refusal> {
        let meant = self.target.find(request)?;
        let group = meant.group(request, self.settings.minds_client()).await?;
        let upstream = meant.upstream;
        let settings = self.settings.clone();
        let mut streamed = !settings.request_buffering
            && self.set_body.is_none()
            && settings.pass_request_body
            && !request.is_subrequest()
            && request.body.stored().is_none()
            && (!request.head.chunked || self.version == HttpVersion::One);
        let mut body = None;
        let mut early = Vec::new();
        if streamed {
            streamed = !exchange::preread(request, &mut early).await?;
        }
        if !streamed {
            let stored = Upload::read(request).await?;
            if settings.pass_request_body && self.set_body.is_none() {
                body = Some(stored);
            }
        }
        let set_body = self.set_body.as_ref().map(|template| template.eval(request.as_ref()));
        let trailers = match &body {
            Some(_) if self.version == HttpVersion::One => request.body.trailers(),
            Some(_) | None => Vec::new(),
        };
        let trailing = trailers.iter().any(|field| self.lets_pass(field));
        let chunked = streamed && request.head.chunked || trailing;
        let length = match &set_body {
            Some(bytes) => Some(bytes.len() as u64),
            None if chunked => None,
            None if request.is_subrequest() || request.head.chunked => {
                let stored = request.body.stored().map(|stored| stored.len);
                stored.filter(|&len| len > 0 || request.head.chunked && !request.is_subrequest())
            }
            None => request.head.content_length,
        };
        let converts = keeping.is_some() && self.cache.as_ref().is_some_and(|plan| plan.convert_head);
        let method = match &self.method {
            Some(template) => Some(template.eval(request.as_ref())),
            None if converts && request.is_head() => Some(Bytes::from_static(b"GET")),
            None => None,
        };
        if self.wants_memory {
            request.extension::<Memory>().replace(Sent {
                host: Some(upstream.host.clone()),
                port: Some(upstream.port.clone()),
                body_length: length,
                chunked,
            });
        }
        let own_head = self.kept_head.as_ref().filter(|_| keeping.is_some());
        let build = |method: &[u8]| {
            let parts = head::Parts {
                request,
                proxy: self,
                method,
                host: &upstream.host,
                target: &upstream.uri,
                length,
                chunked,
                body: set_body.as_ref(),
            };
            own_head.unwrap_or(&self.head).build(&parts)
        };
        let (head, uri) = match &method {
            Some(method) => build(method),
            None => request.with_method(build),
        }?;
        let mut pieces: Pieces = smallvec::smallvec![Piece::Mem(head)];
        if let Some(stored) = body {
            let size = stored.len;
            if trailing && size > 0 {
                pieces.push(Piece::Mem(Bytes::copy_from_slice(SizeLine::new(size).as_ref())));
            }
            push(stored, &mut pieces);
            if trailing {
                let end = self.last_chunk(&trailers);
                let lines = if size > 0 { Bytes::from_static(b"\r\n") } else { Bytes::new() };
                pieces.extend([Piece::Mem(lines), Piece::Mem(end)]);
            }
        }
        let choice = group::choice(request, group);
        let wanted = self.tls.as_ref().filter(|_| upstream.secure).map(|tls| tls.wanted(request, &upstream.host));
        let head_only =
            method.as_ref().map_or_else(|| request.is_head(), |method| method.eq_ignore_ascii_case(b"HEAD"));
        let codec = Http1::new(self.clone(), request, head_only, chunked);
        let request = request.clone();
        let job = Job { request, settings, choice, codec, pieces, streamed, early, uri, keeping };
        Ok(exchange::ready(job, wanted))
    }
}

impl Proxy {
    /// Whether the client's field behind its body goes on.
    fn lets_pass(&self, field: &Field) -> bool {
        self.settings.pass_request_headers && self.head.lets_pass(field)
    }

    /// The end of a body in chunks, with the fields that came behind it.
    fn last_chunk(&self, trailers: &[Field]) -> Bytes {
        let mut end = BytesMut::from(&b"0\r\n"[..]);
        for field in trailers.iter().filter(|field| self.lets_pass(field)) {
            for part in [&field.name[..], b": ", &field.value, b"\r\n"] {
                end.extend_from_slice(part);
            }
        }
        end.extend_from_slice(b"\r\n");
        end.freeze()
    }
}

/// A body that was read before, as pieces.
fn push(stored: Stored, pieces: &mut Pieces) {
    if let Some(file) = &stored.file {
        pieces.push(Piece::File(FilePiece { file: file.file.clone(), offset: 0, len: file.len }));
    }
    if !stored.memory.is_empty() {
        pieces.push(Piece::Mem(stored.memory));
    }
}
