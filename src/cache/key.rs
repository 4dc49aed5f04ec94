//! Keys: the md5 of what the key templates gave, variants of it, and where its file lies.
//!
//! In: the joined bytes of the key, a stored `Vary` and the request's fields. Out: sixteen bytes, and a path. Both are
//! nginx's to the bit (`ngx_http_file_cache_create_key`, `ngx_http_file_cache_vary`, `ngx_create_hashed_filename`):
//! whoever deletes a file by the md5 of its key deletes the same file here.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use crate::base::clock;
use crate::base::hash::Quick;
use crate::base::lately::Lately;
use crate::wire::byte;

/// The name of a cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; Key::LEN]);

/// Hashes keys for tables. They are digests, so that little is left to do; but who sends requests chooses what is digested,
/// and must not know which of them meet: both halves are mixed with secrets of this process.
#[derive(Clone, Copy, Debug)]
pub struct Hashing([u64; 2]);

impl Default for Hashing {
    fn default() -> Self {
        let secret = RandomState::new();
        Self([secret.hash_one(0), secret.hash_one(1)])
    }
}

impl BuildHasher for Hashing {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        let Self([first, second]) = *self;
        KeyHasher { first, second }
    }
}

/// See [`Hashing`].
#[derive(Debug)]
pub struct KeyHasher {
    first: u64,
    second: u64,
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(Key::LEN) {
            let half = |at: usize| part.get(at..).and_then(|half| half.first_chunk()).copied().unwrap_or_default();
            let product = u128::from(self.first ^ u64::from_ne_bytes(half(0)))
                * u128::from(self.second ^ u64::from_ne_bytes(half(8)));
            self.first = (product >> 64) as u64 ^ product as u64;
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.first = self.first.wrapping_add(number);
    }

    /// Keys are all of one length.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.first
    }
}

/// Longer texts are not remembered.
const LONGEST: usize = 512;

thread_local! {
    /// What a thread has digested lately, as copies: a request's own bytes are a part of a buffer that goes round.
    static LATELY: RefCell<Lately<Vec<u8>, Key, 4096>> = const { RefCell::new(Lately::EMPTY) };
}

impl Key {
    pub const LEN: usize = 16;

    /// The key of a request: `text` is what `proxy_cache_key` gave.
    pub fn of(text: &[u8]) -> Self {
        Self(Md5::digest(text).into())
    }

    /// As [`Key::of`], for what is asked again and again: a thread remembers what it has lately digested.
    pub fn recalled(text: &[u8]) -> Self {
        if text.len() > LONGEST {
            return Self::of(text);
        }
        let hash = Quick::default().hash_one(text);
        let same = |known: &Vec<u8>| known == text;
        LATELY.with_borrow_mut(|lately| match lately.find(hash, same) {
            Some((_, key)) => *key,
            None => {
                let key = Self::of(text);
                lately.put(clock::seconds(), hash, same, || text.into(), key);
                key
            }
        })
    }

    /// Its first half: as good a hash as any where no table is to be filled by who chooses what is digested.
    pub fn bits(self) -> u64 {
        self.0.first_chunk().copied().map_or(0, u64::from_ne_bytes)
    }

    /// The key of the variant that a request asks for: its values of the fields that `vary` names go into the hash behind
    /// this key. `fields` are the request's, in their order.
    pub fn variant<'a>(self, vary: &[u8], fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Self {
        let mut hash = Md5::new();
        hash.update(self.0);
        for name in words(vary) {
            hash.update(name.to_ascii_lowercase());
            hash.update(b":");
            // lists of preferences mean the same however they are spaced and cut into lines
            let normalized = [&b"Accept-Charset"[..], b"Accept-Encoding", b"Accept-Language"]
                .iter()
                .any(|known| byte::same_name(known, name));
            let mut first = true;
            let mut add = |value: &[u8]| {
                if !std::mem::take(&mut first) {
                    hash.update(b",");
                }
                hash.update(value);
            };
            for (_, value) in fields.clone().filter(|(field, _)| byte::same_name(field, name)) {
                if normalized {
                    words(value).for_each(&mut add);
                } else {
                    add(value);
                }
            }
            hash.update(b"\r\n");
        }
        Self(hash.finalize().into())
    }

    /// The 32 digits that are the file's name.
    pub fn hex(self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(2 * Self::LEN);
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// The key of a file's name. `None`: no cache file is called so.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        if name.len() != 2 * Self::LEN {
            return None;
        }
        let mut key = [0; Self::LEN];
        for (byte, digits) in key.iter_mut().zip(name.chunks_exact(2)) {
            let [high, low] = digits else { return None };
            *byte = byte::hex(*high)? << 4 | byte::hex(*low)?;
        }
        Some(Self(key))
    }
}

/// What commas and spaces divide.
fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b' ' | b',')).filter(|word| !word.is_empty())
}

/// `levels=1:2`: one to three levels of directories, each named by one or two digits from the end of the file's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels([u8; 3]);

impl Levels {
    /// None, one, two or three numbers from 1 to 2 with colons between them. `None`: nginx says `invalid "levels" "…"`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut levels = Self::default();
        let mut slots = levels.0.iter_mut();
        for level in text.split(':') {
            *slots.next()? = match level {
                "1" => 1,
                "2" => 2,
                _ => return None,
            };
        }
        Some(levels)
    }

    /// How many levels of directories there are.
    pub fn depth(self) -> usize {
        self.iter().count()
    }

    /// The lengths of the directories' names, from the top.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().take_while(|level| *level > 0).map(usize::from)
    }

    /// Where the file of `key` lies below `root`: `root/c/29/b7f54b2df7773722d382f4809d65029c`.
    pub fn path(self, root: &Path, key: Key) -> PathBuf {
        let name = key.hex();
        let mut path = PathBuf::with_capacity(root.as_os_str().len() + name.len() + 10);
        path.push(root);
        let mut end = name.len();
        for level in self.iter() {
            let start = end - level; // at most 6 of 32 digits
            path.push(&name[start..end]);
            end = start;
        }
        path.push(&name);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (&'static str, &'static str);

    fn variant(vary: &str, fields: &[Pair]) -> Key {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Key::of(b"/a").variant(vary.as_bytes(), fields)
    }

    #[test]
    fn a_recalled_key_is_that_of_its_text() {
        // More than there are places for at first.
        let texts: Vec<String> = (0..1000).map(|n| format!("http://a/{n}")).collect();
        let long = "a".repeat(LONGEST + 1);
        for text in texts.iter().chain(&texts).chain([&long, &long, &String::new()]) {
            assert_eq!(Key::recalled(text.as_bytes()), Key::of(text.as_bytes()));
            assert_eq!(Key::recalled(text.as_bytes()), Key::of(text.as_bytes()), "at once again");
        }
    }

    #[test]
    fn names_are_those_of_nginx() {
        let key = Key::of(b"/a");
        assert_eq!(key.hex(), "0639767f3e9eaad729b54037a7e2abf5");
        assert_eq!(Key::from_name(b"0639767f3e9eaad729b54037a7e2abf5"), Some(key));
        assert_eq!(Key::from_name(b"0639767F3E9EAAD729B54037A7E2ABF5"), Some(key));
        for other in ["", "0639767f3e9eaad729b54037a7e2abf", "0639767f3e9eaad729b54037a7e2abf5.1", &"g".repeat(32)] {
            assert_eq!(Key::from_name(other.as_bytes()), None, "{other}");
        }
    }

    /// Both variants were written by nginx 1.22 for these requests.
    #[test]
    fn variants_are_those_of_nginx() {
        let first = [("Host", "x"), ("Accept-Encoding", "gzip,  br"), ("X-Kind", "a"), ("X-Kind", "b")];
        assert_eq!(variant("Accept-Encoding, X-Kind", &first).hex(), "d8104b7ee77685b7756128c452a2468a");
        let second = [("accept-encoding", "br")];
        assert_eq!(variant("Accept-Encoding, X-Kind", &second).hex(), "f6df5ebca00754cc0ec1b4ccadd969ca");
    }

    #[test]
    fn variants_differ_by_what_differs() {
        let spaced = variant("Accept-Encoding", &[("Accept-Encoding", "gzip , br")]);
        assert_eq!(spaced, variant(" accept-encoding ,", &[("accept-encoding", "gzip"), ("Accept-Encoding", "br,")]));
        assert_ne!(spaced, variant("Accept-Encoding", &[("Accept-Encoding", "br, gzip")]));
        assert_ne!(variant("X", &[("X", "a b")]), variant("X", &[("X", "a  b")]));
        assert_ne!(variant("X, Y", &[("X", "a")]), variant("X, Y", &[("Y", "a")]));
        assert_ne!(variant("X", &[]), Key::of(b"/a"));
    }

    #[test]
    fn levels_make_directories_of_the_last_digits() {
        let key = Key::from_name(b"b7f54b2df7773722d382f4809d65029c").expect("a name");
        let cases = [
            ("1:2", "/c/c/29/b7f54b2df7773722d382f4809d65029c"),
            ("2:2:2", "/c/9c/02/65/b7f54b2df7773722d382f4809d65029c"),
            ("1:1:1", "/c/c/9/2/b7f54b2df7773722d382f4809d65029c"),
            ("1", "/c/c/b7f54b2df7773722d382f4809d65029c"),
        ];
        for (levels, path) in cases {
            let levels = Levels::parse(levels).expect("levels");
            assert_eq!(levels.path(Path::new("/c"), key), Path::new(path));
        }
        let flat = Levels::default().path(Path::new("/c"), key);
        assert_eq!(flat, Path::new("/c/b7f54b2df7773722d382f4809d65029c"));
        for bad in ["", "0", "3", "1:", ":1", "1:2:3", "1:1:1:1", "12", "1,2", "a"] {
            assert_eq!(Levels::parse(bad), None, "{bad}");
        }
    }
}
