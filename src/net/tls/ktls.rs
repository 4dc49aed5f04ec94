//! Records that the kernel makes: what goes out by sendfile then goes from the disk's cache into them, and never through
//! this process.
//!
//! ```text
//! rustls: handshake, all that is read, small answers ──┐ a large file is to be sent: keys and number of the next record
//! kernel: every byte that is written from then on  ◄───┘
//! ```
//!
//! In: a server's suites. Out: the same suites with encrypters that can be asked for their [`Keys`], and a socket that takes
//! plain bytes. The rule: no record is made twice under one number. The keys know how many records rustls has made of
//! them; once the kernel has them, nothing that rustls makes reaches the socket, and what it wants to say (an alert, mostly)
//! is said through the kernel. Reading stays with rustls, so nothing that has been read is in the way.
//!
//! What the kernel cannot do is to change its keys. A client that asks for that, and hardly one does, loses its connection,
//! and so does one that has been sent as many records as a key is good for.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use crate::net::socket::Socket;
use libc::{TLS_1_2_VERSION, TLS_1_3_VERSION, TLS_SET_RECORD_TYPE, tls12_crypto_info_chacha20_poly1305};
use libc::{TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_CHACHA20_POLY1305};
use libc::{tls_crypto_info, tls12_crypto_info_aes_gcm_128, tls12_crypto_info_aes_gcm_256};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsTx, TcpUlp, TlsCryptoInfo};
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};
use socket2::{Domain, MsgHdr, SockRef, Type};

/// Whether the kernel makes records. It is found out once, by whoever asks first: the master, which may have the kernel's
/// module loaded.
pub fn is_there() -> bool {
    *FOUND.get_or_init(|| {
        // The name is looked up first; that there is no connection is the second complaint.
        let Ok(socket) = socket2::Socket::new(Domain::IPV4, Type::STREAM, None) else { return false };
        matches!(setsockopt(&socket, TcpUlp::default(), ULP), Ok(()) | Err(Errno::ENOTCONN))
    })
}

/// What was found, if somebody wanted to know.
pub fn found() -> Option<bool> {
    FOUND.get().copied()
}

static FOUND: OnceLock<bool> = OnceLock::new();
const ULP: &[u8; 3] = b"tls";

/// The same suite with encrypters that can be asked. One that the kernel does not know stays as it is.
pub fn telling(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let known = TELLING.iter().find(|known| known.suite() == suite.suite());
    known.copied().unwrap_or(suite)
}

/// Made once for the process.
static TELLING: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| super::cipher::all().filter_map(make_telling).collect());

fn make_telling(suite: SupportedCipherSuite) -> Option<SupportedCipherSuite> {
    let cipher = Cipher::of(suite.suite())?;
    let copy = |common: &CipherSuiteCommon| CipherSuiteCommon { ..*common };
    Some(match suite {
        SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common: copy(&suite.common),
            aead_alg: Box::leak(Box::new(Aead13 { theirs: suite.aead_alg, cipher })),
            ..*suite
        }))),
        SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
            common: copy(&suite.common),
            aead_alg: Box::leak(Box::new(Aead12 { theirs: suite.aead_alg, cipher })),
            ..*suite
        }))),
    })
}

/// What the kernel can encrypt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes256,
    ChaCha20,
}

impl Cipher {
    fn of(suite: CipherSuite) -> Option<Self> {
        Some(match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Self::Aes128,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Self::Aes256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Self::ChaCha20,
            _ => return None,
        })
    }

    /// How many records one key is good for: what rustls says of its suites, too.
    fn records(self) -> u64 {
        match self {
            Self::Aes128 | Self::Aes256 => 1 << 24,
            Self::ChaCha20 => u64::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Tls12,
    Tls13,
}

/// What one side of a connection encrypts with.
pub struct Keys {
    cipher: Cipher,
    version: Version,
    /// The first bytes of it; the cipher says how many.
    key: AeadKey,
    iv: [u8; 12],
    /// The number of the next record; [`GIVEN_UP`] when rustls has others now.
    next: AtomicU64,
}

const GIVEN_UP: u64 = u64::MAX;

impl Keys {
    /// They are copied before rustls takes them: it does not give them back. An initialisation vector of another length
    /// than twelve bytes is none of ours.
    fn new(cipher: Cipher, version: Version, key: &AeadKey, iv: &[u8]) -> Option<Arc<Self>> {
        let mut bytes = [0; 32];
        bytes.get_mut(..key.as_ref().len())?.copy_from_slice(key.as_ref());
        let (key, iv) = (AeadKey::from(bytes), iv.try_into().ok()?);
        Some(Arc::new(Self { cipher, version, key, iv, next: AtomicU64::new(0) }))
    }

    /// For the kernel. `None` when the connection has other keys now.
    fn info(&self) -> Option<TlsCryptoInfo> {
        let next = self.next.load(Ordering::Relaxed);
        if next == GIVEN_UP {
            return None;
        }
        let (salt, explicit) = (self.iv.first_chunk()?, self.iv.last_chunk::<8>()?);
        // RFC 5288, 3: with AES-GCM in TLS 1.2 the sender chooses eight bytes for each record, and never the same twice.
        // rustls's are these eight XOR the number of the record; the kernel counts up from what it is given. With the
        // first bit turned and all others zero, it takes 2^63 records until the two meet.
        let iv = match self.version {
            Version::Tls13 => *explicit,
            Version::Tls12 => (!u64::from_be_bytes(*explicit) & (1 << 63)).to_be_bytes(),
        };
        let key = self.key.as_ref();
        let (salt, rec_seq) = (*salt, next.to_be_bytes());
        let info = |cipher_type| tls_crypto_info {
            version: match self.version {
                Version::Tls12 => TLS_1_2_VERSION,
                Version::Tls13 => TLS_1_3_VERSION,
            },
            cipher_type,
        };
        Some(match self.cipher {
            Cipher::Aes128 => TlsCryptoInfo::Aes128Gcm(tls12_crypto_info_aes_gcm_128 {
                info: info(TLS_CIPHER_AES_GCM_128),
                iv,
                key: *key.first_chunk()?,
                salt,
                rec_seq,
            }),
            Cipher::Aes256 => TlsCryptoInfo::Aes256Gcm(tls12_crypto_info_aes_gcm_256 {
                info: info(TLS_CIPHER_AES_GCM_256),
                iv,
                key: *key.first_chunk()?,
                salt,
                rec_seq,
            }),
            // RFC 7905: all twelve bytes are XORed with the number, in both versions.
            Cipher::ChaCha20 => TlsCryptoInfo::Chacha20Poly1305(tls12_crypto_info_chacha20_poly1305 {
                info: info(TLS_CIPHER_CHACHA20_POLY1305),
                iv: self.iv,
                key: *key.first_chunk()?,
                salt: [],
                rec_seq,
            }),
        })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("cipher", &self.cipher).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Encrypts as rustls's own does, and counts.
struct Told {
    theirs: Box<dyn MessageEncrypter>,
    keys: Arc<Keys>,
}

impl MessageEncrypter for Told {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        self.keys.next.store(seq.saturating_add(1), Ordering::Relaxed);
        EAR.with_borrow_mut(|ear| match ear {
            Ear::Closed => {}
            Ear::Keys(heard) => *heard = Some(self.keys.clone()),
            Ear::Words(words) => words.push(Word { kind: message.typ, bytes: message.payload.to_vec() }),
        });
        self.theirs.encrypt(message, seq)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.theirs.encrypted_payload_len(payload_len)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.keys.next.store(GIVEN_UP, Ordering::Relaxed);
    }
}

/// An encrypter that can be asked, unless its keys are not of the kind that is known.
fn told(theirs: Box<dyn MessageEncrypter>, keys: Option<Arc<Keys>>) -> Box<dyn MessageEncrypter> {
    match keys {
        Some(keys) => Box::new(Told { theirs, keys }),
        None => theirs,
    }
}

struct Aead13 {
    theirs: &'static dyn Tls13AeadAlgorithm,
    cipher: Cipher,
}

impl Tls13AeadAlgorithm for Aead13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let keys = Keys::new(self.cipher, Version::Tls13, &key, iv.as_ref());
        told(self.theirs.encrypter(key, iv), keys)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.theirs.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.theirs.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.theirs.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.theirs.fips()
    }
}

struct Aead12 {
    theirs: &'static dyn Tls12AeadAlgorithm,
    cipher: Cipher,
}

impl Tls12AeadAlgorithm for Aead12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        let keys = Keys::new(self.cipher, Version::Tls12, &key, &[iv, extra].concat());
        told(self.theirs.encrypter(key, iv, extra), keys)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.theirs.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.theirs.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.theirs.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.theirs.fips()
    }
}

/// What this thread wants to hear of the records that are made.
enum Ear {
    Closed,
    Keys(Option<Arc<Keys>>),
    Words(Vec<Word>),
}

/// What a record says, in plain.
struct Word {
    kind: ContentType,
    bytes: Vec<u8>,
}

thread_local! {
    static EAR: RefCell<Ear> = const { RefCell::new(Ear::Closed) };
}

/// Listens for as long as `work` is done.
fn listen<T>(ear: Ear, work: impl FnOnce() -> T) -> (T, Ear) {
    /// Also when the work panics: the next connection's records are none of ours.
    struct Close;
    impl Drop for Close {
        fn drop(&mut self) {
            EAR.set(Ear::Closed);
        }
    }
    EAR.set(ear);
    let _close = Close;
    let done = work();
    (done, EAR.replace(Ear::Closed))
}

/// The keys of the records that `work` makes; `None` when their encrypter cannot be asked.
pub fn keys<T>(work: impl FnOnce() -> T) -> (T, Option<Arc<Keys>>) {
    match listen(Ear::Keys(None), work) {
        (done, Ear::Keys(keys)) => (done, keys),
        (done, Ear::Closed | Ear::Words(_)) => (done, None),
    }
}

/// A socket whose records the kernel makes.
#[derive(Debug)]
pub struct Kernel {
    /// How many more the key is good for.
    left: u64,
    /// An alert that is to be sent, by its level and description.
    alert: Option<[u8; 2]>,
    /// Nothing can be sent any more.
    over: bool,
}

/// The least send buffer. The kernel takes a record whole and keeps what TCP has no room for yet; a socket counts as
/// writable when a third is free, and then that third must have room for the rest.
const LEAST_BUFFER: usize = 64 * 1024;
/// The most of a record.
const RECORD: u64 = 16 * 1024;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const INTERNAL_ERROR: [u8; 2] = [FATAL, 80];

impl Kernel {
    /// Gives the keys away. All records that rustls made must have left. `None` where the kernel does not take them: then
    /// nothing has changed.
    pub fn take_over(socket: &Socket, keys: &Keys) -> Option<Self> {
        let size = socket.with(|socket| SockRef::from(&socket).send_buffer_size()).ok()?;
        if size.is_ok_and(|size| size < LEAST_BUFFER) {
            return None;
        }
        let info = keys.info()?;
        let left = keys.cipher.records().checked_sub(keys.next.load(Ordering::Relaxed))?;
        // A socket with this protocol and without keys passes everything as it is.
        let changed = socket.with(|socket| {
            setsockopt(&socket, TcpUlp::default(), ULP)?;
            setsockopt(&socket, TcpTlsTx, &info)
        });
        changed.ok()?.ok()?;
        Some(Self { left, alert: None, over: false })
    }

    /// Whether more may be written.
    pub fn check(&self) -> io::Result<()> {
        match self.over {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false if self.left == 0 => Err(io::Error::other("the key has been used up")),
            false => Ok(()),
        }
    }

    /// So many bytes were written by one call. The records may be fewer.
    pub fn wrote(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64 / RECORD + 2);
    }

    /// Does what may make rustls want to say something, and keeps what that is. Its records must be thrown away.
    pub fn hear<T>(&mut self, work: impl FnOnce() -> T) -> (T, io::Result<()>) {
        let (done, ear) = listen(Ear::Words(Vec::new()), work);
        let Ear::Words(words) = ear else { return (done, Ok(())) };
        for word in words {
            match (word.kind, word.bytes.as_slice()) {
                (ContentType::Alert, &[level, description]) => self.alert = Some([level, description]),
                // RFC 8446, 4.6.3: no other byte may leave under the key that the client wants to be changed.
                _ => {
                    self.alert = Some(INTERNAL_ERROR);
                    let why = Error::General("the kernel cannot change its keys".to_owned());
                    return (done, Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
            }
        }
        (done, Ok(()))
    }

    /// Sends the alert that is to be sent, if the socket takes it at this moment.
    pub fn speak(&mut self, socket: &Socket) {
        if let Some(alert) = self.alert.take()
            && !self.over
        {
            self.over = alert[0] == FATAL;
            send_alert(socket, alert);
        }
    }

    /// Ends the session.
    pub fn close(&mut self, socket: &Socket) {
        self.speak(socket);
        if !self.over {
            self.over = true;
            send_alert(socket, CLOSE_NOTIFY);
        }
    }
}

/// tls.rst of the kernel, "Send TLS control messages": the record's type comes beside its bytes.
fn send_alert(socket: &Socket, alert: [u8; 2]) {
    let control = control(TLS_SET_RECORD_TYPE, u8::from(ContentType::Alert));
    let bytes = [IoSlice::new(&alert)];
    let message = MsgHdr::new().with_buffers(&bytes).with_control(&control);
    // What the socket does not take at this moment is lost, as it is without the kernel.
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let _ = socket.with(|socket| SockRef::from(&socket).sendmsg(&message, flags));
}

const WORD: usize = size_of::<usize>();
const CONTROL_HEAD: usize = WORD + 8;

/// cmsg(3): length, level and type, then the data, filled up to the length of a word.
fn control(kind: libc::c_int, data: u8) -> [u8; CONTROL_HEAD + WORD] {
    let mut bytes = [0; CONTROL_HEAD + WORD];
    bytes[..WORD].copy_from_slice(&(CONTROL_HEAD + 1).to_ne_bytes());
    bytes[WORD..][..4].copy_from_slice(&libc::SOL_TLS.to_ne_bytes());
    bytes[WORD + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[CONTROL_HEAD] = data;
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use rustls::crypto::CryptoProvider;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// Everything that one side has to say to the other.
    fn carry<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).expect("there is room");
        }
        take_in(to, &bytes);
    }

    fn take_in<D>(conn: &mut ConnectionCommon<D>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            conn.read_tls(&mut bytes).expect("it is a slice");
            conn.process_new_packets().expect("they understand each other");
        }
    }

    /// A client and a server that have agreed on this suite.
    fn pair(suite: SupportedCipherSuite) -> (ClientConnection, ServerConnection) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("it is one");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let theirs = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..default_provider() });
        let ours = Arc::new(CryptoProvider { cipher_suites: vec![telling(suite)], ..default_provider() });
        let client = ClientConfig::builder_with_provider(theirs)
            .with_protocol_versions(&[suite.version()])
            .expect("the suite is of this version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(ours)
            .with_protocol_versions(&[suite.version()])
            .expect("the suite is of this version")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("they belong together");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        (client, server)
    }

    /// Those for which the pair's certificate has the right kind of key.
    fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
        super::super::cipher::all().filter(|suite| !format!("{:?}", suite.suite()).contains("RSA"))
    }

    /// The record that the kernel makes of these bytes, with what it was given, as `n`th.
    fn record(info: &TlsCryptoInfo, n: u64, text: &[u8]) -> Vec<u8> {
        let (algorithm, key, iv, seq, version) = match info {
            TlsCryptoInfo::Aes128Gcm(given) => {
                let iv = [&given.salt[..], &given.iv].concat();
                (&AES_128_GCM, &given.key[..], iv, given.rec_seq, given.info.version)
            }
            TlsCryptoInfo::Aes256Gcm(given) => {
                let iv = [&given.salt[..], &given.iv].concat();
                (&AES_256_GCM, &given.key[..], iv, given.rec_seq, given.info.version)
            }
            TlsCryptoInfo::Chacha20Poly1305(given) => {
                (&CHACHA20_POLY1305, &given.key[..], given.iv.to_vec(), given.rec_seq, given.info.version)
            }
        };
        let seq = u64::from_be_bytes(seq) + n;
        let mut nonce: [u8; 12] = iv.try_into().expect("twelve bytes");
        let last = u64::from_be_bytes(nonce[4..].try_into().expect("eight bytes"));
        let counts = version == TLS_1_2_VERSION && algorithm != &CHACHA20_POLY1305;
        nonce[4..].copy_from_slice(&if counts { last + n } else { last ^ seq }.to_be_bytes());
        let mut body = text.to_vec();
        let aad = if version == TLS_1_2_VERSION {
            [&seq.to_be_bytes()[..], &[23, 3, 3], &(text.len() as u16).to_be_bytes()].concat()
        } else {
            body.push(23);
            [&[23, 3, 3][..], &(body.len() as u16 + 16).to_be_bytes()].concat()
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).expect("its length is right"));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut body).expect("sealed");
        let explicit = if counts { &nonce[4..] } else { &[] };
        let len = ((explicit.len() + body.len()) as u16).to_be_bytes();
        [&[23, 3, 3][..], &len, explicit, &body].concat()
    }

    #[test]
    fn the_kernel_goes_on_where_rustls_has_stopped() {
        assert_eq!(suites().count(), 6);
        for suite in suites() {
            let (mut client, mut server) = pair(suite);
            let (_, keys) = self::keys(|| server.writer().write(b"by rustls, ").expect("there is room"));
            let keys = keys.expect("it tells");
            server.writer().write_all(b"again, ").expect("there is room");
            carry(&mut server, &mut client);
            let info = keys.info().expect("they are the keys");
            for (n, text) in [&b"by the kernel, "[..], b"again"].into_iter().enumerate() {
                take_in(&mut client, &record(&info, n as u64, text));
            }
            let mut text = [0; 64];
            let read = client.reader().read(&mut text).expect("it has come");
            assert_eq!(text[..read], *b"by rustls, again, by the kernel, again", "{:?}", suite.suite());
        }
    }

    #[test]
    fn keys_that_are_no_longer_used_are_not_given_away() {
        let suite = suites().find(|suite| suite.tls13().is_some()).expect("there is one");
        let (_, mut server) = pair(suite);
        let (_, keys) = self::keys(|| server.writer().write(b"text").expect("there is room"));
        let keys = keys.expect("it tells");
        assert!(keys.info().is_some());
        server.refresh_traffic_keys().expect("they can be changed");
        assert!(keys.info().is_none());
        assert!(!format!("{keys:?}").contains("key:"), "secrets stay secret");
    }

    #[test]
    fn rustls_without_telling_suites_says_nothing() {
        let keys = Keys::new(Cipher::Aes128, Version::Tls12, &AeadKey::from([1; 32]), &[0; 4]);
        assert!(keys.is_none(), "four bytes are no vector");
        assert!(self::keys(|| ()).1.is_none());
    }

    #[test]
    fn one_number_is_never_used_twice_in_tls_1_2() {
        for start in [[0; 8], [0xff; 8], 3_u64.to_be_bytes(), (u64::MAX >> 1).to_be_bytes()] {
            let iv = [&[9; 4][..], &start].concat();
            let keys = Keys::new(Cipher::Aes128, Version::Tls12, &AeadKey::from([1; 32]), &iv).expect("twelve bytes");
            keys.next.store(1000, Ordering::Relaxed);
            let Some(TlsCryptoInfo::Aes128Gcm(info)) = keys.info() else { panic!("it is AES-128") };
            let (theirs, ours) = (u64::from_be_bytes(start), u64::from_be_bytes(info.iv));
            for n in 0..1000 {
                assert!((0..1000).all(|m| ours.checked_add(n) != Some(theirs ^ m)), "{theirs} {n}");
            }
            assert_eq!((info.salt, info.rec_seq), ([9; 4], 1000_u64.to_be_bytes()));
        }
    }

    #[test]
    fn what_rustls_wants_to_say_is_heard() {
        let suite = suites().find(|suite| suite.tls13().is_some()).expect("there is one");
        let hear = |client: fn(&mut ClientConnection) -> Vec<u8>| {
            let (mut from, mut server) = pair(suite);
            let bytes = client(&mut from);
            let mut kernel = Kernel { left: 10, alert: None, over: false };
            let ((), heard) = kernel.hear(|| {
                server.read_tls(&mut &bytes[..]).expect("it is a slice");
                let _ = server.process_new_packets();
            });
            (kernel.alert, heard.is_ok())
        };
        // Not a record under these keys: bad_record_mac.
        assert_eq!(hear(|_| [&[23, 3, 3, 0, 32][..], &[7; 32]].concat()), (Some([2, 20]), true));
        // A client that has changed its keys and wants ours to be changed, too.
        let asked = hear(|client| {
            client.refresh_traffic_keys().expect("they can be changed");
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("there is room");
            bytes
        });
        assert_eq!(asked, (Some(INTERNAL_ERROR), false));
        // Whoever did not listen hears nothing later.
        assert!(matches!(EAR.replace(Ear::Closed), Ear::Closed));
    }

    #[test]
    fn a_key_is_used_up() {
        let mut kernel = Kernel { left: 200, alert: None, over: false };
        kernel.wrote(2 * 1024 * 1024);
        assert!(kernel.check().is_ok());
        kernel.wrote(2 * 1024 * 1024);
        assert!(kernel.check().is_err());
    }

    #[test]
    fn the_type_of_a_record_is_told_as_the_kernel_reads_it() {
        let bytes = control(1, 21);
        let mut expected = (size_of::<libc::cmsghdr>() + 1).to_ne_bytes().to_vec();
        for number in [282_i32, 1] {
            expected.extend_from_slice(&number.to_ne_bytes());
        }
        expected.push(21);
        expected.resize(size_of::<libc::cmsghdr>() + size_of::<usize>(), 0);
        assert_eq!(bytes[..], expected[..]);
    }
}
