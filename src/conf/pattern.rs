//! Regular expressions of the configuration: their named groups are variables, their numbered ones `$1` to `$9`.
//!
//! In: a pattern, at load; a text and a request or session, when it is matched. Out: whether it matched, and then the
//! groups are where templates look for them ([`Matching`]).

use std::sync::Arc;

use bytes::Bytes;

use super::error::{At, Fault};
use super::vars::{Names, Value, Values, VarId};
use super::words::Words;
use crate::base::regex::{Captures, Failed, Pattern};

/// A pattern whose named captures are variables.
#[derive(Clone, Debug)]
pub struct Regex {
    pub pattern: Arc<Pattern>,
    /// Group numbers and the variables that they fill.
    pub names: Vec<(usize, VarId)>,
}

/// Whoever keeps what a match found: a request or a session.
pub trait Matching: Values {
    /// Gives a variable a value, as `set` and named captures do.
    fn set_value(&self, id: VarId, value: Value);
    /// The groups of the last match, for `$1` to `$9`.
    fn set_captures(&self, matched: Matched);
    /// Says in the error log that a match could not be finished.
    fn log_failed(&self, failed: &Failed);
}

/// A match could not be finished; the error log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmatched;

impl Regex {
    /// Compiles `source` and declares its named captures.
    pub fn new(source: &str, caseless: bool, words: &Words<'_>) -> Result<Self, Fault> {
        Self::compile(source, caseless, words.at(), &words.cx.names)
    }

    /// As [`Regex::new`], for a pattern that stands in a block which its directive reads itself.
    pub fn compile(source: &str, caseless: bool, at: &At, names: &Names) -> Result<Self, Fault> {
        let pattern = names.pattern(source, caseless).map_err(|message| Fault::at(message, at))?;
        let names = pattern.names().map(|(group, name)| (group, names.captured(name, at))).collect();
        Ok(Self { pattern, names })
    }

    /// Matches, and hands over the captures.
    pub fn matches(&self, subject: &Bytes, keeper: &impl Matching) -> Result<bool, Unmatched> {
        let mut captures = Captures::default();
        match self.pattern.captures(subject, &mut captures) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(failed) => {
                keeper.log_failed(&failed);
                return Err(Unmatched);
            }
        }
        let matched = Matched { subject: subject.clone(), captures };
        for &(group, id) in &self.names {
            keeper.set_value(id, Some(matched.get(group).unwrap_or_default()));
        }
        keeper.set_captures(matched);
        Ok(true)
    }
}

/// What a pattern found, and where.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    subject: Bytes,
    captures: Captures,
}

impl Matched {
    /// The bytes of a group; 0 is the whole match.
    pub fn get(&self, group: usize) -> Option<Bytes> {
        let range = self.captures.get(group)?;
        (range.end <= self.subject.len()).then(|| self.subject.slice(range))
    }
}
