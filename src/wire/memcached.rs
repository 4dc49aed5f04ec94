//! memcached's text protocol, as far as `get KEY` goes: the line that begins an answer, and what ends a value.
//!
//! `VALUE KEY FLAGS LENGTH`, so many bytes, and [`END`]; or `END` alone where there is no such key.

use crate::wire::byte;
use crate::wire::span::Span;

/// What follows a value.
pub const END: &[u8] = b"\r\nEND\r\n";

/// What the first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A value of so many bytes, which begin at this offset.
    Value { flags: u32, length: u64, at: u32 },
    /// There is no such key; the next byte is at this offset.
    NotFound { at: u32 },
}

/// Why a line means nothing, and the line itself, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLine {
    pub why: Why,
    pub line: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `memcached sent invalid response`
    Response,
    Key,
    Flags,
    Length,
}

/// Reads the first line of the answer to `get KEY`. `None` is "more bytes". Flags are read where they are wanted only: a
/// server may have any.
pub fn first_line(buf: &[u8], key: &[u8], wants_flags: bool) -> Result<Option<Line>, BadLine> {
    let Some(end) = memchr::memchr(b'\n', buf) else { return Ok(None) };
    let bad = |why, end| Err(BadLine { why, line: Span::new(0, end) });
    let Some(line) = buf.get(..end).and_then(|line| line.strip_suffix(b"\r")) else { return bad(Why::Response, end) };
    let at = u32::try_from(end + 1).unwrap_or(u32::MAX);
    if line == b"END" {
        return Ok(Some(Line::NotFound { at }));
    }
    let bad = |why| bad(why, line.len());
    let Some(rest) = line.strip_prefix(b"VALUE ") else { return bad(Why::Response) };
    let Some(rest) = rest.strip_prefix(key) else { return bad(Why::Key) };
    let Some(rest) = rest.strip_prefix(b" ") else { return bad(Why::Response) };
    let Some(space) = memchr::memchr(b' ', rest) else { return bad(Why::Response) };
    let (flags, length) = (&rest[..space], &rest[space + 1..]);
    let flags = match byte::offset(flags).and_then(|flags| u32::try_from(flags).ok()) {
        Some(flags) => flags,
        None if wants_flags => return bad(Why::Flags),
        None => 0,
    };
    match byte::offset(length) {
        Some(length) => Ok(Some(Line::Value { flags, length, at })),
        None => bad(Why::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let read = |line: &str| first_line(line.as_bytes(), b"a%20b", true);
        let bad = |why, length| Err(BadLine { why, line: Span::new(0, length) });
        for (line, expected) in [
            ("", Ok(None)),
            ("VALUE a%20b 0 4\r", Ok(None)),
            ("VALUE a%20b 2 4\r\nbody", Ok(Some(Line::Value { flags: 2, length: 4, at: 17 }))),
            ("END\r\n", Ok(Some(Line::NotFound { at: 5 }))),
            ("END\n", bad(Why::Response, 3)),
            ("\n", bad(Why::Response, 0)),
            ("ERROR\r\n", bad(Why::Response, 5)),
            ("VALUE b 0 4\r\n", bad(Why::Key, 11)),
            ("VALUE a%20bc 0 4\r\n", bad(Why::Response, 16)),
            ("VALUE a%20b 0\r\n", bad(Why::Response, 13)),
            ("VALUE a%20b x 4\r\n", bad(Why::Flags, 15)),
            ("VALUE a%20b 4294967296 4\r\n", bad(Why::Flags, 24)),
            ("VALUE a%20b 0 \r\n", bad(Why::Length, 14)),
            ("VALUE a%20b 0 4 7\r\n", bad(Why::Length, 17)),
            ("VALUE a%20b 0 99999999999999999999\r\n", bad(Why::Length, 34)),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
        let any = first_line(b"VALUE k ? 1\r\n", b"k", false);
        assert_eq!(any, Ok(Some(Line::Value { flags: 0, length: 1, at: 13 })));
    }
}
