//! Variables whose values nobody can write down beforehand, and those of requests that were refused.

use crate::kit::Server;

#[test]
fn values_that_differ_each_time_have_their_shape() {
    let server = Server::start(
        "log_format own '$request_id'; access_log logs/own.log own;\n\
         server { listen %%ADDR_0%%; location / { return 200 \"$tcpinfo_rtt $tcpinfo_rttvar $tcpinfo_snd_cwnd \
         $tcpinfo_rcv_space|$msec|$connection_time|$request_time|$pid|$connection|$remote_port|$nginx_version|\
         $request_id\"; } }",
    );
    let body = server.fetch("/").text_body();
    let parts: Vec<&str> = body.split('|').collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_seconds = |text: &str| {
        text.split_once('.')
            .is_some_and(|(seconds, millis)| is_number(seconds) && is_number(millis) && millis.len() == 3)
    };
    let [tcp, msec, connection_time, request_time, pid, connection, remote_port, version, id] = parts[..] else {
        panic!("{body}");
    };
    assert!(tcp.split(' ').count() == 4 && tcp.split(' ').all(is_number), "{body}");
    assert!([msec, connection_time, request_time].into_iter().all(is_seconds), "{body}");
    assert!([pid, connection, remote_port].into_iter().all(is_number), "{body}");
    assert!(server.workers().iter().any(|worker| worker.to_string() == pid), "{body}");
    assert_eq!(version, "1.31.5");
    assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{body}");
    assert_eq!(server.wait_for_lines("own.log", 1), [id]);
}

#[test]
fn a_slow_request_counts_from_its_first_byte() {
    let server = Server::start(
        "log_format own '$request_time'; access_log logs/own.log own; server { listen %%ADDR_0%%; return 200; }",
    );
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\n");
    // Until the server has surely seen that, another request is answered; then time passes that the first one waits.
    server.fetch("/");
    std::thread::sleep(std::time::Duration::from_millis(120));
    client.send("Host: a\r\nConnection: close\r\n\r\n").response().expect_status(200);
    let line = server.wait_for_lines("own.log", 2).remove(1);
    assert!(line.parse::<f64>().is_ok_and(|seconds| seconds >= 0.1), "{line}");
}

#[test]
fn requests_that_were_refused_have_what_was_understood() {
    let server = Server::start(
        "log_format own '$status|$request_method|$uri|$request_uri|$http_host|$host|$request_length|$pipe'; \
         access_log logs/own.log own;\n\
         server { listen %%ADDR_0%%; server_name first; client_header_timeout 400ms; return 200; }",
    );
    let cases = [
        ("BAD\r\n\r\n", "400|-|-|-|-|first|0|."),
        ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "400|GET||-|-|first|20|."),
        ("GET /x HTTP/1.1\r\nA: b\r\nHost: a/b\r\n\r\n", "400|GET|/x|/x|a/b|first|34|."),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400|GET|/x|/x|a|a|35|."),
        ("GET /x HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", "400|GET|/x|/x|a|a|26|."),
        ("\r\n\r\nGET /x HTTP/1.0\r\n\r\n", "200|GET|/x|/x|-|first|19|."),
        ("GET /x HT", "408|-|-|-|-|first|0|."),
    ];
    for (n, (request, expected)) in cases.into_iter().enumerate() {
        server.client().send(request).rest();
        assert_eq!(server.wait_for_lines("own.log", n + 1)[n], expected, "{request:?}");
    }
    let mut client = server.client();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.rest();
    let lines = server.wait_for_lines("own.log", cases.len() + 2);
    assert_eq!(lines[cases.len()..], ["200|GET|/1|/1|a|a|28|.", "200|GET|/2|/2|a|a|47|p"]);
}
