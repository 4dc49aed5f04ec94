//! `$ssl_…`: what TLS says of a client's connection. Without TLS none of them is there.

use bytes::Bytes;
use rustls::Connection as Conn;
use rustls::pki_types::CertificateDer;

use crate::base::clock;
use crate::conf::error::Fault;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::request::Request;
use crate::http::tls::{self, Told};
use crate::net::tls::cipher;
use crate::wire::uri::{Escape, escape};
use crate::wire::x509::{self, Certificate};
use crate::wire::{der, pem};

type Get = fn(&Request) -> Value;

pub fn define(vars: &mut Definitions<Request>) -> Result<(), Fault> {
    const ALL: [(&str, Get); 26] = [
        ("ssl_protocol", |r| conn(r, |conn| Some(cipher::version_name(conn.protocol_version()?).into()))),
        ("ssl_cipher", |r| conn(r, |conn| Some(cipher::suite_name(conn.negotiated_cipher_suite()?.suite()).into()))),
        ("ssl_ciphers", |r| offered(r, |told| &told.suites, |id| cipher::suite_name(id.into()))),
        ("ssl_curve", |r| {
            conn(r, |conn| Some(cipher::curve_name(conn.negotiated_key_exchange_group()?.name()).into()))
        }),
        ("ssl_curves", |r| offered(r, |told| &told.groups, |id| cipher::curve_name(id.into()))),
        ("ssl_session_id", |r| Some(hex(told(r)?.session_id.get()?).into())),
        ("ssl_session_reused", |r| {
            let reused = tls::is_reused(&r.connection);
            secure(r).then(|| Bytes::from_static(if reused { b"r" } else { b"." }))
        }),
        ("ssl_server_name", |r| told(r)?.asked_name.clone()),
        ("ssl_alpn_protocol", |r| conn(r, |conn| Some(conn.alpn_protocol()?.to_vec().into()))),
        ("ssl_client_raw_cert", |r| peer(r, |der| Some(raw(der).into()))),
        ("ssl_client_cert", |r| peer(r, |der| Some(raw(der).trim_end().replace('\n', "\n\t").into()))),
        ("ssl_client_escaped_cert", |r| {
            peer(r, |der| Some(escape(Escape::UriComponent, raw(der).as_bytes()).into_owned().into()))
        }),
        ("ssl_client_s_dn", |r| certificate(r, |it| x509::rfc2253(it.subject).into())),
        ("ssl_client_i_dn", |r| certificate(r, |it| x509::rfc2253(it.issuer).into())),
        ("ssl_client_s_dn_legacy", |r| certificate(r, |it| x509::oneline(it.subject).into())),
        ("ssl_client_i_dn_legacy", |r| certificate(r, |it| x509::oneline(it.issuer).into())),
        ("ssl_client_serial", |r| certificate(r, |it| serial(it.serial).into())),
        ("ssl_client_fingerprint", |r| {
            let digest =
                |der: &CertificateDer<'_>| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
            peer(r, |der| Some(hex(digest(der).as_ref()).into()))
        }),
        ("ssl_client_v_start", |r| certificate(r, |it| time(it.not_before).into())),
        ("ssl_client_v_end", |r| certificate(r, |it| time(it.not_after).into())),
        ("ssl_client_v_remain", |r| certificate(r, |it| remain(it.not_after).into())),
        ("ssl_sigalg", |r| Some(cipher::scheme_name((*told(r)?.signed.as_ref()?.get()?).into()).into())),
        ("ssl_sigalgs", |r| offered(r, |told| &told.schemes, cipher::scheme_name)),
        ("ssl_client_sigalg", |r| Some(cipher::scheme_name(told(r)?.client_signed.get()?.into()).into())),
        // nginx without OpenSSL's ECH: nothing
        ("ssl_ech_status", |_| None),
        ("ssl_ech_outer_server_name", |_| None),
    ];
    for (name, get) in ALL {
        vars.define(name, Row::once(get).changeable())?;
    }
    vars.define("ssl_client_verify", Row::once(client_verify).changeable())?;
    vars.define("ssl_early_data", Row::each(early_data).changeable())
}

fn secure(request: &Request) -> bool {
    request.connection.io.is_secure()
}

fn told(request: &Request) -> Option<&Told> {
    request.connection.told.get().map(|told| &**told)
}

fn conn(request: &Request, get: impl FnOnce(&Conn) -> Value) -> Value {
    request.connection.io.session(|session| get(session.conn()))?.filter(|value| !value.is_empty())
}

fn offered(request: &Request, list: fn(&Told) -> &Vec<u16>, name: fn(u16) -> String) -> Value {
    // GREASE (RFC 8701) is no offer.
    let real = |id: &&u16| *id & 0x0f0f != 0x0a0a;
    let all: Vec<_> = list(told(request)?).iter().filter(real).map(|id| name(*id)).collect();
    Some(all.join(":").into()).filter(|value: &Bytes| !value.is_empty())
}

/// Something about the client's own certificate; nothing without one.
fn peer(request: &Request, get: impl FnOnce(&CertificateDer<'_>) -> Value) -> Value {
    conn(request, |conn| get(conn.peer_certificates()?.first()?))
}

fn certificate(request: &Request, get: impl FnOnce(&Certificate<'_>) -> Bytes) -> Value {
    peer(request, |der| Some(get(&Certificate::parse(der).ok()?)))
}

fn raw(der: &CertificateDer<'_>) -> String {
    pem::encode("CERTIFICATE", der)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// OpenSSL: capital letters, a minus for a negative number.
fn serial(content: &[u8]) -> String {
    let negative = content.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut bytes = content.to_vec();
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, over);
        }
    }
    let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    let digits: String = bytes[start..].iter().map(|byte| format!("{byte:02X}")).collect();
    let digits = if digits.is_empty() { "00".to_owned() } else { digits };
    if negative { format!("-{digits}") } else { digits }
}

fn client_verify(request: &Request) -> Value {
    if !secure(request) {
        return None;
    }
    Some(match tls::verdict(&request.connection) {
        None => Bytes::from_static(b"NONE"),
        Some(Ok(())) => match tls::status(&request.connection) {
            Some(Err(why)) => format!("FAILED:{why}").into(),
            Some(Ok(())) | None => Bytes::from_static(b"SUCCESS"),
        },
        Some(Err(why)) => format!("FAILED:{}", why.text).into(),
    })
}

/// nginx: the request came before the handshake was complete, so it may be a copy.
fn early_data(request: &Request) -> Value {
    conn(request, |conn| conn.is_handshaking().then(|| Bytes::from_static(b"1")))
}

/// `Nov 25 20:09:19 2026 GMT`
fn time(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = der::date(days);
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = usize::try_from(month - 1).ok().and_then(|n| MONTHS.get(n)).unwrap_or(&"");
    format!("{name} {day:2} {:02}:{:02}:{:02} {year} GMT", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// Whole days that are left.
fn remain(end: i64) -> String {
    let now = i64::try_from(clock::seconds()).unwrap_or(i64::MAX);
    (end.saturating_sub(now) / 86_400).max(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_as_openssl_prints_them() {
        for (content, expected) in
            [(&[1, 0x23][..], "0123"), (&[0, 0xff], "FF"), (&[0], "00"), (&[0xff], "-01"), (&[0xff, 0x7f], "-81")]
        {
            assert_eq!(serial(content), expected, "{content:?}");
        }
        assert_eq!(time(1_704_164_645), "Jan  2 03:04:05 2024 GMT");
        assert_eq!(time(0), "Jan  1 00:00:00 1970 GMT");
    }
}
