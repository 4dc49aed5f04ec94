//! Certificates and their keys, out of PEM files.
//!
//! In: the name that a directive gives, a path or `data:` and the text itself, and how to read files. Out: a chain
//! with its key, proved to belong together. Errors are nginx's sentences with OpenSSL's reasons.

use std::io;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use md5::{Digest, Md5};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::wire::der::{self, Reader};
use crate::wire::pem::{self, Section};
use crate::wire::x509::{Certificate, PublicKey};

/// Reads the file at a path.
pub type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Arc<[u8]>>;

/// What a directive names.
pub struct Named<'a> {
    /// As errors show it: the whole path, or `data:…`.
    pub name: &'a str,
    pub path: &'a Path,
}

impl Named<'_> {
    fn bytes(&self, read: Read<'_>) -> Result<Arc<[u8]>, String> {
        if let Some(text) = self.name.strip_prefix("data:") {
            return Ok(text.as_bytes().into());
        }
        read(self.path).map_err(|error| format!("BIO_new_file() failed {}", open_failed(self.name, &error)))
    }
}

/// OpenSSL's two lines about a file that it cannot open.
pub fn open_failed(name: &str, error: &io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(libc::EIO);
    let words = error.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    let second = match number {
        libc::ENOENT => "error:10000080:BIO routines::no such file",
        _ => "error:10080002:BIO routines::system lib",
    };
    format!(
        "(SSL: error:{:08X}:system library::{words}:calling fopen({name}, r) {second})",
        0x8000_0000_u32 | number.unsigned_abs()
    )
}

fn no_start_line(expecting: &str) -> String {
    format!("(SSL: error:0480006C:PEM routines::no start line:Expecting: {expecting})")
}

const BAD_BASE64: &str = "(SSL: error:04800064:PEM routines::bad base64 decode)";
const BAD_ASN1: &str = "(SSL: error:0688010A:asn1 encoding routines::nested asn1 error)";

fn sections(bytes: &[u8]) -> Result<Vec<Section>, &'static str> {
    pem::sections(bytes).map_err(|_| BAD_BASE64)
}

/// The certificate in a section, if it is one.
fn certificate(section: &Section) -> Option<Result<CertificateDer<'static>, &'static str>> {
    let trusted = match section.label.as_str() {
        "CERTIFICATE" | "X509 CERTIFICATE" => false,
        "TRUSTED CERTIFICATE" => true,
        _ => return None,
    };
    let mut reader = Reader::new(&section.data);
    Some(match reader.next_value() {
        // Behind a trusted one stands what OpenSSL's own tools trust it for.
        Ok(first) if trusted || reader.is_empty() => match Certificate::parse(first.whole) {
            Ok(_) => Ok(CertificateDer::from(first.whole.to_vec())),
            Err(_) => Err(BAD_ASN1),
        },
        _ => Err(BAD_ASN1),
    })
}

/// The certificates in a file, at least one; the first is the server's own, or any of those that are trusted.
pub fn certificates(named: &Named<'_>, read: Read<'_>) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("cannot load certificate \"{}\": {why}", named.name);
    let bytes = named.bytes(read).map_err(failed)?;
    let reason = |why: &str| failed(format!("PEM_read_bio_X509_AUX() failed {why}"));
    let mut chain = Vec::new();
    for section in sections(&bytes).map_err(reason)? {
        if let Some(found) = certificate(&section) {
            chain.push(found.map_err(reason)?);
        }
    }
    if chain.is_empty() {
        return Err(reason(&no_start_line("TRUSTED CERTIFICATE")));
    }
    Ok(chain)
}

/// The lists of revoked certificates in a file, at least one.
pub fn revocations(named: &Named<'_>, read: Read<'_>) -> Result<Vec<Vec<u8>>, String> {
    let failed = |why: String| format!("cannot load CRL \"{}\": {why}", named.name);
    let bytes = named.bytes(read).map_err(failed)?;
    let reason = |why: &str| failed(format!("PEM_read_bio_X509_CRL() failed {why}"));
    let mut lists = Vec::new();
    for section in sections(&bytes).map_err(reason)? {
        if section.label == "X509 CRL" {
            crate::wire::x509::RevocationList::parse(&section.data).map_err(|_| reason(BAD_ASN1))?;
            lists.push(section.data);
        }
    }
    if lists.is_empty() {
        return Err(reason(&no_start_line("X509 CRL")));
    }
    Ok(lists)
}

/// The private key in a file, and whether a password guards it. A guarded one is tried with each password.
pub fn key(named: &Named<'_>, read: Read<'_>, passwords: &[Vec<u8>]) -> Result<(Arc<dyn SigningKey>, bool), String> {
    let failed = |why: String| format!("cannot load certificate key \"{}\": {why}", named.name);
    if named.name.starts_with("engine:") {
        return Err(failed("loading \"engine:...\" certificate keys is not supported".to_owned()));
    }
    if named.name.starts_with("store:") {
        return Err(failed("loading \"store:...\" certificate keys is not supported".to_owned()));
    }
    let bytes = named.bytes(read).map_err(failed)?;
    let reason = |why: &str| failed(format!("PEM_read_bio_PrivateKey() failed {why}"));
    let sections = sections(&bytes).map_err(reason)?;
    let section = sections.iter().find(|section| section.label.ends_with("PRIVATE KEY"));
    let section = section.ok_or_else(|| reason(&no_start_line("ANY PRIVATE KEY")))?;
    let der = private_key(section, passwords).map_err(reason)?;
    let guarded = section.label.starts_with("ENCRYPTED") || section.field("Proc-Type").is_some();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der);
    key.map(|key| (key, guarded)).map_err(|error| reason(&format!("({error})")))
}

fn private_key(section: &Section, passwords: &[Vec<u8>]) -> Result<PrivateKeyDer<'static>, &'static str> {
    const BAD_DECRYPT: &str = "(SSL: error:1C800064:Provider routines::bad decrypt)";
    let any = |open: &dyn Fn(&[u8]) -> Option<Vec<u8>>| match passwords {
        [] => Err("(SSL: error:0480006D:PEM routines::problems getting password)"),
        some => some.iter().find_map(|password| open(password)).ok_or(BAD_DECRYPT),
    };
    if section.label == "ENCRYPTED PRIVATE KEY" {
        let guarded = pkcs8::EncryptedPrivateKeyInfoRef::try_from(section.data.as_slice()).map_err(|_| BAD_ASN1)?;
        let data = any(&|password| Some(guarded.decrypt(password).ok()?.as_bytes().to_vec()))?;
        return Ok(PrivatePkcs8KeyDer::from(data).into());
    }
    let data = match section.field("Proc-Type") {
        Some(kind) if kind.ends_with("ENCRYPTED") => {
            let info = section.field("DEK-Info").unwrap_or_default();
            any(&|password| rfc1421(info, &section.data, password))?
        }
        _ => section.data.clone(),
    };
    match section.label.as_str() {
        "PRIVATE KEY" => Ok(PrivatePkcs8KeyDer::from(data).into()),
        "RSA PRIVATE KEY" => Ok(PrivatePkcs1KeyDer::from(data).into()),
        "EC PRIVATE KEY" => Ok(PrivateSec1KeyDer::from(data).into()),
        _ => Err("(SSL: error:1E08010C:DECODER routines::unsupported)"),
    }
}

/// Opens a key that is guarded the old way: `DEK-Info: AES-256-CBC,IV`.
fn rfc1421(info: &str, data: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let (name, iv) = info.split_once(',')?;
    let (algorithm, length): (&'static Algorithm, usize) = match name {
        "AES-128-CBC" => (&AES_128, 16),
        "AES-192-CBC" => (&AES_192, 24),
        "AES-256-CBC" => (&AES_256, 32),
        _ => return None,
    };
    let digit = |n: usize| u8::from_str_radix(iv.get(n..n + 2)?, 16).ok();
    let iv: Vec<u8> = (0..32).step_by(2).map(digit).collect::<Option<_>>()?;
    let iv: [u8; 16] = iv.try_into().ok()?;
    // OpenSSL's EVP_BytesToKey with MD5 and one round.
    let mut key = Vec::new();
    let mut last = Vec::new();
    while key.len() < length {
        last = Md5::new().chain_update(&last).chain_update(password).chain_update(&iv[..8]).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    let key = UnboundCipherKey::new(algorithm, &key[..length]).ok()?;
    let mut data = data.to_vec();
    let opener = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
    let plain = opener.decrypt(&mut data, DecryptionContext::Iv128(FixedLength::from(iv))).ok()?.to_vec();
    // A wrong password now and then yields something that is padded well.
    Reader::new(&plain).take(der::SEQUENCE).ok()?;
    Some(plain)
}

/// A chain with its key.
pub fn pair(
    chain: &Named<'_>,
    key_name: &Named<'_>,
    read: Read<'_>,
    passwords: &[Vec<u8>],
) -> Result<CertifiedKey, String> {
    let certificates = certificates(chain, read)?;
    let (key, _) = key(key_name, read, passwords)?;
    join(certificates, key, key_name.name)
}

/// A chain and a key that are there already.
pub fn join(
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    key_name: &str,
) -> Result<CertifiedKey, String> {
    let own = certificates.first().and_then(|own| Certificate::parse(own).ok());
    let fits = match (own, key.public_key()) {
        (Some(own), Some(public)) => PublicKey::parse(&public).is_ok_and(|public| public.bits == own.key.bits),
        _ => false,
    };
    if !fits {
        return Err(format!(
            "SSL_CTX_use_PrivateKey(\"{}\") failed (SSL: error:05800074:x509 certificate routines::key values mismatch)",
            key_name
        ));
    }
    Ok(CertifiedKey::new(certificates, key))
}

/// The passwords in a `ssl_password_file`, one on each line.
pub fn passwords(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}
