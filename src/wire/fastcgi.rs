//! FastCGI records: those of a request, written, and those of an answer, read.
//!
//! One request per connection at a time, with the id 1, in the role of a responder: what nginx speaks. The reader is fed
//! as bytes come, keeps a header and a number, and tells data as spans of what it was shown
//! (`ngx_http_fastcgi_process_record`).

use std::fmt;

use crate::wire::cgi;
use crate::wire::span::{Span, visible};

const VERSION: u8 = 1;
const REQUEST_ID: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const RESPONDER: u8 = 1;
const KEEP_CONN: u8 = 1;

/// The length of a record's header.
pub const HEADER: usize = 8;

/// How much of a body goes into one record.
pub const MAX_STDIN: usize = 32 * 1024;

/// The empty record that ends a body.
pub const STDIN_END: [u8; HEADER] = header(STDIN, 0);

/// The params do not fit one record. nginx logs `fastcgi request record is too big: SIZE` as an alert, and answers 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig(pub usize);

/// Writes the beginning of a request: BEGIN_REQUEST, the params, and the empty record behind them. Then comes the body
/// in STDIN records.
pub struct RequestWriter {
    out: Vec<u8>,
}

/// Where the params begin in the output: two headers and the body of BEGIN_REQUEST come before.
const PARAMS_START: usize = 3 * HEADER;

impl RequestWriter {
    /// Writes into the memory of `out`. `keep_conn`: the application is asked not to close the connection
    /// (`fastcgi_keep_conn`).
    pub fn new(mut out: Vec<u8>, keep_conn: bool) -> Self {
        out.clear();
        out.extend_from_slice(&header(BEGIN_REQUEST, 8));
        out.extend_from_slice(&[0, RESPONDER, if keep_conn { KEEP_CONN } else { 0 }, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&[0; HEADER]);
        Self { out }
    }

    /// The value is what `value` appends. With `if_not_empty`, nothing is told of one that is empty.
    pub fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.length(name.len());
        let place = self.out.len();
        self.out.push(0); // the value's length, as most are
        self.out.extend_from_slice(name);
        let from = self.out.len();
        value(&mut self.out);
        let len = self.out.len().saturating_sub(from);
        match u8::try_from(len) {
            Ok(0) if if_not_empty => self.out.truncate(start),
            Ok(short @ 0..=127) => {
                if let Some(byte) = self.out.get_mut(place) {
                    *byte = short;
                }
            }
            _ => drop(self.out.splice(place..place + 1, long(len))),
        }
    }

    /// A field of the request as `HTTP_NAME`.
    pub fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        self.length(cgi::name_len(name));
        self.length(cgi::values_len(name, values));
        cgi::push_name(name, &mut self.out);
        cgi::push_values(name, values, &mut self.out);
    }

    /// The bytes to send.
    pub fn finish(mut self) -> Result<Vec<u8>, TooBig> {
        let len = self.out.len() - PARAMS_START;
        let Ok(content) = u16::try_from(len) else {
            return Err(TooBig(len));
        };
        if let Some(place) = self.out.get_mut(PARAMS_START - HEADER..PARAMS_START) {
            place.copy_from_slice(&header(PARAMS, content));
        }
        self.out.extend_from_slice(padding(len));
        self.out.extend_from_slice(&header(PARAMS, 0));
        Ok(self.out)
    }

    fn length(&mut self, len: usize) {
        match u8::try_from(len) {
            Ok(short @ 0..=127) => self.out.push(short),
            _ => self.out.extend_from_slice(&long(len)),
        }
    }
}

/// A length above 127. What does not fit its 31 bits does not fit the record either: [`RequestWriter::finish`] refuses it.
fn long(len: usize) -> [u8; 4] {
    (len as u32 | 0x8000_0000).to_be_bytes()
}

/// The header of a STDIN record with `len` bytes of the body, at most [`MAX_STDIN`]; behind them comes their [`padding`].
pub fn stdin(len: usize) -> [u8; HEADER] {
    header(STDIN, len.min(MAX_STDIN) as u16)
}

/// The header of a record of `len` bytes that a program has written, nothing behind them.
pub fn stdout(len: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    [VERSION, STDOUT, 0, REQUEST_ID, high, low, 0, 0]
}

/// The bytes that fill `len` up to a multiple of 8.
pub fn padding(len: usize) -> &'static [u8] {
    const ZEROS: [u8; 7] = [0; 7];
    ZEROS.get(..len.wrapping_neg() % 8).unwrap_or_default()
}

const fn header(kind: u8, len: u16) -> [u8; HEADER] {
    let [high, low] = len.to_be_bytes();
    [VERSION, kind, 0, REQUEST_ID, high, low, (len.wrapping_neg() % 8) as u8, 0]
}

/// What the reader found next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Bytes of the answer.
    Stdout(Span),
    /// Bytes for the error log; see [`trim_stderr`].
    Stderr(Span),
    /// The answer is whole; END_REQUEST should follow. The next byte is at this offset.
    StdoutEnd(u32),
    /// The request has ended, padding included. When nothing follows at this offset, the connection can be kept.
    End(u32),
    /// All input is used; more bytes are needed.
    More,
}

/// The bytes are no record of an answer. `Display` is nginx's sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    Version(u8),
    Type(u8),
    RequestIdHigh(u8),
    RequestIdLow(u8),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(byte) => write!(f, "upstream sent unsupported FastCGI protocol version: {byte}"),
            Self::Type(byte) => write!(f, "upstream sent invalid FastCGI record type: {byte}"),
            Self::RequestIdHigh(byte) => write!(f, "upstream sent unexpected FastCGI request id high byte: {byte}"),
            Self::RequestIdLow(byte) => write!(f, "upstream sent unexpected FastCGI request id low byte: {byte}"),
        }
    }
}

/// Reads the records of one answer.
#[derive(Clone, Debug, Default)]
pub struct RecordReader {
    part: Part,
    kind: u8,
    /// What is left of the content.
    len: u16,
    padding: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Version,
    Type,
    RequestIdHigh,
    RequestIdLow,
    LengthHigh,
    LengthLow,
    PaddingLength,
    Reserved,
    Content,
    Padding,
    Done,
}

impl RecordReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at `input` from `from` on. After a span call again with its end as `from`; after `More` with new input and 0.
    pub fn next(&mut self, input: &[u8], from: usize) -> Result<Record, BadRecord> {
        let input = visible(input);
        let mut at = from.min(input.len());
        loop {
            let there = input.len() - at;
            match self.part {
                Part::Content if self.len == 0 => self.part = Part::Padding,
                Part::Content if there == 0 => return Ok(Record::More),
                Part::Content => {
                    let taken = there.min(usize::from(self.len));
                    let span = Span::new(at, at + taken);
                    self.len -= taken as u16;
                    at += taken;
                    match self.kind {
                        STDOUT => return Ok(Record::Stdout(span)),
                        STDERR => return Ok(Record::Stderr(span)),
                        // the statuses of END_REQUEST: nginx does not look at them
                        _ => {}
                    }
                }
                Part::Padding => {
                    let taken = there.min(usize::from(self.padding));
                    self.padding -= taken as u8;
                    at += taken;
                    if self.padding > 0 {
                        return Ok(Record::More);
                    }
                    self.part = if self.kind == END_REQUEST { Part::Done } else { Part::Version };
                }
                Part::Done => return Ok(Record::End(at as u32)),
                _ => {
                    at += match input.get(at..at + HEADER) {
                        Some(whole) if self.whole_header(whole) => HEADER,
                        _ => {
                            let Some(&byte) = input.get(at) else {
                                return Ok(Record::More);
                            };
                            self.header(byte)?;
                            1
                        }
                    };
                    if self.part == Part::Content && self.kind == STDOUT && self.len == 0 {
                        self.part = Part::Padding;
                        return Ok(Record::StdoutEnd(at as u32));
                    }
                }
            }
        }
    }

    /// The last `len` bytes of the span that came last are shown again with the next input.
    pub fn put_back(&mut self, len: usize) {
        self.len = self.len.saturating_add(u16::try_from(len).unwrap_or(u16::MAX));
    }

    /// The record of the last span goes on.
    pub fn is_within(&self) -> bool {
        self.part == Part::Content && self.len > 0
    }

    /// True as soon as END_REQUEST has begun: an end of the connection is no error from here on.
    pub fn is_ending(&self) -> bool {
        self.kind == END_REQUEST && matches!(self.part, Part::Content | Part::Padding | Part::Done)
    }

    /// Takes a header at once that is there from its beginning to its end, and right.
    fn whole_header(&mut self, bytes: &[u8]) -> bool {
        let &[VERSION, kind @ (STDOUT | STDERR | END_REQUEST), 0, REQUEST_ID, high, low, padding, _] = bytes else {
            return false;
        };
        if self.part != Part::Version {
            return false;
        }
        (self.kind, self.len, self.padding) = (kind, u16::from_be_bytes([high, low]), padding);
        self.part = Part::Content;
        true
    }

    /// Takes one byte of a header.
    fn header(&mut self, byte: u8) -> Result<(), BadRecord> {
        self.part = match self.part {
            Part::Version if byte != VERSION => return Err(BadRecord::Version(byte)),
            Part::Version => Part::Type,
            Part::Type if !matches!(byte, STDOUT | STDERR | END_REQUEST) => return Err(BadRecord::Type(byte)),
            Part::Type => {
                self.kind = byte;
                Part::RequestIdHigh
            }
            Part::RequestIdHigh if byte != 0 => return Err(BadRecord::RequestIdHigh(byte)),
            Part::RequestIdHigh => Part::RequestIdLow,
            Part::RequestIdLow if byte != REQUEST_ID => return Err(BadRecord::RequestIdLow(byte)),
            Part::RequestIdLow => Part::LengthHigh,
            Part::LengthHigh => {
                self.len = u16::from(byte) << 8;
                Part::LengthLow
            }
            Part::LengthLow => {
                self.len |= u16::from(byte);
                Part::PaddingLength
            }
            Part::PaddingLength => {
                self.padding = byte;
                Part::Reserved
            }
            Part::Reserved => Part::Content,
            Part::Content | Part::Padding | Part::Done => self.part,
        };
        Ok(())
    }
}

/// A message of STDERR as nginx logs it: without the line ends, spaces and full stops behind it.
pub fn trim_stderr(message: &[u8]) -> &[u8] {
    let trailing = message.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r' | b'.' | b' ')).count();
    // nginx: the first byte always stays
    let len = (message.len() - trailing).max(message.len().min(1));
    message.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let mut writer = RequestWriter::new(Vec::new(), true);
        writer.param(b"A", false, |out| out.extend_from_slice(b"bc"));
        writer.param(b"N", true, |_| ());
        writer.field(b"x-Y", &[b"1", b"2"]);
        writer.field(b"Cookie", &[b"a", b"b"]);
        let long = [b'v'; 200];
        writer.param(b"L", true, |out| out.extend_from_slice(&long));
        writer.param(b"E", false, |_| ());
        let bytes = writer.finish().expect("it fits");

        let mut params = b"\x01\x02Abc\x08\x04HTTP_X_Y1, 2\x0b\x04HTTP_COOKIEa; b\x01\x80\0\0\xc8L".to_vec();
        params.extend_from_slice(&long);
        params.extend_from_slice(b"\x01\0E");
        let len = params.len();
        let mut expected = b"\x01\x01\0\x01\0\x08\0\0\0\x01\x01\0\0\0\0\0\x01\x04\0\x01".to_vec();
        expected.extend_from_slice(&[(len >> 8) as u8, len as u8, (8 - len % 8) as u8, 0]);
        expected.extend_from_slice(&params);
        expected.resize(expected.len().next_multiple_of(8), 0);
        expected.extend_from_slice(b"\x01\x04\0\x01\0\0\0\0");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn params_fit_one_record() {
        let mut writer = RequestWriter::new(Vec::new(), false);
        writer.param(b"", false, |out| out.extend_from_slice(&[0; 65535 - 5]));
        assert_eq!(writer.finish().map(|bytes| bytes.len()), Ok(24 + 65536 + 8));
        let mut writer = RequestWriter::new(Vec::new(), false);
        writer.param(b"", false, |out| out.extend_from_slice(&[0; 65536 - 5]));
        assert_eq!(writer.finish(), Err(TooBig(65536)));
        let empty = RequestWriter::new(Vec::new(), false).finish().expect("it fits");
        assert_eq!(empty.len(), 32);
        assert_eq!(empty[10], 0);
    }

    #[test]
    fn bodies_are_padded() {
        assert_eq!(stdin(5), *b"\x01\x05\0\x01\0\x05\x03\0");
        assert_eq!(padding(5), b"\0\0\0");
        assert_eq!(stdin(MAX_STDIN), *b"\x01\x05\0\x01\x80\0\0\0");
        assert_eq!(padding(MAX_STDIN), b"");
        assert_eq!(STDIN_END, *b"\x01\x05\0\x01\0\0\0\0");
    }

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Answer {
        stdout: Vec<u8>,
        stderr: Vec<u8>,
        stdout_ends: usize,
        end: Option<usize>,
    }

    fn feed(reader: &mut RecordReader, input: &[u8], base: usize, answer: &mut Answer) -> Result<(), BadRecord> {
        let mut from = 0;
        loop {
            match reader.next(input, from)? {
                Record::Stdout(span) => {
                    answer.stdout.extend_from_slice(span.of(input));
                    from = span.end as usize;
                }
                Record::Stderr(span) => {
                    answer.stderr.extend_from_slice(span.of(input));
                    from = span.end as usize;
                }
                Record::StdoutEnd(at) => {
                    answer.stdout_ends += 1;
                    from = at as usize;
                }
                Record::End(at) => {
                    answer.end = Some(base + at as usize);
                    return Ok(());
                }
                Record::More => return Ok(()),
            }
        }
    }

    fn read(input: &[u8]) -> Result<Answer, BadRecord> {
        let mut whole = Answer::default();
        let verdict = feed(&mut RecordReader::new(), input, 0, &mut whole);
        for size in 1..input.len() {
            let (mut reader, mut answer, mut verdict_here) = (RecordReader::new(), Answer::default(), Ok(()));
            for (at, piece) in input.chunks(size).enumerate() {
                verdict_here = feed(&mut reader, piece, at * size, &mut answer);
                if verdict_here.is_err() || answer.end.is_some() {
                    break;
                }
            }
            assert_eq!((verdict_here, &answer), (verdict, &whole), "by {size}");
        }
        verdict.map(|()| whole)
    }

    #[test]
    fn answers() {
        let input = b"\x01\x06\0\x01\0\x05\x03\0helloxxx\x01\x07\0\x01\0\x04\0\0oops\x01\x07\0\x01\0\0\x01\0x\
            \x01\x06\0\x01\0\x01\0\0!\x01\x06\0\x01\0\0\0\0\x01\x03\0\x01\0\x08\x02\x01\0\0\0\0\0\0\0\0ppZ";
        let answer =
            Answer { stdout: b"hello!".to_vec(), stderr: b"oops".to_vec(), stdout_ends: 1, end: Some(input.len() - 1) };
        assert_eq!(read(input), Ok(answer));
    }

    #[test]
    fn bad_records() {
        let cases: [(&[u8], BadRecord, &str); 4] = [
            (b"\x02", BadRecord::Version(2), "upstream sent unsupported FastCGI protocol version: 2"),
            (b"\x01\x01", BadRecord::Type(1), "upstream sent invalid FastCGI record type: 1"),
            (b"\x01\x06\x09", BadRecord::RequestIdHigh(9), "upstream sent unexpected FastCGI request id high byte: 9"),
            (b"\x01\x06\0\0", BadRecord::RequestIdLow(0), "upstream sent unexpected FastCGI request id low byte: 0"),
        ];
        for (input, error, text) in cases {
            assert_eq!(read(input), Err(error));
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn the_end_is_seen_before_it_is_whole() {
        let mut reader = RecordReader::new();
        assert_eq!(reader.next(b"\x01\x03\0\x01\0\x08\0\0\0", 0), Ok(Record::More));
        assert!(reader.is_ending() && reader.is_within());
        assert_eq!(reader.next(b"\0\0\0\0\0\0\0", 0), Ok(Record::End(7)));
        assert_eq!(reader.next(b"x", 0), Ok(Record::End(0)));
    }

    #[test]
    fn what_is_put_back_comes_again() {
        let input = b"\x01\x06\0\x01\0\x05\x01\0helloZ\x01\x06";
        let mut reader = RecordReader::new();
        assert_eq!(reader.next(input, 0), Ok(Record::Stdout(Span::new(8, 13))));
        reader.put_back(3);
        assert_eq!(reader.next(&input[10..], 0), Ok(Record::Stdout(Span::new(0, 3))));
        assert_eq!(reader.next(&input[10..], 3), Ok(Record::More));
    }

    #[test]
    fn messages_are_trimmed() {
        assert_eq!(trim_stderr(b"PHP message: oops. \r\n"), b"PHP message: oops");
        assert_eq!(trim_stderr(b"\n\n"), b"\n");
        assert_eq!(trim_stderr(b""), b"");
    }
}
