//! A connected socket that joins its thread's loop when it first has to wait.
//!
//! In: a descriptor that does not block. Out: reads and writes that are tried at once, and from the first that finds nothing on, a
//! tokio stream. A client that has asked before it was accepted, and is told that it asked for the last time, is served
//! without epoll ever hearing of it: two system calls of seven, and the memory of a place in the loop.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::base::os;

/// See the module's head.
pub struct Socket {
    joined: OnceCell<TcpStream>,
    /// The descriptor until then.
    apart: Cell<Option<OwnedFd>>,
    look: Cell<Look>,
}

/// When a socket that is not in the loop is to be looked at for something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Now,
    /// When the loop has waited the next time. A busy loop finds what the peer has said until then, and needs no place for the
    /// socket; an idle one comes round at once.
    NextTurn,
    /// It was read to its end, as far as one knows; who wants more has to wait.
    Wait,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("joined", &self.joined).finish_non_exhaustive()
    }
}

impl From<OwnedFd> for Socket {
    fn from(socket: OwnedFd) -> Self {
        Self { joined: OnceCell::new(), apart: Cell::new(Some(socket)), look: Cell::new(Look::Now) }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self { joined: OnceCell::from(stream), apart: Cell::new(None), look: Cell::new(Look::Wait) }
    }
}

impl Socket {
    /// A socket whose peer has said nothing yet, and is about to.
    pub fn expecting(socket: OwnedFd) -> Self {
        let this = Self::from(socket);
        this.look.set(Look::NextTurn);
        this
    }

    /// The socket in the loop, where it is from now on.
    fn join(&self) -> io::Result<&TcpStream> {
        if let Some(stream) = self.joined.get() {
            return Ok(stream);
        }
        let apart = self.apart.take().ok_or(io::ErrorKind::NotConnected)?;
        let stream = TcpStream::from_std(apart.into())?;
        Ok(self.joined.get_or_init(|| stream))
    }

    /// The descriptor, out of the loop. What is tried after this fails.
    pub fn leave(&mut self) -> io::Result<OwnedFd> {
        match self.joined.take() {
            Some(stream) => Ok(stream.into_std()?.into()),
            None => self.apart.take().ok_or(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Ready when a read may be tried.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(stream) = self.joined.get() {
            return stream.poll_read_ready(cx);
        }
        match self.look.get() {
            Look::Now => Poll::Ready(Ok(())),
            Look::NextTurn => {
                self.look.set(Look::Now);
                // The runtime keeps the waker until it has waited; the future itself is not needed for that.
                pin!(tokio::task::yield_now()).poll(cx).map(Ok)
            }
            Look::Wait => self.join()?.poll_read_ready(cx),
        }
    }

    /// Ready when a write may be tried.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.joined.get() {
            Some(stream) => stream.poll_write_ready(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Tries something. After `WouldBlock` the polls wait for what would let it succeed.
    pub fn try_io<T>(&self, interest: Interest, work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        if let Some(stream) = self.joined.get() {
            return stream.try_io(interest, || work(stream.as_fd()));
        }
        let done = self.with(work)?;
        if matches!(&done, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.join()?;
        }
        done
    }

    /// Reads what is there into `buffer`, from its beginning.
    pub fn try_read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_io(Interest::READABLE, |socket| {
            let (read, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
            Ok(read)
        })
    }

    /// Appends what is there to `buffer`, at most `room`.
    pub fn try_read(&self, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
        self.try_io(Interest::READABLE, |socket| os::receive(socket, buffer, room))
    }

    /// Forgets that the socket was readable: a read came back short, or all that the peer has to say was moved. Otherwise
    /// the next read would ask the system in vain.
    pub fn drained(&self) {
        match self.joined.get() {
            Some(stream) => {
                let nothing: io::Result<()> = Err(io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(Interest::READABLE, || nothing);
            }
            None => self.look.set(Look::Wait),
        }
    }

    /// Does something that has nothing to do with waiting.
    pub fn with<T>(&self, work: impl FnOnce(BorrowedFd<'_>) -> T) -> io::Result<T> {
        if let Some(stream) = self.joined.get() {
            return Ok(work(stream.as_fd()));
        }
        let apart = self.apart.take().ok_or(io::ErrorKind::NotConnected)?;
        let done = work(apart.as_fd());
        self.apart.set(Some(apart));
        Ok(done)
    }

    /// The polls for reading are ready when so many bytes are there, or all that will come. See [`os::set_readable_at`].
    pub fn set_readable_at(&self, bytes: u32) -> io::Result<()> {
        self.with(|socket| os::set_readable_at(socket, bytes))?
    }

    /// What is written leaves at once. A unix socket has no delay anyway.
    pub fn set_nodelay(&self) {
        let _ = self.with(|socket| SockRef::from(&socket).set_tcp_nodelay(true)); // only those fail
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.with(|socket| SockRef::from(&socket).local_addr()).ok()?.ok()?.as_socket()
    }
}

#[cfg(test)]
impl Socket {
    /// Both ends of a connection over loopback.
    pub fn pair() -> (std::net::TcpStream, Self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let peer = std::net::TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (socket, _) = listener.accept().expect("it has connected");
        socket.set_nonblocking(true).expect("a socket");
        (peer, OwnedFd::from(socket).into())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};

    use super::*;

    async fn read(socket: &Socket, room: usize) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(room);
        loop {
            poll_fn(|cx| socket.poll_read_ready(cx)).await.expect("it is open");
            match socket.try_read(&mut buffer, room) {
                Ok(_) => return buffer.to_vec(),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    fn run(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("descriptors are left").block_on(test());
    }

    #[test]
    fn it_joins_when_it_has_to_wait() {
        run(async || {
            let (mut peer, mut socket) = Socket::pair();
            peer.write_all(b"one").expect("it is open");
            assert_eq!(read(&socket, 100).await, b"one");
            assert!(socket.joined.get().is_none());
            let (sent, address) =
                (socket.try_io(Interest::WRITABLE, |to| Ok(rustix::io::write(to, b"two")?)), peer.peer_addr());
            assert_eq!((sent.ok(), socket.local_addr()), (Some(3), address.ok()));
            assert!(socket.joined.get().is_none());
            let nothing = socket.try_read(&mut BytesMut::with_capacity(1), 1).map_err(|error| error.kind());
            assert_eq!((nothing, socket.joined.get().is_some()), (Err(io::ErrorKind::WouldBlock), true));
            peer.write_all(b"three").expect("it is open");
            assert_eq!(read(&socket, 100).await, b"three");
            // And out again, with nothing lost.
            peer.write_all(b"four").expect("it is open");
            let socket = Socket::from(socket.leave().expect("it was in the loop"));
            assert_eq!(read(&socket, 100).await, b"four");
            drop(socket);
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).expect("it has ended");
            assert_eq!(answer, b"two");
        });
    }

    #[test]
    fn who_was_read_dry_waits_without_asking_and_misses_nothing() {
        run(async || {
            let (mut peer, socket) = Socket::pair();
            peer.write_all(b"onexxxxxxxxxx").expect("it is open");
            assert_eq!(read(&socket, 3).await, b"one");
            socket.drained();
            assert_eq!(read(&socket, 4).await, b"xxxx");
            assert!(socket.joined.get().is_some());
            assert_eq!(read(&socket, 100).await, b"xxxxxx");
        });
    }

    #[test]
    fn who_is_expected_to_speak_has_a_turn_of_the_loop_for_it() {
        run(async || {
            for speaks in [true, false] {
                let (mut peer, socket) = Socket::pair();
                let socket = Socket::expecting(socket.apart.take().expect("it is not in the loop"));
                let mut polls = 0;
                let ready = poll_fn(|cx| {
                    polls += 1;
                    socket.poll_read_ready(cx)
                });
                // What comes before the next turn is found there.
                let (ready, ()) = tokio::join!(ready, async {
                    if speaks {
                        peer.write_all(b"one").expect("it is open");
                    }
                });
                ready.expect("it is open");
                assert_eq!(polls, 2);
                if speaks {
                    assert_eq!(read(&socket, 100).await, b"one");
                    assert!(socket.joined.get().is_none());
                    continue;
                }
                let nothing = socket.try_read(&mut BytesMut::with_capacity(1), 1).map_err(|error| error.kind());
                assert_eq!((nothing, socket.joined.get().is_some()), (Err(io::ErrorKind::WouldBlock), true));
                peer.write_all(b"two").expect("it is open");
                assert_eq!(read(&socket, 100).await, b"two");
            }
        });
    }

    #[test]
    fn who_has_left_is_not_connected() {
        run(async || {
            let (_peer, mut socket) = Socket::pair();
            socket.leave().expect("it is there");
            let mut buffer = BytesMut::with_capacity(1);
            for error in [
                socket.leave().map(drop),
                socket.try_read(&mut buffer, 1).map(drop),
                socket.join().map(drop),
                socket.with(|_| ()),
            ] {
                assert_eq!(error.map_err(|error| error.kind()), Err(io::ErrorKind::NotConnected));
            }
        });
    }
}
