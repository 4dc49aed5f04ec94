//! A certificate or a list of revoked ones is read or refused; names are shown in printable characters; nobody is found
//! good whom no anchor signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::net::tls::verify::{Purpose, Trust, is_for};
use weir::wire::x509::{Certificate, RevocationList, common_names, oneline, rfc2253};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (own, other) = input;
    let _ = RevocationList::parse(own);
    for shown in [rfc2253(own), oneline(own)] {
        assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{shown}");
    }
    let _ = is_for(own, b"www.example.com");
    let Ok(certificate) = Certificate::parse(own) else { return };
    let _ = (rfc2253(certificate.subject), oneline(certificate.issuer), common_names(certificate.subject));
    let chain = [own.to_vec().into(), other.to_vec().into()];
    let nobody = Trust::default();
    assert!(nobody.verify(&chain, Purpose::Client, certificate.not_before).is_err());
    let trust = Trust { anchors: vec![other.to_vec().into()], revocations: vec![other.to_vec()], depth: 1 };
    let verdict = trust.verify(&chain, Purpose::Server, certificate.not_after);
    assert!(verdict.is_err() || !trust.path(&chain, certificate.not_after).is_empty());
});
