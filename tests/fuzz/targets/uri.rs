//! A target has a normal form or none; a normal form is clean, and its own normal form once it is escaped again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::wire::uri::{self, CleanPath, Escape, Shape};
use weir::wire::{Span, list};

fuzz_target!(|input: (bool, &[u8])| {
    let (merge_slashes, bytes) = input;
    if let Ok(address) = uri::untrusted(bytes) {
        CleanPath::new(Bytes::copy_from_slice(&address.path)).expect("a safe address is clean");
    }
    let _ = (uri::unescape(bytes), uri::unescape_redirect(bytes), uri::escape_html(bytes), uri::extension(bytes));
    assert_eq!(uri::unescape(&uri::escape(Escape::UriComponent, bytes)), bytes);

    let Some(once) = normal(bytes, merge_slashes) else {
        return;
    };
    let _ = list::argument(&once.args, b"a");
    let again = normal(&uri::escape(Escape::Uri, &once.path), merge_slashes).expect("a normal form");
    assert_eq!((again.path.bytes(), again.args.len()), (once.path.bytes(), 0));
});

fn normal(bytes: &[u8], merge_slashes: bool) -> Option<uri::Uri> {
    let target = Span { start: 0, end: bytes.len() as u32 };
    let shape = Shape::of(bytes, target).ok()?;
    let normal = uri::normalise(bytes, target, &shape, merge_slashes).ok()?;
    Some(normal.freeze(&Bytes::copy_from_slice(bytes)).expect("a normal path is clean"))
}
