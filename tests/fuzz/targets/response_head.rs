//! A status line, cut anywhere, has one verdict; its fields give a framing or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::http1::field::{FieldParser, Line, NameRules};
use weir::wire::http1::response::{Framing, status_line};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = status_line(bytes, 0);
    let part = status_line(&bytes[..usize::from(cut).min(bytes.len())], 0);
    assert!(part == Ok(None) || part == whole);

    let Ok(Some(line)) = whole else { return };
    let mut fields = FieldParser::new(line.end as usize);
    let mut framing = Framing::default();
    while let Ok(Some(Line::Field(field))) = fields.next(bytes, NameRules::UPSTREAM) {
        let value = field.value.of(bytes);
        let _ = (framing.content_length(value), framing.transfer_encoding(value));
        framing.connection(value);
    }
    assert!(framing.length.is_none() || !framing.chunked);
});
