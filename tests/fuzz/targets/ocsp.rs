//! An answer of a responder is read or refused, and believed only if the issuer's key has signed it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weir::net::tls::ocsp::{Believe, Question};
use weir::wire::ocsp::Response;
use weir::wire::pem;
use weir::wire::x509::Certificate;

/// An authority of nobody's.
static ISSUER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let found = pem::sections(include_bytes!("ocsp_issuer.pem")).expect("it is a file of ours");
    found.into_iter().next().expect("it has a certificate").data
});

fuzz_target!(|bytes: &[u8]| {
    let issuer = Certificate::parse(&ISSUER).expect("it is well-formed");
    let ask = |believe| Question { certificate: &issuer, issuer: &issuer, believe }.judge(bytes.to_vec());
    let strict = ask(Believe::Issuer);
    assert!(strict.is_err() || ask(Believe::Anybody).is_ok());
    if strict.is_ok() {
        assert!(Response::parse(bytes).is_ok());
    }
});
