//! Names of fields: those that a request may have once, and kinds that tell most names apart at a glance.

use crate::wire::byte;

/// What several lines of one name in a request mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They are kept, in order.
    Many,
    /// 400, `client sent duplicate header line: "NAME: VALUE", previous value: "NAME: VALUE"`.
    Unique,
    /// 400, `client sent duplicate host header: "NAME: VALUE", previous value: "NAME: VALUE"`.
    Host,
}

const HOST: &str = "Host";

/// nginx: `ngx_http_process_unique_header_line`
const UNIQUE: [&str; 11] = [
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Match",
    "If-None-Match",
    "Content-Length",
    "Content-Range",
    "If-Range",
    "Transfer-Encoding",
    "Expect",
    "Authorization",
    "Proxy-Authorization",
];

/// The kinds of [`HOST`] and [`UNIQUE`].
const RULED: Kinds = {
    let mut kinds = Kinds(0);
    kinds.add(Kind::of(HOST.as_bytes()));
    let mut n = 0;
    while n < UNIQUE.len() {
        kinds.add(Kind::of(UNIQUE[n].as_bytes()));
        n += 1;
    }
    kinds
};

impl Rule {
    /// Of a name and its kind. Letters of either case are alike.
    #[inline]
    pub fn of(name: &[u8], kind: Kind) -> Self {
        let is = |known: &&str| byte::same_name(known.as_bytes(), name);
        if !RULED.have(kind) {
            Self::Many
        } else if is(&HOST) {
            Self::Host
        } else if UNIQUE.iter().any(is) {
            Self::Unique
        } else {
            Self::Many
        }
    }
}

/// A number below 64 for a name, by its length, its first letter and its last; of either case alike. The factors are those with
/// which fewest of the names that browsers and servers send have the number of another that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    #[inline]
    pub const fn of(name: &[u8]) -> Self {
        let (first, last) = match name {
            [only] => (*only, *only),
            [first, .., last] => (*first, *last),
            [] => (0, 0),
        };
        let (first, last) = (first as usize | 0x20, last as usize | 0x20);
        Self(((name.len() * 20 + first * 9 + last) % 64) as u8)
    }
}

/// The kinds of name that are or were among fields, a bit each: most names that are asked for are not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kinds(u64);

impl Kinds {
    #[inline]
    pub const fn add(&mut self, kind: Kind) {
        self.0 |= 1 << (kind.0 % 64);
    }

    #[inline]
    pub const fn have(self, kind: Kind) -> bool {
        self.0 & 1 << (kind.0 % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_names_in_any_case() {
        let cases = [
            ("Host", Rule::Host),
            ("hOST", Rule::Host),
            ("cOnTeNt-LeNgTh", Rule::Unique),
            ("TRANSFER-ENCODING", Rule::Unique),
            ("proxy-authorization", Rule::Unique),
            ("X-Forwarded-For", Rule::Many),
            ("Cookie", Rule::Many),
            ("", Rule::Many),
            ("X", Rule::Many),
            ("Hosts", Rule::Many),
            ("Content_Length", Rule::Many),
        ];
        for (name, rule) in cases {
            assert_eq!(Rule::of(name.as_bytes(), Kind::of(name.as_bytes())), rule, "{name}");
        }
    }

    #[test]
    fn a_name_of_the_kind_of_another_has_no_rule_of_its() {
        let all = (0..=u8::MAX).flat_map(|first| (1..20).map(move |len| vec![first; len]));
        let same: Vec<_> = all.filter(|name| RULED.have(Kind::of(name))).collect();
        assert!(same.len() > 100, "{}", same.len());
        for name in same {
            assert_eq!(Rule::of(&name, Kind::of(&name)), Rule::Many, "{name:?}");
        }
    }
}
