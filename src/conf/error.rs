//! What is wrong with a configuration: nginx's sentence, and the words it is about.

use std::fmt;
use std::sync::Arc;

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
}

impl Fault {
    /// A fault that belongs to no line.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), at: None, suggestion: None, nameless: false }
    }

    /// A fault about the word at `at`.
    pub fn at(message: impl Into<String>, at: &At) -> Self {
        Self { message: message.into(), at: Some(at.clone()), suggestion: None, nameless: false }
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

    /// Places a fault that has no place yet: setters say what is wrong, their caller knows where.
    pub fn or_at(mut self, at: &At) -> Self {
        self.at.get_or_insert_with(|| at.clone());
        self
    }
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

/// The known name that is most like `word`, if one is like it at all.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(word, name);
    names.min_by_key(distance).filter(|name| distance(name) <= word.len().max(3) / 3)
}
