//! A request line, cut anywhere, has one verdict; its target has a normal form or none, and a clean path.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::wire::http1::message;
use weir::wire::http1::request::{LineParser, Preface};
use weir::wire::uri;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let _ = Preface::of(bytes);
    let whole = LineParser::new(0).parse(bytes);
    let mut parser = LineParser::new(0);
    let cut = usize::from(cut).min(bytes.len());
    let in_pieces = match parser.parse(&bytes[..cut]) {
        Ok(None) => parser.parse(bytes),
        early => early,
    };
    assert_eq!(whole, in_pieces);

    let Ok(Some(line)) = whole else { return };
    assert!(line.end as usize <= bytes.len());
    assert!(!line.method.is_empty() && !line.target.is_empty());
    if let Some(host) = line.host {
        let _ = message::host(host.of(bytes));
    }
    for merge_slashes in [true, false] {
        if let Ok(normal) = uri::normalise(bytes, line.target, &line.shape, merge_slashes) {
            let uri = normal.freeze(&Bytes::copy_from_slice(bytes)).expect("a normal path is clean");
            assert_eq!(uri.path.first(), Some(&b'/'));
            let _ = uri.extension();
        }
    }
});
