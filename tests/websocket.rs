//! WebSocket and every other Upgrade through the proxy.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use tungstenite::{Bytes, Message};

use crate::kit::websocket::{Echo, connect};
use crate::kit::{Client, Server, Setup, Upstream, eventually};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";

/// The idiom of a thousand configurations.
fn conf(more: &str) -> String {
    format!(
        "map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }} \
         server {{ listen %%ADDR_0%%; {more} location / {{ proxy_pass http://%%UPSTREAM%%; proxy_http_version 1.1; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }}"
    )
}

fn tunnel(upstream: &Upstream, more: &str) -> Server {
    Setup::new().set("UPSTREAM", upstream.address()).start(&conf(more))
}

fn echo(more: &str) -> (Echo, Server) {
    let echo = Echo::start();
    let server = Setup::new().set("UPSTREAM", echo.address).start(&conf(more));
    (echo, server)
}

#[test]
fn messages_go_both_ways() {
    let (_echo, server) = echo("");
    let mut socket = connect(&server.address(0), "/chat?x=1");
    for text in ["hello", "", "grüße"] {
        socket.send(Message::text(text)).expect("the tunnel is open");
        assert_eq!(socket.read().expect("an echo"), Message::text(text));
    }
    socket.send(Message::Ping(Bytes::from_static(b"p"))).expect("the tunnel is open");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(Bytes::from_static(b"p")));
    socket.close(None).expect("the tunnel is open");
    while socket.read().is_ok() {}
    drop(socket);
    let line = server.wait_for_line("access.log", "/chat?x=1");
    assert!(line.contains("\" 101 "), "{line}");
}

#[test]
fn a_message_of_64_mib_comes_back() {
    let (_echo, server) = echo("");
    let mut socket = connect(&server.address(0), "/");
    let message: Vec<u8> = (0..64 << 20_u32).map(|number: u32| (number % 251) as u8).collect();
    let message = Message::binary(message);
    socket.send(message.clone()).expect("the tunnel is open");
    assert!(socket.read().expect("an echo") == message);
}

#[test]
fn five_hundred_tunnels_live_side_by_side() {
    let (_echo, server) = echo("");
    let mut sockets: Vec<_> = (0..500).map(|number| connect(&server.address(0), &format!("/{number}"))).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(format!("message {number}"))).expect("the tunnel is open");
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.read().expect("an echo"), Message::text(format!("message {number}")));
    }
}

#[test]
fn bytes_right_behind_either_head_are_not_lost() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream, "");
    let mut client = server.client();
    client.send(format!("{HANDSHAKE}early bird"));
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws HTTP/1.1\r\n").expect_field("Upgrade", "x").expect_field("Connection", "upgrade");
    conversation.reply(format!("{SWITCH}server first"));
    let head = client.read_until(b"\r\n\r\n");
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("\r\nConnection: upgrade\r\n") && head.contains("\r\nUpgrade: x\r\n"), "{head}");
    assert_eq!(client.read_exactly(12), b"server first");
    conversation.expect_bytes("early bird");
    client.send("more");
    conversation.expect_bytes("more").reply("and more");
    assert_eq!(client.read_exactly(8), b"and more");
}

#[test]
fn the_end_of_one_side_is_the_end_of_the_tunnel_once_all_is_sent() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream, "");
    // The upstream ends.
    let mut client = server.client();
    client.send(HANDSHAKE);
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws").reply(SWITCH);
    client.read_until(b"\r\n\r\n");
    conversation.reply("last words").close();
    assert_eq!(client.rest(), b"last words");
    // The client ends.
    let mut client = server.client();
    client.send(HANDSHAKE);
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws").reply(SWITCH);
    client.read_until(b"\r\n\r\n");
    client.send("last words");
    client.stream.shutdown(Shutdown::Both).expect("the connection is open");
    conversation.expect_bytes("last words");
    conversation.expect_closed();
}

#[test]
fn a_silent_tunnel_is_closed_after_its_timeout() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream, "proxy_read_timeout 1s;");
    let mut client = server.client();
    client.send(HANDSHAKE);
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws").reply(SWITCH);
    client.read_until(b"\r\n\r\n");
    let begun = Instant::now();
    // Words from the upstream keep it open.
    while begun.elapsed() < Duration::from_millis(1800) {
        conversation.reply("x");
        client.read_exactly(1);
        std::thread::sleep(Duration::from_millis(50)); // the pace of the words, well inside the timeout
    }
    client.expect_closed();
    conversation.expect_closed();
    server.wait_for_log("upstream timed out (110: Connection timed out) while proxying upgraded connection");
}

#[test]
fn an_answer_other_than_101_is_an_answer() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream, "");
    let mut client = server.client();
    client.send(HANDSHAKE);
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws").reply("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n");
    client.response().expect_status(403).expect_body("no\n").expect_field("Connection", "keep-alive");
    client.get("/plain");
    let mut conversation = upstream.accept_or(conversation);
    conversation.expect_head("GET /plain").expect_field("Connection", "close");
    assert_eq!(conversation.asked.field("Upgrade"), None);
    conversation.reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.response().expect_status(204);
}

#[test]
fn both_sides_may_write_at_once_and_much() {
    let upstream = Upstream::start();
    let server = tunnel(&upstream, "");
    let mut client = server.client();
    client.send(HANDSHAKE);
    let mut conversation = upstream.accept();
    conversation.expect_head("GET /ws").reply(SWITCH);
    client.read_until(b"\r\n\r\n");
    let down: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 241) as u8).collect();
    let up: Vec<u8> = (0..8_000_000_u32).map(|number| (number % 239) as u8).collect();
    let mut reader = Client::from_stream(client.stream.try_clone().expect("a second handle"));
    std::thread::scope(|scope| {
        scope.spawn(|| client.send(&up));
        let writer = scope.spawn(|| {
            conversation.reply(&down);
            conversation.read(up.len())
        });
        assert!(reader.read_exactly(down.len()) == down);
        assert!(writer.join().expect("the upstream reads") == up);
    });
}

#[test]
fn a_tunnel_lives_on_after_a_reload() {
    let (echo, mut server) = echo("");
    let mut socket = connect(&server.address(0), "/");
    socket.send(Message::text("before")).expect("the tunnel is open");
    assert_eq!(socket.read().expect("an echo"), Message::text("before"));
    server.configure("server { listen %%ADDR_0%%; location / { return 200 new; } }");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/").body == b"new");
    socket.send(Message::text("after")).expect("the tunnel is open");
    assert_eq!(socket.read().expect("an echo"), Message::text("after"));
    drop(echo);
}

#[test]
fn a_reload_with_a_shutdown_timeout_ends_tunnels() {
    let echo = Echo::start();
    let setup = Setup::new().set("UPSTREAM", echo.address).main("worker_shutdown_timeout 300ms;");
    let mut server = setup.start(&conf(""));
    let mut socket = connect(&server.address(0), "/");
    socket.send(Message::text("before")).expect("the tunnel is open");
    assert_eq!(socket.read().expect("an echo"), Message::text("before"));
    server.reload();
    while socket.read().is_ok() {}
    assert!(server.running());
}
