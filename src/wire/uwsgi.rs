//! The packet that opens a uwsgi request: four bytes, then names and values, each behind its length.
//!
//! The first and the last of the four bytes are the modifiers, which say what the rest is; between them stands its
//! length. Numbers have their low byte first. The body follows as it is, and the answer is that of a CGI program.

use crate::wire::cgi;

const HEADER: usize = 4;

/// The packet does not fit its own length. nginx logs `uwsgi request is too big: SIZE` as an alert, and answers 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig(pub usize);

/// Writes one packet.
pub struct PacketWriter {
    out: Vec<u8>,
}

impl PacketWriter {
    /// Writes into the memory of `out`.
    pub fn new(mut out: Vec<u8>, modifier1: u8, modifier2: u8) -> Self {
        out.clear();
        out.extend_from_slice(&[modifier1, 0, 0, modifier2]);
        Self { out }
    }

    /// The value is what `value` appends. With `if_not_empty`, nothing is told of one that is empty.
    pub fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.length(name.len());
        self.out.extend_from_slice(name);
        let place = self.out.len();
        self.length(0);
        let from = self.out.len();
        value(&mut self.out);
        let len = self.out.len().saturating_sub(from);
        if len == 0 && if_not_empty {
            self.out.truncate(start);
        } else if let Some(bytes) = self.out.get_mut(place..from) {
            bytes.copy_from_slice(&length(len));
        }
    }

    /// A field of the request as `HTTP_NAME`.
    pub fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        self.length(cgi::name_len(name));
        cgi::push_name(name, &mut self.out);
        self.length(cgi::values_len(name, values));
        cgi::push_values(name, values, &mut self.out);
    }

    /// Bytes that the operator packed.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// The bytes to send.
    pub fn finish(mut self) -> Result<Vec<u8>, TooBig> {
        let len = self.out.len() - HEADER;
        let Ok(length) = u16::try_from(len) else { return Err(TooBig(len)) };
        if let Some(place) = self.out.get_mut(1..3) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        Ok(self.out)
    }

    fn length(&mut self, len: usize) {
        self.out.extend_from_slice(&length(len));
    }
}

/// What does not fit two bytes does not fit the packet either: [`PacketWriter::finish`] refuses it.
fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_packed() {
        let mut writer = PacketWriter::new(Vec::new(), 5, 7);
        writer.param(b"A", false, |out| out.extend_from_slice(b"bc"));
        writer.param(b"N", true, |_| ());
        writer.field(b"x-y", &[b"1", b"2"]);
        writer.raw(b"!");
        let packet = writer.finish().expect("it is small");
        assert_eq!(packet, b"\x05\x18\x00\x07\x01\0A\x02\0bc\x08\0HTTP_X_Y\x04\x001, 2!");
    }

    #[test]
    fn a_packet_has_its_limit() {
        let packet = |len| {
            let mut writer = PacketWriter::new(b"before".to_vec(), 0, 0);
            writer.param(b"", false, |out| out.resize(out.len() + len, b'x'));
            writer.finish()
        };
        assert_eq!(packet(65531).map(|packet| packet[..8].to_vec()), Ok(vec![0, 0xff, 0xff, 0, 0, 0, 0xfb, 0xff]));
        assert_eq!(packet(65532), Err(TooBig(65536)));
        assert_eq!(packet(70000), Err(TooBig(70004)));
    }
}
