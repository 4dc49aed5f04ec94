//! Escapes in URIs, with nginx's tables (`ngx_escape_uri`, `ngx_unescape_uri`), and in HTML.

use std::borrow::Cow;

use crate::wire::byte::{self, UPPER};

/// Where the escaped text is going to stand. The sets are nginx's, oddities included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A path in a URI.
    Uri,
    /// An argument: as `Uri`, and `& + ;`.
    Args,
    /// One component: everything but letters, digits and `- . _ ~`.
    UriComponent,
    /// An address within a page: `?` stays, `'` does not.
    Html,
    /// The address of a `Refresh`: `%` and `?` stay.
    Refresh,
    /// A memcached key: controls, space and `%`.
    Memcached,
    /// A field to a mail authentication server: as `Memcached`.
    MailAuth,
    /// SMTP's xtext, with `+` for `%`.
    MailXtext,
}

/// `text` with what may not stand there as `%XX`; the same slice when there is nothing to escape.
pub fn escape(kind: Escape, text: &[u8]) -> Cow<'_, [u8]> {
    let table = kind.table();
    match text.iter().position(|&byte| table[byte as usize]) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let mut out = Vec::with_capacity(text.len() + 16);
            push_escaped(&mut out, kind, text);
            Cow::Owned(out)
        }
    }
}

/// Appends `text`, escaped.
pub fn push_escaped(out: &mut Vec<u8>, kind: Escape, text: &[u8]) {
    let table = kind.table();
    let prefix = if kind == Escape::MailXtext { b'+' } else { b'%' };
    for &byte in text {
        if table[byte as usize] {
            out.extend_from_slice(&[prefix, UPPER[usize::from(byte >> 4)], UPPER[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

impl Escape {
    fn table(self) -> &'static [bool; 256] {
        const URI: [bool; 256] = table(br##" "#%<>?\^`{|}"##, true);
        const ARGS: [bool; 256] = table(br##" "#%&+;<>?\^`{|}"##, true);
        const URI_COMPONENT: [bool; 256] = table(br##" !"#$%&'()*+,/:;<=>?@[\]^`{|}"##, true);
        const HTML: [bool; 256] = table(br##" "#%'<>\^`{|}"##, true);
        // nginx: "~" instead of "}"
        const REFRESH: [bool; 256] = table(br#" "'<>\^`{|~"#, true);
        const MEMCACHED: [bool; 256] = table(b" %", false);
        const MAIL_XTEXT: [bool; 256] = table(b" +=", true);
        match self {
            Self::Uri => &URI,
            Self::Args => &ARGS,
            Self::UriComponent => &URI_COMPONENT,
            Self::Html => &HTML,
            Self::Refresh => &REFRESH,
            Self::Memcached | Self::MailAuth => &MEMCACHED,
            Self::MailXtext => &MAIL_XTEXT,
        }
    }
}

/// Controls and the `listed` bytes; DEL and everything above, too, where the text must be ASCII.
const fn table(listed: &[u8], ascii: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || (ascii && byte >= 0x7f);
        byte += 1;
    }
    let mut at = 0;
    while at < listed.len() {
        table[listed[at] as usize] = true;
        at += 1;
    }
    table
}

/// `text` with its `%XX` decoded. A broken escape loses its `%` and the digits before the break, as in nginx.
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    decode(text, Scope::Everything)
}

/// A redirect's address with only such escapes decoded that need none, up to the first `?`; the rest as it is.
pub fn unescape_redirect(text: &[u8]) -> Cow<'_, [u8]> {
    decode(text, Scope::Redirect)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    Redirect,
}

fn decode(text: &[u8], scope: Scope) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        match (byte, behind) {
            (b'?', _) if scope == Scope::Redirect => {
                out.extend_from_slice(rest);
                break;
            }
            (b'%', [high, low, tail @ ..]) => match (byte::hex(*high), byte::hex(*low)) {
                (Some(high), Some(low)) => {
                    match (scope, high << 4 | low) {
                        (Scope::Everything, byte) => out.push(byte),
                        (Scope::Redirect, b'?') => {
                            out.push(b'?');
                            out.extend_from_slice(tail);
                            break;
                        }
                        (Scope::Redirect, byte @ b'&'..0x7f) => out.push(byte),
                        (Scope::Redirect, _) => out.extend_from_slice(&rest[..3]),
                    }
                    rest = tail;
                }
                (Some(_), None) => rest = tail,
                (None, _) => {
                    // nginx: what is no digit stays
                    out.push(*high);
                    rest = &behind[1..];
                }
            },
            (b'%', [other]) if byte::hex(*other).is_none() => {
                out.push(*other);
                break;
            }
            (b'%', _) => break,
            _ => {
                let plain = memchr::memchr2(b'%', b'?', behind).map_or(rest.len(), |len| len + 1);
                out.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
            }
        }
    }
    Cow::Owned(out)
}

/// Text within HTML: `< > & "` as entities.
pub fn escape_html(text: &[u8]) -> Cow<'_, [u8]> {
    let special = |byte: &u8| matches!(byte, b'<' | b'>' | b'&' | b'"');
    if !text.iter().any(special) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 16);
    for &byte in text {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTABLE: &str = " !\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~";

    fn escaped(kind: Escape, text: &[u8]) -> String {
        String::from_utf8_lossy(&escape(kind, text)).into_owned()
    }

    #[test]
    fn tables() {
        let cases = [
            (Escape::Uri, "%20!%22%23$%25&'()*+,-./09:;%3C=%3E%3F@AZ[%5C]%5E_%60az%7B%7C%7D~"),
            (Escape::Args, "%20!%22%23$%25%26'()*%2B,-./09:%3B%3C=%3E%3F@AZ[%5C]%5E_%60az%7B%7C%7D~"),
            (
                Escape::UriComponent,
                "%20%21%22%23%24%25%26%27%28%29%2A%2B%2C-.%2F09%3A%3B%3C%3D%3E%3F%40AZ%5B%5C%5D%5E_%60az%7B%7C%7D~",
            ),
            (Escape::Html, "%20!%22%23$%25&%27()*+,-./09:;%3C=%3E?@AZ[%5C]%5E_%60az%7B%7C%7D~"),
            (Escape::Refresh, "%20!%22#$%&%27()*+,-./09:;%3C=%3E?@AZ[%5C]%5E_%60az%7B%7C}%7E"),
            (Escape::Memcached, "%20!\"#$%25&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"),
            (Escape::MailAuth, "%20!\"#$%25&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"),
            (Escape::MailXtext, "+20!\"#$%&'()*+2B,-./09:;<+3D>?@AZ[\\]^_`az{|}~"),
        ];
        for (kind, expected) in cases {
            assert_eq!(escaped(kind, PRINTABLE.as_bytes()), expected, "{kind:?}");
        }
        assert_eq!(escaped(Escape::Uri, b"\0\x1f\x7f\x80\xff"), "%00%1F%7F%80%FF");
        assert_eq!(escape(Escape::Memcached, b"\0\x7f\xff").as_ref(), b"%00\x7f\xff");
        assert!(matches!(escape(Escape::Uri, b"/plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn unescaping() {
        let cases = [
            ("", ""),
            ("abc", "abc"),
            ("a%20b", "a b"),
            ("%41%42%4a%4B", "ABJK"),
            ("%3f%3F?", "???"),
            ("%", ""),
            ("%4", ""),
            ("a%4", "a"),
            ("%zz1", "zz1"),
            ("%4z1", "1"),
            ("%%41", "%41"),
            ("%4%41", "41"),
            ("%z", "z"),
            ("?%41?", "?A?"),
        ];
        for (text, expected) in cases {
            assert_eq!(unescape(text.as_bytes()).as_ref(), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn unescaping_redirects() {
        let cases = [
            ("/a%41%20%25", "/aA%20%25"),
            ("/a%26%7e%7f%c3", "/a&~%7f%c3"),
            ("/a?%41", "/a?%41"),
            ("/%41?%41", "/A?%41"),
            ("/%3f%41", "/?%41"),
            ("/%3f%41?%41", "/?%41?%41"),
            ("/%4z?%41", "/?%41"),
            ("/%4", "/"),
            ("/%?%41", "/?A"),
            ("/%4?%41", "/A"),
        ];
        for (text, expected) in cases {
            assert_eq!(unescape_redirect(text.as_bytes()).as_ref(), expected.as_bytes(), "{text}");
        }
    }

    #[test]
    fn html() {
        assert_eq!(escape_html(b"<a href=\"x\">'&'</a>").as_ref(), b"&lt;a href=&quot;x&quot;&gt;'&amp;'&lt;/a&gt;");
        assert!(matches!(escape_html(b"plain"), Cow::Borrowed(_)));
    }
}
