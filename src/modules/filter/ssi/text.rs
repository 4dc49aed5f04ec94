//! What the parameters of commands say: texts with variables, expressions, dates.
//!
//! In: a parameter as it was written, and where variables come from. Out: its text, or the truth of an expression.
//! The rule: an error is nginx's sentence for the log; what the reader of the page sees of it is the page's own.
//! nginx: `ngx_http_ssi_evaluate_string`, `ngx_http_ssi_if`.

use bytes::{Bytes, BytesMut};
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::{Timestamp, tz::TimeZone};

use crate::base::regex::{Captures, Pattern};
use crate::base::{clock, text};
use crate::log::Raw;

/// A sentence for the error log.
pub type Fault = String;

/// No text of a page grows beyond this: `value="$a$a"` doubles with every command.
pub const LONGEST: usize = 1 << 20;

/// Where the variables of a page come from, by their names in lower case; `None` is nginx's "not found".
pub trait Variables {
    fn value(&self, name: &str) -> Option<Bytes>;

    /// A pattern matched: its groups are `$0` to `$9`, and the named ones variables.
    fn matched(&self, groups: Vec<Bytes>, named: Vec<(String, Bytes)>);
}

/// The text that a parameter stands for: variables are filled in, a backslash keeps a quote, a `$` or a backslash.
pub fn evaluate(source: &[u8], variables: &dyn Variables) -> Result<Bytes, Fault> {
    let mut out = BytesMut::with_capacity(source.len());
    let mut rest = source;
    while let [first, tail @ ..] = rest {
        if *first == b'$' {
            let (name, behind) = variable(tail, source)?;
            rest = behind;
            out.extend_from_slice(&variables.value(&name).unwrap_or_default());
        } else {
            rest = literal(rest, &mut out);
        }
        if out.len() > LONGEST {
            return Err(format!("too long value \"{}\"", Raw(source)));
        }
    }
    Ok(out.freeze())
}

/// Reads `name` or `{name}` behind a `$`.
fn variable<'a>(behind: &'a [u8], source: &[u8]) -> Result<(String, &'a [u8]), Fault> {
    let (braced, body) = match behind {
        [b'{', body @ ..] => (true, body),
        body => (false, body),
    };
    if body.is_empty() {
        return Err(format!("invalid variable name in \"{}\"", Raw(source)));
    }
    let end = body.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(body.len());
    let (name, mut tail) = body.split_at(end);
    if braced {
        let Some(closed) = tail.strip_prefix(b"}") else {
            return Err(format!("the closing bracket in \"{}\" variable is missing", Raw(name)));
        };
        tail = closed;
    }
    if name.is_empty() {
        return Err(format!("invalid variable name in \"{}\"", Raw(source)));
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), tail))
}

/// Appends what stands before the next variable.
fn literal<'a>(source: &'a [u8], out: &mut BytesMut) -> &'a [u8] {
    let mut quoted = false;
    for (n, &byte) in source.iter().enumerate() {
        if quoted {
            quoted = false;
            if !matches!(byte, b'\\' | b'\'' | b'"' | b'$') {
                out.extend_from_slice(b"\\");
            }
        } else if byte == b'\\' {
            quoted = true;
            continue;
        } else if byte == b'$' {
            return source.get(n..).unwrap_or_default();
        }
        out.extend_from_slice(&[byte]);
    }
    &[]
}

/// The truth of `expr=`: `$a`, `$a = text`, `$a != text`, `$a = /pattern/`.
pub fn is_true(expression: &[u8], variables: &dyn Variables) -> Result<bool, Fault> {
    let in_left = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'$' | b'{' | b'}' | b'_' | b'"' | b'\'');
    let end = expression.iter().position(|byte| !in_left(byte)).unwrap_or(expression.len());
    let (left, rest) = expression.split_at(end);
    // nginx: what is left of the sign is compared in lower case.
    let left = evaluate(&left.to_ascii_lowercase(), variables)?;
    let (negative, right) = match trim_start(rest) {
        [] => return Ok(!left.is_empty()),
        [b'=', right @ ..] => (false, trim_start(right)),
        [b'!', b'=', right @ ..] => (true, trim_start(right)),
        _ => return Err(format!("invalid expression in \"{}\"", Raw(expression))),
    };
    let equal = match right {
        [b'/', pattern @ .., b'/'] => matches(&evaluate(pattern, variables)?, &left, variables)?,
        [b'/', _, ..] => return Err(format!("invalid expression in \"{}\"", Raw(expression))),
        plain => {
            // nginx: a text that begins with a slash is written with a backslash before it.
            let hidden = plain.strip_prefix(b"\\").filter(|plain| plain.starts_with(b"/"));
            evaluate(hidden.unwrap_or(plain), variables)? == left
        }
    };
    Ok(equal != negative)
}

fn matches(pattern: &[u8], subject: &Bytes, variables: &dyn Variables) -> Result<bool, Fault> {
    let pattern = Pattern::new(&text::decode(pattern), false)?;
    let mut captures = Captures::default();
    if !pattern.captures(subject, &mut captures).map_err(|failed| failed.to_string())? {
        return Ok(false);
    }
    let group = |n: usize| captures.get(n).and_then(|range| subject.get(range)).map(Bytes::copy_from_slice);
    let groups = (0..captures.len()).map(|n| group(n).unwrap_or_default()).collect();
    let named = pattern.names().map(|(n, name)| (name.to_ascii_lowercase(), group(n).unwrap_or_default()));
    variables.matched(groups, named.collect());
    Ok(true)
}

fn trim_start(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&byte| byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// nginx's `timefmt` where no `config` says more.
pub const TIMEFMT: &[u8] = b"%A, %d-%b-%Y %H:%M:%S %Z";

/// nginx's longest date.
const DATE: usize = 2048;

/// The zone that a date is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Local,
    Gmt,
}

/// This second as strftime(3) tells it in the C locale; `%s` alone is the number of the second.
pub fn date(format: &[u8], zone: Zone) -> Option<Bytes> {
    let second = i64::try_from(clock::seconds()).ok()?;
    if format == b"%s" {
        return Some(second.to_string().into());
    }
    date_of(second, format, zone)
}

fn date_of(second: i64, format: &[u8], zone: Zone) -> Option<Bytes> {
    let timestamp = Timestamp::from_second(second).ok()?;
    let format = text::decode(format);
    let (format, zone) = match zone {
        Zone::Local => (format, clock::zone()),
        // The C library gives UTC this name.
        Zone::Gmt => {
            let parts: Vec<String> = format.split("%%").map(|part| part.replace("%Z", "GMT")).collect();
            (parts.join("%%"), TimeZone::UTC)
        }
    };
    let config = Config::new().custom(PosixCustom::new()).lenient(true);
    let mut out = String::new();
    let time = BrokenDownTime::from(&timestamp.to_zoned(zone));
    time.format_with_config(&config, format, &mut out).ok()?;
    let out = text::bytes(&out);
    (!out.is_empty() && out.len() < DATE).then(|| out.into())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    #[derive(Default)]
    struct Page(RefCell<HashMap<String, Bytes>>);

    impl Page {
        fn new() -> Self {
            let page = Self::default();
            for (name, value) in [("a", "one"), ("b", "two"), ("empty", ""), ("path", "/x/y"), ("slash", "/")] {
                page.0.borrow_mut().insert(name.to_owned(), Bytes::from_static(value.as_bytes()));
            }
            page
        }
    }

    impl Variables for Page {
        fn value(&self, name: &str) -> Option<Bytes> {
            self.0.borrow().get(name).cloned()
        }

        fn matched(&self, groups: Vec<Bytes>, named: Vec<(String, Bytes)>) {
            let numbered = groups.into_iter().enumerate().map(|(n, group)| (n.to_string(), group));
            self.0.borrow_mut().extend(numbered.chain(named));
        }
    }

    #[test]
    fn texts_with_variables() {
        for (source, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$a", "one"),
            ("$A", "one"),
            ("x${a}y$b-", "xoneytwo-"),
            ("$nobody.", "."),
            ("\\$a", "$a"),
            ("\\'\\\"\\\\", "'\"\\"),
            ("\\a\\", "\\a"),
            ("$a\\$b", "one$b"),
            ("a'b\"c", "a'b\"c"),
        ] {
            assert_eq!(evaluate(source.as_bytes(), &Page::new()), Ok(Bytes::from(source_of(expected))), "{source}");
        }
        for (source, expected) in [
            ("$", "invalid variable name in \"$\""),
            ("a${", "invalid variable name in \"a${\""),
            ("$-", "invalid variable name in \"$-\""),
            ("${a", "the closing bracket in \"a\" variable is missing"),
            ("${a-b}", "the closing bracket in \"a\" variable is missing"),
        ] {
            assert_eq!(evaluate(source.as_bytes(), &Page::new()), Err(expected.to_owned()), "{source}");
        }
    }

    fn source_of(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    #[test]
    fn values_do_not_grow_without_end() {
        let page = Page::new();
        let mut value = Bytes::from_static(b"12345678");
        let mut doubled = 0;
        while let Ok(longer) = {
            page.0.borrow_mut().insert("a".to_owned(), value.clone());
            evaluate(b"$a$a", &page)
        } {
            value = longer;
            doubled += 1;
            assert!(doubled < 30);
        }
        assert_eq!(value.len(), LONGEST);
    }

    #[test]
    fn expressions() {
        for (expression, expected) in [
            ("$a", true),
            ("$empty", false),
            ("$nobody", false),
            ("", false),
            ("$a = one", true),
            ("$a=one", true),
            ("$a != one", false),
            ("$a = two", false),
            ("$a   =   $a", true),
            ("ABC = abc", true),
            ("abc = ABC", false),
            ("$a = /^o(.)e\\$/", true),
            ("$a != /^o(.)e\\$/", false),
            ("$a = /x/", false),
            ("$a = /$a/", true),
            ("$slash = \\/", true),
            ("$slash = /", true),
            ("$path = \\/x/y", true),
            ("$empty = ", true),
        ] {
            assert_eq!(is_true(expression.as_bytes(), &Page::new()), Ok(expected), "{expression}");
        }
        for expression in ["$a > one", "$a ! one", "$a-b", "$path = /x"] {
            let expected = format!("invalid expression in \"{expression}\"");
            assert_eq!(is_true(expression.as_bytes(), &Page::new()), Err(expected));
        }
        assert!(is_true(b"$a = /(/", &Page::new()).expect_err("no pattern").starts_with("pcre2_compile() failed"));
    }

    #[test]
    fn groups_become_variables() {
        let page = Page::new();
        assert_eq!(is_true(b"$path = /^.(?<First>x).(.)(z)?/", &page), Ok(true));
        assert_eq!(evaluate(b"$0 $1 $2 [$3] $first", &page), Ok(Bytes::from_static(b"/x/y x y [] x")));
    }

    #[test]
    fn dates() {
        let second = 784_111_777;
        for (format, expected) in [
            (TIMEFMT, "Sunday, 06-Nov-1994 08:49:37 GMT"),
            (b"%%Z %Y".as_slice(), "%Z 1994"),
            (b"%c|%x|%X|%D|%e|%j", "Sun Nov  6 08:49:37 1994|11/06/94|08:49:37|11/06/94| 6|310"),
            (b"%y%m%d%H%M%S %p %I", "941106084937 AM 08"),
            (b"\xd6\xd0", ""),
        ] {
            let expected = match expected {
                "" => Bytes::copy_from_slice(format),
                text => Bytes::from(text),
            };
            assert_eq!(date_of(second, format, Zone::Gmt), Some(expected));
        }
        assert_eq!(date_of(second, b"", Zone::Gmt), None);
        assert_eq!(date_of(second, &b"x".repeat(DATE), Zone::Gmt), None);
    }
}
