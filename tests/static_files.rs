//! Files that change, open files that are remembered, links that are not followed.

use std::fs;
use std::os::unix::fs::symlink;

use crate::kit::server::write_file;
use crate::kit::{Setup, eventually};

#[test]
fn a_file_that_changes_is_served_as_it_is() {
    let server = Setup::new().file("html/a", "one").start("server { listen %%ADDR_0%%; root html; }");
    server.fetch("/a").expect_body("one");
    write_file(&server.path("html/a"), b"longer");
    server.fetch("/a").expect_body("longer").expect_field("Content-Length", "6");
    fs::remove_file(server.path("html/a")).expect("it is there");
    server.fetch("/a").expect_status(404);
}

#[test]
fn a_remembered_file_is_served_until_it_is_looked_at_again() {
    let conf = "open_file_cache max=100 inactive=60s; open_file_cache_valid 3s; open_file_cache_errors on; \
                server { listen %%ADDR_0%%; root html; }";
    let server = Setup::new().file("html/a", "one").start(conf);
    server.fetch("/a").expect_body("one");
    server.fetch("/later").expect_status(404);
    // Replaced by another file under the same name: the old one is still open and still served, for two
    // seconds at least, which is time enough for a busy machine.
    write_file(&server.path("html/new"), b"two");
    fs::rename(server.path("html/new"), server.path("html/a")).expect("it is there");
    write_file(&server.path("html/later"), b"here");
    server.fetch("/a").expect_body("one");
    server.fetch("/later").expect_status(404);
    eventually("the file is looked at again", || server.fetch("/a").body == b"two");
    eventually("the error is forgotten", || server.fetch("/later").status == 200);
}

#[test]
fn a_file_is_remembered_only_after_so_many_uses() {
    let conf = "open_file_cache max=100 inactive=60s; open_file_cache_valid 60s; open_file_cache_min_uses 3; \
                server { listen %%ADDR_0%%; root html; }";
    let server = Setup::new().file("html/a", "one").start(conf);
    server.fetch("/a").expect_body("one");
    fs::remove_file(server.path("html/a")).expect("it is there");
    // nginx remembers what it knows of the file, not the open file: the next use opens it, and sees that it is gone.
    server.fetch("/a").expect_status(404);
}

#[test]
fn links_are_followed_as_the_configuration_says() {
    let conf = "server { listen %%ADDR_0%%; root html; location / { } \
                location /on/ { disable_symlinks on; alias %%PREFIX%%/html/; } \
                location /owner/ { disable_symlinks if_not_owner; alias %%PREFIX%%/html/; } \
                location /from/ { disable_symlinks on from=%%PREFIX%%/html/linked; alias %%PREFIX%%/html/linked/; } }";
    let setup = Setup::new().file("html/real/a", "a").link("html/link", "real/a").link("html/linked", "real");
    let server = setup.link("html/dangling", "nowhere").start(conf);
    server.fetch("/link").expect_status(200).expect_body("a");
    server.fetch("/linked/a").expect_status(200);
    server.fetch("/dangling").expect_status(404);
    server.fetch("/on/real/a").expect_status(200);
    server.fetch("/on/link").expect_status(403);
    server.fetch("/on/linked/a").expect_status(404); // a link where a directory must be is not a directory
    server.wait_for_log("failed (40: Too many levels of symbolic links)");
    server.fetch("/owner/link").expect_status(200);
    server.fetch("/from/a").expect_status(200);
    symlink("a", server.path("html/real/inner")).expect("a link is made");
    server.fetch("/from/inner").expect_status(403);
}

#[test]
fn a_fifo_or_socket_is_not_a_file() {
    let server = Setup::new().file("html/a", "a").start("server { listen %%ADDR_0%%; root html; }");
    nix::unistd::mkfifo(&server.path("html/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a fifo");
    let _socket = std::os::unix::net::UnixListener::bind(server.path("html/socket")).expect("a socket");
    server.fetch("/fifo").expect_status(404);
    server.fetch("/socket").expect_status(500);
    server.wait_for_log("open() \"");
    server.fetch("/a").expect_status(200);
}

#[test]
fn a_file_that_shrinks_under_way_cuts_the_answer() {
    let server = Setup::new().allow_alerts().start("server { listen %%ADDR_0%%; root html; sendfile on; }");
    write_file(&server.path("html/big"), &vec![b'x'; 40_000_000]);
    let mut client = server.client();
    client.get("/big");
    client.read_until(b"\r\n\r\nxxxx");
    let file = fs::OpenOptions::new().write(true).open(server.path("html/big")).expect("it is there");
    file.set_len(1000).expect("it is ours");
    // What was promised cannot be kept; the connection ends, and the server lives.
    let got = client.rest();
    assert!(got.len() < 40_000_000);
    server.fetch("/missing").expect_status(404);
}

#[test]
fn however_a_file_is_read_it_is_whole() {
    // Sizes around what goes with the head, what is one block, and what is sent in several turns.
    let sizes = [0, 1, 511, 512, 513, 32767, 32768, 32769, 100_000, 3_000_001];
    let bytes = |size: usize| (0..size).map(|n| (n * 7 + n / 251) as u8).collect::<Vec<_>>();
    for settings in [
        "",
        "sendfile on;",
        "sendfile on; sendfile_max_chunk 64k;",
        "sendfile on; aio threads;",
        "aio threads; output_buffers 1 5000;",
        "directio 512; directio_alignment 4k;",
        "sendfile on; aio threads; directio 32k; output_buffers 2 8k;",
        "sendfile on; open_file_cache max=100;",
        "read_ahead 1m; open_file_cache max=2; open_file_cache_min_uses 2;",
    ] {
        let server = Setup::new().start(&format!("server {{ listen %%ADDR_0%%; root html; {settings} }}"));
        for size in sizes {
            write_file(&server.path(&format!("html/{size}")), &bytes(size));
        }
        for size in sizes {
            // Three times: opened, used again, kept.
            for _ in 0..3 {
                let answer = server.fetch(&format!("/{size}"));
                answer.expect_status(200);
                assert!(answer.body == bytes(size), "{size} bytes with {settings:?}, {} came", answer.body.len());
            }
        }
    }
}

#[test]
fn what_is_kept_of_a_small_file_is_of_one_piece() {
    let conf = "open_file_cache max=100; open_file_cache_valid 1s; server { listen %%ADDR_0%%; root html; }";
    let server = Setup::new().file("html/a", "0123456789").start(conf);
    for _ in 0..3 {
        server.fetch("/a").expect_body("0123456789");
    }
    // Overwritten in place: size, date and bytes change together, when the file is looked at again.
    fs::write(server.path("html/a"), "new").expect("it is there");
    eventually("the file is looked at again", || {
        let answer = server.fetch("/a");
        assert!(answer.body == b"0123456789" || answer.body == b"new", "{:?}", answer.body);
        answer.body == b"new"
    });
}
