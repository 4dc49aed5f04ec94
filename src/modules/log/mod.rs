//! Access logs: `log_format`, `access_log`, `open_log_file_cache` (nginx: `ngx_http_log_module`).
//!
//! In: a request that is over. Out: one line in each log of the location where it ended. A line is made in one buffer
//! that the thread keeps, and goes from there to the thread's batch of its file (`log/batch.rs`) or to syslog.

mod files; // logs whose path has variables
mod format; // from log_format to a line

use std::cell::{Cell, OnceCell};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::files::Files;
use self::format::Format;
use crate::base::{release, text, units};
use crate::conf::error::{At, Fault};
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, IF_LOCATION, LIMIT_EXCEPT, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::{Words, Writes, syslog_address};
use crate::http::plan::{self, Plan};
use crate::http::request::Request;
use crate::log::syslog::{self, Peer};
use crate::log::{Hold, Sink, batch};

/// The format of that name, which needs no `log_format`.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

/// `ngx_http_log_module`.
pub struct Log;

impl Module for Log {
    const NAME: &'static str = "http_log";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::main("log_format", HTTP, Arity::AtLeast(2), Formats::log_format),
        Directive::location(
            "access_log",
            EVERYWHERE.or(IF_LOCATION).or(LIMIT_EXCEPT),
            Arity::AtLeast(1),
            Conf::access_log,
        ),
        Directive::location("open_log_file_cache", EVERYWHERE, Arity::Between(1, 4), Conf::open_log_file_cache),
    ];
    type Plan = Plan;
    type Main = Formats;
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let formats = level.main::<Self>();
        let Some(said) = conf.logs.as_ref() else {
            let path = release::log_file("access.log", &level.cx.prefix);
            let target = Target::File(level.cx.sinks.file(&path));
            plan.logs.push(Box::new(AccessLog { target, format: formats.combined(level)?, filter: None }));
            return Ok(());
        };
        if said.off {
            return Ok(());
        }
        for entry in &said.logs {
            let format = formats.named(entry, level)?;
            let target = match &entry.place {
                Place::File(sink) => Target::File(sink.clone()),
                Place::Syslog(peer) => Target::Syslog(peer.clone()),
                Place::Path(path) => {
                    let files = conf.open_log_file_cache.or(None);
                    Target::Path(path.clone(), files.unwrap_or_else(|| Arc::new(Files::uncached(&level.cx.sinks))))
                }
            };
            plan.logs.push(Box::new(AccessLog { target, format, filter: entry.filter.clone() }));
        }
        Ok(())
    }
}

/// The formats by name.
#[derive(Default)]
pub struct Formats {
    named: Vec<(String, Arc<Format>, usize)>,
    combined: OnceCell<Arc<Format>>,
}

impl Formats {
    /// Syntax: `log_format name [escape=default|json|none] string ...;`
    fn log_format(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let name = words.arg(0);
        if name == "combined" || self.named.iter().any(|(other, ..)| other == name) {
            return Err(words.fault(0, format!("duplicate \"log_format\" name \"{name}\"")));
        }
        let strings: Vec<&str> = words.texts().skip(1).collect();
        let format = Format::new(&strings, &words.cx.names).map_err(|fault| fault.or_at(words.at()))?;
        self.named.push((name.to_owned(), Arc::new(format), words.nth));
        Ok(())
    }

    fn combined(&self, level: &Level<'_>) -> Result<Arc<Format>, Fault> {
        if let Some(known) = self.combined.get() {
            return Ok(known.clone());
        }
        let format = Arc::new(Format::new(&[COMBINED], &level.cx.names)?);
        Ok(self.combined.get_or_init(|| format).clone())
    }

    /// The format that an `access_log` means. nginx: letters of either case alike, and only what stands before it.
    fn named(&self, entry: &Entry, level: &Level<'_>) -> Result<Arc<Format>, Fault> {
        let name = &entry.format;
        if name.eq_ignore_ascii_case("combined") {
            return self.combined(level);
        }
        let found = self.named.iter().find(|(known, _, nth)| known.eq_ignore_ascii_case(name) && *nth < entry.nth);
        let unknown = || Fault::at(format!("unknown log format \"{name}\""), &entry.at);
        found.map(|(_, format, _)| format.clone()).ok_or_else(unknown)
    }
}

impl Section for Formats {
    /// There is one for the whole block.
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What was said of logs at one level.
#[derive(Default)]
pub struct Conf {
    logs: Setting<Said>,
    open_log_file_cache: Setting<Option<Arc<Files>>>,
}

/// The `access_log` directives of one level.
#[derive(Clone, Default)]
struct Said {
    /// `access_log off` wins over all others beside it.
    off: bool,
    logs: Vec<Entry>,
}

/// One `access_log`.
#[derive(Clone)]
struct Entry {
    place: Place,
    /// The format's name.
    format: String,
    filter: Option<Template>,
    nth: usize,
    at: At,
}

#[derive(Clone)]
enum Place {
    File(Arc<Sink>),
    Syslog(Arc<Peer>),
    Path(Template),
}

impl Conf {
    /// Syntax: `access_log path [format [buffer=size] [gzip[=level]] [flush=time] [if=condition]];`,
    /// `access_log off;`  Default: `/var/log/weir/access.log combined`, or `logs/access.log` of the
    /// prefix where no package made that directory
    fn access_log(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let said = self.logs.list();
        if words.one() == "off" {
            said.off = true;
            return if words.len() == 1 { Ok(()) } else { Err(words.invalid_parameter(1)) };
        }
        let place = place(words)?;
        let format = if words.len() > 1 { words.arg(1) } else { "combined" };
        let mut filter = None;
        let mut buffer = Buffer::default();
        for n in 2..words.len() {
            match words.arg(n).strip_prefix("if=") {
                Some(condition) => filter = Some(words.compile(n, condition)?),
                None => buffer.parameter(words, n)?,
            }
        }
        buffer.hold(words, &place)?;
        let entry = Entry { place, format: format.to_owned(), filter, nth: words.nth, at: words.at().clone() };
        said.logs.push(entry);
        Ok(())
    }

    /// Syntax: `open_log_file_cache max=N [inactive=time] [min_uses=N] [valid=time];`, `open_log_file_cache off;`
    /// Default: `off`
    fn open_log_file_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.open_log_file_cache.set(Files::read(words)?.map(Arc::new))
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { logs, open_log_file_cache } = self;
        logs.inherit(&outer.logs);
        open_log_file_cache.inherit(&outer.open_log_file_cache);
        Ok(())
    }
}

/// Where an `access_log` directive sends its lines.
fn place(words: &Words<'_>) -> Result<Place, Fault> {
    let word = words.one();
    if let Some(parameters) = word.strip_prefix("syslog:") {
        let reader = syslog::Reader { address: &syslog_address, hostname: &words.cx.hostname };
        let peer = Peer::parse(parameters, &reader).map_err(|sentence| words.fault(0, sentence))?;
        return Ok(Place::Syslog(Arc::new(peer)));
    }
    if !word.contains('$') {
        return Ok(Place::File(words.cx.sinks.file(&words.cx.path(word))));
    }
    // nginx: the prefix stands before whatever does not begin with a slash, a variable too.
    let prefix = text::decode(words.cx.prefix.as_os_str().as_encoded_bytes());
    let whole =
        if word.starts_with('/') { word.to_owned() } else { format!("{}/{word}", prefix.trim_end_matches('/')) };
    let path = words.compile(0, &whole)?;
    words.cx.will_write(path.fixed(), Path::new("/"), Writes::Logs);
    Ok(Place::Path(path))
}

/// `buffer=`, `flush=` and `gzip=` of one directive.
#[derive(Default)]
struct Buffer {
    size: usize,
    flush: Option<Duration>,
    gzip: Option<u8>,
}

impl Buffer {
    fn parameter(&mut self, words: &Words<'_>, n: usize) -> Result<(), Fault> {
        let word = words.arg(n);
        if let Some(size) = word.strip_prefix("buffer=") {
            let bytes = units::size(size).and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
            self.size = bytes.ok_or_else(|| words.fault(n, format!("invalid buffer size \"{size}\"")))?;
        } else if let Some(time) = word.strip_prefix("flush=") {
            let flush = units::milliseconds(time).filter(|time| *time > 0);
            let flush = flush.ok_or_else(|| words.fault(n, format!("invalid flush time \"{time}\"")))?;
            self.flush = Some(Duration::from_millis(flush));
        } else if word == "gzip" {
            self.gzip(1);
        } else if let Some(level) = word.strip_prefix("gzip=") {
            let number = units::number(level).and_then(|level| u8::try_from(level).ok());
            let number = number.filter(|number| (1..=9).contains(number));
            self.gzip(number.ok_or_else(|| words.fault(n, format!("invalid compression level \"{level}\"")))?);
        } else {
            return Err(words.invalid_parameter(n));
        }
        Ok(())
    }

    fn gzip(&mut self, level: u8) {
        self.gzip = Some(level);
        if self.size == 0 {
            self.size = 64 * 1024;
        }
    }

    /// Tells the file. nginx: all directives that name a file and buffer it must say the same.
    fn hold(self, words: &Words<'_>, place: &Place) -> Result<(), Fault> {
        let Self { size, flush, gzip } = self;
        let word = words.one();
        if size == 0 {
            return match flush {
                Some(_) => Err(words.fault(0, format!("no buffer is defined for access_log \"{word}\""))),
                None => Ok(()),
            };
        }
        match place {
            Place::Path(_) => Err(words.fault(0, "buffered logs cannot have variables in name")),
            Place::Syslog(_) => Err(words.fault(0, "logs to syslog cannot be buffered")),
            Place::File(sink) if sink.hold(Hold { size, flush, gzip }) => Ok(()),
            Place::File(_) => {
                Err(words.fault(0, format!("access_log \"{word}\" already defined with conflicting parameters")))
            }
        }
    }
}

/// One log of one location.
struct AccessLog {
    target: Target,
    format: Arc<Format>,
    /// `if=`: a request for which this is empty or `0` is not logged.
    filter: Option<Template>,
}

enum Target {
    File(Arc<Sink>),
    Syslog(Arc<Peer>),
    Path(Template, Arc<Files>),
}

/// A buffer that one huge line has made larger is not kept.
const KEPT_LINE: usize = 64 * 1024;

thread_local! {
    /// The line at hand. Taken while it is made: a variable may log an error.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl plan::Log for AccessLog {
    fn log(&self, request: &Request) {
        if let Some(filter) = &self.filter {
            let value = filter.eval(request);
            if value.is_empty() || value == "0" {
                return;
            }
        }
        let mut line = LINE.take();
        line.clear();
        self.format.append(request, &mut line);
        match &self.target {
            Target::Syslog(peer) => peer.send(&line),
            Target::File(sink) => {
                line.push(b'\n');
                batch::push(sink, &line);
            }
            Target::Path(path, files) => {
                line.push(b'\n');
                if let Some(sink) = files.sink(request, path) {
                    batch::push(&sink, &line);
                }
            }
        }
        if line.capacity() <= KEPT_LINE {
            LINE.set(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::rc::Rc;
    use std::time::Instant;

    use bytes::Bytes;

    use super::*;
    use crate::base::clock;
    use crate::conf::lex;
    use crate::conf::words::Context;
    use crate::http::build;
    use crate::http::connection::Connection;
    use crate::http::request::{Begun, LineText, RequestHead};
    use crate::http::response::{Field, Head};
    use crate::log::{ErrorLog, Sinks};
    use crate::net::accept::Peer;
    use crate::net::crowd::{Crowd, Slot};
    use crate::net::io::Io;
    use crate::wire::http1::request::Version;

    /// Run alone, with --release: `cargo test --release --lib -- --ignored cost_of_a_request --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_request_in_the_access_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let sinks = Sinks::new();
        let cx = Context::new(directory.path(), directory.path()).with_sinks(&sinks);
        let text = format!(
            "log_format own '$remote_addr - $remote_user \"$request\" $status $body_bytes_sent \"$http_referer\" \
             \"$http_user_agent\" \"$http_x_forwarded_for\" $request_time $host $server_port $request_id';\n\
             server {{ listen 80; location /combined {{ access_log {path}/combined.log; }} \
             location /own {{ access_log {path}/own.log own; }} location /off {{ access_log off; }} access_log off; }}",
            path = directory.path().display()
        );
        let at = At { file: "conf".into(), line: 1, row: 1, column: 0, length: 0 };
        let nodes = lex::file(text.as_bytes(), &at.file, 0);
        let http = build::load(&crate::modules::http(), &nodes, &at, &cx).map_err(|fault| fault.message);
        let http = Arc::new(http.expect("a good configuration"));
        sinks.open().expect("the logs open");
        sinks.start_writers();
        batch::attend();
        Crowd::here().limit(10, 0);

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _guard = runtime.enter();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        stream.set_nonblocking(true).expect("a socket");
        let io = Io::new(tokio::net::TcpStream::from_std(stream).expect("a socket"));
        let slot = Slot::take(&ErrorLog::none()).expect("there is room");
        let peer = Peer::Inet(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 17), 12345)));
        let connection = Rc::new(Connection::new(http.clone(), 0, io, slot, peer));

        let text = Bytes::from_static;
        let field = |name: &'static str, value: &'static str| Field::new(name, value);
        let head = || {
            Rc::new(RequestHead {
                line: LineText::of(b"GET", b"/some/ordinary/path.html?with=arguments", b"HTTP/1.1"),
                version: Version::HTTP_11,
                fields: [
                    field("Host", "www.example.org"),
                    field("Connection", "keep-alive"),
                    field("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
                    field("Accept", "text/html,application/xhtml+xml"),
                    field("Accept-Encoding", "gzip, deflate, br"),
                    field("Referer", "https://www.example.org/some/other/page.html"),
                ]
                .into_iter()
                .collect(),
                host: Some(text(b"www.example.org")),
                host_port: 0,
                escaped: false,
                content_length: None,
                chunked: false,
                size: 400,
            })
        };
        let count = 200_000;
        for name in ["off", "combined", "own"] {
            let id = http.locations.iter().position(|location| location.name.ends_with(name.as_bytes()));
            let mut spent = Duration::ZERO;
            for _ in 0..count / 50 {
                let requests: Vec<_> = (0..50)
                    .map(|_| {
                        let request =
                            Request::new(connection.clone(), head(), Begun { path: text(b"/x"), ..Begun::default() });
                        request.enter(crate::http::plan::LocationId(id.expect("a location") as u32));
                        request.sent(Box::new(Head::new(200)));
                        request
                    })
                    .collect();
                clock::tick();
                let then = Instant::now();
                for request in &requests {
                    request.write_logs();
                }
                batch::flush_all();
                spent += then.elapsed();
                drop(requests); // outside of what is measured
            }
            println!("{name}: {:?} a request", spent / count);
        }
        assert!(sinks.stop_writers(Duration::from_secs(9)));
        let written = std::fs::read(directory.path().join("combined.log")).expect("a log");
        assert_eq!(memchr::memchr_iter(b'\n', &written).count(), count as usize);
    }
}
