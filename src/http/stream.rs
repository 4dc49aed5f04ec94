//! The seam between a request and the protocol it came by.
//!
//! HTTP/1 has one request at a time, so a request there reads its body from the connection and writes to it. Where a
//! connection carries several, each of its requests has a [`Stream`], and whoever serves the request talks to that. Nothing
//! above `http` asks which it is: [`Request::poll_gone`] and its kin find the way.

use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::fields::FieldRef;
use super::request::Request;
use super::response::{Field, Refusal};

/// The client's side of one request among several of a connection. It lives as long as the request.
pub trait Stream {
    /// Ready when the client has given this request up.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next bytes of the request's body as they come; `None` is its end. The client may send more as these are
    /// taken.
    fn poll_data(&self, request: &Request, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>>;

    /// The body will be taken as fast as it comes.
    fn hurry(&self);

    /// Nobody wants the body, or what is left of it.
    fn discard(&self);

    /// Nothing will come of the body any more, for it is thrown away.
    fn is_done(&self) -> bool;

    /// The fields behind the body, once it has ended.
    fn trailers(&self) -> Vec<Field>;

    /// Sends fields that the client may use before the answer is there: a 103.
    fn early_hints(&self, request: &Request, fields: &[FieldRef<'_>]);

    /// Behind an upgrade: appends what the client sent. 0 is the end.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Behind an upgrade: takes what may be sent of these bytes.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

impl Request {
    /// Ready when the client is gone, or has given the request up.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.stream {
            // Nobody's answer goes on without anybody.
            _ if self.background.get() => Poll::Pending,
            None => self.connection.io.poll_gone(cx),
            Some(stream) => stream.poll_gone(cx),
        }
    }

    /// Behind an upgrade: appends what the client sent. 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match &self.stream {
            None => self.connection.io.poll_read(cx, buffer),
            Some(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// Behind an upgrade: sends what the client takes of these bytes.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.stream {
            None => self.connection.io.poll_write(cx, bytes),
            Some(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Behind an upgrade: what came along with the request's head.
    pub fn take_early(&self) -> BytesMut {
        match &self.stream {
            None => self.connection.input.take(),
            Some(_) => BytesMut::new(),
        }
    }
}
