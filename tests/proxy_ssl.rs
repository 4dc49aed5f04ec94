//! `proxy_pass https://…` and the `proxy_ssl_*` directives: the upstream is another server of the same process.

use crate::kit::{Authority, Pair, Server, Setup, Upstream};

fn setup(pairs: &[(&str, &Pair)]) -> Setup {
    pairs.iter().fold(Setup::new(), |setup, (name, pair)| {
        let setup = setup.file(&format!("conf/{name}.crt"), &pair.certificate);
        setup.file(&format!("conf/{name}.key"), &pair.key)
    })
}

fn body(server: &Server, path: &str) -> String {
    server.fetch(path).text_body()
}

#[test]
fn requests_go_by_tls() {
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).start(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
        upstream u { server %%ADDR_1%%; }
        server { listen %%ADDR_0%%; location /fixed { proxy_pass https://%%ADDR_1%%; }
        location /group { proxy_pass https://u; }
        location /variable { set $to https://%%ADDR_1%%; proxy_pass $to; }
        location /named { proxy_pass https://%%ADDR_1%%; proxy_ssl_server_name on; proxy_ssl_name a.example:80; }
        location /old { proxy_pass https://%%ADDR_1%%; proxy_ssl_protocols TLSv1.2;
        proxy_ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256; }
        location /plain { proxy_pass http://%%ADDR_1%%; }
        location /vars { proxy_set_header X $proxy_host:$proxy_port; proxy_pass https://u; } }
        server { listen %%ADDR_1%% ssl; location / {
        return 200 $scheme|$ssl_protocol|$ssl_server_name|$ssl_cipher; } location /vars { return 200 $http_x; } }",
    );
    let any = "https|TLSv1.3||TLS_AES_256_GCM_SHA384";
    for (path, expected) in [
        ("/fixed", any),
        ("/group", any),
        ("/variable", any),
        ("/named", "https|TLSv1.3|a.example|TLS_AES_256_GCM_SHA384"),
        ("/old", "https|TLSv1.2||ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("/vars", "u:443"),
    ] {
        assert_eq!(body(&server, path), expected, "{path}");
    }
    server.fetch("/plain").expect_status(400);
}

#[test]
fn sessions_are_taken_up_again_unless_switched_off() {
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).start(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
        server { listen %%ADDR_0%%; proxy_http_version 1.0; location / { proxy_pass https://%%ADDR_1%%; }
        location /off { proxy_pass https://%%ADDR_1%%; proxy_ssl_session_reuse off; }
        location /old { proxy_pass https://%%ADDR_1%%; proxy_ssl_protocols TLSv1.2; } }
        server { listen %%ADDR_1%% ssl; return 200 $ssl_session_reused; }",
    );
    for (path, again) in [("/", "r"), ("/off", "."), ("/old", "r")] {
        assert_eq!((body(&server, path), body(&server, path)), (".".to_owned(), again.to_owned()), "{path}");
    }
}

#[test]
fn connections_are_kept_by_what_was_asked_of_them() {
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).start(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
        upstream u { server %%ADDR_1%%; keepalive 4; }
        server { listen %%ADDR_0%%; proxy_http_version 1.1; proxy_set_header Connection \"\";
        location / { proxy_pass https://u; proxy_ssl_server_name on; proxy_ssl_name $arg_name; } }
        server { listen %%ADDR_1%% ssl; return 200 $connection|$ssl_server_name; }",
    );
    let (a, again, b) = (body(&server, "/?name=a"), body(&server, "/?name=a"), body(&server, "/?name=b"));
    assert_eq!(a, again);
    assert!(a.ends_with("|a") && b.ends_with("|b"), "{a} {b}");
}

#[test]
fn servers_are_judged_where_that_is_asked_for() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let good = root.issue("good.example");
    let server = setup(&[("a", &good)])
        .file("conf/root.crt", &root.certificate)
        .file("conf/other.crt", &other.certificate)
        .start(
            "ssl_certificate a.crt; ssl_certificate_key a.key;
            server { listen %%ADDR_0%%; proxy_ssl_trusted_certificate root.crt; proxy_ssl_verify on;
            location /good { proxy_pass https://%%ADDR_1%%; proxy_ssl_name good.example; }
            location /name { proxy_pass https://%%ADDR_1%%; proxy_ssl_name bad.example; }
            location /off { proxy_pass https://%%ADDR_1%%; proxy_ssl_verify off; }
            location /other { proxy_pass https://%%ADDR_1%%; proxy_ssl_name good.example;
            proxy_ssl_trusted_certificate other.crt; } }
            server { listen %%ADDR_1%% ssl; return 200 ok; }",
        );
    for (path, status) in [("/good", 200), ("/name", 502), ("/off", 200), ("/other", 502), ("/good", 200)] {
        server.fetch(path).expect_status(status);
    }
    let log = server.error_log();
    for line in [
        "upstream SSL certificate does not match \"bad.example\" while SSL handshaking to upstream",
        "upstream SSL certificate verify error: (21:unable to verify the first certificate) while SSL handshaking to",
    ] {
        assert!(log.contains(line), "{line} in\n{log}");
    }
}

#[test]
fn a_certificate_of_our_own() {
    let root = Authority::new("root");
    let (one, two) = (root.issue("one"), root.issue("two"));
    let server = setup(&[("a", &Pair::of_itself("localhost")), ("one", &one), ("two", &two)])
        .file("conf/root.crt", &root.certificate)
        .start(
            "ssl_certificate a.crt; ssl_certificate_key a.key;
            server { listen %%ADDR_0%%; proxy_http_version 1.0;
            location /none { proxy_pass https://%%ADDR_1%%; }
            location /one { proxy_pass https://%%ADDR_1%%; proxy_ssl_certificate one.crt;
            proxy_ssl_certificate_key one.key; }
            location /any { proxy_pass https://%%ADDR_1%%; proxy_ssl_certificate_cache max=4;
            proxy_ssl_certificate $arg_cert.crt; proxy_ssl_certificate_key $arg_cert.key; } }
            server { listen %%ADDR_1%% ssl; ssl_verify_client optional; ssl_client_certificate root.crt;
            return 200 $ssl_client_verify:$ssl_client_s_dn; }",
        );
    for (path, expected) in [
        ("/none", "NONE:"),
        ("/one", "SUCCESS:CN=one"),
        ("/any?cert=two", "SUCCESS:CN=two"),
        ("/any?cert=one", "SUCCESS:CN=one"),
        ("/any?cert=two", "SUCCESS:CN=two"),
    ] {
        assert_eq!(body(&server, path), expected, "{path}");
    }
    server.fetch("/any?cert=none").expect_status(500);
    assert!(server.error_log().contains("cannot load certificate"), "{}", server.error_log());
}

#[test]
fn plain_bytes_are_no_handshake() {
    let upstream = Upstream::start();
    let server = Setup::new()
        .set("UPSTREAM", upstream.address())
        .start("server { listen %%ADDR_0%%; location / { proxy_pass https://%%UPSTREAM%%; } }");
    let mut client = server.client();
    client.get("/");
    let mut asked = upstream.accept();
    asked.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.response().expect_status(502);
    let line = "SSL_do_handshake() failed (SSL: error:0A00010B:SSL routines::wrong version number)";
    assert!(server.error_log().contains(line), "{}", server.error_log());
}

#[test]
fn bodies_of_all_sizes_pass_both_ways() {
    let large: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 253) as u8).collect();
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).file("html/large", &large).start(
        "ssl_certificate a.crt; ssl_certificate_key a.key; client_max_body_size 0;
        server { listen %%ADDR_0%%; location / { proxy_pass https://%%ADDR_1%%; }
        location /stream/ { proxy_pass https://%%ADDR_1%%/; proxy_request_buffering off; proxy_buffering off; } }
        server { listen %%ADDR_1%% ssl; location /large { root html; }
        location /count { client_body_buffer_size 4k; proxy_pass http://%%ADDR_2%%; } }
        server { listen %%ADDR_2%%; location / { client_body_in_single_buffer on; return 200 $content_length; } }",
    );
    server.fetch("/large").expect_body(&large);
    server.fetch("/stream/large").expect_body(&large);
    for path in ["/count", "/stream/count"] {
        let mut client = server.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len())).send(&large);
        client.response().expect_status(200).expect_body(large.len().to_string());
    }
}
