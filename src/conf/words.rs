//! One statement as its directive's method sees it: the words, read as what they should be.
//!
//! Every reader answers with nginx's sentence when a word is not what it should be.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{At, Fault};
use super::files::Files;
use super::lex::{Node, Statement, Word};
use super::template::Template;
use super::vars::Names;
use crate::base::threads::{Pool, Pools};
use crate::base::{text, units};
use crate::log::error::{Entry, Reader};
use crate::log::{Sinks, syslog};

/// What the whole load shares: variables' names, the prefixes of relative paths, warnings.
pub struct Context {
    pub names: Names,
    /// `-p`: relative paths of logs, roots and temporary files start here.
    pub prefix: PathBuf,
    /// The directory of the configuration file: relative paths of included and key files start here.
    pub conf_prefix: PathBuf,
    /// The log files that directives name.
    pub sinks: Sinks,
    /// Keys and certificates.
    pub files: Files,
    /// Threads for work that may block.
    pub pools: Pools,
    /// Where each pool was first asked for.
    pool_places: RefCell<HashMap<String, At>>,
    /// This machine's name, in lower case.
    pub hostname: String,
    /// Directories for temporary files, to be made before the worker starts.
    directories: RefCell<Vec<PathBuf>>,
    /// Where the worker will write under names that only requests make known.
    writes: RefCell<HashSet<(PathBuf, Writes)>>,
    /// Every directive of every table, for telling `unknown` from `not allowed here`.
    known: HashSet<String>,
    warnings: RefCell<Vec<Fault>>,
    /// Statements seen so far.
    statements: Cell<usize>,
}

impl Context {
    pub fn new(prefix: impl Into<PathBuf>, conf_prefix: impl Into<PathBuf>) -> Self {
        Self {
            names: Names::default(),
            sinks: Sinks::default(),
            files: Files::disk(),
            pools: Pools::default(),
            pool_places: RefCell::default(),
            hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase(),
            directories: RefCell::default(),
            writes: RefCell::default(),
            prefix: prefix.into(),
            conf_prefix: conf_prefix.into(),
            known: HashSet::new(),
            warnings: RefCell::default(),
            statements: Cell::new(0),
        }
    }

    /// Uses the log files of this process.
    pub fn with_sinks(self, sinks: &Sinks) -> Self {
        Self { sinks: sinks.clone(), ..self }
    }

    /// Reads keys and certificates through `files`.
    pub fn with_files(self, files: &Files) -> Self {
        Self { files: files.clone(), ..self }
    }

    /// nginx's fault when a pool was asked for that nothing defines.
    pub fn undefined_pool(&self) -> Option<Fault> {
        let name = self.pools.undefined()?;
        let fault = Fault::new(format!("unknown thread pool \"{name}\""));
        Some(match self.pool_places.borrow().get(&name) {
            Some(at) => fault.or_at(at),
            None => fault,
        })
    }

    /// Asks for a directory to exist before anything is served.
    pub fn need_directory(&self, path: &Path) {
        let mut directories = self.directories.borrow_mut();
        if !directories.iter().any(|known| known == path) {
            directories.push(path.to_owned());
        }
    }

    /// The directories that were asked for.
    pub fn take_directories(&self) -> Vec<PathBuf> {
        self.directories.take()
    }

    /// Notes that requests will write to paths that begin with `fixed`, the text before the first variable. Relative
    /// ones stand below `prefix`.
    pub fn will_write(&self, fixed: &[u8], prefix: &Path, writes: Writes) {
        let directory = &fixed[..fixed.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)];
        let directory = prefix.join(Path::new(OsStr::from_bytes(directory)));
        self.writes.borrow_mut().insert((directory, writes));
    }

    /// The directories of [`Context::will_write`].
    pub fn take_writes(&self) -> Vec<(PathBuf, Writes)> {
        self.writes.take().into_iter().collect()
    }

    /// Adds the names of one table.
    pub fn with_names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.known.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Whether any table has this directive.
    pub fn knows(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// Notes something that loads and yet deserves a `[warn]` line.
    pub fn warn(&self, fault: Fault) {
        self.warnings.borrow_mut().push(fault);
    }

    /// As [`Context::warn`], of what would be said of many lines and is said once.
    pub fn warn_once(&self, message: &str) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.iter().any(|known| known.message == message) {
            warnings.push(Fault::new(message));
        }
    }

    /// The warnings so far, in order; the list is empty afterwards.
    pub fn take_warnings(&self) -> Vec<Fault> {
        self.warnings.take()
    }

    /// A path below the prefix, as `root` and `access_log` mean it.
    pub fn path(&self, word: &str) -> PathBuf {
        self.prefix.join(text::path(word))
    }

    /// A path beside the configuration, as `ssl_certificate` means it.
    pub fn conf_path(&self, word: &str) -> PathBuf {
        self.conf_prefix.join(text::path(word))
    }
}

/// What a process does in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writes {
    /// Files come, change and go, directories as well.
    Files,
    /// Files come and grow.
    Logs,
    /// The same, and the master has opened them: a process opens them itself only when it is sent USR1 past its master.
    OpenedLogs,
}

/// The words of one statement.
pub struct Words<'a> {
    statement: &'a Statement,
    pub cx: &'a Context,
    /// The name as the table knows it.
    name: &'a str,
    /// Which child of the level a block directive opened; 0 for the first.
    pub child: usize,
    /// The statement's place among all, for directives that must stand behind what they name.
    pub nth: usize,
}

impl<'a> Words<'a> {
    pub fn new(statement: &'a Statement, cx: &'a Context, child: usize) -> Self {
        let nth = cx.statements.get();
        cx.statements.set(nth + 1);
        Self { statement, cx, name: &statement.words[0].text, child, nth }
    }

    /// The directive's name as written.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Where the directive's name stands.
    pub fn at(&self) -> &'a At {
        &self.statement.words[0].at
    }

    /// The arguments.
    pub fn args(&self) -> &'a [Word] {
        &self.statement.words[1..]
    }

    /// How many arguments there are.
    pub fn len(&self) -> usize {
        self.args().len()
    }

    pub fn is_empty(&self) -> bool {
        self.args().is_empty()
    }

    /// Argument `n`, from 0. An argument that is not there reads as empty: arity was checked before.
    pub fn arg(&self, n: usize) -> &'a str {
        self.args().get(n).map_or("", |word| &word.text)
    }

    /// The arguments' texts.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.args().iter().map(|word| word.text.as_str())
    }

    /// The only argument.
    pub fn one(&self) -> &'a str {
        self.arg(0)
    }

    /// What stands in the directive's block; empty for a directive without one.
    pub fn block(&self) -> &'a [Node] {
        self.statement.block.as_deref().unwrap_or_default()
    }

    /// A fault about argument `n`.
    pub fn fault(&self, n: usize, message: impl Into<String>) -> Fault {
        let at = self.args().get(n).map_or(self.at(), |word| &word.at);
        Fault::at(message, at)
    }

    /// `"x" directive invalid value`, about argument `n`.
    fn invalid(&self, n: usize, sentence: &str) -> Fault {
        self.fault(n, format!("\"{}\" directive {sentence}", self.name))
    }

    /// nginx's sentence for a parameter it does not know.
    pub fn invalid_parameter(&self, n: usize) -> Fault {
        self.fault(n, format!("invalid parameter \"{}\"", self.arg(n)))
    }

    /// nginx's sentence for a value among several that it does not know.
    pub fn invalid_value(&self, n: usize) -> Fault {
        self.fault(n, format!("invalid value \"{}\"", self.arg(n)))
    }

    /// `on` or `off`.
    pub fn flag(&self) -> Result<bool, Fault> {
        let word = self.one();
        match word.to_ascii_lowercase().as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(self.fault(
                0,
                format!("invalid value \"{word}\" in \"{}\" directive, it must be \"on\" or \"off\"", self.name),
            )),
        }
    }

    /// A whole number.
    pub fn number(&self, n: usize) -> Result<u64, Fault> {
        let word = self.arg(n);
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let number = if digits { word.parse::<i64>().ok() } else { None };
        number.and_then(|number| u64::try_from(number).ok()).ok_or_else(|| self.invalid(n, "invalid number"))
    }

    /// Bytes with `k` or `m`.
    pub fn size(&self, n: usize) -> Result<usize, Fault> {
        let size = units::size(self.arg(n)).and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.invalid(n, "invalid value"))
    }

    /// Bytes with `k`, `m` or `g`.
    pub fn offset(&self, n: usize) -> Result<u64, Fault> {
        units::offset(self.arg(n)).ok_or_else(|| self.invalid(n, "invalid value"))
    }

    /// A time in milliseconds; a bare number counts seconds.
    pub fn time(&self, n: usize) -> Result<Duration, Fault> {
        let time = units::milliseconds(self.arg(n)).map(Duration::from_millis);
        time.ok_or_else(|| self.invalid(n, "invalid value"))
    }

    /// A time in whole seconds.
    pub fn seconds(&self, n: usize) -> Result<Duration, Fault> {
        let time = units::seconds(self.arg(n)).map(Duration::from_secs);
        time.ok_or_else(|| self.invalid(n, "invalid value"))
    }

    /// `number size`: how many buffers, and how large each is.
    pub fn buffers(&self) -> Result<Buffers, Fault> {
        let number = self.number(0).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| self.invalid(0, "invalid value"))?;
        let size = self.size(1)?;
        if size == 0 {
            return Err(self.invalid(1, "invalid value"));
        }
        Ok(Buffers { number: usize::try_from(number).unwrap_or(usize::MAX), size })
    }

    /// Argument `n` with its variables.
    pub fn template(&self, n: usize) -> Result<Template, Fault> {
        self.compile(n, self.arg(n))
    }

    /// A part of argument `n` with its variables: what follows `if=`, say.
    pub fn compile(&self, n: usize, part: &str) -> Result<Template, Fault> {
        let at = self.args().get(n).map_or(self.at(), |word| &word.at);
        Template::new(part, &self.cx.names).map_err(|fault| fault.or_at(at))
    }

    /// The variable that argument `n` names: the word without its `$`.
    pub fn variable(&self, n: usize) -> Result<&'a str, Fault> {
        let word = self.arg(n);
        match word.strip_prefix('$') {
            Some(name) if !name.is_empty() => Ok(name),
            _ => Err(self.fault(n, format!("invalid variable name \"{word}\""))),
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, n: usize, choices: &[(&str, T)]) -> Result<T, Fault> {
        let word = self.arg(n);
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map(|(_, value)| *value).ok_or_else(|| self.invalid_value(n))
    }

    /// The thread pool that argument `n` asks for; whether there is one shows at the end.
    pub fn pool(&self, n: usize, name: &str) -> Arc<Pool> {
        let at = self.args().get(n).map_or(self.at(), |word| &word.at);
        self.cx.pool_places.borrow_mut().entry(name.to_owned()).or_insert_with(|| at.clone());
        self.cx.pools.named(name)
    }

    /// One `error_log` directive.
    pub fn error_log(&self) -> Result<Entry, Fault> {
        let texts: Vec<&str> = self.texts().collect();
        let path = |name: &str| self.cx.path(name);
        let syslog = syslog::Reader { address: &syslog_address, hostname: &self.cx.hostname };
        let reader = Reader { sinks: &self.cx.sinks, path: &path, syslog };
        Entry::parse(&texts, &reader).map_err(|sentence| self.fault(0, sentence))
    }

    /// A path below `prefix`.
    pub fn path(&self, n: usize, prefix: &Path) -> PathBuf {
        prefix.join(text::path(self.arg(n)))
    }
}

/// `number size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    pub number: usize,
    pub size: usize,
}

impl Buffers {
    pub fn total(self) -> usize {
        self.number.saturating_mul(self.size)
    }
}

/// `host`, `host:port`, `[::1]:port` or `unix:path`, as `syslog:server=` takes it.
pub fn syslog_address(word: &str) -> Result<syslog::Address, String> {
    if let Some(path) = word.strip_prefix("unix:") {
        return Ok(syslog::Address::Unix(text::path(path)));
    }
    let bracketed = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let found = match word.to_socket_addrs() {
        Ok(found) => Ok(found),
        Err(_) => (bracketed.unwrap_or(word), syslog::DEFAULT_PORT).to_socket_addrs(),
    };
    let first = found.ok().and_then(|mut found| found.next());
    first.map(syslog::Address::Udp).ok_or_else(|| "host not found".to_owned())
}
