//! X.509 certificates and lists of revoked ones (RFC 5280), as far as a server looks into them.
//!
//! In: DER. Out: slices of it, under the names of the standard, and distinguished names in the two spellings that
//! OpenSSL made usual. Nothing is verified here.

use super::der::{self, BadDer, Reader, Value};

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1 to 3.
    pub version: u8,
    /// What is signed.
    pub tbs: &'a [u8],
    /// The content of the algorithm's identifier.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    pub serial: &'a [u8],
    /// Names are DER, tag and all.
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// The two times as they stand there.
    pub validity: (&'a [u8], &'a [u8]),
    pub key: PublicKey<'a>,
    pub extensions: Extensions<'a>,
}

/// A subject's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    /// Tag and all.
    pub whole: &'a [u8],
    /// The content of the algorithm's identifier.
    pub algorithm: &'a [u8],
    pub bits: &'a [u8],
}

/// What the extensions say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// `None`: basic constraints are not there.
    pub authority: Option<bool>,
    pub path_length: Option<u32>,
    /// The bits of key usage, the first being the highest of 16.
    pub usage: Option<u16>,
    /// Purposes, as the contents of object identifiers.
    pub purposes: Option<Vec<&'a [u8]>>,
    /// The names that the subject also has.
    pub names: Vec<Name<'a>>,
    pub key_id: Option<&'a [u8]>,
    pub authority_key_id: Option<&'a [u8]>,
    pub constrains_names: bool,
    /// Where OCSP is spoken.
    pub ocsp: Option<&'a [u8]>,
    /// A critical extension that nobody here understands.
    pub unknown_critical: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Dns(&'a [u8]),
    Ip(&'a [u8]),
    Other,
}

/// Bits of [`Extensions::usage`].
pub const DIGITAL_SIGNATURE: u16 = 1 << 15;
pub const KEY_CERT_SIGN: u16 = 1 << 10;
pub const CRL_SIGN: u16 = 1 << 9;

pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];
pub const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0];

impl<'a> Certificate<'a> {
    pub fn parse(der: &'a [u8]) -> Result<Self, BadDer> {
        let mut outer = Reader::new(der);
        let mut whole = outer.take(der::SEQUENCE)?.inside();
        outer.end()?;
        let tbs = whole.take(der::SEQUENCE)?;
        let algorithm = whole.take(der::SEQUENCE)?.content;
        let signature = bits(&whole.take(der::BIT_STRING)?)?;
        whole.end()?;

        let mut fields = tbs.inside();
        let version = match fields.maybe(der::context(0))? {
            None => 1,
            Some(version) => match version.inside().take(der::INTEGER)?.content {
                [n @ 0..=2] => n + 1,
                _ => return Err(BadDer),
            },
        };
        let serial = fields.take(der::INTEGER)?.content;
        if fields.take(der::SEQUENCE)?.content != algorithm {
            return Err(BadDer);
        }
        let issuer = fields.take(der::SEQUENCE)?.whole;
        let mut validity = fields.take(der::SEQUENCE)?.inside();
        let (begin, end) = (validity.next_value()?, validity.next_value()?);
        let subject = fields.take(der::SEQUENCE)?.whole;
        let key = PublicKey::of(&fields.take(der::SEQUENCE)?)?;
        fields.maybe(der::primitive(1))?;
        fields.maybe(der::primitive(2))?;
        let extensions = match fields.maybe(der::context(3))? {
            None => Extensions::default(),
            Some(list) => Extensions::read(&list.inside().take(der::SEQUENCE)?)?,
        };
        fields.end()?;
        Ok(Self {
            version,
            tbs: tbs.whole,
            algorithm,
            signature,
            serial,
            issuer,
            subject,
            not_before: der::time(&begin)?,
            not_after: der::time(&end)?,
            validity: (begin.content, end.content),
            key,
            extensions,
        })
    }

    /// Whether the subject names itself as the one who says so.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

impl<'a> PublicKey<'a> {
    /// Reads a `SubjectPublicKeyInfo`.
    pub fn parse(der: &'a [u8]) -> Result<Self, BadDer> {
        Self::of(&Reader::new(der).take(der::SEQUENCE)?)
    }

    fn of(value: &Value<'a>) -> Result<Self, BadDer> {
        let mut inside = value.inside();
        let algorithm = inside.take(der::SEQUENCE)?.content;
        let bits = bits(&inside.take(der::BIT_STRING)?)?;
        Ok(Self { whole: value.whole, algorithm, bits })
    }
}

/// The bytes of a string of bits whose last byte is full.
pub fn bits<'a>(value: &Value<'a>) -> Result<&'a [u8], BadDer> {
    match value.content.split_first() {
        Some((0, bytes)) => Ok(bytes),
        _ => Err(BadDer),
    }
}

impl<'a> Extensions<'a> {
    fn read(list: &Value<'a>) -> Result<Self, BadDer> {
        let mut found = Self::default();
        let mut each = list.inside();
        while !each.is_empty() {
            let mut extension = each.take(der::SEQUENCE)?.inside();
            let id = extension.take(der::OID)?.content;
            let critical = extension.maybe(der::BOOLEAN)?.is_some_and(|flag| flag.content != [0]);
            let value = extension.take(der::OCTET_STRING)?.content;
            extension.end()?;
            if !found.one(id, value)? && critical {
                found.unknown_critical = true;
            }
        }
        Ok(found)
    }

    /// Takes one in; `false` for one that means nothing here.
    fn one(&mut self, id: &[u8], value: &'a [u8]) -> Result<bool, BadDer> {
        let mut inside = Reader::new(value);
        match id {
            [0x55, 0x1d, 19] => {
                let mut constraints = inside.take(der::SEQUENCE)?.inside();
                let authority = constraints.maybe(der::BOOLEAN)?.is_some_and(|flag| flag.content != [0]);
                self.authority = Some(authority);
                if let Some(length) = constraints.maybe(der::INTEGER)? {
                    self.path_length = Some(small(length.content)?);
                }
            }
            [0x55, 0x1d, 15] => {
                let content = inside.take(der::BIT_STRING)?.content;
                let byte = |n: usize| content.get(n).copied().unwrap_or(0);
                self.usage = Some(u16::from_be_bytes([byte(1), byte(2)]));
            }
            [0x55, 0x1d, 37] => {
                let mut list = inside.take(der::SEQUENCE)?.inside();
                let purposes = self.purposes.get_or_insert_default();
                while !list.is_empty() {
                    purposes.push(list.take(der::OID)?.content);
                }
            }
            [0x55, 0x1d, 17] => {
                let mut list = inside.take(der::SEQUENCE)?.inside();
                while !list.is_empty() {
                    let name = list.next_value()?;
                    self.names.push(match name.tag {
                        tag if tag == der::primitive(2) => Name::Dns(name.content),
                        tag if tag == der::primitive(7) => Name::Ip(name.content),
                        _ => Name::Other,
                    });
                }
            }
            [0x55, 0x1d, 14] => self.key_id = Some(inside.take(der::OCTET_STRING)?.content),
            [0x55, 0x1d, 35] => {
                let mut parts = inside.take(der::SEQUENCE)?.inside();
                self.authority_key_id = parts.maybe(der::primitive(0))?.map(|id| id.content);
            }
            [0x55, 0x1d, 30] => self.constrains_names = true,
            [0x2b, 6, 1, 5, 5, 7, 1, 1] => {
                let mut list = inside.take(der::SEQUENCE)?.inside();
                while !list.is_empty() {
                    let mut access = list.take(der::SEQUENCE)?.inside();
                    let method = access.take(der::OID)?.content;
                    let place = access.next_value()?;
                    if method == [0x2b, 6, 1, 5, 5, 7, 48, 1] && place.tag == der::primitive(6) {
                        self.ocsp.get_or_insert(place.content);
                    }
                }
            }
            // Policies bind nobody who does not ask for some.
            [0x55, 0x1d, 32] => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn small(content: &[u8]) -> Result<u32, BadDer> {
    match content {
        [first, ..] if *first < 0x80 && content.len() <= 4 => {
            Ok(content.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
        }
        _ => Err(BadDer),
    }
}

/// A list of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList<'a> {
    pub tbs: &'a [u8],
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    pub issuer: &'a [u8],
    pub this_update: i64,
    pub next_update: Option<i64>,
    /// The serial numbers.
    pub revoked: Vec<&'a [u8]>,
    pub unknown_critical: bool,
}

impl<'a> RevocationList<'a> {
    pub fn parse(der: &'a [u8]) -> Result<Self, BadDer> {
        let mut outer = Reader::new(der);
        let mut whole = outer.take(der::SEQUENCE)?.inside();
        outer.end()?;
        let tbs = whole.take(der::SEQUENCE)?;
        let algorithm = whole.take(der::SEQUENCE)?.content;
        let signature = bits(&whole.take(der::BIT_STRING)?)?;
        let mut fields = tbs.inside();
        fields.maybe(der::INTEGER)?;
        fields.take(der::SEQUENCE)?;
        let issuer = fields.take(der::SEQUENCE)?.whole;
        let this_update = der::time(&fields.next_value()?)?;
        let next_update = match fields.peek_tag() {
            Some(der::UTC_TIME | der::GENERALIZED_TIME) => Some(der::time(&fields.next_value()?)?),
            _ => None,
        };
        let mut revoked = Vec::new();
        let mut unknown_critical = false;
        if let Some(list) = fields.maybe(der::SEQUENCE)? {
            let mut list = list.inside();
            while !list.is_empty() {
                let mut entry = list.take(der::SEQUENCE)?.inside();
                revoked.push(entry.take(der::INTEGER)?.content);
                entry.next_value()?;
                if let Some(extensions) = entry.maybe(der::SEQUENCE)? {
                    unknown_critical |= any_critical(&extensions, &[&[0x55, 0x1d, 21], &[0x55, 0x1d, 24]])?;
                }
            }
        }
        if let Some(extensions) = fields.maybe(der::context(0))? {
            unknown_critical |= any_critical(&extensions.inside().take(der::SEQUENCE)?, &[])?;
        }
        Ok(Self { tbs: tbs.whole, algorithm, signature, issuer, this_update, next_update, revoked, unknown_critical })
    }
}

/// Whether an extension is critical that is not among the known.
fn any_critical(list: &Value<'_>, known: &[&[u8]]) -> Result<bool, BadDer> {
    let mut each = list.inside();
    let mut any = false;
    while !each.is_empty() {
        let mut extension = each.take(der::SEQUENCE)?.inside();
        let id = extension.take(der::OID)?.content;
        let critical = extension.maybe(der::BOOLEAN)?.is_some_and(|flag| flag.content != [0]);
        any |= critical && !known.contains(&id);
    }
    Ok(any)
}

/// One part of a distinguished name.
struct Attribute<'a> {
    id: &'a [u8],
    value: Value<'a>,
    /// It belongs to the one before: `CN=a+OU=b`.
    joined: bool,
}

fn attributes(name: &[u8]) -> Result<Vec<Attribute<'_>>, BadDer> {
    let mut all = Vec::new();
    let mut sets = Reader::new(name).take(der::SEQUENCE)?.inside();
    while !sets.is_empty() {
        let mut set = sets.take(der::SET)?.inside();
        let mut joined = false;
        while !set.is_empty() {
            let mut pair = set.take(der::SEQUENCE)?.inside();
            all.push(Attribute { id: pair.take(der::OID)?.content, value: pair.next_value()?, joined });
            joined = true;
        }
    }
    Ok(all)
}

/// The common names in a distinguished name.
pub fn common_names(name: &[u8]) -> Vec<Vec<u8>> {
    let all = attributes(name).unwrap_or_default();
    all.iter().filter(|attribute| attribute.id == [0x55, 4, 3]).map(|attribute| utf8(&attribute.value)).collect()
}

/// OpenSSL's short names.
const SHORT: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 15], "businessCategory"),
    (&[0x55, 4, 17], "postalCode"),
    (&[0x55, 4, 41], "name"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 44], "generationQualifier"),
    (&[0x55, 4, 46], "dnQualifier"),
    (&[0x55, 4, 65], "pseudonym"),
    (&[0x55, 4, 97], "organizationIdentifier"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2], "unstructuredName"),
    (&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 60, 2, 1, 1], "jurisdictionL"),
    (&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 60, 2, 1, 2], "jurisdictionST"),
    (&[0x2b, 6, 1, 4, 1, 0x82, 0x37, 60, 2, 1, 3], "jurisdictionC"),
];

fn short(id: &[u8]) -> Option<&'static str> {
    SHORT.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

/// `1.2.840.113549`
fn dotted(id: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for &byte in id {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first);
                number -= first * 40;
            }
            numbers.push(number);
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// A string of any kind as UTF-8.
fn utf8(value: &Value<'_>) -> Vec<u8> {
    let text = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match value.tag {
        // BMPString and UniversalString
        0x1e => value
            .content
            .chunks(2)
            .map(|c| text(c.iter().fold(0, |n, &b| n << 8 | u32::from(b))))
            .collect::<String>()
            .into(),
        0x1c => value
            .content
            .chunks(4)
            .map(|c| text(c.iter().fold(0, |n, &b| n << 8 | u32::from(b))))
            .collect::<String>()
            .into(),
        0x0c => value.content.to_vec(),
        // The others are read as Latin-1.
        _ => value.content.iter().map(|&byte| text(u32::from(byte))).collect::<String>().into(),
    }
}

/// `CN=name,O=organisation,C=XX`: the last part first (RFC 2253, with everything escaped that is no ASCII).
pub fn rfc2253(name: &[u8]) -> String {
    let mut out = String::new();
    let all = attributes(name).unwrap_or_default();
    let mut first = true;
    // Parts of one set stay together, and OpenSSL turns them round as well.
    for (n, attribute) in all.iter().enumerate().rev() {
        if !first {
            out.push(if all.get(n + 1).is_some_and(|next| next.joined) { '+' } else { ',' });
        }
        first = false;
        match short(attribute.id) {
            Some(short) => {
                out.push_str(short);
                out.push('=');
                escape(&utf8(&attribute.value), &mut out);
            }
            // What has no name is shown as it is.
            None => {
                out.push_str(&dotted(attribute.id));
                out.push_str("=#");
                out.extend(attribute.value.whole.iter().map(|byte| format!("{byte:02X}")));
            }
        }
    }
    out
}

fn escape(value: &[u8], out: &mut String) {
    for (n, &byte) in value.iter().enumerate() {
        let edge = n == 0 || n + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if n == 0 => out.push_str("\\#"),
            b' ' if edge => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
}

/// `/C=XX/O=organisation/CN=name`
pub fn oneline(name: &[u8]) -> String {
    let mut out = String::new();
    for attribute in attributes(name).unwrap_or_default() {
        out.push('/');
        match short(attribute.id) {
            Some(short) => out.push_str(short),
            None => out.push_str(&dotted(attribute.id)),
        }
        out.push('=');
        for &byte in attribute.value.content {
            match byte {
                b' '..=b'~' => out.push(char::from(byte)),
                _ => out.push_str(&format!("\\x{byte:02X}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name of these parts, each a set of its own.
    fn name(parts: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
        let sets = parts.iter().map(|(id, tag, text)| {
            let pair = [der::value(der::OID, id), der::value(*tag, text)].concat();
            der::value(der::SET, &der::value(der::SEQUENCE, &pair))
        });
        der::value(der::SEQUENCE, &sets.collect::<Vec<_>>().concat())
    }

    #[test]
    fn names_in_both_spellings() {
        let name = name(&[
            (&[0x55, 4, 6], 0x13, b"XX"),
            (&[0x55, 4, 10], 0x0c, "Caf\u{e9}, Ltd".as_bytes()),
            (&[0x2a, 3], 0x0c, b"x"),
            (&[0x55, 4, 3], 0x0c, b" a b"),
        ]);
        assert_eq!(rfc2253(&name), "CN=\\ a b,1.2.3=#0C0178,O=Caf\\C3\\A9\\, Ltd,C=XX");
        assert_eq!(oneline(&name), "/C=XX/O=Caf\\xC3\\xA9, Ltd/1.2.3=x/CN= a b");
        assert_eq!(common_names(&name), [b" a b".to_vec()]);
        assert_eq!((rfc2253(b"\x30\x05"), oneline(b"")), (String::new(), String::new()));
    }

    #[test]
    fn nonsense_is_no_certificate() {
        for bad in [&b""[..], b"\x30\x00", b"\x30\x03\x30\x01\x00", &[0x30; 200]] {
            assert_eq!(Certificate::parse(bad), Err(BadDer));
            assert_eq!(RevocationList::parse(bad), Err(BadDer));
        }
    }
}
