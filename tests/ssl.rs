//! `listen … ssl` and the `ssl_*` directives, by a rustls client and by those that people use.

use std::path::Path;
use std::process::Command;

use crate::kit::{Authority, Pair, Server, Setup, TlsClient, eventually, need};

/// A server's directory with these pairs as `NAME.crt` and `NAME.key`.
fn setup(pairs: &[(&str, &Pair)]) -> Setup {
    pairs.iter().fold(Setup::new(), |setup, (name, pair)| {
        let setup = setup.file(&format!("conf/{name}.crt"), &pair.certificate);
        setup.file(&format!("conf/{name}.key"), &pair.key)
    })
}

fn one(http: &str) -> Server {
    setup(&[("a", &Pair::of_itself("localhost"))]).start(http)
}

#[test]
fn requests_and_variables_over_tls() {
    let server = one("\
        ssl_certificate a.crt; ssl_certificate_key a.key;
        server { listen %%ADDR_0%% ssl; server_name localhost;
        location / { root html; }
        location /dir { return 301 /x; }
        location /vars { return 200 \"$scheme|$https|$ssl_protocol|$ssl_cipher|$ssl_curve|$ssl_server_name|\
        $ssl_session_reused|$ssl_client_verify|$ssl_alpn_protocol|$ssl_client_s_dn\"; } }
        server { listen %%ADDR_1%%; location / { return 200 \"$scheme|$https|$ssl_protocol|$ssl_session_id\"; } }");
    let mut secured = TlsClient::new().connect(&server.address(0), "localhost");
    let expected = "https|on|TLSv1.3|TLS_AES_256_GCM_SHA384|X25519MLKEM768|localhost|.|NONE||";
    let both: [&str; 2] = [expected, &expected.replace("X25519MLKEM768", "X25519")];
    let body = secured.client.get("/vars").response().text_body();
    assert!(both.contains(&body.as_str()), "{body}");
    // On the same connection.
    let moved = secured.client.get("/dir").response();
    moved.expect_status(301).expect_field("Location", &format!("https://localhost:{}/x", server.port(0)));
    assert_eq!(server.fetch_from(1, "/").text_body(), "http|||");
}

#[test]
fn files_of_all_sizes_arrive_whole() {
    let file: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).file("html/large", &file).file("html/small", "small");
    let server = server.start(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
        server { listen %%ADDR_0%% ssl; location / { root html; sendfile on; } location /large { root html; } }",
    );
    let mut client = TlsClient::new().connect(&server.address(0), "localhost").client;
    client.get("/small").response().expect_body("small");
    client.get("/large").response().expect_body(&file);
    let mut client = TlsClient::tls12().connect(&server.address(0), "localhost").client;
    client.send("GET //large HTTP/1.1\r\nHost: a\r\nRange: bytes=2000000-\r\n\r\n");
    client.response().expect_status(206).expect_body(&file[2_000_000..]);
}

#[test]
fn the_end_of_a_connection_is_announced() {
    let sizes = [0, 1_000, 16_000, 300_000, 3_000_000];
    let setup = setup(&[("a", &Pair::of_itself("localhost"))]);
    let setup = sizes.iter().fold(setup, |setup, size| setup.file(&format!("html/{size}"), vec![b'x'; *size]));
    let server = setup.start(
        "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; root html; sendfile on;
        location /text { return 200 text; } location /slow { root html; rewrite ^/slow(.*) $1 break; limit_rate 200k; }
        location /chunked { ssi on; ssi_types *; rewrite ^/chunked(.*) $1 break; } }",
    );
    for client in [TlsClient::new(), TlsClient::tls12()] {
        let ask = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = client.ask(&server.address(0), "localhost", &request);
            answer.unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        assert!(ask("/text").ends_with(b"\r\n\r\ntext"));
        assert!(ask("/none").starts_with(b"HTTP/1.1 404 "));
        assert!(ask("/slow/16000").ends_with(b"xxx"));
        assert!(ask("/chunked/16000").ends_with(b"\r\n0\r\n\r\n"));
        for size in sizes {
            let answer = ask(&format!("/{size}"));
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
            assert_eq!(answer.len() - head - 4, size);
        }
    }
}

/// How many sockets this machine's kernel has had the keys of; `None` where it makes no records.
fn given_to_the_kernel() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/net/tls_stat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("TlsTxSw"))?.trim().parse().ok()
}

#[test]
fn a_connection_goes_on_after_a_large_file() {
    let file: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let setup = setup(&[("a", &Pair::of_itself("localhost"))]).file("html/large", &file).file("html/small", "small");
    let server = setup.start(
        "ssl_certificate a.crt; ssl_certificate_key a.key; root html; sendfile on; client_max_body_size 10m;
        server { listen %%ADDR_0%% ssl; location /up { proxy_pass http://%%ADDR_2%%/; }
        location /vars { return 200 $ssl_protocol,$ssl_server_name; } }
        server { listen %%ADDR_1%% ssl; ssl_conf_command Options -KTLS; }
        server { listen %%ADDR_2%%; location / { client_body_in_file_only clean; return 200 $request_length; } }",
    );
    let log = server.wait_for_log("kTLS: ");
    let there = log.contains("kTLS: the kernel has it");
    for (client, version) in [(TlsClient::new(), "TLSv1.3"), (TlsClient::tls12(), "TLSv1.2")] {
        for n in [0, 1] {
            let before = given_to_the_kernel();
            let mut client = client.connect(&server.address(n), "localhost").client;
            client.get("/small").response().expect_body("small");
            client.get("/large").response().expect_body(&file);
            client.get("/small").response().expect_body("small");
            if n == 0 {
                client.get("/vars").response().expect_body(format!("{version},localhost"));
                client.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n");
                client.send(&file);
                client.response().expect_status(200);
                client.send("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=1000000-3999999\r\n\r\n");
                client.response().expect_status(206).expect_body(&file[1_000_000..4_000_000]);
            }
            let after = given_to_the_kernel();
            if there && n == 0 {
                eprintln!("kTLS: THE KERNEL made the records of {version}");
                assert!(after > before, "{before:?} {after:?}");
            } else {
                eprintln!("kTLS: RUSTLS made the records of {version}");
            }
        }
    }
}

#[test]
fn plain_http_is_told_so() {
    let server = one("\
        server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
        error_page 497 https://$host/; }
        server { listen %%ADDR_1%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; }");
    server.fetch("/").expect_status(302).expect_field("Location", "https://localhost/");
    server.fetch_from(1, "/").expect_status(400).expect_in_body("The plain HTTP request was sent to HTTPS port");
}

fn der(pair: &Pair) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM").to_vec()
}

#[test]
fn a_server_is_chosen_by_name_with_all_its_settings() {
    let (a, b) = (Pair::of_itself("a.example"), Pair::rsa("b.example"));
    let server = setup(&[("a", &a), ("b", &b)]).start(
        "server { listen %%ADDR_0%% ssl; server_name a.example; ssl_certificate a.crt; ssl_certificate_key a.key;
        return 200 a$ssl_protocol; }
        server { listen %%ADDR_0%% ssl; server_name b.example; ssl_certificate b.crt; ssl_certificate_key b.key;
        ssl_protocols TLSv1.2; return 200 b$ssl_protocol; }
        server { listen %%ADDR_0%% ssl; server_name c.example; ssl_reject_handshake on; }",
    );
    let client = TlsClient::new();
    for (name, pair, version, body) in [
        ("a.example", &a, "TLSv1_3", "aTLSv1.3"),
        ("b.example", &b, "TLSv1_2", "bTLSv1.2"),
        ("d.example", &a, "TLSv1_3", "aTLSv1.3"),
    ] {
        let mut secured = client.connect(&server.address(0), name);
        assert_eq!((secured.certificate, secured.version.as_str()), (der(pair), version), "{name}");
        secured.client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        secured.client.response().expect_body(body);
    }
    let refused = client.try_connect(&server.address(0), "c.example").err().expect("no handshake");
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
}

#[test]
fn both_kinds_of_certificates_side_by_side() {
    let (ec, rsa) = (Pair::of_itself("ec"), Pair::rsa("rsa"));
    let server = setup(&[("ec", &ec), ("rsa", &rsa)]).start(
        "server { listen %%ADDR_0%% ssl; ssl_protocols TLSv1.2; return 200 $ssl_cipher;
        ssl_certificate rsa.crt; ssl_certificate_key rsa.key; ssl_certificate ec.crt; ssl_certificate_key ec.key; }",
    );
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
    for (suite, name) in [
        (cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let provider = rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
        let client = TlsClient::with_provider(provider);
        client.connect(&server.address(0), "localhost").client.get("/").response().expect_body(name);
    }
}

#[test]
fn sessions_are_taken_up_again_and_only_where_they_were_made() {
    let (a, b) = (Pair::of_itself("localhost"), Pair::of_itself("localhost"));
    let server = setup(&[("a", &a), ("b", &b)]).start(
        "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
        return 200 $ssl_session_reused$ssl_session_id; }
        server { listen %%ADDR_1%% ssl; ssl_certificate b.crt; ssl_certificate_key b.key;
        return 200 $ssl_session_reused; }
        server { listen %%ADDR_2%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
        ssl_session_tickets off; return 200 $ssl_session_reused; }
        server { listen %%ADDR_3%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
        ssl_session_tickets off; ssl_session_cache shared:SSL:1m; return 200 $ssl_session_reused; }",
    );
    for (tls13, client) in [(true, TlsClient::new as fn() -> TlsClient), (false, TlsClient::tls12)] {
        let get = |client: &TlsClient, n: usize| {
            let mut secured = client.connect(&server.address(n), "localhost");
            let body = secured.client.get("/").response().text_body();
            assert_eq!(secured.resumed, body.starts_with('r'));
            body
        };
        let one = client();
        let (first, second) = (get(&one, 0), get(&one, 0));
        assert_eq!((&first[..1], &second[..1]), (".", "r"));
        assert_eq!(first.len(), second.len());
        if tls13 {
            assert_eq!(first[1..], second[1..], "the session keeps its number");
        }
        assert_eq!(get(&one, 1), ".", "another server's session");
        let one = client();
        assert_eq!((get(&one, 2), get(&one, 2)), (".".into(), ".".into()));
        let one = client();
        assert_eq!((get(&one, 3), get(&one, 3)), (".".into(), "r".into()));
    }
}

#[test]
fn tickets_survive_a_reload() {
    let conf = "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; return 200 BODY; }";
    let mut server = one(&conf.replace("BODY", "one"));
    let client = TlsClient::new();
    client.connect(&server.address(0), "localhost").client.get("/").response().expect_body("one");
    server.configure(&conf.replace("BODY", "two"));
    server.reload();
    let mut resumed = false;
    eventually("the new configuration serves", || {
        let mut secured = client.connect(&server.address(0), "localhost");
        resumed = secured.resumed;
        secured.client.get("/").response().text_body() == "two"
    });
    assert!(resumed, "a session of before the reload");
}

#[test]
fn clients_certificates() {
    let root = Authority::new("root");
    let (middle, stranger) = (root.below("middle"), Authority::new("stranger"));
    let (good, unknown) = (root.issue("good"), stranger.issue("unknown"));
    let deep = middle.issue("deep");
    let chained = Pair { certificate: format!("{}{}", deep.certificate, middle.certificate), key: deep.key.clone() };
    let own = Pair::of_itself("own");
    let server = setup(&[("a", &Pair::of_itself("localhost"))])
        .file("conf/root.crt", format!("{}{}", root.certificate, own.certificate))
        .start(
            "ssl_certificate a.crt; ssl_certificate_key a.key; ssl_client_certificate root.crt;
            add_header X-Dn $ssl_client_s_dn always;
            server { listen %%ADDR_0%% ssl; ssl_verify_client on; return 200 $ssl_client_verify; }
            server { listen %%ADDR_1%% ssl; ssl_verify_client optional; return 200 $ssl_client_verify; }
            server { listen %%ADDR_2%% ssl; ssl_verify_client optional_no_ca; return 200 $ssl_client_verify; }
            server { listen %%ADDR_3%% ssl; ssl_verify_client on; ssl_verify_depth 0; return 200 $ssl_client_verify; }",
        );
    let get = |n: usize, pair: Option<&Pair>| {
        let client = pair.map_or_else(TlsClient::new, TlsClient::identified);
        client.connect(&server.address(n), "localhost").client.get("/").response()
    };
    get(0, Some(&good)).expect_body("SUCCESS").expect_field("X-Dn", "CN=good");
    get(0, Some(&chained)).expect_body("SUCCESS");
    get(0, Some(&own)).expect_body("SUCCESS");
    get(0, None).expect_status(400).expect_in_body("No required SSL certificate was sent");
    get(0, Some(&unknown)).expect_status(400).expect_in_body("The SSL certificate error");
    get(0, Some(&deep)).expect_status(400);
    get(1, None).expect_body("NONE");
    get(1, Some(&unknown)).expect_status(400);
    get(2, Some(&unknown)).expect_body("FAILED:unable to verify the first certificate");
    get(3, Some(&good)).expect_body("SUCCESS");
    get(3, Some(&chained)).expect_status(400);
    let line = "client SSL certificate verify error: (21:unable to verify the first certificate)";
    assert!(server.error_log().contains(line), "{}", server.error_log());
}

#[test]
fn what_handshakes_are_signed_with() {
    let root = Authority::new("root");
    let (ec, rsa, own) = (Pair::of_itself("ec"), Pair::rsa("rsa"), root.issue("own"));
    let server = setup(&[("ec", &ec), ("rsa", &rsa)]).file("conf/root.crt", &root.certificate).start(
        "ssl_client_certificate root.crt; ssl_verify_client optional;
        server { listen %%ADDR_0%% ssl; ssl_certificate ec.crt; ssl_certificate_key ec.key;
        return 200 $ssl_sigalg|$ssl_client_sigalg|$ssl_ech_status$ssl_ech_outer_server_name; }
        server { listen %%ADDR_1%% ssl; ssl_certificate rsa.crt; ssl_certificate_key rsa.key;
        return 200 $ssl_sigalg|$ssl_client_sigalg|$ssl_sigalgs; }",
    );
    let get = |client: &TlsClient, n: usize| {
        client.connect(&server.address(n), "localhost").client.get("/").response().text_body()
    };
    let (known, unknown) = (TlsClient::identified(&own), TlsClient::new());
    assert_eq!(get(&known, 0), "ecdsa_secp256r1_sha256|ecdsa_secp256r1_sha256|");
    assert_eq!(get(&unknown, 0), "ecdsa_secp256r1_sha256||");
    assert_eq!(get(&unknown, 0), "||", "a session that is taken up again is signed by nobody");
    let body = get(&TlsClient::tls12(), 1);
    assert!(body.starts_with("rsa_pss_rsae_sha512||ecdsa_secp"), "{body}");
    assert!(body.contains(":ed25519:") && body.contains(":rsa_pkcs1_sha256"), "{body}");
}

#[test]
fn another_host_than_the_one_of_the_handshake_is_misdirected() {
    let root = Authority::new("root");
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).file("conf/root.crt", &root.certificate).start(
        "ssl_certificate a.crt; ssl_certificate_key a.key;
        server { listen %%ADDR_0%% ssl; server_name open; return 200 open; }
        server { listen %%ADDR_0%% ssl; server_name closed; ssl_verify_client on; ssl_client_certificate root.crt;
        return 200 closed; }",
    );
    let mut client = TlsClient::new().connect(&server.address(0), "open").client;
    client.send("GET / HTTP/1.1\r\nHost: open\r\n\r\n").response().expect_body("open");
    client.send("GET / HTTP/1.1\r\nHost: closed\r\n\r\n").response().expect_status(421);
}

#[test]
fn what_people_use() {
    let (Some(curl), Some(openssl)) = (need("curl"), need("openssl")) else { return };
    let root = Authority::new("root");
    let server = setup(&[("a", &root.issue("localhost"))]).file("conf/root.crt", &root.certificate).start(
        "server { listen %%ADDR_0%% ssl; server_name localhost; ssl_certificate a.crt; ssl_certificate_key a.key;
        return 200 $ssl_protocol; }",
    );
    let ca = server.path("conf/root.crt");
    for (most, version) in [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")] {
        let resolve = format!("localhost:{}:127.0.0.1", server.port(0));
        let url = format!("https://localhost:{}/", server.port(0));
        let args = ["-s", "-S", "--tls-max", most, "--resolve", &resolve, &url, "--cacert"];
        let out = Command::new(&curl).args(args).arg(&ca).output().expect("curl runs");
        assert_eq!(String::from_utf8_lossy(&out.stdout), version, "{}", String::from_utf8_lossy(&out.stderr));
    }
    let args =
        ["s_client", "-brief", "-verify_return_error", "-servername", "localhost", "-connect", &server.address(0)];
    let out = Command::new(&openssl).args(args).arg("-CAfile").arg(&ca).stdin(std::process::Stdio::null()).output();
    let said = String::from_utf8_lossy(&out.expect("openssl runs").stderr).into_owned();
    assert!(said.contains("Verification: OK") && said.contains("TLSv1.3"), "{said}");
}

#[test]
fn what_openssl_sees() {
    let Some(openssl) = need("openssl") else { return };
    let root = Authority::new("root");
    let (a, b, own) = (root.issue("a.example"), root.issue("b.example"), root.issue("own"));
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    // A responder's answer that says no more than that it does not know us.
    let setup = setup(&[("a", &a), ("b", &b), ("own", &own)]).file("conf/ocsp", [0x30, 0x03, 0x0a, 0x01, 0x06]);
    let server = setup.file("conf/root.crt", &root.certificate).file("request", request).start(
        "ssl_protocols TLSv1.2 TLSv1.3;
        server { listen %%ADDR_0%% ssl; server_name a.example; ssl_certificate a.crt; ssl_certificate_key a.key;
        ssl_stapling on; ssl_stapling_file ocsp; return 200 <$ssl_session_reused>; }
        server { listen %%ADDR_0%% ssl; server_name b.example; ssl_certificate b.crt; ssl_certificate_key b.key; }
        server { listen %%ADDR_1%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; ssl_verify_client optional;
        ssl_client_certificate root.crt; return 200 <$ssl_client_verify|$ssl_client_s_dn>; }",
    );
    let path = |name: &str| server.path(name).display().to_string();
    let ask_at = |n: usize, args: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-ign_eof", "-connect", &server.address(n)]).args(args);
        let input = std::fs::File::open(server.path("request")).expect("it was written");
        let out = command.stdin(input).output().expect("openssl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let ask = |args: &[&str]| ask_at(0, args);
    for (version, session) in [("-tls1_3", path("session13")), ("-tls1_2", path("session12"))] {
        let first = ask(&[version, "-servername", "a.example", "-sess_out", &session]);
        assert!(first.contains("<.>") && first.contains("New, TLSv1."), "{first}");
        let again = ask(&[version, "-servername", "a.example", "-sess_in", &session]);
        assert!(again.contains("<r>") && again.contains("Reused, TLSv1."), "{again}");
    }
    let (certificate, key, ca) = (path("conf/own.crt"), path("conf/own.key"), path("conf/root.crt"));
    let known = ask_at(1, &["-servername", "a.example", "-cert", &certificate, "-key", &key, "-CAfile", &ca]);
    assert!(known.contains("<SUCCESS|CN=own>") && known.contains("Verify return code: 0 (ok)"), "{known}");
    assert!(known.contains("Acceptable client certificate CA names"), "{known}");
    let stapled = ask(&["-servername", "a.example", "-status"]);
    assert!(stapled.contains("OCSP Response Status: unauthorized (0x6)"), "{stapled}");
    for (name, subject) in [(&["-servername", "b.example"][..], "b.example"), (&["-noservername"], "a.example")] {
        let shown = ask(name);
        let line = shown.lines().find(|line| line.starts_with("subject=")).unwrap_or_default();
        assert!(line.ends_with(subject), "{shown}");
    }
}

#[test]
fn what_does_not_fit_is_refused_at_load() {
    let (a, b) = (Pair::of_itself("a"), Pair::of_itself("b"));
    for (directives, message) in [
        ("", "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive in"),
        ("ssl_certificate a.crt;", "no \"ssl_certificate_key\" is defined for certificate \"a.crt\""),
        (
            "ssl_certificate none.crt; ssl_certificate_key a.key;",
            "none.crt\": BIO_new_file() failed (SSL: error:80000002:",
        ),
        ("ssl_certificate a.key; ssl_certificate_key a.key;", "PEM_read_bio_X509_AUX() failed (SSL: error:0480006C:"),
        ("ssl_certificate a.crt; ssl_certificate_key b.key;", "key values mismatch"),
        ("ssl_certificate a.crt; ssl_certificate_key a.key; ssl_ciphers RC4;", "no cipher match"),
        (
            "ssl_certificate a.crt; ssl_certificate_key a.key; ssl_ecdh_curve x;",
            "SSL_CTX_set1_curves_list(\"x\") failed",
        ),
        ("ssl_certificate a.crt; ssl_certificate_key a.key; ssl_protocols TLSv1;", "leaves no protocol"),
        ("ssl_certificate a.crt; ssl_certificate_key a.key; ssl_verify_client on;", "no ssl_client_certificate or"),
        ("ssl_certificate a.crt; ssl_certificate_key a.key; ssl_conf_command Options Compression;", "SSL_CONF_cmd("),
        ("ssl_session_cache shared:a;", "invalid session cache \"shared:a\""),
        ("ssl_session_cache shared:a:1k;", "session cache \"shared:a:1k\" is too small"),
    ] {
        let text = format!("events {{}} http {{ server {{ listen 127.0.0.1:1 ssl; {directives} }} }}");
        let output = setup(&[("a", &a), ("b", &b)]).check_text(&text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("[emerg]") && said.contains(message), "{directives}: {said}");
    }
}

#[test]
fn alpn_and_stapling() {
    // Any value of the right shape will do: the server passes it on.
    let answer = [0x30, 0x03, 0x0a, 0x01, 0x06];
    let setup = setup(&[("a", &Pair::of_itself("localhost"))]).file("conf/ocsp", answer);
    let server = setup.start(
        "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
        ssl_stapling on; ssl_stapling_file ocsp; return 200 $ssl_alpn_protocol; }",
    );
    let client = TlsClient::with(|config| config.alpn_protocols = vec![b"http/1.1".to_vec()]);
    let mut secured = client.connect(&server.address(0), "localhost");
    assert_eq!((secured.alpn.as_deref(), secured.stapled.as_slice()), (Some("http/1.1"), &answer[..]));
    secured.client.get("/").response().expect_body("http/1.1");
    let client = TlsClient::with(|config| config.alpn_protocols = vec![b"spdy/1".to_vec()]);
    let refused = client.try_connect(&server.address(0), "localhost").err().expect("no handshake");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn certificates_named_by_variables() {
    let (a, b) = (Pair::of_itself("a.example"), Pair::of_itself("b.example"));
    let server = setup(&[("a.example", &a), ("b.example", &b)]).start(
        "server { listen %%ADDR_0%% ssl; ssl_certificate_cache max=10;
        ssl_certificate $ssl_server_name.crt; ssl_certificate_key $ssl_server_name.key; return 200 ok; }",
    );
    let client = TlsClient::new();
    for name in ["a.example", "b.example", "a.example"] {
        client.connect(&server.address(0), name).client.get("/").response().expect_body("ok");
    }
    assert!(client.try_connect(&server.address(0), "c.example").is_err());
    let log = server.error_log();
    assert!(log.contains("cannot load certificate") && log.contains("c.example.crt"), "{log}");
}

#[test]
fn keys_of_every_kind() {
    let Some(openssl) = need("openssl") else { return };
    let run = |setup: &Setup, args: &str| {
        let args: Vec<_> = args.split(' ').collect();
        let out = Command::new(&openssl).args(&args).current_dir(setup.prefix().join("conf")).output();
        let out = out.expect("openssl runs");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let setup = Setup::new().file("conf/passwords", "wrong\nsecret\n");
    run(&setup, "genrsa -out pkcs8.key 2048");
    run(&setup, "rsa -in pkcs8.key -traditional -out pkcs1.key");
    run(&setup, "rsa -in pkcs8.key -traditional -aes256 -passout pass:secret -out old.key");
    run(&setup, "pkcs8 -topk8 -in pkcs8.key -passout pass:secret -out new.key");
    run(&setup, "req -x509 -new -key pkcs8.key -subj /CN=rsa -out rsa.crt");
    run(&setup, "ecparam -name prime256v1 -genkey -noout -out sec1.key");
    run(&setup, "req -x509 -new -key sec1.key -subj /CN=ec -out ec.crt");
    let mut conf = "ssl_password_file passwords;".to_owned();
    for (n, key) in ["pkcs8", "pkcs1", "old", "new", "sec1"].iter().enumerate() {
        let certificate = if *key == "sec1" { "ec" } else { "rsa" };
        conf.push_str(&format!(
            "server {{ listen %%ADDR_{n}%% ssl; ssl_certificate {certificate}.crt; ssl_certificate_key {key}.key;
            return 200 {key}; }}"
        ));
    }
    let server = setup.start(&conf);
    for (n, key) in ["pkcs8", "pkcs1", "old", "new", "sec1"].iter().enumerate() {
        TlsClient::new().connect(&server.address(n), "localhost").client.get("/").response().expect_body(key);
    }
}

/// What openssl prints when it asks what the file `request` says.
fn s_client(openssl: &Path, server: &Server, args: &[&str]) -> String {
    let mut command = Command::new(openssl);
    command.args(["s_client", "-ign_eof", "-tls1_3", "-connect", &server.address(0)]).args(args);
    let input = std::fs::File::open(server.path("request")).expect("it was written");
    let out = command.stdin(input).output().expect("openssl runs");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Asks, and keeps the session for [`early`].
fn first_of_two(openssl: &Path, server: &Server) -> String {
    s_client(openssl, server, &["-sess_out", &server.path("session").display().to_string()])
}

/// Asks again before the handshake is over.
fn early(openssl: &Path, server: &Server) -> String {
    let [session, request] = ["session", "request"].map(|name| server.path(name).display().to_string());
    s_client(openssl, server, &["-sess_in", &session, "-early_data", &request])
}

#[test]
fn requests_that_come_early() {
    let Some(openssl) = need("openssl") else { return };
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let server = setup(&[("a", &Pair::of_itself("localhost"))]).file("request", request).start(
        "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; ssl_early_data on;
        return 200 <$ssl_early_data|$ssl_session_reused>; }",
    );
    let first = first_of_two(&openssl, &server);
    assert!(first.contains("<|.>"), "{first}");
    let second = early(&openssl, &server);
    assert!(second.contains("Early data was accepted") && second.contains("<1|r>"), "{second}");
    let again = early(&openssl, &server);
    assert!(!again.contains("Early data was accepted") && again.contains("<|.>"), "used twice: {again}");
}

/// The client's last words of the handshake come while the answer leaves: closing over them would cut it.
#[test]
fn a_large_answer_to_who_asks_early_arrives_whole() {
    const SIZE: usize = 8 << 20;
    let Some(openssl) = need("openssl") else { return };
    let request = "GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let server = setup(&[("a", &Pair::of_itself("localhost"))])
        .file("request", request)
        .file("html/large", "#".repeat(SIZE))
        .start(
            "server { listen %%ADDR_0%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; ssl_early_data on; }",
        );
    for _ in 0..3 {
        first_of_two(&openssl, &server);
        // The request stands twice in what is asked: once early, and once as the program's input.
        let came = early(&openssl, &server).matches('#').count();
        assert!(came >= SIZE, "{came} bytes came of {SIZE}");
    }
}

/// A responder by openssl's own tool, for certificates of which one may be revoked.
struct Responder {
    child: std::process::Child,
}

impl Responder {
    fn start(openssl: &std::path::Path, setup: &Setup, port: u16) -> Responder {
        let mut command = Command::new(openssl);
        command.current_dir(setup.prefix().join("conf"));
        command.args(["ocsp", "-index", "index.txt", "-CA", "root.crt", "-rsigner", "root.crt", "-rkey", "root.key"]);
        command.args(["-port", &port.to_string(), "-ndays", "1", "-ignore_err"]);
        let said = setup.prefix().join("responder");
        let out = std::fs::File::create(&said).expect("the directory is ours");
        let both = out.try_clone().expect("a file can be shared");
        let child = command.stdin(std::process::Stdio::null()).stdout(out).stderr(both).spawn().expect("openssl runs");
        let responder = Responder { child };
        // A connection that asks nothing would hold it up, so it is believed when it says that it waits.
        eventually("the responder waits", || {
            std::fs::read_to_string(&said).is_ok_and(|text| text.contains("waiting for OCSP client connections"))
        });
        responder
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn responders_are_asked_about_clients_and_for_stapling() {
    let Some(openssl) = need("openssl") else { return };
    let port = crate::kit::ports::Port::allot();
    let url = format!("http://127.0.0.1:{}", port.number);
    let setup = Setup::new().file("conf/index.txt", "").file("conf/serial", "1000\n").file(
        "conf/ca.conf",
        "[ca]\ndefault_ca=my\n[my]\nnew_certs_dir=.\ndatabase=index.txt\nserial=serial\ndefault_md=sha256\n\
         policy=p\ndefault_days=2\nunique_subject=no\nx509_extensions=e\n[e]\nbasicConstraints=CA:FALSE\n[p]\ncommonName=supplied\n[req]\ndistinguished_name=d\n[d]\n",
    );
    let run = |args: &str| {
        let args: Vec<_> = args.split(' ').collect();
        let out = Command::new(&openssl).args(&args).current_dir(setup.prefix().join("conf")).output();
        let out = out.expect("openssl runs");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config ca.conf";
    run(&format!("req -x509 {key} -keyout root.key -out root.crt -subj /CN=root -addext basicConstraints=CA:TRUE"));
    for name in ["server", "good", "revoked"] {
        run(&format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        run(&format!(
            "ca -batch -notext -config ca.conf -keyfile root.key -cert root.crt -in {name}.csr -out {name}.crt"
        ));
    }
    run("ca -config ca.conf -keyfile root.key -cert root.crt -revoke revoked.crt");
    let read = |name: &str| std::fs::read_to_string(setup.prefix().join("conf").join(name)).expect("it was made");
    let pair = |name: &str| Pair { certificate: read(&format!("{name}.crt")), key: read(&format!("{name}.key")) };
    let (good, revoked) = (pair("good"), pair("revoked"));
    let responder = Responder::start(&openssl, &setup, port.number);
    let server = setup.set("URL", &url).start(
        "ssl_certificate server.crt; ssl_certificate_key server.key; ssl_trusted_certificate root.crt;
        server { listen %%ADDR_0%% ssl; ssl_verify_client on; ssl_ocsp on; ssl_ocsp_responder %%URL%%;
        ssl_ocsp_cache shared:O:1m; add_header X-Verify $ssl_client_verify always; return 200 ok; }
        server { listen %%ADDR_1%% ssl; ssl_stapling on; ssl_stapling_verify on; ssl_stapling_responder %%URL%%;
        return 200 ok; }",
    );
    let get =
        |pair: &Pair| TlsClient::identified(pair).connect(&server.address(0), "localhost").client.get("/").response();
    get(&good).expect_status(200).expect_field("X-Verify", "SUCCESS");
    get(&revoked).expect_status(400).expect_field("X-Verify", "FAILED:certificate revoked");
    eventually("the certificate comes with an answer", || {
        !TlsClient::new().connect(&server.address(1), "localhost").stapled.is_empty()
    });
    drop(responder);
    // What was said is kept; of whom nothing was said nothing can be known.
    get(&good).expect_status(200).expect_field("X-Verify", "SUCCESS");
}

/// A value of a process's `/proc/PID/status`, in KiB.
fn status(pid: nix::unistd::Pid, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the kernel says it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// Processor time of a process, in milliseconds.
fn processor(pid: nix::unistd::Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = text.rsplit(')').next().expect("the kernel writes one");
    let ticks = |n: usize| rest.split_whitespace().nth(n).and_then(|word| word.parse::<u64>().ok()).expect("a number");
    (ticks(11) + ticks(12)) * 10
}

#[test]
fn thousands_of_servers_with_their_own_certificates() {
    // With WEIR_TEST_COSTS=1 and an optimised binary the whole; else a part that an ordinary build bears.
    let costs = std::env::var_os("WEIR_TEST_COSTS").is_some();
    let count = if costs { 10_000 } else { 1_000 };
    let pairs = Pair::many((0..count).map(|n| format!("s{n}.example")));
    let server = |n: usize| {
        format!(
            "server {{ listen %%ADDR_0%% ssl; server_name s{n}.example; ssl_certificate s{n}.crt;
            ssl_certificate_key s{n}.key; return 200 {n}; }}\n"
        )
    };
    let few = setup(&[("s0", &pairs[0])]).start(&server(0));
    let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
    let files: Vec<(&str, &Pair)> = names.iter().map(String::as_str).zip(&pairs).collect();
    let many = setup(&files).start(&(0..count).map(server).collect::<String>());
    let client = TlsClient::new();
    for n in [0, count / 2, count - 1] {
        let mut secured = client.connect(&many.address(0), &format!("s{n}.example"));
        secured.client.send(format!("GET / HTTP/1.1\r\nHost: s{n}.example\r\n\r\n"));
        secured.client.response().expect_body(n.to_string());
        assert_eq!(secured.certificate, der(&pairs[n]), "s{n}");
    }
    let time = processor(many.pid());
    let each = status(many.workers()[0], "VmRSS:").saturating_sub(status(few.workers()[0], "VmRSS:")) * 1024 / count;
    if costs {
        eprintln!("{count} servers: {time} ms to load, {each} bytes each");
    }
    assert!(time < 2_000, "{time} ms");
    assert!(each < 50 * 1024, "{each} bytes each");
}
