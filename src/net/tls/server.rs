//! What a server offers: its settings as rustls takes them.
//!
//! In: certificates, and what directives said of everything else. Out: a [`ServerConfig`]. Clients' certificates are
//! taken as they are as long as the client has their keys: whether they are good is found out afterwards (`verify`), since
//! nginx answers who has none, or a bad one, with a page.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::compress::CompressionCache;
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, ServerConfig, SignatureScheme,
};

use super::cipher::{self, Choice};
use super::signature;
use super::ticket::{Sessions, Tickets};
use crate::wire::x509::Certificate;

/// See the module's head.
#[derive(Debug)]
pub struct Settings {
    pub choice: Choice,
    pub prefer_server_ciphers: bool,
    /// Who has the certificates.
    pub resolver: Arc<dyn ResolvesServerCert>,
    pub certificate_compression: bool,
    pub buffer_size: usize,
    /// Clients are asked for certificates, with these names of authorities as a hint.
    pub ask_client: Option<Vec<DistinguishedName>>,
    pub tickets: Tickets,
    pub sessions: Option<Sessions>,
    pub early_data: bool,
    pub alpn: Vec<Vec<u8>>,
}

/// The most of a record.
const RECORD: usize = 16 * 1024;
/// What a record's head adds.
const HEAD: usize = 5;
/// nginx, by OpenSSL's default.
const EARLY_DATA: u32 = 16 * 1024;

impl Settings {
    /// The error is nginx's sentence.
    pub fn config(mut self) -> Result<ServerConfig, String> {
        // The kernel makes records as large as they may be.
        self.choice.kernel &= self.buffer_size >= RECORD;
        let provider = cipher::provider(&self.choice)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.choice.protocols.versions())
            .map_err(|error| format!("SSL_CTX_new() failed ({error})"))?;
        let builder = match self.ask_client {
            None => builder.with_no_client_auth(),
            Some(hints) => builder.with_client_cert_verifier(Arc::new(Taken { hints, provider })),
        };
        let mut config = builder.with_cert_resolver(self.resolver);
        config.ignore_client_order = self.prefer_server_ciphers;
        config.alpn_protocols = self.alpn;
        config.max_fragment_size = (self.buffer_size < RECORD).then_some(self.buffer_size.max(64) + HEAD);
        if !self.certificate_compression {
            config.cert_compressors.clear();
        }
        config.cert_decompressors.clear();
        config.cert_compression_cache = match self.certificate_compression {
            true => Arc::new(CompressionCache::new(8)),
            false => Arc::new(CompressionCache::Disabled),
        };
        let tickets = self.tickets.on;
        config.send_tls13_tickets = usize::from(tickets || self.sessions.is_some());
        config.session_storage = match self.sessions {
            Some(sessions) => Arc::new(sessions) as Arc<dyn StoresServerSessions>,
            None => Arc::new(NoServerSessionStorage {}),
        };
        if self.early_data {
            config.max_early_data_size = EARLY_DATA;
            config.send_half_rtt_data = true;
        }
        config.ticketer = Arc::new(self.tickets);
        Ok(config)
    }
}

/// A server's certificates.
#[derive(Debug)]
pub struct Pairs(pub Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Pairs {
    /// The first that the client's most wanted signature can be made with, as OpenSSL chooses.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs = |scheme: &SignatureScheme| self.0.iter().find(|pair| pair.key.choose_scheme(&[*scheme]).is_some());
        hello.signature_schemes().iter().find_map(signs).cloned()
    }
}

/// Takes any certificate whose key the client has.
#[derive(Debug)]
struct Taken {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Taken {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::client_signed(signed.scheme);
        signed12(&self.provider, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::client_signed(signed.scheme);
        signed13(&self.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the key of a certificate made a signature of TLS 1.2. rustls's own way to ask does not know certificates of
/// version 1, which are still made every day.
pub fn signed12(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(certificate)?;
    let mapping = provider.signature_verification_algorithms.mapping;
    let (_, algorithms) = mapping
        .iter()
        .find(|(scheme, _)| *scheme == signed.scheme)
        .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let fits =
        algorithms.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == certificate.key.algorithm);
    let valid = |algorithm: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        algorithm.verify_signature(certificate.key.bits, message, signed.signature()).is_ok()
    };
    match fits.into_iter().find(|algorithm| valid(algorithm)) {
        Some(_) => Ok(HandshakeSignatureValid::assertion()),
        None => Err(CertificateError::BadSignature.into()),
    }
}

/// The same for TLS 1.3.
pub fn signed13(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(certificate)?;
    let key = SubjectPublicKeyInfoDer::from(certificate.key.whole);
    verify_tls13_signature_with_raw_key(message, &key, signed, &provider.signature_verification_algorithms)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding.into())
}
