//! `valid_referers`: whether a request comes from a page that may link here.
//!
//! In: the `Referer` field. Out: `$invalid_referer`, empty for a good one and `1` for any other. The rule: names are looked
//! for first, and one that is found decides with the path behind it; patterns are asked for the rest.
//! nginx: `ngx_http_referer_module`.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::names::{NameTable, Unplaced};
use crate::base::regex::{Failed, Pattern};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, LOCATION, Level, Module, SERVER, Section};
use crate::conf::pattern::Matching;
use crate::conf::setting::Setting;
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::core::Core;
use crate::http::plan::{Main, Plan};
use crate::http::request::Request;

/// `ngx_http_referer_module`.
pub struct Referer;

impl Module for Referer {
    const NAME: &'static str = "http_referer";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("valid_referers", SERVER.or(LOCATION), Arity::AtLeast(1), Conf::valid_referers),
        Directive::location("referer_hash_max_size", SERVER.or(LOCATION), Arity::Exactly(1), Conf::max_size),
        Directive::location("referer_hash_bucket_size", SERVER.or(LOCATION), Arity::Exactly(1), Conf::bucket_size),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let get = |request: &Request| match &request.plan().invalid_referer {
            Some(judge) => judge(request),
            None => Some(Bytes::new()),
        };
        main.vars.define("invalid_referer", Row::once(get).changeable())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let Some(said) = level.location::<Self>().valid_referers.said() else { return Ok(()) };
        let judge = Judge::new(said, level)?;
        plan.invalid_referer = Some(Box::new(move |request| match judge.admits(request.field("Referer")) {
            Ok(good) => Some(Bytes::from_static(if good { b"" } else { b"1" })),
            Err(failed) => {
                request.log_failed(&failed);
                None
            }
        }));
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    valid_referers: Setting<Said>,
    referer_hash_max_size: Setting<u64>,
    referer_hash_bucket_size: Setting<u64>,
}

/// What the directives of one level say.
#[derive(Clone, Default)]
struct Said {
    none: bool,
    blocked: bool,
    server_names: bool,
    /// Names with the beginnings of paths.
    names: Vec<(String, String)>,
    patterns: Vec<Arc<Pattern>>,
}

impl Conf {
    /// Syntax: `valid_referers none | blocked | server_names | string ...;`
    fn valid_referers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let said = self.valid_referers.list();
        for (n, word) in words.texts().enumerate() {
            match word {
                "" => return Err(words.fault(n, "invalid referer \"\"")),
                "none" => said.none = true,
                "blocked" => said.blocked = true,
                "server_names" => said.server_names = true,
                "~" => return Err(words.fault(n, "empty regex in \"~\"")),
                _ => match word.strip_prefix('~') {
                    Some(pattern) => {
                        let pattern = words.cx.names.pattern(pattern, true);
                        said.patterns.push(pattern.map_err(|message| words.fault(n, message))?);
                    }
                    None => {
                        let (name, path) = word.split_at(word.find('/').unwrap_or(word.len()));
                        said.names.push((name.to_owned(), path.to_owned()));
                    }
                },
            }
        }
        Ok(())
    }

    /// Syntax: `referer_hash_max_size size;`  Default: `2048`. Our tables size themselves; the word must be a number.
    fn max_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.referer_hash_max_size.set(words.number(0)?)
    }

    /// Syntax: `referer_hash_bucket_size size;`  Default: `64`. As `referer_hash_max_size`.
    fn bucket_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.referer_hash_bucket_size.set(words.number(0)?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { valid_referers, referer_hash_max_size, referer_hash_bucket_size } = self;
        valid_referers.inherit(&outer.valid_referers);
        referer_hash_max_size.inherit(&outer.referer_hash_max_size);
        referer_hash_bucket_size.inherit(&outer.referer_hash_bucket_size);
        Ok(())
    }
}

/// The referers of one location, resolved.
#[derive(Default)]
struct Judge {
    none: bool,
    blocked: bool,
    /// Each name with a number in `paths`.
    names: NameTable<usize>,
    /// What the path must begin with.
    paths: Vec<Bytes>,
    /// Asked with the host alone.
    server_names: Vec<Arc<Pattern>>,
    /// Asked with host and path.
    patterns: Vec<Arc<Pattern>>,
}

impl Judge {
    fn new(said: Said, level: &Level<'_>) -> Result<Self, Fault> {
        let Said { none, blocked, server_names, names, patterns } = said;
        let mut judge = Self { none, blocked, patterns, ..Self::default() };
        for (name, path) in &names {
            judge.add(name, text::bytes(path).into())?;
        }
        if server_names {
            for name in &level.server::<Core>().names {
                match &name.regex {
                    Some(regex) => judge.server_names.push(regex.pattern.clone()),
                    None => judge.add(&text::decode(&name.text), Bytes::new())?,
                }
            }
        }
        if (none || blocked) && judge.paths.is_empty() {
            return Err(Fault::nowhere(
                "the \"none\" or \"blocked\" referers are specified in the \"valid_referers\" directive without any \
                 valid referer",
            ));
        }
        Ok(judge)
    }

    fn add(&mut self, name: &str, path: Bytes) -> Result<(), Fault> {
        let placed = self.names.add(&text::bytes(name).to_ascii_lowercase(), self.paths.len());
        self.paths.push(path);
        placed.map_err(|unplaced| {
            Fault::new(match unplaced {
                Unplaced::Invalid => format!("invalid hostname or wildcard \"{name}\""),
                Unplaced::Taken => format!("conflicting parameter \"{name}\""),
            })
        })
    }

    fn admits(&self, referer: Option<&[u8]>) -> Result<bool, Failed> {
        let Some(referer) = referer else { return Ok(self.none) };
        let Some(target) = behind_scheme(referer) else { return Ok(self.blocked) };
        let end = memchr::memchr2(b'/', b':', target).unwrap_or(target.len());
        if end > LONGEST {
            return Ok(false);
        }
        let (host, rest) = target.split_at(end);
        let host = host.to_ascii_lowercase();
        if let Some(place) = self.names.find(&host) {
            let path = memchr::memchr(b'/', rest).map_or(&[][..], |slash| &rest[slash..]);
            return Ok(self.paths.get(place).is_some_and(|beginning| path.starts_with(beginning)));
        }
        for pattern in &self.server_names {
            if pattern.is_match(&host)? {
                return Ok(true);
            }
        }
        for pattern in &self.patterns {
            if pattern.is_match(target)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The longest host that nginx looks at.
const LONGEST: usize = 256;

/// What follows `http://` or `https://`; nothing that is shorter than the shortest address has a scheme.
fn behind_scheme(referer: &[u8]) -> Option<&[u8]> {
    let scheme = |name: &[u8]| {
        let (start, rest) = referer.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(rest)
    };
    if referer.len() < b"http://i.ru".len() {
        return None;
    }
    scheme(b"http://").or_else(|| scheme(b"https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_then_patterns() {
        let mut judge = Judge { none: true, ..Judge::default() };
        for (name, path) in [("www.example.org", "/galleries/"), ("*.example.net", ""), ("example.*", "")] {
            judge.add(name, Bytes::from_static(path.as_bytes())).expect("a good name");
        }
        judge.server_names.push(Arc::new(Pattern::new("^own\\.", false).expect("a pattern")));
        judge.patterns.push(Arc::new(Pattern::new("\\.google\\.[^/]*/x", true).expect("a pattern")));
        let long = format!("http://{}/", "a".repeat(257));
        for (referer, expected) in [
            (None, true),
            (Some(""), false),
            (Some("http://x"), false),
            (Some("ftp://www.example.net/"), false),
            (Some("http://www.example.org/galleries/1"), true),
            (Some("HTTPS://WWW.Example.ORG:8080/galleries/"), true),
            (Some("http://www.example.org/other"), false),
            (Some("http://www.example.org"), false),
            (Some("http://a.example.net"), true),
            (Some("http://example.com/"), true),
            (Some("http://own.host/"), true),
            (Some("http://other.host/own."), false),
            (Some("http://www.GOOGLE.de/X"), true),
            (Some("http://www.google.de/y"), false),
            (Some(long.as_str()), false),
        ] {
            assert_eq!(judge.admits(referer.map(str::as_bytes)).expect("matched"), expected, "{referer:?}");
        }
        let blocked = Judge { blocked: true, ..Judge::default() };
        assert!(blocked.admits(Some(b"hidden")).expect("matched") && !blocked.admits(None).expect("matched"));
    }
}
