//! A cache file that is being made: a temporary file, and at the end its name.
//!
//! In: what stands before the body, and the body as it comes. Out: the file in its place and counted, by rename, so
//! that nobody sees half of it but those who know that it grows. Dropped before, it is deleted. A disk that refuses ends
//! the file, not the answer: whoever writes is told once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::index::Turn;
use super::key::Key;
use super::store::Store;
use crate::base::temp::{self, TempPath};

/// See the module's head.
#[derive(Debug)]
pub struct Filling {
    store: Arc<Store>,
    key: Key,
    /// `None` once the file is in its place.
    turn: Option<Turn>,
    file: Arc<File>,
    temp: PathBuf,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Bytes in the file.
    len: u64,
    /// Bytes before the body.
    start: u64,
    /// Whoever waits may have what is there already: that the body ends too early would not go unnoticed.
    open: bool,
    /// What it is kept under.
    name: Name,
}

/// What a file is kept under, whichever variant it is.
#[derive(Clone, Debug)]
pub struct Name {
    pub main: Key,
    pub text: Bytes,
}

/// So much is written at once.
const BUFFER: usize = 64 * 1024;

/// What the disk refused.
#[derive(Debug)]
pub struct Refused {
    /// `pwrite`: its name alone.
    pub call: &'static str,
    pub path: PathBuf,
    pub error: io::Error,
}

impl Filling {
    /// Begins a file with `front`, which stands before the body. `temporary`: where it stands until it is
    /// whole; beside its place without. `open`: the body tells itself where it ends, so others may have what there is.
    pub fn begin(
        store: &Arc<Store>,
        (key, name): (Key, Name),
        turn: Turn,
        temporary: Option<&TempPath>,
        front: Vec<u8>,
        open: bool,
    ) -> Result<Self, Refused> {
        let created = match temporary {
            Some(directory) => directory.create().map_err(|error| (directory.path.clone(), error)),
            None => {
                let path = store.file(key);
                temp::create_beside(&path, &store.lacking).map_err(|error| (path, error))
            }
        };
        let (file, temp) = created.map_err(|(path, error)| Refused { call: "open", path, error })?;
        let start = front.len() as u64;
        Ok(Self {
            store: store.clone(),
            key,
            turn: Some(turn),
            file: Arc::new(file),
            temp,
            buffer: front,
            len: 0,
            start,
            open,
            name,
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.buffer.extend_from_slice(bytes);
        let awaited = self.open && self.turn.as_ref().is_some_and(|turn| turn.is_alone() && turn.fill.is_awaited());
        if awaited || self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what waits, and tells those who wait.
    pub fn flush(&mut self) -> Result<(), Refused> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let wrote = self.file.write_all_at(&self.buffer, self.len);
        wrote.map_err(|error| Refused { call: "pwrite", path: self.temp.clone(), error })?;
        self.len += self.buffer.len() as u64;
        self.buffer.clear();
        if let Some(turn) = self.turn.as_ref().filter(|_| self.open) {
            turn.fill.grew(&self.file, self.len);
        }
        Ok(())
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> u64 {
        (self.len + self.buffer.len() as u64).saturating_sub(self.start)
    }

    /// The body is whole: the file gets its name, unless what it would be kept under was purged after it was asked for.
    pub fn finish(mut self) -> Result<(), Refused> {
        self.flush()?;
        if let Some(turn) = &self.turn
            && self.store.index.purges.has(self.name.main, &self.name.text, turn.fill.since, i64::MAX)
        {
            turn.fill.whole(&self.file, self.len);
            return Ok(());
        }
        let path = self.store.file(self.key);
        let put = temp::put(&self.temp, &path, 0o600, &self.store.lacking);
        put.map_err(|(call, error)| Refused { call, path: path.clone(), error })?;
        let size = self.store.size_on_disk((self.len, 0));
        if let Some(turn) = self.turn.take() {
            turn.fill.whole(&self.file, self.len);
            turn.made(size);
        }
        self.store.bell.ring_if_full(&self.store);
        Ok(())
    }

    /// The file, and how many bytes of it are written.
    pub fn so_far(&self) -> (&File, u64) {
        (&self.file, self.len)
    }

    pub fn temporary(&self) -> &Path {
        &self.temp
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.turn.is_some() {
            let _ = fs::remove_file(&self.temp); // it may be gone already
        }
    }
}
