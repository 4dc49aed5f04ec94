//! A protocol towards upstreams: what it makes of bytes.
//!
//! In: what one connection brings. Out: a head, a body's pieces, and whether the connection can serve again. An exchange
//! drives one; it does not know which.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::reply::{Reply, Rewritten};
use crate::http::body::Piece;
use crate::http::fields::Fields;
use crate::http::request::Request;
use crate::http::response::Field;

/// What came of looking at an upstream's first bytes.
#[derive(Debug)]
pub enum Looked {
    /// More bytes are needed.
    More,
    /// 103: fields for the client now; the head is still to come.
    Hints(Fields),
    Head(Box<Reply>),
    /// It cannot be understood; why is in the log.
    Invalid,
}

/// What came of looking at a body's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More bytes are needed.
    More,
    /// The body has ended.
    End,
    /// The body has ended before it was whole; why is in the log. What came of it goes out.
    Cut,
    /// It cannot be understood; why is in the log.
    Broken,
}

/// A protocol: what it makes of bytes. One for each exchange.
pub trait Codec: 'static {
    /// A new try begins: everything that was read so far is forgotten.
    fn begin(&mut self);

    /// Wraps what came of a body that is sent as it comes. `end`: nothing follows but these fields.
    fn wrap(&mut self, parts: Vec<Bytes>, end: Option<&[Field]>, out: &mut VecDeque<Piece>);

    /// Takes the head from the front of `input`, or leaves it until there is more.
    fn head(&mut self, request: &Request, input: &mut BytesMut) -> Looked;

    /// The head as a cache keeps it, where that is not the bytes that came: [`Codec::head`] reads it again.
    fn kept_head(&self) -> Option<Bytes> {
        None
    }

    /// Takes from `input` what belongs to the body and appends its pieces to `out`.
    fn body(&mut self, request: &Request, input: &mut BytesMut, out: &mut VecDeque<Piece>) -> Flow;

    /// The upstream has closed: whether the body may end so.
    fn ends_with_connection(&self) -> bool;

    /// How many bytes follow in the connection that are the body's and need no look; 0 where each must be looked at. What
    /// [`Codec::expected`] counts beyond them comes behind them, and is no body.
    fn plain(&self) -> u64 {
        0
    }

    /// So many of them passed by.
    fn passed(&mut self, _: u64) {}

    /// How many bytes are worth reading at once; 0 where the answer has come to its end.
    fn expected(&self) -> u64;

    /// The body has ended and the connection may serve another request.
    fn is_reusable(&self) -> bool;

    /// The connection is not HTTP any more: both directions are open.
    fn is_upgraded(&self) -> bool {
        false
    }

    /// The trailer fields, once the body has ended.
    fn take_trailers(&mut self) -> Vec<Field> {
        Vec::new()
    }

    /// Whether trailer fields may come, or have.
    fn has_trailers(&self) -> bool {
        false
    }

    /// Changes a field's value on its way to the client.
    fn rewrite(&self, _: &Request, _: Rewritten, _: &Bytes) -> Option<Bytes> {
        None
    }
}
