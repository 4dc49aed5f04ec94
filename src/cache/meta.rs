//! The header of a cache file: nginx's version 5, as 64-bit Linux lays it out.
//!
//! ```text
//!   0  version u64 = 5             52  valid_msec u16           187  vary_len u8
//!   8  valid_sec i64               54  header_start u16         188  vary [128]
//!  16  updating_sec i64            56  body_start u16           316  variant [16]
//!  24  error_sec i64               58  etag_len u8              332  padding to 336
//!  32  last_modified i64           59  etag [128]
//!  40  date i64                                                 336  "\nKEY: ", the key, "\n"
//!  48  crc32 of the key u32                            header_start  the upstream's head
//!                                                        body_start  the body
//! ```
//!
//! Behind the head of a body that is long, zeros go on to the next page of memory: so the body's pages are sent as they are,
//! and are not cut anew for each packet. nginx goes by `body_start` and so does not see them.
//!
//! In: the first bytes of a file, and the key that was looked for. Out: a [`Meta`], or why the file is of no use. The
//! file may have been cut, overwritten or made by anybody: every length is checked here, and more strictly than nginx does
//! (which trusts the length of the entity tag and where head and body begin), so that a broken file is a miss.

use std::fmt;

use bytes::Bytes;

use super::key::Key;

/// Where the key's line begins: the size of nginx's structure.
pub const FIXED: usize = 336;

/// A file that is shorter than this is none of ours; so says nginx's loader too.
pub const SMALLEST: usize = FIXED + LABEL.len() + 1;

/// The longest entity tag and the longest `Vary` that the header has room for. A longer tag is left out, an answer with a
/// longer `Vary` is not kept.
pub const MAX_ETAG: usize = 128;
pub const MAX_VARY: usize = 128;

/// The body of an answer that is longer than a small file begins at a multiple of this.
const PAGE: usize = 4096;

const VERSION: u64 = 5;
const LABEL: &[u8] = b"\nKEY: ";

/// What a cache file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Fresh until this second.
    pub valid: i64,
    /// Seconds behind `valid` in which it may be served while it is fetched anew: `stale-while-revalidate`.
    pub updating: i64,
    /// Seconds behind `valid` in which it may be served when the upstream fails: `stale-if-error`.
    pub error: i64,
    /// `Last-Modified` in seconds, -1 without.
    pub last_modified: i64,
    /// When it was received.
    pub date: i64,
    /// Milliseconds of `valid`: nginx keeps them for errors that it remembers.
    pub valid_msec: u16,
    /// Where the upstream's head begins.
    pub header_start: u16,
    /// Where the body begins: where the head ends, or at the next page. The same as `header_start` for an answer that had
    /// no head.
    pub body_start: u16,
    pub etag: Bytes,
    /// The names in the answer's `Vary`, with `", "` between its lines; empty without.
    pub vary: Bytes,
    /// The key of the variant that this file holds; all zero without `vary`.
    pub variant: [u8; Key::LEN],
}

/// Why a file cannot be used. Shown, it completes nginx's `cache file "…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    TooSmall,
    /// Written by another nginx: an ordinary thing after an upgrade, `info` in the log and not `crit`.
    Version,
    /// Another key's file.
    Collision,
    LongHeader,
    VaryLength,
    /// Its lengths contradict each other, which nginx does not notice.
    Broken,
}

impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::TooSmall => "is too small",
            Self::Version => "version mismatch",
            Self::Collision => "has md5 collision",
            Self::LongHeader => "has too long header",
            Self::VaryLength => "has incorrect vary length",
            Self::Broken => "has a broken header",
        })
    }
}

/// The header does not fit: its key or the upstream's head is longer than the format's 16 bits tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Where the upstream's head begins in the file of a key of this length; `None` when no file can hold such a key.
pub fn header_start(key_len: usize) -> Option<u16> {
    key_len.checked_add(SMALLEST).and_then(|start| u16::try_from(start).ok())
}

impl Meta {
    /// Reads the header of a file that begins with `buf`, which is to hold the first `proxy_buffer_size` bytes or the whole
    /// file. `key` is what the file must have been kept under.
    pub fn decode(buf: &Bytes, key: &[u8]) -> Result<Self, Unusable> {
        let expected = header_start(key.len()).ok_or(Unusable::Collision)?;
        if buf.len() < usize::from(expected) {
            return Err(Unusable::TooSmall);
        }
        let (meta, crc) = Self::fixed(buf)?;
        if crc != crc32fast::hash(key) || meta.header_start != expected || key_line(buf, expected) != Some(key) {
            return Err(Unusable::Collision);
        }
        Ok(meta)
    }

    /// Reads a header without knowing the key, and gives the key too: for those who walk the directory.
    pub fn decode_any(buf: &Bytes) -> Result<(Self, Bytes), Unusable> {
        let (meta, crc) = Self::fixed(buf)?;
        let key = key_line(buf, meta.header_start).ok_or(Unusable::Broken)?;
        if crc != crc32fast::hash(key) {
            return Err(Unusable::Broken);
        }
        let key = buf.slice_ref(key);
        Ok((meta, key))
    }

    /// The part of fixed size, and the key's checksum.
    fn fixed(buf: &Bytes) -> Result<(Self, u32), Unusable> {
        let mut fields = Reader { buf, at: 0 };
        if fields.u64()? != VERSION {
            return Err(Unusable::Version);
        }
        let [valid, updating, error, last_modified, date] =
            [fields.i64()?, fields.i64()?, fields.i64()?, fields.i64()?, fields.i64()?];
        let crc = u32::from_le_bytes(fields.array()?);
        let [valid_msec, header_start, body_start] = [fields.u16()?, fields.u16()?, fields.u16()?];
        let etag = fields.short(MAX_ETAG)?.ok_or(Unusable::Broken)?;
        let vary = fields.short(MAX_VARY)?.ok_or(Unusable::VaryLength)?;
        let variant = fields.array()?;
        if usize::from(header_start) < SMALLEST || body_start < header_start {
            return Err(Unusable::Broken);
        }
        if buf.len() < usize::from(body_start) {
            // nginx: the buffer of this location cannot hold the head, which another's could; or the file was cut
            return Err(Unusable::LongHeader);
        }
        // `max-age=9999999999999999999` is written as the last second of all: sums and differences are to stay in bounds
        let [valid, updating, error, last_modified, date] =
            [valid, updating, error, last_modified, date].map(|time| time.clamp(-1, i64::MAX / 4));
        let meta = Self {
            valid,
            updating,
            error,
            last_modified,
            date,
            valid_msec,
            header_start,
            body_start,
            etag,
            vary,
            variant,
        };
        Ok((meta, crc))
    }

    /// What stands before the body in a file of this key: the header, the upstream's head, and zeros up to the next page if
    /// the body is `long` and what is before it is read at once even so, which `limit` says. The two offsets are counted here.
    pub fn front(&self, key: &[u8], head: &[u8], long: bool, limit: usize) -> Result<Vec<u8>, TooLong> {
        let header_start = header_start(key.len()).ok_or(TooLong)?;
        let end = usize::from(header_start) + head.len().min(1 << 16);
        let page = end.next_multiple_of(PAGE);
        let start = if long && !head.is_empty() && page <= limit.min(usize::from(u16::MAX)) { page } else { end };
        let body_start = u16::try_from(start).map_err(|_| TooLong)?;
        let mut out = Vec::with_capacity(start);
        Self { header_start, body_start, ..self.clone() }.encode(&mut out, key)?;
        out.extend_from_slice(head);
        out.resize(start, 0);
        Ok(out)
    }

    /// Appends the header of a file of this key: what stands before the upstream's head.
    pub fn encode(&self, out: &mut Vec<u8>, key: &[u8]) -> Result<(), TooLong> {
        if self.vary.len() > MAX_VARY {
            return Err(TooLong);
        }
        let etag: &[u8] = if self.etag.len() > MAX_ETAG { b"" } else { &self.etag };
        let from = out.len();
        out.extend_from_slice(&VERSION.to_le_bytes());
        for time in [self.valid, self.updating, self.error, self.last_modified, self.date] {
            out.extend_from_slice(&time.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(key).to_le_bytes());
        for short in [self.valid_msec, self.header_start, self.body_start] {
            out.extend_from_slice(&short.to_le_bytes());
        }
        for text in [etag, &self.vary[..]] {
            out.push(text.len() as u8); // at most 128
            out.extend_from_slice(text);
            out.resize(out.len() + MAX_VARY - text.len(), 0);
        }
        out.extend_from_slice(&self.variant);
        out.resize(from + FIXED, 0);
        out.extend_from_slice(LABEL);
        out.extend_from_slice(key);
        out.push(b'\n');
        Ok(())
    }

    /// True when the answer may be served at `now` without a word to the upstream.
    pub fn is_fresh(&self, now: i64) -> bool {
        self.valid >= now
    }

    /// True in the time of `stale-while-revalidate`.
    pub fn stale_while_updating(&self, now: i64) -> bool {
        self.valid.saturating_add(self.updating) >= now
    }

    /// True in the time of `stale-if-error`.
    pub fn stale_on_error(&self, now: i64) -> bool {
        self.valid.saturating_add(self.error) >= now
    }
}

/// Of what stands before the body, how much is the head.
pub fn head_len(head: &[u8]) -> usize {
    head.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// The key in the line before `header_start`.
fn key_line(buf: &[u8], header_start: u16) -> Option<&[u8]> {
    buf.get(FIXED..usize::from(header_start))?.strip_prefix(LABEL)?.strip_suffix(b"\n")
}

struct Reader<'a> {
    buf: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        let bytes = self.buf.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(Unusable::TooSmall)?;
        self.at += N;
        Ok(*bytes)
    }

    fn u64(&mut self) -> Result<u64, Unusable> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, Unusable> {
        self.array().map(i64::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Unusable> {
        self.array().map(u16::from_le_bytes)
    }

    /// A length and a field of `size` bytes, which the length may not pass.
    fn short(&mut self, size: usize) -> Result<Option<Bytes>, Unusable> {
        let [len] = self.array()?;
        let (start, len) = (self.at, usize::from(len));
        self.at += size;
        if self.buf.len() < self.at {
            return Err(Unusable::TooSmall);
        }
        Ok((len <= size).then(|| self.buf.slice(start..start + len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by nginx 1.22.1 for `/a` with `Accept-Encoding: gzip,  br` and two lines of `X-Kind`.
    const FILE: &[u8] = include_bytes!("../../tests/data/nginx_cache_file");

    fn file() -> Bytes {
        Bytes::from_static(FILE)
    }

    /// The file with other bytes at `at`.
    fn with(at: usize, bytes: &[u8]) -> Bytes {
        let mut file = FILE.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file.into()
    }

    #[test]
    fn a_file_of_nginx_is_read() {
        let meta = Meta::decode(&file(), b"/a").expect("nginx wrote it");
        let expected = Meta {
            valid: 2_795_637_509,
            updating: 30,
            error: 60,
            last_modified: 1_577_934_245,
            date: 1_795_637_509,
            valid_msec: 0,
            header_start: 345,
            body_start: 687,
            etag: Bytes::from_static(b"\"5e0d5da5-6\""),
            vary: Bytes::from_static(b"Accept-Encoding, X-Kind"),
            variant: Key::from_name(b"d8104b7ee77685b7756128c452a2468a").expect("a key").0,
        };
        assert_eq!(meta, expected);
        assert!(FILE[usize::from(meta.header_start)..].starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(&FILE[usize::from(meta.body_start)..], b"hello\n");
        assert_eq!(Meta::decode_any(&file()), Ok((meta, Bytes::from_static(b"/a"))));
    }

    #[test]
    fn what_is_written_is_the_same_to_the_byte() {
        let meta = Meta::decode(&file(), b"/a").expect("nginx wrote it");
        assert_eq!(meta.front(b"/a", &FILE[345..687], false, 4096).as_deref(), Ok(&FILE[..687]));
    }

    #[test]
    fn a_long_body_begins_with_a_page() {
        let (meta, head) = (Meta::default(), |len: usize| vec![b'h'; len]);
        let start = |key: &[u8], len, long, limit| {
            let front: Bytes = meta.front(key, &head(len), long, limit).expect("fits").into();
            let meta = Meta::decode(&front, key).expect("whole");
            let (from, to) = (usize::from(meta.header_start), usize::from(meta.body_start));
            assert_eq!(front.len(), to);
            assert_eq!(front[from..from + len], head(len));
            assert!(front[from + len..].iter().all(|&byte| byte == 0));
            to
        };
        assert_eq!(start(b"k", 100, true, 4096), 4096);
        assert_eq!(start(b"k", 4096 - 344, true, 4096), 4096);
        assert_eq!(start(b"k", 4096 - 343, true, 8192), 8192);
        // it would not be read at once
        assert_eq!(start(b"k", 100, true, 4095), 444);
        assert_eq!(start(b"k", 4096 - 343, true, 8191), 4097);
        assert_eq!(start(b"k", 100, false, 4096), 444);
        assert_eq!(start(b"k", 65_535 - 344, true, 1 << 20), 65_535);
        // an answer without a head stays one
        assert_eq!(start(b"k", 0, true, 4096), 344);
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut meta = Meta { etag: Bytes::from(vec![b'e'; 129]), last_modified: -1, ..Meta::default() };
        let front = |meta: &Meta, key: &[u8], head: &[u8]| meta.front(key, head, false, 4096);
        let short = front(&meta, b"k", b"HTTP/1.0\n\n").expect("fits").into();
        assert_eq!(Meta::decode(&short, b"k").expect("whole").etag, "");

        assert!(front(&meta, &[b'k'; 65_192], b"").is_ok());
        assert_eq!(front(&meta, &[b'k'; 65_192], b"h"), Err(TooLong));
        assert_eq!(front(&meta, &[b'k'; 65_193], b""), Err(TooLong));
        assert_eq!(front(&meta, b"k", &[b'h'; 1 << 17]), Err(TooLong));
        meta.vary = Bytes::from(vec![b'v'; 129]);
        assert_eq!(front(&meta, b"k", b""), Err(TooLong));
    }

    #[test]
    fn broken_files_are_told_apart() {
        let cases = [
            (file().slice(..344), Unusable::TooSmall),
            (file().slice(..8), Unusable::TooSmall),
            (Bytes::new(), Unusable::TooSmall),
            (file().slice(..686), Unusable::LongHeader),
            (with(0, &[4]), Unusable::Version),
            (with(7, &[1]), Unusable::Version),
            (with(48, &[0]), Unusable::Collision),
            (with(54, &[88]), Unusable::Collision),
            (with(343, b"b"), Unusable::Collision),
            (with(341, b";"), Unusable::Collision),
            (with(344, b"\r"), Unusable::Collision),
            (with(55, &[0]), Unusable::Broken),
            (with(56, &[0x58, 1]), Unusable::Broken),
            (with(56, &[0xff, 0xff]), Unusable::LongHeader),
            (with(58, &[129]), Unusable::Broken),
            (with(187, &[129]), Unusable::VaryLength),
        ];
        for (n, (bytes, why)) in cases.into_iter().enumerate() {
            assert_eq!(Meta::decode(&bytes, b"/a"), Err(why), "case {n}");
        }
        assert_eq!(Meta::decode(&file(), b"/b"), Err(Unusable::Collision));
        assert_eq!(Meta::decode(&file(), b""), Err(Unusable::Collision));
        assert_eq!(Meta::decode(&file(), &vec![b'a'; 70_000]), Err(Unusable::Collision));
        assert_eq!(Meta::decode_any(&with(343, b"b")), Err(Unusable::Broken));
        let far = Meta::decode(&with(8, &i64::MAX.to_le_bytes()), b"/a").expect("a time beyond all");
        assert!(far.is_fresh(4_000_000_000) && far.stale_on_error(i64::MAX / 4));
        let past = Meta::decode(&with(8, &i64::MIN.to_le_bytes()), b"/a").expect("a time before all");
        assert_eq!(past.valid, -1);
    }

    #[test]
    fn freshness_ends_behind_its_last_second() {
        let meta = Meta { valid: 100, updating: 10, error: 20, ..Meta::default() };
        assert!(meta.is_fresh(100) && !meta.is_fresh(101));
        assert!(meta.stale_while_updating(110) && !meta.stale_while_updating(111));
        assert!(meta.stale_on_error(120) && !meta.stale_on_error(121));
    }
}
