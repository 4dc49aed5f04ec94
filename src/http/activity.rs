//! What the connections of this process are doing: waiting for a request, reading one, writing an answer.
//!
//! In: each connection's state, told by its own thread. Out: sums over all threads, for `stub_status`. Each thread
//! writes only its own numbers, so that telling costs no more than an ordinary store.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What one connection is doing. Dropped with it.
pub struct Activity(Cell<State>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For the first byte of a request.
    Waiting,
    /// A request's head.
    Reading,
    /// An answer is made and written.
    Writing,
}

/// Sums over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub waiting: u64,
    pub reading: u64,
    pub writing: u64,
    /// All requests so far.
    pub requests: u64,
}

impl Activity {
    /// Of a connection that is new and waits.
    pub fn begin() -> Self {
        COUNTS.with(|counts| add(&counts.waiting, 1));
        Self(Cell::new(State::Waiting))
    }

    pub fn set(&self, state: State) {
        let before = self.0.replace(state);
        if before == state {
            return;
        }
        COUNTS.with(|counts| {
            add(counts.of(before), u64::MAX);
            add(counts.of(state), 1);
            if state == State::Reading {
                add(&counts.requests, 1);
            }
        });
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        // A thread that ends takes its connections with it, perhaps after its numbers.
        let _ = COUNTS.try_with(|counts| add(counts.of(self.0.get()), u64::MAX));
    }
}

/// The sums, which other threads may be changing.
pub fn total() -> Total {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().fold(Total::default(), |sum, counts| Total {
        waiting: sum.waiting + counts.waiting.load(Relaxed),
        reading: sum.reading + counts.reading.load(Relaxed),
        writing: sum.writing + counts.writing.load(Relaxed),
        requests: sum.requests + counts.requests.load(Relaxed),
    })
}

/// One thread's numbers.
#[derive(Default)]
struct Counts {
    waiting: AtomicU64,
    reading: AtomicU64,
    writing: AtomicU64,
    requests: AtomicU64,
}

impl Counts {
    fn of(&self, state: State) -> &AtomicU64 {
        match state {
            State::Waiting => &self.waiting,
            State::Reading => &self.reading,
            State::Writing => &self.writing,
        }
    }
}

/// Adds to a number that no other thread writes; `u64::MAX` takes one away.
fn add(count: &AtomicU64, difference: u64) {
    count.store(count.load(Relaxed).wrapping_add(difference), Relaxed);
}

/// The numbers of every thread there ever was: what threads that ended have counted still counts.
static ALL: Mutex<Vec<Arc<Counts>>> = Mutex::new(Vec::new());

thread_local! {
    static COUNTS: Arc<Counts> = {
        let counts = Arc::<Counts>::default();
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(counts.clone());
        counts
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_in_one_state_and_leaves_none() {
        // The other tests of this process have no connections.
        let others = total();
        let first = Activity::begin();
        let second = Activity::begin();
        first.set(State::Reading);
        first.set(State::Writing);
        second.set(State::Reading);
        let now = total();
        assert_eq!((now.waiting, now.reading, now.writing), (others.waiting, others.reading + 1, others.writing + 1));
        assert_eq!(now.requests, others.requests + 2);
        first.set(State::Waiting);
        drop((first, second));
        assert_eq!(total(), Total { requests: now.requests, ..others });
    }
}
