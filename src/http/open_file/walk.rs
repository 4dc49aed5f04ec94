//! The way to a file: through symbolic links or not (`disable_symlinks`), and what the file system says of its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Unopened;

/// `disable_symlinks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Symlinks {
    /// `off`
    #[default]
    Allowed,
    /// `on`
    Refused,
    /// `if_not_owner`: those whose target belongs to whom the link belongs to are followed.
    OfOwner,
}

/// What the file system says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    pub kind: Kind,
    /// The owner may execute it.
    pub executable: bool,
    /// Device and inode.
    id: (u64, u64),
    /// The nanoseconds of `mtime`, and all of ctime: with the size they tell that a file was written to.
    written: (i64, i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// A pipe, a socket, a device.
    Other,
}

impl Stat {
    /// Device, inode, and when it was written to last.
    pub fn identity(&self) -> ((u64, u64), (i64, i64)) {
        (self.id, (self.mtime, self.written.0))
    }

    pub(super) fn device(&self) -> u64 {
        self.id.0
    }

    pub(super) fn of(stat: rustix::fs::Stat) -> Self {
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        };
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: stat.st_mtime,
            kind,
            executable: stat.st_mode & libc::S_IXUSR != 0,
            id: (stat.st_dev, stat.st_ino),
            written: (i64::try_from(stat.st_mtime_nsec).unwrap_or(0), stat.st_ctime, {
                i64::try_from(stat.st_ctime_nsec).unwrap_or(0)
            }),
        }
    }
}

/// How the way to a file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub symlinks: Symlinks,
    /// So much of the path's beginning is not looked at: `from=`. A slash follows it.
    pub trusted: usize,
    /// The file of a response cache with this number: under another number the path leads to another file.
    pub kept: Option<u32>,
}

impl Walk {
    /// Links are followed, as usual.
    pub const PLAIN: Self = Self { symlinks: Symlinks::Allowed, trusted: 0, kept: None };

    pub fn stat(self, path: &[u8]) -> Result<Stat, Unopened> {
        if self.symlinks == Symlinks::Allowed {
            return rustix::fs::stat(path).map(Stat::of).map_err(Unopened::by("stat()"));
        }
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        rustix::fs::fstat(&file).map(Stat::of).map_err(Unopened::by("fstat()"))
    }

    /// Opens a path, component by component where links are not simply followed.
    pub fn open(self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Unopened> {
        let flags = flags | OFlags::CLOEXEC;
        if self.symlinks == Symlinks::Allowed {
            return rustix::fs::open(path, flags, Mode::empty()).map_err(Unopened::by("open()"));
        }
        let search = OFlags::PATH | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (trusted, rest) = path.split_at_checked(self.trusted).unwrap_or((path, &[]));
        let (mut at, rest): (Option<OwnedFd>, &[u8]) = match (trusted, rest) {
            ([], [b'/', rest @ ..]) => {
                let root = rustix::fs::open("/", search, Mode::empty());
                (Some(root.map_err(Unopened::by("openat()"))?), rest)
            }
            ([], rest) => (None, rest),
            (trusted, rest) => {
                let base = rustix::fs::open(trusted, search, Mode::empty());
                (Some(base.map_err(Unopened::by("open()"))?), rest)
            }
        };
        let here = |at: &Option<OwnedFd>, name: &[u8], flags: OFlags| {
            let dir = at.as_ref().map_or(CWD, AsFd::as_fd);
            match self.symlinks {
                Symlinks::OfOwner => open_owned(dir, name, flags),
                Symlinks::Refused | Symlinks::Allowed => {
                    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty())
                }
            }
            .map_err(Unopened::by("openat()"))
        };
        let mut names = rest.split(|&byte| byte == b'/');
        let last = names.next_back().unwrap_or_default();
        for name in names.filter(|name| !name.is_empty()) {
            at = Some(here(&at, name, search)?);
        }
        if !last.is_empty() {
            return here(&at, last, flags);
        }
        // A path that ends in a slash is a directory.
        let dir = at.as_ref().map_or(CWD, AsFd::as_fd);
        rustix::fs::openat(dir, ".", flags, Mode::empty()).map_err(Unopened::by("openat()"))
    }
}

/// Opens a name, through a link only when link and target have one owner. Whether it was a link at the time of the
/// opening cannot be known, so the owners are compared in any case.
fn open_owned(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let link = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let target = rustix::fs::fstat(&file)?;
    if link.st_uid != target.st_uid {
        return Err(Errno::LOOP);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn bytes(path: &Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    #[test]
    fn links_are_refused_component_by_component() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        std::fs::create_dir_all(root.join("real/inner")).expect("directories");
        std::fs::write(root.join("real/inner/file"), "x").expect("a file");
        symlink(root.join("real"), root.join("linked")).expect("a link");
        symlink("file", root.join("real/inner/link")).expect("a link");
        symlink("/etc/passwd", root.join("foreign")).expect("a link");
        let open = |symlinks, path: &str, trusted: &str| {
            let trusted = if trusted.is_empty() { 0 } else { bytes(&root.join(trusted)).len() };
            let walk = Walk { symlinks, trusted, kept: None };
            walk.open(bytes(&root.join(path)), OFlags::RDONLY | OFlags::NONBLOCK).map(drop).map_err(|e| e.errno)
        };
        for (path, trusted, on, if_not_owner) in [
            ("real/inner/file", "", Ok(()), Ok(())),
            ("real//inner///file", "", Ok(()), Ok(())),
            ("real/inner/", "", Ok(()), Ok(())),
            ("real/inner/link", "", Err(libc::ELOOP), Ok(())),
            ("linked/inner/file", "", Err(libc::ENOTDIR), Ok(())),
            ("linked/inner/file", "linked", Ok(()), Ok(())),
            ("linked/inner/link", "linked", Err(libc::ELOOP), Ok(())),
            ("real/missing", "", Err(libc::ENOENT), Err(libc::ENOENT)),
        ] {
            assert_eq!(open(Symlinks::Refused, path, trusted), on, "on {path} from {trusted}");
            assert_eq!(open(Symlinks::OfOwner, path, trusted), if_not_owner, "if_not_owner {path} from {trusted}");
            assert_eq!(open(Symlinks::Allowed, path, trusted).is_ok(), !path.contains("missing"), "off {path}");
        }
        let walk = Walk { symlinks: Symlinks::OfOwner, trusted: 0, kept: None };
        let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(path).expect("there"));
        if owner(&root.join("foreign")) != owner(Path::new("/etc/passwd")) {
            let refused = walk.open(bytes(&root.join("foreign")), OFlags::RDONLY).expect_err("another's file");
            assert_eq!(refused.errno, libc::ELOOP);
        }
    }
}
