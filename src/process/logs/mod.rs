//! `weir logs [-f] [FILTER ...] [--top FIELD]`: reads access logs as the configuration says they are written.
//!
//! In: the words after `logs`, and the configuration's `access_log` and `log_format`. Out: the lines that all filters
//! let through, or sums of them. The rule: nothing is written to but stdout, and a log of any size is read in pieces.

mod line;
mod top;

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::prelude::{Long, Short, Value, ValueExt};
use line::{COMBINED, Filter, Format, Line};
use top::Sums;

use super::cli::{self, Invocation, Options};
use crate::base::{release, text};
use crate::conf::lex::{Node, Statement};
use crate::conf::source;

const HELP: &str = "\
usage: weir logs [-f] [-n LINES] [--top FIELD] [--file LOG [--format NAME]] [-p PREFIX] [-c CONF] [FILTER ...]

  FILTER         FIELD=VALUE, also != ~ !~ < <= > >=: status=5xx 'request_time>1' uri~^/api
  -f             go on with lines as they come, through rotation
  -n LINES       no more than the last so many; 10 with -f
  --top FIELD    sums by a field: requests, times, bytes, statuses, cache hits
  --file LOG     this log; without it, every log of the configuration
  --format NAME  its log_format; combined
";

/// How often a file is looked at.
const PACE: Duration = Duration::from_millis(200);
/// How often the page of sums is drawn while it follows.
const DRAW: Duration = Duration::from_secs(2);
/// Lines that `-f` begins with.
const TAIL: usize = 10;
/// Lines that `-n` may ask for.
const MOST: usize = 1_000_000;
/// A longer line is no line of a log.
const LONGEST: u64 = 1 << 20;

/// The program when its first argument is `logs`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let asked = match Asked::parse(arguments.iter().skip(2).cloned()) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(sentence) => return refuse(&sentence),
    };
    let logs = match asked.logs() {
        Ok(logs) => logs,
        Err(sentence) => return refuse(&sentence),
    };
    match asked.show(logs) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked has stopped reading.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(sentence: &str) -> ExitCode {
    eprintln!("weir: {sentence}");
    ExitCode::FAILURE
}

/// What the words ask for.
struct Asked {
    options: Options,
    follow: bool,
    last: Option<usize>,
    top: Option<String>,
    file: Option<PathBuf>,
    format: String,
    filters: Vec<Filter>,
}

impl Asked {
    /// `None` is a call for help. The error is a sentence for the terminal.
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut follow, mut last, mut top, mut file, mut format) = (false, None, None, None, "combined".to_owned());
        let (mut filters, mut general) = (Vec::new(), Vec::new());
        let wrong = |error: lexopt::Error| format!("{error}\n\n{HELP}");
        while let Some(argument) = parser.next().map_err(wrong)? {
            match argument {
                Short('f') | Long("follow") => follow = true,
                Short('n') => {
                    let lines: usize = parser.value().and_then(|value| value.parse()).map_err(wrong)?;
                    last = Some(lines.min(MOST));
                }
                Short(option @ ('p' | 'c')) => {
                    general.push(format!("-{option}").into());
                    general.push(parser.value().map_err(wrong)?);
                }
                Short('h') | Long("help") => return Ok(None),
                Long("top") => {
                    let field = parser.value().and_then(ValueExt::string).map_err(wrong)?;
                    top = Some(field.trim_start_matches('$').to_owned());
                }
                Long("file") => file = Some(PathBuf::from(parser.value().map_err(wrong)?)),
                Long("format") => format = parser.value().and_then(ValueExt::string).map_err(wrong)?,
                Value(word) => filters.push(Filter::parse(&word.to_string_lossy())?),
                other => return Err(wrong(other.unexpected())),
            }
        }
        let Ok(Invocation::Run(options)) = cli::parse(general) else { return Err(HELP.to_owned()) };
        Ok(Some(Self { options, follow, last, top, file, format, filters }))
    }

    /// The logs that are meant, each with its format.
    fn logs(&self) -> Result<Vec<Log>, String> {
        let mut found = Found::default();
        let name = |path: PathBuf| text::decode(path.as_os_str().as_bytes());
        let directory = format!("{}/", name(self.options.conf_prefix()));
        let conf = name(self.options.conf_file());
        // A log that is named needs no configuration, unless its format is one of it.
        if self.file.is_none() || self.format != "combined" {
            found.read(&source::read(&mut self.options.source(), &conf, &directory))?;
        }
        let named = |format: &str| match found.formats.iter().find(|(known, _)| known.eq_ignore_ascii_case(format)) {
            Some((_, format)) => Ok(format.clone()),
            None if format.eq_ignore_ascii_case("combined") => Ok(Format::new(&[COMBINED])),
            None => Err(format!("unknown log format \"{format}\"")),
        };
        let mut logs: Vec<Log> = Vec::new();
        match &self.file {
            Some(file) => logs.push(Log::new(file.clone(), named(&self.format)?)),
            None => {
                for (path, format) in &found.logs {
                    let path = self.options.prefix().join(text::path(path));
                    if !logs.iter().any(|log| log.path == path) {
                        logs.push(Log::new(path, named(format)?));
                    }
                }
                if found.logs.is_empty() && !found.off {
                    let path = release::log_file("access.log", self.options.prefix());
                    logs.push(Log::new(path, named("combined")?));
                }
            }
        }
        if logs.is_empty() {
            return Err(format!("the configuration {conf} names no access log that is a file"));
        }
        for field in self.filters.iter().map(|filter| &filter.field).chain(&self.top) {
            if !logs.iter().any(|log| log.format.fields().contains(&field.as_str())) {
                let mut fields: Vec<&str> = logs.iter().flat_map(|log| log.format.fields()).collect();
                fields.sort_unstable();
                fields.dedup();
                return Err(format!("no log has the field \"{field}\"; there are: {}", fields.join(", ")));
            }
        }
        Ok(logs)
    }

    fn show(&self, mut logs: Vec<Log>) -> io::Result<()> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let mut page = Page {
            out: BufWriter::new(stdout.lock()),
            colours: terminal && std::env::var_os("NO_COLOR").is_none(),
            sums: self.top.as_deref().map(Sums::of),
            held: Vec::new(),
            last: self.last.or((self.follow && self.top.is_none()).then_some(TAIL)),
        };
        let mut missing = None;
        for log in &mut logs {
            if let Err(error) = log.read(|line, text| self.line(line, text, &mut page)) {
                match error.kind() {
                    io::ErrorKind::BrokenPipe => return Err(error),
                    _ => missing = Some(io::Error::other(format!("\"{}\": {error}", log.path.display()))),
                }
            }
        }
        page.release()?;
        if !self.follow {
            page.draw(false)?;
            return missing.map_or(Ok(()), Err);
        }
        let mut drawn = None;
        loop {
            if drawn.is_none_or(|drawn: Instant| drawn.elapsed() >= DRAW) {
                page.draw(terminal)?;
                drawn = Some(Instant::now());
            }
            page.out.flush()?;
            std::thread::sleep(PACE);
            for log in &mut logs {
                log.follow(|line, text| self.line(line, text, &mut page))?;
            }
        }
    }

    /// One line of a log; `None` is one that its format did not write.
    fn line(&self, line: Option<&Line<'_>>, text: &[u8], page: &mut Page<'_>) -> io::Result<()> {
        match line {
            Some(line) if self.filters.iter().all(|filter| filter.lets(line)) => page.add(line),
            // What cannot be read is shown where nothing was asked about it.
            None if self.filters.is_empty() && page.sums.is_none() => page.put(text.to_vec()),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a configuration says of logs.
#[derive(Default)]
struct Found {
    formats: Vec<(String, Format)>,
    logs: Vec<(String, String)>,
    off: bool,
}

impl Found {
    fn read(&mut self, nodes: &[Node]) -> Result<(), String> {
        for node in nodes {
            let Statement { words, block, .. } = match node {
                Node::Statement(statement) => statement,
                Node::Fault(fault) => return Err(fault.to_string()),
            };
            let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            match texts[..] {
                ["log_format", name, ref strings @ ..] => self.formats.push((name.to_owned(), Format::new(strings))),
                ["access_log", "off", ..] => self.off = true,
                ["access_log", path, ref more @ ..] if !path.contains('$') && !path.starts_with("syslog:") => {
                    let format = more.first().filter(|word| !word.contains('=')).copied().unwrap_or("combined");
                    self.logs.push((path.to_owned(), format.to_owned()));
                }
                _ => {}
            }
            self.read(block.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// One file, and how far it was read.
struct Log {
    path: PathBuf,
    format: Format,
    reader: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Log {
    fn new(path: PathBuf, format: Format) -> Self {
        Self { path, format, reader: None, begun: Vec::new() }
    }

    /// Hands over the lines up to the present end.
    fn read(&mut self, mut each: impl FnMut(Option<&Line<'_>>, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(BufReader::with_capacity(1 << 16, File::open(&self.path)?)),
        };
        loop {
            let room = LONGEST.saturating_sub(self.begun.len() as u64);
            let count = io::Read::take(&mut *reader, room).read_until(b'\n', &mut self.begun)?;
            if self.begun.ends_with(b"\n") {
                self.begun.pop();
            } else if count == 0 && room > 0 {
                return Ok(());
            } else if (self.begun.len() as u64) < LONGEST {
                continue;
            }
            each(self.format.read(&self.begun).as_ref(), &self.begun)?;
            self.begun.clear();
        }
    }

    /// As `read`, and notices when another file has taken the name, or this one was emptied.
    fn follow(&mut self, mut each: impl FnMut(Option<&Line<'_>>, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let named = std::fs::metadata(&self.path);
        if self.reader.is_some() {
            // To the end of what was open, before anything newer.
            self.read(&mut each)?;
        }
        let Ok(named) = named else { return Ok(()) };
        let stays = match &mut self.reader {
            None => false,
            Some(reader) => {
                let open = reader.get_ref().metadata()?;
                same(&open, &named) && io::Seek::stream_position(reader)? <= open.len()
            }
        };
        if !stays {
            self.reader = None;
            self.begun.clear();
            match self.read(each) {
                // It is gone again, for now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Ok(())
    }
}

/// Where lines or sums go.
struct Page<'a> {
    out: BufWriter<io::StdoutLock<'a>>,
    colours: bool,
    sums: Option<Sums>,
    /// The last lines, until all are known.
    held: Vec<Vec<u8>>,
    last: Option<usize>,
}

impl Page<'_> {
    fn add(&mut self, line: &Line<'_>) -> io::Result<()> {
        if let Some(sums) = &mut self.sums {
            sums.add(line);
            return Ok(());
        }
        let mut text = line.text.to_vec();
        if self.colours
            && let Some(status) = line.place("status")
        {
            let colour = match text.get(status.start) {
                Some(b'2') => "\x1b[32m",
                Some(b'3') => "\x1b[36m",
                Some(b'4') => "\x1b[33m",
                _ => "\x1b[1;31m",
            };
            text.splice(status.end..status.end, *b"\x1b[0m");
            text.splice(status.start..status.start, colour.bytes());
        }
        self.put(text)
    }

    fn put(&mut self, text: Vec<u8>) -> io::Result<()> {
        match self.last {
            Some(last) => {
                self.held.push(text);
                // Twice as many at most, so that moving them costs little.
                if self.held.len() >= 2 * last.max(1) {
                    self.held.drain(..self.held.len() - last);
                }
                Ok(())
            }
            None => {
                self.out.write_all(&text)?;
                self.out.write_all(b"\n")
            }
        }
    }

    /// All that was there has been read.
    fn release(&mut self) -> io::Result<()> {
        let Some(last) = self.last.take() else { return Ok(()) };
        let from = self.held.len().saturating_sub(last);
        for text in std::mem::take(&mut self.held).into_iter().skip(from) {
            self.put(text)?;
        }
        Ok(())
    }

    fn draw(&mut self, clear: bool) -> io::Result<()> {
        if let Some(sums) = &self.sums {
            if clear {
                self.out.write_all(b"\x1b[H\x1b[2J")?;
            }
            self.out.write_all(sums.page().as_bytes())?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Option<Asked>, String> {
        Asked::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn logs_and_formats_come_from_the_configuration() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let conf = directory.path().join("n.conf");
        let text = "http { log_format short '$status $uri'; access_log logs/a.log short; \
                    server { access_log /x/b.log combined buffer=1k; access_log /x/$host.log; access_log off; } }";
        std::fs::write(&conf, text).expect("the directory is ours");
        let conf = conf.to_str().expect("plain text");
        let logs =
            asked(&["-p", "/p", "-c", conf, "status=5xx"]).expect("good").expect("no help").logs().expect("good");
        let paths: Vec<_> = logs.iter().map(|log| log.path.to_str().expect("plain text")).collect();
        assert_eq!(paths, ["/p/logs/a.log", "/x/b.log"]);
        let unknown = asked(&["-c", conf, "host=a"]).expect("good").expect("no help").logs();
        let sentence = unknown.err().expect("no log has it");
        assert!(sentence.starts_with("no log has the field \"host\"; there are: "), "{sentence}");
    }

    #[test]
    fn rotation_and_truncation_are_followed() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("a.log");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).expect("the directory is ours");
            file.write_all(text.as_bytes()).expect("the directory is ours");
        };
        let mut log = Log::new(path.clone(), Format::new(&["$uri"]));
        let mut seen = Vec::new();
        let mut look = |log: &mut Log| {
            let mut lines = String::new();
            log.follow(|_, text| {
                lines.push_str(&String::from_utf8_lossy(text));
                lines.push(' ');
                Ok(())
            })
            .expect("it is read");
            seen.push(lines);
        };
        look(&mut log); // not there yet
        append("/1\n/2");
        look(&mut log);
        append("x\n");
        look(&mut log);
        append("/3\n");
        std::fs::rename(&path, directory.path().join("a.log.1")).expect("it is there");
        append("/4\n");
        look(&mut log);
        File::create(&path).expect("it is ours");
        look(&mut log);
        append("/5\n");
        look(&mut log);
        assert_eq!(seen, ["", "/1 ", "/2x ", "/3 /4 ", "", "/5 "]);
    }
}
