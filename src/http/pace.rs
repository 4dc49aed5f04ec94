//! How fast an answer goes out: `limit_rate` and `limit_rate_after`.
//!
//! In: what a request's location says, and how much was sent. Out: how much more may be, or how long to wait.

use std::time::{Duration, Instant};

use super::request::Request;
use crate::base::clock;

/// One answer's.
#[derive(Default)]
pub(super) struct Pace {
    /// Bytes per second; 0: as fast as the client takes them.
    pub(super) rate: u64,
    after: u64,
    sent: u64,
    started: Option<Instant>,
}

/// What may be sent.
pub(super) enum Quota {
    Bytes(u64),
    Wait(Duration),
}

impl Pace {
    pub(super) fn new(request: &Request) -> Self {
        let core = &request.plan().core;
        let size = |template: &Option<crate::conf::template::Template>| {
            let text = template.as_ref()?.eval(request as &Request);
            crate::base::units::size(std::str::from_utf8(&text).ok()?)
        };
        let rate = request.limit_rate.get().or_else(|| size(&core.limit_rate)).unwrap_or(0);
        request.limit_rate.set(Some(rate));
        let after = request.limit_rate_after.get().or_else(|| size(&core.limit_rate_after)).unwrap_or(0);
        Self { rate, after, sent: 0, started: (rate > 0).then(clock::now) }
    }

    /// How much may go out now. nginx counts from the start of the request in whole seconds, and grants one ahead.
    pub(super) fn quota(&self, request: &Request) -> Quota {
        // X-Accel-Limit-Rate and `set $limit_rate` may come late.
        let rate = request.limit_rate.get().unwrap_or(self.rate);
        if rate == 0 || self.started.is_none() && request.limit_rate.get().is_none() {
            return Quota::Bytes(u64::MAX);
        }
        let seconds = clock::now().saturating_duration_since(request.started).as_secs() + 1;
        let granted = rate.saturating_mul(seconds).saturating_add(self.after);
        match granted.checked_sub(self.sent) {
            Some(bytes @ 1..) => Quota::Bytes(bytes),
            _ => {
                let over = self.sent.saturating_sub(granted);
                Quota::Wait(Duration::from_millis(over.saturating_mul(1000) / rate + 1))
            }
        }
    }

    /// How long to wait after a write of this size.
    pub(super) fn after(&mut self, wrote: u64) -> Option<Duration> {
        self.sent += wrote;
        if self.rate == 0 || self.sent <= self.after {
            return None;
        }
        let limited = wrote.min(self.sent - self.after);
        let delay = limited.saturating_mul(1000) / self.rate;
        (delay > 0).then(|| Duration::from_millis(delay))
    }
}
