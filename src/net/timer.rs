//! A timeout that is cheap to push back.
//!
//! Nearly every timeout of a server is set anew long before it would fire. The wheel's entry is only moved when it
//! fires too early: setting a timeout is then a comparison, as with nginx's lazy timers. And who waits is told to the
//! wheel once, not at every wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::coop::has_budget_remaining;
use tokio::time::Sleep;

use crate::base::clock;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom `sleep` wakes, as long as it has not.
    waker: Option<Waker>,
    /// When the timeout is; `None` while nobody waits.
    deadline: Option<Instant>,
}

impl Timer {
    /// Ready when `timeout` has gone by since the first call after [`Timer::disarm`].
    pub fn poll(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let deadline = *self.deadline.get_or_insert_with(|| clock::now() + timeout);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if sleep.deadline().into_std() > deadline {
            // A shorter timeout than the one before.
            sleep.as_mut().reset(deadline.into());
            self.waker = None;
        }
        loop {
            let told = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if told && !sleep.is_elapsed() {
                return Poll::Pending;
            }
            // A task that has used its share of the turn is told to come back instead.
            let listens = has_budget_remaining();
            if sleep.as_mut().poll(cx).is_pending() {
                self.waker = listens.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            self.waker = None;
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn whoever_waits_last_is_woken() {
        let mut timer = Timer::default();
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        for count in &counts {
            for _ in 0..2 {
                let waker = Waker::from(count.clone());
                assert!(timer.poll(&mut Context::from_waker(&waker), SHORT).is_pending());
            }
        }
        tokio::time::sleep(SHORT * 2).await;
        let woken = counts.map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1]);
    }

    #[tokio::test]
    async fn a_timeout_is_pushed_back_and_brought_forward() {
        let mut timer = Timer::default();
        for timeouts in [[SHORT, LONG, SHORT], [LONG, SHORT, SHORT]] {
            for (n, timeout) in timeouts.into_iter().enumerate() {
                timer.disarm();
                clock::tick();
                let begun = clock::now();
                if n < 2 {
                    let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx, timeout))).await;
                    assert!(polled.is_pending());
                } else {
                    poll_fn(|cx| timer.poll(cx, timeout)).await;
                    assert!(begun.elapsed() >= timeout && begun.elapsed() < LONG);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_task_without_budget_is_woken_all_the_same() {
        let mut timer = Timer::default();
        poll_fn(|cx| {
            while has_budget_remaining() {
                let consumed = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
                assert!(consumed.is_ready());
            }
            assert!(timer.poll(cx, SHORT).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await; // with a new budget
        poll_fn(|cx| timer.poll(cx, SHORT)).await;
    }
}
