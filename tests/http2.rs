//! HTTP/2 from clients: what requests mean, what answers look like, how a connection lives and ends.

use std::process::Command;

use rustls::ClientConfig;

use crate::kit::http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, SETTINGS, WINDOW_UPDATE, base, block, frame,
};
use crate::kit::websocket::Echo;
use crate::kit::{Pair, Server, Setup, TlsClient, Upstream, need};

const LOG: &str = "log_format two '$request|$status|$body_bytes_sent|$request_length|$http2|$server_protocol|\
                   $connection_requests|$request_completion'; access_log logs/two.log two; ";

fn start(server: &str) -> Server {
    Setup::new()
        .file("html/a.txt", "a file\n")
        .start(&format!("{LOG} server {{ listen %%ADDR_0%%; http2 on; {server} }}"))
}

fn proxied(upstream: &Upstream, more: &str) -> Server {
    Setup::new().set("UPSTREAM", upstream.address()).start(&format!(
        "{LOG} server {{ listen %%ADDR_0%%; http2 on; location / {{ proxy_pass http://%%UPSTREAM%%; {more} }} }}"
    ))
}

/// A request with these fields beside the usual ones, without its end.
fn post(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = base(path).to_vec();
    fields[0].1 = "POST";
    fields.extend(more);
    block(&fields)
}

#[test]
fn a_file_and_its_line_in_the_log() {
    let server = start("");
    let mut client = Http2::connect(&server.address(0));
    let answer = client.get(1, "/a.txt").answer(1).expect_status("200").expect_body("a file\n");
    let names: Vec<&str> = answer.fields.iter().map(|field| field.0.as_str()).collect();
    let order =
        [":status", "server", "date", "content-type", "content-length", "last-modified", "etag", "accept-ranges"];
    assert_eq!(names, order);
    client.get(3, "/none").answer(3).expect_status("404");
    let line = server.wait_for_line("two.log", "/a.txt");
    assert_eq!(line, "GET /a.txt HTTP/2.0|200|7|63|h2c|HTTP/2.0|1|OK");
    let line = server.wait_for_line("two.log", "/none");
    assert!(line.starts_with("GET /none HTTP/2.0|404|"), "{line}");
    assert!(line.ends_with("|HTTP/2.0|2|OK"), "{line}");
}

#[test]
fn http1_and_http2_on_one_port() {
    let server = start("");
    server.client().get("/a.txt").response().expect_status(200).expect_body("a file\n");
    Http2::connect(&server.address(0)).get(1, "/a.txt").answer(1).expect_body("a file\n");
    let line = server.wait_for_line("two.log", "HTTP/1.1");
    assert!(line.contains("||HTTP/1.1|"), "{line}");
    // The preface in pieces, and then something else that begins like it.
    let mut slow = Http2::raw(&server.address(0));
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        slow.send([*byte]);
    }
    slow.send(frame(SETTINGS, 0, 0, &[])).get(1, "/a.txt").answer(1).expect_body("a file\n");
    server.client().send("PRINT /a.txt HTTP/1.1\r\nHost: a\r\n\r\n").response().expect_status(405);
}

#[test]
fn without_the_directive_it_is_not_spoken() {
    let server = Setup::new().start("server { listen %%ADDR_0%%; }");
    let answer = server.client().send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").response();
    assert!(answer.status >= 400, "{}", answer.status);
}

#[test]
fn a_proxied_answer_and_its_request() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "");
    let mut client = Http2::connect(&server.address(0));
    let mut fields = base("/x?y=1").to_vec();
    fields.extend([("x-a", "1"), ("cookie", "a=b"), ("cookie", "c=d"), ("x-b", "2"), ("te", "trailers")]);
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields)));
    let mut asked = upstream.expect("GET /x?y=1 HTTP/1.1");
    let head = asked.asked.head.clone();
    assert!(head.contains("\r\nx-a: 1\r\nx-b: 2\r\ncookie: a=b; c=d\r\n"), "{head}");
    asked.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: 1\r\nConnection: close\r\n\r\nok");
    let answer = client.answer(1).expect_status("200").expect_body("ok");
    assert_eq!((answer.field("x-one"), answer.field("connection")), (Some("1"), None));
}

#[test]
fn a_body_is_buffered_and_goes_on_as_one() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "");
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(HEADERS, END_HEADERS, 1, &post("/up", &[])));
    client.send(frame(DATA, 0, 1, b"ab")).settle().send(frame(DATA, END_STREAM, 1, b"cde"));
    let mut asked = upstream.expect("POST /up");
    asked.expect_field("Content-Length", "5").expect_body("abcde").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.answer(1).expect_status("204");
}

#[test]
fn a_body_is_streamed_as_it_comes() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, STREAMED);
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(HEADERS, END_HEADERS, 1, &post("/up", &[]))).send(frame(DATA, 0, 1, b"ab"));
    let mut asked = upstream.accept();
    asked.expect_head("POST /up").expect_field("Transfer-Encoding", "chunked").expect_bytes("2\r\nab\r\n");
    client.send(frame(DATA, END_STREAM, 1, b"cde"));
    asked.expect_bytes("3\r\ncde\r\n0\r\n\r\n").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.answer(1).expect_status("204");
}

#[test]
fn fields_behind_a_body_go_on() {
    let end = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-sum", "1"), ("host", "evil"), ("x-set", "2")]));
    for more in ["", STREAMED] {
        let upstream = Upstream::start();
        let server = proxied(&upstream, &format!("{more} proxy_set_header X-Set ours;"));
        let mut client = Http2::connect(&server.address(0));
        client.send(frame(HEADERS, END_HEADERS, 1, &post("/up", &[]))).send(frame(DATA, 0, 1, b"ab"));
        client.settle().send(&end);
        let mut asked = upstream.accept();
        asked.expect_head("POST /up").expect_field("Transfer-Encoding", "chunked").expect_field("X-Set", "ours");
        asked.expect_bytes("2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n").reply("HTTP/1.1 204 No Content\r\n\r\n");
        client.answer(1).expect_status("204");
    }
}

#[test]
fn fields_behind_an_answer_come_through() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "proxy_http_version 1.1; proxy_pass_trailers on;");
    let mut client = Http2::connect(&server.address(0));
    client.get(1, "/");
    upstream
        .expect("GET /")
        .reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n");
    let answer = client.answer(1).expect_status("200").expect_body("ok");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[test]
fn early_hints_come_before_the_answer() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "proxy_http_version 1.1; early_hints 1;");
    let mut client = Http2::connect(&server.address(0));
    client.get(1, "/");
    upstream
        .expect("GET /")
        .reply("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answer = client.answer(1).expect_status("200").expect_body("ok");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(answer.interim, [pair(":status", "103"), pair("link", "</a.css>")]);
}

#[test]
fn head_and_not_modified_have_no_body() {
    let server = start("");
    let mut client = Http2::connect(&server.address(0));
    let mut fields = base("/a.txt");
    fields[0].1 = "HEAD";
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields)));
    let head = client.expect(HEADERS);
    assert_ne!(head.flags & END_STREAM, 0);
    let fields = client.fields(&head.payload);
    assert!(fields.contains(&("content-length".to_owned(), "7".to_owned())), "{fields:?}");
    let etag = fields.iter().find(|field| field.0 == "etag").expect("a file has one").1.clone();
    let mut fields = base("/a.txt").to_vec();
    fields.push(("if-none-match", &etag));
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&fields)));
    client.answer(3).expect_status("304").expect_body("");
}

#[test]
fn a_client_that_takes_its_request_back() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "");
    let mut client = Http2::connect(&server.address(0));
    client.get(1, "/slow").settle();
    let mut asked = upstream.expect("GET /slow");
    client.send(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
    asked.expect_closed();
    let line = server.wait_for_line("two.log", "/slow");
    assert!(line.contains("|499|0|"), "{line}");
    server.wait_for_log("client canceled stream 1");
    // The connection goes on.
    client.get(3, "/next");
    upstream.expect("GET /next").reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.answer(3).expect_status("200");
}

#[test]
fn a_location_without_an_answer_resets_its_stream() {
    let server = start("location /none { return 444; }");
    let mut client = Http2::connect(&server.address(0));
    assert_eq!(client.get(1, "/none").answer(1).reset, Some(2));
    client.get(3, "/a.txt").answer(3).expect_status("200");
}

#[test]
fn the_name_that_is_asked_for_chooses_the_server() {
    let server = Setup::new().start(
        "server { listen %%ADDR_0%%; http2 on; location / { return 200 default; } } \
         server { listen %%ADDR_0%%; http2 on; server_name ~^(?<who>.+)\\.example$; location / { return 200 $who; } } \
         server { listen %%ADDR_0%%; server_name old; location / { return 200 old; } }",
    );
    let mut client = Http2::connect(&server.address(0));
    let mut ask = |stream: u32, name: &str| {
        let mut fields = base("/");
        fields[3].1 = name;
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields)));
        client.answer(stream)
    };
    ask(1, "any").expect_body("default");
    ask(3, "A.Example:8080").expect_body("a");
    // nginx: the server does not speak it, and the client has come to the wrong place.
    ask(5, "old").expect_status("421");
}

/// The request that opens a WebSocket (RFC 8441).
fn connect(path: &str) -> Vec<u8> {
    let mut fields = base(path).to_vec();
    fields[0].1 = "CONNECT";
    fields.extend([(":protocol", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")]);
    frame(HEADERS, END_HEADERS, 1, &block(&fields))
}

const IDIOM: &str = "map $http_upgrade $connection_upgrade { default upgrade; '' close; } ";
const TUNNEL: &str = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;";

fn tunnel(upstream: &str) -> Server {
    Setup::new().set("UPSTREAM", upstream).start(&format!(
        "{IDIOM} {LOG} server {{ listen %%ADDR_0%%; http2 on; location / {{ proxy_pass http://%%UPSTREAM%%; {TUNNEL} }} \
         location /text {{ return 200 text; }} }}"
    ))
}

#[test]
fn a_websocket_passes_by_the_usual_location() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream.address().to_string());
    let mut client = Http2::connect(&server.address(0));
    let settings = client.expect(SETTINGS);
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
    client.send(connect("/chat?x=1"));
    let mut asked = upstream.accept();
    asked.expect_head("GET /chat?x=1 HTTP/1.1\r\n").expect_field("Upgrade", "websocket");
    asked.expect_field("Connection", "upgrade").expect_field("sec-websocket-version", "13");
    assert_eq!(asked.asked.field("sec-websocket-key").map(str::len), Some(24));
    asked.reply(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello",
    );
    let head = client.expect(HEADERS);
    assert_eq!(head.flags & END_STREAM, 0);
    let fields = client.fields(&head.payload);
    let names: Vec<&str> = fields.iter().map(|field| field.0.as_str()).collect();
    assert_eq!(
        (&names[..], fields[0].1.as_str()),
        (&[":status", "server", "date", "sec-websocket-protocol"][..], "200")
    );
    assert_eq!(client.expect(DATA).payload, b"hello");
    client.send(frame(DATA, 0, 1, b"to the upstream"));
    asked.expect_bytes("to the upstream").reply("and back");
    assert_eq!(client.expect(DATA).payload, b"and back");
    // Other streams go on beside it.
    client.get(3, "/text").answer(3).expect_body("text");
    client.send(frame(DATA, END_STREAM, 1, b"bye"));
    asked.expect_bytes("bye").expect_closed();
    assert_eq!(client.answer(1).body, b"");
    let line = server.wait_for_line("two.log", "/chat");
    assert!(line.starts_with("CONNECT /chat?x=1 HTTP/2.0|200|13|"), "{line}");
}

#[test]
fn a_websocket_carries_more_than_its_windows() {
    let echo = Echo::start();
    let server = tunnel(&echo.address.to_string());
    let mut client = Http2::connect(&server.address(0));
    client.send(connect("/"));
    client.expect(HEADERS);
    // One message of a megabyte, masked with nothing.
    let message = vec![7; 1 << 20];
    let mut head = vec![0x82, 0xff];
    head.extend((message.len() as u64).to_be_bytes());
    head.extend([0; 4]);
    let bytes = [head, message.clone()].concat();
    let (mut sent, mut room, mut got) = (0, 65536_usize.min(bytes.len()), Vec::new());
    while got.len() < message.len() + 10 {
        while sent < bytes.len() && room > 0 {
            let len = room.min(16384).min(bytes.len() - sent);
            client.send(frame(DATA, 0, 1, &bytes[sent..sent + len]));
            (sent, room) = (sent + len, room - len);
        }
        let came = client.frame().expect("the tunnel is open");
        match (came.kind, came.stream) {
            (WINDOW_UPDATE, 1) => room += came.number(0) as usize,
            (DATA, 1) => {
                got.extend(&came.payload);
                for stream in [0, 1] {
                    client.send(frame(WINDOW_UPDATE, 0, stream, &(came.payload.len() as u32).to_be_bytes()));
                }
            }
            (RST_STREAM | GOAWAY, _) => panic!("{came:?}"),
            _ => {}
        }
    }
    assert_eq!((&got[..2], got[10..] == message), (&[0x82, 127][..], true));
}

#[test]
fn who_cannot_open_a_tunnel_does_not_say_yes() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream.address().to_string());
    let mut client = Http2::connect(&server.address(0));
    client.send(connect("/text")).answer(1).expect_status("501");
    let mut client = Http2::connect(&server.address(0));
    client.send(connect("/"));
    upstream.expect("GET /").reply("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    client.answer(1).expect_status("403").expect_body("no");
    let mut other = base("/").to_vec();
    other[0].1 = "CONNECT";
    other.push((":protocol", "connect-udp"));
    client.send(frame(HEADERS, END_HEADERS, 3, &block(&other))).answer(3).expect_status("501");
}

const STREAMED: &str = "proxy_request_buffering off; proxy_http_version 1.1;";

#[test]
fn a_large_body_waits_for_the_window() {
    let server = start("client_max_body_size 0; http2_body_preread_size 10; location /r { return 200; }");
    let mut client = Http2::connect(&server.address(0));
    let settings = client.expect(SETTINGS);
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 4, 0, 0, 0, 10]), "{settings:?}");
    client.settle();
    client.send(frame(SETTINGS, 1, 0, &[]));
    client.send(frame(HEADERS, END_HEADERS, 1, &post("/r", &[])));
    // Nobody reads the body: the answer comes, and the stream is over.
    client.answer(1).expect_status("200");
    assert_eq!(client.expect(RST_STREAM).number(0), 0);
    // Too much for the window ends the stream.
    client.send(frame(HEADERS, END_HEADERS, 3, &post("/a.txt", &[]))).send(frame(DATA, 0, 3, &[0; 11]));
    assert_eq!(client.expect(RST_STREAM).stream, 3);
}

#[test]
fn windows_hold_an_answer_back() {
    let body = "0123456789".repeat(10_000);
    let server = Setup::new().file("html/big", &body).start("server { listen %%ADDR_0%%; http2 on; }");
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100])).get(1, "/big");
    let mut got = client.expect(DATA).payload;
    assert_eq!(got.len(), 100);
    client.settle();
    client.send(frame(WINDOW_UPDATE, 0, 1, &50u32.to_be_bytes()));
    let next = client.expect(DATA).payload;
    assert_eq!(next.len(), 50);
    got.extend(next);
    client.send(frame(WINDOW_UPDATE, 0, 1, &1_000_000u32.to_be_bytes()));
    client.send(frame(WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes()));
    got.extend(client.answer(1).body);
    assert_eq!(String::from_utf8_lossy(&got), body);
}

#[test]
fn frames_are_as_large_as_chunks() {
    let server = Setup::new()
        .file("html/big", "x".repeat(3000))
        .start("server { listen %%ADDR_0%%; http2 on; http2_chunk_size 1k; }");
    let mut client = Http2::connect(&server.address(0));
    client.get(1, "/big");
    let sizes = [client.expect(DATA), client.expect(DATA), client.expect(DATA)].map(|frame| frame.payload.len());
    assert_eq!(sizes, [1024, 1024, 952]);
}

#[test]
fn goodbye_after_so_many_requests() {
    let server = start("keepalive_requests 2;");
    let mut client = Http2::connect(&server.address(0));
    client.get(1, "/a.txt").answer(1).expect_status("200");
    client.get(3, "/a.txt");
    let goodbye = client.expect(GOAWAY);
    assert_eq!((goodbye.number(0), goodbye.number(4)), (3, 0));
    client.answer(3).expect_status("200");
    assert_eq!(client.frame(), None);
}

#[test]
fn a_reload_says_goodbye_and_lets_answers_finish() {
    let upstream = Upstream::start();
    let server = proxied(&upstream, "");
    let mut idle = Http2::connect(&server.address(0));
    idle.settle();
    let mut busy = Http2::connect(&server.address(0));
    busy.get(1, "/slow");
    let mut asked = upstream.expect("GET /slow");
    server.reload();
    assert_eq!(idle.expect(GOAWAY).number(4), 0);
    assert_eq!(busy.expect(GOAWAY).number(0), 1);
    // What was on its way when the goodbye came is not looked at, and no fault.
    busy.send(frame(HEADERS, END_HEADERS, 3, &post("/late", &[]))).send(frame(DATA, 0, 3, b"late"));
    busy.send(frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1])).send(frame(RST_STREAM, 0, 3, &[0; 4])).settle();
    asked.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    busy.answer(1).expect_status("200").expect_body("ok");
    assert_eq!(busy.frame(), None);
}

#[test]
fn by_tls_the_handshake_agrees_on_it() {
    let pair = Pair::of_itself("localhost");
    let setup = Setup::new().file("conf/a.crt", &pair.certificate).file("conf/a.key", &pair.key);
    let server = setup.file("html/a.txt", "a file\n").start(
        "ssl_certificate a.crt; ssl_certificate_key a.key; \
         server { listen %%ADDR_0%% ssl; http2 on; server_name localhost; location / { root html; } \
         location /v { return 200 \"$http2|$ssl_alpn_protocol|$scheme\"; } } \
         server { listen %%ADDR_0%% ssl; server_name old; location / { return 200 \"old $http2\"; } }",
    );
    let offers = |client: &mut ClientConfig| client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut old = TlsClient::with(offers).connect(&server.address(0), "old").client;
    old.send("GET / HTTP/1.1\r\nHost: old\r\n\r\n").response().expect_status(200).expect_body("old ");
    let Some(curl) = need("curl") else { return };
    let fetch = |more: &[&str], path: &str| {
        let url = format!("https://localhost:{}{path}", server.port(0));
        let out =
            Command::new(&curl).args(["-sSk", "-w", "%{http_version}", "--resolve"]).args(more).arg(&url).output();
        let out = out.expect("curl runs");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let here = format!("localhost:{}:{}", server.port(0), server.host());
    assert_eq!(fetch(&[&here, "--http2"], "/a.txt"), "a file\n2");
    assert_eq!(fetch(&[&here, "--http2"], "/v"), "h2|h2|https2");
    assert_eq!(fetch(&[&here, "--http1.1"], "/v"), "|http/1.1|https1.1");
}

#[test]
fn h2load_by_tls() {
    let Some(h2load) = need("h2load") else { return };
    let pair = Pair::of_itself("localhost");
    let setup = Setup::new().file("conf/a.crt", &pair.certificate).file("conf/a.key", &pair.key);
    let server = setup.file("html/a.txt", "a file\n".repeat(10_000)).start(
        "server { listen %%ADDR_0%% ssl; http2 on; ssl_certificate a.crt; ssl_certificate_key a.key; root html; }",
    );
    let url = format!("https://{}/a.txt", server.address(0));
    let out = Command::new(h2load).args(["-n", "400", "-c", "4", "-m", "20", &url]).output().expect("h2load runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("Application protocol: h2"), "{text}");
    assert!(
        text.contains("400 succeeded, 0 failed, 0 errored, 0 timeout") && text.contains("(28000000) data"),
        "{text}"
    );
}

#[test]
fn curl_and_h2load() {
    let server = start("");
    if let Some(curl) = need("curl") {
        let url = format!("http://{}/a.txt", server.address(0));
        let out = Command::new(curl).args(["-sS", "--http2-prior-knowledge", "-w", "%{http_version}", &url]).output();
        let out = out.expect("curl runs");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "a file\n2", "{out:?}");
    }
    if let Some(h2load) = need("h2load") {
        let url = format!("http://{}/a.txt", server.address(0));
        let out = Command::new(h2load).args(["-n", "2000", "-c", "4", "-m", "50", &url]).output().expect("h2load runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    }
}
