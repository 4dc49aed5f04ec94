//! memcached: what is asked, what becomes of what is said, and a real memcached.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::kit::{DEADLINE, Server, Setup, Upstream, holds_within, need};

/// A real one, on a socket of its own.
struct Memcached {
    child: Child,
    socket: PathBuf,
    _root: tempfile::TempDir,
}

impl Memcached {
    /// `None`: it is not installed, and the test is to return.
    fn start() -> Option<Memcached> {
        let program = need("memcached")?;
        let root = tempfile::Builder::new().prefix("weir-memcached-").tempdir().expect("a temporary directory");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(root.path(), open).expect("the directory is ours");
        let socket = root.path().join("socket");
        let mut command = Command::new(program);
        command.args(["-u", "nobody", "-a", "0777", "-m", "8", "-t", "1", "-s"]).arg(&socket);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let memcached = Memcached { child: child.expect("memcached starts"), socket, _root: root };
        assert!(holds_within(DEADLINE, || UnixStream::connect(&memcached.socket).is_ok()), "memcached is not ready");
        Some(memcached)
    }

    fn set(&self, key: &str, flags: u32, value: &[u8]) {
        let mut stream = UnixStream::connect(&self.socket).expect("it listens");
        let head = format!("set {key} {flags} 0 {}\r\n", value.len());
        stream.write_all(&[head.as_bytes(), value, b"\r\n"].concat()).expect("it takes a value");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"STORED\r\n");
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn values_are_served() {
    let Some(memcached) = Memcached::start() else { return };
    let large = vec![b'x'; 300_000];
    let zipped: Vec<u8> = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"unzipped").expect("it is in memory");
        encoder.finish().expect("it is in memory")
    };
    memcached.set("/a.txt", 0, b"a text");
    memcached.set("/large", 0, &large);
    memcached.set("/with%20space", 0, b"escaped");
    memcached.set("/zipped", 2, &zipped);
    memcached.set("/empty", 0, b"");
    let server = Setup::new().set("SOCKET", memcached.socket.display()).file("html/none.txt", "from a file").start(
        "types { text/plain txt; } default_type text/x-other; upstream m { server unix:%%SOCKET%%; keepalive 1; } \
         server { listen %%ADDR_0%%; root html; set $memcached_key $uri; gunzip on; memcached_gzip_flag 2; \
         location / { memcached_pass m; error_page 404 = @file; } \
         location @file { add_header X-From file; } \
         location /only/ { memcached_pass m; } location = /unset { set $memcached_key ''; memcached_pass m; } }",
    );
    for _ in 0..2 {
        let text = server.fetch("/a.txt");
        text.expect_status(200).expect_field("Content-Type", "text/plain").expect_body("a text");
        text.expect_field("Content-Length", "6");
    }
    server.fetch("/large").expect_status(200).expect_field("Content-Type", "text/x-other").expect_body(&large);
    server.fetch("/with%20space").expect_body("escaped");
    server.fetch("/zipped").expect_status(200).expect_body("unzipped");
    server.fetch("/empty").expect_status(200).expect_body("");
    server.fetch("/none.txt").expect_status(200).expect_field("X-From", "file").expect_body("from a file");
    server.fetch("/only/none").expect_status(404).expect_in_body("404 Not Found");
    server.fetch("/unset").expect_status(500);
    server.wait_for_log("the \"$memcached_key\" variable is not set");
    let mut client = server.client();
    client.send("HEAD /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(String::from_utf8_lossy(&client.rest()).contains("Content-Length: 6\r\n"));
    let mut client = server.client();
    client.send("POST /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
    client.response().expect_status(405);
    let mut client = server.client();
    client.send("GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes=2-3\r\n\r\n");
    client.response().expect_status(206).expect_body("te");
}

fn serve(upstream: &Upstream, more: &str) -> Server {
    Setup::new().set("UPSTREAM", upstream.address()).start(&format!(
        "upstream m {{ server %%UPSTREAM%%; keepalive 1; }} server {{ listen %%ADDR_0%%; set $memcached_key $uri; {more} \
         location / {{ memcached_pass m; }} }}"
    ))
}

#[test]
fn a_value_and_its_end_may_come_in_pieces() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    let mut client = server.client();
    client.get("/k");
    let mut memcached = upstream.accept();
    memcached.expect_bytes("get /k\r\n").reply("VALUE /k 0");
    memcached.reply(" 4\r\nbo").reply("dy\r\n").reply("END\r").reply("\n");
    client.response().expect_status(200).expect_body("body");
    // The same connection serves the next, and one where nothing is found.
    client.get("/none");
    memcached.expect_bytes("get /none\r\n").reply("END\r\n");
    client.response().expect_status(404);
    client.get("/k");
    memcached.expect_bytes("get /k\r\n").reply("VALUE /k 0 0\r\n\r\nEND\r\n");
    client.response().expect_status(200).expect_body("");
    // A value that is moved through a pipe, and what ends it, at once and later.
    let value = "x".repeat(100_000);
    for end in [&["\r\nEND\r\n"][..], &["", "\r\nEN", "D\r\n"]] {
        client.get("/k");
        memcached.expect_bytes("get /k\r\n").reply("VALUE /k 0 100000\r\n").reply([&value, end[0]].concat());
        for later in &end[1..] {
            memcached.reply(later);
        }
        client.response().expect_status(200).expect_body(&value);
    }
    client.get("/none");
    memcached.expect_bytes("get /none\r\n").reply("END\r\n");
    client.response().expect_status(404);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn what_makes_no_sense_is_a_502_and_says_why() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "memcached_gzip_flag 1;");
    for (answer, line) in [
        ("ERROR\r\n", "memcached sent invalid response: \"ERROR\" while reading response header from upstream"),
        ("VALUE /x 0 1\r\n", "memcached sent invalid key in response \"VALUE /x 0 1\" for key \"/k\" while"),
        ("VALUE /k ? 1\r\n", "memcached sent invalid flags in response \"VALUE /k ? 1\" for key \"/k\" while"),
        ("VALUE /k 0 ?\r\n", "memcached sent invalid length in response \"VALUE /k 0 ?\" for key \"/k\" while"),
    ] {
        let mut client = server.client();
        client.get("/k");
        let mut memcached = upstream.accept();
        memcached.expect_bytes("get /k\r\n").reply(answer);
        client.response().expect_status(502);
        let line = server.wait_for_log(line);
        assert!(line.contains("upstream: \"memcached://127.0.0.1:"), "{line}");
    }
    let mut client = server.client();
    client.get("/k");
    let mut memcached = upstream.accept();
    memcached.expect_bytes("get /k\r\n").reply("VALUE /k 0 4\r\nbodyNOT THE END\r\n");
    client.response().expect_status(200).expect_body("body");
    memcached.expect_closed();
    server.wait_for_log("memcached sent invalid trailer while ");
}

#[test]
fn the_next_one_may_know() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let setup = Setup::new().set("FIRST", first.address()).set("SECOND", second.address());
    let server = setup.start(
        "upstream m { server %%FIRST%%; server %%SECOND%%; } server { listen %%ADDR_0%%; set $memcached_key $uri; \
         location / { memcached_pass m; memcached_next_upstream not_found invalid_response; } }",
    );
    let mut client = server.client();
    client.get("/k");
    first.accept().expect_bytes("get /k\r\n").reply("END\r\n");
    second.accept().expect_bytes("get /k\r\n").reply("VALUE /k 0 2\r\nok\r\nEND\r\n");
    client.response().expect_status(200).expect_body("ok");
}
