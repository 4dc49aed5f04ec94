//! A client's connection, as all its requests see it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::activity::Activity;
use super::build::ListenAddress;
use super::h1::{self, send::Output};
use super::plan::{Http, Server, ServerId};
use super::tls::Told;
use crate::base::addr::Address;
use crate::base::{clock, text};
use crate::net::accept::Peer;
use crate::net::crowd::Slot;
use crate::net::io::Io;
use crate::net::rest::{Pause, SHORT};

/// See the module's head.
pub struct Connection {
    /// The generation that the connection belongs to, to its end.
    pub http: Arc<Http>,
    /// The number of the listening socket in [`Http::listens`].
    pub listen: usize,
    pub io: Io,
    pub slot: Slot,
    /// Who is there, as the socket says.
    pub peer: Peer,
    pub started: Instant,
    pub activity: Activity,
    /// When the first byte of the request at hand was seen.
    pub begun: Cell<Instant>,
    /// What was read and not yet used.
    pub input: RefCell<BytesMut>,
    /// What waits to be written: answers to pipelined requests leave together.
    pub output: RefCell<Output>,
    /// How many requests have begun.
    pub requests: Cell<u64>,
    /// The request at hand came together with the one before.
    pub pipelined: Cell<bool>,
    /// What the PROXY protocol said, where it is spoken.
    pub proxied: OnceCell<Box<Proxied>>,
    /// How long the connection may wait for its next request: `keepalive_timeout` of the last one's location.
    pub idle_timeout: Cell<Duration>,
    /// The server that is asked while no host is known: the address's default, or the one that TLS named.
    pub server: Cell<ServerId>,
    /// What the TLS handshake said.
    pub told: OnceCell<Box<Told>>,
    client: OnceCell<Bytes>,
    local: OnceCell<Option<SocketAddr>>,
    server_host: OnceCell<Option<Bytes>>,
    address: Cell<usize>,
}

/// The addresses that a PROXY protocol header names.
#[derive(Clone, Debug)]
pub struct Proxied {
    pub header: crate::wire::proxy_protocol::Header,
}

impl Connection {
    pub fn new(http: Arc<Http>, listen: usize, io: Io, slot: Slot, peer: Peer) -> Self {
        let this = Self {
            http,
            listen,
            io,
            slot,
            peer,
            started: clock::now(),
            activity: Activity::begin(),
            begun: Cell::new(clock::now()),
            input: RefCell::default(),
            output: RefCell::default(),
            requests: Cell::new(0),
            pipelined: Cell::new(false),
            proxied: OnceCell::new(),
            idle_timeout: Cell::new(Duration::ZERO),
            server: Cell::default(),
            told: OnceCell::new(),
            client: OnceCell::new(),
            local: OnceCell::new(),
            server_host: OnceCell::new(),
            address: Cell::new(0),
        };
        let address = this.http.listens[listen].choose(|| this.local().map(|local| local.ip()));
        this.address.set(address);
        this.server.set(this.address().names.default);
        this
    }

    /// Lets everything go that an idle connection can do without, and waits in rest for its next request.
    /// Whoever cannot rest comes back as the error.
    pub fn rest(self: Rc<Self>, pause: Pause) -> Result<(), Rc<Self>> {
        if !self.can_rest() {
            return Err(self);
        }
        let Self {
            http,
            listen,
            io,
            slot,
            peer,
            started,
            activity,
            requests,
            proxied,
            idle_timeout,
            server,
            told,
            address,
            ..
        } = Rc::try_unwrap(self)?;
        let go_on = move |socket: OwnedFd, slot, pause| {
            let this = Self {
                http,
                listen,
                io: Io::new(socket),
                slot,
                peer,
                started,
                activity,
                begun: Cell::new(clock::now()),
                input: RefCell::default(),
                output: RefCell::default(),
                requests,
                pipelined: Cell::new(false),
                proxied,
                idle_timeout,
                server,
                told,
                client: OnceCell::new(),
                local: OnceCell::new(),
                server_host: OnceCell::new(),
                address,
            };
            Box::pin(h1::serve(Rc::new(this), pause >= SHORT)) as Pin<Box<dyn Future<Output = ()>>>
        };
        slot.rest(io.leave(), pause, Box::new(go_on));
        Ok(())
    }

    /// Whether nobody else holds it, and all that it is worth can be kept in a few words: a session of TLS cannot.
    pub fn can_rest(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1 && !self.io.is_secure() && self.requests.get() > 0
    }

    /// The connection's own address; asked of the kernel once, and only when somebody wants it.
    pub fn local(&self) -> Option<SocketAddr> {
        *self.local.get_or_init(|| self.io.socket().local_addr())
    }

    /// Where the client has connected to: `$server_addr` and `$server_port`.
    pub fn server_address(&self) -> Option<Address> {
        match &self.address().address {
            Address::Inet(_) => self.local().map(Address::Inet),
            unix @ Address::Unix(_) => Some(unix.clone()),
        }
    }

    /// The same without its port, as text: `$server_addr`.
    pub fn server_host(&self) -> Option<&Bytes> {
        let host = || Some(text::bytes(&self.server_address()?.host()).into());
        self.server_host.get_or_init(host).as_ref()
    }

    /// The server that is asked while no host is known.
    pub fn default_server(&self) -> &Server {
        self.http.server(self.server.get())
    }

    /// The servers of the address that the client connected to.
    pub fn address(&self) -> &ListenAddress {
        &self.http.listens[self.listen].addresses[self.address.get()]
    }

    /// The client's address as text: `$remote_addr`, and `client:` in the error log.
    pub fn client(&self) -> &Bytes {
        self.client.get_or_init(|| match &self.peer {
            Peer::Inet(address) => Address::Inet(*address).host().into(),
            Peer::Unix(path) => text::bytes(&Address::Unix(path.clone()).host()).into(),
        })
    }

    pub fn now(&self) -> Instant {
        clock::now()
    }
}
