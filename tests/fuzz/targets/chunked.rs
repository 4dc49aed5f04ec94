//! A chunked body decodes to the same bytes however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::http1::chunked::{BadChunk, Chunk, Decoder, Trailers};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, leave, bytes) = input;
    let trailers = if leave { Trailers::Leave } else { Trailers::Skip };
    let size = usize::from(size).max(1);
    assert_eq!(decode(bytes, bytes.len().max(1), trailers), decode(bytes, size, trailers));
});

fn decode(bytes: &[u8], size: usize, trailers: Trailers) -> (Vec<u8>, Result<Option<usize>, BadChunk>) {
    let mut decoder = Decoder::new(trailers);
    let mut body = Vec::new();
    for (at, piece) in bytes.chunks(size).enumerate() {
        let mut from = 0;
        loop {
            match decoder.next(piece, from) {
                Err(bad) => return (body, Err(bad)),
                Ok(Chunk::More) => break,
                Ok(Chunk::End(end)) => return (body, Ok(Some(at * size + end as usize))),
                Ok(Chunk::Data { data, rest }) => {
                    assert!(!data.is_empty() && rest < i64::MAX as u64);
                    body.extend_from_slice(data.of(piece));
                    from = data.end as usize;
                }
            }
        }
        assert!(decoder.expected() > 0);
    }
    (body, Ok(None))
}
