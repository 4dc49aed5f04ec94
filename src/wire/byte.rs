//! Classes of bytes as one table, and the small numbers that many formats share.

use wide::u8x16;

/// May stand in a method: `A-Z`, `_`, `-`.
pub(crate) const METHOD: u8 = 1;
/// May stand in a scheme after its first letter.
pub(crate) const SCHEME: u8 = 1 << 1;
/// May stand in the host of an absolute target: letters, digits, `.`, `-`.
pub(crate) const HOST: u8 = 1 << 2;
/// May stand between the brackets of an IP literal.
pub(crate) const LITERAL: u8 = 1 << 3;
/// Means nothing in a target: no control, no space, none of `# % + . / ?`.
pub(crate) const USUAL: u8 = 1 << 4;
/// May stand in the name of a field: letters, digits, `-`.
pub(crate) const NAME: u8 = 1 << 5;
/// May stand in a Host: unreserved, sub-delims, `%`; `.` and `:` have rules of their own.
pub(crate) const REG_NAME: u8 = 1 << 6;
/// May stand between two dots of a host that is written as everyone does: small letters, digits, `-`.
pub(crate) const LABEL: u8 = 1 << 7;

/// The classes of every byte, or-ed.
pub(crate) const CLASS: [u8; 256] = classes();

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = ONES * 0x80;

/// True when `byte` is in one of `classes`.
#[inline(always)]
pub(crate) fn is(byte: u8, classes: u8) -> bool {
    CLASS[byte as usize] & classes != 0
}

/// The first place at or after `from` whose byte is not in `classes`; the length when there is none.
#[inline(always)]
pub(crate) fn skip(buf: &[u8], from: usize, classes: u8) -> usize {
    let rest = buf.get(from..).unwrap_or_default();
    from + rest.iter().position(|&byte| !is(byte, classes)).unwrap_or(rest.len())
}

/// The first place with a control below space; the length when there is none.
#[inline(always)]
pub(crate) fn find_control(text: &[u8]) -> usize {
    leap(text, |bytes| at_most(bytes, 0x1f), |byte| byte < b' ')
}

/// The first place whose byte is not in [`NAME`]; the length when there is none.
#[inline(always)]
pub(crate) fn skip_name(text: &[u8]) -> usize {
    leap(text, |bytes| !names(bytes), |byte| !is(byte, NAME))
}

/// The first place of one of two bytes; the length when there is none.
#[inline(always)]
pub(crate) fn find_either(text: &[u8], one: u8, other: u8) -> usize {
    let either = |bytes: u8x16| bytes.simd_eq(u8x16::splat(one)) | bytes.simd_eq(u8x16::splat(other));
    leap(text, either, |byte| byte == one || byte == other)
}

/// The first place in `text` where `stops` is true; the length when there is none. Sixteen bytes at a time, of which `marks`
/// sets those that stop.
#[inline(always)]
fn leap(text: &[u8], marks: impl Fn(u8x16) -> u8x16, stops: impl Fn(u8) -> bool) -> usize {
    let (chunks, rest) = text.as_chunks::<16>();
    for (n, chunk) in chunks.iter().enumerate() {
        let marked = marks(u8x16::new(*chunk)).to_bitmask();
        if marked != 0 {
            return n * 16 + marked.trailing_zeros() as usize;
        }
    }
    text.len() - rest.len() + rest.iter().position(|&byte| stops(byte)).unwrap_or(rest.len())
}

/// Sets the bytes that are in [`NAME`].
#[inline(always)]
fn names(bytes: u8x16) -> u8x16 {
    let letters = at_most((bytes | u8x16::splat(0x20)) - u8x16::splat(b'a'), b'z' - b'a');
    let digits = at_most(bytes - u8x16::splat(b'0'), 9);
    letters | digits | bytes.simd_eq(u8x16::splat(b'-'))
}

/// Sets the bytes that are `most` or less.
#[inline(always)]
fn at_most(bytes: u8x16, most: u8) -> u8x16 {
    bytes.min(u8x16::splat(most)).simd_eq(bytes)
}

/// Whether all of `text` is `good`. Sixteen bytes are looked at together, without a branch between them: what `good` does
/// with a byte must be nothing but comparisons.
#[inline(always)]
pub(crate) fn all(text: &[u8], good: impl Fn(u8) -> bool + Copy) -> bool {
    let whole = |part: &[u8]| part.iter().fold(true, |all, &byte| all & good(byte));
    let (chunks, rest) = text.as_chunks::<16>();
    // What is left at the end is looked at together too, with what stands before it.
    chunks.iter().all(|chunk| whole(chunk))
        && match (text.last_chunk::<16>(), rest.first_chunk::<8>(), rest.last_chunk::<8>()) {
            (Some(last), ..) => rest.is_empty() || whole(last),
            (None, Some(first), Some(last)) => whole(first) & whole(last),
            (None, ..) => rest.iter().all(|&byte| good(byte)),
        }
}

/// A decimal number that fills the whole of `text`: digits only, at least one, at most `i64::MAX`
/// (nginx: `ngx_atoof`).
pub fn offset(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut number: u64 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
        if number > i64::MAX as u64 {
            return None;
        }
    }
    Some(number)
}

/// The value of a hexadecimal digit.
#[inline]
pub(crate) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Digits of decimal numbers, upper and lower hexadecimal ones.
pub(crate) const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Writes `number` in decimal.
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(decimal(number, &mut [0; 20]));
}

/// A number in decimal, in these digits.
#[inline]
pub fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

/// Whether two names of fields are the same, letters of either case alike. Most names are written as everyone writes
/// them, and most that differ do so in their length, their first letter or their last: that is told without a walk.
#[inline]
pub fn same_name(one: &[u8], other: &[u8]) -> bool {
    let edges = (one.first(), one.last(), other.first(), other.last());
    let (Some(first), Some(last), Some(other_first), Some(other_last)) = edges else { return one.len() == other.len() };
    one.len() == other.len()
        && ((first ^ other_first) | (last ^ other_last)) & !0x20 == 0
        && (one == other || same_letters(one, other))
}

/// The same of names of one length, a word at a time.
fn same_letters(one: &[u8], other: &[u8]) -> bool {
    let mut words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    words.all(|(one, other)| differ(*one, *other) == 0)
        && match (ends(one), ends(other)) {
            (Some(one), Some(other)) => differ(one, other) == 0,
            _ => one.eq_ignore_ascii_case(other),
        }
}

/// What is left of a name behind its words, with what stands before that; `None` for the shortest names.
#[inline(always)]
fn ends(name: &[u8]) -> Option<[u8; 8]> {
    if let Some(end) = name.last_chunk::<8>() {
        return Some(*end);
    }
    let (&[a, b, c, d], &[e, f, g, h]) = (name.first_chunk::<4>()?, name.last_chunk::<4>()?);
    Some([a, b, c, d, e, f, g, h])
}

/// Zero when the letters of two words differ in nothing but their case, and the other bytes in nothing.
#[inline(always)]
fn differ(one: [u8; 8], other: [u8; 8]) -> u64 {
    let (one, other) = (u64::from_le_bytes(one), u64::from_le_bytes(other));
    // Without their high bits no sum of two bytes reaches the next one.
    let low = (one | (ONES * 0x20)) & !HIGH;
    let at_least = |least: u8| low + ONES * u64::from(0x80 - least);
    let letters = at_least(b'a') & !at_least(b'z' + 1) & !one & HIGH;
    (one ^ other) & !(letters >> 2)
}

/// Where `needle` begins in `text`, letters of either case alike.
pub fn find_ignore_case(text: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    text.windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle))
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_uppercase() || b == b'_' || b == b'-' {
            class |= METHOD;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.') {
            class |= SCHEME;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-') {
            class |= HOST;
        }
        let unreserved = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~');
        let sub_delim = matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        if unreserved || sub_delim || matches!(b, b'.' | b':') {
            class |= LITERAL;
        }
        if unreserved || sub_delim || b == b'%' {
            class |= REG_NAME;
        }
        if b > b' ' && b != 0x7f && !matches!(b, b'#' | b'%' | b'+' | b'.' | b'/' | b'?') {
            class |= USUAL;
        }
        if b.is_ascii_alphanumeric() || b == b'-' {
            class |= NAME;
        }
        if b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' {
            class |= LABEL;
        }
        table[byte] = class;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_digits_and_fit() {
        assert_eq!(offset(b"0"), Some(0));
        assert_eq!(offset(b"00012"), Some(12));
        assert_eq!(offset(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in
            ["", " 1", "1 ", "+1", "-1", "1a", "9223372036854775808", "18446744073709551616", "99999999999999999999999"]
        {
            assert_eq!(offset(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_written_whole() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn leaps_stop_where_steps_do() {
        for len in 0..40 {
            for odd in 0..len {
                for byte in [0, b'\t', 0x1f, b' ', b'.', 0x7f, 0x80, 0xff] {
                    let mut text = vec![b'a'; len];
                    text[odd] = byte;
                    for from in 0..=len {
                        let steps = |stop: fn(u8) -> bool| (from..len).find(|&at| stop(text[at])).unwrap_or(len);
                        assert_eq!(skip(&text, from, NAME), steps(|byte| !is(byte, NAME)));
                        assert_eq!(from + skip_name(&text[from..]), steps(|byte| !is(byte, NAME)));
                        assert_eq!(from + find_control(&text[from..]), steps(|byte| byte < b' '));
                        assert_eq!(from + find_either(&text[from..], 0, b'.'), steps(|byte| matches!(byte, 0 | b'.')));
                    }
                }
            }
        }
    }

    #[test]
    fn names_are_told_in_every_byte() {
        for byte in 0..=u8::MAX {
            for place in 0..16 {
                let mut name = *b"aZ09-zAm-mAz90Za";
                name[place] = byte;
                let expected = if is(byte, NAME) { 16 } else { place };
                assert_eq!(skip_name(&name), expected, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn all_is_all() {
        for len in 0..70 {
            let text = vec![b'a'; len];
            assert!(all(&text, |byte| byte == b'a'), "{len}");
            for odd in 0..len {
                let mut text = text.clone();
                text[odd] = b'b';
                assert!(!all(&text, |byte| byte == b'a'), "{odd} of {len}");
            }
        }
    }

    #[test]
    fn names_are_the_same_in_either_case() {
        for (one, other, same) in [
            ("", "", true),
            ("", "A", false),
            ("A", "a", true),
            ("ETag", "etag", true),
            ("ETag", "Etah", false),
            ("ETag", "ETags", false),
            ("Accept-Encoding", "Accept-Language", false),
            ("Age", "a\x27e", false),
        ] {
            assert_eq!(same_name(one.as_bytes(), other.as_bytes()), same, "{one:?} {other:?}");
            assert_eq!(same_name(other.as_bytes(), one.as_bytes()), same, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_name_is_another_with_one_byte_changed() {
        for len in 1..24 {
            let name: Vec<u8> = b"aZ09-z@[`{Am".iter().copied().cycle().take(len).collect();
            for place in 0..len {
                for byte in 0..=u8::MAX {
                    let mut other = name.clone();
                    other[place] = byte;
                    assert_eq!(same_name(&name, &other), name.eq_ignore_ascii_case(&other), "{byte:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn needles_are_found_in_either_case() {
        assert_eq!(find_ignore_case(b"Keep-Alive, Upgrade", b"upgrade"), Some(12));
        assert_eq!(find_ignore_case(b"clos", b"close"), None);
    }
}
