//! Pages with commands: parts that are slow, break off, or ask for themselves.

use std::time::{Duration, Instant};

use crate::kit::{DEADLINE, Server, Setup, Upstream};

/// A server with this page, `ssi` on, and `/up/` at the upstream.
fn page(text: &str, upstream: &Upstream) -> Server {
    Setup::new().file("html/page.html", text).set("UPSTREAM", upstream.address()).start(
        "log_format line '$uri $args $status'; access_log logs/access.log line; log_subrequest on; \
         types { text/html html; } server { listen %%ADDR_0%%; root html; ssi on; location / { } \
         location /up/ { proxy_pass http://%%UPSTREAM%%; } location /x/ { ssi off; alias html/; } }",
    )
}

fn reply(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

#[test]
fn parts_are_asked_for_side_by_side_and_sent_in_order() {
    let upstream = Upstream::start();
    let text = "0<!--#include virtual=\"/up/a\"-->1<!--#include virtual=\"/up/b\"-->2";
    let server = page(text, &upstream);
    let mut client = server.client();
    client.get("/page.html");
    let mut first = upstream.expect("GET /up/a");
    let mut second = upstream.expect("GET /up/b"); // though the first has no answer yet
    client.read_until(b"\r\n\r\n1\r\n0\r\n"); // what stands before the first is there
    second.reply(reply("B"));
    first.reply(reply("A"));
    let (body, whole) = client.chunked_body(Instant::now() + DEADLINE);
    assert_eq!((body.as_slice(), whole), (&b"A1B2"[..], true));
    let lines = server.wait_for_lines("access.log", 3);
    assert_eq!(lines, ["/up/a - 200", "/up/b - 200", "/page.html - 200"]);
}

#[test]
fn a_part_that_is_waited_for_comes_before_the_next_is_asked() {
    let upstream = Upstream::start();
    let text = "<!--#include virtual=\"/up/a\" wait=\"yes\"-->|<!--#include virtual=\"/up/b\" set=\"b\"-->\
                [<!--#echo var=\"b\" encoding=\"none\"-->]<!--#include virtual=\"/up/c\"-->";
    let server = page(text, &upstream);
    let mut client = server.client();
    client.get("/page.html");
    for (path, body) in [("GET /up/a", "A"), ("GET /up/b", "<B>"), ("GET /up/c", "C")] {
        let mut conversation = upstream.expect(path);
        assert!(upstream.accept_within(Duration::from_millis(50)).is_none(), "{path} is not the only one");
        conversation.reply(reply(body)).close();
    }
    client.response().expect_body("A|[<B>]C");
}

#[test]
fn parts_may_have_parts() {
    let upstream = Upstream::start();
    let server = page("(<!--#include virtual=\"/up/a\"-->)", &upstream);
    let mut client = server.client();
    client.get("/page.html");
    upstream.expect("GET /up/a").reply(reply("[<!--#include virtual=\"/up/b?c\"-->]")).close();
    upstream.expect("GET /up/b?c").reply(reply("<!--#echo var=\"args\"-->")).close();
    client.response().expect_body("([c])");
}

#[test]
fn a_page_that_asks_for_itself_ends() {
    let upstream = Upstream::start();
    let server = page(".<!--#include virtual=\"/page.html\"-->", &upstream);
    let expected = format!("{}[an error occurred while processing the directive]", ".".repeat(52));
    server.fetch("/page.html").expect_body(expected);
    let line = server.wait_for_log("subrequests cycle while processing \"/page.html\"");
    assert!(line.contains(", subrequest: \"/page.html\""), "{line}");
}

#[test]
fn a_part_that_breaks_off_leaves_a_gap() {
    let upstream = Upstream::start();
    let server = page("a<!--#include virtual=\"/up/cut\"-->b", &upstream);
    let mut client = server.client();
    client.get("/page.html");
    upstream.expect("GET /up/cut").reply("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").close();
    client.response().expect_body("ahalfb");
    server.wait_for_log("upstream prematurely closed connection");
}

#[test]
fn the_body_of_the_request_is_the_parts_too() {
    let upstream = Upstream::start();
    let server = page("", &upstream);
    let mut client = server.client();
    client.send("POST /up/form HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nform");
    let form = "<!--#include virtual=\"/up/part\"-->";
    upstream.expect("POST /up/form").expect_body("form").reply(reply(form)).close();
    upstream.expect("GET /up/part").expect_body("form").reply(reply("done")).close();
    client.response().expect_body("done");
}

#[test]
fn a_page_is_larger_than_any_buffer() {
    let upstream = Upstream::start();
    let text: Vec<String> = (0..40_000).map(|n| format!("{n} <b> <!- <!--#echo var=\"arg_a\"-->\n")).collect();
    let server = page(&text.concat(), &upstream);
    let expected = text.concat().replace("<!--#echo var=\"arg_a\"-->", "&lt;");
    server.fetch("/page.html?a=<").expect_body(expected);
}

#[test]
fn many_parts_of_one_page() {
    let upstream = Upstream::start();
    let text: Vec<String> = (0..5000).map(|n| format!("{n}<!--#include virtual=\"/x/part\"-->")).collect();
    let server = page(&text.concat(), &upstream);
    crate::kit::server::write_file(&server.path("html/part"), b",");
    server.fetch("/page.html").expect_body(text.concat().replace("<!--#include virtual=\"/x/part\"-->", ","));
}
