//! One connected socket, driven by its one task.
//!
//! In: a socket. Out: polls that know how the kernel behaves: a short read means that the socket is empty, so
//! the next read waits instead of asking again (tokio keeps the end of the stream ready for ever, so none is missed).
//! Once a TLS session is put in, the same polls speak TLS; whoever calls them need not know.

use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;

use super::socket::Socket;
use super::tls::Session;

/// A connected socket. TCP and unix sockets alike: reading and writing are the same calls.
#[derive(Debug)]
pub struct Io {
    socket: Socket,
    tls: OnceCell<Box<RefCell<Session>>>,
}

impl Io {
    pub fn new(socket: impl Into<Socket>) -> Self {
        Self { socket: socket.into(), tls: OnceCell::new() }
    }

    /// From now on TLS is spoken. A connection changes to it once.
    pub fn secure(&self, session: Session) {
        let _ = self.tls.set(Box::new(RefCell::new(session)));
    }

    pub fn is_secure(&self) -> bool {
        self.tls.get().is_some()
    }

    /// What the session says of itself; `None` without TLS.
    pub fn session<T>(&self, ask: impl FnOnce(&Session) -> T) -> Option<T> {
        self.tls.get().map(|tls| ask(&tls.borrow()))
    }

    /// Drives the handshake of the session that was put in.
    pub fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.tls.get() {
            Some(tls) => tls.borrow_mut().poll_handshake(&self.socket, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The protocol that both sides agreed on by ALPN: `h2`, `http/1.1`.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.session(|session| session.conn().alpn_protocol().map(<[u8]>::to_vec))?
    }

    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The descriptor, out of the loop. Nothing can be read or written here after this.
    pub fn leave(mut self) -> io::Result<OwnedFd> {
        self.socket.leave()
    }

    /// Ready when there is something to read or the peer is gone.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_readable(&self.socket, cx);
        }
        self.socket.poll_read_ready(cx)
    }

    /// Appends what is there to `buffer`, at most its spare capacity, which must not be empty. 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = buffer.capacity() - buffer.len();
        self.poll_read_room(cx, buffer, room)
    }

    fn poll_read_room(&self, cx: &mut Context<'_>, buffer: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_read(&self.socket, cx, buffer, room);
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buffer, room) {
                Ok(read) => {
                    if read > 0 && read < room {
                        self.drained();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`Io::poll_read`], and no more than `limit`.
    pub fn poll_read_at_most(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let room = (buffer.capacity() - buffer.len()).min(limit);
        self.poll_read_room(cx, buffer, room)
    }

    /// See [`Socket::drained`].
    pub fn drained(&self) {
        self.socket.drained();
    }

    /// Writes what the socket takes of these.
    pub fn poll_writev(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_writev(&self.socket, cx, slices);
        }
        poll_out(&self.socket, cx, |to| send(to, slices))
    }

    /// As [`Io::poll_writev`], of one slice.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writev(cx, &[IoSlice::new(bytes)])
    }

    /// As [`Io::poll_writev`], of what will be followed by part of a file at once: the kernel may wait to fill a packet,
    /// and with TLS their records leave together.
    pub fn poll_send_more(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_write_ahead(&self.socket, cx, slices);
        }
        poll_out(&self.socket, cx, |to| send_more(to, slices))
    }

    /// As [`Io::poll_writev`], of all that is still to be written on this connection: the kernel may keep the end of it
    /// until the close, and both leave in one packet. With TLS, the end of the session does too. What is not taken is
    /// offered again.
    pub fn poll_write_last(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            let mut tls = tls.borrow_mut();
            tls.last_write();
            return tls.poll_writev(&self.socket, cx, slices);
        }
        poll_out(&self.socket, cx, |to| send_more(to, slices))
    }

    /// Sends what the socket takes of `file`, from `offset`. 0 is the end of the file.
    pub fn poll_sendfile(&self, cx: &mut Context<'_>, file: &File, offset: u64, len: usize) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_sendfile(&self.socket, cx, file, offset, len);
        }
        poll_out(&self.socket, cx, |to| sendfile(to, file, offset, len))
    }

    /// Moves what is there, at most `limit`, into a pipe that is empty. 0 is the end.
    pub fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &OwnedFd, limit: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let moved = self.socket.try_io(Interest::READABLE, |socket| {
                Ok(rustix::pipe::splice(socket, None, pipe, None, limit, SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Moves what the socket takes of the `len` bytes in a pipe.
    pub fn poll_splice_to(&self, cx: &mut Context<'_>, pipe: &OwnedFd, len: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            let moved = self.socket.try_io(Interest::WRITABLE, |socket| {
                Ok(rustix::pipe::splice(pipe, None, socket, None, len, SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Whether there are bytes in the socket, be it that the loop has not heard of them yet.
    pub fn has_arrived(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = self.socket.with(|socket| rustix::net::recv(socket, &mut [0], flags));
        matches!(peeked, Ok(Ok((_, 1..))))
    }

    /// Ready when the peer has closed its side or the connection is broken; data that waits to be read is no answer.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_gone(&self.socket, cx);
        }
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let peeked = self.socket.try_io(Interest::READABLE, |socket| {
                let mut byte = [0];
                let (_, count) = rustix::net::recv(socket, &mut byte, rustix::net::RecvFlags::PEEK)?;
                Ok(count)
            });
            match peeked {
                Ok(0) => return Poll::Ready(()),
                // Something else is there first. The edge of the end will come after it is read.
                Ok(_) => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Whether nothing has come, not even the end. When that changes, `cx` is told.
    pub fn poll_quiet(&self, cx: &mut Context<'_>) -> bool {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_quiet(&self.socket, cx);
        }
        loop {
            match self.socket.poll_read_ready(cx) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) => {}
            }
            if !self.is_empty() {
                return false;
            }
        }
    }

    /// As [`Io::poll_quiet`], and nobody is told.
    pub fn is_quiet(&self) -> bool {
        match self.tls.get() {
            Some(_) => self.poll_quiet(&mut Context::from_waker(Waker::noop())),
            None => self.is_empty(),
        }
    }

    /// The socket has nothing, as far as the loop knows; where it does not, the kernel is asked.
    fn is_empty(&self) -> bool {
        let peeked = self.socket.try_io(Interest::READABLE, |socket| {
            Ok(rustix::net::recv(socket, &mut [0], rustix::net::RecvFlags::PEEK)?)
        });
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes what the socket takes of this at this moment, without TLS: a word before it begins.
    pub fn send_now(&self, bytes: &[u8]) {
        let _ = self.socket.try_io(Interest::WRITABLE, |to| send(to, &[IoSlice::new(bytes)]));
    }

    /// Says that nothing more will be written.
    pub fn shutdown_write(&self) {
        if let Some(tls) = self.tls.get() {
            tls.borrow_mut().close(&self.socket);
        }
        let _ = self.socket.with(|socket| rustix::net::shutdown(socket, rustix::net::Shutdown::Write));
    }

    /// The session ends without a word: the peer does not listen.
    pub fn abandon_session(&self) {
        if let Some(tls) = self.tls.get() {
            tls.borrow_mut().abandon();
        }
    }

    /// The close will be a reset: `reset_timedout_connection`.
    pub fn reset_on_close(&self) {
        if let Some(tls) = self.tls.get() {
            tls.borrow_mut().abandon();
        }
        let zero = Some(std::time::Duration::ZERO);
        let _ = self.socket.with(|socket| socket2::SockRef::from(&socket).set_linger(zero));
    }
}

/// Writes once the socket takes something.
pub(super) fn poll_out(
    socket: &Socket,
    cx: &mut Context<'_>,
    write: impl Fn(BorrowedFd<'_>) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, &write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// See [`Io::poll_writev`]. One slice has a cheaper call, and not the C library's: there it can be cancelled, which costs two
/// locked instructions each time.
pub(super) fn send(to: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => Ok(rustix::net::send(to, one, SendFlags::NOSIGNAL)?),
        some => Ok(rustix::io::writev(to, some)?),
    }
}

/// See [`Io::poll_send_more`].
pub(super) fn send_more(to: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    match slices {
        [one] => Ok(rustix::net::send(to, one, flags)?),
        some => Ok(rustix::net::sendmsg(to, some, &mut SendAncillaryBuffer::default(), flags)?),
    }
}

/// See [`Io::poll_sendfile`].
pub(super) fn sendfile(to: BorrowedFd<'_>, file: &File, mut offset: u64, len: usize) -> io::Result<usize> {
    Ok(rustix::fs::sendfile(to, file, Some(&mut offset), len)?)
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(tls) = self.tls.get_mut() {
            tls.get_mut().close(&self.socket);
        }
    }
}
