//! The PROXY protocol, versions 1 and 2: who the client of the proxy in front is.
//!
//! In: the first bytes of a connection. Out: the two addresses and the TLVs, and where the connection's own bytes begin
//! (`ngx_proxy_protocol_read`). Stricter senders put the header into one packet, and nginx counts on it; here it may also
//! come in several, as long as it stays within [`MAX_HEADER`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::addr::Ip;
use crate::wire::byte;
use crate::wire::span::{Span, visible};

/// The longest header that is read.
pub const MAX_HEADER: usize = 4096;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_HEADER: usize = 16;
const PROXY: u8 = 1;
const STREAM: u8 = 1;
const INET: u8 = 1;
const INET6: u8 = 2;

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `None`: the proxy speaks for itself (LOCAL, UNKNOWN) or of something that is no TCP over IP. The connection's own
    /// addresses hold.
    pub proxied: Option<Proxied>,
    /// Where the connection's own bytes begin.
    pub end: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub source: Endpoint,
    pub destination: Endpoint,
    /// What version 2 adds, for [`Tlv::find`].
    pub tlvs: Vec<u8>,
}

/// `$proxy_protocol_addr` and `$proxy_protocol_port`. From version 1 the address is what the proxy wrote: characters of
/// addresses, but not necessarily one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: String,
    pub port: u16,
}

/// The connection does not begin with a header. `Display` is nginx's sentence, without the quoted bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// nginx quotes these bytes: `broken header: "…"`.
    Broken(Span),
    Version(u8),
    TooLarge,
    /// The addresses do not fit the length. nginx says nothing.
    Short,
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(_) | Self::Short => f.write_str("broken header"),
            Self::Version(version) => write!(f, "unknown PROXY protocol version: {version}"),
            Self::TooLarge => f.write_str("header is too large"),
        }
    }
}

/// Reads the header at the beginning of `buf`. `None` is "more bytes": show the same buffer again, grown.
pub fn read(buf: &[u8]) -> Result<Option<Header>, BadHeader> {
    let buf = visible(buf);
    if buf.len() < SIGNATURE.len() && SIGNATURE.starts_with(buf) {
        return Ok(None);
    }
    if buf.starts_with(SIGNATURE) {
        return read_v2(buf);
    }
    let broken = || {
        let end = memchr::memchr2(b'\r', b'\n', buf).unwrap_or(buf.len());
        BadHeader::Broken(Span::new(0, end))
    };
    match read_v1(buf) {
        V1::Header(header) => Ok(Some(header)),
        V1::More if buf.len() < MAX_HEADER => Ok(None),
        V1::More | V1::Broken => Err(broken()),
    }
}

enum V1 {
    Header(Header),
    More,
    Broken,
}

fn read_v1(buf: &[u8]) -> V1 {
    let mut rest = buf;
    for word in [&b"PROXY "[..], b"TCP"] {
        match rest.strip_prefix(word) {
            Some(behind) => rest = behind,
            None if word.starts_with(rest) => return V1::More,
            None => return read_unknown(buf, rest),
        }
    }
    match *rest {
        [] | [b'4' | b'6'] => return V1::More,
        [b'4' | b'6', b' ', ..] => rest = rest.get(2..).unwrap_or_default(),
        _ => return V1::Broken,
    }

    let mut addrs = [String::new(), String::new()];
    for addr in &mut addrs {
        let len = rest.iter().take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')).count();
        let Some((text, behind)) = rest.split_at_checked(len) else {
            return V1::Broken;
        };
        *addr = String::from_utf8_lossy(text).into_owned();
        match behind.split_first() {
            None => return V1::More,
            Some((b' ', behind)) => rest = behind,
            Some(_) => return V1::Broken,
        }
    }
    let mut ports = [0, 0];
    for (port, stop) in ports.iter_mut().zip([b' ', b'\r']) {
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some((digits, behind)) = rest.split_at_checked(len) else {
            return V1::Broken;
        };
        let number = byte::offset(digits).and_then(|number| u16::try_from(number).ok());
        match (number, behind.split_first()) {
            (_, None) => return V1::More,
            (Some(number), Some((&byte, behind))) if byte == stop => {
                *port = number;
                rest = behind;
            }
            _ => return V1::Broken,
        }
    }
    match rest.split_first() {
        None => V1::More,
        Some((b'\n', rest)) => {
            let [source, destination] = addrs.map(|addr| Endpoint { addr, port: 0 });
            let proxied = Proxied {
                source: Endpoint { port: ports[0], ..source },
                destination: Endpoint { port: ports[1], ..destination },
                tlvs: Vec::new(),
            };
            V1::Header(Header { proxied: Some(proxied), end: (buf.len() - rest.len()) as u32 })
        }
        Some(_) => V1::Broken,
    }
}

/// `PROXY UNKNOWN` and anything up to the end of the line; `rest` is what follows as much of it as was there.
fn read_unknown(buf: &[u8], rest: &[u8]) -> V1 {
    const UNKNOWN: &[u8] = b"UNKNOWN";
    if rest.len() == buf.len() {
        return V1::Broken;
    }
    let Some(text) = rest.strip_prefix(UNKNOWN) else {
        return if UNKNOWN.starts_with(rest) { V1::More } else { V1::Broken };
    };
    match memchr::memmem::find(text, b"\r\n") {
        Some(len) => V1::Header(Header { proxied: None, end: (buf.len() - text.len() + len + 2) as u32 }),
        None => V1::More,
    }
}

fn read_v2(buf: &[u8]) -> Result<Option<Header>, BadHeader> {
    let Some(&[version_command, family_transport, high, low]) = buf.get(SIGNATURE.len()..V2_HEADER) else {
        return Ok(None);
    };
    let version = version_command >> 4;
    if version != 2 {
        return Err(BadHeader::Version(version));
    }
    let end = V2_HEADER + usize::from(u16::from_be_bytes([high, low]));
    if end > MAX_HEADER {
        return Err(BadHeader::TooLarge);
    }
    let Some(body) = buf.get(V2_HEADER..end) else {
        return Ok(None);
    };
    let header = |proxied| Ok(Some(Header { proxied, end: end as u32 }));
    if version_command & 15 != PROXY || family_transport & 15 != STREAM {
        return header(None);
    }
    let (addrs, ports, tlvs) = match family_transport >> 4 {
        INET => {
            let (source, rest) = body.split_first_chunk::<4>().ok_or(BadHeader::Short)?;
            let (destination, rest) = rest.split_first_chunk::<4>().ok_or(BadHeader::Short)?;
            let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(BadHeader::Short)?;
            ([IpAddr::V4(Ipv4Addr::from(*source)), IpAddr::V4(Ipv4Addr::from(*destination))], ports, tlvs)
        }
        INET6 => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(BadHeader::Short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(BadHeader::Short)?;
            let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(BadHeader::Short)?;
            ([IpAddr::V6(Ipv6Addr::from(*source)), IpAddr::V6(Ipv6Addr::from(*destination))], ports, tlvs)
        }
        // unix sockets, and what comes after
        _ => return header(None),
    };
    let [source, destination] = addrs.map(|addr| Ip(addr).to_string());
    let [a, b, c, d] = *ports;
    header(Some(Proxied {
        source: Endpoint { addr: source, port: u16::from_be_bytes([a, b]) },
        destination: Endpoint { addr: destination, port: u16::from_be_bytes([c, d]) },
        tlvs: tlvs.to_vec(),
    }))
}

/// The header of version 1 for a connection between these two; without them, for one that is not over IP.
pub fn write_v1(out: &mut Vec<u8>, addrs: Option<(SocketAddr, SocketAddr)>) {
    let Some((source, destination)) = addrs else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let family = if source.is_ipv4() { 4 } else { 6 };
    let (from, to) = (Ip(source.ip()), Ip(destination.ip()));
    let line = format!("PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port());
    out.extend_from_slice(line.as_bytes());
}

/// A TLV as the variable names it: `$proxy_protocol_tlv_NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    Type(u64),
    /// A TLV within that of TLS.
    Ssl(u64),
    SslVerify,
}

/// Why there is no TLV of a name. `Display` is nginx's sentence; the first two go on with the quoted name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTlv {
    Invalid,
    Unknown,
    Broken,
}

impl fmt::Display for BadTlv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid PROXY protocol TLV",
            Self::Unknown => "unknown PROXY protocol TLV",
            Self::Broken => "broken PROXY protocol TLV",
        })
    }
}

const TLV_SSL: u64 = 0x20;

impl Tlv {
    /// `alpn`, `ssl_cn`, `0xea`, `ssl_0x21`, …
    pub fn named(name: &str) -> Result<Self, BadTlv> {
        let (name, ssl) = match name.strip_prefix("ssl_") {
            Some("verify") => return Ok(Self::SslVerify),
            Some(name) => (name, true),
            None => (name, false),
        };
        let number = match (name.strip_prefix("0x"), ssl, name) {
            (Some(digits), _, _) => hexadecimal(digits).ok_or(BadTlv::Invalid)?,
            (None, false, "alpn") => 0x01,
            (None, false, "authority") => 0x02,
            (None, false, "unique_id") => 0x05,
            (None, false, "ssl") => TLV_SSL,
            (None, false, "netns") => 0x30,
            (None, true, "version") => 0x21,
            (None, true, "cn") => 0x22,
            (None, true, "cipher") => 0x23,
            (None, true, "sig_alg") => 0x24,
            (None, true, "key_alg") => 0x25,
            _ => return Err(BadTlv::Unknown),
        };
        Ok(if ssl { Self::Ssl(number) } else { Self::Type(number) })
    }

    /// The value among the TLVs of a header; `None` when it is not there.
    pub fn find(self, tlvs: &[u8]) -> Result<Option<Vec<u8>>, BadTlv> {
        let kind = match self {
            Self::Type(kind) => return Ok(lookup(tlvs, kind)?.map(<[u8]>::to_vec)),
            Self::Ssl(kind) => Some(kind),
            Self::SslVerify => None,
        };
        let Some(ssl) = lookup(tlvs, TLV_SSL)? else {
            return Ok(None);
        };
        // a byte of flags, then the result of the verification
        let Some((&[_, a, b, c, d], inner)) = ssl.split_first_chunk::<5>() else {
            return Err(BadTlv::Broken);
        };
        match kind {
            Some(kind) => Ok(lookup(inner, kind)?.map(<[u8]>::to_vec)),
            None => Ok(Some(u32::from_be_bytes([a, b, c, d]).to_string().into_bytes())),
        }
    }
}

fn lookup(mut tlvs: &[u8], kind: u64) -> Result<Option<&[u8]>, BadTlv> {
    while !tlvs.is_empty() {
        let (&[this, high, low], rest) = tlvs.split_first_chunk::<3>().ok_or(BadTlv::Broken)?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(BadTlv::Broken)?;
        if u64::from(this) == kind {
            return Ok(Some(value));
        }
        tlvs = rest;
    }
    Ok(None)
}

fn hexadecimal(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.bytes().try_fold(0_u64, |number, digit| {
        number.checked_mul(16)?.checked_add(u64::from(byte::hex(digit)?)).filter(|&number| number <= i64::MAX as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on whole bytes; every beginning of them must say "more" or the same.
    fn parse(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
        let whole = read(bytes);
        for len in 0..bytes.len() {
            let part = read(&bytes[..len]);
            let same = match (&part, &whole) {
                (Ok(None), _) => true,
                (Err(BadHeader::Broken(_)), Err(BadHeader::Broken(_))) => true,
                _ => part == whole,
            };
            assert!(same, "{:?} cut at {len}: {part:?}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    fn header(
        source: (&str, u16),
        destination: (&str, u16),
        tlvs: &[u8],
        end: usize,
    ) -> Result<Option<Header>, BadHeader> {
        let endpoint = |(addr, port): (&str, u16)| Endpoint { addr: addr.into(), port };
        let proxied = Proxied { source: endpoint(source), destination: endpoint(destination), tlvs: tlvs.to_vec() };
        Ok(Some(Header { proxied: Some(proxied), end: end as u32 }))
    }

    #[test]
    fn version_1() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nGET /";
        assert_eq!(parse(line), header(("192.0.2.1", 1234), ("192.0.2.2", 80), b"", 40));
        let line = b"PROXY TCP6 2001:db8::1 ::FFFF:1.2.3.4 65535 0\r\n";
        assert_eq!(parse(line), header(("2001:db8::1", 65535), ("::FFFF:1.2.3.4", 0), b"", line.len()));
        let line = b"PROXY UNKNOWN whatever \n\r\r\nGET";
        assert_eq!(parse(line), Ok(Some(Header { proxied: None, end: 27 })));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Some(Header { proxied: None, end: 15 })));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1"), Ok(None));
    }

    #[test]
    fn version_1_broken() {
        let cases: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"\r\nPROXY",
            b"PROXY  TCP4",
            b"PROXY TCP5 ",
            b"PROXY TCP4\t",
            b"PROXY UDP4",
            b"PROXY UNKNOWNX",
            b"PROXY TCP4 g",
            b"PROXY TCP4 1.1.1.1\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 x",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r",
            b"PROXY TCP4 1.1.1.1 2.2.2.2  1",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx",
        ];
        for &line in cases {
            // "UNKNOWN" may be followed by anything, so that one needs its line to be too long
            let line = if line.ends_with(b"NX") { [line, &[b'x'; MAX_HEADER]].concat() } else { line.to_vec() };
            let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(line.len());
            assert_eq!(parse(&line), Err(BadHeader::Broken(Span::new(0, end))), "{:?}", String::from_utf8_lossy(&line));
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn version_2() {
        let inet = b"\xc0\0\x02\x01\xc0\0\x02\x02\x04\xd2\0\x50";
        let bytes = [&v2(0x21, 0x11, inet)[..], b"GET"].concat();
        assert_eq!(parse(&bytes), header(("192.0.2.1", 1234), ("192.0.2.2", 80), b"", 28));

        let tlvs = b"\x01\0\x02h2";
        let mut inet6 = [0; 36].to_vec();
        inet6[15] = 1;
        inet6[16..18].copy_from_slice(&[0x20, 0x01]);
        inet6.extend_from_slice(tlvs);
        let bytes = v2(0x21, 0x21, &inet6);
        assert_eq!(parse(&bytes), header(("::1", 0), ("2001::", 0), tlvs, bytes.len()));

        let none =
            |bytes: Vec<u8>| assert_eq!(parse(&bytes), Ok(Some(Header { proxied: None, end: bytes.len() as u32 })));
        none(v2(0x20, 0x00, b""));
        none(v2(0x20, 0x11, b"short"));
        none(v2(0x2f, 0x11, inet));
        none(v2(0x21, 0x12, inet));
        none(v2(0x21, 0x31, &[b'/'; 216]));
        none(v2(0x21, 0x01, b"x"));

        assert_eq!(parse(&v2(0x11, 0x11, inet)), Err(BadHeader::Version(1)));
        assert_eq!(parse(&v2(0x21, 0x11, &inet[..11])), Err(BadHeader::Short));
        assert_eq!(parse(&v2(0x21, 0x21, &inet6[..35])), Err(BadHeader::Short));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; MAX_HEADER])), Err(BadHeader::TooLarge));
        assert_eq!(BadHeader::Version(1).to_string(), "unknown PROXY protocol version: 1");
    }

    #[test]
    fn tlvs() {
        let ssl = b"\x07\0\0\0\x14\x21\0\x07TLSv1.3\x22\0\x01x";
        let tlvs = [&b"\x01\0\x02h2\x20\0"[..], &[ssl.len() as u8], ssl, b"\xea\0\0"].concat();
        let find = |name: &str| Tlv::named(name).and_then(|tlv| tlv.find(&tlvs));
        let some = |value: &[u8]| Ok(Some(value.to_vec()));
        assert_eq!(find("alpn"), some(b"h2"));
        assert_eq!(find("0x1"), some(b"h2"));
        assert_eq!(find("0xEA"), some(b""));
        assert_eq!(find("authority"), Ok(None));
        assert_eq!(find("ssl"), some(ssl));
        assert_eq!(find("ssl_version"), some(b"TLSv1.3"));
        assert_eq!(find("ssl_cn"), some(b"x"));
        assert_eq!(find("ssl_0x22"), some(b"x"));
        assert_eq!(find("ssl_verify"), some(b"20"));
        assert_eq!(find("ssl_cipher"), Ok(None));
        assert_eq!(find("0x101"), Ok(None));
        assert_eq!(find("cn"), Err(BadTlv::Unknown));
        assert_eq!(find("ssl_alpn"), Err(BadTlv::Unknown));
        assert_eq!(find("0x"), Err(BadTlv::Invalid));
        assert_eq!(find("0xg"), Err(BadTlv::Invalid));
        assert_eq!(find("0x8000000000000000"), Err(BadTlv::Invalid));

        let broken: [&[u8]; 4] = [b"\x02", b"\x02\0", b"\x02\0\x01", b"\x02\0\0\x01"];
        for tlvs in broken {
            assert_eq!(Tlv::Type(1).find(tlvs), Err(BadTlv::Broken), "{tlvs:?}");
        }
        assert_eq!(Tlv::SslVerify.find(b"\x20\0\x04\x01\0\0\0"), Err(BadTlv::Broken));
        assert_eq!(Tlv::SslVerify.find(b""), Ok(None));
    }

    #[test]
    fn written_headers_are_read() {
        let cases = [
            ("192.0.2.1:1234", "192.0.2.2:80", "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"),
            ("[2001:db8::1]:1", "[::1]:65535", "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
        ];
        for (source, destination, expected) in cases {
            let addr = |text: &str| text.parse().expect("an address");
            let mut out = Vec::new();
            write_v1(&mut out, Some((addr(source), addr(destination))));
            assert_eq!(out, expected.as_bytes());
            assert!(matches!(read(&out), Ok(Some(Header { proxied: Some(_), .. }))));
        }
        let mut out = Vec::new();
        write_v1(&mut out, None);
        assert_eq!(out, b"PROXY UNKNOWN\r\n");
    }
}
