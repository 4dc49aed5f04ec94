//! Groups of upstream servers: whose turn it is, who is left out.

use std::time::Duration;

use crate::kit::upstream::Background;
use crate::kit::{Server, Setup, Step, Upstream, eventually};

/// An upstream that says its name.
fn named(name: &'static str) -> Background {
    Upstream::start().serve(move |_| {
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
        vec![Step::Bytes(reply.into_bytes()), Step::Close]
    })
}

/// Asks so often, and returns the names of those that answered.
fn turns(server: &Server, count: usize) -> String {
    (0..count).map(|_| server.fetch("/").expect_status(200).text_body()).collect()
}

fn group(servers: &str, upstreams: &[&Background]) -> Server {
    let mut setup = Setup::new();
    for (name, upstream) in ["A", "B", "C"].iter().zip(upstreams) {
        setup = setup.set(name, upstream.address);
    }
    setup.start(&format!(
        "upstream u {{ {servers} }} server {{ listen %%ADDR_0%%; location / {{ proxy_pass http://u; }} }}"
    ))
}

#[test]
fn each_has_its_turn() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let server = group("server %%A%%; server %%B%%; server %%C%%;", &[&a, &b, &c]);
    assert_eq!(turns(&server, 9), "abcabcabc");
}

#[test]
fn weights_are_smooth() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let server = group("server %%A%% weight=5; server %%B%%; server %%C%%;", &[&a, &b, &c]);
    assert_eq!(turns(&server, 14), "aabacaaaabacaa");
}

#[test]
fn a_backup_waits_until_it_is_needed() {
    let (a, b) = (named("a"), named("b"));
    let server = group("server %%A%%; server %%B%% backup;", &[&a, &b]);
    assert_eq!(turns(&server, 4), "aaaa");
    drop(server);
    let server = group("server 127.0.0.1:1; server %%B%% backup;", &[&a, &b]);
    assert_eq!(turns(&server, 4), "bbbb");
}

#[test]
fn one_that_is_down_is_never_asked() {
    let (a, b) = (named("a"), named("b"));
    let server = group("server %%A%% down; server %%B%%;", &[&a, &b]);
    assert_eq!(turns(&server, 4), "bbbb");
    assert_eq!(a.connections(), 0);
}

#[test]
fn one_that_fails_is_left_out_for_a_while() {
    let b = named("b");
    let a = Upstream::start();
    let setup = Setup::new().set("A", a.address()).set("B", b.address);
    let server = setup.start(
        "upstream u { server %%A%% max_fails=2 fail_timeout=600s; server %%B%%; } \
         server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }",
    );
    let a = a.serve(|_| vec![Step::Close]);
    assert_eq!(turns(&server, 10), "bbbbbbbbbb");
    assert_eq!(a.connections(), 2, "two failures, then silence");
    server.wait_for_log("upstream server temporarily disabled while reading response header from upstream");
}

#[test]
fn one_that_failed_comes_back() {
    let b = named("b");
    let a = Upstream::start();
    let setup = Setup::new().set("A", a.address()).set("B", b.address);
    let server = setup.start(
        "upstream u { server %%A%% fail_timeout=1s; server %%B%%; } \
         server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }",
    );
    let failed = std::sync::atomic::AtomicBool::new(false);
    let a = a.serve(move |_| {
        if !failed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return vec![Step::Close];
        }
        vec![Step::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na".to_vec()), Step::Close]
    });
    assert_eq!(turns(&server, 2), "bb");
    eventually("the first one is asked again", || turns(&server, 1) == "a");
    assert!(a.connections() >= 2);
}

#[test]
fn when_all_fail_the_answer_is_502_and_all_are_forgiven() {
    let (a, b) = (Upstream::start().serve(|_| vec![Step::Close]), Upstream::start().serve(|_| vec![Step::Close]));
    let server = group("server %%A%%; server %%B%%;", &[&a, &b]);
    server.fetch("/").expect_status(502);
    assert_eq!((a.connections(), b.connections()), (1, 1));
    server.fetch("/").expect_status(502);
    server.wait_for_log("no live upstreams while connecting to upstream");
}

#[test]
fn max_conns_is_a_limit() {
    let a = Upstream::start();
    let setup = Setup::new().set("A", a.address());
    let server = setup.start(
        "upstream u { server %%A%% max_conns=1; } server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }",
    );
    let mut first = server.client();
    first.get("/first");
    let mut conversation = a.expect("GET /first");
    server.fetch("/second").expect_status(502);
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").close();
    first.response().expect_body("ok");
    let mut third = server.client();
    third.get("/third");
    a.expect("GET /third").reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    third.response().expect_body("ok");
}

#[test]
fn kept_connections_have_a_number_a_time_and_a_count() {
    let a = Upstream::start().serve(|_| vec![Step::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_vec())]);
    let conf = |more: &str| {
        format!(
            "upstream u {{ server %%A%%; keepalive 1; {more} }} server {{ listen %%ADDR_0%%; location / {{ \
             proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}"
        )
    };
    let server = Setup::new().set("A", a.address).start(&conf(""));
    turns(&server, 5);
    assert_eq!(a.connections(), 1);
    drop(server);
    let server = Setup::new().set("A", a.address).start(&conf("keepalive_requests 2;"));
    turns(&server, 6);
    assert_eq!(a.connections(), 1 + 3);
    drop(server);
    let server = Setup::new().set("A", a.address).start(&conf("keepalive_timeout 100ms;"));
    turns(&server, 1);
    let before = a.connections();
    eventually("the idle connection is gone", || {
        std::thread::sleep(Duration::from_millis(300)); // three times the idle time, which each request begins anew
        turns(&server, 1);
        a.connections() > before
    });
}
