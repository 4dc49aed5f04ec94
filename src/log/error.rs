//! The error log: levels, where each goes, and the handle that every request carries.
//!
//! In: a level, what the line is about ([`Context`]), a message. Out: nginx's line in every log of the scope whose level
//! admits it, and during start-up also on the console.
//!
//! Rules: a level that is off costs one compare; [`main`] is the log of whoever has no request: libraries, the writer
//! thread, syslog.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::layer;
use super::line::Line;
use super::sink::{Sink, Sinks};
use super::syslog;

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
    const ALL: [Self; 8] = [
        Self::Emerg,
        Self::Alert,
        Self::Crit,
        Self::Error,
        Self::Warn,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

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
        Self::ALL
            .into_iter()
            .find(|&level| level as u64 == number)
            .unwrap_or(Self::Error)
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
        Ok(Self {
            threshold: threshold(levels)?,
            output,
        })
    }

    pub fn file(sink: Arc<Sink>, level: Level) -> Self {
        let threshold = if level == Level::Debug {
            DEBUG_ALL
        } else {
            level as Threshold
        };
        Self {
            threshold,
            output: Output::File(sink),
        }
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
    Ok(if threshold == Level::Debug as Threshold {
        DEBUG_ALL
    } else {
        threshold
    })
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
        Self {
            threshold,
            logs: Arc::new(logs),
            debugging: false,
        }
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
            self.emit(
                Level::Debug,
                &Context {
                    conn,
                    ..Context::default()
                },
                0,
                message,
            );
        }
    }

    /// The same logs, taking everything: `debug_connection`.
    pub fn debugging(&self) -> Self {
        Self {
            threshold: DEBUG_ALL,
            logs: self.logs.clone(),
            debugging: true,
        }
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
        for log in self
            .logs
            .iter()
            .take_while(|log| log.threshold >= level as Threshold || self.debugging)
        {
            match &log.output {
                Output::File(sink) => {
                    sink.write(line.bytes());
                    on_stderr |= sink.is_stderr();
                }
                Output::Syslog(peer) => peer.send_error(level, line.bytes()),
            }
        }
        if level <= Level::Warn && !on_stderr && CONSOLE.load(Ordering::Relaxed) {
            let mut text = format!("nginx: [{level}] ").into_bytes();
            text.extend_from_slice(line.message());
            // Who started the server may have closed its stderr.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), &text);
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

/// ` (2: No such file or directory)`, as nginx prints an errno; nothing for 0.
pub fn errno_text(errno: i32) -> impl fmt::Display {
    std::fmt::from_fn(move |f| {
        if errno == 0 {
            return Ok(());
        }
        // The standard library adds the number in its own words.
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text);
        let text = if text.starts_with("Unknown error") {
            "Unknown error"
        } else {
            text
        };
        write!(f, " ({errno}: {text})")
    })
}
