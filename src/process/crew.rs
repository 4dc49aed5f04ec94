//! The threads that serve: one event loop each, told what to do by the process's first thread.
//!
//! In: generations and orders. Out: accepted connections, run to their ends. The rule: a thread shares nothing with
//! another but what a generation shares; it is told, and never asked.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::core::Affinity;
use super::generation::Generation;
use super::turn;
use crate::log::{Context, Level, batch, error};
use crate::net::accept;
use crate::net::crowd::Crowd;
use crate::net::unpaced;

/// What a thread is told.
enum Order {
    /// Accept for this generation, and for no other.
    Serve(Arc<Generation>),
    /// End the connections of one generation, however busy.
    Close(u64),
    /// Hand the log lines over that are held back, and say so.
    Flush(mpsc::Sender<()>),
    /// Accept no more; end with the last connection.
    Quit,
    /// End.
    Terminate,
}

/// All threads of the process.
pub struct Crew {
    orders: Vec<UnboundedSender<Order>>,
    /// Ends when every thread has: each holds a writing end.
    ended: PipeReader,
}

impl Crew {
    /// Starts `count` threads, which wait for their first generation.
    pub fn start(count: usize, affinity: &Affinity) -> io::Result<Self> {
        let (ended, life) = io::pipe()?;
        let mut orders = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, receiver) = unbounded_channel();
            let (life, affinity) = (life.try_clone()?, affinity.clone());
            std::thread::Builder::new()
                .name(format!("weir/{index}"))
                .spawn(move || thread(index, &affinity, receiver, life))?;
            orders.push(sender);
        }
        Ok(Self { orders, ended })
    }

    pub fn serve(&self, generation: &Arc<Generation>) {
        self.tell(|| Order::Serve(generation.clone()));
    }

    pub fn close(&self, generation: u64) {
        self.tell(|| Order::Close(generation));
    }

    pub fn quit(&self) {
        self.tell(|| Order::Quit);
    }

    pub fn terminate(&self) {
        self.tell(|| Order::Terminate);
    }

    /// Has every thread hand over its held log lines. A thread that is stuck is not waited for longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, flushed) = mpsc::channel();
        self.tell(|| Order::Flush(done.clone()));
        drop(done);
        let deadline = Instant::now() + limit;
        loop {
            match flushed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                // Every thread has answered, or is gone.
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return,
            }
        }
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for thread in &self.orders {
            // A thread that has ended needs no orders.
            let _ = thread.send(order());
        }
    }
}

/// Readable, by its end, when all threads have ended.
impl AsFd for Crew {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

/// One thread from its start to its end. `life` is dropped last.
fn thread(index: usize, affinity: &Affinity, orders: UnboundedReceiver<Order>, life: PipeWriter) {
    if let Some(mask) = affinity.of(index)
        && let Err(code) = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &mask)
    {
        error::call_failed(Level::Alert, &code.into(), "sched_setaffinity()");
    }
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(turn::ends)
        .on_thread_unpark(turn::begins)
        .build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            batch::attend();
            let driven = std::panic::AssertUnwindSafe(|| runtime.block_on(drive(index, orders)));
            if std::panic::catch_unwind(driven).is_err() {
                // The hook has logged it. Half of the server would be gone and nobody would know.
                error_exit();
            }
            // Connections that are still there end here.
            drop(runtime);
            batch::drain();
        }
        Err(error) => {
            error::call_failed(Level::Emerg, &error, "epoll_create()");
            error_exit();
        }
    }
    drop(life);
}

/// Ends the process, so that the master starts another.
fn error_exit() -> ! {
    batch::drain();
    std::process::exit(1);
}

/// A thread's one permanent task: does what it is told.
async fn drive(index: usize, mut orders: UnboundedReceiver<Order>) {
    tokio::task::spawn_local(turn::pulse());
    let crowd = Crowd::here();
    let mut doors = JoinSet::new();
    let mut quitting = false;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Serve(generation)) => {
                    // Those before let go of their copies of the sockets; what waits there waits for the new ones.
                    doors = open_doors(index, &generation);
                    crowd.limit(generation.settings.worker_connections, generation.doors.len());
                    crowd.drain();
                    if index == 0 {
                        generation.begin_here();
                    }
                }
                Some(Order::Close(generation)) => crowd.close(generation),
                Some(Order::Flush(done)) => {
                    batch::drain();
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
                Some(Order::Quit) => {
                    doors.abort_all();
                    crowd.drain();
                    quitting = true;
                }
                Some(Order::Terminate) | None => return,
            },
            () = crowd.empty(), if quitting => return,
        }
    }
}

/// A task for each listening socket. With `reuseport` this thread has its own.
fn open_doors(index: usize, generation: &Arc<Generation>) -> JoinSet<()> {
    let mut doors = JoinSet::new();
    for door in &generation.doors {
        let sockets = &door.listener.sockets;
        let Some(socket) = sockets.get(index % sockets.len().max(1)) else { continue };
        let socket = match socket.try_clone() {
            Ok(socket) => socket,
            Err(error) => {
                let code = error.raw_os_error().unwrap_or(0);
                let address = &door.listener.options.address;
                let message = format_args!("fcntl(F_DUPFD) of the socket of {address} failed");
                generation.log.write_os(Level::Emerg, &Context::default(), code, message);
                continue;
            }
        };
        let entrance = accept::Door {
            serve: door.serve.clone(),
            life: generation.life.clone(),
            listener: door.index,
            within: unpaced::is_within(&door.listener.options.address),
            may_defer: door.listener.options.may_defer(),
            multi_accept: generation.settings.multi_accept,
            log: generation.log.clone(),
        };
        doors.spawn_local(accept::accept(socket, entrance));
    }
    doors
}
