//! A cache file that is being made: in memory while it is small, then a temporary file, and at the end its name.
//!
//! In: what stands before the body, and the body as it comes. Out: the file in its place and counted, by rename, so
//! that nobody sees half of it but those who know that it grows. Dropped before, it is deleted. A disk that refuses ends
//! the file, not the answer: whoever writes is told once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::index::Turn;
use super::key::Key;
use super::store::Store;
use crate::base::temp::{self, Refused, TempPath};

/// See the module's head.
#[derive(Debug)]
pub struct Filling {
    store: Arc<Store>,
    key: Key,
    /// `None` once the file is in its place.
    turn: Option<Turn>,
    /// Where it stands until it is whole; beside its place without.
    temporary: Option<Arc<TempPath>>,
    /// `None` while nothing is written.
    written: Option<Written>,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Bytes before the body.
    start: u64,
    /// Whoever waits may have what is there already: that the body ends too early would not go unnoticed.
    open: bool,
    /// What it is kept under.
    name: Name,
}

/// What is on the disk already.
#[derive(Debug)]
struct Written {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
}

/// What a file is kept under, whichever variant it is.
#[derive(Clone, Debug)]
pub struct Name {
    pub main: Key,
    pub text: Bytes,
}

/// So much is written at once.
const BUFFER: usize = 64 * 1024;

impl Filling {
    /// Begins a file with `front`, which stands before the body. `temporary`: where it stands until it is
    /// whole; beside its place without. `open`: the body tells itself where it ends, so others may have what there is.
    pub fn begin(
        store: &Arc<Store>,
        (key, name): (Key, Name),
        turn: Turn,
        temporary: Option<&Arc<TempPath>>,
        front: Vec<u8>,
        open: bool,
    ) -> Self {
        Self {
            store: store.clone(),
            key,
            turn: Some(turn),
            temporary: temporary.cloned(),
            written: None,
            start: front.len() as u64,
            buffer: front,
            open,
            name,
        }
    }

    fn create(&self) -> Result<Written, Refused> {
        let (file, path) = match &self.temporary {
            Some(directory) => directory.create(),
            None => temp::create_beside(&self.place(), &self.store.lacking),
        }?;
        Ok(Written { file: Arc::new(file), path, len: 0 })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.buffer.extend_from_slice(bytes);
        let awaited = self.open && self.turn.as_ref().is_some_and(|turn| turn.is_alone() && turn.fill.is_awaited());
        if awaited || self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what waits, and tells those who wait. Out: the file, and how many bytes of it are written.
    pub fn flush(&mut self) -> Result<(&Arc<File>, u64), Refused> {
        let written = match self.written.take() {
            Some(written) => written,
            None => self.create()?,
        };
        let written = self.written.insert(written);
        if !self.buffer.is_empty() {
            let wrote = written.file.write_all_at(&self.buffer, written.len);
            wrote.map_err(|error| Refused { call: "pwrite", path: written.path.clone(), error })?;
            written.len += self.buffer.len() as u64;
            self.buffer.clear();
            if let Some(turn) = self.turn.as_ref().filter(|_| self.open) {
                turn.fill.grew(&written.file, written.len);
            }
        }
        Ok((&written.file, written.len))
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> u64 {
        let written = self.written.as_ref().map_or(0, |written| written.len);
        (written + self.buffer.len() as u64).saturating_sub(self.start)
    }

    /// The body is whole, and [`Filling::finish`] will follow at once.
    pub fn arrives(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.arrives();
        }
    }

    /// The body is whole: the file gets its name, unless what it would be kept under was purged after it was asked for.
    pub fn finish(mut self) -> Result<(), Refused> {
        self.flush()?;
        let Some(Written { file, path: temporary, len }) = &self.written else { return Ok(()) };
        if let Some(turn) = &self.turn
            && self.store.index.purges.has(self.name.main, &self.name.text, turn.fill.since, i64::MAX)
        {
            turn.fill.whole(file, *len);
            return Ok(());
        }
        let path = self.place();
        let put = temp::put(temporary, &path, 0o600, &self.store.lacking);
        put.map_err(|(call, error)| Refused { call, path, error })?;
        let size = self.store.size_on_disk((*len, 0));
        if let Some(turn) = self.turn.take() {
            turn.fill.whole(file, *len);
            turn.made(size);
        }
        self.store.bell.ring_if_full(&self.store);
        Ok(())
    }

    /// Where it goes.
    pub fn place(&self) -> PathBuf {
        self.store.file(self.key)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if let (Some(_), Some(written)) = (&self.turn, &self.written) {
            let _ = fs::remove_file(&written.path); // it may be gone already
        }
    }
}
