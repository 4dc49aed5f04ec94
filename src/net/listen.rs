//! Listening sockets: opened by the master with the options that `listen` asked for, kept over reloads.
//!
//! In: what the configuration wants, and the sockets of the configuration before. Out: open sockets, the same socket
//! for the same address, so that no waiting connection is lost. The rule: a failure leaves the old sockets as they
//! were. Order of calls and words of messages are nginx's (`src/core/ngx_connection.c`), which its tests and its
//! operators' eyes know.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::SetSockOpt;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::defer::DeferAccept;
use super::unpaced;
pub use crate::base::addr::Address;
use crate::conf::error::Fault;
use crate::log::error::errno_text;
use crate::log::{Context, ErrorLog, Level};

/// nginx's NGX_LISTEN_BACKLOG on Linux.
pub const BACKLOG: i32 = 511;
/// nginx tries as often, and waits as long in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// The parameters of `listen` that belong to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub address: Address,
    pub backlog: i32,
    pub rcvbuf: Option<usize>,
    pub sndbuf: Option<usize>,
    /// A socket for each worker thread, and the kernel shares the connections out.
    pub reuseport: bool,
    /// For IPv6 only: take no IPv4 connections.
    pub ipv6only: bool,
    /// Wake up only when the first bytes have come.
    pub deferred: bool,
    pub fastopen: Option<u32>,
    pub keepalive: Keepalive,
    pub multipath: bool,
}

/// `so_keepalive`; in `Tuned`, what is `None` stays the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keepalive {
    System,
    Off,
    On,
    Tuned { idle: Option<Duration>, interval: Option<Duration>, count: Option<u32> },
}

impl Options {
    /// The defaults of `listen ADDRESS;`.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            backlog: BACKLOG,
            rcvbuf: None,
            sndbuf: None,
            reuseport: false,
            ipv6only: true,
            deferred: false,
            fastopen: None,
            keepalive: Keepalive::System,
            multipath: false,
        }
    }

    /// Whether it is ours to say when connections are handed over: they are TCP's, and `deferred` is not given.
    pub fn may_defer(&self) -> bool {
        matches!(self.address, Address::Inet(_)) && !self.deferred
    }

    /// How many sockets the address gets.
    pub fn sockets(&self, threads: usize) -> usize {
        // Only IP sockets can share an address.
        if self.reuseport && matches!(self.address, Address::Inet(_)) { threads.max(1) } else { 1 }
    }
}

/// One address that is listened on, and its sockets: one, which all threads accept from, or with `reuseport` one for
/// each thread.
#[derive(Clone, Debug)]
pub struct Listener {
    pub options: Options,
    pub sockets: Vec<Arc<OwnedFd>>,
    /// Another process opened them, and looks after the file of a unix socket as long as it is there.
    pub inherited: bool,
}

impl Listener {
    /// A listener of sockets that another process opened; `Err` says, in nginx's words, why `socket` is none. Sockets
    /// of the same address come together by [`Listener::join`].
    pub fn inherited(socket: OwnedFd) -> Result<Self, String> {
        let number = socket.as_raw_fd();
        let view = SockRef::from(&socket);
        let bound = view
            .local_addr()
            .map_err(|error| format!("getsockname() of the inherited socket #{number} failed{}", said(&error)))?;
        let unsupported = || format!("the inherited socket #{number} has an unsupported protocol family");
        let address = match (bound.as_socket(), bound.as_pathname()) {
            (Some(inet), _) => Address::Inet(inet),
            (None, Some(path)) => Address::Unix(path.to_owned()),
            (None, None) => return Err(unsupported()),
        };
        if view.r#type().map_err(|error| format!("getsockopt(SO_TYPE) {address} failed{}", said(&error)))?
            != Type::STREAM
        {
            return Err(unsupported());
        }
        // Nobody says how long its queue is: one that was never told will be told now.
        let mut options = Options { backlog: 0, ..Options::new(address) };
        options.reuseport = view.reuse_port().unwrap_or(false);
        options.multipath = view.protocol().is_ok_and(|protocol| protocol == Some(Protocol::MPTCP));
        // A service manager's may block.
        view.set_nonblocking(true)
            .map_err(|error| format!("ioctl(FIONBIO) {} failed{}", options.address, said(&error)))?;
        Ok(Self { options, sockets: vec![Arc::new(socket)], inherited: true })
    }

    /// Puts sockets of one address together, as with `reuseport`.
    pub fn join(listeners: Vec<Self>) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        for listener in listeners {
            match joined.iter_mut().find(|known| known.options.address == listener.options.address) {
                Some(known) => known.sockets.extend(listener.sockets),
                None => joined.push(listener),
            }
        }
        joined
    }
}

/// Whether this is `-t`, which tries what it can and disturbs nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Serve,
    Test,
}

/// Opens what is `wanted`, taking over what `previous` has. Blocks while it waits for an address in use.
pub fn open(
    wanted: &[Options],
    previous: &[Listener],
    threads: usize,
    purpose: Purpose,
    log: &ErrorLog,
) -> Result<Vec<Listener>, Fault> {
    let mut listeners: Vec<Listener> = wanted.iter().map(|options| inherit(options, previous, threads, log)).collect();
    for attempt in 1.. {
        let mut in_use = false;
        for listener in &mut listeners {
            while listener.sockets.len() < listener.options.sockets(threads) {
                match create(&listener.options, purpose, log)? {
                    Some(socket) => listener.sockets.push(Arc::new(socket)),
                    None if purpose == Purpose::Serve => {
                        in_use = true;
                        break;
                    }
                    // nginx: `-t` beside a running server finds its addresses in use, and that is well
                    None => break,
                }
            }
        }
        if !in_use {
            break;
        }
        if attempt == TRIES {
            return Err(Fault::new("still could not bind()"));
        }
        log.write(Level::Notice, &Context::default(), format_args!("try again to bind() after 500ms"));
        std::thread::sleep(PAUSE);
    }
    if purpose == Purpose::Serve {
        for listener in &listeners {
            configure(listener, previous_of(&listener.options, previous), log);
        }
    }
    Ok(listeners)
}

/// Removes the file of a unix socket that is listened on no more.
pub fn remove_file(listener: &Listener, log: &ErrorLog) {
    if let Address::Unix(path) = &listener.options.address
        && let Err(error) = std::fs::remove_file(path)
    {
        failed(log, Level::Emerg, &error, format_args!("unlink() {} failed", path.display()));
    }
}

/// The listener for the same address in `previous`.
pub fn previous_of<'a>(options: &Options, previous: &'a [Listener]) -> Option<&'a Listener> {
    previous.iter().find(|listener| listener.options.address == options.address)
}

/// A listener with as many sockets of the old one as it can use.
fn inherit(options: &Options, previous: &[Listener], threads: usize, log: &ErrorLog) -> Listener {
    let (mut sockets, mut inherited) = (Vec::new(), false);
    if let Some(old) = previous_of(options, previous) {
        // Another protocol needs another socket; the old one lets it in.
        let usable = old.options.multipath == options.multipath;
        if (options.reuseport && !old.options.reuseport) || !usable {
            for socket in &old.sockets {
                if let Err(error) = SockRef::from(&**socket).set_reuse_port(true) {
                    let address = &options.address;
                    failed(
                        log,
                        Level::Alert,
                        &error,
                        format_args!("setsockopt(SO_REUSEPORT) {address} failed, ignored"),
                    );
                }
            }
        }
        if usable {
            sockets.extend(old.sockets.iter().take(options.sockets(threads)).cloned());
            inherited = old.inherited;
        }
    }
    Listener { options: options.clone(), sockets, inherited }
}

/// A new socket that listens; `None` when the address is in use.
fn create(options: &Options, purpose: Purpose, log: &ErrorLog) -> Result<Option<OwnedFd>, Fault> {
    let address = &options.address;
    let fault =
        |call: &str, error: io::Error| Fault::new(format!("{call} {address} failed{}", errno_text(code(&error))));
    let (domain, protocol, target) = match address {
        Address::Inet(inet) => {
            let protocol = if options.multipath { Protocol::MPTCP } else { Protocol::TCP };
            (Domain::for_address(*inet), Some(protocol), SockAddr::from(*inet))
        }
        Address::Unix(path) => {
            let target = SockAddr::unix(path).map_err(|error| fault("bind() to", error))?;
            (Domain::UNIX, None, target)
        }
    };
    let socket = Socket::new(domain, Type::STREAM, protocol).map_err(|error| fault("socket()", error))?;
    socket.set_reuse_address(true).map_err(|error| fault("setsockopt(SO_REUSEADDR)", error))?;
    if options.reuseport && matches!(address, Address::Inet(_)) && purpose == Purpose::Serve {
        socket.set_reuse_port(true).map_err(|error| fault("setsockopt(SO_REUSEPORT)", error))?;
    }
    if domain == Domain::IPV6
        && let Err(error) = socket.set_only_v6(options.ipv6only)
    {
        failed(log, Level::Emerg, &error, format_args!("setsockopt(IPV6_V6ONLY) {address} failed, ignored"));
    }
    socket.set_nonblocking(true).map_err(|error| fault("ioctl(FIONBIO)", error))?;

    if let Err(error) = socket.bind(&target) {
        return refused(error, |error| fault("bind() to", error), purpose, log);
    }
    if let Address::Unix(path) = address {
        share_file(path, purpose, log);
    }
    if let Err(error) = socket.listen(options.backlog) {
        let call = format!("listen() to {address}, backlog {}", options.backlog);
        return refused(error, |error| Fault::new(format!("{call} failed{}", errno_text(code(&error)))), purpose, log);
    }
    Ok(Some(socket.into()))
}

/// An address in use is worth another try, and in a test no failure at all; anything else is final.
fn refused(
    error: io::Error,
    fault: impl FnOnce(io::Error) -> Fault,
    purpose: Purpose,
    log: &ErrorLog,
) -> Result<Option<OwnedFd>, Fault> {
    if error.kind() != io::ErrorKind::AddrInUse {
        return Err(fault(error));
    }
    if purpose == Purpose::Serve {
        log.write(Level::Emerg, &Context::default(), format_args!("{}", fault(error)));
    }
    Ok(None)
}

/// Lets everybody connect, as nginx does: who may is the business of the directory.
fn share_file(path: &Path, purpose: Purpose, log: &ErrorLog) {
    let everybody = std::fs::Permissions::from_mode(0o666);
    if let Err(error) = std::fs::set_permissions(path, everybody) {
        failed(log, Level::Emerg, &error, format_args!("chmod() \"{}\" failed", path.display()));
    }
    if purpose == Purpose::Test
        && let Err(error) = std::fs::remove_file(path)
    {
        failed(log, Level::Emerg, &error, format_args!("unlink() {} failed", path.display()));
    }
}

sockopt_impl!(
    /// The length of the queue of connections that came with data and are not confirmed yet.
    FastOpen, SetOnly, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, libc::c_int
);

/// Sets what can also be changed on a socket that is already open. What fails is logged and left.
fn configure(listener: &Listener, previous: Option<&Listener>, log: &ErrorLog) {
    let Options { address, backlog, rcvbuf, sndbuf, deferred, fastopen, keepalive, .. } = &listener.options;
    let check = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            failed(log, Level::Alert, &error, format_args!("setsockopt({what}) {address} failed, ignored"));
        }
    };
    for socket in &listener.sockets {
        let socket = SockRef::from(&**socket);
        if let Address::Inet(_) = address {
            // Connections inherit it: answers leave as they are written, and no connection costs a call of its own.
            check("TCP_NODELAY, 1", socket.set_tcp_nodelay(true));
            check("TCP_CONGESTION, reno", unpaced::spare(&*socket, address));
        }
        if let Some(size) = rcvbuf {
            check(&format!("SO_RCVBUF, {size}"), socket.set_recv_buffer_size(*size));
        }
        if let Some(size) = sndbuf {
            check(&format!("SO_SNDBUF, {size}"), socket.set_send_buffer_size(*size));
        }
        match keepalive {
            Keepalive::System => {}
            Keepalive::Off => check("SO_KEEPALIVE, 0", socket.set_keepalive(false)),
            Keepalive::On => check("SO_KEEPALIVE, 1", socket.set_keepalive(true)),
            Keepalive::Tuned { idle, interval, count } => {
                let mut tuned = TcpKeepalive::new();
                tuned = idle.map_or(tuned.clone(), |idle| tuned.with_time(idle));
                tuned = interval.map_or(tuned.clone(), |interval| tuned.with_interval(interval));
                tuned = count.map_or(tuned.clone(), |count| tuned.with_retries(count));
                check("SO_KEEPALIVE, 1", socket.set_tcp_keepalive(&tuned));
            }
        }
        if let Some(length) = fastopen {
            let length = libc::c_int::try_from(*length).unwrap_or(libc::c_int::MAX);
            check(&format!("TCP_FASTOPEN, {length}"), FastOpen.set(&socket.as_fd(), &length).map_err(io::Error::from));
        }
        if previous.is_some_and(|previous| previous.options.backlog != *backlog)
            && let Err(error) = socket.listen(*backlog)
        {
            let message = format_args!("listen() to {address}, backlog {backlog} failed, ignored");
            failed(log, Level::Alert, &error, message);
        }
        let was_deferred = previous.is_some_and(|previous| previous.options.deferred);
        if *deferred || was_deferred {
            // One second: there is no telling how long a connection has already waited in the queue.
            let seconds = libc::c_int::from(*deferred);
            let result = DeferAccept.set(&socket.as_fd(), &seconds).map_err(io::Error::from);
            check(&format!("TCP_DEFER_ACCEPT, {seconds}"), result);
        }
    }
}

fn failed(log: &ErrorLog, level: Level, error: &io::Error, message: fmt::Arguments<'_>) {
    log.write_os(level, &Context::default(), code(error), message);
}

/// The reason at the end of a message.
fn said(error: &io::Error) -> String {
    errno_text(code(error)).to_string()
}

fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    fn any_port() -> Options {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        // The port is free again when the listener is dropped, and SO_REUSEADDR takes it.
        Options::new(Address::Inet(taken.local_addr().expect("it is bound")))
    }

    fn opened(wanted: &[Options], previous: &[Listener], threads: usize) -> Vec<Listener> {
        open(wanted, previous, threads, Purpose::Serve, &ErrorLog::none()).expect("the addresses are free")
    }

    fn connects(options: &Options) -> bool {
        match &options.address {
            Address::Inet(inet) => TcpStream::connect(inet).is_ok(),
            Address::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }

    #[test]
    fn the_same_address_keeps_its_socket_and_others_go() {
        let (kept, gone, new) = (any_port(), any_port(), any_port());
        let first = opened(&[gone.clone(), kept.clone()], &[], 1);
        let changed = Options { backlog: 7, deferred: true, ..kept.clone() };
        let second = opened(&[new.clone(), changed], &first, 1);
        assert_eq!(second[1].sockets[0].as_raw_fd(), first[1].sockets[0].as_raw_fd());
        drop(first);
        assert!(connects(&new) && connects(&kept));
        assert!(!connects(&gone));
    }

    #[test]
    fn reuseport_gives_each_thread_a_socket_and_can_be_switched() {
        let one = any_port();
        let many = Options { reuseport: true, ..one.clone() };
        let first = opened(std::slice::from_ref(&one), &[], 3);
        assert_eq!(first[0].sockets.len(), 1);
        let second = opened(std::slice::from_ref(&many), &first, 3);
        assert_eq!(second[0].sockets.len(), 3);
        assert_eq!(second[0].sockets[0].as_raw_fd(), first[0].sockets[0].as_raw_fd());
        let third = opened(std::slice::from_ref(&many), &second, 2);
        assert_eq!(third[0].sockets.len(), 2);
        let fourth = opened(std::slice::from_ref(&one), &third, 2);
        assert_eq!(fourth[0].sockets.len(), 1);
    }

    #[test]
    fn inherited_sockets_are_known_by_their_addresses() {
        let (tcp, directory) = (TcpListener::bind("127.0.0.1:0"), tempfile::tempdir());
        let (tcp, directory) = (tcp.expect("loopback has ports"), directory.expect("a place for temporary files"));
        let address = tcp.local_addr().expect("it is bound");
        let path = directory.path().join("s");
        let unix = std::os::unix::net::UnixListener::bind(&path).expect("the directory is ours");
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
        let number = datagram.as_raw_fd();
        let taken = Listener::inherited(tcp.into()).expect("a socket that listens");
        assert_eq!(taken.options.address, Address::Inet(address));
        assert_eq!(Listener::inherited(unix.into()).map(|taken| taken.options.address), Ok(Address::Unix(path)));
        let refused = format!("the inherited socket #{number} has an unsupported protocol family");
        assert_eq!(Listener::inherited(datagram.into()).map(|_| ()), Err(refused));

        let wanted = Options::new(Address::Inet(address));
        let opened = opened(std::slice::from_ref(&wanted), &[taken], 1);
        assert!(opened[0].inherited && connects(&wanted));
    }

    #[test]
    fn an_address_in_use_fails_in_the_end_but_not_in_a_test() {
        let options = any_port();
        let held = opened(std::slice::from_ref(&options), &[], 1);
        let again = |purpose| open(std::slice::from_ref(&options), &[], 1, purpose, &ErrorLog::none());
        let fault = again(Purpose::Serve).expect_err("it is held");
        assert_eq!(fault.to_string(), "still could not bind()");
        assert_eq!(again(Purpose::Test).expect("a test disturbs nobody")[0].sockets.len(), 0);
        drop(held);
    }

    #[test]
    fn an_address_that_is_not_ours_fails_at_once() {
        let foreign = "192.0.2.1:80".parse().expect("an address of RFC 5737");
        let options = Options::new(Address::Inet(foreign));
        let fault = open(&[options], &[], 1, Purpose::Serve, &ErrorLog::none()).expect_err("not our address");
        assert_eq!(fault.to_string(), "bind() to 192.0.2.1:80 failed (99: Cannot assign requested address)");
    }

    #[test]
    fn a_unix_socket_is_open_to_everybody_and_its_file_goes_with_it() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("weir.sock");
        let options = Options::new(Address::Unix(path.clone()));
        open(std::slice::from_ref(&options), &[], 1, Purpose::Test, &ErrorLog::none()).expect("the directory is ours");
        assert!(!path.exists(), "a test leaves nothing behind");
        let listeners = opened(std::slice::from_ref(&options), &[], 4);
        assert_eq!(listeners[0].sockets.len(), 1);
        let mode = std::fs::metadata(&path).expect("it is bound").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        assert!(connects(&options));
        remove_file(&listeners[0], &ErrorLog::none());
        assert!(!path.exists());
    }
}
