//! Asking a responder whether a certificate is revoked, and keeping what it said.
//!
//! In: a certificate, who issued it, where to ask. Out: the status, believed only if the issuer or whoever it charged
//! with that has signed it, and the answer itself for stapling. A question costs one connection and at most a minute.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use moka::sync::Cache;

use super::verify::signed;
use crate::base::addr::{self, Address, Form, Host};
use crate::base::clock;
use crate::net::connect::{self, connect};
use crate::net::resolver::Resolver;
use crate::wire::ocsp::{CertId, NoResponse, Response, Signer, Status};
use crate::wire::uri::{Escape, escape};
use crate::wire::x509::{Certificate, OCSP_SIGNING};

/// Where to ask.
#[derive(Clone, Debug)]
pub struct Responder {
    host: String,
    uri: String,
    port: u16,
    /// Known when the host is an address, or was looked up at load.
    addresses: Vec<Address>,
}

impl Responder {
    /// Reads `http://host[:port][/uri]`; `resolve`: names are looked up now. The error is nginx's sentence.
    pub fn read(url: &str, resolve: bool) -> Result<Self, String> {
        let rest = url.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &url[7..]);
        let rest = rest.ok_or_else(|| format!("invalid URL prefix in OCSP responder \"{url}\""))?;
        let wrong = |why: &str| format!("{why} in OCSP responder \"{rest}\"");
        let parsed = addr::parse(rest, Form { listen: false, uri: true, default_port: 80 }).map_err(wrong)?;
        let addresses = match &parsed.host {
            Host::Name(_) if !resolve => Vec::new(),
            _ => parsed.addresses().map_err(wrong)?,
        };
        let uri = if parsed.uri.is_empty() { "/".to_owned() } else { parsed.uri.clone() };
        Ok(Self { host: parsed.host_text.clone(), uri, port: parsed.port, addresses })
    }
}

/// One question.
pub struct Question<'a> {
    pub certificate: &'a Certificate<'a>,
    pub issuer: &'a Certificate<'a>,
    /// Whether whoever signed the answer must be the issuer, or charged by it.
    pub believe: Believe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believe {
    /// The signature only has to fit a certificate that came along: nginx's stapling without `ssl_stapling_verify`.
    Anybody,
    Issuer,
}

/// What was said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: Status,
    /// Seconds since 1970.
    pub valid: u64,
    pub bytes: Vec<u8>,
}

fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    out
}

impl Question<'_> {
    pub fn id(&self) -> CertId {
        CertId {
            name: sha1(self.certificate.issuer),
            key: sha1(self.issuer.key.bits),
            serial: self.certificate.serial.to_vec(),
        }
    }

    /// Asks. The error is a sentence for the log.
    pub async fn ask(&self, responder: &Responder, resolver: Option<(&Resolver, Duration)>) -> Result<Answer, String> {
        let asked = async {
            let addresses = addresses(responder, resolver).await?;
            let mut last = "OCSP responder has no address".to_owned();
            for address in &addresses {
                match fetch(address, responder, &self.id().request()).await {
                    Ok(bytes) => return self.judge(bytes),
                    Err(why) => last = why,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err("OCSP responder timed out (110: Connection timed out)".to_owned()),
        }
    }

    /// What an answer says, if it is to be believed.
    pub fn judge(&self, bytes: Vec<u8>) -> Result<Answer, String> {
        let (status, valid) = {
            let response = Response::parse(&bytes).map_err(|why| match why {
                NoResponse::Broken => "d2i_OCSP_RESPONSE() failed".to_owned(),
                NoResponse::Refused(number) => format!("OCSP response not successful ({number})"),
            })?;
            if !self.is_signed(&response) {
                return Err("OCSP_basic_verify() failed".to_owned());
            }
            let single = response.find(&self.id());
            let single = single.ok_or("certificate status not found in the OCSP response")?;
            let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
            let (early, late) = (now.saturating_add(SLACK), now.saturating_sub(SLACK));
            if single.this_update > early || single.next_update.is_some_and(|next| next < late) {
                return Err("OCSP_check_validity() failed".to_owned());
            }
            let valid = single.next_update.map_or(u64::MAX, |next| u64::try_from(next).unwrap_or(0));
            (single.status, valid)
        };
        Ok(Answer { status, valid, bytes })
    }

    fn is_signed(&self, response: &Response<'_>) -> bool {
        let own: Vec<_> = response.certificates.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let is_named = |candidate: &&Certificate<'_>| match response.signer {
            Signer::Name(name) => candidate.subject == name,
            Signer::Key(key) => sha1(candidate.key.bits) == key,
        };
        let Some(signer) = std::iter::once(self.issuer).chain(&own).find(is_named) else { return false };
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        let charged = || {
            let purposes = signer.extensions.purposes.as_ref();
            signer.issuer == self.issuer.subject
                && purposes.is_some_and(|purposes| purposes.contains(&OCSP_SIGNING))
                && (signer.not_before..=signer.not_after).contains(&now)
                && signed(signer.tbs, signer.algorithm, signer.signature, &self.issuer.key)
        };
        let is_issuer = signer.key == self.issuer.key;
        (self.believe == Believe::Anybody || is_issuer || charged())
            && signed(response.tbs, response.algorithm, response.signature, &signer.key)
    }
}

/// nginx: clocks may differ so much.
const SLACK: i64 = 300;
/// nginx: a minute for all.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most that an answer has.
const LARGEST: usize = 64 * 1024;

async fn addresses(responder: &Responder, resolver: Option<(&Resolver, Duration)>) -> Result<Vec<Address>, String> {
    if !responder.addresses.is_empty() {
        return Ok(responder.addresses.clone());
    }
    let host = &responder.host;
    let (resolver, timeout) = resolver.ok_or_else(|| format!("no resolver defined to resolve {host}"))?;
    let found = resolver.resolve(host, timeout).await;
    let found = found.map_err(|why| format!("{host} could not be resolved ({})", why.text()))?;
    Ok(found.into_iter().map(|ip| Address::Inet(SocketAddr::new(ip, responder.port))).collect())
}

/// One question over HTTP/1.0 (RFC 6960, A.1).
async fn fetch(address: &Address, responder: &Responder, question: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |call: &str, error: &std::io::Error| format!("{call}() failed {}", crate::base::text::errno(error));
    let base64 = STANDARD.encode(question);
    let escaped = escape(Escape::UriComponent, base64.as_bytes());
    let slash = if responder.uri.ends_with('/') { "" } else { "/" };
    let (uri, question, host) = (&responder.uri, String::from_utf8_lossy(&escaped), &responder.host);
    let request = format!("GET {uri}{slash}{question} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    let mut connecting = connect(address, &connect::Options::default()).map_err(|why| failed(why.call, &why.error))?;
    poll_fn(|cx| connecting.poll(cx)).await.map_err(|error| failed("connect", &error))?;
    let io = connecting.into_io();
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        let wrote = poll_fn(|cx| io.poll_write(cx, rest)).await.map_err(|error| failed("send", &error))?;
        rest = &rest[wrote.min(rest.len())..];
    }
    let mut input = BytesMut::new();
    loop {
        input.reserve(4096);
        match poll_fn(|cx| io.poll_read_at_most(cx, &mut input, 4096)).await {
            Ok(0) => break,
            Ok(_) if input.len() > LARGEST => return Err("OCSP responder sent invalid response".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(failed("recv", &error)),
        }
    }
    let invalid = || "OCSP responder sent invalid response".to_owned();
    let line = input[..].split(|&byte| byte == b'\n').next().unwrap_or_default();
    let status = line.split(|&byte| byte == b' ').nth(1);
    if !line.starts_with(b"HTTP/") || status != Some(b"200") {
        return Err(invalid());
    }
    // An empty line ends the head; like nginx we take one without its carriage return.
    let mut ends = memchr::memchr_iter(b'\n', &input).map(|end| end + 1);
    let body = ends.find_map(|end| {
        let rest = &input[end..];
        rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"))
    });
    body.map(<[u8]>::to_vec).ok_or_else(invalid)
}

/// What was said of certificates: `ssl_ocsp_cache`.
pub struct Known(Cache<CertId, (Status, u64)>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

/// What an entry takes, roughly.
const ENTRY: u64 = 256;

/// By name and size.
type Caches = HashMap<(String, u64), Arc<Known>>;

static KNOWN: LazyLock<Mutex<Caches>> = LazyLock::new(Mutex::default);

impl Known {
    /// The cache of this name and size, which survives a reload.
    pub fn named(name: &str, size: u64) -> Arc<Self> {
        let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry((name.to_owned(), size));
        entry.or_insert_with(|| Arc::new(Self(Cache::new(size / ENTRY)))).clone()
    }

    pub fn get(&self, id: &CertId) -> Option<Status> {
        let (status, valid) = self.0.get(id)?;
        (valid >= clock::seconds()).then_some(status)
    }

    pub fn keep(&self, id: CertId, answer: &Answer) {
        self.0.insert(id, (answer.status, answer.valid));
    }
}
