//! Variables: names become numbers while the file is read, rows when it is linked, values when somebody asks.
//!
//! In: the names that templates mention and the rows that modules define. Out: a [`Table`] that answers by number.
//! A name may be used before its definition is read, so the two meet only at the end ([`Table::new`]), and a name
//! that nobody defined is nginx's `unknown "x" variable`.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{At, Fault};

use crate::base::hash::QuickMap;
use crate::base::regex::Pattern;
use crate::wire::byte;
use crate::wire::span::Span;

/// A variable's number, valid for the configuration that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VarId(u32);

impl VarId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a variable has to say: `None` is nginx's "not found", which logs print as `-`.
pub type Value = Option<Bytes>;

/// Where values come from while a template is evaluated: a request or a session.
pub trait Values {
    fn value(&self, id: VarId) -> Value;
    /// Shows the value to `then`, which asks for no other.
    fn with_value<T>(&self, id: VarId, then: impl FnOnce(Option<&[u8]>) -> T) -> T {
        then(self.value(id).as_deref())
    }
    /// `$1` to `$9` of the last match; `$0` is the whole match.
    fn capture(&self, n: usize) -> Value;
}

/// The names that a configuration uses, numbered in the order of their first mention.
#[derive(Default)]
pub struct Names(RefCell<Inner>);

#[derive(Default)]
struct Inner {
    ids: QuickMap<String, VarId>,
    order: Vec<String>,
    /// Names that get their value at run time: by `set`, by a named capture.
    slots: Vec<Slot>,
    /// Patterns, which name variables as well; `true`: without regard to case.
    patterns: QuickMap<(String, bool), Arc<Pattern>>,
}

/// A name that the configuration itself gives values to.
struct Slot {
    id: VarId,
    at: At,
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A family of variables gives such a name its first value.
    Set,
    Capture,
}

impl Names {
    /// The number of a name. nginx compares names without regard to case.
    pub fn id(&self, name: &str) -> VarId {
        let name = name.to_ascii_lowercase();
        let inner = &mut *self.0.borrow_mut();
        if let Some(&id) = inner.ids.get(&name) {
            return id;
        }
        let id = VarId(u32::try_from(inner.order.len()).unwrap_or(u32::MAX));
        inner.order.push(name.clone());
        inner.ids.insert(name, id);
        id
    }

    /// Whether anything has named it so far.
    pub fn mentions(&self, name: &str) -> bool {
        self.0.borrow().ids.contains_key(name)
    }

    /// The number of a name that a pattern, which stands at `at`, gives values to: `(?<name>…)`.
    pub fn captured(&self, name: &str, at: &At) -> VarId {
        self.slot(name, at, By::Capture)
    }

    /// The number of a name that `set $name`, which stands at `at`, gives values to.
    pub fn assigned(&self, name: &str, at: &At) -> VarId {
        self.slot(name, at, By::Set)
    }

    /// A compiled pattern. Thousands of sites may have the same one, which is compiled once.
    pub fn pattern(&self, source: &str, caseless: bool) -> Result<Arc<Pattern>, String> {
        let key = (source.to_owned(), caseless);
        if let Some(known) = self.0.borrow().patterns.get(&key) {
            return Ok(known.clone());
        }
        let pattern = Arc::new(Pattern::new(source, caseless)?);
        self.0.borrow_mut().patterns.insert(key, pattern.clone());
        Ok(pattern)
    }

    fn slot(&self, name: &str, at: &At, by: By) -> VarId {
        let id = self.id(name);
        self.0.borrow_mut().slots.push(Slot { id, at: at.clone(), by });
        id
    }
}

/// How long a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Computed at the first use of a request, then kept: nginx's indexed variables.
    Once,
    /// Computed at each use: nginx's `NGX_HTTP_VAR_NOCACHEABLE`.
    Never,
}

/// A value that is there already, or of which one can say in a moment what it is.
pub enum Lent<'a> {
    Shared(&'a Bytes),
    Part(&'a Bytes, Span),
    Fixed(&'static [u8]),
    /// A number in decimal, right-aligned, and where it begins.
    Digits([u8; 20], usize),
    Own(Bytes),
}

impl Lent<'_> {
    pub fn number(number: u64) -> Self {
        let mut digits = [0; 20];
        let len = byte::decimal(number, &mut digits).len();
        Self::Digits(digits, digits.len() - len)
    }

    fn into_value(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes.clone(),
            Self::Part(whole, span) => span.slice(whole),
            Self::Fixed(text) => Bytes::from_static(text),
            Self::Digits(..) => Bytes::copy_from_slice(&self),
            Self::Own(bytes) => bytes,
        }
    }
}

impl Deref for Lent<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Part(whole, span) => span.of(whole),
            Self::Fixed(text) => text,
            Self::Digits(digits, from) => digits.get(*from..).unwrap_or_default(),
            Self::Own(bytes) => bytes,
        }
    }
}

pub type Get<R> = Box<dyn Fn(&R) -> Value + Send + Sync>;
pub type Lend<R> = for<'a> fn(&'a R) -> Option<Lent<'a>>;
pub type Set<R> = Box<dyn Fn(&R, Value) + Send + Sync>;

/// One variable: how to compute it and whether `set` may change it.
pub struct Row<R> {
    pub keep: Keep,
    pub get: Get<R>,
    /// The same for who only looks.
    pub lend: Option<Lend<R>>,
    /// What `set $name` does beyond keeping the value; `None` where nginx says `the duplicate "x" variable`.
    pub set: Option<Set<R>>,
    /// May be given another value by `set` or `map`.
    pub changeable: bool,
}

impl<R> Row<R> {
    pub fn once(get: impl Fn(&R) -> Value + Send + Sync + 'static) -> Self {
        Self { keep: Keep::Once, get: Box::new(get), lend: None, set: None, changeable: false }
    }

    /// Computed at each use, and to keep it would cost more.
    pub fn lent(lend: Lend<R>) -> Self
    where
        R: 'static,
    {
        Self { lend: Some(lend), ..Self::each(move |values| lend(values).map(Lent::into_value)) }
    }

    pub fn each(get: impl Fn(&R) -> Value + Send + Sync + 'static) -> Self {
        Self { keep: Keep::Never, ..Self::once(get) }
    }

    /// May be redefined by `set`, `map` or `geo`.
    pub fn changeable(self) -> Self {
        Self { changeable: true, ..self }
    }

    /// `set $name` calls this instead of keeping the value.
    pub fn settable(self, set: impl Fn(&R, Value) + Send + Sync + 'static) -> Self {
        Self { set: Some(Box::new(set)), changeable: true, ..self }
    }
}

/// Makes the row of `$prefix_rest` from the rest, which is in lower case.
pub type Make<R> = fn(&str) -> Row<R>;

/// What modules define, collected while linking.
pub struct Definitions<R> {
    rows: QuickMap<String, Row<R>>,
    families: Vec<(&'static str, Make<R>)>,
    /// Makes the row of a name that has no value but what `set` gives it.
    unassigned: fn(VarId) -> Row<R>,
}

impl<R> Default for Definitions<R> {
    fn default() -> Self {
        Self { rows: QuickMap::default(), families: Vec::new(), unassigned: |_| Row::once(|_| None) }
    }
}

impl<R> Definitions<R> {
    /// Defines `$name`; a second definition is refused unless the first is changeable.
    pub fn define(&mut self, name: &str, row: Row<R>) -> Result<(), Fault> {
        let name = name.to_ascii_lowercase();
        if self.rows.get(&name).is_some_and(|old| !old.changeable) {
            return Err(Fault::new(format!("the duplicate \"{name}\" variable")));
        }
        self.rows.insert(name, row);
        Ok(())
    }

    /// Defines all of `$prefix…`.
    pub fn family(&mut self, prefix: &'static str, make: Make<R>) {
        self.families.push((prefix, make));
    }

    /// Says what a name is that only `set` gives values to, before it does.
    pub fn unassigned(&mut self, make: fn(VarId) -> Row<R>) {
        self.unassigned = make;
    }

    /// The row of a name by the longest prefix that it begins with.
    fn member(&self, name: &str) -> Option<Row<R>> {
        let families = self.families.iter().filter(|(prefix, _)| name.starts_with(prefix));
        let (prefix, make) = families.max_by_key(|(prefix, _)| prefix.len())?;
        Some(make(&name[prefix.len()..]))
    }
}

/// What a whole block shares while it is linked, as modules see it that `http` and `stream` share.
pub trait Defines {
    /// Whose variables they are: a request's or a session's.
    type Asker: super::pattern::Matching + 'static;

    fn definitions(&mut self) -> &mut Definitions<Self::Asker>;
}

/// The rows of one configuration, by number.
pub struct Table<R> {
    rows: Vec<Row<R>>,
    names: Vec<Box<str>>,
    /// What no text of the configuration mentions. A page may: see [`Table::look_up`].
    rest: Definitions<R>,
    ids: QuickMap<String, VarId>,
}

/// What [`Table::look_up`] found.
pub enum Named<R> {
    /// A name that the configuration mentions.
    Id(VarId),
    /// A value computed for this once.
    Value(Value),
    /// A member of a family, made for this once.
    Row(Row<R>),
}

impl<R: 'static> Table<R> {
    /// Joins the names used with the rows defined.
    pub fn new(names: &Names, mut defined: Definitions<R>) -> Result<Self, Fault> {
        let inner = names.0.borrow();
        let mut rows = Vec::with_capacity(inner.order.len());
        // By name: the first that gives it a value, and whether any is a capture.
        let mut slots: Vec<(Option<&Slot>, bool)> = vec![(None, false); inner.order.len()];
        for slot in &inner.slots {
            if let Some((first, captured)) = slots.get_mut(slot.id.index()) {
                first.get_or_insert(slot);
                *captured |= slot.by == By::Capture;
            }
        }
        for (name, (slot, captured)) in inner.order.iter().zip(slots) {
            let row = match defined.rows.remove(name) {
                Some(row) => {
                    if let (Some(slot), false) = (slot, row.changeable) {
                        return Err(Fault::at(format!("the duplicate \"{name}\" variable"), &slot.at));
                    }
                    row
                }
                None if captured => Row::once(|_| None).changeable(),
                // nginx: `set` does not take a name from its family, it only comes first once it ran.
                None => match (defined.member(name), slot) {
                    (Some(row), _) => row,
                    (None, Some(slot)) => (defined.unassigned)(slot.id).changeable(),
                    (None, None) => return Err(Fault::nowhere(format!("unknown \"{name}\" variable"))),
                },
            };
            rows.push(row);
        }
        let names = inner.order.iter().map(|name| name.as_str().into()).collect();
        Ok(Self { rows, names, rest: defined, ids: inner.ids.clone() })
    }
}

impl<R> Table<R> {
    pub fn row(&self, id: VarId) -> &Row<R> {
        &self.rows[id.index()]
    }

    pub fn name(&self, id: VarId) -> &str {
        &self.names[id.index()]
    }

    /// The names that the configuration uses, in small letters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Finds a variable by its name in lower case, where a name is known no earlier than a page says it. `None`: nobody
    /// defines it. This is the one look-up by text at run time.
    pub fn look_up(&self, name: &str, values: &R) -> Option<Named<R>> {
        if let Some(&id) = self.ids.get(name) {
            return Some(Named::Id(id));
        }
        match self.rest.rows.get(name) {
            Some(row) => Some(Named::Value((row.get)(values))),
            None => self.rest.member(name).map(Named::Row),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> At {
        At { file: "x.conf".into(), line: 1, row: 1, column: 0, length: 0 }
    }

    #[test]
    fn what_is_lent_and_what_is_given_are_the_same() {
        let line = Bytes::from_static(b"GET / HTTP/1.1");
        for (lent, text) in [
            (Lent::Shared(&line), "GET / HTTP/1.1"),
            (Lent::Part(&line, Span { start: 4, end: 5 }), "/"),
            (Lent::Part(&line, Span { start: 4, end: 50 }), ""),
            (Lent::Fixed(b"http"), "http"),
            (Lent::number(0), "0"),
            (Lent::number(u64::MAX), "18446744073709551615"),
            (Lent::Own(line.slice(..3)), "GET"),
        ] {
            assert_eq!(*lent, *text.as_bytes());
            assert_eq!(lent.into_value(), text);
        }
        let row: Row<Bytes> = Row::lent(|values| Some(Lent::Shared(values)));
        assert_eq!(((row.get)(&line), row.keep), (Some(line.clone()), Keep::Never));
    }

    #[test]
    fn names_meet_rows_families_and_slots() {
        let names = Names::default();
        let (a, b, c) = (names.id("Alpha"), names.id("x_long_rest"), names.captured("mine", &here()));
        assert_eq!(a, names.id("alpha"));
        let mut defined = Definitions::<()>::default();
        defined.define("alpha", Row::once(|()| Some("A".into()))).expect("new");
        defined.family("x_", |_| Row::each(|()| Some("short".into())));
        defined.family("x_long_", |rest| {
            let rest = Bytes::copy_from_slice(rest.as_bytes());
            Row::each(move |()| Some(rest.clone()))
        });
        let table = Table::new(&names, defined).expect("all known");
        assert_eq!((table.row(a).get)(&()), Some("A".into()));
        assert_eq!((table.row(b).get)(&()), Some("rest".into()));
        assert_eq!((table.row(c).get)(&()), None);
    }

    #[test]
    fn unknown_and_duplicate_names_are_faults() {
        let names = Names::default();
        names.id("nobody");
        let fault = Table::new(&names, Definitions::<()>::default()).err().expect("unknown");
        assert_eq!(fault.message, "unknown \"nobody\" variable");
        let names = Names::default();
        names.captured("host", &here());
        let mut defined = Definitions::<()>::default();
        defined.define("host", Row::once(|()| None)).expect("new");
        let fault = Table::new(&names, defined).err().expect("not changeable");
        assert_eq!(fault.message, "the duplicate \"host\" variable");
    }
}
