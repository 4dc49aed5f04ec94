//! `charset`: says in which charset a text is, and recodes it where a `charset_map` knows how.
//!
//! In: a response of one of `charset_types`. Out: the same with `; charset=` behind its type; if it was written in another
//! charset (`source_charset`, or what an upstream says), the text in this one. The parts of a page are recoded to the
//! page's charset. The rule: one byte becomes one character of UTF-8 or the other way round, wherever pieces end.
//! nginx: `ngx_http_charset_filter_module`.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::lex::{Node, Statement, Word};
use crate::conf::module::{Arity, Directive, EVERYWHERE, HTTP, IF_LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::{Values, VarId};
use crate::conf::words::Words;
use crate::http::body::{Body, Broken, Piece, Transform};
use crate::http::plan::{Filter, Main, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal};
use crate::http::types::MediaTypes;
use crate::log::{Level as LogLevel, Raw};
use crate::wire::utf8::{Decoded, decode};

/// `ngx_http_charset_filter_module`.
pub struct Charset;

impl Module for Charset {
    const NAME: &'static str = "http_charset";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("charset", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::charset),
        Directive::location("source_charset", EVERYWHERE.or(IF_LOCATION), Arity::Exactly(1), Conf::source_charset),
        Directive::location("override_charset", EVERYWHERE.or(IF_LOCATION), Arity::Flag, Conf::override_charset),
        Directive::location("charset_types", EVERYWHERE, Arity::AtLeast(1), Conf::charset_types),
        Directive::main_block("charset_map", HTTP, Arity::Exactly(2), Maps::charset_map),
    ];
    type Plan = Plan;
    type Main = Maps;
    type Server = ();
    type Location = Conf;

    fn link_main(level: &Level<'_>, _: &mut Main) -> Result<(), Fault> {
        let maps = level.main::<Self>();
        let mut charsets = Charsets::default();
        for map in &maps.maps {
            charsets.add(&map.from);
            charsets.add(&map.to);
            charsets.maps.extend(map.both_ways());
        }
        name_all(level, &mut charsets);
        // It is linked once.
        let _ = maps.charsets.set(Arc::new(charsets));
        Ok(())
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let Some(charsets) = level.main::<Self>().charsets.get().filter(|charsets| !charsets.names.is_empty()) else {
            return Ok(());
        };
        let conf = level.location::<Self>();
        let target = conf.charset.said().flatten();
        let source = conf.source_charset.said();
        if let (Some(Name::Fixed(to)), Some(Name::Fixed(from))) = (&target, &source)
            && !from.eq_ignore_ascii_case(to)
            && charsets.recoding(from, to).is_none()
        {
            return Err(Fault::nowhere(unmapped(&text::decode(from), &text::decode(to))));
        }
        // A part may stand in any location, and so may who overrides.
        plan.filters.push(Box::new(Speaker {
            charsets: charsets.clone(),
            target,
            source,
            override_charset: conf.override_charset.or(false),
            types: conf.charset_types.or_else(|| MediaTypes::of(TYPES)),
        }));
        Ok(())
    }
}

/// Makes every charset known that a location names.
fn name_all(level: &Level<'_>, charsets: &mut Charsets) {
    let conf = level.location::<Charset>();
    for name in [conf.charset.said().flatten(), conf.source_charset.said()].into_iter().flatten() {
        if let Name::Fixed(name) = name {
            charsets.add(&name);
        }
    }
    for child in level.children() {
        name_all(&child, charsets);
    }
}

fn unmapped(from: &impl std::fmt::Display, to: &impl std::fmt::Display) -> String {
    format!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\"")
}

/// What `charset_types` holds without being said.
const TYPES: &[&str] =
    &["text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml"];

#[derive(Default)]
pub struct Maps {
    maps: Vec<Map>,
    /// Made when the block is linked.
    charsets: OnceCell<Arc<Charsets>>,
}

impl Maps {
    /// Syntax: `charset_map charset1 charset2 { ... }`
    fn charset_map(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let (first, second) = (words.arg(0), words.arg(1));
        let (from, to) = (Bytes::from(text::bytes(first)), Bytes::from(text::bytes(second)));
        if from.eq_ignore_ascii_case(&to) {
            let message = format!("\"charset_map\" between the same charsets \"{first}\" and \"{second}\"");
            return Err(Fault::new(message));
        }
        if first.eq_ignore_ascii_case(UTF_8) {
            return Err(Fault::new("\"charset_map\" with \"utf-8\" charset should be given in the second column"));
        }
        let same = |a: &Bytes, b: &Bytes| a.eq_ignore_ascii_case(b);
        let known =
            |map: &Map| same(&map.from, &from) && same(&map.to, &to) || same(&map.from, &to) && same(&map.to, &from);
        if self.maps.iter().any(known) {
            return Err(Fault::new(format!("duplicate \"charset_map\" between \"{first}\" and \"{second}\"")));
        }
        let mut map = Map::new(from, to);
        for node in words.block() {
            match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => map.line(statement)?,
            }
        }
        self.maps.push(map);
        Ok(())
    }
}

impl Section for Maps {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

const UTF_8: &str = "utf-8";

/// One `charset_map`.
struct Map {
    from: Bytes,
    to: Bytes,
    pairs: Pairs,
}

/// What is not in a map becomes a question mark; ASCII is the same everywhere.
enum Pairs {
    Bytes { there: Box<[u8; 256]>, back: Box<[u8; 256]> },
    Utf8 { there: Box<[Symbol; 256]>, back: Pages },
}

/// A character in UTF-8: up to three bytes, and how many they are.
type Symbol = ([u8; 3], u8);

/// Bytes by the character that they stand for, in pages of 256; 0 where there is none.
type Pages = Vec<Option<Box<[u8; 256]>>>;

impl Map {
    fn new(from: Bytes, to: Bytes) -> Self {
        let ascii = || Box::new(std::array::from_fn(|n| if n < 128 { n as u8 } else { b'?' }));
        let pairs = match to.eq_ignore_ascii_case(UTF_8.as_bytes()) {
            false => Pairs::Bytes { there: ascii(), back: ascii() },
            true => {
                let mut back: Pages = vec![None; 256];
                back[0] = Some(Box::new(std::array::from_fn(|n| if n < 128 { n as u8 } else { 0 })));
                let there = ascii().map(|byte| ([byte, 0, 0], 1));
                Pairs::Utf8 { there: Box::new(there), back }
            }
        };
        Self { from, to, pairs }
    }

    fn line(&mut self, statement: &Statement) -> Result<(), Fault> {
        let [code, text] = statement.words.as_slice() else {
            return Err(Fault::at("invalid parameters number", &statement.words[0].at));
        };
        let invalid = |word: &Word| Fault::at(format!("invalid value \"{}\"", word.text), &word.at);
        let byte = hexadecimal(&code.text).ok_or_else(|| invalid(code))?;
        match &mut self.pairs {
            Pairs::Bytes { there, back } => {
                let other = hexadecimal(&text.text).ok_or_else(|| invalid(text))?;
                there[usize::from(byte)] = other;
                back[usize::from(other)] = byte;
            }
            Pairs::Utf8 { there, back } => {
                let (symbol, number) = symbol(&text.text).ok_or_else(|| invalid(text))?;
                there[usize::from(byte)] = symbol;
                let [high, low] = number.to_be_bytes();
                back[usize::from(high)].get_or_insert_with(|| Box::new([0; 256]))[usize::from(low)] = byte;
            }
        }
        Ok(())
    }

    fn both_ways(&self) -> [(Bytes, Bytes, Recoding); 2] {
        let (there, back) = match &self.pairs {
            Pairs::Bytes { there, back } => {
                (Recoding::Bytes(Arc::from(there.clone())), Recoding::Bytes(Arc::from(back.clone())))
            }
            Pairs::Utf8 { there, back } => {
                (Recoding::ToUtf8(Arc::from(there.clone())), Recoding::FromUtf8(Arc::new(back.clone())))
            }
        };
        [(self.from.clone(), self.to.clone(), there), (self.to.clone(), self.from.clone(), back)]
    }
}

/// One byte, in one or two digits or behind zeros.
fn hexadecimal(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(text, 16).ok())?
}

/// The bytes of one character in UTF-8, and its number.
fn symbol(text: &str) -> Option<(Symbol, u16)> {
    let count = text.len() / 2;
    if !text.len().is_multiple_of(2) || !(1..=3).contains(&count) {
        return None;
    }
    let mut bytes = [0; 3];
    for (n, byte) in bytes.iter_mut().enumerate().take(count) {
        *byte = hexadecimal(text.get(2 * n..2 * n + 2)?)?;
    }
    match decode(&bytes[..count]) {
        // nginx: ASCII is not for maps to change.
        Decoded::Symbol(number @ 0x80.., _) => Some(((bytes, count as u8), u16::try_from(number).ok()?)),
        Decoded::Symbol(..) | Decoded::Incomplete | Decoded::Invalid(_) => None,
    }
}

/// All charsets of a configuration, and what recodes them.
#[derive(Default)]
struct Charsets {
    names: Vec<Bytes>,
    maps: Vec<(Bytes, Bytes, Recoding)>,
}

impl Charsets {
    fn add(&mut self, name: &Bytes) {
        if !self.knows(name) {
            self.names.push(name.clone());
        }
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn recoding(&self, from: &[u8], to: &[u8]) -> Option<&Recoding> {
        let fits = |(known, other, _): &&(Bytes, Bytes, Recoding)| {
            known.eq_ignore_ascii_case(from) && other.eq_ignore_ascii_case(to)
        };
        self.maps.iter().find(fits).map(|(_, _, recoding)| recoding)
    }
}

#[derive(Clone)]
enum Recoding {
    Bytes(Arc<[u8; 256]>),
    ToUtf8(Arc<[Symbol; 256]>),
    FromUtf8(Arc<Pages>),
}

#[derive(Default)]
pub struct Conf {
    /// `None` inside: `off`.
    charset: Setting<Option<Name>>,
    source_charset: Setting<Name>,
    override_charset: Setting<bool>,
    charset_types: Setting<MediaTypes>,
}

#[derive(Clone)]
enum Name {
    Fixed(Bytes),
    Variable(VarId),
}

impl Name {
    fn new(words: &Words<'_>) -> Self {
        match words.one().strip_prefix('$') {
            Some(variable) => Self::Variable(words.cx.names.id(variable)),
            None => Self::Fixed(text::bytes(words.one()).into()),
        }
    }

    /// `None`: a variable that is not there.
    fn of(&self, request: &Request) -> Option<Bytes> {
        match self {
            Self::Fixed(name) => Some(name.clone()),
            Self::Variable(id) => request.value(*id),
        }
    }
}

impl Conf {
    /// Syntax: `charset charset | off;`  Default: `off`
    fn charset(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.charset.set((words.one() != "off").then(|| Name::new(words)))
    }

    /// Syntax: `source_charset charset;`
    fn source_charset(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.source_charset.set(Name::new(words))
    }

    /// Syntax: `override_charset on | off;`  Default: `off`
    fn override_charset(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.override_charset.set(words.flag()?)
    }

    /// Syntax: `charset_types mime-type ...;`  Default: `text/html text/xml text/plain text/vnd.wap.wml
    /// application/javascript application/rss+xml`
    fn charset_types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.charset_types.list().add(words, TYPES);
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { charset, source_charset, override_charset, charset_types } = self;
        charset.inherit(&outer.charset);
        source_charset.inherit(&outer.source_charset);
        override_charset.inherit(&outer.override_charset);
        charset_types.inherit(&outer.charset_types);
        Ok(())
    }
}

/// The charsets of one location, resolved.
struct Speaker {
    charsets: Arc<Charsets>,
    target: Option<Name>,
    source: Option<Name>,
    override_charset: bool,
    types: MediaTypes,
}

/// What the client's own answer is written in, for the parts of the page.
#[derive(Default)]
struct Spoken(RefCell<Option<Bytes>>);

/// A variable that names a charset is not there.
struct Nameless;

impl Filter for Speaker {
    fn stage(&self) -> Stage {
        Stage::Charset
    }

    /// nginx: the connection ends where a variable has no charset.
    fn check(&self, request: &Request, head: &mut Head, _: &Body) -> Result<(), Refusal> {
        let varies = |name: &Option<Name>| matches!(name, Some(Name::Variable(_)));
        if !varies(&self.target) && !varies(&self.source) {
            return Ok(());
        }
        let Ok(target) = self.target(request, head) else { return Err(Refusal::Close) };
        match target.is_none() || self.source(request, head).is_ok() {
            true => Ok(()),
            false => Err(Refusal::Close),
        }
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        let recoding = self.speak(request, head);
        if !request.is_subrequest() && has_parts(request) {
            let spoken = said(head);
            request.extension::<Spoken>().0.replace(spoken);
        }
        match recoding {
            None => body,
            Some(Recoding::Bytes(table)) => match at_hand(body) {
                // It stays one piece, of which ranges can be picked.
                Ok(bytes) => Body::memory(Bytewise { table }.recode(&bytes)),
                Err(body) => body.through(Bytewise { table }),
            },
            Some(Recoding::ToUtf8(table)) => {
                head.clear_content_length();
                body.through(ToUtf8 { table })
            }
            Some(Recoding::FromUtf8(pages)) => {
                head.clear_content_length();
                body.through(FromUtf8 { pages, saved: [0; 4], held: 0 })
            }
        }
    }
}

/// A small body that is whole and in memory, as bytes.
fn at_hand(body: Body) -> Result<Bytes, Body> {
    match body {
        Body::One(Piece::Mem(bytes)) if bytes.len() <= SMALL => Ok(bytes),
        Body::One(Piece::File(mut file)) if file.len <= SMALL as u64 => {
            let whole = file.clone();
            match file.read_ready(SMALL) {
                Ok(Some(bytes)) if file.len == 0 => Ok(bytes),
                Ok(_) | Err(_) => Err(Body::One(Piece::File(whole))),
            }
        }
        body => Err(body),
    }
}

/// nginx's `output_buffers` hold as much.
const SMALL: usize = 32 * 1024;

/// Whether other answers will become a part of this one.
fn has_parts(request: &Request) -> bool {
    request.plan().filters.iter().any(|filter| matches!(filter.stage(), Stage::Addition | Stage::Ssi))
}

/// The charset that the answer has, if whoever made it has said so.
fn said(head: &Head) -> Option<Bytes> {
    head.charset.clone().or_else(|| upstreams(head))
}

/// The charset that an upstream's `Content-Type` names.
fn upstreams(head: &Head) -> Option<Bytes> {
    let content_type = head.content_type.as_ref()?;
    let parameter = content_type.get(head.media_end? + 1..)?.trim_ascii_start().get("charset=".len()..)?;
    let name = parameter.strip_prefix(b"\"").unwrap_or(parameter);
    let name = name.strip_suffix(b"\"").unwrap_or(name);
    (!name.is_empty()).then(|| content_type.slice_ref(name))
}

impl Speaker {
    /// Names the charset in the head; what has to be done to the body for that to be true.
    fn speak(&self, request: &Request, head: &mut Head) -> Option<Recoding> {
        let target = self.target(request, head).ok()??;
        let Some(source) = self.source(request, head).ok()? else {
            name(request, head, target);
            return None;
        };
        let same = source.eq_ignore_ascii_case(&target);
        if !(self.charsets.knows(&target) && self.charsets.knows(&source)) {
            match same {
                true => name(request, head, target),
                false => log_unmapped(request, &source, &target),
            }
            return None;
        }
        if same {
            forget_upstreams(head);
            name(request, head, target);
            return None;
        }
        if head.field("Content-Encoding").is_some_and(|coding| !coding.is_empty()) {
            return None;
        }
        let Some(recoding) = self.charsets.recoding(&source, &target) else {
            log_unmapped(request, &source, &target);
            return None;
        };
        forget_upstreams(head);
        name(request, head, target);
        Some(recoding.clone())
    }

    /// In which charset the answer shall be. `None`: as it is.
    fn target(&self, request: &Request, head: &Head) -> Result<Option<Bytes>, Nameless> {
        if request.is_subrequest() {
            return Ok(request.main().extension::<Spoken>().0.borrow().clone());
        }
        if head.content_type.as_ref().is_none_or(Bytes::is_empty) {
            return Ok(None);
        }
        if let Some(wanted) = head.override_charset.as_ref().filter(|wanted| !wanted.is_empty()) {
            if self.charsets.knows(wanted) {
                return Ok(Some(wanted.clone()));
            }
            request.log(LogLevel::Error, format_args!("unknown charset \"{}\" to override", Raw(wanted)));
            return Ok(None);
        }
        let Some(target) = &self.target else { return Ok(None) };
        let wanted = match said(head) {
            Some(_) => self.override_charset,
            None => self.types.take(head),
        };
        match wanted {
            true => target.of(request).map(Some).ok_or(Nameless),
            false => Ok(None),
        }
    }

    /// In which charset the answer is. `None`: in the one that it shall be in.
    fn source(&self, request: &Request, head: &Head) -> Result<Option<Bytes>, Nameless> {
        match (said(head), &self.source) {
            (Some(said), _) => Ok(Some(said)),
            (None, None) => Ok(None),
            (None, Some(source)) => source.of(request).map(Some).ok_or(Nameless),
        }
    }
}

#[cold]
fn log_unmapped(request: &Request, source: &[u8], target: &[u8]) {
    request.log(LogLevel::Error, format_args!("{}", unmapped(&Raw(source), &Raw(target))));
}

/// The charset that an upstream has named no longer fits.
fn forget_upstreams(head: &mut Head) {
    if let Some(end) = head.media_end.take()
        && let Some(content_type) = &mut head.content_type
    {
        content_type.truncate(end);
    }
}

fn name(request: &Request, head: &mut Head, charset: Bytes) {
    // What an upstream has named goes out as it came.
    if !request.is_subrequest() && head.media_end.is_none() {
        // nginx: old browsers take it for the charset of the page behind the redirect.
        head.charset = (!matches!(head.status, 301 | 302)).then_some(charset);
    }
}

/// Between two charsets of one byte a character.
struct Bytewise {
    table: Arc<[u8; 256]>,
}

impl Bytewise {
    fn recode(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|&byte| self.table[usize::from(byte)]).collect()
    }
}

impl Transform for Bytewise {
    fn push(&mut self, bytes: &Bytes, _: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        if !bytes.is_empty() {
            out.push(Piece::Mem(self.recode(bytes).into()));
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Vec<Piece>) -> Result<(), Broken> {
        Ok(())
    }
}

struct ToUtf8 {
    table: Arc<[Symbol; 256]>,
}

impl Transform for ToUtf8 {
    fn push(&mut self, bytes: &Bytes, _: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        let mut recoded = Vec::with_capacity(bytes.len() + bytes.len() / 2);
        for &byte in bytes {
            let (symbol, length) = &self.table[usize::from(byte)];
            recoded.extend_from_slice(&symbol[..usize::from(*length)]);
        }
        if !recoded.is_empty() {
            out.push(Piece::Mem(recoded.into()));
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Vec<Piece>) -> Result<(), Broken> {
        Ok(())
    }
}

struct FromUtf8 {
    pages: Arc<Pages>,
    /// The beginning of a character whose end is still to come.
    saved: [u8; 4],
    held: usize,
}

impl FromUtf8 {
    /// Recodes what is whole at the front of `bytes`; how much that was.
    fn recode(&self, bytes: &[u8], recoded: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.put(&decode(rest), recoded) {
                0 => return at,
                used => at += used,
            }
        }
        at
    }

    /// Writes one character; how many bytes it took.
    fn put(&self, decoded: &Decoded, recoded: &mut Vec<u8>) -> usize {
        match *decoded {
            Decoded::Incomplete => 0,
            Decoded::Invalid(used) => {
                recoded.push(b'?');
                used
            }
            Decoded::Symbol(number, used) => {
                match self.byte(number) {
                    0 if number != 0 => recoded.extend_from_slice(format!("&#{number};").as_bytes()),
                    byte => recoded.push(byte),
                }
                used
            }
        }
    }

    /// 0 for what the charset does not have.
    fn byte(&self, number: u32) -> u8 {
        let Ok(number) = u16::try_from(number) else { return 0 };
        let [high, low] = number.to_be_bytes();
        match self.pages.get(usize::from(high)) {
            Some(Some(page)) => page[usize::from(low)],
            Some(None) | None => 0,
        }
    }
}

impl Transform for FromUtf8 {
    fn push(&mut self, bytes: &Bytes, _: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        let mut bytes = bytes.as_ref();
        let mut recoded = Vec::with_capacity(bytes.len() + self.held);
        while self.held > 0 && !bytes.is_empty() {
            let (before, take) = (self.held, bytes.len().min(self.saved.len() - self.held));
            self.saved[before..before + take].copy_from_slice(&bytes[..take]);
            let used = self.put(&decode(&self.saved[..before + take]), &mut recoded);
            if used == 0 {
                self.held += take;
                bytes = &[];
                break;
            }
            // What was held and is not used stands at the front, what was taken and is not used is taken again.
            self.held = before.saturating_sub(used);
            self.saved.copy_within(used.min(before)..before, 0);
            bytes = &bytes[used.saturating_sub(before)..];
        }
        let used = self.recode(bytes, &mut recoded);
        let rest = &bytes[used..];
        if !rest.is_empty() {
            self.saved[..rest.len()].copy_from_slice(rest);
            self.held = rest.len();
        }
        if !recoded.is_empty() {
            out.push(Piece::Mem(recoded.into()));
        }
        Ok(())
    }

    /// nginx: a character that is cut off by the end is left out.
    fn end(&mut self, _: &mut Vec<Piece>) -> Result<(), Broken> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::lex;

    fn map(to: &'static str, lines: &str) -> Result<Map, Fault> {
        let mut map = Map::new(Bytes::from_static(b"koi8-r"), Bytes::from_static(to.as_bytes()));
        for node in lex::file(lines.as_bytes(), &"x.conf".into(), 0) {
            match node {
                Node::Fault(fault) => return Err(fault),
                Node::Statement(statement) => map.line(&statement)?,
            }
        }
        Ok(map)
    }

    fn run(mut transform: impl Transform, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            transform.push(&Bytes::copy_from_slice(part), false, &mut out).expect("recoded");
        }
        transform.end(&mut out).expect("recoded");
        out.iter().flat_map(|piece| if let Piece::Mem(bytes) = piece { bytes.to_vec() } else { Vec::new() }).collect()
    }

    fn from_utf8(lines: &str) -> FromUtf8 {
        let [_, (_, _, Recoding::FromUtf8(pages))] = map("UTF-8", lines).expect("a good map").both_ways() else {
            panic!("it is from UTF-8");
        };
        FromUtf8 { pages, saved: [0; 4], held: 0 }
    }

    const LINES: &str = "C0 D18E; C1 D0B0; 80 E282AC;";

    #[test]
    fn both_ways_and_back() {
        let [(_, _, Recoding::ToUtf8(table)), _] = map("utf-8", LINES).expect("a good map").both_ways() else {
            panic!("it is to UTF-8");
        };
        let text = "aюа€\n";
        assert_eq!(run(ToUtf8 { table }, &[b"a\xc0\xc1", b"\x80\n"]), text.as_bytes());
        assert_eq!(run(from_utf8(LINES), &[text.as_bytes()]), b"a\xc0\xc1\x80\n");
        let [(_, _, Recoding::Bytes(there)), (_, _, Recoding::Bytes(back))] =
            map("windows-1251", "C0 FE;").expect("a good map").both_ways()
        else {
            panic!("bytes both ways");
        };
        assert_eq!(run(Bytewise { table: there }, &[b"a\xc0\xc1", b""]), b"a\xfe?");
        assert_eq!(run(Bytewise { table: back }, &[b"a\xfe\xff"]), b"a\xc0?");
    }

    #[test]
    fn where_pieces_end_makes_no_difference() {
        let text = [
            "юa€b\u{1f600}c".as_bytes(),
            b"\x80d\xc3ee\xe2\x82fgh\xf0\x9f\x98ij\xf4\xa0\x80\x80k\xff\xc0\x80l\xe0\x80\x80m\xf0AAAn",
            "ю\0".as_bytes(),
        ]
        .concat();
        let expected = b"\xc0a\x80b&#128512;c?d?e?gh?j?k???l?m?AAn\xc0\0";
        assert_eq!(run(from_utf8(LINES), &[&text]), expected);
        for first in 0..text.len() {
            for second in first..text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(run(from_utf8(LINES), &parts), expected, "cut at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(run(from_utf8(LINES), &bytes), expected);
        assert_eq!(run(from_utf8(LINES), &["a€".as_bytes().split_last().expect("bytes").1]), b"a");
    }

    #[test]
    fn faults_in_nginx_s_words() {
        for (lines, expected) in [
            ("80;", "invalid parameters number"),
            ("80 D18E 00;", "invalid parameters number"),
            ("100 D18E;", "invalid value \"100\""),
            ("x D18E;", "invalid value \"x\""),
            ("80 D1;", "invalid value \"D1\""),
            ("80 D18;", "invalid value \"D18\""),
            ("80 F09F9880;", "invalid value \"F09F9880\""),
            ("80 +1+1;", "invalid value \"+1+1\""),
        ] {
            assert_eq!(map("utf-8", lines).err().expect(lines).message, expected, "{lines}");
        }
        assert_eq!(map("b", "80 100;").err().expect("too large").message, "invalid value \"100\"");
    }

    #[test]
    fn what_an_upstream_says() {
        for (text, end, expected) in [
            ("text/html; charset=utf-8", Some(9), Some("utf-8")),
            ("text/html;charset=\"utf-8\"", Some(9), Some("utf-8")),
            ("text/html; charset=", Some(9), None),
            ("text/html", None, None),
        ] {
            let content_type = Some(Bytes::from_static(text.as_bytes()));
            let mut head = Head { content_type, media_end: end, ..Head::new(200) };
            assert_eq!(upstreams(&head).as_deref(), expected.map(str::as_bytes), "{text}");
            forget_upstreams(&mut head);
            assert_eq!(head.content_type.as_deref(), Some(b"text/html".as_slice()));
        }
    }
}
