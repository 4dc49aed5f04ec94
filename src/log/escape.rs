//! Escapes for the values of variables in log lines.
//!
//! In: the bytes of one value. Out: the same appended to a line, made harmless for a reader of the log in the way that
//! `log_format`'s `escape=` names. Most values need nothing, so a clean value costs one scan and one copy.

use crate::wire::byte::{self, UPPER};

/// How `log_format` escapes the value of a variable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escape {
    /// `escape=default`: control bytes, quotes, backslashes and everything from 0x7f on as `\xXX`.
    #[default]
    Default,
    /// `escape=json`: what a JSON string must not hold.
    Json,
    /// `escape=none`
    None,
}

impl Escape {
    /// The escape that the word after `escape=` names.
    pub fn parse(word: &str) -> Result<Self, String> {
        match word {
            "default" => Ok(Self::Default),
            "json" => Ok(Self::Json),
            "none" => Ok(Self::None),
            _ => Err(format!("unknown log format escaping \"{word}\"")),
        }
    }

    /// Appends `value` to `line`.
    pub fn append(self, value: &[u8], line: &mut Vec<u8>) {
        match self {
            Self::Default if byte::all(value, plain) => line.extend_from_slice(value),
            Self::Default => append_by(plain, value, line, hexadecimal),
            Self::Json if byte::all(value, plain_in_json) => line.extend_from_slice(value),
            Self::Json => append_by(plain_in_json, value, line, json),
            Self::None => line.extend_from_slice(value),
        }
    }

    /// Appends what stands for a variable that has no value: `-`, or nothing in JSON and unescaped lines.
    pub fn append_missing(self, line: &mut Vec<u8>) {
        match self {
            Self::Default => line.push(b'-'),
            Self::Json | Self::None => {}
        }
    }
}

/// Copies runs of plain bytes at once and hands each other byte to `escape`.
fn append_by(plain: fn(u8) -> bool, mut value: &[u8], line: &mut Vec<u8>, escape: fn(u8, &mut Vec<u8>)) {
    while let Some(at) = value.iter().position(|&byte| !plain(byte)) {
        let (clean, rest) = value.split_at(at);
        line.extend_from_slice(clean);
        escape(rest[0], line);
        value = &rest[1..];
    }
    line.extend_from_slice(value);
}

fn hexadecimal(byte: u8, line: &mut Vec<u8>) {
    line.extend_from_slice(&[b'\\', b'x', UPPER[usize::from(byte >> 4)], UPPER[usize::from(byte & 15)]]);
}

// RFC 8259, 7. nginx leaves bytes from 0x7f on alone, valid UTF-8 or not.
fn json(byte: u8, line: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            line.extend_from_slice(b"\\u00");
            line.extend_from_slice(&[UPPER[usize::from(byte >> 4)], UPPER[usize::from(byte & 15)]]);
            return;
        }
    };
    line.extend_from_slice(&[b'\\', short]);
}

#[inline(always)]
fn plain(byte: u8) -> bool {
    plain_in_json(byte) & (byte < 0x7f)
}

/// From the space on, but neither quote nor backslash.
#[inline(always)]
fn plain_in_json(byte: u8) -> bool {
    (byte >= b' ') & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(escape: Escape, value: &[u8]) -> Vec<u8> {
        let mut line = b"> ".to_vec();
        escape.append(value, &mut line);
        line.split_off(2)
    }

    #[test]
    fn default_writes_hexadecimal() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"", b""),
            (b"GET /a?b=c HTTP/1.1", b"GET /a?b=c HTTP/1.1"),
            (b"a\"b\\c", b"a\\x22b\\x5Cc"),
            (b"\x00\x1f ~\x7f\x80\xff", b"\\x00\\x1F ~\\x7F\\x80\\xFF"),
            ("й".as_bytes(), b"\\xD0\\xB9"),
            (b"\"\"", b"\\x22\\x22"),
        ];
        for (value, expected) in cases {
            assert_eq!(escaped(Escape::Default, value), *expected);
        }
    }

    #[test]
    fn json_writes_what_a_string_may_hold() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"a\"b\\c", b"a\\\"b\\\\c"),
            (b"\n\r\t\x08\x0c", b"\\n\\r\\t\\b\\f"),
            (b"\x00\x0b\x1f\x7f\xff", b"\\u0000\\u000B\\u001F\x7f\xff"),
        ];
        for (value, expected) in cases {
            assert_eq!(escaped(Escape::Json, value), *expected);
        }
    }

    #[test]
    fn none_copies() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(escaped(Escape::None, &every), every);
    }

    #[test]
    fn a_missing_value_is_a_dash_by_default_only() {
        for (escape, expected) in [(Escape::Default, "-"), (Escape::Json, ""), (Escape::None, "")] {
            let mut line = Vec::new();
            escape.append_missing(&mut line);
            assert_eq!(line, expected.as_bytes());
        }
    }

    #[test]
    fn names() {
        assert_eq!(Escape::parse("json"), Ok(Escape::Json));
        assert_eq!(Escape::parse("xml"), Err("unknown log format escaping \"xml\"".into()));
    }
}
