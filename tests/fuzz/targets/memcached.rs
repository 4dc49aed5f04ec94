//! The first line of an answer says the same however much of what follows is there, and lies within what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::memcached::{Line, first_line};

fuzz_target!(|input: (&[u8], bool, &[u8])| {
    let (key, wants_flags, bytes) = input;
    let read = first_line(bytes, key, wants_flags);
    match read {
        Ok(None) => assert!(!bytes.contains(&b'\n')),
        Ok(Some(Line::Value { at, .. } | Line::NotFound { at })) => {
            let line = &bytes[..at as usize];
            assert!(line.ends_with(b"\r\n"));
            assert_eq!(first_line(line, key, wants_flags), read);
        }
        Err(bad) => assert!(bad.line.end as usize <= bytes.len()),
    }
});
