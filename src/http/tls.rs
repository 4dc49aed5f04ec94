//! TLS of a client's connection: the handshake, and what it decides for the requests that follow.
//!
//! In: a connection to an address that has `ssl`. Out: a session in its [`Io`](crate::net::io::Io), made by the settings of the
//! server that the client named. Whoever speaks plain HTTP there is let in, and told so by [`check`], which every
//! request of such an address passes.

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SignatureScheme};

use super::connection::Connection;
use super::h2;
use super::request::{Begun, Request, RequestHead};
use crate::base::clock;
use crate::base::text::errno;
use crate::log::Level;
use crate::net::resolver::Resolver;
use crate::net::timer::Timer;
use crate::net::tls::ocsp::{Believe, Known, Question, Responder};
use crate::net::tls::server::Pairs;
use crate::net::tls::signature::{self, Note};
use crate::net::tls::verify::{Invalid, Purpose, Trust};
use crate::net::tls::{Session, error};
use crate::wire::ocsp::Status;

/// What a server offers to clients that come by TLS.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// `None`: no certificate is named here.
    pub config: Option<Arc<ServerConfig>>,
    /// The same, where HTTP/2 is spoken too.
    pub with_http2: Option<Arc<ServerConfig>>,
    /// `ssl_reject_handshake`
    pub reject: bool,
    pub verify: Verify,
    pub trust: Arc<Trust>,
    /// Certificates are chosen in the handshake.
    pub dynamic: Option<Arc<dyn Choose>>,
    pub ocsp: Option<Arc<ClientOcsp>>,
}

/// `ssl_ocsp`: somebody is asked whether clients' certificates are revoked.
#[derive(Debug)]
pub struct ClientOcsp {
    /// About the client's own only.
    pub leaf_only: bool,
    /// `None`: whom the certificate names.
    pub responder: Option<Responder>,
    pub known: Option<Arc<Known>>,
}

/// Chooses certificates by what is known of a client in its handshake.
pub trait Choose: std::fmt::Debug + Send + Sync {
    /// The error is a whole sentence. The request is one only in name: nothing of it has come yet.
    fn certificates(&self, request: &Request) -> Result<Vec<Arc<CertifiedKey>>, String>;
}

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    #[default]
    Off,
    On,
    Optional,
    /// Whoever signed it.
    OptionalNoCa,
}

/// What the handshake said of the client.
#[derive(Debug, Default)]
pub struct Told {
    /// The name that the client asked for.
    pub asked_name: Option<Bytes>,
    /// The same, if it has chosen the server.
    pub server_name: Option<Bytes>,
    /// The ciphers, curves and signatures that the client offered, where a variable asks for them.
    pub suites: Vec<u16>,
    pub groups: Vec<u16>,
    pub schemes: Vec<u16>,
    /// What this side signed the handshake with, and the client, where a variable asks for it.
    pub signed: Option<Note>,
    pub client_signed: Cell<Option<SignatureScheme>>,
    /// Ours: TLS has none that would be the same on both sides.
    pub session_id: OnceCell<Box<[u8]>>,
    verdict: OnceCell<Result<(), Invalid>>,
    /// What a responder said of the certificate that was found good.
    status: OnceCell<Result<(), &'static str>>,
}

/// nginx's name for that.
const HANDSHAKING: &str = "SSL handshaking";

/// Makes the handshake. `false`: the connection ends. The timer is that of the first request.
pub async fn accept(connection: &Rc<Connection>, timer: &mut Timer) -> bool {
    match hello(connection, timer).await {
        Start::Session(session) => {
            connection.io.secure(session);
            finish(connection, timer).await
        }
        Start::Plain => true,
        Start::Over => false,
    }
}

enum Start {
    Session(Session),
    /// The first byte begins no handshake.
    Plain,
    Over,
}

/// Reads up to the end of the client's first message, which names the server, and chooses by it.
async fn hello(connection: &Rc<Connection>, timer: &mut Timer) -> Start {
    let mut input = connection.input.take(); // what came behind a PROXY protocol header
    let mut acceptor = Acceptor::default();
    let mut begun = false;
    loop {
        if input.is_empty() && !fill(connection, &mut input, begun, timer).await {
            return Start::Over;
        }
        // SSL 2 or a record of a handshake.
        if !begun && input.first().is_some_and(|&byte| byte & 0x80 == 0 && byte != 0x16) {
            connection.input.replace(input);
            return Start::Plain;
        }
        begun = true;
        while !input.is_empty() {
            let mut rest = &input[..];
            if acceptor.read_tls(&mut rest).is_err() {
                return Start::Over;
            }
            let left = rest.len();
            let _ = input.split_to(input.len() - left);
            match acceptor.accept() {
                Ok(Some(accepted)) => return choose(connection, accepted, &input),
                Ok(None) => {}
                Err((why, alert)) => return refuse(connection, &why, alert),
            }
        }
        if input.capacity() == 0 {
            input = BytesMut::with_capacity(READ);
        }
    }
}

const READ: usize = 4 * 1024;

/// Waits for bytes.
async fn fill(connection: &Connection, input: &mut BytesMut, begun: bool, timer: &mut Timer) -> bool {
    let timeout = connection.default_server().settings.client_header_timeout;
    let mut displaced = std::pin::pin!(connection.slot.displaced());
    let read = poll_fn(|cx| {
        if connection.io.poll_readable(cx).is_ready() {
            input.reserve(READ);
            if let Poll::Ready(read) = connection.io.poll_read(cx, input) {
                return Poll::Ready(Some(read));
            }
            *input = BytesMut::new();
        }
        if !begun && displaced.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        ready!(timer.poll(cx, timeout));
        timed_out(connection);
        Poll::Ready(None)
    });
    match read.await {
        Some(Ok(1..)) => true,
        Some(Ok(0)) => {
            let sentence = if begun { "peer closed connection in SSL handshake" } else { "client closed connection" };
            connection.log(Level::Info, HANDSHAKING, format_args!("{sentence}"));
            false
        }
        Some(Err(why)) => {
            connection.log(Level::Info, HANDSHAKING, format_args!("recv() failed {}", errno(&why)));
            false
        }
        None => false,
    }
}

/// Begins a session with the settings of the server that the client asks for.
fn choose(connection: &Rc<Connection>, accepted: rustls::server::Accepted, rest: &[u8]) -> Start {
    let http = &connection.http;
    let mut told = Told::default();
    {
        let hello = accepted.client_hello();
        let named = hello.server_name().map(|name| Bytes::copy_from_slice(name.to_ascii_lowercase().as_bytes()));
        told.asked_name.clone_from(&named);
        if let Some(name) = named
            && let Some(chosen) = connection.address().names.find(&name)
        {
            connection.server.set(chosen.id());
            told.server_name = Some(name);
        }
        if http.hello_is_asked_for {
            told.suites = hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect();
            told.groups = hello.named_groups().unwrap_or_default().iter().map(|group| u16::from(*group)).collect();
            told.schemes = hello.signature_schemes().iter().map(|scheme| u16::from(*scheme)).collect();
        }
        told.signed = http.signature_is_asked_for.then(Note::default);
    }
    let default = &http.server(connection.address().names.default).tls;
    let offer = &http.server(connection.server.get()).tls;
    let source = if offer.config.is_some() { offer } else { default };
    let config = if h2::is_offered(connection) { &source.with_http2 } else { &source.config };
    let Some(config) = config.as_ref().filter(|_| !offer.reject) else {
        const CALLBACK: &str = "(SSL: error:0A0000EA:SSL routines::callback failed)";
        connection.log(Level::Info, HANDSHAKING, format_args!("SSL_do_handshake() failed {CALLBACK}"));
        connection.io.send_now(&UNRECOGNIZED_NAME);
        return Start::Over;
    };
    let told = connection.told.get_or_init(|| Box::new(told)); // there is one handshake
    let config = match &source.dynamic {
        None => config.clone(),
        Some(dynamic) => match with_certificates(connection, config, dynamic.as_ref()) {
            Some(config) => config,
            None => return Start::Over,
        },
    };
    let config = match &told.signed {
        None => config,
        Some(note) => Arc::new(signature::noting(&config, note)),
    };
    let mut conn = match accepted.into_connection(config) {
        Ok(conn) => conn,
        Err((why, alert)) => return refuse(connection, &why, alert),
    };
    let _ = told.session_id.set(session_id(&mut conn));
    let mut session = Session::new(conn);
    match session.begin(rest) {
        Ok(()) => Start::Session(session),
        Err(why) => {
            failed(connection, &why);
            session.flush_now(connection.io.socket());
            Start::Over
        }
    }
}

/// A fatal alert of that description.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Gives a new session a number; one that is taken up again keeps its own.
fn session_id(conn: &mut ServerConnection) -> Box<[u8]> {
    let id: Box<[u8]> = match conn.received_resumption_data() {
        Some(id) => id.into(),
        None => {
            let mut id = [0; 32];
            let _ = aws_lc_rs::rand::fill(&mut id); // nobody relies on it being a secret
            id.into()
        }
    };
    conn.set_resumption_data(&id); // also for the ticket that a session taken up again gives
    id
}

/// The same settings with certificates of this handshake.
fn with_certificates(
    connection: &Rc<Connection>,
    config: &Arc<ServerConfig>,
    dynamic: &dyn Choose,
) -> Option<Arc<ServerConfig>> {
    let head = Rc::new(RequestHead::empty());
    let server = connection.server.get();
    let request = Request::new(connection.clone(), head, Begun { server, ..Begun::default() });
    match dynamic.certificates(&request) {
        Ok(pairs) => {
            let mut config = ServerConfig::clone(config);
            config.cert_resolver = Arc::new(Pairs(pairs));
            Some(Arc::new(config))
        }
        Err(why) => {
            connection.log(Level::Error, HANDSHAKING, format_args!("{why}"));
            const CALLBACK: &str = "(SSL: error:0A000179:SSL routines::cert cb error)";
            connection.log(Level::Info, HANDSHAKING, format_args!("SSL_do_handshake() failed {CALLBACK}"));
            connection.io.send_now(&INTERNAL_ERROR);
            None
        }
    }
}

/// Makes the rest of the handshake.
async fn finish(connection: &Connection, timer: &mut Timer) -> bool {
    let timeout = connection.default_server().settings.client_header_timeout;
    let done = poll_fn(|cx| {
        signature::forget_client();
        let polled = connection.io.poll_handshake(cx);
        if let (Some(told), Some(scheme)) = (connection.told.get(), signature::client()) {
            told.client_signed.set(Some(scheme));
        }
        match polled {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => {
                ready!(timer.poll(cx, timeout));
                Poll::Ready(None)
            }
        }
    });
    match done.await {
        Some(Ok(())) => {
            if connection.http.server(connection.server.get()).tls.ocsp.is_some() {
                Box::pin(ask(connection)).await;
            }
            true
        }
        Some(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => {
            connection.log(Level::Info, HANDSHAKING, format_args!("peer closed connection in SSL handshake"));
            false
        }
        Some(Err(why)) => {
            failed(connection, &why);
            false
        }
        None => {
            timed_out(connection);
            connection.io.abandon_session();
            false
        }
    }
}

/// Asks whether the client's certificate is revoked, if it is good in all else.
async fn ask(connection: &Connection) {
    let server = connection.http.server(connection.server.get());
    let (Some(ocsp), Some(told), Some(Ok(()))) = (&server.tls.ocsp, connection.told.get(), verdict(connection)) else {
        return;
    };
    let chain = connection.io.session(|session| session.conn().peer_certificates().map(<[_]>::to_vec));
    let chain: Vec<CertificateDer<'_>> = chain.flatten().unwrap_or_default();
    let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
    let path = server.tls.trust.path(&chain, now);
    let core = &connection.http.location(server.root).plan.core;
    let resolver = core.resolver.as_deref().map(|resolver| (resolver, core.resolver_timeout));
    let mut status = Ok(());
    for pair in path.windows(2).take(if ocsp.leaf_only { 1 } else { usize::MAX }) {
        let [certificate, issuer] = pair else { break };
        let question = Question { certificate, issuer, believe: Believe::Issuer };
        status = match one(ocsp, &question, resolver).await {
            Ok(Status::Good) => continue,
            Ok(Status::Revoked) => Err("certificate revoked"),
            Ok(Status::Unknown) => Err("certificate status unknown"),
            Err(why) => {
                connection.log(Level::Error, "requesting certificate status", format_args!("{why}"));
                Err("certificate status request failed")
            }
        };
        break;
    }
    let _ = told.status.set(status); // it is asked once
}

async fn one(
    ocsp: &ClientOcsp,
    question: &Question<'_>,
    resolver: Option<(&Resolver, Duration)>,
) -> Result<Status, String> {
    let id = question.id();
    if let Some(status) = ocsp.known.as_ref().and_then(|known| known.get(&id)) {
        return Ok(status);
    }
    let own;
    let responder = match &ocsp.responder {
        Some(responder) => responder,
        None => {
            let url = question.certificate.extensions.ocsp.ok_or("no OCSP responder URL in certificate")?;
            let read = Responder::read(&String::from_utf8_lossy(url), false);
            own = read.map_err(|why| format!("{why} in certificate"))?;
            &own
        }
    };
    let answer = question.ask(responder, resolver).await?;
    if let Some(known) = &ocsp.known {
        known.keep(id, &answer);
    }
    Ok(answer.status)
}

fn timed_out(connection: &Connection) {
    connection.log(Level::Info, HANDSHAKING, format_args!("client timed out (110: Connection timed out)"));
}

fn refuse(connection: &Connection, why: &rustls::Error, mut alert: rustls::server::AcceptedAlert) -> Start {
    log(connection, why);
    let mut bytes = Vec::new();
    if alert.write_all(&mut bytes).is_ok() {
        connection.io.send_now(&bytes);
    }
    Start::Over
}

fn failed(connection: &Connection, why: &io::Error) {
    match error::of(why) {
        Some(why) => log(connection, why),
        None => connection.log(Level::Info, HANDSHAKING, format_args!("SSL_do_handshake() failed {}", errno(why))),
    }
}

fn log(connection: &Connection, why: &rustls::Error) {
    let cause = error::cause(why);
    let level = if cause.peers { Level::Info } else { Level::Crit };
    connection.log(level, HANDSHAKING, format_args!("SSL_do_handshake() failed {}", cause.text));
}

/// Whether a request may go on; else the status that it is refused with.
pub fn check(request: &Request) -> Option<u16> {
    let connection = &request.connection;
    if !connection.address().ssl {
        return None;
    }
    let info = |message: std::fmt::Arguments<'_>| {
        request.log(Level::Info, format_args!("{message} while reading client request headers"));
    };
    if !connection.io.is_secure() {
        info(format_args!("client sent plain HTTP request to HTTPS port"));
        return Some(497);
    }
    let offer = &request.server().tls;
    if offer.verify == Verify::Off {
        return None;
    }
    let told = connection.told.get();
    if let Some(name) = told.and_then(|told| told.server_name.as_ref())
        && request.head.host.as_ref() != Some(name)
    {
        info(format_args!("client attempted to request the server name different from the one that was negotiated"));
        return Some(421);
    }
    let verdict = verdict(connection);
    if let Some(Err(why)) = verdict
        && (offer.verify != Verify::OptionalNoCa || !why.is_optional())
    {
        info(format_args!("client SSL certificate verify error: ({}:{})", why.code, why.text));
        return Some(495);
    }
    if let Some(Err(why)) = status(connection) {
        info(format_args!("client SSL certificate verify error: {why}"));
        return Some(495);
    }
    if verdict.is_none() && offer.verify == Verify::On {
        info(format_args!("client sent no required SSL certificate"));
        return Some(496);
    }
    None
}

/// Whether the client's certificate is good, by the server that the handshake was made with; `None` without one. It is
/// looked into when it is first asked for.
pub fn verdict(connection: &Connection) -> Option<Result<(), Invalid>> {
    let told = connection.told.get()?;
    let offer = &connection.http.server(connection.server.get()).tls;
    connection.io.session(|session| {
        let chain = session.conn().peer_certificates()?;
        let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
        Some(*told.verdict.get_or_init(|| offer.trust.verify(chain, Purpose::Client, now)))
    })?
}

/// What a responder said of the client's certificate, where one was asked.
pub fn status(connection: &Connection) -> Option<Result<(), &'static str>> {
    connection.told.get()?.status.get().copied()
}

/// Whether the session is one that was taken up again.
pub fn is_reused(connection: &Rc<Connection>) -> bool {
    connection.io.session(|session| session.conn().handshake_kind() == Some(HandshakeKind::Resumed)) == Some(true)
}
