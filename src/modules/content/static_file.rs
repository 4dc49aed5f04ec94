//! Static files: what `root` and `alias` lead to.

use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Directive, Level, Module};
use crate::http::body::{Body, FilePiece, Piece};
use crate::http::core::file_path;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal, Response};
use crate::log::{Level as LogLevel, Raw};
use crate::wire::uri;

/// `ngx_http_static_module`.
pub struct Static;

impl Module for Static {
    const NAME: &'static str = "http_static";
    const DIRECTIVES: &'static [Directive<Self>] = &[];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = ();

    fn link(_: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.contents.push(Box::new(Files));
        Ok(())
    }
}

struct Files;

impl Content for Files {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_get_or_head() && !request.is_method("POST") {
            return Answer::Now(Err(Refusal::Status(405)));
        }
        let path = request.path();
        if path.ends_with(b"/") {
            return Answer::Decline;
        }
        Answer::Now(serve(request, &path))
    }
}

fn serve(request: &Rc<Request>, path: &[u8]) -> Result<Response, Refusal> {
    let name = file_path(request, path);
    let opened = File::open(std::ffi::OsString::from_vec(name.clone()));
    let failed = |call: &str, error: &std::io::Error| {
        let (level, status) = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (LogLevel::Error, 404),
            Some(libc::EACCES) => (LogLevel::Error, 403),
            _ => (LogLevel::Crit, 500),
        };
        if status != 404 || request.plan().core.log_not_found {
            request.log(level, format_args!("{call}() \"{}\" failed {}", Raw(&name), errno(error)));
        }
        Refusal::Status(status)
    };
    let file = opened.map_err(|error| failed("open", &error))?;
    let meta = file.metadata().map_err(|error| failed("fstat", &error))?;
    if meta.is_dir() {
        request.owe_location([path, b"/"].concat().into());
        return Err(Refusal::Status(301));
    }
    if !meta.is_file() {
        return Err(Refusal::Status(404));
    }
    if request.is_method("POST") {
        return Err(Refusal::Status(405));
    }
    let mut head = Head::new(200);
    head.content_length = Some(meta.size());
    head.last_modified = Some(meta.mtime());
    head.content_type = Some(content_type(request, path));
    head.allow_ranges = true;
    if request.plan().core.etag {
        head.add("ETag", format!("\"{:x}-{:x}\"", meta.mtime(), meta.size()));
    }
    let piece = Piece::File(FilePiece { file: Arc::new(file), offset: 0, len: meta.size() });
    Ok(Response { head, body: if meta.size() == 0 { Body::Empty } else { Body::One(piece) } })
}

/// The media type by the path's extension.
pub fn content_type(request: &Request, path: &[u8]) -> Bytes {
    let core = &request.plan().core;
    let extension = uri::extension(path).and_then(|start| path.get(start..)).unwrap_or_default();
    let found = match extension.iter().any(u8::is_ascii_uppercase) {
        true => core.types.get(extension.to_ascii_lowercase().as_slice()),
        false => core.types.get(extension),
    };
    found.unwrap_or(&core.default_type).clone()
}
