//! Connecting: a socket to an address, without waiting for it.
//!
//! In: an address and how its socket shall be set. Out: a connected [`Io`], or one whose answer is still to come
//! ([`Connecting::poll`]). TCP and unix sockets alike.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::TcpStream;

use super::io::Io;
use super::socket::Socket;
use super::unpaced;
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
}

/// A connection that was begun.
#[derive(Debug)]
pub struct Connecting {
    io: Io,
    /// Connected at once: unix sockets, and peers of this machine.
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
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None).map_err(failed("socket"))?;
    let _ = unpaced::spare(&socket, address); // a connection that is paced is as good
    if options.keepalive {
        socket.set_keepalive(true).map_err(failed("setsockopt(SO_KEEPALIVE)"))?;
    }
    if options.rcvbuf > 0 {
        socket.set_recv_buffer_size(options.rcvbuf).map_err(failed("setsockopt(SO_RCVBUF)"))?;
    }
    if options.sndbuf > 0 {
        socket.set_send_buffer_size(options.sndbuf).map_err(failed("setsockopt(SO_SNDBUF)"))?;
    }
    if let Some(local) = options.local.filter(|_| domain != Domain::UNIX) {
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
    let done = match socket.connect(&target) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => has_connected(&socket),
        Err(error) => return Err(Failed { call: "connect", error }),
    };
    // Reading and writing are the same calls for both kinds, so one type serves both.
    let socket = if done {
        Socket::expecting(socket.into())
    } else {
        TcpStream::from_std(socket.into()).map_err(failed("epoll_ctl"))?.into()
    };
    Ok(Connecting { io: Io::new(socket), done })
}

/// A peer of this machine has answered before the call was back, only it says so now. Who knows that need not wait for the
/// loop's next turn.
fn has_connected(socket: &socket2::Socket) -> bool {
    let mut one = [PollFd::new(socket, PollFlags::OUT)];
    let polled = poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    matches!((polled, one), (Ok(1), [one]) if one.revents() == PollFlags::OUT)
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use rustix::net::sockopt;

    use super::*;

    fn connected(address: SocketAddr) -> io::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("descriptors are left").block_on(async {
            let mut connecting =
                connect(&Address::Inet(address), &Options::default()).map_err(|failed| failed.error)?;
            let at_once = connecting.is_done();
            poll_fn(|cx| connecting.poll(cx)).await?;
            let choice = connecting.into_io().socket().with(|socket| sockopt::tcp_congestion(socket))??;
            let fresh = std::net::TcpListener::bind("127.0.0.1:0")?;
            assert_eq!(choice, unpaced::tests::expected(&sockopt::tcp_congestion(fresh)?));
            Ok(at_once)
        })
    }

    #[test]
    fn a_peer_of_this_machine_is_connected_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        assert!(connected(address).expect("it listens"));
        drop(listener);
        let refused = connected(address).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused));
    }
}
