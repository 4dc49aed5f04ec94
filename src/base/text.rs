//! Configuration text: bytes that are mostly UTF-8, kept loss-free in a `String`.
//!
//! nginx takes any byte in its configuration; Rust's `str` does not. A byte that is not part of valid UTF-8 becomes
//! one code point of a private plane on the way in ([`decode`]) and the same byte again on the way out ([`bytes`]).
//! So every word of a configuration is a `&str`, and what reaches the wire or the file system are the bytes written.

/// The first of 256 code points, one per stray byte, in private-use plane 16, where no text has business to be.
const STRAY: u32 = 0x0010_ff00;

/// Text for any bytes: valid UTF-8 as it is, every other byte as a private code point.
pub fn decode(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        let mut valid = chunk.valid();
        // Text that stands in that plane all the same comes back only if its own bytes are stray ones.
        while let Some((at, private)) = valid.char_indices().find(|(_, c)| is_stray(*c)) {
            text.push_str(&valid[..at]);
            let (own, rest) = valid[at..].split_at(private.len_utf8());
            text.extend(own.bytes().filter_map(stray));
            valid = rest;
        }
        text.push_str(valid);
        text.extend(chunk.invalid().iter().copied().filter_map(stray));
    }
    text
}

fn stray(byte: u8) -> Option<char> {
    char::from_u32(STRAY + u32::from(byte))
}

fn is_stray(c: char) -> bool {
    u32::from(c) >= STRAY
}

/// The bytes that [`decode`] was given.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut raw = Vec::with_capacity(text.len());
    let mut utf8 = [0; 4];
    for c in text.chars() {
        match u32::from(c).checked_sub(STRAY).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => raw.push(byte),
            None => raw.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes()),
        }
    }
    raw
}

/// The path that a configuration word names.
pub fn path(text: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes(text)).into()
}

/// A system error as nginx writes it behind what failed: `(2: No such file or directory)`.
pub fn errno(error: &std::io::Error) -> String {
    let words = error.to_string();
    match error.raw_os_error() {
        Some(code) => format!("({code}: {})", words.strip_suffix(&format!(" (os error {code})")).unwrap_or(&words)),
        None => format!("({words})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&decode(&every)), every);
        assert_eq!(decode("中文".as_bytes()), "中文");
        assert_eq!(bytes(&decode(b"\xd6\xd0 gbk")), b"\xd6\xd0 gbk");
        // Found by the fuzzer: code points that stand for stray bytes, written as such.
        for private in ['\u{10ff00}', '\u{10fff6}', '\u{10ffff}', '\u{10feff}'] {
            let raw = format!("a{private}b\u{10fff6}").into_bytes();
            assert_eq!(bytes(&decode(&raw)), raw, "{private:?}");
        }
    }

    #[test]
    fn system_errors_read_as_in_nginx() {
        let missing = std::fs::read("/nonexistent/file").expect_err("no such file");
        assert_eq!(errno(&missing), "(2: No such file or directory)");
        assert_eq!(errno(&std::io::Error::from_raw_os_error(21)), "(21: Is a directory)");
    }
}
