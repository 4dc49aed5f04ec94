//! What a configuration became: servers, locations, and in each location only what is switched on there.
//!
//! `conf` fills a [`Plan`] per location by calling each module's `link`; `http/phase.rs` walks it. At this point there
//! are no names and no settings left: gates, handlers, filters and logs are finished objects.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::body::Body;
use super::build::Listen;
use super::h2;
use super::location::Locations;
use super::open_file::Opener;
use super::request::Request;
use super::response::{Head, Refusal, Response};
use super::server::ServerSettings;
use super::settings::Settings;
use super::tls::Offer;
use crate::base::regex::Pattern;
use crate::cache::Zone;
use crate::conf;
use crate::conf::vars::{Defines, Definitions, Get, Table};
use crate::upstream::moving::Moving;
use bytes::Bytes;

/// A future of this thread.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a gate says of a request.
pub enum Verdict<'a> {
    /// No opinion: the next one decides.
    Next,
    /// Let in, which is more than [`Verdict::Next`]: `satisfy any` asks no further.
    Allow,
    /// Not let in; `satisfy any` gives the next one a chance.
    Refuse(Refusal),
    /// Answered here and now.
    Answer(Response),
    /// Decides later.
    Wait(Later<'a, Verdict<'static>>),
}

/// Something that a request must pass: rewriting, limits, access rules.
pub trait Gate: Send + Sync {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a>;
}

/// What a content handler says.
pub enum Answer<'a> {
    /// Not mine: the next handler is asked.
    Decline,
    Now(Result<Response, Refusal>),
    Wait(Later<'a, Option<Result<Response, Refusal>>>),
}

/// Makes the response.
pub trait Content: Send + Sync {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a>;
}

/// The order in which filters see a response: bodies flow from the first to the last. nginx's order of its filter
/// modules, read from the handler towards the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Cuts a whole into the slice that was asked for.
    Slice,
    NotModified,
    Headers,
    Userid,
    Gunzip,
    Addition,
    Sub,
    Image,
    Charset,
    Ssi,
    Postpone,
    Gzip,
    Range,
    Trailers,
}

impl Stage {
    /// The filter also sees answers of subrequests; the others wait for the whole that they become a part of.
    pub fn concerns_parts(self) -> bool {
        match self {
            Self::Slice | Self::Gunzip | Self::Sub | Self::Image | Self::Charset | Self::Ssi | Self::Postpone => true,
            Self::NotModified
            | Self::Headers
            | Self::Userid
            | Self::Addition
            | Self::Gzip
            | Self::Range
            | Self::Trailers => false,
        }
    }
}

/// Changes a response on its way out.
pub trait Filter: Send + Sync {
    fn stage(&self) -> Stage;

    /// Asked before [`Filter::apply`]: whether this answer stands. A refusal takes its place, and meets the filters
    /// itself. What the refusal's answer shall say is owed to the request.
    fn check(&self, _: &Request, _: &mut Head, _: &Body) -> Result<(), Refusal> {
        Ok(())
    }

    /// Sees the head once. Gives the body back unchanged to decline, or behind a transformer.
    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body;
}

/// Is told of every request that is over.
pub trait Log: Send + Sync {
    fn log(&self, request: &Request);
}

/// What one location (or `if`, or `limit_except`, or a server's own level) does.
#[derive(Default)]
pub struct Plan {
    pub core: Settings,
    /// How files are opened here.
    pub files: Opener,
    /// Of a server's own level: asked once for each request of a client, before anything else. `realip`.
    pub post_read: Vec<Box<dyn Gate>>,
    /// `rewrite`, `if`, `set`, `return`.
    pub rewrite: Vec<Box<dyn Gate>>,
    /// `uninitialized_variable_warn off`
    pub quiet_unassigned: bool,
    /// Limits.
    pub preaccess: Vec<Box<dyn Gate>>,
    /// Who may: joined by `satisfy`.
    pub access: Vec<Box<dyn Gate>>,
    /// `try_files`, `mirror`.
    pub precontent: Vec<Box<dyn Gate>>,
    /// The one handler that the location names: `proxy_pass`, `empty_gif`.
    pub handler: Option<Box<dyn Content>>,
    /// Without a handler these are asked in order: index, autoindex, static files.
    pub contents: Vec<Box<dyn Content>>,
    /// The handler serves a tree: `/path` is answered with a redirect to the location `/path/`.
    pub auto_redirect: bool,
    pub script: ScriptPath,
    /// `$invalid_referer`, where `valid_referers` says who is one.
    pub invalid_referer: Option<Get<Request>>,
    /// `$secure_link`, where links have a sum.
    pub secure_link: Option<Get<Request>>,
    /// Bytes of a slice (`slice`); 0: bodies are asked for whole.
    pub slice: u64,
    pub filters: Vec<Box<dyn Filter>>,
    pub logs: Vec<Box<dyn Log>>,
    /// The most that one frame of HTTP/2 carries of a body.
    pub http2_chunk_size: usize,
}

/// What of a path names a script, for `$fastcgi_script_name` and `$fastcgi_path_info`, which any module may ask for.
#[derive(Clone, Debug, Default)]
pub struct ScriptPath {
    /// Its first group is the script, its second what follows.
    pub split: Option<Arc<Pattern>>,
    /// The script of a path that ends in `/`.
    pub index: Bytes,
}

impl conf::module::Plan for Plan {
    type Main = Main;
    type Server = ServerPlan;
}

/// What the whole `http` block shares while it is linked.
#[derive(Default)]
pub struct Main {
    pub vars: Definitions<Request>,
    /// How much is read at once from a client that speaks HTTP/2.
    pub http2_recv_buffer_size: usize,
    /// Every cache on disk.
    pub caches: Vec<Arc<Zone>>,
    /// How many bytes of small cache files are kept in memory, where that is said.
    pub cache_memory: Option<u64>,
    /// Groups whose servers are found by name.
    pub moving: Vec<Arc<Moving>>,
}

impl Defines for Main {
    type Asker = Request;

    fn definitions(&mut self) -> &mut Definitions<Request> {
        &mut self.vars
    }
}

/// What modules add to one server.
#[derive(Default)]
pub struct ServerPlan {
    pub settings: ServerSettings,
    pub http2: h2::Settings,
    pub tls: Offer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerId(pub u32);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocationId(pub u32);

/// One `server` block.
pub struct Server {
    /// The first `server_name`.
    pub name: Bytes,
    pub settings: ServerSettings,
    pub http2: h2::Settings,
    pub tls: Offer,
    /// The server's own level: its rewrite rules, and what is answered where no location matches.
    pub root: LocationId,
    /// `location @name`.
    pub named: Vec<(Bytes, LocationId)>,
}

/// One location.
pub struct Location {
    /// What the configuration calls it: `/images/`, `@fallback`.
    pub name: Bytes,
    pub plan: Plan,
    /// The locations inside.
    pub inner: Locations,
    /// The `if` and `limit_except` blocks inside, by their number in [`conf::words::Words::child`].
    pub blocks: Vec<Option<LocationId>>,
    /// `if` and `limit_except` blocks do not begin a lookup of their own.
    pub is_block: bool,
}

/// A whole `http` block, ready to serve. Shared by all threads.
pub struct Http {
    pub servers: Vec<Server>,
    pub locations: Vec<Location>,
    pub listens: Vec<Listen>,
    pub vars: Table<Request>,
    /// Some variable is about the response's head: filters must let it be seen while they make it.
    pub head_is_asked_for: bool,
    /// Some variable is about what clients offer in their TLS handshake.
    pub hello_is_asked_for: bool,
    /// Some variable is about what handshakes are signed with.
    pub signature_is_asked_for: bool,
    /// How much is read at once from a client that speaks HTTP/2.
    pub http2_recv_buffer_size: usize,
    pub caches: Vec<Arc<Zone>>,
    pub cache_memory: u64,
    pub moving: Vec<Arc<Moving>>,
}

impl Http {
    pub fn server(&self, id: ServerId) -> &Server {
        &self.servers[id.0 as usize]
    }

    pub fn location(&self, id: LocationId) -> &Location {
        &self.locations[id.0 as usize]
    }
}
