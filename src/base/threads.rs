//! Threads for work that may block for long: reading files that are not in memory. nginx: `thread_pool`.
//!
//! In: work. Out: its result, awaited by the loop that must not block. Threads begin when there is work that no idle one
//! takes, up to the pool's number, and end when they have had none for a while. The rule: work is done, in any case.
//! When the queue is full or no thread can be had, whoever asked does it himself.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a thread waits for more work.
const IDLE: Duration = Duration::from_secs(30);

type Work = Box<dyn FnOnce() + Send>;

/// See the module's head.
#[derive(Default)]
pub struct Pool {
    limits: OnceLock<Limits>,
    queue: Mutex<Queue>,
    work_came: Condvar,
}

/// What `thread_pool` says of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub threads: usize,
    pub max_queue: usize,
}

impl Limits {
    /// nginx's for the pool that is called `default`.
    pub const DEFAULT: Self = Self { threads: 32, max_queue: 65536 };
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// Does `work` on a thread of the pool. An error is the work's own, or that its thread died.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if !self.has_room() {
            return work();
        }
        let (sender, receiver) = oneshot::channel();
        // Whoever waited may be gone: then nobody wants the result.
        self.push(Box::new(move || drop(sender.send(work()))));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
    }

    fn limits(&self) -> Limits {
        *self.limits.get_or_init(|| Limits::DEFAULT)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody will take more work; begins a thread for it if need be.
    fn has_room(self: &Arc<Self>) -> bool {
        let limits = self.limits();
        let mut queue = self.lock();
        if queue.idle <= queue.work.len() && queue.threads < limits.threads {
            let pool = self.clone();
            let thread = std::thread::Builder::new().name("weir/files".to_owned()).spawn(move || pool.serve());
            queue.threads += usize::from(thread.is_ok());
        }
        queue.threads > 0 && queue.work.len() < limits.max_queue
    }

    fn push(&self, work: Work) {
        self.lock().work.push_back(work);
        self.work_came.notify_one();
    }

    /// A thread's life.
    fn serve(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(work) = queue.work.pop_front() {
                drop(queue);
                // What panics ends alone: its sender is dropped, and so is answered.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                queue = self.lock();
                continue;
            }
            queue.idle += 1;
            let (woken, waited) = self.work_came.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.work.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

/// The pools of one configuration, by their names.
#[derive(Default)]
pub struct Pools {
    pools: RefCell<HashMap<String, Arc<Pool>>>,
}

impl Pools {
    /// The pool of that name, which may be defined later.
    pub fn named(&self, name: &str) -> Arc<Pool> {
        self.pools.borrow_mut().entry(name.to_owned()).or_default().clone()
    }

    /// Says how large a pool is.
    pub fn define(&self, name: &str, limits: Limits) {
        let _ = self.named(name).limits.set(limits); // a second definition was refused before
    }

    /// The name of a pool that was asked for and never defined.
    pub fn undefined(&self) -> Option<String> {
        let pools = self.pools.borrow();
        let mut names = pools.iter().filter(|(name, pool)| *name != "default" && pool.limits.get().is_none());
        names.next().map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn work_is_done_elsewhere() {
        let pool = Arc::new(Pool::default());
        let here = std::thread::current().id();
        let there = block_on(pool.run(|| Ok(std::thread::current().id()))).expect("an id");
        assert_ne!(here, there);
        assert!(block_on(pool.run(|| Err::<(), _>(io::Error::other("x")))).is_err());
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = Arc::new(Pool::default());
        let _ = pool.limits.set(Limits { threads: 1, max_queue: 10 });
        let died = block_on(pool.run(|| -> io::Result<()> { std::panic::panic_any("on purpose") }));
        assert!(died.is_err());
        assert_eq!(block_on(pool.run(|| Ok(7))).expect("alive"), 7);
    }

    #[test]
    fn a_full_queue_leaves_the_work_to_who_asked() {
        let pool = Arc::new(Pool::default());
        let _ = pool.limits.set(Limits { threads: 1, max_queue: 0 });
        let here = std::thread::current().id();
        assert_eq!(block_on(pool.run(|| Ok(std::thread::current().id()))).expect("an id"), here);
    }

    #[test]
    fn names_are_defined_early_or_late() {
        let pools = Pools::default();
        let early = pools.named("a");
        assert_eq!(pools.undefined().as_deref(), Some("a"));
        pools.define("a", Limits { threads: 2, max_queue: 3 });
        assert_eq!(pools.undefined(), None);
        assert_eq!((early.limits().threads, pools.named("default").limits().threads), (2, 32));
    }
}
