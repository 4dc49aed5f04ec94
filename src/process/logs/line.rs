//! Lines of an access log, read by the `log_format` that wrote them.
//!
//! In: the strings of a format, and one line. Out: the value of each of its variables, and what follows from them
//! (`uri` and `request_method` of `$request`). The rule: a line that the format cannot have written is `None`, never a
//! guess.

use std::borrow::Cow;
use std::ops::Range;

use crate::base::regex::Pattern;
use crate::base::text;

/// nginx's format of old.
pub const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// What may be asked of a line whose format has `$request`, in its three words.
const OF_REQUEST: [&str; 4] = ["request_method", "request_uri", "uri", "server_protocol"];

/// A format, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Variable(String),
}

impl Format {
    /// Takes the words behind a format's name apart, as `modules/log/format.rs` does when it writes.
    pub fn new(strings: &[&str]) -> Self {
        let (json, strings) = match strings.split_first() {
            Some((first, rest)) if first.starts_with("escape=") => (*first == "escape=json", rest),
            _ => (false, strings),
        };
        let mut parts: Vec<Part> = Vec::new();
        let literal = |parts: &mut Vec<Part>, more: &str| match parts.last_mut() {
            _ if more.is_empty() => {}
            Some(Part::Literal(before)) => before.extend(text::bytes(more)),
            _ => parts.push(Part::Literal(text::bytes(more))),
        };
        for string in strings {
            let mut rest = *string;
            while let Some(dollar) = rest.find('$') {
                literal(&mut parts, &rest[..dollar]);
                let after = rest[dollar + 1..].strip_prefix('{').unwrap_or(&rest[dollar + 1..]);
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                parts.push(Part::Variable(after[..end].to_owned()));
                rest = &after[end..];
                rest = rest.strip_prefix('}').unwrap_or(rest);
            }
            literal(&mut parts, rest);
        }
        Self { parts, json }
    }

    /// The names that lines of this format have values for.
    pub fn fields(&self) -> Vec<&str> {
        let written = self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        });
        let mut fields: Vec<&str> = written.collect();
        if fields.contains(&"request") {
            fields.extend(OF_REQUEST);
        }
        fields
    }

    /// Takes a line apart; `None` if it has another shape.
    pub fn read<'a>(&'a self, line: &'a [u8]) -> Option<Line<'a>> {
        let mut values = Vec::new();
        let mut at = 0;
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Literal(literal) => {
                    line.get(at..)?.starts_with(literal).then_some(())?;
                    at += literal.len();
                }
                Part::Variable(name) => {
                    let length = match parts.peek() {
                        None => line.len() - at,
                        // Two values without anything between them: who could tell them apart?
                        Some(Part::Variable(_)) => return None,
                        Some(Part::Literal(literal)) => self.end(&line[at..], literal)?,
                    };
                    values.push((name.as_str(), at..at + length));
                    at += length;
                }
            }
        }
        (at == line.len()).then_some(Line { text: line, values, json: self.json })
    }

    /// Where a value ends that `literal` follows.
    fn end(&self, rest: &[u8], literal: &[u8]) -> Option<usize> {
        let mut from = 0;
        loop {
            let end = from + memchr::memmem::find(rest.get(from..)?, literal)?;
            let backslashes = rest[..end].iter().rev().take_while(|&&byte| byte == b'\\').count();
            // In JSON a quote of the value has a backslash before it.
            match self.json && literal.starts_with(b"\"") && backslashes % 2 == 1 {
                true => from = end + 1,
                false => return Some(end),
            }
        }
    }
}

/// One line and where its values stand.
pub struct Line<'a> {
    pub text: &'a [u8],
    values: Vec<(&'a str, Range<usize>)>,
    json: bool,
}

impl Line<'_> {
    /// Where the line shows this variable.
    pub fn place(&self, name: &str) -> Option<Range<usize>> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, place)| place.clone())
    }

    /// The value of a field as it was before it was escaped. `None` if the format has no such field.
    pub fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if let Some(place) = self.place(name) {
            return Some(self.plain(&self.text[place]));
        }
        let request = self.plain(&self.text[self.place("request")?]).into_owned();
        let mut words = request.split(|&byte| byte == b' ');
        let (method, target, protocol) = (words.next()?, words.next().unwrap_or_default(), words.next_back());
        let value = match name {
            "request_method" => method,
            "request_uri" => target,
            "uri" => target.split(|&byte| byte == b'?').next()?,
            "server_protocol" => protocol.unwrap_or_default(),
            _ => return None,
        };
        Some(Cow::Owned(value.to_vec()))
    }

    /// A number; the last one where upstreams gave several. `None` for `-`.
    pub fn number(&self, name: &str) -> Option<f64> {
        let value = self.value(name)?;
        let last = std::str::from_utf8(&value).ok()?.rsplit([',', ':']).next()?;
        last.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn plain<'b>(&self, value: &'b [u8]) -> Cow<'b, [u8]> {
        if !value.contains(&b'\\') {
            return Cow::Borrowed(value);
        }
        let mut plain = Vec::with_capacity(value.len());
        let mut rest = value;
        while let [byte, tail @ ..] = rest {
            rest = tail;
            if *byte != b'\\' {
                plain.push(*byte);
                continue;
            }
            let digits = |from: usize, to: usize| {
                let digits = std::str::from_utf8(tail.get(from..to)?).ok()?;
                u8::from_str_radix(digits, 16).ok()
            };
            let (value, taken) = match tail.first() {
                Some(b'x') if !self.json => (digits(1, 3), 3),
                Some(b'u') if self.json => (digits(3, 5), 5),
                Some(b'n') if self.json => (Some(b'\n'), 1),
                Some(b'r') if self.json => (Some(b'\r'), 1),
                Some(b't') if self.json => (Some(b'\t'), 1),
                Some(b'b') if self.json => (Some(8), 1),
                Some(b'f') if self.json => (Some(12), 1),
                Some(&quote @ (b'"' | b'\\')) if self.json => (Some(quote), 1),
                _ => (None, 0),
            };
            match value {
                Some(value) => {
                    plain.push(value);
                    rest = &tail[taken..];
                }
                None => plain.push(b'\\'),
            }
        }
        Cow::Owned(plain)
    }
}

/// What a line must say to be shown: `status=5xx`, `request_time>1`, `uri~^/api`.
pub struct Filter {
    pub field: String,
    test: Test,
}

enum Test {
    /// Each character the same; `x` is any digit where the value is a number.
    Same(Vec<u8>, bool),
    Matches(Pattern, bool),
    Compares(Compare, f64),
}

#[derive(Clone, Copy)]
enum Compare {
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Filter {
    /// Reads one; the error is a sentence for the terminal.
    pub fn parse(word: &str) -> Result<Self, String> {
        let end = word.find(['=', '!', '~', '<', '>']).filter(|&end| end > 0);
        let end =
            end.ok_or_else(|| format!("\"{word}\" is no filter: a field, one of = != ~ !~ < <= > >=, a value"))?;
        let (field, rest) = word.split_at(end);
        let operators = ["!=", "!~", "<=", ">=", "=", "~", "<", ">"];
        let operator = operators.into_iter().find(|operator| rest.starts_with(operator));
        let operator = operator.ok_or_else(|| format!("\"{word}\" has no operator that is known"))?;
        let value = &rest[operator.len()..];
        let number = || value.parse().map_err(|_| format!("\"{value}\" in \"{word}\" is not a number"));
        let pattern = || Pattern::new(value, false).map_err(|why| format!("\"{word}\": {why}"));
        let test = match operator {
            "=" => Test::Same(text::bytes(value), true),
            "!=" => Test::Same(text::bytes(value), false),
            "~" => Test::Matches(pattern()?, true),
            "!~" => Test::Matches(pattern()?, false),
            "<" => Test::Compares(Compare::Less, number()?),
            "<=" => Test::Compares(Compare::AtMost, number()?),
            ">" => Test::Compares(Compare::More, number()?),
            _ => Test::Compares(Compare::AtLeast, number()?),
        };
        Ok(Self { field: field.trim_start_matches('$').to_owned(), test })
    }

    pub fn lets(&self, line: &Line<'_>) -> bool {
        let Some(value) = line.value(&self.field) else { return false };
        match &self.test {
            Test::Same(wanted, is) => same(&value, wanted) == *is,
            Test::Matches(pattern, is) => pattern.is_match(&value).unwrap_or(false) == *is,
            Test::Compares(compare, bound) => line.number(&self.field).is_some_and(|number| match compare {
                Compare::Less => number < *bound,
                Compare::AtMost => number <= *bound,
                Compare::More => number > *bound,
                Compare::AtLeast => number >= *bound,
            }),
        }
    }
}

fn same(value: &[u8], wanted: &[u8]) -> bool {
    let class = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    value.len() == wanted.len()
        && value.iter().zip(wanted).all(|(have, want)| have == want || class && want.eq_ignore_ascii_case(&b'x'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b"192.0.2.7 - bob [25/Nov/2026:20:08:47 +0000] \"GET /a%20b?x=1 HTTP/1.1\" 503 12 \"-\" \"a \\x22b\\x22\"";

    #[test]
    fn a_line_of_combined_is_taken_apart() {
        let format = Format::new(&[COMBINED]);
        let line = format.read(LINE).expect("it is of this format");
        for (field, value) in [
            ("remote_addr", "192.0.2.7"),
            ("remote_user", "bob"),
            ("status", "503"),
            ("http_user_agent", "a \"b\""),
            ("uri", "/a%20b"),
            ("request_uri", "/a%20b?x=1"),
            ("request_method", "GET"),
            ("server_protocol", "HTTP/1.1"),
        ] {
            assert_eq!(line.value(field).as_deref(), Some(value.as_bytes()), "{field}");
        }
        assert_eq!(line.value("host"), None);
        for other in [&b""[..], b"x", &LINE[..40], b"no - such [line] \"here"] {
            assert!(format.read(other).is_none(), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn json_lines_end_values_at_bare_quotes() {
        let format = Format::new(&["escape=json", "{\"uri\":\"$uri\",", "\"time\":${request_time}}"]);
        let line = format.read(br#"{"uri":"/a\"b\\","time":0.250}"#).expect("it is of this format");
        assert_eq!(line.value("uri").as_deref(), Some(&br#"/a"b\"#[..]));
        assert_eq!(line.number("request_time"), Some(0.25));
    }

    #[test]
    fn filters_look_at_one_field() {
        let format = Format::new(&[COMBINED]);
        let line = format.read(LINE).expect("it is of this format");
        for (word, lets) in [
            ("status=5xx", true),
            ("status=503", true),
            ("status=4xx", false),
            ("status!=5xx", false),
            ("$status>=500", true),
            ("status<500", false),
            ("body_bytes_sent>11.5", true),
            ("uri~^/a", true),
            ("uri!~^/a", false),
            ("remote_user=xxx", false),
            ("host=a", false),
        ] {
            assert_eq!(Filter::parse(word).expect("a filter").lets(&line), lets, "{word}");
        }
        for word in ["status", "=5", "uri~(", "status>many", ""] {
            assert!(Filter::parse(word).is_err(), "{word}");
        }
    }

    #[test]
    fn of_several_numbers_the_last_counts() {
        let format = Format::new(&["$upstream_response_time;"]);
        assert_eq!(format.read(b"0.100, 0.250;").and_then(|line| line.number("upstream_response_time")), Some(0.25));
        assert_eq!(format.read(b"-;").and_then(|line| line.number("upstream_response_time")), None);
    }
}
