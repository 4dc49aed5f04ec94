//! `realip`: by the PROXY protocol and over unix sockets, and what the logs say.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::kit::{Server, Setup};

#[test]
fn the_proxy_protocol_names_the_client() {
    let server = Server::start(
        "server { listen %%ADDR_0%% proxy_protocol; set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol; \
         location / { return 200 \"$remote_addr $remote_port $realip_remote_addr\"; } \
         location /no { root nowhere; } } \
         server { listen %%ADDR_1%%; location / { return 200 ready; } }",
    );
    let mut client = server.client();
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response().expect_body("192.0.2.1 123 127.0.0.1");
    client.send("GET /no HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response().expect_status(404);
    server.wait_for_log("client: 192.0.2.1, server: ");
    let mut client = server.client();
    client.send("PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let body = client.response().text_body();
    assert!(body.starts_with("127.0.0.1 ") && body.ends_with(" 127.0.0.1"), "{body}");
}

#[test]
fn who_comes_over_a_unix_socket_may_be_believed() {
    let server = Server::start(
        "server { listen %%ADDR_0%%; listen unix:%%PREFIX%%/unix.sock; set_real_ip_from unix:; \
         return 200 \"$remote_addr $remote_port|$realip_remote_addr|$realip_remote_port\"; }",
    );
    let mut client = UnixStream::connect(server.path("unix.sock")).expect("it listens");
    client.write_all(b"GET / HTTP/1.0\r\nX-Real-IP: [2001:db8::1]:80\r\n\r\n").expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("\r\n\r\n2001:db8::1 80|unix:|"), "{answer}");
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\n\r\n");
    assert!(client.response().text_body().starts_with("127.0.0.1 "), "only unix sockets are believed");
}

#[test]
fn faults_in_nginx_s_words() {
    let name = "x".repeat(300); // refused before any server is asked
    let output = Setup::new().check_text(&format!("events {{}} http {{ set_real_ip_from {name}; }}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("[emerg] ") && said.contains(&format!("host not found in set_real_ip_from \"{name}\" in ")),
        "{said}"
    );
    let output = Setup::new().check_text("events {} http { set_real_ip_from 10.0.0.1/8; }");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("low address bits of 10.0.0.1/8 are meaningless in "), "{said}");
}
