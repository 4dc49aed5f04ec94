//! The fields of a head, in their order.
//!
//! A head that came in is one piece of memory, and its fields are places in it: taking them in costs no reference each,
//! and handing them on to the client costs one for all. What is added later stands beside them, in the same order.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use smallvec::SmallVec;

use super::response::Field;
use crate::wire::byte::same_name;
use crate::wire::http1::field;
use crate::wire::span::Span;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The head that came.
    came: Bytes,
    list: List,
    added: Added,
    kinds: Kinds,
}

/// A number below 64 for a name, by its length, its first letter and its last. The factors are those with which fewest of the
/// names that browsers and servers send have the number of another that is asked for.
#[inline]
fn kind(name: &[u8]) -> u8 {
    let small = |letter: Option<&u8>| letter.map_or(0, |letter| usize::from(letter | 0x20));
    ((name.len() * 20 + small(name.first()) * 9 + small(name.last())) % 64) as u8
}

/// The kinds of name that are or were among fields, a bit each: most names that are asked for are not there.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds(u64);

impl Kinds {
    #[inline]
    fn add(&mut self, kind: u8) {
        self.0 |= 1 << (kind % 64);
    }

    #[inline]
    fn have(self, kind: u8) -> bool {
        self.0 & 1 << (kind % 64) != 0
    }
}

/// Few heads have more fields.
type List = SmallVec<[Place; 8]>;
/// A file's head gets one, its entity tag.
type Added = SmallVec<[Field; 1]>;

/// Where a field is, and the kind of its name.
#[derive(Clone, Copy, Debug)]
enum Place {
    Came { kind: u8, name: Span, value: Span },
    Added { kind: u8, n: u32 },
}

impl Place {
    #[inline]
    fn kind(self) -> u8 {
        match self {
            Self::Came { kind, .. } | Self::Added { kind, .. } => kind,
        }
    }
}

/// A field, looked at.
#[derive(Clone, Copy, Debug)]
pub struct FieldRef<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// The memory that holds the name, and that which holds the value.
    holders: (&'a Bytes, &'a Bytes),
}

impl FieldRef<'_> {
    pub fn is(&self, name: &str) -> bool {
        same_name(self.name, name.as_bytes())
    }

    /// The name, to keep.
    pub fn name_bytes(&self) -> Bytes {
        self.holders.0.slice_ref(self.name)
    }

    /// The value, to keep.
    pub fn value_bytes(&self) -> Bytes {
        self.holders.1.slice_ref(self.value)
    }

    /// The field, to keep.
    pub fn to_field(&self) -> Field {
        Field { name: self.name_bytes(), value: self.value_bytes() }
    }
}

impl<'a> From<&'a Field> for FieldRef<'a> {
    fn from(field: &'a Field) -> Self {
        Self { name: &field.name, value: &field.value, holders: (&field.name, &field.value) }
    }
}

/// The fields of a head while it is read: where the parser saw them. One list serves all heads of a thread.
#[derive(Debug)]
pub struct Lines(Vec<field::Field>);

thread_local! {
    static SPARE: Cell<Vec<field::Field>> = const { Cell::new(Vec::new()) };
}

impl Default for Lines {
    fn default() -> Self {
        Self(SPARE.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.0);
        list.clear();
        if list.capacity() > 0 {
            let _ = SPARE.try_with(|spare| spare.set(list)); // the thread ends
        }
    }
}

impl Deref for Lines {
    type Target = Vec<field::Field>;

    fn deref(&self) -> &Vec<field::Field> {
        &self.0
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut Vec<field::Field> {
        &mut self.0
    }
}

impl Fields {
    /// Those of a head, where its parser saw them.
    pub fn of(head: Bytes, lines: &[field::Field]) -> Self {
        let mut kinds = Kinds::default();
        let place = |line: &field::Field| {
            let kind = kind(line.name.of(&head));
            kinds.add(kind);
            Place::Came { kind, name: line.name, value: line.value }
        };
        let list = lines.iter().map(place).collect();
        Self { came: head, list, added: Added::new(), kinds }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = FieldRef<'_>> + Clone {
        self.list.iter().map(|place| self.look(*place))
    }

    /// The field at a place; none behind the last.
    pub fn get(&self, n: usize) -> Option<FieldRef<'_>> {
        self.list.get(n).map(|place| self.look(*place))
    }

    #[inline]
    fn name(&self, place: Place) -> &[u8] {
        match place {
            Place::Came { name, .. } => name.of(&self.came),
            Place::Added { n, .. } => self.added.get(n as usize).map_or(b"", |field| &field.name),
        }
    }

    fn look(&self, place: Place) -> FieldRef<'_> {
        match place {
            Place::Came { name, value, .. } => {
                let head = &self.came;
                FieldRef { name: name.of(head), value: value.of(head), holders: (head, head) }
            }
            Place::Added { n, .. } => match self.added.get(n as usize) {
                Some(field) => field.into(),
                None => FieldRef { name: b"", value: b"", holders: (&self.came, &self.came) },
            },
        }
    }

    /// The first of that name.
    #[inline]
    pub fn first(&self, name: &str) -> Option<FieldRef<'_>> {
        self.all(name).next()
    }

    /// All of that name.
    #[inline]
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = FieldRef<'a>> + Clone {
        let kind = kind(name.as_bytes());
        let list = if self.kinds.have(kind) { &self.list[..] } else { &[] };
        let named = move |place: &&Place| place.kind() == kind && same_name(self.name(**place), name.as_bytes());
        list.iter().filter(named).map(|place| self.look(*place))
    }

    /// All of the name that the `n`th has, if it is the first of them.
    pub fn lines_from(&self, n: usize) -> Option<impl Iterator<Item = FieldRef<'_>>> {
        let (before, from) = self.list.split_at_checked(n)?;
        let first = *from.first()?;
        let name = self.name(first);
        let same = move |place: &&Place| place.kind() == first.kind() && same_name(self.name(**place), name);
        if before.iter().any(|place| same(&place)) {
            return None;
        }
        Some(from.iter().filter(same).map(|place| self.look(*place)))
    }

    pub fn position(&self, is: impl FnMut(FieldRef<'_>) -> bool) -> Option<usize> {
        self.iter().position(is)
    }

    pub fn push(&mut self, field: Field) {
        let place = self.add(field);
        self.list.push(place);
    }

    /// Adds a field of `other`, which is of the same head.
    pub fn push_from(&mut self, other: &Self, n: usize) {
        match other.list.get(n) {
            Some(Place::Added { n, .. }) => {
                if let Some(field) = other.added.get(*n as usize) {
                    self.push(field.clone());
                }
            }
            Some(&came) => {
                self.kinds.add(came.kind());
                self.list.push(came);
            }
            None => {}
        }
    }

    /// No fields, but of the same head as these.
    pub fn like(&self) -> Self {
        Self {
            came: self.came.clone(),
            list: List::with_capacity(self.list.len()),
            added: Added::new(),
            kinds: Kinds::default(),
        }
    }

    fn add(&mut self, field: Field) -> Place {
        let kind = kind(&field.name);
        self.kinds.add(kind);
        self.added.push(field);
        Place::Added { kind, n: u32::try_from(self.added.len() - 1).unwrap_or(u32::MAX) }
    }

    /// Puts fields in front of all others.
    pub fn prepend(&mut self, fields: Vec<Field>) {
        let mut list: List = fields.into_iter().map(|field| self.add(field)).collect();
        list.append(&mut self.list);
        self.list = list;
    }

    pub fn remove(&mut self, n: usize) {
        if n < self.list.len() {
            self.list.remove(n);
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(FieldRef<'_>) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|place| keep(self.look(*place)));
        self.list = list;
    }

    /// Puts another field in the place of one.
    pub fn replace(&mut self, n: usize, field: Field) {
        if n < self.list.len() {
            self.list[n] = self.add(field);
        }
    }

    /// Changes a field's value, where it stands.
    pub fn set_value(&mut self, n: usize, value: Bytes) {
        if let Some(name) = self.get(n).map(|field| field.name_bytes()) {
            self.replace(n, Field { name, value });
        }
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<T: IntoIterator<Item = Field>>(fields: T) -> Self {
        let mut all = Self::default();
        fields.into_iter().for_each(|field| all.push(field));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(fields: &Fields) -> String {
        fields.iter().fold(String::new(), |all, field| {
            format!("{all}{}={} ", String::from_utf8_lossy(field.name), String::from_utf8_lossy(field.value))
        })
    }

    fn head() -> Fields {
        let head = Bytes::from_static(b"A: 1\r\nB: 2\r\nA: 3\r\n\r\n");
        let mut parser = field::FieldParser::new(0);
        let mut lines = Vec::new();
        while let Ok(Some(field::Line::Field(line))) = parser.next(&head, field::NameRules::UPSTREAM) {
            lines.push(line);
        }
        Fields::of(head, &lines)
    }

    #[test]
    fn what_came_and_what_was_added_stand_in_one_order() {
        let mut fields = head();
        fields.push(Field::new("C", "4"));
        fields.prepend(vec![Field::new("X", "0"), Field::new("Y", "0")]);
        assert_eq!(shown(&fields), "X=0 Y=0 A=1 B=2 A=3 C=4 ");
        fields.set_value(3, Bytes::from_static(b"22"));
        fields.replace(0, Field::new("Z", "9"));
        fields.retain(|field| !field.is("a"));
        assert_eq!(shown(&fields), "Z=9 Y=0 B=22 C=4 ");
        fields.remove(1);
        fields.remove(9);
        assert_eq!((shown(&fields).as_str(), fields.len()), ("Z=9 B=22 C=4 ", 3));
        assert_eq!(fields.first("b").map(|field| field.to_field()), Some(Field::new("B", "22")));
    }

    #[test]
    fn a_choice_of_fields_shares_the_head() {
        let mut fields = head();
        fields.push(Field::new("C", "4"));
        let mut some = fields.like();
        for n in [3, 1, 7] {
            some.push_from(&fields, n);
        }
        assert_eq!(shown(&some), "C=4 B=2 ");
    }
}
