//! Idle connections beyond the first hundreds rest: they cost little, and nobody can tell them from others.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::kit::{Client, Server, Setup, eventually};

/// So many a thread leaves as they are.
const AWAKE: usize = 512;
/// So many more there are here.
const RESTING: usize = 60;

const ASK: &str = "GET /who HTTP/1.1\r\nHost: a\r\n\r\n";

fn start(worker_connections: usize, server: &str) -> Server {
    let text = format!(
        "worker_rlimit_nofile 4096; pid %%PREFIX%%/pid; error_log %%PREFIX%%/logs/error.log info; \
         events {{ worker_connections {worker_connections}; }} http {{ access_log off; \
         server {{ listen %%ADDR_0%% backlog=4096; {server} location /who {{ \
         return 200 \"$connection $connection_requests $remote_addr:$remote_port $server_addr:$server_port\"; }} \
         location /status {{ stub_status; }} }} }}"
    );
    Setup::new().start_text(&text)
}

/// So many clients that have had an answer each, and their answers; those that rest are the first.
fn clients(server: &Server) -> Vec<(Client, String)> {
    let clients = (0..AWAKE + RESTING)
        .map(|_| {
            let mut client = server.client();
            let answer = client.send(ASK).response().expect_status(200).text_body();
            (client, answer)
        })
        .collect();
    eventually("those beyond the first rest", || resting(server) >= RESTING);
    clients
}

/// So many clients that have all asked before the first is accepted, and have had their answers. The thread has no moment to
/// spare until the last is answered, and reads no clock.
fn crowd(server: &Server, count: usize) -> Vec<Client> {
    server.fetch("/who").expect_status(200); // there is a worker
    let worker = server.workers()[0];
    let signal = |signal| kill(worker, signal).expect("the worker runs");
    signal(Signal::SIGSTOP);
    let mut clients: Vec<Client> = (0..count).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(ASK);
    }
    signal(Signal::SIGCONT);
    for client in &mut clients {
        client.response().expect_status(200);
    }
    clients
}

/// How many sockets are waited for in an epoll set that is itself in another one.
fn resting(server: &Server) -> usize {
    let process = format!("/proc/{}", server.workers()[0]);
    let mut sets = HashMap::new();
    for entry in fs::read_dir(format!("{process}/fd")).expect("the worker runs").flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if !fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains("eventpoll")) {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let text = fs::read_to_string(format!("{process}/fdinfo/{name}")).unwrap_or_default();
        sets.insert(name, text.lines().filter_map(member).collect::<Vec<_>>());
    }
    let inner = sets.keys().find(|name| sets.values().flatten().any(|(member, _)| member == *name));
    inner.map_or(0, |inner| sets[inner].iter().filter(|(_, events)| events & 1 == 1).count())
}

/// A descriptor in an epoll set, and the events that are waited for: `tfd: 17 events: 40002001 data: ...`.
fn member(line: &str) -> Option<(String, u64)> {
    let mut words = line.strip_prefix("tfd:")?.split_whitespace();
    let (descriptor, _, events) = (words.next()?, words.next()?, words.next()?);
    Some((descriptor.to_owned(), u64::from_str_radix(events, 16).ok()?))
}

fn active(server: &Server) -> String {
    server.fetch("/status").text_body().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_connection_that_rested_goes_on_as_it_was() {
    let server = start(2048, "");
    let mut clients = clients(&server);
    let (first, before) = &mut clients[0];
    // The first time after a while, and then at once.
    for n in 2..4 {
        let answer = first.send(ASK).response().expect_status(200).text_body();
        assert_eq!(answer, before.replacen(" 1 ", &format!(" {n} "), 1));
    }
    eventually("as many rest as before", || resting(&server) >= RESTING);
    // Requests that come together, in two pieces.
    first.send(format!("{ASK}{ASK}GET /wh"));
    first.response().expect_status(200);
    first.response().expect_status(200);
    first.send("o HTTP/1.1\r\nHost: a\r\n\r\n").response().expect_status(200).expect_in_body(" 6 ");
    assert!(active(&server).ends_with(&format!(" {} ", AWAKE + RESTING + 1)), "{}", active(&server));
    // A client that goes is noticed.
    drop(clients);
    server.wait_for_log("closed keepalive connection");
    eventually("all are gone", || active(&server) == "Active connections: 1 ");
}

#[test]
fn keepalive_timeout_goes_on_in_rest() {
    let server = start(2048, "keepalive_timeout 2s;");
    let begun = Instant::now();
    let mut clients = clients(&server);
    let (first, _) = &mut clients[0];
    first.expect_closed();
    let after = begun.elapsed();
    assert!((1900..4000).contains(&after.as_millis()), "closed after {after:?}");
    eventually("nobody rests", || resting(&server) == 0);
}

#[test]
fn a_reload_ends_those_that_rest_and_not_a_request_on_its_way() {
    let server = start(2048, "");
    let mut clients = clients(&server);
    let rested = resting(&server);
    server.reload();
    // It counts from the reload of the worker, and so does the chance of one more request.
    server.wait_for_log("reconfiguring");
    let begun = Instant::now();
    let last = clients[0].0.send(ASK).try_response(Duration::from_secs(5));
    if begun.elapsed() < Duration::from_millis(500) {
        last.expect("who asks in time is answered").expect_status(200);
    }
    clients[1].0.expect_closed();
    assert!(rested > 0);
    eventually("nobody rests", || resting(&server) == 0);
    server.fetch("/who").expect_status(200);
}

#[test]
fn who_rests_for_longest_makes_room() {
    let limit = AWAKE + RESTING + 10;
    let server = start(limit, "");
    let mut clients = clients(&server);
    server.fetch("/who").expect_status(200);
    server.wait_for_log("worker_connections are not enough, reusing connections");
    clients[0].0.expect_closed();
    let (last, _) = clients.last_mut().expect("there are many");
    last.send(ASK).response().expect_status(200);
}

#[test]
fn of_those_who_came_in_one_moment_the_first_make_room() {
    let limit = AWAKE + RESTING + 10;
    let server = start(limit, "");
    let mut clients = crowd(&server, AWAKE);
    // One after the other, and so the first of the crowd rest by then.
    clients.extend((0..RESTING).map(|_| {
        let mut client = server.client();
        client.send(ASK).response().expect_status(200);
        client
    }));
    server.wait_for_log("worker_connections are not enough, reusing connections");
    clients[0].expect_closed();
}

#[test]
fn a_worker_that_quits_does_not_wait_for_those_that_rest() {
    let mut server = start(2048, "");
    let mut clients = clients(&server);
    let begun = Instant::now();
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    clients[0].0.expect_closed();
}

#[test]
fn a_crowd_that_comes_in_one_moment_rests_at_once() {
    const CROWD: usize = 800;
    let server = start(2048, "");
    let _clients = crowd(&server, CROWD);
    let rest = resting(&server);
    assert!(rest + AWAKE + 10 >= CROWD, "{rest} of {CROWD} rest");
}
