//! `try_files`: the first of several files that is there, or somewhere else altogether.
//!
//! In: a request of this very location. Out: its path, changed to that of a file or a directory that is there; or, when
//! none is, the last parameter: another path, a named location, a status. nginx: `ngx_http_try_files_module`.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, LOCATION, Level, Module, SERVER, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::open_file::Kind;
use crate::http::plan::{Gate, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::{Jump, Refusal};
use crate::http::root::{Alias, map_root};
use crate::log::{Level as LogLevel, Raw};
use crate::wire::uri;

/// `ngx_http_try_files_module`.
pub struct TryFiles;

impl Module for TryFiles {
    const NAME: &'static str = "http_try_files";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("try_files", SERVER.or(LOCATION), Arity::AtLeast(2), Conf::try_files)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if let Some(tries) = level.location::<Self>().try_files.said() {
            plan.precontent.push(Box::new(tries));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    /// Not inherited: nginx has it for one location, not for its `if` blocks.
    try_files: Setting<Tries>,
}

impl Conf {
    /// Syntax: `try_files file ... uri;`, `try_files file ... =code;`
    fn try_files(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let last = words.len() - 1;
        let mut files = Vec::with_capacity(last);
        for n in 0..last {
            let word = words.arg(n);
            let (name, kind) = match word.strip_suffix('/') {
                Some(name) => (name, Kind::Directory),
                None => (word, Kind::File),
            };
            files.push(Try { name: Name::read(n, name, words)?, kind });
        }
        let otherwise = match words.arg(last).strip_prefix('=') {
            None => Otherwise::Target(Name::read(last, words.arg(last), words)?),
            Some(code) => {
                let digits = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit());
                let code = if digits { code.parse().ok().filter(|code| *code <= 999) } else { None };
                let invalid = || words.fault(last, format!("invalid code \"{}\"", words.arg(last)));
                Otherwise::Status(code.ok_or_else(invalid)?)
            }
        };
        self.try_files.set(Tries { files, otherwise })
    }
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        let Self { try_files: _ } = self;
        Ok(())
    }
}

/// What one location tries.
#[derive(Clone)]
struct Tries {
    files: Vec<Try>,
    otherwise: Otherwise,
}

#[derive(Clone)]
struct Try {
    name: Name,
    kind: Kind,
}

/// The last parameter.
#[derive(Clone)]
enum Otherwise {
    Target(Name),
    Status(u16),
}

#[derive(Clone)]
struct Name {
    text: Template,
    /// It has variables, so it may begin with the part of the path that an alias replaces.
    variable: bool,
}

impl Name {
    fn read(n: usize, text: &str, words: &Words<'_>) -> Result<Self, Fault> {
        Ok(Self { text: words.compile(n, text)?, variable: text.contains('$') })
    }

    /// The name below the root or the alias of the location.
    fn eval(&self, request: &Request, path: &[u8]) -> Bytes {
        let mut name = self.text.eval(request);
        if let (Some(Alias::Prefix(len)), true) = (request.plan().core.root.alias, self.variable)
            && path.get(..len).is_some_and(|replaced| name.starts_with(replaced))
        {
            name = name.slice(len..);
        }
        name
    }
}

impl Gate for Tries {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        match self.search(request) {
            Ok(()) => Verdict::Next,
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }
}

impl Tries {
    fn search(&self, request: &Request) -> Result<(), Refusal> {
        let root = map_root(request)?;
        let path = request.path();
        for Try { name, kind } in &self.files {
            let name = name.eval(request, &path);
            let file = [root.as_slice(), &name].concat();
            match request.plan().files.test(request, &file) {
                Ok(stat) if (stat.kind == Kind::Directory) == (*kind == Kind::Directory) => {
                    take(request, &path, &name, *kind);
                    return Ok(());
                }
                Err(unopened) if !unopened.is_missing() => {
                    let errno = errno(&unopened.error());
                    let message = format_args!("{} \"{}\" failed {errno}", unopened.call, Raw(&file));
                    request.log(LogLevel::Crit, message);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Err(match &self.otherwise {
            Otherwise::Status(status) => Refusal::Status(*status),
            Otherwise::Target(name) => {
                let target = name.eval(request, &path);
                if target.starts_with(b"@") {
                    return Err(Refusal::Jump(Box::new(Jump::Named(target))));
                }
                let (path, args) = uri::split_args(&target);
                let args = target.slice_ref(args.unwrap_or_default());
                Refusal::Jump(Box::new(Jump::Path { path: target.slice_ref(path), args: Some(args) }))
            }
        })
    }
}

/// Makes the request's path that of what was found.
fn take(request: &Request, path: &Bytes, name: &Bytes, kind: Kind) {
    let new = match request.plan().core.root.alias {
        None => name.clone(),
        Some(Alias::Prefix(len)) => [path.get(..len).unwrap_or_default(), name].concat().into(),
        Some(Alias::Whole) if kind == Kind::Directory => return,
        Some(Alias::Whole) => {
            request.add_path_to_alias.set(true);
            name.clone()
        }
    };
    // nginx: a proxied request still goes out as it came in.
    let target_valid = request.target_valid.get();
    request.set_path(new);
    request.target_valid.set(target_valid);
}
