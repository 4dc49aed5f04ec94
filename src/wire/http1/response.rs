//! The head of an upstream's answer: its status line, and what its fields say about the body.
//!
//! The fields themselves are read by `field::FieldParser` with `NameRules::UPSTREAM`.

use crate::wire::byte;
use crate::wire::http1::method::Version;
use crate::wire::span::{Span, visible};

/// `HTTP/1.1 200 OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine {
    pub version: Version,
    pub code: u16,
    /// The code and the words behind it: what a client is shown, `200 OK`.
    pub text: Span,
    /// Where the fields begin.
    pub end: u32,
}

impl StatusLine {
    /// 103, from a version that has it: the fields are hints, another head follows. From HTTP/1.0 nginx refuses it:
    /// `upstream sent HTTP/1.0 response with early hints`.
    pub fn is_early_hints(&self) -> bool {
        self.code == 103
    }
}

/// The bytes are no status line. nginx takes them all for the body of an HTTP/0.9 answer with status 200 and logs
/// `upstream sent no valid HTTP/1.0 header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoStatusLine;

/// Reads the status line at `pos`. `None` is "more bytes": show the same buffer again, grown. It begins anew each time;
/// all but the words, through which it leaps, is a few bytes.
pub fn status_line(buf: &[u8], pos: usize) -> Result<Option<StatusLine>, NoStatusLine> {
    let buf = visible(buf);
    let mut at = pos;
    for &expected in b"HTTP/" {
        match buf.get(at) {
            None => return Ok(None),
            Some(&byte) if byte == expected => at += 1,
            Some(_) => return Err(NoStatusLine),
        }
    }
    if buf.get(at) == Some(&b'0') {
        return Err(NoStatusLine);
    }
    let Some(major) = number(buf, &mut at, b'.')? else {
        return Ok(None);
    };
    let Some(minor) = number(buf, &mut at, b' ')? else {
        return Ok(None);
    };

    // nginx: spaces before the code, and among its digits
    let mut code = 0;
    let mut digits = 0;
    while digits < 3 {
        match buf.get(at) {
            None => return Ok(None),
            Some(b' ') => {}
            Some(byte @ b'0'..=b'9') => {
                code = code * 10 + u16::from(byte - b'0');
                digits += 1;
            }
            Some(_) => return Err(NoStatusLine),
        }
        at += 1;
    }
    let start = at - 3;
    match buf.get(at) {
        None => return Ok(None),
        // IIS may send 403.1
        Some(b' ' | b'.' | b'\r' | b'\n') => {}
        Some(_) => return Err(NoStatusLine),
    }
    let rest = buf.get(at..).unwrap_or_default();
    let Some(len) = memchr::memchr2(b'\r', b'\n', rest) else {
        return Ok(None);
    };
    let end = match (rest.get(len), rest.get(len + 1)) {
        (Some(b'\n'), _) => at + len + 1,
        (_, None) => return Ok(None),
        (_, Some(b'\n')) => at + len + 2,
        (_, Some(_)) => return Err(NoStatusLine),
    };
    Ok(Some(StatusLine {
        version: Version(major * 1000 + minor),
        code,
        text: Span::new(start, at + len),
        end: end as u32,
    }))
}

/// One to three digits and the byte that must follow them, which is taken too.
fn number(buf: &[u8], at: &mut usize, stop: u8) -> Result<Option<u32>, NoStatusLine> {
    let mut number = 0;
    let mut digits = 0;
    loop {
        match buf.get(*at) {
            None => return Ok(None),
            Some(&byte) if byte == stop && digits > 0 => {
                *at += 1;
                return Ok(Some(number));
            }
            Some(byte @ b'0'..=b'9') if number <= 99 => number = number * 10 + u32::from(byte - b'0'),
            Some(_) => return Err(NoStatusLine),
        }
        digits += 1;
        *at += 1;
    }
}

/// What the fields of an answer say about where its body ends. Fill it field by field, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// `Content-Length`. `None`: the body ends with the connection, unless it is chunked.
    pub length: Option<u64>,
    pub chunked: bool,
    /// `Connection: close`.
    pub close: bool,
}

/// Why the framing of an answer is refused; nginx then tries the next upstream (`invalid_header`). The log wants the
/// lines at hand: see `text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFraming {
    Duplicate,
    LengthAndEncoding,
    Length,
    Encoding,
}

impl BadFraming {
    /// How nginx's sentence begins. `Duplicate` goes on with `"NAME: VALUE", previous value: "NAME: VALUE"`, `Length`
    /// with `"NAME: VALUE"`, `Encoding` with `"VALUE"`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Duplicate => "upstream sent duplicate header line: ",
            Self::LengthAndEncoding => {
                "upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time"
            }
            Self::Length => "upstream sent invalid \"Content-Length\" header: ",
            Self::Encoding => "upstream sent unknown \"Transfer-Encoding\": ",
        }
    }
}

impl Framing {
    pub fn content_length(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        if self.length.is_some() {
            return Err(BadFraming::Duplicate);
        }
        if self.chunked {
            return Err(BadFraming::LengthAndEncoding);
        }
        self.length = Some(byte::offset(value).ok_or(BadFraming::Length)?);
        Ok(())
    }

    pub fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        if self.chunked {
            return Err(BadFraming::Duplicate);
        }
        if self.length.is_some() {
            return Err(BadFraming::LengthAndEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(BadFraming::Encoding);
        }
        self.chunked = true;
        Ok(())
    }

    pub fn connection(&mut self, value: &[u8]) {
        self.close |= byte::find_ignore_case(value, b"close").is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on whole bytes; every beginning of them must say "more" or the same.
    fn parse(bytes: &[u8]) -> Result<Option<StatusLine>, NoStatusLine> {
        let whole = status_line(bytes, 0);
        for len in 0..bytes.len() {
            let part = status_line(&bytes[..len], 0);
            assert!(part == Ok(None) || part == whole, "{:?} cut at {len}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    #[test]
    fn status_lines() {
        // line, version, code, text
        let cases: &[(&str, u32, u16, &str)] = &[
            ("HTTP/1.1 200 OK\r\n", 1001, 200, "200 OK"),
            ("HTTP/1.0 404 Not Found\n", 1000, 404, "404 Not Found"),
            ("HTTP/1.1 200\r\n", 1001, 200, "200"),
            ("HTTP/1.1 200 \n", 1001, 200, "200 "),
            ("HTTP/1.1   200 OK\r\n", 1001, 200, "200 OK"),
            ("HTTP/1.1 403.1 IIS\r\n", 1001, 403, "403.1 IIS"),
            ("HTTP/2.0 000 \u{e4}\r\n", 2000, 0, "000 \u{e4}"),
            ("HTTP/999.999 999 x\r\n", 999_999, 999, "999 x"),
            ("HTTP/1.1 2 0 0 OK\r\n", 1001, 200, "0 0 OK"),
        ];
        for &(line, version, code, text) in cases {
            let parsed = parse(line.as_bytes()).expect("a status line").expect("a whole one");
            assert_eq!((parsed.version, parsed.code), (Version(version), code), "{line}");
            assert_eq!(parsed.text.of(line.as_bytes()), text.as_bytes(), "{line}");
            assert_eq!(parsed.end as usize, line.len(), "{line}");
        }
        let bad = [
            "<html>",
            "HTTP 200",
            "http/1.1 200",
            "HTTP/0.9 200 OK\r\n",
            "HTTP/x",
            "HTTP/1x",
            "HTTP/1.x",
            "HTTP/.1",
            "HTTP/1. ",
            "HTTP/1.1\r\n",
            "HTTP/1000.",
            "HTTP/1.1000",
            "HTTP/1.1 \r",
            "HTTP/1.1 20\r",
            "HTTP/1.1 2000",
            "HTTP/1.1 200x",
            "HTTP/1.1 200 OK\rx",
            "HTTP/1.1 200\r\r",
            "\r\nHTTP/1.1 200 OK\r\n",
        ];
        for line in bad {
            assert_eq!(parse(line.as_bytes()), Err(NoStatusLine), "{line}");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r"), Ok(None));
        assert_eq!(
            status_line(b"xxHTTP/1.1 103 x\n", 2).map(|line| line.is_some_and(|line| line.is_early_hints())),
            Ok(true)
        );
    }

    #[test]
    fn framing_is_said_once() {
        let mut framing = Framing::default();
        assert_eq!(framing.content_length(b"12"), Ok(()));
        assert_eq!(framing.content_length(b"12"), Err(BadFraming::Duplicate));
        assert_eq!(framing.transfer_encoding(b"chunked"), Err(BadFraming::LengthAndEncoding));
        framing.connection(b"keep-alive");
        assert_eq!(framing, Framing { length: Some(12), chunked: false, close: false });

        let mut framing = Framing::default();
        assert_eq!(framing.transfer_encoding(b"gzip, chunked"), Err(BadFraming::Encoding));
        assert_eq!(framing.transfer_encoding(b"Chunked"), Ok(()));
        assert_eq!(framing.transfer_encoding(b"chunked"), Err(BadFraming::Duplicate));
        assert_eq!(framing.content_length(b"0"), Err(BadFraming::LengthAndEncoding));
        framing.connection(b"Close, Upgrade");
        assert_eq!(framing, Framing { length: None, chunked: true, close: true });

        for bad in ["", "-1", "+1", "1 ", "1,1", "0x1", "9223372036854775808"] {
            assert_eq!(Framing::default().content_length(bad.as_bytes()), Err(BadFraming::Length), "{bad}");
        }
    }
}
