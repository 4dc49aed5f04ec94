//! Whatever is read as a date of these years is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::date;

fuzz_target!(|input: (i64, &[u8])| {
    let (seconds, text) = input;
    let _ = (date::format(seconds), date::cookie(seconds));
    if let Some(seconds @ 0..=253_402_300_799) = date::parse(text) {
        assert_eq!(date::parse(&date::format(seconds)), Some(seconds));
    }
});
