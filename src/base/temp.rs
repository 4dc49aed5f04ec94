//! Temporary files: numbered names below a directory with levels, as nginx names them.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::release;
use super::text::errno;

/// A directory for temporary files and how many digits of their number name each level below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TempPath {
    pub path: PathBuf,
    pub levels: Vec<usize>,
}

/// What the disk refused. Shown, it is what nginx logs: `open() "/tmp/0000000001" failed (13: Permission denied)`.
#[derive(Debug)]
pub struct Refused {
    /// `pwrite`: its name alone.
    pub call: &'static str,
    pub path: PathBuf,
    pub error: io::Error,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, path, error } = self;
        write!(f, "{call}() \"{}\" failed {}", path.display(), errno(error))
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl TempPath {
    /// The directory `name` of a server with this prefix, without levels: nginx's defaults.
    pub fn below(prefix: &Path, name: &str) -> Self {
        Self { path: release::temporary(prefix).join(name), levels: Vec::new() }
    }

    /// Creates a file that nobody else has. Level directories are made when they are missing.
    pub fn create(&self) -> Result<(File, PathBuf), Refused> {
        create(
            |number| self.name(&number),
            |path| DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(&self.path)),
        )
    }

    /// `…/7/65/0000034567` for levels 1 and 2: each takes its digits from the end, the last first.
    fn name(&self, number: &str) -> PathBuf {
        let mut path = self.path.clone();
        let mut end = number.len();
        for &digits in &self.levels {
            let start = end.saturating_sub(digits);
            path.push(&number[start..end]);
            end = start;
        }
        path.push(number);
        path
    }
}

/// How many directories the place of the last file in a tree lacked. The next file lacks as many, as a rule: none once a tree
/// is full, and most of its levels as long as there are more directories than files. A wrong guess costs one call.
#[derive(Debug, Default)]
pub struct Lacking(AtomicU8);

impl Lacking {
    /// Makes what is expected to be missing above a file of that name. Where that fails, what follows tells why.
    fn make_expected(&self, name: &Path, mode: u32) {
        let expected = self.0.load(Ordering::Relaxed);
        if expected > 0 {
            let _ = self.make(name, mode, expected); // a guess
        }
    }

    /// Makes what is missing above a file of that name, whatever was expected.
    fn make_missing(&self, name: &Path, mode: u32) -> io::Result<()> {
        self.make(name, mode, 1)
    }

    fn make(&self, name: &Path, mode: u32, expected: u8) -> io::Result<()> {
        let made = make_directory(above(name).unwrap_or(Path::new("/")), mode, expected)?;
        self.0.store(made, Ordering::Relaxed);
        Ok(())
    }
}

/// Creates a file beside `path`, under its name with a dot and ten digits behind it.
pub fn create_beside(path: &Path, lacking: &Lacking) -> Result<(File, PathBuf), Refused> {
    lacking.make_expected(path, 0o700);
    let name = |number: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    create(name, |path| lacking.make_missing(path, 0o700))
}

/// Creates a file under the name of the next number that is free. `make_above` makes the directories that it lacks.
fn create(
    name: impl Fn(String) -> PathBuf,
    make_above: impl Fn(&Path) -> io::Result<()>,
) -> Result<(File, PathBuf), Refused> {
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let path = name(format!("{number:010}"));
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let opened = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match make_above(&path) {
                Ok(()) => open(),
                Err(error) => return Err(Refused { call: "mkdir", path, error }),
            },
            other => other,
        };
        match opened {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Refused { call: "open", path, error }),
        }
    }
}

/// The directory that a path names something in; `None` at the root, or where it names nothing but a file. The last slash tells:
/// [`Path::parent`] looks at every component, and a slash that is doubled costs no more than a call in vain.
fn above(path: &Path) -> Option<&Path> {
    let path = path.as_os_str().as_bytes();
    let slash = memchr::memrchr(b'/', path).filter(|slash| *slash > 0)?;
    Some(Path::new(OsStr::from_bytes(&path[..slash])))
}

/// Makes a directory, and those above that are missing; says how many it made. The one that is tried first is the topmost
/// of `expected`.
fn make_directory(path: &Path, mode: u32, expected: u8) -> io::Result<u8> {
    let parent = above(path);
    let mut made = match parent {
        Some(parent) if expected > 1 => make_directory(parent, mode, expected - 1)?,
        _ => 0,
    };
    let create = || match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(0),
        Err(error) => Err(error),
    };
    let created = match (create(), parent) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            made = made.saturating_add(make_directory(parent, mode, 1)?);
            create()
        }
        (created, _) => created,
    }?;
    Ok(made.saturating_add(created))
}

/// Puts these bytes in the place of the file at `path`, whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, temporary) = create_beside(path, &Lacking::default()).map_err(|refused| refused.error)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the first error is the one to tell
    }
    written
}

/// Renames, making directories that are missing, and copies where the target is on another disk. `lacking` is that of the
/// tree that the file goes to.
pub fn put(temp: &Path, name: &Path, mode: u32, lacking: &Lacking) -> Result<(), (&'static str, std::io::Error)> {
    // A directory that may be read may be entered.
    let entered = mode | ((mode & 0o444) >> 2);
    if above(temp) != above(name) {
        lacking.make_expected(name, entered);
    }
    let error = match fs::rename(temp, name) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.raw_os_error() == Some(libc::ENOENT) {
        lacking.make_missing(name, entered).map_err(|error| ("mkdir", error))?;
    } else if error.raw_os_error() != Some(libc::EXDEV) {
        return Err(("rename", error));
    }
    let error = match fs::rename(temp, name) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.raw_os_error() != Some(libc::EXDEV) {
        return Err(("rename", error));
    }
    // Beside the target first, so that the last step is a rename again.
    let mut beside = name.as_os_str().to_owned();
    beside.push(format!(".{:010}", std::process::id()));
    let modified = fs::metadata(temp).and_then(|meta| meta.modified());
    fs::copy(temp, &beside).map_err(|error| ("copy", error))?;
    if let (Ok(modified), Ok(file)) = (modified, File::options().write(true).open(&beside)) {
        let _ = file.set_modified(modified);
    }
    fs::rename(&beside, name).map_err(|error| ("rename", error))?;
    fs::remove_file(temp).map_err(|error| ("unlink", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_take_digits_from_the_end() {
        let path = TempPath { path: "/t".into(), levels: vec![1, 2] };
        assert_eq!(path.name("0000034567"), Path::new("/t/7/56/0000034567"));
        assert_eq!(TempPath::below(Path::new("/p"), "x").name("0000000001"), Path::new("/p/x/0000000001"));
    }

    #[test]
    fn directories_are_made_wherever_the_guess_began() {
        let root = tempfile::tempdir().expect("a directory");
        let lacking = Lacking::default();
        let lacks = |name: &str, expected: u8| {
            lacking.0.store(expected, Ordering::Relaxed);
            let (file, temporary) = create_beside(&root.path().join("new"), &Lacking::default()).expect("a file");
            drop(file);
            put(&temporary, &root.path().join(name), 0o600, &lacking).expect("it is put there");
            assert!(root.path().join(name).is_file(), "{name}");
            lacking.0.load(Ordering::Relaxed)
        };
        assert_eq!(lacks("0/1/2/a", 0), 3);
        assert_eq!(lacks("0/1/2/b", 3), 0, "none was missing");
        assert_eq!(lacks("0/1/3/c", 0), 1);
        assert_eq!(lacks("0/4/5/d", 1), 2, "the guess began too low");
        assert_eq!(lacks("0/4/6/e", 3), 1, "and too high");
        assert_eq!(lacks("7/8/9/f", 2), 3);
        assert_eq!(lacks("g", 0), 0);
    }
}
