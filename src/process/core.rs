//! The settings of the processes themselves: what nginx calls the core and events modules.
//!
//! In: the words of the main level and of `events`. Out: [`Settings`], plain values with their defaults. Directives
//! whose knob this engine does not have are taken and checked; the doc comment of each says so, and those that an
//! operator would miss are named in a warning.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::CpuSet;
use nix::unistd::{Gid, Group, Uid, User};

use crate::base::text;
use crate::base::threads::Limits;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, EVENTS, MAIN, Row, Table};
use crate::conf::setting::Setting;
use crate::conf::words::Words;

/// The worker's user when no `user` is named: ours where the package made it, and the one that every system has.
const USERS: [&str; 2] = ["weir", "nobody"];
/// nginx's DEFAULT_CONNECTIONS.
const WORKER_CONNECTIONS: usize = 512;

/// What the processes need to know, defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None` where there is nothing to drop: the master is not root.
    pub user: Option<Owner>,
    pub worker_processes: usize,
    pub worker_cpu_affinity: Affinity,
    pub worker_rlimit_nofile: Option<u64>,
    pub worker_rlimit_core: Option<u64>,
    pub worker_priority: i32,
    pub worker_connections: usize,
    pub worker_shutdown_timeout: Option<Duration>,
    pub multi_accept: bool,
    pub daemon: bool,
    pub master_process: bool,
    pub pid: PathBuf,
    pub environment: Vec<Variable>,
    pub working_directory: Option<PathBuf>,
    pub thread_pools: Vec<ThreadPool>,
    /// Workers are confined to what serving takes.
    pub worker_sandbox: bool,
}

impl Settings {
    /// Whether a worker that runs with `self` can go on under `next`. What a process is given once, at its start,
    /// needs a new one.
    pub fn same_process(&self, next: &Self) -> bool {
        self.user == next.user
            && self.worker_processes == next.worker_processes
            && self.worker_cpu_affinity == next.worker_cpu_affinity
            && self.worker_rlimit_nofile == next.worker_rlimit_nofile
            && self.worker_rlimit_core == next.worker_rlimit_core
            && self.worker_priority == next.worker_priority
            && self.environment == next.environment
            && self.working_directory == next.working_directory
            && self.worker_sandbox == next.worker_sandbox
    }

    /// `TZ` of `env`, or else of this process.
    pub fn time_zone(&self) -> Option<String> {
        let said = self.environment.iter().rev().find(|variable| variable.name == "TZ");
        let zone = said.and_then(|variable| variable.value.clone()).or_else(|| std::env::var_os("TZ"));
        zone.map(|zone| zone.to_string_lossy().into_owned())
    }

    /// The worker's environment: the variables that `env` names, and always TZ.
    pub fn environment_from(&self, inherited: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let kept = |name: &OsString| inherited.iter().find(|(known, _)| known == name).cloned();
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        for Variable { name, value } in &self.environment {
            environment.extend(match value {
                Some(value) => Some((name.clone(), value.clone())),
                None => kept(name),
            });
        }
        if !self.environment.iter().any(|variable| variable.name == "TZ") {
            environment.extend(kept(&"TZ".into()));
        }
        environment
    }
}

/// Whom the worker becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: CString,
    pub user: Uid,
    pub group: Gid,
}

/// `env NAME` or `env NAME=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: OsString,
    pub value: Option<OsString>,
}

/// `thread_pool`: threads for files that are not in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPool {
    pub name: String,
    pub threads: usize,
    pub max_queue: usize,
}

/// Which processors each worker thread may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    Any,
    /// One mask for each thread; the last one serves the rest.
    Masks(Vec<CpuSet>),
    /// One processor for each thread in turn, of those in the mask.
    Auto(CpuSet),
}

impl Affinity {
    /// What thread number `thread` is bound to; `None` leaves it free.
    pub fn of(&self, thread: usize) -> Option<CpuSet> {
        match self {
            Self::Any => None,
            Self::Masks(masks) => masks.get(thread).or(masks.last()).copied(),
            Self::Auto(mask) => {
                let allowed: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| mask.is_set(cpu) == Ok(true)).collect();
                let cpu = *allowed.get(thread.checked_rem(allowed.len())?)?;
                let mut one = CpuSet::new();
                one.set(cpu).ok()?;
                Some(one)
            }
        }
    }
}

/// The main level while it is read.
#[derive(Default)]
pub struct Core {
    user: Setting<Option<Owner>>,
    worker_processes: Setting<usize>,
    worker_cpu_affinity: Setting<Affinity>,
    worker_rlimit_nofile: Setting<u64>,
    worker_rlimit_core: Setting<u64>,
    worker_priority: Setting<i32>,
    worker_shutdown_timeout: Setting<Duration>,
    daemon: Setting<bool>,
    master_process: Setting<bool>,
    pid: Setting<PathBuf>,
    lock_file: Setting<PathBuf>,
    working_directory: Setting<PathBuf>,
    debug_points: Setting<()>,
    timer_resolution: Setting<Duration>,
    pcre_jit: Setting<bool>,
    ssl_engine: Setting<()>,
    ssl_object_cache_inheritable: Setting<bool>,
    environment: Vec<Variable>,
    thread_pools: Vec<ThreadPool>,
    worker_sandbox: Setting<bool>,
}

/// The rows of the main level that set [`Core`], for the table of whoever reads that level.
pub const CORE: Table<Core> = Table {
    rows: &[
        Row::line("daemon", MAIN, Arity::Flag, Core::daemon),
        Row::line("debug_points", MAIN, Arity::Exactly(1), Core::debug_points),
        Row::line("env", MAIN, Arity::Exactly(1), Core::env),
        Row::line("load_module", MAIN, Arity::Exactly(1), Core::load_module),
        Row::line("lock_file", MAIN, Arity::Exactly(1), Core::lock_file),
        Row::line("master_process", MAIN, Arity::Flag, Core::master_process),
        Row::line("pcre_jit", MAIN, Arity::Flag, Core::pcre_jit),
        Row::line("pid", MAIN, Arity::Exactly(1), Core::pid),
        Row::line("ssl_engine", MAIN, Arity::Exactly(1), Core::ssl_engine),
        Row::line("ssl_object_cache_inheritable", MAIN, Arity::Flag, Core::ssl_object_cache_inheritable),
        Row::line("thread_pool", MAIN, Arity::Between(2, 3), Core::thread_pool),
        Row::line("timer_resolution", MAIN, Arity::Exactly(1), Core::timer_resolution),
        Row::line("user", MAIN, Arity::Between(1, 2), Core::user),
        Row::line("worker_cpu_affinity", MAIN, Arity::AtLeast(1), Core::worker_cpu_affinity),
        Row::line("worker_priority", MAIN, Arity::Exactly(1), Core::worker_priority),
        Row::line("worker_processes", MAIN, Arity::Exactly(1), Core::worker_processes),
        Row::line("worker_rlimit_core", MAIN, Arity::Exactly(1), Core::worker_rlimit_core),
        Row::line("worker_rlimit_nofile", MAIN, Arity::Exactly(1), Core::worker_rlimit_nofile),
        Row::line("worker_sandbox", MAIN, Arity::Flag, Core::worker_sandbox),
        Row::line("worker_shutdown_timeout", MAIN, Arity::Exactly(1), Core::worker_shutdown_timeout),
        Row::line("working_directory", MAIN, Arity::Exactly(1), Core::working_directory),
    ],
};

impl Core {
    /// Syntax: `daemon on | off;`  Default: `on`  Context: main
    fn daemon(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.daemon.set(words.flag()?)
    }

    /// Syntax: `debug_points abort | stop;`  Default: none  Context: main
    ///
    /// nginx stops in a debugger where it finds itself inconsistent; there are no such points here.
    fn debug_points(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.debug_points.set(words.choice(0, &[("stop", ()), ("abort", ())])?)?;
        words.cx.warn(words.fault(0, "the \"debug_points\" directive has no effect: there are no debug points"));
        Ok(())
    }

    /// Syntax: `env variable[=value];`  Default: `TZ`  Context: main
    fn env(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = text::bytes(words.one());
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(equals) => (&word[..equals], Some(OsString::from_vec(word[equals + 1..].to_vec()))),
            None => (&word[..], None),
        };
        // An environment cannot hold these, and nginx would pass on something else than was meant.
        if name.is_empty() || word.contains(&0) {
            return Err(words.fault(0, format!("invalid variable name \"{}\"", words.one())));
        }
        self.environment.push(Variable { name: OsString::from_vec(name.to_vec()), value });
        Ok(())
    }

    /// Syntax: `load_module file;`  Default: none  Context: main
    ///
    /// Modules are part of the program. A configuration that needs one which is not must not seem to work, so the
    /// directive is refused and the sentence says why; for a module that is built in, the line can go.
    fn load_module(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let file = words.path(0, &words.cx.prefix);
        let reason = "modules are built in and cannot be loaded; remove the line if its directives are known";
        Err(words.fault(0, format!("dlopen() \"{}\" failed ({reason})", file.display())))
    }

    /// Syntax: `lock_file file;`  Default: `logs/nginx.lock`  Context: main
    ///
    /// Without effect: nginx itself locks in a file only where the processor has no atomic operations.
    fn lock_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.lock_file.set(words.path(0, &words.cx.prefix))
    }

    /// Syntax: `master_process on | off;`  Default: `on`  Context: main
    fn master_process(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.master_process.set(words.flag()?)
    }

    /// Syntax: `pcre_jit on | off;`  Default: `off`  Context: main
    ///
    /// Without effect: most patterns run in another engine, which always compiles them.
    fn pcre_jit(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.pcre_jit.set(words.flag()?)
    }

    /// Syntax: `pid file;`  Default: `/run/weir.pid`  Context: main
    fn pid(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.pid.set(words.path(0, &words.cx.prefix))
    }

    /// Syntax: `ssl_engine device;`  Default: none  Context: main
    ///
    /// OpenSSL's hardware engines are not there.
    fn ssl_engine(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssl_engine.set(())?;
        words.cx.warn(words.fault(0, "the \"ssl_engine\" directive has no effect: there are no OpenSSL engines"));
        Ok(())
    }

    /// Syntax: `ssl_object_cache_inheritable on | off;`  Default: `on`  Context: main
    ///
    /// Without effect: each load reads the files it names.
    fn ssl_object_cache_inheritable(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssl_object_cache_inheritable.set(words.flag()?)
    }

    /// Syntax: `thread_pool name threads=number [max_queue=number];`
    /// Default: `default threads=32 max_queue=65536`  Context: main
    fn thread_pool(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let name = words.arg(0);
        if self.thread_pools.iter().any(|pool| pool.name == name) {
            return Err(words.fault(0, format!("duplicate thread pool \"{name}\"")));
        }
        let mut pool = ThreadPool { name: name.to_owned(), threads: 0, max_queue: 65536 };
        for (n, word) in words.texts().enumerate().skip(1) {
            if let Some(number) = word.strip_prefix("threads=") {
                let threads = number.parse().ok().filter(|&threads| threads > 0);
                let invalid = || words.fault(n, format!("invalid threads value \"{word}\""));
                pool.threads = threads.ok_or_else(invalid)?;
            } else if let Some(number) = word.strip_prefix("max_queue=") {
                let invalid = |_| words.fault(n, format!("invalid max_queue value \"{word}\""));
                pool.max_queue = number.parse().map_err(invalid)?;
            } // nginx: any other word is let pass
        }
        if pool.threads == 0 {
            return Err(Fault::at("\"thread_pool\" must have \"threads\" parameter", words.at()));
        }
        words.cx.pools.define(name, Limits { threads: pool.threads, max_queue: pool.max_queue });
        self.thread_pools.push(pool);
        Ok(())
    }

    /// Syntax: `timer_resolution interval;`  Default: none  Context: main
    ///
    /// Without effect: the time is asked for once in each turn of the loop.
    fn timer_resolution(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.timer_resolution.set(words.time(0)?)
    }

    /// Syntax: `user user [group];`  Default: `weir`, or `nobody` where there is no such user  Context: main
    fn user(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.user.is_set() {
            return Err(Fault::directive("is duplicate"));
        }
        if !Uid::effective().is_root() {
            let message = "the \"user\" directive makes sense only if the master process runs with super-user \
                           privileges, ignored";
            words.cx.warn(Fault::at(message, words.at()));
            // nginx: and a second one is no duplicate then
            return Ok(());
        }
        let (name, group) = (words.arg(0), words.arg(words.len() - 1));
        let user =
            known(User::from_name(name)).map_err(|why| words.fault(0, format!("getpwnam(\"{name}\") failed{why}")))?;
        let found = known(Group::from_name(group));
        let found = found.map_err(|why| words.fault(words.len() - 1, format!("getgrnam(\"{group}\") failed{why}")))?;
        let name = CString::new(text::bytes(name)).map_err(|_| words.fault(0, "invalid user name"))?;
        self.user.set(Some(Owner { name, user: user.uid, group: found.gid }))
    }

    /// Syntax: `worker_cpu_affinity cpumask ...;` or `worker_cpu_affinity auto [cpumask];`  Context: main
    fn worker_cpu_affinity(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.worker_cpu_affinity.is_set() {
            return Err(Fault::directive("is duplicate"));
        }
        if words.arg(0) != "auto" {
            let masks: Result<Vec<_>, _> = (0..words.len()).map(|n| mask(words, n)).collect();
            return self.worker_cpu_affinity.set(Affinity::Masks(masks?));
        }
        let mask = match words.len() {
            1 => every_processor(),
            2 => mask(words, 1)?,
            _ => {
                let message = "invalid number of arguments in \"worker_cpu_affinity\" directive";
                return Err(Fault::at(message, words.at()));
            }
        };
        self.worker_cpu_affinity.set(Affinity::Auto(mask))
    }

    /// Syntax: `worker_priority number;`  Default: `0`  Context: main
    fn worker_priority(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.one();
        let (sign, digits) = match word.as_bytes().first() {
            Some(b'-') => (-1, &word[1..]),
            Some(b'+') => (1, &word[1..]),
            _ => (1, word),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<i32> = if plain { digits.parse().ok() } else { None };
        self.worker_priority.set(sign * number.ok_or_else(|| Fault::directive("invalid number"))?)
    }

    /// Syntax: `worker_processes number | auto;`  Default: `1`  Context: main
    ///
    /// That many threads of the one worker process.
    fn worker_processes(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.worker_processes.is_set() {
            return Err(Fault::directive("is duplicate"));
        }
        let number = match words.one() {
            "auto" => processors(),
            _ => words.number(0).map_err(|_| Fault::directive("invalid value"))?.try_into().unwrap_or(usize::MAX),
        };
        // Each is a thread with its own memory; nginx stops at 1024 processes (NGX_MAX_PROCESSES).
        if number > 1024 {
            return Err(Fault::directive("invalid value"));
        }
        self.worker_processes.set(number)
    }

    /// Syntax: `worker_rlimit_core size;`  Default: none  Context: main
    fn worker_rlimit_core(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.worker_rlimit_core.set(words.offset(0)?)
    }

    /// Syntax: `worker_rlimit_nofile number;`  Default: none  Context: main
    fn worker_rlimit_nofile(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.worker_rlimit_nofile.set(words.number(0)?)
    }

    /// Syntax: `worker_sandbox on | off;`  Default: `on`  Context: main
    ///
    /// Workers can write only where the configuration says, run no program, and have few of the kernel's system calls.
    /// Not without a master process: such a server opens its sockets and logs itself.
    fn worker_sandbox(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.worker_sandbox.set(words.flag()?)
    }

    /// Syntax: `worker_shutdown_timeout time;`  Default: none  Context: main
    fn worker_shutdown_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.worker_shutdown_timeout.set(words.time(0)?)
    }

    /// Syntax: `working_directory directory;`  Default: none  Context: main
    fn working_directory(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.working_directory.set(text::path(words.one()))
    }

    /// The settings, after the whole file is read. `default_pid` is where the pid goes when nothing is said.
    pub fn finish(self, events: Events, default_pid: &Path) -> Result<(Settings, Vec<String>), Fault> {
        let mut warnings = Vec::new();
        let worker_processes = self.worker_processes.or(1);
        if let Some(Affinity::Masks(masks)) = self.worker_cpu_affinity.as_ref()
            && masks.len() != 1
            && masks.len() != worker_processes
        {
            warnings.push(
                "the number of \"worker_processes\" is not equal to the number of \"worker_cpu_affinity\" masks, \
                 using last mask for remaining worker processes"
                    .to_owned(),
            );
        }
        let user = match self.user.said() {
            Some(user) => user,
            None if Uid::effective().is_root() => Some(default_owner()?),
            None => None,
        };
        let settings = Settings {
            user,
            worker_processes,
            worker_cpu_affinity: self.worker_cpu_affinity.or(Affinity::Any),
            worker_rlimit_nofile: self.worker_rlimit_nofile.said(),
            worker_rlimit_core: self.worker_rlimit_core.said(),
            worker_priority: self.worker_priority.or(0),
            worker_connections: events.worker_connections.or(WORKER_CONNECTIONS),
            // nginx: zero is no timeout
            worker_shutdown_timeout: self.worker_shutdown_timeout.said().filter(|timeout| !timeout.is_zero()),
            multi_accept: events.multi_accept.or(false),
            daemon: self.daemon.or(true),
            master_process: self.master_process.or(true),
            pid: self.pid.or_else(|| default_pid.to_owned()),
            environment: self.environment,
            working_directory: self.working_directory.said(),
            thread_pools: self.thread_pools,
            worker_sandbox: self.worker_sandbox.or(true),
        };
        Ok((settings, warnings))
    }
}

/// The `events` block while it is read.
#[derive(Default)]
pub struct Events {
    worker_connections: Setting<usize>,
    multi_accept: Setting<bool>,
    accept_mutex: Setting<bool>,
    accept_mutex_delay: Setting<Duration>,
    worker_aio_requests: Setting<u64>,
    method: Setting<()>,
}

pub const EVENTS_BLOCK: Table<Events> = Table {
    rows: &[
        Row::line("accept_mutex", EVENTS, Arity::Flag, Events::accept_mutex),
        Row::line("accept_mutex_delay", EVENTS, Arity::Exactly(1), Events::accept_mutex_delay),
        Row::line("debug_connection", EVENTS, Arity::Exactly(1), Events::debug_connection),
        Row::line("multi_accept", EVENTS, Arity::Flag, Events::multi_accept),
        Row::line("use", EVENTS, Arity::Exactly(1), Events::method),
        Row::line("worker_aio_requests", EVENTS, Arity::Exactly(1), Events::worker_aio_requests),
        Row::line("worker_connections", EVENTS, Arity::Exactly(1), Events::worker_connections),
    ],
};

impl Events {
    /// Syntax: `accept_mutex on | off;`  Default: `off`  Context: events
    ///
    /// Without effect: threads do not take turns in accepting.
    fn accept_mutex(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.accept_mutex.set(words.flag()?)
    }

    /// Syntax: `accept_mutex_delay time;`  Default: `500ms`  Context: events
    ///
    /// Without effect, see `accept_mutex`.
    fn accept_mutex_delay(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.accept_mutex_delay.set(words.time(0)?)
    }

    /// Syntax: `debug_connection address | CIDR | unix:;`  Default: none  Context: events
    ///
    /// nginx without `--with-debug` ignores it with a warning, too.
    fn debug_connection(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let message = "\"debug_connection\" is ignored: there is no debug log of single connections";
        words.cx.warn(Fault::at(message, words.at()));
        Ok(())
    }

    /// Syntax: `multi_accept on | off;`  Default: `off`  Context: events
    fn multi_accept(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.multi_accept.set(words.flag()?)
    }

    /// Syntax: `use method;`  Context: events
    ///
    /// Without effect: it is always epoll. The methods of other systems are refused, as nginx on Linux refuses them.
    fn method(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.method.is_set() {
            return Err(Fault::directive("is duplicate"));
        }
        match words.one() {
            "epoll" | "poll" | "select" => self.method.set(()),
            other => Err(words.fault(0, format!("invalid event type \"{other}\""))),
        }
    }

    /// Syntax: `worker_aio_requests number;`  Default: `32`  Context: events
    ///
    /// Without effect: the kernel's old asynchronous files are not used.
    fn worker_aio_requests(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.worker_aio_requests.set(words.number(0)?)
    }

    /// Syntax: `worker_connections number;`  Default: `512`  Context: events
    ///
    /// For each worker thread.
    fn worker_connections(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.worker_connections.is_set() {
            return Err(Fault::directive("is duplicate"));
        }
        let number = words.number(0).ok().and_then(|number| usize::try_from(number).ok());
        let invalid = || words.fault(0, format!("invalid number \"{}\"", words.one()));
        self.worker_connections.set(number.ok_or_else(invalid)?)
    }
}

/// What a look-up found, or how nginx ends its sentence: with the error, if there was one.
fn known<T>(found: nix::Result<Option<T>>) -> Result<T, String> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(String::new()),
        Err(error) => Err(format!(" {}", text::errno(&error.into()))),
    }
}

fn default_owner() -> Result<Owner, Fault> {
    for name in USERS {
        if let Ok(Some(user)) = User::from_name(name) {
            let name = CString::new(name).expect("the names above have no zero byte");
            return Ok(Owner { name, user: user.uid, group: user.gid });
        }
    }
    Err(Fault::new(format!("getpwnam(\"{}\") failed", USERS[0])))
}

/// Argument `n`: a zero or one for each processor, the first one last.
fn mask(words: &Words<'_>, n: usize) -> Result<CpuSet, Fault> {
    let word = words.arg(n);
    if word.len() > CpuSet::count() {
        let message = format!("\"worker_cpu_affinity\" supports up to {} CPUs only", CpuSet::count());
        return Err(words.fault(n, message));
    }
    let mut mask = CpuSet::new();
    for (cpu, digit) in word.chars().rev().filter(|&digit| digit != ' ').enumerate() {
        match digit {
            '0' => {}
            '1' => mask.set(cpu).map_err(|_| words.fault(n, "invalid value"))?,
            other => {
                return Err(words.fault(n, format!("invalid character \"{other}\" in \"worker_cpu_affinity\"")));
            }
        }
    }
    Ok(mask)
}

fn every_processor() -> CpuSet {
    let mut mask = CpuSet::new();
    for cpu in 0..processors().min(CpuSet::count()) {
        // Numbers below the count always fit.
        let _ = mask.set(cpu);
    }
    mask
}

/// The processors that are online, as nginx counts them.
fn processors() -> usize {
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    online.ok().flatten().and_then(|count| usize::try_from(count).ok()).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::source::{self, Source};
    use crate::conf::words::Context;

    fn read(text: &str) -> Settings {
        let cx = Context::new("/prefix", "/prefix/conf");
        let (mut core, mut events) = (Core::default(), Events::default());
        let nodes = source::read_parameter(&mut Source::disk(), text, "/prefix/conf/");
        CORE.read(&mut core, &nodes, MAIN, &cx).expect("a good text");
        let nodes = source::read_parameter(&mut Source::disk(), "worker_connections 7;", "/prefix/conf/");
        EVENTS_BLOCK.read(&mut events, &nodes, EVENTS, &cx).expect("a good text");
        core.finish(events, Path::new("/run/weir.pid")).expect("a good text").0
    }

    fn processors_of(mask: Option<CpuSet>) -> Option<Vec<usize>> {
        mask.map(|mask| (0..CpuSet::count()).filter(|&cpu| mask.is_set(cpu) == Ok(true)).collect())
    }

    #[test]
    fn masks_go_to_threads_in_turn_and_the_last_serves_the_rest() {
        let affinity = read("worker_cpu_affinity 0101 1000;").worker_cpu_affinity;
        assert_eq!(processors_of(affinity.of(0)), Some(vec![0, 2]));
        assert_eq!(processors_of(affinity.of(1)), Some(vec![3]));
        assert_eq!(processors_of(affinity.of(9)), Some(vec![3]));
        let auto = read("worker_cpu_affinity auto 1010;").worker_cpu_affinity;
        assert_eq!(processors_of(auto.of(0)), Some(vec![1]));
        assert_eq!(processors_of(auto.of(1)), Some(vec![3]));
        assert_eq!(processors_of(auto.of(2)), Some(vec![1]));
        assert_eq!(read("worker_cpu_affinity auto 00;").worker_cpu_affinity.of(0), None);
        assert_eq!(read("").worker_cpu_affinity.of(0), None);
    }

    #[test]
    fn the_environment_is_what_env_names_and_the_time_zone() {
        let inherited: Vec<(OsString, OsString)> =
            [("PATH", "/bin"), ("TZ", "UTC"), ("SECRET", "x")].map(|(name, value)| (name.into(), value.into())).into();
        let names = |text: &str| {
            let environment = read(text).environment_from(&inherited).into_iter();
            environment.map(|(name, value)| format!("{}={}", name.display(), value.display())).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["TZ=UTC"]);
        assert_eq!(names("env PATH; env MISSING; env A=b=c;"), ["PATH=/bin", "A=b=c", "TZ=UTC"]);
        assert_eq!(names("env TZ=CET;"), ["TZ=CET"]);
    }

    #[test]
    fn defaults_are_nginx_s() {
        let settings = read("");
        assert_eq!((settings.worker_processes, settings.worker_connections), (1, 7));
        assert!(settings.daemon && settings.master_process && !settings.multi_accept);
        assert_eq!(settings.pid, Path::new("/run/weir.pid"));
        assert_eq!(settings.worker_shutdown_timeout, None);
        assert_eq!(read("worker_shutdown_timeout 0;").worker_shutdown_timeout, None);
        assert_eq!(read("pid logs/x.pid;").pid, Path::new("/prefix/logs/x.pid"));
        assert_eq!(read("worker_priority -3;").worker_priority, -3);
    }

    #[test]
    fn a_process_goes_on_unless_what_it_was_given_at_its_start_changes() {
        let now = read("worker_processes 2;");
        assert!(now.same_process(&read("worker_processes 2; worker_shutdown_timeout 9s; pid x;")));
        for text in
            ["worker_processes 3;", "worker_processes 2; env A=b;", "worker_processes 2; worker_rlimit_core 1k;"]
        {
            assert!(!now.same_process(&read(text)), "{text}");
        }
    }

    #[test]
    fn rows_stand_in_the_order_of_the_alphabet() {
        assert!(CORE.rows.is_sorted_by_key(|row| row.name));
        assert!(EVENTS_BLOCK.rows.is_sorted_by_key(|row| row.name));
    }
}
