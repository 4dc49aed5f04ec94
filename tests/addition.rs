//! `add_before_body` and `add_after_body`: bodies that come slowly, and one that breaks off.

use crate::kit::{Setup, Upstream};

#[test]
fn bodies_come_in_their_order_however_slow_they_are() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "server { listen %%ADDR_0%%; default_type text/html; proxy_buffering off; \
         location = / { add_before_body /before; add_after_body /after; proxy_pass http://%%UPSTREAM%%/own; } \
         location / { proxy_pass http://%%UPSTREAM%%; } }",
    );
    let mut client = server.client();
    client.get("/");
    let mut own = upstream.expect("GET /own");
    own.reply("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nown\r\n");
    let mut before = upstream.expect("GET /before");
    before.reply("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbef");
    client.read_until(b"bef");
    before.reply("ore\r\n");
    let mut after = upstream.expect("GET /after");
    after.reply("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nafter\r\n");
    let rest = String::from_utf8(client.read_until(b"0\r\n\r\n")).expect("text");
    let place = |word: &str| rest.find(word).unwrap_or_else(|| panic!("no {word} in {rest}"));
    assert!(place("ore") < place("own") && place("own") < place("after"), "{rest}");
}

#[test]
fn an_addition_that_breaks_off_leaves_a_gap() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "server { listen %%ADDR_0%%; default_type text/html; \
         location = / { add_before_body /up; add_after_body /end; return 200 own; } \
         location /up { proxy_pass http://%%UPSTREAM%%; proxy_buffering off; } \
         location /end { return 200 end; } }",
    );
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.expect("GET /up").reply("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart").close();
    client.response().expect_status(200).expect_body("startownend");
    server.wait_for_log("upstream prematurely closed connection");
}
