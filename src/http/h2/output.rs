//! What waits to be written on a connection of HTTP/2.
//!
//! In: frames, in the order in which they shall go. Out: as few writes as the socket allows. Small things are copied behind
//! each other, so that the answers of many streams leave as one piece; large ones stay where they are.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use crate::net::io::Io;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Output {
    ready: VecDeque<Bytes>,
    /// Behind `ready`.
    tail: BytesMut,
    len: usize,
}

/// Up to this size copying is cheaper than a piece of its own.
const SMALL: usize = 4096;
/// The most pieces in one writev.
const SLICES: usize = 64;
/// What is kept for the thread's next connection that has something to say.
const SPARE: usize = 64 * 1024;

thread_local! {
    static TAIL: Cell<BytesMut> = Cell::default();
}

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `write` writes: frames, or the head of one. Says how much it was.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut BytesMut)) -> usize {
        if self.tail.capacity() == 0 {
            self.tail = TAIL.take();
        }
        let before = self.tail.len();
        write(&mut self.tail);
        let size = self.tail.len().saturating_sub(before);
        self.len += size;
        size
    }

    /// Appends bytes of a body.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL {
            self.put(|tail| tail.extend_from_slice(&bytes));
            return;
        }
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
        self.len += bytes.len();
        self.ready.push_back(bytes);
    }

    /// Forgets everything: nobody reads it any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A connection at rest needs no buffer.
    pub(super) fn rest(&mut self) {
        if self.is_empty() && self.tail.capacity() > 0 {
            let mut tail = std::mem::take(&mut self.tail);
            tail.clear();
            if tail.capacity() <= SPARE {
                TAIL.set(tail);
            }
        }
    }

    /// Writes what the socket takes; says how much.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, io: &Io) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for bytes in self.ready.iter().take(SLICES) {
            slices[count] = IoSlice::new(bytes);
            count += 1;
        }
        if count < SLICES && !self.tail.is_empty() {
            slices[count] = IoSlice::new(&self.tail);
            count += 1;
        }
        let wrote = io.poll_writev(cx, &slices[..count]);
        if let Poll::Ready(Ok(wrote)) = wrote {
            self.consume(wrote);
        }
        wrote
    }

    fn consume(&mut self, mut wrote: usize) {
        self.len = self.len.saturating_sub(wrote);
        while let Some(front) = self.ready.front_mut() {
            if wrote < front.len() {
                return front.advance(wrote);
            }
            wrote -= front.len();
            self.ready.pop_front();
        }
        if wrote < self.tail.len() {
            self.tail.advance(wrote);
        } else {
            self.tail.clear();
        }
    }
}
