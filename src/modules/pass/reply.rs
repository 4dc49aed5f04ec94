//! What an upstream answered: from its fields to the head that the client gets.
//!
//! In: a status and fields in their order. Out: what they mean for us ([`Reply`]), and the client's [`Head`]. nginx:
//! `ngx_http_upstream_headers_in` and its two columns of handlers.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::settings::{Ignore, Settings};
use crate::base::place;
use crate::cache::rfc9111;
use crate::http::fields::{FieldRef, Fields};
use crate::http::request::Request;
use crate::http::response::{Field, Head, Jump, Refusal, Replied};
use crate::log::{Level, Raw};
use crate::wire::byte;
use crate::wire::date;
use crate::wire::http1::response::{BadFraming, Framing};
use crate::wire::uri;

/// The head of an upstream's answer, understood. What a location says of its fields counts when it is used: a kept one
/// serves several.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// `404 Nope`: its own words.
    pub status_line: Option<Bytes>,
    pub replied: Arc<Replied>,
    /// What `Last-Modified` says.
    last_modified: Option<i64>,
    /// What each of its fields is to us.
    known: SmallVec<[Option<Known>; 16]>,
    pub framing: Framing,
    accel: Accel,
    /// There was no head at all: HTTP/0.9.
    pub headless: bool,
}

/// What an upstream tells us to do, in `X-Accel-*`.
#[derive(Debug, Default)]
struct Accel {
    redirect: Option<Bytes>,
    buffering: Option<bool>,
    charset: Option<Bytes>,
    limit_rate: Option<u64>,
}

/// What an answer is to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It passes, and is forgotten.
    Passed,
    /// It passes, and may be kept: what the client has of it already is ours to judge.
    Kept,
    /// It comes from the cache.
    Cached,
}

/// The upstream's head cannot be used; why is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHead;

/// A field that means something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Status,
    ContentType,
    ContentLength,
    Date,
    LastModified,
    ETag,
    Server,
    Location,
    Refresh,
    SetCookie,
    ContentDisposition,
    CacheControl,
    Expires,
    AcceptRanges,
    Upgrade,
    Connection,
    KeepAlive,
    TransferEncoding,
    AccelExpires,
    AccelRedirect,
    AccelLimitRate,
    AccelBuffering,
    AccelCharset,
}

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        let candidates: &[(&str, Self)] = match name.len() {
            4 => &[("Date", Self::Date), ("ETag", Self::ETag)],
            6 => &[("Server", Self::Server), ("Status", Self::Status)],
            7 => &[("Expires", Self::Expires), ("Refresh", Self::Refresh), ("Upgrade", Self::Upgrade)],
            8 => &[("Location", Self::Location)],
            10 => &[("Connection", Self::Connection), ("Set-Cookie", Self::SetCookie), ("Keep-Alive", Self::KeepAlive)],
            12 => &[("Content-Type", Self::ContentType)],
            13 => &[
                ("Cache-Control", Self::CacheControl),
                ("Last-Modified", Self::LastModified),
                ("Accept-Ranges", Self::AcceptRanges),
            ],
            14 => &[("Content-Length", Self::ContentLength)],
            15 => &[("X-Accel-Expires", Self::AccelExpires), ("X-Accel-Charset", Self::AccelCharset)],
            16 => &[("X-Accel-Redirect", Self::AccelRedirect)],
            17 => &[("Transfer-Encoding", Self::TransferEncoding), ("X-Accel-Buffering", Self::AccelBuffering)],
            18 => &[("X-Accel-Limit-Rate", Self::AccelLimitRate)],
            19 => &[("Content-Disposition", Self::ContentDisposition)],
            _ => return None,
        };
        candidates.iter().find(|(known, _)| byte::same_name(known.as_bytes(), name)).map(|(_, known)| *known)
    }

    /// A second one is ignored, with a warning.
    fn is_single(self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::ContentType
                | Self::Date
                | Self::LastModified
                | Self::ETag
                | Self::Server
                | Self::Location
                | Self::Refresh
                | Self::Expires
                | Self::AccelExpires
                | Self::AccelRedirect
                | Self::AccelLimitRate
        )
    }

    /// Goes along with an internal redirect.
    fn survives_redirect(self) -> bool {
        matches!(
            self,
            Self::ContentType
                | Self::SetCookie
                | Self::ContentDisposition
                | Self::CacheControl
                | Self::Expires
                | Self::AcceptRanges
        )
    }
}

/// A field's value that a protocol may rewrite on its way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    Location,
    /// The URL in a `Refresh`.
    Refresh,
    Cookie,
}

impl Reply {
    /// Reads the meaning of a head.
    pub fn new(
        request: &Request,
        status: u16,
        status_line: Option<Bytes>,
        mut fields: Fields,
    ) -> Result<Self, InvalidHead> {
        let (mut known, mut framing, mut accel) = (SmallVec::new(), Framing::default(), Accel::default());
        let (mut last_modified, mut seen) = (None, 0_u32);
        while let Some(field) = fields.get(known.len()) {
            let what = Known::of(field.name);
            if let Some(what) = what {
                let bit = 1 << what as u32;
                if what.is_single() && seen & bit != 0 {
                    warn_duplicate(request, field, &fields, what);
                    fields.remove(known.len());
                    continue;
                }
                seen |= bit;
                if what == Known::LastModified {
                    last_modified = date::parse(field.value);
                }
                if let Err(bad) = understand(&mut framing, &mut accel, what, field) {
                    return Err(refuse(request, bad, &fields, known.len()));
                }
            }
            known.push(what);
        }
        if framing.chunked {
            framing.length = None;
        }
        let replied = place::shared(|| Replied { fields, ..Replied::default() });
        Ok(Self { status, status_line, replied, last_modified, known, framing, accel, headless: false })
    }

    /// Its fields, and what each is to us.
    fn fields(&self) -> impl Iterator<Item = (Option<Known>, FieldRef<'_>)> {
        self.known.iter().copied().zip(self.replied.fields.iter())
    }

    /// What the answer tells us to do before anything is sent to the client; `Err` when the request goes elsewhere.
    pub fn obey(&self, request: &Request, settings: &Settings) -> Result<(), Refusal> {
        if let Some(rate) = self.accel.limit_rate
            && !settings.ignore.has(Ignore::ACCEL_LIMIT_RATE)
        {
            request.limit_rate.set(Some(rate));
        }
        let Some(target) = self.redirect(settings) else { return Ok(()) };
        for (known, field) in self.fields() {
            let Some(known) = known.filter(|known| known.survives_redirect()) else { continue };
            match known {
                Known::ContentType => request.owe_type(field.value_bytes()),
                Known::AcceptRanges if settings.force_ranges => {}
                _ => request.owe(field.name_bytes(), field.value_bytes()),
            }
        }
        if target.starts_with(b"@") {
            return Err(Refusal::Jump(Box::new(Jump::Named(target.clone()))));
        }
        let Ok(untrusted) = uri::untrusted(target) else {
            request.log(Level::Error, format_args!("unsafe URI \"{}\" was detected", Raw(target)));
            return Err(Refusal::Status(404));
        };
        if !request.is_head() {
            request.set_method(Bytes::from_static(b"GET"));
        }
        let path = Bytes::from(untrusted.path.into_owned());
        let args = untrusted.args.map(Bytes::copy_from_slice).unwrap_or_default();
        Err(Refusal::Jump(Box::new(Jump::Path { path, args: Some(args) })))
    }

    /// Where it sends the request.
    fn redirect(&self, settings: &Settings) -> Option<&Bytes> {
        self.accel.redirect.as_ref().filter(|_| !settings.ignore.has(Ignore::ACCEL_REDIRECT))
    }

    /// It sends the request elsewhere.
    pub fn redirects(&self, settings: &Settings) -> bool {
        self.redirect(settings).is_some()
    }

    /// It has fields that may go out otherwise to one client than to another.
    pub fn is_rewritten(&self) -> bool {
        let may_be = |known: &Option<Known>| matches!(known, Some(Known::Location | Known::Refresh | Known::SetCookie));
        self.known.iter().any(may_be)
    }

    /// Whether it is buffered on its way to the client.
    pub fn is_buffered(&self, settings: &Settings) -> bool {
        let asked = self.accel.buffering.filter(|_| !settings.ignore.has(Ignore::ACCEL_BUFFERING));
        asked.unwrap_or(settings.buffering)
    }

    /// An answer that had no head.
    pub fn without_head(request: &Request) -> Result<Self, InvalidHead> {
        Ok(Self { headless: true, ..Self::new(request, 200, None, Fields::default())? })
    }

    /// The head for the client. `rewrite` is asked for the values that a protocol may change.
    pub fn head(
        &self,
        settings: &Settings,
        role: Role,
        rewrite: impl Fn(Rewritten, &Bytes) -> Option<Bytes>,
    ) -> Box<Head> {
        let mut head = Head::boxed(self.status);
        head.status_line.clone_from(&self.status_line);
        let came = &self.replied.fields;
        head.fields = came.like();
        let mut own = (false, false);
        let mut allows_ranges = settings.force_ranges;
        for (n, (known, field)) in self.fields().enumerate() {
            if settings.hide.has(field.name) {
                continue;
            }
            match known {
                Some(Known::ContentLength | Known::TransferEncoding | Known::Connection | Known::KeepAlive) => continue,
                Some(Known::ContentType) => {
                    content_type(field.value_bytes(), &mut head);
                    continue;
                }
                Some(Known::AcceptRanges) if settings.force_ranges => continue,
                Some(Known::AcceptRanges) if role != Role::Passed => {
                    allows_ranges = true;
                    continue;
                }
                Some(Known::LastModified) => head.last_modified = self.last_modified,
                Some(Known::Server) => own.0 = true,
                Some(Known::Date) => own.1 = true,
                Some(Known::Location) => {
                    if let Some(target) = rewrite(Rewritten::Location, &field.value_bytes()) {
                        // nginx: only what was rewritten is made absolute
                        if target.starts_with(b"/") {
                            head.location = Some(target);
                        } else {
                            head.fields.push(Field { name: field.name_bytes(), value: target });
                        }
                        continue;
                    }
                }
                Some(Known::Refresh) => {
                    if let Some(value) = refresh(&field.value_bytes(), &rewrite) {
                        head.fields.push(Field { name: field.name_bytes(), value });
                        continue;
                    }
                }
                Some(Known::SetCookie) => {
                    if let Some(value) = rewrite(Rewritten::Cookie, &field.value_bytes()) {
                        head.fields.push(Field { name: field.name_bytes(), value });
                        continue;
                    }
                }
                _ => {}
            }
            head.fields.push_from(came, n);
        }
        if settings.drops_connection_fields {
            let connection = came.iter().filter(|field| field.is("Connection"));
            let connection: Vec<u8> = connection.flat_map(|field| [field.value, b","].concat()).collect();
            head.fields.retain(|field| rfc9111::is_stored(field.name, &connection));
        }
        // nginx: what is passed and yet missing stays missing
        head.no_server = settings.are_servers && !own.0 && !settings.hide.has(b"Server");
        head.no_date = settings.are_servers && !own.1 && !settings.hide.has(b"Date");
        head.content_length = self.framing.length;
        head.allow_ranges = allows_ranges;
        head.foreign = true;
        head.unconditional = role == Role::Passed;
        head.tag_decides = role != Role::Passed;
        head.single_range = allows_ranges && role != Role::Cached;
        head.headless = self.headless;
        if !settings.ignore.has(Ignore::ACCEL_CHARSET) {
            head.override_charset.clone_from(&self.accel.charset);
        }
        head
    }
}

/// Takes the meaning of a field.
fn understand(framing: &mut Framing, accel: &mut Accel, known: Known, field: FieldRef<'_>) -> Result<(), BadFraming> {
    let value = field.value;
    match known {
        Known::ContentLength => framing.content_length(value)?,
        Known::TransferEncoding => framing.transfer_encoding(value)?,
        Known::Connection => framing.connection(value),
        Known::AccelRedirect => accel.redirect = Some(field.value_bytes()),
        Known::AccelLimitRate => accel.limit_rate = byte::offset(value),
        Known::AccelBuffering if value.eq_ignore_ascii_case(b"no") => accel.buffering = Some(false),
        Known::AccelBuffering if value.eq_ignore_ascii_case(b"yes") => accel.buffering = Some(true),
        Known::AccelCharset => accel.charset = Some(field.value_bytes()),
        _ => {}
    }
    Ok(())
}

/// The URL in a `Refresh` field.
fn refresh(value: &Bytes, rewrite: &impl Fn(Rewritten, &Bytes) -> Option<Bytes>) -> Option<Bytes> {
    let start = byte::find_ignore_case(value, b"url=")? + 4;
    let target = rewrite(Rewritten::Refresh, &value.slice(start..))?;
    Some([&value[..start], &target].concat().into())
}

/// `text/html; charset=utf-8` goes out as it came, and filters are told where the type in it ends. nginx: only a
/// charset ends it, other parameters belong to the type.
fn content_type(value: Bytes, head: &mut Head) {
    let names_charset = |&semicolon: &usize| {
        let parameter = value[semicolon + 1..].trim_ascii_start();
        parameter.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"charset="))
    };
    head.media_end = memchr::memchr_iter(b';', &value).find(names_charset);
    head.content_type = Some(value);
}

#[cold]
fn warn_duplicate(request: &Request, again: FieldRef<'_>, fields: &Fields, known: Known) {
    let Some(first) = fields.iter().find(|field| Known::of(field.name) == Some(known)) else { return };
    let message = format_args!(
        "upstream sent duplicate header line: \"{}: {}\", previous value: \"{}: {}\", ignored while reading response \
         header from upstream",
        Raw(again.name),
        Raw(again.value),
        Raw(first.name),
        Raw(first.value)
    );
    request.log(Level::Warn, message);
}

#[cold]
fn refuse(request: &Request, bad: BadFraming, fields: &Fields, n: usize) -> InvalidHead {
    let Some(field) = fields.get(n) else { return InvalidHead };
    let (name, value) = (Raw(field.name), Raw(field.value));
    let first = fields.iter().take(n).find(|first| first.name.eq_ignore_ascii_case(field.name));
    let text = bad.text();
    let tail = "while reading response header from upstream";
    match (bad, first) {
        (BadFraming::Duplicate, Some(first)) => request.log(
            Level::Error,
            format_args!(
                "{text}\"{name}: {value}\", previous value: \"{}: {}\" {tail}",
                Raw(first.name),
                Raw(first.value)
            ),
        ),
        (BadFraming::Length, _) => request.log(Level::Error, format_args!("{text}\"{name}: {value}\" {tail}")),
        (BadFraming::Encoding, _) => request.log(Level::Error, format_args!("{text}\"{value}\" {tail}")),
        (BadFraming::Duplicate | BadFraming::LengthAndEncoding, _) => {
            request.log(Level::Error, format_args!("{text} {tail}"));
        }
    }
    InvalidHead
}
