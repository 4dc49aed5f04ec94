//! Ranges lie within the body and, together, are not longer than it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::range::{Ranges, content_range, first, ranges};

fuzz_target!(|input: (u64, Option<u8>, &[u8])| {
    let (length, max_ranges, value) = input;
    let length = length >> 1;
    let _ = (first(value), content_range(value));
    match ranges(value, length, max_ranges.map(u32::from)) {
        Ranges::Whole | Ranges::Unsatisfiable => {}
        Ranges::One(range) => assert!(range.start < range.end && range.end <= length),
        Ranges::Many(parts) => {
            assert!(parts.len() >= 2 && max_ranges.is_none_or(|max| parts.len() <= usize::from(max)));
            assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
            assert!(parts.iter().map(|part| u128::from(part.end - part.start)).sum::<u128>() <= u128::from(length));
        }
    }
});
