//! An answer on its way into the cache, or into a file of `*_store`: the relay's copy of a body.

use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::temp::Refused;
use crate::cache::filling::Filling;
use crate::http::body::Piece;
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

    fn done<T>(request: &Request, done: Result<T, Refused>) -> Option<T> {
        done.inspect_err(|refused| log(request, refused)).ok()
    }
}

/// The disk refuses: the answer passes and is not kept.
pub fn log(request: &Request, refused: &Refused) {
    request.log(Level::Crit, format_args!("{refused}"));
}

impl Copy {
    pub fn write(&mut self, request: &Request, bytes: &[u8]) {
        match self {
            Self::File(keeper) => keeper.write(request, bytes),
            Self::Cache(kept) => {
                let Some(filling) = &mut kept.filling else { return };
                if Kept::done(request, filling.write(bytes)).is_none() {
                    kept.filling = None;
                }
            }
        }
    }

    /// The whole body, in memory.
    pub fn write_whole<'a>(
        mut self,
        request: &Rc<Request>,
        pieces: impl IntoIterator<Item = &'a Piece>,
        settings: &Settings,
    ) {
        for piece in pieces {
            if let Piece::Mem(bytes) = piece {
                self.write(request, bytes);
            }
        }
        self.finish(request, settings);
    }

    /// The file that has all that was written, and where in it that ends. `None`: there is none to read from.
    pub fn on_disk(&mut self, request: &Request) -> Option<(Arc<File>, u64)> {
        let Self::Cache(kept) = self else { return None };
        let flushed = kept.filling.as_mut()?.flush().map(|(file, len)| (file.clone(), len));
        let flushed = Kept::done(request, flushed);
        if flushed.is_none() {
            kept.filling = None;
        }
        flushed
    }

    /// The body has ended. What is for the cache goes there behind the answers that are ready now: no client waits for the disk.
    /// Who has one of them and asks again, of another thread even, waits instead of having it fetched once more.
    pub fn finish(self, request: &Rc<Request>, settings: &Settings) {
        match self {
            Self::File(keeper) => keeper.finish(request, settings),
            Self::Cache(Kept { filling, length }) => {
                let whole = |filling: &Filling| length.is_none_or(|length| length == filling.body_len());
                let Some(mut filling) = filling.filter(whole) else { return };
                filling.arrives();
                let request = request.clone();
                tokio::task::spawn_local(async move { Kept::done(&request, filling.finish()) });
            }
        }
    }
}
