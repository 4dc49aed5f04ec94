//! `least_time`: the peer that is expected to be done first, by how long its answers took and how many it is at.
//!
//! Times are averages of which each new one makes a twentieth. With `inflight`, those who are still at work count, too, as long
//! as they have waited. All times are milliseconds.

use std::time::Duration;

use super::least_conn::least;
use super::peers::{Outcome, Table, Way};
use super::round_robin;

/// What the directive said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastTime {
    pub until: Until,
    pub inflight: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Header,
    LastByte,
}

/// How long one peer takes.
#[derive(Clone, Debug, Default)]
pub struct Times {
    header: u64,
    response: u64,
    inflight: u64,
    /// How many are at work, how long they have been in all, and when that was counted.
    inflight_count: u64,
    inflight_sum: u64,
    inflight_changed: u64,
}

/// How long one exchange took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub header: Option<Duration>,
    pub response: Duration,
    /// It counts among those at work.
    inflight: bool,
}

impl Took {
    /// Of an exchange that begins.
    pub fn begin(least_time: &LeastTime) -> Self {
        Self { inflight: least_time.inflight, ..Self::default() }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// nginx: rounded, and the first is taken whole.
fn average(average: &mut u64, new: u64) {
    *average = match *average {
        0 => new,
        old => (new + old * 19 + 10) / 20,
    };
}

impl LeastTime {
    pub fn choose(&self, table: &mut Table<'_>, way: &mut Way) -> Option<usize> {
        if table.single {
            return round_robin::choose(table, way);
        }
        let now = table.milliseconds;
        let n = match table.hinted(way) {
            Some(n) => table.take(n, way),
            None => {
                for n in 0..table.list.len() {
                    if table.is_fit(n, way) {
                        table.times[n].look_at_those_at_work(now);
                    }
                }
                least(table, way, |table, n| self.expected(table, n))?
            }
        };
        if self.inflight {
            table.times[n].begin(now);
        }
        Some(n)
    }

    /// How long the peer has to work on what it was asked and one request more.
    fn expected(&self, table: &Table<'_>, n: usize) -> u64 {
        let (peer, standing, times) = (&table.list[n], &table.standing[n], &table.times[n]);
        let mut time = match self.until {
            Until::Header => times.header,
            Until::LastByte => times.response,
        };
        let idle = table.now.saturating_sub(standing.checked);
        if idle > peer.fail_timeout {
            // nginx: half of it for each `fail_timeout` without a look, to give the slow a chance
            time = time.checked_shr(u32::try_from(idle / (peer.fail_timeout + 1)).unwrap_or(u32::MAX)).unwrap_or(0);
        }
        if times.inflight_count > 0 {
            time = time.max(times.inflight);
        }
        // The very slow are equal, and so are those that differ little.
        time = if time > SLOW { SLOW } else { time + STEP - time % STEP };
        time * (1 + standing.conns)
    }

    /// The head is here.
    pub fn answered(&self, times: &mut Times, took: &mut Took, now: u64) {
        // nginx: without `inflight`, times are counted when the exchange is over
        if let (true, Until::Header, Some(header)) = (self.inflight, self.until, took.header) {
            average(&mut times.header, millis(header));
            times.end(took, millis(header), now);
        }
    }

    /// The exchange is over.
    pub fn released(&self, times: &mut Times, took: &mut Took, outcome: Outcome, now: u64) {
        let response = millis(took.response);
        times.end(took, response, now);
        let (Outcome::Good, Some(header)) = (outcome, took.header) else { return };
        average(&mut times.response, response);
        if !(self.inflight && self.until == Until::Header) {
            average(&mut times.header, millis(header));
        }
    }
}

/// nginx: from here on, times are all the same.
const SLOW: u64 = 5000;
/// nginx: times within such a step are the same.
const STEP: u64 = 20;

impl Times {
    fn look_at_those_at_work(&mut self, now: u64) {
        if let Some(each) = self.inflight_sum.checked_div(self.inflight_count) {
            average(&mut self.inflight, each + now.saturating_sub(self.inflight_changed));
        }
    }

    fn begin(&mut self, now: u64) {
        self.count_up(now);
        self.inflight_count += 1;
    }

    fn end(&mut self, took: &mut Took, waited: u64, now: u64) {
        if std::mem::take(&mut took.inflight) {
            self.count_up(now);
            self.inflight_count = self.inflight_count.saturating_sub(1);
            self.inflight_sum = if self.inflight_count == 0 { 0 } else { self.inflight_sum.saturating_sub(waited) };
        }
    }

    /// What those at work have waited since it was last counted.
    fn count_up(&mut self, now: u64) {
        self.inflight_sum += now.saturating_sub(self.inflight_changed) * self.inflight_count;
        self.inflight_changed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Method;
    use crate::upstream::balance::peers::fixture::peers;

    fn took(milliseconds: u64) -> Took {
        let time = Duration::from_millis(milliseconds);
        Took { header: Some(time), response: time, inflight: false }
    }

    #[test]
    fn averages_follow_slowly() {
        let mut time = 0;
        for (new, expected) in [(100, 100), (200, 105), (105, 105), (0, 100)] {
            average(&mut time, new);
            assert_eq!(time, expected);
        }
    }

    #[test]
    fn the_faster_is_asked_until_it_is_busier() {
        let method = Method::LeastTime(LeastTime { until: Until::Header, inflight: false });
        let peers = peers(&[1, 1]);
        let next = || peers.next(&method, &mut Way::default(), 0);
        assert_eq!([next(), next()], [Some(0), Some(1)]);
        peers.end_timed(0, &method, &mut took(300), 0);
        peers.end_timed(1, &method, &mut took(99), 0);
        // 320 against 100, 200, 300, 400.
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(1), Some(1), Some(0)]);
    }

    #[test]
    fn one_that_hangs_is_not_asked_again() {
        let method = Method::LeastTime(LeastTime { until: Until::LastByte, inflight: true });
        let peers = peers(&[1, 1]);
        let next = |now| peers.next(&method, &mut Way::default(), now);
        assert_eq!(next(0), Some(0));
        for second in 1..5 {
            assert_eq!(next(second), Some(1));
            peers.end_timed(1, &method, &mut Took { inflight: true, ..took(1) }, second * 1000 + 1);
        }
    }
}
