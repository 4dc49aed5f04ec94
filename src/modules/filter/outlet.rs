//! Where a coder writes: buffers of one size, handed on when they are full.

use async_compression::core::util::WriteBuffer;
use bytes::Bytes;

use crate::http::body::Piece;

/// See the module's head.
pub struct Outlet {
    size: usize,
    buffer: Vec<u8>,
    filled: usize,
    /// All bytes that went through.
    pub total: u64,
}

impl Outlet {
    /// `size` is that of one buffer. There is none before the first byte.
    pub fn new(size: usize) -> Self {
        Self { size: size.max(LEAST), buffer: Vec::new(), filled: 0, total: 0 }
    }

    /// Lets `write` write into what is free of the buffer, and hands a full one on. The answer is `write`'s.
    pub fn write<T>(
        &mut self,
        out: &mut Vec<Piece>,
        write: impl FnOnce(&mut WriteBuffer<'_>) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.size];
        }
        let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let mut room = WriteBuffer::new_initialized(free);
        let answer = write(&mut room);
        self.filled += room.written_len();
        self.total += room.written_len() as u64;
        if self.filled == self.size {
            self.flush(out);
        }
        answer
    }

    /// Hands on what there is.
    pub fn flush(&mut self, out: &mut Vec<Piece>) {
        if self.filled == 0 {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.truncate(std::mem::take(&mut self.filled));
        out.push(Piece::Mem(Bytes::from(buffer)));
    }
}

/// A buffer that a coder can write its longest header into, so that every call gets on.
const LEAST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_buffers_are_handed_on_and_the_rest_when_asked() {
        let mut outlet = Outlet::new(100);
        let mut out = Vec::new();
        for written in [60, 60, 30] {
            outlet
                .write(&mut out, |room| {
                    let take = written.min(room.capacity());
                    room.advance(take);
                    Ok(())
                })
                .expect("written");
        }
        assert_eq!(out.iter().map(Piece::len).collect::<Vec<_>>(), [100]);
        outlet.flush(&mut out);
        outlet.flush(&mut out);
        assert_eq!(out.iter().map(Piece::len).collect::<Vec<_>>(), [100, 30]);
        assert_eq!(outlet.total, 130);
    }
}
