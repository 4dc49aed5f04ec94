//! `mirror`: what goes there, and that nobody waits for it.

use crate::kit::{Setup, Upstream};

#[test]
fn a_mirror_gets_method_arguments_and_body_and_the_client_does_not_wait() {
    let (upstream, mirror) = (Upstream::start(), Upstream::start());
    let server = Setup::new().set("UPSTREAM", upstream.address()).set("MIRROR", mirror.address()).start(
        "server { listen %%ADDR_0%%; \
         location / { mirror /one; mirror /two; proxy_pass http://%%UPSTREAM%%; } \
         location /one { internal; proxy_pass http://%%MIRROR%%; } \
         location /two { internal; log_subrequest on; access_log logs/mirror.log; return 404; } \
         location /bare { mirror /empty; mirror_request_body off; proxy_pass http://%%UPSTREAM%%; } \
         location /empty { internal; proxy_pass http://%%MIRROR%%; proxy_pass_request_body off; \
           proxy_set_header Content-Length \"\"; } \
         location /off { mirror /one; location /off/in { mirror off; return 200 off; } } }",
    );
    let mut client = server.client();
    client.send("POST /path?a=1 HTTP/1.1\r\nHost: a\r\nX-Field: yes\r\nContent-Length: 4\r\n\r\nbody");
    let mut mirrored = mirror.expect("POST /one?a=1 ");
    mirrored.expect_field("X-Field", "yes").expect_body("body");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";
    upstream.expect("POST /path?a=1 ").expect_body("body").reply(answer);
    client.response().expect_status(200).expect_body("own");
    server.wait_for_line("mirror.log", "\"POST /path?a=1 HTTP/1.1\" 404 ");
    mirrored.reply("HTTP/1.1 500 Late\r\nContent-Length: 0\r\n\r\n");

    let mut client = server.client();
    client.send("POST /bare HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    let bare = mirror.expect("POST /empty ");
    assert_eq!(bare.asked.field("Content-Length"), None);
    client.send("body");
    upstream.expect("POST /bare ").expect_body("body").reply(answer);
    client.response().expect_body("own");
    server.fetch("/off/in").expect_body("off");
}

#[test]
fn off_and_a_path_are_one_too_many() {
    for text in ["mirror off; mirror /a;", "mirror /a; mirror off;"] {
        let output = Setup::new().check_text(&format!("events {{}} http {{ {text} }}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("\"mirror\" directive is duplicate in "), "{said}");
    }
}
