//! UTF-8 as nginx reads it (`ngx_utf8_decode`): one character at a time, surrogates and all.

/// The character at the front of some bytes, and how many of them it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    Symbol(u32, usize),
    /// The same of what is none.
    Invalid(usize),
    Incomplete,
}

/// What is wrong is found at the byte that does not go on, which belongs to what is wrong.
pub fn decode(bytes: &[u8]) -> Decoded {
    let (lead, least, more) = match bytes.first() {
        None => return Decoded::Incomplete,
        Some(&byte @ 0..=0x7f) => return Decoded::Symbol(u32::from(byte), 1),
        Some(0x80..=0xc1 | 0xf8..=0xff) => return Decoded::Invalid(1),
        Some(&byte @ 0xc2..=0xdf) => (byte & 0x1f, 0x80, 1),
        Some(&byte @ 0xe0..=0xef) => (byte & 0x0f, 0x800, 2),
        Some(&byte @ 0xf0..=0xf7) => (byte & 0x07, 0x1_0000, 3),
    };
    let Some(tail) = bytes.get(1..=more) else { return Decoded::Incomplete };
    let mut number = u32::from(lead);
    for (n, &byte) in tail.iter().enumerate() {
        if byte < 0x80 {
            return Decoded::Invalid(n + 2);
        }
        number = number << 6 | u32::from(byte & 0x3f);
    }
    match number {
        number if number < least || number > 0x10_ffff => Decoded::Invalid(more + 1),
        number => Decoded::Symbol(number, more + 1),
    }
}

/// Where each character ends. `None`: the bytes are no UTF-8.
pub fn ends(bytes: &[u8]) -> Option<Vec<usize>> {
    let mut ends = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match decode(&bytes[at..]) {
            Decoded::Symbol(_, length) => at += length,
            Decoded::Invalid(_) | Decoded::Incomplete => return None,
        }
        ends.push(at);
    }
    Some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_and_what_is_none() {
        for (bytes, expected) in [
            (&b"a"[..], Decoded::Symbol(0x61, 1)),
            ("ю".as_bytes(), Decoded::Symbol(0x44e, 2)),
            ("€x".as_bytes(), Decoded::Symbol(0x20ac, 3)),
            ("\u{1f600}".as_bytes(), Decoded::Symbol(0x1_f600, 4)),
            (b"\xed\xa0\x80", Decoded::Symbol(0xd800, 3)),
            (b"\xc0\x80", Decoded::Invalid(1)),
            (b"\xe0\x80\x80", Decoded::Invalid(3)),
            (b"\xf4\xa0\x80\x80", Decoded::Invalid(4)),
            (b"\xf0A", Decoded::Incomplete),
            (b"\xe2A\x80", Decoded::Invalid(2)),
            (b"\xe2\x82", Decoded::Incomplete),
            (b"", Decoded::Incomplete),
        ] {
            assert_eq!(decode(bytes), expected, "{bytes:?}");
        }
        assert_eq!(ends("aю€".as_bytes()), Some(vec![1, 3, 6]));
        assert_eq!(ends(b"a\xe2\x82"), None);
    }
}
