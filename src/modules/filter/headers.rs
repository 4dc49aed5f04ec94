//! `add_header`, `add_trailer`, `expires`: what the operator adds to answers.
//!
//! In: a response head. Out: the same with fields more, and a body that has trailers behind it. A subrequest's answer is
//! a part of another and gets none. nginx: `ngx_http_headers_filter_module`.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use jiff::civil::Time;
use jiff::{Timestamp, ToSpan};

use crate::base::{clock, text, units};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::body::{Body, Next, Source};
use crate::http::plan::{Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Field, Head};
use crate::wire::date;

/// `ngx_http_headers_module`.
pub struct Headers;

impl Module for Headers {
    const NAME: &'static str = "http_headers";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("expires", EVERYWHERE.or(IF_LOCATION), Arity::Between(1, 2), Conf::expires),
        Directive::location("add_header", EVERYWHERE.or(IF_LOCATION), Arity::Between(2, 3), Conf::add_header),
        Directive::location("add_trailer", EVERYWHERE.or(IF_LOCATION), Arity::Between(2, 3), Conf::add_trailer),
        Directive::location(
            "add_header_inherit",
            EVERYWHERE.or(IF_LOCATION),
            Arity::Exactly(1),
            Conf::add_header_inherit,
        ),
        Directive::location(
            "add_trailer_inherit",
            EVERYWHERE.or(IF_LOCATION),
            Arity::Exactly(1),
            Conf::add_trailer_inherit,
        ),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let expires = conf.expires.said().filter(|expires| !matches!(expires, Rule::Fixed(Expires::Off)));
        let fields = conf.add_header.said().unwrap_or_default();
        let trailers = conf.add_trailer.said().unwrap_or_default();
        if expires.is_some() || !fields.is_empty() {
            plan.filters.push(Box::new(Adder { expires, fields }));
        }
        if !trailers.is_empty() {
            plan.filters.push(Box::new(Trailers { fields: trailers.into() }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    expires: Setting<Rule>,
    add_header: Setting<Vec<Added>>,
    add_trailer: Setting<Vec<Added>>,
    add_header_inherit: Setting<Inherit>,
    add_trailer_inherit: Setting<Inherit>,
}

/// `add_header_inherit`: what becomes of the outer level's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherit {
    Off,
    /// They come where a level has none of its own.
    On,
    /// They come behind the level's own.
    Merge,
}

impl Conf {
    /// Syntax: `expires [modified] time;`, `expires epoch | max | off;`  Default: `off`
    fn expires(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let since = match words.len() {
            1 => Since::Now,
            _ if words.arg(0) == "modified" => Since::Modified,
            _ => return Err(Fault::directive("invalid value")),
        };
        let last = words.len() - 1;
        let template = words.template(last)?;
        let rule = match template.constant() {
            None => Rule::Computed(template, since),
            Some(_) => Rule::Fixed(Expires::read(words.arg(last), since).map_err(Fault::directive)?),
        };
        self.expires.set(rule)
    }

    /// Syntax: `add_header name value [always];`
    fn add_header(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_header.list().push(Added::read(words)?);
        Ok(())
    }

    /// Syntax: `add_trailer name value [always];`
    fn add_trailer(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_trailer.list().push(Added::read(words)?);
        Ok(())
    }

    /// Syntax: `add_header_inherit on | off | merge;`  Default: `on`
    fn add_header_inherit(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_header_inherit.set(inheritance(words)?)
    }

    /// Syntax: `add_trailer_inherit on | off | merge;`  Default: `on`
    fn add_trailer_inherit(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.add_trailer_inherit.set(inheritance(words)?)
    }
}

fn inheritance(words: &Words<'_>) -> Result<Inherit, Fault> {
    words.choice(0, &[("off", Inherit::Off), ("on", Inherit::On), ("merge", Inherit::Merge)])
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { expires, add_header, add_trailer, add_header_inherit, add_trailer_inherit } = self;
        expires.inherit(&outer.expires);
        add_header_inherit.inherit(&outer.add_header_inherit);
        add_trailer_inherit.inherit(&outer.add_trailer_inherit);
        take(add_header, &outer.add_header, add_header_inherit.or(Inherit::On));
        take(add_trailer, &outer.add_trailer, add_trailer_inherit.or(Inherit::On));
        Ok(())
    }
}

fn take(inner: &mut Setting<Vec<Added>>, outer: &Setting<Vec<Added>>, how: Inherit) {
    match how {
        Inherit::Off => {}
        Inherit::Merge if inner.is_set() => inner.list().extend(outer.said().unwrap_or_default()),
        Inherit::On | Inherit::Merge => inner.inherit(outer),
    }
}

/// One `add_header` or `add_trailer`.
#[derive(Clone)]
struct Added {
    name: Bytes,
    value: Template,
    /// The value has variables.
    computed: bool,
    always: bool,
}

impl Added {
    fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let always = match words.arg(2) {
            "always" => true,
            _ if words.len() == 2 => false,
            _ => return Err(words.invalid_parameter(2)),
        };
        let value = words.template(1)?;
        let computed = value.constant().is_none();
        Ok(Self { name: text::bytes(words.arg(0)).into(), value, computed, always })
    }
}

/// Answers that get everything; others get only what is marked `always`.
fn is_regular(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// `add_header` and `expires` of one location.
struct Adder {
    expires: Option<Rule>,
    fields: Vec<Added>,
}

impl Filter for Adder {
    fn stage(&self) -> Stage {
        Stage::Headers
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if request.is_subrequest() {
            return body;
        }
        let regular = is_regular(head.status);
        if let Some(rule) = self.expires.as_ref().filter(|_| regular) {
            rule.apply(request, head);
        }
        for field in self.fields.iter().filter(|field| regular || field.always) {
            if field.computed && request.http().head_is_asked_for {
                request.show(head); // `$sent_http_*` see what has been added so far
            }
            add(&field.name, field.value.eval(request.as_ref()), head);
        }
        body
    }
}

/// Two fields are one of a kind: the operator's takes the place of ours, or takes it away.
fn add(name: &Bytes, value: Bytes, head: &mut Head) {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("Last-Modified") {
        head.last_modified = date::parse(&value);
    } else if !is("ETag") {
        if !value.is_empty() {
            head.add(name.clone(), value);
        }
        return;
    }
    let place = head.fields.position(|field| field.name.eq_ignore_ascii_case(name));
    match place {
        Some(place) if value.is_empty() => head.fields.remove(place),
        Some(place) => head.fields.replace(place, Field::new(name.clone(), value)),
        None if value.is_empty() => {}
        None => head.add(name.clone(), value),
    }
}

/// The `expires` of a location.
#[derive(Clone)]
enum Rule {
    Fixed(Expires),
    Computed(Template, Since),
}

/// What an `expires` counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Now,
    /// The date of the answer.
    Modified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    Off,
    Epoch,
    Max,
    After(i64, Since),
    /// At this second of the day, local time.
    Daily(u64),
}

impl Expires {
    fn read(value: &str, since: Since) -> Result<Self, &'static str> {
        match (value, since) {
            ("epoch", Since::Now) => return Ok(Self::Epoch),
            ("max", Since::Now) => return Ok(Self::Max),
            ("off", Since::Now) => return Ok(Self::Off),
            _ => {}
        }
        let seconds =
            |text| units::seconds(text).and_then(|seconds| i64::try_from(seconds).ok()).ok_or("invalid value");
        match (value.as_bytes(), since) {
            ([b'@', ..], Since::Modified) => Err("daily time cannot be used with \"modified\" parameter"),
            ([b'@', ..], Since::Now) => match seconds(&value[1..])?.unsigned_abs() {
                second @ ..=86_400 => Ok(Self::Daily(second)),
                _ => Err("daily time value must be less than 24 hours"),
            },
            ([b'+', ..], _) => Ok(Self::After(seconds(&value[1..])?, since)),
            ([b'-', ..], _) => Ok(Self::After(-seconds(&value[1..])?, since)),
            _ => Ok(Self::After(seconds(value)?, since)),
        }
    }
}

impl Rule {
    fn apply(&self, request: &Request, head: &mut Head) {
        let (expires, fixed) = match self {
            Self::Fixed(expires) => (*expires, true),
            Self::Computed(template, since) => {
                request.show(head);
                let value = template.eval(request);
                // What cannot be read is as if nothing had been said.
                match std::str::from_utf8(&value).ok().and_then(|value| Expires::read(value, *since).ok()) {
                    Some(expires) => (expires, false),
                    None => return,
                }
            }
        };
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        let (at, age) = match (expires, head.last_modified) {
            (Expires::Off, _) => return,
            (Expires::Epoch, _) => return set(head, "Thu, 01 Jan 1970 00:00:01 GMT", "no-cache"),
            (Expires::Max, _) => return set(head, "Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000"),
            (Expires::After(0, _), _) => (now, 0),
            (Expires::Daily(second), _) => {
                let at = next(second, now);
                (at, at.saturating_sub(now))
            }
            (Expires::After(seconds, Since::Modified), Some(modified)) => {
                let at = modified.saturating_add(seconds);
                // nginx: of a time that the file names, the sign alone decides.
                (at, if fixed && seconds < 0 { -1 } else { at.saturating_sub(now) })
            }
            (Expires::After(seconds, Since::Now | Since::Modified), _) => (now.saturating_add(seconds), seconds),
        };
        let date = clock::http_date_of(at).to_string();
        match age {
            0.. => set(head, date, format!("max-age={age}")),
            _ => set(head, date, "no-cache"),
        }
    }
}

/// Writes both fields, in the place of those that are there.
fn set(head: &mut Head, expires: impl Into<Bytes>, cache_control: impl Into<Bytes>) {
    replace(head, "Expires", expires.into());
    replace(head, "Cache-Control", cache_control.into());
}

fn replace(head: &mut Head, name: &'static str, value: Bytes) {
    let Some(place) = head.fields.position(|field| field.is(name)) else { return head.add(name, value) };
    head.fields.set_value(place, value);
    let mut n = 0;
    head.fields.retain(|field| {
        n += 1;
        n - 1 <= place || !field.is(name)
    });
}

/// The next time that local clocks show this second of the day.
fn next(second: u64, now: i64) -> i64 {
    let today = Timestamp::from_second(now).unwrap_or_default().to_zoned(clock::zone());
    let of_day = |days: i64| {
        let midnight = today.date().checked_add(days.days()).ok()?.to_datetime(Time::midnight());
        let wanted = midnight.checked_add(i64::try_from(second).ok()?.seconds()).ok()?;
        Some(wanted.to_zoned(clock::zone()).ok()?.timestamp().as_second())
    };
    of_day(0).filter(|&at| at > now).or_else(|| of_day(1)).unwrap_or(now)
}

/// `add_trailer` of one location.
struct Trailers {
    fields: Arc<[Added]>,
}

impl Filter for Trailers {
    fn stage(&self) -> Stage {
        Stage::Trailers
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        let regular = is_regular(head.status);
        if request.is_subrequest() || !self.fields.iter().any(|field| regular || field.always) {
            return body;
        }
        Body::stream(Trailing { inner: body, request: request.clone(), fields: self.fields.clone(), regular })
    }
}

/// A body and what follows it. The values are asked for at its end, when all is known.
struct Trailing {
    inner: Body,
    request: Rc<Request>,
    fields: Arc<[Added]>,
    regular: bool,
}

impl Source for Trailing {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.inner.poll_piece(cx)
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        self.inner.poll_ahead(cx);
    }

    fn promises_trailers(&self) -> bool {
        true
    }

    fn trailers(&mut self) -> Vec<Field> {
        let mut trailers = self.inner.trailers();
        for field in self.fields.iter().filter(|field| self.regular || field.always) {
            if field.computed {
                self.request.trailers.replace(trailers.clone());
            }
            let value = field.value.eval(self.request.as_ref());
            if !value.is_empty() {
                trailers.push(Field::new(field.name.clone(), value));
            }
        }
        trailers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_expires() {
        use Since::{Modified, Now};
        const DAILY: &str = "daily time value must be less than 24 hours";
        for (value, since, expected) in [
            ("off", Now, Ok(Expires::Off)),
            ("epoch", Now, Ok(Expires::Epoch)),
            ("max", Now, Ok(Expires::Max)),
            ("0", Now, Ok(Expires::After(0, Now))),
            ("1h", Now, Ok(Expires::After(3600, Now))),
            ("+1h", Modified, Ok(Expires::After(3600, Modified))),
            ("-1", Now, Ok(Expires::After(-1, Now))),
            ("-1d", Modified, Ok(Expires::After(-86400, Modified))),
            ("@15h30m", Now, Ok(Expires::Daily(55800))),
            ("@24h", Now, Ok(Expires::Daily(86400))),
            ("@25h", Now, Err(DAILY)),
            ("@1h", Modified, Err("daily time cannot be used with \"modified\" parameter")),
            ("epoch", Modified, Err("invalid value")),
            ("", Now, Err("invalid value")),
            ("+", Now, Err("invalid value")),
            ("--1", Now, Err("invalid value")),
            ("99999999999999999999", Now, Err("invalid value")),
        ] {
            assert_eq!(Expires::read(value, since), expected, "{value} {since:?}");
        }
    }

    #[test]
    fn the_next_time_of_day_is_ahead() {
        let now = 784_111_777;
        for second in [0, 1, 43_200, 86_399, 86_400] {
            let at = next(second, now);
            assert!(at > now && at <= now + 2 * 86_400, "{second}: {at}");
        }
    }

    #[test]
    fn fields_of_a_kind_are_replaced_in_place() {
        let mut head = Head::new(200);
        for (name, value) in
            [("Cache-Control", "a"), ("X", "x"), ("expires", "old"), ("cache-control", "b"), ("ETag", "\"1\"")]
        {
            head.add(name, value);
        }
        set(&mut head, "new", "c");
        let shown = |head: &Head| {
            let fields = head.fields.iter().map(|field| [field.name, b"=", field.value].concat());
            String::from_utf8(fields.collect::<Vec<_>>().join(&b' ')).expect("text")
        };
        assert_eq!(shown(&head), "Cache-Control=c X=x expires=new ETag=\"1\"");
        let mut put = |name: &'static str, value: &'static str| {
            add(&Bytes::from(name), Bytes::from(value), &mut head);
            (shown(&head), head.last_modified)
        };
        assert_eq!(put("etag", "").0, "Cache-Control=c X=x expires=new");
        assert_eq!(put("etag", "\"2\"").0, "Cache-Control=c X=x expires=new etag=\"2\"");
        assert_eq!(put("X", "").0, "Cache-Control=c X=x expires=new etag=\"2\"");
        let (fields, modified) = put("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(fields.ends_with("Last-Modified=Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(modified, Some(784_111_777));
        assert_eq!(put("Last-Modified", "").1, None);
    }

    #[test]
    fn outer_fields_come_by_the_inheritance() {
        let list = |names: &[&'static str]| {
            let mut setting = Setting::default();
            if !names.is_empty() {
                let added = |name: &&'static str| Added {
                    name: (*name).into(),
                    value: Template::default(),
                    computed: false,
                    always: true,
                };
                *setting.list() = names.iter().map(added).collect::<Vec<_>>();
            }
            setting
        };
        for (inner, outer, how, expected) in [
            (&["a"][..], &["b"][..], Inherit::On, "a"),
            (&[], &["b"], Inherit::On, "b"),
            (&["a"], &["b"], Inherit::Off, "a"),
            (&[], &["b"], Inherit::Off, ""),
            (&["a"], &["b", "c"], Inherit::Merge, "abc"),
            (&[], &["b"], Inherit::Merge, "b"),
            (&["a"], &[], Inherit::Merge, "a"),
        ] {
            let mut setting = list(inner);
            take(&mut setting, &list(outer), how);
            let names: Vec<u8> = setting.or(Vec::new()).iter().flat_map(|added| added.name.to_vec()).collect();
            assert_eq!(String::from_utf8_lossy(&names), expected, "{inner:?} {outer:?} {how:?}");
        }
    }
}
