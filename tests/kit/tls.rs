//! Certificates made on the spot, and a client that speaks TLS.
//!
//! In: names, and what the client shall offer. Out: PEM for the server's files, and a [`Client`](super::Client) whose bytes
//! travel by TLS: a thread stands between it and the server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};

use super::{Client, DEADLINE};

/// A certificate and its key, as files have them.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    /// One that signs itself.
    pub fn of_itself(name: &str) -> Pair {
        Pair::signed_by(name, &KeyPair::generate().expect("a key"))
    }

    /// The same with an RSA key.
    pub fn rsa(name: &str) -> Pair {
        Pair::signed_by(name, &KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"))
    }

    /// Many that sign themselves, all with one key.
    pub fn many(names: impl Iterator<Item = String>) -> Vec<Pair> {
        let key = KeyPair::generate().expect("a key");
        names.map(|name| Pair::signed_by(&name, &key)).collect()
    }

    fn signed_by(name: &str, key: &KeyPair) -> Pair {
        let certificate = params(name).self_signed(key).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Who signs others.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let params = Authority::params(name);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// Another one, signed by this.
    pub fn below(&self, name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let params = Authority::params(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub fn issue(&self, name: &str) -> Pair {
        self.issue_with(name, |_| {})
    }

    pub fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// What a client offers. Sessions are kept from one connection to the next.
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// A connection by TLS.
pub struct Secured {
    pub client: Client,
    pub version: String,
    pub resumed: bool,
    pub alpn: Option<String>,
    /// The server's own certificate.
    pub certificate: Vec<u8>,
    pub stapled: Vec<u8>,
}

impl TlsClient {
    pub fn new() -> TlsClient {
        TlsClient::with(|_| {})
    }

    /// With other settings than rustls's own; whose certificate it is does not matter to this client.
    pub fn with(change: impl FnOnce(&mut ClientConfig)) -> TlsClient {
        TlsClient::build(&[&rustls::version::TLS13, &rustls::version::TLS12], None, change)
    }

    pub fn tls12() -> TlsClient {
        TlsClient::build(&[&rustls::version::TLS12], None, |_| {})
    }

    /// With a certificate of its own.
    pub fn identified(pair: &Pair) -> TlsClient {
        TlsClient::build(&[&rustls::version::TLS13, &rustls::version::TLS12], Some(pair), |_| {})
    }

    /// With these ciphers and curves.
    pub fn with_provider(provider: CryptoProvider) -> TlsClient {
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("known versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }));
        TlsClient { config: Arc::new(builder.with_no_client_auth()) }
    }

    fn build(
        versions: &[&'static rustls::SupportedProtocolVersion],
        pair: Option<&Pair>,
        change: impl FnOnce(&mut ClientConfig),
    ) -> TlsClient {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).expect("known versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }));
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(|one| one.expect("PEM"));
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain.collect(), key).expect("a key that fits")
            }
        };
        change(&mut config);
        TlsClient { config: Arc::new(config) }
    }

    /// Connects and makes the handshake, asking for `name`.
    #[track_caller]
    pub fn connect(&self, address: &str, name: &str) -> Secured {
        self.try_connect(address, name).unwrap_or_else(|error| panic!("no handshake with {address}: {error}"))
    }

    pub fn try_connect(&self, address: &str, name: &str) -> io::Result<Secured> {
        let stream = TcpStream::connect(address)?;
        self.over(stream, name)
    }

    /// One request on a connection of its own, whole with its handshake, and all that comes back. It is an error when
    /// the end was not announced by TLS.
    pub fn ask(&self, address: &str, name: &str, request: &str) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut conn = ClientConnection::new(self.config.clone(), name).expect("a connection");
        let mut both = rustls::Stream::new(&mut conn, &mut stream);
        both.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        both.read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// Makes the handshake on a connection that is there.
    pub fn over(&self, mut stream: TcpStream, name: &str) -> io::Result<Secured> {
        stream.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut conn = ClientConnection::new(self.config.clone(), name).expect("a connection");
        while conn.is_handshaking() || conn.wants_write() {
            conn.complete_io(&mut stream)?;
        }
        let version = format!("{:?}", conn.protocol_version().expect("it was agreed on"));
        let resumed = conn.handshake_kind() == Some(HandshakeKind::Resumed);
        let alpn = conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        let certificate = conn.peer_certificates().map(|chain| chain[0].to_vec()).unwrap_or_default();
        let stapled = STAPLED.take();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        std::thread::spawn(move || bridge(conn, &stream, &far));
        let client = Client::from_stream(near);
        Ok(Secured { client, version, resumed, alpn, certificate, stapled })
    }
}

thread_local! {
    /// What the server stapled to its certificate in this thread's last handshake.
    static STAPLED: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

/// Carries bytes both ways until one side has ended.
fn bridge(mut conn: ClientConnection, mut server: &TcpStream, mut near: &TcpStream) {
    let mut block = vec![0; 64 * 1024];
    loop {
        let mut fds = [PollFd::new(server.as_fd(), PollFlags::POLLIN), PollFd::new(near.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return;
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (from_server, from_near) = (ready(&fds[0]), ready(&fds[1]));
        if from_near {
            match near.read(&mut block) {
                Ok(count @ 1..) => {
                    if conn.writer().write_all(&block[..count]).is_err() {
                        return;
                    }
                }
                Ok(_) | Err(_) => {
                    conn.send_close_notify();
                    while conn.wants_write() && conn.write_tls(&mut server).is_ok() {}
                    let _ = server.shutdown(Shutdown::Write);
                    return;
                }
            }
            while conn.wants_write() {
                if conn.write_tls(&mut server).is_err() {
                    break;
                }
            }
        }
        if from_server {
            let read = conn.read_tls(&mut server);
            if conn.process_new_packets().is_err() {
                return;
            }
            loop {
                match conn.reader().read(&mut block) {
                    Ok(0) => return,
                    Ok(count) => {
                        if near.write_all(&block[..count]).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return,
                }
            }
            if !matches!(read, Ok(1..)) {
                return;
            }
        }
    }
}

/// Believes every server.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        STAPLED.set(ocsp.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
