//! Where configuration text comes from, and how the files of one configuration become one tree.
//!
//! In: a path, or the text of `-g`. Out: the statements of all files, each `include` replaced by what it names. A
//! [`Source`] remembers every text it gave out, in order: for `-T`, for showing the line of a fault, and for the
//! worker, which may open no file and loads the master's [`Source::record`] instead. The rule: reading stops at the
//! first fault, and the fault stands in the tree at the place where nginx would have met it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::error::{At, Fault};
use super::files::Files;
use super::lex::{self, Node, Statement, Word};
use crate::base::hash::QuickMap;
use crate::base::{glob, text};

/// Files within files; nginx stops when it has no descriptor left to open the next one.
const MAX_INCLUDES_DEEP: usize = 128;

/// Files opened for one configuration, counting a file each time it is included. Real ones include some thousands.
const MAX_INCLUDES: usize = 100_000;

/// The size of one file. Lists of addresses have reached some tens of megabytes.
const MAX_FILE: u64 = 1 << 30;

/// Blocks that read their own statements, and so judge an `include` that is not `include NAME;` in their own words.
const RAW_BLOCKS: [&str; 5] = ["charset_map", "geo", "map", "split_clients", "types"];

/// Raw blocks that know no `include` at all.
const CLOSED_BLOCKS: [&str; 2] = ["charset_map", "split_clients"];

/// Reads the file at `path` and all that it includes. Relative names are below `prefix`, the directory of the main
/// file with its slash.
pub fn read(source: &mut Source, path: &str, prefix: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut assembly = Assembly { source, prefix, within: Vec::new(), opened: 0 };
    if let Err(Stopped { fault: Some(fault) }) = assembly.file(path, "", 0, &mut nodes) {
        nodes.push(Node::Fault(fault));
    }
    nodes
}

/// Reads the text of `-g` and all that it includes.
pub fn read_parameter(source: &mut Source, parameter: &str, prefix: &str) -> Vec<Node> {
    let raw: Arc<[u8]> = text::bytes(parameter).into();
    source.parameter = Some(raw.clone());
    let mut nodes = Vec::new();
    let mut assembly = Assembly { source, prefix, within: Vec::new(), opened: 0 };
    // A fault is in its place already: every statement here has a place.
    let _ = assembly.place(lex::parameter(&raw), "", 0, &mut nodes);
    nodes
}

/// The texts of one configuration.
pub struct Source {
    disk: bool,
    texts: Vec<Text>,
    known: QuickMap<Arc<str>, usize>,
    masks: Vec<(String, Vec<String>)>,
    parameter: Option<Arc<[u8]>>,
    /// What directives ask for beside texts.
    pub files: Files,
}

/// One file, as it was when it was first opened.
#[derive(Clone)]
pub struct Text {
    pub name: Arc<str>,
    pub raw: Arc<[u8]>,
}

impl Source {
    /// Reads from the file system.
    pub fn disk() -> Self {
        Self { disk: true, files: Files::disk(), ..Self::empty() }
    }

    /// Knows only what is given to it by [`Source::add`].
    pub fn empty() -> Self {
        Self {
            disk: false,
            texts: Vec::new(),
            known: QuickMap::default(),
            masks: Vec::new(),
            parameter: None,
            files: Files::default(),
        }
    }

    /// Gives a text to be read in place of the file called `name`.
    pub fn add(&mut self, name: &str, raw: &[u8]) {
        self.keep(name.into(), raw.into());
    }

    /// Knows only what is in `record`; `None` if that is no whole record.
    pub fn recorded(record: &[u8]) -> Option<Self> {
        let mut fields = Fields(record);
        let mut source = Self::empty();
        for _ in 0..fields.count()? {
            let name = text::decode(fields.bytes()?);
            source.keep(name.into(), fields.bytes()?.into());
        }
        for _ in 0..fields.count()? {
            let mask = text::decode(fields.bytes()?);
            let mut names = Vec::new();
            for _ in 0..fields.count()? {
                names.push(text::decode(fields.bytes()?));
            }
            source.masks.push((mask, names));
        }
        for _ in 0..fields.count()? {
            let path = text::path(&text::decode(fields.bytes()?));
            let error = i32::try_from(fields.count()?).ok()?;
            let bytes = fields.bytes()?;
            source.files.add(path, if error == 0 { Ok(bytes) } else { Err(error) });
        }
        fields.0.is_empty().then_some(source)
    }

    /// Everything read so far, for [`Source::recorded`] in another process.
    pub fn record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        write_count(&mut record, self.texts.len());
        for text in &self.texts {
            write_bytes(&mut record, &text::bytes(&text.name));
            write_bytes(&mut record, &text.raw);
        }
        write_count(&mut record, self.masks.len());
        for (mask, names) in &self.masks {
            write_bytes(&mut record, &text::bytes(mask));
            write_count(&mut record, names.len());
            for name in names {
                write_bytes(&mut record, &text::bytes(name));
            }
        }
        let files = self.files.all();
        write_count(&mut record, files.len());
        for (path, read) in files {
            write_bytes(&mut record, path.as_os_str().as_bytes());
            write_count(&mut record, read.as_ref().err().map_or(0, |number| number.unsigned_abs() as usize));
            write_bytes(&mut record, read.as_deref().unwrap_or_default());
        }
        record
    }

    /// The files, in the order in which they were first opened.
    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// What `-T` prints.
    pub fn dump(&self) -> Vec<u8> {
        let mut dump = Vec::new();
        for text in &self.texts {
            dump.extend_from_slice(b"# configuration file ");
            dump.extend_from_slice(&text::bytes(&text.name));
            dump.extend_from_slice(b":\n");
            dump.extend_from_slice(&text.raw);
            dump.push(b'\n');
        }
        dump
    }

    /// The line on which the word at `at` stands, without its end; `None` if there is no such line.
    pub fn line(&self, at: &At) -> Option<&[u8]> {
        let raw = match at.line {
            0 => self.parameter.as_ref()?,
            _ => &self.texts[*self.known.get(&at.file)?].raw,
        };
        let line = raw.split(|&byte| byte == b'\n').nth(at.row.checked_sub(1)? as usize)?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// The text of one file. A file that is included twice is read once, so that both places see the same.
    fn text(&mut self, name: &str) -> Result<Text, Refused> {
        if let Some(&index) = self.known.get(name) {
            return Ok(self.texts[index].clone());
        }
        if !self.disk {
            return Err(Refused { call: "open", error: io::ErrorKind::NotFound.into() });
        }
        let raw = from_disk(name)?;
        Ok(self.keep(name.into(), raw.into()))
    }

    fn keep(&mut self, name: Arc<str>, raw: Arc<[u8]>) -> Text {
        let text = Text { name: name.clone(), raw };
        self.known.insert(name, self.texts.len());
        self.texts.push(text.clone());
        text
    }

    /// The files that a mask names, sorted.
    fn matches(&mut self, mask: &str) -> Vec<String> {
        if let Some((_, names)) = self.masks.iter().find(|(known, _)| known == mask) {
            return names.clone();
        }
        if !self.disk {
            return Vec::new();
        }
        let paths = glob::paths(&text::bytes(mask));
        let names: Vec<String> = paths.iter().map(|path| text::decode(path.as_os_str().as_bytes())).collect();
        self.masks.push((mask.to_owned(), names.clone()));
        names
    }
}

/// The system call that would not, and why.
struct Refused {
    call: &'static str,
    error: io::Error,
}

fn from_disk(name: &str) -> Result<Vec<u8>, Refused> {
    let file = File::open(text::path(name)).map_err(|error| Refused { call: "open", error })?;
    let mut raw = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut raw);
    read.map_err(|error| Refused { call: "pread", error })?;
    if raw.len() as u64 > MAX_FILE {
        return Err(Refused { call: "pread", error: io::Error::from_raw_os_error(libc::EFBIG) });
    }
    Ok(raw)
}

/// Reading has met a fault; nothing behind it counts. The fault is here until someone knows its place.
struct Stopped {
    fault: Option<Fault>,
}

/// One tree in the making.
struct Assembly<'a> {
    source: &'a mut Source,
    prefix: &'a str,
    /// The files that include one another down to here.
    within: Vec<Arc<str>>,
    opened: usize,
}

impl Assembly<'_> {
    fn file(&mut self, path: &str, block: &str, depth: usize, out: &mut Vec<Node>) -> Result<(), Stopped> {
        let refuse = |fault| Err(Stopped { fault: Some(fault) });
        if self.within.iter().any(|name| **name == *path) {
            return refuse(Fault::new(format!("\"{path}\" includes itself")));
        }
        if self.within.len() >= MAX_INCLUDES_DEEP {
            return refuse(Fault::new(format!("files are included more than {MAX_INCLUDES_DEEP} deep")));
        }
        self.opened += 1;
        if self.opened > MAX_INCLUDES {
            return refuse(Fault::new(format!("more than {MAX_INCLUDES} files are included")));
        }
        let text = match self.source.text(path) {
            Ok(text) => text,
            Err(Refused { call, error }) => {
                return refuse(Fault::new(format!("{call}() \"{path}\" failed {}", text::errno(&error))));
            }
        };
        self.within.push(text.name.clone());
        let placed = self.place(lex::file(&text.raw, &text.name, depth), block, depth, out);
        self.within.pop();
        placed
    }

    /// Moves `nodes`, read inside the block called `block`, to `out`, and what they include with them.
    fn place(&mut self, nodes: Vec<Node>, block: &str, depth: usize, out: &mut Vec<Node>) -> Result<(), Stopped> {
        for node in nodes {
            let mut statement = match node {
                Node::Statement(statement) => statement,
                Node::Fault(fault) => {
                    out.push(Node::Fault(fault));
                    return Err(Stopped { fault: None });
                }
            };
            if statement.words[0].text == "include" && !CLOSED_BLOCKS.contains(&block) {
                match included(&statement, block) {
                    Ok(Some(name)) => {
                        self.include(name, block, depth, out)?;
                        continue;
                    }
                    Ok(None) => {}
                    Err(fault) => {
                        out.push(Node::Fault(fault));
                        return Err(Stopped { fault: None });
                    }
                }
            }

            let Some(inner) = statement.block.take() else {
                out.push(Node::Statement(statement));
                continue;
            };
            let mut nodes = Vec::with_capacity(inner.len());
            let placed = self.place(inner, &statement.words[0].text, depth + 1, &mut nodes);
            statement.block = Some(nodes);
            out.push(Node::Statement(statement));
            placed?;
        }
        Ok(())
    }

    fn include(&mut self, name: &Word, block: &str, depth: usize, out: &mut Vec<Node>) -> Result<(), Stopped> {
        let path = if name.text.starts_with('/') { name.text.clone() } else { format!("{}{}", self.prefix, name.text) };
        let files = if glob::is_mask(path.as_bytes()) { self.source.matches(&path) } else { vec![path] };
        for file in files {
            if let Err(Stopped { fault }) = self.file(&file, block, depth, out) {
                // nginx: a fault inside the file has its own place, one of opening it belongs to the `include`
                out.extend(fault.map(|fault| Node::Fault(fault.or_at(&name.at))));
                return Err(Stopped { fault: None });
            }
        }
        Ok(())
    }
}

/// The name in `include NAME;`. Anything else is a fault, or in a raw block `None`: left for the block to judge.
fn included<'a>(statement: &'a Statement, block: &str) -> Result<Option<&'a Word>, Fault> {
    let at = &statement.words[0].at;
    match (&statement.words[..], &statement.block) {
        ([_, name], None) => Ok(Some(name)),
        _ if RAW_BLOCKS.contains(&block) => Ok(None),
        (_, Some(_)) => Err(Fault::at("directive \"include\" is not terminated by \";\"", at)),
        _ => Err(Fault::at("invalid number of arguments in \"include\" directive", at)),
    }
}

/// The record's form: counts and lengths are four bytes, least first; both ends are one binary.
fn write_count(record: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("files, masks and sizes are bounded above");
    record.extend_from_slice(&count.to_le_bytes());
}

fn write_bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    write_count(record, bytes.len());
    record.extend_from_slice(bytes);
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*count)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory with files; `@` in a text stands for the directory.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().expect("a temporary directory"));
            for (name, text) in files {
                let path = tree.0.path().join(name);
                fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
                fs::write(path, tree.at(text)).expect("a file");
            }
            tree
        }

        fn at(&self, text: &str) -> String {
            text.replace('@', self.0.path().to_str().expect("plain text"))
        }

        fn read(&self, source: &mut Source) -> String {
            let nodes = read(source, &self.at("@/main.conf"), &self.at("@/"));
            shape(&nodes).replace(&self.at("@"), "@")
        }
    }

    /// Statements without their places, faults as they print.
    fn shape(nodes: &[Node]) -> String {
        let each = nodes.iter().map(|node| match node {
            Node::Fault(fault) => format!("!{fault}"),
            Node::Statement(Statement { words, block, .. }) => {
                let words: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
                match block {
                    Some(block) => format!("{} {{{}}}", words.join(" "), shape(block)),
                    None => words.join(" "),
                }
            }
        });
        each.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn includes_stand_in_place() {
        let tree = Tree::new(&[
            ("main.conf", "a; include one.conf; b { include two/*.conf; c; } include none/*.conf; include @/one.conf;"),
            ("one.conf", "one;\n"),
            ("two/z.conf", "z;"),
            ("two/y.conf", "y { include one.conf; }"),
            ("two/x.txt", "x;"),
            ("two/.h.conf", "h;"),
        ]);
        assert_eq!(tree.read(&mut Source::disk()), "a; one; b {y {one}; z; c}; one");
    }

    #[test]
    fn faults_stand_where_nginx_meets_them() {
        let cases: [(&[(&str, &str)], &str); 10] = [
            (&[], "!open() \"@/main.conf\" failed (2: No such file or directory)"),
            (
                &[("main.conf", "a;\nb {\n  include\n    x.conf;\n c; }\nd;")],
                "a; b {!open() \"@/x.conf\" failed (2: No such file or directory) in @/main.conf:4}",
            ),
            (
                &[("main.conf", "include d.conf; a;"), ("d.conf/x", "")],
                "!pread() \"@/d.conf\" failed (21: Is a directory) in @/main.conf:1",
            ),
            (&[("main.conf", "a; include x; b;"), ("x", "c;\n}")], "a; c; !unexpected \"}\" in @/x:2"),
            (
                &[("main.conf", "a { include x; } b;"), ("x", "c {\n")],
                "a {c {!unexpected end of file, expecting \"}\" in @/x:2}}",
            ),
            (&[("main.conf", "include;")], "!invalid number of arguments in \"include\" directive in @/main.conf:1"),
            (&[("main.conf", "include x { }")], "!directive \"include\" is not terminated by \";\" in @/main.conf:1"),
            (
                &[("main.conf", "a;\ninclude x;"), ("x", "b;\n\ninclude main.conf;")],
                "a; b; !\"@/main.conf\" includes itself in @/x:3",
            ),
            (
                &[("main.conf", "map a b { include x; }"), ("x", "include; include 1 2;")],
                "map a b {include; include 1 2}",
            ),
            (&[("main.conf", "split_clients a b { include x; }")], "split_clients a b {include x}"),
        ];
        for (files, expected) in cases {
            assert_eq!(Tree::new(files).read(&mut Source::disk()), expected, "{files:?}");
        }
    }

    #[test]
    fn depth_is_counted_over_all_files() {
        let nest = |inner: &str| format!("{}{inner}{}", "a{".repeat(100), "}".repeat(100));
        let tree = Tree::new(&[("main.conf", &nest("include x;")), ("x", &nest(""))]);
        let shape = tree.read(&mut Source::disk());
        assert!(shape.contains("{!blocks are nested more than 128 deep in @/x:1}"), "{shape}");
    }

    #[test]
    fn many_ways_to_one_file_end() {
        let mut files = vec![("main.conf".to_owned(), "include 0; include 0;".to_owned())];
        files.extend((0..40).map(|n| (n.to_string(), format!("include {}; include {};", n + 1, n + 1))));
        files.push(("40".to_owned(), String::new()));
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let shape = Tree::new(&files).read(&mut Source::disk());
        assert!(shape.contains("more than 100000 files are included"), "{shape}");
    }

    #[test]
    fn a_record_reads_as_the_files_did() {
        let tree =
            Tree::new(&[("main.conf", "a; include *.inc; include nothing*;"), ("1.inc", "b;"), ("2.inc", "\u{e9} c")]);
        let mut disk = Source::disk();
        let first = tree.read(&mut disk);
        assert_eq!(first, "a; b; !unexpected end of file, expecting \";\" or \"}\" in @/2.inc:1");
        let record = disk.record();
        let expected = "# configuration file @/main.conf:\na; include *.inc; include nothing*;\n\
                        # configuration file @/1.inc:\nb;\n# configuration file @/2.inc:\n\u{e9} c\n";
        assert_eq!(disk.dump(), tree.at(expected).as_bytes());

        for name in ["main.conf", "1.inc", "2.inc"] {
            fs::remove_file(tree.0.path().join(name)).expect("it was there");
        }
        let mut recorded = Source::recorded(&record).expect("a whole record");
        assert_eq!(tree.read(&mut recorded), first);
        for length in 0..record.len() {
            assert!(Source::recorded(&record[..length]).is_none(), "cut at {length}");
        }
    }

    #[test]
    fn the_parameter_has_no_lines() {
        let tree = Tree::new(&[("x.conf", "b;\nc")]);
        let cases = [
            ("daemon off;\n user\n x;", "daemon off; user x"),
            ("daemon off", "!unexpected end of parameter, expecting \";\" in command line"),
            ("http {}", "!block directives are not supported in -g option in command line"),
            ("a; }", "a; !unexpected \"}\" in command line"),
            ("include x.conf;", "b; !unexpected end of file, expecting \";\" or \"}\" in @/x.conf:2"),
            ("include none;", "!open() \"@/none\" failed (2: No such file or directory) in command line"),
        ];
        for (parameter, expected) in cases {
            let mut source = Source::disk();
            let nodes = read_parameter(&mut source, parameter, &tree.at("@/"));
            assert_eq!(shape(&nodes).replace(&tree.at("@"), "@"), expected, "{parameter:?}");
        }
    }
}
