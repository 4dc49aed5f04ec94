//! What handshakes are signed with, where a variable wants to know. rustls does not tell, so somebody listens when it
//! asks a key to sign, and when it has a signature checked.
//!
//! In: a server's settings. Out: the same for one handshake, with a note of its signature; and the client's, which is
//! known right after the bytes that brought it were taken in.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ServerConfig, SignatureAlgorithm, SignatureScheme};

/// Empty until something was signed; it stays so when a session is taken up again.
pub type Note = Arc<OnceLock<SignatureScheme>>;

/// The settings for one handshake.
pub fn noting(config: &ServerConfig, note: &Note) -> ServerConfig {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Listening { resolver: config.cert_resolver, note: note.clone() });
    config
}

/// Chooses as another does, and listens to the key.
#[derive(Debug)]
struct Listening {
    resolver: Arc<dyn ResolvesServerCert>,
    note: Note,
}

impl ResolvesServerCert for Listening {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut pair = CertifiedKey::clone(&*self.resolver.resolve(hello)?);
        pair.key = Arc::new(Noted { key: pair.key, note: self.note.clone() });
        Some(Arc::new(pair))
    }
}

/// A key whose choice is noted.
#[derive(Debug)]
struct Noted {
    key: Arc<dyn SigningKey>,
    note: Note,
}

impl SigningKey for Noted {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        self.note.get_or_init(|| signer.scheme());
        Some(signer)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

thread_local! {
    /// What the client signed with whose bytes this thread takes in.
    static CLIENT: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// A client's signature is about to be checked.
pub fn client_signed(scheme: SignatureScheme) {
    CLIENT.set(Some(scheme));
}

/// What the client signed with whose bytes were taken in since the last [`forget_client`].
pub fn client() -> Option<SignatureScheme> {
    CLIENT.get()
}

pub fn forget_client() {
    CLIENT.set(None);
}
