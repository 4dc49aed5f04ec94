//! Which location a path belongs to: nginx's rules, in a form that finds one among ten thousand in a few steps.
//!
//! Exact names first; else the longest prefix; unless that prefix says `^~`, the first regular expression that matches
//! wins over it. Locations inside a location are searched the same way, the innermost first.

use bytes::Bytes;

use super::plan::LocationId;
use crate::base::hash::QuickMap;
use crate::base::text;
use crate::conf::error::Fault;
pub use crate::conf::pattern::{Matched, Regex};
use crate::conf::words::Words;

/// How a location is written.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// `= /path`
    Exact(String),
    /// `/path`; `final_`: `^~ /path`
    Prefix { path: String, final_: bool },
    /// `~ pattern`, `~* pattern`
    Regex(Regex),
    /// `@name`
    Named(String),
}

impl Matcher {
    /// Reads the words of `location`.
    pub fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let (modifier, name) = match words.len() {
            2 => (words.arg(0), words.arg(1)),
            // nginx: the modifier may stick to the name.
            _ => match words.one() {
                word if word.starts_with('=') => ("=", &word[1..]),
                word if word.starts_with("^~") => ("^~", &word[2..]),
                word if word.starts_with("~*") => ("~*", &word[2..]),
                word if word.starts_with('~') => ("~", &word[1..]),
                word => ("", word),
            },
        };
        Ok(match modifier {
            "=" => Self::Exact(name.to_owned()),
            "^~" => Self::Prefix { path: name.to_owned(), final_: true },
            "~" => Self::Regex(Regex::new(name, false, words)?),
            "~*" => Self::Regex(Regex::new(name, true, words)?),
            "" if name.starts_with('@') => Self::Named(name.to_owned()),
            "" => Self::Prefix { path: name.to_owned(), final_: false },
            other => return Err(words.fault(0, format!("invalid location modifier \"{other}\""))),
        })
    }

    /// What the configuration calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::Exact(name) | Self::Prefix { path: name, .. } | Self::Named(name) => name,
            Self::Regex(regex) => regex.pattern.text(),
        }
    }

    /// Checks that this location may stand inside `outer`.
    pub fn inside(&self, outer: &Self) -> Result<(), String> {
        let (name, around) = (self.name(), outer.name());
        match (self, outer) {
            (_, Self::Exact(_)) => Err(format!("location \"{name}\" cannot be inside the exact location \"{around}\"")),
            (_, Self::Named(_)) => Err(format!("location \"{name}\" cannot be inside the named location \"{around}\"")),
            (Self::Named(_), _) => Err(format!("named location \"{name}\" can be on the server level only")),
            (Self::Regex(_), _) => Ok(()),
            // nginx compares with the text of a pattern, too.
            (Self::Exact(_) | Self::Prefix { .. }, Self::Prefix { .. } | Self::Regex(_)) => {
                match name.starts_with(around) {
                    true => Ok(()),
                    false => Err(format!("location \"{name}\" is outside location \"{around}\"")),
                }
            }
        }
    }
}

/// The locations of one level, ready to search.
#[derive(Debug, Default)]
pub struct Locations {
    exact: QuickMap<Bytes, LocationId>,
    /// Sorted by path.
    prefixes: Vec<Prefix>,
    regexes: Vec<(Regex, LocationId)>,
}

#[derive(Debug)]
struct Prefix {
    path: Bytes,
    id: LocationId,
    final_: bool,
    /// The place of the longest other prefix of this path.
    shorter: Option<usize>,
    /// `proxy_pass` and its kin: `/path` is answered with a redirect to `/path/`.
    redirect: bool,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// An exact name: nothing inside can be better.
    Exact(LocationId),
    /// A prefix; a regular expression may be better unless `final_`.
    Prefix {
        id: LocationId,
        final_: bool,
    },
    /// The path lacks only the slash of this location.
    Slash(LocationId),
}

impl Locations {
    /// Adds one. The error is nginx's sentence.
    pub fn add(&mut self, matcher: &Matcher, id: LocationId, redirect: bool) -> Result<(), String> {
        let bytes = |path: &String| Bytes::from(text::bytes(path));
        let fresh = match matcher {
            Matcher::Exact(path) => self.exact.insert(bytes(path), id).is_none(),
            Matcher::Prefix { path, final_ } => {
                let prefix = Prefix { path: bytes(path), id, final_: *final_, shorter: None, redirect };
                match self.prefixes.binary_search_by(|other| other.path.cmp(&prefix.path)) {
                    Ok(_) => false,
                    Err(place) => {
                        self.prefixes.insert(place, prefix);
                        true
                    }
                }
            }
            Matcher::Regex(regex) => {
                self.regexes.push((regex.clone(), id));
                true
            }
            Matcher::Named(_) => true,
        };
        if fresh { Ok(()) } else { Err(format!("duplicate location \"{}\"", matcher.name())) }
    }

    /// Call once when all are added.
    pub fn finish(&mut self) {
        let mut open: Vec<usize> = Vec::new();
        for n in 0..self.prefixes.len() {
            while open.last().is_some_and(|&last| !self.prefixes[n].path.starts_with(&self.prefixes[last].path)) {
                open.pop();
            }
            self.prefixes[n].shorter = open.last().copied();
            open.push(n);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty()
    }

    /// The exact or longest static name.
    pub fn find(&self, path: &[u8]) -> Found {
        if let Some(&id) = self.exact.get(path) {
            return Found::Exact(id);
        }
        let place = self.prefixes.partition_point(|prefix| prefix.path.as_ref() <= path);
        // nginx: `/path` finds `/path/` when nothing is called `/path` itself.
        let slash =
            |prefix: &Prefix| prefix.redirect && prefix.path.strip_suffix(b"/").is_some_and(|shorter| shorter == path);
        let mut next = place.checked_sub(1);
        if let Some(n) = next.filter(|&n| self.prefixes[n].path == path) {
            return Found::Prefix { id: self.prefixes[n].id, final_: self.prefixes[n].final_ };
        }
        if let Some(prefix) = self.prefixes[place..].iter().take_while(|p| p.path.starts_with(path)).find(|p| slash(p))
        {
            return Found::Slash(prefix.id);
        }
        while let Some(n) = next {
            let prefix = &self.prefixes[n];
            if path.starts_with(&prefix.path) {
                return Found::Prefix { id: prefix.id, final_: prefix.final_ };
            }
            next = prefix.shorter;
        }
        Found::Nothing
    }

    pub fn regexes(&self) -> &[(Regex, LocationId)] {
        &self.regexes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations(paths: &[&str]) -> Locations {
        let mut all = Locations::default();
        for (n, path) in paths.iter().enumerate() {
            let id = LocationId(u32::try_from(n).expect("few"));
            let matcher = match path.strip_prefix("= ") {
                Some(exact) => Matcher::Exact(exact.to_owned()),
                None => Matcher::Prefix { path: (*path).to_owned(), final_: false },
            };
            all.add(&matcher, id, path.ends_with("/p/")).expect("fresh");
        }
        all.finish();
        all
    }

    #[test]
    fn the_longest_prefix_wins() {
        let paths = ["/", "/a", "/a/b/", "/ab", "= /a/b/c", "/z/p/"];
        let all = locations(&paths);
        for (path, expected) in [
            ("/", 0),
            ("/x", 0),
            ("/a", 1),
            ("/a/", 1),
            ("/a/b", 1),
            ("/a/b/", 2),
            ("/a/b/c", 4),
            ("/a/b/cd", 2),
            ("/abc", 3),
            ("/az", 1),
            ("/z/p/q", 5),
            ("/z/pq", 0),
        ] {
            let id = match all.find(path.as_bytes()) {
                Found::Exact(id) | Found::Prefix { id, .. } | Found::Slash(id) => Some(id.0),
                Found::Nothing => None,
            };
            assert_eq!(id, Some(expected), "{path}");
        }
        assert_eq!(all.find(b"/z/p"), Found::Slash(LocationId(5)));
        assert_eq!(locations(&["/a"]).find(b"/b"), Found::Nothing);
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        let mut all = locations(&["/a"]);
        let again = Matcher::Prefix { path: "/a".to_owned(), final_: true };
        assert_eq!(all.add(&again, LocationId(9), false), Err("duplicate location \"/a\"".to_owned()));
    }
}
