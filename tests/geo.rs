//! `geo`: what Debian's nginx does not know yet, clients without an address, and what is said of a bad block.

use std::os::unix::net::UnixStream;

use crate::kit::{Server, Setup};

#[test]
fn a_volatile_one_is_asked_again() {
    let server = Server::start(
        "geo $arg_ip $kept { default other; 10.0.0.0/8 ten; } \
         geo $arg_ip $fresh { volatile; default other; 10.0.0.0/8 ten; } \
         server { listen %%ADDR_0%%; set $before \"$kept $fresh\"; set $args ip=10.0.0.1; \
         return 200 \"$before $kept $fresh\"; }",
    );
    server.fetch("/?ip=192.0.2.1").expect_body("other other other ten");
}

#[test]
fn a_client_of_a_unix_socket_has_the_last_address() {
    let server = Server::start(
        "geo $net { default other; 127.0.0.0/8 local; 255.255.255.255 none; } \
         geo $range { ranges; default other; 127.0.0.1-127.0.0.1 local; } \
         server { listen %%ADDR_0%%; listen unix:%%PREFIX%%/unix.sock; return 200 \"$net $range\"; }",
    );
    server.fetch("/").expect_body("local local");
    use std::io::{Read, Write};
    let mut client = UnixStream::connect(server.path("unix.sock")).expect("it listens");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("\r\n\r\nnone other"), "{answer}");
}

#[test]
fn masks_of_includes_and_what_is_said_while_loading() {
    let server = Setup::new()
        .file("conf/nets/a.conf", "172.17.0.0/16 a;")
        .file("conf/nets/b.conf", "172.18.0.0/16 b; 172.18.0.0/16 c; delete 10.0.0.0/8;")
        .start("geo $arg_ip $net { include nets/*.conf; } server { listen %%ADDR_0%%; return 200 \"$net\"; }");
    server.fetch("/?ip=172.17.0.1").expect_body("a");
    server.fetch("/?ip=172.18.0.1").expect_body("c");
    let said = server.stderr();
    for line in [
        "[warn] duplicate network \"172.18.0.0/16\", value: \"c\", old value: \"b\" in ",
        "[warn] no network \"10.0.0.0/8\" to delete in ",
    ] {
        let words = line.trim_start_matches("[warn] ");
        assert!(said.contains("[warn]") && said.contains(words), "{line}: {said}");
    }
    let output = Setup::new().check_text("events {} http { geo $x { 10.0.0.0/33 a; } }");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("[emerg]") && said.contains("invalid network \"10.0.0.0/33\" in "), "{said}");
}
