//! Compression: what a client sees while an answer is still being made, and what it costs.

use std::fs;
use std::io::Read;

use flate2::read::{GzDecoder, GzEncoder};

use crate::kit::{Setup, Upstream};

const ASK: &str = "Host: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";

fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text).expect("valid gzip");
    text
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzEncoder::new(text, flate2::Compression::new(6)).read_to_end(&mut bytes).expect("from memory");
    bytes
}

#[test]
fn a_large_file_is_compressed_in_little_memory() {
    let line = b"a line that is much like the next one, but for its number\n";
    let mut text = Vec::new();
    for n in 0..300_000u32 {
        text.extend_from_slice(n.to_string().as_bytes());
        text.extend_from_slice(line);
    }
    let conf = "gzip on; types { text/html html; } server { listen %%ADDR_0%%; root html; }";
    let server = Setup::new().file("html/big.html", &text).file("html/a.html", "a".repeat(100)).start(conf);
    let ask = |path: &str| {
        let mut client = server.client();
        client.send(format!("GET {path} HTTP/1.1\r\n{ASK}"));
        client.response()
    };
    ask("/a.html").expect_field("Content-Encoding", "gzip");
    let resident = |name: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", server.workers()[0])).expect("the worker runs");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel says it").to_owned();
        line.split_whitespace().nth(1).and_then(|word| word.parse::<usize>().ok()).expect("a number")
    };
    let before = resident("VmRSS:");
    let response = ask("/big.html");
    assert!(plain(&response.body) == text, "the same text");
    assert!(response.body.len() * 5 < text.len());
    let grown = resident("VmHWM:").saturating_sub(before);
    assert!(grown <= 1536, "the worker grew by {grown} KiB");
}

#[test]
fn what_a_slow_upstream_has_said_can_be_read_at_once() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "gzip on; server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; proxy_buffering off; } }",
    );
    let mut client = server.client();
    client.send(format!("GET / HTTP/1.1\r\n{ASK}"));
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    let mut inflate = flate2::Decompress::new_gzip(15);
    let mut text = Vec::with_capacity(1 << 16);
    for part in ["first part, ", "second part, ", "third part"] {
        conversation.reply(part);
        // Chunks until all of the part can be read, though the upstream has not ended.
        while !text.ends_with(part.as_bytes()) {
            let line = client.read_until(b"\r\n");
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk");
            let chunk = client.read_exactly(size + 2);
            inflate.decompress_vec(&chunk[..size], &mut text, flate2::FlushDecompress::Sync).expect("valid gzip");
        }
    }
    assert_eq!(text, b"first part, second part, third part");
    conversation.close();
    assert!(client.rest().ends_with(b"0\r\n\r\n"));
}

#[test]
fn the_ratio_is_logged() {
    let conf = "gzip on; log_format line '$uri $gzip_ratio'; access_log logs/access.log line; \
                types { text/html html; } server { listen %%ADDR_0%%; root html; }";
    let server = Setup::new().file("html/a.html", "a".repeat(10_000)).file("html/b.txt", "b").start(conf);
    let mut client = server.client();
    client.send(format!("GET /a.html HTTP/1.1\r\n{ASK}"));
    let sent = client.response().body.len();
    server.fetch("/b.txt").expect_status(200);
    let hundredths = (10_000 * 1000 / sent + 5) / 10;
    let lines = server.wait_for_lines("access.log", 2);
    assert_eq!(lines, [format!("/a.html {}.{:02}", hundredths / 100, hundredths % 100), "/b.txt -".to_owned()]);
}

#[test]
fn a_compressed_file_that_is_cut_does_not_end_well() {
    let whole = gzip(&b"text and more text ".repeat(5000));
    let conf = "server { listen %%ADDR_0%%; root html; gzip_static always; gunzip on; }";
    let setup = Setup::new().file("html/whole.gz", &whole).file("html/cut.gz", &whole[..whole.len() - 4]);
    let server = setup.file("html/other.gz", "not gzip").start(conf);
    server.fetch("/whole").expect_body(b"text and more text ".repeat(5000));
    for path in ["/cut", "/other"] {
        let mut client = server.client();
        client.get(path);
        assert!(!client.rest().ends_with(b"0\r\n\r\n"), "{path}");
    }
    server.wait_for_log("inflate() returned -5 on response end while sending response to client");
    server.wait_for_log("inflate() failed");
}

#[test]
fn a_compressed_file_is_sent_as_it_is() {
    let conf = "server { listen %%ADDR_0%%; root html; gzip_static on; gzip_vary on; types { text/css css; } }";
    let compressed = gzip(b"compressed");
    let setup = Setup::new().file("html/a.css", "plain").file("html/a.css.gz", &compressed);
    let server = setup.file("html/b.css", "alone").start(conf);
    let mut client = server.client();
    client.send(format!("GET /a.css HTTP/1.1\r\n{ASK}"));
    let response = client.response();
    response.expect_body(compressed).expect_field("Content-Encoding", "gzip").expect_field("Content-Type", "text/css");
    response.expect_field("Vary", "Accept-Encoding");
    let response = server.fetch("/a.css");
    response.expect_body("plain").expect_field("Vary", "Accept-Encoding");
    let response = server.fetch("/b.css");
    assert_eq!(response.expect_body("alone").field("Vary"), None);
}
