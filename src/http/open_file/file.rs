//! An open file, and what of it is in memory.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags};

/// An open file. Dereferences to what the standard library calls one.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// `directio`: reads go past the page cache, in blocks of this size at multiples of it.
    block: Option<usize>,
    /// The file system cannot say whether a read would have to wait.
    vague: AtomicBool,
    device: u64,
    shelf: Shelf,
    etag: OnceLock<Bytes>,
    /// The cache knows better by now.
    outdated: AtomicBool,
}

/// What is kept of a small file that stays open in the cache: its bytes, from its second use on. Then an answer needs no
/// system call but its own, and for as long as `open_file_cache_valid` takes size and date on trust, the bytes are of
/// one piece with them.
#[derive(Debug, Default)]
struct Shelf {
    /// The size of a file that may be kept; 0 is none.
    size: usize,
    used: AtomicBool,
    bytes: OnceLock<Bytes>,
}

/// The device whose file system was the last that could not say whether a read would have to wait: its other files need not
/// be asked. There is hardly ever a second one (tmpfs cannot).
static VAGUE: AtomicU64 = AtomicU64::new(u64::MAX);

/// The largest file that is kept in memory; it is also the largest that is read rather than sent by sendfile.
pub const SMALL: u64 = 32 * 1024;
/// All that is kept of small files, over all caches.
const SHELVES: usize = 64 * 1024 * 1024;
/// Bytes kept at this time.
static KEPT: AtomicUsize = AtomicUsize::new(0);

impl Drop for Shelf {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.get() {
            KEPT.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Shelf {
    /// Keeps these bytes if they are the whole file and there is room.
    fn keep(&self, bytes: &Bytes) {
        if self.size == 0 || bytes.len() != self.size || !self.used.swap(true, Ordering::Relaxed) {
            return;
        }
        if KEPT.fetch_add(self.size, Ordering::Relaxed) + self.size > SHELVES || self.bytes.set(bytes.clone()).is_err()
        {
            KEPT.fetch_sub(self.size, Ordering::Relaxed);
        }
    }
}

impl From<File> for OpenFile {
    fn from(file: File) -> Self {
        Self {
            file,
            block: None,
            vague: AtomicBool::new(false),
            device: u64::MAX,
            shelf: Shelf::default(),
            etag: OnceLock::new(),
            outdated: AtomicBool::new(false),
        }
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl OpenFile {
    /// A file of that device.
    pub(super) fn on(file: File, device: u64) -> Self {
        let vague = AtomicBool::new(VAGUE.load(Ordering::Relaxed) == device);
        Self { device, vague, ..Self::from(file) }
    }

    /// `directio`, in blocks of that size. Some file systems have no such thing: then the page cache serves as well.
    pub(super) fn pass_by_page_cache(&mut self, block: usize) {
        let direct = fcntl_getfl(&self.file).and_then(|flags| fcntl_setfl(&self.file, flags | OFlags::DIRECT));
        if direct.is_ok() {
            self.block = Some(block);
        }
    }

    /// It stays open, and so, if it is small, its bytes may stay too.
    pub(super) fn may_be_kept(&mut self, size: u64) {
        if size <= SMALL {
            self.shelf.size = size as usize;
        }
    }

    /// Whoever has it by heart asks the cache again.
    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    /// The file's entity tag, made at its first use: what is the same file to the cache has the same tag.
    pub fn etag(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        self.etag.get_or_init(make).clone()
    }

    /// Whether reads go past the page cache: then there is nothing for sendfile to send.
    pub fn is_direct(&self) -> bool {
        self.block.is_some()
    }

    /// At most `len` bytes from `offset`, from the disk if need be. Empty is the end of the file.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if let Some(bytes) = self.kept_bytes(offset, len) {
            return Ok(bytes);
        }
        let Some(block) = self.block else {
            let mut buffer = vec![0; len];
            let got = self.file.read_at(&mut buffer, offset)?;
            buffer.truncate(got);
            let bytes = Bytes::from(buffer);
            self.shelf.keep(&bytes);
            return Ok(bytes);
        };
        self.read_blocks(offset, len, block)
    }

    /// As [`OpenFile::read`], if that needs no waiting: `None` when the disk must be asked.
    pub fn read_ready(&self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        if let Some(bytes) = self.kept_bytes(offset, len) {
            return Ok(Some(bytes));
        }
        if self.is_direct() {
            return Ok(None);
        }
        if self.vague.load(Ordering::Relaxed) {
            return self.read(offset, len).map(Some);
        }
        let mut buffer = vec![0; len];
        match self.read_nowait(offset, &mut buffer)? {
            Nowait::Read(got) => {
                buffer.truncate(got);
                let bytes = Bytes::from(buffer);
                self.shelf.keep(&bytes);
                Ok(Some(bytes))
            }
            Nowait::Cold => Ok(None),
            Nowait::Vague => self.read(offset, len).map(Some),
        }
    }

    /// Whether the byte at `offset` is in memory. A file system that cannot say is believed to have it.
    pub fn is_ready(&self, offset: u64) -> bool {
        !self.vague.load(Ordering::Relaxed) && !matches!(self.read_nowait(offset, &mut [0]), Ok(Nowait::Cold))
    }

    fn read_nowait(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Nowait> {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(got) => Ok(Nowait::Read(got)),
            Err(Errno::AGAIN) => Ok(Nowait::Cold),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.vague.store(true, Ordering::Relaxed);
                VAGUE.store(self.device, Ordering::Relaxed);
                Ok(Nowait::Vague)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The whole file, where the cache keeps it.
    pub fn kept(&self) -> Option<&[u8]> {
        self.shelf.bytes.get().map(AsRef::as_ref)
    }

    fn kept_bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let bytes = self.shelf.bytes.get()?;
        let start = usize::try_from(offset).ok()?.min(bytes.len());
        Some(bytes.slice(start..start.saturating_add(len).min(bytes.len())))
    }

    /// Reads whole blocks into memory that is aligned like them, and gives the part that was asked for.
    fn read_blocks(&self, offset: u64, len: usize, block: usize) -> io::Result<Bytes> {
        let before = (offset % block as u64) as usize; // less than a block
        let wanted = before.saturating_add(len).next_multiple_of(block);
        let mut buffer = vec![0; wanted.saturating_add(block)];
        let start = buffer.as_ptr().align_offset(block);
        let got = match buffer.get_mut(start..start.saturating_add(wanted)) {
            Some(aligned) => self.file.read_at(aligned, offset - before as u64)?,
            None => 0,
        };
        let end = got.min(before.saturating_add(len));
        Ok(Bytes::from(buffer).slice(start + before.min(end)..start + end))
    }
}

/// What a read that does not wait came to.
enum Nowait {
    Read(usize),
    Cold,
    Vague,
}
