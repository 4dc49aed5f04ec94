//! The directives of `Cache-Control` (RFC 9111, 5.2) and of `CDN-Cache-Control` (RFC 9213), of requests and answers.
//!
//! In: the values of the field's lines. Out: a [`Control`]. Both grammars are read whole, so that a word inside quotes or at
//! the end of another is none. Where a directive is there twice, the first counts in `Cache-Control` (RFC 9111, 4.2.1) and
//! the last in `CDN-Cache-Control` (RFC 9651, 3.2).

use crate::wire::byte;

/// The longest time that is told from a longer one: 136 years.
pub const FOREVER: i64 = u32::MAX as i64;

/// What was asked of caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub no_store: bool,
    /// Also `no-cache="field"`: a cache may read it as if it had no argument.
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub immutable: bool,
    pub only_if_cached: bool,
    /// Seconds. A value that is no number is 0: what is not understood is stale (RFC 9111, 4.2.1).
    pub max_age: Option<i64>,
    pub s_maxage: Option<i64>,
    pub stale_while_revalidate: Option<i64>,
    pub stale_if_error: Option<i64>,
    pub min_fresh: Option<i64>,
    /// Without a number any age will do: [`FOREVER`].
    pub max_stale: Option<i64>,
}

impl Control {
    /// Reads lines of `Cache-Control`.
    pub fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for line in lines {
            for element in elements(line) {
                let (name, value) = match memchr::memchr(b'=', element) {
                    Some(at) => {
                        let (name, value) = element.split_at(at);
                        (name, value.get(1..))
                    }
                    None => (element, None),
                };
                // a space before or behind the sign is not in the grammar, so the number is none
                let spaced = name.ends_with(b" ") || name.ends_with(b"\t");
                let seconds = value.map_or(Some(0), |value| delta_seconds(unquoted(value))).filter(|_| !spaced);
                control.add(name.trim_ascii_end(), value.is_some(), seconds.unwrap_or(0));
            }
        }
        control
    }

    /// Reads lines of `CDN-Cache-Control`. `None`: there are none, or they are no dictionary, and do not count.
    pub fn targeted<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut all = Vec::new();
        for (n, line) in lines.enumerate() {
            if n > 0 {
                all.push(b',');
            }
            all.extend_from_slice(line);
        }
        let members = Dictionary { rest: all.trim_ascii() }.members()?;
        let mut control = Self::default();
        // the last of a name counts, and `add` keeps the first
        for (name, member) in members.iter().rev() {
            match member {
                Member::Integer(seconds) => control.add(name, true, (*seconds).clamp(0, FOREVER)),
                Member::True => control.add(name, false, 0),
                // of the wrong type: such a number is none, but `private="x"` is private all the same
                Member::Other if is_number(name) => {}
                Member::Other => control.add(name, true, 0),
                Member::False => {}
            }
        }
        (!members.is_empty()).then_some(control)
    }

    fn add(&mut self, name: &[u8], has_value: bool, seconds: i64) {
        let is = |known: &str| byte::same_name(name, known.as_bytes());
        let number = if is("max-age") {
            &mut self.max_age
        } else if is("s-maxage") {
            &mut self.s_maxage
        } else if is("stale-while-revalidate") {
            &mut self.stale_while_revalidate
        } else if is("stale-if-error") {
            &mut self.stale_if_error
        } else if is("min-fresh") {
            &mut self.min_fresh
        } else if is("max-stale") {
            self.max_stale.get_or_insert(if has_value { seconds } else { FOREVER });
            return;
        } else {
            self.no_store |= is("no-store");
            self.no_cache |= is("no-cache");
            self.private |= is("private");
            self.public |= is("public");
            self.must_revalidate |= is("must-revalidate");
            self.proxy_revalidate |= is("proxy-revalidate");
            self.must_understand |= is("must-understand");
            self.immutable |= is("immutable");
            self.only_if_cached |= is("only-if-cached");
            return;
        };
        number.get_or_insert(seconds);
    }

    /// How long a shared cache may call the answer fresh; `None` when nothing is said.
    pub fn lifetime(&self) -> Option<i64> {
        self.s_maxage.or(self.max_age)
    }

    /// True when the answer must not be served stale, whatever the operator allows (RFC 9111, 4.2.4). `s-maxage` has the
    /// meaning of `proxy-revalidate`; an origin that says beside it for how long stale is fine (RFC 5861) means that.
    pub fn forbids_stale(&self) -> bool {
        let windows = self.stale_while_revalidate.is_some() || self.stale_if_error.is_some();
        self.must_revalidate || self.proxy_revalidate || self.no_cache || (self.s_maxage.is_some() && !windows)
    }
}

fn is_number(name: &[u8]) -> bool {
    [&b"max-age"[..], b"s-maxage", b"stale-while-revalidate", b"stale-if-error"].contains(&name)
}

/// A number of seconds (RFC 9111, 1.2.2): digits and nothing else, however many.
pub fn delta_seconds(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0, |number: i64, digit| {
        digit.is_ascii_digit().then(|| (number * 10 + i64::from(digit - b'0')).min(FOREVER))
    })
}

/// What commas divide that are not within quotes, without the spaces around.
pub fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|&byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        let (element, behind) = text.split_at(end.unwrap_or(text.len()));
        rest = behind.get(1..);
        Some(element.trim_ascii())
    })
    .filter(|element| !element.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// A member of a dictionary, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Integer(i64),
    True,
    False,
    /// A string, a token, a decimal, bytes, a list.
    Other,
}

/// A reader of Structured Fields (RFC 9651, 4.2.2). Each method answers `None` for what is not in the grammar.
struct Dictionary<'a> {
    rest: &'a [u8],
}

impl<'a> Dictionary<'a> {
    fn members(mut self) -> Option<Vec<(&'a [u8], Member)>> {
        let mut members = Vec::new();
        while !self.rest.is_empty() {
            let name = self.key()?;
            let member = if self.eat(b"=") { self.value()? } else { Member::True };
            self.parameters()?;
            members.push((name, member));
            self.rest = self.rest.trim_ascii_start();
            if self.rest.is_empty() {
                break;
            }
            if !self.eat(b",") {
                return None;
            }
            self.rest = self.rest.trim_ascii_start();
            if self.rest.is_empty() {
                return None; // nothing behind the comma
            }
        }
        Some(members)
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let first = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'*';
        self.rest.first().filter(|byte| first(byte))?;
        Some(self.while_(|byte| first(&byte) || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.')))
    }

    fn value(&mut self) -> Option<Member> {
        if !self.eat(b"(") {
            return self.item();
        }
        loop {
            self.while_(|byte| byte == b' ');
            if self.eat(b")") {
                return Some(Member::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Member> {
        match self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b':' => self.bytes(),
            b'?' => {
                self.eat(b"?");
                let value = self.eat(b"1");
                (value || self.eat(b"0")).then_some(if value { Member::True } else { Member::False })
            }
            byte if byte.is_ascii_alphabetic() || *byte == b'*' => {
                self.while_(|byte| byte.is_ascii_graphic() && !b"\"(),;<=>?@[\\]{}".contains(&byte));
                Some(Member::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Member> {
        let negative = self.eat(b"-");
        let digits = self.while_(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.eat(b".") {
            let decimals = self.while_(|byte| byte.is_ascii_digit());
            return (digits.len() <= 12 && (1..=3).contains(&decimals.len())).then_some(Member::Other);
        }
        let number = digits.iter().fold(0, |number: i64, digit| number * 10 + i64::from(digit - b'0'));
        Some(Member::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<Member> {
        self.eat(b"\"");
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(Member::Other),
                b'\\' if !(self.eat(b"\"") || self.eat(b"\\")) => return None,
                b'\\' | b' '..=b'~' => {}
                _ => return None,
            }
        }
    }

    fn bytes(&mut self) -> Option<Member> {
        self.eat(b":");
        self.while_(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        self.eat(b":").then_some(Member::Other)
    }

    /// They mean nothing to a cache, but have to be well formed.
    fn parameters(&mut self) -> Option<()> {
        while self.eat(b";") {
            self.while_(|byte| byte == b' ');
            self.key()?;
            if self.eat(b"=") {
                self.item()?;
            }
        }
        Some(())
    }

    fn eat(&mut self, text: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn while_(&mut self, good: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| !good(byte)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(lines: &[&str]) -> Control {
        Control::of(lines.iter().map(|line| line.as_bytes()))
    }

    fn targeted(lines: &[&str]) -> Option<Control> {
        Control::targeted(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn lifetimes() {
        let cases = [
            ("max-age=60", Some(60)),
            ("MaX-aGe=60", Some(60)),
            ("max-age=\"60\"", Some(60)),
            ("max-age=060", Some(60)),
            ("foobar, max-age=60", Some(60)),
            ("max-age=60, s-maxage=5", Some(5)),
            ("max-age=60, max-age=5", Some(60)),
            ("a=\"max-age=60\", max-age=5", Some(5)),
            ("a=\"\\\"max-age=60,\", max-age=5", Some(5)),
            ("max-age=99999999999999999999", Some(FOREVER)),
            ("max-age='60'", Some(0)),
            ("max-age=-60", Some(0)),
            ("max-age=60.0", Some(0)),
            ("max-age=60a", Some(0)),
            ("max-age =60", Some(0)),
            ("max-age= 60", Some(0)),
            ("max-age=", Some(0)),
            ("max-age", Some(0)),
            ("xmax-age=60", None),
            ("a=\"max-age=60", None),
            ("", None),
        ];
        for (line, lifetime) in cases {
            assert_eq!(control(&[line]).lifetime(), lifetime, "{line}");
        }
        assert_eq!(control(&["max-age=1", "s-maxage=2", "max-age=3"]).lifetime(), Some(2));
    }

    #[test]
    fn words_and_numbers() {
        let all = control(&[
            "no-store, No-Cache=\"a, b\",private,public , must-revalidate,proxy-revalidate",
            "must-understand,immutable,only-if-cached,stale-while-revalidate=1,stale-if-error=2,min-fresh=3,max-stale=4",
        ]);
        let expected = Control {
            no_store: true,
            no_cache: true,
            private: true,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            immutable: true,
            only_if_cached: true,
            max_age: None,
            s_maxage: None,
            stale_while_revalidate: Some(1),
            stale_if_error: Some(2),
            min_fresh: Some(3),
            max_stale: Some(4),
        };
        assert_eq!(all, expected);
        assert_eq!(control(&["max-stale"]).max_stale, Some(FOREVER));
        assert_eq!(control(&["no-cachex, xno-store, a=\"private\""]), Control::default());
    }

    #[test]
    fn stale_is_forbidden_by_the_origin() {
        for line in
            ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=1", "must-revalidate, stale-if-error=9"]
        {
            assert!(control(&[line]).forbids_stale(), "{line}");
        }
        for line in ["max-age=1", "s-maxage=1, stale-while-revalidate=9", "s-maxage=1, stale-if-error=9", "private"] {
            assert!(!control(&[line]).forbids_stale(), "{line}");
        }
    }

    #[test]
    fn targeted_fields_are_dictionaries() {
        let lifetime = |line| targeted(&[line]).map(|control| control.lifetime());
        let cases = [
            ("max-age=60", Some(Some(60))),
            ("max-age=60;a=1;b, a=(1 \"x\" t;q=1), b=:YQ==:, c=?0, d=1.5", Some(Some(60))),
            ("max-age=60, max-age=5", Some(Some(5))),
            ("max-age=60 ,\ts-maxage=5", Some(Some(5))),
            ("max-age=-5", Some(Some(0))),
            ("max-age=\"60\"", Some(None)),
            ("max-age=1.5", Some(None)),
            ("private=?0", Some(None)),
            ("max-age=60,", None),
            ("max-age=60 s-maxage=5", None),
            ("Max-Age=60", None),
            ("max-age=", None),
            ("max-age= 60", None),
            ("max-age=\"60", None),
            ("max-age=6x", None),
            ("max-age=1234567890123456", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(lifetime(line), expected, "{line}");
        }
        assert_eq!(targeted(&[]), None);
        let both = targeted(&["no-store", "private=x"]).expect("a dictionary");
        assert!(both.no_store && both.private && !both.no_cache);
    }
}
