//! Tables of comparisons: files of `tests/differential`.
//!
//! In: acts, each a configuration with its files, scripted upstream answers and requests. Out: one report of every
//! request that the two servers answered differently. CONTRIBUTING.md explains how to write one.

use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::both::{Both, Exchange, difference};
use super::upstream::{Asked, Background};
use super::{PhpFpm, Setup, Step, Upstream, holds_within, oracle};

/// One configuration and what is asked of it.
#[derive(Default)]
struct Act {
    title: String,
    main: String,
    conf: String,
    files: Vec<FileSpec>,
    links: Vec<(String, String)>,
    replies: HashMap<String, Vec<u8>>,
    logs: Vec<String>,
    cases: Vec<Case>,
}

struct FileSpec {
    path: String,
    content: Vec<u8>,
    mode: Option<u32>,
}

#[derive(Default)]
struct Case {
    line: usize,
    exchange: Exchange,
    /// The answer that counts where Debian's nginx is too old for it.
    expected: Option<String>,
    reason: String,
}

/// Runs a table and returns how many requests it compared. `None`: there is no nginx, or no php-fpm, to ask.
pub fn run(name: &str) -> Option<usize> {
    let path = directory().join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut report = Vec::new();
    let mut compared = 0;
    for act in parse(&text, &path) {
        compared += act.cases.len();
        // An act that cannot even begin is one line of the report; the others are still played.
        match std::panic::catch_unwind(|| play(&act, &path)) {
            Ok(differences) => report.extend(differences?),
            Err(_) => report.push(format!("{}: {}: could not be played; see above", path.display(), act.title)),
        }
    }
    assert!(compared > 0, "{} compares nothing", path.display());
    assert!(report.is_empty(), "{} of {compared} differ\n\n{}", report.len(), report.join("\n"));
    Some(compared)
}

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

/// Starts both servers for one act, asks everything, returns the differences.
fn play(act: &Act, path: &Path) -> Option<Vec<String>> {
    oracle()?;
    let open = Permissions::from_mode(0o755);
    let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
    let root = Arc::new(root);
    let upstream = script(&act.replies);
    let php = if act.conf.contains("%%PHP%%") { Some(PhpFpm::within(&root)?) } else { None };
    let prepare = |mut setup: Setup| {
        for file in &act.files {
            setup = setup.file(&file.path, &file.content);
        }
        for (link, target) in &act.links {
            setup = setup.link(link, target);
        }
        for file in &act.files {
            if let Some(mode) = file.mode {
                setup = setup.mode(&file.path, mode);
            }
        }
        if let Some(php) = &php {
            setup = setup.set("PHP", php.socket());
        }
        // Listings show when a directory has changed.
        setup.settle().set("UPSTREAM", upstream.address).main(&act.main)
    };
    let mut both = Both::within(&root, |setup| prepare(setup).start(&act.conf))?;
    both.known.push((upstream.address.to_string(), "UPSTREAM".to_owned()));
    let mut report = Vec::new();
    for case in &act.cases {
        let (oracle, got) = both.ask(&case.exchange);
        let expected = case.expected.as_deref().unwrap_or(&oracle);
        // An answer that one has to wait for is a mistake in the table or in the server, even where both make it.
        let waits = ["no response within the deadline", "the server keeps the connection"];
        if expected == got && !waits.iter().any(|wait| got.contains(wait)) {
            continue;
        }
        let sent: Vec<String> = case.exchange.requests.iter().map(|request| shorten(request)).collect();
        let mut story = format!("{}:{}: {} {}\n    ", path.display(), case.line, act.title, case.reason);
        story.push_str(&sent.join("\n  + "));
        story.push('\n');
        story.push_str(&difference(expected, &got));
        if std::env::var_os("WEIR_TEST_ANSWERS").is_some() {
            // What to write into the table once it is known to be right.
            story.extend(got.lines().map(|line| format!("< {line}\n")));
        }
        report.push(story);
    }
    for log in &act.logs {
        // The last line may still be on its way; what has come by then is compared.
        holds_within(Duration::from_secs(3), || {
            let (expected, got) = both.log_lines(log);
            got.len() >= expected.len()
        });
        let (expected, got) = both.log_lines(log);
        let (expected, got) = (expected.join("\n"), got.join("\n"));
        if expected != got {
            report.push(format!("{}: {}: {log}\n{}", path.display(), act.title, difference(&expected, &got)));
        }
    }
    Some(report)
}

/// The upstream of a table: says what the act prescribes for a path, and shows the request for every other.
fn script(replies: &HashMap<String, Vec<u8>>) -> Background {
    let replies = replies.clone();
    Upstream::start().serve(move |asked| {
        let path = asked.target().split('?').next().unwrap_or_default();
        let bytes = replies.get(path).cloned().unwrap_or_else(|| echo(asked));
        vec![Step::Bytes(bytes), Step::Close]
    })
}

fn echo(asked: &Asked) -> Vec<u8> {
    let mut shown = asked.head.replace("\r\n", "\n").into_bytes();
    shown.extend_from_slice(&asked.body);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
    let mut reply = format!("{head} {}\r\n\r\n", shown.len()).into_bytes();
    reply.extend_from_slice(&shown);
    reply
}

/// The words of a section's line, and the lines below it with their numbers.
type Section<'a> = (Vec<&'a str>, Vec<(usize, &'a str)>);

fn parse(text: &str, path: &Path) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    let mut section: Option<Section<'_>> = None;
    let end = "=== end";
    for (number, line) in text.lines().chain([end]).enumerate() {
        let begins = line.starts_with("--- ") || line.starts_with("=== ");
        if !begins {
            match &mut section {
                Some((_, lines)) => lines.push((number + 1, line)),
                None => assert!(line.is_empty() || line.starts_with('#'), "{}:{}", path.display(), number + 1),
            }
            continue;
        }
        if let (Some((words, lines)), Some(act)) = (section.take(), acts.last_mut()) {
            act.section(&words, &lines).unwrap_or_else(|why| panic!("{}: {why} near {words:?}", path.display()));
        }
        if let Some(title) = line.strip_prefix("=== ") {
            acts.push(Act { title: title.to_owned(), ..Act::default() });
        } else {
            section = Some((line[4..].split_whitespace().collect(), Vec::new()));
        }
    }
    acts.pop();
    acts
}

impl Act {
    fn section(&mut self, words: &[&str], lines: &[(usize, &str)]) -> Result<(), String> {
        let whole = lines.iter().map(|line| line.1).collect::<Vec<_>>().join("\n");
        let whole = whole.trim_end().to_owned();
        match words {
            ["main"] => self.main = whole,
            ["conf"] => self.conf = whole,
            ["logs", names @ ..] => self.logs.extend(names.iter().map(|name| (*name).to_owned())),
            ["link", path, target] => self.links.push(((*path).to_owned(), (*target).to_owned())),
            ["file", path, options @ ..] => self.files.push(FileSpec::new(path, options, whole)?),
            ["reply", path] => {
                self.replies.insert((*path).to_owned(), reply(&whole));
            }
            ["reply", path, "raw"] => {
                self.replies.insert((*path).to_owned(), unescape(&whole.replace('\n', ""))?);
            }
            ["requests"] => self.cases = cases(lines)?,
            _ => return Err("no such section".to_owned()),
        }
        Ok(())
    }
}

impl FileSpec {
    fn new(path: &str, options: &[&str], content: String) -> Result<FileSpec, String> {
        let path = String::from_utf8(unescape(path)?).map_err(|error| error.to_string())?;
        let mut file = FileSpec { path, content: content.into_bytes(), mode: None };
        for option in options {
            match option.split_once('=').unwrap_or((option, "")) {
                ("repeat", count) => file.content = file.content.repeat(count.parse().map_err(|_| "repeat=N")?),
                ("mode", mode) => file.mode = Some(u32::from_str_radix(mode, 8).map_err(|_| "mode=OCTAL")?),
                ("gzip", _) => {
                    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                    std::io::Write::write_all(&mut packer, &file.content).map_err(|error| error.to_string())?;
                    file.content = packer.finish().map_err(|error| error.to_string())?;
                }
                _ => return Err(format!("no such option: {option}")),
            }
        }
        Ok(file)
    }
}

/// A prescribed answer: its head in lines, an empty line, its body. `Content-Length: *` is counted here.
fn reply(text: &str) -> Vec<u8> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let head = head.replace("Content-Length: *", &format!("Content-Length: {}", body.len()));
    let head = head.replace('\n', "\r\n");
    format!("{head}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// The requests of an act. `> ` begins one on a new connection, `+ ` one on the same; `>> ` and `++ ` take the exact
/// bytes, with escapes. Indented lines are fields, or with `@` the body. `!` and `<` give the answer that counts.
fn cases(lines: &[(usize, &str)]) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut open: Option<Open> = None;
    for &(number, line) in lines {
        let wrong = |why: &str| format!("line {number}: {why}: {line}");
        if let Some(more) = line.strip_prefix("  ") {
            open.as_mut().ok_or_else(|| wrong("no request is open"))?.more(more);
            continue;
        }
        if let (Some(request), Some(case)) = (open.take(), cases.last_mut()) {
            case.exchange.requests.push(request.bytes());
        }
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if mark == ">" || mark == ">>" || mark == ">>|" {
            let (listen, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                Some((index, rest)) => (index.parse().map_err(|_| wrong("[N]"))?, rest),
                None => (0, rest),
            };
            let exchange = Exchange { listen, half_close: mark == ">>|", ..Exchange::default() };
            cases.push(Case { line: number, exchange, ..Case::default() });
            match mark {
                ">" => open = Some(Open::new(rest)),
                _ => cases.last_mut().expect("just pushed").exchange.requests.push(unescape(rest)?),
            }
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| wrong("no request comes before"))?;
        match mark {
            "+" => open = Some(Open::new(rest)),
            "++" => case.exchange.requests.push(unescape(rest)?),
            "!" => case.reason = format!("({rest})"),
            "<" => {
                if case.reason.is_empty() {
                    return Err(wrong("an answer of its own needs a reason"));
                }
                let expected = case.expected.get_or_insert_default();
                expected.push_str(rest);
                expected.push('\n');
            }
            _ => return Err(wrong("not understood")),
        }
    }
    if let (Some(request), Some(case)) = (open, cases.last_mut()) {
        case.exchange.requests.push(request.bytes());
    }
    match cases.iter().find(|case| !case.reason.is_empty() && case.expected.is_none()) {
        Some(case) => Err(format!("line {}: a reason without an answer", case.line)),
        None => Ok(cases),
    }
}

/// A request that is still being written.
struct Open {
    line: String,
    fields: Vec<String>,
    body: Option<String>,
}

impl Open {
    fn new(line: &str) -> Open {
        Open { line: line.to_owned(), fields: Vec::new(), body: None }
    }

    fn more(&mut self, line: &str) {
        match line.strip_prefix("@ ") {
            Some(body) => self.body = Some(body.to_owned()),
            None => self.fields.push(line.to_owned()),
        }
    }

    /// Without a version it is an HTTP/1.1 request with the fields that nobody wants to write each time.
    fn bytes(self) -> Vec<u8> {
        let named = |name: &str| self.fields.iter().any(|field| field.to_ascii_lowercase().starts_with(name));
        let mut text = self.line.clone();
        if !self.line.contains(" HTTP/") {
            text.push_str(" HTTP/1.1");
            if !named("host:") {
                text.push_str("\r\nHost: localhost");
            }
            if !named("connection:") {
                text.push_str("\r\nConnection: close");
            }
        }
        for field in &self.fields {
            text.push_str("\r\n");
            text.push_str(field);
        }
        let body = self.body.unwrap_or_default();
        if !body.is_empty() {
            text.push_str(&format!("\r\nContent-Length: {}", body.len()));
        }
        text.push_str("\r\n\r\n");
        text.push_str(&body);
        text.into_bytes()
    }
}

/// `\r \n \t \0 \\ \xHH`, and `\{text*N}` for N times the text.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '\\' {
            bytes.extend_from_slice(character.to_string().as_bytes());
            continue;
        }
        let wrong = || format!("an escape in {text:?}");
        let kind = rest.chars().next().ok_or_else(wrong)?;
        rest = &rest[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).ok_or_else(wrong)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = &rest[2..];
            }
            '{' => {
                let (inner, after) = rest.split_once('}').ok_or_else(wrong)?;
                let (unit, count) = inner.rsplit_once('*').ok_or_else(wrong)?;
                let count: usize = count.parse().map_err(|_| wrong())?;
                bytes.extend(unescape(unit)?.repeat(count));
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    Ok(bytes)
}

fn shorten(request: &[u8]) -> String {
    let text = request.escape_ascii().to_string();
    match text.char_indices().nth(400) {
        Some((cut, _)) => format!("{} … ({} bytes)", &text[..cut], request.len()),
        None => text,
    }
}

#[test]
fn a_table_is_read_as_it_is_written() {
    let text = "# c\n=== one\n--- conf\nserver { }\n\n--- file html/a repeat=3\nab\n--- reply /x\nHTTP/1.1 200 OK\n\
                Content-Length: *\n\nbody\n--- requests\n> GET /\n  X: y\n+ POST /b HTTP/1.0\n  @ abc\n>> [1] \\{\\x41*3}\\r\\n\n\
                ! 1.2: so\n< HTTP/1.1 200 OK\n=== two\n--- requests\n>>| GET\n";
    let acts = parse(text, Path::new("a table"));
    assert_eq!(acts.len(), 2);
    assert_eq!((acts[0].conf.as_str(), acts[0].files[0].content.as_slice()), ("server { }", &b"ababab"[..]));
    let reply = String::from_utf8_lossy(&acts[0].replies["/x"]).into_owned();
    assert_eq!(reply, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody");
    let first = &acts[0].cases[0].exchange.requests;
    assert_eq!(first[0], b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: y\r\n\r\n");
    assert_eq!(first[1], b"POST /b HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
    let second = &acts[0].cases[1];
    assert_eq!((second.exchange.listen, second.exchange.requests[0].as_slice()), (1, &b"AAA\r\n"[..]));
    assert_eq!(second.expected.as_deref(), Some("HTTP/1.1 200 OK\n"));
    assert!(acts[1].cases[0].exchange.half_close);
}
