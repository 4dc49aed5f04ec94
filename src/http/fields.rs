//! The fields of a head, in their order.
//!
//! A head that came in is one piece of memory, and its fields are places in it: taking them in costs no reference each,
//! and handing them on to the client costs one for all. What is added later stands beside them, in the same order.

use std::cell::RefCell;

use bytes::Bytes;

use super::response::Field;
use crate::wire::byte::same_name;
use crate::wire::http1::field;
use crate::wire::http1::name::{Kind, Kinds};
use crate::wire::span::Span;

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The head that came.
    came: Bytes,
    lists: Lists,
    kinds: Kinds,
}

/// Where a field is, and the kind of its name.
#[derive(Clone, Copy, Debug)]
enum Place {
    Came { kind: Kind, name: Span, value: Span },
    Added { kind: Kind, n: u32 },
}

impl Place {
    #[inline]
    fn kind(self) -> Kind {
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

/// Which fields there are, in their order, and those that were added. The memory serves one head after another.
#[derive(Debug, Default)]
struct Lists {
    order: Vec<Place>,
    added: Vec<Field>,
}

thread_local! {
    static SPARE: RefCell<Vec<(Vec<Place>, Vec<Field>)>> = const { RefCell::new(Vec::new()) };
}

/// So many lists wait for another head, each with room for so many fields at most.
const SPARE_LISTS: usize = 16;
const SPARE_FIELDS: usize = 64;

impl Lists {
    #[inline]
    fn push(&mut self, place: Place) {
        self.make_room();
        self.order.push(place);
    }

    /// Keeps a field; its place is still to be found.
    #[inline]
    fn add(&mut self, field: Field) -> Place {
        self.make_room();
        let (kind, n) = (Kind::of(&field.name), u32::try_from(self.added.len()).unwrap_or(u32::MAX));
        self.added.push(field);
        Place::Added { kind, n }
    }

    #[inline]
    fn make_room(&mut self) {
        if self.order.capacity() == 0 {
            let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
            (self.order, self.added) = spare.unwrap_or_else(|| (Vec::with_capacity(8), Vec::new()));
        }
    }
}

impl Drop for Lists {
    #[inline]
    fn drop(&mut self) {
        if self.order.capacity() == 0 || self.order.capacity().max(self.added.capacity()) > SPARE_FIELDS {
            return;
        }
        let (mut order, mut added) = (std::mem::take(&mut self.order), std::mem::take(&mut self.added));
        order.clear();
        added.clear();
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_LISTS {
                spare.push((order, added));
            }
        }); // else the thread ends
    }
}

impl Clone for Lists {
    fn clone(&self) -> Self {
        let mut lists = Self::default();
        if !self.order.is_empty() {
            lists.make_room();
            lists.order.extend_from_slice(&self.order);
            lists.added.extend_from_slice(&self.added);
        }
        lists
    }
}

/// The fields of a head while it is read: where the parser saw them in it.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    lists: Lists,
    kinds: Kinds,
}

impl Lines {
    pub fn len(&self) -> usize {
        self.lists.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.order.is_empty()
    }

    /// Takes in what the parser saw; `kind` is that of its name.
    #[inline]
    pub fn push(&mut self, line: field::Field, kind: Kind) {
        self.kinds.add(kind);
        self.lists.push(Place::Came { kind, name: line.name, value: line.value });
    }

    /// The first of a name that is of this kind: name and value. `head` is what has come of it.
    #[inline]
    pub fn first<'a>(&self, name: &[u8], kind: Kind, head: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let list = if self.kinds.have(kind) { &self.lists.order[..] } else { &[] };
        list.iter().find_map(|place| match *place {
            Place::Came { kind: of, name: at, value } if of == kind && same_name(at.of(head), name) => {
                Some((at.of(head), value.of(head)))
            }
            _ => None,
        })
    }
}

impl Fields {
    /// Those of a head, where its parser saw them.
    pub fn of(head: Bytes, lines: Lines) -> Self {
        let Lines { lists, kinds } = lines;
        Self { came: head, lists, kinds }
    }

    pub fn len(&self) -> usize {
        self.lists.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lists.order.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = FieldRef<'_>> + Clone {
        self.lists.order.iter().map(|place| self.look(*place))
    }

    /// The field at a place; none behind the last.
    pub fn get(&self, n: usize) -> Option<FieldRef<'_>> {
        self.lists.order.get(n).map(|place| self.look(*place))
    }

    #[inline]
    fn name(&self, place: Place) -> &[u8] {
        match place {
            Place::Came { name, .. } => name.of(&self.came),
            Place::Added { n, .. } => self.lists.added.get(n as usize).map_or(b"", |field| &field.name),
        }
    }

    fn look(&self, place: Place) -> FieldRef<'_> {
        match place {
            Place::Came { name, value, .. } => {
                let head = &self.came;
                FieldRef { name: name.of(head), value: value.of(head), holders: (head, head) }
            }
            Place::Added { n, .. } => match self.lists.added.get(n as usize) {
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
        let kind = Kind::of(name.as_bytes());
        let list = if self.kinds.have(kind) { &self.lists.order[..] } else { &[] };
        let named = move |place: &&Place| place.kind() == kind && same_name(self.name(**place), name.as_bytes());
        list.iter().filter(named).map(|place| self.look(*place))
    }

    /// All of the name that the `n`th has, if it is the first of them.
    pub fn lines_from(&self, n: usize) -> Option<impl Iterator<Item = FieldRef<'_>>> {
        let (before, from) = self.lists.order.split_at_checked(n)?;
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
        self.lists.push(place);
    }

    /// Adds a field of `other`, which is of the same head.
    pub fn push_from(&mut self, other: &Self, n: usize) {
        match other.lists.order.get(n) {
            Some(Place::Added { n, .. }) => {
                if let Some(field) = other.lists.added.get(*n as usize) {
                    self.push(field.clone());
                }
            }
            Some(&came) => {
                self.kinds.add(came.kind());
                self.lists.push(came);
            }
            None => {}
        }
    }

    /// No fields, but of the same head as these.
    pub fn like(&self) -> Self {
        Self { came: self.came.clone(), lists: Lists::default(), kinds: Kinds::default() }
    }

    fn add(&mut self, field: Field) -> Place {
        let place = self.lists.add(field);
        self.kinds.add(place.kind());
        place
    }

    /// Puts fields in front of all others.
    pub fn prepend(&mut self, fields: Vec<Field>) {
        let places: Vec<Place> = fields.into_iter().map(|field| self.add(field)).collect();
        self.lists.order.splice(0..0, places);
    }

    pub fn remove(&mut self, n: usize) {
        if n < self.lists.order.len() {
            self.lists.order.remove(n);
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(FieldRef<'_>) -> bool) {
        let mut order = std::mem::take(&mut self.lists.order);
        order.retain(|place| keep(self.look(*place)));
        self.lists.order = order;
    }

    /// Puts another field in the place of one.
    pub fn replace(&mut self, n: usize, field: Field) {
        if n < self.lists.order.len() {
            self.lists.order[n] = self.add(field);
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
        let mut lines = Lines::default();
        while let Ok(Some(field::Line::Field(line))) = parser.next(&head, field::NameRules::UPSTREAM) {
            lines.push(line, Kind::of(line.name.of(&head)));
        }
        Fields::of(head, lines)
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
