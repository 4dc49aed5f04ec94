//! A block of fields reads the same however it is cut, stays within its limits, and spoils no table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::http2::hpack::{Bad, Block, Decoder, Limits};

const LIMITS: Limits = Limits { text: 1024, total: 4096 };

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(size).max(1)));
    if let Ok(fields) = whole {
        assert!(fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= LIMITS.total);
    }
});

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn read(bytes: &[u8], size: usize) -> Result<Fields, Bad> {
    let (mut decoder, mut block) = (Decoder::default(), Block::new(LIMITS));
    let mut rest = Vec::new();
    for piece in bytes.chunks(size) {
        rest.extend_from_slice(piece);
        let used = decoder.read(&rest, &mut block)?;
        rest.drain(..used);
    }
    let fields = block.finish();
    Ok(fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
}
