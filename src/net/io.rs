//! One connected socket, driven by its one task.
//!
//! In: a tokio stream. Out: polls that know how the kernel behaves: a short read means that the socket is empty, so
//! the next read waits instead of asking again (tokio keeps the end of the stream ready for ever, so none is missed).
//! Once a TLS session is put in, the same polls speak TLS; whoever calls them need not know.

use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::tls::Session;

/// A connected socket. TCP and unix sockets alike: reading and writing are the same calls.
#[derive(Debug)]
pub struct Io {
    stream: TcpStream,
    tls: OnceCell<Box<RefCell<Session>>>,
}

impl Io {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, tls: OnceCell::new() }
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
            Some(tls) => tls.borrow_mut().poll_handshake(&self.stream, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The protocol that both sides agreed on by ALPN: `h2`, `http/1.1`.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.session(|session| session.conn().alpn_protocol().map(<[u8]>::to_vec))?
    }

    /// A descriptor of its own of the same socket, for whoever waits for it elsewhere.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ready when there is something to read or the peer is gone.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_readable(&self.stream, cx);
        }
        self.stream.poll_read_ready(cx)
    }

    /// Appends what is there to `buffer`, at most its spare capacity, which must not be empty. 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = buffer.capacity() - buffer.len();
        self.poll_read_room(cx, buffer, room)
    }

    fn poll_read_room(&self, cx: &mut Context<'_>, buffer: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_read(&self.stream, cx, buffer, room);
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(&mut buffer.limit(room)) {
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

    /// Forgets that the socket was readable: a read came back short, or all that the peer has to say was moved. Otherwise
    /// the next read would ask the system in vain.
    pub fn drained(&self) {
        let nothing: io::Result<()> = Err(io::ErrorKind::WouldBlock.into());
        let _ = self.stream.try_io(Interest::READABLE, || nothing);
    }

    /// Writes what the socket takes of these.
    pub fn poll_writev(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_writev(&self.stream, cx, slices);
        }
        poll_out(&self.stream, cx, || send(&self.stream, slices))
    }

    /// As [`Io::poll_writev`], of one slice.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writev(cx, &[IoSlice::new(bytes)])
    }

    /// As [`Io::poll_writev`], of what will be followed by part of a file at once: the kernel may wait to fill a packet,
    /// and with TLS their records leave together.
    pub fn poll_send_more(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_write_ahead(&self.stream, cx, slices);
        }
        poll_out(&self.stream, cx, || send_more(&self.stream, slices))
    }

    /// As [`Io::poll_writev`], of all that is still to be written on this connection: the kernel may keep the end of it
    /// until the close, and both leave in one packet. With TLS, the end of the session does too. What is not taken is
    /// offered again.
    pub fn poll_write_last(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            let mut tls = tls.borrow_mut();
            tls.last_write();
            return tls.poll_writev(&self.stream, cx, slices);
        }
        poll_out(&self.stream, cx, || send_more(&self.stream, slices))
    }

    /// Sends what the socket takes of `file`, from `offset`. 0 is the end of the file.
    pub fn poll_sendfile(&self, cx: &mut Context<'_>, file: &File, offset: u64, len: usize) -> Poll<io::Result<usize>> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_sendfile(&self.stream, cx, file, offset, len);
        }
        poll_out(&self.stream, cx, || sendfile(&self.stream, file, offset, len))
    }

    /// Moves what is there, at most `limit`, into a pipe that is empty. 0 is the end.
    pub fn poll_splice_from(&self, cx: &mut Context<'_>, pipe: &OwnedFd, limit: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let moved = self.stream.try_io(Interest::READABLE, || {
                Ok(rustix::pipe::splice(&self.stream, None, pipe, None, limit, SpliceFlags::NONBLOCK)?)
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
            ready!(self.stream.poll_write_ready(cx))?;
            let moved = self.stream.try_io(Interest::WRITABLE, || {
                Ok(rustix::pipe::splice(pipe, None, &self.stream, None, len, SpliceFlags::NONBLOCK)?)
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
        matches!(rustix::net::recv(&self.stream, &mut [0], flags), Ok((_, 1..)))
    }

    /// Ready when the peer has closed its side or the connection is broken; data that waits to be read is no answer.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(tls) = self.tls.get() {
            return tls.borrow_mut().poll_gone(&self.stream, cx);
        }
        loop {
            if ready!(self.stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let peeked = self.stream.try_io(Interest::READABLE, || {
                let mut byte = [0];
                let (_, count) = rustix::net::recv(&self.stream, &mut byte, rustix::net::RecvFlags::PEEK)?;
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
            return tls.borrow_mut().poll_quiet(&self.stream, cx);
        }
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) => {}
            }
            let peeked = self.stream.try_io(Interest::READABLE, || {
                Ok(rustix::net::recv(&self.stream, &mut [0], rustix::net::RecvFlags::PEEK)?)
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }

    /// Says that nothing more will be written.
    pub fn shutdown_write(&self) {
        if let Some(tls) = self.tls.get() {
            tls.borrow_mut().close(&self.stream);
        }
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
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
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Writes once the socket takes something.
pub(super) fn poll_out(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    write: impl Fn() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// See [`Io::poll_writev`]. The cheaper call for one slice, and not the C library's: there it can be cancelled, which costs
/// two locked instructions each time.
pub(super) fn send(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, one, SendFlags::NOSIGNAL)?)),
        some => stream.try_write_vectored(some),
    }
}

/// See [`Io::poll_send_more`].
pub(super) fn send_more(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    stream.try_io(Interest::WRITABLE, || match slices {
        [one] => Ok(rustix::net::send(stream, one, flags)?), // the cheaper call
        some => Ok(rustix::net::sendmsg(stream, some, &mut SendAncillaryBuffer::default(), flags)?),
    })
}

/// See [`Io::poll_sendfile`].
pub(super) fn sendfile(stream: &TcpStream, file: &File, mut offset: u64, len: usize) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, file, Some(&mut offset), len)?))
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(tls) = self.tls.get_mut() {
            tls.get_mut().close(&self.stream);
        }
    }
}
