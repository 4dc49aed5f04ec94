//! A cache file is read within its bounds or not at all; what was read is written the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::cache::key::{Key, Levels};
use weir::cache::meta::{self, Meta};

fuzz_target!(|input: (&[u8], &[u8], &[u8])| {
    let (file, key, name) = input;
    let file = Bytes::copy_from_slice(file);
    if let Ok((meta, key)) = Meta::decode_any(&file) {
        assert_eq!(Meta::decode(&file, &key), Ok(meta.clone()));
    }
    if let Ok(meta) = Meta::decode(&file, key) {
        let (head, body) = (usize::from(meta.header_start), usize::from(meta.body_start));
        assert!(head <= body && body <= file.len());
        let mut again = Vec::new();
        assert_eq!(meta.encode(&mut again, key), Ok(()));
        again.extend_from_slice(&file[head..]);
        assert_eq!(Meta::decode(&again.into(), key), Ok(meta));
        assert!(meta::head_len(&file[head..body]) <= body - head);
    }
    // the same header, made whole: random bytes seldom are
    let meta = Meta { etag: file.clone(), vary: file.slice(..file.len().min(128)), ..Meta::default() };
    for long in [false, true] {
        if let Ok(front) = meta.front(key, name, long, 8192) {
            let front = Bytes::from(front);
            let again = Meta::decode(&front, key).expect("just made");
            assert_eq!(usize::from(again.body_start), front.len());
        }
    }

    let _ = Key::of(key).variant(&file, [(name, key), (key, name)].into_iter());
    let _ = std::str::from_utf8(name).ok().and_then(Levels::parse);
    if let Some(key) = Key::from_name(name) {
        assert!(key.hex().as_bytes().eq_ignore_ascii_case(name));
    }
});
