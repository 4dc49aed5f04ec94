//! What a location answers: a head, a body, or a refusal.

use std::sync::OnceLock;

use bytes::Bytes;

use super::body::Body;
use super::fields::Fields;
use crate::conf::pattern::Unmatched;
use crate::wire::byte::same_name;

/// A field of a head, name and value as they go on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Bytes,
    pub value: Bytes,
}

impl Field {
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    pub fn is(&self, name: &str) -> bool {
        same_name(&self.name, name.as_bytes())
    }
}

/// A response head. What nginx writes in a place of its own has a member of its own; the rest follows in order.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub status: u16,
    /// An upstream's own status line, `404 Nope`; without it the standard words.
    pub status_line: Option<Bytes>,
    pub content_type: Option<Bytes>,
    /// Where in `content_type` the media type ends, when an upstream has named a charset behind it.
    pub media_end: Option<usize>,
    /// Added to `content_type` as `; charset=`.
    pub charset: Option<Bytes>,
    /// The charset that an upstream asks for (`X-Accel-Charset`), for the filter that converts.
    pub override_charset: Option<Bytes>,
    /// Bytes of the body, when they are known beforehand.
    pub content_length: Option<u64>,
    /// Seconds since the epoch; written as `Last-Modified` unless `fields` has one.
    pub last_modified: Option<i64>,
    /// A target that may still be relative: the writer makes it absolute as `absolute_redirect` says.
    pub location: Option<Bytes>,
    pub fields: Fields,
    /// The body may be cut into ranges.
    pub allow_ranges: bool,
    /// But into one at most.
    pub single_range: bool,
    /// The client asked for a range of exactly what is here: filters that change the body must decline.
    pub ranged: bool,
    /// `Vary: Accept-Encoding` is owed (`gzip_vary`).
    pub vary_encoding: bool,
    /// Where in the whole representation the body begins, when an upstream answered 206 itself.
    pub offset: u64,
    /// An upstream made this: statuses without a body may have one.
    pub foreign: bool,
    /// Whether it is what the client has already was its maker's to judge.
    pub unconditional: bool,
    /// This is or will be a stored answer: a tag in the request's conditions decides alone, without the date beside it.
    pub tag_decides: bool,
    /// Fields of ours that stay away.
    pub no_server: bool,
    pub no_date: bool,
    /// An upstream answered without a head: so do we.
    pub headless: bool,
}

impl Head {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// The same where it will stand: half a kilobyte is not moved there.
    pub fn boxed(status: u16) -> Box<Self> {
        let mut head = Box::<Self>::default();
        head.status = status;
        head
    }

    pub fn add(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.fields.push(Field::new(name, value));
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name).map(|field| field.value)
    }

    /// The value of the first field of that name, to keep.
    pub fn field_bytes(&self, name: &str) -> Option<Bytes> {
        self.fields.first(name).map(|field| field.value_bytes())
    }

    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|field| !field.is(name));
    }

    /// Replaces all fields of that name by one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.remove(name);
        self.add(name, value);
    }

    /// The length is not known any more: a filter will change the body.
    pub fn clear_content_length(&mut self) {
        self.content_length = None;
        self.remove("Content-Length");
    }

    pub fn clear_last_modified(&mut self) {
        self.last_modified = None;
        self.remove("Last-Modified");
    }

    pub fn clear_etag(&mut self) {
        self.remove("ETag");
    }

    /// Ranges are out of the question: a filter will change the body.
    pub fn clear_accept_ranges(&mut self) {
        self.allow_ranges = false;
        self.remove("Accept-Ranges");
    }

    /// A changed body is no longer equal byte for byte (RFC 9110, 8.8.1): `"x"` becomes `W/"x"`, anything else goes.
    pub fn weaken_etag(&mut self) {
        let Some(place) = self.fields.position(|field| field.is("ETag")) else { return };
        let Some(tag) = self.fields.get(place).map(|field| field.value).filter(|tag| !tag.starts_with(b"W/")) else {
            return;
        };
        if !tag.starts_with(b"\"") {
            return self.clear_etag();
        }
        let weak = [b"W/", tag].concat();
        self.fields.set_value(place, weak.into());
    }

    /// The media type as lists of types mean it: without the charset that an upstream named.
    pub fn media_type(&self) -> &[u8] {
        let full = self.content_type.as_deref().unwrap_or_default();
        self.media_end.and_then(|end| full.get(..end)).unwrap_or(full)
    }
}

/// What the last upstream of a request sent, as it sent it: `$upstream_http_*` and its kin.
#[derive(Debug, Default)]
pub struct Replied {
    pub fields: Fields,
    /// Known once the body has ended.
    pub trailers: OnceLock<Vec<Field>>,
}

/// A finished answer.
///
/// Every step of the walk hands it on, so the head stands in a box: what moves is small.
#[derive(Debug)]
pub struct Response {
    pub head: Box<Head>,
    pub body: Body,
}

impl Response {
    pub fn new(head: impl Into<Box<Head>>, body: Body) -> Self {
        Self { head: head.into(), body }
    }

    /// A short text from memory.
    pub fn text(status: u16, content_type: Bytes, text: Bytes) -> Self {
        let mut head = Head::boxed(status);
        head.content_type = Some(content_type);
        head.content_length = Some(text.len() as u64);
        Self::new(head, Body::memory(text))
    }

    /// A head alone.
    pub fn empty(status: u16) -> Self {
        Self::new(Head { content_length: Some(0), ..Head::new(status) }, Body::Empty)
    }
}

/// Why a location does not answer itself. `http/respond.rs` decides what the client sees.
#[derive(Debug)]
pub enum Refusal {
    /// An error page, or what `error_page` says for this status.
    Status(u16),
    /// The request goes on elsewhere in this server.
    Jump(Box<Jump>),
    /// The connection ends without an answer: `return 444`, or the client is gone.
    Close,
}

/// A pattern that failed has said so in the log.
impl From<Unmatched> for Refusal {
    fn from(_: Unmatched) -> Self {
        Self::Status(500)
    }
}

/// An internal redirect.
#[derive(Clone, Debug)]
pub enum Jump {
    /// To a path, which is looked up anew; `None` keeps the arguments.
    Path { path: Bytes, args: Option<Bytes> },
    /// To `location @name`.
    Named(Bytes),
}
