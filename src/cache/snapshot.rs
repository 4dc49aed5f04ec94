//! The index on disk between two runs: last use and use counts, which the files do not tell.
//!
//! In: a store whose process ends. Out: a file in its directory, and at the next start what it says. The rule: it is taken
//! once, for it is deleted when it is read; a file that is short, changed or of another form says nothing; and what it says is
//! only believed until the loader has looked at the files themselves.

use std::fs;

use super::index::Record;
use super::key::Key;
use super::store::{Store, say};
use crate::base::temp;
use crate::base::text::errno;
use crate::log::Level;

/// The file's name in the cache's directory.
pub const NAME: &str = "index.weir";

const MAGIC: &[u8] = b"weir cache index 1\n";

/// Key, size, expiry, uses.
const RECORD: usize = Key::LEN + 8 + 8 + 4;

/// Writes down what the index knows.
pub fn save(store: &Store) {
    let path = store.path.join(NAME);
    let saved = temp::replace(&path, &encode(store.index.records()));
    if let Err(error) = saved {
        say(Level::Warn, format_args!("the cache's index was not saved to \"{}\" {}", path.display(), errno(&error)));
    }
}

/// Takes what was written down.
pub fn restore(store: &Store) {
    let path = store.path.join(NAME);
    let Ok(bytes) = fs::read(&path) else { return };
    // Whatever happens from now on is not in it.
    if fs::remove_file(&path).is_err() {
        return;
    }
    for record in decode(&bytes).into_iter().flatten() {
        store.index.restore(record);
    }
}

/// The file that says so.
pub fn encode(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let records = records.into_iter();
    let mut bytes = Vec::with_capacity(MAGIC.len() + records.size_hint().0 * RECORD + 4);
    bytes.extend_from_slice(MAGIC);
    for Record { key, size, expire, uses } in records {
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&expire.to_le_bytes());
        bytes.extend_from_slice(&uses.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// What a file says. `None`: it is not whole, or not ours.
pub fn decode(bytes: &[u8]) -> Option<impl Iterator<Item = Record>> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (records, rest) = bytes.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    rest.is_empty().then(|| records.iter().filter_map(one))
}

/// One record, which is never too short.
fn one(record: &[u8; RECORD]) -> Option<Record> {
    let (key, rest) = record.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (expire, rest) = rest.split_first_chunk()?;
    Some(Record {
        key: Key(*key),
        // A sum of sizes stays in bounds: no file is larger than a disk.
        size: u64::from_le_bytes(*size).min(1 << 40),
        expire: i64::from_le_bytes(*expire),
        uses: u32::from_le_bytes(*rest.first_chunk()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let records: Vec<Record> = (0..3)
            .map(|n| Record { key: Key([n; Key::LEN]), size: 4096 * u64::from(n), expire: i64::from(n), uses: 7 })
            .collect();
        let whole = encode(records.iter().copied());
        let read = |bytes: &[u8]| decode(bytes).map(Iterator::collect);
        assert_eq!(read(&whole), Some(records));
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None::<Vec<Record>>, "cut at {cut}");
            let mut changed = whole.clone();
            changed[cut] ^= 1;
            assert_eq!(read(&changed), None, "changed at {cut}");
        }
    }
}
