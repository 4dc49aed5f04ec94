//! A set of field names, asked for every field of every head: length first, then letters of either case alike.

use crate::wire::byte::same_name;

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldNames {
    /// Bit n: there is a name of n bytes, or of 63 and more.
    lengths: u64,
    names: Vec<Box<[u8]>>,
}

impl FieldNames {
    pub fn insert(&mut self, name: &[u8]) {
        if !self.has(name) {
            self.lengths |= length_bit(name);
            self.names.push(name.into());
        }
    }

    pub fn remove(&mut self, name: &[u8]) {
        self.names.retain(|known| !same_name(known, name));
        self.lengths = self.names.iter().fold(0, |bits, name| bits | length_bit(name));
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.lengths & length_bit(name) != 0 && self.names.iter().any(|known| same_name(known, name))
    }
}

impl<'a> FromIterator<&'a str> for FieldNames {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut set = Self::default();
        names.into_iter().for_each(|name| set.insert(name.as_bytes()));
        set
    }
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_case_and_removal() {
        let mut names: FieldNames = ["Date", "X-Pad"].into_iter().collect();
        names.insert(&[b'a'; 100]);
        assert!(names.has(b"date") && names.has(b"X-PAD") && names.has(&[b'A'; 100]));
        assert!(!names.has(b"data") && !names.has(&[b'a'; 99]));
        names.remove(b"DATE");
        assert!(!names.has(b"Date") && names.has(b"x-pad"));
    }
}
