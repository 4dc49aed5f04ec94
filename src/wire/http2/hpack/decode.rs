//! Blocks of fields as they come, and the table that they add to.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{huffman, table};
use crate::wire::span::Span;

/// The size of the table that we offer, which is the one that every peer may expect.
const TABLE: usize = 4096;
/// What an entry counts beside its text (RFC 7541, 4.1).
const ENTRY: usize = 32;

/// What a block may come to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one name or value as sent.
    pub text: usize,
    /// Bytes of all names and values.
    pub total: usize,
}

/// Why a block cannot be used: all of them end the connection, for nobody knows its table any more. `Display` is
/// nginx's sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It ends in the middle of something.
    Cut,
    LongInteger,
    Index,
    TableSize,
    Huffman,
    NoName,
    /// One name or value.
    LargeField,
    Large,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cut => "client sent header block with incorrect length",
            Self::LongInteger => "client sent header block with too long length value",
            Self::Index => "client sent invalid hpack table index",
            Self::TableSize => "client sent invalid table size update",
            Self::Huffman => "client sent invalid encoded header field",
            Self::NoName => "client sent zero header name length",
            Self::LargeField => "client sent too large header field",
            Self::Large => "client sent too large header",
        })
    }
}

/// One field of a [`Fields`]: where its name and value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub name: Span,
    pub value: Span,
}

/// The fields of a block, their text in one piece.
#[derive(Debug, Default)]
pub struct Fields {
    pub text: Bytes,
    pub pairs: Vec<Pair>,
}

/// A block that is being read.
#[derive(Debug)]
pub struct Block {
    text: BytesMut,
    pairs: Vec<Pair>,
    limits: Limits,
    /// Bytes that names and values may still come to.
    left: usize,
}

impl Block {
    pub fn new(limits: Limits) -> Self {
        Self { text: BytesMut::with_capacity(512), pairs: Vec::with_capacity(16), limits, left: limits.total }
    }

    /// What was read.
    pub fn finish(self) -> Fields {
        Fields { text: self.text.freeze(), pairs: self.pairs }
    }
}

impl Fields {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|pair| (pair.name.of(&self.text), pair.value.of(&self.text)))
    }
}

/// The reading side of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The latest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// `None`: the size that we offer.
    limit: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

impl Decoder {
    /// Reads a whole block.
    pub fn decode(&mut self, bytes: &[u8], limits: Limits) -> Result<Fields, Bad> {
        let mut block = Block::new(limits);
        match self.read(bytes, &mut block)? {
            used if used == bytes.len() => Ok(block.finish()),
            _ => Err(Bad::Cut),
        }
    }

    /// Reads the fields that are whole, as far as `bytes` go. Says how many bytes that was; the rest is wanted again
    /// with more behind it.
    pub fn read(&mut self, bytes: &[u8], block: &mut Block) -> Result<usize, Bad> {
        let mut reading = Reading { rest: bytes, text: &mut block.text, limits: block.limits };
        loop {
            let (rest, written) = (reading.rest, reading.text.len());
            let Some(&first) = rest.first() else { return Ok(bytes.len()) };
            let read = match first {
                0x80.. => reading.integer(7).and_then(|index| self.indexed(index, reading.text)),
                0x40..0x80 => self.literal(6, &mut reading),
                0x20..0x40 => match reading.integer(5) {
                    Ok(size) => {
                        self.resize(size)?;
                        continue;
                    }
                    Err(bad) => Err(bad),
                },
                0x00..0x20 => self.literal(4, &mut reading),
            };
            let pair = match read {
                Ok(pair) => pair,
                Err(Bad::Cut) => {
                    reading.text.truncate(written);
                    return Ok(bytes.len() - rest.len());
                }
                Err(bad) => return Err(bad),
            };
            block.left = block.left.checked_sub(pair.name.len() + pair.value.len()).ok_or(Bad::Large)?;
            if matches!(first, 0x40..0x80) {
                self.add(pair.name.of(reading.text), pair.value.of(reading.text));
            }
            block.pairs.push(pair);
        }
    }

    fn literal(&self, prefix: u32, reading: &mut Reading<'_>) -> Result<Pair, Bad> {
        let name = match reading.integer(prefix)? {
            0 => {
                let name = reading.text()?;
                if name.is_empty() {
                    return Err(Bad::NoName);
                }
                name
            }
            index => push(self.get(index)?.0, reading.text),
        };
        Ok(Pair { name, value: reading.text()? })
    }

    fn indexed(&self, index: usize, text: &mut BytesMut) -> Result<Pair, Bad> {
        let (name, value) = self.get(index)?;
        Ok(Pair { name: push(name, text), value: push(value, text) })
    }

    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), Bad> {
        if let Some((name, value)) = table::get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let place = index.checked_sub(table::LEN + 1).ok_or(Bad::Index)?;
        let entry = self.entries.get(place).ok_or(Bad::Index)?;
        entry.text.split_at_checked(entry.name).ok_or(Bad::Index)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY;
        let limit = self.limit.unwrap_or(TABLE);
        // RFC 7541, 4.4: what does not fit empties the table, and that is no error.
        self.shrink(limit.saturating_sub(size));
        if size <= limit {
            self.size += size;
            self.entries.push_front(Entry { text: [name, value].concat().into(), name: name.len() });
        }
    }

    fn resize(&mut self, limit: usize) -> Result<(), Bad> {
        if limit > TABLE {
            return Err(Bad::TableSize);
        }
        self.limit = Some(limit);
        self.shrink(limit);
        Ok(())
    }

    /// Lets the oldest go until no more than `size` is left.
    fn shrink(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_back() else { return };
            self.size -= entry.text.len() + ENTRY;
        }
    }
}

/// Appends text; says where it is.
fn push(piece: &[u8], text: &mut BytesMut) -> Span {
    let start = text.len();
    text.extend_from_slice(piece);
    Span::new(start, text.len())
}

struct Reading<'a> {
    rest: &'a [u8],
    text: &'a mut BytesMut,
    limits: Limits,
}

impl Reading<'_> {
    fn byte(&mut self) -> Result<u8, Bad> {
        let (first, rest) = self.rest.split_first().ok_or(Bad::Cut)?;
        self.rest = rest;
        Ok(*first)
    }

    /// RFC 7541, 5.1; no longer than four bytes, as in nginx.
    fn integer(&mut self, prefix: u32) -> Result<usize, Bad> {
        let most = (1usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Bad::LongInteger)
    }

    /// RFC 7541, 5.2.
    fn text(&mut self) -> Result<Span, Bad> {
        let coded = self.rest.first().is_some_and(|byte| byte & 0x80 != 0);
        let len = self.integer(7)?;
        if len > self.limits.text {
            return Err(Bad::LargeField);
        }
        let (piece, rest) = self.rest.split_at_checked(len).ok_or(Bad::Cut)?;
        self.rest = rest;
        let start = self.text.len();
        match coded {
            true => huffman::decode(piece, self.text).map_err(|huffman::Invalid| Bad::Huffman)?,
            false => self.text.extend_from_slice(piece),
        }
        Ok(Span::new(start, self.text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { text: 8192, total: 32768 };

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<String, Bad> {
        let fields = decoder.decode(block, LIMITS)?;
        let shown = fields
            .iter()
            .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn three_requests_of_the_rfc() {
        // RFC 7541, C.4
        let mut decoder = Decoder::default();
        let first =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let base = ":method=GET :scheme=http :path=/ :authority=www.example.com";
        assert_eq!(fields(&mut decoder, &first), Ok(base.to_owned()));
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        assert_eq!(fields(&mut decoder, &second), Ok(format!("{base} cache-control=no-cache")));
        let third = [
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f, 0x89, 0x25, 0xa8, 0x49,
            0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];
        let expected = ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value";
        assert_eq!(fields(&mut decoder, &third), Ok(expected.to_owned()));
        assert_eq!((decoder.entries.len(), decoder.size), (3, 164));
    }

    #[test]
    fn the_table_stays_within_its_size() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40, 1, b'a', 0x7f, 0xe1, 0x07]; // a value of 1120 bytes
        block.extend([b'v'; 1120]);
        for _ in 0..5 {
            fields(&mut decoder, &block).expect("valid");
        }
        assert_eq!((decoder.entries.len(), decoder.size), (3, 3 * 1153));
        // 31, a size of 1153: one is left.
        fields(&mut decoder, &[0x3f, 0xe2, 0x08]).expect("valid");
        assert_eq!(decoder.entries.len(), 1);
        fields(&mut decoder, &[0x20]).expect("valid");
        fields(&mut decoder, &[0x40, 1, b'a', 1, b'b']).expect("what does not fit is not kept");
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
    }

    #[test]
    fn a_block_may_be_cut_anywhere() {
        let block = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff, 0x3f,
            0xe1, 0x1f, 0x40, 1, b'a', 1, b'b', 0xbe,
        ];
        let whole = fields(&mut Decoder::default(), &block).expect("valid");
        for cut in 0..block.len() {
            let (mut decoder, mut reading) = (Decoder::default(), Block::new(LIMITS));
            let used = decoder.read(&block[..cut], &mut reading).expect("valid so far");
            assert!(used <= cut);
            assert_eq!(decoder.read(&block[used..], &mut reading), Ok(block.len() - used));
            let fields = reading.finish();
            assert_eq!(fields.pairs.len(), 6, "{cut}");
            assert_eq!(whole.split(' ').count(), 6);
        }
    }

    #[test]
    fn what_is_refused() {
        for (block, bad) in [
            (&[0x80][..], Bad::Index),
            (&[0xbe], Bad::Index),
            (&[0x7e, 0], Bad::Index),
            (&[0x3f, 0xe2, 0x1f], Bad::TableSize),
            (&[0xff, 0xff, 0xff, 0xff, 0x01], Bad::LongInteger),
            (&[0xff], Bad::Cut),
            (&[0x00, 0x02, b'a'], Bad::Cut),
            (&[0x00, 0x00, 0x01, b'a'], Bad::NoName),
            (&[0x00, 0x01, b'a', 0x82, 0xff, 0xff], Bad::Huffman),
            (&[0x00, 0x01, b'a', 0x7f, 0x82, 0x3f], Bad::LargeField),
        ] {
            assert_eq!(fields(&mut Decoder::default(), block), Err(bad), "{block:x?}");
        }
        let tight = Limits { text: 100, total: 5 };
        let block = [0x00, 1, b'a', 2, b'b', b'c', 0x00, 1, b'd', 2, b'e', b'f'];
        assert_eq!(Decoder::default().decode(&block, tight).err(), Some(Bad::Large));
    }
}
