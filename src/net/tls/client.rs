//! How we speak to a server that is ours: an upstream.
//!
//! In: what directives said. Out: a [`ClientConfig`], and sessions that are taken up again, kept apart for each peer. A
//! server's certificate is taken as long as the server has its key: whether it is good is found out afterwards, where
//! somebody asks (`verify`). rustls would refuse what OpenSSL takes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, SignatureScheme};

use super::cipher::{self, Choice};
use super::server::{signed12, signed13};
use crate::base::addr::Address;

/// The settings of one place, without a certificate and without sessions.
pub fn config(choice: &Choice) -> Result<ClientConfig, String> {
    let provider = cipher::provider(choice)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&choice.protocols.versions())
        .map_err(|error| format!("SSL_CTX_new() failed ({error})"))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Taken { provider }));
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.cert_compressors.clear();
    config.cert_decompressors.clear();
    Ok(config)
}

/// A certificate of our own.
#[derive(Debug)]
pub struct Own(pub Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct Taken {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Taken {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed12(&self.provider, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed13(&self.provider, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The sessions of one place with all its peers.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<Peer, Kept>>);

type Peer = (Address, ServerName<'static>);

/// What is kept of one peer.
#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// Each is used once.
    tls13: VecDeque<Tls13ClientSessionValue>,
}

/// The most peers and names that sessions are kept of; when there are more, all begin anew.
const PEERS: usize = 1024;
/// The most tickets of one peer.
const TICKETS: usize = 8;

impl Sessions {
    /// Those with the peer at this address.
    pub fn with(self: &Arc<Self>, address: &Address) -> Resumption {
        Resumption::store(Arc::new(OfPeer { all: self.clone(), address: address.clone() }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct OfPeer {
    all: Arc<Sessions>,
    address: Address,
}

impl OfPeer {
    fn change<T>(&self, name: &ServerName<'_>, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut all = self.all.lock();
        let key = (self.address.clone(), name.to_owned());
        if all.len() >= PEERS && !all.contains_key(&key) {
            all.clear();
        }
        change(all.entry(key).or_default())
    }
}

impl ClientSessionStore for OfPeer {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(&name, |kept| kept.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.change(name, |kept| kept.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.change(&name, |kept| kept.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.change(name, |kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.change(name, |kept| kept.tls12 = None);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.change(&name, |kept| {
            if kept.tls13.len() >= TICKETS {
                kept.tls13.pop_front();
            }
            kept.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.change(name, |kept| kept.tls13.pop_back())
    }
}
