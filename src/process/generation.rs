//! One configuration in force: what was read, what was opened for it, what serves by it.
//!
//! The way of a configuration:
//!
//! ```text
//! Draft::read     texts ─► settings and services; nothing is touched yet
//! Draft::open     paths, log files, listening sockets ─► Generation, in the master
//! Handover        its texts and descriptors ─► the worker, which reads the same Draft and
//! Draft::adopt    joins it with the descriptors ─► the same Generation there
//! ```
//!
//! The rule: a step that fails leaves everything as it was.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::channel::{Kind, Message};
use super::cli::Options;
use super::core::{CORE, Core, EVENTS_BLOCK, Events, Owner, Settings};
use super::sandbox::Sandbox;
use crate::base::clock;
use crate::base::release;
use crate::base::text::{self, errno};
use crate::conf::error::Fault;
use crate::conf::lex::Node;
use crate::conf::module::{self, Arity, EVENTS, MAIN, Row, Table};
use crate::conf::source::{self, Source};
use crate::conf::words::{self, Words, Writes};
use crate::http;
use crate::log::error::Entry;
use crate::log::{ErrorLog, Sink, Sinks};
use crate::modules;
use crate::net::accept::Serve;
use crate::net::crowd::Life;
use crate::net::listen::{self, Listener, Purpose};

/// What one block of the main level (`http`, `stream`, `mail`) came to.
pub struct Service {
    /// The sockets it wants, in the order in which [`Serve::connection`] numbers them.
    pub listen: Vec<listen::Options>,
    pub serve: Arc<dyn Serve>,
    /// Directories for temporary files, which belong to the worker's user.
    pub paths: Vec<PathBuf>,
    /// Where else its requests may write.
    pub writes: Vec<(PathBuf, Writes)>,
}

/// A configuration that was read and is not yet in force.
pub struct Draft {
    pub settings: Settings,
    pub warnings: Vec<Fault>,
    services: Vec<Service>,
    logs: Vec<Entry>,
    default_log: Option<PathBuf>,
    record: Vec<u8>,
}

/// A configuration in force.
pub struct Generation {
    pub settings: Settings,
    pub log: ErrorLog,
    pub life: Arc<Life>,
    /// Who serves each of the listeners, and under which number.
    pub doors: Vec<Door>,
    /// What a new worker is confined to. Only the master knows, where there is one, and unless it is switched off.
    pub sandbox: Option<Sandbox>,
    record: Vec<u8>,
}

pub struct Door {
    pub listener: Listener,
    pub serve: Arc<dyn Serve>,
    /// The listener's number in its service.
    pub index: usize,
}

/// Why a configuration was not read.
pub struct Refused {
    pub fault: Fault,
    pub warnings: Vec<Fault>,
}

impl Draft {
    /// Reads the configuration that `options` name out of `source`. Calls `syntax_is_ok` when all of it was understood
    /// and only the whole remains to be judged, which is when nginx says so.
    pub fn read(
        options: &Options,
        source: &mut Source,
        sinks: &Sinks,
        syntax_is_ok: impl FnOnce(),
    ) -> Result<Self, Refused> {
        let cx = words::Context::new(options.prefix(), options.conf_prefix())
            .with_sinks(sinks)
            .with_files(&source.files)
            .with_names(directives().iter().map(String::as_str));
        let mut main = Main::default();
        let read = Self::read_files(options, source, &mut main, &cx).and_then(|()| {
            syntax_is_ok();
            match cx.undefined_pool() {
                Some(fault) => Err(fault),
                None => main.finish(),
            }
        });
        let mut warnings = cx.take_warnings();
        match read {
            Ok(Whole { settings, warnings: finishing, services, logs }) => {
                warnings.extend(finishing.into_iter().map(Fault::new));
                let default_log = options.error_log();
                Ok(Self { settings, warnings, services, logs, default_log, record: source.record() })
            }
            Err(fault) => Err(Refused { fault, warnings }),
        }
    }

    fn read_files(options: &Options, source: &mut Source, main: &mut Main, cx: &words::Context) -> Result<(), Fault> {
        let name = |path: PathBuf| text::decode(path.as_os_str().as_bytes());
        let mut prefix = name(options.conf_prefix());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        if let Some(directives) = &options.directives {
            main.apply(&source::read_parameter(source, directives, &prefix), cx)?;
        }
        main.apply(&source::read(source, &name(options.conf_file()), &prefix), cx)
    }

    /// Opens all that the configuration needs; the master's, and the test's. Sockets and what `previous` listened on
    /// are taken over.
    pub fn open(
        self,
        id: u64,
        previous: &[Listener],
        purpose: Purpose,
        sinks: &Sinks,
        log: &ErrorLog,
    ) -> Result<Generation, Fault> {
        for path in self.services.iter().flat_map(|service| &service.paths) {
            create_path(path, self.settings.user.as_ref())?;
        }
        let own_log = self.open_logs(sinks)?;
        let sandbox = self.settings.worker_sandbox.then(|| self.sandbox(sinks));
        let wanted: Vec<listen::Options> = self.wanted().cloned().collect();
        let listeners = listen::open(&wanted, previous, self.settings.worker_processes, purpose, log)?;
        Ok(Generation { sandbox, ..self.join(id, listeners, own_log) })
    }

    /// Joins the same configuration, read again in the worker, with the descriptors that the master opened for it.
    pub fn adopt(self, handover: Handover, sinks: &Sinks) -> Result<Generation, Fault> {
        for (path, descriptor) in handover.logs {
            sinks.adopt(&path, descriptor);
        }
        let log = self.open_logs(sinks)?;
        let mut sockets = handover.sockets;
        let mut listeners = Vec::new();
        for options in self.wanted() {
            let missing = || Fault::new(format!("no socket was handed over for {}", options.address));
            let sockets = sockets.remove(&options.address.to_string()).ok_or_else(missing)?;
            let sockets = sockets.into_iter().map(Arc::new).collect();
            // Files are the master's business.
            listeners.push(Listener { options: options.clone(), sockets, inherited: false });
        }
        Ok(self.join(handover.id, listeners, log))
    }

    /// Where a worker of this configuration writes. What the log files are is known once they are open.
    fn sandbox(&self, sinks: &Sinks) -> Sandbox {
        let files = self.services.iter().flat_map(|service| &service.paths).map(|path| (path.clone(), Writes::Files));
        let other = self.services.iter().flat_map(|service| &service.writes).cloned();
        let logs = sinks.descriptors().into_iter().map(|(path, _)| (path, Writes::OpenedLogs));
        // A core that the kernel writes there.
        let core = self.settings.working_directory.iter().map(|path| (path.clone(), Writes::Logs));
        Sandbox::of(files.chain(other).chain(logs).chain(core))
    }

    fn wanted(&self) -> impl Iterator<Item = &listen::Options> {
        self.services.iter().flat_map(|service| &service.listen)
    }

    fn open_logs(&self, sinks: &Sinks) -> Result<ErrorLog, Fault> {
        let log = ErrorLog::of_main(self.logs.clone(), || default_sink(self.default_log.as_deref(), sinks));
        match sinks.open() {
            Ok(()) => Ok(log),
            Err(error) => {
                sinks.abandon();
                Err(Fault::new(error.to_string()))
            }
        }
    }

    fn join(self, id: u64, listeners: Vec<Listener>, log: ErrorLog) -> Generation {
        let mut listeners = listeners.into_iter();
        let mut doors = Vec::new();
        for service in self.services {
            let own = listeners.by_ref().take(service.listen.len()).enumerate();
            doors.extend(own.map(|(index, listener)| Door { listener, serve: service.serve.clone(), index }));
        }
        let Self { settings, record, .. } = self;
        clock::set_zone(settings.time_zone().as_deref());
        Generation { settings, log, life: Arc::new(Life::new(id)), doors, sandbox: None, record }
    }
}

impl Generation {
    /// What works beside connections begins; in a worker only.
    pub fn begin(&self) {
        for door in &self.doors {
            door.serve.begin();
        }
    }

    /// As [`Generation::begin`], on one thread: what works in its loop begins.
    pub fn begin_here(&self) {
        for door in &self.doors {
            door.serve.begin_here();
        }
    }

    pub fn listeners(&self) -> Vec<Listener> {
        self.doors.iter().map(|door| door.listener.clone()).collect()
    }

    /// The same generation when it listens no more.
    pub fn without_doors(&self) -> Self {
        let (settings, log, life) = (self.settings.clone(), self.log.clone(), self.life.clone());
        Self { settings, log, life, doors: Vec::new(), sandbox: None, record: Vec::new() }
    }

    /// The settings alone, holding nothing open.
    pub fn husk(&self) -> Self {
        Self { log: ErrorLog::none(), ..self.without_doors() }
    }

    /// What a worker needs to come to the same generation.
    pub fn handover(&self, sinks: &Sinks) -> io::Result<Message> {
        let logs = sinks.descriptors();
        let mut parts = vec![self.life.id.to_le_bytes().to_vec(), self.record.clone()];
        let mut descriptors = Vec::new();
        parts.push((self.doors.len() as u64).to_le_bytes().to_vec());
        for Door { listener, .. } in &self.doors {
            parts.push(listener.options.address.to_string().into_bytes());
            parts.push((listener.sockets.len() as u64).to_le_bytes().to_vec());
            for socket in &listener.sockets {
                descriptors.push(socket.try_clone()?);
            }
        }
        for (path, descriptor) in logs {
            parts.push(path.into_os_string().into_vec());
            descriptors.push(descriptor.try_clone()?);
        }
        Ok(Message { kind: Kind::Reload, parts, descriptors })
    }
}

/// A generation on its way to the worker.
pub struct Handover {
    pub id: u64,
    pub record: Vec<u8>,
    sockets: HashMap<String, Vec<OwnedFd>>,
    logs: Vec<(PathBuf, OwnedFd)>,
}

impl Handover {
    /// Takes a message of [`Kind::Reload`] apart; `None` if it is not what [`Generation::handover`] makes.
    pub fn of(message: Message) -> Option<Self> {
        let mut parts = message.parts.into_iter();
        let mut descriptors = message.descriptors.into_iter();
        let number = |part: Option<Vec<u8>>| Some(u64::from_le_bytes(part?.try_into().ok()?));
        let id = number(parts.next())?;
        let record = parts.next()?;
        let mut sockets = HashMap::new();
        for _ in 0..number(parts.next())? {
            let address = String::from_utf8(parts.next()?).ok()?;
            let count = usize::try_from(number(parts.next())?).ok()?;
            let own: Vec<OwnedFd> = descriptors.by_ref().take(count).collect();
            if own.len() != count {
                return None;
            }
            sockets.insert(address, own);
        }
        let paths: Vec<PathBuf> = parts.map(|path| std::ffi::OsString::from_vec(path).into()).collect();
        if paths.len() != descriptors.len() {
            return None;
        }
        Some(Self { id, record, sockets, logs: paths.into_iter().zip(descriptors).collect() })
    }
}

/// Every directive that is known anywhere.
pub fn directives() -> HashSet<String> {
    let blocks = Main::names().chain(EVENTS_BLOCK.rows.iter().map(|row| row.name)).map(str::to_owned);
    let upstream = modules::pass::group::BLOCK.rows.iter().map(|row| row.name.to_owned());
    blocks.chain(upstream).chain(modules::http().names().map(str::to_owned)).collect()
}

/// The main level while it is read.
#[derive(Default)]
struct Main {
    core: Core,
    events: Option<Events>,
    logs: Vec<Entry>,
    services: Vec<Service>,
    /// There was an `http` block.
    http: bool,
}

/// What stands at the main level beside the settings of the core.
const BLOCKS: Table<Main> = Table {
    rows: &[
        Row::line("error_log", MAIN, Arity::AtLeast(1), Main::error_log),
        Row::block("events", MAIN, Arity::None, Main::events),
        Row::block("http", MAIN, Arity::None, Main::http),
    ],
};

impl Main {
    fn apply(&mut self, nodes: &[Node], cx: &words::Context) -> Result<(), Fault> {
        for node in nodes {
            let statement = match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => statement,
            };
            let one = std::slice::from_ref(node);
            let name = &statement.words[0].text;
            if CORE.rows.iter().any(|row| row.name == name) {
                CORE.read(&mut self.core, one, MAIN, cx)?;
            } else if BLOCKS.rows.iter().any(|row| row.name == name) {
                BLOCKS.read(self, one, MAIN, cx)?;
            } else {
                return Err(module::unknown(statement, cx, Self::names()));
            }
        }
        Ok(())
    }

    /// What may stand at the main level.
    fn names() -> impl Iterator<Item = &'static str> {
        CORE.rows.iter().map(|row| row.name).chain(BLOCKS.rows.iter().map(|row| row.name))
    }

    /// Syntax: `error_log file [level];`  Default: `logs/error.log error`
    /// Context: main, http, mail, stream, server, location
    fn error_log(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.logs.push(words.error_log()?);
        Ok(())
    }

    /// Syntax: `events { ... }`  Context: main
    fn events(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.events.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        let events = self.events.insert(Events::default());
        EVENTS_BLOCK.read(events, words.block(), EVENTS, words.cx)
    }

    /// Syntax: `http { ... }`  Context: main
    fn http(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.http {
            return Err(Fault::directive("is duplicate"));
        }
        self.http = true;
        let http = http::build::load(&modules::http(), words.block(), words.at(), words.cx)?;
        let listen = http.listens.iter().map(|listen| listen.options.clone()).collect();
        let (paths, writes) = (words.cx.take_directories(), words.cx.take_writes());
        self.services.push(Service { listen, serve: Arc::new(http), paths, writes });
        Ok(())
    }

    /// Judges the whole: what is missing, and what does not go together.
    fn finish(self) -> Result<Whole, Fault> {
        let has_events = self.events.is_some();
        let (settings, warnings) =
            self.core.finish(self.events.unwrap_or_default(), Path::new(release::layout().pid))?;
        if !has_events {
            return Err(Fault::new("no \"events\" section in configuration"));
        }
        let listening = self.services.iter().map(|service| service.listen.len()).sum::<usize>();
        let connections = settings.worker_connections;
        // nginx: one for each listening socket, and one for the line to the master
        if connections < listening + 1 {
            return Err(Fault::new(format!(
                "{connections} worker_connections are not enough for {listening} listening sockets"
            )));
        }
        Ok(Whole { settings, warnings, services: self.services, logs: self.logs })
    }
}

/// What [`Main`] came to.
struct Whole {
    settings: Settings,
    warnings: Vec<String>,
    services: Vec<Service>,
    logs: Vec<Entry>,
}

fn default_sink(path: Option<&Path>, sinks: &Sinks) -> Arc<Sink> {
    match path {
        Some(path) => sinks.file(path),
        None => sinks.stderr(),
    }
}

/// Makes a directory for temporary files, and gives it to the worker's user. nginx makes one level, no more.
fn create_path(path: &Path, owner: Option<&Owner>) -> Result<(), Fault> {
    let failed =
        |call: &str, error: &io::Error| Fault::new(format!("{call} \"{}\" failed {}", path.display(), errno(error)));
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("mkdir()", &error)),
    }
    let Some(owner) = owner else { return Ok(()) };
    let metadata = fs::metadata(path).map_err(|error| failed("stat()", &error))?;
    if metadata.uid() != owner.user.as_raw() {
        std::os::unix::fs::chown(path, Some(owner.user.as_raw()), None).map_err(|error| failed("chown()", &error))?;
    }
    // nginx: the owner must be able to go in, read and write
    if metadata.mode() & 0o700 != 0o700 {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(metadata.mode() | 0o700);
        fs::set_permissions(path, mode).map_err(|error| failed("chmod()", &error))?;
    }
    Ok(())
}
