//! `index`: which file of a directory answers for it.
//!
//! In: GET, HEAD or POST for a path that ends in a slash. Out: an internal redirect to the first of the names that is
//! there; a refusal when the directory itself is not; else nothing, and the next handler is asked. The file is looked
//! for before the directory: most requests find it. nginx: `ngx_http_index_module`.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::open_file::{Kind, Unopened};
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Jump, Refusal};
use crate::http::root::map_path;
use crate::log::{Level as LogLevel, Raw};

/// `ngx_http_index_module`.
pub struct Index;

impl Module for Index {
    const NAME: &'static str = "http_index";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("index", EVERYWHERE, Arity::AtLeast(1), Conf::index)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let names = level.location::<Self>().index.or_else(|| vec![Template::literal("index.html")]);
        plan.contents.push(Box::new(Names(names)));
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    index: Setting<Vec<Template>>,
}

impl Conf {
    /// Syntax: `index file ...;`  Default: `index.html`
    fn index(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        for (n, word) in words.texts().enumerate() {
            if word.is_empty() {
                return Err(words.fault(n, "index \"\" in \"index\" directive is invalid"));
            }
            if word.starts_with('/') && n + 1 < words.len() {
                words.cx.warn(words.fault(n, "only the last index in \"index\" directive should be absolute"));
            }
            self.index.list().push(words.template(n)?);
        }
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { index } = self;
        index.inherit(&outer.index);
        Ok(())
    }
}

/// The names of one location.
struct Names(Vec<Template>);

impl Content for Names {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_for_directory() || !(request.is_get_or_head() || request.is_method("POST")) {
            return Answer::Decline;
        }
        let path = request.path();
        match self.search(request, &path) {
            Ok(None) => Answer::Decline,
            Ok(Some(path)) => Answer::Now(Err(Refusal::Jump(Box::new(Jump::Path { path, args: None })))),
            Err(refusal) => Answer::Now(Err(refusal)),
        }
    }
}

impl Names {
    /// The path of the first name that leads to something.
    fn search(&self, request: &Request, path: &Bytes) -> Result<Option<Bytes>, Refusal> {
        let mut directory: Option<Vec<u8>> = None;
        let mut tested = false;
        for name in &self.0 {
            let name = name.eval(request);
            if name.starts_with(b"/") {
                return Ok(Some(name));
            }
            let directory = match &directory {
                Some(directory) => directory,
                None => directory.insert(map_path(request, path)?),
            };
            let file = [directory.as_slice(), &name].concat();
            let Err(unopened) = request.plan().files.test(request, &file) else {
                return Ok(Some([path.as_ref(), &name].concat().into()));
            };
            match unopened.errno {
                libc::EMLINK | libc::ELOOP => return Err(Refusal::Status(403)),
                libc::ENOTDIR | libc::ENAMETOOLONG | libc::EACCES => return Err(refuse(request, &file, unopened)),
                _ => {}
            }
            if !tested {
                test_directory(request, directory, &file)?;
                tested = true;
            }
            if unopened.errno != libc::ENOENT {
                failed(request, &file, unopened);
                return Err(Refusal::Status(500));
            }
        }
        Ok(None)
    }
}

/// A file that is not there may be so because its directory is not.
fn test_directory(request: &Request, directory: &[u8], file: &[u8]) -> Result<(), Refusal> {
    // An alias need not end in a slash.
    let directory = match directory.strip_suffix(b"/") {
        Some(shorter) if !shorter.is_empty() => shorter,
        _ => directory,
    };
    match request.plan().files.test(request, directory) {
        Ok(stat) if stat.kind == Kind::Directory => Ok(()),
        Ok(_) => {
            request.log(LogLevel::Alert, format_args!("\"{}\" is not a directory", Raw(directory)));
            Err(Refusal::Status(500))
        }
        Err(unopened) => match unopened.errno {
            libc::EMLINK | libc::ELOOP => Err(Refusal::Status(403)),
            libc::ENOENT => Err(refuse(request, file, unopened)),
            // The file was looked for, so the directory may be searched.
            libc::EACCES => Ok(()),
            _ => {
                failed(request, directory, unopened);
                Err(Refusal::Status(500))
            }
        },
    }
}

fn refuse(request: &Request, file: &[u8], unopened: Unopened) -> Refusal {
    let errno = errno(&unopened.error());
    if unopened.errno == libc::EACCES {
        request.log(LogLevel::Error, format_args!("\"{}\" is forbidden {errno}", Raw(file)));
        return Refusal::Status(403);
    }
    if request.plan().core.log_not_found {
        request.log(LogLevel::Error, format_args!("\"{}\" is not found {errno}", Raw(file)));
    }
    Refusal::Status(404)
}

fn failed(request: &Request, path: &[u8], unopened: Unopened) {
    let errno = errno(&unopened.error());
    request.log(LogLevel::Crit, format_args!("{} \"{}\" failed {errno}", unopened.call, Raw(path)));
}
