//! Host names and wildcards of them, each with a value: `example.com`, `*.example.com`, `.example.com`, `www.example.*`.
//!
//! In: patterns in lower case. Out: the value of the pattern that fits a name best: the name itself, then the longest
//! `*.name`, then the longest `name.*`. nginx: `ngx_hash_add_key`, `ngx_hash_find_combined`.

use super::hash::QuickMap;

/// See the module's head.
#[derive(Debug)]
pub struct NameTable<V> {
    exact: QuickMap<Box<[u8]>, V>,
    /// `*.example.com` under `example.com`.
    leading: QuickMap<Box<[u8]>, V>,
    /// `www.example.*` under `www.example`.
    trailing: QuickMap<Box<[u8]>, V>,
}

/// Why a pattern has no place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplaced {
    /// It is no name and no wildcard.
    Invalid,
    /// It is there already.
    Taken,
}

impl<V> Default for NameTable<V> {
    fn default() -> Self {
        Self { exact: QuickMap::default(), leading: QuickMap::default(), trailing: QuickMap::default() }
    }
}

impl<V: Copy> NameTable<V> {
    /// Adds a text that means only itself.
    pub fn add_exact(&mut self, text: &[u8], value: V) -> Result<(), Unplaced> {
        if self.exact.contains_key(text) {
            return Err(Unplaced::Taken);
        }
        self.exact.insert(text.into(), value);
        Ok(())
    }

    /// Adds a name or a wildcard.
    pub fn add(&mut self, pattern: &[u8], value: V) -> Result<(), Unplaced> {
        let stars = pattern.iter().filter(|&&byte| byte == b'*').count();
        if stars > 1 || pattern.contains(&0) || pattern.windows(2).any(|two| two == b"..") {
            return Err(Unplaced::Invalid);
        }
        let long = pattern.len() > 2;
        let (map, name, itself) = match pattern {
            [b'.', rest @ ..] if !rest.is_empty() => (&mut self.leading, rest, true),
            [b'*', b'.', rest @ ..] if long => (&mut self.leading, rest, false),
            [rest @ .., b'.', b'*'] if long => (&mut self.trailing, rest, false),
            _ if stars > 0 => return Err(Unplaced::Invalid),
            _ => return self.add_exact(pattern, value),
        };
        if map.contains_key(name) || (itself && self.exact.contains_key(name)) {
            return Err(Unplaced::Taken);
        }
        map.insert(name.into(), value);
        if itself {
            self.exact.insert(name.into(), value);
        }
        Ok(())
    }

    /// The value of the pattern that fits `name`, which is in lower case.
    pub fn find(&self, name: &[u8]) -> Option<V> {
        if let Some(value) = self.exact.get(name) {
            return Some(*value);
        }
        if !self.leading.is_empty() {
            let below = memchr::memchr_iter(b'.', name).filter(|&dot| dot > 0);
            if let Some(value) = below.filter_map(|dot| self.leading.get(&name[dot + 1..])).next() {
                return Some(*value);
            }
        }
        if self.trailing.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', name).find_map(|dot| self.trailing.get(&name[..dot])).copied()
    }

    /// Every value in the table, some more than once.
    pub fn values(&self) -> impl Iterator<Item = V> {
        [&self.exact, &self.leading, &self.trailing].into_iter().flat_map(|map| map.values().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_then_what_ends_so_then_what_begins_so() {
        let mut table = NameTable::default();
        let patterns = ["a.example.com", "*.example.com", "www.example.*", ".dot.org", "*.b.example.com", ""];
        for (n, pattern) in patterns.iter().enumerate() {
            assert_eq!(table.add(pattern.as_bytes(), n), Ok(()), "{pattern}");
        }
        let cases = [
            ("a.example.com", Some(0)),
            ("x.example.com", Some(1)),
            ("x.y.example.com", Some(1)),
            ("x.b.example.com", Some(4)),
            ("example.com", None),
            (".example.com", None),
            ("www.example.com", Some(1)),
            ("www.example.org", Some(2)),
            ("www.example.co.uk", Some(2)),
            ("dot.org", Some(3)),
            ("a.dot.org", Some(3)),
            ("", Some(5)),
            ("other", None),
        ];
        for (name, expected) in cases {
            assert_eq!(table.find(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn what_has_no_place() {
        let mut table = NameTable::default();
        for pattern in ["a.org", "*.a.org", "b.*", ".c.org"] {
            assert_eq!(table.add(pattern.as_bytes(), ()), Ok(()), "{pattern}");
        }
        let cases = [
            ("a.org", Unplaced::Taken),
            (".a.org", Unplaced::Taken),
            ("*.a.org", Unplaced::Taken),
            ("b.*", Unplaced::Taken),
            ("c.org", Unplaced::Taken),
            ("*.c.org", Unplaced::Taken),
            ("*.d.*", Unplaced::Invalid),
            ("w*.d.org", Unplaced::Invalid),
            ("*", Unplaced::Invalid),
            ("*.", Unplaced::Invalid),
            ("d..org", Unplaced::Invalid),
        ];
        for (pattern, expected) in cases {
            assert_eq!(table.add(pattern.as_bytes(), ()), Err(expected), "{pattern}");
        }
    }
}
