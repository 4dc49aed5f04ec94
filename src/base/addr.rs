//! Addresses: what `listen`, `server`, `proxy_pass` and their kin write down, and how logs print them.
//!
//! In: the text of one parameter. Out: a [`Url`] with its host, ports and URI, and on request the [`Address`]es behind
//! it; or nginx's words for what is wrong, to which the caller adds the directive. The rule: what is accepted, and how
//! an address prints, is nginx's (`src/core/ngx_inet.c`); asking the system for a name happens at load only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ipnet::IpNet;

use super::{text, units};

/// Where a socket is bound or connected to. Displays as nginx prints it: `127.0.0.1:80`, `[::1]:80`, `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Inet(SocketAddr),
    /// Empty for a client that bound no path. nginx has no abstract sockets: `@name` is a file of that name.
    Unix(PathBuf),
}

impl Address {
    /// The address without its port, as `$remote_addr` shows it; for a unix socket, `unix:` and its path.
    pub fn host(&self) -> String {
        match self {
            Self::Inet(SocketAddr::V4(v4)) => dotted(*v4.ip()),
            Self::Inet(SocketAddr::V6(v6)) => Ip(IpAddr::V6(*v6.ip())).to_string(),
            Self::Unix(_) => self.to_string(),
        }
    }

    /// `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Inet(inet) => Some(inet.port()),
            Self::Unix(_) => None,
        }
    }
}

/// As `Display` writes it. Each connection has its client's in the log, and a formatter is twenty times as much work.
fn dotted(ip: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in ip.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        for (power, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text.push(char::from(b'0' + octet / power % 10));
            }
        }
    }
    text
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(SocketAddr::V4(v4)) => v4.fmt(f),
            Self::Inet(SocketAddr::V6(v6)) => write!(f, "[{}]:{}", Ip(IpAddr::V6(*v6.ip())), v6.port()),
            Self::Unix(path) => write!(f, "unix:{}", text::decode(path.as_os_str().as_bytes())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(inet: SocketAddr) -> Self {
        Self::Inet(inet)
    }
}

/// An IP address as nginx prints it: like the standard library, but the last four bytes of IPv4-compatible addresses
/// are dotted too.
pub struct Ip(pub IpAddr);

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = match self.0 {
            IpAddr::V4(v4) => return v4.fmt(f),
            IpAddr::V6(v6) => v6,
        };
        let groups = v6.segments();
        let zeros = groups.iter().take_while(|&&group| group == 0).count();
        let octets = v6.octets();
        let compatible = zeros == 6 || zeros == 7 && octets[14] != 0 && octets[15] != 1;
        if compatible {
            let [.., a, b, c, d] = octets;
            return write!(f, "::{}", Ipv4Addr::new(a, b, c, d));
        }
        if zeros == 7 {
            return write!(f, "::{:x}", groups[7]);
        }
        v6.fmt(f)
    }
}

/// What a caller of [`parse`] expects.
#[derive(Clone, Copy, Default)]
pub struct Form {
    /// `listen`: a port alone, a range of ports and `*` are understood.
    pub listen: bool,
    /// A URI may follow: `proxy_pass`.
    pub uri: bool,
    /// Where no port is written.
    pub default_port: u16,
}

/// A host and its ports, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub host: Host,
    /// The host as written, an IPv6 address in its brackets; the path of a unix socket; empty for a port alone.
    pub host_text: String,
    /// The first port and the last; both are the default port if `no_port`.
    pub port: u16,
    pub last_port: u16,
    /// The port or the range as written.
    pub port_text: String,
    pub no_port: bool,
    /// From its `/` or `?` on; behind a unix socket, what follows the second colon.
    pub uri: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    Name(String),
    Unix(PathBuf),
}

impl Url {
    /// Whether this is every address of the machine: `*`, `0.0.0.0`, `[::]` or a port alone.
    pub fn wildcard(&self) -> bool {
        matches!(self.host, Host::Ip(ip) if ip.is_unspecified())
    }

    /// All addresses: those of the host in the system's order, and for each all the ports. Asks the system about a name.
    pub fn addresses(&self) -> Result<Vec<Address>, &'static str> {
        let hosts = match &self.host {
            Host::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
            Host::Ip(ip) => vec![SocketAddr::new(*ip, 0)],
            Host::Name(name) => resolve(name)?,
        };
        let with_ports = hosts.into_iter().flat_map(|mut host| {
            (self.port..=self.last_port).map(move |port| {
                host.set_port(port);
                Address::Inet(host)
            })
        });
        Ok(with_ports.collect())
    }
}

/// Reads `host`, `host:port`, `[ipv6]:port`, `unix:/path`, and what `form` adds to them.
pub fn parse(text: &str, form: Form) -> Result<Url, &'static str> {
    if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:")) {
        return parse_unix(&text[5..], form);
    }
    match text.strip_prefix('[') {
        Some(rest) => parse_inet6(rest, form),
        None => parse_inet(text, form),
    }
}

/// The longest path that fits a socket address with its final zero.
const UNIX_PATH: usize = 107;

fn parse_unix(text: &str, form: Form) -> Result<Url, &'static str> {
    let (path, uri) = match text.split_once(':') {
        Some((path, uri)) if form.uri => (path, uri),
        _ => (text, ""),
    };
    if path.is_empty() {
        return Err("no path in the unix domain socket");
    }
    if text::bytes(path).len() > UNIX_PATH {
        return Err("too long path in the unix domain socket");
    }
    Ok(Url {
        host: Host::Unix(text::path(path)),
        host_text: path.to_owned(),
        port: 0,
        last_port: 0,
        port_text: String::new(),
        no_port: false,
        uri: uri.to_owned(),
    })
}

fn parse_inet(text: &str, form: Form) -> Result<Url, &'static str> {
    let (text, uri) = split_uri(text, ['/', '?'].as_slice(), form)?;
    if let Some((host, port)) = text.split_once(':') {
        let ports = parse_ports(port, form)?;
        return inet(host, Some((ports, port)), uri, form);
    }
    if form.listen
        && let Some(ports) = parse_port_alone(text)?
    {
        return Ok(Url { host_text: String::new(), ..inet("*", Some((ports, text)), uri, form)? });
    }
    inet(text, None, uri, form)
}

fn inet(host: &str, ports: Option<((u16, u16), &str)>, uri: &str, form: Form) -> Result<Url, &'static str> {
    if host.is_empty() {
        return Err("no host");
    }
    let address = match host {
        "*" if form.listen => Some(Ipv4Addr::UNSPECIFIED),
        _ => ipv4(host),
    };
    let meant = match address {
        Some(v4) => Host::Ip(IpAddr::V4(v4)),
        None => Host::Name(host.to_owned()),
    };
    Ok(url(meant, host, ports, uri, form))
}

fn parse_inet6(text: &str, form: Form) -> Result<Url, &'static str> {
    let (host, rest) = text.split_once(']').ok_or("invalid host")?;
    let (rest, uri) = split_uri(rest, ['/'].as_slice(), form)?;
    let ports = match rest.strip_prefix(':') {
        Some(port) => Some((parse_ports(port, form)?, port)),
        None if rest.is_empty() => None,
        None => return Err("invalid host"),
    };
    if host.is_empty() {
        return Err("no host");
    }
    let v6: Ipv6Addr = host.parse().map_err(|_| "invalid IPv6 address")?;
    Ok(url(Host::Ip(IpAddr::V6(v6)), &format!("[{host}]"), ports, uri, form))
}

/// `ports` is the range with its text; `None` where none is written.
fn url(host: Host, host_text: &str, ports: Option<((u16, u16), &str)>, uri: &str, form: Form) -> Url {
    let ((port, last_port), port_text) = ports.unwrap_or(((form.default_port, form.default_port), ""));
    Url {
        host,
        host_text: host_text.to_owned(),
        port,
        last_port,
        port_text: port_text.to_owned(),
        no_port: ports.is_none(),
        uri: uri.to_owned(),
    }
}

fn split_uri<'a>(text: &'a str, begin: &[char], form: Form) -> Result<(&'a str, &'a str), &'static str> {
    match text.find(begin) {
        None => Ok((text, "")),
        Some(_) if form.listen || !form.uri => Err("invalid host"),
        Some(at) => Ok(text.split_at(at)),
    }
}

/// The text behind a colon: a port or, for `listen`, a range.
fn parse_ports(text: &str, form: Form) -> Result<(u16, u16), &'static str> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) if form.listen => (first, Some(port(units::number(last)).ok_or("invalid port")?)),
        _ => (text, None),
    };
    let first = port(units::number(first)).ok_or("invalid port")?;
    range(first, last)
}

/// The whole text of a `listen` as a port or a range; `None` if it must be a host.
fn parse_port_alone(text: &str) -> Result<Option<(u16, u16)>, &'static str> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (units::number(first), Some(units::number(last))),
        None => (units::number(text), None),
    };
    if first.is_none() || last == Some(None) {
        return Ok(None);
    }
    let last = match last {
        Some(last) => Some(port(last).ok_or("invalid port")?),
        None => None,
    };
    range(port(first).ok_or("invalid port")?, last).map(Some)
}

fn range(first: u16, last: Option<u16>) -> Result<(u16, u16), &'static str> {
    match last {
        Some(last) if first > last => Err("invalid port range"),
        last => Ok((first, last.unwrap_or(first))),
    }
}

fn port(number: Option<u64>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok()).filter(|&port| port != 0)
}

/// Four decimal numbers. nginx counts the dots and takes nothing for zero, and reads 255.255.255.255 as no address.
pub fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut count = 0;
    for part in text.split('.') {
        let octet = octets.get_mut(count)?;
        count += 1;
        if !part.is_empty() {
            *octet = u8::try_from(units::number(part)?).ok()?;
        }
    }
    (count == 4 && octets != [255; 4]).then(|| Ipv4Addr::from(octets))
}

/// An address without brackets or port, as `set_real_ip_from` and `allow` take it.
pub fn ip(text: &str) -> Option<IpAddr> {
    ipv4(text).map(IpAddr::V4).or_else(|| text.parse().ok().map(IpAddr::V6))
}

/// A range of addresses, and whether bits were written that its mask drops, about which nginx warns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub net: IpNet,
    pub meaningless_bits: bool,
}

/// Reads `address` or `address/bits`.
pub fn cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(u8::try_from(units::number(bits)?).ok()?)),
        None => (text, None),
    };
    let address = ip(address)?;
    let written = match bits {
        Some(bits) => IpNet::new(address, bits).ok()?,
        None => IpNet::from(address),
    };
    let net = written.trunc();
    Some(Cidr { net, meaningless_bits: net != written })
}

/// The addresses of a name, in the order of getaddrinfo(3), with port 0.
pub fn resolve(name: &str) -> Result<Vec<SocketAddr>, &'static str> {
    const NOT_FOUND: &str = "host not found";
    let mut found: Vec<SocketAddr> = (name, 0).to_socket_addrs().map_err(|_| NOT_FOUND)?.collect();
    // nginx asks with AI_ADDRCONFIG: on a machine with addresses of one family only, the other is not wanted
    let families = Families::configured();
    let wanted = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => families.v4 || !families.v6,
        SocketAddr::V6(_) => families.v6 || !families.v4,
    };
    if found.iter().any(wanted) {
        found.retain(wanted);
    }
    if found.is_empty() { Err(NOT_FOUND) } else { Ok(found) }
}

/// Which families have an address beside the loopback ones.
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    fn configured() -> Self {
        let mut families = Self { v4: false, v6: false };
        for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            let Some(address) = interface.address else {
                continue;
            };
            families.v4 |= address.as_sockaddr_in().is_some_and(|v4| !SocketAddrV4::from(*v4).ip().is_loopback());
            families.v6 |= address.as_sockaddr_in6().is_some_and(|v6| !v6.ip().is_loopback());
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTEN: Form = Form { listen: true, uri: false, default_port: 80 };
    const SERVER: Form = Form { listen: false, uri: false, default_port: 80 };
    const PASS: Form = Form { listen: false, uri: true, default_port: 80 };

    /// Every address, and the URI behind a space; names stay names.
    fn shape(text: &str, form: Form) -> String {
        let url = match parse(text, form) {
            Ok(url) => url,
            Err(words) => return format!("!{words}"),
        };
        let hosts = match &url.host {
            Host::Name(name) => format!("{name}={}-{}", url.port, url.last_port),
            _ => {
                let all = url.addresses().expect("no name to resolve");
                all.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
            }
        };
        [&hosts[..], if url.wildcard() { "*" } else { "" }, if url.no_port { "?" } else { "" }, " ", &url.uri].concat()
    }

    #[test]
    fn listen_addresses() {
        let cases = [
            ("80", "0.0.0.0:80* "),
            ("8000-8002", "0.0.0.0:8000,0.0.0.0:8001,0.0.0.0:8002* "),
            ("8000-8000", "0.0.0.0:8000* "),
            ("*", "0.0.0.0:80*? "),
            ("*:8080", "0.0.0.0:8080* "),
            ("127.0.0.1", "127.0.0.1:80? "),
            ("127.0.0.1:8080", "127.0.0.1:8080 "),
            ("127.0.0.1:8000-8001", "127.0.0.1:8000,127.0.0.1:8001 "),
            ("0.0.0.0:80", "0.0.0.0:80* "),
            ("[::]:80", "[::]:80* "),
            ("[::1]", "[::1]:80? "),
            ("[::1]:8000-8001", "[::1]:8000,[::1]:8001 "),
            ("localhost", "localhost=80-80? "),
            ("localhost:8080", "localhost=8080-8080 "),
            ("unix:/run/a.sock", "unix:/run/a.sock "),
            ("UNIX:a", "unix:a "),
            ("unix:a:b", "unix:a:b "),
            ("my-host", "my-host=80-80? "),
            ("80-x", "80-x=80-80? "),
            ("x-80", "x-80=80-80? "),
            ("x-70000", "x-70000=80-80? "),
            ("", "!no host"),
            (":80", "!no host"),
            ("0", "!invalid port"),
            ("65536", "!invalid port"),
            ("80-70000", "!invalid port"),
            ("70000-80", "!invalid port"),
            ("90-80", "!invalid port range"),
            ("*:90-80", "!invalid port range"),
            ("[::1]:90-80", "!invalid port range"),
            ("127.0.0.1:", "!invalid port"),
            ("127.0.0.1:0", "!invalid port"),
            ("127.0.0.1:x", "!invalid port"),
            ("127.0.0.1:80-", "!invalid port"),
            ("127.0.0.1:99999999999999999999", "!invalid port"),
            ("127.0.0.1/x", "!invalid host"),
            ("80/", "!invalid host"),
            ("[::1", "!invalid host"),
            ("[::1]80", "!invalid host"),
            ("[::1]/", "!invalid host"),
            ("[]:80", "!no host"),
            ("[::x]:80", "!invalid IPv6 address"),
            ("[1.2.3.4]:80", "!invalid IPv6 address"),
            ("[::1]:", "!invalid port"),
            ("unix:", "!no path in the unix domain socket"),
            ("::1", "!invalid port"),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(text, LISTEN), expected, "{text}");
        }
    }

    #[test]
    fn upstream_addresses() {
        let cases = [
            ("80", SERVER, "80=80-80? "),
            ("*", SERVER, "*=80-80? "),
            ("1.2.3.4:5-6", SERVER, "!invalid port"),
            ("1.2.3.4", SERVER, "1.2.3.4:80? "),
            ("host/x", SERVER, "!invalid host"),
            ("host/x", PASS, "host=80-80? /x"),
            ("host:8080/x:y", PASS, "host=8080-8080 /x:y"),
            ("host/x:y", PASS, "host=80-80? /x:y"),
            ("host?a/b", PASS, "host=80-80? ?a/b"),
            ("host:8080?a", PASS, "host=8080-8080 ?a"),
            ("host:/x", PASS, "!invalid port"),
            ("/x", PASS, "!no host"),
            ("[::1]/x", PASS, "[::1]:80? /x"),
            ("[::1]:8080/x", PASS, "[::1]:8080 /x"),
            ("[::1]?x", PASS, "!invalid host"),
            ("unix:/a:/b:c", PASS, "unix:/a /b:c"),
            ("unix:/a/b", PASS, "unix:/a/b "),
            ("unix:/a:/b", SERVER, "unix:/a:/b "),
            ("unix::/b", PASS, "!no path in the unix domain socket"),
        ];
        for (text, form, expected) in cases {
            assert_eq!(shape(text, form), expected, "{text}");
        }
    }

    #[test]
    fn unix_paths_fit_a_socket_address() {
        let path = |length| format!("unix:{}", "x".repeat(length));
        assert!(parse(&path(107), SERVER).is_ok());
        assert_eq!(parse(&path(108), SERVER), Err("too long path in the unix domain socket"));
    }

    #[test]
    fn ipv4_as_nginx_counts() {
        let cases = [
            ("1.2.3.4", Some([1, 2, 3, 4])),
            ("01.002.3.4", Some([1, 2, 3, 4])),
            ("1..3.", Some([1, 0, 3, 0])),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("1.2.3.256", None),
            ("255.255.255.255", None),
            ("1.2.3.x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(ipv4(text).map(|v4| v4.octets()), expected, "{text}");
        }
    }

    #[test]
    fn ipv6_prints_as_in_nginx() {
        let cases = [
            ("::", "::"),
            ("::1", "::1"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("::1.2.3.4", "::1.2.3.4"),
            ("::1:2", "::0.1.0.2"),
            ("::0102", "::0.0.1.2"),
            ("::0101", "::101"),
            ("::2", "::2"),
            ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("1:0:0:2::", "1:0:0:2::"),
            ("fe80::", "fe80::"),
        ];
        for (text, expected) in cases {
            let ip: Ipv6Addr = text.parse().expect("an address");
            assert_eq!(Ip(IpAddr::V6(ip)).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn dotted_is_as_displayed() {
        for text in ["0.0.0.0", "255.255.255.255", "1.20.100.9", "10.0.99.101"] {
            assert_eq!(dotted(text.parse().expect(text)), text);
        }
    }

    #[test]
    fn hosts_have_no_port() {
        let host = |text| parse(text, SERVER).and_then(|url| url.addresses()).map(|all| all[0].host());
        assert_eq!(host("127.0.0.1:80"), Ok("127.0.0.1".into()));
        assert_eq!(host("[::1]:80"), Ok("::1".into()));
        assert_eq!(host("unix:/a"), Ok("unix:/a".into()));
    }

    #[test]
    fn ranges() {
        let cases = [
            ("10.0.0.0/8", Some(("10.0.0.0/8", false))),
            ("10.1.2.3/8", Some(("10.0.0.0/8", true))),
            ("10.1.2.3", Some(("10.1.2.3/32", false))),
            ("0.0.0.0/0", Some(("0.0.0.0/0", false))),
            ("::1", Some(("::1/128", false))),
            ("2001:db8::1/32", Some(("2001:db8::/32", true))),
            ("10.0.0.0/33", None),
            ("::/129", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/255.0.0.0", None),
            ("10.0.0/8", None),
            ("all", None),
            ("unix:", None),
        ];
        for (text, expected) in cases {
            let range = cidr(text).map(|cidr| (cidr.net.to_string(), cidr.meaningless_bits));
            assert_eq!(range, expected.map(|(net, bits)| (net.to_owned(), bits)), "{text}");
        }
    }

    #[test]
    fn names_are_asked_of_the_system() {
        let all = parse("localhost:8080", SERVER).and_then(|url| url.addresses()).expect("localhost is known");
        assert!(all.contains(&Address::Inet(SocketAddr::from(([127, 0, 0, 1], 8080)))), "{all:?}");
        let too_long = "x".repeat(300); // refused before any server is asked
        let unknown = parse(&too_long, SERVER).and_then(|url| url.addresses());
        assert_eq!(unknown, Err("host not found"));
    }
}
