//! DER: values within values, each with a tag and a length.
//!
//! In: bytes. Out: slices of them. Only definite lengths below 4 GB are taken, and nothing is copied.

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDer;

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const ENUMERATED: u8 = 0x0a;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;

/// The tag of a value that its place explains: `[n]`, with values inside.
pub const fn context(n: u8) -> u8 {
    0xa0 | n
}

/// The same, without values inside.
pub const fn primitive(n: u8) -> u8 {
    0x80 | n
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

impl<'a> Value<'a> {
    /// The values inside.
    pub fn inside(&self) -> Reader<'a> {
        Reader { rest: self.content }
    }

    /// The content, if the tag is the one expected.
    pub fn expect(self, tag: u8) -> Result<Self, BadDer> {
        if self.tag == tag { Ok(self) } else { Err(BadDer) }
    }
}

/// Values one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn peek_tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub fn next_value(&mut self) -> Result<Value<'a>, BadDer> {
        let (&tag, after) = self.rest.split_first().ok_or(BadDer)?;
        if tag & 0x1f == 0x1f {
            return Err(BadDer); // tags of several bytes: none of ours
        }
        let (&first, after) = after.split_first().ok_or(BadDer)?;
        let (length, after) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x84 => {
                let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f)).ok_or(BadDer)?;
                let length = bytes.iter().fold(0_u64, |length, &byte| length << 8 | u64::from(byte));
                (usize::try_from(length).map_err(|_| BadDer)?, after)
            }
            _ => return Err(BadDer),
        };
        let (content, rest) = after.split_at_checked(length).ok_or(BadDer)?;
        let whole = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        Ok(Value { tag, content, whole })
    }

    /// The next value, which must have this tag.
    pub fn take(&mut self, tag: u8) -> Result<Value<'a>, BadDer> {
        self.next_value()?.expect(tag)
    }

    /// The next value, if it has this tag.
    pub fn maybe(&mut self, tag: u8) -> Result<Option<Value<'a>>, BadDer> {
        if self.peek_tag() == Some(tag) { self.next_value().map(Some) } else { Ok(None) }
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), BadDer> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadDer) }
    }
}

/// Writes a value.
pub fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    match length {
        0..=0x7f => out.push(length as u8),
        _ => {
            let bytes = (length as u64).to_be_bytes();
            let bytes = &bytes[bytes.iter().position(|&byte| byte != 0).unwrap_or(7)..];
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
}

/// A value of its own.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    put(&mut out, tag, content);
    out
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime` (RFC 5280, 4.1.2.5).
pub fn time(value: &Value<'_>) -> Result<i64, BadDer> {
    let text = value.content;
    let digits = |from: usize, count: usize| {
        let digits = text.get(from..from + count).ok_or(BadDer)?;
        digits.iter().try_fold(0_i64, |number, byte| match byte {
            b'0'..=b'9' => Ok(number * 10 + i64::from(byte - b'0')),
            _ => Err(BadDer),
        })
    };
    let (year, rest) = match value.tag {
        UTC_TIME => match digits(0, 2)? {
            year @ 50.. => (1900 + year, 2),
            year => (2000 + year, 2),
        },
        GENERALIZED_TIME => (digits(0, 4)?, 4),
        _ => return Err(BadDer),
    };
    let part = |n: usize| digits(rest + 2 * n, 2);
    if text.get(rest + 10..) != Some(b"Z") {
        return Err(BadDer);
    }
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return Err(BadDer);
    }
    Ok(days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day, days after 1970 began.
pub fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_nest_and_lengths_are_checked() {
        let inner = value(OCTET_STRING, &[7; 300]);
        let outer = value(SEQUENCE, &inner);
        let mut reader = Reader::new(&outer);
        let mut inside = reader.take(SEQUENCE).expect("ours").inside();
        assert_eq!(inside.take(OCTET_STRING).expect("ours").content, &[7; 300]);
        assert_eq!((inside.end(), reader.end()), (Ok(()), Ok(())));
        for bad in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 5, 1], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x3f, 0]] {
            assert_eq!(Reader::new(bad).next_value(), Err(BadDer), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        let at = |tag, text: &str| time(&Reader::new(&value(tag, text.as_bytes())).next_value().expect("ours"));
        assert_eq!(at(UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(at(UTC_TIME, "491231235959Z"), Ok(2_524_607_999));
        assert_eq!(at(GENERALIZED_TIME, "20240229120000Z"), Ok(1_709_208_000));
        for day in [-1, 0, 58, 59, 60, 789, 11_016, 19_782, 47_541] {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
        assert_eq!(date(19_782), (2024, 2, 29));
        for bad in ["70010100000Z", "7001010000000", "701301000000Z", "70010100000aZ"] {
            assert_eq!(at(UTC_TIME, bad), Err(BadDer), "{bad}");
        }
    }
}
