//! A quick hash for tables that a configuration fills: names, extensions.
//!
//! Whoever chooses the keys chose the configuration, so nothing is gained by colliding; a table that clients can fill
//! needs the standard library's hasher.

use std::hash::{BuildHasherDefault, Hasher};

/// For [`std::collections::HashMap::default`] and its kin.
pub type Quick = BuildHasherDefault<QuickHasher>;

/// A map with this hash.
pub type QuickMap<K, V> = std::collections::HashMap<K, V, Quick>;

/// Eight bytes a step, multiplied by an odd constant; the high bits, which are mixed best, are folded down at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuickHasher(u64);

const ODD: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 divided by the golden ratio

impl QuickHasher {
    fn step(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(ODD);
    }
}

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.step(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.step(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, byte: u8) {
        self.step(u64::from(byte));
    }

    fn write_usize(&mut self, number: usize) {
        self.step(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// MurmurHash2 with the seed 0, as nginx computes it.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    // nginx's, too, counts in 32 bits
    let mut hash = bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        word ^= word >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ word.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        for (n, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * n);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn names_that_differ_little_spread() {
        let build = Quick::default();
        let names: Vec<String> = (0..4096).map(|n| format!("host-{n}.example.com")).collect();
        let hashes: Vec<u64> = names.iter().map(|name| build.hash_one(name.as_bytes())).collect();
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), names.len());
        // hashbrown takes its place from the low bits and its tag from the highest seven
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 4095).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(low.len() > 2300, "{} of 4096 places", low.len());
        assert!(high.len() > 120, "{} of 128 tags", high.len());
    }
}
