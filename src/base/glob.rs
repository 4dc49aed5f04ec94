//! File name patterns as glob(3) reads them without flags: what `include` masks mean.
//!
//! In: a pattern. Out: the existing paths that match it, sorted by their bytes. The rule: `*`, `?` and `[...]` never
//! match a `/` nor a leading dot; a backslash makes the next character plain; what cannot be read matches nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Whether nginx takes the name for a mask rather than for one file.
pub fn is_mask(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| b"*?[".contains(byte))
}

/// Every path that matches `pattern`, in the order of glob(3) in the C locale.
pub fn paths(pattern: &[u8]) -> Vec<PathBuf> {
    let mut found = vec![Vec::new()];
    for piece in pattern.split_inclusive(|&byte| byte == b'/') {
        let (name, slash) = match piece {
            [name @ .., b'/'] => (name, true),
            name => (name, false),
        };
        found = found.into_iter().flat_map(|base| step(base, name, slash)).collect();
    }
    found.sort();
    found.into_iter().map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))).collect()
}

/// Every way to go on from `base` (empty, or ending in `/`) by one component.
fn step(base: Vec<u8>, name: &[u8], slash: bool) -> Vec<Vec<u8>> {
    let join = |name: &[u8]| {
        let mut path = base.clone();
        path.extend_from_slice(name);
        if slash {
            path.push(b'/');
        }
        path
    };
    if name.is_empty() {
        return vec![join(name)];
    }
    if !is_mask(name) {
        let path = join(&unescaped(name));
        return if fs::symlink_metadata(OsStr::from_bytes(&path)).is_ok() { vec![path] } else { Vec::new() };
    }

    let directory = if base.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(&base)) };
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name().into_vec());
    let paths = names.filter(|entry| matches(name, entry)).map(|entry| join(&entry));
    paths.filter(|path| !slash || Path::new(OsStr::from_bytes(path)).is_dir()).collect()
}

/// Whether one file name matches one component of a pattern.
///
/// Only the latest `*` is ever tried again, so the work is bounded by the product of the two lengths.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') && !pattern.starts_with(b"\\.") {
        return false;
    }
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, n));
            continue;
        }
        let stepped = match (p < pattern.len(), name.get(n)) {
            (false, None) => return true,
            (true, Some(&byte)) => one(&pattern[p..], byte),
            _ => None,
        };
        match (stepped, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((behind, from))) if from < name.len() => {
                star = Some((behind, from + 1));
                p = behind;
                n = from + 1;
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first item if it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', plain, ..] => (*plain == byte).then_some(2),
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((length, matched)) => matched.then_some(1 + length),
            None => (byte == b'[').then_some(1), // never closed: a plain character
        },
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

/// Reads `!a-z[:alpha:]]`; the length up to the closing bracket and whether `byte` is in the set. `None`: never closed.
fn bracket(set: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let mut matched = false;
    let mut first = true;
    loop {
        let (low, length) = match set.get(at..)? {
            [b']', ..] if !first => return Some((at + 1, matched != negated)),
            [b'[', b':', rest @ ..] if rest.windows(2).any(|pair| pair == b":]") => {
                let end = rest.windows(2).position(|pair| pair == b":]")?;
                matched |= class(&rest[..end], byte);
                at += end + 4;
                first = false;
                continue;
            }
            [b'\\', plain, ..] => (*plain, 2),
            [plain, ..] => (*plain, 1),
            [] => return None,
        };
        first = false;
        at += length;
        let high = match set.get(at..)? {
            [b'-', b']', ..] => low,
            [b'-', b'\\', high, ..] => {
                at += 3;
                *high
            }
            [b'-', high, ..] => {
                at += 2;
                *high
            }
            _ => low,
        };
        matched |= (low..=high).contains(&byte);
    }
}

fn class(name: &[u8], byte: u8) -> bool {
    match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'\\' => plain.push(*rest.next().unwrap_or(&byte)),
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_the_c_library() {
        let cases = [
            ("*", "a.conf", true),
            ("*", ".hidden", false),
            ("*.conf", ".conf", false),
            (".*", ".hidden", true),
            ("\\.*", ".hidden", true),
            ("[.]x", ".x", false),
            ("?x", ".x", false),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("*.conf", "a.conf.conf", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab].conf", "b.conf", true),
            ("[!ab].conf", "b.conf", false),
            ("[^ab].conf", "c.conf", true),
            ("[a-c]", "b", true),
            ("[a-c]", "d", false),
            ("[a-]", "-", true),
            ("[]a]", "]", true),
            ("[!]a]", "b", true),
            ("[[:digit:]]*", "10-site", true),
            ("[[:digit:]]*", "site", false),
            ("[[:digit:]x]", "x", true),
            ("a[", "a[", true),
            ("a[b", "ab", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[\\]]", "]", true),
            ("", "", true),
            ("*", "", true),
            ("**", "x", true),
            ("中*", "中文", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(60);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &[b'a'; 4000]));
    }

    #[test]
    fn paths_come_sorted_by_bytes() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in ["b.conf", "a.conf", "Z.conf", ".h.conf", "x.txt", "d/1.conf", "d-x/2.conf", "e/n"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, "").expect("a file");
        }
        let base = root.path().to_str().expect("plain text");
        let run = |mask: &str| -> Vec<String> {
            let found = paths(format!("{base}/{mask}").as_bytes());
            found.iter().map(|path| path.strip_prefix(base).expect("below").display().to_string()).collect()
        };
        assert_eq!(run("*.conf"), ["Z.conf", "a.conf", "b.conf"]);
        assert_eq!(run("*/*.conf"), ["d-x/2.conf", "d/1.conf"]);
        assert_eq!(run("d*/[12].conf"), ["d-x/2.conf", "d/1.conf"]);
        assert_eq!(run("*/n"), ["e/n"]);
        assert_eq!(run("x.txt/*"), [""; 0]);
        assert_eq!(run("none/*"), [""; 0]);
        assert_eq!(run("nothing*"), [""; 0]);
    }
}
