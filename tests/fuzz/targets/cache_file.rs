//! A cache file is read within its bounds or not at all; what was read is written the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::cache::key::{Key, Levels};
use weir::cache::meta::Meta;

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
        assert_eq!(meta.encode(&mut again, key, body - head), Ok(()));
        again.extend_from_slice(&file[head..]);
        assert_eq!(Meta::decode(&again.into(), key), Ok(meta));
    }
    // the same header, made whole: random bytes seldom are
    let meta = Meta { etag: file.clone(), vary: file.slice(..file.len().min(128)), ..Meta::default() };
    let mut made = Vec::new();
    if meta.encode(&mut made, key, name.len()).is_ok() {
        made.extend_from_slice(name);
        assert!(Meta::decode(&made.into(), key).is_ok());
    }

    let _ = Key::of(key).variant(&file, [(name, key), (key, name)].into_iter());
    let _ = std::str::from_utf8(name).ok().and_then(Levels::parse);
    if let Some(key) = Key::from_name(name) {
        assert!(key.hex().as_bytes().eq_ignore_ascii_case(name));
    }
});
