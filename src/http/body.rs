//! A body as it flows: pieces, pulled from their source by whoever writes them.
//!
//! A piece of a file stays a piece of a file (and can go out by sendfile) until somebody must see its bytes. A source
//! is polled, so that the one task of a connection can read from the upstream while the client's socket is full.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::open_file::OpenFile;
use super::response::Field;
use crate::net::io::Io;

/// One part of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    Mem(Bytes),
    File(FilePiece),
    /// Everything before should reach the client now.
    Flush,
}

impl Piece {
    pub fn len(&self) -> u64 {
        match self {
            Self::Mem(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
            Self::Flush => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part from `offset`, `len` bytes long; both within the piece.
    pub fn slice(&self, offset: u64, len: u64) -> Self {
        match self {
            Self::Mem(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
                Self::Mem(bytes.slice(start..end))
            }
            Self::File(file) => {
                let offset = offset.min(file.len);
                let len = len.min(file.len - offset);
                Self::File(FilePiece { file: file.file.clone(), offset: file.offset + offset, len })
            }
            Self::Flush => Self::Flush,
        }
    }
}

/// `len` bytes of an open file.
#[derive(Clone, Debug)]
pub struct FilePiece {
    pub file: Arc<OpenFile>,
    pub offset: u64,
    pub len: u64,
}

impl FilePiece {
    /// At most `limit` bytes from the front; the piece shrinks by as many. A file that was cut since is an error.
    pub fn read(&mut self, limit: usize) -> std::io::Result<Bytes> {
        let want = usize::try_from(self.len).unwrap_or(usize::MAX).min(limit);
        let bytes = self.file.read(self.offset, want)?;
        self.skip(bytes.len(), want)?;
        Ok(bytes)
    }

    /// As [`FilePiece::read`] if the bytes are in memory; `None` when the disk must be asked.
    pub fn read_ready(&mut self, limit: usize) -> std::io::Result<Option<Bytes>> {
        let want = usize::try_from(self.len).unwrap_or(usize::MAX).min(limit);
        let Some(bytes) = self.file.read_ready(self.offset, want)? else { return Ok(None) };
        self.skip(bytes.len(), want)?;
        Ok(Some(bytes))
    }

    /// All of it, where the cache keeps the file's bytes.
    pub fn kept(&self) -> Option<&[u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.len).ok()?)?;
        self.file.kept()?.get(start..end)
    }

    /// So much was read of what was wanted.
    pub fn skip(&mut self, got: usize, want: usize) -> std::io::Result<()> {
        if got == 0 && want > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += got as u64;
        self.len = self.len.saturating_sub(got as u64);
        Ok(())
    }
}

/// The body ends before its time; whoever says so has logged why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What comes next of a body: `Ok(None)` is its end.
pub type Next = Result<Option<Piece>, Broken>;

/// Where pieces come from.
pub trait Source {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next>;

    /// Called while the client's socket takes nothing: a chance to read ahead, within the source's own bounds.
    fn poll_ahead(&mut self, _: &mut Context<'_>) {}

    /// Only this part of the whole is wanted. `true`: nothing else will come; `false`: the caller has to cut.
    fn narrow(&mut self, _: &Range<u64>) -> bool {
        false
    }

    /// `true`: what came so far shall wait for what comes next, and not go out if that is a break.
    fn holds_back(&self) -> bool {
        false
    }

    /// Whether [`Source::poll_splice`] could move what comes next: then it is better not asked for as a piece.
    fn may_splice(&self) -> bool {
        false
    }

    /// Moves bytes from where they come straight into the client's socket, at most `limit`, unless somebody must see them.
    /// Asked while nothing waits to be written.
    fn poll_splice(&mut self, _: &mut Context<'_>, _: &Io, _limit: u64) -> Spliced {
        Spliced::Not
    }

    /// Whether trailer fields will follow: then the body goes out in chunks.
    fn promises_trailers(&self) -> bool {
        false
    }

    /// The trailer fields, once the end was reached.
    fn trailers(&mut self) -> Vec<Field> {
        Vec::new()
    }
}

/// What came of [`Source::poll_splice`].
#[derive(Debug)]
pub enum Spliced {
    /// Not possible, or not at the moment: ask for pieces.
    Not,
    /// So many bytes are with the client's socket.
    Moved(u64),
    /// Waits for the source.
    Waits,
    /// Waits for the client, whose socket takes nothing.
    Full,
    /// The client's socket has failed.
    Failed(io::Error),
}

/// A response body.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    One(Piece),
    Stream(Box<dyn Source>),
    /// Behind a 101: the connection belongs to whoever made this.
    Tunnel(Box<dyn Tunnel>),
}

/// A connection that is HTTP no more: bytes go both ways until both ends have said enough.
pub trait Tunnel {
    /// Ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::One(piece) => write!(f, "One({piece:?})"),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Tunnel(_) => f.write_str("Tunnel"),
        }
    }
}

impl Body {
    pub fn memory(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::One(Piece::Mem(bytes)) }
    }

    pub fn stream(source: impl Source + 'static) -> Self {
        Self::Stream(Box::new(source))
    }

    /// These pieces, one after the other.
    pub fn pieces(pieces: Vec<Piece>) -> Self {
        Self::stream(Pieces { pieces: pieces.into_iter() })
    }

    /// Puts a transformer behind this body.
    pub fn through(self, transform: impl Transform + 'static) -> Self {
        Self::stream(Transformed { inner: self, transform, rest: None, out: Vec::new(), taken: 0, ended: false })
    }

    /// Everything that is left, as bytes; bounded by `limit`, beyond which it is broken.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Broken> {
        let mut all = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| self.poll_piece(cx)).await? {
            if piece.len() > (limit - all.len()) as u64 {
                return Err(Broken);
            }
            match piece {
                Piece::Mem(bytes) => all.extend_from_slice(&bytes),
                Piece::File(mut file) => {
                    while file.len > 0 {
                        all.extend_from_slice(&file.read(64 * 1024).map_err(|_| Broken)?);
                    }
                }
                Piece::Flush => {}
            }
        }
        Ok(all.into())
    }
}

impl Source for Body {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(Ok(None)),
            Self::One(_) => {
                let Self::One(piece) = std::mem::take(self) else { return Poll::Ready(Ok(None)) };
                Poll::Ready(Ok(Some(piece)))
            }
            Self::Stream(source) => source.poll_piece(cx),
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        if let Self::Stream(source) = self {
            source.poll_ahead(cx);
        }
    }

    fn holds_back(&self) -> bool {
        matches!(self, Self::Stream(source) if source.holds_back())
    }

    fn may_splice(&self) -> bool {
        matches!(self, Self::Stream(source) if source.may_splice())
    }

    fn poll_splice(&mut self, cx: &mut Context<'_>, client: &Io, limit: u64) -> Spliced {
        match self {
            Self::Empty | Self::One(_) | Self::Tunnel(_) => Spliced::Not,
            Self::Stream(source) => source.poll_splice(cx, client, limit),
        }
    }

    fn promises_trailers(&self) -> bool {
        matches!(self, Self::Stream(source) if source.promises_trailers())
    }

    fn trailers(&mut self) -> Vec<Field> {
        match self {
            Self::Empty | Self::One(_) | Self::Tunnel(_) => Vec::new(),
            Self::Stream(source) => source.trailers(),
        }
    }
}

struct Pieces {
    pieces: std::vec::IntoIter<Piece>,
}

impl Source for Pieces {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(Ok(self.pieces.next()))
    }
}

/// Bytes in, bytes out: compression, substitution. It sees the bytes of file pieces too.
pub trait Transform {
    /// Takes one part of the body, `flush` when everything so far should go out, and appends what is ready.
    fn push(&mut self, bytes: &Bytes, flush: bool, out: &mut Vec<Piece>) -> Result<(), Broken>;

    /// The end: appends what is left.
    fn end(&mut self, out: &mut Vec<Piece>) -> Result<(), Broken>;

    /// The most that it takes at a time, whatever the size of the pieces that come.
    fn appetite(&self) -> usize {
        READ
    }
}

/// How much of a file a transformer gets at a time.
const READ: usize = 64 * 1024;

struct Transformed<T> {
    inner: Body,
    transform: T,
    /// What is left of the piece that is being taken in.
    rest: Option<Piece>,
    out: Vec<Piece>,
    /// How many of `out` were handed on.
    taken: usize,
    ended: bool,
}

impl<T: Transform> Transformed<T> {
    fn feed(&mut self, piece: Option<Piece>) -> Result<(), Broken> {
        match piece {
            None => {
                self.ended = true;
                self.transform.end(&mut self.out)
            }
            Some(Piece::Flush) => {
                self.transform.push(&Bytes::new(), true, &mut self.out)?;
                self.out.push(Piece::Flush);
                Ok(())
            }
            Some(Piece::Mem(mut bytes)) => {
                let appetite = self.transform.appetite();
                if bytes.len() > appetite {
                    self.rest = Some(Piece::Mem(bytes.split_off(appetite)));
                }
                self.transform.push(&bytes, false, &mut self.out)
            }
            Some(Piece::File(mut file)) => {
                let bytes = file.read(self.transform.appetite()).map_err(|_| Broken)?;
                self.rest = (file.len > 0).then_some(Piece::File(file));
                self.transform.push(&bytes, false, &mut self.out)
            }
        }
    }
}

impl<T: Transform> Source for Transformed<T> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(piece) = self.out.get_mut(self.taken) {
                self.taken += 1;
                return Poll::Ready(Ok(Some(std::mem::replace(piece, Piece::Flush))));
            }
            self.out.clear();
            self.taken = 0;
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            let piece = match self.rest.take() {
                Some(rest) => Some(rest),
                None => ready!(self.inner.poll_piece(cx))?,
            };
            self.feed(piece)?;
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        self.inner.poll_ahead(cx);
    }

    fn promises_trailers(&self) -> bool {
        self.inner.promises_trailers()
    }

    fn trailers(&mut self) -> Vec<Field> {
        self.inner.trailers()
    }
}
