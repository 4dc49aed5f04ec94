//! Field lines: `Name: value`, of a client's request, of an upstream's answer, of trailers.
//!
//! In: the buffer that holds the head, as often as it grows. Out: one [`Field`] of spans at a time, then the end.
//! The verdicts are nginx's (`ngx_http_parse_header_line`), and they are neither the RFC's nor `httparse`'s: a line
//! without a colon is a field with an empty value, a value keeps its tabs and may hold any byte but NUL, CR and LF,
//! CR may be doubled before LF, a name with odd bytes is taken and marked, so that `ignore_invalid_headers` decides.
//! The settings come with every line because the Host line may choose another server, and with it other settings.

use crate::wire::byte;
use crate::wire::span::{Span, visible};

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    /// Without the spaces around it.
    pub value: Span,
    /// The name has a byte that is no letter, digit or `-` (nor an allowed `_`): with `ignore_invalid_headers` the
    /// line is skipped and logged as `client sent invalid header line: "…"` with the bytes of [`Field::line`].
    pub invalid: bool,
    /// Where the next line begins.
    pub end: u32,
}

impl Field {
    /// From the name to the end of the value.
    pub fn line(&self) -> Span {
        Span { start: self.name.start, end: self.value.end.max(self.name.end) }
    }
}

/// What one call of the parser found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Field(Field),
    /// The empty line: the body, or the next thing, begins at this offset.
    End(u32),
}

/// A line that no setting makes acceptable: 400 from a client, an invalid header from an upstream. nginx logs
/// `client sent invalid header line: "…\x0d..."`, with the bytes of `line` and then the one that broke it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenLine {
    pub line: Span,
    pub byte: u8,
}

/// How names are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameRules {
    /// `underscores_in_headers on`, and always for upstreams.
    pub underscores: bool,
    /// A second `HTTP/1.1 …` line among the fields is skipped: some upstreams send one.
    pub upstream: bool,
}

impl NameRules {
    pub const UPSTREAM: Self = Self { underscores: true, upstream: true };
}

/// Reads field lines. Show it the same buffer again, grown, until it says [`Line::End`].
#[derive(Clone, Debug)]
pub struct FieldParser {
    part: Part,
    pos: usize,
    /// Where the line at hand begins.
    start: usize,
    name_end: usize,
    value_start: usize,
    value_end: usize,
    invalid: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Start,
    Name,
    Space,
    Value,
    LineFeed,
    Skipped,
    LastLineFeed,
}

/// What a part of the line says when it does not hand over to the next.
enum Found {
    More,
    Next(Part),
    Field,
    End,
}

impl FieldParser {
    /// A parser for the lines that begin at `pos`: behind the request line or the status line.
    pub fn new(pos: usize) -> Self {
        Self { part: Part::Start, pos, start: pos, name_end: pos, value_start: pos, value_end: pos, invalid: false }
    }

    /// The next line; `None` is "more bytes".
    pub fn next(&mut self, buf: &[u8], rules: NameRules) -> Result<Option<Line>, BrokenLine> {
        let buf = visible(buf);
        if self.part == Part::Start
            && let Some(field) = self.usual_line(buf)
        {
            return Ok(Some(Line::Field(field)));
        }
        loop {
            let found = match self.part {
                Part::Start => self.start_of_line(buf, rules)?,
                Part::Name => self.name(buf, rules)?,
                Part::Space => self.space(buf)?,
                Part::Value => self.value(buf)?,
                Part::LineFeed => self.line_feed(buf)?,
                Part::Skipped => self.skipped(buf),
                Part::LastLineFeed => self.last_line_feed(buf)?,
            };
            match found {
                Found::More => return Ok(None),
                Found::Next(part) => self.part = part,
                Found::Field => return Ok(Some(Line::Field(self.finish()))),
                Found::End => {
                    self.part = Part::Start;
                    return Ok(Some(Line::End(self.pos as u32)));
                }
            }
        }
    }

    /// The line that nearly all are: letters, a colon, one space, a value, CR and LF, and all of it there. `None` says
    /// nothing against the line: it is read byte by byte then.
    #[inline]
    fn usual_line(&mut self, buf: &[u8]) -> Option<Field> {
        let line = buf.get(self.pos..)?;
        let colon = byte::skip_name(line);
        let (name, rest) = line.split_at_checked(colon)?;
        let [b':', b' ', value @ ..] = rest else { return None };
        let mut len = byte::find_control(value);
        // a tab is part of the value
        while value.get(len) == Some(&b'\t') {
            len += 1 + byte::find_control(&value[len + 1..]);
        }
        let (value, rest) = value.split_at_checked(len)?;
        if name.is_empty() || value.first() == Some(&b' ') || value.last() == Some(&b' ') || !rest.starts_with(b"\r\n")
        {
            return None;
        }
        self.start = self.pos;
        let name = Span::new(self.start, self.start + colon);
        let value = Span::new(name.end as usize + 2, name.end as usize + 2 + len);
        self.pos = value.end as usize + 2;
        Some(Field { name, value, invalid: false, end: value.end + 2 })
    }

    fn start_of_line(&mut self, buf: &[u8], rules: NameRules) -> Result<Found, BrokenLine> {
        self.start = self.pos;
        self.invalid = false;
        let Some(&byte) = buf.get(self.pos) else {
            return Ok(Found::More);
        };
        match byte {
            b'\r' => {
                self.pos += 1;
                Ok(Found::Next(Part::LastLineFeed))
            }
            b'\n' => {
                self.pos += 1;
                Ok(Found::End)
            }
            b':' => Err(self.broken(self.pos, byte)),
            _ => self.name(buf, rules),
        }
    }

    fn name(&mut self, buf: &[u8], rules: NameRules) -> Result<Found, BrokenLine> {
        loop {
            self.pos += byte::skip_name(buf.get(self.pos..).unwrap_or_default());
            let Some(&byte) = buf.get(self.pos) else {
                self.part = Part::Name;
                return Ok(Found::More);
            };
            match byte {
                b':' => {
                    self.name_end = self.pos;
                    self.pos += 1;
                    // the usual line: one space, then the value
                    if buf.get(self.pos) == Some(&b' ') {
                        self.pos += 1;
                    }
                    return self.space(buf);
                }
                b'\r' | b'\n' => {
                    self.name_end = self.pos;
                    return Ok(self.end_of_value(self.pos, self.pos, byte));
                }
                b'/' if rules.upstream && buf.get(self.start..self.pos) == Some(b"HTTP") => {
                    return Ok(Found::Next(Part::Skipped));
                }
                b'_' => self.invalid |= !rules.underscores,
                0..=b' ' | 0x7f => return Err(self.broken(self.pos, byte)),
                _ => self.invalid = true,
            }
            self.pos += 1;
        }
    }

    fn space(&mut self, buf: &[u8]) -> Result<Found, BrokenLine> {
        while let Some(&byte) = buf.get(self.pos) {
            match byte {
                b' ' => self.pos += 1,
                b'\r' | b'\n' => return Ok(self.end_of_value(self.pos, self.pos, byte)),
                0 => return Err(self.broken(self.pos, byte)),
                _ => {
                    self.value_start = self.pos;
                    return self.value(buf);
                }
            }
        }
        self.part = Part::Space;
        Ok(Found::More)
    }

    fn value(&mut self, buf: &[u8]) -> Result<Found, BrokenLine> {
        let rest = buf.get(self.pos..).unwrap_or_default();
        let Some(len) = memchr::memchr3(b'\n', b'\r', 0, rest) else {
            self.pos = buf.len();
            self.part = Part::Value;
            return Ok(Found::More);
        };
        self.pos += len;
        match buf.get(self.pos) {
            Some(0) | None => Err(self.broken(self.pos, 0)),
            Some(&byte) => {
                let value = buf.get(self.value_start..self.pos).unwrap_or_default();
                let trailing = value.iter().rev().take_while(|&&byte| byte == b' ').count();
                let end = self.pos - trailing;
                if byte == b'\r' && buf.get(self.pos + 1) == Some(&b'\n') {
                    self.value_end = end;
                    self.pos += 2;
                    return Ok(Found::Field);
                }
                Ok(self.end_of_value(self.value_start, end, byte))
            }
        }
    }

    /// The value is known, and the byte at hand is the CR or LF behind it.
    fn end_of_value(&mut self, start: usize, end: usize, byte: u8) -> Found {
        self.value_start = start;
        self.value_end = end;
        self.pos += 1;
        if byte == b'\n' { Found::Field } else { Found::Next(Part::LineFeed) }
    }

    fn line_feed(&mut self, buf: &[u8]) -> Result<Found, BrokenLine> {
        while let Some(&byte) = buf.get(self.pos) {
            match byte {
                b'\n' => {
                    self.pos += 1;
                    return Ok(Found::Field);
                }
                // nginx: any number of CRs
                b'\r' => self.pos += 1,
                _ => {
                    let byte = buf.get(self.value_end).copied().unwrap_or(b'\r');
                    return Err(self.broken(self.value_end, byte));
                }
            }
        }
        Ok(Found::More)
    }

    fn skipped(&mut self, buf: &[u8]) -> Found {
        let rest = buf.get(self.pos..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(len) => {
                self.pos += len + 1;
                Found::Next(Part::Start)
            }
            None => {
                self.pos = buf.len();
                Found::More
            }
        }
    }

    fn last_line_feed(&mut self, buf: &[u8]) -> Result<Found, BrokenLine> {
        match buf.get(self.pos) {
            None => Ok(Found::More),
            Some(b'\n') => {
                self.pos += 1;
                Ok(Found::End)
            }
            Some(_) => Err(self.broken(self.start, b'\r')),
        }
    }

    fn finish(&mut self) -> Field {
        self.part = Part::Start;
        Field {
            name: Span::new(self.start, self.name_end),
            value: Span::new(self.value_start, self.value_end),
            invalid: self.invalid,
            end: self.pos as u32,
        }
    }

    fn broken(&self, end: usize, byte: u8) -> BrokenLine {
        BrokenLine { line: Span::new(self.start, end), byte }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: NameRules = NameRules { underscores: false, upstream: false };

    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Field(String, String, bool),
        End(usize),
        Broken(String, u8),
        More,
    }

    fn run(parser: &mut FieldParser, bytes: &[u8], rules: NameRules, seen: &mut Vec<Seen>) {
        let text = |span: Span| String::from_utf8_lossy(span.of(bytes)).into_owned();
        loop {
            match parser.next(bytes, rules) {
                Ok(Some(Line::Field(field))) => {
                    assert!(field.line().end <= field.end);
                    seen.push(Seen::Field(text(field.name), text(field.value), field.invalid));
                }
                Ok(Some(Line::End(end))) => return seen.push(Seen::End(end as usize)),
                Ok(None) => return,
                Err(broken) => return seen.push(Seen::Broken(text(broken.line), broken.byte)),
            }
        }
    }

    /// All that is seen in whole bytes, after checking that every cut of them shows the same.
    fn parse(bytes: &[u8], rules: NameRules) -> Vec<Seen> {
        let finished = |seen: &[Seen]| matches!(seen.last(), Some(Seen::End(_) | Seen::Broken(..)));
        let mut whole = Vec::new();
        run(&mut FieldParser::new(0), bytes, rules, &mut whole);
        for cut in 0..bytes.len() {
            let (mut parser, mut seen) = (FieldParser::new(0), Vec::new());
            run(&mut parser, &bytes[..cut], rules, &mut seen);
            if !finished(&seen) {
                run(&mut parser, bytes, rules, &mut seen);
            }
            assert_eq!(seen, whole, "{:?} cut at {cut}", String::from_utf8_lossy(bytes));
        }
        let (mut parser, mut seen) = (FieldParser::new(0), Vec::new());
        for len in 0..=bytes.len() {
            run(&mut parser, &bytes[..len], rules, &mut seen);
            if finished(&seen) {
                break;
            }
        }
        assert_eq!(seen, whole, "{:?} byte by byte", String::from_utf8_lossy(bytes));
        if !finished(&whole) {
            whole.push(Seen::More);
        }
        whole
    }

    fn field(name: &str, value: &str) -> Seen {
        Seen::Field(name.into(), value.into(), false)
    }

    fn odd(name: &str, value: &str) -> Seen {
        Seen::Field(name.into(), value.into(), true)
    }

    fn broken(line: &str, byte: u8) -> Seen {
        Seen::Broken(line.into(), byte)
    }

    #[test]
    fn lines_of_a_client() {
        const WHOLE: usize = usize::MAX;
        let cases: Vec<(&str, Vec<Seen>)> = vec![
            ("\r\n", vec![Seen::End(WHOLE)]),
            ("\n", vec![Seen::End(WHOLE)]),
            ("Host: a.b\r\nA:b\n\r\n", vec![field("Host", "a.b"), field("A", "b"), Seen::End(WHOLE)]),
            ("A:   b  c   \r\n\n", vec![field("A", "b  c"), Seen::End(WHOLE)]),
            (
                "A:\r\nB: \nC\r\nD\n\n",
                vec![field("A", ""), field("B", ""), field("C", ""), field("D", ""), Seen::End(WHOLE)],
            ),
            ("A: \tb\t \r\n\n", vec![field("A", "\tb\t"), Seen::End(WHOLE)]),
            ("A: \u{1}\u{7f}:\u{e4}\r\n\n", vec![field("A", "\u{1}\u{7f}:\u{e4}"), Seen::End(WHOLE)]),
            ("A: b\r\r\r\n\n", vec![field("A", "b"), Seen::End(WHOLE)]),
            ("0-9: b\r\n\n", vec![field("0-9", "b"), Seen::End(WHOLE)]),
            ("A_b: c\n\n", vec![odd("A_b", "c"), Seen::End(WHOLE)]),
            ("_: c\nB: d\n\n", vec![odd("_", "c"), field("B", "d"), Seen::End(WHOLE)]),
            ("A!b: c\n(\n\n", vec![odd("A!b", "c"), odd("(", ""), Seen::End(WHOLE)]),
            ("\u{e4}: c\n\n", vec![odd("\u{e4}", "c"), Seen::End(WHOLE)]),
            ("HTTP/1.1 200 OK\r\n", vec![broken("HTTP/1.1", b' ')]),
            ("A: b\r\n c\r\n\r\n", vec![field("A", "b"), broken("", b' ')]),
            (": b\n", vec![broken("", b':')]),
            ("\tA: b\n", vec![broken("", b'\t')]),
            ("A : b\n", vec![broken("A", b' ')]),
            ("A\u{7f}: b\n", vec![broken("A", 0x7f)]),
            ("A\0", vec![broken("A", 0)]),
            ("A: \0", vec![broken("A: ", 0)]),
            ("A: b\0c\r\n", vec![broken("A: b", 0)]),
            ("A: b \0c\r\n", vec![broken("A: b ", 0)]),
            ("A: b\rc\n", vec![broken("A: b", b'\r')]),
            ("A: b \rc\n", vec![broken("A: b", b' ')]),
            ("\rA", vec![broken("", b'\r')]),
            ("A: b", vec![Seen::More]),
        ];
        for (bytes, mut expected) in cases {
            for seen in &mut expected {
                if *seen == Seen::End(WHOLE) {
                    *seen = Seen::End(bytes.len());
                }
            }
            assert_eq!(parse(bytes.as_bytes(), PLAIN), expected, "{bytes:?}");
        }
    }

    #[test]
    fn underscores_are_letters_when_allowed() {
        let allowed = NameRules { underscores: true, upstream: false };
        assert_eq!(parse(b"_A_b: c\n\n", allowed), [field("_A_b", "c"), Seen::End(9)]);
    }

    #[test]
    fn an_upstream_may_repeat_its_status_line() {
        let bytes = b"HTTP/1.1 200 OK\r\nA: b\r\nHTTP/x\nHTTPS/: c\n\n";
        let seen = parse(bytes, NameRules::UPSTREAM);
        assert_eq!(seen, [field("A", "b"), odd("HTTPS/", "c"), Seen::End(bytes.len())]);
    }
}
