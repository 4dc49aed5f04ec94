//! What a connection and a large body may cost in memory.

use std::fs;
use std::io::Read;

use crate::kit::{Client, Server, Setup, Upstream, eventually};

const MIB: usize = 1 << 20;

/// A value of the worker's `/proc/PID/status`, in KiB.
fn worker(server: &Server, name: &str) -> usize {
    let worker = server.workers()[0];
    let text = fs::read_to_string(format!("/proc/{worker}/status")).expect("the worker runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the kernel says it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// Reads a body of so many bytes and throws it away.
fn drain(client: &mut Client, length: usize) {
    client.read_until(b"\r\n\r\n");
    let mut left = length - client.buffer.len();
    client.buffer.clear();
    let mut block = vec![0; MIB];
    while left > 0 {
        let count = client.stream.read(&mut block).expect("the body comes");
        assert!(count > 0, "{left} bytes are missing");
        left -= count;
    }
}

#[test]
fn a_gibibyte_of_file_moves_through_a_mebibyte() {
    for sendfile in ["on", "off"] {
        let server = Setup::new()
            .file("html/a", "a")
            .start(&format!("server {{ listen %%ADDR_0%%; root html; sendfile {sendfile}; }}"));
        let file = fs::File::create(server.path("html/big")).expect("a file");
        file.set_len(1 << 30).expect("a sparse file");
        server.fetch("/a").expect_status(200);
        let before = worker(&server, "VmRSS:");
        let mut client = server.client();
        client.get("/big");
        drain(&mut client, 1 << 30);
        let grown = worker(&server, "VmHWM:").saturating_sub(before);
        assert!(grown <= 1024, "sendfile {sendfile}: the worker grew by {grown} KiB");
    }
}

#[test]
fn a_gibibyte_of_proxied_body_moves_through_its_buffers() {
    for buffering in ["proxy_max_temp_file_size 0;", "proxy_buffering off;"] {
        let upstream = Upstream::start();
        let server = Setup::new().set("UPSTREAM", upstream.address()).start(&format!(
            "server {{ listen %%ADDR_0%%; {buffering} location / {{ proxy_pass http://%%UPSTREAM%%; }} }}"
        ));
        let mut client = server.client();
        client.get("/small");
        let mut conversation = upstream.expect("GET /small");
        conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").close();
        client.response().expect_status(200);
        let before = worker(&server, "VmRSS:");
        client.get("/big");
        let mut conversation = upstream.expect("GET /big");
        let writer = std::thread::spawn(move || {
            conversation.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30));
            let block = vec![b'x'; MIB];
            for _ in 0..1024 {
                conversation.reply(&block);
            }
        });
        drain(&mut client, 1 << 30);
        writer.join().expect("the upstream writes");
        let grown = worker(&server, "VmHWM:").saturating_sub(before);
        assert!(grown <= 1024, "{buffering} the worker grew by {grown} KiB");
    }
}

#[test]
fn a_large_upload_moves_through_its_buffers() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "server { listen %%ADDR_0%%; client_max_body_size 0; location / { proxy_pass http://%%UPSTREAM%%; \
         proxy_request_buffering off; proxy_http_version 1.1; } }",
    );
    let mut client = server.client();
    client.send("PUT /small HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let mut conversation = upstream.expect("PUT /small");
    conversation.reply("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").close();
    client.response().expect_status(204);
    let before = worker(&server, "VmRSS:");
    client.send(format!("PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 256 * MIB));
    let mut conversation = upstream.accept();
    conversation.expect_head("PUT /big");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![b'x'; MIB];
            for _ in 0..256 {
                client.send(&block);
            }
        });
        for _ in 0..256 {
            conversation.read(MIB);
        }
    });
    conversation.reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
    let grown = worker(&server, "VmHWM:").saturating_sub(before);
    assert!(grown <= 1024, "the worker grew by {grown} KiB");
}

#[test]
fn an_idle_connection_costs_a_kibibyte_at_most() {
    const COUNT: usize = 3000;
    let setup = Setup::new().main("worker_rlimit_nofile 8192;");
    let setup = setup.file("html/a", "a");
    // More connections than the frame allows: the test writes its own.
    let server = setup.start_text(
        "pid %%PREFIX%%/pid; error_log %%PREFIX%%/logs/error.log; events { worker_connections 8192; } \
         http { access_log off; server { listen %%ADDR_0%% backlog=4096; keepalive_timeout 300s; root html; } }",
    );
    let warm: Vec<Client> = (0..200).map(|_| idle(&server)).collect();
    let before = worker(&server, "VmRSS:");
    let clients: Vec<Client> = (0..COUNT).map(|_| idle(&server)).collect();
    let cost = (worker(&server, "VmRSS:").saturating_sub(before)) * 1024 / COUNT;
    // Most of them rest; the first hundreds are as they were when they worked.
    assert!(cost <= 1024, "{cost} bytes a connection");
    drop((warm, clients));
    eventually("the connections are gone", || server.fetch("/a").status == 200);
}

/// A connection that has had its answer and waits.
fn idle(server: &Server) -> Client {
    let mut client = server.client();
    client.get("/a").response().expect_status(200);
    client
}
