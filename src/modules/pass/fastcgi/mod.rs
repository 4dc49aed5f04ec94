//! `fastcgi_pass`: programs behind us, of which PHP is the best known.
//!
//! In: a request and what its location says. Out: the request's records for the program, and through the exchange the
//! answer. nginx: `ngx_http_fastcgi_module`.

mod codec;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use self::codec::Records;
use super::address::{PassAddress, Target};
use super::cache;
use super::cache::origin::Origin;
use super::cache::serve;
use super::exchange::{self, Job, Keeping, Pieces, Ready};
use super::group;
use super::params::{self, Param, Params};
use super::settings::{self, Family, HIDDEN_OF_PROGRAMS, Next, Settings};
use crate::base::regex::{Captures, Pattern};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::body::Piece;
use crate::http::core::Core;
use crate::http::location::Matcher;
use crate::http::plan::{Answer, Content, Main, Plan, ScriptPath};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::http::upload::Upload;
use crate::log::Level as LogLevel;
use crate::wire::fastcgi::RequestWriter;

/// The common directives under `fastcgi`.
pub struct Programs;

impl Family for Programs {
    const PREFIX: &'static str = "fastcgi";
    const NAME: &'static str = "http_fastcgi_pass";
    const CACHE_NAME: &'static str = "http_fastcgi_cache";
    const HIDDEN: &'static [&'static str] = HIDDEN_OF_PROGRAMS;
    const NEXT: &'static [(&'static str, Next)] = Next::OF_PROGRAMS;
    const TEMP: &'static str = "fastcgi_temp";
}

/// `ngx_http_fastcgi_module`: what is FastCGI's own.
pub struct FastCgiModule;

impl Module for FastCgiModule {
    const NAME: &'static str = "http_fastcgi";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("fastcgi_pass", LOCATION.or(IF_LOCATION), Arity::Exactly(1), Conf::fastcgi_pass),
        Directive::location("fastcgi_index", EVERYWHERE, Arity::Exactly(1), Conf::fastcgi_index),
        Directive::location("fastcgi_split_path_info", EVERYWHERE, Arity::Exactly(1), Conf::fastcgi_split_path_info),
        Directive::location("fastcgi_param", EVERYWHERE, Arity::Between(2, 3), Conf::fastcgi_param),
        Directive::location("fastcgi_catch_stderr", EVERYWHERE, Arity::Exactly(1), Conf::fastcgi_catch_stderr),
        Directive::location("fastcgi_keep_conn", EVERYWHERE, Arity::Flag, Conf::fastcgi_keep_conn),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let vars = &mut main.vars;
        vars.define("fastcgi_script_name", Row::each(|r: &Request| Some(split(r)?.0)))?;
        vars.define("fastcgi_path_info", Row::each(|r: &Request| Some(split(r)?.1)))?;
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        plan.script = ScriptPath {
            split: conf.fastcgi_split_path_info.clone(),
            index: conf.fastcgi_index.said().unwrap_or_default(),
        };
        let own = conf.pass.as_ref();
        let Some(pass) = PassAddress::of(own, conf.outer.as_ref(), level, plan) else { return Ok(()) };
        let mut settings = Settings { scheme: "fastcgi://", ..settings::settings::<Programs>(level, &plan.core.root)? };
        let cache = cache::plan::<Programs>(level, &mut settings)?;
        let said = conf.fastcgi_param.or_else(Vec::new);
        let kept_params = match &cache {
            Some(_) => Some(Params::link_for_all(said.clone(), &level.cx.names)?),
            None => None,
        };
        let fastcgi = FastCgi {
            target: Target::link(level, pass).map_err(|fault| fault.or_at(&pass.at))?,
            params: Params::link(said, &level.cx.names)?,
            cache,
            kept_params,
            catch_stderr: conf.fastcgi_catch_stderr.or_else(Vec::new),
            keep_conn: conf.fastcgi_keep_conn.or(false),
            settings: Arc::new(settings),
        };
        plan.handler = Some(Box::new(Handler { fastcgi: Arc::new(fastcgi) }));
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
    /// What the level around says: the blocks of a location pass where it does.
    outer: Option<PassAddress>,
    fastcgi_index: Setting<Bytes>,
    fastcgi_split_path_info: Option<Arc<Pattern>>,
    fastcgi_param: Setting<Vec<Param>>,
    fastcgi_catch_stderr: Setting<Vec<Vec<u8>>>,
    fastcgi_keep_conn: Setting<bool>,
}

impl Conf {
    /// Syntax: `fastcgi_pass address;`
    fn fastcgi_pass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.pass.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        self.pass = Some(PassAddress::read(words, None)?);
        Ok(())
    }

    /// Syntax: `fastcgi_index name;`
    fn fastcgi_index(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.fastcgi_index.set(text::bytes(words.one()).into())
    }

    /// Syntax: `fastcgi_split_path_info regex;`
    fn fastcgi_split_path_info(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let pattern = Pattern::new(words.one(), false).map_err(|why| words.fault(0, why))?;
        if pattern.captures_len() != 3 {
            return Err(words.fault(0, format!("pattern \"{}\" must have 2 captures", words.one())));
        }
        // nginx: the last one counts
        self.fastcgi_split_path_info = Some(Arc::new(pattern));
        Ok(())
    }

    /// Syntax: `fastcgi_param parameter value [if_not_empty];`  Default: `HTTP_HOST $host$is_request_port$request_port`
    fn fastcgi_param(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.fastcgi_param.list().push(Param::read(words)?);
        Ok(())
    }

    /// Syntax: `fastcgi_catch_stderr string;`
    fn fastcgi_catch_stderr(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.fastcgi_catch_stderr.list().push(text::bytes(words.one()));
        Ok(())
    }

    /// Syntax: `fastcgi_keep_conn on | off;`  Default: `off`
    fn fastcgi_keep_conn(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.fastcgi_keep_conn.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            pass: _,
            outer: around,
            fastcgi_index,
            fastcgi_split_path_info,
            fastcgi_param,
            fastcgi_catch_stderr,
            fastcgi_keep_conn,
        } = self;
        around.clone_from(&outer.pass);
        fastcgi_index.inherit(&outer.fastcgi_index);
        if fastcgi_split_path_info.is_none() {
            fastcgi_split_path_info.clone_from(&outer.fastcgi_split_path_info);
        }
        fastcgi_param.inherit(&outer.fastcgi_param);
        fastcgi_catch_stderr.inherit(&outer.fastcgi_catch_stderr);
        fastcgi_keep_conn.inherit(&outer.fastcgi_keep_conn);
        Ok(())
    }
}

/// The script that the path names, and the path behind its name.
fn split(request: &Request) -> Option<(Bytes, Bytes)> {
    let ScriptPath { split, index } = &request.plan().script;
    let path = request.path();
    let (mut script, mut rest) = (path.clone(), Bytes::new());
    if let Some(pattern) = split {
        let mut captures = Captures::default();
        match pattern.captures(&path, &mut captures) {
            Ok(true) => {
                let group = |n| captures.get(n).map_or_else(Bytes::new, |span| path.slice(span));
                (script, rest) = (group(1), group(2));
            }
            Ok(false) => {}
            Err(failed) => {
                request.log(LogLevel::Alert, format_args!("{failed}"));
                return None;
            }
        }
    }
    if script.ends_with(b"/") && !index.is_empty() {
        script = [&script[..], index].concat().into();
    }
    Some((script, rest))
}

/// One location's FastCGI, finished.
pub struct FastCgi {
    target: Target,
    params: Params,
    cache: Option<cache::Plan>,
    /// The params where the answer may be kept.
    kept_params: Option<Params>,
    /// A message that has one of these makes the answer invalid.
    catch_stderr: Vec<Vec<u8>>,
    keep_conn: bool,
    settings: Arc<Settings>,
}

struct Handler {
    fastcgi: Arc<FastCgi>,
}

impl Content for Handler {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        serve::answer(&self.fastcgi, request)
    }
}

impl Origin for FastCgi {
    type Codec = Records;

    fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn cache(&self) -> Option<&cache::Plan> {
        self.cache.as_ref()
    }

    /// nginx: there is none, and `fastcgi_cache_key` is for the operator to choose.
    fn key(&self, _: &Rc<Request>) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    fn codec(self: &Arc<Self>, _: &Request) -> Records {
        Records::new(self.clone())
    }

    async fn ready(
        self: &Arc<Self>,
        request: &Rc<Request>,
        keeping: Option<Keeping>,
    ) -> Result<Ready<Records>, Refusal> {
        let group = self.target.find(request, self.settings.minds_client()).await?.group;
        let settings = self.settings.clone();
        let mut streamed = !settings.request_buffering
            && settings.pass_request_body
            && !request.is_subrequest()
            && request.body.stored().is_none();
        let mut early = Vec::new();
        if streamed {
            streamed = !exchange::preread(request, &mut early).await?;
        }
        let body = if streamed { None } else { Some(Upload::read(request).await?) };
        let own_params = self.kept_params.as_ref().filter(|_| keeping.is_some());
        let head = params::packed(|room| {
            let mut writer = RequestWriter::new(room, self.keep_conn);
            own_params.unwrap_or(&self.params).write(request, settings.pass_request_headers, &mut writer);
            writer.finish()
        });
        let head = head.map_err(|too_big| {
            request.log(LogLevel::Alert, format_args!("fastcgi request record is too big: {}", too_big.0));
            Refusal::Status(500)
        })?;
        let mut pieces: Pieces = smallvec::smallvec![Piece::Mem(head)];
        if !streamed {
            codec::whole(body.filter(|_| settings.pass_request_body), &mut pieces);
        }
        let codec = Records::new(self.clone());
        let choice = group::choice(request, group);
        let (request, uri) = (request.clone(), Bytes::new());
        let job = Job { request, settings, choice, codec, pieces, streamed, early, uri, keeping };
        Ok(exchange::ready(job, None))
    }
}
