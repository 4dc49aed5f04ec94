//! Access and error logs where a table cannot say it: buffers, compression, files by variable, syslog.

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::kit::{Server, Setup, eventually, holds_within};

#[test]
fn a_buffered_log_is_written_in_time_and_at_the_end() {
    let mut server = Server::start(
        "log_format line '$uri'; access_log logs/slow.log line buffer=64k; access_log logs/quick.log line buffer=64k flush=200ms; \
         server { listen %%ADDR_0%%; location / { return 200; } }",
    );
    for number in 0..10 {
        server.fetch(&format!("/{number}"));
    }
    assert_eq!(server.wait_for_lines("quick.log", 10)[9], "/9");
    assert!(server.stop().success());
    assert_eq!(server.wait_for_lines("slow.log", 10), server.wait_for_lines("quick.log", 10));
}

#[test]
fn a_full_buffer_is_written_at_once_and_no_line_is_torn() {
    let server = Server::start(
        "log_format line '$uri-----------------------------------------------------------------'; \
         access_log logs/a.log line buffer=1k; server { listen %%ADDR_0%%; location / { return 200; } }",
    );
    let mut client = server.client();
    for number in 0..100 {
        client.get(&format!("/{number}")).response().expect_status(200);
    }
    eventually("a buffer is written", || !server.log("a.log").is_empty());
    for line in server.log("a.log").lines() {
        assert!(line.ends_with("-----"), "{line}");
    }
}

#[test]
fn a_compressed_log_is_gzip() {
    let mut server = Server::start(
        "log_format line '$uri'; access_log logs/a.gz line gzip=6 flush=1m; server { listen %%ADDR_0%%; location / { return 200; } }",
    );
    let mut client = server.client();
    for number in 0..1000 {
        client.get(&format!("/{number}")).response().expect_status(200);
    }
    drop(client);
    assert!(server.stop().success());
    let bytes = fs::read(server.path("logs/a.gz")).expect("there is a log");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("it is gzip");
    let expected: String = (0..1000).map(|number| format!("/{number}\n")).collect();
    assert_eq!(text, expected);
}

#[test]
fn a_name_with_variables_is_a_file_for_each_value() {
    let server = Setup::new().mode("logs", 0o777).start(
        "log_format line '$uri'; open_log_file_cache max=10 inactive=20s valid=1m min_uses=1; \
         server { listen %%ADDR_0%%; root html; location / { access_log logs/$arg_who.log line; return 200; } }",
    );
    for path in ["/1?who=a", "/2?who=b", "/3?who=a", "/4?who=none/x"] {
        server.fetch(path);
    }
    assert_eq!(server.wait_for_lines("a.log", 2), ["/1", "/3"]);
    assert_eq!(server.wait_for_lines("b.log", 1), ["/2"]);
}

#[test]
fn syslog_gets_its_line() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout is set");
    let server = Setup::new().set("SYSLOG", socket.local_addr().expect("it is bound")).start(
        "log_format line '$uri $status'; \
         access_log syslog:server=%%SYSLOG%%,facility=local3,tag=weirtest,severity=notice line; \
         server { listen %%ADDR_0%%; location / { return 204; } \
         location /bare { access_log syslog:server=%%SYSLOG%%,nohostname line; return 204; } \
         location /error { error_log syslog:server=%%SYSLOG%% error; root html; access_log off; } }",
    );
    let receive = || {
        let mut bytes = [0; 4000];
        let length = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let like = |pattern: &str, text: &str| {
        assert!(regex::Regex::new(pattern).expect("a pattern").is_match(text), "{pattern} and {text}");
    };
    server.fetch("/logged");
    // local3 is 19, notice is 5: 19 * 8 + 5.
    like(r"^<157>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ weirtest: /logged 204$", &receive());
    server.fetch("/bare");
    // local7 is 23, info is 6.
    like(r"^<190>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d nginx: /bare 204$", &receive());
    server.fetch("/error");
    like(r"^<187>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ nginx: \d{4}/\d\d/\d\d .* \[error\] .*/error", &receive());
}

#[test]
fn levels_choose_what_is_written() {
    let setup =
        Setup::new().main("error_log logs/warn.log warn; error_log logs/info.log info; error_log logs/error.log;");
    let server = setup.start("server { listen %%ADDR_0%%; root html; location / { } }");
    server.fetch("/missing").expect_status(404); // [error]
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\n\r\n").response().expect_status(400); // [info]
    server.wait_for_line("info.log", "client sent HTTP/1.1 request without \"Host\" header");
    for name in ["info.log", "warn.log", "error.log"] {
        server.wait_for_line(name, "/missing\" failed (2: No such file or directory)");
    }
    assert!(!server.log("warn.log").contains("without \"Host\""));
    assert!(!server.log("error.log").contains("without \"Host\""));
}

#[test]
fn an_error_log_of_a_location_is_its_own() {
    let server = Server::start("server { listen %%ADDR_0%%; root html; location /own { error_log logs/own.log; } }");
    server.fetch("/own").expect_status(404);
    server.fetch("/other").expect_status(404);
    server.wait_for_line("own.log", "/own\" failed");
    server.wait_for_log("/other\" failed");
    assert!(!server.log("own.log").contains("/other"));
    assert!(!server.error_log().contains("/own"));
}

#[test]
fn every_request_is_logged_once_however_many_there_are() {
    let mut server = Server::start("server { listen %%ADDR_0%%; location / { return 200; } }");
    let mut clients: Vec<_> = (0..20).map(|_| server.client()).collect();
    for round in 0..50 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.get(&format!("/{number}/{round}"));
        }
        for client in &mut clients {
            client.response().expect_status(200);
        }
    }
    assert!(server.stop().success());
    let lines = server.wait_for_lines("access.log", 1000);
    let mut paths: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').nth(6)).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), 1000);
}

#[test]
fn a_buffered_log_is_flushed_before_it_is_opened_anew() {
    let server = Server::start(
        "log_format line '$uri'; access_log logs/a.log line buffer=64k; server { listen %%ADDR_0%%; location / { return 200; } }",
    );
    server.fetch("/before");
    fs::rename(server.path("logs/a.log"), server.path("logs/old.log")).expect("there is a log");
    server.signal(Signal::SIGUSR1);
    let moved = holds_within(Duration::from_secs(20), || server.log("old.log") == "/before\n");
    assert!(moved, "old: {:?} new: {:?}", server.log("old.log"), server.log("a.log"));
}
