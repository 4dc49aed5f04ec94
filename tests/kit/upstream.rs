//! Scripted upstreams: a listener whose side of the conversation is written in the test.
//!
//! Two ways to use one. As a conversation, in the test's own thread: `upstream.accept().expect("GET /").reply(..)`,
//! with the client's and the server's lines in between. In the background, for many requests: a function from what
//! was asked to the steps of the answer.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::client::find;
use super::{Client, DEADLINE};

/// A listening socket of the test's own.
pub struct Upstream {
    listener: TcpListener,
    accepted: AtomicUsize,
}

impl Upstream {
    pub fn start() -> Upstream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        Upstream { listener, accepted: AtomicUsize::new(0) }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The next connection, which must come.
    #[track_caller]
    pub fn accept(&self) -> Conversation {
        self.accept_within(DEADLINE).expect("a connection to the upstream within the deadline")
    }

    /// The next connection, if one comes in time.
    pub fn accept_within(&self, limit: Duration) -> Option<Conversation> {
        let timeout = PollTimeout::try_from(limit).expect("a short time");
        let mut descriptors = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut descriptors, timeout).expect("a listener can be polled") == 0 {
            return None;
        }
        let (stream, _) = self.listener.accept().expect("a connection is waiting");
        self.accepted.fetch_add(1, Ordering::SeqCst);
        Some(Conversation::new(stream))
    }

    /// The connection on which the next request comes: a new one, or the one that was kept.
    pub fn accept_or(&self, kept: Conversation) -> Conversation {
        let mut kept = kept;
        loop {
            let soon = Duration::from_millis(20);
            if let Some(conversation) = self.accept_within(soon) {
                return conversation;
            }
            if kept.client.fill(Instant::now() + soon, |buffer| !buffer.is_empty()) {
                return kept;
            }
        }
    }

    /// Accepts one connection and expects its first request to begin with `start`.
    #[track_caller]
    pub fn expect(&self, start: &str) -> Conversation {
        let mut conversation = self.accept();
        conversation.expect(start);
        conversation
    }

    /// Answers every request in the background, each connection in a thread of its own.
    pub fn serve(self, answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Background {
        let (address, upstream) = (self.address(), Arc::new(self));
        let over = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let thread = std::thread::spawn({
            let (upstream, over) = (upstream.clone(), over.clone());
            move || {
                while !over.load(Ordering::SeqCst) {
                    let Some(conversation) = upstream.accept_within(Duration::from_millis(500)) else {
                        continue;
                    };
                    let answer = answer.clone();
                    // Ends with its connection, which the server closes at the latest when it stops.
                    std::thread::spawn(move || conversation.answer(|asked| answer(asked)));
                }
            }
        });
        Background { address, upstream, over, thread: Some(thread) }
    }
}

/// An upstream that answers by itself until dropped.
pub struct Background {
    pub address: SocketAddr,
    upstream: Arc<Upstream>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub fn connections(&self) -> usize {
        self.upstream.connections()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A step of an answer given in the background.
pub enum Step {
    /// Send these bytes now.
    Bytes(Vec<u8>),
    /// Close the connection.
    Close,
}

/// A request as the upstream received it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Request line, fields and the empty line, as they came.
    pub head: String,
    /// The body, out of its framing.
    pub body: Vec<u8>,
}

impl Asked {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.trim()).collect()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

/// One connection to an upstream, from the upstream's side.
pub struct Conversation {
    client: Client,
    /// The request that was read last.
    pub asked: Asked,
}

impl Conversation {
    fn new(stream: TcpStream) -> Conversation {
        stream.set_nodelay(true).expect("the connection is open");
        Conversation { client: Client::from_stream(stream), asked: Asked::default() }
    }

    /// Reads a whole request, whose head must begin with `start`.
    #[track_caller]
    pub fn expect(&mut self, start: &str) -> &mut Conversation {
        let read = self.read_request(DEADLINE);
        let so_far = String::from_utf8_lossy(&self.client.buffer).into_owned();
        assert!(read, "no whole request came to the upstream; so far {so_far:?}");
        assert!(self.asked.head.starts_with(start), "expected {start:?}, asked was\n{}", self.asked.head);
        self
    }

    /// Reads a request head only, and leaves what follows.
    #[track_caller]
    pub fn expect_head(&mut self, start: &str) -> &mut Conversation {
        let head = self.client.read_until(b"\r\n\r\n");
        self.asked = Asked { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() };
        assert!(self.asked.head.starts_with(start), "expected {start:?}, asked was\n{}", self.asked.head);
        self
    }

    #[track_caller]
    pub fn expect_field(&mut self, name: &str, value: &str) -> &mut Conversation {
        assert_eq!(self.asked.all(name), [value], "{name} in\n{}", self.asked.head);
        self
    }

    #[track_caller]
    pub fn expect_body(&mut self, body: impl AsRef<[u8]>) -> &mut Conversation {
        let same = self.asked.body == body.as_ref();
        assert!(same, "the body was {:?}", String::from_utf8_lossy(&self.asked.body));
        self
    }

    /// Reads exactly these bytes.
    #[track_caller]
    pub fn expect_bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Conversation {
        let bytes = bytes.as_ref();
        let came = self.client.read_exactly(bytes.len());
        assert!(
            came == bytes,
            "expected {:?}, got {:?}",
            String::from_utf8_lossy(bytes),
            String::from_utf8_lossy(&came)
        );
        self
    }

    /// Reads so many bytes, whatever they are.
    #[track_caller]
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        self.client.read_exactly(length)
    }

    /// The server closes this connection without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        self.client.expect_closed();
    }

    pub fn reply(&mut self, bytes: impl AsRef<[u8]>) -> &mut Conversation {
        self.client.send(bytes);
        self
    }

    pub fn close(&mut self) {
        let _ = self.client.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.client.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("linger can be set");
    }

    fn read_request(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        if !self.client.fill(end, |buffer| find(buffer, b"\r\n\r\n").is_some()) {
            return false;
        }
        let length = find(&self.client.buffer, b"\r\n\r\n").expect("it was found") + 4;
        let head: Vec<u8> = self.client.buffer.drain(..length).collect();
        self.asked = Asked { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() };
        if self.asked.field("Transfer-Encoding") == Some("chunked") {
            let (body, whole) = self.client.chunked_body(end);
            self.asked.body = body;
            return whole;
        }
        let Some(length) = self.asked.field("Content-Length") else {
            return true;
        };
        let length: usize = length.parse().expect("a server sends a number as Content-Length");
        if !self.client.fill(end, |buffer| buffer.len() >= length) {
            return false;
        }
        self.asked.body = self.client.buffer.drain(..length).collect();
        true
    }

    /// Answers until either side closes.
    fn answer(mut self, answer: impl Fn(&Asked) -> Vec<Step>) {
        while self.read_request(Duration::from_secs(120)) {
            for step in answer(&self.asked) {
                match step {
                    Step::Bytes(bytes) => {
                        let sent = self.client.stream.write_all(&bytes);
                        if sent.is_err_and(|error| error.kind() != ErrorKind::Interrupted) {
                            return;
                        }
                    }
                    Step::Close => return,
                }
            }
        }
    }
}

#[test]
fn a_conversation_reads_in_order() {
    let upstream = Upstream::start();
    let conf = "server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; proxy_http_version 1.0; } }";
    let server = super::Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc");
    let mut conversation = upstream.expect("POST /a HTTP/1.0\r\n");
    conversation.expect_body("abc").reply("HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nhello").close();
    client.response().expect_status(200).expect_field("X-A", "b").expect_body("hello");
    assert_eq!(upstream.connections(), 1);
}
