//! What is wrong with a configuration: nginx's sentence, and the words it is about.
//!
//! In: a message and the place of a word. Out: the sentence as nginx prints it, for logs and tools, and what a terminal
//! shows below it: the line, the word underlined, the nearest known name. The rule: the sentence never changes with
//! who reads it.

use std::fmt;
use std::sync::Arc;

use super::source::Source;

/// The name of the source that `-g` is; it has no lines.
pub const COMMAND_LINE: &str = "command line";

/// Where a word stands. Lines are counted from 1; 0 says that the source has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub file: Arc<str>,
    /// The line that nginx names: where its reader stands when the whole statement is read, up to its `;` or `{`.
    pub line: u32,
    /// The line that the word itself stands on, which is an earlier one in a statement of many lines.
    pub row: u32,
    /// The word's first byte in `row`, from 0, and its length as written, quotes included.
    pub column: u32,
    pub length: u32,
}

/// A configuration that does not load. Displays as nginx prints it: `message in FILE:LINE`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub message: String,
    /// `None` where nginx names no line: a missing file, an address that cannot be bound.
    pub at: Option<At>,
    /// The nearest known name, shown on a terminal only.
    pub suggestion: Option<String>,
    /// The message still lacks its subject, see [`Fault::of`].
    nameless: bool,
    /// It has no place and gets none, see [`Fault::nowhere`].
    placeless: bool,
}

impl Fault {
    /// A fault that belongs to no line.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), at: None, suggestion: None, nameless: false, placeless: false }
    }

    /// A fault of the whole that shows only at the end, and that nginx gives no place, whoever passes it on.
    pub fn nowhere(message: impl Into<String>) -> Self {
        Self { placeless: true, ..Self::new(message) }
    }

    /// A fault about the word at `at`.
    pub fn at(message: impl Into<String>, at: &At) -> Self {
        Self { at: Some(at.clone()), ..Self::new(message) }
    }

    /// A fault of a directive that does not know its own name: `is duplicate`. [`Fault::of`] completes the sentence.
    pub fn directive(sentence: impl Into<String>) -> Self {
        Self { nameless: true, ..Self::new(sentence) }
    }

    /// Completes a [`Fault::directive`]: `"root" directive is duplicate`.
    pub fn of(mut self, name: &str) -> Self {
        if std::mem::take(&mut self.nameless) {
            self.message = format!("\"{name}\" directive {}", self.message);
        }
        self
    }

    /// Whether it is a [`Fault::directive`] that still lacks its subject.
    pub fn is_nameless(&self) -> bool {
        self.nameless
    }

    /// Places a fault that has no place yet: setters say what is wrong, their caller knows where.
    pub fn or_at(mut self, at: &At) -> Self {
        if !self.placeless {
            self.at.get_or_insert_with(|| at.clone());
        }
        self
    }

    /// Names what the operator may have meant.
    pub fn suggest(mut self, name: Option<&str>) -> Self {
        self.suggestion = name.map(str::to_owned);
        self
    }

    /// What stands below nginx's sentence on a terminal, each line ended; empty if the fault has no place in `source`.
    pub fn show(&self, source: &Source, colour: bool) -> String {
        let Some((at, line)) = self.at.as_ref().and_then(|at| Some((at, source.line(at)?))) else {
            return String::new();
        };
        let paint = if colour { &COLOURS } else { &NO_COLOURS };
        let Picture { text, indent, carets } = Picture::new(line, at.column as usize, at.length as usize);
        let number = at.row.to_string();
        let hint = match &self.suggestion {
            Some(name) => format!(" did you mean \"{name}\"?"),
            None => String::new(),
        };
        let [frame, mark, plain] = paint;
        format!(
            "{frame}{blank} |{plain}\n{frame}{number} |{plain} {text}\n{frame}{blank} |{plain} {indent}{mark}{carets}{hint}{plain}\n",
            blank = " ".repeat(number.len()),
            indent = " ".repeat(indent),
            carets = "^".repeat(carets),
        )
    }
}

/// Frame, mark, and back to plain.
const COLOURS: [&str; 3] = ["\x1b[1;34m", "\x1b[1;31m", "\x1b[0m"];
const NO_COLOURS: [&str; 3] = [""; 3];

/// How many columns of a line are shown.
const SHOWN: usize = 100;

/// One line as a terminal can show it, and where the carets go.
struct Picture {
    text: String,
    indent: usize,
    carets: usize,
}

/// One character as it is shown.
struct Cell {
    shown: char,
    width: usize,
    marked: bool,
}

impl Picture {
    /// Underlines `length` bytes of `line` from `column` on.
    fn new(line: &[u8], column: usize, length: usize) -> Self {
        let cells = cells(line, column..column.saturating_add(length));
        let widths = |cells: &[Cell]| cells.iter().map(|cell| cell.width).sum::<usize>();
        let first = cells.iter().position(|cell| cell.marked).unwrap_or(cells.len());

        // A long line is cut: a third of what is shown stands before the word, and the rest from it on.
        let mut begin = 0;
        let mut end = cells.len();
        let mut total = widths(&cells);
        let mut before = widths(&cells[..first]);
        while total > SHOWN && before > SHOWN / 3 {
            before -= cells[begin].width;
            total -= cells[begin].width;
            begin += 1;
        }
        while total > SHOWN {
            end -= 1;
            total -= cells[end].width;
        }

        let mut text = String::new();
        text.push_str(if begin > 0 { "…" } else { "" });
        text.extend(cells[begin..end].iter().map(|cell| cell.shown));
        text.push_str(if end < cells.len() { "…" } else { "" });
        let indent = usize::from(begin > 0) + widths(&cells[begin..first.clamp(begin, end)]);
        let marked: usize = cells[begin..end].iter().filter(|cell| cell.marked).map(|cell| cell.width).sum();
        Self { text: text.trim_end().to_owned(), indent, carets: marked.max(1) }
    }
}

/// Tabs become four spaces; what a terminal would obey or cannot draw becomes a replacement character.
fn cells(line: &[u8], marked: std::ops::Range<usize>) -> Vec<Cell> {
    let mut cells = Vec::with_capacity(line.len());
    let mut offset = 0;
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            let marked = marked.contains(&offset);
            offset += c.len_utf8();
            match c {
                '\t' => cells.extend((0..4).map(|_| Cell { shown: ' ', width: 1, marked })),
                c if c.is_control() => cells.push(Cell { shown: char::REPLACEMENT_CHARACTER, width: 1, marked }),
                c => cells.push(Cell { shown: c, width: width(c), marked }),
            }
        }
        for _ in chunk.invalid() {
            cells.push(Cell { shown: char::REPLACEMENT_CHARACTER, width: 1, marked: marked.contains(&offset) });
            offset += 1;
        }
    }
    cells
}

/// The columns that a terminal gives a character: enough for carets to meet their word in the scripts that people
/// write configurations in.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfeff => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
        0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The known name that `word` most likely stands for: equal but for case and dashes, or within one slip of the pen for
/// every three characters. Of equally near names the first.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64; // no name is half as long
    if word.len() > LONGEST {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let meant = plain(word);
    let slips = (meant.chars().count() / 3).max(1);
    let near = names.into_iter().filter_map(|name| {
        let distance = strsim::damerau_levenshtein(&meant, &plain(name));
        // a name of one or two letters is not a slip away from everything
        (distance <= slips && distance < name.len()).then_some((distance, name))
    });
    near.min_by_key(|&(distance, _)| distance).map(|(_, name)| name)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) if at.line == 0 => write!(f, "{} in {}", self.message, at.file),
            Some(at) => write!(f, "{} in {}:{}", self.message, at.file, at.line),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::lex::Node;
    use crate::conf::source;

    #[test]
    fn sentences_read_as_in_nginx() {
        let at = At { file: "/etc/x.conf".into(), line: 12, row: 11, column: 0, length: 1 };
        assert_eq!(Fault::new("no place").to_string(), "no place");
        assert_eq!(Fault::at("wrong", &at).to_string(), "wrong in /etc/x.conf:12");
        assert_eq!(Fault::new("late").or_at(&at).to_string(), "late in /etc/x.conf:12");
        let at = At { file: COMMAND_LINE.into(), line: 0, row: 1, column: 0, length: 1 };
        assert_eq!(Fault::at("wrong", &at).to_string(), "wrong in command line");
    }

    /// The last word of the first statement, shown.
    fn shown(text: &[u8], suggestion: Option<&str>, colour: bool) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("x.conf");
        std::fs::write(&path, text).expect("a file");
        let mut source = Source::disk();
        let nodes = source::read(&mut source, path.to_str().expect("plain text"), "");
        let Some(Node::Statement(statement)) = nodes.into_iter().next() else {
            panic!("no statement in {text:?}");
        };
        let word = statement.words.last().expect("at least one word");
        Fault::at("wrong", &word.at).suggest(suggestion).show(&source, colour)
    }

    #[test]
    fn the_word_is_underlined() {
        let cases: [(&[u8], &str); 8] = [
            (b"\n\nlisen;", "  |\n3 | lisen;\n  | ^^^^^\n"),
            (b"a \"b c\";\r\n", "  |\n1 | a \"b c\";\n  |   ^^^^^\n"),
            (b"\ta\tb;", "  |\n1 |     a    b;\n  |          ^\n"),
            ("中文 é 值;".as_bytes(), "  |\n1 | 中文 é 值;\n  |        ^^\n"),
            (b"a \xff\x1b[1m;", "  |\n1 | a \u{fffd}\u{fffd}[1m;\n  |   ^^^^^\n"),
            (b"a\n b\n;", "  |\n2 |  b\n  |  ^\n"),
            (b"a \"b\nc\";", "  |\n1 | a \"b\n  |   ^^\n"),
            (b"a;", "  |\n1 | a;\n  | ^\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text, None, false), expected, "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_word() {
        let text = format!("a {} here {};", "x".repeat(400), "y".repeat(400));
        let picture = |column, length| {
            let Picture { text, indent, carets } = Picture::new(text.as_bytes(), column, length);
            assert!(text.chars().count() <= SHOWN + 2, "{text}");
            text.chars().skip(indent).take(carets).collect::<String>()
        };
        assert_eq!(picture(0, 1), "a");
        assert_eq!(picture(403, 4), "here");
        assert_eq!(picture(2, 400), "x".repeat(98));
        assert_eq!(picture(408, 400), "y".repeat(67));
        assert_eq!(picture(808, 1), ";");
        assert_eq!(picture(5000, 9), "");
    }

    #[test]
    fn a_suggestion_stands_beside_the_carets() {
        let plain = "  |\n1 | lisen;\n  | ^^^^^ did you mean \"listen\"?\n";
        assert_eq!(shown(b"lisen;", Some("listen"), false), plain);
        let coloured = shown(b"lisen;", Some("listen"), true);
        assert!(coloured.contains("\x1b[1;31m^^^^^ did you mean \"listen\"?\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn a_fault_without_a_place_shows_nothing() {
        assert_eq!(Fault::new("wrong").show(&Source::disk(), true), "");
        let at = At { file: "/none".into(), line: 1, row: 1, column: 0, length: 1 };
        assert_eq!(Fault::at("wrong", &at).show(&Source::disk(), true), "");
    }

    #[test]
    fn near_names() {
        let names = ["listen", "server", "server_name", "root", "if", "gzip", "gzip_types", "proxy_pass", "map"];
        let cases = [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("sever", Some("server")),
            ("servername", Some("server_name")),
            ("server-name", Some("server_name")),
            ("server_nmae", Some("server_name")),
            ("gzip_type", Some("gzip_types")),
            ("prxoy_pass", Some("proxy_pass")),
            ("rot", Some("root")),
            ("fi", Some("if")),
            ("x", None),
            ("location", None),
            ("completely_different", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
