//! Answers of a responder that are sent with a certificate: `ssl_stapling` without a file.
//!
//! In: a certificate, its issuer, where to ask. Out: the answer while it holds. The first client that asks for it gets
//! none, and sets the question off, as in nginx; so does the first one after it has grown old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ocsp::{Answer, Believe, Question, Responder};
use crate::base::clock;
use crate::log::{self, Level};
use crate::net::resolver::Resolver;
use crate::wire::ocsp::Status;
use crate::wire::x509::Certificate;

/// One certificate with what is said of it.
#[derive(Debug)]
pub struct Staple {
    /// The pair as it is shown, with or without an answer.
    shown: ArcSwap<CertifiedKey>,
    plain: Arc<CertifiedKey>,
    /// `None`: nobody can be asked.
    asks: Option<(Responder, CertificateDer<'static>)>,
    believe: Believe,
    resolver: Option<(Arc<Resolver>, std::time::Duration)>,
    /// Seconds since 1970: until when the answer holds, and when to ask again.
    valid: AtomicU64,
    refresh: AtomicU64,
    asking: AtomicBool,
}

/// nginx: after so long at the latest, and not before five minutes.
const HOUR: u64 = 3600;
const FIVE_MINUTES: u64 = 300;

impl Staple {
    pub fn new(
        plain: Arc<CertifiedKey>,
        asks: Option<(Responder, CertificateDer<'static>)>,
        believe: Believe,
        resolver: Option<(Arc<Resolver>, std::time::Duration)>,
    ) -> Self {
        Self {
            shown: ArcSwap::new(plain.clone()),
            plain,
            asks,
            believe,
            resolver,
            valid: AtomicU64::new(0),
            refresh: AtomicU64::new(0),
            asking: AtomicBool::new(false),
        }
    }

    /// The pair with its answer if that still holds; asks anew when it is time.
    fn show(self: &Arc<Self>) -> Arc<CertifiedKey> {
        let now = clock::seconds();
        if self.asks.is_some()
            && self.refresh.load(Ordering::Relaxed) < now
            && !self.asking.swap(true, Ordering::AcqRel)
        {
            let this = self.clone();
            tokio::task::spawn_local(async move {
                let again = this.renew().await;
                this.refresh.store(again, Ordering::Relaxed);
                this.asking.store(false, Ordering::Release);
            });
        }
        match self.valid.load(Ordering::Relaxed) >= now {
            true => self.shown.load_full(),
            false => self.plain.clone(),
        }
    }

    /// Asks, and says when to ask again.
    async fn renew(&self) -> u64 {
        let answer = self.ask().await;
        let now = clock::seconds();
        match answer {
            Ok(answer) if answer.status == Status::Good => {
                let mut pair = CertifiedKey::clone(&self.plain);
                pair.ocsp = Some(answer.bytes);
                self.shown.store(Arc::new(pair));
                self.valid.store(answer.valid, Ordering::Relaxed);
                answer.valid.saturating_sub(FIVE_MINUTES).min(now + HOUR).max(now + FIVE_MINUTES)
            }
            Ok(answer) => {
                let status = if answer.status == Status::Revoked { "revoked" } else { "unknown" };
                complain(format_args!("certificate status \"{status}\" in the OCSP response"));
                now + FIVE_MINUTES
            }
            Err(why) => {
                complain(format_args!("{why}"));
                now + FIVE_MINUTES
            }
        }
    }

    async fn ask(&self) -> Result<Answer, String> {
        let broken = || "the certificate cannot be read".to_owned();
        let (responder, issuer) = self.asks.as_ref().ok_or_else(broken)?;
        let own = self.plain.cert.first().ok_or_else(broken)?;
        let certificate = Certificate::parse(own).map_err(|_| broken())?;
        let issuer = Certificate::parse(issuer).map_err(|_| broken())?;
        let question = Question { certificate: &certificate, issuer: &issuer, believe: self.believe };
        let resolver = self.resolver.as_ref().map(|(resolver, timeout)| (&**resolver, *timeout));
        question.ask(responder, resolver).await
    }
}

fn complain(message: std::fmt::Arguments<'_>) {
    if let Some(error_log) = log::error::main() {
        let context = log::Context { action: "requesting certificate status", ..log::Context::default() };
        error_log.write(Level::Error, &context, message);
    }
}

/// A server's certificates, each with its answer.
#[derive(Debug)]
pub struct Stapled(pub Vec<Arc<Staple>>);

impl ResolvesServerCert for Stapled {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let signs = |scheme: &rustls::SignatureScheme| {
            self.0.iter().find(|staple| staple.plain.key.choose_scheme(&[*scheme]).is_some())
        };
        hello.signature_schemes().iter().find_map(signs).map(Staple::show)
    }
}
