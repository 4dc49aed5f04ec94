//! The life of a connection: requests in pieces, timeouts, limits, bodies on disk, slow readers.

use std::fs;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::kit::{Client, Server, Setup, Upstream, eventually};

const RETURN: &str = "server { listen %%ADDR_0%%; location / { return 200 $request_method:$uri:$http_x; } }";

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start(RETURN);
    let mut client = server.client();
    for byte in b"GET /slow/./path HTTP/1.1\r\nHost: localhost\r\nX: value\r\n\r\n" {
        client.send([*byte]);
    }
    client.response().expect_status(200).expect_body("GET:/slow/path:value");
}

#[test]
fn a_chunked_body_may_come_byte_by_byte() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;x=\"y\"\r\nhello\r\nA\r\n, everyone\r\n0\r\nX-Trailer: t\r\n\r\n";
    for byte in request.bytes() {
        client.send([byte]);
    }
    upstream.expect("POST /").expect_body("hello, everyone").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(RETURN);
    let mut client = server.client();
    let mut requests = String::new();
    for number in 0..100 {
        requests.push_str(&format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    client.send(requests);
    for number in 0..100 {
        client.response().expect_body(format!("GET:/{number}:"));
    }
}

#[test]
fn a_pipelined_request_cut_anywhere_is_whole_again() {
    let server = Server::start(RETURN);
    let first = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345";
    let second = "GET /b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    let both = format!("{first}{second}");
    for cut in 1..both.len() {
        let mut client = server.client();
        client.send(&both[..cut]).send(&both[cut..]);
        client.response().expect_body("POST:/a:");
        client.response().expect_body("GET:/b:y");
    }
}

#[test]
fn a_head_that_does_not_come_is_closed_after_its_timeout() {
    let server = Server::start("server { listen %%ADDR_0%%; client_header_timeout 200ms; return 200; }");
    let mut silent = server.client();
    silent.expect_closed();
    let mut half = server.client();
    half.send("GET / HTTP/1.1\r\nHost:");
    let begun = Instant::now();
    half.expect_closed(); // the status is for the log alone
    assert!(begun.elapsed() >= Duration::from_millis(150), "after {:?}", begun.elapsed());
    server.wait_for_line("access.log", "\" 408 ");
}

#[test]
fn the_head_has_one_timeout_for_all_its_bytes() {
    let server = Server::start("server { listen %%ADDR_0%%; client_header_timeout 500ms; return 200; }");
    let mut client = server.client();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\n");
    // A byte now and then does not buy more time.
    while !client.ended && begun.elapsed() < Duration::from_secs(20) {
        client.fill(Instant::now() + Duration::from_millis(100), |_| false);
        client.send("X");
    }
    client.expect_closed();
    server.wait_for_line("access.log", "\" 408 ");
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let upstream = Upstream::start();
    let conf =
        "server { listen %%ADDR_0%%; client_body_timeout 200ms; location / { proxy_pass http://%%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.expect_closed();
    assert_eq!(upstream.connections(), 0);
    server.wait_for_line("access.log", "\" 408 ");
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout() {
    let server = Server::start("server { listen %%ADDR_0%%; keepalive_timeout 200ms; return 200 x; }");
    let mut client = server.client();
    client.get("/").response().expect_field("Connection", "keep-alive");
    let begun = Instant::now();
    client.expect_closed();
    assert!(begun.elapsed() >= Duration::from_millis(150), "after {:?}", begun.elapsed());
}

#[test]
fn a_connection_ends_after_so_many_requests_or_so_long() {
    let server = Server::start(
        "server { listen %%ADDR_0%%; keepalive_requests 2; location / { return 200 x; } } \
         server { listen %%ADDR_1%%; keepalive_time 200ms; keepalive_requests 1000000; location / { return 200 x; } }",
    );
    let mut client = server.client();
    client.get("/").response().expect_field("Connection", "keep-alive");
    client.get("/").response().expect_field("Connection", "close");
    client.expect_closed();
    let mut client = Client::connect(&server.address(1));
    let begun = Instant::now();
    loop {
        client.get("/");
        let closes = client.response().field("Connection") == Some("close");
        if closes {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(begun.elapsed() >= Duration::from_millis(150));
    client.expect_closed();
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let big = vec![b'x'; 30_000_000];
    let setup = Setup::new().file("html/big", &big);
    let server =
        setup.start("server { listen %%ADDR_0%%; root html; send_timeout 300ms; reset_timedout_connection on; }");
    let mut client = server.client();
    client.get("/big");
    server.wait_for_log("client timed out");
    // Some bytes are in the buffers between; the rest never comes, and the end is a reset or a close.
    let end = Instant::now() + Duration::from_secs(30);
    client.read_to_end(end).expect("the server gives up");
    assert!(client.buffer.len() < big.len());
    let line = server.wait_for_line("access.log", "/big");
    assert!(line.contains("\" 200 "), "{line}");
}

#[test]
fn a_big_file_comes_whole_to_a_slow_reader() {
    let mut big = Vec::new();
    for number in 0..2_000_000_u32 {
        big.extend_from_slice(&number.to_le_bytes());
    }
    let conf = "server { listen %%ADDR_0%%; root html; \
                location /nosendfile/ { alias html/; sendfile off; } \
                location /sendfile/ { alias html/; sendfile on; tcp_nopush on; } \
                location /chunks/ { alias html/; sendfile on; sendfile_max_chunk 64k; } \
                location /threads/ { alias html/; aio threads; } \
                location /direct/ { alias html/; directio 1m; } \
                location /buffers/ { alias html/; sendfile off; output_buffers 1 4k; } }";
    let server = Setup::new().file("html/big", &big).start(conf);
    for place in ["/", "/nosendfile/", "/sendfile/", "/chunks/", "/threads/", "/direct/", "/buffers/"] {
        let mut client = server.client();
        client.get(&format!("{place}big"));
        let response = client.response();
        response.expect_status(200);
        assert!(response.body == big, "{place}: {} bytes of {}", response.body.len(), big.len());
        client.send(format!("GET {place}big HTTP/1.1\r\nHost: a\r\nRange: bytes=3999990-4000009\r\n\r\n"));
        client.response().expect_status(206).expect_body(&big[3_999_990..4_000_010]);
    }
}

#[test]
fn limit_rate_holds_the_pace() {
    let setup = Setup::new().file("html/a", vec![b'x'; 30_000]);
    let server = setup.start(
        "server { listen %%ADDR_0%%; root html; limit_rate 10k; \
         location /after { alias html/a; limit_rate_after 40k; } }",
    );
    let begun = Instant::now();
    let mut client = server.client();
    client.get("/a").response().expect_status(200);
    let took = begun.elapsed();
    // 30000 bytes at 10240 a second: the first second's worth goes at once.
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    assert!(took <= Duration::from_secs(20), "{took:?}");
    let begun = Instant::now();
    client.get("/after").response().expect_status(200);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn a_body_may_be_kept_in_a_file() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; client_body_in_file_only on; client_body_temp_path %%PREFIX%%/temp/kept; \
                location / { proxy_pass http://%%UPSTREAM%%; proxy_set_header X-File $request_body_file; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\ncontent");
    let mut conversation = upstream.expect("POST /");
    let file = conversation.asked.field("X-File").expect("the file has a name").to_owned();
    conversation.expect_body("content").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
    assert!(file.starts_with(&format!("{}/temp/kept/", server.prefix().display())), "{file}");
    assert_eq!(fs::read(&file).expect("the file is kept"), b"content");
}

#[test]
fn a_large_upload_goes_through_a_temporary_file() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; client_max_body_size 20m; client_body_buffer_size 16k; \
                location / { proxy_pass http://%%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let body: Vec<u8> = (0..10_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut client = server.client();
    client.send(format!("PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).send(&body);
    let mut conversation = upstream.expect("PUT /up");
    assert!(conversation.asked.body == body, "{} bytes came", conversation.asked.body.len());
    conversation.reply("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    client.response().expect_status(201);
    server.wait_for_log("a client request body is buffered to a temporary file");
    let left = || fs::read_dir(server.path("temp/client_body")).map(Iterator::count).unwrap_or_default();
    eventually("no temporary file is left", || left() == 0);
}

#[test]
fn an_upload_that_is_too_large_is_told_so_and_may_read_it() {
    let server = Server::start(
        "server { listen %%ADDR_0%%; client_max_body_size 1m; location /p { proxy_pass http://127.0.0.1:1; } }",
    );
    let mut client = server.client();
    client.send("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
    // The client goes on sending what nobody wants; the answer still arrives.
    client.send(vec![b'x'; 3_000_000]);
    client.response().expect_status(413).expect_field("Connection", "close");
}

#[test]
fn the_boundary_of_the_body_limit_is_exact() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; client_max_body_size 64k; location / { proxy_pass http://%%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n{}", "x".repeat(65_536)));
    upstream.expect("POST /").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n");
    client.response().expect_status(413);
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    upstream.expect("POST /").expect_body("body").reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
}

#[test]
fn a_client_that_half_closes_still_gets_its_file() {
    let setup = Setup::new().file("html/a", "content");
    let server = setup.start("server { listen %%ADDR_0%%; root html; }");
    let mut client = server.client();
    client.get("/a");
    client.stream.shutdown(Shutdown::Write).expect("the connection is open");
    client.response().expect_status(200).expect_body("content");
    client.expect_closed();
}

#[test]
fn a_head_may_be_as_large_as_the_buffers_and_no_larger() {
    let server = Server::start(
        "server { listen %%ADDR_0%%; client_header_buffer_size 256; large_client_header_buffers 4 8k; \
         location / { return 200 \"$request_length\"; } }",
    );
    let field = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(length));
    let mut client = server.client();
    client.send(field(8000)).response().expect_status(200);
    client.send(field(8190)).response().expect_status(400).expect_in_body("Request Header Or Cookie Too Large");
    let mut client = server.client();
    client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000)));
    client.response().expect_status(414);
}

#[test]
fn too_many_fields_are_refused() {
    // 1.29.8: the max_headers directive.
    let server = Server::start("server { listen %%ADDR_0%%; max_headers 10; return 200; }");
    let request = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    let mut client = server.client();
    client.send(request(9)).response().expect_status(200);
    client.send(request(10)).response().expect_status(400);
}

#[test]
fn a_unix_socket_listens() {
    use std::io::{Read, Write};
    let server = Server::start(
        "server { listen unix:%%PREFIX%%/socket; listen %%ADDR_0%%; return 200 \"$remote_addr $server_addr\"; }",
    );
    let mut stream = std::os::unix::net::UnixStream::connect(server.path("socket")).expect("the socket listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("the socket takes a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let end = format!("\r\n\r\nunix: unix:{}/socket", server.prefix().display());
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with(&end), "{text}");
}

#[test]
fn ipv6_listens() {
    let server =
        Server::start("server { listen [::1]:%%PORT_0%%; return 200 \"$remote_addr $server_addr $server_port\"; }");
    let mut client = Client::connect(&format!("[::1]:{}", server.port(0)));
    client.send("GET / HTTP/1.0\r\n\r\n").response().expect_body(format!("::1 ::1 {}", server.port(0)));
}

#[test]
fn proxy_protocol_names_the_client() {
    let server = Server::start(
        "server { listen %%ADDR_0%% proxy_protocol; \
         return 200 \"$remote_addr $proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\"; }",
    );
    let mut client = server.client();
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\nGET / HTTP/1.0\r\n\r\n");
    client.response().expect_body("127.0.0.1 192.0.2.1 123 192.0.2.2 5678");
    let mut client = server.client();
    // Version 2: signature, PROXY, TCP over IPv4, 12 bytes: two addresses and two ports.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend_from_slice(&[198, 51, 100, 7, 198, 51, 100, 8, 0x30, 0x39, 0x00, 0x50]);
    header.extend_from_slice(b"GET / HTTP/1.0\r\n\r\n");
    client.send(header).response().expect_body("127.0.0.1 198.51.100.7 12345 198.51.100.8 80");
    let mut client = server.client();
    client.send("GET / HTTP/1.0\r\n\r\n").expect_closed();
    server.wait_for_log("broken header: \"GET / HTTP/1.0");
}

#[test]
fn post_action_follows_the_answer() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; location / { post_action /after; return 200 first; } \
                location /after { proxy_pass http://%%UPSTREAM%%; } }";
    let conf = &conf.replace("return 200 first;", "root html;");
    let setup = Setup::new().set("UPSTREAM", upstream.address()).file("html/a", "first");
    let server = setup.start(conf);
    let mut client = server.client();
    client.get("/a").response().expect_body("first");
    upstream.expect("GET /after").reply("HTTP/1.1 204 No Content\r\n\r\n");
}

#[test]
fn a_connection_lingers_as_the_configuration_says() {
    let conf = "server { listen %%ADDR_0%%; client_max_body_size 10; lingering_time 10s; lingering_timeout 300ms; \
                location / { proxy_pass http://127.0.0.1:1; } \
                location /off { lingering_close off; proxy_pass http://127.0.0.1:1; } }";
    let server = Server::start(conf);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nxxxx");
    client.response().expect_status(413);
    client.expect_closed(); // its sending side; it still reads what comes, so this is no reset
    client.send(vec![b'x'; 50_000]);
    let mut client = server.client();
    client.send("POST /off HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nxxxx");
    client.response().expect_status(413);
    client.expect_closed();
}

#[test]
fn the_rate_may_be_a_variable() {
    let server = Setup::new()
        .file("html/a", vec![b'x'; 30_000])
        .start("map $arg_slow $rate { default 0; 1 10k; } server { listen %%ADDR_0%%; root html; limit_rate $rate; }");
    let timed = |path: &str| {
        let begun = Instant::now();
        server.fetch(path).expect_status(200);
        begun.elapsed()
    };
    assert!(timed("/a") < Duration::from_millis(1500));
    assert!(timed("/a?slow=1") >= Duration::from_millis(1500));
}

#[test]
fn a_body_that_breaks_off_leaves_no_file() {
    for mode in ["off", "clean"] {
        let conf = "server { listen %%ADDR_0%%; client_body_in_file_only %%MODE%%; client_body_buffer_size 1k; \
                    client_body_temp_path %%PREFIX%%/temp/broken; location / { proxy_pass http://%%ADDR_0%%/nowhere; } }";
        let server = Setup::new().set("MODE", mode).start(conf);
        let files = || {
            let entries = fs::read_dir(server.path("temp/broken")).into_iter().flatten();
            entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        let mut client = server.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n");
        client.send(vec![b'x'; 300_000]);
        server.wait_for_log("a client request body is buffered to a temporary file");
        if mode == "off" {
            eventually("nobody needs its name", || files().is_empty());
        }
        drop(client);
        server.wait_for_log("client prematurely closed connection");
        eventually("nothing is left of it", || files().is_empty());
    }
}

#[test]
fn a_body_file_may_be_cleaned_up() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; client_body_in_file_only clean; client_body_temp_path %%PREFIX%%/temp/clean 1 2; \
                location / { proxy_pass http://%%UPSTREAM%%; proxy_set_header X-File $request_body_file; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\ncontent");
    let mut conversation = upstream.expect("POST /");
    let file = conversation.asked.field("X-File").expect("the file has a name").to_owned();
    assert_eq!(fs::read(&file).expect("the file is there while it is needed"), b"content");
    let levels = regex::Regex::new(r"/temp/clean/\d/\d\d/\d{10}$").expect("a fixed pattern");
    assert!(levels.is_match(&file), "{file}");
    conversation.reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
    eventually("the file is gone", || fs::metadata(&file).is_err());
}
