//! An answer on its way into the cache, or into a file of `*_store`: the relay's copy of a body.

use std::fs::File;

use crate::base::text::errno;
use crate::cache::filling::{Filling, Refused};
use crate::http::request::Request;
use crate::log::Level;
use crate::modules::pass::settings::Settings;
use crate::modules::pass::store::Keeper;

/// Who else gets a body, read to its end whether or not the client stays. Dropped before the end, it comes to nothing.
pub enum Copy {
    /// `*_store`
    File(Keeper),
    /// `*_cache`
    Cache(Kept),
}

/// A cache file in the making.
pub struct Kept {
    filling: Option<Filling>,
    /// What the head announced.
    length: Option<u64>,
}

impl Kept {
    /// `length`: what the head announced of the body.
    pub fn new(filling: Filling, length: Option<u64>) -> Self {
        Self { filling: Some(filling), length }
    }

    fn done(request: &Request, done: Result<(), Refused>) -> bool {
        match done {
            Ok(()) => true,
            Err(refused) => {
                log(request, &refused);
                false
            }
        }
    }
}

/// The disk refuses: the answer passes and is not kept.
pub fn log(request: &Request, refused: &Refused) {
    let Refused { call, path, error } = refused;
    request.log(Level::Crit, format_args!("{call}() \"{}\" failed {}", path.display(), errno(error)));
}

impl Copy {
    pub fn write(&mut self, request: &Request, bytes: &[u8]) {
        match self {
            Self::File(keeper) => keeper.write(request, bytes),
            Self::Cache(kept) => {
                let Some(filling) = &mut kept.filling else { return };
                if !Kept::done(request, filling.write(bytes)) {
                    kept.filling = None;
                }
            }
        }
    }

    /// The file that has all that was written, and where in it that ends. `None`: there is none to read from.
    pub fn on_disk(&mut self, request: &Request) -> Option<(&File, u64)> {
        let Self::Cache(kept) = self else { return None };
        if !Kept::done(request, kept.filling.as_mut()?.flush()) {
            kept.filling = None;
        }
        kept.filling.as_ref().map(Filling::so_far)
    }

    /// The body has ended.
    pub fn finish(self, request: &Request, settings: &Settings) {
        match self {
            Self::File(keeper) => keeper.finish(request, settings),
            Self::Cache(Kept { filling, length }) => {
                let Some(filling) = filling else { return };
                if length.is_none_or(|length| length == filling.body_len()) {
                    Kept::done(request, filling.finish());
                }
            }
        }
    }
}
