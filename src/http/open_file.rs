//! Opening files: `open_file_cache`, `disable_symlinks`, and what is known of a file once it is open.
//!
//! In: a path that a location leads to. Out: an open file or a directory with its size and date, or which call failed
//! and how. Everything that looks at the file system for a client asks here: static files, `index`, `try_files`,
//! precompressed files. The rule: what the cache says of a path was true at most `open_file_cache_valid` ago, and is
//! said to every thread alike.
//!
//! The cache is moka's, least recently used first to go: an entry is looked up without a lock that two threads could
//! wait for, and `inactive` is its idle time. Under the entry is a small mutex, held for no system call but those of a
//! retest. A look into moka costs some 900 instructions, with its own bookkeeping; each thread therefore remembers for up to
//! four seconds what it found, at a fifth of that: of an open file all that an answer needs, for among many files each
//! further piece of memory is one that the processor has to wait for.

use std::cell::RefCell;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, IoSliceMut};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::plan::Plan;
use super::request::Request;
use crate::base::hash::Quick;
use crate::base::lately::Lately;
use crate::base::{clock, units};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;

/// The part of `ngx_http_core_module` that is about opening files.
pub struct OpenFiles;

impl Module for OpenFiles {
    const NAME: &'static str = "http_open_file";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("open_file_cache", EVERYWHERE, Arity::Between(1, 2), Conf::open_file_cache),
        Directive::location("open_file_cache_valid", EVERYWHERE, Arity::Exactly(1), Conf::open_file_cache_valid),
        Directive::location("open_file_cache_min_uses", EVERYWHERE, Arity::Exactly(1), Conf::open_file_cache_min_uses),
        Directive::location("open_file_cache_errors", EVERYWHERE, Arity::Flag, Conf::open_file_cache_errors),
        Directive::location("open_file_cache_events", EVERYWHERE, Arity::Flag, Conf::open_file_cache_events),
        Directive::location("disable_symlinks", EVERYWHERE, Arity::Between(1, 2), Conf::disable_symlinks),
        Directive::location("read_ahead", EVERYWHERE, Arity::Exactly(1), Conf::read_ahead),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let symlinks = conf.disable_symlinks.or_else(DisableSymlinks::default);
        plan.files = Opener {
            cache: conf.open_file_cache.or(None),
            valid: conf.open_file_cache_valid.or(Duration::from_secs(60)).as_secs(),
            min_uses: conf.open_file_cache_min_uses.or(1),
            errors: conf.open_file_cache_errors.or(false),
            symlinks: symlinks.which,
            from: symlinks.from,
            read_ahead: conf.read_ahead.or(0),
            directio: plan.core.directio,
            block: plan.core.directio_alignment.max(1).next_power_of_two(),
        };
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    open_file_cache: Setting<Option<Arc<Cache>>>,
    open_file_cache_valid: Setting<Duration>,
    open_file_cache_min_uses: Setting<u64>,
    open_file_cache_errors: Setting<bool>,
    open_file_cache_events: Setting<bool>,
    disable_symlinks: Setting<DisableSymlinks>,
    read_ahead: Setting<usize>,
}

#[derive(Clone, Default)]
struct DisableSymlinks {
    which: Symlinks,
    from: Option<Template>,
}

impl Conf {
    /// Syntax: `open_file_cache off;`, `open_file_cache max=N [inactive=time];`  Default: `off`
    fn open_file_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut max = 0;
        let mut inactive = Duration::from_secs(60);
        let mut off = false;
        for (n, word) in words.texts().enumerate() {
            let invalid = || words.fault(n, format!("invalid \"open_file_cache\" parameter \"{word}\""));
            match word.split_once('=') {
                Some(("max", number)) => max = units::number(number).filter(|&max| max > 0).ok_or_else(invalid)?,
                Some(("inactive", time)) => {
                    inactive = Duration::from_secs(units::seconds(time).ok_or_else(invalid)?);
                }
                None if word == "off" => off = true,
                Some(_) | None => return Err(invalid()),
            }
        }
        if !off && max == 0 {
            return Err(words.fault(0, "\"open_file_cache\" must have the \"max\" parameter"));
        }
        self.open_file_cache.set((!off).then(|| Arc::new(Cache::new(max, inactive))))
    }

    /// Syntax: `open_file_cache_valid time;`  Default: `60s`
    fn open_file_cache_valid(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.open_file_cache_valid.set(words.seconds(0)?)
    }

    /// Syntax: `open_file_cache_min_uses number;`  Default: `1`
    fn open_file_cache_min_uses(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.open_file_cache_min_uses.set(words.number(0)?)
    }

    /// Syntax: `open_file_cache_errors on | off;`  Default: `off`
    fn open_file_cache_errors(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.open_file_cache_errors.set(words.flag()?)
    }

    /// Syntax: `open_file_cache_events on | off;`  Default: `off`  Only kqueue reports such events: on Linux the word is
    /// taken and means nothing, as in nginx.
    fn open_file_cache_events(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.open_file_cache_events.set(words.flag()?)
    }

    /// Syntax: `disable_symlinks off;`, `disable_symlinks on | if_not_owner [from=part];`  Default: `off`
    fn disable_symlinks(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut which = None;
        let mut from = None;
        for (n, word) in words.texts().enumerate() {
            match word {
                "off" => which = Some(Symlinks::Allowed),
                "on" => which = Some(Symlinks::Refused),
                "if_not_owner" => which = Some(Symlinks::OfOwner),
                _ => match word.strip_prefix("from=") {
                    Some(part) => from = Some(words.compile(n, part)?),
                    None => return Err(words.invalid_parameter(n)),
                },
            }
        }
        let Some(which) = which else {
            let message = "\"disable_symlinks\" must have \"off\", \"on\" or \"if_not_owner\" parameter";
            return Err(words.fault(0, message));
        };
        let duplicate = || words.fault(0, format!("duplicate parameters \"{} {}\"", words.arg(0), words.arg(1)));
        match (which, &from, words.len()) {
            (_, None, 2) => return Err(duplicate()),
            (Symlinks::Allowed, Some(_), _) => {
                return Err(words.fault(0, "\"from=\" cannot be used with \"off\" parameter"));
            }
            (Symlinks::Allowed | Symlinks::Refused | Symlinks::OfOwner, _, _) => {}
        }
        self.disable_symlinks.set(DisableSymlinks { which, from })
    }

    /// Syntax: `read_ahead size;`  Default: `0`
    fn read_ahead(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.read_ahead.set(words.size(0)?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            open_file_cache,
            open_file_cache_valid,
            open_file_cache_min_uses,
            open_file_cache_errors,
            open_file_cache_events,
            disable_symlinks,
            read_ahead,
        } = self;
        open_file_cache.inherit(&outer.open_file_cache);
        open_file_cache_valid.inherit(&outer.open_file_cache_valid);
        open_file_cache_min_uses.inherit(&outer.open_file_cache_min_uses);
        open_file_cache_errors.inherit(&outer.open_file_cache_errors);
        open_file_cache_events.inherit(&outer.open_file_cache_events);
        disable_symlinks.inherit(&outer.disable_symlinks);
        read_ahead.inherit(&outer.read_ahead);
        Ok(())
    }
}

/// How one location opens files.
#[derive(Default)]
pub struct Opener {
    cache: Option<Arc<Cache>>,
    /// Seconds.
    valid: u64,
    min_uses: u64,
    errors: bool,
    symlinks: Symlinks,
    from: Option<Template>,
    read_ahead: usize,
    directio: Option<u64>,
    /// `directio_alignment`.
    block: usize,
}

/// `disable_symlinks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Symlinks {
    /// `off`
    #[default]
    Allowed,
    /// `on`
    Refused,
    /// `if_not_owner`: those whose target belongs to whom the link belongs to are followed.
    OfOwner,
}

/// What a path turned out to be.
#[derive(Clone, Debug)]
pub struct Found {
    /// `None` for a directory.
    pub file: Option<Arc<OpenFile>>,
    pub stat: Stat,
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

/// Why a path could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unopened {
    /// The call that failed, as error log lines name it: `open()`.
    pub call: &'static str,
    pub errno: i32,
}

impl Unopened {
    /// There is nothing of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self.errno, libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG)
    }

    /// The file system, or `disable_symlinks`, does not allow it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.errno, libc::EACCES | libc::EMLINK | libc::ELOOP)
    }

    pub fn error(&self) -> std::io::Error {
        std::io::Error::from_raw_os_error(self.errno)
    }

    fn by(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { call, errno: errno.raw_os_error() }
    }
}

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

impl Opener {
    /// Opens what `path` names. A directory is found but not kept open.
    pub fn open(&self, request: &Request, path: &[u8]) -> Result<Found, Unopened> {
        let walk = self.walk(request, path);
        match &self.cache {
            None => self.open_now(path, walk),
            Some(cache) => cache.open(self, path, walk),
        }
    }

    /// Opens the file of a response cache. It is written to in place, so of a small one no bytes are kept, and it is replaced:
    /// what is known of the path counts only under the same `number`. nginx: `of.uniq`.
    pub fn open_kept(&self, path: &[u8], number: u32) -> Result<Found, Unopened> {
        let walk = Walk { kept: Some(number), ..Walk::PLAIN };
        match &self.cache {
            None => self.open_now(path, walk),
            Some(cache) => cache.open(self, path, walk),
        }
    }

    /// For how many seconds what was seen of a file may be believed: not at all without a cache.
    pub fn trust(&self) -> u64 {
        if self.cache.is_some() { self.valid } else { 0 }
    }

    /// Says what `path` is, for who wants no more than that: without a cache nothing is opened.
    pub fn test(&self, request: &Request, path: &[u8]) -> Result<Stat, Unopened> {
        let walk = self.walk(request, path);
        match &self.cache {
            None => walk.stat(path),
            Some(cache) => cache.open(self, path, walk).map(|found| found.stat),
        }
    }

    /// How symbolic links in this path are to be met. nginx: `ngx_http_set_disable_symlinks`.
    fn walk(&self, request: &Request, path: &[u8]) -> Walk {
        let Some(from) = &self.from else { return Walk { symlinks: self.symlinks, trusted: 0, kept: None } };
        let from = from.eval(request);
        let trusted = match path.strip_prefix(from.as_ref()) {
            _ if from.is_empty() => 0,
            None => 0,
            Some([]) => return Walk::PLAIN,
            Some([b'/', ..]) => from.len(),
            Some(_) if from.ends_with(b"/") => from.len() - 1,
            Some(_) => 0,
        };
        Walk { symlinks: self.symlinks, trusted, kept: None }
    }

    fn open_now(&self, path: &[u8], walk: Walk) -> Result<Found, Unopened> {
        // Without blocking, or a named pipe would hold everything up; it changes nothing for regular files.
        let file = walk.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file).map(Stat::of).map_err(Unopened::by("fstat()"))?;
        if stat.kind == Kind::Directory {
            return Ok(Found { file: None, stat });
        }
        if self.read_ahead > 0 && stat.size > READ_AHEAD_FROM {
            // Advice only: a file system that takes none is as good without.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        }
        let mut open = OpenFile::from(File::from(file));
        open.device = stat.id.0;
        open.vague = AtomicBool::new(VAGUE.load(Ordering::Relaxed) == open.device);
        if walk.kept.is_some() {
            return Ok(Found { file: Some(Arc::new(open)), stat });
        }
        if self.directio.is_some_and(|from| stat.size >= from) && stat.kind == Kind::File {
            // Some file systems have no such thing: then the page cache serves as well.
            let direct =
                rustix::fs::fcntl_getfl(&open).and_then(|flags| rustix::fs::fcntl_setfl(&open, flags | OFlags::DIRECT));
            if direct.is_ok() {
                open.block = Some(self.block);
            }
        }
        if self.cache.is_some() && stat.size <= SMALL && !open.is_direct() {
            open.shelf.size = stat.size as usize;
        }
        Ok(Found { file: Some(Arc::new(open)), stat })
    }
}

/// nginx reads ahead only in files above this size.
const READ_AHEAD_FROM: u64 = 128 * 1024;

impl Stat {
    /// Device, inode, and when it was written to last.
    pub fn identity(&self) -> ((u64, u64), (i64, i64)) {
        (self.id, (self.mtime, self.written.0))
    }

    fn of(stat: rustix::fs::Stat) -> Self {
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
struct Walk {
    symlinks: Symlinks,
    /// So much of the path's beginning is not looked at: `from=`. A slash follows it.
    trusted: usize,
    /// The file of a response cache with this number: under another number the path leads to another file.
    kept: Option<u32>,
}

impl Walk {
    const PLAIN: Self = Self { symlinks: Symlinks::Allowed, trusted: 0, kept: None };

    fn stat(self, path: &[u8]) -> Result<Stat, Unopened> {
        if self.symlinks == Symlinks::Allowed {
            return rustix::fs::stat(path).map(Stat::of).map_err(Unopened::by("stat()"));
        }
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        rustix::fs::fstat(&file).map(Stat::of).map_err(Unopened::by("fstat()"))
    }

    /// Opens a path, component by component where links are not simply followed.
    fn open(self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Unopened> {
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

/// One `open_file_cache`. Levels that inherit it share it, and so do all threads.
pub struct Cache {
    entries: moka::sync::Cache<Box<[u8]>, Arc<Mutex<Entry>>>,
    /// Tells it from every other, also from those of generations that are gone.
    number: u64,
    /// For so many seconds a thread may remember what it found: a part of `inactive`.
    step: u64,
}

/// What is known of one path.
struct Entry {
    outcome: Result<Stat, Unopened>,
    /// `None` for directories, failures, and files that are used less than `open_file_cache_min_uses`.
    file: Option<Arc<OpenFile>>,
    walk: Walk,
    /// When the file system said so; seconds. `None`: it is not to be believed any more.
    checked: Option<u64>,
    uses: u64,
}

/// What a thread has found lately, by cache and path: it need not be looked up again. From time to time it is, so the cache
/// knows what is in use. Nothing is held: what the cache lets go is closed.
type Recently = Lately<(u64, Box<[u8]>), Recent, 16_384>;

enum Recent {
    /// A file that is open, to who meets links as usual.
    Open {
        file: Weak<OpenFile>,
        stat: Stat,
        checked: u64,
    },
    Entry(Weak<Mutex<Entry>>),
}

thread_local! {
    static LATELY: RefCell<Recently> = const { RefCell::new(Lately::EMPTY) };
}

/// What was remembered, as far as it still holds.
enum Recalled {
    Found(Found),
    Entry(Arc<Mutex<Entry>>),
}

impl Cache {
    fn new(max: u64, inactive: Duration) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let entries = moka::sync::Cache::builder()
            .max_capacity(max)
            .time_to_idle(inactive.max(Duration::from_secs(1)))
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        let step = (inactive.as_secs() / 4).clamp(1, 4);
        Self { entries, number: NUMBER.fetch_add(1, Ordering::Relaxed), step }
    }

    fn open(&self, opener: &Opener, path: &[u8], walk: Walk) -> Result<Found, Unopened> {
        let now = clock::seconds();
        let hash = Quick::default().hash_one(path);
        let (known, recalled) = match self.recall(opener, (hash, path), walk, now) {
            Some(Recalled::Found(found)) => return Ok(found),
            Some(Recalled::Entry(entry)) => (Some(entry), true),
            None => (self.entries.get(path), false),
        };
        let Some(known) = known else {
            let outcome = opener.open_now(path, walk);
            if outcome.is_ok() || opener.errors {
                let entry = Entry::of(&outcome, opener, walk, now, 1);
                self.entries.insert(path.into(), Arc::new(Mutex::new(entry)));
            }
            return outcome;
        };
        let mut entry = known.lock().unwrap_or_else(PoisonError::into_inner);
        entry.uses += 1;
        if let Some((outcome, checked)) = entry.fresh(opener, walk, now) {
            match &outcome {
                Ok(Found { file: Some(file), stat }) if walk == Walk::PLAIN => {
                    let open = Recent::Open { file: Arc::downgrade(file), stat: *stat, checked };
                    self.remember((hash, path), now, open);
                }
                Ok(_) | Err(_) if recalled => {}
                Ok(_) | Err(_) => self.remember((hash, path), now, Recent::Entry(Arc::downgrade(&known))),
            }
            return outcome;
        }
        let outcome = entry.retest(opener, path, walk);
        let stays =
            |file: &Arc<OpenFile>| matches!(&outcome, Ok(Found { file: Some(found), .. }) if Arc::ptr_eq(found, file));
        if let Some(file) = entry.file.as_ref().filter(|file| !stays(file)) {
            file.outdated.store(true, Ordering::Relaxed);
        }
        if outcome.is_err() && !opener.errors {
            entry.checked = None;
            entry.file = None;
            self.entries.invalidate(path);
        } else {
            *entry = Entry::of(&outcome, opener, walk, now, entry.uses);
        }
        outcome
    }

    fn recall(&self, opener: &Opener, key: (u64, &[u8]), walk: Walk, now: u64) -> Option<Recalled> {
        LATELY.with_borrow_mut(|lately| match lately.find(key.0, self.is(key.1))? {
            (step, _) if step != now / self.step => None,
            (_, Recent::Open { file, stat, checked }) => {
                let believed = walk == Walk::PLAIN && is_believed(*checked, opener, now);
                let file = file.upgrade().filter(|file| believed && !file.outdated.load(Ordering::Relaxed))?;
                Some(Recalled::Found(Found { file: Some(file), stat: *stat }))
            }
            (_, Recent::Entry(entry)) => entry.upgrade().map(Recalled::Entry),
        })
    }

    fn remember(&self, (hash, path): (u64, &[u8]), now: u64, recent: Recent) {
        LATELY.with_borrow_mut(|lately| {
            lately.put(now / self.step, hash, self.is(path), || (self.number, path.into()), recent)
        });
    }

    fn is(&self, path: &[u8]) -> impl Fn(&(u64, Box<[u8]>)) -> bool {
        move |(cache, known)| *cache == self.number && **known == *path
    }
}

/// Whether what was seen in that second still counts.
fn is_believed(checked: u64, opener: &Opener, now: u64) -> bool {
    now.saturating_sub(checked) < opener.valid
}

impl Entry {
    fn of(outcome: &Result<Found, Unopened>, opener: &Opener, walk: Walk, now: u64, uses: u64) -> Self {
        let (outcome, file) = match outcome {
            Ok(found) => (Ok(found.stat), found.file.clone().filter(|_| uses >= opener.min_uses)),
            Err(unopened) => (Err(*unopened), None),
        };
        Self { outcome, file, walk, checked: Some(now), uses }
    }

    /// What is known, if it may still be believed, and when it was seen.
    fn fresh(&self, opener: &Opener, walk: Walk, now: u64) -> Option<(Result<Found, Unopened>, u64)> {
        let checked = self.checked.filter(|&checked| is_believed(checked, opener, now) && walk == self.walk)?;
        let outcome = match self.outcome {
            Err(unopened) => Err(unopened),
            Ok(stat) if stat.kind == Kind::Directory => Ok(Found { file: None, stat }),
            Ok(stat) => Ok(Found { file: Some(self.file.clone()?), stat }),
        };
        Some((outcome, checked))
    }

    /// Asks the file system again. A file that is the same and was not written to stays open.
    fn retest(&self, opener: &Opener, path: &[u8], walk: Walk) -> Result<Found, Unopened> {
        if let (Ok(before), Some(file)) = (self.outcome, &self.file) {
            let stat = walk.stat(path)?;
            if stat == before {
                return Ok(Found { file: Some(file.clone()), stat });
            }
        }
        opener.open_now(path, walk)
    }
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

    fn cached(valid: u64, min_uses: u64, errors: bool) -> (Opener, Arc<Cache>) {
        let cache = Arc::new(Cache::new(100, Duration::from_secs(60)));
        (Opener { cache: Some(cache.clone()), valid, min_uses, errors, ..Opener::default() }, cache)
    }

    const FOLLOW: Walk = Walk { symlinks: Symlinks::Allowed, trusted: 0, kept: None };

    #[test]
    fn files_directories_and_what_is_neither() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "12345").expect("a file");
        let opener = Opener::default();
        let found = opener.open_now(bytes(&dir.path().join("file")), FOLLOW).expect("it is there");
        assert_eq!((found.stat.size, found.stat.kind, found.file.is_some()), (5, Kind::File, true));
        let found = opener.open_now(bytes(dir.path()), FOLLOW).expect("it is there");
        assert_eq!((found.stat.kind, found.file.is_none()), (Kind::Directory, true));
        let found = opener.open_now(b"/dev/null", FOLLOW).expect("it is there");
        assert_eq!(found.stat.kind, Kind::Other);
        let missing = opener.open_now(bytes(&dir.path().join("missing")), FOLLOW).expect_err("not there");
        assert_eq!(missing, Unopened { call: "open()", errno: libc::ENOENT });
        let below = opener.open_now(bytes(&dir.path().join("file/below")), FOLLOW).expect_err("not a directory");
        assert!(below.is_missing());
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

    #[test]
    fn cached_until_it_is_no_longer_valid() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "old").expect("a file");
        let (opener, cache) = cached(60, 1, false);
        let first = cache.open(&opener, bytes(&path), FOLLOW).expect("there");
        std::fs::remove_file(&path).expect("removed");
        let second = cache.open(&opener, bytes(&path), FOLLOW).expect("still believed");
        let (first, second) = (first.file.expect("a file"), second.file.expect("a file"));
        assert!(Arc::ptr_eq(&first, &second));
        let stale = Opener { cache: None, valid: 0, ..opener };
        assert!(cache.open(&stale, bytes(&path), FOLLOW).expect_err("gone").is_missing());
        std::fs::write(&path, "newer").expect("a file");
        assert_eq!(cache.open(&stale, bytes(&path), FOLLOW).expect("there again").stat.size, 5);
    }

    #[test]
    fn a_retest_keeps_what_did_not_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "old").expect("a file");
        let (opener, cache) = cached(0, 1, false);
        let open = || cache.open(&opener, bytes(&path), FOLLOW).expect("there");
        let first = open().file.expect("a file");
        assert!(Arc::ptr_eq(&first, &open().file.expect("a file")));
        std::fs::write(&path, "in place").expect("written");
        assert_eq!(open().stat.size, 8);
        std::fs::write(dir.path().join("other"), "replaced").expect("a file");
        std::fs::rename(dir.path().join("other"), &path).expect("renamed");
        assert!(!Arc::ptr_eq(&first, &open().file.expect("a file")));
    }

    #[test]
    fn what_one_thread_has_seen_counts_for_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "old").expect("a file");
        let (opener, cache) = cached(60, 1, false);
        let size = || cache.open(&opener, bytes(&path), FOLLOW).map(|found| found.stat.size);
        assert_eq!([size(), size(), size()], [Ok(3); 3]);
        let look = || {
            let doubtful = Opener { valid: 0, ..Opener::default() };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| cache.open(&doubtful, bytes(&path), FOLLOW).map(|found| found.stat.size));
                other.join().expect("no panic")
            })
        };
        std::fs::write(dir.path().join("other"), "replaced").expect("a file");
        std::fs::rename(dir.path().join("other"), &path).expect("renamed");
        assert_eq!((size(), look(), size()), (Ok(3), Ok(8), Ok(8)));
        std::fs::remove_file(&path).expect("removed");
        assert!(size() == Ok(8) && look().is_err() && size().is_err());
    }

    #[test]
    fn errors_and_rare_files_are_kept_only_on_demand() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let (opener, cache) = cached(60, 2, true);
        assert!(cache.open(&opener, bytes(&path), FOLLOW).is_err());
        std::fs::write(&path, "x").expect("a file");
        assert!(cache.open(&opener, bytes(&path), FOLLOW).is_err(), "the failure is believed");

        let (opener, cache) = cached(60, 2, false);
        let first = cache.open(&opener, bytes(&path), FOLLOW).expect("there").file.expect("a file");
        let second = cache.open(&opener, bytes(&path), FOLLOW).expect("there").file.expect("a file");
        let third = cache.open(&opener, bytes(&path), FOLLOW).expect("there").file.expect("a file");
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &third));
        let missing = dir.path().join("missing");
        assert!(cache.open(&opener, bytes(&missing), FOLLOW).is_err());
        std::fs::write(&missing, "x").expect("a file");
        assert!(cache.open(&opener, bytes(&missing), FOLLOW).is_ok(), "the failure is forgotten");
    }
}
