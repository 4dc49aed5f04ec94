//! A cache file that was found: read, and believed as far as it agrees with itself.
//!
//! In: the beginning of a file, what the file system says of it, and the key that it should be of. Out: its header, the
//! upstream's head, and the body of a file that came whole; or why it is of no use. Who opens the file, and reads it, does so
//! as files are opened and read where it is to be served. nginx: `ngx_http_file_cache_read`.

use std::any::Any;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::meta::{self, Meta, Unusable};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Stored {
    pub meta: Meta,
    /// The key's text.
    pub text: Bytes,
    /// The upstream's head, in its protocol.
    pub head: Bytes,
    /// `None`: it is in the file, from `body_start` on.
    pub body: Option<Bytes>,
    /// Bytes of the whole file.
    pub len: u64,
    stamp: Stamp,
    reading: Reading,
}

/// What whoever understands the head has made of it: it is read once for all who are served with it.
#[derive(Clone, Debug, Default)]
struct Reading(OnceLock<Arc<dyn Any + Send + Sync>>);

/// What tells one state of a file from another: device, inode, size, and when it was written to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub id: (u64, u64),
    pub len: u64,
    /// Seconds, and nanoseconds of a second.
    pub written: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Why there is none.
#[derive(Debug)]
pub enum Unread {
    /// There is no such file.
    Missing,
    Unusable(Unusable),
    Failed(&'static str, io::Error),
}

/// A file of this size is read at once, and its body is at hand in memory.
pub const SMALL: u64 = 32 * 1024;

impl Stored {
    /// How much is to be read of a file of `len` bytes. `limit` is what header and head may take.
    pub fn appetite(len: u64, limit: usize) -> usize {
        let limit = if len <= SMALL { SMALL } else { limit as u64 };
        limit.min(len) as usize // what was a `usize` or little
    }

    /// Understands `bytes`, with which a file begins that has `len` bytes so far.
    pub fn read(bytes: Bytes, stamp: Stamp, len: u64, key: &Bytes) -> Result<Self, Unusable> {
        let mut meta = Meta::decode(&bytes, key)?;
        let (from, to) = (usize::from(meta.header_start), usize::from(meta.body_start));
        let Some(head) = bytes.get(from..to) else { return Err(Unusable::Broken) };
        let mut head = bytes.slice(from..from + meta::head_len(head));
        let body = (bytes.len() as u64 == len).then(|| bytes.slice(to..));
        if body.is_none() && to < bytes.len() {
            // these may be kept, and with them all of the memory that they are in
            for kept in [&mut head, &mut meta.etag, &mut meta.vary] {
                *kept = Bytes::copy_from_slice(kept);
            }
        }
        Ok(Self { meta, text: key.clone(), head, body, len, stamp, reading: Reading::default() })
    }

    /// Reads an open file, of which `len` bytes are written so far.
    pub fn growing(file: &File, len: u64, key: &Bytes, limit: usize) -> Result<Self, Unread> {
        let metadata = file.metadata().map_err(|error| Unread::Failed("fstat()", error))?;
        let mut bytes = vec![0; limit.min(usize::try_from(len).unwrap_or(usize::MAX))];
        let got = file.read_at(&mut bytes, 0).map_err(|error| Unread::Failed("pread()", error))?;
        bytes.truncate(got);
        let stored = Self::read(bytes.into(), Stamp::of(&metadata), len, key).map_err(Unread::Unusable)?;
        Ok(Self { body: None, ..stored })
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> u64 {
        self.len.saturating_sub(u64::from(self.meta.body_start))
    }

    /// What of it is in memory, with a second copy of the head for who understands it.
    pub fn bytes_in_memory(&self) -> usize {
        meta::FIXED + self.text.len() + 2 * self.head.len() + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// What [`Stored::set_reading`] was told.
    pub fn reading<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.reading.0.get()?.clone().downcast().ok()
    }

    /// Remembers what was made of the head; the first one stays.
    pub fn set_reading(&self, reading: Arc<dyn Any + Send + Sync>) {
        self.reading.0.get_or_init(|| reading);
    }

    /// The same with another head.
    pub fn with_head(&self, head: Bytes) -> Self {
        Self { head, reading: Reading::default(), ..self.clone() }
    }

    pub fn is_in_memory(&self) -> bool {
        self.body.is_some()
    }

    /// The file of that name is still the one that was read.
    pub fn is_current(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|metadata| self.is_of(Stamp::of(&metadata)))
    }

    pub fn is_of(&self, stamp: Stamp) -> bool {
        self.stamp == stamp
    }

    /// The upstream says that the body is still good: writes a new header, unless another file has the name by now.
    pub fn renew(&self, path: &Path, meta: &Meta) -> Result<(), (&'static str, io::Error)> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(("open()", error)),
        };
        let now = file.metadata().map_err(|error| ("fstat()", error))?;
        if (now.dev(), now.ino()) != self.stamp.id || now.len() != self.len {
            return Ok(());
        }
        let mut header = Vec::new();
        let meta = Meta { header_start: self.meta.header_start, body_start: self.meta.body_start, ..meta.clone() };
        if meta.encode(&mut header, &self.text).is_err() {
            return Ok(());
        }
        header.truncate(meta::FIXED);
        file.write_all_at(&header, 0).map_err(|error| ("pwrite()", error))
    }
}

/// Whether the answer in a file is one of several variants. `false` also where there is none.
pub fn varies(path: &Path) -> bool {
    kept_under(path).is_some_and(|(meta, _)| !meta.vary.is_empty())
}

/// The header of a file and what its key was made of. `None`: there is no such file, or it is of no use.
pub fn kept_under(path: &Path) -> Option<(Meta, Bytes)> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    // the second is as long as a header can be
    for limit in [4096, 1 << 16] {
        bytes.resize(limit, 0);
        let got = file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(got);
        match Meta::decode_any(&Bytes::copy_from_slice(&bytes)) {
            Ok(found) => return Some(found),
            Err(Unusable::LongHeader) if got == limit => {}
            Err(_) => return None,
        }
    }
    None
}
