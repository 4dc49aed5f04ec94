//! Slices: which are asked for, and what of those that do not fit reaches the client.

use std::net::SocketAddr;

use crate::kit::{Server, Setup, Step, Upstream, eventually};

/// A server that fetches slices of two bytes.
fn slices(upstream: SocketAddr, more: &str) -> Server {
    let conf = format!(
        "server {{
            listen %%ADDR_0%%;
            location / {{
                slice 2;
                {more}
                proxy_pass http://%%UPSTREAM%%;
                proxy_set_header Range $slice_range;
            }}
        }}"
    );
    Setup::new().set("UPSTREAM", upstream).start(&conf)
}

fn part(range: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 206 OK\r\nContent-Range: bytes {range}\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
}

#[test]
fn one_slice_after_the_other_as_far_as_they_are_wanted() {
    let upstream = Upstream::start();
    let server = slices(upstream.address(), "");
    let mut client = server.client();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=3-4\r\n\r\n");
    upstream.expect("GET /a").expect_field("Range", "bytes=2-3").reply(part("2-3/100", "", "23")).close();
    upstream.expect("GET /a").expect_field("Range", "bytes=4-5").reply(part("4-5/100", "", "45")).close();
    client.response().expect_status(206).expect_field("Content-Range", "bytes 3-4/100").expect_body("34");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_slice_that_does_not_fit_ends_the_connection() {
    let cases = [
        (part("0-1/100", "", "01"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n01", "unexpected status code 200"),
        (
            part("0-1/100", "", "01"),
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "unexpected status code 404",
        ),
        (part("0-1/100", "ETag: \"a\"\r\n", "01"), &part("2-3/100", "ETag: \"b\"\r\n", "23"), "etag mismatch"),
        (part("0-1/100", "ETag: \"a\"\r\n", "01"), &part("2-3/100", "", "23"), "etag mismatch"),
        (part("0-1/100", "", "01"), &part("4-5/100", "", "45"), "unexpected range"),
        (part("0-1", "", "01"), "", "invalid range"),
        (part("0-1/*", "", "01"), "", "no complete length"),
        (part("0-2/100", "", "012"), "", "unexpected range"),
        (part("1-2/100", "", "12"), "", "unexpected range"),
    ];
    for (first, second, fault) in cases {
        let upstream = Upstream::start();
        let server = slices(upstream.address(), "");
        let mut client = server.client();
        client.get("/a");
        upstream.expect("GET /a").expect_field("Range", "bytes=0-1").reply(first).close();
        if !second.is_empty() {
            upstream.expect("GET /a").expect_field("Range", "bytes=2-3").reply(second).close();
        }
        client.expect_closed();
        server.wait_for_log(&format!("{fault} in slice response"));
    }
}

/// Not so in nginx, where each slice passes the filters by itself.
#[test]
fn filters_see_the_whole_and_not_the_slices() {
    let upstream = Upstream::start().serve(|asked| {
        let range = asked.field("Range").unwrap_or_default().to_owned();
        let start: usize =
            range.trim_start_matches("bytes=").split('-').next().unwrap_or("").parse().expect("a number");
        let page = "<!--# echo var=\"arg_a\" -->.";
        let end = (start + 2).min(page.len());
        let fields = "Content-Type: text/html\r\n";
        vec![
            Step::Bytes(part(&format!("{start}-{}/{}", end - 1, page.len()), fields, &page[start..end]).into()),
            Step::Close,
        ]
    });
    let server = slices(upstream.address, "ssi on;");
    server.fetch("/a?a=value").expect_status(200).expect_body("value.");
}

/// nginx asks for the whole.
#[test]
fn a_slice_that_is_fetched_anew_beside_its_copy_is_the_same_slice() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "proxy_cache_path %%PREFIX%%/cache keys_zone=z:1m;
        server {
            listen %%ADDR_0%%;
            location / {
                slice 2;
                proxy_pass http://%%UPSTREAM%%;
                proxy_set_header Range $slice_range;
                proxy_cache z;
                proxy_cache_key $uri$slice_range;
                proxy_cache_background_update on;
                add_header X-Cache $upstream_cache_status;
            }
        }",
    );
    // stale from the start, and of use while it is fetched
    let stale = "X-Accel-Expires: @1\r\nCache-Control: stale-while-revalidate=9999999999\r\n";
    let ask = || {
        let mut client = server.client();
        client.send("GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\n\r\n");
        client
    };
    let mut client = ask();
    upstream.expect("GET /a").expect_field("Range", "bytes=2-3").reply(part("2-3/4", stale, "23")).close();
    client.response().expect_body("23");
    let mut client = ask();
    let mut beside = upstream.expect("GET /a");
    beside.expect_field("Range", "bytes=2-3");
    client.response().expect_field("X-Cache", "STALE").expect_body("23");
    beside.reply(part("2-3/4", "Cache-Control: max-age=1000\r\n", "45")).close();
    eventually("the new slice is there", || {
        let response = ask().response();
        response.field("X-Cache") == Some("HIT") && response.text_body() == "45"
    });
}
