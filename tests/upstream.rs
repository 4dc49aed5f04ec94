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

/// Asks so often with this cookie, and returns the names of those that answered.
fn turns_with(server: &Server, cookie: &str, count: usize) -> String {
    let one = |_| {
        let mut client = server.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n"));
        client.response().expect_status(200).text_body()
    };
    (0..count).map(one).collect()
}

#[test]
fn the_least_busy_is_asked() {
    let (a, b) = (Upstream::start(), named("b"));
    let setup = Setup::new().set("A", a.address()).set("B", b.address);
    let server = setup.start(
        "upstream u { least_conn; server %%A%%; server %%B%%; } \
         server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }",
    );
    let mut first = server.client();
    first.get("/first");
    let mut conversation = a.expect("GET /first");
    assert_eq!(turns(&server, 4), "bbbb");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").close();
    first.response().expect_body("ok");
}

#[test]
fn a_kept_connection_is_that_of_the_peer_that_was_chosen() {
    let kept = |name: &'static str| {
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
        Upstream::start().serve(move |_| vec![Step::Bytes(reply.clone().into_bytes())])
    };
    let (a, b) = (kept("a"), kept("b"));
    for method in ["hash $arg_k;", "hash $arg_k consistent;", "least_conn;", "random;", "random two least_conn;"] {
        let (before_a, before_b) = (a.connections(), b.connections());
        let setup = Setup::new().set("A", a.address).set("B", b.address);
        let server = setup.start(&format!(
            "upstream u {{ {method} server %%A%%; server %%B%%; keepalive 4; }} server {{ listen %%ADDR_0%%; \
             location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ''; \
             add_header X-Addr $upstream_addr; }} }}"
        ));
        let mut seen = std::collections::BTreeMap::new();
        for n in 0..40 {
            let response = server.fetch(&format!("/?k={n}"));
            let address = if response.text_body() == "a" { a.address } else { b.address };
            response.expect_field("X-Addr", &address.to_string());
            *seen.entry(response.text_body()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 2, "{method} {seen:?}");
        assert_eq!((a.connections(), b.connections()), (before_a + 1, before_b + 1), "{method}");
    }
}

#[test]
fn a_cookie_binds_to_the_peer_that_answered() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let server = group(
        "server %%A%% route=first; server %%B%% route=second; server %%C%%; \
         sticky cookie srv expires=1h domain=.example.com httponly samesite=lax secure path=/;",
        &[&a, &b, &c],
    );
    let first = server.fetch("/");
    let cookie = first.expect_status(200).field("Set-Cookie").expect("it is set").to_owned();
    assert!(cookie.starts_with("srv=first; expires="), "{cookie}");
    assert!(
        cookie.ends_with(" GMT; max-age=3600; domain=.example.com; httponly; secure; samesite=lax; path=/"),
        "{cookie}"
    );
    assert_eq!(turns_with(&server, "x=y; srv=second", 3), "bbb");
    assert_eq!(turns_with(&server, "srv=first", 3), "aaa");
    let digest: String = {
        use md5::{Digest, Md5};
        Md5::digest(c.address.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(turns_with(&server, &format!("srv={digest}"), 3), "ccc");
    let all = turns_with(&server, "srv=nobody", 12);
    assert!(["a", "b", "c"].iter().all(|name| all.contains(name)), "{all}");
}

#[test]
fn the_cookie_names_who_answered_in_the_end() {
    let b = named("b");
    let server = Setup::new().set("B", b.address).start(
        "upstream u { server 127.0.0.1:1 route=a; server %%B%% route=b; sticky cookie srv; } \
         server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }",
    );
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: srv=a\r\n\r\n");
    let response = client.response();
    response.expect_status(200).expect_body("b").expect_field("Set-Cookie", "srv=b");
}

#[test]
fn one_that_drains_serves_those_who_are_bound_to_it() {
    let (a, b) = (named("a"), named("b"));
    let server = group("server %%A%% route=a drain; server %%B%% route=b; sticky route $cookie_r;", &[&a, &b]);
    assert_eq!(turns(&server, 3), "bbb");
    assert_eq!(turns_with(&server, "r=a", 3), "aaa");
}

#[test]
fn sessions_are_learned_from_answers_and_outlive_a_reload() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new().set("A", a.address()).set("B", b.address());
    let conf = "upstream u { server %%A%%; server %%B%%; \
                sticky learn create=$upstream_cookie_sid lookup=$cookie_sid zone=s:64k timeout=1h; } \
                server { listen %%ADDR_0%%; location / { proxy_pass http://u; } }";
    let serve = |upstream: Upstream, name: &'static str| {
        upstream.serve(move |_| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n";
            vec![
                Step::Bytes(format!("{head}Set-Cookie: sid=of-{name}; Path=/\r\n\r\n{name}").into_bytes()),
                Step::Close,
            ]
        })
    };
    let (_a, _b) = (serve(a, "a"), serve(b, "b"));
    let server = setup.start(conf);
    assert_eq!(turns(&server, 2), "ab");
    assert_eq!(turns_with(&server, "sid=of-b", 3), "bbb");
    server.reload();
    assert_eq!(turns_with(&server, "sid=of-b", 3), "bbb");
    assert_eq!(turns_with(&server, "sid=of-a", 3), "aaa");
}

#[test]
fn the_one_that_answers_sooner_is_asked() {
    let slow = Upstream::start().serve(|_| {
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na".to_vec();
        std::thread::sleep(Duration::from_millis(400)); // this is how slow it is
        vec![Step::Bytes(reply), Step::Close]
    });
    let quick = named("b");
    for mode in ["header", "last_byte inflight"] {
        let server = group(&format!("least_time {mode}; server %%A%%; server %%B%%;"), &[&slow, &quick]);
        assert_eq!(turns(&server, 2), "ab");
        // Many quick answers outweigh one slow one, so only the next few are certain.
        assert_eq!(turns(&server, 4), "bbbb", "{mode}");
    }
}
