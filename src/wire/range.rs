//! The `Range` field against a body of known length.
//!
//! In: the value as sent. Out: what to send, with nginx's verdicts (`ngx_http_range_parse`): syntax that is wrong is 416,
//! not ignored; ranges that together are longer than the body are.

use std::ops::Range;

/// What a `Range` field asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Nothing that is honoured: 200 and the whole body.
    Whole,
    /// 416.
    Unsatisfiable,
    /// 206 with a `Content-Range`.
    One(Range<u64>),
    /// 206 in parts; at least two, in the order asked for, possibly overlapping.
    Many(Vec<Range<u64>>),
}

/// The ranges of a body of `length` bytes that `value` asks for. `max_ranges` is the setting, `None` when it is not set;
/// with `Some(0)` the field must not be looked at in the first place, and here it gives `Whole`.
pub fn ranges(value: &[u8], length: u64, max_ranges: Option<u32>) -> Ranges {
    let Some((unit, set)) = value.split_at_checked(6) else {
        return Ranges::Whole;
    };
    if !unit.eq_ignore_ascii_case(b"bytes=") || set.is_empty() {
        return Ranges::Whole;
    }
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut first = None;
    let mut size = 0_u64;
    let mut count = 0_u32;
    for text in set.split(|&byte| byte == b',') {
        let Some(range) = range(text, length) else {
            return Ranges::Unsatisfiable;
        };
        if range.start >= range.end {
            // nginx: a range from 0 that is empty, of an empty body or "0-" of one, asks for the whole
            if range.start == 0 {
                return Ranges::Whole;
            }
            continue;
        }
        if max_ranges.is_some_and(|max| count >= max) {
            return Ranges::Whole;
        }
        count = count.saturating_add(1);
        size = size.saturating_add(range.end - range.start);
        match first {
            None => first = Some(range),
            Some(ref one) => {
                if found.is_empty() {
                    found.push(one.clone());
                }
                found.push(range);
            }
        }
    }
    match first {
        None => Ranges::Unsatisfiable,
        Some(one) if found.is_empty() => Ranges::One(one),
        Some(_) if size > length => Ranges::Whole,
        // nginx: without a limit, the heads of the parts must be worth it, too
        Some(_)
            if max_ranges.is_none() && size.saturating_add(found.len() as u64 * 256) > length.saturating_add(4096) =>
        {
            Ranges::Whole
        }
        Some(_) => Ranges::Many(found),
    }
}

/// The first byte of the range in `value`, which has no others and does not count from the end; `None` otherwise (nginx:
/// `ngx_http_slice_get_start`).
pub fn first(value: &[u8]) -> Option<u64> {
    let (unit, mut rest) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") || rest.is_empty() || memchr::memchr(b',', rest).is_some() {
        return None;
    }
    rest = trim_start(rest);
    number(&mut rest)
}

/// What a `Content-Range` says: a part, and the length of the whole where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    pub complete: Option<u64>,
}

/// Reads `bytes 0-99/1000` or `bytes 0-99/*` (nginx: `ngx_http_slice_parse_content_range`).
pub fn content_range(value: &[u8]) -> Option<Part> {
    let mut rest = trim_start(value.strip_prefix(b"bytes ")?);
    let start = number(&mut rest)?;
    rest = trim_start(trim_start(rest).strip_prefix(b"-")?);
    let end = number(&mut rest)?.checked_add(1)?;
    rest = trim_start(trim_start(rest).strip_prefix(b"/")?);
    let complete = match rest.strip_prefix(b"*") {
        Some(behind) => {
            rest = behind;
            None
        }
        None => Some(number(&mut rest)?),
    };
    trim_start(rest).is_empty().then_some(Part { start, end, complete })
}

/// One range, cut at the body's end; empty when it lies behind it. `None` is wrong syntax.
fn range(text: &[u8], length: u64) -> Option<Range<u64>> {
    let mut rest = trim_start(text);
    if let Some(suffix) = rest.strip_prefix(b"-") {
        rest = suffix;
        let wanted = number(&mut rest)?;
        return trim_start(rest).is_empty().then(|| length.saturating_sub(wanted)..length);
    }
    let start = number(&mut rest)?;
    rest = trim_start(trim_start(rest).strip_prefix(b"-")?);
    if rest.is_empty() {
        return Some(start..length);
    }
    let last = number(&mut rest)?;
    trim_start(rest).is_empty().then(|| start..length.min(last.saturating_add(1)))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&byte| byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// The digits at the beginning of `rest`, which moves behind them.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, behind) = rest.split_at_checked(digits)?;
    *rest = behind;
    crate::wire::byte::offset(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges() {
        use Ranges::*;
        let cases = [
            ("bytes=0-0", One(0..1)),
            ("bytes=0-", One(0..10)),
            ("bytes=9-", One(9..10)),
            ("bytes=2-5", One(2..6)),
            ("BYTES=2-5", One(2..6)),
            ("bytes=2-99", One(2..10)),
            ("bytes=0-9223372036854775807", One(0..10)),
            ("bytes=-3", One(7..10)),
            ("bytes=-10", One(0..10)),
            ("bytes=-99", One(0..10)),
            ("bytes=  2 - 5  ", One(2..6)),
            ("bytes= -3 ", One(7..10)),
            ("bytes=2- ", One(2..10)),
            ("bytes=20-30,1-1", One(1..2)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-2", Unsatisfiable),
            ("bytes=20-30", Unsatisfiable),
            ("bytes=a", Unsatisfiable),
            ("bytes=1", Unsatisfiable),
            ("bytes=1-a", Unsatisfiable),
            ("bytes=1-2a", Unsatisfiable),
            ("bytes=--1", Unsatisfiable),
            ("bytes=- 1", Unsatisfiable),
            ("bytes=1 2-3", Unsatisfiable),
            ("bytes=\t1-2", Unsatisfiable),
            ("bytes=,", Unsatisfiable),
            ("bytes=1-2,", Unsatisfiable),
            ("bytes=-", Unsatisfiable),
            ("bytes=9223372036854775808-", Unsatisfiable),
            ("bytes=0-9223372036854775808", Unsatisfiable),
            ("bytes=", Whole),
            ("byte=0-1", Whole),
            ("", Whole),
        ];
        for (value, expected) in cases {
            assert_eq!(ranges(value.as_bytes(), 10, None), expected, "{value}");
        }
    }

    #[test]
    fn empty_bodies() {
        for (value, expected) in
            [("bytes=0-", Ranges::Whole), ("bytes=-5", Ranges::Whole), ("bytes=1-", Ranges::Unsatisfiable)]
        {
            assert_eq!(ranges(value.as_bytes(), 0, None), expected, "{value}");
        }
    }

    #[test]
    fn several_ranges() {
        use Ranges::*;
        assert_eq!(ranges(b"bytes=0-1, 4-5,-1", 10, None), Many(vec![0..2, 4..6, 9..10]));
        assert_eq!(ranges(b"bytes=4-5,0-1", 10, None), Many(vec![4..6, 0..2]));
        assert_eq!(ranges(b"bytes=0-5,4-7", 10, None), Many(vec![0..6, 4..8]));
        assert_eq!(ranges(b"bytes=0-5,0-5", 10, None), Whole);
        assert_eq!(ranges(b"bytes=0-1,x", 10, None), Unsatisfiable);
    }

    #[test]
    fn limits() {
        use Ranges::*;
        assert_eq!(ranges(b"bytes=0-0,1-1", 10, Some(2)), Many(vec![0..1, 1..2]));
        assert_eq!(ranges(b"bytes=0-0,1-1", 10, Some(1)), Whole);
        assert_eq!(ranges(b"bytes=0-0,20-", 10, Some(1)), One(0..1));
        assert_eq!(ranges(b"bytes=0-0", 10, Some(0)), Whole);
        // 17 parts of one byte: 17 + 17 * 256 is more than 100 + 4096
        let value = |parts: usize| format!("bytes={}", vec!["0-0"; parts].join(","));
        assert_eq!(ranges(value(17).as_bytes(), 100, None), Whole);
        assert!(matches!(ranges(value(16).as_bytes(), 100, None), Many(parts) if parts.len() == 16));
        assert!(matches!(ranges(value(17).as_bytes(), 100, Some(17)), Many(parts) if parts.len() == 17));
    }

    #[test]
    fn where_a_single_range_begins() {
        let cases = [
            ("bytes=5-", Some(5)),
            ("Bytes= 5-9", Some(5)),
            ("bytes=0-0", Some(0)),
            ("bytes=-5", None),
            ("bytes=1-2,3-4", None),
            ("bytes=", None),
            ("items=1-2", None),
            ("bytes=99999999999999999999-", None),
            ("", None),
        ];
        for (value, start) in cases {
            assert_eq!(first(value.as_bytes()), start, "{value}");
        }
    }

    #[test]
    fn what_a_part_says_of_itself() {
        let cases = [
            ("bytes 0-99/1000", Some((0, 100, Some(1000)))),
            ("bytes 2-2/*", Some((2, 3, None))),
            ("bytes  2 - 3 / 4 ", Some((2, 4, Some(4)))),
            ("bytes 5-2/10", Some((5, 3, Some(10)))),
            ("bytes */10", None),
            ("bytes 0-1", None),
            ("bytes 0-/10", None),
            ("bytes 0-1/", None),
            ("bytes 0-1/10x", None),
            ("Bytes 0-1/10", None),
            ("bytes", None),
            ("bytes 0-9223372036854775808/10", None),
        ];
        for (value, expected) in cases {
            let part = content_range(value.as_bytes()).map(|part| (part.start, part.end, part.complete));
            assert_eq!(part, expected, "{value}");
        }
    }
}
