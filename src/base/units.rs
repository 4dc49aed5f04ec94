//! nginx's numbers: sizes, offsets, times.
//!
//! In: the text of one parameter. Out: the value, or `None` for what nginx calls an invalid value; the sentence
//! around it is the caller's. Every figure is bounded by the signed 64-bit integer that nginx keeps it in, so a value
//! that nginx refuses as too large is refused here.

/// The largest figure of any kind: nginx's sizes, offsets and times are signed.
const MAX: u64 = i64::MAX as u64;

/// A plain number of digits, as `worker_connections` takes it.
pub fn number(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0u64, digit)
}

/// A size: digits and an optional `k` or `m` of either case. Rates are sizes too.
pub fn size(text: &str) -> Option<u64> {
    let (digits, scale) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    scaled(number(digits)?, scale)
}

/// An offset in a file: a size that also knows `g`.
pub fn offset(text: &str) -> Option<u64> {
    match text.strip_suffix(['G', 'g']) {
        Some(digits) => scaled(number(digits)?, 1 << 30),
        None => size(text),
    }
}

/// A number with up to `places` decimals, as an integer of that many places: `fixed("10.5", 2)` is 1050. Digits beyond
/// the places are refused, as is a second dot.
pub fn fixed(text: &str, places: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let missing = places.checked_sub(u32::try_from(part.len()).ok()?)?;
    let value = whole.bytes().chain(part.bytes()).try_fold(0u64, digit)?;
    scaled(value, 10u64.checked_pow(missing)?)
}

/// A time in whole seconds: `1y 2M 3w 4d 5h 6m 7s`, in that order, each at most once, spaces between them as you like; a
/// bare number is seconds. `ms` is refused.
pub fn seconds(text: &str) -> Option<u64> {
    time(text, Step::Start, 1)
}

/// A time in milliseconds: `3w 4d 5h 6m 7s 8ms` as [`seconds`]; a bare number is seconds. nginx knows no years and
/// months here.
pub fn milliseconds(text: &str) -> Option<u64> {
    time(text, Step::Month, 1000)
}

/// How far down the row of units a time has come; units only ever get smaller.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Step {
    Start,
    Year,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
    Last,
}

/// `per_second` is the resolution: 1 or 1000.
fn time(text: &str, mut reached: Step, per_second: u64) -> Option<u64> {
    let mut rest = text.as_bytes();
    let mut value = 0;
    let mut total = 0u64;
    let mut any = false;

    while let [first, tail @ ..] = rest {
        rest = tail;
        if first.is_ascii_digit() {
            value = digit(value, *first)?;
            any = true;
            continue;
        }

        let (step, scale) = match first {
            b'y' => (Step::Year, 60 * 60 * 24 * 365 * per_second),
            b'M' => (Step::Month, 60 * 60 * 24 * 30 * per_second),
            b'w' => (Step::Week, 60 * 60 * 24 * 7 * per_second),
            b'd' => (Step::Day, 60 * 60 * 24 * per_second),
            b'h' => (Step::Hour, 60 * 60 * per_second),
            b'm' if rest.first() == Some(&b's') => {
                rest = &rest[1..];
                (Step::Millisecond, if per_second == 1000 { 1 } else { return None })
            }
            b'm' => (Step::Minute, 60 * per_second),
            b's' => (Step::Second, per_second),
            // nginx: a number with a space behind it is seconds, and one more bare number may follow
            b' ' if reached < Step::Second => (Step::Last, per_second),
            _ => return None,
        };
        if reached >= step {
            return None;
        }
        reached = step;
        total = sum(total, scaled(value, scale)?)?;
        value = 0;
        while let [b' ', tail @ ..] = rest {
            rest = tail;
        }
    }

    if !any {
        return None;
    }
    sum(total, scaled(value, per_second)?)
}

fn digit(value: u64, byte: u8) -> Option<u64> {
    let figure = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
    sum(scaled(value, 10)?, figure)
}

fn scaled(value: u64, scale: u64) -> Option<u64> {
    value.checked_mul(scale).filter(|&product| product <= MAX)
}

fn sum(a: u64, b: u64) -> Option<u64> {
    a.checked_add(b).filter(|&total| total <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("1k", Some(1024)),
            ("1K", Some(1024)),
            ("8m", Some(8 << 20)),
            ("8M", Some(8 << 20)),
            ("9223372036854775807", Some(MAX)),
            ("9223372036854775808", None),
            ("9007199254740991k", Some(9007199254740991 << 10)),
            ("9007199254740992k", None),
            ("1g", None),
            ("", None),
            ("k", None),
            ("-1", None),
            ("+1", None),
            ("1.5m", None),
            ("1kk", None),
            (" 1", None),
            ("1 k", None),
            ("١", None),
        ];
        for (text, value) in cases {
            assert_eq!(size(text), value, "size {text:?}");
        }
    }

    #[test]
    fn offsets() {
        let cases = [
            ("1g", Some(1 << 30)),
            ("2G", Some(2 << 30)),
            ("1k", Some(1 << 10)),
            ("1m", Some(1 << 20)),
            ("8589934591g", Some(8589934591 << 30)),
            ("8589934592g", None),
            ("g", None),
            ("1gg", None),
            ("1kg", None),
        ];
        for (text, value) in cases {
            assert_eq!(offset(text), value, "offset {text:?}");
        }
    }

    #[test]
    fn times() {
        const DAY: u64 = 86400;
        let cases = [
            ("30", Some(30), Some(30_000)),
            ("0", Some(0), Some(0)),
            ("1s", Some(1), Some(1000)),
            ("1m", Some(60), Some(60_000)),
            ("1h30m", Some(5400), Some(5_400_000)),
            ("1d 12h", Some(DAY + 43200), Some((DAY + 43200) * 1000)),
            ("1d  12h ", Some(DAY + 43200), Some((DAY + 43200) * 1000)),
            ("2w", Some(14 * DAY), Some(14 * DAY * 1000)),
            ("1M", Some(30 * DAY), None),
            ("1y", Some(365 * DAY), None),
            ("1y1M1w1d1h1m1s", Some(365 * DAY + 30 * DAY + 7 * DAY + DAY + 3661), None),
            ("500ms", None, Some(500)),
            ("1s500ms", None, Some(1500)),
            ("1s 5", Some(6), Some(6000)),
            ("10 20", Some(30), Some(30_000)),
            ("10 20 30", None, None),
            ("10 20s", None, None),
            ("1hm", Some(3600), Some(3_600_000)),
            ("12h1d", None, None),
            ("1h1h", None, None),
            ("1ms1s", None, None),
            ("", None, None),
            ("h", None, None),
            (" ", None, None),
            ("-1", None, None),
            ("1.5s", None, None),
            ("1x", None, None),
            ("1S", None, None),
            ("1\t", None, None),
            ("9223372036854775807", Some(MAX), None),
            ("9223372036854775808", None, None),
            ("9223372036854775s", Some(9223372036854775), Some(9223372036854775000)),
            ("9223372036854776", Some(9223372036854776), None),
            ("292471208677y", Some(292471208677 * 365 * DAY), None),
            ("292471208678y", None, None),
        ];
        for (text, whole, thousandths) in cases {
            assert_eq!(seconds(text), whole, "seconds {text:?}");
            assert_eq!(milliseconds(text), thousandths, "milliseconds {text:?}");
        }
    }

    #[test]
    fn fixed_points() {
        let cases = [
            ("10.5", Some(1050)),
            ("10.50", Some(1050)),
            ("10", Some(1000)),
            ("10.", Some(1000)),
            (".5", Some(50)),
            ("10.555", None),
            ("1.2.3", None),
            ("", None),
            ("x", None),
            ("92233720368547758.07", Some(MAX)),
            ("92233720368547758.08", None),
        ];
        for (text, value) in cases {
            assert_eq!(fixed(text, 2), value, "fixed {text:?}");
        }
    }
}
