//! The request fields that the server itself understands, and what happens when one comes twice.

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
        let mut lower = [0; 19];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        Some(match &*lower {
            b"te" => Self::Te,
            b"via" => Self::Via,
            b"host" => Self::Host,
            b"date" => Self::Date,
            b"range" => Self::Range,
            b"depth" => Self::Depth,
            b"accept" => Self::Accept,
            b"cookie" => Self::Cookie,
            b"expect" => Self::Expect,
            b"referer" => Self::Referer,
            b"upgrade" => Self::Upgrade,
            b"if-match" => Self::IfMatch,
            b"if-range" => Self::IfRange,
            b"x-real-ip" => Self::XRealIp,
            b"overwrite" => Self::Overwrite,
            b"connection" => Self::Connection,
            b"user-agent" => Self::UserAgent,
            b"keep-alive" => Self::KeepAlive,
            b"destination" => Self::Destination,
            b"content-type" => Self::ContentType,
            b"if-none-match" => Self::IfNoneMatch,
            b"authorization" => Self::Authorization,
            b"content-range" => Self::ContentRange,
            b"content-length" => Self::ContentLength,
            b"accept-encoding" => Self::AcceptEncoding,
            b"accept-language" => Self::AcceptLanguage,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"proxy-connection" => Self::ProxyConnection,
            b"if-modified-since" => Self::IfModifiedSince,
            b"transfer-encoding" => Self::TransferEncoding,
            b"if-unmodified-since" => Self::IfUnmodifiedSince,
            b"proxy-authorization" => Self::ProxyAuthorization,
            _ => return None,
        })
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
