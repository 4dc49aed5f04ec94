//! Programs that read what a protocol packs and answer as CGI programs do: what uwsgi and SCGI have in common.
//!
//! In: what a location says, and how its protocol packs a request ([`Pack`]). Out: a handler, and through the exchange the
//! answers. nginx has the same code twice: `ngx_http_uwsgi_module`, `ngx_http_scgi_module`.

mod codec;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

pub use self::codec::status;
use super::address::{PassAddress, Target};
use super::cache;
use super::cache::origin::Origin;
use super::cache::serve;
use super::exchange::{self, Job, Keeping, Pieces, Ready};
use super::group;
use super::params::{self, Param, Params};
use super::settings::{self, Family, Settings};
use super::tls::Tls;
use crate::conf::error::Fault;
use crate::conf::module::Level;
use crate::http::body::{FilePiece, Piece};
use crate::http::core::Core;
use crate::http::location::Matcher;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::http::upload::Upload;

/// How a protocol packs what a program is told.
pub trait Pack: Send + Sync + 'static {
    type Writer: params::Writer;

    /// Begins what stands in front of the body, in the memory of `room`. `content_length`: of that body.
    fn begin(&self, room: Vec<u8>, content_length: u64) -> Self::Writer;

    /// The bytes, when everything was told.
    fn finish(&self, writer: Self::Writer, request: &Request) -> Result<Vec<u8>, Refusal>;
}

/// What one level says.
pub struct Said<'a, P> {
    pub pass: Option<&'a PassAddress>,
    /// What the level around says: the blocks of a location pass where it does.
    pub outer: Option<&'a PassAddress>,
    pub params: Vec<Param>,
    pub pack: P,
    /// What the error log has before an address, without TLS and with it.
    pub schemes: [&'static str; 2],
    /// Where the protocol may be spoken by TLS.
    pub tls: Option<LinkTls>,
}

type LinkTls = fn(&Level<'_>) -> Result<Arc<Tls>, Fault>;

/// Makes the handler of a level that passes somewhere.
pub fn link<F: Family, P: Pack>(level: &Level<'_>, plan: &mut Plan, said: Said<'_, P>) -> Result<(), Fault> {
    let Some(pass) = PassAddress::of(said.pass, said.outer, level, plan) else { return Ok(()) };
    let [scheme, secure_scheme] = said.schemes;
    let common = settings::settings::<F>(level, &plan.core.root)?;
    let mut settings = Settings { scheme, secure_scheme, ..common };
    let mut cache = cache::plan::<F>(level, &mut settings)?;
    if let Some(plan) = &mut cache {
        // nginx: what ends with its connection is whole only if it is as long as announced
        plan.measures_head = true;
    }
    let kept_params = match &cache {
        Some(_) => Some(Params::link_for_all(said.params.clone(), &level.cx.names)?),
        None => None,
    };
    let target = Target::link(level, pass).map_err(|fault| fault.or_at(&pass.at))?;
    let tls = match said.tls.filter(|_| target.may_be_secure()) {
        Some(tls) => Some(tls(level)?),
        None => None,
    };
    let params = Params::link(said.params, &level.cx.names)?;
    let settings = Arc::new(settings);
    let programs = Programs { pack: said.pack, target, tls, params, cache, kept_params, settings };
    plan.handler = Some(Box::new(Handler { programs: Arc::new(programs) }));
    let tree = matches!(&level.location::<Core>().matcher,
        Some(Matcher::Exact(path) | Matcher::Prefix { path, .. }) if path.ends_with('/'));
    plan.auto_redirect |= said.pass.is_some() && tree;
    Ok(())
}

/// One location's programs, finished.
struct Programs<P> {
    pack: P,
    target: Target,
    /// Where the target may ask for TLS.
    tls: Option<Arc<Tls>>,
    params: Params,
    cache: Option<cache::Plan>,
    /// The params where the answer may be kept.
    kept_params: Option<Params>,
    settings: Arc<Settings>,
}

struct Handler<P> {
    programs: Arc<Programs<P>>,
}

impl<P: Pack> Content for Handler<P> {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        serve::answer(&self.programs, request)
    }
}

impl<P: Pack> Origin for Programs<P> {
    type Codec = codec::Program;

    fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn cache(&self) -> Option<&cache::Plan> {
        self.cache.as_ref()
    }

    /// nginx: there is none, and `*_cache_key` is for the operator to choose.
    fn key(&self, _: &Rc<Request>) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    fn codec(self: &Arc<Self>, request: &Request) -> codec::Program {
        codec::Program::new(request)
    }

    async fn ready(
        self: &Arc<Self>,
        request: &Rc<Request>,
        keeping: Option<Keeping>,
    ) -> Result<Ready<codec::Program>, Refusal> {
        let found = self.target.find(request, self.settings.minds_client()).await?;
        let settings = self.settings.clone();
        // A program is told the length first: what comes in chunks is read before.
        let mut streamed = !settings.request_buffering
            && settings.pass_request_body
            && !request.head.chunked
            && !request.is_subrequest()
            && request.body.stored().is_none();
        let mut early = Vec::new();
        if streamed {
            streamed = !exchange::preread(request, &mut early).await?;
        }
        let body = if streamed { None } else { Some(Upload::read(request).await?) };
        let length = match &body {
            Some(stored) if request.head.chunked => stored.len,
            _ => request.head.content_length.unwrap_or(0),
        };
        let own_params = self.kept_params.as_ref().filter(|_| keeping.is_some());
        let params = own_params.unwrap_or(&self.params);
        let head = params::packed(|room| {
            let mut writer = self.pack.begin(room, length);
            params.write(request, settings.pass_request_headers, &mut writer);
            self.pack.finish(writer, request)
        })?;
        let mut pieces: Pieces = smallvec::smallvec![Piece::Mem(head)];
        if let Some(stored) = body.filter(|_| settings.pass_request_body) {
            if let Some(file) = &stored.file {
                pieces.push(Piece::File(FilePiece { file: file.file.clone(), offset: 0, len: file.len }));
            }
            pieces.push(Piece::Mem(stored.memory));
        }
        let wanted = self.tls.as_ref().filter(|_| found.secure).map(|tls| tls.wanted(request, &found.group.name));
        let codec = codec::Program::new(request);
        let choice = group::choice(request, found.group);
        let (request, uri) = (request.clone(), Bytes::new());
        let job = Job { request, settings, choice, codec, pieces, streamed, early, uri, keeping };
        Ok(exchange::ready(job, wanted))
    }
}
