//! Proxying as a conversation: silence, early ends, retries, buffers, kept connections.

use std::fs;
use std::time::{Duration, Instant};

use crate::kit::{Client, Conversation, Server, Setup, Step, Upstream, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server whose every location goes to the upstream, with more directives in its server block.
fn proxy(upstream: &Upstream, more: &str) -> Server {
    let conf = format!("server {{ listen %%ADDR_0%%; {more} location / {{ proxy_pass http://%%UPSTREAM%%; }} }}");
    Setup::new().set("UPSTREAM", upstream.address()).start(&conf)
}

#[test]
fn an_upstream_that_says_nothing_is_a_504() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_read_timeout 200ms;");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    client.response().expect_status(504).expect_in_body("504 Gateway Time-out");
    conversation.expect_closed();
    let line = server
        .wait_for_log("upstream timed out (110: Connection timed out) while reading response header from upstream");
    assert!(
        line.contains("[error]") && line.contains(&format!("upstream: \"http://{}/\"", upstream.address())),
        "{line}"
    );
}

#[test]
fn an_upstream_that_stops_in_its_body_cuts_the_answer() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_read_timeout 200ms;");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let head = client.read_until(b"\r\n\r\n");
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
    // What waited for more in a buffer may be lost; what is certain is that the answer does not end well.
    assert!(b"half".starts_with(&client.rest()));
    server.wait_for_log("upstream timed out (110: Connection timed out) while reading upstream");
}

#[test]
fn an_answer_that_ends_early_is_not_passed_off_as_whole() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    for (reply, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", &b"half"[..]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"4\r\nhalf\r\n"),
    ] {
        let mut client = server.client();
        client.get("/");
        upstream.expect("GET /").reply(reply).close();
        client.read_until(b"\r\n\r\n");
        assert_eq!(client.rest(), body, "the end is not to look like one");
    }
    server.wait_for_log("upstream prematurely closed connection while reading upstream");
}

#[test]
fn an_answer_may_come_in_pieces() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_buffering off;");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    for byte in b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 6\r\n\r\n" {
        conversation.reply([*byte]);
    }
    conversation.reply("abc");
    client.read_until(b"\r\n\r\nabc");
    conversation.reply("def");
    client.read_until(b"def");
}

#[test]
fn chunks_may_come_byte_by_byte() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    let reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;q=\"x\"\r\nhello\r\n00A\r\n, everyone\r\n0\r\nX-T: v\r\n\r\n";
    for byte in reply.bytes() {
        conversation.reply([byte]);
    }
    client.response().expect_status(200).expect_body("hello, everyone");
}

#[test]
fn trailers_pass_when_asked_for() {
    // 1.27.4: the proxy_pass_trailers directive.
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_pass_trailers on; proxy_http_version 1.1;");
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let reply =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n";
    upstream.expect("GET /").reply(reply);
    let response = client.response();
    response.expect_status(200).expect_body("abc");
    assert_eq!(response.trailers, "X-Sum: 6\r\n");
}

#[test]
fn early_hints_pass_when_allowed() {
    // 1.29.0: the early_hints directive.
    let upstream = Upstream::start();
    let server = proxy(&upstream, "early_hints 1;");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
    let hints = client.read_until(b"\r\n\r\n");
    assert_eq!(String::from_utf8_lossy(&hints), "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
    conversation.reply(OK);
    client.response().expect_status(200).expect_body("ok");
}

#[test]
fn early_hints_stop_here_otherwise() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.get("/");
    upstream.expect("GET /").reply(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"));
    let response = client.response();
    response.expect_status(200).expect_body("ok");
    assert_eq!(response.interim, b"");
}

#[test]
fn a_client_that_leaves_ends_the_upstreams_work() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    drop(client);
    conversation.expect_closed();
    let line = server.wait_for_line("access.log", "\"GET / HTTP/1.1\"");
    assert!(line.contains("\" 499 0 "), "{line}");
    server.wait_for_log("client prematurely closed connection, so upstream connection is closed too");
}

#[test]
fn a_client_that_leaves_may_be_ignored() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_ignore_client_abort on;");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    drop(client);
    conversation.reply(OK);
    let line = server.wait_for_line("access.log", "\"GET / HTTP/1.1\"");
    assert!(line.contains("\" 200 "), "{line}");
}

#[test]
fn a_slow_client_does_not_hold_the_upstream() {
    let upstream = Upstream::start();
    let server = proxy(
        &upstream,
        "proxy_buffers 4 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 8k; proxy_max_temp_file_size 100m;",
    );
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    let body: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 253) as u8).collect();
    conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
    // The client reads nothing yet, but the whole body is taken off the upstream's hands.
    conversation.reply(&body).close();
    server.wait_for_log("an upstream response is buffered to a temporary file");
    let response = client.response();
    assert!(response.body == body, "{} bytes came", response.body.len());
}

#[test]
fn without_temporary_files_a_slow_client_slows_the_upstream() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_max_temp_file_size 0;");
    let body: Vec<u8> = (0..30_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
    let expected = body.clone();
    let writer = std::thread::spawn(move || {
        conversation.reply(&body);
        Instant::now()
    });
    client.read_until(b"\r\n\r\n");
    let first_read = Instant::now();
    let got = client.read_exactly(expected.len());
    assert!(got == expected);
    let done = writer.join().expect("the upstream writes");
    assert!(done >= first_read, "the upstream was read to its end before the client was");
}

#[test]
fn a_disk_that_takes_no_more_slows_the_upstream() {
    let upstream = Upstream::start();
    let server = Setup::new()
        .largest_file(2048)
        .set("UPSTREAM", upstream.address())
        .start("proxy_buffers 4 64k; server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; } }");
    taken_in_full(&server, &upstream);
    let line = server.wait_for_log("[crit]");
    let (_, line) = line.split_once("pwritev() \"").expect("the call");
    let name = server.path("temp/proxy/0000000001");
    let rest = format!("{}\" failed (27: File too large) while reading upstream, client: ", name.display());
    assert!(line.starts_with(&rest), "{line}");
    assert_eq!(server.error_log().matches("[crit]").count(), 1, "it is not asked again");
}

#[test]
fn where_no_temporary_file_can_be_made_the_upstream_is_slowed() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    fs::remove_dir(server.path("temp/proxy")).expect("it is empty");
    fs::write(server.path("temp/proxy"), "").expect("a file in its place");
    taken_in_full(&server, &upstream);
    let line = server.wait_for_log("[crit]");
    let name = server.path("temp/proxy/0000000001");
    let said = format!("open() \"{}\" failed (20: Not a directory) while reading upstream, client: ", name.display());
    assert!(line.contains(&said), "{line}");
}

/// A long answer is asked for and not read before the error log has a critical line; then all of it comes.
fn taken_in_full(server: &Server, upstream: &Upstream) {
    let body: Vec<u8> = (0..30_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            conversation.reply(&body).close();
        });
        server.wait_for_log("[crit]");
        let response = client.response();
        assert!(response.body == body, "{} bytes came", response.body.len());
    });
}

#[test]
fn a_body_may_be_streamed_to_the_upstream() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_request_buffering off; proxy_http_version 1.1;");
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    let mut conversation = upstream.accept();
    conversation.expect_head("POST / HTTP/1.1\r\n").expect_field("Content-Length", "6").expect_bytes("abc");
    client.send("def");
    conversation.expect_bytes("def").reply(OK);
    client.response().expect_body("ok");
    // And in chunks.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut conversation = upstream.accept_or(conversation);
    conversation.expect_head("POST / HTTP/1.1\r\n").expect_field("Transfer-Encoding", "chunked");
    conversation.expect_bytes("3\r\nabc\r\n");
    client.send("0\r\n\r\n");
    conversation.expect_bytes("0\r\n\r\n").reply(OK);
    client.response().expect_body("ok");
}

#[test]
fn a_body_is_buffered_whole_otherwise() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    assert!(upstream.accept_within(Duration::from_millis(300)).is_none(), "the upstream is bothered with half a body");
    client.send("def");
    upstream.expect("POST /").expect_body("abcdef").reply(OK);
    client.response().expect_body("ok");
}

#[test]
fn an_upstream_may_answer_before_it_has_the_body() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "client_max_body_size 50m;");
    let mut client = server.client();
    let body = vec![b'x'; 20_000_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).send(&body);
    let mut conversation = upstream.accept();
    conversation.expect_head("POST /").reply("HTTP/1.1 403 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n");
    client.response().expect_status(403).expect_body("no\n");
}

#[test]
fn connections_to_the_upstream_are_kept() {
    let upstream = Upstream::start();
    let conf = "upstream u { server %%UPSTREAM%%; keepalive 4; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.get("/1");
    let mut conversation = upstream.expect("GET /1 HTTP/1.1\r\n");
    conversation.reply(OK);
    client.response().expect_body("ok");
    for path in ["/2", "/3"] {
        let mut other = server.client();
        other.get(path);
        conversation.expect(&format!("GET {path} HTTP/1.1\r\n")).reply(OK);
        other.response().expect_body("ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_kept_connection_that_was_closed_is_tried_anew() {
    let upstream = Upstream::start();
    let conf = "upstream u { server %%UPSTREAM%%; keepalive 4; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.get("/1");
    let mut conversation = upstream.expect("GET /1");
    conversation.reply(OK);
    client.response().expect_body("ok");
    // The upstream reads the next request and closes instead of answering: the connection was dead, not the peer.
    client.get("/2");
    conversation.expect("GET /2").close();
    upstream.expect("GET /2").reply(OK);
    client.response().expect_status(200).expect_body("ok");
}

#[test]
fn an_answer_that_says_close_is_not_kept() {
    let upstream = Upstream::start();
    let conf = "upstream u { server %%UPSTREAM%%; keepalive 4; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.get("/1");
    let mut first = upstream.expect("GET /1");
    first.reply("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    client.response().expect_body("ok");
    first.expect_closed();
    client.get("/2");
    upstream.expect("GET /2").reply("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").expect_closed();
    client.response().expect_body("ok");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn too_much_after_an_answer_ends_the_connection() {
    let upstream = Upstream::start();
    let conf = "upstream u { server %%UPSTREAM%%; keepalive 4; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.get("/1");
    // What comes behind an answer must never be taken for the answer to somebody else.
    let mut conversation = upstream.expect("GET /1");
    conversation.reply(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"));
    client.response().expect_body("ok");
    conversation.expect_closed();
    client.get("/2");
    upstream.expect("GET /2").reply(OK);
    client.response().expect_body("ok");
}

#[test]
fn the_next_upstream_is_tried_when_one_is_dead() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let conf = "upstream u { server %%ONE%%; server %%TWO%%; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; add_header X-Tried $upstream_addr always; } \
                location /503 { proxy_pass http://u; proxy_next_upstream http_503; } \
                location /off { proxy_pass http://u; proxy_next_upstream off; } \
                location /tries { proxy_pass http://u; proxy_next_upstream_tries 1; } \
                location /any { proxy_pass http://u; proxy_next_upstream error non_idempotent; } }";
    let start = || Setup::new().set("ONE", first.address()).set("TWO", second.address()).start(conf);

    let server = start();
    let mut client = server.client();
    client.get("/");
    first.expect("GET /").close();
    second.expect("GET /").reply(OK);
    let response = client.response();
    response.expect_body("ok").expect_field("X-Tried", &format!("{}, {}", first.address(), second.address()));

    let server = start();
    let mut client = server.client();
    client.get("/503");
    first.expect("GET /503").reply("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    second.expect("GET /503").reply(OK);
    client.response().expect_body("ok");

    let server = start();
    let mut client = server.client();
    client.get("/off");
    first.expect("GET /off").close();
    client.response().expect_status(502);

    let server = start();
    let mut client = server.client();
    client.get("/tries");
    first.expect("GET /tries").close();
    client.response().expect_status(502);

    // What may have had its effect is not sent twice ...
    let server = start();
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    first.expect("POST /").close();
    client.response().expect_status(502);

    // ... unless the configuration says that it may be.
    let server = start();
    let mut client = server.client();
    client.send("POST /any HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    first.expect("POST /any").close();
    second.expect("POST /any").expect_body("x").reply(OK);
    client.response().expect_body("ok");
}

#[test]
fn a_connection_reset_is_a_502_with_its_line() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.accept();
    conversation.expect("GET /");
    conversation.reset();
    client.response().expect_status(502);
    server.wait_for_log("recv() failed (104: Connection reset by peer) while reading response header from upstream");
}

#[test]
fn upstream_times_and_addresses_are_told_for_every_try() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let conf = "log_format tries '$upstream_addr|$upstream_status|$upstream_response_time|$upstream_response_length'; \
                access_log logs/tries.log tries; \
                upstream u { server %%ONE%%; server %%TWO%%; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; error_page 404 = /again; proxy_intercept_errors on; } \
                location /again { proxy_pass http://u; } }";
    let server = Setup::new().set("ONE", first.address()).set("TWO", second.address()).start(conf);
    let mut client = server.client();
    client.get("/");
    first.expect("GET /").close();
    second.expect("GET /").reply("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    let mut third = second.accept();
    third.expect("GET /again").reply(OK);
    client.response().expect_body("ok");
    let line = server.wait_for_lines("tries.log", 1).remove(0);
    let (one, two) = (first.address(), second.address());
    let start = format!("{one}, {two} : {two}|502, 404 : 200|");
    assert!(line.starts_with(&start), "{line}\n{start}");
    let fields: Vec<&str> = line.split('|').collect();
    let times = regex::Regex::new(r"^\d+\.\d{3}, \d+\.\d{3} : \d+\.\d{3}$").expect("a fixed pattern");
    assert!(times.is_match(fields[2]), "{line}");
    assert_eq!(fields[3], "0, 0 : 2", "{line}");
}

#[test]
fn an_unbuffered_answer_arrives_as_it_is_sent() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "");
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    // The upstream may say so itself.
    conversation.reply("HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\nContent-Length: 6\r\n\r\nabc");
    client.read_until(b"\r\n\r\nabc");
    conversation.reply("def");
    client.read_until(b"def");
}

/// A server with buffers of 64 KB and connections that are kept, and an upstream that has begun a long answer: all of it
/// that came with the head has arrived, and the rest is waited for.
fn begun() -> (Server, Client, Upstream, Conversation) {
    let upstream = Upstream::start();
    let conf = "upstream kept { server %%UPSTREAM%%; keepalive 1; } proxy_buffers 4 64k;
                server { listen %%ADDR_0%%; location / {
                    proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}", "a".repeat(20_000)));
    client.read_until(b"\r\n\r\n");
    client.read_exactly(20_000);
    (server, client, upstream, conversation)
}

#[test]
fn what_does_not_fill_a_buffer_waits_for_a_moment() {
    let (_server, mut client, upstream, mut conversation) = begun();
    conversation.reply("b".repeat(100)); // no buffer is full of that
    assert_eq!(client.read_exactly(100), [b'b'; 100]);
    conversation.reply("c".repeat(100));
    assert_eq!(client.read_exactly(100), [b'c'; 100]); // the next is not waited for
    conversation.reply("d".repeat(179_800));
    assert!(client.read_exactly(179_800).iter().all(|byte| *byte == b'd'));
    is_as_it_was(&mut client, &upstream, &mut conversation);
}

/// Short answers come at once, over the connection that was kept.
fn is_as_it_was(client: &mut Client, upstream: &Upstream, conversation: &mut Conversation) {
    for _ in 0..2 {
        client.get("/");
        conversation.expect("GET /").reply(OK);
        client.response().expect_body("ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_long_answer_that_came_in_buffers_leaves_a_connection_as_it_was() {
    let (_server, mut client, upstream, mut conversation) = begun();
    conversation.reply("b".repeat(64 * 1024));
    client.read_exactly(64 * 1024);
    conversation.reply("c".repeat(180_000 - 64 * 1024));
    client.read_exactly(180_000 - 64 * 1024);
    is_as_it_was(&mut client, &upstream, &mut conversation);
}

#[test]
fn what_came_before_an_early_end_is_passed_on() {
    let (server, mut client, _upstream, mut conversation) = begun();
    conversation.reply("b".repeat(100)).close();
    assert_eq!(client.rest(), [b'b'; 100]);
    server.wait_for_log("upstream prematurely closed connection while reading upstream");
}

#[test]
fn an_answer_is_stored_where_the_configuration_says() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; root html; location /stored/ { try_files $uri @fetch; } \
                location @fetch { proxy_pass http://%%UPSTREAM%%; proxy_store on; proxy_store_access all:r; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).file("html/stored/x", "").start(conf);
    let mut client = server.client();
    client.get("/stored/a");
    let reply = "HTTP/1.1 200 OK\r\nLast-Modified: Tue, 02 Jan 2024 03:04:05 GMT\r\nContent-Length: 4\r\n\r\nkept";
    upstream.expect("GET /stored/a").reply(reply);
    client.response().expect_body("kept");
    eventually("the file is there", || server.path("html/stored/a").exists());
    let mut client = server.client();
    client.get("/stored/a");
    client.response().expect_body("kept").expect_field("Last-Modified", "Tue, 02 Jan 2024 03:04:05 GMT");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_limited_upstream_is_read_slowly() {
    let upstream = Upstream::start();
    let server = proxy(&upstream, "proxy_limit_rate 20k; proxy_buffers 8 4k;");
    let begun = Instant::now();
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000)));
    client.response().expect_status(200);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1200) && took <= Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_unix_socket_is_an_upstream() {
    use std::io::{Read, Write};
    let setup = Setup::new();
    let path = setup.prefix().join("upstream.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, open).expect("the socket is ours");
    let server = setup
        .start("server { listen %%ADDR_0%%; location / { proxy_pass http://unix:%%PREFIX%%/upstream.sock:/base/; } }");
    let mut client = server.client();
    client.get("/x");
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut bytes = [0; 1000];
    let length = stream.read(&mut bytes).expect("a request");
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    assert!(text.starts_with("GET /base/x HTTP/1.") && text.contains("\r\nHost: localhost\r\n"), "{text}");
    stream.write_all(OK.as_bytes()).expect("an answer");
    client.response().expect_body("ok");
}

#[test]
fn two_hundred_requests_at_once_are_all_answered() {
    let upstream = Upstream::start().serve(|asked| {
        let body = asked.target().repeat(100);
        vec![Step::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())]
    });
    let conf = "upstream u { server %%UPSTREAM%%; keepalive 16; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address).start(conf);
    let mut clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.get(&format!("/{number}"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.response().expect_status(200).expect_body(format!("/{number}").repeat(100));
    }
    assert!(upstream.connections() <= 200);
}
