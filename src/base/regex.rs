//! Patterns: regular expressions with the meaning that PCRE gives them, matched in linear time wherever that is possible.
//!
//! In: the text behind `~` or `~*`. Out: a [`Pattern`] that says whether bytes match and where its groups did; or
//! nginx's words for what is wrong with it. The rule: every pattern means what it means to nginx, which compiles it with
//! PCRE2 and no options but caselessness: bytes, not characters; `\d`, `\w` and letter case are ASCII; `.` is any byte but
//! a newline; `$` also stands before a newline that ends the text.
//!
//! PCRE2 compiles every pattern, so exactly nginx's patterns are accepted, with nginx's messages. Where the syntax tree
//! shows only what both libraries read alike ([`same_in_both`]), the `regex` crate does the matching. It puts `$` at
//! the very end only: such a pattern goes back to PCRE2 for a text that ends in a newline, which a request gets by `%0A`.
//!
//! What matches quickly takes ten times as long to make as what only knows that a pattern is one. So the former is made
//! at the first match: of the patterns of five thousand sites most will not be asked before the next reload.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use regex_syntax::ast::{self, Ast};

use super::text;

/// Backtracking beyond this fails the match. nginx has PCRE2's own ten times as many, some tenths of a second; ordinary
/// patterns with look-around need some thousands for the longest request line.
const MATCH_LIMIT: u32 = 1_000_000;

/// What one match may allocate, in KiB. PCRE2's own is 20 GB.
const HEAP_LIMIT: u32 = 16 * 1024;

/// What compiled code may use for backtracking; reserved, not touched until needed.
const JIT_STACK: usize = 4 << 20;

/// The size of one compiled pattern in the linear engine; a larger one is left to PCRE2.
const LINEAR_SIZE: usize = 2 << 20;

/// A compiled regular expression.
pub struct Pattern {
    text: String,
    caseless: bool,
    groups: usize,
    /// Made at load, which shows that the pattern is one. It is slow.
    checked: Pcre,
    engine: OnceLock<Engine>,
}

/// What matches, from the first time on.
enum Engine {
    Linear(Linear),
    /// Compiled to machine code where that can be done.
    Pcre(Pcre),
    /// Nothing better could be made.
    Checked,
}

/// Where the groups of a pattern matched; 0 is the whole. Made once and filled again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    spans: Vec<Option<Range<usize>>>,
}

/// A match that could not be finished. Displays as nginx logs it.
#[derive(Debug)]
pub struct Failed {
    code: i32,
    subject: Vec<u8>,
    pattern: String,
}

impl Pattern {
    /// Compiles `pattern`, a word of the configuration.
    pub fn new(pattern: &str, caseless: bool) -> Result<Self, String> {
        let checked = Pcre::new(pattern, caseless, false)?;
        let groups = checked.regex.captures_len();
        Ok(Self { text: pattern.to_owned(), caseless, groups, checked, engine: OnceLock::new() })
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number of groups, the whole match included.
    pub fn captures_len(&self) -> usize {
        self.groups
    }

    /// The named groups, by number.
    pub fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        let names = self.checked.regex.capture_names().iter().enumerate();
        names.filter_map(|(group, name)| Some((group, name.as_deref()?)))
    }

    pub fn is_match(&self, subject: &[u8]) -> Result<bool, Failed> {
        match self.linear_for(subject) {
            Some(linear) => Ok(linear.regex.is_match(subject)),
            None => self.pcre().regex.is_match(subject).map_err(|error| self.failed(&error, subject)),
        }
    }

    /// Matches, and if it does fills `captures`; they are empty if it does not.
    pub fn captures(&self, subject: &[u8], captures: &mut Captures) -> Result<bool, Failed> {
        captures.spans.clear();
        if let Some(linear) = self.linear_for(subject) {
            if self.groups == 1 {
                captures.spans.extend(linear.regex.find(subject).map(|whole| Some(whole.range())));
                return Ok(!captures.spans.is_empty());
            }
            let mut places = linear.places.take().unwrap_or_else(|| linear.regex.capture_locations());
            if linear.regex.captures_read(&mut places, subject).is_some() {
                captures.spans.extend((0..self.groups).map(|group| places.get(group).map(|(from, to)| from..to)));
            }
            linear.places.put(places);
        } else {
            let Pcre { regex, places: pool } = self.pcre();
            let mut places = pool.take().unwrap_or_else(|| regex.capture_locations());
            let found = regex.captures_read(&mut places, subject).map(|whole| whole.is_some());
            if let Ok(true) = found {
                captures.spans.extend((0..self.groups).map(|group| places.get(group).map(|(from, to)| from..to)));
            }
            pool.put(places);
            found.map_err(|error| self.failed(&error, subject))?;
        }
        Ok(!captures.spans.is_empty())
    }

    fn linear_for(&self, subject: &[u8]) -> Option<&Linear> {
        match self.engine() {
            Engine::Linear(linear) => Some(linear).filter(|linear| !(linear.end_of_line && subject.ends_with(b"\n"))),
            Engine::Pcre(_) | Engine::Checked => None,
        }
    }

    fn pcre(&self) -> &Pcre {
        match self.engine() {
            Engine::Pcre(pcre) => pcre,
            Engine::Linear(_) | Engine::Checked => &self.checked,
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.get_or_init(|| {
            let Self { text, caseless, .. } = self;
            let linear = Linear::new(text, *caseless).map(Engine::Linear);
            let pcre = || Pcre::new(text, *caseless, true).map_or(Engine::Checked, Engine::Pcre);
            linear.unwrap_or_else(pcre)
        })
    }

    fn failed(&self, error: &pcre2::Error, subject: &[u8]) -> Failed {
        Failed { code: error.code(), subject: subject.to_vec(), pattern: self.text.clone() }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl Captures {
    /// The bytes of one group in the text that matched; `None` if there is no such group or it took no part.
    pub fn get(&self, group: usize) -> Option<Range<usize>> {
        self.spans.get(group)?.clone()
    }

    /// The number of groups of the pattern that matched; 0 if none did.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn clear(&mut self) {
        self.spans.clear();
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subject, pattern } = self;
        write!(f, "pcre2_match() failed: {code} on \"{}\" using \"{pattern}\"", text::decode(subject))
    }
}

impl std::error::Error for Failed {}

/// The engine that knows everything and may take long.
struct Pcre {
    regex: pcre2::bytes::Regex,
    places: Pool<pcre2::bytes::CaptureLocations>,
}

impl Pcre {
    fn new(pattern: &str, caseless: bool, jit: bool) -> Result<Self, String> {
        // Limits are part of a pattern's beginning, before whatever verbs it begins with itself; a lower one of its own holds.
        let limits = format!("(*LIMIT_MATCH={MATCH_LIMIT})(*LIMIT_HEAP={HEAP_LIMIT})");
        let plain = spelled_out(pattern);
        let mut builder = pcre2::bytes::RegexBuilder::new();
        builder.caseless(caseless);
        if jit {
            builder.jit_if_available(true).max_jit_stack_size(Some(JIT_STACK));
        }
        let regex = builder.build(&format!("{limits}{plain}")).map_err(|error| {
            let whole = error.to_string();
            let reason = whole.splitn(3, ": ").nth(2).unwrap_or(&whole); // "PCRE2: error compiling ... offset N: reason"
            let offset = error.offset().unwrap_or(usize::MAX).saturating_sub(limits.len());
            match plain.as_bytes().get(offset..) {
                None | Some([]) => format!("pcre2_compile() failed: {reason} in \"{pattern}\""),
                Some(rest) => {
                    format!("pcre2_compile() failed: {reason} in \"{pattern}\" at \"{}\"", text::decode(rest))
                }
            }
        })?;
        Ok(Self { regex, places: Pool::default() })
    }
}

/// The pattern with stray bytes as `\xHH`: PCRE2 is handed valid UTF-8, though it reads bytes.
fn spelled_out(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    for chunk in text::bytes(pattern).utf8_chunks() {
        plain.push_str(chunk.valid());
        plain.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    plain
}

/// The engine that takes time in proportion to the text.
struct Linear {
    regex: regex::bytes::Regex,
    places: Pool<regex::bytes::CaptureLocations>,
    /// The pattern has a `$`.
    end_of_line: bool,
}

impl Linear {
    /// `None` if the pattern is not one for this engine.
    fn new(pattern: &str, caseless: bool) -> Option<Self> {
        let end_of_line = same_in_both(pattern)?.end_of_line;
        let mut builder = regex::bytes::RegexBuilder::new(pattern);
        let regex = builder.unicode(false).case_insensitive(caseless).size_limit(LINEAR_SIZE).build().ok()?;
        Some(Self { regex, places: Pool::default(), end_of_line })
    }
}

/// Scratch space that matches leave to the next one. As many as ever matched at once.
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> Pool<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, item: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }
}

/// How deep groups may nest for the linear engine.
const NESTING: u32 = 50;

/// What is to know about a pattern that both engines read alike.
#[derive(Clone, Copy)]
struct Reading {
    end_of_line: bool,
    /// It can match nothing at all.
    empty: bool,
}

/// Reads a pattern and lets through only what is known to mean the same to both engines. Among what it stops:
/// characters beyond ASCII (PCRE repeats the last byte, `regex` the character), `a++` (possessive to PCRE), `\<` and
/// `\v` (other things to either), `[a&&b]` and `[[a]b]` (sets to `regex` only), repetition of what may be empty (groups
/// differ), and flags but `i` and `s`. Look-around, back-references and `\K` do not even parse.
fn same_in_both(pattern: &str) -> Option<Reading> {
    if !pattern.is_ascii() {
        return None;
    }
    let mut parser = ast::parse::ParserBuilder::new();
    let tree = parser.nest_limit(NESTING).octal(false).ignore_whitespace(false).build().parse(pattern).ok()?;
    match &tree {
        // `(?i)` is let through where it governs the whole pattern
        Ast::Concat(concat) => match concat.asts.split_first() {
            Some((Ast::Flags(set), rest)) if plain_flags(&set.flags) => sequence(rest, pattern),
            _ => reading(&tree, pattern),
        },
        _ => reading(&tree, pattern),
    }
}

fn reading(tree: &Ast, pattern: &str) -> Option<Reading> {
    const ONE: Option<Reading> = Some(Reading { end_of_line: false, empty: false });
    match tree {
        Ast::Empty(_) => Some(Reading { end_of_line: false, empty: true }),
        Ast::Literal(literal) if plain_literal(literal) => ONE,
        Ast::Dot(_) | Ast::ClassPerl(_) => ONE,
        Ast::ClassBracketed(class) => match &class.kind {
            ast::ClassSet::Item(item) if plain_item(item) => ONE,
            ast::ClassSet::Item(_) | ast::ClassSet::BinaryOp(_) => None,
        },
        Ast::Assertion(assertion) => {
            use ast::AssertionKind::{EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary};
            match assertion.kind {
                EndLine => Some(Reading { end_of_line: true, empty: true }),
                StartLine | StartText | EndText | WordBoundary | NotWordBoundary => {
                    Some(Reading { end_of_line: false, empty: true })
                }
                _ => None,
            }
        }
        Ast::Group(group) => match &group.kind {
            ast::GroupKind::NonCapturing(flags) if !plain_flags(flags) => None,
            _ => reading(&group.ast, pattern),
        },
        Ast::Repetition(repetition) => {
            let single = !matches!(*repetition.ast, Ast::Repetition(_) | Ast::Assertion(_) | Ast::Empty(_));
            let sub = reading(&repetition.ast, pattern).filter(|sub| single && !sub.empty)?;
            let least = least_times(&repetition.op, pattern)?;
            Some(Reading { empty: least == 0, ..sub })
        }
        Ast::Concat(concat) => sequence(&concat.asts, pattern),
        Ast::Alternation(alternation) => {
            let mut whole = Reading { end_of_line: false, empty: false };
            for branch in &alternation.asts {
                let branch = reading(branch, pattern)?;
                whole.end_of_line |= branch.end_of_line;
                whole.empty |= branch.empty;
            }
            Some(whole)
        }
        Ast::Literal(_) | Ast::Flags(_) | Ast::ClassUnicode(_) => None,
    }
}

fn sequence(parts: &[Ast], pattern: &str) -> Option<Reading> {
    let mut whole = Reading { end_of_line: false, empty: true };
    for part in parts {
        let part = reading(part, pattern)?;
        whole.end_of_line |= part.end_of_line;
        whole.empty &= part.empty;
    }
    Some(whole)
}

/// `{n}`, `{n,}` and `{n,m}` in digits only; `{,m}` is plain text to PCRE2 before 10.43.
fn least_times(op: &ast::RepetitionOp, pattern: &str) -> Option<u32> {
    use ast::{RepetitionKind, RepetitionRange};
    let range = match &op.kind {
        RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore => return Some(0),
        RepetitionKind::OneOrMore => return Some(1),
        RepetitionKind::Range(range) => range,
    };
    let written = pattern.get(op.span.start.offset..op.span.end.offset)?.strip_prefix('{')?;
    if !written.starts_with(|c: char| c.is_ascii_digit()) || written.contains(char::is_whitespace) {
        return None;
    }
    match *range {
        RepetitionRange::Exactly(0) | RepetitionRange::Bounded(_, 0) => None,
        RepetitionRange::Exactly(least) | RepetitionRange::AtLeast(least) | RepetitionRange::Bounded(least, _) => {
            Some(least)
        }
    }
}

fn plain_flags(flags: &ast::Flags) -> bool {
    use ast::{Flag, FlagsItemKind};
    flags.items.iter().all(|item| match item.kind {
        FlagsItemKind::Negation => true,
        FlagsItemKind::Flag(Flag::CaseInsensitive | Flag::DotMatchesNewLine) => true,
        FlagsItemKind::Flag(_) => false,
    })
}

fn plain_literal(literal: &ast::Literal) -> bool {
    use ast::{HexLiteralKind, LiteralKind, SpecialLiteralKind};
    let known = match &literal.kind {
        LiteralKind::Verbatim | LiteralKind::Meta | LiteralKind::Superfluous => true,
        LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X) => true,
        LiteralKind::Special(kind) => !matches!(kind, SpecialLiteralKind::VerticalTab | SpecialLiteralKind::Space),
        LiteralKind::Octal | LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_) => false,
    };
    known && literal.c.is_ascii()
}

fn plain_item(item: &ast::ClassSetItem) -> bool {
    match item {
        ast::ClassSetItem::Empty(_) | ast::ClassSetItem::Perl(_) => true,
        ast::ClassSetItem::Literal(literal) => plain_literal(literal),
        ast::ClassSetItem::Range(range) => plain_literal(&range.start) && plain_literal(&range.end),
        ast::ClassSetItem::Ascii(class) => !class.negated,
        ast::ClassSetItem::Union(union) => union.items.iter().all(plain_item),
        ast::ClassSetItem::Unicode(_) | ast::ClassSetItem::Bracketed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, false).expect("a pattern")
    }

    fn groups(pattern: &Pattern, subject: &[u8]) -> Vec<Option<Range<usize>>> {
        let mut captures = Captures::default();
        let matched = pattern.captures(subject, &mut captures).expect("no limit is reached");
        assert_eq!(pattern.is_match(subject).expect("no limit is reached"), matched, "{pattern:?} on {subject:?}");
        assert_eq!(captures.is_empty(), !matched);
        captures.spans
    }

    #[test]
    fn patterns_mean_what_they_mean_to_nginx() {
        let cases: [(&str, &[u8], bool); 36] = [
            (r"\.php$", b"/index.php", true),
            (r"\.php$", b"/index.php\n", true),
            (r"\.php$", b"/index.php\n\n", false),
            (r"\.php\z", b"/index.php\n", false),
            (r"^/a$|b", b"/a\n", true),
            (r"a.b", b"a\nb", false),
            (r"(?s)a.b", b"a\nb", true),
            (r"a.b", b"a\xffb", true),
            (r"^.$", "é".as_bytes(), false),
            (r"^..$", "é".as_bytes(), true),
            (r"^é+$", "éé".as_bytes(), false),
            (r"^(?:é)+$", "éé".as_bytes(), true),
            (r"(*UTF)^.$", "é".as_bytes(), true),
            (r"\d", "٣".as_bytes(), false),
            (r"\w", "é".as_bytes(), false),
            (r"^\s$", b"\x0b", true),
            (r"(?i)abc", b"aBC", true),
            (r"(?i:a)bc", b"Abc", true),
            (r"(?i:a)bc", b"aBc", false),
            (r"a(?i)b|c", b"C", true),
            (r"^(?!/admin)", b"/admin", false),
            (r"(?<=a)b", b"ab", true),
            (r"^(a|b)\1$", b"aa", true),
            (r"^(a|b)\1$", b"ab", false),
            (r"^a++a", b"aaa", false),
            (r"^\<a\>$", b"<a>", true),
            (r"^[a&&b]$", b"&", true),
            (r"^[[a]b]$", b"[b]", true),
            (r"^a{,3}$", b"aaa", true), // a quantifier since PCRE2 10.43
            (r"^\v$", b"\r", true),
            (r"^(?:a{2}){3}$", b"aaaaaa", true),
            (r"\bfoo\b", b"a foo b", true),
            (r"^[^/]+\.(?:jpe?g|png)$", b"a.jpeg", true),
            (r"\Qa.b\E", b"a.b", true),
            (r"^\x41$", b"A", true),
            (r"", b"", true),
        ];
        for (text, subject, expected) in cases {
            assert_eq!(!groups(&pattern(text), subject).is_empty(), expected, "{text} on {subject:?}");
        }
    }

    fn is_linear(pattern: &Pattern) -> bool {
        matches!(pattern.engine(), Engine::Linear(_))
    }

    #[test]
    fn common_patterns_are_matched_in_linear_time() {
        let linear = [
            r"\.php$",
            r"^(.+\.php)(/.+)$",
            r"^/users/(?<user>.+\.(?:gif|jpe?g|png))$",
            r"(?P<name>[a-z0-9_-]+)\.example\.(com|org)$",
            r"(?i)\.(js|css)$",
            r"/\.(?!well-known)",
            r"^/([0-9]{4})/([0-9]{2})/?$",
            r"[[:alpha:]]+",
            r"^\/api\/v\d+",
        ];
        for text in linear {
            assert_eq!(is_linear(&pattern(text)), !text.contains("(?!"), "{text}");
        }
    }

    #[test]
    fn groups_are_numbered_and_named() {
        for text in [r"^/(?<year>\d+)/(?P<rest>.*?)(x)?$", r"^/(?<year>\d+)/(?P<rest>.*?)(x)?$(?=)"] {
            let pattern = pattern(text);
            assert_eq!(pattern.captures_len(), 4);
            assert_eq!(pattern.names().collect::<Vec<_>>(), [(1, "year"), (2, "rest")]);
            assert_eq!(groups(&pattern, b"/2026/ab"), [Some(0..8), Some(1..5), Some(6..8), None]);
            assert_eq!(groups(&pattern, b"/2026/abx"), [Some(0..9), Some(1..5), Some(6..8), Some(8..9)]);
            assert_eq!(groups(&pattern, b"none"), []);
        }
    }

    #[test]
    fn case_is_ascii() {
        for text in ["^/ÄB$", "^/äb$"] {
            let pattern = Pattern::new(text, true).expect("a pattern");
            assert!(pattern.is_match(text[1..text.len() - 1].to_lowercase().as_bytes()).is_ok());
            assert_eq!(pattern.is_match("/äB".as_bytes()).ok(), Some(text.contains('ä')));
        }
        let pattern = Pattern::new("^/k$", true).expect("a pattern");
        assert_eq!(pattern.is_match("/\u{212a}".as_bytes()).ok(), Some(false)); // the Kelvin sign folds to k in Unicode
        assert_eq!(pattern.is_match(b"/K").ok(), Some(true));
    }

    #[test]
    fn stray_bytes_are_matched_as_written() {
        let pattern = pattern(&text::decode(b"^/\xd6\xd0[\xff]$"));
        assert_eq!(pattern.is_match(b"/\xd6\xd0\xff").ok(), Some(true));
    }

    #[test]
    fn messages_are_those_of_nginx() {
        let cases = [
            ("a(b", "pcre2_compile() failed: missing closing parenthesis in \"a(b\""),
            ("*a", "pcre2_compile() failed: quantifier does not follow a repeatable item in \"*a\" at \"*a\""),
            ("a[b", "pcre2_compile() failed: missing terminating ] for character class in \"a[b\""),
            ("a)b", "pcre2_compile() failed: unmatched closing parenthesis in \"a)b\" at \")b\""),
            (
                "(?<1a>b)",
                "pcre2_compile() failed: subpattern name must start with a non-digit in \"(?<1a>b)\" at \"1a>b)\"",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Pattern::new(text, false).err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn backtracking_is_bounded() {
        let subject = [&b"a".repeat(5000)[..], b"!"].concat();
        let slow = pattern(r"^(?=(a+)+$)");
        let failed = slow.is_match(&subject).expect_err("more steps than allowed");
        assert!(failed.to_string().starts_with("pcre2_match() failed: -47 on \"aaa"), "{failed}");
        assert!(failed.to_string().ends_with("a!\" using \"^(?=(a+)+$)\""), "{failed}");
        assert!(slow.captures(&subject, &mut Captures::default()).is_err());
        let linear = pattern(r"^(a+)+$");
        assert_eq!(linear.is_match(&subject).ok(), Some(false));
    }

    /// Random patterns of what is let through, on random texts: both engines find the same groups.
    #[test]
    fn both_engines_agree() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        };
        const PIECES: [&str; 44] = [
            "a",
            "b",
            "c",
            "A",
            ".",
            "\\.",
            "\\d",
            "\\w",
            "\\s",
            "\\W",
            "[ab]",
            "[^a]",
            "[a-c1]",
            "[[:alpha:]_]",
            "(",
            "(?:",
            ")",
            "|",
            "*",
            "+",
            "?",
            "*?",
            "+?",
            "??",
            "{2}",
            "{1,2}",
            "{1,}?",
            "^",
            "$",
            "\\b",
            "\\B",
            "\\A",
            "\\z",
            "(?i)",
            "(?i:",
            "(?s:",
            "1",
            "\\n",
            " ",
            "\\t",
            "[\\w-]",
            "[]a]",
            "\\/",
            "(?<n>",
        ];
        const BYTES: &[u8] = b"aabbcAB1. \n\t_-/]\xff";
        let mut compared = 0;
        for _ in 0..25_000 {
            let text: String = (0..1 + next(9)).map(|_| PIECES[next(PIECES.len())]).collect();
            let caseless = next(2) == 0;
            let Ok(mut pattern) = Pattern::new(&text, caseless) else {
                continue;
            };
            if !is_linear(&pattern) {
                continue;
            }
            for _ in 0..5 {
                let subject: Vec<u8> = (0..next(8)).map(|_| BYTES[next(BYTES.len())]).collect();
                let linear = groups(&pattern, &subject);
                let held = std::mem::replace(&mut pattern.engine, OnceLock::from(Engine::Checked));
                let pcre = groups(&pattern, &subject);
                pattern.engine = held;
                assert_eq!(linear, pcre, "{text:?} on {:?}", subject.escape_ascii().to_string());
                compared += 1;
            }
        }
        assert!(compared > 10_000, "only {compared} comparisons");
    }
}
