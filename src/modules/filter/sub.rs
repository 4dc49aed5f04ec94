//! `sub`: replaces strings in answers.
//!
//! In: a response of one of `sub_filter_types`. Out: the same with replacements, without its length and date. The rule:
//! the leftmost string wins, and of several that begin there the one that is written first; letters of both cases are
//! alike. What is not replaced goes on as the piece it came in; what is kept back is only what may be the beginning of a
//! string. nginx: `ngx_http_sub_filter_module`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::body::{Body, Broken, Piece, Transform};
use crate::http::plan::{Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::Head;
use crate::http::types::{HTML, MediaTypes};

/// `ngx_http_sub_filter_module`.
pub struct Sub;

impl Module for Sub {
    const NAME: &'static str = "http_sub";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("sub_filter", EVERYWHERE, Arity::Exactly(2), Conf::sub_filter),
        Directive::location("sub_filter_types", EVERYWHERE, Arity::AtLeast(1), Conf::sub_filter_types),
        Directive::location("sub_filter_once", EVERYWHERE, Arity::Flag, Conf::sub_filter_once),
        Directive::location("sub_filter_last_modified", EVERYWHERE, Arity::Flag, Conf::sub_filter_last_modified),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let Some(pairs) = conf.sub_filter.said() else { return Ok(()) };
        let fixed: Option<Vec<Bytes>> = pairs.iter().map(|pair| pair.string.constant().cloned()).collect();
        plan.filters.push(Box::new(Replacer {
            needles: fixed.map(|strings| Arc::new(Needles::new(strings))),
            pairs: pairs.into(),
            types: conf.sub_filter_types.or_else(|| MediaTypes::of(HTML)),
            once: conf.sub_filter_once.or(true),
            last_modified: conf.sub_filter_last_modified.or(false),
        }));
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    sub_filter: Setting<Vec<Pair>>,
    sub_filter_types: Setting<MediaTypes>,
    sub_filter_once: Setting<bool>,
    sub_filter_last_modified: Setting<bool>,
}

/// One `sub_filter`.
#[derive(Clone)]
struct Pair {
    string: Template,
    replacement: Template,
}

/// nginx counts them in a byte.
const PAIRS: usize = 255;

impl Conf {
    /// Syntax: `sub_filter string replacement;`
    fn sub_filter(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let string = words.arg(0);
        if string.is_empty() {
            return Err(words.fault(0, "empty search pattern"));
        }
        let pairs = self.sub_filter.list();
        if pairs.len() == PAIRS {
            return Err(words.fault(0, format!("number of search patterns exceeds {PAIRS}")));
        }
        let string = words.compile(0, &string.to_ascii_lowercase())?;
        pairs.push(Pair { string, replacement: words.template(1)? });
        Ok(())
    }

    /// Syntax: `sub_filter_types mime-type ...;`  Default: `text/html`
    fn sub_filter_types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.sub_filter_types.list().add(words, HTML);
        Ok(())
    }

    /// Syntax: `sub_filter_once on | off;`  Default: `on`
    fn sub_filter_once(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.sub_filter_once.set(words.flag()?)
    }

    /// Syntax: `sub_filter_last_modified on | off;`  Default: `off`
    fn sub_filter_last_modified(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.sub_filter_last_modified.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { sub_filter, sub_filter_types, sub_filter_once, sub_filter_last_modified } = self;
        sub_filter.inherit(&outer.sub_filter);
        sub_filter_types.inherit(&outer.sub_filter_types);
        sub_filter_once.inherit(&outer.sub_filter_once);
        sub_filter_last_modified.inherit(&outer.sub_filter_last_modified);
        Ok(())
    }
}

/// The replacements of one location, resolved.
struct Replacer {
    pairs: Arc<[Pair]>,
    /// `None`: some have variables, and are made for each answer.
    needles: Option<Arc<Needles>>,
    types: MediaTypes,
    once: bool,
    last_modified: bool,
}

impl Filter for Replacer {
    fn stage(&self) -> Stage {
        Stage::Sub
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if head.content_length == Some(0) || !self.types.take(head) {
            return body;
        }
        let (needles, replacements) = match &self.needles {
            Some(needles) => (needles.clone(), (0..self.pairs.len()).collect()),
            None => {
                let strings = self.pairs.iter().map(|pair| pair.string.eval(request.as_ref()).to_ascii_lowercase());
                // An empty string is nowhere.
                let (places, strings): (Vec<usize>, Vec<Bytes>) =
                    strings.map(Bytes::from).enumerate().filter(|(_, string)| !string.is_empty()).unzip();
                if strings.is_empty() {
                    return body;
                }
                (Arc::new(Needles::new(strings)), places)
            }
        };
        if !request.is_subrequest() {
            head.clear_content_length();
            if self.last_modified {
                head.weaken_etag();
            } else {
                head.clear_last_modified();
                head.clear_etag();
            }
        }
        let (request, pairs) = (request.clone(), self.pairs.clone());
        let said = move |n: usize| match replacements.get(n).and_then(|&place: &usize| pairs.get(place)) {
            Some(pair) => pair.replacement.eval(request.as_ref()),
            None => Bytes::new(),
        };
        body.through(Replacing::new(needles, self.once, said))
    }
}

/// Strings to be found, in lower case, none of them empty.
struct Needles {
    strings: Vec<Bytes>,
    shortest: usize,
    longest: usize,
    /// By the byte at the end of a window as long as the shortest string: how far the window may move on, because none has
    /// this byte there or nearer to its beginning; 0 where one ends its own window with it.
    shift: Box<[u8; 256]>,
    /// By that byte: who may begin where the window does, in the order in which they are written.
    ends: Vec<Vec<usize>>,
}

/// What is to be seen in some bytes.
#[derive(Debug, PartialEq)]
enum Seen {
    /// String `needle` is at this place.
    String {
        start: usize,
        needle: usize,
    },
    /// The bytes end in what may become a string.
    Beginning(usize),
    Nothing,
}

impl Needles {
    fn new(strings: Vec<Bytes>) -> Self {
        let shortest = strings.iter().map(Bytes::len).min().unwrap_or(1).max(1);
        let longest = strings.iter().map(Bytes::len).max().unwrap_or(1);
        let mut shift = Box::new([u8::try_from(shortest).unwrap_or(u8::MAX); 256]);
        let mut ends = vec![Vec::new(); 256];
        for (n, string) in strings.iter().enumerate() {
            for (place, &byte) in string.iter().enumerate().take(shortest) {
                let far = &mut shift[usize::from(byte)];
                *far = (*far).min(u8::try_from(shortest - 1 - place).unwrap_or(u8::MAX));
            }
            ends[usize::from(string[shortest - 1])].push(n);
        }
        Self { strings, shortest, longest, shift, ends }
    }

    /// The first string from `from` on, `spent` ones apart.
    fn search(&self, bytes: &[u8], from: usize, spent: &[bool]) -> Seen {
        let mut at = from;
        while let Some(byte) = bytes.get(at + self.shortest - 1) {
            let byte = usize::from(byte.to_ascii_lowercase());
            match self.shift[byte] {
                0 => {}
                far => {
                    at += usize::from(far);
                    continue;
                }
            }
            if let Some(seen) = self.at(bytes, at, spent, self.ends[byte].iter().copied()) {
                return seen;
            }
            at += 1;
        }
        // What is left is shorter than any string.
        while at < bytes.len() {
            if let Some(seen) = self.at(bytes, at, spent, 0..self.strings.len()) {
                return seen;
            }
            at += 1;
        }
        Seen::Nothing
    }

    /// What begins at one place: the first of `candidates` that does, or that goes on beyond the bytes.
    fn at(
        &self,
        bytes: &[u8],
        start: usize,
        spent: &[bool],
        mut candidates: impl Iterator<Item = usize>,
    ) -> Option<Seen> {
        let rest = bytes.get(start..)?;
        candidates.find_map(|needle| {
            let string = &self.strings[needle];
            let known = string.len().min(rest.len());
            if spent[needle] || !rest[..known].eq_ignore_ascii_case(&string[..known]) {
                return None;
            }
            Some(if known == string.len() { Seen::String { start, needle } } else { Seen::Beginning(start) })
        })
    }
}

struct Replacing<S> {
    needles: Arc<Needles>,
    once: bool,
    /// What stands for a string, by its number: asked when it is first found.
    said: S,
    replacements: Vec<Option<Bytes>>,
    /// Which strings are not looked for any more, and how many still are.
    spent: Vec<bool>,
    left: usize,
    /// What may be the beginning of a string: shorter than the longest.
    kept: Vec<u8>,
}

impl<S: FnMut(usize) -> Bytes> Replacing<S> {
    fn new(needles: Arc<Needles>, once: bool, said: S) -> Self {
        let count = needles.strings.len();
        let (replacements, spent) = (vec![None; count], vec![false; count]);
        Self { needles, once, said, replacements, spent, left: count, kept: Vec::new() }
    }

    fn replace(&mut self, needle: usize, out: &mut Vec<Piece>) {
        let said = &mut self.said;
        let replacement = self.replacements[needle].get_or_insert_with(|| said(needle));
        if !replacement.is_empty() {
            out.push(Piece::Mem(replacement.clone()));
        }
        if self.once {
            self.spent[needle] = true;
            self.left -= 1;
        }
    }

    /// Looks at what was kept and as much of `bytes` as a string that begins there may need. How many of `bytes` are done
    /// with; `None`: all of them.
    fn join(&mut self, bytes: &[u8], out: &mut Vec<Piece>) -> Option<usize> {
        let needed = bytes.len().min(self.needles.longest - 1);
        let mut joined = std::mem::take(&mut self.kept);
        let border = joined.len();
        joined.extend_from_slice(&bytes[..needed]);
        let mut from = 0;
        while from < border && self.left > 0 {
            match self.needles.search(&joined, from, &self.spent) {
                Seen::String { start, needle } if start < border => {
                    copy(&joined[from..start], out);
                    self.replace(needle, out);
                    from = start + self.needles.strings[needle].len();
                }
                Seen::Beginning(start) if needed == bytes.len() => {
                    copy(&joined[from..start], out);
                    joined.drain(..start);
                    self.kept = joined;
                    return None;
                }
                Seen::String { .. } | Seen::Beginning(_) | Seen::Nothing => break,
            }
        }
        if from >= border {
            return Some(from - border);
        }
        copy(&joined[from..border], out);
        Some(0)
    }
}

fn copy(bytes: &[u8], out: &mut Vec<Piece>) {
    if !bytes.is_empty() {
        out.push(Piece::Mem(Bytes::copy_from_slice(bytes)));
    }
}

impl<S: FnMut(usize) -> Bytes> Transform for Replacing<S> {
    fn push(&mut self, bytes: &Bytes, _: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut from = 0;
        if !self.kept.is_empty() {
            match self.join(bytes, out) {
                Some(done) => from = done,
                None => return Ok(()),
            }
        }
        let pass = |range: std::ops::Range<usize>, out: &mut Vec<Piece>| {
            if !range.is_empty() {
                out.push(Piece::Mem(bytes.slice(range)));
            }
        };
        while self.left > 0 {
            match self.needles.search(bytes, from, &self.spent) {
                Seen::String { start, needle } => {
                    pass(from..start, out);
                    self.replace(needle, out);
                    from = start + self.needles.strings[needle].len();
                }
                Seen::Beginning(start) => {
                    pass(from..start, out);
                    self.kept.extend_from_slice(&bytes[start..]);
                    return Ok(());
                }
                Seen::Nothing => break,
            }
        }
        pass(from..bytes.len(), out);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Piece>) -> Result<(), Broken> {
        copy(&std::mem::take(&mut self.kept), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::text;

    /// Replaces by `<n>`.
    fn run(strings: &[&'static str], once: bool, parts: &[&[u8]]) -> String {
        let needles = strings.iter().map(|string| Bytes::from_static(string.as_bytes())).collect();
        let mut replacing = Replacing::new(Arc::new(Needles::new(needles)), once, |n| Bytes::from(format!("<{n}>")));
        let mut out = Vec::new();
        for part in parts {
            replacing.push(&Bytes::copy_from_slice(part), false, &mut out).expect("memory");
        }
        replacing.end(&mut out).expect("memory");
        let bytes = out.into_iter().map(|piece| match piece {
            Piece::Mem(bytes) => text::decode(&bytes),
            Piece::File(_) | Piece::Flush => panic!("bytes alone"),
        });
        bytes.collect()
    }

    #[test]
    fn the_leftmost_and_then_the_first_wins_wherever_pieces_end() {
        for (strings, text, every, once) in [
            (&["foo"][..], "a foo FOO fofoo fo", "a <0> <0> fo<0> fo", "a <0> FOO fofoo fo"),
            (&["abcd", "b"], "ab abcd xb abc", "a<1> <0> x<1> abc", "a<1> <0> xb abc"),
            (&["b", "abcd"], "abcd b", "<1> <0>", "<1> <0>"),
            (&["ab", "abc"], "abc abc", "<0>c <0>c", "<0>c <1>"),
            (&["abc", "ab"], "abc ab abx", "<0> <1> <1>x", "<0> <1> abx"),
            (&["aab"], "aaab aaaab aaa", "a<0> aa<0> aaa", "a<0> aaaab aaa"),
            (&["x"], "xxx", "<0><0><0>", "<0>xx"),
            (&["a", "a"], "aaa", "<0><0><0>", "<0><1>a"),
            (&["abab"], "abaabab abababab", "aba<0> <0><0>", "aba<0> abababab"),
            (&["long needle", "le"], "long need le long needle", "long need <1> <0>", "long need <1> <0>"),
            (&["zz"], "nothing here", "nothing here", "nothing here"),
        ] {
            for (mode, expected) in [(false, every), (true, once)] {
                let text = text.as_bytes();
                assert_eq!(run(strings, mode, &[text]), expected, "{strings:?} once {mode}");
                for first in 0..text.len() {
                    for second in first..text.len() {
                        let parts = [&text[..first], &text[first..second], &text[second..]];
                        assert_eq!(run(strings, mode, &parts), expected, "{strings:?} cut at {first}, {second}");
                    }
                }
                let bytes: Vec<&[u8]> = text.chunks(1).collect();
                assert_eq!(run(strings, mode, &bytes), expected, "{strings:?} byte by byte");
            }
        }
    }

    #[test]
    fn what_is_not_replaced_is_not_copied() {
        let body = Bytes::from(vec![b'x'; 100_000]);
        let needles = Arc::new(Needles::new(vec![Bytes::from_static(b"xy")]));
        let mut replacing = Replacing::new(needles, false, |_| Bytes::new());
        let mut out = Vec::new();
        replacing.push(&body, false, &mut out).expect("memory");
        let [Piece::Mem(passed)] = out.as_slice() else { panic!("one piece") };
        assert_eq!(passed.as_ptr(), body.as_ptr());
        assert_eq!((passed.len(), replacing.kept.as_slice()), (99_999, b"x".as_slice()));
    }

    /// Against the plain way, with strings and texts of few letters.
    #[test]
    fn as_the_plain_way_finds_them() {
        let mut seed = 1_u32;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        for _ in 0..2000 {
            let mut word = |longest: u32| -> String {
                (0..=random(longest)).map(|_| if random(3) == 0 { 'b' } else { 'a' }).collect()
            };
            let strings: Vec<&'static str> = (0..3).map(|_| &*word(5).leak()).collect();
            let text = word(40);
            // A string that only the end of the text keeps from being longer is not looked at again, as in nginx.
            let (mut at, mut expected) = (0, String::new());
            'text: while at < text.len() {
                for (n, string) in strings.iter().enumerate() {
                    if text[at..].starts_with(string) {
                        expected.push_str(&format!("<{n}>"));
                        at += string.len();
                        continue 'text;
                    }
                    if string.starts_with(&text[at..]) {
                        expected.push_str(&text[at..]);
                        break 'text;
                    }
                }
                expected.push_str(&text[at..=at]);
                at += 1;
            }
            assert_eq!(run(&strings, false, &[text.as_bytes()]), expected, "{strings:?} in {text}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(run(&strings, false, &bytes), expected, "{strings:?} in {text}, byte by byte");
        }
    }
}
