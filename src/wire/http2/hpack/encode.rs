//! Fields as they are sent: by the number of their name where the static table has it, and never indexed.

use bytes::{BufMut, BytesMut};

use super::huffman;
use super::table::{self, Known};

/// `:status`
pub fn put_status(status: u16, out: &mut BytesMut) {
    let indexed = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            out.put_u8(Known::Status as u8);
            out.put_u8(3);
            let digit = |n: u16| b'0' + (n % 10) as u8;
            out.put_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
            return;
        }
    };
    out.put_u8(0x80 | indexed);
}

/// A field whose name has a number.
pub fn put_field_named(name: Known, value: &[u8], out: &mut BytesMut) {
    integer(name as usize, 4, 0, out);
    text(value, out);
}

/// Any field. Its name goes out in lower case (RFC 9113, 8.2.1).
pub fn put_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    let mut lower = [0; 64];
    let long;
    let name = match lower.get_mut(..name.len()) {
        Some(room) => {
            room.copy_from_slice(name);
            room.make_ascii_lowercase();
            &*room
        }
        None => {
            long = name.to_ascii_lowercase();
            &long
        }
    };
    match table::number(name) {
        Some(number) => integer(usize::from(number), 4, 0, out),
        None => {
            out.put_u8(0);
            text(name, out);
        }
    }
    text(value, out);
}

/// Tells the peer that we use no table, which it may ask to be told when it changes its size (RFC 7541, 4.2).
pub fn put_table_size_zero(out: &mut BytesMut) {
    out.put_u8(0x20);
}

/// RFC 7541, 5.2: in the code where that is shorter.
fn text(text: &[u8], out: &mut BytesMut) {
    let len = huffman::encoded_len(text);
    if len < text.len() {
        integer(len, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        integer(text.len(), 7, 0, out);
        out.put_slice(text);
    }
}

/// RFC 7541, 5.1, behind the bits of `mark`.
fn integer(mut value: usize, prefix: u32, mark: u8, out: &mut BytesMut) {
    let most = (1usize << prefix) - 1;
    if value < most {
        return out.put_u8(mark | value as u8);
    }
    out.put_u8(mark | most as u8);
    value -= most;
    while value >= 128 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Decoder, Limits};
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut out = BytesMut::new();
        put_table_size_zero(&mut out);
        put_status(200, &mut out);
        put_status(418, &mut out);
        put_field_named(Known::ContentType, b"text/html; charset=utf-8", &mut out);
        put_field(b"Set-Cookie", &[0x7f; 300], &mut out);
        put_field(&[b'X'; 100], b"", &mut out);
        let fields = Decoder::default().decode(&out, Limits { text: 4096, total: 65536 }).expect("valid");
        let shown: Vec<_> = fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let expected = [
            pair(b":status", b"200"),
            pair(b":status", b"418"),
            pair(b"content-type", b"text/html; charset=utf-8"),
            pair(b"set-cookie", &[0x7f; 300]),
            pair(&[b'x'; 100], b""),
        ];
        assert_eq!(shown, expected);
    }
}
