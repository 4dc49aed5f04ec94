//! `listen … proxy_protocol`: headers in any number of pieces, what variables say of them, and connections without one.

use std::time::Duration;

use crate::kit::Server;

const CONF: &str = "\
    server { listen %%ADDR_0%% proxy_protocol; \
    return 200 \"$proxy_protocol_addr|$proxy_protocol_port|$proxy_protocol_server_addr|$proxy_protocol_server_port|\
    $proxy_protocol_tlv_alpn|$proxy_protocol_tlv_0x02|$proxy_protocol_tlv_ssl_cn|$proxy_protocol_tlv_ssl_verify|\
    $remote_addr|$uri\"; } \
    server { listen %%ADDR_1%%; location / { return 200 ready; } }";

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Connections that say nothing, as those that look whether the server is there, are no part of this.
fn start() -> Server {
    Server::start(CONF)
}

/// Version 2, for a TCP connection over IPv4 from 192.0.2.1:123 to 192.0.2.2:5678, with these TLVs.
fn version_2(tlvs: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&(12 + tlvs.len() as u16).to_be_bytes());
    header.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 0, 123, 22, 46]);
    header.extend_from_slice(tlvs);
    header
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

#[test]
fn the_header_says_who_is_there() {
    let server = start();
    let cases: [(&[u8], &str); 4] = [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", "192.0.2.1|123|192.0.2.2|5678|||||127.0.0.1|/x"),
        (b"PROXY TCP6 2001:Db8::1 2001:Db8::2 123 0\r\n", "2001:Db8::1|123|2001:Db8::2||||||127.0.0.1|/x"),
        (b"PROXY UNKNOWN 1 2 3\r\n", "||||||||127.0.0.1|/x"),
        (&version_2(b""), "192.0.2.1|123|192.0.2.2|5678|||||127.0.0.1|/x"),
    ];
    for (header, expected) in cases {
        let mut client = server.client();
        client.send([header, GET.as_bytes()].concat());
        client.response().expect_status(200).expect_body(expected);
    }
}

#[test]
fn the_header_may_come_in_pieces_and_apart_from_the_request() {
    let server = start();
    let whole = version_2(&tlv(1, b"h2"));
    let mut client = server.client();
    for piece in whole.chunks(7) {
        client.send(piece);
        std::thread::yield_now();
    }
    client.send(&GET[..9]).send(&GET[9..]);
    client.response().expect_body("192.0.2.1|123|192.0.2.2|5678|h2||||127.0.0.1|/x");
}

#[test]
fn only_the_first_request_has_one() {
    let server = start();
    let mut client = server.client();
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n");
    for path in ["/1", "/2"] {
        let expected = format!("192.0.2.1|123|192.0.2.2|5678|||||127.0.0.1|{path}");
        client.get(path).response().expect_body(expected);
    }
}

#[test]
fn tlvs_have_names_and_numbers() {
    let server = start();
    let mut ssl = vec![1, 0, 0, 0, 7];
    ssl.extend_from_slice(&tlv(0x22, b"example.org"));
    let tlvs = [tlv(1, b"http/1.1"), tlv(2, b"host"), tlv(0x20, &ssl)].concat();
    let mut client = server.client();
    client.send([&version_2(&tlvs)[..], GET.as_bytes()].concat());
    client.response().expect_body("192.0.2.1|123|192.0.2.2|5678|http/1.1|host|example.org|7|127.0.0.1|/x");
}

#[test]
fn whatever_else_comes_ends_the_connection_and_is_logged() {
    let server = start();
    let cases: [(&[u8], &str); 4] = [
        (
            GET.as_bytes(),
            "broken header: \"GET /x HTTP/1.1\" while reading PROXY protocol, client: 127.0.0.1, server: ",
        ),
        (b"PROXY TCP4 192.0.2.1 x\r\n", "broken header: \"PROXY TCP4 192.0.2.1 x\" while reading PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", "unknown PROXY protocol version: 3 while reading PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "header is too large while reading PROXY protocol"),
    ];
    for (bytes, line) in cases {
        let mut client = server.client();
        client.send(bytes);
        client.expect_closed();
        server.wait_for_log(line);
    }
}

#[test]
fn a_header_that_does_not_come_has_the_time_of_a_request_head() {
    let server = Server::start(&format!("client_header_timeout 300ms; {CONF}"));
    let mut client = server.client();
    client.send("PROXY TCP4");
    client.expect_closed();
    server.wait_for_log("client timed out (110: Connection timed out) while reading PROXY protocol, client: 127.0.0.1");
    let mut client = server.client();
    client.send("PROXY UNKNOWN\r\n");
    client.expect_closed();
    server.wait_for_log("client timed out (110: Connection timed out) while waiting for request, client: 127.0.0.1");
    assert!(client.try_response(Duration::from_millis(1)).is_err());
}
