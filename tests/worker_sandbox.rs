//! `worker_sandbox`: what a worker cannot do, however it is asked to. nginx does not have it.
//!
//! Requests name the files in these tests, by variables that no careful configuration would put there.

use std::fs;

use nix::unistd::Pid;

use crate::kit::{Server, Setup, Step, Upstream, eventually};

/// One value of `/proc/PID/status`.
fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

fn worker(server: &Server) -> Pid {
    eventually("a worker runs", || !server.workers().is_empty());
    server.workers()[0]
}

/// Whether this kernel confines where a process writes, by the server's own words.
fn has_landlock(server: &Server) -> bool {
    server.wait_for_log("[notice] ");
    !server.wait_for_log("worker process is confined: ").contains("no landlock")
}

const LOGS: &str = "access_log logs/by/$arg_log.log; server { listen %%ADDR_0%%; root html; return 200 one; }";

#[test]
fn a_worker_cannot_gain_anything() {
    let server = Server::start("server { listen %%ADDR_0%%; return 200 one; }");
    server.fetch("/").expect_status(200);
    let worker = worker(&server);
    assert_eq!(status(worker, "NoNewPrivs"), "1");
    if !server.wait_for_log("worker process is confined: ").contains("no seccomp") {
        assert_eq!(status(worker, "Seccomp"), "2");
    }
    assert_eq!(status(server.pid(), "Seccomp"), "0", "the master starts workers and new binaries");
}

#[test]
fn logs_are_written_where_their_names_begin_and_nowhere_else() {
    let server = Setup::new().file("logs/by/marker", "").start(LOGS);
    server.fetch("/?log=a").expect_status(200);
    server.wait_for_line("by/a.log", "GET /?log=a");
    if !has_landlock(&server) {
        return;
    }
    server.fetch("/?log=../../html/b").expect_status(200);
    let line = server.wait_for_log("html/b.log");
    assert!(line.contains("failed (13: Permission denied) while logging request"), "{line}");
    assert!(!server.path("html/b.log").exists());
}

#[test]
fn answers_are_stored_where_their_names_begin_and_nowhere_else() {
    let upstream =
        Upstream::start().serve(|_| vec![Step::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstored".to_vec())]);
    let server = Setup::new().set("UPSTREAM", upstream.address).file("store/marker", "").start(
        "server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; \
         proxy_store %%PREFIX%%/store/$arg_to; } }",
    );
    server.fetch("/?to=deep/er").expect_status(200);
    eventually("the answer is kept", || fs::read(server.path("store/deep/er")).is_ok_and(|bytes| bytes == b"stored"));
    if !has_landlock(&server) {
        return;
    }
    server.fetch("/?to=../html/over").expect_status(200);
    let line = server.wait_for_log("html/over");
    assert!(line.contains("(13: Permission denied)"), "{line}");
    assert!(!server.path("html/over").exists());
}

#[test]
fn it_can_be_switched_off() {
    let server = Setup::new().file("logs/by/marker", "").main("worker_sandbox off;").start(LOGS);
    server.fetch("/?log=../../html/b").expect_status(200);
    eventually("the log is there", || server.path("html/b.log").exists());
    assert_eq!(status(worker(&server), "Seccomp"), "0");
    server.wait_for_log("worker process is not confined: \"worker_sandbox\" is off");
}

#[test]
fn a_reload_that_needs_more_takes_a_new_worker() {
    let text = |log: &str, answer: &str| {
        format!("access_log {log}; server {{ listen %%ADDR_0%%; root html; return 200 {answer}; }}")
    };
    let mut server = Setup::new().file("other/marker", "").start(&text("logs/$arg_log.log", "one"));
    server.fetch("/").expect_body("one");
    let first = worker(&server);
    let mut reload = |log: &str, answer: &str| {
        server.configure(&text(log, answer));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/").text_body() == answer);
        eventually("one worker is left", || server.workers().len() == 1);
        server.workers()[0]
    };
    assert_eq!(reload("logs/b-$arg_log.log", "two"), first);
    assert_eq!(reload("other/fixed.log", "three"), first, "the master opens it");
    let second = reload("other/$arg_log.log", "four");
    assert_ne!(second, first);
    assert_eq!(reload("other/$arg_log.log", "five"), second);
    server.fetch("/?log=new").expect_body("five");
    eventually("the log is there", || server.path("other/new.log").exists());
}
