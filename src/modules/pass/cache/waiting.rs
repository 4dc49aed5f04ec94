//! A body that somebody else is fetching: sent from the cache file as far as that has grown.
//!
//! In: a [`Waiter`]. Out: parts of the file, as they are written. Each who waits goes at its own pace, and none of them is
//! missed by who fetches: the file outlives its name and its maker.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::cache::fill::{Progress, Waiter};
use crate::http::body::{Broken, FilePiece, Next, Piece, Source};
use crate::http::open_file::OpenFile;

/// See the module's head.
pub struct Waiting {
    waiter: Waiter,
    file: Arc<OpenFile>,
    /// Where in the file the next part begins.
    place: u64,
    whole: bool,
}

impl Waiting {
    /// The body of a file that begins at `place`.
    pub fn new(waiter: Waiter, file: &File, place: u64) -> io::Result<Self> {
        let file = Arc::new(OpenFile::from(file.try_clone()?));
        Ok(Self { waiter, file, place, whole: false })
    }
}

impl Source for Waiting {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.whole {
            return Poll::Ready(Ok(None));
        }
        let len = match ready!(self.waiter.poll_past(self.place, cx)) {
            Progress::Growing(_, len) => len,
            Progress::Whole(_, len) => {
                self.whole = true;
                len
            }
            Progress::Asked | Progress::Ended => return Poll::Ready(Err(Broken)),
        };
        if len <= self.place {
            return Poll::Ready(Ok(None));
        }
        let piece = FilePiece { file: self.file.clone(), offset: self.place, len: len - self.place };
        self.place = len;
        Poll::Ready(Ok(Some(Piece::File(piece))))
    }
}
