//! Which server a host means, on one address.
//!
//! nginx's order: the exact name, the longest `*.name`, the longest `name.*`, the first regular expression, and else
//! the address's default server.

use super::location::Regex;
use super::plan::ServerId;
use super::request::Request;
use super::server::Name;
use crate::base::names::{NameTable, Unplaced};

/// The servers of one address.
#[derive(Debug, Default)]
pub struct Names {
    pub default: ServerId,
    names: NameTable<ServerId>,
    regexes: Vec<(Regex, ServerId)>,
}

/// What a host means.
pub enum Chosen<'a> {
    Server(ServerId),
    /// The pattern still has captures to give.
    Regex(&'a Regex, ServerId),
}

impl Names {
    pub fn new(default: ServerId) -> Self {
        Self { default, ..Self::default() }
    }

    /// Adds a name of `server`.
    pub fn add(&mut self, name: &Name, server: ServerId) -> Result<(), Unplaced> {
        if let Some(regex) = &name.regex {
            self.regexes.push((regex.clone(), server));
            return Ok(());
        }
        self.names.add(&name.text, server)
    }

    /// Whether every host means the same server.
    pub fn is_single(&self) -> bool {
        self.regexes.is_empty() && self.names.values().all(|id| id == self.default)
    }

    /// Whether patterns are among them, which have captures to give.
    pub fn has_patterns(&self) -> bool {
        !self.regexes.is_empty()
    }

    /// Chooses by a host in lower case.
    pub fn choose(&self, host: &[u8]) -> Chosen<'_> {
        self.find(host).unwrap_or(Chosen::Server(self.default))
    }

    /// As [`Names::choose`]; `None` when nothing has that name.
    pub fn find(&self, host: &[u8]) -> Option<Chosen<'_>> {
        if let Some(id) = self.names.find(host) {
            return Some(Chosen::Server(id));
        }
        // nginx: patterns are not asked of an empty name.
        let mut regexes = self.regexes.iter().filter(|_| !host.is_empty());
        let (regex, id) = regexes.find(|(regex, _)| regex.pattern.is_match(host).unwrap_or(false))?;
        Some(Chosen::Regex(regex, *id))
    }
}

impl Chosen<'_> {
    pub fn id(&self) -> ServerId {
        match self {
            Self::Server(id) | Self::Regex(_, id) => *id,
        }
    }

    /// Gives the request the captures of the pattern that chose its server.
    pub fn fill(&self, request: &Request) {
        if let (Self::Regex(regex, _), Some(host)) = (self, &request.head.host) {
            let _ = regex.matches(host, request); // it did match when it chose the server
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn exact_then_leading_then_trailing() {
        let mut names = Names::default();
        let all = ["a.example.com", "*.example.com", "www.example.*", ".dot.org", "*.b.example.com"];
        for (n, text) in all.iter().enumerate() {
            let id = ServerId(u32::try_from(n + 1).expect("few"));
            assert_eq!(names.add(&Name { text: Bytes::from_static(text.as_bytes()), regex: None }, id), Ok(()));
        }
        let again = Name { text: Bytes::from_static(b"a.example.com"), regex: None };
        assert_eq!(names.add(&again, ServerId(9)), Err(Unplaced::Taken));
        for (host, expected) in [
            ("a.example.com", 1),
            ("x.example.com", 2),
            ("x.y.example.com", 2),
            ("x.b.example.com", 5),
            ("example.com", 0),
            ("www.example.org", 3),
            ("www.example.co.uk", 3),
            ("dot.org", 4),
            ("a.dot.org", 4),
            ("other", 0),
        ] {
            assert_eq!(names.choose(host.as_bytes()).id(), ServerId(expected), "{host}");
        }
    }
}
