//! What only the operating system can do and no safe crate offers: forking, the environment, the process title, what the
//! kernel knows of a connection and when it tells of what has come, and reading into memory that nobody has written to yet.
//!
//! This is the one file that may contain `unsafe`, and stands below all that need it. Every function here is safe to call: what
//! its block relies on is checked in the function itself, or follows from the one rule that the callers keep: forking, the
//! environment and the title are for while the process has a single thread, before any runtime is built. `fork` and
//! `set_environment` count the threads first. What is done with sockets relies on nothing and may be called at any time.

#![expect(unsafe_code, reason = "what is done here has no safe interface")]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use bytes::{BufMut, BytesMut};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, ForkResult, Pid};
use rustix::net::RecvFlags;

/// Which side of [`fork`] this is.
pub enum Fork {
    Parent(Pid),
    Child,
}

/// Splits the process in two. Refused when there is more than one thread: the child would have only this one, with
/// the locks of the others held for ever.
pub fn fork() -> io::Result<Fork> {
    single_threaded()?;
    // SAFETY: there is one thread, so no lock is held by a thread that the child lacks.
    Ok(match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Fork::Parent(child),
        ForkResult::Child => Fork::Child,
    })
}

/// Lets the program go on in the background: the process that the shell waits for ends well, and its child leads a
/// session of its own, without a terminal. What stderr is stays: the log is not open to everybody yet.
pub fn daemonise() -> io::Result<()> {
    if let Fork::Parent(_) = fork()? {
        std::process::exit(0);
    }
    unistd::setsid()?;
    umask(Mode::empty());
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdin(&null)?;
    unistd::dup2_stdout(&null)?;
    Ok(())
}

/// Makes `variables` the whole environment. Their texts are copied to the heap, which [`Title`] relies on.
pub fn set_environment(variables: &[(OsString, OsString)]) -> io::Result<()> {
    single_threaded()?;
    let present: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in present {
        // SAFETY: there is one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in variables {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// Takes the sockets that another process left open in this one under the given numbers, in their order; those that
/// are no open descriptors are `None`. To be called once, before this process has opened anything itself: then a
/// number that is open and not a standard stream belongs to whoever named it, and to nobody else here.
pub fn take_descriptors(numbers: &[RawFd]) -> Vec<Option<OwnedFd>> {
    let mut taken: Vec<RawFd> = Vec::new();
    let take = |&number: &RawFd| {
        if number <= libc::STDERR_FILENO || taken.contains(&number) {
            return None;
        }
        // SAFETY: the number is only asked about; one that is not open is an error here, and nothing else.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        // Nothing that this process may start shall have it, but for one that is given it on purpose.
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        taken.push(number);
        // SAFETY: it is open, nothing in this process owns it yet, and no number is taken twice.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    };
    numbers.iter().map(take).collect()
}

/// Whether programs that this process starts get the descriptor, too.
pub fn pass_on(descriptor: impl AsFd, passed: bool) -> nix::Result<()> {
    let flags = if passed { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor, FcntlArg::F_SETFD(flags)).map(drop)
}

/// The title that `ps` shows: the memory in which the kernel put the arguments of this process.
///
/// Taken once at start; a forked child inherits it, since its memory is a copy at the same addresses.
#[derive(Clone, Copy)]
pub struct Title {
    start: usize,
    length: usize,
}

impl Title {
    /// Finds the argument area, and moves the environment, which lies behind it, out of the way, so that a title may
    /// be longer than the arguments were. `None` where `/proc` does not tell: then the title stays as it was.
    pub fn claim() -> Option<Self> {
        let variables: Vec<_> = std::env::vars_os().collect();
        let (start, length) = argument_area(&fs::read("/proc/self/stat").ok()?)?;
        // Every string of the environment now gets a copy on the heap, and `environ` points to it.
        set_environment(&variables).ok()?;
        Some(Self { start, length })
    }

    /// Shows `title`, cut to the room there is. The arguments of the process (`std::env::args`) are lost.
    pub fn set(self, title: &str) {
        let shown = title.as_bytes();
        let shown = &shown[..shown.len().min(self.length - 1)];
        // SAFETY: [`Title::claim`] had start and length from the kernel: they span the argument and environment
        // strings of this process, on its own stack, writable, mapped for its whole life. Nothing refers to the
        // environment part any more; the C strings that `argv` points to stay terminated, as the last byte is zero.
        unsafe {
            let area = self.start as *mut u8;
            std::ptr::copy_nonoverlapping(shown.as_ptr(), area, shown.len());
            std::ptr::write_bytes(area.add(shown.len()), 0, self.length - shown.len());
        }
        // The name of the thread, which `top` and `ps -o comm` show.
        let _ = nix::sys::prctl::set_name(c"weir");
    }
}

/// Appends what has arrived at a socket to `buffer`, at most `room` and what its capacity holds. 0 is the end, or that there is no
/// room.
///
/// The C library's `recv` is a cancellation point: where there are threads it announces with one locked instruction that it
/// may be cancelled, and takes it back with another. Nobody is cancelled here, so the system is asked past it.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let room = room.min(spare.len());
    let ((read, _), _) = rustix::net::recv(socket, &mut spare[..room], RecvFlags::empty())?;
    let read = read.len();
    // SAFETY: so many bytes of the spare capacity, from its beginning, are initialised: they are what was read.
    unsafe { buffer.advance_mut(read) };
    Ok(read)
}

/// From now on a TCP socket is readable when so many bytes are there, or the end, or all that fits: `SO_RCVLOWAT`, socket(7). The
/// system makes room for them. Other sockets do not mind.
pub fn set_readable_at(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let len = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, which is the size of `bytes`, and the descriptor is open.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), len)
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What is shown of a TCP connection as `$tcpinfo_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Microseconds.
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_cwnd: u32,
    pub rcv_space: u32,
}

/// What the kernel knows of a connection; `None` when it is not a TCP one.
pub fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `info`, and the descriptor is open.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if failed != 0 {
        return None;
    }
    // SAFETY: it was all zeros, then the kernel wrote into it, and it is integers alone.
    let info = unsafe { info.assume_init() };
    Some(TcpInfo {
        rtt: info.tcpi_rtt,
        rttvar: info.tcpi_rttvar,
        snd_cwnd: info.tcpi_snd_cwnd,
        rcv_space: info.tcpi_rcv_space,
    })
}

/// Fields 48 to 51 of proc(5) `stat`: where arguments and environment begin and end. They must be adjacent.
///
/// When the byte at the end of the arguments is not zero, the kernel takes the title to run on into the environment
/// (proc(5), `cmdline`); so the whole area is ours to use.
fn argument_area(stat: &[u8]) -> Option<(usize, usize)> {
    // The second field is a name in parentheses and may itself hold any byte: count from its end.
    let rest = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let fields: Vec<usize> =
        std::str::from_utf8(rest).ok()?.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let &[arg_start, arg_end, env_start, env_end] = fields.get(45..49)? else { return None };
    let whole = arg_start != 0 && arg_start < arg_end && arg_end == env_start && env_start <= env_end;
    whole.then(|| (arg_start, env_end - arg_start))
}

/// An error where this process has more than one thread. Where `/proc` is not mounted nobody can tell, and the
/// order of things in `process` stands for it.
fn single_threaded() -> io::Result<()> {
    match fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(0 | 1) | Err(_) => Ok(()),
        Ok(threads) => Err(io::Error::other(format!("{threads} threads are running"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_area_is_found_behind_any_process_name() {
        let mut stat = b"42 (a) b (c) S ".to_vec();
        for field in 4..=52 {
            let value = match field {
                48 => 1000,
                49 | 50 => 1100,
                51 => 1500,
                _ => field,
            };
            stat.extend_from_slice(format!("{value} ").as_bytes());
        }
        assert_eq!(argument_area(&stat), Some((1000, 500)));
        assert_eq!(argument_area(b"42 (short) S 1 2 3"), None);
        assert_eq!(argument_area(b""), None);
    }

    #[test]
    fn tcp_sockets_have_facts_and_others_have_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        let info = tcp_info(stream.as_fd()).expect("a TCP socket");
        assert!(info.snd_cwnd > 0 && info.rcv_space > 0, "{info:?}");
        let (unix, _) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        assert_eq!(tcp_info(unix.as_fd()), None);
    }

    #[test]
    fn a_socket_is_readable_when_enough_is_there() {
        use std::io::{Read, Write};

        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        let (socket, _) = listener.accept().expect("it has connected");
        let readable = |patience: u16| {
            let mut sets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut sets, PollTimeout::from(patience)).expect("a socket can be polled") == 1
        };
        set_readable_at(socket.as_fd(), 1000).expect("a TCP socket");
        peer.write_all(&[b'a'; 999]).expect("it is read");
        assert!(!readable(50));
        peer.write_all(b"a").expect("it is read");
        assert!(readable(10_000));
        set_readable_at(socket.as_fd(), 1001).expect("a TCP socket");
        assert!(!readable(0));
        peer.shutdown(std::net::Shutdown::Write).expect("it is open");
        assert!(readable(10_000), "the end is always told");
        let (mut unix, mut other) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        unix.set_nonblocking(true).expect("a socket");
        set_readable_at(unix.as_fd(), 1000).expect("any socket");
        other.write_all(b"a").expect("it is read");
        let mut sets = [PollFd::new(unix.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut sets, PollTimeout::from(10_000_u16)), Ok(1));
        assert_eq!(unix.read(&mut [0; 10]).expect("it has come"), 1);
    }

    #[test]
    fn what_has_arrived_is_appended() {
        use std::io::Write;
        let (mut peer, socket) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        let mut buffer = BytesMut::with_capacity(8);
        buffer.extend_from_slice(b"ab");
        peer.write_all(b"cdefghijkl").expect("it is open");
        let mut receive = |room| receive(socket.as_fd(), &mut buffer, room).map(|read| (read, buffer.to_vec())).ok();
        assert_eq!(receive(3), Some((3, b"abcde".to_vec())));
        assert_eq!(receive(100), Some((3, b"abcdefgh".to_vec())), "no more than there is room for");
        assert_eq!(receive(100), Some((0, b"abcdefgh".to_vec())), "and none");
        drop(peer);
        buffer.clear();
        assert_eq!(super::receive(socket.as_fd(), &mut buffer, 8).ok(), Some(4));
        assert_eq!((super::receive(socket.as_fd(), &mut buffer, 4).ok(), &buffer[..]), (Some(0), &b"ijkl"[..]));
    }

    #[test]
    fn fork_is_refused_beside_other_threads() {
        // The test harness runs each test on a thread of its own beside the main one.
        assert!(fork().is_err());
        assert!(set_environment(&[]).is_err());
    }
}
