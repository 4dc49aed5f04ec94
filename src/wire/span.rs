//! A piece of a buffer, by offsets: 8 bytes, `Copy`, and no borrow to keep alive.
//!
//! A span is made by a parser for one buffer. Shown another, shorter one it gives the empty slice: a wrong buffer is
//! a bug, but never a panic in the path of a request.

use std::ops::Range;

use bytes::Bytes;

/// `start..end` in the buffer that the parser was shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Offsets beyond 4 GiB do not exist here: parsers look at no more than that of any buffer.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && u32::try_from(end).is_ok());
        Self { start: start as u32, end: end as u32 }
    }

    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes themselves.
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.range()).unwrap_or_default()
    }

    /// The bytes as a shared slice of a frozen buffer.
    pub fn slice(self, buf: &Bytes) -> Bytes {
        match buf.get(self.range()) {
            Some(_) => buf.slice(self.range()),
            None => Bytes::new(),
        }
    }

    /// The same piece when everything before it moved by `shift` (a head that was copied to a buffer of its own).
    pub fn rebase(self, shift: u32) -> Self {
        Self { start: self.start.saturating_sub(shift), end: self.end.saturating_sub(shift) }
    }
}

/// What a parser looks at: the buffer, cut where spans end.
pub(crate) fn visible(buf: &[u8]) -> &[u8] {
    buf.get(..u32::MAX as usize).unwrap_or(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_outside_its_buffer_is_empty() {
        let span = Span::new(2, 5);
        assert_eq!(span.of(b"abcdefg"), b"cde");
        assert_eq!(span.of(b"abcd"), b"");
        assert_eq!(span.slice(&Bytes::from_static(b"abcdefg")), "cde");
        assert_eq!(span.slice(&Bytes::from_static(b"abcd")), "");
        assert_eq!((span.len(), span.is_empty()), (3, false));
        assert_eq!(span.rebase(2), Span::new(0, 3));
    }
}
