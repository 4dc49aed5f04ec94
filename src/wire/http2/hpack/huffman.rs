//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: shorter codes come first, and those of one length follow the order of their bytes. So lengths
//! are all that has to be written down.

use std::sync::LazyLock;

use bytes::BytesMut;

/// Bits of each byte's code, and of the end's.
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// The longest code.
const LONGEST: usize = 30;
/// Codes up to this length are found by one look.
const QUICK: u32 = 9;
/// The end of the text: its code may only begin, as padding.
const END: u16 = 256;

struct Tables {
    codes: [u32; 257],
    /// By the next nine bits: the byte and the length of its code, or 0 where it is longer.
    quick: [(u8, u8); 1 << QUICK],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// Of each length: its first code, how many codes there are, and where they begin in `symbols`.
    lengths: [(u32, u32, u32); LONGEST + 1],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables =
        Tables { codes: [0; 257], quick: [(0, 0); 1 << QUICK], symbols: [0; 257], lengths: [(0, 0, 0); LONGEST + 1] };
    let (mut code, mut place) = (0u32, 0);
    for bits in 1..=LONGEST {
        code <<= 1;
        let first = (code, place as u32);
        for symbol in (0..=END).filter(|symbol| usize::from(BITS[usize::from(*symbol)]) == bits) {
            tables.codes[usize::from(symbol)] = code;
            tables.symbols[place] = symbol;
            if let Some(spare) = QUICK.checked_sub(bits as u32) {
                let start = (code << spare) as usize;
                tables.quick[start..start + (1 << spare)].fill((symbol as u8, bits as u8));
            }
            code += 1;
            place += 1;
        }
        tables.lengths[bits] = (first.0, code - first.0, first.1);
    }
    tables
});

/// Bytes that `text` takes.
pub fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(BITS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Appends `text`, encoded.
pub fn encode(text: &[u8], out: &mut BytesMut) {
    let codes = &TABLES.codes;
    let (mut held, mut bits) = (0u64, 0u32);
    for byte in text {
        let len = u32::from(BITS[usize::from(*byte)]);
        held = held << len | u64::from(codes[usize::from(*byte)]);
        bits += len;
        if bits >= 32 {
            bits -= 32;
            out.extend_from_slice(&((held >> bits) as u32).to_be_bytes());
        }
    }
    while bits >= 8 {
        bits -= 8;
        out.extend_from_slice(&[(held >> bits) as u8]);
    }
    if bits > 0 {
        // Filled up with the beginning of the end's code, which is all ones.
        let spare = 8 - bits;
        out.extend_from_slice(&[(held << spare) as u8 | ((1u16 << spare) - 1) as u8]);
    }
}

/// The text is not in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Appends what `bytes` mean.
pub fn decode(bytes: &[u8], out: &mut BytesMut) -> Result<(), Invalid> {
    let tables = &*TABLES;
    let mut rest = bytes.iter();
    let (mut held, mut bits) = (0u64, 0u32);
    loop {
        while bits <= 56 {
            let Some(byte) = rest.next() else { break };
            held = held << 8 | u64::from(*byte);
            bits += 8;
        }
        if bits == 0 {
            return Ok(());
        }
        // The next bits, at the top; behind the last there are ones.
        let ahead = (!0u64)
            .checked_shl(64 - bits)
            .map_or(held, |_| if bits == 64 { held } else { held << (64 - bits) | (!0u64 >> bits) });
        let (byte, len) = tables.quick[(ahead >> (64 - QUICK)) as usize];
        let len = u32::from(len);
        if len != 0 && len <= bits {
            out.extend_from_slice(&[byte]);
            bits -= len;
            continue;
        }
        match long(ahead, tables) {
            Some((symbol, len)) if len <= bits && symbol != END => {
                out.extend_from_slice(&[symbol as u8]);
                bits -= len;
            }
            // RFC 7541, 5.2: padding is less than a byte, and all ones. nginx bears a whole one.
            _ if bits <= 8 && rest.len() == 0 && ahead >> (64 - bits) == (1 << bits) - 1 => return Ok(()),
            _ => return Err(Invalid),
        }
    }
}

/// A code of any length at the top of `ahead`.
fn long(ahead: u64, tables: &Tables) -> Option<(u16, u32)> {
    for (len, (first, count, place)) in tables.lengths.iter().enumerate().skip(1) {
        let code = (ahead >> (64 - len)) as u32;
        if let Some(at) = code.checked_sub(*first).filter(|at| at < count) {
            return Some((*tables.symbols.get((place + at) as usize)?, len as u32));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = BytesMut::new();
        decode(bytes, &mut out).map(|()| out.to_vec())
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541, C.4 and C.6
        for (text, hex) in [
            ("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..]),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
        ] {
            let mut out = BytesMut::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(&out[..], hex);
            assert_eq!(encoded_len(text.as_bytes()), hex.len());
            assert_eq!(decoded(hex).expect("valid"), text.as_bytes());
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for start in 0..40 {
            let mut out = BytesMut::new();
            encode(&all[start..], &mut out);
            assert_eq!(out.len(), encoded_len(&all[start..]));
            assert_eq!(decoded(&out).expect("valid"), &all[start..]);
        }
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decoded(b""), Ok(Vec::new()));
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec())); // 00011 and 111
        assert_eq!(decoded(&[0x18]), Err(Invalid)); // 00011 and 000
        assert_eq!(decoded(&[0xff]), Ok(Vec::new())); // eight bits of padding
        assert_eq!(decoded(&[0x1f, 0xff]), Err(Invalid));
        assert_eq!(decoded(&[0xff, 0xff]), Err(Invalid));
        assert_eq!(decoded(&[0xff; 4]), Err(Invalid)); // the end itself
    }
}
