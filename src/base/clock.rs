//! The time, read once per turn of a thread's loop.
//!
//! In: [`tick`], which whoever runs the loop calls once a turn; it reads the monotonic and the wall clock. Out: both
//! times as they were then, and the texts that every response and log line needs, remade once a second. The rule: between
//! two ticks time stands still on a thread, so that what one request logs agrees with itself.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::ops::Deref;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Reads both clocks for this thread.
pub fn tick() {
    CLOCK.with_borrow_mut(|clock| clock.advance(Instant::now(), SystemTime::now()));
}

/// The monotonic time of the latest tick, for timers and durations.
pub fn now() -> Instant {
    CLOCK.with_borrow(|clock| clock.monotonic)
}

/// The wall time of the latest tick in milliseconds since 1970, for `$msec`.
pub fn milliseconds() -> u64 {
    CLOCK.with_borrow(|clock| clock.wall)
}

/// The wall time of the latest tick in whole seconds since 1970.
pub fn seconds() -> u64 {
    milliseconds() / 1000
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, for `Date`. RFC 9110, 5.6.7.
pub fn http_date() -> Stamp {
    CLOCK.with_borrow(|clock| clock.stamps.http_date)
}

/// `28/Sep/1970:12:00:00 +0600`, for `$time_local`.
pub fn time_local() -> Stamp {
    CLOCK.with_borrow(|clock| clock.stamps.time_local)
}

/// `1970-09-28T12:00:00+06:00`, for `$time_iso8601`.
pub fn time_iso8601() -> Stamp {
    CLOCK.with_borrow(|clock| clock.stamps.time_iso8601)
}

/// `1970/09/28 12:00:00`, the beginning of an error log line.
pub fn error_time() -> Stamp {
    CLOCK.with_borrow(|clock| clock.stamps.error_time)
}

/// `Sep 28 12:00:00`, for syslog. RFC 3164, 4.1.2.
pub fn syslog_time() -> Stamp {
    CLOCK.with_borrow(|clock| clock.stamps.syslog_time)
}

/// The HTTP date of any second, for `Last-Modified` and `Expires`. nginx shows what is outside of 1970 to 9999 as its end.
/// The latest are remembered: most answers repeat one of few dates.
pub fn http_date_of(second: i64) -> Stamp {
    let second = u64::try_from(second).unwrap_or(0).min(LAST_SECOND);
    DATES.with_borrow_mut(|dates| {
        let (known, stamp) = &mut dates[(second % REMEMBERED as u64) as usize];
        if *known != Some(second) {
            let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(second));
            (*known, *stamp) = (Some(second), Stamp::of(format_args!("{date}")));
        }
        *stamp
    })
}

/// How many dates a thread remembers.
const REMEMBERED: usize = 64;

/// The local time zone.
pub fn zone() -> TimeZone {
    let known = ZONE.read().unwrap_or_else(PoisonError::into_inner).clone();
    known.unwrap_or_else(|| {
        let zone = TimeZone::system();
        *ZONE.write().unwrap_or_else(PoisonError::into_inner) = Some(zone.clone());
        zone
    })
}

/// Chooses the zone that a value of `TZ` names, or with `None` the system's as it is now. Every load calls this, while
/// the files that zones come from can still be opened; threads follow with their next second.
pub fn set_zone(name: Option<&str>) {
    let zone = name.map_or_else(TimeZone::system, named_zone);
    *ZONE.write().unwrap_or_else(PoisonError::into_inner) = Some(zone);
}

/// A short text that is copied, not shared. Dereferences to `str`.
#[derive(Clone, Copy)]
pub struct Stamp {
    text: [u8; 31],
    length: u8,
}

impl Stamp {
    /// The text without asking whether it is one.
    pub fn bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// What does not fit is cut; no date of a four-digit year is that long.
    fn of(text: fmt::Arguments<'_>) -> Self {
        let mut stamp = Self { text: [0; 31], length: 0 };
        let _ = stamp.write_fmt(text); // the one error is that of a cut text
        stamp
    }
}

impl Write for Stamp {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.text.get_mut(usize::from(self.length)..).and_then(|room| room.get_mut(..part.len()));
        room.ok_or(fmt::Error)?.copy_from_slice(part.as_bytes());
        self.length += part.len() as u8; // at most 31, as the slice above was found
        Ok(())
    }
}

impl Deref for Stamp {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The end of the year 9999 in UTC less two days, which keeps every zone's local time within four digits too.
const LAST_SECOND: u64 = 253_402_300_799 - 2 * 86_400;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The zone in use; `None` until someone asks. One for all threads, replaced at load, read once a second by each.
static ZONE: RwLock<Option<TimeZone>> = RwLock::new(None);

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::new(Clock::new(Instant::now(), SystemTime::now()));
    static DATES: RefCell<[(Option<u64>, Stamp); REMEMBERED]> =
        const { RefCell::new([(None, Stamp { text: [0; 31], length: 0 }); REMEMBERED]) };
}

struct Clock {
    monotonic: Instant,
    wall: u64,
    stamps: Stamps,
}

impl Clock {
    fn new(monotonic: Instant, wall: SystemTime) -> Self {
        let wall = since_epoch(wall);
        Self { monotonic, wall, stamps: Stamps::of(wall / 1000, &zone()) }
    }

    fn advance(&mut self, monotonic: Instant, wall: SystemTime) {
        let last = self.wall / 1000;
        self.monotonic = monotonic;
        self.wall = since_epoch(wall);
        if self.wall / 1000 != last {
            self.stamps = Stamps::of(self.wall / 1000, &zone());
        }
    }
}

fn since_epoch(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(LAST_SECOND * 1000)
}

/// One second in every form.
struct Stamps {
    http_date: Stamp,
    time_local: Stamp,
    time_iso8601: Stamp,
    error_time: Stamp,
    syslog_time: Stamp,
}

impl Stamps {
    fn of(second: u64, zone: &TimeZone) -> Self {
        let second = i64::try_from(second.min(LAST_SECOND)).unwrap_or(0);
        let timestamp = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        let offset = zone.to_offset(timestamp);
        let local = offset.to_datetime(timestamp);
        let (year, month, day) = (local.year(), local.month(), local.day());
        let (hour, minute, second_of) = (local.hour(), local.minute(), local.second());
        let name = MONTHS.get(usize::from(month.unsigned_abs()).saturating_sub(1)).unwrap_or(&"");
        let east = offset.seconds() / 60;
        let (sign, hours, minutes) = (if east < 0 { '-' } else { '+' }, (east / 60).abs(), (east % 60).abs());
        Self {
            http_date: http_date_of(second),
            time_local: Stamp::of(format_args!(
                "{day:02}/{name}/{year}:{hour:02}:{minute:02}:{second_of:02} {sign}{hours:02}{minutes:02}"
            )),
            time_iso8601: Stamp::of(format_args!(
                "{year:4}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second_of:02}{sign}{hours:02}:{minutes:02}"
            )),
            error_time: Stamp::of(format_args!("{year:4}/{month:02}/{day:02} {hour:02}:{minute:02}:{second_of:02}")),
            syslog_time: Stamp::of(format_args!("{name} {day:2} {hour:02}:{minute:02}:{second_of:02}")),
        }
    }
}

/// A value of `TZ` as tzset(3) reads it: a file, a name of the zone database, or a rule such as `CET-1CEST`. Anything
/// else is UTC, as there.
fn named_zone(name: &str) -> TimeZone {
    let name = name.strip_prefix(':').unwrap_or(name);
    if name.starts_with('/') {
        let file = std::fs::read(name).ok().and_then(|file| TimeZone::tzif(name, &file).ok());
        return file.unwrap_or(TimeZone::UTC);
    }
    TimeZone::get(name).or_else(|_| TimeZone::posix(name)).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_in_every_form() {
        let cases = [
            (
                784_111_777,
                "UTC0",
                [
                    "Sun, 06 Nov 1994 08:49:37 GMT",
                    "06/Nov/1994:08:49:37 +0000",
                    "1994-11-06T08:49:37+00:00",
                    "1994/11/06 08:49:37",
                    "Nov  6 08:49:37",
                ],
            ),
            (
                23_328_000,
                "XXX-5:45",
                [
                    "Mon, 28 Sep 1970 00:00:00 GMT",
                    "28/Sep/1970:05:45:00 +0545",
                    "1970-09-28T05:45:00+05:45",
                    "1970/09/28 05:45:00",
                    "Sep 28 05:45:00",
                ],
            ),
            (
                0,
                "NST3:30",
                [
                    "Thu, 01 Jan 1970 00:00:00 GMT",
                    "31/Dec/1969:20:30:00 -0330",
                    "1969-12-31T20:30:00-03:30",
                    "1969/12/31 20:30:00",
                    "Dec 31 20:30:00",
                ],
            ),
            (
                u64::MAX,
                "XXX-14",
                [
                    "Wed, 29 Dec 9999 23:59:59 GMT",
                    "30/Dec/9999:13:59:59 +1400",
                    "9999-12-30T13:59:59+14:00",
                    "9999/12/30 13:59:59",
                    "Dec 30 13:59:59",
                ],
            ),
        ];
        for (second, zone, expected) in cases {
            let zone = TimeZone::posix(zone).expect("a rule");
            let Stamps { http_date, time_local, time_iso8601, error_time, syslog_time } = Stamps::of(second, &zone);
            let made = [&*http_date, &*time_local, &*time_iso8601, &*error_time, &*syslog_time];
            assert_eq!(made, expected, "{second}");
        }
    }

    #[test]
    fn summer_time_follows_its_rule() {
        let zone = named_zone("CET-1CEST,M3.5.0,M10.5.0/3");
        let stamp = |second| Stamps::of(second, &zone).time_local.to_string();
        assert_eq!(stamp(1_774_745_999), "29/Mar/2026:01:59:59 +0100");
        assert_eq!(stamp(1_774_746_000), "29/Mar/2026:03:00:00 +0200");
    }

    #[test]
    fn unknown_zones_are_utc() {
        for name in ["No/Where", "/nonexistent", ":", "garbage!"] {
            assert_eq!(Stamps::of(0, &named_zone(name)).time_local.to_string(), "01/Jan/1970:00:00:00 +0000", "{name}");
        }
    }

    #[test]
    fn time_stands_still_between_ticks() {
        tick();
        let (before, wall) = (now(), milliseconds());
        while Instant::now() <= before || since_epoch(SystemTime::now()) == wall {
            std::hint::spin_loop();
        }
        assert_eq!((now(), milliseconds()), (before, wall));
        tick();
        assert!(now() > before && milliseconds() != wall);
    }

    #[test]
    fn texts_are_remade_with_the_second() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let start = Instant::now();
        let mut clock = Clock::new(start, at(1_999));
        assert_eq!(&*clock.stamps.http_date, "Thu, 01 Jan 1970 00:00:01 GMT");
        clock.advance(start, at(2_000));
        assert_eq!((clock.wall, &*clock.stamps.http_date), (2_000, "Thu, 01 Jan 1970 00:00:02 GMT"));
        clock.advance(start, UNIX_EPOCH - Duration::from_secs(5)); // a clock set wrong is no panic
        assert_eq!((clock.wall, &*clock.stamps.http_date), (0, "Thu, 01 Jan 1970 00:00:00 GMT"));
    }
}
