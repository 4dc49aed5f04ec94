//! TLS towards upstreams: `*_ssl_*`, one table, mounted under each protocol that nginx lets speak it.
//!
//! In: what the directives say of a location. Out: a [`Tls`], which makes of a connection's first moment a session, and
//! judges the certificate that came.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection};

use super::settings::Family;
use crate::base::addr::Address;
use crate::base::clock;
use crate::base::text::{self, errno};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::{Context, Words};
use crate::http::plan::Plan;
use crate::http::request::Request;
use crate::log::Raw;
use crate::modules::ssl::command::Command;
use crate::modules::ssl::dynamic::{CacheSize, Pairs};
use crate::modules::ssl::{pair, protocols, trusted};
use crate::net::tls::Session;
use crate::net::tls::certificate::passwords;
use crate::net::tls::cipher::{Choice, Protocols};
use crate::net::tls::client::{self, Own, Sessions};
use crate::net::tls::verify::{Purpose, Trust, is_for};

/// A protocol that may be spoken by TLS.
pub trait Secure: Family {
    /// The module's name.
    const TLS_NAME: &'static str;
}

/// The TLS directives of one protocol.
pub struct PassTls<F>(PhantomData<F>);

const ONE: Arity = Arity::Exactly(1);

impl<F: Secure> Module for PassTls<F> {
    const NAME: &'static str = F::TLS_NAME;
    const PREFIX: &'static str = F::PREFIX;
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("_ssl_session_reuse", EVERYWHERE, Arity::Flag, Conf::session_reuse),
        Directive::location("_ssl_protocols", EVERYWHERE, Arity::AtLeast(1), Conf::protocols),
        Directive::location("_ssl_ciphers", EVERYWHERE, ONE, Conf::ciphers),
        Directive::location("_ssl_name", EVERYWHERE, ONE, Conf::name),
        Directive::location("_ssl_server_name", EVERYWHERE, Arity::Flag, Conf::server_name),
        Directive::location("_ssl_verify", EVERYWHERE, Arity::Flag, Conf::verify),
        Directive::location("_ssl_verify_depth", EVERYWHERE, ONE, Conf::verify_depth),
        Directive::location("_ssl_trusted_certificate", EVERYWHERE, ONE, Conf::trusted_certificate),
        Directive::location("_ssl_crl", EVERYWHERE, ONE, Conf::crl),
        Directive::location("_ssl_certificate", EVERYWHERE, ONE, Conf::certificate),
        Directive::location("_ssl_certificate_key", EVERYWHERE, ONE, Conf::certificate_key),
        Directive::location("_ssl_certificate_cache", EVERYWHERE, Arity::Between(1, 3), Conf::certificate_cache),
        Directive::location("_ssl_password_file", EVERYWHERE, ONE, Conf::password_file),
        Directive::location("_ssl_conf_command", EVERYWHERE, Arity::Exactly(2), Conf::conf_command),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    session_reuse: Setting<bool>,
    protocols: Setting<Protocols>,
    ciphers: Setting<String>,
    name: Setting<Template>,
    server_name: Setting<bool>,
    verify: Setting<bool>,
    verify_depth: Setting<u64>,
    trusted_certificate: Setting<String>,
    crl: Setting<String>,
    certificate: Setting<String>,
    certificate_key: Setting<String>,
    certificate_cache: Setting<Option<CacheSize>>,
    passwords: Setting<Vec<Vec<u8>>>,
    commands: Setting<Vec<(String, String)>>,
}

impl Conf {
    /// Syntax: `proxy_ssl_session_reuse on | off;`  Default: `on`
    fn session_reuse(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.session_reuse.set(words.flag()?)
    }

    /// Syntax: `proxy_ssl_protocols [SSLv2] [SSLv3] [TLSv1] [TLSv1.1] [TLSv1.2] [TLSv1.3];`  Default: `TLSv1.2 TLSv1.3`
    fn protocols(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.protocols.set(protocols(words)?)
    }

    /// Syntax: `proxy_ssl_ciphers ciphers;`  Default: `DEFAULT`
    fn ciphers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ciphers.set(words.one().to_owned())
    }

    /// Syntax: `proxy_ssl_name name;`  Default: `$proxy_host`
    fn name(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.name.set(words.template(0)?)
    }

    /// Syntax: `proxy_ssl_server_name on | off;`  Default: `off`
    fn server_name(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.server_name.set(words.flag()?)
    }

    /// Syntax: `proxy_ssl_verify on | off;`  Default: `off`
    fn verify(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.verify.set(words.flag()?)
    }

    /// Syntax: `proxy_ssl_verify_depth number;`  Default: `1`
    fn verify_depth(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.verify_depth.set(words.number(0)?)
    }

    /// Syntax: `proxy_ssl_trusted_certificate file;`
    fn trusted_certificate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.trusted_certificate.set(words.one().to_owned())
    }

    /// Syntax: `proxy_ssl_crl file;`
    fn crl(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.crl.set(words.one().to_owned())
    }

    /// Syntax: `proxy_ssl_certificate file;`
    fn certificate(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.template(0)?; // its variables are used
        self.certificate.set(words.one().to_owned())
    }

    /// Syntax: `proxy_ssl_certificate_key file;`
    fn certificate_key(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.template(0)?;
        self.certificate_key.set(words.one().to_owned())
    }

    /// Syntax: `proxy_ssl_certificate_cache off | max=N [inactive=time] [valid=time];`  Default: `off`
    fn certificate_cache(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.certificate_cache.set(CacheSize::read(words)?)
    }

    /// Syntax: `proxy_ssl_password_file file;`
    fn password_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let path = words.cx.conf_path(words.one());
        let bytes = words
            .cx
            .files
            .read(&path)
            .map_err(|error| words.fault(0, format!("open() \"{}\" failed {}", path.display(), errno(&error))))?;
        self.passwords.set(passwords(&bytes))
    }

    /// Syntax: `proxy_ssl_conf_command name value;`
    fn conf_command(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.commands.list().push((words.arg(0).to_owned(), words.arg(1).to_owned()));
        Ok(())
    }

    fn finish<F: Secure>(&self, cx: &Context) -> Result<Tls, Fault> {
        let mut choice = Choice {
            protocols: self.protocols.or_else(Protocols::default),
            ciphers: self.ciphers.or_else(|| "DEFAULT".to_owned()),
            suites13: None,
            curves: "auto".to_owned(),
            kernel: false,
        };
        let mut name = self.certificate.said();
        let mut key = self.certificate_key.said();
        for (command, value) in self.commands.or_else(Vec::new) {
            match Command::read(&command, &value).map_err(Fault::nowhere)? {
                Command::Change(change) => change(&mut choice),
                Command::Certificate => name = Some(value),
                Command::Key => key = Some(value),
                // OpenSSL takes `KTLS` for a wish, too, that is granted where it can be.
                Command::Kernel(_) | Command::ServerPreference(_) | Command::Tickets(_) | Command::Nothing => {}
            }
        }
        let mut config = client::config(&choice).map_err(Fault::nowhere)?;
        config.enable_sni = self.server_name.or(false);
        let passwords = self.passwords.or_else(Vec::new);
        let mut dynamic = None;
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let key = key.ok_or_else(|| {
                let directive = format!("{}_ssl_certificate_key", F::PREFIX);
                Fault::nowhere(format!("no \"{directive}\" is defined for certificate \"{name}\""))
            })?;
            if name.contains('$') || key.contains('$') {
                dynamic = Some(Dynamic {
                    name: Template::new(&name, &cx.names)?,
                    key: Template::new(&key, &cx.names)?,
                    passwords,
                    pairs: Pairs::new(self.certificate_cache.or(None)),
                    conf_prefix: cx.conf_path(""),
                });
            } else {
                let pair = pair(&name, &key, &passwords, cx).map_err(Fault::nowhere)?;
                config.client_auth_cert_resolver = Arc::new(Own(pair));
            }
        }
        let trust = match self.verify.or(false) {
            false => None,
            true => {
                let file = self.trusted_certificate.said().filter(|name| !name.is_empty()).ok_or_else(|| {
                    let prefix = F::PREFIX;
                    Fault::nowhere(format!("no {prefix}_ssl_trusted_certificate for {prefix}_ssl_verify"))
                })?;
                Some(trusted(&[&file], self.crl.said().as_deref(), self.verify_depth.or(1), cx)?)
            }
        };
        let sessions = self.session_reuse.or(true).then(Arc::default);
        Ok(Tls { config: Arc::new(config), name: self.name.said(), dynamic, trust, sessions })
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            session_reuse,
            protocols,
            ciphers,
            name,
            server_name,
            verify,
            verify_depth,
            trusted_certificate,
            crl,
            certificate,
            certificate_key,
            certificate_cache,
            passwords,
            commands,
        } = self;
        session_reuse.inherit(&outer.session_reuse);
        protocols.inherit(&outer.protocols);
        ciphers.inherit(&outer.ciphers);
        name.inherit(&outer.name);
        server_name.inherit(&outer.server_name);
        verify.inherit(&outer.verify);
        verify_depth.inherit(&outer.verify_depth);
        trusted_certificate.inherit(&outer.trusted_certificate);
        crl.inherit(&outer.crl);
        certificate.inherit(&outer.certificate);
        certificate_key.inherit(&outer.certificate_key);
        certificate_cache.inherit(&outer.certificate_cache);
        passwords.inherit(&outer.passwords);
        commands.inherit(&outer.commands);
        Ok(())
    }
}

/// How a location speaks TLS to its upstreams.
pub fn tls<F: Secure>(level: &Level<'_>) -> Result<Arc<Tls>, Fault> {
    level.location::<PassTls<F>>().finish::<F>(level.cx).map(Arc::new)
}

/// See [`tls`].
#[derive(Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// `None`: the host that the target names.
    name: Option<Template>,
    dynamic: Option<Dynamic>,
    /// `None`: any certificate will do.
    trust: Option<Arc<Trust>>,
    sessions: Option<Arc<Sessions>>,
}

/// A certificate of ours whose name has variables in it.
#[derive(Debug)]
struct Dynamic {
    name: Template,
    key: Template,
    passwords: Vec<Vec<u8>>,
    pairs: Pairs,
    conf_prefix: PathBuf,
}

/// What one request asks of its upstream's connection.
#[derive(Debug)]
pub struct Wanted {
    tls: Arc<Tls>,
    /// The server's name, without a port.
    name: Bytes,
    /// The certificate that is shown, and its key.
    shown: Option<(String, String)>,
    /// Connections of the same number may stand in for each other. 0 is for those without TLS.
    pub kind: u64,
}

impl Tls {
    /// `host`: what the target names.
    pub fn wanted(self: &Arc<Self>, request: &Request, host: &Bytes) -> Wanted {
        let name = self.name.as_ref().map_or_else(|| host.clone(), |name| name.eval(request));
        let name = without_port(&name);
        let shown = self.dynamic.as_ref().and_then(|dynamic| {
            let value = |template: &Template| text::decode(&template.eval(request));
            // An empty name stands for none.
            Some((value(&dynamic.name), value(&dynamic.key))).filter(|(name, _)| !name.is_empty())
        });
        let mut hasher = DefaultHasher::new();
        (Arc::as_ptr(self) as usize, &name, &shown).hash(&mut hasher);
        Wanted { tls: self.clone(), name, shown, kind: hasher.finish() | 1 }
    }
}

impl Wanted {
    /// A session with the peer at this address, ready for its handshake. The error is a sentence.
    pub fn session(&self, address: &Address) -> Result<Session, String> {
        let tls = &self.tls;
        let pair = match (&tls.dynamic, &self.shown) {
            (Some(dynamic), Some((name, key))) => Some(dynamic.pair(name, key)?),
            _ => None,
        };
        let config = if pair.is_none() && tls.sessions.is_none() {
            tls.config.clone()
        } else {
            let mut config = ClientConfig::clone(&tls.config);
            if let Some(pair) = pair {
                config.client_auth_cert_resolver = Arc::new(Own(pair));
            }
            if let Some(sessions) = &tls.sessions {
                config.resumption = sessions.with(address);
            }
            Arc::new(config)
        };
        // What is no name is not sent as one; rustls wants something to call the peer by.
        let name = std::str::from_utf8(&self.name).ok().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let name = name.unwrap_or_else(|| ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()));
        let conn = ClientConnection::new(config, name).map_err(|error| format!("SSL_new() failed ({error})"))?;
        Ok(Session::new(conn))
    }

    /// Whether the server has shown a certificate that is trusted and its own. The error is nginx's sentence.
    pub fn judge(&self, session: &Session) -> Result<(), String> {
        let Some(trust) = &self.tls.trust else { return Ok(()) };
        let chain = session.conn().peer_certificates().unwrap_or_default();
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        trust
            .verify(chain, Purpose::Server, now)
            .map_err(|why| format!("upstream SSL certificate verify error: ({}:{})", why.code, why.text))?;
        match chain.first() {
            Some(own) if !self.name.is_empty() && is_for(own, &self.name) => Ok(()),
            _ => Err(format!("upstream SSL certificate does not match \"{}\"", Raw(&self.name))),
        }
    }
}

impl Dynamic {
    fn pair(&self, name: &str, key: &str) -> Result<Arc<CertifiedKey>, String> {
        let path = |name: &str| self.conf_prefix.join(text::path(name));
        self.pairs.get(name, key, &self.passwords, &path)
    }
}

/// nginx: the name may come from a host with a port.
fn without_port(name: &Bytes) -> Bytes {
    let bracket = if name.starts_with(b"[") { name.iter().position(|&byte| byte == b']').unwrap_or(0) } else { 0 };
    match name[bracket..].iter().position(|&byte| byte == b':') {
        Some(colon) => name.slice(..bracket + colon),
        None => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_no_part_of_names() {
        for (host, name) in [("a:80", "a"), ("a", "a"), ("[::1]:443", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
            assert_eq!(without_port(&Bytes::from(host)), name, "{host}");
        }
    }
}
