//! `auth_request`: one who decides slowly, one who hangs up, and what the log says.

use crate::kit::{Setup, Upstream};

const CONF: &str = "
    server {
        listen %%ADDR_0%%;
        location / { auth_request /auth; proxy_pass http://%%UPSTREAM%%/own; }
        location = /auth { internal; proxy_pass http://%%UPSTREAM%%; proxy_pass_request_body off;
            proxy_set_header Content-Length \"\"; }
    }";

#[test]
fn the_body_waits_for_the_decision() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(CONF);
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    let mut auth = upstream.expect("GET /auth");
    auth.reply("HTTP/1.1 204 No Content\r\n\r\n");
    client.send("dy");
    upstream.expect("POST /own").expect_body("body").reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.response().expect_status(200).expect_body("ok");
}

#[test]
fn every_challenge_reaches_the_client() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(CONF);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nWWW-Authenticate: Bearer\r\n";
    upstream.expect("GET /auth").reply(format!("{head}Content-Length: 0\r\n\r\n"));
    let answer = client.response();
    assert_eq!(answer.expect_status(401).all("WWW-Authenticate"), ["Basic", "Bearer"]);
}

#[test]
fn who_does_not_decide_lets_nobody_in() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(CONF);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.expect("GET /auth").close();
    client.response().expect_status(500);
    server.wait_for_log("auth request unexpected status: 502, client: ");
    assert_eq!(upstream.connections(), 1, "nobody was asked for the answer itself");
}
