//! Connecting: a socket to an address, without waiting for it.
//!
//! In: an address and how its socket shall be set. Out: a connected [`Io`], or one whose answer is still to come
//! ([`Connecting::poll`]). TCP and unix sockets alike.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::io::Io;
use crate::base::addr::Address;

/// How a socket is set before it connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where it is bound.
    pub local: Option<SocketAddr>,
    /// The local address may be somebody else's: `proxy_bind … transparent`.
    pub transparent: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// 0: the system's own.
    pub rcvbuf: usize,
    pub sndbuf: usize,
    pub nodelay: bool,
}

/// A connection that was begun.
#[derive(Debug)]
pub struct Connecting {
    io: Io,
    /// Connected at once: unix sockets, and some local ones.
    done: bool,
}

/// Which call failed, and how; `call` is as in nginx's log.
#[derive(Debug)]
pub struct Failed {
    pub call: &'static str,
    pub error: io::Error,
}

/// Begins to connect.
pub fn connect(address: &Address, options: &Options) -> Result<Connecting, Failed> {
    let failed = |call| move |error| Failed { call, error };
    let (domain, target) = match address {
        Address::Inet(inet) => (Domain::for_address(*inet), SockAddr::from(*inet)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path).map_err(failed("connect"))?),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None).map_err(failed("socket"))?;
    let inet = domain != Domain::UNIX;
    if options.keepalive {
        socket.set_keepalive(true).map_err(failed("setsockopt(SO_KEEPALIVE)"))?;
    }
    if options.rcvbuf > 0 {
        socket.set_recv_buffer_size(options.rcvbuf).map_err(failed("setsockopt(SO_RCVBUF)"))?;
    }
    if options.sndbuf > 0 {
        socket.set_send_buffer_size(options.sndbuf).map_err(failed("setsockopt(SO_SNDBUF)"))?;
    }
    if let Some(local) = options.local.filter(|_| inet) {
        if options.transparent {
            match local {
                SocketAddr::V4(_) => {
                    socket.set_ip_transparent_v4(true).map_err(failed("setsockopt(IP_TRANSPARENT)"))?
                }
                SocketAddr::V6(_) => {
                    socket.set_ip_transparent_v6(true).map_err(failed("setsockopt(IPV6_TRANSPARENT)"))?
                }
            }
        }
        socket.bind(&local.into()).map_err(failed("bind"))?;
    }
    if inet && options.nodelay {
        let _ = socket.set_tcp_nodelay(true);
    }
    let done = match socket.connect(&target) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => false,
        Err(error) => return Err(Failed { call: "connect", error }),
    };
    // Reading and writing are the same calls for both kinds, so one type serves both.
    let stream = TcpStream::from_std(socket.into()).map_err(failed("epoll_ctl"))?;
    Ok(Connecting { io: Io::new(stream), done })
}

impl Connecting {
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Ready when the peer has taken the connection or refused it.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        ready!(self.io.socket().poll_write_ready(cx))?;
        if let Some(error) = self.io.socket().with(|socket| SockRef::from(&socket).take_error())?? {
            return Poll::Ready(Err(error));
        }
        self.done = true;
        Poll::Ready(Ok(()))
    }

    pub fn into_io(self) -> Io {
        self.io
    }
}
