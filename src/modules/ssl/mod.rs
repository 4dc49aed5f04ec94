//! `ssl_*`: TLS towards clients. nginx: `ngx_http_ssl_module`.
//!
//! In: what the directives say of a server. Out: an [`Offer`] of finished settings, which the handshake chooses by the name
//! that the client asks for, and the `$ssl_…` variables. The rule: what rustls leaves out is said once at load, and what
//! would make a server weaker than it was written is refused.

pub mod command; // `ssl_conf_command`
pub mod dynamic; // certificates whose names have variables in them
mod vars; // `$ssl_…`

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use self::command::Command;
use self::dynamic::Dynamic;
use crate::base::text::errno;
use crate::base::units;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, HTTP, Level, Module, SERVER, Section};
use crate::conf::setting::Setting;
use crate::conf::words::{Context, Words};
use crate::http::plan::{Main, Plan, ServerPlan};
use crate::http::tls::{ClientOcsp, Offer, Verify};
use crate::net::tls::certificate::{self, Named, certificates, open_failed, passwords, revocations};
use crate::net::tls::cipher::{self, Choice, Protocols};
use crate::net::tls::ocsp::{Believe, Known, Responder};
use crate::net::tls::server::{Pairs, Settings};
use crate::net::tls::staple::{Staple, Stapled};
use crate::net::tls::ticket::{self, Key, Sessions, Store, Tickets};
use crate::net::tls::verify::Trust;
use crate::wire::x509::Certificate;

/// `ngx_http_ssl_module`.
pub struct Ssl;

const PLACES: crate::conf::module::Place = HTTP.or(SERVER);
const ONE: Arity = Arity::Exactly(1);

impl Module for Ssl {
    const NAME: &'static str = "http_ssl";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::server("ssl_certificate", PLACES, ONE, Conf::ssl_certificate),
        Directive::server("ssl_certificate_key", PLACES, ONE, Conf::ssl_certificate_key),
        Directive::server("ssl_certificate_cache", PLACES, Arity::Between(1, 3), Conf::ssl_certificate_cache),
        Directive::server("ssl_ech_file", PLACES, ONE, Conf::ssl_ech_file),
        Directive::server("ssl_password_file", PLACES, ONE, Conf::ssl_password_file),
        Directive::server("ssl_certificate_compression", PLACES, Arity::Flag, Conf::ssl_certificate_compression),
        Directive::server("ssl_dhparam", PLACES, ONE, Conf::ssl_dhparam),
        Directive::server("ssl_ecdh_curve", PLACES, ONE, Conf::ssl_ecdh_curve),
        Directive::server("ssl_protocols", PLACES, Arity::AtLeast(1), Conf::ssl_protocols),
        Directive::server("ssl_ciphers", PLACES, ONE, Conf::ssl_ciphers),
        Directive::server("ssl_buffer_size", PLACES, ONE, Conf::ssl_buffer_size),
        Directive::server("ssl_verify_client", PLACES, ONE, Conf::ssl_verify_client),
        Directive::server("ssl_verify_depth", PLACES, ONE, Conf::ssl_verify_depth),
        Directive::server("ssl_client_certificate", PLACES, ONE, Conf::ssl_client_certificate),
        Directive::server("ssl_trusted_certificate", PLACES, ONE, Conf::ssl_trusted_certificate),
        Directive::server("ssl_prefer_server_ciphers", PLACES, Arity::Flag, Conf::ssl_prefer_server_ciphers),
        Directive::server("ssl_session_cache", PLACES, Arity::Between(1, 2), Conf::ssl_session_cache),
        Directive::server("ssl_session_tickets", PLACES, Arity::Flag, Conf::ssl_session_tickets),
        Directive::server("ssl_session_ticket_key", PLACES, ONE, Conf::ssl_session_ticket_key),
        Directive::server("ssl_session_timeout", PLACES, ONE, Conf::ssl_session_timeout),
        Directive::server("ssl_crl", PLACES, ONE, Conf::ssl_crl),
        Directive::server("ssl_ocsp", PLACES, ONE, Conf::ssl_ocsp),
        Directive::server("ssl_ocsp_responder", PLACES, ONE, Conf::ssl_ocsp_responder),
        Directive::server("ssl_ocsp_cache", PLACES, ONE, Conf::ssl_ocsp_cache),
        Directive::server("ssl_stapling", PLACES, Arity::Flag, Conf::ssl_stapling),
        Directive::server("ssl_stapling_file", PLACES, ONE, Conf::ssl_stapling_file),
        Directive::server("ssl_stapling_responder", PLACES, ONE, Conf::ssl_stapling_responder),
        Directive::server("ssl_stapling_verify", PLACES, Arity::Flag, Conf::ssl_stapling_verify),
        Directive::server("ssl_early_data", PLACES, Arity::Flag, Conf::ssl_early_data),
        Directive::server("ssl_conf_command", PLACES, Arity::Exactly(2), Conf::ssl_conf_command),
        Directive::server("ssl_reject_handshake", PLACES, Arity::Flag, Conf::ssl_reject_handshake),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = Conf;
    type Location = ();

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        vars::define(&mut main.vars)
    }

    fn link_server(level: &Level<'_>, server: &mut ServerPlan) -> Result<(), Fault> {
        server.tls = level.server::<Self>().offer(level)?;
        Ok(())
    }
}

/// What the directives said at one level.
#[derive(Default)]
pub struct Conf {
    certificates: Setting<Vec<String>>,
    keys: Setting<Vec<String>>,
    certificate_cache: Setting<Option<dynamic::CacheSize>>,
    passwords: Setting<Vec<Vec<u8>>>,
    certificate_compression: Setting<bool>,
    dhparam: Setting<String>,
    ecdh_curve: Setting<String>,
    protocols: Setting<Protocols>,
    ciphers: Setting<String>,
    buffer_size: Setting<usize>,
    verify_client: Setting<Verify>,
    verify_depth: Setting<u64>,
    client_certificate: Setting<String>,
    trusted_certificate: Setting<String>,
    prefer_server_ciphers: Setting<bool>,
    session_cache: Setting<SessionCache>,
    session_tickets: Setting<bool>,
    session_ticket_keys: Setting<Vec<String>>,
    session_timeout: Setting<Duration>,
    crl: Setting<String>,
    ocsp: Setting<Ask>,
    ocsp_responder: Setting<String>,
    /// A name and a size.
    ocsp_cache: Setting<Option<(String, u64)>>,
    stapling: Setting<bool>,
    stapling_file: Setting<String>,
    stapling_responder: Setting<String>,
    stapling_verify: Setting<bool>,
    early_data: Setting<bool>,
    commands: Setting<Vec<(String, String)>>,
    reject_handshake: Setting<bool>,
    ech_file: Setting<()>,
}

/// Whom OCSP is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Nobody,
    /// Every certificate of a client's chain but the anchor.
    All,
    /// The client's own.
    Leaf,
}

/// Where sessions are kept that the client holds no ticket of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SessionCache {
    None,
    Builtin(u64),
    Shared { name: String, size: u64 },
}

/// nginx: so many sessions are kept when `builtin` says no number.
const BUILTIN: u64 = 20_480;
/// What a kept session takes, roughly.
const SESSION: u64 = 1024;
/// nginx: eight pages.
const SMALLEST_CACHE: u64 = 8 * 4096;

impl Conf {
    /// Syntax: `ssl_certificate file;`
    fn ssl_certificate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.certificates.list().push(words.one().to_owned());
        Ok(())
    }

    /// Syntax: `ssl_certificate_key file;`
    fn ssl_certificate_key(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.keys.list().push(words.one().to_owned());
        Ok(())
    }

    /// Syntax: `ssl_certificate_cache off | max=N [inactive=time] [valid=time];`  Default: `off`
    fn ssl_certificate_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.certificate_cache.set(dynamic::CacheSize::read(words)?)
    }

    /// Syntax: `ssl_ech_file file;`. rustls does not hide the name that a client asks for yet; neither does nginx's
    /// usual OpenSSL.
    fn ssl_ech_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.cx.warn_once("\"ssl_ech_file\" is not supported on this platform, ignored");
        self.ech_file.list();
        Ok(())
    }

    /// Syntax: `ssl_password_file file;`
    fn ssl_password_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let path = words.cx.conf_path(words.one());
        let bytes = words
            .cx
            .files
            .read(&path)
            .map_err(|error| words.fault(0, format!("open() \"{}\" failed {}", path.display(), errno(&error))))?;
        self.passwords.set(passwords(&bytes))
    }

    /// Syntax: `ssl_certificate_compression on | off;`  Default: `off`
    fn ssl_certificate_compression(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.certificate_compression.set(words.flag()?)
    }

    /// Syntax: `ssl_dhparam file;`. All key exchanges of rustls are on elliptic curves.
    fn ssl_dhparam(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let path = words.cx.conf_path(words.one());
        words.cx.files.read(&path).map_err(|error| {
            let shown = path.display().to_string();
            Fault::new(format!("BIO_new_file(\"{shown}\") failed {}", open_failed(&shown, &error)))
        })?;
        words.cx.warn_once("\"ssl_dhparam\" ignored, ciphers that use it are not supported");
        self.dhparam.set(words.one().to_owned())
    }

    /// Syntax: `ssl_ecdh_curve curve;`  Default: `auto`
    fn ssl_ecdh_curve(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if let Ok(curves) = cipher::curves(words.one()) {
            for name in curves.missing {
                words.cx.warn_once(&format!("curve \"{name}\" is not supported, ignored"));
            }
        }
        self.ecdh_curve.set(words.one().to_owned())
    }

    /// Syntax: `ssl_protocols [SSLv2] [SSLv3] [TLSv1] [TLSv1.1] [TLSv1.2] [TLSv1.3];`  Default: `TLSv1.2 TLSv1.3`
    fn ssl_protocols(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.protocols.set(protocols(words)?)
    }

    /// Syntax: `ssl_ciphers ciphers;`  Default: `HIGH:!aNULL:!MD5`
    fn ssl_ciphers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ciphers.set(words.one().to_owned())
    }

    /// Syntax: `ssl_buffer_size size;`  Default: `16k`
    fn ssl_buffer_size(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.buffer_size.set(words.size(0)?)
    }

    /// Syntax: `ssl_verify_client on | off | optional | optional_no_ca;`  Default: `off`
    fn ssl_verify_client(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let choices = [
            ("off", Verify::Off),
            ("on", Verify::On),
            ("optional", Verify::Optional),
            ("optional_no_ca", Verify::OptionalNoCa),
        ];
        self.verify_client.set(words.choice(0, &choices)?)
    }

    /// Syntax: `ssl_verify_depth number;`  Default: `1`
    fn ssl_verify_depth(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.verify_depth.set(words.number(0)?)
    }

    /// Syntax: `ssl_client_certificate file;`
    fn ssl_client_certificate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.client_certificate.set(words.one().to_owned())
    }

    /// Syntax: `ssl_trusted_certificate file;`
    fn ssl_trusted_certificate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.trusted_certificate.set(words.one().to_owned())
    }

    /// Syntax: `ssl_prefer_server_ciphers on | off;`  Default: `off`
    fn ssl_prefer_server_ciphers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.prefer_server_ciphers.set(words.flag()?)
    }

    /// Syntax: `ssl_session_cache off | none | [builtin[:size]] [shared:name:size];`  Default: `none`
    fn ssl_session_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let mut found = SessionCache::None;
        for (n, word) in words.texts().enumerate() {
            let invalid = || words.fault(n, format!("invalid session cache \"{word}\""));
            match word.split_once(':') {
                None if matches!(word, "off" | "none") => {}
                None if word == "builtin" => found = SessionCache::Builtin(BUILTIN),
                Some(("builtin", number)) => {
                    found = SessionCache::Builtin(number.parse().map_err(|_| invalid())?);
                }
                Some(("shared", zone)) => {
                    let (name, size) = zone.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(invalid)?;
                    let size = units::size(size).ok_or_else(invalid)?;
                    if size < SMALLEST_CACHE {
                        return Err(words.fault(n, format!("session cache \"{word}\" is too small")));
                    }
                    found = SessionCache::Shared { name: name.to_owned(), size };
                }
                _ => return Err(invalid()),
            }
        }
        self.session_cache = Setting::default(); // nginx: the last one counts
        self.session_cache.set(found)
    }

    /// Syntax: `ssl_session_tickets on | off;`  Default: `on`
    fn ssl_session_tickets(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.session_tickets.set(words.flag()?)
    }

    /// Syntax: `ssl_session_ticket_key file;`
    fn ssl_session_ticket_key(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.session_ticket_keys.list().push(words.one().to_owned());
        Ok(())
    }

    /// Syntax: `ssl_session_timeout time;`  Default: `5m`
    fn ssl_session_timeout(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.session_timeout.set(words.seconds(0)?)
    }

    /// Syntax: `ssl_crl file;`
    fn ssl_crl(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.crl.set(words.one().to_owned())
    }

    /// Syntax: `ssl_ocsp on | off | leaf;`  Default: `off`
    fn ssl_ocsp(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ocsp.set(words.choice(0, &[("off", Ask::Nobody), ("on", Ask::All), ("leaf", Ask::Leaf)])?)
    }

    /// Syntax: `ssl_ocsp_responder url;`
    fn ssl_ocsp_responder(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ocsp_responder.set(words.one().to_owned())
    }

    /// Syntax: `ssl_ocsp_cache off | [shared:name:size];`  Default: `off`
    fn ssl_ocsp_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.one();
        let zone = word.strip_prefix("shared:").and_then(|zone| zone.split_once(':'));
        let invalid = || words.fault(0, format!("invalid OCSP cache \"{word}\""));
        self.ocsp_cache.set(match zone {
            None if word == "off" => None,
            Some((name, size)) if !name.is_empty() => {
                let size = units::size(size).ok_or_else(invalid)?;
                if size < SMALLEST_CACHE {
                    return Err(words.fault(0, format!("OCSP cache \"{word}\" is too small")));
                }
                Some((name.to_owned(), size))
            }
            _ => return Err(invalid()),
        })
    }

    /// Syntax: `ssl_stapling on | off;`  Default: `off`
    fn ssl_stapling(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.stapling.set(words.flag()?)
    }

    /// Syntax: `ssl_stapling_file file;`
    fn ssl_stapling_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.stapling_file.set(words.one().to_owned())
    }

    /// Syntax: `ssl_stapling_responder url;`
    fn ssl_stapling_responder(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.stapling_responder.set(words.one().to_owned())
    }

    /// Syntax: `ssl_stapling_verify on | off;`  Default: `off`
    fn ssl_stapling_verify(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.stapling_verify.set(words.flag()?)
    }

    /// Syntax: `ssl_early_data on | off;`  Default: `off`
    fn ssl_early_data(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.early_data.set(words.flag()?)
    }

    /// Syntax: `ssl_conf_command name value;`
    fn ssl_conf_command(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.commands.list().push((words.arg(0).to_owned(), words.arg(1).to_owned()));
        Ok(())
    }

    /// Syntax: `ssl_reject_handshake on | off;`  Default: `off`
    fn ssl_reject_handshake(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.reject_handshake.set(words.flag()?)
    }

    /// The settings, finished. Faults are of the whole server, and nginx gives them no place.
    fn offer(&self, level: &Level<'_>) -> Result<Offer, Fault> {
        let cx = level.cx;
        let reject = self.reject_handshake.or(false);
        let verify = self.verify_client.or(Verify::Off);
        let mut names = self.certificates.or_else(Vec::new);
        let mut keys = self.keys.or_else(Vec::new);
        if keys.len() < names.len() {
            let last = names.last().map_or("", String::as_str);
            let message = format!("no \"ssl_certificate_key\" is defined for certificate \"{last}\"");
            return Err(Fault::nowhere(message));
        }
        if names.is_empty() {
            return Ok(Offer { reject, verify, ..Offer::default() });
        }
        keys.truncate(names.len());
        let mut choice = Choice {
            protocols: self.protocols.or_else(Protocols::default),
            ciphers: self.ciphers.or_else(|| "HIGH:!aNULL:!MD5".to_owned()),
            suites13: None,
            curves: self.ecdh_curve.or_else(|| "auto".to_owned()),
            kernel: true,
        };
        let mut prefer_server_ciphers = self.prefer_server_ciphers.or(false);
        let mut tickets = self.session_tickets.or(true);
        for (name, value) in self.commands.or_else(Vec::new) {
            match Command::read(&name, &value).map_err(Fault::nowhere)? {
                Command::Change(change) => change(&mut choice),
                Command::ServerPreference(on) => prefer_server_ciphers = on,
                Command::Tickets(on) => tickets = on,
                Command::Kernel(on) => choice.kernel = on,
                Command::Certificate => names = vec![value],
                Command::Key => keys = vec![value],
                Command::Nothing => {}
            }
        }
        let passwords = self.passwords.or_else(Vec::new);
        let dynamic = Dynamic::of(&names, &keys, &passwords, self.certificate_cache.or(None), cx)?;
        let mut pairs = match dynamic {
            Some(_) => Vec::new(),
            None => names
                .iter()
                .zip(&keys)
                .map(|(name, key)| pair(name, key, &passwords, cx).map_err(Fault::nowhere))
                .collect::<Result<Vec<_>, _>>()?,
        };

        // OpenSSL: of two of a kind the later one stays
        let kinds: Vec<_> = pairs.iter().map(|pair| pair.key.algorithm()).collect();
        let mut n = 0;
        pairs.retain(|_| {
            n += 1;
            !kinds[n..].contains(&kinds[n - 1])
        });

        if self.stapling.or(false) {
            if self.certificate_compression.or(false) {
                let message = "\"ssl_stapling\" is incompatible with \"ssl_certificate_compression\"";
                return Err(Fault::nowhere(message));
            }
            self.staple(&mut pairs, cx)?;
        }
        let (trust, hints) = self.trust(verify, cx)?;
        let resolver: Arc<dyn ResolvesServerCert> = match self.stapling.or(false) && !self.has_stapling_file() {
            true => Arc::new(Stapled(pairs.iter().map(|pair| self.asking(pair, &names, &trust, level)).collect())),
            false => Arc::new(Pairs(pairs.clone())),
        };
        let ocsp = self.client_ocsp(verify)?;

        let context = self.context(&names, &pairs, verify, &hints);
        let timeout = self.session_timeout.or(Duration::from_secs(300));
        let store = match self.session_cache.or(SessionCache::None) {
            SessionCache::None => None,
            SessionCache::Builtin(number) => Some(Arc::new(Store::new(number.saturating_mul(SESSION)))),
            SessionCache::Shared { name, size } => Some(Store::named(&name, size)),
        };
        // Whoever must show a certificate first has not done so yet.
        let early_data = self.early_data.or(false) && verify == Verify::Off;
        // What comes early must not come twice: that takes sessions which are used up, not tickets that are copied.
        let store = store.or_else(|| early_data.then(|| Arc::new(Store::new(BUILTIN * SESSION))));
        let tickets = Tickets { on: tickets && !early_data, context, timeout, keys: self.ticket_keys(cx)? };
        let settings = Settings {
            choice,
            prefer_server_ciphers,
            resolver,
            certificate_compression: self.certificate_compression.or(false) && dynamic.is_none(),
            buffer_size: self.buffer_size.or(16 * 1024),
            ask_client: (verify != Verify::Off).then_some(hints),
            tickets,
            sessions: store.map(|store| Sessions { store, context, timeout }),
            early_data,
            alpn: ALPN.map(<[u8]>::to_vec).to_vec(),
        };
        let config = settings.config().map_err(Fault::nowhere)?;
        let mut with_http2 = config.clone();
        with_http2.alpn_protocols.insert(0, b"h2".to_vec());
        let dynamic = dynamic.map(|dynamic| Arc::new(dynamic) as Arc<dyn crate::http::tls::Choose>);
        let (config, with_http2) = (Some(Arc::new(config)), Some(Arc::new(with_http2)));
        Ok(Offer { config, with_http2, reject, verify, trust, dynamic, ocsp })
    }

    /// Who is trusted, and the names that clients are told.
    fn trust(&self, verify: Verify, cx: &Context) -> Result<(Arc<Trust>, Vec<DistinguishedName>), Fault> {
        let said = |setting: &Setting<String>| setting.said().filter(|name| !name.is_empty());
        let (client, trusted) = (said(&self.client_certificate), said(&self.trusted_certificate));
        if !matches!(verify, Verify::Off | Verify::OptionalNoCa) && client.is_none() && trusted.is_none() {
            return Err(Fault::nowhere("no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client"));
        }
        let client = client.filter(|_| verify != Verify::Off);
        let files: Vec<&str> = client.iter().chain(&trusted).map(String::as_str).collect();
        let trust = self::trusted(&files, said(&self.crl).as_deref(), self.verify_depth.or(1), cx)?;
        let client = match &client {
            Some(name) => load_certificates(name, cx)?,
            None => Vec::new(),
        };
        let subject = |der: &CertificateDer<'_>| {
            let subject = Certificate::parse(der).ok()?.subject.to_vec();
            Some(DistinguishedName::from(subject))
        };
        let mut hints: Vec<DistinguishedName> = Vec::new();
        for hint in client.iter().filter_map(subject) {
            if hints.iter().all(|known| known.as_ref() != hint.as_ref()) {
                hints.push(hint);
            }
        }
        Ok((trust, hints))
    }

    fn ticket_keys(&self, cx: &Context) -> Result<Vec<Arc<Key>>, Fault> {
        let read = |name: &String| {
            let path = cx.conf_path(name);
            let shown = path.display();
            let bytes = cx.files.read(&path);
            let bytes =
                bytes.map_err(|error| Fault::nowhere(format!("open() \"{shown}\" failed {}", errno(&error))))?;
            let key = Key::of_file(&bytes);
            key.map(Arc::new).ok_or_else(|| Fault::nowhere(format!("\"{shown}\" must be 48 or 80 bytes")))
        };
        self.session_ticket_keys.or_else(Vec::new).iter().map(read).collect()
    }

    /// What must not differ where a session is taken up again.
    fn context(
        &self,
        names: &[String],
        pairs: &[Arc<CertifiedKey>],
        verify: Verify,
        hints: &[DistinguishedName],
    ) -> ticket::Context {
        let own = pairs.iter().filter_map(|pair| pair.cert.first()).map(|certificate| certificate.as_ref());
        let named = names.iter().filter(|_| pairs.is_empty()).map(String::as_bytes);
        let hints = hints.iter().map(|hint| hint.as_ref());
        let asks: &[u8] = if verify == Verify::Off { b"HTTP" } else { b"HTTP, and a certificate" };
        ticket::context(std::iter::once(asks).chain(own).chain(named).chain(hints))
    }

    fn has_stapling_file(&self) -> bool {
        self.stapling_file.as_ref().is_some_and(|name| !name.is_empty())
    }

    /// A certificate whose answer is asked for. What stands in the way is said, and then none is.
    fn asking(&self, pair: &Arc<CertifiedKey>, names: &[String], trust: &Trust, level: &Level<'_>) -> Arc<Staple> {
        let ignored = |why: String| {
            level.cx.warn_once(&format!("\"ssl_stapling\" ignored, {why}"));
        };
        let name = names.first().map_or("", String::as_str);
        let asks = pair.cert.first().and_then(|der| Certificate::parse(der).ok()).and_then(|own| {
            let issued = |der: &&CertificateDer<'static>| {
                Certificate::parse(der).is_ok_and(|issuer| issuer.subject == own.issuer)
            };
            let Some(issuer) = pair.cert.iter().skip(1).chain(&trust.anchors).find(issued) else {
                ignored(format!("issuer certificate not found for certificate \"{name}\""));
                return None;
            };
            let said = self.stapling_responder.said().filter(|url| !url.is_empty());
            let own_url = || own.extensions.ocsp.map(|url| String::from_utf8_lossy(url).into_owned());
            let Some(url) = said.or_else(own_url) else {
                ignored(format!("no OCSP responder URL in the certificate \"{name}\""));
                return None;
            };
            match Responder::read(&url, true) {
                Ok(responder) => Some((responder, issuer.clone())),
                Err(why) => {
                    ignored(format!("{why} in the certificate \"{name}\""));
                    None
                }
            }
        });
        let believe = if self.stapling_verify.or(false) { Believe::Issuer } else { Believe::Anybody };
        Arc::new(Staple::new(pair.clone(), asks, believe, crate::http::core::resolver(level)))
    }

    /// How clients' certificates are asked about.
    fn client_ocsp(&self, verify: Verify) -> Result<Option<Arc<ClientOcsp>>, Fault> {
        let leaf_only = match self.ocsp.or(Ask::Nobody) {
            Ask::Nobody => return Ok(None),
            Ask::All => false,
            Ask::Leaf => true,
        };
        if verify == Verify::OptionalNoCa {
            let message = "\"ssl_ocsp\" is incompatible with \"ssl_verify_client optional_no_ca\"";
            return Err(Fault::nowhere(message));
        }
        let responder = self.ocsp_responder.said().filter(|url| !url.is_empty());
        let responder = responder.map(|url| Responder::read(&url, true)).transpose();
        let responder = responder.map_err(|why| Fault::nowhere(format!("{why} in \"ssl_ocsp_responder\"")))?;
        let known = self.ocsp_cache.or(None).map(|(name, size)| Known::named(&name, size));
        Ok(Some(Arc::new(ClientOcsp { leaf_only, responder, known })))
    }

    /// Adds the answer of a file to the certificates.
    fn staple(&self, pairs: &mut [Arc<CertifiedKey>], cx: &Context) -> Result<(), Fault> {
        let Some(name) = self.stapling_file.said().filter(|name| !name.is_empty()) else { return Ok(()) };
        let path = cx.conf_path(&name);
        let shown = path.display().to_string();
        let bytes = cx.files.read(&path).map_err(|error| {
            Fault::nowhere(format!("BIO_new_file(\"{shown}\") failed {}", open_failed(&shown, &error)))
        })?;
        let mut reader = crate::wire::der::Reader::new(&bytes);
        let whole = reader.take(crate::wire::der::SEQUENCE).and_then(|_| reader.end());
        if whole.is_err() {
            const WRONG: &str = "(SSL: error:0688010A:asn1 encoding routines::nested asn1 error)";
            return Err(Fault::nowhere(format!("d2i_OCSP_RESPONSE_bio(\"{shown}\") failed {WRONG}")));
        }
        for pair in pairs {
            let mut stapled = CertifiedKey::clone(pair);
            stapled.ocsp = Some(bytes.to_vec());
            *pair = Arc::new(stapled);
        }
        Ok(())
    }
}

/// What is offered by ALPN, and so the protocols of HTTP that are spoken behind TLS, the most wanted first. `h2` stands
/// before them where it is spoken.
pub const ALPN: [&[u8]; 3] = [b"http/1.1", b"http/1.0", b"http/0.9"];

/// Reads a list of versions, here and for upstreams. Old ones are left out; something must be left.
pub fn protocols(words: &Words<'_>) -> Result<Protocols, Fault> {
    let mut found = Protocols { tls12: false, tls13: false };
    for (n, word) in words.texts().enumerate() {
        match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => found.tls12 = true,
            "tlsv1.3" => found.tls13 = true,
            "sslv2" | "sslv3" | "tlsv1" | "tlsv1.1" => {
                words.cx.warn_once(&format!("protocol \"{word}\" is not supported, ignored"));
            }
            _ => return Err(words.invalid_value(n)),
        }
    }
    if found.versions().is_empty() {
        return Err(words.fault(0, format!("\"{}\" leaves no protocol that is supported", words.name())));
    }
    Ok(found)
}

fn load<T>(name: &str, cx: &Context, read: impl FnOnce(&Named<'_>) -> Result<T, String>) -> Result<T, Fault> {
    let path = cx.conf_path(name);
    let shown = path.display().to_string();
    read(&Named { name: &shown, path: &path }).map_err(Fault::nowhere)
}

fn load_certificates(name: &str, cx: &Context) -> Result<Vec<CertificateDer<'static>>, Fault> {
    load(name, cx, |named| certificates(named, &|path| cx.files.read(path)))
}

/// What is trusted somewhere, by a digest of all that it was made of: bundles of authorities are large.
static TRUSTED: LazyLock<Mutex<HashMap<ticket::Context, Weak<Trust>>>> = LazyLock::new(Mutex::default);

/// Who is trusted: the certificates in these files, less what a list says is revoked.
pub fn trusted(files: &[&str], crl: Option<&str>, depth: u64, cx: &Context) -> Result<Arc<Trust>, Fault> {
    let bytes = |name: &str| cx.files.read(&cx.conf_path(name)).ok().unwrap_or_default();
    let all: Vec<_> = files.iter().copied().chain(crl).map(bytes).collect();
    let depth_bytes = [&depth.to_le_bytes()[..], &[u8::from(crl.is_some())]].concat();
    let digest = ticket::context(std::iter::once(&depth_bytes[..]).chain(all.iter().map(|bytes| &**bytes)));
    let known = |digest| TRUSTED.lock().unwrap_or_else(PoisonError::into_inner).get(digest).and_then(Weak::upgrade);
    if let Some(trust) = known(&digest) {
        return Ok(trust);
    }
    let mut anchors = Vec::new();
    for name in files {
        anchors.extend(load_certificates(name, cx)?);
    }
    let revocations = match crl.filter(|name| !name.is_empty()) {
        Some(name) => load(name, cx, |named| revocations(named, &|path| cx.files.read(path)))?,
        None => Vec::new(),
    };
    let trust = Arc::new(Trust { anchors, revocations, depth });
    let mut trusted = TRUSTED.lock().unwrap_or_else(PoisonError::into_inner);
    trusted.retain(|_, trust| trust.strong_count() > 0);
    trusted.insert(digest, Arc::downgrade(&trust));
    Ok(trust)
}

/// Pairs that are in use, by a digest of all that they were made of: many servers often share one.
static PAIRS: LazyLock<Mutex<HashMap<ticket::Context, Weak<CertifiedKey>>>> = LazyLock::new(Mutex::default);

/// A certificate and its key, out of files that were read at load.
pub fn pair(name: &str, key: &str, passwords: &[Vec<u8>], cx: &Context) -> Result<Arc<CertifiedKey>, String> {
    let path = |name: &str| match name {
        // These are no paths.
        name if name.starts_with("data:") || name.starts_with("engine:") || name.starts_with("store:") => {
            (name.to_owned(), PathBuf::new())
        }
        name => {
            let path = cx.conf_path(name);
            (path.display().to_string(), path)
        }
    };
    let ((name, chain_path), (key_name, key_path)) = (path(name), path(key));
    let bytes = |path: &PathBuf| cx.files.read(path).ok().unwrap_or_default();
    let (chain_bytes, key_bytes) = (bytes(&chain_path), bytes(&key_path));
    let parts = [name.as_bytes(), &chain_bytes, key_name.as_bytes(), &key_bytes];
    let digest = ticket::context(parts.into_iter().chain(passwords.iter().map(Vec::as_slice)));
    let known = |digest| PAIRS.lock().unwrap_or_else(PoisonError::into_inner).get(digest).and_then(Weak::upgrade);
    if let Some(pair) = known(&digest) {
        return Ok(pair);
    }
    let chain = Named { name: &name, path: &chain_path };
    let key = Named { name: &key_name, path: &key_path };
    let pair = Arc::new(certificate::pair(&chain, &key, &|path| cx.files.read(path), passwords)?);
    let mut pairs = PAIRS.lock().unwrap_or_else(PoisonError::into_inner);
    if pairs.len() >= 1024 && pairs.len().is_power_of_two() {
        pairs.retain(|_, pair| pair.strong_count() > 0);
    }
    pairs.insert(digest, Arc::downgrade(&pair));
    Ok(pair)
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            certificates,
            keys,
            certificate_cache,
            passwords,
            certificate_compression,
            dhparam,
            ecdh_curve,
            protocols,
            ciphers,
            buffer_size,
            verify_client,
            verify_depth,
            client_certificate,
            trusted_certificate,
            prefer_server_ciphers,
            session_cache,
            session_tickets,
            session_ticket_keys,
            session_timeout,
            crl,
            ocsp,
            ocsp_responder,
            ocsp_cache,
            stapling,
            stapling_file,
            stapling_responder,
            stapling_verify,
            early_data,
            commands,
            reject_handshake,
            ech_file,
        } = self;
        certificates.inherit(&outer.certificates);
        keys.inherit(&outer.keys);
        certificate_cache.inherit(&outer.certificate_cache);
        passwords.inherit(&outer.passwords);
        certificate_compression.inherit(&outer.certificate_compression);
        dhparam.inherit(&outer.dhparam);
        ecdh_curve.inherit(&outer.ecdh_curve);
        protocols.inherit(&outer.protocols);
        ciphers.inherit(&outer.ciphers);
        buffer_size.inherit(&outer.buffer_size);
        verify_client.inherit(&outer.verify_client);
        verify_depth.inherit(&outer.verify_depth);
        client_certificate.inherit(&outer.client_certificate);
        trusted_certificate.inherit(&outer.trusted_certificate);
        prefer_server_ciphers.inherit(&outer.prefer_server_ciphers);
        session_cache.inherit(&outer.session_cache);
        session_tickets.inherit(&outer.session_tickets);
        session_ticket_keys.inherit(&outer.session_ticket_keys);
        session_timeout.inherit(&outer.session_timeout);
        crl.inherit(&outer.crl);
        ocsp.inherit(&outer.ocsp);
        ocsp_responder.inherit(&outer.ocsp_responder);
        ocsp_cache.inherit(&outer.ocsp_cache);
        stapling.inherit(&outer.stapling);
        stapling_file.inherit(&outer.stapling_file);
        stapling_responder.inherit(&outer.stapling_responder);
        stapling_verify.inherit(&outer.stapling_verify);
        early_data.inherit(&outer.early_data);
        commands.inherit(&outer.commands);
        reject_handshake.inherit(&outer.reject_handshake);
        ech_file.inherit(&outer.ech_file);
        Ok(())
    }
}
