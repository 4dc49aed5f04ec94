//! The master process: keeps the sockets, the logs and the configuration, and a worker that uses them.
//!
//! It has one thread and no event loop, and it never reads a client's byte: it waits for signals, for its workers'
//! answers and for their ends. The rules: the listening sockets are open here as long as the server runs, so that
//! clients wait rather than fail while a worker is replaced; and a configuration that fails at any step changes
//! nothing.
//!
//! A reload is offered to the worker that runs, which takes it without a new process. What a process is given only at
//! its start, such as its user ([`Settings::same_process`](super::core::Settings::same_process)), goes the long way:
//! a new worker, then `Quit` to the old one.
//!
//! USR2 starts a new binary beside this one, with copies of the listening sockets: from then on two masters serve, and
//! whoever is told to quit leaves the other one alone ([`Upgrade`]).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::channel::{Channel, Kind, Message, Received};
use super::cli::Options;
use super::generation::{Draft, Generation};
use super::inherit::From;
use super::sandbox::Sandbox;
use super::signal::Signals;
use super::worker::{self, Start, redirect_stderr, until};
use super::{inherit, notify, pidfile, report};
use crate::base::os::{self, Fork};
use crate::log::{Context, ErrorLog, Level, Sinks, error};
use crate::net::listen::{self, Purpose, previous_of};

/// A worker that ends so soon after its start, and the one after it, too, will do so again: the next one waits.
const TOO_SOON: Duration = Duration::from_secs(1);
/// For so long at first; each time twice as long, up to [`TOO_SOON`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// nginx's first pause before it asks again for an end; each next one is twice as long.
const FIRST_ASK: Duration = Duration::from_millis(50);
/// From here on nobody is asked any more.
const LAST_ASK: Duration = Duration::from_secs(1);

/// Starts a worker and keeps one running until the server shall end.
pub fn run(start: Start, generation: Generation) -> ! {
    if let Some(title) = start.title {
        let words: Vec<_> = start.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        title.set(&format!("weir: master process {}", words.join(" ")));
    }
    let signals = Signals::open().unwrap_or_else(|code| {
        let log = &generation.log;
        log.write_os(Level::Emerg, &Context::default(), code as i32, format_args!("signalfd() failed"));
        std::process::exit(2)
    });
    let mut master = Master {
        start: Some(start),
        signals,
        generation: Arc::new(generation),
        workers: Vec::new(),
        offered: None,
        reload_again: false,
        respawn: None,
        early_deaths: 0,
        new_binary: None,
        accepting: true,
        ending: Ending::Not,
    };
    master.say(Level::Notice, "start worker processes");
    master.spawn();
    master.notify(notify::Manager::ready);
    loop {
        match master.wait() {
            Some(index) => master.answer(index),
            None => master.signals(),
        }
        master.act();
    }
}

/// Reads and opens the configuration anew. On failure says why, and nothing has changed.
pub fn reload(options: &Options, sinks: &Sinks, current: &Generation) -> Option<Generation> {
    let log = &current.log;
    let mut source = options.source();
    let draft = match Draft::read(options, &mut source, sinks, || ()) {
        Ok(draft) => draft,
        Err(refused) => {
            sinks.abandon();
            report::refused(&refused, &source, log);
            return None;
        }
    };
    report::warnings(&draft.warnings, log);
    if draft.settings.pid != current.settings.pid
        && let Err(fault) = pidfile::create(&draft.settings.pid)
    {
        sinks.abandon();
        report::fault(&fault, &source, log);
        return None;
    }
    let moved_pid = (draft.settings.pid != current.settings.pid).then(|| draft.settings.pid.clone());
    match draft.open(current.life.id + 1, &current.listeners(), Purpose::Serve, sinks, log) {
        Ok(generation) => Some(generation),
        Err(fault) => {
            if let Some(path) = moved_pid {
                pidfile::remove(&path, log);
            }
            report::fault(&fault, &source, log);
            None
        }
    }
}

/// Lets go of what only the old generation used.
pub fn retire(old: &Generation, new: &Generation) {
    if old.settings.pid != new.settings.pid {
        pidfile::remove(&old.settings.pid, &new.log);
    }
    remove_files(old, new);
    redirect(new);
}

/// Removes the files of the sockets that nobody listens on when this server has ended.
pub fn leave_sockets(generation: &Generation, upgrade: &Upgrade) {
    for door in &generation.doors {
        if !(door.listener.inherited && upgrade.kept()) {
            listen::remove_file(&door.listener, &generation.log);
        }
    }
}

/// Sends stderr to the error log of `generation`.
pub fn redirect(generation: &Generation) {
    if let Some(descriptor) = generation.log.files().next().and_then(|sink| sink.descriptor()) {
        redirect_stderr(&generation.log, None, &*descriptor);
    }
}

/// Removes the files of the unix sockets that `gone` listened on and `kept` does not.
fn remove_files(gone: &Generation, kept: &Generation) {
    let listeners = kept.listeners();
    for door in &gone.doors {
        if previous_of(&door.listener.options, &listeners).is_none() {
            if let listen::Address::Unix(path) = &door.listener.options.address {
                let message = format_args!("deleting socket {}", path.display());
                kept.log.write(Level::Warn, &Context::default(), message);
            }
            listen::remove_file(&door.listener, &kept.log);
        }
    }
}

/// What this process knows of the one that it replaces.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade {
    /// Who opened the inherited sockets.
    pub from: From,
    /// The parent at the start; an old binary as long as it runs.
    pub parent: Pid,
}

impl Upgrade {
    /// This is a new binary, and the old one is still there.
    fn pending(&self) -> bool {
        self.from == From::OldBinary && nix::unistd::getppid() == self.parent
    }

    /// Somebody else has the inherited sockets, too.
    fn kept(&self) -> bool {
        self.from == From::Manager || self.pending()
    }
}

struct Worker {
    pid: Pid,
    /// `None` once it failed: then signals must do.
    channel: Option<Channel>,
    /// What it was confined to when it started, whatever configuration it has taken over since.
    sandbox: Option<Sandbox>,
    since: Instant,
    /// It was told to end.
    exiting: bool,
    /// Shall there be another when it ends?
    respawn: bool,
}

impl Worker {
    /// Whether it can go on under `next` after `current`.
    fn can_take(&self, current: &Generation, next: &Generation) -> bool {
        let confined = match (&self.sandbox, &next.sandbox) {
            (Some(own), Some(next)) => own.covers(next),
            (None, _) | (_, None) => true,
        };
        confined && current.settings.same_process(&next.settings)
    }
}

struct Master {
    /// Taken by the child of a fork, which needs it as a worker.
    start: Option<Start>,
    signals: Signals,
    generation: Arc<Generation>,
    workers: Vec<Worker>,
    /// A generation that a worker is reading, and which worker.
    offered: Option<(Arc<Generation>, Pid)>,
    /// HUP came while one was offered.
    reload_again: bool,
    /// When to start the next worker.
    respawn: Option<Instant>,
    /// Workers in a row that ended too soon.
    early_deaths: u32,
    /// A master of another binary, started by USR2, that runs beside this one.
    new_binary: Option<Pid>,
    /// Workers shall run; WINCH ends them.
    accepting: bool,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Not,
    /// Workers finish what they have.
    Graceful,
    /// Workers end at once. `ask` again at `at`.
    Now {
        ask: Duration,
        at: Instant,
    },
}

impl Master {
    /// Waits for a signal, an answer or a time. `Some` is the worker that has something to say.
    fn wait(&self) -> Option<usize> {
        let now = Instant::now();
        let ask = match self.ending {
            Ending::Now { at, .. } => Some(at),
            Ending::Not | Ending::Graceful => None,
        };
        let next = self.respawn.into_iter().chain(ask).min();
        let timeout = next.map_or(PollTimeout::NONE, |next| until(next, now));
        let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let talking: Vec<(usize, &Channel)> =
            self.workers.iter().enumerate().filter_map(|(n, worker)| Some((n, worker.channel.as_ref()?))).collect();
        descriptors.extend(talking.iter().map(|(_, channel)| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
        if nix::poll::poll(&mut descriptors, timeout).is_err() {
            return None;
        }
        // Signals first: the end of a worker explains why its line ended.
        if descriptors.first().and_then(PollFd::any).unwrap_or(false) {
            return None;
        }
        let speaker = descriptors.iter().skip(1).position(|descriptor| descriptor.any().unwrap_or(false))?;
        talking.get(speaker).map(|(n, _)| *n)
    }

    /// Takes the signals that wait.
    fn signals(&mut self) {
        while let Ok(Some(received)) = self.signals.take() {
            let busy = received.signal == Signal::SIGUSR2 && (self.new_binary.is_some() || self.upgrade().pending());
            // A terminal that changes its size sends WINCH as well, by the kernel.
            let resized = received.signal == Signal::SIGWINCH && received.sender == 0;
            let action = match received.signal {
                Signal::SIGTERM | Signal::SIGINT => ", exiting",
                Signal::SIGQUIT => ", shutting down",
                Signal::SIGHUP => ", reconfiguring",
                Signal::SIGUSR1 => ", reopening logs",
                Signal::SIGUSR2 if busy => ", ignoring",
                Signal::SIGUSR2 => ", changing binary",
                Signal::SIGWINCH if !resized => ", stop accepting connections",
                _ => "",
            };
            self.say(Level::Notice, &received.line(action));
            match received.signal {
                Signal::SIGTERM | Signal::SIGINT => self.terminate(),
                Signal::SIGQUIT => self.quit(),
                Signal::SIGHUP => self.hang_up(),
                Signal::SIGUSR1 => self.reopen(),
                Signal::SIGUSR2 if busy => {
                    let message = "the changing binary signal is ignored: you should shutdown or terminate before \
                                   either old or new binary's process";
                    self.say(Level::Crit, message);
                }
                Signal::SIGUSR2 => self.change_binary(),
                Signal::SIGWINCH if !resized => self.stop_accepting(),
                Signal::SIGCHLD => self.reap(),
                _ => {}
            }
        }
    }

    /// Does what is due.
    fn act(&mut self) {
        let now = Instant::now();
        if self.ending != Ending::Not && self.workers.is_empty() {
            self.exit();
        }
        if let Ending::Now { ask, at } = self.ending
            && at <= now
        {
            self.ask_to_end(ask);
            let ask = ask * 2;
            self.ending = Ending::Now { ask, at: now + ask };
        }
        if self.respawn.is_some_and(|at| at <= now) {
            self.respawn = None;
            self.spawn();
        }
    }

    /// Starts a worker of the current generation.
    fn spawn(&mut self) {
        // nginx: `worker_processes 0` listens, and lets everybody wait
        if self.generation.settings.worker_processes == 0 {
            return;
        }
        let (own, theirs) = match Channel::pair() {
            Ok(pair) => pair,
            Err(error) => return self.not_spawned("socketpair()", &error),
        };
        match os::fork() {
            Err(error) => self.not_spawned("fork()", &error),
            Ok(Fork::Parent(pid)) => {
                drop(theirs);
                self.say(Level::Notice, &format!("start worker process {pid}"));
                let since = Instant::now();
                let (channel, sandbox) = (Some(own), self.generation.sandbox.clone());
                self.workers.push(Worker { pid, channel, sandbox, since, exiting: false, respawn: true });
            }
            Ok(Fork::Child) => {
                drop(own);
                // What the child never uses it must not keep open: its copy of the master is never dropped.
                self.workers.clear();
                self.offered = None;
                let husk = Arc::new(self.generation.husk());
                let generation = std::mem::replace(&mut self.generation, husk);
                let start = self.start.take().expect("only a child takes it, and a child has no children");
                worker::run(start, generation, theirs)
            }
        }
    }

    fn not_spawned(&self, call: &str, error: &std::io::Error) {
        let code = error.raw_os_error().unwrap_or(0);
        let message = format_args!("{call} failed while spawning \"worker process\"");
        self.generation.log.write_os(Level::Alert, &Context::default(), code, message);
    }

    /// Takes note of the workers that have ended.
    fn reap(&mut self) {
        loop {
            let name = |pid| if self.new_binary == Some(pid) { "new binary process" } else { "worker process" };
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.say(Level::Notice, &format!("{} {pid} exited with code {code}", name(pid)));
                    (pid, Some(code))
                }
                Ok(WaitStatus::Signaled(pid, signal, dumped)) => {
                    let core = if dumped { " (core dumped)" } else { "" };
                    let number = signal as i32;
                    self.say(Level::Alert, &format!("{} {pid} exited on signal {number}{core}", name(pid)));
                    (pid, None)
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(code) => {
                    let message = format_args!("waitpid() failed");
                    return self.generation.log.write_os(Level::Alert, &Context::default(), code as i32, message);
                }
            };
            if self.new_binary == Some(pid) {
                self.go_back();
                continue;
            }
            let Some(index) = self.workers.iter().position(|worker| worker.pid == pid) else { continue };
            let mut worker = self.workers.remove(index);
            // nginx: code 2 is a fault that the next one would have, too
            if code == Some(2) && worker.respawn {
                self.say(
                    Level::Alert,
                    &format!("worker process {pid} exited with fatal code 2 and cannot be respawned"),
                );
                worker.respawn = false;
            }
            self.ended(&worker);
        }
    }

    /// A worker is no more. What it was reading goes to the next one.
    fn ended(&mut self, worker: &Worker) {
        if let Some((generation, pid)) = self.offered.take() {
            match pid == worker.pid {
                // nginx: what the master has loaded counts, whatever becomes of a worker
                true => self.commit(generation),
                false => self.offered = Some((generation, pid)),
            }
        }
        if worker.respawn && !worker.exiting && self.accepting && self.ending == Ending::Not {
            let now = Instant::now();
            let early = now.duration_since(worker.since) < TOO_SOON;
            self.early_deaths = if early { self.early_deaths + 1 } else { 0 };
            self.respawn = Some(match self.early_deaths {
                0 | 1 => now,
                more => now + (FIRST_PAUSE * (1 << (more - 2).min(10))).min(TOO_SOON),
            });
        }
    }

    /// HUP: a reload, or beside a new binary the way back to workers of this one.
    fn hang_up(&mut self) {
        match self.new_binary {
            None => self.reload(),
            // nginx: without reading the configuration, which may be meant for the new binary
            Some(_) => self.restart(),
        }
    }

    /// Has workers run again after WINCH.
    fn restart(&mut self) {
        let serving = self.workers.iter().any(|worker| !worker.exiting);
        self.accepting = true;
        if self.ending == Ending::Not && !serving {
            self.say(Level::Notice, "start worker processes");
            self.respawn = None;
            self.spawn();
        }
    }

    /// WINCH: the workers finish what they have, and no other one starts. The sockets stay open.
    fn stop_accepting(&mut self) {
        self.accepting = false;
        self.respawn = None;
        self.tell(0..self.workers.len(), Kind::Quit, Signal::SIGQUIT);
    }

    /// USR2: starts the program anew, whatever its file holds now, and gives it the listening sockets.
    fn change_binary(&mut self) {
        if self.ending != Ending::Not {
            return;
        }
        self.say(Level::Notice, "changing binary");
        let pid = &self.generation.settings.pid;
        let old = pidfile::old(pid);
        let program = self.start.as_ref().and_then(|start| start.arguments.first()).map(OsString::as_os_str);
        let program = program.unwrap_or_default().display();
        let log = &self.generation.log;
        let failed = |error: &io::Error, what: std::fmt::Arguments<'_>| {
            log.write_os(Level::Alert, &Context::default(), error.raw_os_error().unwrap_or(0), what);
        };
        if let Err(error) = fs::rename(pid, &old) {
            let (old, pid) = (old.display(), pid.display());
            let what = format_args!("rename() {pid} to {old} failed before executing new binary process \"{program}\"");
            return failed(&error, what);
        }
        match self.execute() {
            Ok(process) => {
                self.say(Level::Notice, &format!("start new binary process {process}"));
                self.new_binary = Some(process);
            }
            Err(error) => {
                failed(&error, format_args!("execve() failed while executing new binary process \"{program}\""));
                if let Err(error) = fs::rename(&old, pid) {
                    let (old, pid) = (old.display(), pid.display());
                    let what = format_args!(
                        "rename() {old} back to {pid} failed after an attempt to execute new binary process \
                         \"{program}\""
                    );
                    failed(&error, what);
                }
            }
        }
    }

    /// Runs the program again, with the arguments that this one had. nginx: the environment is the workers'.
    fn execute(&self) -> io::Result<Pid> {
        let Some(start) = &self.start else { return Err(io::Error::other("a worker has no binary to change")) };
        let sockets: Vec<_> = self.generation.doors.iter().flat_map(|door| &door.listener.sockets).collect();
        let numbers: String = sockets.iter().map(|socket| format!("{};", socket.as_raw_fd())).collect();
        let mut environment = self.generation.settings.environment_from(&start.environment);
        environment.extend(start.environment.iter().find(|(name, _)| name == notify::VARIABLE).cloned());
        environment.push((inherit::VARIABLE.into(), numbers.into()));
        let mut command = Command::new(&start.program);
        if let [name, arguments @ ..] = &*start.arguments {
            command.arg0(name).args(arguments);
        }
        command.env_clear().envs(environment);
        for socket in &sockets {
            os::pass_on(&***socket, true)?;
        }
        // It ends when it wants to; `reap` takes note.
        let spawned = command.spawn().map(|child| Pid::from_raw(child.id().cast_signed()));
        for socket in &sockets {
            os::pass_on(&***socket, false)?;
        }
        spawned
    }

    /// The new binary has ended: this one is the server again.
    fn go_back(&mut self) {
        let pid = &self.generation.settings.pid;
        let old = pidfile::old(pid);
        if let Err(error) = fs::rename(&old, pid) {
            let (old, pid) = (old.display(), pid.display());
            let message = format_args!("rename() {old} back to {pid} failed after the new binary process exited");
            let code = error.raw_os_error().unwrap_or(0);
            self.generation.log.write_os(Level::Alert, &Context::default(), code, message);
        }
        self.new_binary = None;
        if !self.accepting {
            self.restart();
        }
    }

    fn reload(&mut self) {
        if self.ending != Ending::Not {
            return;
        }
        if self.offered.is_some() {
            self.reload_again = true;
            return;
        }
        self.say(Level::Notice, "reconfiguring");
        self.notify(notify::Manager::reloading);
        let Some(Start { options, sinks, .. }) = &self.start else { return };
        let Some(generation) = reload(options, sinks, &self.generation) else {
            return self.notify(notify::Manager::unchanged);
        };
        self.accepting = true;
        let generation = Arc::new(generation);
        let serving = self.workers.iter().position(|worker| !worker.exiting);
        match serving {
            Some(index) if self.workers[index].can_take(&self.generation, &generation) => {
                self.offer(index, generation);
            }
            _ => self.replace(generation),
        }
    }

    /// Puts a generation in force by a new worker.
    fn replace(&mut self, generation: Arc<Generation>) {
        self.commit(generation);
        self.respawn = None;
        self.say(Level::Notice, "start worker processes");
        let old = self.workers.len();
        self.spawn();
        self.tell(0..old, Kind::Quit, Signal::SIGQUIT);
    }

    /// Hands a generation to the worker that serves.
    fn offer(&mut self, index: usize, generation: Arc<Generation>) {
        let Some(Start { sinks, .. }) = &self.start else { return };
        let message = generation.handover(sinks);
        let worker = &mut self.workers[index];
        let pid = worker.pid;
        let sent = match (message, &mut worker.channel) {
            (Ok(message), Some(channel)) => channel.send(&message).map_err(|error| error.to_string()),
            (Err(error), _) => Err(error.to_string()),
            (Ok(_), None) => Err("the line to it is broken".to_owned()),
        };
        match sent {
            Ok(()) => self.offered = Some((generation, pid)),
            Err(why) => {
                // It has ended a moment ago, or will not be told anything any more.
                self.say(Level::Warn, &format!("worker process {pid} is replaced, it does not take messages: {why}"));
                self.replace(generation);
            }
        }
    }

    /// Reads what a worker has to say.
    fn answer(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let pid = worker.pid;
        let Some(channel) = &mut worker.channel else { return };
        let message = match channel.receive() {
            Ok(Received::Message(message)) => message,
            // Its end will be told by a signal.
            Ok(Received::End) => {
                worker.channel = None;
                return;
            }
            Err(error) => {
                worker.channel = None;
                return self.say(Level::Alert, &format!("worker process {pid} is not understood: {error}"));
            }
        };
        let Some((generation, offered_to)) = self.offered.take() else { return };
        if offered_to != pid {
            self.offered = Some((generation, offered_to));
            return;
        }
        match message.kind {
            Kind::Taken => self.commit(generation),
            _ => {
                let why = message.parts.first().map(|part| String::from_utf8_lossy(part).into_owned());
                // One line, whatever it is: the worker is not to write the master's log.
                let why = why.as_deref().and_then(|why| why.lines().next()).unwrap_or_default();
                self.withdraw(&generation, why);
            }
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    /// Puts a generation in force.
    fn commit(&mut self, generation: Arc<Generation>) {
        error::set_main(generation.log.clone());
        retire(&self.generation, &generation);
        self.generation = generation;
        self.notify(notify::Manager::ready);
    }

    /// Gives a generation up that the worker did not take.
    fn withdraw(&mut self, generation: &Generation, why: &str) {
        self.say(Level::Emerg, &format!("the worker process did not take the new configuration: {why}"));
        self.notify(notify::Manager::unchanged);
        if generation.settings.pid != self.generation.settings.pid {
            pidfile::remove(&generation.settings.pid, &self.generation.log);
        }
        remove_files(generation, &self.generation);
    }

    fn reopen(&mut self) {
        self.say(Level::Notice, "reopening logs");
        let Some(Start { sinks, .. }) = &self.start else { return };
        let owner = self.generation.settings.user.as_ref().map(|owner| owner.user);
        let log = &self.generation.log;
        let fresh = sinks.reopen(owner, log);
        for (path, descriptor) in &fresh {
            redirect_stderr(log, Some(path), descriptor);
        }
        for worker in &mut self.workers {
            let Some(channel) = &mut worker.channel else { continue };
            let copies: Result<Vec<_>, _> = fresh.iter().map(|(_, descriptor)| descriptor.try_clone()).collect();
            let parts = fresh.iter().map(|(path, _)| path.as_os_str().as_bytes().to_vec()).collect();
            let sent = copies.and_then(|descriptors| channel.send(&Message { kind: Kind::Reopen, parts, descriptors }));
            if let Err(error) = sent {
                let pid = worker.pid;
                let message = format_args!("worker process {pid} does not take the reopened logs: {error}");
                log.write(Level::Alert, &Context::default(), message);
            }
        }
    }

    fn quit(&mut self) {
        if self.ending != Ending::Not {
            return;
        }
        self.ending = Ending::Graceful;
        self.respawn = None;
        self.succession();
        self.tell(0..self.workers.len(), Kind::Quit, Signal::SIGQUIT);
        // New clients are refused from now on, and the next server can have the addresses.
        self.leave_sockets();
        self.generation = Arc::new(self.generation.without_doors());
        self.offered = None;
    }

    fn terminate(&mut self) {
        if matches!(self.ending, Ending::Now { .. }) {
            return;
        }
        self.respawn = None;
        self.succession();
        self.ending = Ending::Now { ask: FIRST_ASK, at: Instant::now() };
    }

    /// Tells the service manager whether the service ends with this process.
    fn succession(&self) {
        match self.new_binary {
            Some(pid) => self.notify(|manager| manager.succeeded_by(pid)),
            // The old binary is the main process, as far as anybody knows.
            None if self.upgrade().pending() => {}
            None => self.notify(notify::Manager::stopping),
        }
    }

    /// Asks the workers to end, in the end without asking.
    fn ask_to_end(&mut self, ask: Duration) {
        if ask <= LAST_ASK {
            self.tell(0..self.workers.len(), Kind::Terminate, Signal::SIGTERM);
            return;
        }
        for worker in &self.workers {
            // It may have ended a moment ago.
            let _ = kill(worker.pid, Signal::SIGKILL);
        }
    }

    /// Tells some workers by their lines, or by `signal` where the line is broken.
    fn tell(&mut self, workers: std::ops::Range<usize>, kind: Kind, signal: Signal) {
        for worker in self.workers.get_mut(workers).unwrap_or_default() {
            if worker.exiting && kind == Kind::Quit {
                continue;
            }
            worker.exiting = true;
            let sent = worker.channel.as_mut().is_some_and(|channel| channel.send(&Message::bare(kind)).is_ok());
            if !sent && let Err(code) = kill(worker.pid, signal) {
                let message = format_args!("kill({}, {}) failed", worker.pid, signal as i32);
                self.generation.log.write_os(Level::Alert, &Context::default(), code as i32, message);
            }
        }
    }

    /// Leaves when no worker is left.
    fn exit(&mut self) -> ! {
        let pid = &self.generation.settings.pid;
        let pid = if self.new_binary.is_some() { pidfile::old(pid) } else { pid.clone() };
        pidfile::remove(&pid, &self.generation.log);
        self.leave_sockets();
        self.say(Level::Notice, "exit");
        std::process::exit(0)
    }

    fn leave_sockets(&self) {
        if self.new_binary.is_none() {
            leave_sockets(&self.generation, &self.upgrade());
        }
    }

    fn upgrade(&self) -> Upgrade {
        self.start.as_ref().map_or(Upgrade { from: From::Nobody, parent: Pid::this() }, |start| start.upgrade)
    }

    fn notify(&self, tell: impl FnOnce(&notify::Manager)) {
        if let Some(start) = &self.start {
            tell(&start.manager);
        }
    }

    fn say(&self, level: Level, message: &str) {
        self.generation.log.write(level, &Context::default(), format_args!("{message}"));
    }
}

/// `-s`: tells the process of the pid file. Gives the exit code.
pub fn signal(signal: Signal, pid: &Path, log: &ErrorLog) -> u8 {
    log.write(Level::Notice, &Context::default(), format_args!("signal process started"));
    let pid = match pidfile::read(pid) {
        Ok(pid) => pid,
        Err(fault) => {
            log.write(Level::Error, &Context::default(), format_args!("{fault}"));
            return 1;
        }
    };
    match kill(pid, signal) {
        Ok(()) => 0,
        Err(code) => {
            let message = format_args!("kill({pid}, {}) failed", signal as i32);
            log.write_os(Level::Alert, &Context::default(), code as i32, message);
            1
        }
    }
}
