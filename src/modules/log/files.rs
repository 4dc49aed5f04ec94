//! Logs whose path has variables: opened when a line comes, and kept open as `open_log_file_cache` says.
//!
//! The worker opens them, with its own rights. A file that was moved away goes on being written until `valid` has
//! passed; then the name is looked at again.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::base::text::errno;
use crate::base::{clock, units};
use crate::conf::error::Fault;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::open_file::Kind;
use crate::http::request::Request;
use crate::http::root::file_path;
use crate::log::sink::open;
use crate::log::{Level, Raw, Sink, Sinks};

/// The open log files of the locations that share one `open_log_file_cache`.
pub(super) struct Files {
    sinks: Sinks,
    cache: Option<Kept>,
}

struct Kept {
    valid: Duration,
    min_uses: u64,
    files: Cache<PathBuf, Arc<Mutex<File>>>,
}

#[derive(Default)]
struct File {
    uses: u64,
    open: Option<Open>,
}

struct Open {
    sink: Arc<Sink>,
    /// Device and inode: whether the name still means this file.
    identity: (u64, u64),
    checked: Instant,
}

impl Files {
    /// Every line opens its file anew.
    pub(super) fn uncached(sinks: &Sinks) -> Self {
        Self { sinks: sinks.clone(), cache: None }
    }

    /// Reads an `open_log_file_cache` directive; `None` is `off`.
    pub(super) fn read(words: &Words<'_>) -> Result<Option<Self>, Fault> {
        let (mut max, mut inactive, mut valid, mut min_uses, mut off) = (0, 10, 60, 1, false);
        for (n, word) in words.texts().enumerate() {
            let read = match word.split_once('=') {
                Some(("max", number)) => units::number(number).map(|number| max = number),
                Some(("inactive", time)) => units::seconds(time).map(|time| inactive = time),
                Some(("min_uses", number)) => units::number(number).map(|number| min_uses = number),
                Some(("valid", time)) => units::seconds(time).map(|time| valid = time),
                None if word == "off" => {
                    off = true;
                    Some(())
                }
                Some(_) | None => None,
            };
            read.ok_or_else(|| words.fault(n, format!("invalid \"open_log_file_cache\" parameter \"{word}\"")))?;
        }
        if off {
            return Ok(None);
        }
        if max == 0 {
            return Err(words.fault(0, "\"open_log_file_cache\" must have \"max\" parameter"));
        }
        let idle = Duration::from_secs(inactive.min(LONGEST));
        let files = Cache::builder().max_capacity(max).time_to_idle(idle).build();
        let cache = Kept { valid: Duration::from_secs(valid), min_uses, files };
        Ok(Some(Self { sinks: words.cx.sinks.clone(), cache: Some(cache) }))
    }

    /// The file that `path` means for this request. `None`: the line is not written, and the error log says why.
    pub(super) fn sink(&self, request: &Request, path: &Template) -> Option<Arc<Sink>> {
        // nginx: whoever makes up hosts does not make files, so the site must exist.
        let root = file_path(request, b"");
        let missing = match request.plan().files.test(request, &root) {
            Ok(stat) if stat.kind == Kind::Directory => None,
            Ok(_) => Some(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Err(unopened) => Some(unopened.error()),
        };
        if let Some(error) = missing {
            let (root, errno) = (Raw(&root), errno(&error));
            request
                .log(Level::Error, format_args!("testing \"{root}\" existence failed {errno} while logging request"));
            return None;
        }
        let path = PathBuf::from(OsString::from_vec(path.eval(request).into()));
        match self.open(&path) {
            Ok(sink) => Some(sink),
            Err(error) => {
                let path = path.as_os_str().as_bytes();
                request.log(
                    Level::Crit,
                    format_args!("open() \"{}\" failed {} while logging request", Raw(path), errno(&error)),
                );
                None
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<Sink>> {
        let Some(cache) = &self.cache else {
            return Ok(self.sinks.opened(path, create(path)?));
        };
        let file = cache.files.get_with_by_ref(path, Arc::default);
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.uses += 1;
        let now = clock::now();
        if let Some(open) = &mut file.open {
            let fresh = now.saturating_duration_since(open.checked) < cache.valid;
            if fresh || std::fs::metadata(path).is_ok_and(|meta| identity(&meta) == open.identity) {
                if !fresh {
                    open.checked = now;
                }
                return Ok(open.sink.clone());
            }
        }
        file.open = None;
        let created = std::fs::File::from(create(path)?);
        let identity = identity(&created.metadata()?);
        let sink = self.sinks.opened(path, created.into());
        if file.uses >= cache.min_uses {
            file.open = Some(Open { sink: sink.clone(), identity, checked: now });
        }
        Ok(sink)
    }
}

/// A hundred years: the cache refuses to be told a thousand.
const LONGEST: u64 = 100 * 365 * 86_400;

fn create(path: &Path) -> io::Result<OwnedFd> {
    open(path).map_err(|error| io::Error::from_raw_os_error(error.errno))
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sinks: &Sinks, valid: u64, min_uses: u64) -> Files {
        let cache = Kept { valid: Duration::from_secs(valid), min_uses, files: Cache::new(10) };
        Files { sinks: sinks.clone(), cache: Some(cache) }
    }

    #[test]
    fn files_stay_open_once_they_are_used_often_enough() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.log");
        let sinks = Sinks::new();
        let often = files(&sinks, 60, 2);
        let first = often.open(&path).expect("opens");
        let second = often.open(&path).expect("opens");
        let third = often.open(&path).expect("opens");
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &third));
        for sink in [first, third] {
            sink.write(b"line\n");
        }
        assert!(sinks.flush(Duration::from_secs(9)));
        assert_eq!(std::fs::read(&path).expect("written"), b"line\nline\n");
    }

    #[test]
    fn a_file_that_was_moved_is_noticed_when_its_time_is_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("access.log");
        let sinks = Sinks::new();
        for (valid, same) in [(60, true), (0, false)] {
            let files = files(&sinks, valid, 1);
            let before = files.open(&path).expect("opens");
            std::fs::rename(&path, directory.path().join("access.log.1")).expect("moves");
            let after = files.open(&path).expect("opens");
            assert_eq!(Arc::ptr_eq(&before, &after), same, "valid={valid}");
            let again = files.open(&path).expect("opens");
            assert!(Arc::ptr_eq(&after, &again), "valid={valid}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let missing = Files::uncached(&Sinks::new()).open(Path::new("/nonexistent/access.log"));
        assert_eq!(missing.err().and_then(|error| error.raw_os_error()), Some(libc::ENOENT));
    }
}
