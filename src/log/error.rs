//! The error log: levels, where each goes, and the handle that every request carries.
//!
//! In: a level, what the line is about ([`Context`]), a message. Out: nginx's line in every log of the scope whose level
//! admits it, and during start-up also on the console.
//!
//! Rules: a level that is off costs one compare; [`main`] is the log of whoever has no request: libraries, the writer
//! thread, syslog.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::layer;
use super::line::Line;
use super::sink::{Sink, Sinks};
use super::syslog;
use crate::base::text;

/// How bad it is, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Emerg = 1,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

impl Level {
    const ALL: [Self; 8] =
        [Self::Emerg, Self::Alert, Self::Crit, Self::Error, Self::Warn, Self::Notice, Self::Info, Self::Debug];

    pub fn name(self) -> &'static str {
        match self {
            Self::Emerg => "emerg",
            Self::Alert => "alert",
            Self::Crit => "crit",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    pub(super) fn of(number: u64) -> Self {
        Self::ALL.into_iter().find(|&level| level as u64 == number).unwrap_or(Self::Error)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a debug line is about: `error_log … debug_http` writes the lines of one part only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    Core = 0x010,
    Alloc = 0x020,
    Mutex = 0x040,
    Event = 0x080,
    Http = 0x100,
    Mail = 0x200,
    Stream = 0x400,
}

/// A level, or `debug_…` bits, as one number: nginx compares and sorts logs by it.
type Threshold = u32;

const DEBUG_ALL: Threshold = 0x7fff_fff0;

/// What a line is about. Fields that are `None` or empty are left out; the order is nginx's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The connection's number; 0: none.
    pub conn: u64,
    /// ` while …`
    pub action: &'a str,
    /// The client is one of a datagram session.
    pub udp: bool,
    pub client: Option<&'a [u8]>,
    pub server: Option<&'a [u8]>,
    /// mail: the user's name.
    pub login: Option<&'a [u8]>,
    pub request: Option<&'a [u8]>,
    pub subrequest: Option<&'a [u8]>,
    pub upstream: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    pub referrer: Option<&'a [u8]>,
    /// Fields of one kind of session, finished, each with its `, `: `, bytes from/to client:1/2, …`.
    pub session: &'a [u8],
}

/// The error logs of one scope: a cheap handle, cloned into locations and requests.
#[derive(Clone)]
pub struct ErrorLog {
    /// The highest threshold of all entries, beside the handle so that an idle level touches no other memory.
    threshold: Threshold,
    logs: Arc<Vec<Entry>>,
    /// `debug_connection`: everything, for one connection.
    debugging: bool,
}

/// One `error_log` directive.
#[derive(Clone)]
pub struct Entry {
    threshold: Threshold,
    output: Output,
}

#[derive(Clone)]
enum Output {
    File(Arc<Sink>),
    Syslog(Arc<syslog::Peer>),
}

/// What reading an `error_log` directive needs from outside.
pub struct Reader<'a> {
    pub sinks: &'a Sinks,
    /// Makes a file's name absolute by the prefix.
    pub path: &'a dyn Fn(&str) -> PathBuf,
    pub syslog: syslog::Reader<'a>,
}

impl Entry {
    /// Reads the words after `error_log`. The error is nginx's sentence.
    pub fn parse(words: &[&str], reader: &Reader<'_>) -> Result<Self, String> {
        let Some((&name, levels)) = words.split_first() else {
            return Err("invalid number of arguments in \"error_log\" directive".into());
        };
        let output = if name == "stderr" {
            Output::File(reader.sinks.stderr())
        } else if name.starts_with("memory:") {
            return Err("nginx was built without debug support".into());
        } else if let Some(words) = name.strip_prefix("syslog:") {
            Output::Syslog(Arc::new(syslog::Peer::parse(words, &reader.syslog)?))
        } else {
            Output::File(reader.sinks.file(&(reader.path)(name)))
        };
        Ok(Self { threshold: threshold(levels)?, output })
    }

    pub fn file(sink: Arc<Sink>, level: Level) -> Self {
        let threshold = if level == Level::Debug { DEBUG_ALL } else { level as Threshold };
        Self { threshold, output: Output::File(sink) }
    }
}

fn threshold(words: &[&str]) -> Result<Threshold, String> {
    if words.is_empty() {
        return Ok(Level::Error as Threshold);
    }
    let mut threshold = 0;
    for &word in words {
        if let Some(level) = Level::ALL.into_iter().find(|level| level.name() == word) {
            if threshold != 0 {
                return Err(format!("duplicate log level \"{word}\""));
            }
            threshold = level as Threshold;
            continue;
        }
        // The words of a part may stand side by side, but not beside a level.
        match DEBUG_PARTS.iter().find(|(name, _)| *name == word) {
            Some(&(_, part)) if threshold & !DEBUG_ALL == 0 => threshold |= part as Threshold,
            _ => return Err(format!("invalid log level \"{word}\"")),
        }
    }
    Ok(if threshold == Level::Debug as Threshold { DEBUG_ALL } else { threshold })
}

const DEBUG_PARTS: [(&str, Part); 7] = [
    ("debug_core", Part::Core),
    ("debug_alloc", Part::Alloc),
    ("debug_mutex", Part::Mutex),
    ("debug_event", Part::Event),
    ("debug_http", Part::Http),
    ("debug_mail", Part::Mail),
    ("debug_stream", Part::Stream),
];

impl ErrorLog {
    pub fn new(mut logs: Vec<Entry>) -> Self {
        logs.sort_by_key(|log| std::cmp::Reverse(log.threshold));
        let threshold = logs.first().map_or(0, |log| log.threshold);
        Self { threshold, logs: Arc::new(logs), debugging: false }
    }

    /// The log of the main scope: when `logs` names no file, `default` is one more, at level error.
    pub fn of_main(mut logs: Vec<Entry>, default: impl FnOnce() -> Arc<Sink>) -> Self {
        if !logs.iter().any(|log| matches!(log.output, Output::File(_))) {
            logs.push(Entry::file(default(), Level::Error));
        }
        Self::new(logs)
    }

    /// The log before any configuration is read: the file of `-e` or the built-in one, at level notice. A file that
    /// cannot be opened is named on stderr, which then takes its place. `None`: stderr was asked for.
    pub fn startup(sinks: &Sinks, file: Option<&Path>) -> Self {
        let sink = file.map_or_else(
            || sinks.stderr(),
            |path| {
                let sink = sinks.file(path);
                match sinks.open() {
                    Ok(()) => sink,
                    Err(e) => {
                        sinks.abandon();
                        eprintln!("nginx: [alert] could not open error log file: {e}");
                        sinks.stderr()
                    }
                }
            },
        );
        Self::new(vec![Entry::file(sink, Level::Notice)])
    }

    /// A log that keeps nothing, for tests and for objects that have no scope yet.
    pub fn none() -> Self {
        Self::new(Vec::new())
    }

    /// Whether a line of `level` goes anywhere.
    #[inline]
    pub fn on(&self, level: Level) -> bool {
        self.threshold >= level as Threshold
    }

    /// Whether debug lines about `part` go anywhere.
    #[inline]
    pub fn debugs(&self, part: Part) -> bool {
        self.threshold & part as Threshold != 0
    }

    /// Writes a line.
    #[inline]
    pub fn write(&self, level: Level, context: &Context<'_>, message: fmt::Arguments<'_>) {
        if self.on(level) {
            self.emit(level, context, 0, message);
        }
    }

    /// Writes a line about a failed call; `errno` 0 is none.
    #[inline]
    pub fn write_os(&self, level: Level, context: &Context<'_>, errno: i32, message: fmt::Arguments<'_>) {
        if self.on(level) {
            self.emit(level, context, errno, message);
        }
    }

    /// Writes a debug line, which has no context but the connection.
    #[inline]
    pub fn debug(&self, part: Part, conn: u64, message: fmt::Arguments<'_>) {
        if self.debugs(part) {
            self.emit(Level::Debug, &Context { conn, ..Context::default() }, 0, message);
        }
    }

    /// The same logs, taking everything: `debug_connection`.
    pub fn debugging(&self) -> Self {
        Self { threshold: DEBUG_ALL, logs: self.logs.clone(), debugging: true }
    }

    /// Whether one of the logs is the file at `path`.
    pub fn contains(&self, path: &Path) -> bool {
        self.files().any(|sink| sink.path() == path)
    }

    /// The files, the one with the most lines first. Stderr is among them, with an empty path.
    pub fn files(&self) -> impl Iterator<Item = &Arc<Sink>> {
        self.logs.iter().filter_map(|log| match &log.output {
            Output::File(sink) => Some(sink),
            Output::Syslog(_) => None,
        })
    }

    #[cold]
    fn emit(&self, level: Level, context: &Context<'_>, errno: i32, message: fmt::Arguments<'_>) {
        layer::emit(self, level, context, errno, message);
    }

    /// Writes a finished line to every log that takes its level.
    pub(super) fn deliver(&self, level: Level, line: &Line) {
        let mut on_stderr = false;
        for log in self.logs.iter().take_while(|log| log.threshold >= level as Threshold || self.debugging) {
            match &log.output {
                Output::File(sink) => {
                    sink.write(line.bytes());
                    on_stderr |= sink.is_stderr();
                }
                Output::Syslog(peer) => peer.send_error(level, line.bytes()),
            }
        }
        if level <= Level::Warn && !on_stderr && CONSOLE.load(Ordering::Relaxed) {
            // Who started the server may have closed its stderr.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), &line.for_console(level));
        }
    }
}

/// While set, lines of level warn and worse are also shown on stderr: until the server has started.
static CONSOLE: AtomicBool = AtomicBool::new(true);

/// Ends the showing of lines on stderr.
pub fn leave_console() {
    CONSOLE.store(false, Ordering::Relaxed);
}

static MAIN: ArcSwapOption<ErrorLog> = ArcSwapOption::const_empty();

/// The main scope's log, once there is one.
pub fn main() -> Option<ErrorLog> {
    MAIN.load().as_deref().cloned()
}

/// Writes to the main scope's log that a system call failed which no request is to blame for. The log is asked for anew each
/// time: a thread that kept one would keep its file open over reloads.
#[cold]
pub fn call_failed(level: Level, error: &io::Error, call: &str) {
    if let Some(log) = main() {
        log.write_os(level, &Context::default(), error.raw_os_error().unwrap_or(0), format_args!("{call} failed"));
    }
}

/// Puts `log` in force as the main scope's, also for what libraries say.
pub fn set_main(log: ErrorLog) {
    layer::install();
    MAIN.store(Some(Arc::new(log)));
}

/// Bytes in a message, kept as they are: a path, a header field. Displays them in the way of `base::text`.
pub struct Raw<'a>(pub &'a [u8]);

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => f.write_str(&crate::base::text::decode(self.0)),
        }
    }
}

/// ` (2: No such file or directory)`, as nginx prints an errno behind a message; nothing for 0.
pub fn errno_text(errno: i32) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        if errno == 0 {
            return Ok(());
        }
        write!(f, " {}", text::errno(&std::io::Error::from_raw_os_error(errno)))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;
    use crate::log::line::MAX_LINE;

    /// The main log is one for the process; tests that set it do so one after the other.
    pub(in crate::log) fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        crate::log::writer::lock(&ONE)
    }

    /// A log in a file of its own, and a way to read its lines, each without date, pid and tid.
    pub(in crate::log) struct Kept {
        directory: tempfile::TempDir,
        sinks: Sinks,
    }

    impl Kept {
        pub(in crate::log) fn new() -> Self {
            leave_console();
            Self { directory: tempfile::tempdir().expect("a directory"), sinks: Sinks::new() }
        }

        pub(in crate::log) fn entry(&self, name: &str, level: Level) -> Entry {
            let sink = self.sinks.file(&self.directory.path().join(name));
            self.sinks.open().expect("a new file opens");
            Entry::file(sink, level)
        }

        pub(in crate::log) fn log(&self, level: Level) -> ErrorLog {
            ErrorLog::new(vec![self.entry("error.log", level)])
        }

        pub(in crate::log) fn raw(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.directory.path().join(name)).expect("the log is there")
        }

        pub(in crate::log) fn lines(&self, name: &str) -> Vec<String> {
            let text = crate::base::text::decode(&self.raw(name));
            text.lines().map(|line| line[20..].replacen(&identity(), "", 1)).collect()
        }
    }

    fn identity() -> String {
        format!(" {}#{}:", std::process::id(), nix::unistd::gettid())
    }

    fn request() -> Context<'static> {
        Context {
            conn: 17,
            client: Some(b"127.0.0.1"),
            server: Some(b"example.com"),
            request: Some(b"GET /up/y HTTP/1.1"),
            host: Some(b"127.0.0.1:18080"),
            ..Context::default()
        }
    }

    /// What nginx 1.31.5 wrote on the same occasions.
    #[test]
    fn lines_have_the_shape_of_nginx() {
        let kept = Kept::new();
        let log = kept.log(Level::Info);
        let missing = Context { referrer: Some(b"http://r/"), ..request() };
        log.write_os(Level::Error, &missing, 2, format_args!("open() \"/html/nope\" failed"));
        let refused = Context {
            action: "connecting to upstream",
            upstream: Some(b"http://127.0.0.1:1/x/y"),
            subrequest: Some(b"/sub"),
            ..request()
        };
        log.write_os(Level::Error, &refused, 111, format_args!("connect() failed"));
        let nameless = Context { server: Some(b""), request: Some(b"G\x01ET / HTTP/1.0"), host: None, ..request() };
        log.write(Level::Info, &nameless, format_args!("client sent invalid method"));
        let stray = Context { request: Some(b"GET /\xff\xfe HTTP/1.0"), host: Some(b"a\xffb"), ..request() };
        log.write(Level::Warn, &stray, format_args!("{}", Raw(b"at \xff")));
        log.write(Level::Notice, &Context::default(), format_args!("exit"));
        let session = b", bytes from/to client:5/4, bytes from/to upstream:4/5";
        let datagram = Context { udp: true, request: None, host: None, session, upstream: Some(b"u"), ..request() };
        log.write(Level::Info, &datagram, format_args!("udp client disconnected"));
        let mail = Context { login: Some(b"me"), request: None, host: None, ..request() };
        log.write(Level::Info, &mail, format_args!("client logged in"));
        let expected = [
            r#"[error] *17 open() "/html/nope" failed (2: No such file or directory), client: 127.0.0.1, server: example.com, request: "GET /up/y HTTP/1.1", host: "127.0.0.1:18080", referrer: "http://r/""#,
            r#"[error] *17 connect() failed (111: Connection refused) while connecting to upstream, client: 127.0.0.1, server: example.com, request: "GET /up/y HTTP/1.1", subrequest: "/sub", upstream: "http://127.0.0.1:1/x/y", host: "127.0.0.1:18080""#,
            "[info] *17 client sent invalid method, client: 127.0.0.1, server: , request: \"G\u{1}ET / HTTP/1.0\"",
            "[warn] *17 at \u{10ffff}, client: 127.0.0.1, server: example.com, request: \"GET /\u{10ffff}\u{10fffe} HTTP/1.0\", host: \"a\u{10ffff}b\"",
            "[notice] exit",
            r#"[info] *17 udp client disconnected, udp client: 127.0.0.1, server: example.com, upstream: "u", bytes from/to client:5/4, bytes from/to upstream:4/5"#,
            r#"[info] *17 client logged in, client: 127.0.0.1, server: example.com, login: "me""#,
        ];
        for (line, expected) in kept.lines("error.log").iter().zip(expected) {
            assert_eq!(line, expected);
        }
        assert_eq!(kept.lines("error.log").len(), expected.len());
        // The bytes themselves, not what stands for them in text.
        assert!(
            memchr::memmem::find(&kept.raw("error.log"), b"\"GET /\xff\xfe HTTP/1.0\", host: \"a\xffb\"").is_some()
        );
    }

    #[test]
    fn long_lines_are_cut_where_nginx_cuts() {
        let kept = Kept::new();
        let log = kept.log(Level::Error);
        let long = "a".repeat(3000);
        log.write(Level::Error, &request(), format_args!("{long}"));
        log.write_os(Level::Error, &request(), 36, format_args!("{long}"));
        let host = Context { host: Some(long.as_bytes()), ..request() };
        log.write(Level::Error, &host, format_args!("m"));
        let raw = kept.raw("error.log");
        let lines: Vec<&[u8]> = raw.split_inclusive(|&byte| byte == b'\n').collect();
        assert_eq!(lines.iter().map(|line| line.len()).collect::<Vec<_>>(), [MAX_LINE; 3]);
        assert!(lines[0].ends_with(b"aaa\n"));
        assert!(lines[1].ends_with(b"aaa... (36: File name too long), client: 127.0.0.1, \n"), "as nginx's line ends");
        assert!(lines[2].ends_with(b"aaa\n"));
    }

    #[test]
    fn the_console_sees_the_message() {
        let mut line = Line::default();
        line.begin(Level::Emerg, 17);
        line.format(format_args!("no \"events\" section in configuration"));
        line.end();
        let expected = "nginx: [emerg] no \"events\" section in configuration\n";
        assert_eq!(String::from_utf8_lossy(&line.for_console(Level::Emerg)), expected);
    }

    #[test]
    fn each_log_takes_its_levels() {
        let kept = Kept::new();
        let logs =
            vec![kept.entry("warn", Level::Warn), kept.entry("info", Level::Info), kept.entry("emerg", Level::Emerg)];
        let log = ErrorLog::new(logs);
        assert!(log.on(Level::Info) && !log.on(Level::Debug) && !log.debugs(Part::Http));
        for level in [Level::Emerg, Level::Warn, Level::Info, Level::Debug] {
            log.write(level, &Context::default(), format_args!("at {level}"));
        }
        log.debug(Part::Http, 1, format_args!("never"));
        assert_eq!(kept.lines("emerg"), ["[emerg] at emerg"]);
        assert_eq!(kept.lines("warn"), ["[emerg] at emerg", "[warn] at warn"]);
        assert_eq!(kept.lines("info"), ["[emerg] at emerg", "[warn] at warn", "[info] at info"]);
        log.debugging().debug(Part::Http, 7, format_args!("one connection"));
        for name in ["emerg", "warn", "info"] {
            assert_eq!(kept.lines(name).last().map(String::as_str), Some("[debug] *7 one connection"));
        }
    }

    #[test]
    fn a_level_that_is_off_formats_nothing() {
        let kept = Kept::new();
        let untouched = fmt::from_fn(|_| panic!("formatted"));
        kept.log(Level::Error).write(Level::Warn, &request(), format_args!("{untouched}"));
        kept.log(Level::Info).debug(Part::Core, 0, format_args!("{untouched}"));
        ErrorLog::none().write(Level::Emerg, &request(), format_args!("{untouched}"));
    }

    fn parse(words: &[&str]) -> Result<Entry, String> {
        let sinks = Sinks::new();
        let path = |name: &str| Path::new("/nonexistent").join(name);
        let syslog = syslog::Reader { address: &syslog::address, hostname: "host" };
        Entry::parse(words, &Reader { sinks: &sinks, path: &path, syslog })
    }

    /// The sentences are those of nginx 1.31.5.
    #[test]
    fn directives() {
        let good: &[(&[&str], Threshold)] = &[
            (&["f"], 4),
            (&["f", "emerg"], 1),
            (&["stderr", "info"], 7),
            (&["f", "debug"], DEBUG_ALL),
            (&["f", "debug_http"], 0x100),
            (&["f", "debug_http", "debug_core"], 0x110),
            (&["syslog:server=127.0.0.1", "crit"], 3),
        ];
        for (words, expected) in good {
            assert_eq!(parse(words).map(|entry| entry.threshold), Ok(*expected), "{words:?}");
        }
        let bad: &[(&[&str], &str)] = &[
            (&["f", "json"], "invalid log level \"json\""),
            (&["f", "stderr"], "invalid log level \"stderr\""),
            (&["f", "error", "debug_http"], "invalid log level \"debug_http\""),
            (&["f", "debug_http", "error"], "duplicate log level \"error\""),
            (&["f", "warn", "warn"], "duplicate log level \"warn\""),
            (&["memory:32k", "debug"], "nginx was built without debug support"),
            (&["syslog:", "debug"], "unknown syslog parameter \"\""),
        ];
        for (words, sentence) in bad {
            assert_eq!(parse(words).map(|entry| entry.threshold), Err((*sentence).to_owned()), "{words:?}");
        }
    }

    #[test]
    fn parts_of_debug() {
        let log = ErrorLog::new(vec![parse(&["f", "debug_http"]).expect("a good one")]);
        assert!(log.debugs(Part::Http) && !log.debugs(Part::Event));
        assert!(log.on(Level::Info), "nginx compares numbers: the bit of a part is above every level");
    }

    #[test]
    fn the_main_scope_always_has_a_file() {
        let kept = Kept::new();
        let Entry { output: Output::File(default), .. } = kept.entry("default", Level::Error) else { unreachable!() };
        let with_file = ErrorLog::of_main(vec![kept.entry("own", Level::Info)], || unreachable!("there is a file"));
        assert!(!with_file.contains(default.path()));
        let entry = parse(&["syslog:server=127.0.0.1", "crit"]).expect("a good one");
        let log = ErrorLog::of_main(vec![entry], || default.clone());
        assert!(log.contains(default.path()) && log.on(Level::Error) && !log.on(Level::Warn));
    }

    #[test]
    fn libraries_speak_to_the_main_log() {
        let _alone = alone();
        let kept = Kept::new();
        set_main(kept.log(Level::Warn));
        tracing::warn!(target: "library::part", size = 7, name = "x", "said {}", 1);
        tracing::error!(target: "library", "worse");
        tracing::info!(target: "library", "no news");
        set_main(kept.log(Level::Error));
        tracing::warn!(target: "library", "not any more");
        assert_eq!(kept.lines("error.log"), ["[warn] library::part: said 1 size=7 name=x", "[error] library: worse"]);
    }
}
