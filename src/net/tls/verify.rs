//! Whether a peer's certificate is good: OpenSSL's rules, in OpenSSL's words.
//!
//! In: the peer's chain, those who are trusted, lists of revoked certificates. Out: nothing, or OpenSSL's number and
//! sentence, which clients' variables and logs show. webpki would refuse what nginx's users work with: certificates of
//! version 1, and ones that sign themselves and are trusted as they are. Where a chain asks for what is not done here
//! (names that an authority is bound to, extensions that must be understood), it is refused.
//!
//! The rule: every link of the chain is proved by a signature, and its last one is an anchor that signed itself. As with
//! OpenSSL's callback in nginx, checking goes on behind an error, and the last one counts.

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;

use crate::wire::x509::{
    ANY_PURPOSE, CLIENT_AUTH, CRL_SIGN, Certificate, DIGITAL_SIGNATURE, KEY_CERT_SIGN, Name, PublicKey, RevocationList,
    SERVER_AUTH, common_names,
};

/// Who is trusted, and how far.
#[derive(Debug, Default)]
pub struct Trust {
    pub anchors: Vec<CertificateDer<'static>>,
    pub revocations: Vec<Vec<u8>>,
    /// The most certificates between the peer's own and the anchor.
    pub depth: u64,
}

/// What the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Client,
    Server,
}

/// What is wrong: OpenSSL's `X509_V_ERR_…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub code: u32,
    pub text: &'static str,
}

const fn invalid(code: u32, text: &'static str) -> Invalid {
    Invalid { code, text }
}

const NO_ISSUER: Invalid = invalid(2, "unable to get issuer certificate");
const NO_CRL: Invalid = invalid(3, "unable to get certificate CRL");
const BAD_SIGNATURE: Invalid = invalid(7, "certificate signature failure");
const BAD_CRL_SIGNATURE: Invalid = invalid(8, "CRL signature failure");
const NOT_YET: Invalid = invalid(9, "certificate is not yet valid");
const EXPIRED: Invalid = invalid(10, "certificate has expired");
const CRL_NOT_YET: Invalid = invalid(11, "CRL is not yet valid");
const CRL_EXPIRED: Invalid = invalid(12, "CRL has expired");
const SELF_SIGNED: Invalid = invalid(18, "self-signed certificate");
const SELF_SIGNED_IN_CHAIN: Invalid = invalid(19, "self-signed certificate in certificate chain");
const NO_LOCAL_ISSUER: Invalid = invalid(20, "unable to get local issuer certificate");
const LEAF: Invalid = invalid(21, "unable to verify the first certificate");
const TOO_LONG: Invalid = invalid(22, "certificate chain too long");
const REVOKED: Invalid = invalid(23, "certificate revoked");
const NO_AUTHORITY: Invalid = invalid(24, "invalid CA certificate");
const PATH_LENGTH: Invalid = invalid(25, "path length constraint exceeded");
const PURPOSE: Invalid = invalid(26, "unsuitable certificate purpose");
const CRITICAL: Invalid = invalid(34, "unhandled critical extension");
const CRL_CRITICAL: Invalid = invalid(36, "unhandled critical CRL extension");
const CONSTRAINTS: Invalid = invalid(51, "unsupported name constraint type");
const UNREADABLE: Invalid = invalid(1, "unspecified certificate verification error");

impl Invalid {
    /// `ssl_verify_client optional_no_ca` lets these pass.
    pub fn is_optional(&self) -> bool {
        matches!(self.code, 18 | 19 | 20 | 21 | 27)
    }
}

/// No chain is longer: who sends more is not followed.
const LONGEST: usize = 32;

impl Trust {
    /// Whether `chain`, the peer's own certificate first, leads to an anchor. `now` is in seconds since 1970.
    pub fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose, now: i64) -> Result<(), Invalid> {
        let parse = |der: &'_ CertificateDer<'_>| Certificate::parse(der).ok().is_some();
        if chain.is_empty() || !parse(&chain[0]) {
            return Err(UNREADABLE);
        }
        let sent: Vec<_> = chain.iter().take(LONGEST).filter_map(|der| Certificate::parse(der).ok()).collect();
        let anchors: Vec<_> = self.anchors.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let mut worst = None;
        let mut fail = |why: Invalid| worst = Some(why);

        let path = climb(&sent, &anchors, now, &mut fail);
        if path.len() as u64 > self.depth.saturating_add(2) {
            fail(TOO_LONG);
        }

        // What each may be used for.
        for (n, certificate) in path.iter().enumerate() {
            let extensions = &certificate.extensions;
            if extensions.unknown_critical {
                fail(CRITICAL);
            }
            if n > 0 {
                let below = path[1..n].iter().filter(|between| !between.is_self_issued()).count();
                if !is_authority(certificate) {
                    fail(NO_AUTHORITY);
                } else if extensions.path_length.is_some_and(|most| below as u64 > u64::from(most)) {
                    fail(PATH_LENGTH);
                }
                if extensions.constrains_names {
                    fail(CONSTRAINTS);
                }
            }
            if !serves(certificate, purpose, n == 0) {
                fail(PURPOSE);
            }
        }

        if !self.revocations.is_empty() {
            for (n, certificate) in path.iter().enumerate() {
                let issuer = path.get(n + 1).or(Some(certificate).filter(|one| one.is_self_issued()));
                if let Err(why) = self.is_revoked(certificate, issuer, now) {
                    fail(why);
                }
            }
        }

        // Times and signatures, from the anchor down.
        let rooted = path.last().is_some_and(Certificate::is_self_issued);
        if !rooted && path.len() == 1 {
            fail(LEAF);
        }
        for (n, certificate) in path.iter().enumerate().rev() {
            if path.get(n + 1).is_some_and(|issuer| !signed_by(certificate, &issuer.key)) {
                fail(BAD_SIGNATURE);
            }
            if now < certificate.not_before {
                fail(NOT_YET);
            }
            if now > certificate.not_after {
                fail(EXPIRED);
            }
        }
        worst.map_or(Ok(()), Err)
    }

    /// The certificates from the peer's own up to the anchor, as [`Trust::verify`] found them good.
    pub fn path<'a>(&'a self, chain: &'a [CertificateDer<'_>], now: i64) -> Vec<Certificate<'a>> {
        let sent: Vec<_> = chain.iter().take(LONGEST).filter_map(|der| Certificate::parse(der).ok()).collect();
        let anchors: Vec<_> = self.anchors.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        if sent.is_empty() { Vec::new() } else { climb(&sent, &anchors, now, &mut |_| {}) }
    }

    fn is_revoked(
        &self,
        certificate: &Certificate<'_>,
        issuer: Option<&Certificate<'_>>,
        now: i64,
    ) -> Result<(), Invalid> {
        let lists = self.revocations.iter().filter_map(|der| RevocationList::parse(der).ok());
        let mut found: Vec<_> = lists.filter(|list| list.issuer == certificate.issuer).collect();
        // The latest that is in force comes first.
        found
            .sort_by_key(|list| (list.next_update.is_some_and(|next| next < now), std::cmp::Reverse(list.this_update)));
        let (Some(list), Some(issuer)) = (found.first(), issuer) else { return Err(NO_CRL) };
        if issuer.extensions.usage.is_some_and(|usage| usage & CRL_SIGN == 0)
            || !signed(list.tbs, list.algorithm, list.signature, &issuer.key)
        {
            return Err(BAD_CRL_SIGNATURE);
        }
        if list.revoked.contains(&certificate.serial) {
            return Err(REVOKED);
        }
        if list.unknown_critical {
            return Err(CRL_CRITICAL);
        }
        if now < list.this_update {
            return Err(CRL_NOT_YET);
        }
        if list.next_update.is_some_and(|next| next < now) {
            return Err(CRL_EXPIRED);
        }
        Ok(())
    }
}

/// The way up from the peer's own certificate, as far as it goes.
fn climb<'a>(
    sent: &[Certificate<'a>],
    anchors: &[Certificate<'a>],
    now: i64,
    fail: &mut impl FnMut(Invalid),
) -> Vec<Certificate<'a>> {
    let mut path = vec![sent[0].clone()];
    let mut local = false;
    loop {
        let last = path[path.len() - 1].clone();
        if last.is_self_issued() && signed_by(&last, &last.key) {
            let trusted = anchors.iter().any(|anchor| anchor.tbs == last.tbs && anchor.signature == last.signature);
            match path.len() {
                _ if trusted => {}
                1 => fail(SELF_SIGNED),
                _ => fail(SELF_SIGNED_IN_CHAIN),
            }
            break;
        }
        let fits = |candidate: &&Certificate<'_>| {
            is_issuer(candidate, &last)
                && path.iter().all(|known| known.tbs != candidate.tbs)
                && signed_by(&last, &candidate.key)
        };
        let timely = |candidate: &Certificate<'_>| candidate.not_before <= now && now <= candidate.not_after;
        // One that is in force is better than one that was.
        let anchor = anchors.iter().filter(fits).max_by_key(|candidate| timely(candidate));
        local |= anchor.is_some();
        let issuer = anchor.or_else(|| sent.iter().skip(1).filter(fits).max_by_key(|candidate| timely(candidate)));
        match issuer {
            Some(issuer) if path.len() < LONGEST => path.push(issuer.clone()),
            _ => {
                fail(if local { NO_ISSUER } else { NO_LOCAL_ISSUER });
                break;
            }
        }
    }
    path
}

/// Whether it says of itself that it may have issued the other; its signature is another matter.
fn is_issuer(candidate: &Certificate<'_>, issued: &Certificate<'_>) -> bool {
    let ids = (candidate.extensions.key_id, issued.extensions.authority_key_id);
    let same_key = !matches!(ids, (Some(has), Some(wants)) if has != wants);
    candidate.subject == issued.issuer && same_key
}

/// OpenSSL: of version 3 it must say so itself, of version 1 whoever signed himself is one.
fn is_authority(certificate: &Certificate<'_>) -> bool {
    let extensions = &certificate.extensions;
    if extensions.usage.is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
        return false;
    }
    match extensions.authority {
        Some(authority) => authority,
        None => certificate.version == 1 && certificate.is_self_issued(),
    }
}

fn serves(certificate: &Certificate<'_>, purpose: Purpose, own: bool) -> bool {
    let extensions = &certificate.extensions;
    let wanted = match purpose {
        Purpose::Client => CLIENT_AUTH,
        Purpose::Server => SERVER_AUTH,
    };
    let named = |purposes: &Vec<&[u8]>| purposes.iter().any(|one| *one == wanted || *one == ANY_PURPOSE);
    if extensions.purposes.as_ref().is_some_and(|purposes| !named(purposes)) {
        return false;
    }
    // Signing, enciphering a key, agreeing on one.
    const KEY_ENCIPHERMENT: u16 = 1 << 13;
    const KEY_AGREEMENT: u16 = 1 << 11;
    let uses = match purpose {
        Purpose::Client => DIGITAL_SIGNATURE | KEY_AGREEMENT,
        Purpose::Server => DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT,
    };
    !own || extensions.usage.is_none_or(|usage| usage & uses != 0)
}

fn signed_by(certificate: &Certificate<'_>, key: &PublicKey<'_>) -> bool {
    signed(certificate.tbs, certificate.algorithm, certificate.signature, key)
}

/// Whether the key made this signature.
pub fn signed(message: &[u8], algorithm: &[u8], signature: &[u8], key: &PublicKey<'_>) -> bool {
    let all = default_provider().signature_verification_algorithms.all;
    all.iter().any(|one| {
        one.signature_alg_id().as_ref() == algorithm
            && one.public_key_alg_id().as_ref() == key.algorithm
            && one.verify_signature(key.bits, message, signature).is_ok()
    })
}

/// Whether the certificate is for this host, by the rules of OpenSSL's `X509_check_host`: addresses are not looked for.
pub fn is_for(certificate: &[u8], host: &[u8]) -> bool {
    let Ok(certificate) = Certificate::parse(certificate) else { return false };
    let names = &certificate.extensions.names;
    let mut dns = names.iter().filter_map(|name| if let Name::Dns(dns) = name { Some(*dns) } else { None }).peekable();
    if dns.peek().is_some() {
        return dns.any(|name| matches(name, host));
    }
    common_names(certificate.subject).iter().any(|name| matches(name, host))
}

/// `*.example.com` is for one label.
fn matches(pattern: &[u8], host: &[u8]) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(rest) = pattern.strip_prefix(b"*.") else { return false };
    let Some(dot) = host.iter().position(|&byte| byte == b'.') else { return false };
    let is_label =
        dot > 0 && host[..dot].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_label && rest.contains(&b'.') && rest.eq_ignore_ascii_case(&host[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_patterns() {
        for (pattern, host, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("a*.example.com", "ab.example.com", false),
            ("*.example.com", ".example.com", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), host.as_bytes()), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn chains() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(rcgen::DnType::CommonName, "root");
        let root = params.self_signed(&key).expect("a certificate").der().clone();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(["a.example".to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate").der().clone();
        let now = 1_764_000_000;
        let trust = Trust { anchors: vec![root.clone()], ..Trust::default() };
        assert_eq!(trust.verify(std::slice::from_ref(&leaf), Purpose::Client, now), Ok(()));
        assert_eq!(trust.verify(std::slice::from_ref(&root), Purpose::Client, now), Ok(()));
        let nobody = Trust::default();
        assert_eq!(nobody.verify(std::slice::from_ref(&leaf), Purpose::Client, now), Err(LEAF));
        assert_eq!(nobody.verify(std::slice::from_ref(&root), Purpose::Client, now), Err(SELF_SIGNED));
        assert_eq!(nobody.verify(&[leaf, root], Purpose::Server, now), Err(SELF_SIGNED_IN_CHAIN));
    }

    #[test]
    fn nothing_is_never_good() {
        let trust = Trust::default();
        assert_eq!(trust.verify(&[], Purpose::Client, 0), Err(UNREADABLE));
        assert_eq!(trust.verify(&[CertificateDer::from(vec![0x30, 0])], Purpose::Server, 0), Err(UNREADABLE));
    }
}
