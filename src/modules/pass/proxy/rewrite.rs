//! `proxy_redirect`, `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`: an upstream speaks of itself, and the
//! client must hear of us.

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::location::Regex;
use crate::http::request::Request;

/// What a value is compared with.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Redirects and paths: the value begins with it. Domains: the value is it.
    Text(Template),
    Regex(Regex),
}

impl Pattern {
    /// Reads argument 0: a text, or a regular expression behind `~` or `~*`, which disregards case.
    pub fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let Some(rest) = words.arg(0).strip_prefix('~') else { return Ok(Self::Text(words.template(0)?)) };
        match rest.strip_prefix('*') {
            Some(rest) => Ok(Self::Regex(Regex::new(rest, true, words)?)),
            None => Ok(Self::Regex(Regex::new(rest, false, words)?)),
        }
    }

    /// As [`Pattern::read`], for a domain: every expression disregards case, and a dot in front means nothing.
    pub fn read_domain(words: &Words<'_>) -> Result<Self, Fault> {
        match words.arg(0).strip_prefix('.') {
            Some(rest) => Ok(Self::Text(words.compile(0, rest)?)),
            None => Self::read_caseless(words),
        }
    }

    /// As [`Pattern::read`], where every expression disregards case: names of cookies.
    pub fn read_caseless(words: &Words<'_>) -> Result<Self, Fault> {
        match words.arg(0).strip_prefix('~') {
            Some(rest) => Ok(Self::Regex(Regex::new(rest, true, words)?)),
            None => Ok(Self::Text(words.template(0)?)),
        }
    }
}

/// One `pattern replacement` pair.
#[derive(Clone, Debug)]
pub struct Rule {
    pub pattern: Pattern,
    pub replacement: Template,
}

/// `proxy_redirect`, or the rules of one kind for cookies; the first that fits counts.
#[derive(Clone, Debug, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The rewritten value; `None`: no rule fits.
    pub fn apply(&self, request: &Request, value: &Bytes) -> Option<Bytes> {
        self.0.iter().find_map(|rule| match &rule.pattern {
            Pattern::Regex(regex) => fits(regex, value, request).then(|| rule.replacement.eval(request)),
            Pattern::Text(text) => {
                let text = text.eval(request);
                let rest = value.strip_prefix(text.as_ref())?;
                Some([&rule.replacement.eval(request), rest].concat().into())
            }
        })
    }

    /// As [`Rules::apply`], for a domain: the whole of it, in either case, whether or not it begins with a dot.
    fn apply_to_domain(&self, request: &Request, value: &Bytes) -> Option<Bytes> {
        let (dot, domain) = match value.strip_prefix(b".") {
            Some(rest) => (&value[..1], rest),
            None => (&value[..0], value.as_ref()),
        };
        self.0.iter().find_map(|rule| match &rule.pattern {
            Pattern::Regex(regex) => fits(regex, value, request).then(|| rule.replacement.eval(request)),
            Pattern::Text(text) => {
                let same = text.eval(request).eq_ignore_ascii_case(domain);
                same.then(|| [dot, &rule.replacement.eval(request)].concat().into())
            }
        })
    }
}

/// A match that fails for another reason than the text is none; why is in the log.
fn fits(regex: &Regex, value: &Bytes, request: &Request) -> bool {
    regex.matches(value, request).unwrap_or(false)
}

/// One `proxy_cookie_flags` line.
#[derive(Clone, Debug)]
pub struct Flags {
    pub cookie: Pattern,
    pub flags: Vec<Template>,
}

/// Everything that cookies are rewritten by.
#[derive(Clone, Debug, Default)]
pub struct Cookies {
    pub domains: Rules,
    pub paths: Rules,
    pub flags: Vec<Flags>,
}

/// `name`, or `name=value`.
struct Attribute {
    name: Bytes,
    value: Option<Bytes>,
}

/// What a flag becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    secure: Option<bool>,
    httponly: Option<bool>,
    /// `Some(None)`: none.
    samesite: Option<Option<&'static str>>,
}

impl Cookies {
    fn is_empty(&self) -> bool {
        self.domains.0.is_empty() && self.paths.0.is_empty() && self.flags.is_empty()
    }

    /// The rewritten `Set-Cookie`; `None`: it stays.
    pub fn apply(&self, request: &Request, value: &Bytes) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let mut attributes: Vec<Attribute> =
            value.split(|&byte| byte == b';').map(|part| attribute(value, part)).collect();
        attributes.first()?.value.as_ref()?;
        let mut changed = false;
        for attribute in attributes.iter_mut().skip(1) {
            let Some(value) = &mut attribute.value else { continue };
            let rewritten = if attribute.name.eq_ignore_ascii_case(b"domain") {
                self.domains.apply_to_domain(request, value)
            } else if attribute.name.eq_ignore_ascii_case(b"path") {
                self.paths.apply(request, value)
            } else {
                None
            };
            if let Some(rewritten) = rewritten {
                *value = rewritten;
                changed = true;
            }
        }
        if let Some(wish) = self.wish(request, &attributes[0].name) {
            grant(wish, &mut attributes);
            changed = true;
        }
        changed.then(|| join(&attributes))
    }

    /// What the first line for this cookie says.
    fn wish(&self, request: &Request, name: &Bytes) -> Option<Wish> {
        let flags = self.flags.iter().find(|flags| match &flags.cookie {
            Pattern::Regex(regex) => fits(regex, name, request),
            Pattern::Text(text) => text.eval(request).eq_ignore_ascii_case(name),
        })?;
        let mut wish = Wish::default();
        for flag in &flags.flags {
            match flag.eval(request).to_ascii_lowercase().as_slice() {
                b"secure" => wish.secure = Some(true),
                b"nosecure" => wish.secure = wish.secure.or(Some(false)),
                b"httponly" => wish.httponly = Some(true),
                b"nohttponly" => wish.httponly = wish.httponly.or(Some(false)),
                b"samesite=strict" => wish.samesite = Some(Some("Strict")),
                b"samesite=lax" => wish.samesite = Some(Some("Lax")),
                b"samesite=none" => wish.samesite = Some(Some("None")),
                b"nosamesite" => wish.samesite = wish.samesite.or(Some(None)),
                _ => {}
            }
        }
        (wish != Wish::default()).then_some(wish)
    }
}

/// Reads one part between semicolons.
fn attribute(whole: &Bytes, part: &[u8]) -> Attribute {
    let trim = |bytes: &[u8]| {
        let start = bytes.iter().position(|&byte| byte != b' ').unwrap_or(bytes.len());
        let end = bytes.iter().rposition(|&byte| byte != b' ').map_or(start, |last| last + 1);
        match bytes.get(start..end) {
            Some(inner) if !inner.is_empty() => whole.slice_ref(inner),
            _ => Bytes::new(),
        }
    };
    match memchr::memchr(b'=', part) {
        Some(at) => Attribute { name: trim(&part[..at]), value: Some(trim(&part[at + 1..])) },
        None => Attribute { name: trim(part), value: None },
    }
}

/// Adds, changes and removes flags.
fn grant(wish: Wish, attributes: &mut Vec<Attribute>) {
    let is = |attribute: &Attribute, name: &str| attribute.name.eq_ignore_ascii_case(name.as_bytes());
    let mut first = true;
    attributes.retain(|attribute| {
        let cookie = std::mem::take(&mut first);
        cookie
            || !(wish.secure == Some(false) && is(attribute, "secure")
                || wish.httponly == Some(false) && is(attribute, "httponly")
                || wish.samesite == Some(None) && is(attribute, "samesite"))
    });
    let mut add = |name: &'static str, value: Option<&'static str>| {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        let there = attributes.iter_mut().skip(1).find(|attribute| is(attribute, name));
        match there {
            None => attributes.push(Attribute { name: Bytes::from_static(name.as_bytes()), value }),
            Some(there) => {
                let same = match (&there.value, &value) {
                    (Some(old), Some(new)) => old.eq_ignore_ascii_case(new),
                    (_, None) => true,
                    (None, Some(_)) => false,
                };
                if !same {
                    *there = Attribute { name: Bytes::from_static(name.as_bytes()), value };
                }
            }
        }
    };
    if wish.secure == Some(true) {
        add("Secure", None);
    }
    if wish.httponly == Some(true) {
        add("HttpOnly", None);
    }
    if let Some(Some(samesite)) = wish.samesite {
        add("SameSite", Some(samesite));
    }
}

fn join(attributes: &[Attribute]) -> Bytes {
    let mut out = Vec::new();
    for (n, attribute) in attributes.iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(&attribute.name);
        if let Some(value) = &attribute.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(cookie: &'static str, wish: Wish) -> Bytes {
        let whole = Bytes::from_static(cookie.as_bytes());
        let mut attributes: Vec<_> = whole.split(|&byte| byte == b';').map(|part| attribute(&whole, part)).collect();
        grant(wish, &mut attributes);
        join(&attributes)
    }

    #[test]
    fn cookies_are_taken_apart_and_joined() {
        let nothing = Wish::default();
        assert_eq!(granted("a=b", nothing), "a=b");
        assert_eq!(granted(" a = b ;Path=/ ;; Secure", nothing), "a=b; Path=/; ; Secure");
    }

    #[test]
    fn flags_are_added_changed_and_removed() {
        let all = Wish { secure: Some(true), httponly: Some(true), samesite: Some(Some("Lax")) };
        assert_eq!(granted("a=b", all), "a=b; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(granted("a=b; samesite=LAX; secure", all), "a=b; samesite=LAX; secure; HttpOnly");
        assert_eq!(granted("a=b; samesite=Strict", all), "a=b; SameSite=Lax; Secure; HttpOnly");
        let none = Wish { secure: Some(false), httponly: Some(false), samesite: Some(None) };
        assert_eq!(granted("secure=b; Secure; HttpOnly; SameSite=None; Path=/", none), "secure=b; Path=/");
    }
}
