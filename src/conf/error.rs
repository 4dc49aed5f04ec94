//! What is wrong with a configuration: nginx's sentence, and the words it is about.

use std::fmt;
use std::sync::Arc;

/// Where a word stands: file, line (from 1) and byte column in that line (from 0) with its length as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub file: Arc<str>,
    pub line: u32,
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
}

impl Fault {
    /// A fault that belongs to no line.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            at: None,
            suggestion: None,
        }
    }

    /// A fault about the word at `at`.
    pub fn at(message: impl Into<String>, at: &At) -> Self {
        Self {
            message: message.into(),
            at: Some(at.clone()),
            suggestion: None,
        }
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
            Some(at) => write!(f, "{} in {}:{}", self.message, at.file, at.line),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}
