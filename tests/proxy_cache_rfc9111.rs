//! What is right about freshness: by default, where nginx would call something fresh that is not, and with
//! `proxy_cache_rfc9111 on` all that RFC 9111 asks of a shared cache. `docs/cache.md` names these tests section by section.

use crate::kit::{Client, Response, Server, Setup, Upstream};

/// A server whose answers say what came of asking the cache.
fn caching(upstream: &Upstream, more: &str) -> Server {
    let conf = format!(
        "proxy_cache_path %%PREFIX%%/cache keys_zone=z:1m;
        server {{
            listen %%ADDR_0%%;
            location / {{
                proxy_pass http://%%UPSTREAM%%;
                proxy_cache z;
                add_header X-Cache $upstream_cache_status always;
                {more}
            }}
        }}"
    );
    Setup::new().set("UPSTREAM", upstream.address()).start(&conf)
}

fn strict(upstream: &Upstream, more: &str) -> Server {
    caching(upstream, &format!("proxy_cache_rfc9111 on; {more}"))
}

/// An answer with these fields and this body.
fn answer(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A request with these fields.
fn request(server: &Server, path: &str, fields: &str) -> Client {
    let mut client = server.client();
    let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n"));
    client
}

/// A request that the upstream must be asked about, which gives this answer.
fn through(server: &Server, upstream: &Upstream, path: &str, fields: &str, reply: &str) -> Response {
    let mut client = request(server, path, fields);
    upstream.expect(&format!("GET {path}")).reply(reply).close();
    client.response()
}

/// A request that the cache answers.
fn cached(server: &Server, path: &str, fields: &str) -> Response {
    let response = request(server, path, fields).response();
    assert_eq!(response.field("X-Cache"), Some("HIT"), "{fields}: {}", response.text());
    response
}

/// For each set of fields: whether an answer with them serves the next request.
fn check(server: &Server, upstream: &Upstream, cases: &[(&str, bool)]) {
    for (n, (fields, hit)) in cases.iter().enumerate() {
        let path = format!("/{n}");
        through(server, upstream, &path, "", &answer(fields, "first")).expect_body("first");
        if *hit {
            cached(server, &path, "").expect_body("first");
        } else {
            let second = through(server, upstream, &path, "", &answer("X: y", "second"));
            assert_eq!(second.text_body(), "second", "{fields}");
        }
    }
}

#[test]
fn an_age_counts() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "");
    let cases = [
        ("Cache-Control: max-age=1000", true),
        ("Cache-Control: max-age=1000\r\nAge: 10", true),
        ("Cache-Control: max-age=1000\r\nAge: 1000", false),
        ("age: 001000, 0\r\nCache-Control: max-age=1000\r\nAge: 1", false),
        ("Cache-Control: s-maxage=1000\r\nAge: 99999999999999999999", false),
        ("Cache-Control: max-age=1000\r\nAge: -2000", true),
        ("Expires: Thu, 31 Dec 2037 23:55:55 GMT\r\nAge: 4000000000", false),
    ];
    check(&server, &upstream, &cases);
}

#[test]
fn expires_counts_from_date_and_only_in_gmt() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "");
    let cases = [
        ("Expires: Thu, 31 Dec 2037 23:55:55 GMT", true),
        ("Expires: Thu, 31 Dec 2037 23:55:55 GMT\r\nDate: Thu, 31 Dec 2037 22:55:55 GMT", true),
        ("Expires: Thu, 31 Dec 2037 23:55:55 GMT\r\nDate: Thu, 31 Dec 2037 23:55:55 GMT", false),
        ("Expires: Thu, 31 Dec 2037 23:55:55 GMT\r\nDate: Fri, 01 Jan 2038 23:55:55 GMT", false),
        ("Expires: Thu, 31 Dec 2037 23:55:55 AEST", false),
        ("Expires: Thu, 31 Dec 2037 23:55:55", false),
        ("Expires: 0", false),
        ("Expires: 0\r\nCache-Control: max-age=1000", true),
    ];
    check(&server, &upstream, &cases);
}

#[test]
fn a_star_anywhere_in_vary_matches_nothing() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "proxy_cache_valid 1h;");
    check(&server, &upstream, &[("Vary: Accept", true), ("Vary: *", false), ("Vary: Accept, *", false)]);
}

#[test]
fn a_tag_comes_before_a_date() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "proxy_cache_valid 1h;");
    let fields = "ETag: \"a\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    through(&server, &upstream, "/", "", &answer(fields, "body"));
    let date = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
    cached(&server, "/", &format!("{date}\r\nIf-None-Match: \"b\"")).expect_status(200).expect_body("body");
    cached(&server, "/", &format!("{date}\r\nIf-None-Match: \"a\"")).expect_status(304);
    cached(&server, "/", "If-Modified-Since: Sun, 06 Nov 1994 08:49:38 GMT\r\nIf-None-Match: W/\"a\"")
        .expect_status(304);
}

/// `X-Accel-Expires: @1` makes an entry that is stale from the start.
const STALE: &str = "X-Accel-Expires: @1\r\nCache-Control: ";

#[test]
fn stale_if_error_needs_no_second_peer() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "");
    let fields = format!("{STALE}stale-if-error=9999999999");
    through(&server, &upstream, "/", "", &answer(&fields, "stale"));
    for broken in
        ["HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Oops\r\nContent-Length: 0\r\n\r\n", ""]
    {
        let response = through(&server, &upstream, "/", "", broken);
        response.expect_status(200).expect_field("X-Cache", "STALE").expect_body("stale");
    }
    let response = through(&server, &upstream, "/", "", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    response.expect_status(404);
}

#[test]
fn never_stale_against_the_origin() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "proxy_cache_use_stale error timeout http_500;");
    let cases = [
        ("public", true),
        ("must-revalidate", false),
        ("proxy-revalidate", false),
        ("s-maxage=5", false),
        ("must-revalidate, stale-if-error=9999999999", false),
        ("s-maxage=5, stale-if-error=9999999999", true),
    ];
    for (n, (control, stale)) in cases.iter().enumerate() {
        let path = format!("/{n}");
        through(&server, &upstream, &path, "", &answer(&format!("{STALE}{control}"), "stale"));
        let response = through(&server, &upstream, &path, "", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(response.status, if *stale { 200 } else { 500 }, "{control}");
    }
}

#[test]
fn strict_lifetimes() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let cases = [
        ("Cache-Control: max-age=1000", true),
        ("Cache-Control: max-age=\"1000\"", true),
        ("Cache-Control: a=\"no-store\", max-age=1000", true),
        ("Cache-Control: max-age=1000\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", false),
        ("Cache-Control: max-age=1000\r\nSet-Cookie: a=b", false),
        ("Cache-Control: no-store, max-age=1000", false),
        ("Cache-Control: no-cache, max-age=1000", false),
        ("Cache-Control: private, max-age=1000", false),
        ("CDN-Cache-Control: max-age=1000\r\nCache-Control: no-store\r\nExpires: 0", true),
        ("CDN-Cache-Control: no-store\r\nCache-Control: max-age=1000", false),
        ("CDN-Cache-Control: no-store=\r\nCache-Control: max-age=1000", true),
        ("Expires: Thu, 31 Dec 2037 23:55:55 gmt", false),
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", true),
        ("X: nothing is said", false),
    ];
    check(&server, &upstream, &cases);
}

#[test]
fn hits_say_how_old_they_are() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let fields = "Cache-Control: max-age=1000000\r\nAge: 500\r\nDate: Fri, 01 Jan 2038 00:00:00 GMT";
    through(&server, &upstream, "/", "", &answer(fields, "body"));
    let hit = cached(&server, "/", "");
    let age: u64 = hit.field("Age").and_then(|age| age.parse().ok()).expect("an age");
    assert!((500..560).contains(&age), "{age}");
    hit.expect_field("Date", "Fri, 01 Jan 2038 00:00:00 GMT");
    assert_eq!((hit.all("Age").len(), hit.all("Date").len()), (1, 1));
}

#[test]
fn without_the_directive_hits_look_as_in_nginx() {
    let upstream = Upstream::start();
    let server = caching(&upstream, "");
    let fields = "Cache-Control: max-age=1000\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: X-Own\r\nX-Own: 1";
    through(&server, &upstream, "/", "", &answer(fields, "body"));
    let hit = cached(&server, "/", "Cache-Control: no-cache, only-if-cached");
    assert_eq!((hit.field("Age"), hit.field("X-Own")), (None, Some("1")));
    assert_ne!(hit.field("Date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
}

#[test]
fn fields_of_one_connection_are_neither_sent_nor_stored() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let fields = "Cache-Control: max-age=1000\r\nConnection: X-Own, close\r\nX-Own: 1\r\nX-All: 2";
    let first = through(&server, &upstream, "/", "", &answer(fields, "body"));
    let second = cached(&server, "/", "");
    for response in [first, second] {
        assert_eq!((response.field("X-Own"), response.field("X-All")), (None, Some("2")));
    }
    let files: Vec<_> = std::fs::read_dir(server.path("cache")).expect("the cache").flatten().collect();
    assert_eq!(files.len(), 1);
    let file = std::fs::read(files[0].path()).expect("a cache file");
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains("X-All: 2\r\n") && !text.contains("X-Own") && !text.contains("Connection"), "{text}");
}

#[test]
fn requests_have_a_say() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let fields = "Cache-Control: max-age=1000\r\nAge: 100";
    through(&server, &upstream, "/", "", &answer(fields, "first"));
    for wish in ["", "max-age=500", "min-fresh=100", "max-stale", "only-if-cached", "max-age=5, max-stale=1"] {
        cached(&server, "/", &format!("Cache-Control: {wish}")).expect_body("first");
    }
    for wish in ["no-cache", "max-age=50", "min-fresh=950", "max-age=0"] {
        let response = through(&server, &upstream, "/", &format!("Cache-Control: {wish}"), &answer(fields, "again"));
        response.expect_body("again");
    }
    for wish in ["only-if-cached, max-age=50", "only-if-cached, no-cache"] {
        request(&server, "/", &format!("Cache-Control: {wish}")).response().expect_status(504);
    }
    request(&server, "/other", "Cache-Control: only-if-cached").response().expect_status(504);

    through(&server, &upstream, "/no-store", "Cache-Control: no-store", &answer(fields, "first"));
    through(&server, &upstream, "/no-store", "", &answer(fields, "second")).expect_body("second");
    cached(&server, "/no-store", "").expect_body("second");
}

#[test]
fn a_client_may_take_what_is_stale() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    through(&server, &upstream, "/", "", &answer(&format!("{STALE}public"), "stale"));
    let response = request(&server, "/", "Cache-Control: max-stale").response();
    response.expect_field("X-Cache", "STALE").expect_body("stale");
    through(&server, &upstream, "/", "Cache-Control: max-stale=5", &answer(&format!("{STALE}must-revalidate"), "new"));
    through(&server, &upstream, "/", "Cache-Control: max-stale", &answer("X: y", "newer")).expect_body("newer");
}

#[test]
fn what_never_changes_need_not_be_asked_about() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let fields = "Cache-Control: max-age=1000, immutable\r\nAge: 100";
    through(&server, &upstream, "/", "", &answer(fields, "first"));
    cached(&server, "/", "Cache-Control: max-age=0").expect_body("first");
    through(&server, &upstream, "/", "Cache-Control: no-cache", &answer(fields, "second")).expect_body("second");
}

#[test]
fn credentials_need_an_answer_for_all() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let authorization = "Authorization: Basic YTpi";
    for (n, (control, hit)) in
        [("", false), (", public", true), (", s-maxage=1000", true), (", must-revalidate", true)].iter().enumerate()
    {
        let path = format!("/{n}");
        let fields = format!("Cache-Control: max-age=1000{control}");
        through(&server, &upstream, &path, authorization, &answer(&fields, "first"));
        if *hit {
            cached(&server, &path, "").expect_body("first");
        } else {
            through(&server, &upstream, &path, "", &answer(&fields, "second"));
            // what was fetched without credentials is for all
            cached(&server, &path, authorization).expect_body("second");
        }
    }
}

#[test]
fn no_cache_is_kept_and_asked_about() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    through(&server, &upstream, "/", "", &answer("Cache-Control: no-cache\r\nETag: \"a\"", "kept"));
    for _ in 0..2 {
        let mut client = request(&server, "/", "");
        upstream.expect("GET /").expect_field("If-None-Match", "\"a\"").reply("HTTP/1.1 304 OK\r\n\r\n").close();
        client.response().expect_status(200).expect_field("X-Cache", "REVALIDATED").expect_body("kept");
    }
    through(&server, &upstream, "/", "", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").expect_status(500);
}

#[test]
fn a_304_brings_new_fields() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let body = "0123456789".repeat(100_000);
    let fields = "Cache-Control: max-age=1000\r\nAge: 1000\r\nETag: \"a\"\r\nX-Same: 1\r\nX-Changed: old";
    through(&server, &upstream, "/", "", &answer(fields, &body));
    let newer = "HTTP/1.1 304 OK\r\nCache-Control: max-age=2000\r\nX-Changed: new\r\nX-More: 2\r\n\r\n";
    let asked = through(&server, &upstream, "/", "", newer);
    let hit = cached(&server, "/", "");
    for response in [asked, hit] {
        response.expect_status(200).expect_field("X-Same", "1").expect_field("X-Changed", "new");
        response.expect_field("X-More", "2").expect_field("Cache-Control", "max-age=2000").expect_body(&body);
        let age: u64 = response.field("Age").and_then(|age| age.parse().ok()).expect("an age");
        assert!(age < 60, "{age}");
    }
}

#[test]
fn changes_invalidate() {
    let upstream = Upstream::start();
    let server = strict(&upstream, "");
    let fields = "Cache-Control: max-age=1000";
    let paths = ["/a", "/b?x=1", "/c", "/d", "/e"];
    for path in paths {
        through(&server, &upstream, path, "", &answer(fields, "first"));
        cached(&server, path, "");
    }
    let change = |method: &str, reply: &str| {
        let mut client = server.client();
        let body = if method == "DELETE" { "" } else { "Content-Length: 1\r\n" };
        let content = if body.is_empty() { "" } else { "x" };
        client.send(format!("{method} /a HTTP/1.1\r\nHost: a\r\n{body}Connection: close\r\n\r\n{content}"));
        upstream.expect(method).reply(reply).close();
        client.response()
    };
    change("POST", "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n").expect_status(400);
    cached(&server, "/a", "").expect_body("first");

    let moved = "HTTP/1.1 201 OK\r\nLocation: http://a/b?x=1\r\nContent-Location: c\r\nContent-Length: 0\r\n\r\n";
    change("POST", moved).expect_status(201);
    through(&server, &upstream, "/a", "", &answer(fields, "second")).expect_body("second");
    through(&server, &upstream, "/b?x=1", "", &answer(fields, "second")).expect_body("second");
    through(&server, &upstream, "/c", "", &answer(fields, "second")).expect_body("second");
    cached(&server, "/d", "").expect_body("first");

    let elsewhere =
        "HTTP/1.1 303 See\r\nLocation: http://other/d\r\nContent-Location: //other/e\r\nContent-Length: 0\r\n\r\n";
    for method in ["PUT", "DELETE", "PATCH", "FROB"] {
        change(method, elsewhere).expect_status(303);
        through(&server, &upstream, "/a", "", &answer(fields, method)).expect_body(method);
        cached(&server, "/a", "").expect_body(method);
    }
    cached(&server, "/d", "").expect_body("first");
    cached(&server, "/e", "").expect_body("first");
}

/// A HEAD that the upstream answers with these fields.
fn head(server: &Server, upstream: &Upstream, path: &str, fields: &str) {
    let mut client = server.client();
    client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n"));
    upstream.expect(&format!("HEAD {path}")).reply(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).close();
    client.response().expect_status(200);
}

#[test]
fn head_freshens_what_answers_get() {
    let upstream = Upstream::start();
    for key in ["$uri", "$request_method$uri"] {
        let server = strict(&upstream, &format!("proxy_cache_convert_head off; proxy_cache_key {key};"));
        let stored = answer("Cache-Control: max-age=1000\r\nETag: \"a\"\r\nX-Of: get", "body");
        through(&server, &upstream, "/a", "", &stored).expect_body("body");
        // Its fields count from now on, and the body is the one that was there.
        head(&server, &upstream, "/a", "Cache-Control: max-age=2000\r\nETag: \"a\"\r\nX-Of: head\r\nContent-Length: 4");
        let response = cached(&server, "/a", "");
        response.expect_body("body").expect_field("X-Of", "head").expect_field("Cache-Control", "max-age=2000");
        // It has become another, as its tag or its length says: the copy is gone.
        for other in ["ETag: \"b\"", "ETag: \"a\"\r\nContent-Length: 5", "Content-Length: 3"] {
            head(&server, &upstream, "/a", &format!("Cache-Control: max-age=2000\r\n{other}"));
            through(&server, &upstream, "/a", "", &stored).expect_field("X-Cache", "MISS").expect_body("body");
            cached(&server, "/a", "").expect_field("X-Of", "get");
        }
        // What there is no copy of is not made of a HEAD.
        head(&server, &upstream, "/b", "Cache-Control: max-age=2000");
        through(&server, &upstream, "/b", "", &stored).expect_body("body");
    }
}
