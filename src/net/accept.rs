//! Accepting: one task per thread and listening socket.
//!
//! In: listening sockets. Out: calls of [`Serve::connection`], each in a task of its own on the thread that accepted.
//! The rule: a panic ends its own task and nothing else: tokio catches it there, and the panic hook logs it.
//!
//! Without `reuseport` all threads wait for the same socket, which is nginx's arrangement and keeps its promises: one
//! queue, so no connection waits for a busy thread while another is idle, and a second server on the port is refused.
//! The price is that one connection wakes every thread that sleeps; those that lose find nothing to accept and sleep
//! again. (nginx tells the kernel to wake one, by EPOLLEXCLUSIVE; tokio does not offer it, and sockets of their own
//! for all threads would give up both promises.) Threads with work to do are not woken and lose nothing, so the price
//! is paid from idle time; `reuseport` avoids it. Measured: a connection to an idle server costs 3 context switches
//! with 2 threads and 10 with 8 (with `reuseport` 2 and 3); under load the difference is in the noise up to the number
//! of processors.

use std::ffi::OsStr;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use rustix::net::{SocketAddrUnix, SocketFlags};
use tokio::io::Interest;

use super::crowd::{ACCEPTED, Crowd, Life, Slot};
use super::defer::Deferral;
use super::unpaced;
use super::watch;
use crate::base::addr::Address;
use crate::log::{self, ErrorLog, Level};

/// What runs connections: `http`, `stream`. One for each generation, shared by all threads.
pub trait Serve: Send + Sync {
    /// It is in force in this process from now on: what works beside connections may begin.
    fn begin(&self) {}

    /// As [`Serve::begin`], on one of its threads: what needs a loop may begin there.
    fn begin_here(&self) {}

    /// Runs one connection to its end. Called, and the future polled, on the thread that accepted it.
    fn connection(self: Arc<Self>, accepted: Accepted, listener: usize) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A connection that has just been accepted.
pub struct Accepted {
    /// It does not block.
    pub socket: OwnedFd,
    pub peer: Peer,
    pub slot: Slot,
}

/// The client's end: where it is bound.
pub type Peer = Address;

/// What one accepting task works for.
#[derive(Clone)]
pub struct Door {
    pub serve: Arc<dyn Serve>,
    pub life: Arc<Life>,
    /// The listener's place in the configuration's list.
    pub listener: usize,
    /// What is decided for the listening socket holds for all that it takes.
    pub within: bool,
    /// [`Options::may_defer`](super::listen::Options::may_defer).
    pub may_defer: bool,
    pub multi_accept: bool,
    pub log: ErrorLog,
}

/// nginx's default `accept_mutex_delay`, which is also how long it rests when there are no descriptors left.
const REST: Duration = Duration::from_millis(500);

/// Accepts until it is dropped. The socket is a copy for this thread; it goes on listening without it.
pub async fn accept(socket: OwnedFd, door: Door) {
    let log = &door.log;
    let listening = match watch::readable(socket) {
        Ok(listening) => listening,
        Err(error) => return failed(log, Level::Alert, &error, "epoll_ctl(1)"),
    };
    let mut deferral = door.may_defer.then(|| Deferral::new(listening.get_ref().as_fd()));
    let mut in_a_row = 0;
    loop {
        let mut next = pin!(listening.async_io(Interest::READABLE, accept_one));
        let accepted = poll_fn(|cx| {
            let polled = next.as_mut().poll(cx);
            if let (Poll::Pending, Some(deferral)) = (&polled, &mut deferral) {
                deferral.wait(cx);
            }
            polled
        });
        match accepted.await {
            Ok((socket, peer)) => {
                if let Some(deferral) = &mut deferral {
                    deferral.accepted(&socket);
                }
                admit(socket, peer, &door);
            }
            Err(error) => {
                let (level, rest) = match error.raw_os_error() {
                    Some(libc::ECONNABORTED) => (Level::Error, false),
                    Some(libc::EMFILE | libc::ENFILE) => (Level::Crit, true),
                    Some(libc::ENOBUFS | libc::ENOMEM) => (Level::Alert, true),
                    _ => (Level::Alert, false),
                };
                failed(log, level, &error, "accept4()");
                if rest {
                    tokio::time::sleep(REST).await;
                }
            }
        }
        if !door.multi_accept {
            in_a_row += 1;
            if in_a_row < IN_A_ROW {
                // Let it be served first.
                behind_others().await;
            } else {
                // Let those who are here already have their turn.
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// So many connections are accepted before the loop looks for what else has happened.
const IN_A_ROW: u32 = 8;

/// Ready when all have run who are ready now, without the loop asking the system for more.
async fn behind_others() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Accepts one connection, which does not wait in the loop yet.
fn accept_one(listening: &OwnedFd) -> io::Result<(OwnedFd, Peer)> {
    let (socket, peer) = rustix::net::acceptfrom_with(listening, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let path = |address| {
        let address = SocketAddrUnix::try_from(address).ok();
        let path = address.as_ref().and_then(SocketAddrUnix::path_bytes).unwrap_or_default();
        Peer::Unix(OsStr::from_bytes(path).into())
    };
    let peer = peer.map_or_else(
        || Peer::Unix(PathBuf::new()),
        |address| SocketAddr::try_from(address.clone()).map_or_else(|_| path(address), Peer::Inet),
    );
    Ok((socket, peer))
}

/// Starts the task of one connection, if there is room for it.
fn admit(socket: OwnedFd, peer: Peer, door: &Door) {
    ACCEPTED.fetch_add(1, Ordering::Relaxed);
    if !door.within {
        let _ = unpaced::spare(&socket, &peer); // a connection that is paced is as good
    }
    let Some(slot) = Slot::of_client(&door.life, &door.log) else { return }; // and the connection closes
    let place = slot.place();
    let accepted = Accepted { socket, peer, slot };
    let (serve, listener) = (door.serve.clone(), door.listener);
    // Not even making the future happens here: a panic must not end the task that accepts.
    Crowd::here().spawn(place, async move { serve.connection(accepted, listener).await });
}

fn failed(log: &ErrorLog, level: Level, error: &io::Error, call: &str) {
    let code = error.raw_os_error().unwrap_or(0);
    log.write_os(level, &log::Context::default(), code, format_args!("{call} failed"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::io::Io;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream as Client};

    use bytes::BytesMut;
    use tokio::runtime::{Builder, LocalOptions};

    /// Answers each byte with itself; `!` panics, and between bytes the connection is idle.
    struct Echo;

    impl Serve for Echo {
        fn connection(self: Arc<Self>, accepted: Accepted, _: usize) -> Pin<Box<dyn Future<Output = ()>>> {
            Box::pin(async move {
                let io = Io::new(accepted.socket);
                loop {
                    let mut byte = BytesMut::with_capacity(1);
                    let read = tokio::select! {
                        read = poll_fn(|cx| io.poll_read(cx, &mut byte)) => read,
                        _ = accepted.slot.unwanted() => return,
                    };
                    match read {
                        Ok(1) if byte == "!" => panic!("asked for"),
                        Ok(1) => drop(poll_fn(|cx| io.poll_write(cx, &byte)).await.expect("the client reads")),
                        _ => return,
                    }
                }
            })
        }
    }

    /// Runs `client` on a thread of its own beside a loop that accepts.
    fn with_loop(limit: usize, client: impl FnOnce(std::net::SocketAddr) + Send + 'static, after: impl FnOnce(&Crowd)) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("descriptors are left").block_on(async {
            let crowd = Crowd::here();
            crowd.limit(limit + 2, 1);
            let door = Door {
                serve: Arc::new(Echo),
                life: Arc::new(Life::new(1)),
                listener: 0,
                within: true,
                may_defer: true,
                multi_accept: false,
                log: ErrorLog::none(),
            };
            let life = door.life.clone();
            let (done, ended) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || {
                client(address);
                done.send(()).expect("the loop waits");
            });
            tokio::task::spawn_local(accept(listener.into(), door));
            ended.await.expect("the client does not panic");
            thread.join().expect("the client does not panic");
            life.drain();
            after(&crowd);
            crowd.drain();
            crowd.empty().await;
        });
    }

    fn echoes(client: &mut Client, byte: u8) -> bool {
        let mut answer = [0];
        client.write_all(&[byte]).is_ok() && client.read(&mut answer).is_ok_and(|n| n == 1) && answer == [byte]
    }

    fn closed(client: &mut Client) -> bool {
        !matches!(client.read(&mut [0]), Ok(n) if n > 0)
    }

    #[test]
    fn a_panic_ends_one_connection_only() {
        with_loop(
            8,
            |address| {
                let mut bystander = Client::connect(address).expect("it listens");
                assert!(echoes(&mut bystander, b'a'));
                let mut unlucky = Client::connect(address).expect("it listens");
                unlucky.write_all(b"!").expect("it is accepted");
                assert!(closed(&mut unlucky));
                assert!(echoes(&mut bystander, b'b'));
                let mut next = Client::connect(address).expect("it listens");
                assert!(echoes(&mut next, b'c'));
            },
            |_| (),
        );
    }

    #[test]
    fn when_connections_run_out_the_longest_idle_makes_room() {
        with_loop(
            2,
            |address| {
                let mut first = Client::connect(address).expect("it listens");
                assert!(echoes(&mut first, b'a'));
                let mut second = Client::connect(address).expect("it listens");
                assert!(echoes(&mut second, b'b'));
                let mut third = Client::connect(address).expect("it listens");
                assert!(echoes(&mut third, b'c'));
                assert!(closed(&mut first));
                assert!(echoes(&mut third, b'd'));
                // Now the second one is idle for longest.
                let mut fourth = Client::connect(address).expect("it listens");
                assert!(echoes(&mut fourth, b'e'));
                assert!(closed(&mut second));
                assert!(echoes(&mut third, b'f'));
            },
            |_| (),
        );
    }

    #[test]
    fn a_generation_that_drains_closes_its_idle_connections() {
        let (sender, receiver) = std::sync::mpsc::channel();
        with_loop(
            8,
            move |address| {
                let mut idle = Client::connect(address).expect("it listens");
                assert!(echoes(&mut idle, b'a'));
                sender.send(idle).expect("the test waits");
            },
            |crowd| assert_eq!(crowd.clients(), 1),
        );
        let mut idle = receiver.recv().expect("the client sent it");
        assert!(closed(&mut idle));
        // The peer is gone: shutting down fails or does nothing.
        let _ = idle.shutdown(Shutdown::Both);
    }
}
