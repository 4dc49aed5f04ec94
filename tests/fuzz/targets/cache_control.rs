//! What an upstream says of caches is understood or not; a head that was changed for the cache is a head still.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::cache::control::{Control, FOREVER};
use weir::cache::policy::{Rules, Verdict};
use weir::cache::{head, rfc9111};

fuzz_target!(|input: (&[u8], &[u8], &[u8], bool)| {
    let (line, other, text, strict) = input;
    let control = Control::of([line, other].into_iter());
    assert!(control.lifetime().is_none_or(|seconds| (0..=FOREVER).contains(&seconds)));
    let _ = Control::targeted([line, other].into_iter());

    let rules = Rules { rfc9111: strict, revalidate: true, ..Rules::default() };
    let fields = [(&b"Cache-Control"[..], line), (b"CDN-Cache-Control", other), (b"Expires", text), (b"Date", other)];
    let more = [(&b"X-Accel-Expires"[..], text), (b"Vary", line), (b"Age", other), (b"Last-Modified", text)];
    for fields in [&fields[..], &more[..]] {
        if let Verdict::Keep(keep) = rules.judge(200, fields.iter().copied(), strict, 784_111_777) {
            assert!(keep.updating >= 0 && keep.error >= 0 && keep.vary.len() <= 128);
        }
    }

    let bare = head::without_connection(text);
    assert!(bare.len() <= text.len());
    assert_eq!(head::without_connection(&bare), bare);
    let newer = head::updated(text, fields.into_iter());
    // what was read as a field's value has none of these
    if fields.iter().all(|(_, value)| !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        assert_eq!(head::updated(&newer, fields.into_iter()), newer);
    }

    if let Some(target) = rfc9111::same_origin(line, b"http", other, text) {
        assert!(text.is_empty() || line.starts_with(b"/") || !target.is_empty());
    }
});
