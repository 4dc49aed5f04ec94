//! `sticky`: what binds a client to a peer, in a request and in its answer.
//!
//! In: the directive, then requests. Out: the id of the peer that a request is bound to ([`hint`]), the cookie that binds it
//! ([`bind`]), and sessions that are learned ([`learn`]). nginx: `ngx_http_upstream_sticky_module`.

use bytes::Bytes;

use crate::base::{clock, text, units};
use crate::conf::error::Fault;
use crate::conf::vars::{Values, VarId};
use crate::conf::words::Words;
use crate::http::request::Request;
use crate::state::{self, Registry};
use crate::upstream::peer::Peer;
use crate::upstream::sticky::{By, Cookie, Expires, Learn, Sessions, Sticky};
use crate::wire::date;

/// What the directive said.
#[derive(Clone)]
pub enum Said {
    Cookie(Box<Cookie>, VarId),
    Route(Vec<VarId>),
    Learn { lookup: Vec<VarId>, create: Vec<VarId>, zone: (String, usize), timeout: u64, header: bool },
}

static SESSIONS: Registry<Sessions> = Registry::new();

impl Said {
    /// Syntax: `sticky cookie name …; | sticky route $variable ...; | sticky learn create=$variable lookup=$variable
    /// zone=name:size [timeout=time] [header];`
    pub fn read(words: &Words<'_>) -> Result<Self, Fault> {
        match words.arg(0) {
            "cookie" => cookie(words),
            "route" => {
                let names = (1..words.len()).map(|n| Ok(words.cx.names.id(words.variable(n)?)));
                Ok(Self::Route(names.collect::<Result<_, Fault>>()?))
            }
            "learn" => learned(words),
            other => Err(words.fault(0, format!("unknown parameter \"{other}\""))),
        }
    }

    /// The zone of its sessions.
    pub fn zone(&self) -> Option<&str> {
        match self {
            Self::Learn { zone, .. } => Some(&zone.0),
            Self::Cookie(..) | Self::Route(_) => None,
        }
    }

    /// As the group of this name works by it.
    pub fn finish(self, group: &str) -> Result<Sticky, Fault> {
        let (lookup, by) = match self {
            Self::Cookie(cookie, lookup) => (vec![lookup], By::Cookie(*cookie)),
            Self::Route(lookup) => (lookup, By::Route),
            Self::Learn { lookup, create, zone: (name, size), timeout, header } => {
                let sessions = SESSIONS.zone(&name, size, || Sessions::new(group.to_owned(), size));
                let owner = &sessions.owner;
                if owner != group {
                    return Err(Fault::nowhere(format!(
                        "sticky zone \"{name}\" is used in upstream \"{group}\" while previously it was used in \
                         upstream \"{owner}\""
                    )));
                }
                (lookup, By::Learn(Learn { create, timeout, header, sessions }))
            }
        };
        Ok(Sticky { lookup, by })
    }
}

fn duplicate(parameter: &str) -> Fault {
    Fault::directive(format!("parameter \"{parameter}\" is duplicate"))
}

fn cookie(words: &Words<'_>) -> Result<Said, Fault> {
    let name = words.arg(1);
    if name.is_empty() {
        return Err(Fault::directive("empty cookie name"));
    }
    let mut cookie = Cookie {
        name: text::bytes(name).into(),
        domain: None,
        path: None,
        expires: None,
        httponly: false,
        secure: false,
        samesite: None,
    };
    for (n, word) in words.texts().enumerate().skip(2) {
        let (parameter, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let empty = || Fault::directive(format!("no value for \"{parameter}\""));
        match (parameter, value) {
            ("domain", Some(_)) if cookie.domain.is_some() => return Err(duplicate(parameter)),
            ("path", Some(_)) if cookie.path.is_some() => return Err(duplicate(parameter)),
            ("expires", Some(_)) if cookie.expires.is_some() => return Err(duplicate(parameter)),
            ("samesite", Some(_)) if cookie.samesite.is_some() => return Err(duplicate(parameter)),
            ("httponly", None) if cookie.httponly => return Err(duplicate(parameter)),
            ("secure", None) if cookie.secure => return Err(duplicate(parameter)),
            ("domain" | "path", Some("")) => return Err(empty()),
            ("domain", Some(value)) => cookie.domain = Some(words.compile(n, value)?),
            ("path", Some(value)) => cookie.path = Some(text::bytes(value).into()),
            ("expires", Some("max")) => cookie.expires = Some(Expires::Max),
            ("expires", Some(value)) => {
                let seconds = units::seconds(value).and_then(|seconds| i64::try_from(seconds).ok());
                let invalid = || Fault::directive("invalid \"expires\" parameter value");
                cookie.expires = Some(Expires::After(seconds.ok_or_else(invalid)?));
            }
            ("httponly", None) => cookie.httponly = true,
            ("secure", None) => cookie.secure = true,
            ("samesite", Some(value)) => {
                let template = words.compile(n, value)?;
                if template.constant().is_some_and(|value| !is_samesite(value)) {
                    return Err(Fault::directive("invalid \"samesite\" parameter value"));
                }
                cookie.samesite = Some(template);
            }
            _ => return Err(words.fault(n, format!("unknown parameter \"{word}\""))),
        }
    }
    let lookup = words.cx.names.id(&format!("cookie_{name}"));
    Ok(Said::Cookie(Box::new(cookie), lookup))
}

fn is_samesite(value: &[u8]) -> bool {
    ["strict", "lax", "none"].iter().any(|known| value.eq_ignore_ascii_case(known.as_bytes()))
}

fn learned(words: &Words<'_>) -> Result<Said, Fault> {
    let (mut lookup, mut create) = (Vec::new(), Vec::new());
    let mut zone = None;
    let mut timeout = None;
    let mut header = false;
    for (n, word) in words.texts().enumerate().skip(1) {
        let (parameter, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let variable = |value: &str| {
            let missing = || Fault::directive(format!("missing variable in the \"{parameter}\" parameter"));
            Ok(words.cx.names.id(value.strip_prefix('$').ok_or_else(missing)?))
        };
        match (parameter, value) {
            ("zone", Some(_)) if zone.is_some() => return Err(Fault::directive("duplicate zone")),
            ("zone", Some(value)) => {
                let (name, size) =
                    value.split_once(':').ok_or_else(|| Fault::directive("zone size is not specified"))?;
                if name.is_empty() {
                    return Err(Fault::directive("zone name is not specified"));
                }
                let size = units::size(size).and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| Fault::directive("invalid zone size"))?;
                if size < state::LEAST {
                    return Err(Fault::directive("zone is too small"));
                }
                zone = Some((name.to_owned(), size));
            }
            ("timeout", Some(_)) if timeout.is_some() => return Err(Fault::directive("duplicate timeout")),
            ("timeout", Some(value)) => {
                let time = units::milliseconds(value).filter(|time| *time > 0);
                timeout = Some(time.ok_or_else(|| Fault::directive("invalid timeout"))?);
            }
            ("create", Some(value)) => create.push(variable(value)?),
            ("lookup", Some(value)) => lookup.push(variable(value)?),
            ("header", None) => header = true,
            _ => return Err(words.fault(n, format!("unknown parameter \"{word}\""))),
        }
    }
    let missing = |parameter: &str| Fault::directive(format!("\"{parameter}\" parameter is not specified"));
    if lookup.is_empty() {
        return Err(missing("lookup"));
    }
    if create.is_empty() {
        return Err(missing("create"));
    }
    let zone = zone.ok_or_else(|| missing("zone"))?;
    Ok(Said::Learn { lookup, create, zone, timeout: timeout.unwrap_or(600_000), header })
}

/// The first that says anything.
fn first(request: &Request, variables: &[VarId]) -> Option<Bytes> {
    variables.iter().find_map(|id| request.value(*id).filter(|value| !value.is_empty()))
}

/// The id of the peer that a request is bound to.
pub fn hint(request: &Request, sticky: &Sticky) -> Option<Bytes> {
    let said = first(request, &sticky.lookup)?;
    match &sticky.by {
        By::Cookie(_) | By::Route => Some(said),
        By::Learn(learn) => learn.sessions.find(&said, learn.timeout, clock::milliseconds()),
    }
}

/// Binds the client to the peer that was chosen, where a cookie does.
pub fn bind(request: &Request, sticky: &Sticky, peer: &Peer) {
    let By::Cookie(cookie) = &sticky.by else { return };
    let bound = request.extension::<Bound>();
    if let Some(before) = bound.take() {
        // The one before has failed.
        request.forgive_one("Set-Cookie", &before);
    }
    let value = cookie_value(request, cookie, peer);
    request.owe("Set-Cookie", value.clone());
    bound.replace(Some(value));
}

/// The cookie that was set last.
type Bound = std::cell::RefCell<Option<Bytes>>;

fn cookie_value(request: &Request, cookie: &Cookie, peer: &Peer) -> Bytes {
    let mut value = [&cookie.name[..], b"=", &peer.id].concat();
    let mut push = |name: &str, text: &[u8]| {
        value.extend_from_slice(name.as_bytes());
        value.extend_from_slice(text);
    };
    match cookie.expires {
        None => {}
        Some(Expires::Max) => push("; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000", b""),
        Some(Expires::After(seconds)) => {
            let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
            push("; expires=", &date::cookie(now.saturating_add(seconds)));
            push("; max-age=", seconds.to_string().as_bytes());
        }
    }
    let domain = cookie.domain.as_ref().map(|domain| domain.eval(request)).filter(|domain| !domain.is_empty());
    if let Some(domain) = domain {
        push("; domain=", &domain);
    }
    if cookie.httponly {
        push("; httponly", b"");
    }
    if cookie.secure {
        push("; secure", b"");
    }
    if let Some(samesite) = cookie.samesite.as_ref().map(|it| it.eval(request)).filter(|it| !it.is_empty()) {
        // nginx: what variables make of it is the strictest where it is nothing known
        push("; samesite=", if is_samesite(&samesite) { &samesite } else { b"strict" });
    }
    if let Some(path) = &cookie.path {
        push("; path=", path);
    }
    value.into()
}

/// Remembers a session that this peer served: when its head is here, or when all is over.
pub fn learn(request: &Request, sticky: &Sticky, peer: &Peer, is_head: bool) {
    let By::Learn(learn) = &sticky.by else { return };
    if learn.header != is_head {
        return;
    }
    let created = first(request, &learn.create);
    let create = created.is_some();
    let Some(session) = created.or_else(|| first(request, &sticky.lookup)) else { return };
    learn.sessions.learn(&session, create, &peer.id, learn.timeout, clock::milliseconds());
}
