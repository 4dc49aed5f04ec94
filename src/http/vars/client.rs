//! Who asks, over which connection.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::{decimal, port, push_seconds};
use crate::base::os::{self, TcpInfo};
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Lent, Row, Value};
use crate::http::request::Request;
use crate::log::Level;
use crate::net::accept::Peer;
use crate::wire::proxy_protocol::{BadTlv, Proxied, Tlv};

pub(super) fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("remote_addr", Row::lent(|r| Some(Lent::Shared(r.client()))))?;
    vars.define("binary_remote_addr", Row::once(binary_remote_addr))?;
    vars.define("remote_port", Row::lent(|r| Some(port(inet(r).map_or(0, |peer| peer.port())))))?;
    vars.define("server_addr", Row::lent(|r| r.connection.server_host().map(Lent::Shared)))?;
    vars.define("server_port", Row::lent(|r| Some(port(r.connection.server_address()?.port().unwrap_or(0)))))?;
    vars.define("scheme", Row::lent(|r| Some(Lent::Fixed(by_tls(r, b"https", b"http")))))?;
    vars.define("https", Row::lent(|r| Some(Lent::Fixed(by_tls(r, b"on", b"")))))?;
    connection(vars)?;
    proxy_protocol(vars)
}

fn connection(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    vars.define("connection", Row::once(|r: &Request| decimal(r.connection.slot.number())))?;
    vars.define("connection_requests", Row::once(|r: &Request| decimal(r.number)))?;
    vars.define(
        "connection_time",
        Row::each(|r: &Request| {
            let mut text = Vec::with_capacity(16);
            push_seconds(&mut text, r.connection.now().saturating_duration_since(r.connection.started));
            Some(text.into())
        }),
    )?;
    vars.define("pipe", Row::once(|r: &Request| Some(pipe(r))))?;
    type Fact = (&'static str, fn(TcpInfo) -> u32);
    let facts: [Fact; 4] = [
        ("tcpinfo_rtt", |info| info.rtt),
        ("tcpinfo_rttvar", |info| info.rttvar),
        ("tcpinfo_snd_cwnd", |info| info.snd_cwnd),
        ("tcpinfo_rcv_space", |info| info.rcv_space),
    ];
    for (name, fact) in facts {
        let row = Row::each(move |r: &Request| {
            let info = r.connection.io.socket().with(os::tcp_info).ok()??;
            decimal(u64::from(fact(info)))
        });
        vars.define(name, row)?;
    }
    Ok(())
}

fn proxy_protocol(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    let addr = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    vars.define("proxy_protocol_addr", Row::once(move |r: &Request| addr(&proxied(r)?.source.addr)))?;
    vars.define("proxy_protocol_port", Row::lent(|r| Some(port(proxied(r)?.source.port))))?;
    vars.define("proxy_protocol_server_addr", Row::once(move |r: &Request| addr(&proxied(r)?.destination.addr)))?;
    vars.define("proxy_protocol_server_port", Row::lent(|r| Some(port(proxied(r)?.destination.port))))?;
    vars.family("proxy_protocol_tlv_", |name| {
        let (tlv, name) = (Tlv::named(name), name.to_owned());
        Row::once(move |r: &Request| {
            let tlvs = &proxied(r)?.tlvs;
            match tlv.and_then(|tlv| tlv.find(tlvs)) {
                Ok(value) => value.map(Bytes::from),
                Err(bad @ (BadTlv::Invalid | BadTlv::Unknown)) => {
                    r.log(Level::Error, format_args!("{bad} \"{name}\""));
                    None
                }
                Err(bad @ BadTlv::Broken) => {
                    r.log(Level::Error, format_args!("{bad}"));
                    None
                }
            }
        })
    });
    Ok(())
}

/// What a PROXY protocol header says of the client.
fn proxied(request: &Request) -> Option<&Proxied> {
    request.connection.proxied.get()?.header.proxied.as_ref()
}

fn inet(request: &Request) -> Option<SocketAddr> {
    match *request.peer() {
        Peer::Inet(peer) => Some(peer),
        Peer::Unix(_) => None,
    }
}

/// The address as it is in memory, which makes a short key; a unix client as in `$remote_addr`.
fn binary_remote_addr(request: &Request) -> Value {
    Some(match inet(request).map(|peer| peer.ip()) {
        Some(IpAddr::V4(v4)) => Bytes::copy_from_slice(&v4.octets()),
        Some(IpAddr::V6(v6)) => Bytes::copy_from_slice(&v6.octets()),
        None => request.client().clone(),
    })
}

fn by_tls(request: &Request, secure: &'static [u8], plain: &'static [u8]) -> &'static [u8] {
    if request.connection.io.is_secure() { secure } else { plain }
}

fn pipe(request: &Request) -> Bytes {
    Bytes::from_static(if request.connection.pipelined.get() { b"p" } else { b"." })
}
