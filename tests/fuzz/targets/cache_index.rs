//! What an earlier run wrote down beside its cache files is read within its bounds; what is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::cache::{journal, snapshot};

/// With the checksum that belongs to it: random bytes seldom have it.
fn summed(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

fuzz_target!(|input: (&[u8], bool)| {
    let (bytes, whole) = input;
    let records: Vec<_> = journal::decode(bytes).collect();
    let mut again = Vec::new();
    records.iter().for_each(|record| record.encode(&mut again));
    assert_eq!(again, bytes[..again.len()]);
    // the same with a sum that is right
    let record = [&summed(bytes)[..], bytes].concat();
    let _ = journal::decode(&record).count();

    let mut index = bytes.to_vec();
    if whole {
        index = [&b"weir cache index 1\n"[..], bytes].concat();
        let sum = summed(&index);
        index.extend_from_slice(&sum);
    }
    if let Some(records) = snapshot::decode(&index) {
        let records: Vec<_> = records.collect();
        assert_eq!(records.len(), (index.len() - 23) / 36);
        let again = snapshot::encode(records.iter().copied());
        let read: Vec<_> = snapshot::decode(&again).expect("it was just made").collect();
        assert_eq!(read, records);
    }
});
