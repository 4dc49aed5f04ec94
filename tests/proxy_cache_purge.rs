//! `proxy_cache_purge`: nginx's commercial syntax, all variants, beginnings of keys, the purger.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};

use crate::kit::upstream::Background;
use crate::kit::{Asked, Server, Setup, Step, Upstream, eventually};

/// Answers every request with how many came before it.
fn counting() -> Background {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Upstream::start().serve(move |asked: &Asked| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let vary = if asked.target().contains("vary") { "Vary: X-Kind\r\n" } else { "" };
        let body = n.to_string();
        let head = format!("HTTP/1.1 200 OK\r\n{vary}Content-Length: {}\r\n\r\n", body.len());
        vec![Step::Bytes((head + &body).into()), Step::Close]
    })
}

fn purging(upstream: &Background, path: &str, location: &str) -> Server {
    purging_with(Setup::new(), upstream, path, location)
}

fn purging_with(setup: Setup, upstream: &Background, path: &str, location: &str) -> Server {
    let conf = format!(
        "map $request_method $purges {{ PURGE 1; default 0; }}
        proxy_cache_path %%PREFIX%%/cache levels=1:2 keys_zone=z:1m {path};
        server {{
            listen %%ADDR_0%%;
            location / {{
                proxy_pass http://%%UPSTREAM%%;
                proxy_cache z;
                proxy_cache_key $request_uri;
                proxy_cache_valid any 1h;
                proxy_cache_purge $purges;
                add_header X-Cache $upstream_cache_status;
                {location}
            }}
        }}"
    );
    setup.set("UPSTREAM", upstream.address).start(&conf)
}

/// What `/path` gives with a value of `X-Kind`: `HIT 3`.
fn fetch(server: &Server, path: &str, kind: &str) -> String {
    let mut client = server.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Kind: {kind}\r\nConnection: close\r\n\r\n"));
    let response = client.response();
    format!("{} {}", response.field("X-Cache").unwrap_or_default(), response.text_body())
}

fn purge(server: &Server, path: &str) -> u16 {
    let mut client = server.client();
    client.send(format!("PURGE {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    client.response().status
}

/// The cache files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_purged_entry_is_fetched_anew() {
    let upstream = counting();
    let server = purging(&upstream, "", "");
    assert_eq!(fetch(&server, "/a", ""), "MISS 0");
    assert_eq!(fetch(&server, "/ab", ""), "MISS 1");
    assert_eq!(fetch(&server, "/a", ""), "HIT 0");
    assert_eq!(purge(&server, "/a"), 204);
    assert_eq!(files(&server.path("cache")).len(), 1, "its file is gone at once");
    assert_eq!(fetch(&server, "/a", ""), "MISS 2");
    assert_eq!(fetch(&server, "/a", ""), "HIT 2");
    assert_eq!(fetch(&server, "/ab", ""), "HIT 1");
    assert_eq!(upstream.connections(), 3, "a purge asks nobody");
}

#[test]
fn what_is_not_there_is_a_404() {
    let upstream = counting();
    let server = purging(&upstream, "", "");
    assert_eq!(purge(&server, "/a"), 404);
    assert_eq!(fetch(&server, "/a", ""), "MISS 0");
    assert_eq!(purge(&server, "/a"), 204);
    assert_eq!(purge(&server, "/a"), 404);
}

#[test]
fn all_variants_go_with_their_key() {
    let upstream = counting();
    let server = purging(&upstream, "", "");
    for (n, kind) in ["x", "y", "z"].iter().enumerate() {
        assert_eq!(fetch(&server, "/vary", kind), format!("MISS {n}"));
        assert_eq!(fetch(&server, "/vary", kind), format!("HIT {n}"));
    }
    assert_eq!(fetch(&server, "/vary2", "y"), "MISS 3");
    assert_eq!(purge(&server, "/vary"), 204);
    for (n, kind) in ["y", "x", "z"].iter().enumerate() {
        assert_eq!(fetch(&server, "/vary", kind), format!("MISS {}", n + 4));
        assert_eq!(fetch(&server, "/vary", kind), format!("HIT {}", n + 4));
    }
    assert_eq!(fetch(&server, "/vary2", "y"), "HIT 3");
}

#[test]
fn an_asterisk_purges_all_keys_that_begin_so() {
    let upstream = counting();
    let server = purging(&upstream, "", "");
    for (n, path) in ["/a/1", "/a/2", "/b", "/vary"].iter().enumerate() {
        assert_eq!(fetch(&server, path, ""), format!("MISS {n}"));
    }
    assert_eq!(purge(&server, "/a/*"), 204);
    assert_eq!(fetch(&server, "/b", ""), "HIT 2");
    assert_eq!(fetch(&server, "/a/1", ""), "MISS 4");
    assert_eq!(fetch(&server, "/a/1", ""), "HIT 4");
    assert_eq!(fetch(&server, "/a/2", ""), "MISS 5");
    assert_eq!(purge(&server, "/*"), 204);
    assert_eq!(fetch(&server, "/b", ""), "MISS 6");
    assert_eq!(fetch(&server, "/vary", ""), "MISS 7");
}

#[test]
fn the_purger_deletes_what_nobody_asks_for() {
    let upstream = counting();
    let server = purging(&upstream, "purger=on purger_files=2 purger_sleep=1ms purger_threshold=50ms", "");
    for n in 0..20 {
        assert_eq!(fetch(&server, &format!("/a/{n}"), ""), format!("MISS {n}"));
    }
    assert_eq!(fetch(&server, "/b", ""), "MISS 20");
    eventually("all are kept", || files(&server.path("cache")).len() == 21);
    assert_eq!(purge(&server, "/a/*"), 204);
    eventually("the files are gone", || files(&server.path("cache")).len() == 1);
    assert_eq!(fetch(&server, "/b", ""), "HIT 20");
}

#[test]
fn an_answer_that_was_on_its_way_is_purged_with_the_rest() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "map $request_method $purges { PURGE 1; default 0; }
        proxy_cache_path %%PREFIX%%/cache keys_zone=z:1m;
        server {
            listen %%ADDR_0%%;
            location / {
                proxy_pass http://%%UPSTREAM%%;
                proxy_cache z;
                proxy_cache_key $request_uri;
                proxy_cache_valid any 1h;
                proxy_cache_lock on;
                proxy_cache_purge $purges;
                add_header X-Cache $upstream_cache_status;
            }
        }",
    );
    let mut client = server.client();
    client.get("/a");
    let mut conversation = upstream.expect("GET /a");
    assert_eq!(purge(&server, "/*"), 204);
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").close();
    client.response().expect_body("old");
    let mut client = server.client();
    client.get("/a");
    upstream.expect("GET /a").reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew").close();
    client.response().expect_body("new").expect_field("X-Cache", "MISS");
    server.fetch("/a").expect_body("new").expect_field("X-Cache", "HIT");
}

#[test]
fn purges_outlive_their_worker_and_their_server() {
    let upstream = counting();
    let mut server = purging_with(Setup::new().allow_alerts(), &upstream, "", "");
    for (n, path) in ["/a/1", "/a/2", "/b"].iter().enumerate() {
        assert_eq!(fetch(&server, path, ""), format!("MISS {n}"));
    }
    for (n, kind) in ["x", "y"].iter().enumerate() {
        assert_eq!(fetch(&server, "/vary", kind), format!("MISS {}", n + 3));
    }
    assert_eq!((purge(&server, "/a/*"), purge(&server, "/vary")), (204, 204));
    // Killed as it is: only what is on the disk counts.
    let before = server.workers();
    for worker in &before {
        kill(*worker, Signal::SIGKILL).expect("it runs");
    }
    eventually("another worker", || server.workers().iter().any(|pid| !before.contains(pid)));
    for path in ["/a/1", "/a/2"] {
        assert!(fetch(&server, path, "").starts_with("MISS"), "{path} was purged");
        assert!(fetch(&server, path, "").starts_with("HIT"), "{path} is there again");
    }
    for kind in ["y", "x"] {
        assert!(fetch(&server, "/vary", kind).starts_with("MISS"), "{kind} was purged");
    }
    assert_eq!(fetch(&server, "/b", ""), "HIT 2");
    // The next one goes as it should.
    assert_eq!(purge(&server, "/b*"), 204);
    server.stop();
    let setup = Setup::new();
    crate::proxy_cache::copy(&server.path("cache"), &setup.prefix().join("cache"));
    let next = purging_with(setup, &upstream, "", "");
    assert!(fetch(&next, "/b", "").starts_with("MISS"), "it was purged");
    assert!(fetch(&next, "/b", "").starts_with("HIT"), "it is there again");
}

#[test]
fn access_rules_say_who_may_purge() {
    let upstream = counting();
    let server = purging(&upstream, "", "if ($purges) { return 403; }");
    assert_eq!(fetch(&server, "/a", ""), "MISS 0");
    assert_eq!(purge(&server, "/a"), 403);
    assert_eq!(fetch(&server, "/a", ""), "HIT 0");
}
