//! What opens an SCGI request: names and values, each with a zero byte behind it, in one netstring, `LENGTH:…,`.
//!
//! `CONTENT_LENGTH` comes first, as SCGI asks; the body follows as it is. The answer is that of a CGI program.

use crate::wire::cgi;

/// Writes the netstring.
pub struct NetstringWriter {
    out: Vec<u8>,
}

impl NetstringWriter {
    /// Writes into the memory of `out`. `content_length`: of the body that follows.
    pub fn new(mut out: Vec<u8>, content_length: u64) -> Self {
        out.clear();
        let mut writer = Self { out };
        writer.param(b"CONTENT_LENGTH", false, |out| out.extend_from_slice(content_length.to_string().as_bytes()));
        writer
    }

    /// The value is what `value` appends. With `if_not_empty`, nothing is told of one that is empty.
    pub fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(name);
        self.out.push(0);
        let from = self.out.len();
        value(&mut self.out);
        if if_not_empty && self.out.len() == from {
            self.out.truncate(start);
        } else {
            self.out.push(0);
        }
    }

    /// A field of the request as `HTTP_NAME`.
    pub fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        cgi::push_name(name, &mut self.out);
        self.out.push(0);
        cgi::push_values(name, values, &mut self.out);
        self.out.push(0);
    }

    /// The bytes to send.
    pub fn finish(self) -> Vec<u8> {
        let Self { mut out } = self;
        let length = format!("{}:", out.len());
        out.splice(0..0, length.into_bytes());
        out.push(b',');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_netstring() {
        let mut writer = NetstringWriter::new(b"before".to_vec(), 27);
        writer.param(b"SCGI", false, |out| out.push(b'1'));
        writer.param(b"EMPTY", false, |_| ());
        writer.param(b"NOTHING", true, |_| ());
        writer.field(b"x-y", &[b"1", b"2"]);
        let bytes = writer.finish();
        assert_eq!(bytes, b"46:CONTENT_LENGTH\x0027\0SCGI\x001\0EMPTY\0\0HTTP_X_Y\x001, 2\0,");
    }
}
