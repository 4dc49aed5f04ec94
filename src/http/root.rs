//! Where files are: `root` and `alias`.
//!
//! In: the path of a request. Out: a name on the disk. Nothing looks there yet.

use std::borrow::Cow;
use std::path::PathBuf;

use super::request::Request;
use super::response::Refusal;
use crate::conf::template::Template;
use crate::conf::vars::Lent;
use crate::log::{Level, Raw};

/// Where files are: `root` or `alias`.
#[derive(Clone, Debug, Default)]
pub struct Root {
    pub path: Template,
    /// `alias`: the path replaces the location's own part of the URI.
    pub alias: Option<Alias>,
    /// What a relative path that only variables make known stands below.
    pub prefix: PathBuf,
}

impl Root {
    /// What all files' paths begin with, for [`Context::will_write`](crate::conf::words::Context::will_write).
    pub fn fixed(&self) -> Vec<u8> {
        let mut fixed = self.path.fixed().to_vec();
        if self.alias.is_none() && self.path.constant().is_some() {
            // A path of a request follows, and that begins so.
            fixed.push(b'/');
        }
        fixed
    }
}

/// What an `alias` replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// The first bytes of the path: the location's name.
    Prefix(usize),
    /// All of it: the location is a pattern.
    Whole,
}

/// Where a path leads on the disk, by `root` or `alias`; for logs and variables, which take what there is.
pub fn file_path(request: &Request, path: &[u8]) -> Vec<u8> {
    below_root(
        request,
        match request.plan().core.root.alias {
            None => path,
            Some(Alias::Prefix(len)) => path.get(len..).unwrap_or_default(),
            Some(Alias::Whole) if request.add_path_to_alias.get() => path,
            Some(Alias::Whole) => &[],
        },
    )
}

/// What `root` or `alias` say, absolute: `$document_root`.
pub fn document_root(request: &Request) -> Lent<'_> {
    match request.plan().core.root.path.constant() {
        Some(path) if path.starts_with(b"/") => Lent::Shared(path),
        _ => Lent::Own(file_path(request, b"").into()),
    }
}

/// What `root` or `alias` say, absolute, and `path` behind it.
fn below_root(request: &Request, path: &[u8]) -> Vec<u8> {
    let root = &request.plan().core.root;
    // All threads share what the configuration says: it is not even counted who looks at it.
    let base = root.path.constant().map_or_else(|| Cow::Owned(root.path.eval(request)), Cow::Borrowed);
    match base.starts_with(b"/") {
        true => [base.as_ref(), path].concat(),
        false => [root.prefix.as_os_str().as_encoded_bytes(), b"/", base.as_ref(), path].concat(),
    }
}

/// As [`file_path`], for who is going to look there: a path that a rule changed in this very location has no part that
/// an `alias` could replace.
pub fn map_path(request: &Request, path: &[u8]) -> Result<Vec<u8>, Refusal> {
    check_alias(request)?;
    Ok(file_path(request, path))
}

/// What a name of a file is put behind: the `root`, or the `alias` in place of the location's part of the path.
pub fn map_root(request: &Request) -> Result<Vec<u8>, Refusal> {
    check_alias(request)?;
    Ok(below_root(request, &[]))
}

fn check_alias(request: &Request) -> Result<(), Refusal> {
    if request.plan().core.root.alias.is_none() || request.location_valid.get() {
        return Ok(());
    }
    let name = &request.location().name;
    let message = format_args!("\"alias\" cannot be used in location \"{}\" where URI was rewritten", Raw(name));
    request.log(Level::Alert, message);
    Err(Refusal::Status(500))
}
