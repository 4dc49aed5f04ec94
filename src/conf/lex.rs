//! nginx's configuration language: bytes in, a tree of statements out.
//!
//! In: the bytes of one file, or of the `-g` parameter. Out: statements in order, blocks nested, and at most one fault
//! as the last thing read. The rule: what is a word, where it ends, and the line that a fault names are nginx's
//! (`src/core/ngx_conf_file.c`, `ngx_conf_read_token`), so that any file means here what it means there. What the words
//! say is not judged here: raw blocks such as `map` and `types` are statements like any other, and whether a
//! directive wants a block is for whoever knows the directives.

use std::sync::Arc;

use super::error::{At, COMMAND_LINE, Fault};
use crate::base::text;

/// One word as the operator meant it: quotes and escapes are resolved.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    /// Written in quotes; then `${`-less text such as `"{"` is a plain word.
    pub quoted: bool,
    pub at: At,
}

/// `words ... ;` or `words ... { statements }`.
#[derive(Clone, Debug)]
pub struct Statement {
    /// At least one: the directive's name.
    pub words: Vec<Word>,
    pub block: Option<Vec<Node>>,
    /// The `;` or `}` that ends it. nginx stands here when it judges a block as a whole, so such a fault names this line.
    pub end: At,
}

/// What a block holds, in order. A fault stands where reading stopped, so that faults found while the statements
/// before it are applied come first, as in nginx, which applies while it reads.
#[derive(Clone, Debug)]
pub enum Node {
    Statement(Statement),
    Fault(Fault),
}

/// How deep blocks may nest, over all included files together. Hand-written files stay below ten and generated ones
/// below twenty; the bound keeps whatever walks the tree from exhausting its stack.
pub const MAX_DEPTH: usize = 128;

/// The window that nginx reads a file through; no word may be longer (`NGX_CONF_BUFFER`).
const WINDOW: usize = 4096;

/// Reads one file that is included `depth` blocks deep.
pub fn file(raw: &[u8], name: &Arc<str>, depth: usize) -> Vec<Node> {
    Reader::new(raw, name.clone(), Kind::File).statements(depth)
}

/// Reads the text of `-g`: statements without blocks, on no line.
pub fn parameter(raw: &[u8]) -> Vec<Node> {
    Reader::new(raw, COMMAND_LINE.into(), Kind::Parameter).statements(0)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Parameter,
}

/// What one turn of reading finds. Line numbers of the words are already those that nginx would name.
enum Found {
    /// `words ;`
    Simple(Vec<Word>),
    /// `words {`
    Open(Vec<Word>),
    /// `}`
    Close,
    End,
}

/// What stands behind a word.
enum Behind {
    Space,
    Semicolon,
    Brace,
    /// nginx lets a `)` follow a closing quote and begin the next word, for `if ($x = "y")`.
    Parenthesis,
}

/// A place in the text.
#[derive(Clone, Copy)]
struct Mark {
    pos: usize,
    row: u32,
    column: u32,
}

struct Reader<'a> {
    raw: &'a [u8],
    kind: Kind,
    name: Arc<str>,
    pos: usize,
    /// The line of the next byte, and where it began.
    row: u32,
    row_start: usize,
    /// Where nginx's window must begin for it to see what is being read whole.
    start: Mark,
}

impl<'a> Reader<'a> {
    fn new(raw: &'a [u8], name: Arc<str>, kind: Kind) -> Self {
        let start = Mark { pos: 0, row: 1, column: 0 };
        Self { raw, kind, name, pos: 0, row: 1, row_start: 0, start }
    }

    fn statements(mut self, depth: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut open: Vec<(Vec<Word>, Vec<Node>)> = Vec::new();

        let fault = loop {
            match self.statement() {
                Ok(Found::Simple(words)) => {
                    let end = self.at_last_byte();
                    nodes.push(Node::Statement(Statement { words, block: None, end }));
                }
                Ok(Found::Open(_)) if self.kind == Kind::Parameter => {
                    break self.fault_here("block directives are not supported in -g option");
                }
                Ok(Found::Open(_)) if depth + open.len() >= MAX_DEPTH => {
                    break self.fault_here(&format!("blocks are nested more than {MAX_DEPTH} deep"));
                }
                Ok(Found::Open(words)) => open.push((words, std::mem::take(&mut nodes))),
                Ok(Found::Close) => {
                    let Some((words, outer)) = open.pop() else {
                        break self.fault_here("unexpected \"}\"");
                    };
                    let block = Some(std::mem::replace(&mut nodes, outer));
                    nodes.push(Node::Statement(Statement { words, block, end: self.at_last_byte() }));
                }
                Ok(Found::End) => {
                    let Some((words, _)) = open.last() else {
                        return nodes;
                    };
                    break self.fault_about(words, "unexpected end of file, expecting \"}\"");
                }
                Err(fault) => break fault,
            }
        };

        nodes.push(Node::Fault(fault));
        while let Some((words, outer)) = open.pop() {
            let block = Some(std::mem::replace(&mut nodes, outer));
            nodes.push(Node::Statement(Statement { words, block, end: self.at_last_byte() }));
        }
        nodes
    }

    /// Reads up to the next `;`, `{` or `}`.
    fn statement(&mut self) -> Result<Found, Fault> {
        let mut words = Vec::new();
        let mut behind = Behind::Space;
        self.start = self.mark();
        loop {
            match behind {
                Behind::Space => {}
                Behind::Semicolon => return Ok(Found::Simple(self.placed(words))),
                Behind::Brace => return Ok(Found::Open(self.placed(words))),
                Behind::Parenthesis => {
                    behind = self.plain_word(b')', &mut words)?;
                    continue;
                }
            }

            // nginx: the window still begins at the last word when it is moved on to the byte behind it
            let here = self.mark();
            let Some(byte) = self.next(None)? else {
                return if words.is_empty() { Ok(Found::End) } else { Err(self.unfinished(&words)) };
            };
            self.start = here;
            behind = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => Behind::Space,
                b';' | b'{' if words.is_empty() => return Err(self.unexpected(byte)),
                b';' => Behind::Semicolon,
                b'{' => Behind::Brace,
                b'}' if !words.is_empty() => return Err(self.unexpected(byte)),
                b'}' => return Ok(Found::Close),
                b'#' => {
                    // nginx: a comment goes through the window like a word, and a longer one is refused like a word
                    while !matches!(self.next(None)?, None | Some(b'\n')) {}
                    self.start = self.mark();
                    Behind::Space
                }
                b'"' | b'\'' => self.quoted_word(byte, &mut words)?,
                _ => self.plain_word(byte, &mut words)?,
            };
        }
    }

    /// Reads on behind an opening quote.
    fn quoted_word(&mut self, quote: u8, words: &mut Vec<Word>) -> Result<Behind, Fault> {
        let opening = self.start;
        self.start.pos += 1;
        loop {
            match self.next(Some(quote))? {
                None => return Err(self.fault_at(opening, 1, self.end_of_text())),
                Some(b'\\') => drop(self.next(Some(quote))?), // whatever it is; None comes again above
                Some(byte) if byte == quote => break,
                Some(_) => {}
            }
        }
        let text = unescaped(&self.raw[self.start.pos..self.pos - 1]);
        words.push(Word { text, quoted: true, at: self.at(opening, self.pos - opening.pos) });

        // The window still begins behind the opening quote: the byte that follows must be in sight too.
        match self.next(None)? {
            None => Err(self.unfinished(words)),
            Some(b' ' | b'\t' | b'\r' | b'\n') => Ok(Behind::Space),
            Some(b';') => Ok(Behind::Semicolon),
            Some(b'{') => Ok(Behind::Brace),
            Some(b')') => {
                self.start = self.mark_last_byte();
                Ok(Behind::Parenthesis)
            }
            Some(byte) => Err(self.unexpected(byte)),
        }
    }

    /// Reads on behind the first byte of a word that no quote opens.
    fn plain_word(&mut self, first: u8, words: &mut Vec<Word>) -> Result<Behind, Fault> {
        let mut variable = false; // behind a `$`, where `{` opens no block
        let mut byte = first;
        let behind = loop {
            match byte {
                b'{' if variable => {}
                b'$' => variable = true,
                _ => variable = false,
            }
            if byte == b'\\' {
                self.next(None)?; // whatever it is; the end of the text comes again below
            }
            byte = match self.next(None)? {
                None => return Err(self.fault_at(self.start, self.pos - self.start.pos, self.end_of_text())),
                Some(b' ' | b'\t' | b'\r' | b'\n') => break Behind::Space,
                Some(b';') => break Behind::Semicolon,
                Some(b'{') if !variable => break Behind::Brace,
                Some(byte) => byte,
            };
        };
        let raw = &self.raw[self.start.pos..self.pos - 1];
        words.push(Word { text: unescaped(raw), quoted: false, at: self.at(self.start, raw.len()) });
        Ok(behind)
    }

    /// The next byte, or `None` at the end of the text. `quote` is the one that is still open.
    fn next(&mut self, quote: Option<u8>) -> Result<Option<u8>, Fault> {
        let Some(&byte) = self.raw.get(self.pos) else {
            return Ok(None);
        };
        if self.kind == Kind::File && self.pos - self.start.pos >= WINDOW {
            return Err(self.too_long(quote));
        }
        self.pos += 1;
        if byte == b'\n' {
            self.row += 1;
            self.row_start = self.pos;
        }
        Ok(Some(byte))
    }

    fn too_long(&self, quote: Option<u8>) -> Fault {
        let message = match quote {
            Some(quote) => {
                format!("too long parameter, probably missing terminating \"{}\" character", char::from(quote))
            }
            None => {
                let begin = text::decode(&self.raw[self.start.pos..self.start.pos + 10]);
                format!("too long parameter \"{begin}...\" started")
            }
        };
        // nginx: this fault names the line where the word began
        let length = u32::from(quote.is_some()).max(1);
        Fault::at(message, &At { line: self.line(self.start.row), ..self.at(self.start, length as usize) })
    }

    fn unexpected(&self, byte: u8) -> Fault {
        self.fault_here(&format!("unexpected \"{}\"", text::decode(&[byte])))
    }

    fn unfinished(&self, words: &[Word]) -> Fault {
        self.fault_about(words, self.end_of_text())
    }

    fn end_of_text(&self) -> &'static str {
        match self.kind {
            Kind::File => "unexpected end of file, expecting \";\" or \"}\"",
            Kind::Parameter => "unexpected end of parameter, expecting \";\"",
        }
    }

    /// A fault about the byte just read.
    fn fault_here(&self, message: &str) -> Fault {
        Fault::at(message, &self.at_last_byte())
    }

    /// A fault about words read before.
    fn fault_about(&self, words: &[Word], message: &str) -> Fault {
        match words.first() {
            Some(word) => Fault::at(message, &At { line: self.line(self.row), ..word.at.clone() }),
            None => self.fault_here(message),
        }
    }

    fn fault_at(&self, mark: Mark, length: usize, message: &str) -> Fault {
        Fault::at(message, &self.at(mark, length))
    }

    /// nginx names the line on which it found the end of the statement, for each of its words.
    fn placed(&self, mut words: Vec<Word>) -> Vec<Word> {
        for word in &mut words {
            word.at.line = self.line(self.row);
        }
        words
    }

    fn at(&self, mark: Mark, length: usize) -> At {
        At {
            file: self.name.clone(),
            line: self.line(self.row),
            row: mark.row,
            column: mark.column,
            length: clamp(length),
        }
    }

    fn at_last_byte(&self) -> At {
        self.at(self.mark_last_byte(), 1)
    }

    fn mark(&self) -> Mark {
        Mark { pos: self.pos, row: self.row, column: clamp(self.pos - self.row_start) }
    }

    /// Never called behind a newline: the bytes that faults and statements end on stand on the present line.
    fn mark_last_byte(&self) -> Mark {
        let pos = self.pos.saturating_sub(1);
        Mark { pos, row: self.row, column: clamp(pos.saturating_sub(self.row_start)) }
    }

    /// The `-g` text has no lines.
    fn line(&self, row: u32) -> u32 {
        match self.kind {
            Kind::File => row,
            Kind::Parameter => 0,
        }
    }
}

/// Resolves `\"`, `\'`, `\\`, `\t`, `\r` and `\n`; before anything else a backslash stays, for regular expressions.
fn unescaped(raw: &[u8]) -> String {
    let mut plain = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        let known = match (first, tail.first()) {
            (b'\\', Some(&byte @ (b'"' | b'\'' | b'\\'))) => Some(byte),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'n')) => Some(b'\n'),
            _ => None,
        };
        plain.push(known.unwrap_or(*first));
        rest = &rest[if known.is_some() { 2 } else { 1 }..];
    }
    text::decode(&plain)
}

/// Lines and columns beyond four billion are not worth a wider type.
fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `words;` and `words {...}` with the line that nginx names; words in brackets, with `"` before quoted ones.
    fn shape(nodes: &[Node]) -> String {
        let each = nodes.iter().map(|node| match node {
            Node::Fault(fault) => format!("!{fault}"),
            Node::Statement(Statement { words, block, end }) => {
                let text: String = words
                    .iter()
                    .map(|word| format!("{}[{}]", if word.quoted { "\"" } else { "" }, word.text))
                    .collect();
                match block {
                    Some(block) => format!("{}{text}{{{}}}{}", words[0].at.line, shape(block), end.line),
                    None => format!("{}{text}", end.line),
                }
            }
        });
        each.collect::<Vec<_>>().join(" ")
    }

    fn read(raw: &[u8]) -> Vec<Node> {
        file(raw, &"f".into(), 0)
    }

    #[test]
    fn words_and_blocks() {
        let cases = [
            ("", ""),
            (" \n\t\r\n", ""),
            ("a;", "1[a]"),
            ("a b  c ;", "1[a][b][c]"),
            ("a\nb\n;c;", "3[a][b] 3[c]"),
            ("a\r\nb;\r\n", "2[a][b]"),
            ("a { b; }", "1[a]{1[b]}1"),
            ("a{b{c;}}d;", "1[a]{1[b]{1[c]}1}1 1[d]"),
            ("a\n{\n}\n", "2[a]{}3"),
            ("# x; {\na; # y\n#z", "2[a]"),
            ("a b#c;", "1[a][b#c]"),
            ("a # c\n b;", "2[a][b]"),
            // quotes
            (r#"a "b c" 'd e';"#, r#"1[a]"[b c]"[d e]"#),
            (r#"a "b{;}#c";"#, r#"1[a]"[b{;}#c]"#),
            (r#"a "it's" 'say "x"';"#, r#"1[a]"[it's]"[say "x"]"#),
            (r#"a "";"#, r#"1[a]"[]"#),
            (r#""a" {}"#, r#"1"[a]{}1"#),
            (r#"if ($a = "b") {}"#, r#"1[if][($a][=]"[b][)]{}1"#),
            (r#"if ($a = "b")c {}"#, r#"1[if][($a][=]"[b][)c]{}1"#),
            (r#"a b"c d";"#, r#"1[a][b"c][d"]"#),
            ("a \"b\nc\";", "2[a]\"[b\nc]"),
            // escapes
            (r"a b\ c;", r"1[a][b\ c]"),
            (r"a b\;c;", r"1[a][b\;c]"),
            (r"a \{ \} \#;", r"1[a][\{][\}][\#]"),
            (r#"a "\"" '\'' \" \' \\;"#, r#"1[a]"["]"[']["]['][\]"#),
            (r#"a \t\r\n "\t";"#, "1[a][\t\r\n]\"[\t]"),
            (r"a \d\.\w;", r"1[a][\d\.\w]"),
            (r#"a "\d\$";"#, r#"1[a]"[\d\$]"#),
            (r"a \\\\t;", r"1[a][\\t]"),
            // variables
            ("a ${b}c;", "1[a][${b}c]"),
            ("a x${b}{ }", "1[a][x${b}]{}1"),
            ("a $b{ }", "1[a][$b]{}1"),
            ("a ${{;", "1[a][${{]"),
            ("a $ {}", "1[a][$]{}1"),
            ("a b} c;", "1[a][b}][c]"),
            ("a ^/\\d{2}$;", "1[a][^/\\d]{1[2}$] !unexpected end of file, expecting \"}\" in f:1}1"),
            // any text
            ("中文 é;", "1[中文][é]"),
            ("\u{feff}a;", "1[\u{feff}a]"),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(&read(text.as_bytes())), expected, "{text:?}");
        }
    }

    #[test]
    fn any_bytes_are_kept() {
        let nodes = read(b"a \xd6\xd0\xff;");
        let Some(Node::Statement(Statement { words, .. })) = nodes.first() else {
            panic!("one statement, not {nodes:?}");
        };
        assert_eq!(text::bytes(&words[1].text), b"\xd6\xd0\xff");
    }

    #[test]
    fn faults() {
        const END: &str = "unexpected end of file, expecting \";\" or \"}\" in f";
        let cases = [
            ("a", format!("!{END}:1")),
            ("a\n", format!("!{END}:2")),
            ("a b\n# c", format!("!{END}:2")),
            ("a; b \"c;\n}", format!("1[a] !{END}:2")),
            ("a 'b\\';", format!("!{END}:1")),
            ("a \"b\"", format!("!{END}:1")),
            ("a \\", format!("!{END}:1")),
            ("a {", "1[a]{!unexpected end of file, expecting \"}\" in f:1}1".into()),
            ("a {\n b {\n}\n", "1[a]{2[b]{}3 !unexpected end of file, expecting \"}\" in f:4}4".into()),
            ("}", "!unexpected \"}\" in f:1".into()),
            ("a;\n}\nb;", "1[a] !unexpected \"}\" in f:2".into()),
            ("a { b }\n c;", "1[a]{!unexpected \"}\" in f:1}1".into()),
            ("a { b; c d }", "1[a]{1[b] !unexpected \"}\" in f:1}1".into()),
            ("a { b; c d}", format!("1[a]{{1[b] !{END}:1}}1")),
            ("a { b; c \"d\" }", "1[a]{1[b] !unexpected \"}\" in f:1}1".into()),
            (";", "!unexpected \";\" in f:1".into()),
            ("a;;", "1[a] !unexpected \";\" in f:1".into()),
            ("{", "!unexpected \"{\" in f:1".into()),
            ("a \"b\"c;", "!unexpected \"c\" in f:1".into()),
            ("a \"b\"#c\n;", "!unexpected \"#\" in f:1".into()),
            ("a 'b''c';", "!unexpected \"'\" in f:1".into()),
        ];
        for (text, expected) in cases {
            assert_eq!(shape(&read(text.as_bytes())), expected, "{text:?}");
        }
    }

    #[test]
    fn words_end_within_the_window() {
        let long = |n: usize| "x".repeat(n);
        let too_long = "!too long parameter \"xxxxxxxxxx...\" started in f:2";
        let cases = [
            (format!("\n{};", long(4095)), None),
            (format!("\n{};", long(4096)), Some(too_long)),
            (format!("\n{}\n\n;", long(4096)), Some(too_long)),
            (format!("\n{}", long(4096)), Some("!unexpected end of file, expecting \";\" or \"}\" in f:2")),
            (format!("\n\"{}\";", long(4094)), None),
            (format!("\n\"{}\";", long(4095)), Some(too_long)),
            (
                format!("\n\"{}\";", long(4096)),
                Some("!too long parameter, probably missing terminating \"\"\" character in f:2"),
            ),
            (
                format!("\n'\n{}\";", long(4096)),
                Some("!too long parameter, probably missing terminating \"'\" character in f:2"),
            ),
            (format!("#{}\n;", long(4095)), Some("!too long parameter \"#xxxxxxxxx...\" started in f:1")),
            (format!("#{}\na;", long(4094)), None),
            (format!("{}a;", " ".repeat(9000)), None),
            (format!("\n{} ", long(4095)), Some("!unexpected end of file, expecting \";\" or \"}\" in f:2")),
            (format!("\n{} a", long(4095)), Some(too_long)),
            (format!("\n{}\n\n;", long(4095)), Some(too_long)),
            (format!("\n{};a;", long(4095)), None),
            (format!("\n{} a;", long(4094)), None),
        ];
        for (text, expected) in cases {
            let nodes = read(text.as_bytes());
            let fault = nodes.iter().find_map(|node| match node {
                Node::Fault(fault) => Some(format!("!{fault}")),
                Node::Statement(_) => None,
            });
            assert_eq!(fault.as_deref(), expected, "{} bytes: {:.20?}", text.len(), text);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| read(format!("{}{}", "a{".repeat(depth), "}".repeat(depth)).as_bytes());
        assert!(!shape(&nested(MAX_DEPTH)).contains('!'));
        assert!(shape(&nested(MAX_DEPTH + 1)).contains("!blocks are nested more than 128 deep in f:1"));
        assert!(shape(&nested(1_000_000)).contains("!blocks are nested more than 128 deep in f:1"));
    }

    #[test]
    fn words_know_where_they_stand() {
        let nodes = read(b"a;\n  listen\n\t\"80 \" x;");
        let Some(Node::Statement(Statement { words, end, .. })) = nodes.get(1) else {
            panic!("two statements, not {nodes:?}");
        };
        let at = |row, column, length| At { file: "f".into(), line: 3, row, column, length };
        let places: Vec<At> = words.iter().map(|word| word.at.clone()).collect();
        assert_eq!(places, [at(2, 2, 6), at(3, 1, 5), at(3, 7, 1)]);
        assert_eq!(*end, at(3, 8, 1));
    }

    #[test]
    fn a_missing_brace_points_at_what_is_open() {
        let nodes = read(b"a;\nhttp {\n b;\n");
        let Some(Node::Statement(Statement { block: Some(block), .. })) = nodes.get(1) else {
            panic!("a block, not {nodes:?}");
        };
        let Some(Node::Fault(Fault { at: Some(at), .. })) = block.last() else {
            panic!("a fault, not {block:?}");
        };
        assert_eq!((at.line, at.row, at.column, at.length), (4, 2, 0, 4));
    }
}
