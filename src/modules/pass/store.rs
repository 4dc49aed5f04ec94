//! `*_store`: answers that are kept as files.
//!
//! In: the bytes of a whole answer with status 200. Out: a file under the name that the directive gives, by rename, so
//! that nobody sees half of it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use super::reply::Reply;
use super::settings::{Settings, Store};
use crate::base::temp::{self, Lacking};
use crate::base::text::errno;
use crate::http::request::Request;
use crate::http::root::file_path;
use crate::log::Level;
use crate::wire::date;

/// A file that grows with the answer. Dropped unfinished, it is deleted.
pub struct Keeper {
    file: Option<(File, PathBuf)>,
    last_modified: Option<i64>,
    length: Option<u64>,
    written: u64,
}

impl Keeper {
    /// `None` where nothing is to be stored.
    pub fn new(request: &Request, settings: &Settings, reply: &Reply) -> Option<Self> {
        if matches!(settings.store, Store::Off) {
            return None;
        }
        let last_modified = reply.replied.fields.first("Last-Modified");
        let mut keeper = Self {
            file: None,
            last_modified: last_modified.and_then(|field| date::parse(field.value)),
            length: reply.framing.length,
            written: 0,
        };
        if reply.status != 200 {
            // nginx: it is read to its end and then dropped
            return Some(keeper);
        }
        match settings.temp_path.create() {
            Ok(file) => keeper.file = Some(file),
            Err(refused) => request.log(Level::Crit, format_args!("{refused}")),
        }
        Some(keeper)
    }

    pub fn write(&mut self, request: &Request, bytes: &[u8]) {
        let Some((file, path)) = &mut self.file else { return };
        self.written += bytes.len() as u64;
        if let Err(error) = file.write_all(bytes) {
            request.log(Level::Crit, format_args!("write() \"{}\" failed {}", path.display(), errno(&error)));
            self.discard();
        }
    }

    /// The answer is whole: the file gets its name.
    pub fn finish(mut self, request: &Request, settings: &Settings) {
        if self.length.is_some_and(|length| length != self.written) {
            return;
        }
        let name = match &settings.store {
            Store::Off => return,
            Store::On => file_path(request, &request.path()),
            Store::At(template) => {
                let name = template.eval(request).to_vec();
                let prefix = &request.plan().core.root.prefix;
                match name.first() {
                    None | Some(b'/') => name,
                    Some(_) => [prefix.as_os_str().as_encoded_bytes(), b"/", &name].concat(),
                }
            }
        };
        if name.is_empty() {
            return;
        }
        let Some((file, from)) = self.file.take() else { return };
        let name = PathBuf::from(std::ffi::OsString::from_vec(name));
        let mode = settings.store_access;
        let _ = file.set_permissions(Permissions::from_mode(mode));
        if let Some(seconds) = self.last_modified.and_then(|seconds| u64::try_from(seconds).ok()) {
            let _ = file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
        }
        drop(file);
        if let Err((call, error)) = temp::put(&from, &name, mode, &Lacking::default()) {
            let (shown, to) = (from.display(), name.display());
            request.log(Level::Crit, format_args!("{call}() \"{shown}\" to \"{to}\" failed {}", errno(&error)));
            let _ = fs::remove_file(&from);
        }
    }

    fn discard(&mut self) {
        if let Some((_, path)) = self.file.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.discard();
    }
}
