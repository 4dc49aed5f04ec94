//! What the fields of a request mean for the request: its host, its body, its connection.
//!
//! In: values of fields. Out: decisions, or nginx's refusals (`ngx_http_process_request_header` and the handlers of
//! its table). Which field came twice is known by whoever collects them; `name::Rule` says what follows from it.

use std::borrow::Cow;

use crate::wire::byte::{self, LABEL, REG_NAME};
use crate::wire::http1::method::{Method, Version};

/// Why a whole head is refused. `text` is nginx's sentence for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    HostInLine,
    Host,
    NoHost,
    ContentLength,
    TransferEncodingIn10,
    LengthAndEncoding,
    /// The log adds `: "VALUE"`.
    TransferEncoding,
    Connect,
    ConnectWithBody,
    Trace,
}

impl HeadError {
    pub fn status(self) -> u16 {
        match self {
            Self::HostInLine
            | Self::Host
            | Self::NoHost
            | Self::ContentLength
            | Self::TransferEncodingIn10
            | Self::LengthAndEncoding
            | Self::ConnectWithBody => 400,
            Self::Connect | Self::Trace => 405,
            Self::TransferEncoding => 501,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::HostInLine => "client sent invalid host in request line",
            Self::Host => "client sent invalid host header",
            Self::NoHost => "client sent HTTP/1.1 request without \"Host\" header",
            Self::ContentLength => "client sent invalid \"Content-Length\" header",
            Self::TransferEncodingIn10 => "client sent HTTP/1.0 request with \"Transfer-Encoding\" header",
            Self::LengthAndEncoding => {
                "client sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time"
            }
            Self::TransferEncoding => "client sent unknown \"Transfer-Encoding\"",
            Self::Connect => "client sent CONNECT method",
            Self::ConnectWithBody => "client sent CONNECT request with body",
            Self::Trace => "client sent TRACE method",
        }
    }
}

/// How the body of a request is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No field speaks of one.
    None,
    Length(u64),
    Chunked,
}

/// The fields of a head that decide whether it is taken, each by its value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Essentials<'a> {
    pub host: Option<&'a [u8]>,
    pub content_length: Option<&'a [u8]>,
    pub transfer_encoding: Option<&'a [u8]>,
}

impl Essentials<'_> {
    /// The body, or nginx's refusal; the checks come in nginx's order. `allow_connect` is the setting of that name.
    pub fn body(&self, method: Method, version: Version, allow_connect: bool) -> Result<Body, HeadError> {
        if self.host.is_none() && version > Version::HTTP_10 {
            return Err(HeadError::NoHost);
        }
        let mut body = Body::None;
        if let Some(value) = self.content_length {
            body = Body::Length(byte::offset(value).ok_or(HeadError::ContentLength)?);
        }
        if let Some(value) = self.transfer_encoding {
            if version < Version::HTTP_11 {
                return Err(HeadError::TransferEncodingIn10);
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::TransferEncoding);
            }
            if self.content_length.is_some() {
                return Err(HeadError::LengthAndEncoding);
            }
            body = Body::Chunked;
        }
        match method {
            Method::Connect if version != Version::HTTP_11 || !allow_connect => Err(HeadError::Connect),
            Method::Connect if !matches!(body, Body::None | Body::Length(0)) => Err(HeadError::ConnectWithBody),
            Method::Trace => Err(HeadError::Trace),
            _ => Ok(body),
        }
    }
}

/// What a `Connection` line asks for. Of several lines the last that asks wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Close,
    KeepAlive,
}

impl Connection {
    /// nginx looks for the words anywhere in the value, not for tokens.
    pub fn of(value: &[u8]) -> Option<Self> {
        if value.eq_ignore_ascii_case(b"keep-alive") {
            Some(Self::KeepAlive)
        } else if byte::find_ignore_case(value, b"close").is_some() {
            Some(Self::Close)
        } else if byte::find_ignore_case(value, b"keep-alive").is_some() {
            Some(Self::KeepAlive)
        } else {
            None
        }
    }
}

/// A host that may name a server: lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    pub name: Cow<'a, [u8]>,
    /// The port as sent; 0 when there is none.
    pub port: u16,
}

/// Takes a host apart, from the Host field or the request line (nginx: `ngx_http_validate_host`). `None`: invalid.
pub fn host(value: &[u8]) -> Option<Host<'_>> {
    if let Some((name, port)) = usual_host(value) {
        let port = port.split_first().map_or(Some(0), |(_, digits)| port_number(digits))?;
        return Some(Host { name: Cow::Borrowed(name), port });
    }
    let (name, port) = if value.first() == Some(&b'[') {
        let len = memchr::memchr(b']', value)? + 1;
        (value.get(..len)?, value.get(len..)?)
    } else {
        let len = memchr::memchr(b':', value).unwrap_or(value.len());
        (value.get(..len)?, value.get(len..)?)
    };

    let literal = name.first() == Some(&b'[');
    let inner = if literal { name.get(1..name.len() - 1)? } else { name };
    for (at, &byte) in inner.iter().enumerate() {
        let fine = match byte {
            // nginx: one dot at a time
            b'.' => at == 0 || inner.get(at - 1) != Some(&b'.'),
            b':' => literal,
            b'%' => !literal,
            _ => byte::is(byte, REG_NAME),
        };
        if !fine {
            return None;
        }
    }

    let port = match port.split_first() {
        None => 0,
        Some((b':', digits)) => port_number(digits)?,
        Some(_) => return None,
    };
    let name = if literal { name } else { name.strip_suffix(b".").unwrap_or(name) };
    if name.is_empty() {
        return None;
    }
    let name = match name.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    };
    Some(Host { name, port })
}

/// The name that nearly all are, small letters and digits between single dots, and what is behind it: nothing, or a colon
/// and the port. `None` says nothing against the host.
fn usual_host(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut label = 0;
    loop {
        let end = byte::skip(value, label, LABEL);
        match value.get(end) {
            _ if end == label => return None,
            Some(b'.') => label = end + 1,
            None | Some(b':') => return value.split_at_checked(end),
            Some(_) => return None,
        }
    }
}

/// Digits, or nothing, that fit a port.
fn port_number(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |port, &byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        port.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let cases: &[(&str, Option<(&str, u16)>)] = &[
            ("a.b", Some(("a.b", 0))),
            ("A.B.", Some(("a.b", 0))),
            ("a.b:8080", Some(("a.b", 8080))),
            ("a.b.:80", Some(("a.b", 80))),
            ("a:", Some(("a", 0))),
            ("a:65535", Some(("a", 65535))),
            ("a:00080", Some(("a", 80))),
            ("a_b~!$&'()*+,;=%20", Some(("a_b~!$&'()*+,;=%20", 0))),
            (".a", Some((".a", 0))),
            ("[::1]", Some(("[::1]", 0))),
            ("[::AB]:80", Some(("[::ab]", 80))),
            ("[]", Some(("[]", 0))),
            ("", None),
            (".", None),
            (":80", None),
            (".:80", None),
            ("a..b", None),
            ("a..", None),
            ("a b", None),
            ("a/b", None),
            ("a@b", None),
            ("a\\b", None),
            ("a?b", None),
            ("a#b", None),
            ("\u{e4}", None),
            ("a\0", None),
            ("a:65536", None),
            ("a:99999", None),
            ("a:8x", None),
            ("a:80:", None),
            ("a]", None),
            ("[::1", None),
            ("[::1]a", None),
            ("[a%b]", None),
            ("[a b]", None),
            ("[a..b]", None),
        ];
        for &(value, expected) in cases {
            let expected = expected.map(|(name, port)| Host { name: Cow::Borrowed(name.as_bytes()), port });
            assert_eq!(host(value.as_bytes()), expected, "{value}");
        }
        assert!(matches!(host(b"a.b:1"), Some(Host { name: Cow::Borrowed(_), .. })));
    }

    #[test]
    fn bodies() {
        use HeadError::*;
        let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
        // method, version, host, length, encoding
        type Case<'a> = (Method, Version, Option<&'a str>, Option<&'a str>, Option<&'a str>, Result<Body, HeadError>);
        let cases: &[Case<'_>] = &[
            (Method::Get, v11, Some("a"), None, None, Ok(Body::None)),
            (Method::Get, v10, None, None, None, Ok(Body::None)),
            (Method::Get, v11, None, None, None, Err(NoHost)),
            (Method::Get, Version(1002), None, None, None, Err(NoHost)),
            (Method::Get, v11, Some("a"), Some("12"), None, Ok(Body::Length(12))),
            (Method::Get, v11, Some("a"), Some("0"), None, Ok(Body::Length(0))),
            (Method::Get, v11, Some("a"), Some("+1"), None, Err(ContentLength)),
            (Method::Get, v11, Some("a"), Some(""), None, Err(ContentLength)),
            (Method::Get, v11, Some("a"), Some("9223372036854775808"), None, Err(ContentLength)),
            (Method::Get, v11, Some("a"), None, Some("CHUNKED"), Ok(Body::Chunked)),
            (Method::Get, v11, Some("a"), None, Some("gzip, chunked"), Err(TransferEncoding)),
            (Method::Get, v11, Some("a"), None, Some("identity"), Err(TransferEncoding)),
            (Method::Get, v11, Some("a"), Some("1"), Some("identity"), Err(TransferEncoding)),
            (Method::Get, v11, Some("a"), Some("1"), Some("chunked"), Err(LengthAndEncoding)),
            (Method::Get, v10, None, None, Some("chunked"), Err(TransferEncodingIn10)),
            (Method::Get, v11, Some("a"), Some("x"), Some("chunked"), Err(ContentLength)),
            (Method::Trace, v11, Some("a"), None, None, Err(Trace)),
            (Method::Connect, v11, Some("a"), None, None, Ok(Body::None)),
            (Method::Connect, v11, Some("a"), Some("0"), None, Ok(Body::Length(0))),
            (Method::Connect, v11, Some("a"), Some("1"), None, Err(ConnectWithBody)),
            (Method::Connect, v11, Some("a"), None, Some("chunked"), Err(ConnectWithBody)),
            (Method::Connect, v10, None, None, None, Err(Connect)),
        ];
        for &(method, version, host, length, encoding, expected) in cases {
            let essentials = Essentials {
                host: host.map(str::as_bytes),
                content_length: length.map(str::as_bytes),
                transfer_encoding: encoding.map(str::as_bytes),
            };
            assert_eq!(essentials.body(method, version, true), expected, "{method:?} {essentials:?}");
        }
        let plain = Essentials { host: Some(b"a"), ..Essentials::default() };
        assert_eq!(plain.body(Method::Connect, v11, false), Err(Connect));
        assert_eq!((Connect.status(), TransferEncoding.status(), NoHost.status()), (405, 501, 400));
    }

    #[test]
    fn connection_words() {
        assert_eq!(Connection::of(b"Keep-Alive, Upgrade"), Some(Connection::KeepAlive));
        assert_eq!(Connection::of(b"keep-alive, CLOSE"), Some(Connection::Close));
        assert_eq!(Connection::of(b"enclosed"), Some(Connection::Close));
        assert_eq!(Connection::of(b"Upgrade"), None);
        assert_eq!(Connection::of(b""), None);
    }
}
