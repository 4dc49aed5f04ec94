//! What opens an SCGI request: names and values, each with a zero byte behind it, in one netstring, `LENGTH:…,`.
//!
//! `CONTENT_LENGTH` comes first, as SCGI asks; the body follows as it is. The answer is that of a CGI program.

use crate::wire::cgi;

/// Writes the netstring.
pub struct NetstringWriter {
    out: Vec<u8>,
}

impl NetstringWriter {
    /// `content_length`: of the body that follows.
    pub fn new(content_length: u64) -> Self {
        let mut writer = Self { out: Vec::with_capacity(2048) };
        writer.param(b"CONTENT_LENGTH", content_length.to_string().as_bytes());
        writer
    }

    pub fn param(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, value] {
            self.out.extend_from_slice(part);
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
        let mut writer = NetstringWriter::new(27);
        writer.param(b"SCGI", b"1");
        writer.param(b"EMPTY", b"");
        writer.field(b"x-y", &[b"1", b"2"]);
        let bytes = writer.finish();
        assert_eq!(bytes, b"46:CONTENT_LENGTH\x0027\0SCGI\x001\0EMPTY\0\0HTTP_X_Y\x001, 2\0,");
    }
}
