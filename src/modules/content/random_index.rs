//! `random_index`: some file of a directory answers for it.
//!
//! In: GET, HEAD or POST for a path that ends in a slash. Out: an internal redirect to one of the files there whose name
//! begins with no dot; nothing if there is none. nginx: `ngx_http_random_index_module`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Jump, Refusal};

/// `ngx_http_random_index_module`.
pub struct RandomIndex;

impl Module for RandomIndex {
    const NAME: &'static str = "http_random_index";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("random_index", LOCATION, Arity::Flag, Conf::random_index)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if level.location::<Self>().random_index.or(false) {
            plan.contents.push(Box::new(Chooser));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    random_index: Setting<bool>,
}

impl Conf {
    /// Syntax: `random_index on | off;`  Default: `off`
    fn random_index(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.random_index.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { random_index } = self;
        random_index.inherit(&outer.random_index);
        Ok(())
    }
}

struct Chooser;

impl Content for Chooser {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_for_directory() || !(request.is_get_or_head() || request.is_method("POST")) {
            return Answer::Decline;
        }
        let path = request.path();
        let directory = match super::autoindex::directory(request, &path) {
            Ok(directory) => directory,
            Err(refusal) => return Answer::Now(Err(refusal)),
        };
        Answer::Wait(Box::pin(async move {
            let pool = request.plan().core.pool.clone();
            let place = directory.clone();
            match pool.run(move || choose(&place)).await {
                Ok(None) => None,
                Ok(Some(name)) => {
                    let path = [path.as_ref(), name.as_bytes()].concat().into();
                    Some(Err(Refusal::Jump(Box::new(Jump::Path { path, args: None }))))
                }
                Err(error) => Some(Err(super::autoindex::refuse(request, &directory, &error))),
            }
        }))
    }
}

/// One of the files, all with the same chance.
fn choose(directory: &Path) -> io::Result<Option<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            // A link that leads nowhere is no file.
            kind = std::fs::metadata(entry.path()).map_or(kind, |found| found.file_type());
        }
        if kind.is_file() {
            names.push(name);
        }
    }
    let mut random = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut random); // nobody relies on it being a secret
    let count = u64::try_from(names.len()).unwrap_or(u64::MAX);
    let Some(place) = u64::from_ne_bytes(random).checked_rem(count) else { return Ok(None) };
    Ok(usize::try_from(place).ok().filter(|&place| place < names.len()).map(|place| names.swap_remove(place)))
}

/// The path of a directory for the system: without its slash, unless it is the root.
pub fn plain(mut path: Vec<u8>) -> PathBuf {
    if path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_file_has_its_turn_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(choose(directory.path()).expect("readable"), None);
        for name in ["a", "b", ".hidden"] {
            std::fs::write(directory.path().join(name), name).expect("a file");
        }
        std::fs::create_dir(directory.path().join("inner")).expect("a directory");
        std::os::unix::fs::symlink("a", directory.path().join("link")).expect("a link");
        std::os::unix::fs::symlink("nothing", directory.path().join("broken")).expect("a link");
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            seen.extend(choose(directory.path()).expect("readable"));
        }
        assert_eq!(seen, ["a", "b", "link"].map(OsString::from).into());
        assert!(choose(&directory.path().join("none")).is_err());
    }
}
