//! The request fields that the server itself understands, and what happens when one comes twice.

use crate::wire::byte;

/// A field of a request that nginx has a handler for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    Host,
    Connection,
    ProxyConnection,
    IfModifiedSince,
    IfUnmodifiedSince,
    IfMatch,
    IfNoneMatch,
    UserAgent,
    Referer,
    ContentLength,
    ContentRange,
    ContentType,
    Range,
    IfRange,
    TransferEncoding,
    Te,
    Expect,
    Upgrade,
    AcceptEncoding,
    Via,
    Authorization,
    ProxyAuthorization,
    KeepAlive,
    XForwardedFor,
    XRealIp,
    Accept,
    AcceptLanguage,
    Depth,
    Destination,
    Overwrite,
    Date,
    Cookie,
}

/// What several lines of one name mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// They are kept, in order.
    Many,
    /// 400, `client sent duplicate header line: "NAME: VALUE", previous value: "NAME: VALUE"`.
    Unique,
    /// 400, `client sent duplicate host header: "NAME: VALUE", previous value: "NAME: VALUE"`.
    Host,
}

impl Name {
    /// Letters of either case alike. `None` for every other field: it is kept, and nothing follows from it.
    pub fn of(name: &[u8]) -> Option<Self> {
        // By length, and as most clients write them: few are left to compare with, and the first look tells.
        let candidates: &[(&[u8], Self)] = match name.len() {
            2 => &[(b"TE", Self::Te)],
            3 => &[(b"Via", Self::Via)],
            4 => &[(b"Host", Self::Host), (b"Date", Self::Date)],
            5 => &[(b"Range", Self::Range), (b"Depth", Self::Depth)],
            6 => &[(b"Accept", Self::Accept), (b"Cookie", Self::Cookie), (b"Expect", Self::Expect)],
            7 => &[(b"Referer", Self::Referer), (b"Upgrade", Self::Upgrade)],
            8 => &[(b"If-Match", Self::IfMatch), (b"If-Range", Self::IfRange)],
            9 => &[(b"X-Real-IP", Self::XRealIp), (b"Overwrite", Self::Overwrite)],
            10 => {
                &[(b"Connection", Self::Connection), (b"User-Agent", Self::UserAgent), (b"Keep-Alive", Self::KeepAlive)]
            }
            11 => &[(b"Destination", Self::Destination)],
            12 => &[(b"Content-Type", Self::ContentType)],
            13 => &[
                (b"If-None-Match", Self::IfNoneMatch),
                (b"Authorization", Self::Authorization),
                (b"Content-Range", Self::ContentRange),
            ],
            14 => &[(b"Content-Length", Self::ContentLength)],
            15 => &[
                (b"Accept-Encoding", Self::AcceptEncoding),
                (b"Accept-Language", Self::AcceptLanguage),
                (b"X-Forwarded-For", Self::XForwardedFor),
            ],
            16 => &[(b"Proxy-Connection", Self::ProxyConnection)],
            17 => &[(b"If-Modified-Since", Self::IfModifiedSince), (b"Transfer-Encoding", Self::TransferEncoding)],
            19 => {
                &[(b"If-Unmodified-Since", Self::IfUnmodifiedSince), (b"Proxy-Authorization", Self::ProxyAuthorization)]
            }
            _ => &[],
        };
        candidates.iter().find(|(known, _)| byte::same_name(known, name)).map(|(_, known)| *known)
    }

    pub fn rule(self) -> Rule {
        match self {
            Self::Host => Rule::Host,
            Self::IfModifiedSince
            | Self::IfUnmodifiedSince
            | Self::IfMatch
            | Self::IfNoneMatch
            | Self::ContentLength
            | Self::ContentRange
            | Self::IfRange
            | Self::TransferEncoding
            | Self::Expect
            | Self::Authorization
            | Self::ProxyAuthorization => Rule::Unique,
            Self::Connection
            | Self::ProxyConnection
            | Self::UserAgent
            | Self::Referer
            | Self::ContentType
            | Self::Range
            | Self::Te
            | Self::Upgrade
            | Self::AcceptEncoding
            | Self::Via
            | Self::KeepAlive
            | Self::XForwardedFor
            | Self::XRealIp
            | Self::Accept
            | Self::AcceptLanguage
            | Self::Depth
            | Self::Destination
            | Self::Overwrite
            | Self::Date
            | Self::Cookie => Rule::Many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case() {
        let cases = [
            ("Host", Name::Host),
            ("cOnTeNt-LeNgTh", Name::ContentLength),
            ("TRANSFER-ENCODING", Name::TransferEncoding),
            ("X-Forwarded-For", Name::XForwardedFor),
            ("te", Name::Te),
        ];
        for (text, name) in cases {
            assert_eq!(Name::of(text.as_bytes()), Some(name), "{text}");
        }
        for other in ["", "X", "Hosts", "Content_Length", "X-Forwarded-Foo"] {
            assert_eq!(Name::of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(Name::Host.rule(), Rule::Host);
        assert_eq!(Name::ContentLength.rule(), Rule::Unique);
        assert_eq!(Name::Cookie.rule(), Rule::Many);
    }
}
