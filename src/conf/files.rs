//! Files that directives name and that only the master may read: keys, certificates, passwords.
//!
//! In: a path. Out: the bytes, as they were when they were first asked for. The master reads and remembers them, and the
//! worker, which has given its rights up, loads the same configuration out of what the master remembers. None of it
//! is shown by `-T`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The size of one file: bundles of certificates have some hundred kilobytes, lists of revoked ones some megabytes.
const MAX_FILE: u64 = 64 << 20;

/// See the module's head. Clones are the same.
#[derive(Clone, Default)]
pub struct Files(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    disk: bool,
    known: HashMap<PathBuf, Outcome>,
    order: Vec<PathBuf>,
}

/// The bytes, or the number of the error.
pub type Outcome = Result<Arc<[u8]>, i32>;

impl Files {
    /// Reads from the file system.
    pub fn disk() -> Self {
        Self(Rc::new(RefCell::new(Inner { disk: true, ..Inner::default() })))
    }

    /// What is in the file at `path`.
    pub fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        let inner = &mut *self.0.borrow_mut();
        let known = match inner.known.get(path) {
            Some(known) => known.clone(),
            None if !inner.disk => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let read = from_disk(path).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                inner.remember(path.to_owned(), read.clone());
                read
            }
        };
        known.map_err(io::Error::from_raw_os_error)
    }

    /// Gives bytes to be read in place of the file at `path`, or the error to be met there.
    pub fn add(&self, path: PathBuf, read: Result<&[u8], i32>) {
        self.0.borrow_mut().remember(path, read.map(Arc::from));
    }

    /// All that was asked for, in that order.
    pub fn all(&self) -> Vec<(PathBuf, Outcome)> {
        let inner = self.0.borrow();
        inner.order.iter().filter_map(|path| Some((path.clone(), inner.known.get(path)?.clone()))).collect()
    }
}

impl Inner {
    fn remember(&mut self, path: PathBuf, read: Outcome) {
        self.order.push(path.clone());
        self.known.insert(path, read);
    }
}

fn from_disk(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut raw = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 > MAX_FILE {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_remembered() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let (there, gone) = (directory.path().join("key"), directory.path().join("none"));
        std::fs::write(&there, b"secret").expect("the directory is ours");
        let files = Files::disk();
        assert_eq!(&*files.read(&there).expect("it is there"), b"secret");
        assert_eq!(files.read(&gone).expect_err("it is not").raw_os_error(), Some(libc::ENOENT));
        std::fs::remove_file(&there).expect("it is there");
        assert_eq!(&*files.read(&there).expect("it was there"), b"secret");
        let other = Files::default();
        for (path, read) in files.all() {
            other.add(path, read.as_deref().map_err(|&number| number));
        }
        assert_eq!(&*other.read(&there).expect("handed over"), b"secret");
        assert_eq!(other.read(&gone).expect_err("handed over too").raw_os_error(), Some(libc::ENOENT));
        assert!(other.read(directory.path()).is_err(), "nothing is read that was not handed over");
    }
}
