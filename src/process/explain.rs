//! `weir explain URL [-H 'Host: …']`: what a request would meet, without sending one.
//!
//! In: a URL, fields, and the configuration. Out: which server and location, by which rule, and what is said there, each
//! with its file and line. The choice is made by what chooses for real requests (`http/names.rs`, `http/location.rs`);
//! what was written is looked up in the tree of statements. The rule: what cannot be known without the request itself
//! (an `if`, a variable) is shown as it is written, and never guessed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use lexopt::prelude::{Long, Short, Value, ValueExt};

use super::cli::{self, Invocation, Options};
use super::generation::Draft;
use crate::base::addr::Address;
use crate::base::regex::{Captures, Pattern};
use crate::base::{release, text};
use crate::conf::error::At;
use crate::conf::lex::{Node, Statement};
use crate::conf::source;
use crate::conf::words::Context;
use crate::http::build::{self, ListenAddress};
use crate::http::location::Found;
use crate::http::plan::{Http, LocationId};
use crate::log::Sinks;
use crate::modules;
use crate::wire::span::Span;
use crate::wire::uri::{self, Shape};

const HELP: &str = "\
usage: weir explain [-p PREFIX] [-c CONF] [-X METHOD] [-H 'NAME: VALUE'] URL

  URL               http://example.com/path, example.com/path or /path
  -H 'Host: NAME'   the name that is asked for at the URL's address
  -X METHOD         GET
";

/// nginx grants a request so many changes of its path.
const JUMPS: usize = 10;

/// The directives that answer a request, and what they are about.
const HANDLERS: [&str; 14] = [
    "proxy_pass",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
    "tunnel_pass",
    "empty_gif",
    "stub_status",
    "flv",
    "mp4",
    "perl",
    "api",
    "status",
];

/// Who may, and how often: named, since only the request can tell.
const GATES: [&str; 12] = [
    "limit_conn",
    "limit_req",
    "satisfy",
    "allow",
    "deny",
    "auth_basic",
    "auth_basic_user_file",
    "auth_request",
    "auth_jwt",
    "mirror",
    "valid_referers",
    "secure_link",
];

/// The program when its first argument is `explain`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let explained = match Asked::parse(arguments.iter().skip(2).cloned()) {
        Ok(Some(asked)) => asked.explain(),
        Ok(None) => Ok(HELP.to_owned()),
        Err(sentence) => Err(sentence),
    };
    match explained {
        Ok(text) => {
            // Whoever asked may have stopped reading.
            let _ = std::io::stdout().write_all(&text::bytes(&text));
            ExitCode::SUCCESS
        }
        Err(sentence) => {
            eprintln!("weir: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// What the words ask for.
struct Asked {
    options: Options,
    method: String,
    scheme: String,
    /// Where the request goes: a name, or an address and then the servers are those of this address.
    host: String,
    port: u16,
    /// The name in the `Host` field, in small letters.
    name: String,
    target: String,
}

impl Asked {
    /// `None` is a call for help. The error is a sentence for the terminal.
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut general, mut url, mut method, mut name) = (Vec::new(), None, "GET".to_owned(), None);
        let wrong = |error: lexopt::Error| format!("{error}\n\n{HELP}");
        while let Some(argument) = parser.next().map_err(wrong)? {
            match argument {
                Short(option @ ('p' | 'c' | 'g')) => {
                    general.push(format!("-{option}").into());
                    general.push(parser.value().map_err(wrong)?);
                }
                Short('X') => method = parser.value().and_then(ValueExt::string).map_err(wrong)?,
                Short('H') => {
                    let field = parser.value().and_then(ValueExt::string).map_err(wrong)?;
                    match field.split_once(':') {
                        Some((field, value)) if field.eq_ignore_ascii_case("host") => {
                            name = Some(value.trim().to_owned())
                        }
                        Some(_) => {} // no other field takes part in the choice
                        None => return Err(format!("\"{field}\" is no field: NAME: VALUE")),
                    }
                }
                Short('h') | Long("help") => return Ok(None),
                Value(word) if url.is_none() => url = Some(word.string().map_err(wrong)?),
                other => return Err(wrong(other.unexpected())),
            }
        }
        let Some(url) = url else { return Err(HELP.to_owned()) };
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let slash = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(slash);
        let (host, port) = split_port(authority);
        let default = if scheme == "https" { 443 } else { 80 };
        let port = match port {
            Some(port) => port.parse().map_err(|_| format!("\"{port}\" is no port"))?,
            None => default,
        };
        let name = name.map_or(host.to_owned(), |name| split_port(&name).0.to_owned());
        let target = target.split('#').next().unwrap_or_default();
        let Ok(Invocation::Run(options)) = cli::parse(general) else { return Err(HELP.to_owned()) };
        Ok(Some(Self {
            options,
            method,
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            target: if target.starts_with('/') { target.to_owned() } else { format!("/{target}") },
        }))
    }

    fn explain(&self) -> Result<String, String> {
        let options = &self.options;
        let sinks = Sinks::new();
        let read = Draft::read(options, &mut options.source(), &sinks, || ());
        let settings = read.map_err(|refused| refused.fault.to_string())?.settings;
        let name = |path: PathBuf| text::decode(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        let mut source = options.source();
        let tree = source::read(&mut source, &name(options.conf_file()), &format!("{}/", name(options.conf_prefix())));
        let Some(block) = statements(&tree).find(|statement| statement.words[0].text == "http") else {
            return Err("the configuration has no \"http\" block".to_owned());
        };
        let cx = Context::new(options.prefix(), options.conf_prefix()).with_sinks(&sinks);
        for pool in &settings.thread_pools {
            let limits = crate::base::threads::Limits { threads: pool.threads, max_queue: pool.max_queue };
            cx.pools.define(&pool.name, limits);
        }
        let nodes = block.block.as_deref().unwrap_or_default();
        let http = build::load(&modules::http(), nodes, &block.words[0].at, &cx).map_err(|fault| fault.to_string())?;
        let places = Places::of(block, http.locations.len())?;
        let mut story = Story { asked: self, http: &http, places, http_block: block, lines: Vec::new() };
        story.tell()?;
        Ok(story.lines.join("\n") + "\n")
    }
}

/// A host and the text of its port, an IPv6 address in its brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn statements(nodes: &[Node]) -> impl Iterator<Item = &Statement> {
    nodes.iter().filter_map(|node| match node {
        Node::Statement(statement) => Some(statement),
        Node::Fault(_) => None,
    })
}

fn inner(statement: &Statement) -> impl Iterator<Item = &Statement> {
    statements(statement.block.as_deref().unwrap_or_default())
}

/// Which statement each location is, and which one it stands in. Locations are numbered as `http/build.rs` does.
struct Places<'a> {
    of: Vec<(&'a Statement, Option<usize>)>,
}

impl<'a> Places<'a> {
    fn of(http: &'a Statement, count: usize) -> Result<Self, String> {
        let mut places = Self { of: Vec::new() };
        for server in inner(http).filter(|statement| statement.words[0].text == "server") {
            places.add(server, None);
        }
        match places.of.len() == count {
            true => Ok(places),
            false => Err("the locations and what is written of them do not agree".to_owned()),
        }
    }

    fn add(&mut self, level: &'a Statement, outer: Option<usize>) {
        let here = self.of.len();
        self.of.push((level, outer));
        for child in inner(level) {
            if matches!(child.words[0].text.as_str(), "location" | "limit_except" | "if") && child.block.is_some() {
                self.add(child, Some(here));
            }
        }
    }

    fn statement(&self, id: LocationId) -> &'a Statement {
        self.of[id.0 as usize].0
    }

    /// The statement of a location and those around it, up to its server.
    fn chain(&self, id: LocationId) -> Vec<&'a Statement> {
        let mut chain = Vec::new();
        let mut next = Some(id.0 as usize);
        while let Some(at) = next {
            chain.push(self.of[at].0);
            next = self.of[at].1;
        }
        chain
    }
}

/// A location, and why it is this one.
struct Sought {
    id: LocationId,
    rule: &'static str,
    /// A pattern further out may be better.
    open: bool,
}

/// What becomes of a request at one location.
enum Next {
    /// It is answered.
    Answered,
    /// Its path is this one now.
    Path(String),
    Named(String),
}

struct Story<'a> {
    asked: &'a Asked,
    http: &'a Http,
    places: Places<'a>,
    http_block: &'a Statement,
    lines: Vec<String>,
}

impl<'a> Story<'a> {
    fn tell(&mut self) -> Result<(), String> {
        let asked = self.asked;
        let raw = Bytes::from(text::bytes(&asked.target));
        let whole = Span::new(0, raw.len());
        let path = Shape::of(&raw, whole).and_then(|shape| uri::normalise(&raw, whole, &shape, true));
        let path =
            path.map_err(|_| format!("\"{}\" is answered with 400 before anybody looks further", asked.target))?;
        let mut path = text::decode(path.path(&raw));
        self.lines.push(format!("{} {}://{}{}", asked.method, asked.scheme, self.asked.name, asked.target));
        self.lines.push(String::new());

        let Some(address) = self.address() else {
            return Err(format!("nothing listens at port {} for \"{}\"", asked.port, asked.host));
        };
        let server = address.names.choose(&text::bytes(&asked.name)).id();
        let root = self.http.server(server).root;
        let rule = self.server_rule(address, root);
        let names = words(self.places.statement(root), "server_name").map(|names| names.join(" "));
        self.line("server", &names.unwrap_or_else(|| "(no name)".to_owned()), Some(self.places.statement(root)));
        self.note(&rule);
        let mut named = None;
        for _ in 0..JUMPS {
            let id = match named.take() {
                Some(id) => id,
                None => {
                    if let Some(Next::Answered) = self.rules(root, &mut path) {
                        return Ok(());
                    }
                    self.location(root, &path)
                }
            };
            match self.at(id, root, &mut path) {
                Next::Answered => return Ok(()),
                Next::Path(next) => path = next,
                Next::Named(name) => {
                    let known = &self.http.server(server).named;
                    let found = known.iter().find(|(known, _)| *known == text::bytes(&name));
                    let Some(&(_, id)) = found else {
                        self.note(&format!("could not find named location \"{name}\": 500"));
                        return Ok(());
                    };
                    self.line("location", &name, Some(self.places.statement(id)));
                    named = Some(id);
                }
            }
        }
        self.note("rewrite or internal redirection cycle: 500");
        Ok(())
    }

    /// The address that a client would reach.
    fn address(&self) -> Option<&'a ListenAddress> {
        let ip = self.asked.host.trim_matches(['[', ']']).parse().ok();
        let all = self.http.listens.iter().flat_map(|listen| &listen.addresses);
        let at_port = all.filter(|address| address.address.port() == Some(self.asked.port));
        let fits = |address: &&ListenAddress| match (ip, address.local, &address.address) {
            // A name may lead to any address of the machine: the first one stands for them.
            (None, _, _) => true,
            (Some(ip), Some(local), _) => ip == local,
            (Some(std::net::IpAddr::V4(_)), None, Address::Inet(wildcard)) => wildcard.is_ipv4(),
            (Some(_), None, Address::Inet(wildcard)) => wildcard.is_ipv6(),
            (Some(_), None, Address::Unix(_)) => false,
        };
        let mut fitting: Vec<&ListenAddress> = at_port.filter(fits).collect();
        // An address of its own comes before the wildcard that covers it, where one was asked for by number.
        fitting.sort_by_key(|address| ip.is_some() && address.local.is_none());
        fitting.first().copied()
    }

    fn server_rule(&self, address: &ListenAddress, root: LocationId) -> String {
        let (name, at) = (&self.asked.name, &address.address);
        if address.names.is_single() {
            return format!("the only server of {at}");
        }
        let names = inner(self.places.statement(root)).filter(|statement| statement.words[0].text == "server_name");
        let names: Vec<&str> =
            names.flat_map(|names| names.words.iter().skip(1)).map(|word| word.text.as_str()).collect();
        let matches = |wildcard: &str| {
            let tail = wildcard.strip_prefix('*').or_else(|| wildcard.starts_with('.').then_some(wildcard));
            let head = wildcard.strip_suffix('*');
            tail.is_some_and(|tail| name.ends_with(tail) || name == tail.trim_start_matches('.'))
                || head.is_some_and(|head| name.starts_with(head))
        };
        if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return format!("by its name, at {at}");
        }
        if let Some(wildcard) = names.iter().find(|known| matches(&known.to_ascii_lowercase())) {
            return format!("by its name {wildcard}, at {at}");
        }
        let pattern = |known: &&&str| {
            known
                .strip_prefix('~')
                .and_then(|source| Pattern::new(source, true).ok())
                .is_some_and(|pattern| pattern.is_match(&text::bytes(name)).unwrap_or(false))
        };
        match names.iter().find(pattern) {
            Some(pattern) => format!("by the first pattern that matches, {pattern}, at {at}"),
            None => format!("no server has the name \"{name}\"; this is the default server of {at}"),
        }
    }

    /// Finds the location of a path and says how.
    fn location(&mut self, root: LocationId, path: &str) -> LocationId {
        let sought = self.search(root, &text::bytes(path));
        let (id, rule) = sought.map_or((root, "no location matches"), |sought| (sought.id, sought.rule));
        let statement = self.places.statement(id);
        let shown: Vec<&str> = statement.words.iter().skip(1).map(|word| word.text.as_str()).collect();
        if id == root {
            self.line("location", "none", None);
        } else {
            self.line("location", &shown.join(" "), Some(statement));
        }
        self.note(&format!("for {path}: {rule}"));
        let except = inner(statement).find(|inner| inner.words[0].text == "limit_except");
        if let Some(except) = except
            && !except.words.iter().skip(1).any(|word| word.text.eq_ignore_ascii_case(&self.asked.method))
        {
            self.line("limit_except", "the method is not one of them: its block counts", Some(except));
        }
        id
    }

    /// As `http/phase.rs` searches.
    fn search(&self, at: LocationId, path: &[u8]) -> Option<Sought> {
        let here = &self.http.location(at).inner;
        let mut found = None;
        let mut patterns = true;
        match here.find(path) {
            Found::Exact(id) => return Some(Sought { id, rule: "its exact name", open: false }),
            Found::Slash(id) => return Some(Sought { id, rule: "the path lacks only its slash: 301", open: false }),
            Found::Prefix { id, final_ } => {
                patterns = !final_;
                let rule = if final_ { "the longest prefix, and ^~ keeps patterns away" } else { "the longest prefix" };
                let inside = self.search(id, path);
                if let Some(Sought { open: false, .. }) = inside {
                    return inside;
                }
                found = inside.or(Some(Sought { id, rule, open: true }));
            }
            Found::Nothing => {}
        }
        if patterns {
            for (regex, id) in here.regexes() {
                if regex.pattern.is_match(path).unwrap_or(false) {
                    let inside = self.search(*id, path).map(|inside| Sought { open: false, ..inside });
                    return inside.or(Some(Sought { id: *id, rule: "the first pattern that matches", open: false }));
                }
            }
        }
        found
    }

    /// What happens at a location.
    fn at(&mut self, id: LocationId, root: LocationId, path: &mut String) -> Next {
        let before = path.clone();
        if id != root {
            match self.rules(id, path) {
                Some(Next::Answered) => return Next::Answered,
                Some(next) => return next,
                None => {}
            }
        }
        let chain = self.places.chain(id);
        if *path != before {
            self.note(&format!("the path is {path} now, and stays here"));
        }
        for gate in GATES {
            let level = chain.iter().copied().chain([self.http_block]).find(|level| has(level, gate));
            for statement in level.into_iter().flat_map(inner).filter(|statement| statement.words[0].text == gate) {
                self.line("asks", &written(statement), Some(statement));
            }
        }
        self.logs(&chain);
        let own = self.places.statement(id);
        let files = self.root(&chain, path);
        if let Some(tried) = inner(own).find(|statement| statement.words[0].text == "try_files")
            && let Some(next) = self.try_files(tried, &files, path)
        {
            return next;
        }
        if let Some(handler) = inner(own).find(|statement| HANDLERS.contains(&statement.words[0].text.as_str())) {
            self.handler(handler, &chain, path);
            return Next::Answered;
        }
        self.file(&chain, &files, path)
    }

    /// `rewrite`, `return` and their kin, in order. `None` goes on at this location.
    fn rules(&mut self, id: LocationId, path: &mut String) -> Option<Next> {
        let before = path.clone();
        for statement in inner(self.places.statement(id)) {
            match statement.words[0].text.as_str() {
                "if" => {
                    self.line("if", &written(statement), Some(statement));
                    self.note("only the request can tell; its block is not followed here");
                }
                "return" => {
                    self.line("return", &self.filled(&written(statement), path), Some(statement));
                    return Some(Next::Answered);
                }
                "break" => return None,
                "rewrite" => {
                    let texts: Vec<&str> = statement.words.iter().map(|word| word.text.as_str()).collect();
                    let [_, source, replacement, ref flags @ ..] = texts[..] else { continue };
                    let Some(to) = rewritten(source, replacement, path) else {
                        self.line("rewrite", &format!("{source} does not match"), Some(statement));
                        continue;
                    };
                    let flag = flags.first().copied().unwrap_or_default();
                    let external =
                        ["http://", "https://", "$scheme"].iter().any(|start| replacement.starts_with(start));
                    let to = self.filled(&to, path);
                    self.line("rewrite", &format!("{source} matches: {to} {flag}"), Some(statement));
                    if external || ["redirect", "permanent"].contains(&flag) {
                        self.note(if flag == "permanent" { "301" } else { "302" });
                        return Some(Next::Answered);
                    }
                    *path = to.split('?').next().unwrap_or_default().to_owned();
                    match flag {
                        "last" => break,
                        "break" => return None,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        (*path != before).then(|| Next::Path(path.clone()))
    }

    fn logs(&mut self, chain: &[&'a Statement]) {
        let level = chain.iter().copied().chain([self.http_block]).find(|level| has(level, "access_log"));
        match level {
            Some(level) => {
                for statement in inner(level).filter(|statement| statement.words[0].text == "access_log") {
                    self.line("log", &written(statement), Some(statement));
                }
            }
            None => {
                let path = release::log_file("access.log", self.asked.options.prefix());
                self.line("log", &format!("{} combined", path.display()), None);
            }
        }
    }

    /// Which file a path means, as far as that can be known.
    fn root(&mut self, chain: &[&'a Statement], path: &str) -> Files {
        let levels = chain.iter().copied().chain([self.http_block]);
        let said =
            levels.flat_map(inner).find(|statement| matches!(statement.words[0].text.as_str(), "root" | "alias"));
        let prefix = self.asked.options.prefix();
        let Some(statement) = said else {
            return Files { place: prefix.join("html").display().to_string(), cut: 0, shown: None };
        };
        let value = statement.words.get(1).map_or("", |word| word.text.as_str());
        let place = self.filled(value, path);
        let place = if place.starts_with(['/', '$']) { place } else { prefix.join(place).display().to_string() };
        let alias = statement.words[0].text == "alias";
        // Of a pattern's alias the whole path is meant.
        let name = chain.first().and_then(|location| location.words.last()).map_or("", |word| word.text.as_str());
        let cut = if !alias {
            0
        } else if path.starts_with(name) {
            name.len()
        } else {
            path.len()
        };
        Files {
            place,
            cut,
            shown: Some((format!("{} {value}", statement.words[0].text), statement.words[0].at.clone())),
        }
    }

    fn try_files(&mut self, tried: &Statement, files: &Files, path: &mut String) -> Option<Next> {
        self.line("try_files", &written(tried), Some(tried));
        let texts: Vec<&str> = tried.words.iter().skip(1).map(|word| word.text.as_str()).collect();
        let (last, candidates) = texts.split_last()?;
        for candidate in candidates {
            let wanted = self.filled(candidate, path);
            if wanted.contains('$') {
                self.note(&format!("{candidate}: only the request can tell"));
                return Some(Next::Answered);
            }
            let file = files.of(&wanted);
            let there = match wanted.ends_with('/') {
                true => Path::new(&file).is_dir(),
                false => Path::new(&file).is_file(),
            };
            if there {
                self.note(&format!("{candidate}: {file} is there"));
                // It is served from here, under this name.
                *path = wanted;
                return None;
            }
            self.note(&format!("{candidate}: {file} is not there"));
        }
        if let Some(code) = last.strip_prefix('=') {
            self.note(&format!("so: {code}"));
            return Some(Next::Answered);
        }
        self.note(&format!("so: {last}"));
        if last.starts_with('@') {
            return Some(Next::Named((*last).to_owned()));
        }
        let next = self.filled(last, path);
        Some(Next::Path(next.split('?').next().unwrap_or_default().to_owned()))
    }

    fn handler(&mut self, handler: &Statement, chain: &[&'a Statement], path: &str) {
        let name = handler.words[0].text.as_str();
        self.line("answers", &written(handler), Some(handler));
        let Some(target) = handler.words.get(1).map(|word| word.text.as_str()).filter(|_| name.ends_with("_pass"))
        else {
            return;
        };
        let group = target.split_once("://").map_or(target, |(_, rest)| rest);
        let (group, uri) =
            group.split_at(group.find('/').filter(|_| !group.starts_with("unix:")).unwrap_or(group.len()));
        let mut there = self.asked.target.clone();
        if name == "proxy_pass" && !uri.is_empty() && !target.contains('$') {
            let location =
                chain.first().and_then(|location| location.words.last()).map_or("", |word| word.text.as_str());
            if let Some(rest) = path.strip_prefix(location) {
                there = self.filled(&format!("{uri}{rest}$is_args$args"), path);
                self.note(&format!("the path there is {uri}{rest}"));
            }
        }
        let upstream = inner(self.http_block).find(|block| {
            block.words[0].text == "upstream" && block.words.get(1).is_some_and(|word| word.text == group)
        });
        if let Some(upstream) = upstream {
            self.line("upstream", group, Some(upstream));
            for peer in inner(upstream).filter(|statement| statement.words[0].text == "server") {
                self.note(&written(peer));
            }
        }
        let family = name.trim_end_matches("_pass");
        let said = |directive: &str| {
            let levels = chain.iter().copied().chain([self.http_block]);
            let directive = format!("{family}_{directive}");
            levels.flat_map(inner).find(|statement| statement.words[0].text == directive)
        };
        let (zone, key) = (said("cache"), said("cache_key"));
        if let Some(zone) = zone {
            self.line("cache", &written(zone), Some(zone));
            let key = match key.and_then(|key| key.words.get(1)) {
                Some(key) => self.filled(&key.text, path),
                // What variables make is all there is; else the peer's name and what is asked there.
                None if target.contains('$') => self.filled(target, path),
                None => format!("{}{there}", target.strip_suffix(uri).unwrap_or(target)),
            };
            self.note(&format!("key {key}"));
        }
    }

    /// A file, or what stands for a directory.
    fn file(&mut self, chain: &[&'a Statement], files: &Files, path: &str) -> Next {
        if let Some((said, at)) = &files.shown {
            self.place("root", said, at);
        }
        let file = files.of(path);
        if file.contains('$') {
            self.line("file", &file, None);
            return Next::Answered;
        }
        if !path.ends_with('/') {
            let state = match std::fs::metadata(&file) {
                Ok(meta) if meta.is_dir() => "is a directory: 301 to the path with a slash".to_owned(),
                Ok(meta) => format!("{} bytes", meta.len()),
                Err(error) => format!(
                    "{}: {}",
                    text::errno(&error),
                    if error.kind() == std::io::ErrorKind::NotFound { 404 } else { 403 }
                ),
            };
            self.line("file", &format!("{file} {state}"), None);
            return Next::Answered;
        }
        let levels = chain.iter().copied().chain([self.http_block]);
        let said = levels.flat_map(inner).find(|statement| statement.words[0].text == "index");
        let names: Vec<&str> = match said {
            Some(index) => index.words.iter().skip(1).map(|word| word.text.as_str()).collect(),
            None => vec!["index.html"],
        };
        self.line("index", &names.join(" "), said);
        for name in names {
            let next = if name.starts_with('/') { name.to_owned() } else { format!("{path}{name}") };
            if Path::new(&files.of(&next)).is_file() {
                self.note(&format!("{} is there: the path is {next} now", files.of(&next)));
                return Next::Path(next);
            }
        }
        self.line("file", &format!("{file} has none of them: a listing if there is autoindex, else 403 or 404"), None);
        Next::Answered
    }

    /// Puts in the variables that the question itself answers; the others stay as they are written.
    fn filled(&self, template: &str, path: &str) -> String {
        let asked = self.asked;
        let args = asked.target.split_once('?').map_or("", |(_, args)| args);
        let known: HashMap<&str, Cow<'_, str>> = HashMap::from([
            ("uri", path.into()),
            ("document_uri", path.into()),
            ("request_uri", asked.target.as_str().into()),
            ("args", args.into()),
            ("query_string", args.into()),
            ("is_args", if args.is_empty() { "".into() } else { "?".into() }),
            ("host", asked.name.as_str().into()),
            ("http_host", asked.name.as_str().into()),
            ("scheme", asked.scheme.as_str().into()),
            ("request_method", asked.method.as_str().into()),
            ("server_port", asked.port.to_string().into()),
        ]);
        let mut filled = String::new();
        let mut rest = template;
        while let Some(dollar) = rest.find('$') {
            filled.push_str(&rest[..dollar]);
            let after = &rest[dollar + 1..];
            let body = after.strip_prefix('{').unwrap_or(after);
            let end = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
            match known.get(&body[..end]) {
                Some(value) => {
                    filled.push_str(value);
                    rest = &body[end..];
                    rest = if after.starts_with('{') { rest.strip_prefix('}').unwrap_or(rest) } else { rest };
                }
                None => {
                    filled.push('$');
                    rest = after;
                }
            }
        }
        filled + rest
    }

    fn line(&mut self, what: &str, text: &str, statement: Option<&Statement>) {
        match statement {
            Some(statement) => self.place(what, text, &statement.words[0].at),
            None => self.lines.push(format!("{what:<12} {text}")),
        }
    }

    fn place(&mut self, what: &str, text: &str, at: &At) {
        self.lines.push(format!("{what:<12} {text}  ({}:{})", at.file, at.row));
    }

    fn note(&mut self, text: &str) {
        self.lines.push(format!("{:<12} {text}", ""));
    }
}

/// Where files are.
struct Files {
    place: String,
    /// So much of the path is not part of the file's name.
    cut: usize,
    shown: Option<(String, At)>,
}

impl Files {
    fn of(&self, path: &str) -> String {
        format!("{}{}", self.place, path.get(self.cut..).unwrap_or_default())
    }
}

fn has(level: &Statement, name: &str) -> bool {
    inner(level).any(|statement| statement.words[0].text == name)
}

fn words<'a>(level: &'a Statement, name: &str) -> Option<Vec<&'a str>> {
    let statement = inner(level).find(|statement| statement.words[0].text == name)?;
    Some(statement.words.iter().skip(1).map(|word| word.text.as_str()).collect())
}

/// The words of a statement behind its name, and the name where it has no other.
fn written(statement: &Statement) -> String {
    let words: Vec<&str> = statement.words.iter().map(|word| word.text.as_str()).collect();
    words.join(" ")
}

/// The replacement with its captures, if the pattern matches the path.
fn rewritten(source: &str, replacement: &str, path: &str) -> Option<String> {
    let pattern = Pattern::new(source, false).ok()?;
    let subject = text::bytes(path);
    let mut captures = Captures::default();
    if !pattern.captures(&subject, &mut captures).unwrap_or(false) {
        return None;
    }
    let mut to = String::new();
    let mut rest = replacement;
    while let Some(dollar) = rest.find('$') {
        to.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        match after.chars().next().and_then(|digit| digit.to_digit(10)) {
            Some(digit) => {
                let group = captures.get(digit as usize).and_then(|range| subject.get(range));
                to.push_str(&text::decode(group.unwrap_or_default()));
                rest = &after[1..];
            }
            None => {
                to.push('$');
                rest = after;
            }
        }
    }
    Some(to + rest)
}
