//! Processes: the command line, the master that keeps, the worker that serves.
//!
//! ```text
//! main ─► cli ─► Draft::read ─► Draft::open ─► daemonise, pid file ─► master ─► fork ─► worker ─► crew of threads
//!                    │              │                                   │  ▲               │
//!                    └ -s: signal   └ -t: done                  HUP ────┘  └── Taken ──────┘ Reload: Draft::adopt
//! ```

pub mod channel;
pub mod cli;
pub mod core;
pub mod crew;
pub mod explain;
pub mod features;
pub mod generation;
mod heap;
pub mod inherit;
pub mod logs;
pub mod master;
pub mod notify;
pub mod pidfile;
pub mod report;
pub mod sandbox;
pub mod serve;
pub mod signal;
mod syscalls;
pub mod turn;
pub mod worker;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use cli::{Invocation, Options, Task};
use generation::{Draft, Generation};
use inherit::Inherited;
use master::Upgrade;
use worker::Start;

use crate::base::{os, release};
use crate::conf::error::Fault;
use crate::conf::source::Source;
use crate::log::{Context, ErrorLog, Level, Sinks, error};
use crate::net::listen::Purpose;
use crate::net::tls::ktls;

/// The program: what the arguments ask for, and how it went.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let environment = std::env::vars_os().collect();
    release::started_as(arguments.first().map(OsString::as_os_str).unwrap_or_default());
    if arguments.get(1).is_some_and(|first| first == "serve") {
        return serve::main(&arguments, environment);
    }
    if arguments.get(1).is_some_and(|first| first == "logs") {
        return logs::main(&arguments);
    }
    if arguments.get(1).is_some_and(|first| first == "explain") {
        return explain::main(&arguments);
    }
    let options = match cli::parse(arguments.iter().skip(1).cloned()) {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::TellAndRun(told, options)) => {
            eprint!("{told}");
            options
        }
        Ok(Invocation::Tell(told)) => {
            eprint!("{told}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };

    let (start, inherited, log) = begin(options, &arguments, environment);
    match start.options.task {
        Task::Test { dump, quiet } => test(&start, dump, quiet, &log),
        Task::Signal(signal) => match read(&start, &mut start.options.source(), &log) {
            Some(draft) => ExitCode::from(master::signal(signal, &draft.settings.pid, &log)),
            None => ExitCode::FAILURE,
        },
        Task::Serve => match prepare(&start, inherited, log) {
            Ok(generation) => run(start, generation),
            Err(NotStarted) => ExitCode::FAILURE,
        },
    }
}

/// Everything that comes before the configuration.
fn begin(
    options: Options,
    arguments: &[OsString],
    mut environment: Vec<(OsString, OsString)>,
) -> (Start, Inherited, ErrorLog) {
    let inherited = match options.task {
        Task::Serve => {
            heap::enlarge(arguments, &mut environment);
            inherit::take(&mut environment)
        }
        Task::Test { .. } | Task::Signal(_) => Inherited::default(),
    };
    let title = os::Title::claim();
    let sinks = Sinks::new();
    let log = ErrorLog::startup(&sinks, options.error_log().as_deref());
    error::set_main(log.clone());
    let start = Start {
        options,
        sinks,
        title,
        program: program(arguments),
        arguments: arguments.to_vec(),
        upgrade: Upgrade { from: inherited.from, parent: nix::unistd::getppid() },
        manager: notify::Manager::of(&environment),
        environment,
    };
    (start, inherited, log)
}

/// The file that this program was started from. A name without a slash was found by a shell, which is not there when
/// the binary changes.
fn program(arguments: &[OsString]) -> PathBuf {
    let name = arguments.first().map(PathBuf::from).unwrap_or_default();
    match name.components().count() {
        0 | 1 => std::env::current_exe().unwrap_or(name),
        _ => name,
    }
}

/// The reason is told already.
struct NotStarted;

/// Reads the configuration; says why not.
fn read(start: &Start, source: &mut Source, log: &ErrorLog) -> Option<Draft> {
    let Start { options, sinks, .. } = start;
    let syntax_is_ok = || {
        if matches!(options.task, Task::Test { quiet: false, .. }) {
            eprintln!("nginx: the configuration file {} syntax is ok", options.conf_file().display());
        }
    };
    match Draft::read(options, source, sinks, syntax_is_ok) {
        Ok(draft) => {
            report::warnings(&draft.warnings, log);
            Some(draft)
        }
        Err(refused) => {
            report::refused(&refused, source, log);
            None
        }
    }
}

/// `-t` and `-T`.
fn test(start: &Start, dump: bool, quiet: bool, log: &ErrorLog) -> ExitCode {
    let mut source = start.options.source();
    let file = start.options.conf_file();
    let file = file.display();
    let tested = read(start, &mut source, log).is_some_and(|draft| {
        let opened =
            pidfile::test(&draft.settings.pid).and_then(|()| draft.open(1, &[], Purpose::Test, &start.sinks, log));
        // The process ends here: taking ten thousand locations apart would be work for nobody.
        opened.map(std::mem::forget).map_err(|fault| report::fault(&fault, &source, log)).is_ok()
    });
    if !tested {
        eprintln!("nginx: configuration file {file} test failed");
        return ExitCode::FAILURE;
    }
    if !quiet {
        eprintln!("nginx: configuration file {file} test is successful");
    }
    if dump {
        // Whoever asked may have stopped reading.
        let _ = std::io::stdout().write_all(&source.dump());
    }
    ExitCode::SUCCESS
}

/// Everything until the server can be said to have started. `log` is the one until then; its file is closed at the end.
fn prepare(start: &Start, inherited: Inherited, log: ErrorLog) -> Result<Generation, NotStarted> {
    let from = inherited.from;
    let inherited = inherited.listeners(&log);
    let mut source = start.options.source();
    let draft = read(start, &mut source, &log).ok_or(NotStarted)?;
    let (daemon, pid) = (draft.settings.daemon, draft.settings.pid.clone());
    let opened = draft.open(1, &inherited, Purpose::Serve, &start.sinks, &log);
    drop(inherited);
    let refuse = |fault: Fault, log: &ErrorLog| {
        report::fault(&fault, &source, log);
        NotStarted
    };
    let generation = opened.map_err(|fault| refuse(fault, &log))?;
    let log = &generation.log;
    error::set_main(log.clone());
    tell_system(log);

    // From here on a signal waits until someone takes it.
    signal::block().map_err(|code| refuse(Fault::new(format!("sigprocmask() failed ({code})")), log))?;
    // nginx: a new binary stays the child of the old one, which is a daemon already or was not to be one
    if daemon && from != inherit::From::OldBinary {
        os::daemonise().map_err(|error| refuse(Fault::new(format!("daemon() failed: {error}")), log))?;
    }
    pidfile::create(&pid).map_err(|fault| refuse(fault, log))?;
    master::redirect(&generation);
    error::leave_console();
    Ok(generation)
}

fn run(start: Start, generation: Generation) -> ! {
    if generation.settings.master_process {
        master::run(start, generation)
    } else {
        worker::run_alone(start, std::sync::Arc::new(generation))
    }
}

/// What one wants to know of a machine when reading its log.
fn tell_system(log: &ErrorLog) {
    let say = |message: String| log.write(Level::Notice, &Context::default(), format_args!("{message}"));
    say("using the \"epoll\" event method".to_owned());
    say(format!("weir/{}", env!("CARGO_PKG_VERSION")));
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        say(format!("OS: Linux {}", release.trim_end()));
    }
    match ktls::found() {
        Some(true) => say("kTLS: the kernel has it, large files over TLS are sent by sendfile".to_owned()),
        Some(false) => say("kTLS: the kernel does not have it".to_owned()),
        None => {} // no server speaks TLS
    }
    if let Ok((soft, hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        say(format!("getrlimit(RLIMIT_NOFILE): {soft}:{hard}"));
    }
}
