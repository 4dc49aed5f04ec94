//! The line between master and worker: messages of bytes and descriptors over a pair of sockets.
//!
//! A frame is a head of fixed size, then the descriptors, then the bytes:
//!
//! ```text
//! kind: u8 | parts: u32 | bytes: u32 | descriptors: u32        (little endian)
//! one byte with up to BATCH descriptors as SCM_RIGHTS, as often as needed
//! for each part: length u32, bytes
//! ```
//!
//! The reader takes exactly the bytes of each step, so the descriptors of one frame never stick to another. Both
//! ends are our own processes, yet the numbers are bounded before anything is allocated, and most narrowly for what
//! the master reads: the worker is the process that talks to the world. Writing and reading block, with a deadline: a
//! peer that stands still is an error.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Bytes of one message: the texts of a configuration, with its largest maps.
const MAX_BYTES: usize = 256 << 20;
/// Descriptors of one message: listening sockets and log files.
const MAX_DESCRIPTORS: usize = 16 << 10;
const MAX_PARTS: usize = 1 << 20;
/// Bytes of an answer to the master: one sentence.
const MAX_ANSWER: usize = 64 << 10;
/// Linux takes at most 253 at once (SCM_MAX_FD).
const BATCH: usize = 250;
/// A worker that has not read for so long will not read.
const DEADLINE: Duration = Duration::from_secs(30);
const HEAD: usize = 13;

/// What a message is about. Its parts and descriptors mean what is said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the worker: take this configuration. The parts are those of `generation::Handover`.
    Reload = 1,
    /// To the worker: log files anew. Parts: their paths. Descriptors: the opened files.
    Reopen = 2,
    /// To the worker: finish what is open, take nothing new, end.
    Quit = 3,
    /// To the worker: end now.
    Terminate = 4,
    /// To the master: the configuration is in use.
    Taken = 5,
    /// To the master: the configuration does not load here. One part: why.
    Refused = 6,
}

#[derive(Debug)]
pub struct Message {
    pub kind: Kind,
    pub parts: Vec<Vec<u8>>,
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A message that says all by its kind.
    pub fn bare(kind: Kind) -> Self {
        Self { kind, parts: Vec::new(), descriptors: Vec::new() }
    }
}

/// One end of the line. It closes with the process that holds the other end, which reads as [`Received::End`].
pub struct Channel {
    socket: UnixStream,
    /// What is taken at most from the peer.
    takes: Limits,
}

struct Limits {
    bytes: usize,
    parts: usize,
    descriptors: usize,
}

pub enum Received {
    Message(Message),
    /// The peer is gone.
    End,
}

impl Channel {
    /// The master's end and the worker's, one for each side of a fork.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (master, worker) = UnixStream::pair()?;
        for end in [&master, &worker] {
            end.set_read_timeout(Some(DEADLINE))?;
            end.set_write_timeout(Some(DEADLINE))?;
        }
        let answers = Limits { bytes: MAX_ANSWER, parts: 1, descriptors: 0 };
        let orders = Limits { bytes: MAX_BYTES, parts: MAX_PARTS, descriptors: MAX_DESCRIPTORS };
        Ok((Self { socket: master, takes: answers }, Self { socket: worker, takes: orders }))
    }

    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes: usize = message.parts.iter().map(|part| 4 + part.len()).sum();
        if bytes > MAX_BYTES || message.parts.len() > MAX_PARTS || message.descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::other("the message is too large"));
        }
        let mut head = Vec::with_capacity(HEAD);
        head.push(message.kind as u8);
        for number in [message.parts.len(), bytes, message.descriptors.len()] {
            head.extend_from_slice(&(number as u32).to_le_bytes());
        }
        self.socket.write_all(&head)?;
        for batch in message.descriptors.chunks(BATCH) {
            self.send_descriptors(batch)?;
        }
        for part in &message.parts {
            self.socket.write_all(&(part.len() as u32).to_le_bytes())?;
            self.socket.write_all(part)?;
        }
        Ok(())
    }

    /// The next message; waits for it. Poll the descriptor first where waiting is not wanted.
    pub fn receive(&mut self) -> io::Result<Received> {
        let mut head = [0; HEAD];
        match self.socket.read_exact(&mut head[..1]) {
            Ok(()) => {}
            // A reset says that it ended before it had read all that it was told.
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => return Ok(Received::End),
                _ => return Err(error),
            },
        }
        self.socket.read_exact(&mut head[1..])?;
        let [kind, numbers @ ..] = head;
        let kind = kind_of(kind).ok_or_else(|| malformed("kind"))?;
        let number = |at: usize| {
            let bytes = [numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]];
            u32::from_le_bytes(bytes) as usize
        };
        let (part_count, mut bytes, descriptor_count) = (number(0), number(4), number(8));
        let Limits { bytes: most_bytes, parts: most_parts, descriptors: most_descriptors } = self.takes;
        if part_count > most_parts || bytes > most_bytes || descriptor_count > most_descriptors {
            return Err(malformed("size"));
        }

        let mut descriptors = Vec::with_capacity(descriptor_count);
        while descriptors.len() < descriptor_count {
            let before = descriptors.len();
            self.receive_descriptors(&mut descriptors)?;
            if descriptors.len() == before || descriptors.len() > descriptor_count {
                return Err(malformed("descriptors"));
            }
        }
        let mut parts = Vec::with_capacity(part_count);
        for _ in 0..part_count {
            let mut length = [0; 4];
            self.socket.read_exact(&mut length)?;
            let length = u32::from_le_bytes(length) as usize;
            bytes = bytes.checked_sub(4).and_then(|left| left.checked_sub(length)).ok_or_else(|| malformed("part"))?;
            let mut part = vec![0; length];
            self.socket.read_exact(&mut part)?;
            parts.push(part);
        }
        Ok(Received::Message(Message { kind, parts, descriptors }))
    }

    fn send_descriptors(&self, batch: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::Error::other("the descriptors do not fit"));
        }
        loop {
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive_descriptors(&self, into: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        loop {
            let buffers = &mut [IoSliceMut::new(&mut byte)];
            match rustix::net::recvmsg(&self.socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                into.extend(descriptors);
            }
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn kind_of(byte: u8) -> Option<Kind> {
    let all = [Kind::Reload, Kind::Reopen, Kind::Quit, Kind::Terminate, Kind::Taken, Kind::Refused];
    all.into_iter().find(|&kind| kind as u8 == byte)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed message: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Seek;

    fn expect_message(channel: &mut Channel) -> Message {
        match channel.receive().expect("a whole frame was sent") {
            Received::Message(message) => message,
            Received::End => panic!("the line ended"),
        }
    }

    #[test]
    fn bytes_and_descriptors_arrive_together_and_in_order() {
        let (mut master, mut worker) = Channel::pair().expect("sockets are left");
        // More descriptors than one SCM_RIGHTS takes; each file holds its own number.
        let files: Vec<File> = (0..BATCH + 7)
            .map(|number| {
                let mut file = tempfile::tempfile().expect("a place for temporary files");
                write!(file, "{number}").expect("room in it");
                file
            })
            .collect();
        let sent = Message {
            kind: Kind::Reload,
            parts: vec![b"one".to_vec(), Vec::new(), vec![7; 1 << 20]],
            descriptors: files.iter().map(|file| file.try_clone().expect("descriptors are left").into()).collect(),
        };
        let writer = std::thread::spawn(move || {
            master.send(&sent).expect("the worker reads");
            master.send(&Message::bare(Kind::Quit)).expect("the worker reads");
        });

        let received = expect_message(&mut worker);
        assert_eq!(received.kind, Kind::Reload);
        assert_eq!(received.parts, [b"one".to_vec(), Vec::new(), vec![7; 1 << 20]]);
        assert_eq!(received.descriptors.len(), BATCH + 7);
        for (number, descriptor) in received.descriptors.into_iter().enumerate() {
            let mut file = File::from(descriptor);
            let mut text = String::new();
            file.rewind().expect("a plain file");
            file.read_to_string(&mut text).expect("a plain file");
            assert_eq!(text, number.to_string());
        }
        let next = expect_message(&mut worker);
        assert_eq!((next.kind, next.descriptors.len()), (Kind::Quit, 0));
        writer.join().expect("the writer ends");
        assert!(matches!(worker.receive(), Ok(Received::End)));
    }

    #[test]
    fn the_master_takes_only_short_answers_and_no_descriptors() {
        let (mut master, mut worker) = Channel::pair().expect("sockets are left");
        let answer = |length| Message { kind: Kind::Refused, parts: vec![vec![b'x'; length]], descriptors: Vec::new() };
        worker.send(&answer(MAX_ANSWER - 4)).expect("room in the socket");
        assert_eq!(expect_message(&mut master).parts[0].len(), MAX_ANSWER - 4);
        worker.send(&answer(MAX_ANSWER)).expect("room in the socket");
        assert!(master.receive().is_err());

        let (mut master, mut worker) = Channel::pair().expect("sockets are left");
        let descriptors = vec![tempfile::tempfile().expect("a place for temporary files").into()];
        worker.send(&Message { kind: Kind::Taken, parts: Vec::new(), descriptors }).expect("room in the socket");
        assert!(master.receive().is_err());
    }

    #[test]
    fn a_peer_that_ends_without_reading_is_an_end() {
        let (mut master, worker) = Channel::pair().expect("sockets are left");
        master.send(&Message::bare(Kind::Terminate)).expect("room in the socket");
        drop(worker);
        assert!(matches!(master.receive(), Ok(Received::End)));
    }

    #[test]
    fn nonsense_is_an_error_and_allocates_nothing() {
        let wrong: [&[u8]; 4] = [
            &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'd'],
        ];
        for bytes in wrong {
            let (mut master, mut worker) = Channel::pair().expect("sockets are left");
            master.socket.write_all(bytes).expect("room in the socket");
            assert!(worker.receive().is_err(), "{bytes:?}");
        }
    }
}
