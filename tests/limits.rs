//! `limit_req`, `limit_conn`, `auth_delay`: what takes time, what the error log says, what survives a reload. What answers
//! without delay is in `tests/differential/limit_req.txt`.

use std::time::{Duration, Instant};

use crate::kit::{Server, Setup, Upstream, eventually};

#[test]
fn requests_beyond_the_rate_wait_and_beyond_the_burst_are_refused() {
    let server = Server::start(
        "limit_req_zone $arg_key zone=one:1m rate=5r/s;
         server { listen %%ADDR_0%%; root html; location / { limit_req zone=one burst=2; try_files /none =404; } }",
    );
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send("GET /?key=a HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let mut statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [404, 404, 404, 503]);
    // The last of those let in waited for two tenths twice.
    assert!(begun.elapsed() >= Duration::from_millis(380), "{:?}", begun.elapsed());
    let line = server.wait_for_log("delaying request, excess: ");
    assert!(line.contains("[warn]") && line.contains(", by zone \"one\", client: 127.0.0.1"), "{line}");
    let line = server.wait_for_log("limiting requests, excess: ");
    assert!(line.contains("[error]") && line.contains(" by zone \"one\", client: 127.0.0.1"), "{line}");
}

#[test]
fn a_zone_survives_a_reload() {
    let conf = |answer: &str, size: &str| {
        format!(
            "limit_req_zone $arg_key zone=one:{size} rate=1r/m;
             server {{ listen %%ADDR_0%%; root html; location / {{ limit_req zone=one; try_files /none =404; }}
             location /is {{ return 200 {answer}; }} }}"
        )
    };
    let mut server = Setup::new().start(&conf("one", "1m"));
    server.fetch("/?key=a").expect_status(404);
    server.fetch("/?key=a").expect_status(503);
    for (answer, size, status) in [("two", "1m", 503), ("three", "2m", 404)] {
        server.configure(&conf(answer, size));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/is").text_body() == answer);
        server.fetch("/?key=a").expect_status(status);
    }
}

#[test]
fn another_key_for_a_zone_is_refused() {
    let conf = |key: &str| {
        format!(
            "limit_req_zone {key} zone=one:1m rate=1r/m; limit_conn_zone {key} zone=two:1m;
             server {{ listen %%ADDR_0%%; limit_req zone=one; limit_conn two 1; return 200 one; }}"
        )
    };
    let mut server = Setup::new().allow_alerts().start(&conf("$arg_a"));
    server.configure(&conf("$arg_b"));
    server.reload();
    server.wait_for_log("[emerg] ");
    let line = server.wait_for_log("uses the \"$arg_b\" key");
    assert!(
        line.contains("limit_req \"one\" uses the \"$arg_b\" key while previously it used the \"$arg_a\" key"),
        "{line}"
    );
    server.fetch("/").expect_body("one");
}

#[test]
fn a_request_counts_until_it_ends() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "limit_conn_zone $arg_key zone=conn:1m;
         server { listen %%ADDR_0%%; location / { limit_conn conn 1; proxy_pass http://%%UPSTREAM%%; } }",
    );
    let mut first = server.client();
    first.send("GET /?key=a HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut conversation = upstream.expect("GET /?key=a");
    server.fetch("/?key=a").expect_status(503);
    let line = server.wait_for_log("limiting connections by zone \"conn\"");
    assert!(line.contains("[error]"), "{line}");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    first.response().expect_body("ok");
    drop(conversation);
    let mut second = server.client();
    second.send("GET /?key=a HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.expect("GET /?key=a").reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    second.response().expect_body("two");
}

#[test]
fn a_zone_that_nobody_defines_is_an_error() {
    for (directive, zone) in [("limit_req zone=none;", "none"), ("limit_conn nobody 1;", "nobody")] {
        let text = format!("events {{}} http {{ server {{ listen 127.0.0.1:1; {directive} }} }}");
        let output = Setup::new().check_text(&text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("zero size shared memory zone \"{zone}\"")), "{said}");
        assert!(!output.status.success());
    }
}

#[test]
fn a_wrong_password_is_told_late() {
    let server = Setup::new().file("conf/users", "bob:{PLAIN}secret\n").start(
        "server { listen %%ADDR_0%%; root html; auth_basic \"here\"; auth_basic_user_file users; auth_delay 300ms; }",
    );
    let begun = Instant::now();
    server.fetch("/").expect_status(401).expect_field("WWW-Authenticate", "Basic realm=\"here\"");
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
    let line = server.wait_for_log("no user/password was provided for basic authentication");
    assert!(line.contains("[info]"), "{line}");
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic Ym9iOndyb25n\r\nConnection: close\r\n\r\n");
    client.response().expect_status(401);
    server.wait_for_log("[error] ");
    server.wait_for_log("user \"bob\": password mismatch, client: 127.0.0.1");
}
