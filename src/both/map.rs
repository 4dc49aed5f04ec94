//! `map`: one variable's value by the value of others.
//!
//! In: a text with variables, evaluated when somebody asks. Out: the result that stands beside the text's value in the
//! block, which may have variables itself. The rule is nginx's order: the value itself in any letter case, then with
//! `hostnames` the wildcards, then the patterns as they stand, then `default`. A table of a hundred thousand lines
//! answers as fast as one of three.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::hash::QuickMap;
use crate::base::names::{NameTable, Unplaced};
use crate::base::text;
use crate::conf::error::{At, Fault};
use crate::conf::lex::{Node, Statement};
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, Plan, Section};
use crate::conf::pattern::{Matching, Regex};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::vars::{Defines, Names, Row};
use crate::conf::words::Words;

/// `ngx_http_map_module`, and its twin in `stream`.
pub struct Map<P>(PhantomData<P>);

impl<P: Plan> Module for Map<P>
where
    P::Main: Defines,
{
    const NAME: &'static str = "map";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::main_block("map", HTTP, Arity::Exactly(2), Conf::map),
        Directive::main("map_hash_max_size", HTTP, Arity::Exactly(1), Conf::map_hash_max_size),
        Directive::main("map_hash_bucket_size", HTTP, Arity::Exactly(1), Conf::map_hash_bucket_size),
    ];
    type Plan = P;
    type Main = Conf;
    type Server = ();
    type Location = ();

    fn link_main(level: &Level<'_>, main: &mut P::Main) -> Result<(), Fault> {
        for map in &level.main::<Self>().maps {
            let table = map.table.clone();
            let get = move |asker: &<P::Main as Defines>::Asker| Some(table.value(asker));
            let row = if map.volatile { Row::each(get) } else { Row::once(get) };
            main.definitions().define(&map.variable, row.changeable()).map_err(|fault| fault.or_at(&map.at))?;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    maps: Vec<Defined>,
    hash_max_size: Setting<u64>,
    hash_bucket_size: Setting<u64>,
}

/// One `map` block.
struct Defined {
    variable: String,
    at: At,
    table: Arc<Table>,
    volatile: bool,
}

impl Conf {
    /// Syntax: `map string $variable { ... }`
    fn map(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let source = words.template(0)?;
        let variable = words.variable(1)?.to_owned();
        let mut reader = Reader { table: Table { source, ..Table::default() }, ..Reader::default() };
        for node in words.block() {
            match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => reader.line(statement, &words.cx.names)?,
            }
        }
        let Reader { table, volatile, .. } = reader;
        self.maps.push(Defined { variable, at: words.at().clone(), table: Arc::new(table), volatile });
        Ok(())
    }

    /// Syntax: `map_hash_max_size size;`  Default: `2048`. Our tables size themselves; the word must be a number.
    fn map_hash_max_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.before_maps()?;
        self.hash_max_size.set(words.number(0)?)
    }

    /// Syntax: `map_hash_bucket_size size;`  Default: `32|64|128`. As `map_hash_max_size`.
    fn map_hash_bucket_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.before_maps()?;
        self.hash_bucket_size.set(words.number(0)?)
    }

    /// nginx: the first `map` takes the defaults for good.
    fn before_maps(&self) -> Result<(), Fault> {
        if self.maps.is_empty() { Ok(()) } else { Err(Fault::directive("is duplicate")) }
    }
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        Ok(()) // there is one level only
    }
}

/// A block being read.
#[derive(Default)]
struct Reader {
    table: Table,
    volatile: bool,
    /// Where a result that was written before is: tables have many lines and few results.
    known: QuickMap<String, u32>,
}

impl Reader {
    fn line(&mut self, statement: &Statement, names: &Names) -> Result<(), Fault> {
        let at = &statement.words[0].at;
        if statement.block.is_some() {
            return Err(Fault::at("unexpected \"{\"", at));
        }
        let (key, result) = match statement.words.as_slice() {
            [only] if only.text == "hostnames" => {
                self.table.hostnames = true;
                return Ok(());
            }
            [only] if only.text == "volatile" => {
                self.volatile = true;
                return Ok(());
            }
            [key, result] => (key.text.as_str(), result),
            _ => return Err(Fault::at("invalid number of the map parameters", at)),
        };
        let value = match self.known.get(&result.text) {
            Some(&value) => value,
            None => self.remember(&result.text, names).map_err(|fault| fault.or_at(&result.at))?,
        };
        if key == "default" {
            if self.table.default.replace(value).is_some() {
                return Err(Fault::at("duplicate default map parameter", at));
            }
            return Ok(());
        }
        if let Some(pattern) = key.strip_prefix('~') {
            let (pattern, caseless) = match pattern.strip_prefix('*') {
                Some(pattern) => (pattern, true),
                None => (pattern, false),
            };
            let regex = Regex::compile(pattern, caseless, at, names)?;
            self.table.patterns.push((regex, value));
            return Ok(());
        }
        // nginx: what would else be a parameter or a pattern is escaped.
        let key = key.strip_prefix('\\').unwrap_or(key);
        let bytes = text::bytes(key).to_ascii_lowercase();
        let placed = match self.table.hostnames {
            true => self.table.names.add(&bytes, value),
            false => self.table.names.add_exact(&bytes, value),
        };
        placed.map_err(|unplaced| {
            let key = key.to_ascii_lowercase();
            let message = match unplaced {
                Unplaced::Invalid => format!("invalid hostname or wildcard \"{key}\""),
                Unplaced::Taken => format!("conflicting parameter \"{key}\""),
            };
            Fault::at(message, at)
        })
    }

    fn remember(&mut self, result: &str, names: &Names) -> Result<u32, Fault> {
        let template = Template::new(result, names)?;
        let place = u32::try_from(self.table.results.len()).map_err(|_| Fault::new("too many map results"))?;
        self.table.results.push(match template.constant() {
            Some(bytes) => Outcome::Constant(bytes.clone()),
            None => Outcome::Template(template),
        });
        self.known.insert(result.to_owned(), place);
        Ok(place)
    }
}

/// A finished map.
#[derive(Default)]
struct Table {
    source: Template,
    hostnames: bool,
    names: NameTable<u32>,
    patterns: Vec<(Regex, u32)>,
    default: Option<u32>,
    /// What lines and `default` point to.
    results: Vec<Outcome>,
}

enum Outcome {
    Constant(Bytes),
    Template(Template),
}

impl Table {
    fn value(&self, asker: &impl Matching) -> Bytes {
        let mut text = self.source.eval(asker);
        if self.hostnames && text.ends_with(b".") {
            text.truncate(text.len() - 1);
        }
        let found = self.find(&text, asker).or(self.default);
        match found.and_then(|place| self.results.get(place as usize)) {
            None => Bytes::new(),
            Some(Outcome::Constant(bytes)) => bytes.clone(),
            Some(Outcome::Template(template)) => template.eval(asker),
        }
    }

    fn find(&self, text: &Bytes, asker: &impl Matching) -> Option<u32> {
        let lower = match text.iter().any(u8::is_ascii_uppercase) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text.as_ref()),
        };
        if let Some(place) = self.names.find(&lower) {
            return Some(place);
        }
        // nginx: patterns are not asked of an empty value.
        if text.is_empty() {
            return None;
        }
        for (regex, place) in &self.patterns {
            match regex.matches(text, asker) {
                Ok(true) => return Some(*place),
                Ok(false) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::base::regex::Failed;
    use crate::conf::lex;
    use crate::conf::module::Modules;
    use crate::conf::pattern::Matched;
    use crate::conf::vars::{self, Definitions, Value, Values, VarId};
    use crate::conf::words::Context;

    /// Neither http nor stream: a plan with nothing in it, whose sessions have one variable, `$x`.
    #[derive(Default)]
    struct Bare;

    #[derive(Default)]
    struct Shared(Definitions<Session>);

    impl Plan for Bare {
        type Main = Shared;
        type Server = ();
    }

    impl Defines for Shared {
        type Asker = Session;

        fn definitions(&mut self) -> &mut Definitions<Session> {
            &mut self.0
        }
    }

    struct Session {
        table: vars::Table<Session>,
        x: RefCell<Bytes>,
        matched: RefCell<Matched>,
        named: RefCell<QuickMap<usize, Value>>,
    }

    impl Values for Session {
        fn value(&self, id: VarId) -> Value {
            let named = self.named.borrow().get(&id.index()).cloned();
            named.unwrap_or_else(|| (self.table.row(id).get)(self))
        }

        fn capture(&self, n: usize) -> Value {
            self.matched.borrow().get(n)
        }
    }

    impl Matching for Session {
        fn set_value(&self, id: VarId, value: Value) {
            self.named.borrow_mut().insert(id.index(), value);
        }

        fn set_captures(&self, matched: Matched) {
            self.matched.replace(matched);
        }

        fn log_failed(&self, failed: &Failed) {
            panic!("{failed}");
        }
    }

    /// Loads `text`, which defines `$y`, and answers what `$y` is for each `$x`.
    fn load(text: &str) -> Result<impl Fn(&str) -> String + use<>, Fault> {
        let nodes = lex::file(text.as_bytes(), &"x.conf".into(), 0);
        let cx = Context::new("/", "/");
        let at = At { file: "x.conf".into(), line: 1, row: 1, column: 0, length: 0 };
        let y = cx.names.id("y");
        let table = Modules::<Bare>::default().with::<Map<Bare>>().load(&nodes, &at, &cx, |linker, level| {
            let mut shared = Shared::default();
            linker.main(&level, &mut shared)?;
            shared.0.define("x", Row::each(|session: &Session| Some(session.x.borrow().clone())))?;
            vars::Table::new(&cx.names, shared.0)
        })?;
        let session = Session { table, x: RefCell::default(), matched: RefCell::default(), named: RefCell::default() };
        Ok(move |x: &str| {
            session.x.replace(Bytes::copy_from_slice(x.as_bytes()));
            String::from_utf8_lossy(&session.value(y).expect("a map always has a value")).into_owned()
        })
    }

    #[test]
    fn the_text_then_wildcards_then_patterns_then_the_default() {
        let map = r#"map $x $y {
            hostnames;
            ~^www\.(?<rest>.*)$ pattern-$rest-$1;
            ~*^any upper;
            *.example.org wildcard;
            www.example.org exact;
            mail.* tail;
            "" nothing;
            \~x tilde;
            default "else $x";
        }"#;
        let y = load(map).expect("a good map");
        for (x, expected) in [
            ("www.example.org", "exact"),
            ("WWW.Example.ORG.", "exact"),
            ("a.example.org", "wildcard"),
            ("mail.net", "tail"),
            ("www.net", "pattern-net-net"),
            ("WWW.net", "else WWW.net"),
            ("ANYTHING", "upper"),
            ("", "nothing"),
            ("~x", "tilde"),
            ("other", "else other"),
        ] {
            assert_eq!(y(x), expected, "{x}");
        }
        assert_eq!(load("map $x $y { a b; }").expect("a good map")("c"), "");
    }

    #[test]
    fn a_hundred_thousand_lines() {
        let lines: String = (0..100_000).map(|n| format!("key-{n} value-{};\n", n % 7)).collect();
        let y = load(&format!("map $x $y {{ {lines} }}")).expect("a good map");
        for n in [0, 1, 99_999] {
            assert_eq!(y(&format!("Key-{n}")), format!("value-{}", n % 7));
        }
        assert_eq!(y("key-100000"), "");
    }

    #[test]
    fn faults_in_nginx_s_words() {
        for (lines, expected) in [
            ("a;", "invalid number of the map parameters"),
            ("default a; default b;", "duplicate default map parameter"),
            ("a 1; A 2;", "conflicting parameter \"a\""),
            ("hostnames; *.a.* 1;", "invalid hostname or wildcard \"*.a.*\""),
            ("a { }", "unexpected \"{\""),
            ("a $;", "invalid variable name"),
        ] {
            let fault = load(&format!("map $x $y {{ {lines} }}")).err().expect(lines);
            assert_eq!(fault.message, expected, "{lines}");
        }
        let late = load("map $x $y { } map_hash_max_size 1;").err().expect("too late");
        assert_eq!(late.message, "\"map_hash_max_size\" directive is duplicate");
    }
}
