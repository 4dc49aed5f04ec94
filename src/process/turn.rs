//! The turns of a thread's loop: what happens once in each, beside the work.
//!
//! A turn begins when the loop has waited for events and ends when it is about to wait again. At its beginning the
//! clock is read, at its end log lines are handed over. A loop that always finds work never waits, so [`pulse`] beats
//! in between; it stops when the thread is idle, which then wakes for nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::base::clock;
use crate::log::batch;

/// How old the time may get, and a log line, while the loop does not wait.
const BEAT: Duration = Duration::from_millis(250);

/// Turns that the beat itself may cost: the runtime's timers come to a time in steps.
const OWN_TURNS: u64 = 4;

thread_local! {
    /// Turns begun.
    static TURNS: Cell<u64> = const { Cell::new(0) };
    /// Whom to wake with the next turn: the pulse, when it has stopped.
    static STOPPED: RefCell<Option<Rc<Notify>>> = const { RefCell::new(None) };
}

/// The runtime calls this when it has waited.
pub fn begins() {
    clock::tick();
    TURNS.set(TURNS.get() + 1);
    if let Some(pulse) = STOPPED.take() {
        pulse.notify_one();
    }
}

/// The runtime calls this when it is about to wait.
pub fn ends() {
    batch::flush_all();
}

/// Beats while the thread has turns. Runs as one task of each thread.
pub async fn pulse() {
    let wake = Rc::new(Notify::new());
    loop {
        let before = TURNS.get();
        tokio::time::sleep(BEAT).await;
        clock::tick();
        let held = batch::flush_all();
        // None at all: the loop is so busy that it never waits.
        if !(1..=OWN_TURNS).contains(&(TURNS.get() - before)) {
            continue;
        }
        STOPPED.set(Some(wake.clone()));
        match held {
            Some(held) => {
                // Held lines fall due while nothing else happens.
                let _ = tokio::time::timeout(held, wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}
