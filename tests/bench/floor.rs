//! The floor of a scenario: a program that makes the system calls of an answer and does next to nothing else.
//!
//! In: a port, a way of answering and what it needs. Out: answers to whoever asks, and what of a server's processor time
//! is the kernel's. It is no server: it takes whatever comes for a whole request, and whatever its upstream sends for an answer.
//!
//!     floor PORT answer FILE      epoll_wait, recv, send: head and body from memory; of a directory, any of its files
//!     floor PORT once FILE        the same on a connection for each: accept4, epoll_ctl and close beside
//!     floor PORT file FILE        epoll_wait, recv, send with MSG_MORE, sendfile
//!     floor PORT pass UPSTREAM    recv, send, recv, send over kept connections to that port
//!     floor PORT splice UPSTREAM  recv, send, and splice through a pipe for what comes back

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// As much as is read at once, and held in a pipe.
const ROOM: usize = 256 * 1024;

enum Way {
    /// Small enough for any socket to take it whole.
    Answer {
        answers: Vec<Vec<u8>>,
        once: bool,
    },
    File {
        head: Vec<u8>,
        file: File,
        size: u64,
    },
    Pass {
        upstream: u16,
        splice: bool,
    },
}

/// One connection, to a client or to the upstream.
struct Link {
    socket: OwnedFd,
    /// Its client, or its own connection to the upstream.
    other: Option<RawFd>,
    upstream: bool,
    /// Where in the file the answer stands, while the socket has not taken all of it.
    at: Option<u64>,
    /// What came from the upstream and its client did not take yet: in memory, or so many bytes in the pipe.
    rest: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    piped: usize,
}

struct Floor {
    way: Way,
    epoll: OwnedFd,
    links: HashMap<RawFd, Link>,
    buffer: Vec<u8>,
    /// Which of several answers is next (a linear congruential generator, Knuth's MMIX).
    chance: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [port, way, what] = words.as_slice() else {
        return Err("usage: floor PORT answer|once|file|pass|splice WHAT".into());
    };
    let way = match way.as_str() {
        "answer" | "once" => {
            let once = way == "once";
            let mut answers = Vec::new();
            for path in files(Path::new(what))? {
                let body = std::fs::read(path)?;
                answers.push([head(body.len() as u64, once), body].concat());
            }
            if answers.is_empty() {
                return Err(format!("there is no file in {what}").into());
            }
            Way::Answer { answers, once }
        }
        "file" => {
            let file = File::open(what)?;
            let size = file.metadata()?.len();
            Way::File { head: head(size, false), file, size }
        }
        "pass" | "splice" => Way::Pass { upstream: what.parse()?, splice: way == "splice" },
        _ => return Err(format!("unknown way \"{way}\"").into()),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    listener.set_nonblocking(true)?;
    // Within a machine weir sends without the timers that BBR has.
    sockopt::set_tcp_congestion(&listener, "reno")?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(u64::MAX), EventFlags::IN)?;
    Floor { way, epoll, links: HashMap::new(), buffer: vec![0; ROOM], chance: 1 }.run(&listener)
}

/// The file, or the files of the directory.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    path.read_dir()?.map(|entry| Ok(entry?.path())).collect()
}

fn head(length: u64, once: bool) -> Vec<u8> {
    let connection = if once { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/html\r\n\
         Content-Length: {length}\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\nConnection: {connection}\r\n\
         ETag: \"6553f100-400\"\r\nAccept-Ranges: bytes\r\n\r\n"
    )
    .into_bytes()
}

impl Link {
    /// Something has come that its other side did not take yet.
    fn holds_back(&self) -> bool {
        self.piped > 0 || !self.rest.is_empty()
    }
}

impl Floor {
    fn run(&mut self, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
        let mut events = Vec::with_capacity(512);
        loop {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            for event in &events {
                let flags = event.flags;
                match RawFd::try_from(event.data.u64()) {
                    Err(_) => self.accept(listener)?,
                    Ok(fd) => {
                        let done = self.turn(fd, flags);
                        if !matches!(done, Ok(true) | Err(Errno::AGAIN)) {
                            self.part(fd);
                        }
                    }
                }
            }
        }
    }

    /// Ends a connection, and the one that is there for it alone.
    fn part(&mut self, fd: RawFd) {
        if let Some(other) = self.links.remove(&fd).and_then(|link| link.other) {
            self.links.remove(&other);
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => self.join(socket, false)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if matches!(self.way, Way::Answer { once: true, .. }) {
                return Ok(()); // the listener is level-triggered: what is left comes in the next turn
            }
        }
    }

    fn join(&mut self, socket: OwnedFd, upstream: bool) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        if !matches!(self.way, Way::Answer { once: true, .. }) {
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        let out = match self.way {
            Way::Answer { .. } => EventFlags::empty(),
            Way::File { .. } | Way::Pass { .. } => EventFlags::OUT,
        };
        epoll::add(&self.epoll, &socket, EventData::new_u64(fd as u64), EventFlags::IN | EventFlags::ET | out)?;
        let link = Link { socket, other: None, upstream, at: None, rest: Vec::new(), pipe: None, piped: 0 };
        self.links.insert(fd, link);
        Ok(())
    }

    /// What a socket is ready for. `false`: its connection is over.
    fn turn(&mut self, fd: RawFd, flags: EventFlags) -> Result<bool, Errno> {
        let Some(link) = self.links.get_mut(&fd) else { return Ok(true) };
        match &self.way {
            Way::Answer { answers, once } => {
                if recv(&link.socket, &mut self.buffer[..], RecvFlags::empty())?.0 == 0 {
                    return Ok(false);
                }
                self.chance =
                    self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let next = (self.chance >> 33) as usize % answers.len();
                send(&link.socket, &answers[next], SendFlags::NOSIGNAL)?;
                Ok(!once)
            }
            Way::File { head, file, size } => {
                let mut at = match link.at {
                    Some(at) => at,
                    None if recv(&link.socket, &mut self.buffer[..], RecvFlags::empty())?.0 == 0 => return Ok(false),
                    None => {
                        send(&link.socket, head, SendFlags::NOSIGNAL | SendFlags::MORE)?;
                        0
                    }
                };
                while at < *size {
                    link.at = Some(at);
                    let left = usize::try_from(*size - at).unwrap_or(ROOM);
                    sendfile(&link.socket, file, Some(&mut at), left)?;
                }
                link.at = None;
                Ok(true)
            }
            Way::Pass { .. } if link.upstream => self.answer_comes(fd),
            Way::Pass { .. } => self.asked(fd, flags),
        }
    }

    fn asked(&mut self, fd: RawFd, flags: EventFlags) -> Result<bool, Errno> {
        let Way::Pass { upstream, .. } = self.way else { return Ok(true) };
        let Some(link) = self.links.get_mut(&fd) else { return Ok(true) };
        let other = link.other;
        if let Some(waiting) = other.filter(|other| self.links.get(other).is_some_and(Link::holds_back)) {
            match self.answer_comes(waiting) {
                Ok(true) | Err(Errno::AGAIN) => {}
                over => return over,
            }
        }
        let Some(link) = self.links.get_mut(&fd).filter(|_| flags.contains(EventFlags::IN)) else { return Ok(true) };
        let (read, _) = recv(&link.socket, &mut self.buffer[..], RecvFlags::empty())?;
        if read == 0 {
            return Ok(false);
        }
        let other = match link.other {
            Some(other) => other,
            None => {
                let stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, upstream));
                let stream = stream.map_err(|_| Errno::CONNREFUSED)?;
                stream.set_nonblocking(true).map_err(|_| Errno::BADF)?;
                let other = stream.as_raw_fd();
                self.join(stream.into(), true).map_err(|_| Errno::BADF)?;
                other
            }
        };
        if let Some(link) = self.links.get_mut(&fd) {
            link.other = Some(other);
        }
        if let Some(peer) = self.links.get_mut(&other) {
            peer.other = Some(fd);
            send(&peer.socket, &self.buffer[..read], SendFlags::NOSIGNAL)?;
        }
        Ok(true)
    }

    /// Takes what the upstream has sent to the client, as far as both let it.
    fn answer_comes(&mut self, fd: RawFd) -> Result<bool, Errno> {
        let Some(to) = self.links.get(&fd).and_then(|link| link.other) else { return Ok(true) };
        let [Some(from), Some(to)] = self.links.get_disjoint_mut([&fd, &to]) else { return Ok(true) };
        if matches!(self.way, Way::Pass { splice: true, .. }) {
            splices(from, to)
        } else {
            copies(from, to, &mut self.buffer)
        }
    }
}

fn copies(from: &mut Link, to: &Link, buffer: &mut [u8]) -> Result<bool, Errno> {
    loop {
        while !from.rest.is_empty() {
            let sent = send(&to.socket, &from.rest, SendFlags::NOSIGNAL)?;
            from.rest.drain(..sent);
        }
        let (read, _) = recv(&from.socket, &mut *buffer, RecvFlags::empty())?;
        let sent = match send(&to.socket, &buffer[..read], SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => 0,
            sent => sent?,
        };
        from.rest.extend_from_slice(&buffer[sent..read]);
        if read < buffer.len() && from.rest.is_empty() {
            return Ok(read > 0);
        }
    }
}

fn splices(from: &mut Link, to: &Link) -> Result<bool, Errno> {
    if from.pipe.is_none() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&write, ROOM)?;
        from.pipe = Some((read, write));
    }
    let Some((read, write)) = &from.pipe else { return Ok(true) };
    loop {
        while from.piped > 0 {
            from.piped -= splice(read, None, &to.socket, None, from.piped, SpliceFlags::NONBLOCK)?;
        }
        from.piped = splice(&from.socket, None, write, None, ROOM, SpliceFlags::NONBLOCK)?;
        if from.piped == 0 {
            return Ok(false);
        }
    }
}
