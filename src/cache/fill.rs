//! A file while it is being filled, as those see it who wait for it: each at its own pace, on any thread.
//!
//! In: what the one who fetches has written. Out: how far it is. The rule: a fill goes from nothing over growing to whole,
//! or ends; it never goes back. Whoever waits leaves a waker, one for each.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::base::hash::QuickMap;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Fill {
    state: Mutex<State>,
    /// The number of the last purge before it was asked for.
    pub since: u32,
}

#[derive(Debug, Default)]
struct State {
    progress: Progress,
    waiting: QuickMap<u64, Waker>,
    next: u64,
}

/// How far a fill has come.
#[derive(Clone, Debug, Default)]
pub enum Progress {
    /// The upstream has not answered yet.
    #[default]
    Asked,
    /// So many bytes of the file are written.
    Growing(Arc<File>, u64),
    Whole(Arc<File>, u64),
    /// It came to nothing, or the file is in its place and nobody needs to look here.
    Ended,
}

impl Fill {
    /// A fill that is asked for now, when the last purge has this number.
    pub fn since(number: u32) -> Self {
        Self { since: number, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, progress: Progress) {
        let woken = {
            let mut state = self.lock();
            state.progress = progress;
            std::mem::take(&mut state.waiting)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// So many bytes are written.
    pub fn grew(&self, file: &Arc<File>, len: u64) {
        self.tell(Progress::Growing(file.clone(), len));
    }

    /// All of it is written.
    pub fn whole(&self, file: &Arc<File>, len: u64) {
        self.tell(Progress::Whole(file.clone(), len));
    }

    /// Nothing more comes. What is whole stays whole.
    pub fn end(&self) {
        if !matches!(self.lock().progress, Progress::Whole(..)) {
            self.tell(Progress::Ended);
        }
    }

    /// Whether anybody waits.
    pub fn is_awaited(&self) -> bool {
        !self.lock().waiting.is_empty()
    }
}

/// One who waits.
#[derive(Debug)]
pub struct Waiter {
    fill: Arc<Fill>,
    id: u64,
}

impl Waiter {
    pub fn new(fill: Arc<Fill>) -> Self {
        let mut state = fill.lock();
        let id = state.next;
        state.next += 1;
        drop(state);
        Self { fill, id }
    }

    /// See [`Fill::since`].
    pub fn since(&self) -> u32 {
        self.fill.since
    }

    /// Ready when there is more than `len` bytes, or the end was reached.
    pub fn poll_past(&self, len: u64, cx: &mut Context<'_>) -> Poll<Progress> {
        let mut state = self.fill.lock();
        match &state.progress {
            Progress::Asked => {}
            Progress::Growing(_, so_far) if *so_far <= len => {}
            done => return Poll::Ready(done.clone()),
        }
        state.waiting.insert(self.id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.fill.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_see_it_grow() {
        let fill = Arc::<Fill>::default();
        let (one, two) = (Waiter::new(fill.clone()), Waiter::new(fill.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(one.poll_past(0, &mut cx).is_pending() && two.poll_past(0, &mut cx).is_pending());
        assert!(fill.is_awaited());
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        fill.grew(&file, 10);
        assert!(matches!(one.poll_past(0, &mut cx), Poll::Ready(Progress::Growing(_, 10))));
        assert!(one.poll_past(10, &mut cx).is_pending());
        drop(one);
        assert!(!fill.is_awaited());
        fill.whole(&file, 20);
        fill.end();
        assert!(matches!(two.poll_past(20, &mut cx), Poll::Ready(Progress::Whole(_, 20))));
    }

    #[test]
    fn what_comes_to_nothing_frees_them() {
        let fill = Arc::<Fill>::default();
        let waiter = Waiter::new(fill.clone());
        let mut cx = Context::from_waker(Waker::noop());
        fill.end();
        assert!(matches!(waiter.poll_past(0, &mut cx), Poll::Ready(Progress::Ended)));
    }
}
