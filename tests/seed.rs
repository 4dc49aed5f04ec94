//! A real configuration, served as it is: `tests/seed` with nothing changed but addresses, paths and the user's name.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::Message;

use crate::kit::both::{Exchange, difference};
use crate::kit::websocket::{Echo, connect};
use crate::kit::{Asked, Both, Client, Server, Setup, Step, Upstream, holds_within};

const NGINX_CONF: &str = include_str!("seed/nginx.conf");
const TEST_COM: &str = include_str!("seed/test.com");

/// Starts the seed with its upstream at `upstream`.
fn start(setup: Setup, upstream: &str) -> Server {
    let root = nix::unistd::Uid::effective().is_root();
    let mut text = NGINX_CONF.to_owned();
    let mut change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in the seed");
        text = text.replace(from, to);
    };
    change("user apps apps;", if root { "user nobody nogroup;" } else { "" });
    change("/dev/shm/temp", "%%PREFIX%%/temp/proxy");
    change("/home/apps/tengine/conf/test.com", "%%PREFIX%%/conf/test.com");
    change("/dev/shm/cache", "%%PREFIX%%/temp/cache");
    // What the seed leaves to defaults is not where a test may write.
    let cache = text.lines().find(|line| line.trim_start().starts_with("proxy_cache_path")).map(str::to_owned);
    let cache = cache.expect("the seed has a cache");
    text = text.replace(&cache, &format!("{cache} client_body_temp_path temp/body; fastcgi_temp_path temp/fastcgi;"));
    let server = TEST_COM.replace("192.168.1.5:9000", upstream).replace("listen       80;", "listen %%ADDR_0%%;");
    // Its format is defined and not used; what it says is to be seen.
    let server =
        server.replace("#access_log  logs/host.access.log  main;", "access_log logs/host.access.log log_access;");
    assert!(server.contains("log_access;") && server.contains("%%ADDR_0%%"), "{server}");
    let setup = setup.pid_file("logs/nginx.pid").include("conf/test.com", &server);
    let setup = setup.file(
        "conf/mime.types",
        "types { text/html html; text/plain txt; text/css css; application/xml xml; image/png png; }",
    );
    let setup = setup.file("html/index.html", "<p>index</p>").file("html/small.txt", "x".repeat(1023));
    let setup = setup.file("html/limit.txt", "x".repeat(1024)).file("html/big.css", "body { }\n".repeat(30_000));
    let setup = setup.file("html/big.xml", "<a/>".repeat(1000)).file("html/big.png", "p".repeat(50_000));
    let setup = setup.file("html/big.html", "<p>word</p>".repeat(1000));
    // Not every machine lets even root have as many open files as the seed asks for, and nginx calls that an alert.
    setup.allow_alerts().start_text(&text)
}

#[test]
fn the_seed_answers_as_nginx_answers() {
    let open = Permissions::from_mode(0o755);
    let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
    let upstream = Upstream::start().serve(|asked: &Asked| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
        let shown = format!("{}{}", asked.head, asked.body.len());
        vec![Step::Bytes(format!("{head} {}\r\n\r\n{shown}", shown.len()).into_bytes()), Step::Close]
    });
    let address = upstream.address.to_string();
    let Some(both) = Both::within(&Arc::new(root), |setup| start(setup, &address)) else { return };
    let get = |path: &str, fields: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: test.com\r\nConnection: close\r\n{fields}\r\n")
    };
    let zip = "Accept-Encoding: gzip\r\n";
    let mut requests = vec![
        get("/", ""),
        get("/index.html", ""),
        get("/missing", "Referer: http://example.com/\r\nUser-Agent: tester \"1\"\r\n"),
        get("/small.txt?zip", zip),
        get("/limit.txt?zip", zip),
        get("/limit.txt", ""),
        get("/big.css?zip", zip),
        get("/big.xml?zip", zip),
        get("/big.png?zip", zip),
        get("/big.html?zip", zip),
        get("/big.css", "Range: bytes=0-99\r\n"),
        get("/big.css", "If-None-Match: \"65937d25-41eb0\"\r\n"),
        get("/big.css", "Accept-Encoding: gzip\r\nVia: 1.1 a\r\n"),
        "GET /big.css?zip HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n".to_owned(),
        "HEAD /big.css HTTP/1.0\r\n\r\n".to_owned(),
        get("/websocket/echo?a=b", "X-Forwarded-For: 10.1.2.3\r\nX-Own: kept\r\n"),
        get("/websocket", "Authorization: Basic Ym9iOnNlY3JldA==\r\n"),
        "POST /websocket/up HTTP/1.1\r\nHost: test.com:81\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
            .to_owned(),
        format!(
            "POST /websocket/up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 600000\r\n\r\n{}",
            "b".repeat(600_000)
        ),
        "POST /websocket/up HTTP/1.1\r\nHost: a\r\nContent-Length: 83886081\r\n\r\n".to_owned(),
    ];
    // One field or line may be as long as a large buffer, and all of them as long as the four.
    for length in [4_000, 32_600, 32_760, 32_768] {
        requests.push(get("/", &format!("X: {}\r\n", "y".repeat(length))));
        requests.push(get(&format!("/?{}", "z".repeat(length)), ""));
    }
    requests.push(get("/", &format!("X: {}\r\n", "y".repeat(30_000)).repeat(4)));
    requests.push(get("/", &format!("X: {}\r\n", "y".repeat(30_000)).repeat(5)));
    // How gzip packed a body is the one thing that may differ in a line.
    let size = regex::Regex::new(r#"(\?zip HTTP.* "-")200 \d+ "#).expect("a fixed pattern");
    let mut differences = Vec::new();
    for request in &requests {
        let (mut expected, got) = both.ask(&Exchange::new(request));
        if request.starts_with("GET /websocket") || request.starts_with("POST /websocket") {
            expected = host_first(&expected);
        }
        if expected != host_first(&got) {
            let start: String = request.chars().take(300).collect();
            differences.push(format!("{start}\n{}", difference(&expected, &got)));
        }
    }
    for log in ["host.access.log", "error.log"] {
        let full = || both.log_lines(log).1.len() >= both.log_lines(log).0.len();
        holds_within(Duration::from_secs(3), full);
        let (expected, got) = both.log_lines(log);
        let without = |lines: Vec<String>| -> Vec<String> {
            let mut lines: Vec<String> =
                lines.iter().map(|line| size.replace(line, "${1}200 N ").into_owned()).collect();
            lines.sort(); // four workers write, each when it comes to it
            lines
        };
        let (expected, got) = (without(expected), without(got));
        if expected != got {
            differences.push(format!("{log}\n{}", difference(&expected.join("\n"), &got.join("\n"))));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Puts the Host line of an echoed request head first: nginx moved it there after the release that Debian has.
fn host_first(answer: &str) -> String {
    let mut lines: Vec<&str> = answer.lines().collect();
    let request = lines.iter().position(|line| line.ends_with(" HTTP/1.1") && !line.starts_with("HTTP/"));
    let host = lines.iter().position(|line| line.starts_with("Host: "));
    if let (Some(request), Some(host)) = (request, host) {
        let line = lines.remove(host);
        lines.insert(request + 1, line);
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_conversation_goes_through_the_seed() {
    let echo = Echo::start();
    let server = start(Setup::new(), &echo.address.to_string());
    let mut socket = connect(&server.address(0), "/websocket/chat");
    for number in 0..100 {
        let message = Message::text(format!("message {number}"));
        socket.send(message.clone()).expect("the tunnel is open");
        assert_eq!(socket.read().expect("an echo"), message);
    }
    socket.close(None).expect("the tunnel is open");
    while socket.read().is_ok() {}
    drop(socket);
    let line = server.wait_for_line("host.access.log", "/websocket/chat");
    let pattern = r#"^127\.0\.0\.1 - - \[.*\] "GET /websocket/chat HTTP/1\.1" "\d+\.\d{3}" "\d+\.\d{3}"101 \d+ "-" "-" - 127\.0\.0\.1 \S+$"#;
    assert!(regex::Regex::new(pattern).expect("a fixed pattern").is_match(&line), "{line}");
}

#[test]
fn every_timeout_of_the_seed_is_kept() {
    let upstream = Upstream::start();
    let server = start(Setup::new(), &upstream.address().to_string());
    let seconds = |time: Duration, expected: f64, what: &str| {
        let time = time.as_secs_f64();
        assert!(time > expected - 0.6 && time < expected + 4.0, "{what}: {time} s instead of {expected}");
    };
    let ended = |client: &mut Client, begun: Instant| {
        client.read_to_end(begun + Duration::from_secs(90)).expect("the server closes");
        begun.elapsed()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, begun) = (server.client(), Instant::now());
            client.send("GET / HTTP/1.1\r\nHost: te");
            seconds(ended(&mut client, begun), 5.0, "client_header_timeout");
        });
        scope.spawn(|| {
            let (mut client, begun) = (server.client(), Instant::now());
            client.send("POST /websocket HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
            seconds(ended(&mut client, begun), 5.0, "client_body_timeout");
        });
        scope.spawn(|| {
            let mut client = server.client();
            client.get("/").response().expect_field("Connection", "keep-alive");
            let begun = Instant::now();
            seconds(ended(&mut client, begun), 5.0, "keepalive_timeout");
        });
        scope.spawn(|| {
            let mut client = server.client();
            client.get("/websocket/silent");
            let mut silent = upstream.expect("GET /websocket/silent");
            let begun = Instant::now();
            let response = client.try_response(Duration::from_secs(90)).expect("an answer");
            response.expect_status(504);
            seconds(begun.elapsed(), 60.0, "proxy_read_timeout");
            silent.expect_closed();
        });
    });
}
