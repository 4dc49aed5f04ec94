//! A timeout that is cheap to push back.
//!
//! Nearly every timeout of a server is set anew long before it would fire. The wheel's entry is only moved when it
//! fires too early: setting a timeout is then a comparison, as with nginx's lazy timers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::base::clock;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the timeout is; `None` while nobody waits.
    deadline: Option<Instant>,
}

impl Timer {
    /// Ready when `timeout` has gone by since the first call after [`Timer::disarm`].
    pub fn poll(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let deadline = *self.deadline.get_or_insert_with(|| clock::now() + timeout);
        loop {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            if sleep.deadline().into_std() > deadline {
                // A shorter timeout than the one before.
                sleep.as_mut().reset(deadline.into());
            }
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
        }
    }

    /// When the timeout is that somebody waits for.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Something happened: the next wait counts from its own beginning.
    pub fn disarm(&mut self) {
        self.deadline = None;
    }
}
