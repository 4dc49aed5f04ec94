//! Records of an answer tell the same however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::fastcgi::{BadRecord, Record, RecordReader, trim_stderr};

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let size = usize::from(size).max(1);
    assert_eq!(read(bytes, bytes.len().max(1)), read(bytes, size));
});

fn read(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<u8>, Result<Option<usize>, BadRecord>) {
    let mut reader = RecordReader::new();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for (at, piece) in bytes.chunks(size).enumerate() {
        let mut from = 0;
        loop {
            match reader.next(piece, from) {
                Err(bad) => return (stdout, stderr, Err(bad)),
                Ok(Record::More) => break,
                Ok(Record::End(end)) => return (stdout, stderr, Ok(Some(at * size + end as usize))),
                Ok(Record::StdoutEnd(end)) => from = end as usize,
                Ok(Record::Stdout(span)) => {
                    stdout.extend_from_slice(span.of(piece));
                    from = span.end as usize;
                }
                Ok(Record::Stderr(span)) => {
                    let _ = trim_stderr(span.of(piece));
                    stderr.extend_from_slice(span.of(piece));
                    from = span.end as usize;
                }
            }
        }
    }
    (stdout, stderr, Ok(None))
}
