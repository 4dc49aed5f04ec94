//! The contract between the configuration and a module: a table of directives, typed settings, and how they become
//! part of a plan.
//!
//! In: statements. Out: a [`Level`] tree of typed sections, inherited, which the modules link into plans.
//! The rule: type erasure lives in this file and only while loading. Each module's three sections are kept as
//! `dyn Any` under the module's number; the only casts are in [`Erased::of`] and [`Level`].

use std::any::{Any, TypeId};
use std::rc::Rc;

use super::error::{At, Fault};
use super::lex::{Node, Statement};
use super::words::{Context, Words};

use crate::base::hash::QuickMap;

/// Where a directive may stand; joined by [`Place::or`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

pub const MAIN: Place = Place(1);
pub const EVENTS: Place = Place(1 << 1);
pub const HTTP: Place = Place(1 << 2);
pub const SERVER: Place = Place(1 << 3);
pub const LOCATION: Place = Place(1 << 4);
pub const IF_SERVER: Place = Place(1 << 5);
pub const IF_LOCATION: Place = Place(1 << 6);
pub const LIMIT_EXCEPT: Place = Place(1 << 7);
pub const UPSTREAM: Place = Place(1 << 8);
/// `http, server, location`, the commonest of all.
pub const EVERYWHERE: Place = HTTP.or(SERVER).or(LOCATION);

/// How many arguments a directive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    None,
    /// One argument that is `on` or `off`.
    Flag,
    Exactly(usize),
    AtLeast(usize),
    Between(usize, usize),
}

impl Arity {
    fn takes(self, count: usize) -> bool {
        match self {
            Self::None => count == 0,
            Self::Flag => count == 1,
            Self::Exactly(n) => count == n,
            Self::AtLeast(n) => count >= n,
            Self::Between(low, high) => (low..=high).contains(&count),
        }
    }
}

/// The settings of one module at one level.
pub trait Section: Default + 'static {
    /// Takes from the outer level what was not said here. Destructure `Self` without `..`.
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault>;
}

impl Section for () {
    fn inherit(&mut self, (): &Self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What a tree of levels is linked into.
pub trait Plan: Default + 'static {
    /// What the whole `http` (or `stream`) block shares.
    type Main;
    /// What one `server` block adds.
    type Server;
}

/// A feature: directives, settings, and what they mean for a plan. See `style.md`'s example or
/// `modules/content/small.rs`.
pub trait Module: Sized + 'static {
    const NAME: &'static str;
    /// What every name of the table begins with: `proxy` for `_connect_timeout`. Families mount one table twice.
    const PREFIX: &'static str = "";
    const DIRECTIVES: &'static [Directive<Self>];
    type Plan: Plan;
    /// Once per `http` block.
    type Main: Section;
    /// Once per `server` block, inherited from `http`.
    type Server: Section;
    /// Once per `location` (and `if`, `limit_except`), inherited all the way.
    type Location: Section;

    /// Whether a row of the table is there: members of a family need not have all of it.
    fn has(_: &str) -> bool {
        true
    }

    /// Before any location is linked: what the whole block shares, such as variables.
    fn link_main(_: &Level<'_>, _: &mut <Self::Plan as Plan>::Main) -> Result<(), Fault> {
        Ok(())
    }

    /// Once per server, before its locations.
    fn link_server(_: &Level<'_>, _: &mut <Self::Plan as Plan>::Server) -> Result<(), Fault> {
        Ok(())
    }

    /// Once per location; a server's own level counts as one.
    fn link(_: &Level<'_>, _: &mut Self::Plan) -> Result<(), Fault> {
        Ok(())
    }
}

/// One row of a module's table.
pub struct Directive<M: Module> {
    name: &'static str,
    places: Place,
    arity: Arity,
    set: Setter<M>,
}

type SetMain<M> = fn(&mut <M as Module>::Main, &Words<'_>) -> Result<(), Fault>;
type SetServer<M> = fn(&mut <M as Module>::Server, &Words<'_>) -> Result<(), Fault>;
type SetLocation<M> = fn(&mut <M as Module>::Location, &Words<'_>) -> Result<(), Fault>;
type OpenLevel<M> = fn(&mut <M as Module>::Location, &mut <M as Module>::Location, &Words<'_>) -> Result<(), Fault>;

enum Setter<M: Module> {
    Main(SetMain<M>, Shape),
    Server(SetServer<M>, Shape),
    Location(SetLocation<M>, Shape),
    Open(OpenLevel<M>, fn(Place) -> Place),
}

/// Whether a directive ends in `;` or in a block.
#[derive(Clone, Copy)]
enum Shape {
    Line,
    /// A block of lines that the directive reads itself: `types`, `map`, `upstream`.
    Block,
    /// A block of directives of the level it opens: `server`, `location`, `if`.
    Level(fn(Place) -> Place),
}

impl<M: Module> Directive<M> {
    /// A directive whose setting belongs to the whole `http` block.
    pub const fn main(name: &'static str, places: Place, arity: Arity, set: SetMain<M>) -> Self {
        Self { name, places, arity, set: Setter::Main(set, Shape::Line) }
    }

    /// As [`Directive::main`], with a block that the method reads from [`Words::block`].
    pub const fn main_block(name: &'static str, places: Place, arity: Arity, set: SetMain<M>) -> Self {
        Self { name, places, arity, set: Setter::Main(set, Shape::Block) }
    }

    /// A directive whose setting belongs to a server.
    pub const fn server(name: &'static str, places: Place, arity: Arity, set: SetServer<M>) -> Self {
        Self { name, places, arity, set: Setter::Server(set, Shape::Line) }
    }

    /// A directive whose setting belongs to a location.
    pub const fn location(name: &'static str, places: Place, arity: Arity, set: SetLocation<M>) -> Self {
        Self { name, places, arity, set: Setter::Location(set, Shape::Line) }
    }

    /// As [`Directive::location`], with a block that the method reads from [`Words::block`].
    pub const fn location_block(name: &'static str, places: Place, arity: Arity, set: SetLocation<M>) -> Self {
        Self { name, places, arity, set: Setter::Location(set, Shape::Block) }
    }

    /// A directive that opens a level below this one. `place` says which, given where it stands; the method gets the
    /// section of the level around, the section of the new one, and its number in [`Words::child`].
    pub const fn level(
        name: &'static str,
        places: Place,
        arity: Arity,
        place: fn(Place) -> Place,
        open: OpenLevel<M>,
    ) -> Self {
        Self { name, places, arity, set: Setter::Open(open, place) }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }
}

type AnySetter = Box<dyn Fn(&mut Sections, &Words<'_>) -> Result<(), Fault>>;
type AnyOpen = Box<dyn Fn(&mut Sections, &mut Sections, &Words<'_>) -> Result<(), Fault>>;
/// `None`: nothing was said. Levels that say nothing share what they inherit.
type Cell = Option<Rc<dyn Any>>;
type AnyInherit = fn(&mut Cell, &Cell) -> Result<(), Fault>;

enum AnySet {
    Set(AnySetter),
    Open(AnyOpen),
}

/// A directive of any module.
struct Known {
    places: Place,
    arity: Arity,
    shape: Shape,
    set: AnySet,
}

/// A module with its types erased, as [`Modules`] keeps it.
pub struct Erased<P: Plan> {
    name: &'static str,
    id: TypeId,
    directives: Vec<(String, Known)>,
    defaults: [Box<dyn Any>; 3],
    inherit_server: AnyInherit,
    inherit_location: AnyInherit,
    link_main: fn(&Level<'_>, &mut P::Main) -> Result<(), Fault>,
    link_server: fn(&Level<'_>, &mut P::Server) -> Result<(), Fault>,
    link: fn(&Level<'_>, &mut P) -> Result<(), Fault>,
}

impl<P: Plan> Erased<P> {
    /// Erases `M`, which will be module number `index`.
    fn of<M: Module<Plan = P>>(index: usize) -> Self {
        let rows = M::DIRECTIVES.iter().filter(|row| M::has(row.name));
        let directives = rows.map(|row| (format!("{}{}", M::PREFIX, row.name), known(row, index)));
        Self {
            name: M::NAME,
            id: TypeId::of::<M>(),
            directives: directives.collect(),
            defaults: [Box::<M::Main>::default(), Box::<M::Server>::default(), Box::<M::Location>::default()],
            inherit_server: inherit::<M::Server>,
            inherit_location: inherit::<M::Location>,
            link_main: M::link_main,
            link_server: M::link_server,
            link: M::link,
        }
    }
}

/// The typed row as one that finds its section by the module's number.
fn known<M: Module>(row: &'static Directive<M>, index: usize) -> Known {
    let (set, shape) = match row.set {
        Setter::Main(set, shape) => (
            AnySet::Set(Box::new(move |sections, words| set(open::<M::Main>(&mut sections.main[index]), words))),
            shape,
        ),
        Setter::Server(set, shape) => (
            AnySet::Set(Box::new(move |sections, words| set(open::<M::Server>(&mut sections.server[index]), words))),
            shape,
        ),
        Setter::Location(set, shape) => (
            AnySet::Set(Box::new(move |sections, words| {
                set(open::<M::Location>(&mut sections.location[index]), words)
            })),
            shape,
        ),
        Setter::Open(set, place) => (
            AnySet::Open(Box::new(move |outer, inner, words| {
                let outer = open::<M::Location>(&mut outer.location[index]);
                set(outer, open::<M::Location>(&mut inner.location[index]), words)
            })),
            Shape::Level(place),
        ),
    };
    Known { places: row.places, arity: row.arity, shape, set }
}

/// The section in a cell, begun when this is its first directive.
fn open<S: Section>(cell: &mut Cell) -> &mut S {
    let section = cell.get_or_insert_with(|| Rc::new(S::default()));
    let section = Rc::get_mut(section).expect("nothing is shared before it inherits, and nothing changes after");
    section.downcast_mut().expect("the cell of a module holds its own section type")
}

/// Nothing said at either level stays nothing: the default is shared by all.
fn inherit<S: Section>(inner: &mut Cell, outer: &Cell) -> Result<(), Fault> {
    let Some(outer) = outer else { return Ok(()) };
    let outer = outer.downcast_ref::<S>().expect("the cell of a module holds its own section type");
    open::<S>(inner).inherit(outer)
}

/// The sections of one level, by module number.
struct Sections {
    main: Vec<Cell>,
    server: Vec<Cell>,
    location: Vec<Cell>,
}

impl Sections {
    fn new(place: Place, count: usize) -> Self {
        let cells = |wanted: bool| (0..if wanted { count } else { 0 }).map(|_| None).collect();
        Self { main: cells(place == HTTP), server: cells(HTTP.or(SERVER).has(place)), location: cells(true) }
    }
}

/// One block while it is read.
struct Open {
    place: Place,
    at: At,
    sections: Sections,
    children: Vec<Open>,
}

/// The list of modules, ready to read a block.
pub struct Modules<P: Plan> {
    modules: Vec<Erased<P>>,
    directives: QuickMap<String, (usize, usize)>,
}

impl<P: Plan> Default for Modules<P> {
    fn default() -> Self {
        Self { modules: Vec::new(), directives: QuickMap::default() }
    }
}

impl<P: Plan> Modules<P> {
    /// Adds a module; linking goes in the order of the list.
    pub fn with<M: Module<Plan = P>>(mut self) -> Self {
        let index = self.modules.len();
        let module = Erased::of::<M>(index);
        for (row, (name, _)) in module.directives.iter().enumerate() {
            let before = self.directives.insert(name.clone(), (index, row));
            assert!(before.is_none(), "two modules have a directive {name}");
        }
        self.modules.push(module);
        self
    }

    /// Every directive's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.directives.keys().map(String::as_str)
    }

    /// Reads the `http` (or `stream`) block, inherits, and hands the tree to `build`.
    pub fn load<T>(
        &self,
        block: &[Node],
        at: &At,
        cx: &Context,
        build: impl FnOnce(&Linker<'_, P>, Level<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut root = Open {
            place: HTTP,
            at: at.clone(),
            sections: Sections::new(HTTP, self.modules.len()),
            children: Vec::new(),
        };
        self.read(&mut root, block, cx)?;
        self.inherit(&mut root, &mut Inherited::new(self.modules.len()))?;
        let index = Rc::new(Index { ids: self.modules.iter().enumerate().map(|(n, module)| (module.id, n)).collect() });
        let defaults: Vec<_> = self.modules.iter().map(|module| &module.defaults).collect();
        let level = Level { open: &root, main: &root, server: &root, index: &index, defaults: &defaults, cx };
        build(&Linker { modules: &self.modules }, level)
    }

    fn read(&self, level: &mut Open, block: &[Node], cx: &Context) -> Result<(), Fault> {
        for node in block {
            match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => self.apply(level, statement, cx)?,
            }
        }
        Ok(())
    }

    fn apply(&self, level: &mut Open, statement: &Statement, cx: &Context) -> Result<(), Fault> {
        let word = &statement.words[0];
        let name = word.text.as_str();
        let Some(&(module, row)) = self.directives.get(name) else {
            return Err(unknown(statement, cx, self.names()));
        };
        let (_, known) = &self.modules[module].directives[row];
        check(statement, known.places, level.place, known.arity, !matches!(known.shape, Shape::Line))?;
        let complete = |fault: Fault| fault.of(name).or_at(&word.at);
        match &known.set {
            AnySet::Set(set) => {
                set(&mut level.sections, &Words::new(statement, cx, level.children.len())).map_err(complete)
            }
            AnySet::Open(open) => {
                let Shape::Level(place) = known.shape else { return Ok(()) };
                let place = place(level.place);
                let mut child = Open {
                    place,
                    at: word.at.clone(),
                    sections: Sections::new(place, self.modules.len()),
                    children: Vec::new(),
                };
                let words = Words::new(statement, cx, level.children.len());
                open(&mut level.sections, &mut child.sections, &words).map_err(complete)?;
                self.read(&mut child, words.block(), cx)?;
                level.children.push(child);
                Ok(())
            }
        }
    }

    /// Outermost first, after the whole file is read: a directive below a nested block still reaches into it.
    fn inherit(&self, level: &mut Open, known: &mut Inherited) -> Result<(), Fault> {
        let Open { sections: outer, children, .. } = level;
        for child in children {
            let inner = &mut child.sections;
            for (n, module) in self.modules.iter().enumerate() {
                let place = |fault: Fault| fault.or_at(&child.at);
                if let (Some(inner), Some(outer)) = (inner.server.get_mut(n), outer.server.get(n)) {
                    known.server[n].take(inner, outer, module.inherit_server).map_err(place)?;
                }
                let (inner, outer) = (&mut inner.location[n], &outer.location[n]);
                known.location[n].take(inner, outer, module.inherit_location).map_err(place)?;
            }
            self.inherit(child, known)?;
        }
        Ok(())
    }
}

/// What levels inherit that say nothing themselves, by module number. Most of ten thousand locations say nothing of
/// most modules, and then inherit the same.
struct Inherited {
    server: Vec<Shared>,
    location: Vec<Shared>,
}

/// By the address of an outer section, which lives as long as the tree: what a level below it has that says nothing.
#[derive(Default)]
struct Shared(QuickMap<usize, Cell>);

impl Inherited {
    fn new(count: usize) -> Self {
        let shared = || (0..count).map(|_| Shared::default()).collect();
        Self { server: shared(), location: shared() }
    }
}

impl Shared {
    fn take(&mut self, inner: &mut Cell, outer: &Cell, inherit: AnyInherit) -> Result<(), Fault> {
        let Some(section) = outer.as_ref().filter(|_| inner.is_none()) else { return inherit(inner, outer) };
        let address = Rc::as_ptr(section).cast::<()>().addr();
        if let Some(known) = self.0.get(&address) {
            inner.clone_from(known);
            return Ok(());
        }
        inherit(inner, outer)?;
        self.0.insert(address, inner.clone());
        Ok(())
    }
}

/// nginx's `unknown directive "x"`, with the nearest name; or `not allowed here` for a name that has its place elsewhere.
pub fn unknown<'a>(statement: &Statement, cx: &Context, names: impl Iterator<Item = &'a str>) -> Fault {
    let word = &statement.words[0];
    if cx.knows(&word.text) {
        return Fault::at(format!("\"{}\" directive is not allowed here", word.text), &word.at);
    }
    let mut fault = Fault::at(format!("unknown directive \"{}\"", word.text), &word.at);
    fault.suggestion = super::error::nearest(&word.text, names).map(str::to_owned);
    fault
}

/// nginx's four questions about a statement, in its order: place, block or line, arity.
pub fn check(statement: &Statement, places: Place, here: Place, arity: Arity, block: bool) -> Result<(), Fault> {
    let word = &statement.words[0];
    let name = &word.text;
    if !places.has(here) {
        return Err(Fault::at(format!("\"{name}\" directive is not allowed here"), &word.at));
    }
    if !block && statement.block.is_some() {
        return Err(Fault::at(format!("directive \"{name}\" is not terminated by \";\""), &word.at));
    }
    if block && statement.block.is_none() {
        return Err(Fault::at(format!("directive \"{name}\" has no opening \"{{\""), &word.at));
    }
    if !arity.takes(statement.words.len() - 1) {
        return Err(Fault::at(format!("invalid number of arguments in \"{name}\" directive"), &word.at));
    }
    Ok(())
}

struct Index {
    ids: QuickMap<TypeId, usize>,
}

/// One block after inheritance: what `link` reads.
#[derive(Clone, Copy)]
pub struct Level<'a> {
    open: &'a Open,
    main: &'a Open,
    server: &'a Open,
    index: &'a Rc<Index>,
    defaults: &'a [&'a [Box<dyn Any>; 3]],
    pub cx: &'a Context,
}

impl<'a> Level<'a> {
    pub fn place(&self) -> Place {
        self.open.place
    }

    /// Where the block begins.
    pub fn at(&self) -> &'a At {
        &self.open.at
    }

    /// `M`'s settings of this location.
    pub fn location<M: Module>(&self) -> &'a M::Location {
        self.section::<M, _>(2, |n| &self.open.sections.location[n])
    }

    /// `M`'s settings of the server around.
    pub fn server<M: Module>(&self) -> &'a M::Server {
        self.section::<M, _>(1, |n| &self.server.sections.server[n])
    }

    /// `M`'s settings of the whole block.
    pub fn main<M: Module>(&self) -> &'a M::Main {
        self.section::<M, _>(0, |n| &self.main.sections.main[n])
    }

    /// The blocks inside this one, in the order written.
    pub fn children(&self) -> impl Iterator<Item = Level<'a>> + use<'a> {
        let level = *self;
        self.open.children.iter().map(move |open| {
            let server = if open.place == SERVER { open } else { level.server };
            Level { open, server, ..level }
        })
    }

    fn section<M: Module, S: 'static>(&self, kind: usize, cell: impl FnOnce(usize) -> &'a Cell) -> &'a S {
        let n = self.index.ids[&TypeId::of::<M>()];
        let section = cell(n).as_deref().unwrap_or(&*self.defaults[n][kind]);
        section.downcast_ref().expect("the cell of a module holds its own section type")
    }
}

/// Calls every module's link functions.
pub struct Linker<'a, P: Plan> {
    modules: &'a [Erased<P>],
}

impl<P: Plan> Linker<'_, P> {
    pub fn main(&self, level: &Level<'_>, main: &mut P::Main) -> Result<(), Fault> {
        self.modules.iter().try_for_each(|module| (module.link_main)(level, main))
    }

    pub fn server(&self, level: &Level<'_>, server: &mut P::Server) -> Result<(), Fault> {
        self.modules.iter().try_for_each(|module| (module.link_server)(level, server))
    }

    /// Links one location. Faults that name no place get the block's.
    pub fn location(&self, level: &Level<'_>) -> Result<P, Fault> {
        let mut plan = P::default();
        for module in self.modules {
            (module.link)(level, &mut plan)?;
        }
        Ok(plan)
    }

    /// The modules' names in order, for `-V` and the tests of the list.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.modules.iter().map(|module| module.name)
    }
}

/// A table of its own for a block that is read whole by one owner: `events`, `upstream`, the main level.
pub struct Table<S: 'static> {
    pub rows: &'static [Row<S>],
}

/// One row of a [`Table`].
pub struct Row<S: 'static> {
    pub name: &'static str,
    pub places: Place,
    pub arity: Arity,
    pub block: bool,
    pub set: fn(&mut S, &Words<'_>) -> Result<(), Fault>,
}

impl<S> Row<S> {
    pub const fn line(
        name: &'static str,
        places: Place,
        arity: Arity,
        set: fn(&mut S, &Words<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self { name, places, arity, block: false, set }
    }

    pub const fn block(
        name: &'static str,
        places: Place,
        arity: Arity,
        set: fn(&mut S, &Words<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self { name, places, arity, block: true, set }
    }
}

impl<S> Table<S> {
    /// Reads the statements of a block at `place` into `section`.
    pub fn read(&self, section: &mut S, block: &[Node], place: Place, cx: &Context) -> Result<(), Fault> {
        for node in block {
            let statement = match node {
                Node::Fault(fault) => return Err(fault.clone()),
                Node::Statement(statement) => statement,
            };
            let word = &statement.words[0];
            let Some(row) = self.rows.iter().find(|row| row.name == word.text) else {
                return Err(unknown(statement, cx, self.rows.iter().map(|row| row.name)));
            };
            check(statement, row.places, place, row.arity, row.block)?;
            let words = Words::new(statement, cx, 0);
            // What is found when a block is whole is, by nginx, found at its end.
            let place = |fault: &Fault| if row.block && !fault.is_nameless() { &statement.end } else { &word.at };
            (row.set)(section, &words).map_err(|fault| {
                let at = place(&fault);
                fault.of(row.name).or_at(at)
            })?;
        }
        Ok(())
    }
}
