//! The times that log lines begin with, in local time: `2026/11/22 10:00:00` and `Nov 22 10:00:00`.
//!
//! nginx's lines carry the time of the loop's turn; these carry the second in which they are made.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::zone;

/// As error log lines begin.
pub(super) fn error_time() -> [u8; 19] {
    error_time_at(now())
}

/// As syslog datagrams have it: the day of the month is padded with a space (RFC 3164, 4.1.2).
pub(super) fn syslog_time() -> [u8; 15] {
    syslog_time_at(now())
}

fn error_time_at(unix: i64) -> [u8; 19] {
    let Moment { year, month, day, hour, minute, second } = Moment::at(unix);
    let mut text = [b' '; 19];
    let _ = write!(&mut text[..], "{year:4}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}");
    text
}

fn syslog_time_at(unix: i64) -> [u8; 15] {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Moment { month, day, hour, minute, second, .. } = Moment::at(unix);
    let month = MONTHS[(month as usize - 1) % 12];
    let mut text = [b' '; 15];
    let _ = write!(&mut text[..], "{month} {day:2} {hour:02}:{minute:02}:{second:02}");
    text
}

fn now() -> i64 {
    // Before 1970 a clock is wrong anyway.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

struct Moment {
    year: i64,
    month: u32,
    day: u32,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    fn at(unix: i64) -> Self {
        let local = unix + i64::from(zone::offset(unix));
        let (year, month, day) = zone::date(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        Self { year, month, day, hour: second / 3600, minute: second / 60 % 60, second: second % 60 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        // Local noon of 2026-11-02 wherever this runs.
        let unix = 1_793_620_805 - i64::from(zone::offset(1_793_620_805));
        assert_eq!(&error_time_at(unix), b"2026/11/02 12:00:05");
        assert_eq!(&syslog_time_at(unix), b"Nov  2 12:00:05");
    }
}
