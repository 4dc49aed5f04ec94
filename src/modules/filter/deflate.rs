//! A coder of gzip, whose memory serves one answer of a thread after the other.
//!
//! In: what is to be compressed, in parts, and room for what becomes of it. Out: one member (RFC 1952). The coder's tables
//! are 400 KB, and to make and to clear them anew costs up to a twentieth of what a page of 20 KB does; so a thread keeps
//! those of its last answer.

use std::cell::Cell;
use std::io;

use async_compression::core::util::{PartialBuffer, WriteBuffer};
use flate2::{Compress, Compression, FlushCompress, Status};

/// What cannot be changed in a coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// 1 to 9, as zlib has them.
    pub level: u32,
    /// The logarithm of the window's size: 9 to 15.
    pub window: u8,
}

/// See the module's head.
#[derive(Debug)]
pub struct Coder {
    shape: Shape,
    compress: Compress,
}

thread_local! {
    /// One: an answer that fits into a step of its filter is done before another one begins.
    static SPARE: Cell<Option<Coder>> = const { Cell::new(None) };
}

impl Coder {
    /// At the beginning of a member.
    pub fn begin(shape: Shape) -> Self {
        if let Some(mut spare) = SPARE.take().filter(|spare| spare.shape == shape) {
            spare.compress.reset();
            return spare;
        }
        // zlib-rs's first level trades a quarter of the size for time (9.4 KB of a page of 20 KB, where zlib has 7.5); its
        // second is smaller than zlib's first (7.1 KB) and takes half of its time.
        let level = Compression::new(shape.level.max(2));
        Self { shape, compress: Compress::new_gzip(level, shape.window) }
    }

    /// The memory is for the next answer.
    pub fn give_back(self) {
        SPARE.set(Some(self));
    }

    /// Takes in something of `input`, as far as there is room for what comes out.
    pub fn encode(&mut self, input: &mut PartialBuffer<&[u8]>, room: &mut WriteBuffer<'_>) -> io::Result<()> {
        let (taken, status) = self.run(input.unwritten(), room, FlushCompress::None)?;
        input.advance(taken);
        gets_on(status)
    }

    /// Gives out all that was taken in. False: it did not fit.
    pub fn flush(&mut self, room: &mut WriteBuffer<'_>) -> io::Result<bool> {
        self.run(&[], room, FlushCompress::Sync)?;
        Ok(!room.has_no_spare_space())
    }

    /// Ends the member. False: its end did not fit.
    pub fn finish(&mut self, room: &mut WriteBuffer<'_>) -> io::Result<bool> {
        let (_, status) = self.run(&[], room, FlushCompress::Finish)?;
        gets_on(status)?;
        Ok(status == Status::StreamEnd)
    }

    fn run(&mut self, input: &[u8], room: &mut WriteBuffer<'_>, flush: FlushCompress) -> io::Result<(usize, Status)> {
        let (taken, given) = (self.compress.total_in(), self.compress.total_out());
        let status = self.compress.compress(input, room.initialize_unwritten(), flush)?;
        room.advance(moved(given, self.compress.total_out()));
        Ok((moved(taken, self.compress.total_in()), status))
    }
}

/// Whoever calls again until all is done must not do so for ever.
fn gets_on(status: Status) -> io::Result<()> {
    match status {
        Status::Ok | Status::StreamEnd => Ok(()),
        Status::BufError => Err(io::Error::other("buffer error")),
    }
}

/// Never more than a buffer of ours holds.
fn moved(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::http::body::Piece;
    use crate::modules::filter::outlet::Outlet;

    const SHAPE: Shape = Shape { level: 1, window: 15 };

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|n| format!("{} ", n % 977).into_bytes()).collect()
    }

    /// One member of `parts`, flushed behind each, in buffers of 512 bytes.
    fn member(coder: &mut Coder, parts: &[&[u8]]) -> Vec<u8> {
        let mut outlet = Outlet::new(512);
        let mut out = Vec::new();
        for part in parts {
            let mut input = PartialBuffer::new(*part);
            while !input.unwritten().is_empty() {
                outlet.write(&mut out, |room| coder.encode(&mut input, room)).expect("encoded");
            }
            while !outlet.write(&mut out, |room| coder.flush(room)).expect("flushed") {}
        }
        while !outlet.write(&mut out, |room| coder.finish(room)).expect("finished") {}
        outlet.flush(&mut out);
        let mut all = Vec::new();
        for piece in &out {
            let Piece::Mem(bytes) = piece else { panic!("a coder writes memory") };
            assert!(bytes.len() <= 512);
            all.extend_from_slice(bytes);
        }
        all
    }

    fn read(member: &[u8]) -> Vec<u8> {
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(member).read_to_end(&mut back).expect("valid gzip");
        back
    }

    #[test]
    fn every_level_window_and_split_reads_back() {
        let text = text();
        for level in 1..=9 {
            for window in 9..=15 {
                for split in [17, 511, 512, 7001, text.len()] {
                    let parts: Vec<&[u8]> = text.chunks(split).take(40).collect();
                    let mut coder = Coder::begin(Shape { level, window });
                    let back = read(&member(&mut coder, &parts));
                    assert_eq!(back, parts.concat(), "level {level}, window {window}, parts of {split}");
                }
            }
        }
    }

    #[test]
    fn what_was_given_back_begins_anew() {
        let text = text();
        let mut coder = Coder::begin(SHAPE);
        let first = member(&mut coder, &[&text]);
        coder.give_back();
        let mut again = Coder::begin(SHAPE);
        assert_eq!(member(&mut again, &[&text]), first);
        // Broken off in the middle.
        again.give_back();
        let mut broken = Coder::begin(SHAPE);
        let mut input = PartialBuffer::new(text.as_slice());
        broken.encode(&mut input, &mut WriteBuffer::new_initialized(&mut [0; 100])).expect("encoded");
        broken.give_back();
        let mut again = Coder::begin(SHAPE);
        assert_eq!(member(&mut again, &[&text]), first);
        again.give_back();
        // Another shape has memory of its own.
        let mut smaller = Coder::begin(Shape { level: 9, window: 9 });
        assert_eq!(read(&member(&mut smaller, &[&text])), text);
    }

    #[test]
    fn nothing_is_a_member_too() {
        assert_eq!(read(&member(&mut Coder::begin(SHAPE), &[])), b"");
    }

    #[test]
    fn a_smaller_window_finds_less() {
        let far: Vec<u8> =
            (0..3u32).flat_map(|_| (0..2000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())).collect();
        let size = |window| member(&mut Coder::begin(Shape { level: 6, window }), &[&far]).len();
        assert!(size(10) > 2 * size(15), "{} {}", size(10), size(15));
    }

    /// Which deflate is compiled in shows in what it makes of its second level: zlib-rs's is far from its first.
    #[test]
    fn the_first_level_is_no_larger_than_that_of_zlib() {
        let text: Vec<u8> =
            (0..3000u32).flat_map(|n| format!("<li>{} {}</li>\n", n * n % 7919, n % 31).into_bytes()).collect();
        let mut quickest = Coder { shape: SHAPE, compress: Compress::new_gzip(Compression::new(1), 15) };
        let (quickest, ours) =
            (member(&mut quickest, &[&text]).len(), member(&mut Coder::begin(SHAPE), &[&text]).len());
        assert!(ours * 10 < quickest * 9, "{ours} against {quickest}");
    }
}
