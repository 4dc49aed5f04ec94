//! `charset`: what cannot be said in a table of text: bytes that are no UTF-8, characters cut by packets, what is logged.

use crate::kit::{Server, Setup, Upstream};

const KOI: &str = "charset_map koi8-r utf-8 { C0 D18E; C1 D0B0; 80 E282AC; }";

#[test]
fn to_utf8_every_byte_becomes_its_character_or_a_question_mark() {
    let text = [&b"a\xc0\xc1\x80b\xff\n".repeat(9000), &b"end \xc0"[..]].concat();
    let server = Setup::new().file("html/a.html", &text).start(&format!(
        "{KOI} server {{ listen %%ADDR_0%%; root html; default_type text/html; charset utf-8; source_charset koi8-r; }}"
    ));
    let answer = server.fetch("/a.html");
    answer.expect_status(200).expect_field("Content-Type", "text/html; charset=utf-8");
    answer.expect_body(format!("{}end ю", "aюа€b?\n".repeat(9000)));
}

#[test]
fn from_utf8_a_character_may_come_in_pieces() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(&format!(
        "{KOI} server {{ listen %%ADDR_0%%; charset koi8-r; override_charset on; \
         location / {{ proxy_pass http://%%UPSTREAM%%; proxy_buffering off; }} }}"
    ));
    let mut client = server.client();
    client.get("/");
    let mut conversation = upstream.expect("GET /");
    conversation.reply("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n");
    conversation.reply(b"a\xd1");
    client.read_until(b"a");
    conversation.reply(b"\x8e\xe2");
    client.read_until(b"\xc0");
    conversation.reply(b"\x82").reply(b"\xac\xf0\x9f\x98\x80.").close();
    client.read_until(b"\x80");
    client.read_until(b"&#128512;.");
}

#[test]
fn charsets_without_a_map() {
    let server = Setup::new().file("html/a.html", "text").start(&format!(
        "{KOI} server {{ listen %%ADDR_0%%; root html; default_type text/html; \
         location / {{ charset $arg_to; source_charset $arg_from; }} \
         location /other {{ charset windows-1251; return 200 x; }} }}"
    ));
    server.fetch("/a.html?to=windows-1251&from=utf-8").expect_field("Content-Type", "text/html");
    server.wait_for_log("no \"charset_map\" between the charsets \"utf-8\" and \"windows-1251\"");
    let output = Setup::new().check_text("events {} http { charset a; source_charset b; server { } }");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("[emerg] ") && said.contains("no \"charset_map\" between the charsets \"b\" and \"a\"\n"),
        "{said}"
    );
}

#[test]
fn faults_of_a_map() {
    for (block, expected) in [
        ("charset_map a A { }", "\"charset_map\" between the same charsets \"a\" and \"A\" in "),
        ("charset_map utf-8 a { }", "\"charset_map\" with \"utf-8\" charset should be given in the second column in "),
        ("charset_map a b { } charset_map B A { }", "duplicate \"charset_map\" between \"B\" and \"A\" in "),
        ("charset_map a b { 1 2 3; }", "invalid parameters number in "),
    ] {
        let output = Setup::new().check_text(&format!("events {{}} http {{ {block} }}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{block}: {said}");
    }
    Server::start("charset_map a b { } server { listen %%ADDR_0%%; return 200 ok; }").fetch("/").expect_body("ok");
}
