//! `autoindex`: lists a directory.
//!
//! In: GET or HEAD for a path that ends in a slash, where no index file was found. Out: what is there, names with a dot in
//! front apart, directories first, as a page, XML or JSON. The rule: the page is written when its body is asked for, for
//! only then it is known whether names are shown as UTF-8. The directory is read on a thread of the pool.
//! nginx: `ngx_http_autoindex_module`.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::base::{clock, text};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::body::{Body, Next, Piece, Source};
use crate::http::plan::{Answer, Content, Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::http::root::map_path;
use crate::log::escape::Escape as LogEscape;
use crate::log::{Level as LogLevel, Raw};
use crate::wire::uri::{self, Escape};
use crate::wire::{date, list, utf8};

/// `ngx_http_autoindex_module`.
pub struct Autoindex;

impl Module for Autoindex {
    const NAME: &'static str = "http_autoindex";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("autoindex", EVERYWHERE, Arity::Flag, Conf::autoindex),
        Directive::location("autoindex_format", EVERYWHERE, Arity::Exactly(1), Conf::autoindex_format),
        Directive::location("autoindex_localtime", EVERYWHERE, Arity::Flag, Conf::autoindex_localtime),
        Directive::location("autoindex_exact_size", EVERYWHERE, Arity::Flag, Conf::autoindex_exact_size),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if conf.autoindex.or(false) {
            let style = Style {
                format: conf.autoindex_format.or(Format::Html),
                localtime: conf.autoindex_localtime.or(false),
                exact_size: conf.autoindex_exact_size.or(true),
            };
            plan.contents.push(Box::new(Lister { style }));
            plan.filters.push(Box::new(Watcher));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    autoindex: Setting<bool>,
    autoindex_format: Setting<Format>,
    autoindex_localtime: Setting<bool>,
    autoindex_exact_size: Setting<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Html,
    Xml,
    Json,
    Jsonp,
}

impl Conf {
    /// Syntax: `autoindex on | off;`  Default: `off`
    fn autoindex(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.autoindex.set(words.flag()?)
    }

    /// Syntax: `autoindex_format html | xml | json | jsonp;`  Default: `html`
    fn autoindex_format(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let formats = [("html", Format::Html), ("xml", Format::Xml), ("json", Format::Json), ("jsonp", Format::Jsonp)];
        self.autoindex_format.set(words.choice(0, &formats)?)
    }

    /// Syntax: `autoindex_localtime on | off;`  Default: `off`
    fn autoindex_localtime(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.autoindex_localtime.set(words.flag()?)
    }

    /// Syntax: `autoindex_exact_size on | off;`  Default: `on`
    fn autoindex_exact_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.autoindex_exact_size.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { autoindex, autoindex_format, autoindex_localtime, autoindex_exact_size } = self;
        autoindex.inherit(&outer.autoindex);
        autoindex_format.inherit(&outer.autoindex_format);
        autoindex_localtime.inherit(&outer.autoindex_localtime);
        autoindex_exact_size.inherit(&outer.autoindex_exact_size);
        Ok(())
    }
}

/// How a listing looks.
#[derive(Clone, Copy)]
struct Style {
    format: Format,
    localtime: bool,
    exact_size: bool,
}

/// `autoindex on` at one location, resolved.
struct Lister {
    style: Style,
}

impl Content for Lister {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_for_directory() || !request.is_get_or_head() {
            return Answer::Decline;
        }
        let path = request.path();
        request.body.discard();
        let directory = match directory(request, &path) {
            Ok(directory) => directory,
            Err(refusal) => return Answer::Now(Err(refusal)),
        };
        let mut style = self.style;
        let mut callback = Bytes::new();
        if style.format == Format::Jsonp {
            match jsonp_callback(request) {
                Some(name) => callback = name,
                None => return Answer::Now(Err(Refusal::Status(400))),
            }
            if callback.is_empty() {
                style.format = Format::Json;
            }
        }
        Answer::Wait(Box::pin(async move {
            let pool = request.plan().core.pool.clone();
            let place = directory.clone();
            let (entries, faults) = match pool.run(move || read(&place)).await {
                Ok(found) => found,
                Err(error) => return Some(Err(refuse(request, &directory, &error))),
            };
            for Failed { call, path, error } in &faults {
                let path = Raw(path.as_os_str().as_bytes());
                request.log(LogLevel::Crit, format_args!("{call} \"{path}\" failed {}", text::errno(error)));
            }
            Some(Ok(respond(request, Listing { style, path, callback, entries })))
        }))
    }
}

/// Where the directory of a path is.
pub fn directory(request: &Request, path: &[u8]) -> Result<PathBuf, Refusal> {
    map_path(request, path).map(super::random_index::plain)
}

/// What the client is told of a directory that cannot be read, and the log.
pub fn refuse(request: &Request, directory: &Path, error: &io::Error) -> Refusal {
    let (level, status) = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (LogLevel::Error, 404),
        Some(libc::EACCES) => (LogLevel::Error, 403),
        Some(_) | None => (LogLevel::Crit, 500),
    };
    let path = Raw(directory.as_os_str().as_bytes());
    request.log(level, format_args!("opendir() \"{path}\" failed {}", text::errno(error)));
    Refusal::Status(status)
}

/// The name of the function that a JSONP answer calls; empty without one, `None` if it is none.
fn jsonp_callback(request: &Request) -> Option<Bytes> {
    let args = request.args();
    let Some(name) = list::argument(&args, b"callback") else { return Some(Bytes::new()) };
    if name.len() > 128 {
        request.log(LogLevel::Info, format_args!("client sent too long callback name: \"{}\"", Raw(name)));
        return None;
    }
    if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')) {
        request.log(LogLevel::Info, format_args!("client sent invalid callback name: \"{}\"", Raw(name)));
        return None;
    }
    Some(args.slice_ref(name))
}

struct Entry {
    name: Vec<u8>,
    is_dir: bool,
    is_file: bool,
    mtime: i64,
    size: u64,
}

/// Something in a directory that could not be looked at.
struct Failed {
    call: &'static str,
    path: PathBuf,
    error: io::Error,
}

fn read(directory: &Path) -> io::Result<(Vec<Entry>, Vec<Failed>)> {
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().as_bytes().to_vec();
        if name.starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            // A link that leads nowhere stands for itself.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
                match std::fs::symlink_metadata(&path) {
                    Ok(found) => found,
                    Err(error) => {
                        faults.push(Failed { call: "lstat()", path, error });
                        continue;
                    }
                }
            }
            Err(error) => {
                faults.push(Failed { call: "stat()", path, error });
                continue;
            }
        };
        entries.push(Entry {
            name,
            is_dir: found.is_dir(),
            is_file: found.is_file(),
            mtime: found.mtime(),
            size: found.size(),
        });
    }
    entries.sort_unstable_by(|a, b| b.is_dir.cmp(&a.is_dir).then_with(|| a.name.cmp(&b.name)));
    Ok((entries, faults))
}

fn respond(request: &Request, listing: Listing) -> Response {
    let mut head = Head::boxed(200);
    let content_type = match listing.style.format {
        Format::Html => "text/html",
        Format::Xml => "text/xml",
        Format::Json => "application/json",
        Format::Jsonp => "application/javascript",
    };
    head.content_type = Some(Bytes::from_static(content_type.as_bytes()));
    if listing.style.format == Format::Xml {
        head.charset = Some(Bytes::from_static(UTF_8));
    }
    let shown_as = request.extension::<ShownAs>();
    shown_as.utf8.set(false);
    Response::new(head, Body::stream(Page { listing: Some(listing), shown_as }))
}

const UTF_8: &[u8] = b"utf-8";

/// What the head says when all filters have seen it.
#[derive(Default)]
struct ShownAs {
    utf8: Cell<bool>,
}

/// Notes the charset, once the filter that names it has had its turn.
struct Watcher;

impl Filter for Watcher {
    fn stage(&self) -> Stage {
        Stage::Postpone
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        let utf8 = head.charset.as_ref().is_some_and(|charset| charset.eq_ignore_ascii_case(UTF_8));
        request.extension::<ShownAs>().utf8.set(utf8);
        body
    }
}

struct Page {
    listing: Option<Listing>,
    shown_as: Rc<ShownAs>,
}

impl Source for Page {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Next> {
        let written = self.listing.take().map(|listing| match listing.style.format {
            Format::Html => listing.html(self.shown_as.utf8.get()),
            Format::Xml => listing.xml(),
            Format::Json | Format::Jsonp => listing.json(),
        });
        Poll::Ready(Ok(written.map(|written| Piece::Mem(written.into()))))
    }
}

struct Listing {
    style: Style,
    path: Bytes,
    callback: Bytes,
    entries: Vec<Entry>,
}

/// So many characters of a name are shown.
const NAME: usize = 50;

impl Listing {
    fn html(&self, utf8: bool) -> Vec<u8> {
        let path = uri::escape_html(&self.path);
        let mut out = Vec::with_capacity(256 + self.entries.len() * 160);
        for part in [b"<html>\r\n<head><title>Index of ".as_slice(), &path, b"</title></head>\r\n<body>\r\n"] {
            out.extend_from_slice(part);
        }
        for part in [b"<h1>Index of ".as_slice(), &path, b"</h1><hr><pre><a href=\"../\">../</a>\r\n"] {
            out.extend_from_slice(part);
        }
        for entry in &self.entries {
            self.line(entry, utf8, &mut out);
        }
        out.extend_from_slice(b"</pre><hr></body>\r\n</html>\r\n");
        out
    }

    fn line(&self, entry: &Entry, utf8: bool, out: &mut Vec<u8>) {
        let name = &entry.name;
        let slash: &[u8] = if entry.is_dir { b"/" } else { b"" };
        out.extend_from_slice(b"<a href=\"");
        uri::push_escaped(out, Escape::UriComponent, name);
        out.extend_from_slice(slash);
        out.extend_from_slice(b"\">");
        let ends = if utf8 { utf8::ends(name) } else { None };
        let end = |count: usize| match &ends {
            Some(ends) => ends[count - 1],
            None => count,
        };
        let mut length = ends.as_ref().map_or(name.len(), Vec::len);
        if length > NAME {
            out.extend_from_slice(&uri::escape_html(&name[..end(NAME - 3)]));
            out.extend_from_slice(b"..&gt;</a>");
        } else {
            out.extend_from_slice(&uri::escape_html(name));
            if length < NAME {
                out.extend_from_slice(slash);
                length += slash.len();
            }
            out.extend_from_slice(b"</a>");
            out.resize(out.len() + NAME - length, b' ');
        }
        let east = match self.style.localtime {
            true => clock::zone().to_offset(Timestamp::now()),
            false => Offset::UTC,
        };
        let time = moment(entry.mtime, east);
        let (day, year, hour, minute) = (time.day(), time.year(), time.hour(), time.minute());
        let month = MONTHS.get(usize::from(time.month().unsigned_abs()).saturating_sub(1)).unwrap_or(&"");
        let mut text = format!(" {day:02}-{month}-{year} {hour:02}:{minute:02} ");
        let width = if self.style.exact_size { 19 } else { 7 };
        let size = match (entry.is_dir, self.style.exact_size) {
            (true, _) => "-".to_owned(),
            (false, true) => entry.size.to_string(),
            (false, false) => rounded(entry.size),
        };
        let _ = write!(text, "{size:>width$}\r\n"); // a String takes everything
        out.extend_from_slice(text.as_bytes());
    }

    fn xml(&self) -> Vec<u8> {
        let mut out = b"<?xml version=\"1.0\"?>\r\n<list>\r\n".to_vec();
        for entry in &self.entries {
            let kind = entry.kind();
            let time = moment(entry.mtime, Offset::UTC);
            let (year, month, day) = (time.year(), time.month(), time.day());
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            let mut text = format!("<{kind} mtime=\"{year:4}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z\"");
            if entry.is_file {
                let _ = write!(text, " size=\"{}\"", entry.size); // a String takes everything
            }
            out.extend_from_slice(text.as_bytes());
            out.push(b'>');
            out.extend_from_slice(&uri::escape_html(&entry.name));
            out.extend_from_slice(format!("</{kind}>\r\n").as_bytes());
        }
        out.extend_from_slice(b"</list>\r\n");
        out
    }

    fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.callback.is_empty() {
            out.extend_from_slice(b"/* callback */\r\n");
            out.extend_from_slice(&self.callback);
            out.push(b'(');
        }
        out.push(b'[');
        for (n, entry) in self.entries.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"\r\n{ \"name\":\"" } else { b",\r\n{ \"name\":\"" });
            LogEscape::Json.append(&entry.name, &mut out);
            out.extend_from_slice(format!("\", \"type\":\"{}\", \"mtime\":\"", entry.kind()).as_bytes());
            out.extend_from_slice(&date::format(entry.mtime));
            out.push(b'"');
            if entry.is_file {
                out.extend_from_slice(format!(", \"size\":{}", entry.size).as_bytes());
            }
            out.extend_from_slice(b" }");
        }
        out.extend_from_slice(b"\r\n]");
        if !self.callback.is_empty() {
            out.extend_from_slice(b");");
        }
        out
    }
}

impl Entry {
    fn kind(&self) -> &'static str {
        match (self.is_dir, self.is_file) {
            (true, _) => "directory",
            (false, true) => "file",
            (false, false) => "other",
        }
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// nginx: a time before 1970 is shown as 1970.
fn moment(seconds: i64, offset: Offset) -> DateTime {
    let moment = Timestamp::from_second(seconds.max(0)).unwrap_or(Timestamp::MAX);
    offset.to_datetime(moment)
}

/// A size in whole kilobytes, megabytes or gigabytes, from ten thousand bytes on.
fn rounded(size: u64) -> String {
    let (unit, letter) = match size {
        0..=9999 => return size.to_string(),
        10_000..=0xf_ffff => (1 << 10, 'K'),
        0x10_0000..=0x3fff_ffff => (1 << 20, 'M'),
        0x4000_0000.. => (1 << 30, 'G'),
    };
    let whole = size / unit + u64::from(size % unit >= unit / 2);
    format!("{whole}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_nginx_rounds_them() {
        for (size, expected) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10K"),
            (10 * 1024 + 511, "10K"),
            (10 * 1024 + 512, "11K"),
            ((1 << 20) - 1, "1024K"),
            (1 << 20, "1M"),
            ((3 << 20) / 2, "2M"),
            ((1 << 30) - 1, "1024M"),
            (1 << 30, "1G"),
            (5 << 29, "3G"),
        ] {
            assert_eq!(rounded(size), expected, "{size}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let style = Style { format: Format::Html, localtime: false, exact_size: false };
        let listing = |name: &str, is_dir| Listing {
            style,
            path: Bytes::from_static(b"/"),
            callback: Bytes::new(),
            entries: vec![Entry { name: name.into(), is_dir, is_file: !is_dir, mtime: -1, size: 12345 }],
        };
        let shown = |name: &str, is_dir, utf8| {
            let page = text::decode(&listing(name, is_dir).html(utf8));
            let (_, rest) = page.split_once("../</a>\r\n").expect("the way up");
            let (line, _) = rest.split_once("\r\n").expect("one line");
            line.split_once('>').expect("the address").1.to_owned()
        };
        let pad = |count: usize| " ".repeat(count);
        let end = " 01-Jan-1970 00:00     12K";
        assert_eq!(shown("a<b", false, false), format!("a&lt;b</a>{}{end}", pad(47)));
        assert_eq!(shown(&"a".repeat(50), false, false), format!("{}</a>{end}", "a".repeat(50)));
        assert_eq!(shown(&"ф".repeat(51), false, true), format!("{}..&gt;</a>{end}", "ф".repeat(47)));
        let directory = " 01-Jan-1970 00:00       -";
        assert_eq!(shown(&"a".repeat(49), true, false), format!("{}/</a>{directory}", "a".repeat(49)));
        assert_eq!(shown(&"a".repeat(50), true, false), format!("{}</a>{directory}", "a".repeat(50)));
        assert_eq!(shown("ф", true, true), format!("ф/</a>{}{directory}", pad(48)));
        assert_eq!(shown("ф", true, false), format!("ф/</a>{}{directory}", pad(47)));
    }
}
