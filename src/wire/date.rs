//! HTTP dates: written as RFC 9110 wants them, read as leniently as nginx reads them (`ngx_parse_http_time`).

use std::time::{Duration, UNIX_EPOCH};

/// The length of a written date.
pub const LEN: usize = 29;

/// `Sun, 06 Nov 1994 08:49:37 GMT`. Times before 1970 are written as 1970, as in nginx; after 9999, as its last second.
pub fn format(seconds: i64) -> [u8; LEN] {
    const LAST: i64 = 253_402_300_799;
    let seconds = seconds.clamp(0, LAST).unsigned_abs();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    if date.len() == LEN {
        out.copy_from_slice(date.as_bytes());
    }
    out
}

/// The date of a cookie, `Sun, 06-Nov-94 08:49:37 GMT`: from 2038 on with four digits of the year (nginx:
/// `ngx_http_cookie_time`).
pub fn cookie(seconds: i64) -> Vec<u8> {
    let mut date = format(seconds).to_vec();
    date[7] = b'-';
    date[11] = b'-';
    // four digits compare as text as they do as numbers
    if date[12..16] <= b"2037"[..] {
        date.drain(12..14);
    }
    date
}

/// Seconds since 1970 of a date in any of the three forms of RFC 9110, 5.6.7. nginx does not look at the name of the day,
/// at the zone, or at anything behind the time. `None`: no date.
pub fn parse(value: &[u8]) -> Option<i64> {
    let day = value.iter().position(|byte| matches!(byte, b',' | b' '))?;
    let asctime = value.get(day) == Some(&b' ');
    let mut text = Text(value.get(day + 1..)?);
    text.spaces();
    if text.0.len() < 18 {
        return None;
    }
    if asctime { text.asctime() } else { text.dated() }
}

/// What is left to read.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    /// `06 Nov 1994 08:49:37` or `06-Nov-94 08:49:37`.
    fn dated(&mut self) -> Option<i64> {
        let day = self.digits(2)?;
        let separator = self.byte()?;
        let long = match separator {
            b' ' if self.0.len() >= 17 => true,
            b'-' => false,
            _ => return None,
        };
        let month = self.month()?;
        self.expect(separator)?;
        let year = match (long, self.digits(2)?) {
            (true, century) => century * 100 + self.digits(2)?,
            (false, year @ 0..70) => year + 2000,
            (false, year) => year + 1900,
        };
        self.expect(b' ')?;
        let seconds = self.time()?;
        Some(days(year, month, day)? * 86400 + seconds)
    }

    /// `Nov  6 08:49:37 1994`.
    fn asctime(&mut self) -> Option<i64> {
        let month = self.month()?;
        self.byte()?;
        if self.0.first() == Some(&b' ') {
            self.byte()?;
        }
        let mut day = self.digits(1)?;
        if self.0.first() != Some(&b' ') {
            day = day * 10 + self.digits(1)?;
        }
        self.expect(b' ')?;
        let seconds = self.time()?;
        self.expect(b' ')?;
        let year = self.digits(4)?;
        Some(days(year, month, day)? * 86400 + seconds)
    }

    /// `08:49:37`, as seconds.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        self.expect(b':')?;
        let minute = self.digits(2)?;
        self.expect(b':')?;
        let second = self.digits(2)?;
        (hour <= 23 && minute <= 59 && second <= 59).then_some(hour * 3600 + minute * 60 + second)
    }

    /// The number of a month from 1, by as many letters as tell it from the others.
    fn month(&mut self) -> Option<i64> {
        let (name, rest) = self.0.split_at_checked(3)?;
        self.0 = rest;
        Some(match *name {
            [b'J', b'a', _] => 1,
            [b'F', ..] => 2,
            [b'M', _, b'r'] => 3,
            [b'A', b'p', _] => 4,
            [b'M', ..] => 5,
            [b'J', _, b'n'] => 6,
            [b'J', ..] => 7,
            [b'A', ..] => 8,
            [b'S', ..] => 9,
            [b'O', ..] => 10,
            [b'N', ..] => 11,
            [b'D', ..] => 12,
            _ => return None,
        })
    }

    fn spaces(&mut self) {
        while let Some(rest) = self.0.strip_prefix(b" ") {
            self.0 = rest;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.byte()? == byte).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        (0..count).try_fold(0, |number, _| {
            let byte = self.byte()?;
            byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
        })
    }
}

/// Days from 1970 to a day of the Gregorian calendar. `None`: the month has no such day; day 0 is the day before, as in
/// nginx.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day > last {
        return None;
    }
    // years begin in March, so that the day of a leap year is their last (Gauss)
    let (year, month) = if month > 2 { (year, month - 2) } else { (year - 1, month + 10) };
    let years = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(years + 367 * month / 12 - 30 + day - 1 - 719_527 + 31 + 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun Nov 06 08:49:37 1994",
            "x,06 Nov 1994 08:49:37",
            "Mon,   06 Nov 1994 08:49:37 +0200",
            "Sun, 06 Nox 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn days_of_the_calendar() {
        let cases = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400)),
            ("Wed, 01 Mar 2000 00:00:00 GMT", Some(951_868_800)),
            ("Thu, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Fri, 01-Jan-70 00:00:00 GMT", Some(0)),
            ("Fri, 01-Jan-69 00:00:00 GMT", Some(3_124_224_000)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800)),
            ("Thu, 29 Feb 2023 00:00:00 GMT", None),
            ("Thu, 29 Feb 1900 00:00:00 GMT", None),
            ("Thu, 31 Apr 2024 00:00:00 GMT", None),
            ("Thu, 32 Jan 2024 00:00:00 GMT", None),
            ("Thu, 01 Jan 2024 24:00:00 GMT", None),
            ("Thu, 01 Jan 2024 00:60:00 GMT", None),
            ("Thu, 01 Jan 2024 00:00:60 GMT", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn no_dates() {
        let bad = [
            "",
            "0",
            "Sun",
            "Sun,",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:3",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Xov 1994 08:49:37 GMT",
            "Sun, 06/Nov/1994 08:49:37 GMT",
            "Sun, 06 Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT  ",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun Nov  6 08:49:37 94    ",
            "Sun, a6 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
        ];
        for text in bad {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for seconds in (0..253_402_300_799).step_by(86_399 * 1009) {
            let date = format(seconds);
            assert_eq!(parse(&date), Some(seconds), "{}", String::from_utf8_lossy(&date));
            assert_eq!(
                httpdate::parse_http_date(std::str::from_utf8(&date).expect("a date is text")).ok(),
                Some(UNIX_EPOCH + Duration::from_secs(seconds as u64))
            );
        }
        assert_eq!(&format(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&format(-5), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&format(i64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn cookies() {
        assert_eq!(cookie(784_111_777), b"Sun, 06-Nov-94 08:49:37 GMT");
        assert_eq!(cookie(2_145_916_555), b"Thu, 31-Dec-37 23:55:55 GMT");
        assert_eq!(cookie(2_145_916_800), b"Fri, 01-Jan-2038 00:00:00 GMT");
    }
}
