//! The worker process: gives up its privileges, starts its threads, and does what the master or a signal says.
//!
//! The first thread runs no event loop: it waits for the master's messages, for signals, and for its threads to end.
//! A new configuration is read here, too, so that no client waits for it.
//!
//! Without a master (`master_process off`) the same thread does what the master would: see [`Alone`].

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use super::channel::{Channel, Kind, Message, Received};
use super::cli::Options;
use super::crew::Crew;
use super::generation::{Draft, Generation, Handover};
use super::master::{self, Upgrade};
use super::notify;
use super::pidfile;
use super::signal::Signals;
use crate::base::os::{self, Title};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::source::Source;
use crate::log::{Context, ErrorLog, Level, Sinks, error};
use crate::net::accept::Serve;
use crate::net::crowd::Life;

/// The exit code of what another worker would run into as well; nginx's master starts none then.
const FATAL: i32 = 2;
/// How long a thread that is stuck delays the end of the process.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(10);

/// How often it is looked whether a generation that ended is still in use.
const LOOK: Duration = Duration::from_secs(1);

/// What the master is told of a fault; it takes little more.
const REASON: usize = 2048;

/// What the process has from its start.
pub struct Start {
    pub options: Options,
    pub sinks: Sinks,
    pub title: Option<Title>,
    /// The environment that the first process was given, without what is said to it alone.
    pub environment: Vec<(OsString, OsString)>,
    /// The program's file and its arguments, the name first: what a change of the binary runs.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub upgrade: Upgrade,
    pub manager: notify::Manager,
}

/// Becomes a worker and stays one. Called in the forked child.
pub fn run(start: Start, generation: Arc<Generation>, channel: Channel) -> ! {
    if let Err(Stopped) = enter(&start, &generation) {
        std::process::exit(FATAL);
    }
    if let Some(title) = start.title {
        title.set("weir: worker process");
    }
    let mut worker = Worker::start(start, generation);
    let mut channel = Some(channel);
    loop {
        match worker.wait(channel.as_ref()) {
            Event::Ended => worker.exit(),
            Event::Signal => worker.signals(),
            Event::Time => {}
            Event::Message => {
                let Some(open) = &mut channel else { continue };
                match open.receive() {
                    Ok(Received::Message(message)) => worker.message(message, open),
                    // nginx: workers outlive a master that was killed, and go on serving
                    Ok(Received::End) => {
                        worker.say(Level::Alert, "the master process is gone, the worker process goes on");
                        channel = None;
                    }
                    Err(error) => {
                        worker.say(Level::Alert, &format!("the master's message is lost: {error}"));
                        channel = None;
                    }
                }
            }
        }
    }
}

/// Serves in this process, without a master: reloads by itself, and keeps the user it runs as, as nginx does.
pub fn run_alone(start: Start, generation: Arc<Generation>) -> ! {
    let environment = generation.settings.environment_from(&start.environment);
    if let Err(error) = os::set_environment(&environment) {
        generation.log.write(Level::Emerg, &Context::default(), format_args!("the environment was not set: {error}"));
        std::process::exit(FATAL);
    }
    let upgrade = start.upgrade;
    let mut worker = Worker::start(start, generation);
    worker.alone = true;
    worker.manager.ready();
    loop {
        match worker.wait(None) {
            Event::Ended => {
                worker.manager.stopping();
                pidfile::remove(&worker.generation.settings.pid, &worker.generation.log);
                master::leave_sockets(&worker.generation, &upgrade);
                worker.exit();
            }
            Event::Signal => worker.signals(),
            Event::Message | Event::Time => {}
        }
    }
}

struct Stopped;

/// Everything that a process can be given only at its start. The order is nginx's.
fn enter(start: &Start, generation: &Generation) -> Result<(), Stopped> {
    let Generation { settings, log, .. } = generation;
    let failed = |level, code: Errno, what: &str| {
        log.write_os(level, &Context::default(), code as i32, format_args!("{what} failed"));
        Stopped
    };
    if let Err(error) = os::set_environment(&settings.environment_from(&start.environment)) {
        log.write(Level::Emerg, &Context::default(), format_args!("the environment was not set: {error}"));
        return Err(Stopped);
    }
    if settings.worker_priority != 0
        && let Err(code) = rustix::process::setpriority_process(None, settings.worker_priority)
    {
        let code = Errno::from_raw(code.raw_os_error());
        failed(Level::Alert, code, &format!("setpriority({})", settings.worker_priority));
    }
    for (resource, name, limit) in [
        (Resource::RLIMIT_NOFILE, "NOFILE", settings.worker_rlimit_nofile),
        (Resource::RLIMIT_CORE, "CORE", settings.worker_rlimit_core),
    ] {
        if let Some(limit) = limit
            && let Err(code) = setrlimit(resource, limit, limit)
        {
            failed(Level::Alert, code, &format!("setrlimit(RLIMIT_{name}, {limit})"));
        }
    }
    if let Some(owner) = &settings.user
        && Uid::effective().is_root()
    {
        let (user, group) = (owner.user, owner.group);
        nix::unistd::setgid(group).map_err(|code| failed(Level::Emerg, code, &format!("setgid({group})")))?;
        if let Err(code) = nix::unistd::initgroups(&owner.name, group) {
            let name = owner.name.to_string_lossy();
            failed(Level::Emerg, code, &format!("initgroups({name}, {group})"));
        }
        nix::unistd::setuid(user).map_err(|code| failed(Level::Emerg, code, &format!("setuid({user})")))?;
    }
    // Nothing that this process could start may have more rights than it has.
    if let Err(code) = nix::sys::prctl::set_no_new_privs() {
        failed(Level::Alert, code, "prctl(PR_SET_NO_NEW_PRIVS)");
    }
    // A process that changed its user leaves no core otherwise.
    if let Err(code) = nix::sys::prctl::set_dumpable(true) {
        failed(Level::Alert, code, "prctl(PR_SET_DUMPABLE)");
    }
    if let Some(directory) = &settings.working_directory {
        let chdir = format!("chdir(\"{}\")", directory.display());
        nix::unistd::chdir(directory).map_err(|code| failed(Level::Alert, code, &chdir))?;
    }
    // Last, for what comes before is what it forbids.
    let confined = match &generation.sandbox {
        Some(sandbox) => sandbox.enter(),
        None => "worker process is not confined: \"worker_sandbox\" is off".to_owned(),
    };
    log.write(Level::Notice, &Context::default(), format_args!("{confined}"));
    Ok(())
}

/// What the first thread woke up for.
enum Event {
    /// All threads have ended.
    Ended,
    Signal,
    Message,
    Time,
}

struct Worker {
    options: Options,
    sinks: Sinks,
    title: Option<Title>,
    /// Spoken to only where there is no master to do it.
    manager: notify::Manager,
    crew: Crew,
    signals: Signals,
    generation: Arc<Generation>,
    /// Generations that end, and when those of their connections must go that are still there.
    draining: Vec<(Arc<Life>, Instant)>,
    /// What served by them, until nobody else has it: to take ten thousand locations apart takes a tenth of a second, which
    /// no client shall wait for.
    retired: Vec<Arc<dyn Serve>>,
    ending: Ending,
    alone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Not,
    Graceful,
    /// At the latest then, even if a thread is stuck.
    Now(Instant),
}

impl Worker {
    fn start(start: Start, generation: Arc<Generation>) -> Self {
        std::panic::set_hook(Box::new(log_panic));
        let log = &generation.log;
        let fatal = |what: &str, error: io::Error| -> ! {
            let code = error.raw_os_error().unwrap_or(0);
            log.write_os(Level::Emerg, &Context::default(), code, format_args!("{what} failed"));
            std::process::exit(FATAL)
        };
        let signals = Signals::open().unwrap_or_else(|code| fatal("signalfd()", code.into()));
        start.sinks.start_writers();
        let settings = &generation.settings;
        // A process without threads can only be the one without a master, where nginx does not count.
        let crew = Crew::start(settings.worker_processes.max(1), &settings.worker_cpu_affinity);
        let crew = crew.unwrap_or_else(|error| fatal("pthread_create()", error));
        generation.begin();
        crew.serve(&generation);
        let Start { options, sinks, title, manager, .. } = start;
        let (draining, retired, ending) = (Vec::new(), Vec::new(), Ending::Not);
        Self { options, sinks, title, manager, crew, signals, generation, draining, retired, ending, alone: false }
    }

    /// Waits until there is something to do.
    fn wait(&mut self, channel: Option<&Channel>) -> Event {
        let now = Instant::now();
        self.close_overdue(now);
        self.retired.retain(|serve| Arc::strong_count(serve) > 1);
        if let Ending::Now(latest) = self.ending
            && latest <= now
        {
            return Event::Ended;
        }
        let latest = match self.ending {
            Ending::Now(latest) => Some(latest),
            Ending::Not | Ending::Graceful => None,
        };
        let look = (!self.retired.is_empty()).then(|| now + LOOK);
        let next = self.draining.iter().map(|(_, deadline)| *deadline).chain(latest).chain(look).min();
        let timeout = next.map_or(PollTimeout::NONE, |next| until(next, now));

        let mut descriptors = vec![
            PollFd::new(self.crew.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        descriptors.extend(channel.map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
        if nix::poll::poll(&mut descriptors, timeout).is_err() {
            // Interrupted: look at the time, and wait again.
            return Event::Time;
        }
        let ready = |n: usize| descriptors.get(n).and_then(PollFd::any).unwrap_or(false);
        match () {
            () if ready(0) => Event::Ended,
            () if ready(1) => Event::Signal,
            () if ready(2) => Event::Message,
            () => Event::Time,
        }
    }

    /// Takes the signals that wait.
    fn signals(&mut self) {
        while let Ok(Some(received)) = self.signals.take() {
            let action = match received.signal {
                Signal::SIGTERM | Signal::SIGINT => ", exiting",
                Signal::SIGQUIT => ", shutting down",
                Signal::SIGWINCH if !self.alone && received.sender != 0 => ", shutting down",
                Signal::SIGUSR1 => ", reopening logs",
                Signal::SIGHUP if self.alone => ", reconfiguring",
                Signal::SIGHUP | Signal::SIGUSR2 => ", ignoring",
                _ => "",
            };
            self.say(Level::Notice, &received.line(action));
            match received.signal {
                Signal::SIGTERM | Signal::SIGINT => self.terminate(),
                // nginx: without a master there is no graceful end
                Signal::SIGQUIT if self.alone => self.terminate(),
                Signal::SIGQUIT => self.quit(),
                // A terminal that changes its size sends it as well, by the kernel.
                Signal::SIGWINCH if !self.alone && received.sender != 0 => self.quit(),
                Signal::SIGUSR1 => self.reopen_alone(),
                Signal::SIGHUP if self.alone => self.reload_alone(),
                _ => {}
            }
        }
    }

    fn message(&mut self, message: Message, master: &mut Channel) {
        match message.kind {
            Kind::Reload => {
                let answer = match self.take_over(message) {
                    Ok(()) => Message::bare(Kind::Taken),
                    Err(fault) => {
                        let mut why = text::bytes(&fault.to_string());
                        why.truncate(REASON);
                        Message { kind: Kind::Refused, parts: vec![why], descriptors: Vec::new() }
                    }
                };
                if let Err(error) = master.send(&answer) {
                    self.say(Level::Alert, &format!("the master does not take an answer: {error}"));
                }
            }
            Kind::Reopen => {
                let paths = message.parts.into_iter().map(|path| text::path(&text::decode(&path)));
                self.reopen(paths.zip(message.descriptors).collect());
            }
            Kind::Quit => self.quit(),
            Kind::Terminate => self.terminate(),
            // Answers, which the master does not send.
            Kind::Taken | Kind::Refused => {}
        }
    }

    /// Reads what the master has read, and puts it in force.
    fn take_over(&mut self, message: Message) -> Result<(), Fault> {
        if self.ending != Ending::Not {
            return Err(Fault::new("it is about to end"));
        }
        let handover = Handover::of(message).ok_or_else(|| Fault::new("the handover is not whole"))?;
        let mut source =
            Source::recorded(&handover.record).ok_or_else(|| Fault::new("the texts handed over are not whole"))?;
        // Warnings were the master's to log.
        let draft = Draft::read(&self.options, &mut source, &self.sinks, || ()).map_err(|refused| {
            self.sinks.abandon();
            refused.fault
        })?;
        let generation = draft.adopt(handover, &self.sinks)?;
        self.install(Arc::new(generation));
        Ok(())
    }

    fn install(&mut self, generation: Arc<Generation>) {
        error::set_main(generation.log.clone());
        master::redirect(&generation);
        let old = std::mem::replace(&mut self.generation, generation);
        self.drain(&old);
        self.generation.begin();
        self.crew.serve(&self.generation);
    }

    /// Lets a generation end. Its own `worker_shutdown_timeout` counts.
    fn drain(&mut self, generation: &Generation) {
        generation.life.drain();
        for door in &generation.doors {
            if !self.retired.iter().any(|serve| Arc::ptr_eq(serve, &door.serve)) {
                self.retired.push(door.serve.clone());
            }
        }
        if let Some(timeout) = generation.settings.worker_shutdown_timeout {
            self.draining.push((generation.life.clone(), Instant::now() + timeout));
        }
    }

    fn close_overdue(&mut self, now: Instant) {
        let crew = &self.crew;
        self.draining.retain(|(life, deadline)| {
            let stays = *deadline > now;
            if !stays {
                crew.close(life.id);
            }
            stays
        });
    }

    fn quit(&mut self) {
        if self.ending != Ending::Not {
            return;
        }
        self.ending = Ending::Graceful;
        self.say(Level::Notice, "gracefully shutting down");
        if let Some(title) = self.title {
            title.set("weir: worker process is shutting down");
        }
        // The last copies of the sockets close with it, so that new clients are refused at once.
        let without_doors = Arc::new(self.generation.without_doors());
        let generation = std::mem::replace(&mut self.generation, without_doors);
        generation.life.end();
        self.drain(&generation);
        self.crew.quit();
    }

    fn terminate(&mut self) {
        if !matches!(self.ending, Ending::Now(_)) {
            self.ending = Ending::Now(Instant::now() + PATIENCE);
            self.crew.terminate();
        }
    }

    /// Goes on in files that the master has opened.
    fn reopen(&mut self, files: Vec<(PathBuf, OwnedFd)>) {
        self.say(Level::Notice, "reopening logs");
        self.crew.flush(PATIENCE);
        for (path, descriptor) in files {
            redirect_stderr(&self.generation.log, Some(&path), &descriptor);
            self.sinks.replace(&path, descriptor);
        }
    }

    /// USR1 to the worker itself: it opens what it may open.
    fn reopen_alone(&mut self) {
        self.say(Level::Notice, "reopening logs");
        self.crew.flush(PATIENCE);
        for (path, descriptor) in self.sinks.reopen(None, &self.generation.log) {
            redirect_stderr(&self.generation.log, Some(&path), &*descriptor);
        }
    }

    fn reload_alone(&mut self) {
        self.say(Level::Notice, "reconfiguring");
        self.manager.reloading();
        match master::reload(&self.options, &self.sinks, &self.generation) {
            Some(generation) => {
                master::retire(&self.generation, &generation);
                self.install(Arc::new(generation));
                self.manager.ready();
            }
            None => self.manager.unchanged(),
        }
    }

    /// Leaves, all threads being done or given up.
    fn exit(&mut self) -> ! {
        self.say(Level::Notice, "exiting");
        crate::cache::store::save_all();
        self.say(Level::Notice, "exit");
        self.sinks.stop_writers(LAST_LINES);
        std::process::exit(0)
    }

    fn say(&self, level: Level, message: &str) {
        self.generation.log.write(level, &Context::default(), format_args!("{message}"));
    }
}

/// What reaches stderr from now on, a library's last words, goes to the error log, as in nginx. With `path` only if
/// that is the file.
pub fn redirect_stderr(log: &ErrorLog, path: Option<&Path>, descriptor: impl AsFd) {
    let first = log.files().next().map(|sink| sink.path());
    let ours = first.is_some_and(|first| path.is_none_or(|path| path == first) && first != Path::new(""));
    if ours && let Err(code) = nix::unistd::dup2_stderr(descriptor) {
        log.write_os(Level::Alert, &Context::default(), code as i32, format_args!("dup2(STDERR) failed"));
    }
}

/// The time until `next`, for poll; a little later rather than too early.
pub fn until(next: Instant, now: Instant) -> PollTimeout {
    let milliseconds = next.saturating_duration_since(now).as_millis() + 1;
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// A panic is a fault of ours in one connection; the line says where, the connection ends, the others go on.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
    if let Some(log) = error::main() {
        log.write(Level::Alert, &Context::default(), format_args!("panicked at {place}: {message}"));
    }
}
