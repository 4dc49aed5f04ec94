//! Bytes from one socket to another that nobody looks at: through a pipe, by splice(2), without a copy.
//!
//! In: bytes of one socket. Out: the same bytes in another, or in memory when somebody must have them after all. A pipe
//! is borrowed only while bytes pass; each thread keeps a few empty ones, which hold no memory.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::io::Io;

/// What a pipe may hold. A system that grants less gives less.
pub const SIZE: usize = 256 * 1024;

/// What the system is asked for. A pipe counts pages, and where one segment ends in a page and the next begins, it counts twice:
/// of 256 KB some hundred bytes would stay behind, and cost as many calls as all others.
const ASKED: usize = 2 * SIZE;

/// How many empty pipes a thread keeps.
const SPARE: usize = 16;

thread_local! {
    static EMPTY: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may have so much pipe memory and no more: then it stays at 64 KB.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, ASKED);
        Ok(Self { read, write })
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    /// Bytes inside.
    len: usize,
}

impl Pipe {
    pub fn take() -> io::Result<Self> {
        let ends = match EMPTY.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => Ends::new()?,
        };
        Ok(Self { ends: Some(ends), len: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes what is there at `from`, at most `limit`, into the empty pipe. 0 is the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &Io, limit: usize) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let filled = ready!(from.poll_splice_from(cx, &ends.write, limit.min(SIZE)))?;
        self.len += filled;
        Poll::Ready(Ok(filled))
    }

    /// Gives `to` what it takes.
    pub fn poll_pour(&mut self, cx: &mut Context<'_>, to: &Io) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let poured = ready!(to.poll_splice_to(cx, &ends.read, self.len))?;
        self.len -= poured.min(self.len);
        Poll::Ready(Ok(poured))
    }

    /// Moves all that is inside to a file, from `offset` on. After an error some of it is still inside, or all.
    pub fn pour_into_file(&mut self, file: &File, mut offset: u64) -> io::Result<u64> {
        let mut moved = 0;
        while let (Some(ends), 1..) = (&self.ends, self.len) {
            match rustix::pipe::splice(&ends.read, None, file, Some(&mut offset), self.len, SpliceFlags::empty())? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => {
                    self.len -= count.min(self.len);
                    moved += count as u64;
                }
            }
        }
        Ok(moved)
    }

    /// Moves all that is inside to memory.
    pub fn drain(&mut self) -> io::Result<BytesMut> {
        let mut bytes = BytesMut::zeroed(self.len);
        let mut read = 0;
        while let (Some(ends), Some(room)) = (&self.ends, bytes.get_mut(read..).filter(|room| !room.is_empty())) {
            match rustix::io::read(&ends.read, room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        self.len = 0;
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // What somebody else's bytes are in is closed.
        let Some(ends) = self.ends.take_if(|_| self.len == 0) else { return };
        let _ = EMPTY.try_with(|empty| {
            let mut empty = empty.borrow_mut();
            if empty.len() < SPARE {
                empty.push(ends);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::net::socket::Socket;

    fn pair() -> (TcpStream, Io) {
        let (outer, inner) = Socket::pair();
        (outer, Io::new(inner))
    }

    #[test]
    fn bytes_pass_and_can_be_had() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("descriptors are left").block_on(async {
            let ((mut sender, from), (mut receiver, to)) = (pair(), pair());
            let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
            let expected = sent.clone();
            let writer = std::thread::spawn(move || sender.write_all(&sent).map(|()| sender));
            let mut pipe = Pipe::take().expect("descriptors are left");
            let mut passed = 0;
            while passed < 150_000 {
                let limit = 150_000 - passed;
                let filled = std::future::poll_fn(|cx| pipe.poll_fill(cx, &from, limit)).await.expect("it is open");
                assert!(filled > 0 && filled <= limit);
                while !pipe.is_empty() {
                    passed += std::future::poll_fn(|cx| pipe.poll_pour(cx, &to)).await.expect("it is open");
                }
            }
            let mut kept = Vec::new();
            while kept.len() < 50_000 {
                std::future::poll_fn(|cx| pipe.poll_fill(cx, &from, SIZE)).await.expect("it is open");
                kept.extend_from_slice(&pipe.drain().expect("it is all inside"));
            }
            assert!(pipe.is_empty());
            drop(writer.join().expect("it does not panic").expect("it is read"));
            assert_eq!(std::future::poll_fn(|cx| pipe.poll_fill(cx, &from, SIZE)).await.expect("it has ended"), 0);
            drop(to);
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).expect("it has ended");
            got.extend_from_slice(&kept);
            assert!(got == expected);
        });
    }

    #[test]
    fn a_file_takes_what_is_inside() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("descriptors are left").block_on(async {
            let (mut sender, from) = pair();
            let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
            let expected = sent.clone();
            let writer = std::thread::spawn(move || sender.write_all(&sent).map(|()| sender));
            let mut file = tempfile::tempfile().expect("there is room");
            let mut pipe = Pipe::take().expect("descriptors are left");
            let mut moved = 3;
            while moved < expected.len() as u64 + 3 {
                std::future::poll_fn(|cx| pipe.poll_fill(cx, &from, SIZE)).await.expect("it is open");
                moved += pipe.pour_into_file(&file, moved).expect("there is room");
                assert!(pipe.is_empty());
            }
            drop(writer.join().expect("it does not panic").expect("it is read"));
            let mut got = Vec::new();
            file.read_to_end(&mut got).expect("it can be read");
            assert_eq!(got[..3], [0; 3]);
            assert!(got[3..] == expected);
        });
    }
}
