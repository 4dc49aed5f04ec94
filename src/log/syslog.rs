//! Syslog: log lines as RFC 3164 datagrams, over UDP or a unix socket.
//!
//! In: the words behind `syslog:` and lines. Out: one datagram per line, `<PRI>Nov 22 10:00:00 host tag: line`.
//! Rules: sending never waits; what the socket does not take is lost, and a peer that fails is named once a minute.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::batch;
use super::error::{self, Context, Level};
use super::line::MAX_LINE;
use super::writer::lock;
use crate::base::{addr, clock};

/// The port of a syslog server that is named without one.
pub const DEFAULT_PORT: u16 = 514;

const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Where datagrams go. The configuration's address reader makes it of the word after `server=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Udp(SocketAddr),
    Unix(PathBuf),
}

/// Reads `host[:port]` or `unix:path`, asking the system about a name; for [`Reader::address`].
pub fn address(word: &str) -> Result<Address, String> {
    let url = addr::parse(word, addr::Form { default_port: DEFAULT_PORT, ..addr::Form::default() })?;
    match url.addresses()?.into_iter().next() {
        Some(addr::Address::Inet(server)) => Ok(Address::Udp(server)),
        Some(addr::Address::Unix(path)) => Ok(Address::Unix(path)),
        None => Err("host not found".into()),
    }
}

/// What reading the words behind `syslog:` needs from outside.
pub struct Reader<'a> {
    /// Makes an address of `host[:port]` or `unix:path`; an error is nginx's words for it, such as `host not found`.
    pub address: &'a dyn Fn(&str) -> Result<Address, String>,
    pub hostname: &'a str,
}

/// One syslog server as one directive names it. The socket is opened with the first line.
#[derive(Debug)]
pub struct Peer {
    address: Address,
    /// The address as it was written, for messages.
    name: String,
    facility: u8,
    severity: u8,
    tag: String,
    /// `None`: `nohostname`.
    hostname: Option<String>,
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    socket: Option<Arc<Socket>>,
    reported: Option<Instant>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Peer {
    /// Reads `server=…,facility=…,severity=…,tag=…,nohostname`. The error is nginx's sentence.
    pub fn parse(words: &str, reader: &Reader<'_>) -> Result<Self, String> {
        let (mut server, mut facility, mut severity, mut tag, mut nohostname) = (None, None, None, None, false);
        for word in words.split(',') {
            if let Some(address) = word.strip_prefix("server=") {
                refuse_second(&server, "server")?;
                let parsed = (reader.address)(address);
                server = Some((parsed.map_err(|e| format!("{e} in syslog server \"{address}\""))?, address));
            } else if let Some(name) = word.strip_prefix("facility=") {
                refuse_second(&facility, "facility")?;
                facility = Some(index(&FACILITIES, name).ok_or(format!("unknown syslog facility \"{name}\""))?);
            } else if let Some(name) = word.strip_prefix("severity=") {
                refuse_second(&severity, "severity")?;
                severity = Some(index(&SEVERITIES, name).ok_or(format!("unknown syslog severity \"{name}\""))?);
            } else if let Some(text) = word.strip_prefix("tag=") {
                refuse_second(&tag, "tag")?;
                tag = Some(checked_tag(text)?);
            } else if word == "nohostname" {
                nohostname = true;
            } else {
                return Err(format!("unknown syslog parameter \"{word}\""));
            }
        }
        let (address, name) = server.ok_or("no syslog server specified")?;
        Ok(Self {
            address,
            name: name.to_owned(),
            facility: facility.unwrap_or(LOCAL7),
            severity: severity.unwrap_or(INFO),
            // What collectors sort nginx's lines by.
            tag: tag.unwrap_or("nginx").to_owned(),
            hostname: (!nohostname).then(|| reader.hostname.to_owned()),
            link: Mutex::default(),
        })
    }

    /// Sends an access line, given without its newline, with the severity of the configuration.
    pub fn send(&self, line: &[u8]) {
        self.datagram(self.severity, line);
    }

    /// Sends an error log line with the severity of its level.
    pub(super) fn send_error(&self, level: Level, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.datagram(level as u8 - 1, &line[..line.len().min(MAX_LINE)]);
    }

    fn datagram(&self, severity: u8, line: &[u8]) {
        let outcome = self
            .socket()
            .map_err(|e| ("connect()", e))
            .and_then(|socket| socket.send(&self.message(severity, line)).map_err(|e| ("send()", e)));
        let Err((call, e)) = outcome else { return };
        if e.kind() == io::ErrorKind::WouldBlock {
            return; // the line is lost, the socket is well
        }
        {
            let mut link = lock(&self.link);
            link.socket = None;
            if link.reported.is_some_and(|then| then.elapsed() < REPORT_EVERY) {
                return;
            }
            link.reported = Some(Instant::now());
        }
        if let Some(main) = error::main() {
            let server = format!(", server: {}", self.name);
            let context = Context { action: "logging to syslog", session: server.as_bytes(), ..Context::default() };
            let level = if e.kind() == io::ErrorKind::ConnectionRefused { Level::Error } else { Level::Alert };
            main.write_os(level, &context, e.raw_os_error().unwrap_or(0), format_args!("{call} failed"));
        }
    }

    // RFC 3164, 4.1
    fn message(&self, severity: u8, line: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(64 + line.len());
        message.extend_from_slice(format!("<{}>", self.facility * 8 + severity).as_bytes());
        message.extend_from_slice(batch::in_time(clock::syslog_time).as_bytes());
        for word in self.hostname.as_deref().into_iter().chain([&*self.tag]) {
            message.push(b' ');
            message.extend_from_slice(word.as_bytes());
        }
        message.extend_from_slice(b": ");
        message.extend_from_slice(line);
        message
    }

    fn socket(&self) -> io::Result<Arc<Socket>> {
        let mut link = lock(&self.link);
        if let Some(socket) = &link.socket {
            return Ok(socket.clone());
        }
        let socket = Arc::new(Socket::connect(&self.address)?);
        link.socket = Some(socket.clone());
        Ok(socket)
    }
}

impl Socket {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Udp(server) => {
                let any: SocketAddr = match server {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                socket.connect(server)?;
                Ok(Self::Udp(socket))
            }
            Address::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                Ok(Self::Unix(socket))
            }
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(message),
            Self::Unix(socket) => socket.send(message),
        }
    }
}

/// The host's name as syslog lines carry it.
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().to_lowercase()
}

fn refuse_second<T>(first: &Option<T>, name: &str) -> Result<(), String> {
    if first.is_some() { Err(format!("duplicate syslog \"{name}\"")) } else { Ok(()) }
}

// RFC 3164, 4.1.3: the tag is alphanumeric and at most 32 characters long. nginx allows the underscore.
fn checked_tag(tag: &str) -> Result<&str, String> {
    if tag.len() > 32 {
        return Err("syslog tag length exceeds 32".into());
    }
    if tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(tag);
    }
    Err("syslog \"tag\" only allows alphanumeric characters and underscore".into())
}

fn index(names: &[&str], name: &str) -> Option<u8> {
    names.iter().position(|&known| known == name).and_then(|at| u8::try_from(at).ok())
}

const LOCAL7: u8 = 23;
const INFO: u8 = 6;

// RFC 3164, 4.1.1, in nginx's words: `error` and `warn`, not `err` and `warning`.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp", "ntp",
    "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::error::tests::{Kept, alone};

    fn peer(words: &str) -> Result<Peer, String> {
        Peer::parse(words, &Reader { address: &address, hostname: "host" })
    }

    fn receive(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");
        let mut datagram = [0; 4096];
        let length = socket.recv(&mut datagram).expect("a datagram");
        String::from_utf8_lossy(&datagram[..length]).into_owned()
    }

    /// The sentences are those of nginx 1.31.5.
    #[test]
    fn words() {
        let bad = [
            ("", "unknown syslog parameter \"\""),
            ("tag=a", "no syslog server specified"),
            ("server=127.0.0.1,", "unknown syslog parameter \"\""),
            ("server=127.0.0.1,nohostname=1", "unknown syslog parameter \"nohostname=1\""),
            ("server=127.0.0.1,server=127.0.0.1", "duplicate syslog \"server\""),
            ("server=", "no host in syslog server \"\""),
            ("server=127.0.0.1,facility=x", "unknown syslog facility \"x\""),
            ("server=127.0.0.1,facility=kern,facility=kern", "duplicate syslog \"facility\""),
            ("server=127.0.0.1,severity=err", "unknown syslog severity \"err\""),
            ("server=127.0.0.1,severity=warn,severity=warn", "duplicate syslog \"severity\""),
            ("server=127.0.0.1,tag=a,tag=b", "duplicate syslog \"tag\""),
            ("server=127.0.0.1,tag=a-b", "syslog \"tag\" only allows alphanumeric characters and underscore"),
            ("server=127.0.0.1,tag=123456789012345678901234567890123", "syslog tag length exceeds 32"),
        ];
        for (words, sentence) in bad {
            assert_eq!(peer(words).map(|_| ()), Err(sentence.to_owned()), "{words}");
        }
        let peer = peer("severity=debug,server=127.0.0.1,facility=kern,tag=a_B9,nohostname").expect("good words");
        assert_eq!((peer.facility, peer.severity, &*peer.tag, &peer.hostname), (0, 7, "a_B9", &None));
        assert_eq!(peer.address, Address::Udp(([127, 0, 0, 1], 514).into()));
    }

    /// What nginx 1.31.5 sent, but for the time.
    #[test]
    fn datagrams() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).expect("a socket");
        let server_word = format!("server=unix:{}", path.display());
        let by_default = peer(&server_word).expect("good words");
        by_default.send(b"line");
        let sent = receive(&server);
        assert_eq!((&sent[..5], &sent[20..]), ("<190>", " host nginx: line"));
        let own = peer(&format!("{server_word},tag=a_B9,facility=kern,nohostname")).expect("good words");
        own.send_error(Level::Error, b"2026/11/22 10:00:00 [error] 1#1: message\n");
        let sent = receive(&server);
        assert_eq!((&sent[..3], &sent[18..]), ("<3>", " a_B9: 2026/11/22 10:00:00 [error] 1#1: message"));
    }

    #[test]
    fn a_peer_that_fails_is_named_once_and_tried_again() {
        let _alone = alone();
        let kept = Kept::new();
        error::set_main(kept.log(Level::Error));
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let peer = peer(&format!("server=unix:{}", path.display())).expect("good words");
        peer.send(b"lost");
        peer.send(b"lost");
        let server = UnixDatagram::bind(&path).expect("a socket");
        peer.send(b"found");
        assert!(receive(&server).ends_with(": found"));
        let name = format!("unix:{}", path.display());
        let expected =
            format!("[alert] connect() failed (2: No such file or directory) while logging to syslog, server: {name}");
        assert_eq!(kept.lines("error.log"), [expected]);
    }

    #[test]
    fn udp() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        server.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");
        let port = server.local_addr().expect("bound").port();
        let peer = peer(&format!("server=127.0.0.1:{port},severity=warn")).expect("good words");
        peer.send(b"line");
        let mut datagram = [0; 100];
        let length = server.recv(&mut datagram).expect("a datagram");
        assert!(datagram[..length].starts_with(b"<188>") && datagram[..length].ends_with(b" host nginx: line"));
    }
}
