//! OCSP (RFC 6960): asking whether a certificate is revoked, and the answer.
//!
//! In: digests that name a certificate, or DER. Out: DER, or what it says. Whether it may be believed is another matter.

use super::der::{self, BadDer, Reader};
use super::x509;

/// What names a certificate: SHA-1 digests of its issuer's name and key, and its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertId {
    pub name: [u8; 20],
    pub key: [u8; 20],
    pub serial: Vec<u8>,
}

const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 1];

impl CertId {
    /// The question about this certificate.
    pub fn request(&self) -> Vec<u8> {
        let algorithm = [der::value(der::OID, SHA1), der::value(0x05, &[])].concat();
        let id = [
            der::value(der::SEQUENCE, &algorithm),
            der::value(der::OCTET_STRING, &self.name),
            der::value(der::OCTET_STRING, &self.key),
            der::value(der::INTEGER, &self.serial),
        ]
        .concat();
        // The id, the one request, the list, the part that could be signed, the whole.
        (0..5).fold(id, |inner, _| der::value(der::SEQUENCE, &inner))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Good,
    Revoked,
    Unknown,
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// What is signed.
    pub tbs: &'a [u8],
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    pub signer: Signer<'a>,
    /// Certificates that may help to believe it.
    pub certificates: Vec<&'a [u8]>,
    pub singles: Vec<Single<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer<'a> {
    /// DER, tag and all.
    Name(&'a [u8]),
    /// SHA-1 of the key.
    Key(&'a [u8]),
}

/// What is said of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single<'a> {
    name: &'a [u8],
    key: &'a [u8],
    serial: &'a [u8],
    pub status: Status,
    pub this_update: i64,
    pub next_update: Option<i64>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    Broken,
    /// The responder's own number for why not.
    Refused(u8),
}

impl From<BadDer> for NoResponse {
    fn from(_: BadDer) -> Self {
        Self::Broken
    }
}

impl<'a> Response<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoResponse> {
        let mut outer = Reader::new(bytes);
        let mut whole = outer.take(der::SEQUENCE)?.inside();
        outer.end()?;
        match whole.take(der::ENUMERATED)?.content {
            [0] => {}
            [why] => return Err(NoResponse::Refused(*why)),
            _ => return Err(NoResponse::Broken),
        }
        let mut kind = whole.take(der::context(0))?.inside().take(der::SEQUENCE)?.inside();
        if kind.take(der::OID)?.content != BASIC {
            return Err(NoResponse::Broken);
        }
        let mut basic = Reader::new(kind.take(der::OCTET_STRING)?.content).take(der::SEQUENCE)?.inside();
        let tbs = basic.take(der::SEQUENCE)?;
        let algorithm = basic.take(der::SEQUENCE)?.content;
        let signature = x509::bits(&basic.take(der::BIT_STRING)?)?;
        let mut certificates = Vec::new();
        if let Some(list) = basic.maybe(der::context(0))? {
            let mut list = list.inside().take(der::SEQUENCE)?.inside();
            while !list.is_empty() {
                certificates.push(list.take(der::SEQUENCE)?.whole);
            }
        }
        let mut data = tbs.inside();
        data.maybe(der::context(0))?;
        let signer = data.next_value()?;
        let signer = match signer.tag {
            tag if tag == der::context(1) => Signer::Name(signer.inside().take(der::SEQUENCE)?.whole),
            tag if tag == der::context(2) => Signer::Key(signer.inside().take(der::OCTET_STRING)?.content),
            _ => return Err(NoResponse::Broken),
        };
        data.take(der::GENERALIZED_TIME)?;
        let mut list = data.take(der::SEQUENCE)?.inside();
        let mut singles = Vec::new();
        while !list.is_empty() {
            singles.push(Single::read(&mut list.take(der::SEQUENCE)?.inside())?);
        }
        Ok(Self { tbs: tbs.whole, algorithm, signature, signer, certificates, singles })
    }

    /// What is said of this certificate.
    pub fn find(&self, id: &CertId) -> Option<&Single<'a>> {
        let same = |single: &&Single<'_>| single.name == id.name && single.key == id.key && single.serial == id.serial;
        self.singles.iter().find(same)
    }
}

impl<'a> Single<'a> {
    fn read(single: &mut Reader<'a>) -> Result<Self, BadDer> {
        let mut id = single.take(der::SEQUENCE)?.inside();
        id.take(der::SEQUENCE)?;
        let name = id.take(der::OCTET_STRING)?.content;
        let key = id.take(der::OCTET_STRING)?.content;
        let serial = id.take(der::INTEGER)?.content;
        let status = match single.next_value()?.tag {
            0x80 => Status::Good,
            0xa1 => Status::Revoked,
            0x82 => Status::Unknown,
            _ => return Err(BadDer),
        };
        let this_update = der::time(&single.take(der::GENERALIZED_TIME)?)?;
        let next_update = match single.maybe(der::context(0))? {
            Some(next) => Some(der::time(&next.inside().take(der::GENERALIZED_TIME)?)?),
            None => None,
        };
        Ok(Self { name, key, serial, status, this_update, next_update })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_nest_and_nonsense_is_no_answer() {
        let id = CertId { name: [1; 20], key: [2; 20], serial: vec![7] };
        let bytes = id.request();
        let mut reader = Reader::new(&bytes);
        let mut depth = 0;
        while reader.peek_tag() == Some(der::SEQUENCE) {
            reader = reader.next_value().expect("ours").inside();
            depth += 1;
        }
        // Five around the id, the algorithm's own, and then its name.
        assert_eq!((depth, reader.next_value().expect("ours").content), (6, SHA1));
        assert_eq!(Response::parse(&[0x30, 3, 0x0a, 1, 6]), Err(NoResponse::Refused(6)));
        for bad in [&[][..], &[0x30, 0], &[0x30, 3, 0x0a, 1, 0]] {
            assert_eq!(Response::parse(bad), Err(NoResponse::Broken));
        }
    }
}
