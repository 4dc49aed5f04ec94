//! Purges on disk: what must not be served any more must not be served by the next run either, however this one ends.
//!
//! In: marks, as they are made. Out: a file in the cache's directory that has them, and at the next start what it says. The
//! rule: a purge is answered when its record is written; a record that is not whole was never answered, and whatever
//! stands behind it is not believed. A record counts until its mark goes ([`super::purge`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::key::Key;
use super::purge::What;
use super::store::say;
use crate::base::temp;
use crate::base::text::errno;
use crate::log::Level;

/// The file's name in the cache's directory.
pub const NAME: &str = "purges.weir";

/// Checksum of what follows it, length of the text, second, kind.
const HEAD: usize = 4 + 4 + 8 + 1;
/// No key's text is longer.
const LONGEST: usize = 1 << 16;
/// More is not read: all is purged then.
const LARGEST: u64 = 64 << 20;

const KEY: u8 = 0;
/// A key whose variants are to be looked for.
const KEY_WALK: u8 = 1;
const PREFIX: u8 = 2;
const PREFIX_WALK: u8 = 3;

/// One purge as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub what: Purged,
    /// When it was made.
    pub since: i64,
    /// The purger is to look for its files.
    pub walk: bool,
}

/// [`What`] was purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purged {
    Key(Key),
    Prefix(Vec<u8>),
}

impl From<What<'_>> for Purged {
    fn from(what: What<'_>) -> Self {
        match what {
            What::Key(key) => Self::Key(key),
            What::Prefix(prefix) => Self::Prefix(prefix.to_vec()),
        }
    }
}

/// Adds a record.
pub fn append(directory: &Path, record: &Record) {
    let path = directory.join(NAME);
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    complain(opened.and_then(|mut file| file.write_all(&bytes)), &path);
}

/// These are all that count from now on.
pub fn rewrite(directory: &Path, records: &[Record]) {
    let path = directory.join(NAME);
    if records.is_empty() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => complain(done, &path),
        }
        return;
    }
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.encode(&mut bytes));
    complain(temp::replace(&path, &bytes), &path);
}

fn complain(done: io::Result<()>, path: &Path) {
    if let Err(error) = done {
        say(Level::Crit, format_args!("a purge was not written to \"{}\" {}", path.display(), errno(&error)));
    }
}

/// What was written down by whoever ran before `now`.
pub fn read(directory: &Path, now: i64) -> Vec<Record> {
    let Ok(file) = File::open(directory.join(NAME)) else { return Vec::new() };
    let mut bytes = Vec::new();
    match file.take(LARGEST + 1).read_to_end(&mut bytes) {
        Ok(got) if got as u64 <= LARGEST => decode(&bytes).collect(),
        Ok(_) | Err(_) => vec![Record { what: Purged::Prefix(Vec::new()), since: now, walk: true }],
    }
}

/// The records of a file, up to the first that is not whole.
pub fn decode(mut bytes: &[u8]) -> impl Iterator<Item = Record> {
    std::iter::from_fn(move || {
        let (record, rest) = one(bytes)?;
        bytes = rest;
        Some(record)
    })
}

fn one(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (sum, rest) = bytes.split_first_chunk()?;
    let (len, _) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|&len| len <= LONGEST)?;
    let (summed, behind) = rest.split_at_checked(HEAD - 4 + len)?;
    if crc32fast::hash(summed) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (since, rest) = summed.get(4..)?.split_first_chunk()?;
    let (&kind, text) = rest.split_first()?;
    let what = match kind {
        KEY | KEY_WALK => Purged::Key(Key(text.try_into().ok()?)),
        PREFIX | PREFIX_WALK => Purged::Prefix(text.to_vec()),
        _ => return None,
    };
    let walk = matches!(kind, KEY_WALK | PREFIX_WALK);
    Some((Record { what, since: i64::from_le_bytes(*since), walk }, behind))
}

impl Record {
    /// Appends the record. A prefix that is too long for any key matches none, and is left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (text, kind) = match (&self.what, self.walk) {
            (Purged::Key(key), false) => (&key.0[..], KEY),
            (Purged::Key(key), true) => (&key.0[..], KEY_WALK),
            (Purged::Prefix(prefix), false) => (&prefix[..], PREFIX),
            (Purged::Prefix(prefix), true) => (&prefix[..], PREFIX_WALK),
        };
        let Some(len) = u32::try_from(text.len()).ok().filter(|_| text.len() <= LONGEST) else { return };
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.since.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(text);
        let sum = crc32fast::hash(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let key = Purged::Key(Key::of(b"/a"));
        let prefix = |text: &[u8]| Purged::Prefix(text.to_vec());
        vec![
            Record { what: key.clone(), since: 1, walk: false },
            Record { what: prefix(b"/b"), since: -1, walk: true },
            Record { what: prefix(b""), since: i64::MAX, walk: false },
            Record { what: key, since: 0, walk: true },
        ]
    }

    #[test]
    fn what_was_written_is_read_up_to_what_is_not_whole() {
        let mut whole = Vec::new();
        let ends: Vec<usize> = (records().iter())
            .map(|record| {
                record.encode(&mut whole);
                whole.len()
            })
            .collect();
        assert_eq!(decode(&whole).collect::<Vec<_>>(), records());
        for cut in 0..whole.len() {
            let before = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(decode(&whole[..cut]).count(), before, "cut at {cut}");
            let mut changed = whole.clone();
            changed[cut] ^= 1;
            assert_eq!(decode(&changed).collect::<Vec<_>>(), records()[..before], "changed at {cut}");
        }
    }

    #[test]
    fn records_outlive_who_wrote_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert_eq!(read(path, 0), []);
        for record in records() {
            append(path, &record);
        }
        assert_eq!(read(path, 0), records());
        rewrite(path, &records()[2..]);
        assert_eq!(read(path, 0), records()[2..]);
        rewrite(path, &[]);
        assert!(!path.join(NAME).exists());
        rewrite(path, &[]);
        std::fs::write(path.join(NAME), vec![0; 100]).expect("written");
        assert_eq!(read(path, 0), []);
    }
}
