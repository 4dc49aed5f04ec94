//! A cache file that was found: read, and believed as far as it agrees with itself.
//!
//! In: a path, and the key that the file should be of. Out: its header, the upstream's head, and where the body is; or
//! why it is of no use. nginx: `ngx_http_file_cache_read`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::meta::{self, Meta, Unusable};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Stored {
    pub meta: Meta,
    /// The upstream's head, in its protocol.
    pub head: Bytes,
    pub file: Arc<File>,
    /// Bytes of the whole file.
    pub len: u64,
    /// Device and inode: another file may have taken its name since.
    pub id: (u64, u64),
    /// What it takes on the disk.
    pub metadata: std::fs::Metadata,
}

/// Why there is none.
#[derive(Debug)]
pub enum Unread {
    /// There is no such file.
    Missing,
    Unusable(Unusable),
    Failed(&'static str, io::Error),
}

impl Stored {
    /// Opens the file of a key. `limit` bytes are read at most, which is what head and header may take.
    pub fn open(path: &Path, key: &[u8], limit: usize) -> Result<Self, Unread> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                return Err(Unread::Missing);
            }
            Err(error) => return Err(Unread::Failed("open()", error)),
        };
        Self::read(Arc::new(file), None, key, limit)
    }

    /// Reads an open file, of which `len` bytes are written so far.
    pub fn read(file: Arc<File>, len: Option<u64>, key: &[u8], limit: usize) -> Result<Self, Unread> {
        let metadata = file.metadata().map_err(|error| Unread::Failed("fstat()", error))?;
        if !metadata.is_file() {
            return Err(Unread::Unusable(Unusable::Broken));
        }
        let mut bytes = vec![0; limit.min(usize::try_from(metadata.len()).unwrap_or(usize::MAX))];
        let got = file.read_at(&mut bytes, 0).map_err(|error| Unread::Failed("pread()", error))?;
        bytes.truncate(got);
        let bytes = Bytes::from(bytes);
        let meta = Meta::decode(&bytes, key).map_err(Unread::Unusable)?;
        let range = usize::from(meta.header_start)..usize::from(meta.body_start);
        if bytes.len() < range.end {
            return Err(Unread::Unusable(Unusable::Broken));
        }
        let head = bytes.slice(range);
        let id = (metadata.dev(), metadata.ino());
        Ok(Self { meta, head, len: len.unwrap_or(metadata.len()), file, id, metadata })
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> u64 {
        self.len.saturating_sub(u64::from(self.meta.body_start))
    }

    /// The upstream says that the body is still good: writes a new header, unless another file has the name by now.
    pub fn renew(&self, path: &Path, key: &[u8], meta: &Meta) -> Result<(), (&'static str, io::Error)> {
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(("open()", error)),
        };
        let now = file.metadata().map_err(|error| ("fstat()", error))?;
        if (now.dev(), now.ino()) != self.id || now.len() != self.len {
            return Ok(());
        }
        let mut header = Vec::new();
        if meta.encode(&mut header, key, self.head.len()).is_err() {
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
