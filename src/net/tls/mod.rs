//! TLS on a connected socket.
//!
//! ```text
//! socket ─► ciphertext, read by the record ─► rustls ─► plain bytes for `Io::poll_read`
//! socket ◄─ up to 6 records in one writev ◄─ rustls ◄─ plain bytes of `Io::poll_writev`, or of a file
//! socket ◄─ records that the kernel makes (`ktls`) ◄─ the same, once a large file was to be sent
//! ```
//!
//! In: a handshake's [`Session`], put into an [`Io`](super::io::Io). Out: the same polls as without TLS. The rule: a write
//! is reported when the socket has taken all its records, so whoever writes never leaves bytes behind; and a
//! connection that waits holds no buffer of its own.

pub mod certificate; // chains and their keys, out of PEM
pub mod cipher; // OpenSSL's words for ciphers, curves and versions
pub mod client; // how we speak to upstreams
pub mod error; // OpenSSL's words for what went wrong
pub mod hkdf; // the key schedule of TLS 1.3
pub mod ktls; // records that the kernel makes
pub mod ocsp; // asking whether a certificate is revoked
pub mod server; // what a server offers
pub mod signature; // what handshakes are signed with
pub mod staple; // answers that are sent with a certificate
pub mod ticket; // sessions that are taken up again
pub mod verify; // whether a peer's certificate is good

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustls::{Connection, ProtocolVersion};
use tokio::io::Interest;

use self::ktls::{Kernel, Keys};
use super::io::{poll_out, send, send_more, sendfile};
use super::socket::Socket;

/// One connection's TLS. See the module's head.
#[derive(Debug)]
pub struct Session {
    conn: Connection,
    /// Plain bytes whose records the socket has not yet taken whole.
    accepted: usize,
    /// What came before the handshake was complete: `ssl_early_data`.
    early: BytesMut,
    /// Records that came while there was plain text enough.
    waiting: BytesMut,
    /// The peer has ended its side, or the connection is broken.
    ended: bool,
    /// Nothing can be sent any more.
    broken: bool,
    /// What is written next is the last.
    last: bool,
    maker: Maker,
}

/// Who makes the records that are sent.
#[derive(Debug)]
enum Maker {
    Rustls,
    /// rustls, until there is a large file; its keys, once it has told them.
    RustlsYet(Option<Arc<Keys>>),
    Kernel(Kernel),
}

/// The most of a record, and a little more: what one read asks the socket for.
const READ: usize = 18 * 1024;
/// The most that is encrypted for one write. Text and records stay in the processor's own cache then: 1 MB costs 0.85 of
/// the time that it takes in pieces of 256 KB, though there are more calls.
pub const WRITE: usize = 96 * 1024;

thread_local! {
    /// Ciphertext between the socket and rustls, within one call.
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    /// Parts of files between the disk and rustls, within one call. It is there once the thread has sent one.
    static FILE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Session {
    pub fn new(conn: impl Into<Connection>) -> Self {
        let mut conn = conn.into();
        conn.set_buffer_limit(None); // the limit is `WRITE`, and a write is accepted whole
        let maker = match conn {
            Connection::Server(_) if ktls::is_there() => Maker::RustlsYet(None),
            Connection::Server(_) | Connection::Client(_) => Maker::Rustls,
        };
        Self {
            conn,
            accepted: 0,
            early: BytesMut::new(),
            waiting: BytesMut::new(),
            ended: false,
            broken: false,
            last: false,
            maker,
        }
    }

    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    /// What came before the session began. What of it was read together with the first message is inside already.
    pub fn begin(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.process()?;
        self.feed(bytes)
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let used = self.digest(bytes)?;
        self.waiting.extend_from_slice(&bytes[used..]);
        Ok(())
    }

    /// Drives the handshake. Ready when both sides are done with it, when a request has come early, or with the error,
    /// whose alert is sent.
    pub fn poll_handshake(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // A request that came with the end of the handshake: the ticket leaves with its answer. Before TLS 1.3 there is
            // more to say, for which the client waits.
            if !self.conn.is_handshaking()
                && self.conn.protocol_version() == Some(ProtocolVersion::TLSv1_3)
                && self.has_text()
            {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_flush(socket, cx))?;
            if !self.conn.is_handshaking() || !self.early.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(self.poll_fill(socket, cx)) {
                let _ = self.poll_flush(socket, cx);
                return Poll::Ready(Err(error));
            }
            if self.ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The client has more to say before both sides are done: it asked early.
    pub fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// Ready when there is plain text, or the end, or something on the socket that may become one of them.
    pub fn poll_readable(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended || !self.waiting.is_empty() || self.has_text() {
            return Poll::Ready(Ok(()));
        }
        socket.poll_read_ready(cx)
    }

    /// Appends plain text to `buffer`, at most `room`. 0 is the end.
    pub fn poll_read(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut read = self.early.len().min(room);
            if read > 0 {
                buffer.extend_from_slice(&self.early.split_to(read));
            }
            while read < room {
                let mut reader = self.conn.reader();
                let Ok(text) = reader.fill_buf() else { break };
                let take = text.len().min(room - read);
                if take == 0 {
                    break;
                }
                buffer.extend_from_slice(&text[..take]);
                reader.consume(take);
                read += take;
            }
            if read > 0 || room == 0 {
                return Poll::Ready(Ok(read));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            if let Err(error) = ready!(self.poll_fill(socket, cx)) {
                let _ = self.poll_flush(socket, cx); // the alert
                return Poll::Ready(Err(error));
            }
            // What the peer's records asked for: keys are changed, say. The socket may take it later.
            let _ = self.poll_flush(socket, cx);
        }
    }

    /// Writes what the slices hold, up to [`WRITE`]. After `Pending` the same bytes must be offered again.
    pub fn poll_writev(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Maker::Kernel(_) = self.maker {
            return self.poll_kernel(socket, cx, |to| send(to, slices));
        }
        if self.accepted == 0 {
            self.accepted = self.accept(slices)?;
            if self.last && self.accepted == slices.iter().map(|slice| slice.len()).sum::<usize>() {
                self.conn.send_close_notify();
            }
        }
        ready!(self.poll_flush(socket, cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.accepted)))
    }

    /// Takes what the slices hold, up to [`WRITE`]: part of a file follows at once, and their records leave together.
    pub fn poll_write_ahead(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.maker {
            Maker::Rustls | Maker::RustlsYet(Some(_)) => Poll::Ready(self.accept(slices)),
            Maker::RustlsYet(None) => Poll::Ready(self.asking_for_keys(|session| session.accept(slices))),
            Maker::Kernel(kernel) => {
                kernel.speak(socket);
                kernel.check()?;
                let sent = ready!(poll_out(socket, cx, |to| send_more(to, slices)))?;
                kernel.wrote(sent);
                Poll::Ready(Ok(sent))
            }
        }
    }

    /// Has rustls tell the keys of the records that it makes meanwhile.
    fn asking_for_keys<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let (done, keys) = ktls::keys(|| work(self));
        // Whose settings forbid the kernel, or whose suite it does not know, has nothing to tell.
        self.maker = if keys.is_some() { Maker::RustlsYet(keys) } else { Maker::Rustls };
        done
    }

    /// Lets the kernel make the records if it is worth while: what is sent by one write is not.
    fn poll_change(&mut self, socket: &Socket, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<()>> {
        let Maker::RustlsYet(Some(keys)) = &self.maker else { return Poll::Ready(Ok(())) };
        if self.accepted > 0 || len <= WRITE || self.conn.is_handshaking() {
            return Poll::Ready(Ok(()));
        }
        let keys = keys.clone();
        ready!(self.poll_flush(socket, cx))?;
        self.maker = Kernel::take_over(socket, &keys).map_or(Maker::Rustls, Maker::Kernel);
        Poll::Ready(Ok(()))
    }

    /// Writes what the kernel makes records of. The kernel keeps what TCP has no room for, and forgets it when the
    /// connection is closed; so a write is not reported before there is room again.
    fn poll_kernel(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        write: impl Fn(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Maker::Kernel(kernel) = &mut self.maker else { return Poll::Ready(Err(io::ErrorKind::Other.into())) };
        if self.accepted == 0 {
            kernel.speak(socket);
            kernel.check()?;
            self.accepted = ready!(poll_out(socket, cx, write)).inspect_err(|_| self.broken = true)?;
            kernel.wrote(self.accepted);
        }
        loop {
            let room = socket.try_io(Interest::WRITABLE, |socket| {
                let mut asked = [PollFd::new(socket, PollFlags::POLLOUT)];
                match nix::poll::poll(&mut asked, PollTimeout::ZERO)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()), // or broken, which the next call will say
                }
            });
            match room {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
                Err(_) | Ok(()) => return Poll::Ready(Ok(std::mem::take(&mut self.accepted))),
            }
        }
    }

    /// The next write is the last: the end of the session leaves with it.
    pub fn last_write(&mut self) {
        self.last = true;
    }

    /// Makes records.
    fn accept(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut total = 0;
        let fits = slices.iter().take_while(|slice| {
            total += slice.len();
            total <= WRITE
        });
        match fits.count() {
            0 => self.conn.writer().write(slices.first().map_or(&[][..], |slice| &slice[..WRITE])),
            count => self.conn.writer().write_vectored(&slices[..count]),
        }
    }

    /// As [`Session::poll_writev`], of a part of a file. 0 is the end of the file.
    pub fn poll_sendfile(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_change(socket, cx, len))?;
        match self.maker {
            Maker::Kernel(_) => self.poll_kernel(socket, cx, |to| sendfile(to, file, offset, len)),
            Maker::RustlsYet(None) if self.accepted == 0 && len > WRITE => {
                self.asking_for_keys(|session| session.poll_copy(socket, cx, file, offset, len))
            }
            Maker::Rustls | Maker::RustlsYet(_) => self.poll_copy(socket, cx, file, offset, len),
        }
    }

    /// The same with rustls's records.
    fn poll_copy(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        if self.accepted == 0 {
            self.accepted = FILE.with_borrow_mut(|buffer| {
                buffer.resize(WRITE, 0);
                let read = rustix::io::pread(file, &mut buffer[..len.min(WRITE)], offset)?;
                self.conn.writer().write(&buffer[..read])
            })?;
        }
        ready!(self.poll_flush(socket, cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.accepted)))
    }

    /// Ready when the peer has closed its side or the connection is broken; text that waits to be read is no answer.
    pub fn poll_gone(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.ended {
                return Poll::Ready(());
            }
            if self.has_text() || !self.waiting.is_empty() {
                return Poll::Pending;
            }
            if ready!(self.poll_fill(socket, cx)).is_err() {
                return Poll::Ready(());
            }
        }
    }

    /// Whether neither text nor the end has come. When that changes, `cx` is told. Records that are no text, such as
    /// tickets for the next session, are taken in.
    pub fn poll_quiet(&mut self, socket: &Socket, cx: &mut Context<'_>) -> bool {
        loop {
            if self.ended || self.has_text() || !self.waiting.is_empty() {
                return false;
            }
            match self.poll_fill(socket, cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
    }

    /// Says that nothing more will be written; what the socket does not take at this moment is lost.
    pub fn close(&mut self, socket: &Socket) {
        if self.broken {
            return;
        }
        self.broken = true;
        if self.accepted > 0 {
            return;
        }
        if let Maker::Kernel(kernel) = &mut self.maker {
            return kernel.close(socket);
        }
        self.conn.send_close_notify();
        self.flush_now(socket);
    }

    /// Sends what the socket takes at this moment.
    pub fn flush_now(&mut self, socket: &Socket) {
        let _ = self.poll_flush(socket, &mut Context::from_waker(std::task::Waker::noop()));
        self.broken = true;
    }

    /// The connection ends without a word.
    pub fn abandon(&mut self) {
        self.broken = true;
    }

    fn has_text(&mut self) -> bool {
        !self.early.is_empty() || self.conn.reader().fill_buf().is_ok_and(|text| !text.is_empty())
    }

    /// Takes in one read's worth of records.
    fn poll_fill(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let used = self.digest(&waiting)?;
            if used > 0 {
                self.waiting.extend_from_slice(&waiting[used..]);
                return Poll::Ready(Ok(()));
            }
            self.waiting = waiting;
        }
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let read = INPUT.with_borrow_mut(|input| match socket.try_read_into(input) {
                Ok(read) => {
                    if read > 0 && read < input.len() {
                        socket.drained(); // the next read waits instead of asking again
                    }
                    self.take(&input[..read]).map(Some)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => {
                    (self.ended, self.broken) = (true, true);
                    Err(error)
                }
            })?;
            if read.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes in what the socket gave; nothing is its end. nginx makes no difference between an end that was announced
    /// and one that was not.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            self.ended = true;
            return Ok(());
        }
        self.feed(bytes)
    }

    /// Lets rustls have what it takes of these bytes.
    fn digest(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // It takes nothing while there is text enough to read.
            let Ok(1..) = self.conn.read_tls(&mut rest) else { break };
            self.process()?;
            if self.ended {
                return Ok(bytes.len());
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Has rustls work on what it was given.
    fn process(&mut self) -> io::Result<()> {
        let processed = match &mut self.maker {
            Maker::Rustls | Maker::RustlsYet(_) => self.conn.process_new_packets(),
            Maker::Kernel(kernel) => {
                let (processed, heard) = kernel.hear(|| self.conn.process_new_packets());
                while self.conn.wants_write() {
                    self.conn.write_tls(&mut io::sink())?;
                }
                heard.inspect_err(|_| self.ended = true)?;
                processed
            }
        };
        match processed {
            Ok(state) => self.ended |= state.peer_has_closed(),
            Err(error) => {
                self.ended = true;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        if let Connection::Server(conn) = &mut self.conn
            && let Some(mut early) = conn.early_data()
        {
            let mut block = [0; 1024];
            while let Ok(read @ 1..) = early.read(&mut block) {
                self.early.extend_from_slice(&block[..read]);
            }
        }
        Ok(())
    }

    fn poll_flush(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Maker::Kernel(kernel) = &mut self.maker {
            kernel.speak(socket);
            return Poll::Ready(Ok(()));
        }
        while self.conn.wants_write() {
            ready!(socket.poll_write_ready(cx))?;
            match self.conn.write_tls(&mut Sock { socket, last: self.last }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.broken = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket as rustls writes to it.
struct Sock<'a> {
    socket: &'a Socket,
    /// The close follows at once: the end may leave with it, in one packet.
    last: bool,
}

impl Write for Sock<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.try_io(Interest::WRITABLE, |to| match self.last {
            true => send_more(to, slices),
            false => send(to, slices),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
