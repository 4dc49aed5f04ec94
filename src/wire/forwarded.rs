//! `X-Forwarded-For: 192.0.2.1, 198.51.100.7`: who a client is, as the proxies between say it.
//!
//! In: who is connected, the lines of the field, and whose word is believed. Out: the address that the last believed one
//! has named. The rule: a line is read from its end, for each proxy has added what it saw; an address counts only if
//! who named it is believed. nginx: `ngx_http_get_forwarded_addr`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::base::addr::{self, Address};

/// Whose word is believed.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    pub nets: Vec<IpNet>,
    /// Whoever comes over a unix socket.
    pub unix: bool,
}

impl Trusted {
    pub fn has(&self, whom: &Address) -> bool {
        match whom {
            Address::Unix(_) => self.unix,
            Address::Inet(inet) => {
                let ip = unmapped(inet.ip());
                self.nets.iter().any(|net| net.contains(&ip))
            }
        }
    }
}

/// An IPv4 address that an IPv6 socket shows (`::ffff:192.0.2.1`) as itself.
pub fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// The client behind `from`. The last line is asked first, and with `recursive` the address that it begins with may have
/// the line before asked. `None`: nobody whose word is believed has named an address.
pub fn client<'a>(
    from: &Address,
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &Trusted,
    recursive: bool,
) -> Option<Address> {
    let mut found: Option<Address> = None;
    for line in lines.rev() {
        let mut rest = line;
        loop {
            if !trusted.has(found.as_ref().unwrap_or(from)) {
                return found;
            }
            let (before, last) = split_last(rest);
            let Some(address) = address(last) else { return found };
            found = Some(Address::Inet(address));
            match before {
                Some(before) if recursive => rest = before,
                Some(_) => return found,
                None => break,
            }
        }
        if !recursive {
            break;
        }
    }
    found
}

/// The last word of a line, and what stands before its separator; `None` where nothing does.
fn split_last(line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let separates = |byte: &u8| matches!(byte, b' ' | b',');
    // nginx: the first byte separates nothing.
    let Some((_, tail)) = line.split_first() else { return (None, line) };
    let end = 1 + tail.iter().rposition(|byte| !separates(byte)).map_or(0, |last| last + 1);
    let word = &line[..end];
    match tail[..end - 1].iter().rposition(separates) {
        Some(at) => (Some(&line[..=at]), &word[at + 2..]),
        None => (None, word),
    }
}

/// Reads an address with or without a port, which is 0 where none is written: `192.0.2.1:80`, `[::1]:80`, `::1`.
pub fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(ip) = addr::ip(text) {
        return Some(SocketAddr::new(ip, 0));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port),
                None if rest.is_empty() => return Some(SocketAddr::new(addr::ip(host)?, 0)),
                None => return None,
            }
        }
        None => text.split_once(':')?,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = digits.then(|| port.parse().ok())??;
    (port != 0).then(|| addr::ip(host).map(|ip| SocketAddr::new(ip, port)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(nets: &[&str]) -> Trusted {
        Trusted { nets: nets.iter().map(|net| addr::cidr(net).expect("a net").net).collect(), unix: true }
    }

    #[test]
    fn an_address_counts_if_who_named_it_is_believed() {
        let proxies = trusted(&["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
        let local = Address::Inet(SocketAddr::from(([127, 0, 0, 1], 1000)));
        let stranger = Address::Inet(SocketAddr::from(([10, 0, 0, 1], 1000)));
        for (lines, once, recursive) in [
            (&["192.0.2.1"][..], Some("192.0.2.1:0"), Some("192.0.2.1:0")),
            (&["10.0.0.1, 192.0.2.1"], Some("192.0.2.1:0"), Some("10.0.0.1:0")),
            (&["10.0.0.2,10.0.0.1 ,, 192.0.2.1 , "], Some("192.0.2.1:0"), Some("10.0.0.1:0")),
            (&["192.0.2.9", "192.0.2.1"], Some("192.0.2.1:0"), Some("192.0.2.9:0")),
            (&["10.0.0.1", "unknown, 192.0.2.1"], Some("192.0.2.1:0"), Some("192.0.2.1:0")),
            (&["10.0.0.1", "unknown"], None, None),
            (&["10.0.0.1", ""], None, None),
            (&["[2001:db8::1]:99, 2001:db8::2"], Some("[2001:db8::2]:0"), Some("[2001:db8::1]:99")),
            (&["192.0.2.1:99"], Some("192.0.2.1:99"), Some("192.0.2.1:99")),
            (&["192.0.2.1:0"], None, None),
            (&[",192.0.2.1"], None, None),
            (&[" "], None, None),
            (&[], None, None),
        ] {
            let shown = |recursive| {
                let lines = lines.iter().map(|line| line.as_bytes());
                client(&local, lines, &proxies, recursive).map(|found| found.to_string())
            };
            assert_eq!(shown(false).as_deref(), once, "{lines:?}");
            assert_eq!(shown(true).as_deref(), recursive, "{lines:?}, recursive");
            let lines = lines.iter().map(|line| line.as_bytes());
            assert_eq!(client(&stranger, lines, &proxies, true), None);
        }
    }

    #[test]
    fn who_is_believed() {
        let some = trusted(&["192.0.2.0/24"]);
        let inet = |text: &[u8]| Address::Inet(address(text).expect("an address"));
        assert!(some.has(&inet(b"192.0.2.1")) && some.has(&inet(b"[::ffff:192.0.2.1]:80")));
        assert!(!some.has(&inet(b"192.0.3.1")) && !some.has(&inet(b"::1")));
        assert!(some.has(&Address::Unix("".into())) && !Trusted::default().has(&Address::Unix("".into())));
        for bad in ["", "[::1", "[::1]80", "192.0.2.1:", "192.0.2.1:+1", "192.0.2.1:65536", "localhost:80", "1.2.3"] {
            assert_eq!(address(bad.as_bytes()), None, "{bad}");
        }
    }
}
