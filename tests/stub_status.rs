//! `stub_status`: the numbers while connections are in each of their states.

use crate::kit::{Client, Server, eventually};

const CONF: &str = "
    server {
        listen %%ADDR_0%%;
        location /status { stub_status; }
        location /variables { return 200 \"$connections_active $connections_reading $connections_writing $connections_waiting\"; }
        location /slow { limit_rate 1; return 200 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; }
    }";

/// Connections, those accepted, those handled, requests; reading, writing, waiting.
fn numbers(client: &mut Client) -> [u64; 7] {
    let text = client.send("GET /status HTTP/1.1\r\nHost: a\r\n\r\n").response().expect_status(200).text_body();
    let mut numbers = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    std::array::from_fn(|_| numbers.next().unwrap_or_else(|| panic!("not seven numbers in {text}")))
}

#[test]
fn every_state_is_counted_and_left() {
    let server = Server::start(CONF);
    let mut watcher = server.client(); // it counts as one that writes
    let [active, accepted, handled, requests, reading, writing, waiting] = numbers(&mut watcher);
    assert_eq!((active, reading, writing, waiting), (1, 0, 1, 0));
    assert_eq!(accepted, handled);

    let mut other = server.client();
    eventually("a silent connection waits", || numbers(&mut watcher)[4..] == [0, 1, 1]);
    other.send("GET /slow HTTP/1.1\r\n");
    eventually("half a head is being read", || numbers(&mut watcher)[4..] == [1, 1, 0]);
    other.send("Host: a\r\n\r\n");
    eventually("a slow answer is being written", || numbers(&mut watcher)[4..] == [0, 2, 0]);
    drop(other);
    eventually("nobody waits for a client that left", || {
        let now = numbers(&mut watcher);
        now[0] == 1 && now[4..] == [0, 1, 0]
    });

    let mut other = server.client();
    other.send("GET /variables HTTP/1.1\r\nHost: a\r\n\r\n").response().expect_body("2 0 1 1");
    let before = numbers(&mut watcher)[3];
    other.send("GET /variables HTTP/1.1\r\nHost: a\r\n\r\nGET /variables HTTP/1.1\r\nHost: a\r\n\r\n");
    other.response();
    other.response();
    let after = numbers(&mut watcher);
    assert_eq!(after[3] - before, 3, "two of the other connection and this one");
    assert!(after[3] > requests && after[1] == accepted + 2);
}
