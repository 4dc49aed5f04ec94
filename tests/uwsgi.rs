//! uwsgi: what a program is told, and what becomes of its answer, which is that of a CGI program.

use crate::kit::upstream::Conversation;
use crate::kit::{Server, Setup, Upstream};

const HEAD: &str = "Content-Type: text/plain\r\n\r\n";

/// A packet as a program reads it.
#[derive(Debug)]
struct Told {
    modifiers: (u8, u8),
    params: Vec<(String, String)>,
    /// What the operator packed behind them.
    raw: Vec<u8>,
}

impl Told {
    fn all(&self, name: &str) -> Vec<&str> {
        self.params.iter().filter(|param| param.0 == name).map(|param| param.1.as_str()).collect()
    }
}

fn read_packet(program: &mut Conversation, raw: usize) -> Told {
    let head = program.read(4);
    let bytes = program.read(usize::from(u16::from_le_bytes([head[1], head[2]])));
    let (mut rest, raw) = bytes.split_at(bytes.len() - raw);
    let text = |rest: &mut &[u8]| {
        let (length, after) = rest.split_at(2);
        let (text, after) = after.split_at(usize::from(u16::from_le_bytes([length[0], length[1]])));
        *rest = after;
        String::from_utf8_lossy(text).into_owned()
    };
    let mut params = Vec::new();
    while !rest.is_empty() {
        params.push((text(&mut rest), text(&mut rest)));
    }
    Told { modifiers: (head[0], head[3]), params, raw: raw.to_vec() }
}

/// A server whose every location goes to the program, with more directives in its server block.
fn serve(program: &Upstream, more: &str) -> Server {
    let conf = format!("server {{ listen %%ADDR_0%%; {more} location / {{ uwsgi_pass %%UPSTREAM%%; }} }}");
    Setup::new().set("UPSTREAM", program.address()).start(&conf)
}

#[test]
fn a_program_is_told_params_and_fields() {
    let upstream = Upstream::start();
    let more = "uwsgi_param URI $request_uri; uwsgi_param EMPTY $arg_none; uwsgi_param NOT $arg_none if_not_empty; \
                uwsgi_param HTTP_X_OWN own; uwsgi_param HTTP_PROXY ''; uwsgi_modifier1 5; uwsgi_modifier2 7; \
                uwsgi_string extra;";
    let server = serve(&upstream, more);
    let mut client = server.client();
    client.send(
        "POST /a?b HTTP/1.1\r\nHost: localhost\r\nX-Own: not this\r\nProxy: evil\r\nX-Fwd: 1\r\nContent-Length: 4\r\n\r\nbody",
    );
    let mut program = upstream.accept();
    let told = read_packet(&mut program, 5);
    assert_eq!(told.modifiers, (5, 7));
    for (name, values) in [
        ("URI", &["/a?b"][..]),
        ("EMPTY", &[""]),
        ("NOT", &[]),
        ("HTTP_X_OWN", &["own"]),
        ("HTTP_PROXY", &[]),
        ("HTTP_HOST", &["localhost"]),
        ("HTTP_X_FWD", &["1"]),
        ("HTTP_CONTENT_LENGTH", &["4"]),
    ] {
        assert_eq!(told.all(name), values, "{name} of {told:?}");
    }
    assert_eq!(told.raw, b"extra");
    program.expect_bytes("body").reply(format!("Status: 201 Made\r\nX: y\r\n{HEAD}done")).close();
    client.response().expect_status(201).expect_field("X", "y").expect_body("done");
}

#[test]
fn a_status_may_stand_in_a_line_a_field_or_nowhere() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    for (head, status) in [
        ("HTTP/1.0 404 Not here\r\n", 404),
        ("Status: 403\r\n", 403),
        ("HTTP/1.1 404 Not here\r\nStatus: 403\r\n", 404),
        ("Location: /there\r\n", 302),
        ("", 200),
    ] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_packet(&mut program, 0);
        program.reply(format!("{head}{HEAD}it")).close();
        client.response().expect_status(status).expect_body("it");
    }
    for (answer, line) in [
        ("Status: x\r\n\r\n", "upstream sent invalid status \"x\" while reading response header from upstream"),
        ("a\0: b\r\n\r\n", "upstream sent invalid header: \"a\\x00...\" while reading response header from upstream"),
    ] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_packet(&mut program, 0);
        program.reply(answer);
        client.response().expect_status(502);
        assert!(server.wait_for_log(line).contains("upstream: \"uwsgi://127.0.0.1:"), "{line}");
    }
}

#[test]
fn a_body_ends_with_its_length_or_its_connection() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    let ask = |answer: &str| {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_packet(&mut program, 0);
        program.reply(answer);
        (client, program)
    };
    let (mut client, mut program) = ask("Content-Length: 4\r\n\r\n1234more");
    client.response().expect_status(200).expect_body("1234");
    program.expect_closed();
    server.wait_for_log("upstream sent more data than specified in \"Content-Length\" header while");
    let (mut client, mut program) = ask("\r\nuntil the end");
    program.reply(" of it").close();
    client.response().expect_status(200).expect_body("until the end of it");
    let (mut client, mut program) = ask("Content-Length: 9\r\n\r\n1234");
    program.close();
    client.read_until(b"1234");
    client.expect_closed();
    server.wait_for_log("upstream prematurely closed connection while reading upstream");
}

#[test]
fn a_body_of_unknown_length_is_read_first_and_others_may_be_streamed() {
    let upstream = Upstream::start();
    let more = "uwsgi_request_buffering off; uwsgi_param CONTENT_LENGTH $content_length;";
    let server = serve(&upstream, more);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    let mut program = upstream.accept();
    assert_eq!(read_packet(&mut program, 0).all("CONTENT_LENGTH"), ["6"]);
    program.expect_bytes("abc");
    client.send("def");
    program.expect_bytes("def").reply(format!("{HEAD}streamed")).close();
    client.response().expect_status(200).expect_body("streamed");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    let mut program = upstream.accept();
    assert_eq!(read_packet(&mut program, 0).all("CONTENT_LENGTH"), ["7"]);
    program.expect_bytes("abcdefg").reply(format!("{HEAD}read")).close();
    client.response().expect_status(200).expect_body("read");
}

#[test]
fn a_packet_that_is_too_big_is_not_sent() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; large_client_header_buffers 4 40k; uwsgi_param A $http_a; \
                uwsgi_param B $http_a; location / { uwsgi_pass %%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).allow_alerts().start(conf);
    let value = "x".repeat(33_000);
    let mut client = server.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nA: {value}\r\n\r\n"));
    client.response().expect_status(500);
    server.wait_for_log("uwsgi request is too big: ");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn answers_are_kept() {
    let upstream = Upstream::start();
    let conf = "uwsgi_cache_path %%PREFIX%%/cache keys_zone=c:1m; server { listen %%ADDR_0%%; \
                location / { uwsgi_pass %%UPSTREAM%%; uwsgi_cache c; uwsgi_cache_key $uri; uwsgi_cache_valid 1h; \
                add_header X-Cache $upstream_cache_status; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n\r\n");
    let mut program = upstream.accept();
    let told = read_packet(&mut program, 0);
    assert!(told.all("HTTP_RANGE").is_empty() && told.all("HTTP_IF_NONE_MATCH").is_empty(), "{told:?}");
    program.reply("Status: 200 OK\r\nX: kept\r\nContent-Length: 4\r\n\r\nbody").close();
    client.response().expect_field("X-Cache", "MISS");
    let hit = server.fetch("/a");
    hit.expect_status(200).expect_field("X-Cache", "HIT").expect_field("X", "kept").expect_body("body");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn suwsgi_is_spoken_by_tls() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; location /fixed { uwsgi_pass suwsgi://%%UPSTREAM%%; } \
                location /variable { set $to suwsgi://%%UPSTREAM%%; uwsgi_pass $to; } \
                location /plain { set $to uwsgi://%%UPSTREAM%%; uwsgi_pass $to; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    for path in ["/fixed", "/variable"] {
        let mut client = server.client();
        client.get(path);
        let mut program = upstream.accept();
        assert_eq!(program.read(2), b"\x16\x03", "a handshake's record");
        program.close();
        client.response().expect_status(502);
        let line = server.wait_for_log(&format!("request: \"GET {path} HTTP/1.1\""));
        assert!(line.contains("while SSL handshaking to upstream") && line.contains("upstream: \"suwsgi://"), "{line}");
    }
    let mut client = server.client();
    client.get("/plain");
    let mut program = upstream.accept();
    read_packet(&mut program, 0);
    program.reply(format!("{HEAD}plain")).close();
    client.response().expect_status(200).expect_body("plain");
}
