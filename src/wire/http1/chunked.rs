//! Chunked bodies: a decoder that is fed as bytes come, and the lines of an encoder.
//!
//! The decoder keeps a state and a number, never bytes: data is told as spans of what it was shown. It refuses what
//! nginx refuses (`ngx_http_parse_chunked`): a bare LF anywhere, a size beyond 60 bits, no digit where a size begins.
//! Beyond nginx, what is skipped has an end: [`MAX_SKIPPED`] bytes of size line and extension for each chunk, and as
//! much for all trailers together.

use crate::wire::byte;
use crate::wire::span::{Span, visible};

/// What ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How much of a size line, or of trailers, is skipped before the body is refused.
pub const MAX_SKIPPED: u32 = 65536;

/// What becomes of the lines behind the last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailers {
    /// They are skipped, up to the empty line that ends the body.
    Skip,
    /// The body ends before them; the caller reads them with `field::FieldParser`.
    Leave,
}

/// What the decoder found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes of the body. `rest` more of this chunk are still to come, behind the input: a limit on the body's size can
    /// be held before they are there.
    Data { data: Span, rest: u64 },
    /// All input is used; more bytes are needed.
    More,
    /// The body has ended; what follows it begins at this offset.
    End(u32),
}

/// The bytes are no chunked body. nginx logs `client sent invalid chunked body` and `upstream sent invalid chunked
/// response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

#[derive(Clone, Debug)]
pub struct Decoder {
    part: Part,
    trailers: Trailers,
    /// The size read so far, then what is left of the chunk.
    size: u64,
    skipped: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Start,
    Size,
    Extension,
    SizeLineFeed,
    Data,
    AfterData,
    AfterDataLineFeed,
    LastExtension,
    LastLineFeed,
    Trailer,
    TrailersLineFeed,
    TrailerLine,
    TrailerLineFeed,
    Done,
}

impl Decoder {
    pub fn new(trailers: Trailers) -> Self {
        Self { part: Part::Start, trailers, size: 0, skipped: 0 }
    }

    /// True once the body has ended.
    pub fn is_done(&self) -> bool {
        self.part == Part::Done
    }

    /// Looks at `input` from `from` on. After `Data` call again with the end of the data as `from`; after `More` with
    /// new input and 0.
    pub fn next(&mut self, input: &[u8], from: usize) -> Result<Chunk, BadChunk> {
        let input = visible(input);
        let mut at = from.min(input.len());
        loop {
            if self.part == Part::Done {
                return Ok(Chunk::End(at as u32));
            }
            if self.part == Part::Data && at < input.len() {
                return Ok(self.data(at, input.len()));
            }
            let Some(&byte) = input.get(at) else {
                return Ok(Chunk::More);
            };
            self.byte(byte)?;
            at += 1;
            if matches!(self.part, Part::Extension | Part::LastExtension | Part::TrailerLine) {
                at = self.leap(input, at)?;
            }
        }
    }

    /// The least number of bytes that must still come before the body can end (nginx's `length`): what is worth
    /// waiting for.
    pub fn expected(&self) -> u64 {
        // "0" CRLF CRLF behind a chunk and its CRLF
        const LAST: u64 = 5;
        match self.part {
            Part::Start => LAST,
            Part::Size if self.size == 0 => 4,
            Part::Size | Part::Extension => 2 + self.size + 2 + LAST,
            Part::SizeLineFeed => 1 + self.size + 2 + LAST,
            Part::Data => self.size + 2 + LAST,
            Part::AfterData => 2 + LAST,
            Part::AfterDataLineFeed => 1 + LAST,
            Part::LastExtension | Part::TrailerLine => 4,
            Part::LastLineFeed | Part::TrailerLineFeed => 3,
            Part::Trailer => 2,
            Part::TrailersLineFeed => 1,
            Part::Done => 0,
        }
    }

    fn data(&mut self, at: usize, len: usize) -> Chunk {
        let there = (len - at) as u64;
        let taken = there.min(self.size);
        self.size -= taken;
        if self.size == 0 {
            self.part = Part::AfterData;
        }
        Chunk::Data { data: Span::new(at, at + taken as usize), rest: self.size }
    }

    /// Over the inside of an extension or a trailer, where only CR and LF mean something.
    fn leap(&mut self, input: &[u8], at: usize) -> Result<usize, BadChunk> {
        let rest = input.get(at..).unwrap_or_default();
        let len = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        self.skip(u32::try_from(len).unwrap_or(u32::MAX))?;
        Ok(at + len)
    }

    fn skip(&mut self, len: u32) -> Result<(), BadChunk> {
        self.skipped = self.skipped.saturating_add(len);
        if self.skipped > MAX_SKIPPED { Err(BadChunk) } else { Ok(()) }
    }

    /// One byte that is not data.
    fn byte(&mut self, byte: u8) -> Result<(), BadChunk> {
        // nginx: sizes up to the largest offset divided by 16, whatever follows
        const MAX_SIZE: u64 = i64::MAX as u64 / 16;

        self.skip(1)?;
        self.part = match (self.part, byte) {
            (Part::Start, _) => {
                self.skipped = 1;
                self.size = u64::from(byte::hex(byte).ok_or(BadChunk)?);
                Part::Size
            }
            (Part::Size, _) if self.size > MAX_SIZE => return Err(BadChunk),
            (Part::Size, b'\r') if self.size == 0 => Part::LastLineFeed,
            (Part::Size, b';' | b' ' | b'\t') if self.size == 0 => Part::LastExtension,
            (Part::Size, b'\r') => Part::SizeLineFeed,
            (Part::Size, b';' | b' ' | b'\t') => Part::Extension,
            (Part::Size, _) => {
                self.size = self.size * 16 + u64::from(byte::hex(byte).ok_or(BadChunk)?);
                Part::Size
            }
            (Part::Extension, b'\r') => Part::SizeLineFeed,
            (Part::SizeLineFeed, b'\n') => Part::Data,
            (Part::AfterData, b'\r') => Part::AfterDataLineFeed,
            (Part::AfterDataLineFeed, b'\n') => Part::Start,
            (Part::LastExtension, b'\r') => Part::LastLineFeed,
            (Part::LastLineFeed, b'\n') => {
                self.skipped = 0;
                match self.trailers {
                    Trailers::Skip => Part::Trailer,
                    Trailers::Leave => Part::Done,
                }
            }
            (Part::Trailer, b'\r') => Part::TrailersLineFeed,
            (Part::TrailersLineFeed, b'\n') => Part::Done,
            (Part::TrailerLine, b'\r') => Part::TrailerLineFeed,
            (Part::TrailerLineFeed, b'\n') => Part::Trailer,
            (_, b'\n') => return Err(BadChunk),
            (part @ (Part::Extension | Part::LastExtension | Part::TrailerLine), _) => part,
            (Part::Trailer, _) => Part::TrailerLine,
            (
                Part::SizeLineFeed
                | Part::Data
                | Part::AfterData
                | Part::AfterDataLineFeed
                | Part::LastLineFeed
                | Part::TrailersLineFeed
                | Part::TrailerLineFeed
                | Part::Done,
                _,
            ) => return Err(BadChunk),
        };
        Ok(())
    }
}

/// The line before a chunk: its size in hexadecimal, CR, LF. On the stack, for a vectored write.
#[derive(Clone, Copy, Debug)]
pub struct SizeLine {
    bytes: [u8; 18],
    start: u8,
}

impl SizeLine {
    /// `size` must not be 0 for a chunk that is not the last.
    pub fn new(size: u64) -> Self {
        let mut bytes = [0; 18];
        bytes[16] = b'\r';
        bytes[17] = b'\n';
        let mut at = 16;
        let mut left = size;
        loop {
            at -= 1;
            bytes[at] = b"0123456789abcdef"[(left & 15) as usize];
            left >>= 4;
            if left == 0 {
                break;
            }
        }
        Self { bytes, start: at as u8 }
    }
}

impl AsRef<[u8]> for SizeLine {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, and how many bytes of the input it took; or `More` at the end of the input.
    type Decoded = Result<(Vec<u8>, Option<usize>), BadChunk>;

    fn feed(decoder: &mut Decoder, input: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>, BadChunk> {
        let mut from = 0;
        loop {
            match decoder.next(input, from)? {
                Chunk::Data { data, .. } => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(data.of(input));
                    from = data.end as usize;
                }
                Chunk::More => return Ok(None),
                Chunk::End(end) => return Ok(Some(end as usize)),
            }
        }
    }

    fn decode(input: &[u8], trailers: Trailers) -> Decoded {
        let mut body = Vec::new();
        let whole = feed(&mut Decoder::new(trailers), input, &mut body).map(|end| (body, end));
        for size in 1..input.len() {
            let (mut decoder, mut body) = (Decoder::new(trailers), Vec::new());
            let mut verdict = Ok(None);
            let mut used = 0;
            for piece in input.chunks(size) {
                let expected = decoder.expected();
                assert!(expected > 0);
                verdict = feed(&mut decoder, piece, &mut body).map(|end| end.map(|end| used + end));
                if verdict != Ok(None) {
                    break;
                }
                used += piece.len();
            }
            assert_eq!(verdict.map(|end| (body, end)), whole, "{:?} by {size}", String::from_utf8_lossy(input));
        }
        whole
    }

    #[test]
    fn good_bodies() {
        let cases: &[(&str, &str, usize)] = &[
            ("0\r\n\r\n", "", 0),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
            ("5\r\nhello\r\n6\r\n world\r\n000\r\n\r\nGET /", "hello world", 5),
            ("A;a=b;c\r\n0123456789\r\n0 ;x\r\n\r\n", "0123456789", 0),
            ("a \r\n0123456789\r\n0\t\r\n\r\n", "0123456789", 0),
            ("0000000000000000000000001\r\nx\r\n0\r\n\r\n", "x", 0),
            ("1\r\n\n\r\n0\r\nA: b\r\nC: d\r\n\r\n\r\n", "\n", 2),
        ];
        for &(input, body, left) in cases {
            let expected = Ok((body.as_bytes().to_vec(), Some(input.len() - left)));
            assert_eq!(decode(input.as_bytes(), Trailers::Skip), expected, "{input:?}");
        }
    }

    #[test]
    fn bad_bodies() {
        let cases = [
            "\r\n",
            "x",
            ";",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1\n",
            "1x",
            "1\rx",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rx",
            "1;a\n",
            "0\n",
            "0;a\n",
            "0\rx",
            "0\r\n\n",
            "0\r\nA\n",
            "0\r\nA\rx",
            "0\r\n\rx",
            "800000000000000\r\n",
            "fffffffffffffffff",
            "7ffffffffffffff0\r",
        ];
        for input in cases {
            assert_eq!(decode(input.as_bytes(), Trailers::Skip), Err(BadChunk), "{input:?}");
        }
    }

    #[test]
    fn sizes_are_known_before_their_bytes() {
        let mut decoder = Decoder::new(Trailers::Skip);
        assert_eq!(decoder.next(b"7ffffffffffffff\r\n", 0), Ok(Chunk::More));
        assert_eq!(decoder.expected(), 0x07ff_ffff_ffff_ffff + 7);
        let first = decoder.next(b"ab", 0);
        assert_eq!(first, Ok(Chunk::Data { data: Span::new(0, 2), rest: 0x07ff_ffff_ffff_fffd }));
    }

    #[test]
    fn trailers_may_be_left_to_the_caller() {
        let input = b"1\r\nx\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(decode(input, Trailers::Leave), Ok((b"x".to_vec(), Some(9))));
    }

    #[test]
    fn what_is_skipped_has_an_end() {
        let long = |head: &str, tail: &str, len: usize| [head.as_bytes(), &vec![b'a'; len], tail.as_bytes()].concat();
        let verdict = |input: &[u8]| feed(&mut Decoder::new(Trailers::Skip), input, &mut Vec::new());
        assert!(matches!(verdict(&long("1;", "\r\nx\r\n0\r\n\r\n", 60_000)), Ok(Some(_))));
        assert_eq!(verdict(&long("1;", "", 66_000)), Err(BadChunk));
        assert!(matches!(verdict(&long("0\r\n", "\r\n\r\n", 60_000)), Ok(Some(_))));
        assert_eq!(verdict(&long("0\r\n", "", 66_000)), Err(BadChunk));
        assert_eq!(verdict(&b"0".repeat(66_000)), Err(BadChunk));
        // each chunk has its own allowance
        let many = long("1;", "\r\nx\r\n", 60_000).repeat(3);
        assert_eq!(verdict(&many), Ok(None));
    }

    #[test]
    fn size_lines() {
        for (size, line) in [(0, "0\r\n"), (10, "a\r\n"), (4096, "1000\r\n"), (u64::MAX, "ffffffffffffffff\r\n")] {
            assert_eq!(SizeLine::new(size).as_ref(), line.as_bytes());
        }
    }
}
