//! `sub_filter`: an answer that comes in pieces, and one that breaks off.

use crate::kit::{Setup, Upstream};

const CONF: &str = "
    server {
        listen %%ADDR_0%%;
        sub_filter needle found; sub_filter need less; sub_filter_once off;
        location / { proxy_pass http://%%UPSTREAM%%; proxy_buffering off; }
    }";

#[test]
fn what_cannot_be_the_beginning_of_a_string_does_not_wait() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(CONF);
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\na nee");
    client.read_until(b"a ");
    conversation.reply("dl");
    conversation.reply("es an");
    client.read_until(b"found");
    client.read_until(b"s a");
    conversation.reply(" ne");
    client.read_until(b"n ");
    conversation.close();
    client.read_until(b"ne");
}

#[test]
fn an_answer_that_breaks_off_is_cut() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(CONF);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\na needle").close();
    let rest = client.rest();
    assert!(rest.windows(5).any(|window| window == b"found"), "what came is sent");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the end of the body is missing");
    server.wait_for_log("upstream prematurely closed connection");
}

#[test]
fn faults_in_nginx_s_words() {
    let many = "sub_filter a b; ".repeat(256);
    for (text, expected) in [
        ("sub_filter \"\" x;", "empty search pattern in "),
        ("sub_filter a;", "invalid number of arguments in \"sub_filter\" directive in "),
        (many.as_str(), "number of search patterns exceeds 255 in "),
    ] {
        let output = Setup::new().check_text(&format!("events {{}} http {{ {text} }}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
}
