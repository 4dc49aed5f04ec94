//! A busy listener takes its connections with their first bytes, and nobody is lost by it.

use crate::kit::{Client, Server, eventually};

const CONF: &str = "
    server {
        listen %%ADDR_0%% backlog=4096;
        location / { return 200 \"$connections_active\"; }
        location /status { stub_status; }
    }
    server { listen %%ADDR_1%% deferred; location / { return 200 deferred; } }";

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// As many clients, all of whom have asked before the first reads its answer.
fn crowd(server: &Server) {
    let ask = |_| {
        let mut client = server.client();
        client.send(ASK);
        client
    };
    let clients: Vec<Client> = (0..200).map(ask).collect();
    for mut client in clients {
        client.response().expect_status(200);
    }
}

/// Of all connections there were, those that were taken by now.
fn accepted(server: &Server) -> u64 {
    let text = server.fetch("/status").text_body();
    let number = text.lines().nth(2).and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {text}"))
}

/// A client that says nothing, and whether it was taken before another that came later and did.
fn silent(server: &Server) -> (Client, bool) {
    let before = accepted(server);
    let client = server.client();
    (client, accepted(server) == before + 2)
}

#[test]
fn clients_of_a_busy_listener_are_taken_with_their_first_bytes() {
    let server = Server::start(CONF);
    let (mut early, taken) = silent(&server);
    assert!(taken, "nobody waits where little goes on");
    let mut held = None;
    eventually("a silent client is not taken at once", || {
        crowd(&server);
        let (client, taken) = silent(&server);
        held = (!taken).then_some(client);
        held.is_some()
    });
    // Without a word it is taken a little later, and has lost nothing.
    let mut held = held.expect("there is one");
    let mut watcher = server.client();
    let mut active = || watcher.get("/").response().expect_status(200).text_body();
    eventually("it is taken all the same", || active() == "3");
    held.send(ASK).response().expect_body("3");
    early.send(ASK).response().expect_body("2");
    // Where little goes on again, nobody waits.
    eventually("a silent client is taken at once", || silent(&server).1);
}

#[test]
fn a_crowd_of_silent_clients_is_taken_and_answered() {
    let server = Server::start(CONF);
    eventually("a silent client is not taken at once", || {
        crowd(&server);
        !silent(&server).1
    });
    let mut clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    eventually("a silent client is taken at once", || silent(&server).1);
    for client in &mut clients {
        client.send(ASK).response().expect_status(200);
    }
}

#[test]
fn the_parameter_of_listen_has_the_last_word() {
    let server = Server::start(CONF);
    let mut silent = Client::connect(&server.address(1));
    crowd(&server);
    silent.send(ASK).response().expect_body("deferred");
}
