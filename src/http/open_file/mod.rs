//! Opening files: `open_file_cache`, `disable_symlinks`, and what is known of a file once it is open.
//!
//! In: a path that a location leads to. Out: an open file or a directory with its size and date, or which call failed
//! and how. Everything that looks at the file system for a client asks here: static files, `index`, `try_files`,
//! precompressed files. The rule: what the cache says of a path was true at most `open_file_cache_valid` ago, and is
//! said to every thread alike.

mod cache; // what was opened before
mod file; // an open file, and what of it is in memory
mod walk; // the way to a file, over links or not

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use self::cache::Cache;
pub use self::file::{OpenFile, SMALL};
pub use self::walk::{Kind, Stat};
use self::walk::{Symlinks, Walk};
use super::plan::Plan;
use super::request::Request;
use crate::base::units;
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

/// What a path turned out to be.
#[derive(Clone, Debug)]
pub struct Found {
    /// `None` for a directory.
    pub file: Option<Arc<OpenFile>>,
    pub stat: Stat,
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
        let mut open = OpenFile::on(File::from(file), stat.device());
        if walk.kept.is_some() {
            return Ok(Found { file: Some(Arc::new(open)), stat });
        }
        if self.directio.is_some_and(|from| stat.size >= from) && stat.kind == Kind::File {
            open.pass_by_page_cache(self.block);
        }
        if self.cache.is_some() && !open.is_direct() {
            open.may_be_kept(stat.size);
        }
        Ok(Found { file: Some(Arc::new(open)), stat })
    }
}

/// nginx reads ahead only in files above this size.
const READ_AHEAD_FROM: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn files_directories_and_what_is_neither() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), "12345").expect("a file");
        let opener = Opener::default();
        let open = |name: &str| opener.open_now(dir.path().join(name).as_os_str().as_bytes(), Walk::PLAIN);
        let found = open("file").expect("it is there");
        assert_eq!((found.stat.size, found.stat.kind, found.file.is_some()), (5, Kind::File, true));
        let found = open("").expect("it is there");
        assert_eq!((found.stat.kind, found.file.is_none()), (Kind::Directory, true));
        let found = open("/dev/null").expect("it is there");
        assert_eq!(found.stat.kind, Kind::Other);
        let missing = open("missing").expect_err("not there");
        assert_eq!(missing, Unopened { call: "open()", errno: libc::ENOENT });
        assert!(open("file/below").expect_err("not a directory").is_missing());
    }
}
