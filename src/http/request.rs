//! One request: what the client asked, where the lookup stands, what was computed so far.
//!
//! A request is one `Rc` of its connection's thread. Its parts change through cells; no borrow of a cell outlives the
//! statement it is made in, so none is held across an await.

use std::any::Any;
use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::connection::Connection;
use super::fields::Fields;
use super::plan::{Http, Location, LocationId, Plan, Server, ServerId};
use super::response::{Field, Head, Replied};
use super::stream::Stream;
use super::upload::Upload;
use crate::base::place;
use crate::base::regex::Failed;
use crate::both::Visitor;
use crate::cache;
use crate::conf::pattern::{Matched, Matching};
use crate::conf::vars::{Keep, Named, Value, Values, VarId};
use crate::log::Level;
use crate::net::accept::Peer;
use crate::upstream::{Attempt, UpstreamUrl};
use crate::wire::http1::request::Version;
use crate::wire::span::Span;

/// What the client sent, as it sent it. Subrequests share their parent's.
#[derive(Debug)]
pub struct RequestHead {
    pub line: LineText,
    pub version: Version,
    /// Without the lines that `ignore_invalid_headers` dropped.
    pub fields: Fields,
    /// The host of the request line or of `Host`, valid and in lower case, without its port.
    pub host: Option<Bytes>,
    /// The port that came with the host; 0 without one.
    pub host_port: u16,
    /// `Content-Length`, when there is one.
    pub content_length: Option<u64>,
    pub chunked: bool,
    /// The path had a `%` or a `+`: what a rewrite rule takes from it is escaped where it becomes an argument.
    pub escaped: bool,
    /// Bytes of the head on the wire.
    pub size: u64,
}

/// The request line as the client sent it: places in bytes that have it, so that all its parts are held by one reference.
#[derive(Clone, Debug, Default)]
pub struct LineText {
    pub text: Bytes,
    /// The line without its end.
    pub whole: Span,
    pub method: Span,
    pub target: Span,
    pub protocol: Span,
}

impl LineText {
    /// A line made of its parts.
    pub fn of(method: &[u8], target: &[u8], protocol: &[u8]) -> Self {
        let mut text = BytesMut::with_capacity(method.len() + target.len() + protocol.len() + 2);
        let mut add = |part: &[u8]| {
            let start = text.len();
            text.extend_from_slice(part);
            Span::new(start, text.len())
        };
        let method = add(method);
        add(b" ");
        let target = add(target);
        add(b" ");
        let protocol = add(protocol);
        Self { whole: Span::new(0, text.len()), text: text.freeze(), method, target, protocol }
    }
}

impl RequestHead {
    /// Of a request of which nothing has come.
    pub fn empty() -> Self {
        Self {
            line: LineText::default(),
            version: Version::HTTP_10,
            fields: Fields::default(),
            host: None,
            host_port: 0,
            content_length: None,
            chunked: false,
            escaped: false,
            size: 0,
        }
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name).map(|field| field.value)
    }

    /// The request line without its end.
    pub fn line(&self) -> &[u8] {
        self.line.whole.of(&self.line.text)
    }

    pub fn method(&self) -> Bytes {
        self.line.method.slice(&self.line.text)
    }

    /// The target as sent: nginx's `unparsed_uri`.
    pub fn target(&self) -> &[u8] {
        self.line.target.of(&self.line.text)
    }

    /// The same, to keep.
    pub fn target_bytes(&self) -> Bytes {
        self.line.target.slice(&self.line.text)
    }

    /// `HTTP/1.1`; empty for HTTP/0.9, which does not name itself.
    pub fn protocol(&self) -> &[u8] {
        self.line.protocol.of(&self.line.text)
    }
}

/// A value of this request.
#[derive(Clone, Debug, Default)]
enum Slot {
    #[default]
    Unasked,
    /// Being computed: whoever asks now asks in a circle.
    Asked,
    Known(Value),
}

/// What a request and its parts have computed so far. The memory of one that is over serves the next: it grows with the
/// variables of the configuration.
#[derive(Clone, Debug)]
struct Kept(Rc<RefCell<Vec<Slot>>>);

/// So much of such memory is spared on a thread.
const SPARE_KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Rc<RefCell<Vec<Slot>>>>> = const { RefCell::new(Vec::new()) };
}

impl Default for Kept {
    fn default() -> Self {
        Self(SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) > 1 {
            return;
        }
        self.0.borrow_mut().clear();
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_KEPT {
                spare.push(self.0.clone());
            }
        });
    }
}

/// What an answer gets, whoever makes it: `WWW-Authenticate` also on the page of `error_page 401`.
#[derive(Debug, Default)]
struct Owed {
    fields: Vec<Field>,
    location: Option<Bytes>,
    /// It depends on `Accept-Encoding`.
    vary_encoding: bool,
    /// The type of the file that answers.
    media_type: Option<Bytes>,
}

/// See the module's head.
pub struct Request {
    pub connection: Rc<Connection>,
    pub head: Rc<RequestHead>,
    /// The request that this one is a part of; `None` for the client's own.
    pub parent: Option<Rc<Request>>,
    /// Where the client is, if its connection carries several requests at a time.
    pub stream: Option<Rc<dyn Stream>>,
    /// Whom a proxy has named as the client, if its word is believed (`realip`); asked of the client's own request.
    pub named: OnceCell<Box<Client>>,
    /// Its answer is for nobody: whether the client is still there is not its business, and whoever reads from the client
    /// must not lose a wake-up to it.
    pub background: Cell<bool>,
    pub started: Instant,
    /// Which request of its connection this is.
    pub number: u64,

    /// The normalised path.
    path: RefCell<Bytes>,
    args: RefCell<Bytes>,
    /// What `error_page` and subrequests make of the client's method; `None` leaves it.
    method: RefCell<Option<Bytes>>,
    server: Cell<ServerId>,
    location: Cell<LocationId>,
    /// Behind an internal redirect: `internal` locations are open.
    pub internal: Cell<bool>,
    /// `rewrite` changed the path: the location is to be found again.
    pub path_changed: Cell<bool>,
    /// `false` once `rewrite … break` or `break` left the path to a location that did not match it: what replaces the
    /// location's part of the path (`alias`, `proxy_pass` with a URI) has nothing to replace.
    pub location_valid: Cell<bool>,
    /// `try_files` made the path what follows the `alias` of a pattern's location.
    pub add_path_to_alias: Cell<bool>,
    /// How many internal redirects may still follow; nginx allows ten.
    pub jumps: Cell<u8>,
    /// The path has a `$` or came from the client unchanged: `proxy_pass` may send the target as it came.
    pub target_valid: Cell<bool>,
    /// The status whose error page is being made, once one is.
    pub error_status: Cell<u16>,
    /// An `error_page` is being made: another error gets the built-in page, unless `recursive_error_pages`.
    pub in_error_page: Cell<bool>,
    /// What the answer gets, whoever makes it. Most requests owe nothing.
    owed: RefCell<Option<Box<Owed>>>,
    pub body: Upload,

    kept: Kept,
    /// How many variables that are not kept are being computed.
    depth: Cell<u8>,
    captures: RefCell<Matched>,
    extensions: RefCell<Vec<Rc<dyn Any>>>,

    /// The connection may serve another request after this one.
    pub keepalive: Cell<bool>,
    /// The client has said all that it will say on this connection.
    pub last_word: Cell<bool>,
    /// This request is for one slice of a body (`slice`), which begins at this byte.
    pub slice: Cell<Option<u64>>,
    pub limit_rate: Cell<Option<u64>>,
    pub limit_rate_after: Cell<Option<u64>>,

    /// The response head, for `$sent_http_*` and the log: as it was sent, or before that as filters last saw it.
    answered: RefCell<Option<Box<Head>>>,
    /// `answered` was sent.
    pub written: Cell<bool>,
    /// The body went out in chunks.
    pub chunked: Cell<bool>,
    /// The trailer fields that were sent.
    pub trailers: RefCell<Vec<Field>>,
    /// The whole answer was handed to the client: `$request_completion`.
    pub complete: Cell<bool>,
    pub status: Cell<u16>,
    /// Bytes sent to the client, head included.
    pub bytes_sent: Cell<u64>,
    /// Bytes of `bytes_sent` that were the head.
    pub head_sent: Cell<u64>,
    /// Bytes of the request read so far.
    pub bytes_read: Cell<u64>,
    /// The upstream at work, for the error log.
    pub upstream_url: RefCell<UpstreamUrl>,
    /// What the last upstream answered; it stays over internal redirects.
    pub replied: RefCell<Option<Arc<Replied>>>,
    /// Every upstream peer that was tried, for `$upstream_*`.
    pub attempts: RefCell<SmallVec<[Attempt; 1]>>,
    /// What came of asking the cache; it stays over internal redirects.
    pub cache: RefCell<cache::Seen>,
    /// What limits said of it, where there are any; asked of the client's own request.
    pub limits: OnceCell<Box<Limits>>,
}

/// A client that a proxy in front of us has named.
pub struct Client {
    pub peer: Peer,
    /// Its address as text.
    pub text: Bytes,
}

/// What `limit_req` and `limit_conn` have to remember of a request, over internal redirects, until it ends.
#[derive(Default)]
pub struct Limits {
    /// `$limit_req_status`; a request is limited once.
    pub req: Cell<Option<&'static str>>,
    /// `$limit_conn_status`
    pub conn: Cell<Option<&'static str>>,
    /// Where it counts as one, until this is dropped.
    pub held: RefCell<Vec<Box<dyn Any>>>,
}

/// What of a request is not in its head.
#[derive(Default)]
pub struct Begun {
    /// The normalised path.
    pub path: Bytes,
    pub args: Bytes,
    pub server: ServerId,
    pub body: Upload,
    pub stream: Option<Rc<dyn Stream>>,
}

/// nginx's `NGX_HTTP_MAX_URI_CHANGES` is 10; the one that reaches zero is refused.
pub const JUMPS: u8 = 11;

/// How deep variables that are not kept may ask for each other: nginx's bound.
const DEPTH: u8 = 100;

impl Request {
    pub fn new(connection: Rc<Connection>, head: Rc<RequestHead>, begun: Begun) -> Rc<Self> {
        let Begun { path, args, server, body, stream } = begun;
        let location = connection.http.server(server).root;
        place::counted(|| Self {
            started: connection.begun.get(),
            number: connection.requests.get(),
            stream,
            path: RefCell::new(path),
            args: RefCell::new(args),
            method: RefCell::default(),
            server: Cell::new(server),
            location: Cell::new(location),
            internal: Cell::new(false),
            path_changed: Cell::new(false),
            location_valid: Cell::new(true),
            add_path_to_alias: Cell::new(false),
            jumps: Cell::new(JUMPS),
            target_valid: Cell::new(true),
            error_status: Cell::new(0),
            in_error_page: Cell::new(false),
            owed: RefCell::default(),
            body,
            kept: Kept::default(),
            depth: Cell::new(0),
            captures: RefCell::default(),
            extensions: RefCell::default(),
            keepalive: Cell::new(false),
            last_word: Cell::new(false),
            slice: Cell::new(None),
            limit_rate: Cell::new(None),
            limit_rate_after: Cell::new(None),
            answered: RefCell::default(),
            written: Cell::new(false),
            chunked: Cell::new(false),
            trailers: RefCell::default(),
            complete: Cell::new(false),
            status: Cell::new(0),
            bytes_sent: Cell::new(0),
            head_sent: Cell::new(0),
            bytes_read: Cell::new(head.size),
            upstream_url: RefCell::default(),
            replied: RefCell::default(),
            attempts: RefCell::default(),
            cache: RefCell::default(),
            limits: OnceCell::new(),
            named: OnceCell::new(),
            background: Cell::new(false),
            parent: None,
            head,
            connection,
        })
    }

    /// A request that asks for a part of `parent`'s answer; see `http/subrequest.rs`. It shares the parent's variables and
    /// its body is empty.
    pub fn child(parent: &Rc<Self>, path: Bytes, args: Bytes) -> Self {
        Self {
            connection: parent.connection.clone(),
            head: parent.head.clone(),
            parent: Some(parent.clone()),
            stream: parent.stream.clone(),
            started: parent.connection.now(),
            number: parent.number,
            path: RefCell::new(path),
            args: RefCell::new(args),
            method: RefCell::new(Some(Bytes::from_static(b"GET"))),
            server: Cell::new(parent.server.get()),
            location: Cell::new(parent.server().root),
            internal: Cell::new(true),
            path_changed: Cell::new(false),
            location_valid: Cell::new(true),
            add_path_to_alias: Cell::new(false),
            jumps: Cell::new(JUMPS),
            target_valid: Cell::new(false),
            error_status: Cell::new(0),
            in_error_page: Cell::new(false),
            owed: RefCell::default(),
            body: Upload::default(),
            kept: parent.kept.clone(),
            depth: Cell::new(0),
            captures: RefCell::default(),
            extensions: RefCell::default(),
            keepalive: Cell::new(false),
            last_word: Cell::new(false),
            slice: Cell::new(None),
            limit_rate: Cell::new(None),
            limit_rate_after: Cell::new(None),
            answered: RefCell::default(),
            written: Cell::new(false),
            chunked: Cell::new(false),
            trailers: RefCell::default(),
            complete: Cell::new(false),
            status: Cell::new(0),
            bytes_sent: Cell::new(0),
            head_sent: Cell::new(0),
            bytes_read: Cell::new(0),
            upstream_url: RefCell::default(),
            replied: RefCell::default(),
            attempts: RefCell::default(),
            cache: RefCell::default(),
            limits: OnceCell::new(),
            named: OnceCell::new(),
            background: Cell::new(false),
        }
    }

    /// The same request once more, for its own sake: its answer is for nobody, it is in no log, and what it does is not
    /// seen in this one's variables of upstreams.
    pub fn again(self: &Rc<Self>) -> Self {
        let again = Self::child(self, self.path(), self.args());
        again.set_method(self.method());
        again.location.set(self.location.get());
        again.internal.set(self.internal.get());
        again.location_valid.set(self.location_valid.get());
        again.add_path_to_alias.set(self.add_path_to_alias.get());
        again.target_valid.set(self.target_valid.get());
        again.slice.set(self.slice.get());
        again.captures.replace(self.captures.borrow().clone());
        if let Some(body) = self.body.stored() {
            again.body.store(body);
        }
        again
    }

    /// A GET of another target in the same location, with this request's fields: for what variables say of it, not to be
    /// answered.
    pub fn about(self: &Rc<Self>, target: &[u8], path: Bytes, args: Bytes) -> Self {
        let head = &self.head;
        let about = RequestHead {
            line: LineText::of(b"GET", target, head.protocol()),
            version: head.version,
            fields: head.fields.clone(),
            host: head.host.clone(),
            host_port: head.host_port,
            content_length: None,
            chunked: false,
            escaped: head.escaped,
            size: head.size,
        };
        let mut request = Self::child(self, path, args);
        request.head = Rc::new(about);
        request.parent = None; // `$request_method` is its own
        request.kept = Kept::default();
        request.location.set(self.location.get());
        request.location_valid.set(self.location_valid.get());
        request.target_valid.set(self.target_valid.get());
        request
    }

    pub fn http(&self) -> &Http {
        &self.connection.http
    }

    pub fn server(&self) -> &Server {
        self.http().server(self.server.get())
    }

    pub fn location(&self) -> &Location {
        self.http().location(self.location.get())
    }

    pub fn location_id(&self) -> LocationId {
        self.location.get()
    }

    /// Goes to another location of the same server.
    pub fn enter(&self, location: LocationId) {
        self.location.set(location);
    }

    /// The plan of the location where the lookup stands.
    pub fn plan(&self) -> &Plan {
        &self.location().plan
    }

    /// The client's own request, which may be this one.
    pub fn main(&self) -> &Request {
        let mut request = self;
        while let Some(parent) = &request.parent {
            request = parent;
        }
        request
    }

    /// Who asks.
    pub fn peer(&self) -> &Peer {
        self.main().named.get().map_or(&self.connection.peer, |named| &named.peer)
    }

    /// The address of who asks, as text: `$remote_addr`, and `client:` in the error log.
    pub fn client(&self) -> &Bytes {
        self.main().named.get().map_or_else(|| self.connection.client(), |named| &named.text)
    }

    pub fn is_subrequest(&self) -> bool {
        self.parent.is_some()
    }

    pub fn path(&self) -> Bytes {
        self.path.borrow().clone()
    }

    /// Shows the path to `then`, which may not change it.
    pub fn with_path<T>(&self, then: impl FnOnce(&Bytes) -> T) -> T {
        then(&self.path.borrow())
    }

    /// The path is that of a directory: it ends in a slash.
    pub fn is_for_directory(&self) -> bool {
        self.with_path(|path| path.ends_with(b"/"))
    }

    /// Sets the path; whatever asks for the target as sent is told that it no longer fits.
    pub fn set_path(&self, path: Bytes) {
        self.path.replace(path);
        self.target_valid.set(false);
    }

    pub fn args(&self) -> Bytes {
        self.args.borrow().clone()
    }

    pub fn set_args(&self, args: Bytes) {
        self.args.replace(args);
        self.target_valid.set(false);
    }

    pub fn method(&self) -> Bytes {
        self.method.borrow().clone().unwrap_or_else(|| self.head.method())
    }

    pub fn set_method(&self, method: Bytes) {
        self.method.replace(Some(method));
    }

    pub fn is_method(&self, method: &str) -> bool {
        self.with_method(|own| own == method.as_bytes())
    }

    /// The answer has no body, whatever its head says.
    pub fn is_head(&self) -> bool {
        self.is_method("HEAD")
    }

    pub fn is_get_or_head(&self) -> bool {
        self.with_method(|method| matches!(method, b"GET" | b"HEAD"))
    }

    /// Shows the method to `then`, which may not change it.
    pub fn with_method<T>(&self, then: impl FnOnce(&[u8]) -> T) -> T {
        let LineText { text, method, .. } = &self.head.line;
        then(self.method.borrow().as_deref().unwrap_or_else(|| method.of(text)))
    }

    /// The first request field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.head.field(name)
    }

    /// The value of the first request field of that name, to keep.
    pub fn field_bytes(&self, name: &str) -> Option<Bytes> {
        self.head.fields.first(name).map(|field| field.value_bytes())
    }

    /// `$host`: of the request, or the server's first name.
    pub fn host(&self) -> &Bytes {
        match &self.head.host {
            Some(host) if !host.is_empty() => host,
            _ => &self.server().name,
        }
    }

    /// Lets variables see the head that is being made.
    pub fn show(&self, head: &Head) {
        self.status.set(head.status);
        self.answered.replace(Some(Box::new(head.clone())));
    }

    /// The head is written: this is what variables see from now on.
    pub fn sent(&self, head: Box<Head>) {
        self.status.set(head.status);
        self.answered.replace(Some(head));
        self.written.set(true);
    }

    /// The response head as far as it has come; `None` before there is one.
    pub fn answered(&self) -> Option<Ref<'_, Head>> {
        Ref::filter_map(self.answered.borrow(), Option::as_deref).ok()
    }

    /// `$status`: that of an error has precedence.
    pub fn status_shown(&self) -> u16 {
        match self.error_status.get() {
            0 => self.status.get(),
            error => error,
        }
    }

    /// `$body_bytes_sent`
    pub fn body_bytes_sent(&self) -> u64 {
        self.bytes_sent.get().saturating_sub(self.head_sent.get())
    }

    /// `$request_time`
    pub fn elapsed(&self) -> Duration {
        self.connection.now().saturating_duration_since(self.started)
    }

    /// The request is over: tells the logs of the location where it ended.
    pub fn write_logs(&self) {
        for log in &self.plan().logs {
            log.log(self);
        }
    }

    /// Adds a field to the answer, whoever makes it.
    pub fn owe(&self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.owed.borrow_mut().get_or_insert_default().fields.push(Field::new(name, value));
    }

    /// Takes back what was owed under this name.
    pub fn forgive(&self, name: &str) {
        if let Some(owed) = &mut *self.owed.borrow_mut() {
            owed.fields.retain(|field| !field.is(name));
        }
    }

    /// Takes back one field that was owed.
    pub fn forgive_one(&self, name: &str, value: &[u8]) {
        if let Some(owed) = &mut *self.owed.borrow_mut() {
            owed.fields.retain(|field| !(field.is(name) && field.value == value));
        }
    }

    /// The `Location` of the answer, whoever makes it.
    pub fn owe_location(&self, target: Bytes) {
        self.owed.borrow_mut().get_or_insert_default().location = Some(target);
    }

    /// The media type of the file that answers: an upstream chose the file and its type.
    pub fn owe_type(&self, value: Bytes) {
        self.owed.borrow_mut().get_or_insert_default().media_type = Some(value);
    }

    /// What [`Request::owe_type`] was told.
    pub fn take_owed_type(&self) -> Option<Bytes> {
        self.owed.borrow_mut().as_mut()?.media_type.take()
    }

    /// Caches shall be told that the answer depends on `Accept-Encoding`, whoever makes it.
    pub fn owe_vary(&self) {
        self.owed.borrow_mut().get_or_insert_default().vary_encoding = true;
    }

    /// Adds what is owed to a head.
    pub fn pay(&self, head: &mut Head) {
        let mut owed = self.owed.borrow_mut();
        let Some(owed) = owed.as_mut() else { return };
        head.vary_encoding |= owed.vary_encoding;
        // They were there before whoever answers added its own.
        head.fields.prepend(std::mem::take(&mut owed.fields));
        if let Some(target) = owed.location.take() {
            head.location.get_or_insert(target);
        }
    }

    /// A match that failed: `$1` to `$9` are empty.
    pub fn clear_captures(&self) {
        self.captures.replace(Matched::default());
    }

    /// The memory of one module in this request, made at the first use. One type, one value.
    pub fn extension<T: Default + 'static>(&self) -> Rc<T> {
        let found = self.extensions.borrow().iter().find_map(|any| Rc::downcast(any.clone()).ok());
        found.unwrap_or_else(|| {
            let fresh = Rc::new(T::default());
            self.extensions.borrow_mut().push(fresh.clone());
            fresh
        })
    }

    /// An internal redirect begins anew: modules forget what they kept of the location before.
    pub fn forget_extensions(&self) {
        self.slice.set(None);
        self.extensions.borrow_mut().clear();
    }

    /// The value of a variable by its name in lower case, as a page says it.
    pub fn value_of(&self, name: &str) -> Value {
        match self.http().vars.look_up(name, self)? {
            Named::Id(id) => self.value(id),
            Named::Value(value) => value,
            Named::Row(row) => (row.get)(self),
        }
    }

    /// How many requests make one answer at this moment: the client's own and its subrequests.
    pub fn family(&self) -> usize {
        Rc::strong_count(&self.kept.0)
    }

    /// How many parents there are above.
    pub fn generation(&self) -> usize {
        std::iter::successors(self.parent.as_deref(), |request| request.parent.as_deref()).count()
    }

    /// Forgets a kept value, so that it is computed again.
    pub fn forget(&self, id: VarId) {
        self.keep(id, Slot::Unasked);
    }

    fn keep(&self, id: VarId, slot: Slot) -> Slot {
        let mut slots = self.kept.0.borrow_mut();
        if slots.is_empty() {
            slots.resize(self.http().vars.len(), Slot::Unasked);
        }
        match slots.get_mut(id.index()) {
            Some(place) => std::mem::replace(place, slot),
            None => Slot::Unasked,
        }
    }

    /// Has a value computed and kept. One that is not kept is the error.
    fn know(&self, id: VarId) -> Result<(), Value> {
        match self.kept.0.borrow().get(id.index()) {
            Some(Slot::Known(_)) => return Ok(()),
            Some(Slot::Asked) => return Err(self.circle(id)),
            Some(Slot::Unasked) | None => {}
        }
        let row = self.http().vars.row(id);
        if row.keep == Keep::Never {
            let depth = self.depth.get();
            if depth == DEPTH {
                return Err(self.circle(id));
            }
            self.depth.set(depth + 1);
            let value = (row.get)(self);
            self.depth.set(depth);
            return Err(value);
        }
        self.keep(id, Slot::Asked);
        let value = (row.get)(self);
        self.keep(id, Slot::Known(value));
        Ok(())
    }

    fn with_kept<T>(&self, id: VarId, then: impl FnOnce(&Value) -> T) -> T {
        match self.kept.0.borrow().get(id.index()) {
            Some(Slot::Known(value)) => then(value),
            Some(Slot::Unasked | Slot::Asked) | None => then(&None),
        }
    }

    fn circle(&self, id: VarId) -> Value {
        let name = self.http().vars.name(id);
        self.log(Level::Error, format_args!("cycle while evaluating variable \"{name}\""));
        None
    }
}

impl Values for Request {
    fn value(&self, id: VarId) -> Value {
        match self.know(id) {
            Ok(()) => self.with_kept(id, Value::clone),
            Err(value) => value,
        }
    }

    fn with_value<T>(&self, id: VarId, then: impl FnOnce(Option<&[u8]>) -> T) -> T {
        if let Some(lend) = self.http().vars.row(id).lend {
            return then(lend(self).as_deref());
        }
        match self.know(id) {
            Ok(()) => self.with_kept(id, |value| then(value.as_deref())),
            Err(value) => then(value.as_deref()),
        }
    }

    fn capture(&self, n: usize) -> Value {
        self.captures.borrow().get(n)
    }
}

impl Matching for Request {
    fn set_value(&self, id: VarId, value: Value) {
        match &self.http().vars.row(id).set {
            Some(set) => set(self, value),
            None => drop(self.keep(id, Slot::Known(value))),
        }
    }

    fn set_captures(&self, matched: Matched) {
        self.captures.replace(matched);
    }

    fn log_failed(&self, failed: &Failed) {
        self.log(Level::Alert, format_args!("{failed}"));
    }
}

impl Visitor for Request {
    fn peer(&self) -> &Peer {
        self.peer()
    }

    fn forwarded_for(&self) -> Vec<Bytes> {
        self.head.fields.all("X-Forwarded-For").map(|line| line.value_bytes()).collect()
    }
}
