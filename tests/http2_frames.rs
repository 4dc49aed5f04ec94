//! What RFC 9113 demands of a server where a client breaks its rules, frame by frame, and where nginx goes its own way.
//!
//! One table: what the client sends behind the preface and its settings, and how that ends. Stream 1 is the one that it is
//! about, and streams up to 99 are open or closed as the case says. Which of two allowed ends it is, is nginx's choice.

use std::time::{Duration, Instant};

use crate::kit::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PADDED, PING, PRIORITY, PRIORITY_FLAG,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, base, block, frame, literal,
};
use crate::kit::{Server, Setup};

/// How a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection ends with this code.
    Connection(u32),
    /// Stream 1 is reset with this code, and the connection lives.
    Stream(u32),
    /// Stream 1 is answered, and the connection lives.
    Answer(&'static str),
    /// As above, and behind the answer stream 1 is reset as broken.
    Malformed(&'static str),
    /// Nothing happens.
    Lives,
}
use End::{Answer, Connection, Lives, Malformed, Stream};

const NONE: u32 = 0;
const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

const WHOLE: u8 = END_STREAM | END_HEADERS;

/// A request that is whole.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(&base("/a.txt")))
}

/// A request whose body is still to come, and which nobody answers before.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&posting()))
}

fn posting() -> Vec<(&'static str, &'static str)> {
    let mut fields = base("/body").to_vec();
    fields[0].1 = "POST";
    fields
}

/// A whole request on stream 1 with these fields.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(fields))
}

/// As [`fields`], behind the usual ones.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = base("/a.txt").to_vec();
    all.extend(more);
    fields(&all)
}

/// As [`with`], of bytes.
fn with_bytes(name: &[u8], value: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &[block(&base("/a.txt")), literal(name, value)].concat())
}

/// The usual fields, one of them as given.
fn but(name: &str, value: &str) -> Vec<u8> {
    let changed = base("/a.txt").map(|field| if field.0 == name { (name, value) } else { field });
    fields(&changed)
}

/// The usual fields without one.
fn without(name: &str) -> Vec<u8> {
    let left: Vec<_> = base("/a.txt").into_iter().filter(|field| field.0 != name).collect();
    fields(&left)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
}

fn update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A stream that the server has answered and both sides have closed, and then these bytes.
fn closed(then: &[u8]) -> Vec<u8> {
    [&get(1)[..], then].concat()
}

type Case = (&'static str, Vec<u8>, End);

/// RFC 9113, 4 and 6: frames.
fn frames() -> Vec<Case> {
    let pad = |pad: u8, rest: &[u8]| [&[pad][..], rest].concat();
    let request = block(&base("/a.txt"));
    let depends = |on: u32| [&on.to_be_bytes()[..], &[15]].concat();
    vec![
        ("4.1 an unknown kind is skipped", frame(0x42, 0xff, 7, &[0; 100]), Lives),
        ("4.1 unknown flags are ignored", frame(PING, 0xfe, 0, &[0; 8]), Lives),
        ("4.1 the reserved bit is ignored", frame(SETTINGS, ACK, 0x8000_0000, &[]), Lives),
        (
            "4.1 a request in a frame of 16384 bytes",
            {
                let mut all = base("/a.txt").to_vec();
                let long = "x".repeat(8000);
                all.extend([("a", long.as_str()), ("b", long.as_str())]);
                fields(&all)
            },
            Answer("200"),
        ),
        ("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x"), Connection(PROTOCOL)),
        ("6.1 DATA on an idle stream", frame(DATA, 0, 1, b"x"), Connection(PROTOCOL)),
        ("6.1 DATA on a stream that only we could open", frame(DATA, 0, 2, b"x"), Connection(PROTOCOL)),
        ("6.1 DATA padded without a length", [open(1), frame(DATA, PADDED, 1, &[])].concat(), Connection(SIZE)),
        ("6.1 DATA padded beyond its end", [open(1), frame(DATA, PADDED, 1, &[9, 1])].concat(), Connection(PROTOCOL)),
        (
            "6.1 DATA all padding",
            [open(1), frame(DATA, PADDED, 1, &[2, 0, 0]), frame(DATA, END_STREAM, 1, b"ok")].concat(),
            Answer("200"),
        ),
        (
            "6.1 DATA behind the end of its stream",
            [open(1), frame(DATA, END_STREAM, 1, b"x"), frame(DATA, 0, 1, b"x")].concat(),
            Stream(CLOSED),
        ),
        ("6.2 HEADERS on stream 0", frame(HEADERS, WHOLE, 0, &request), Connection(PROTOCOL)),
        ("6.2 HEADERS on a stream that only we could open", frame(HEADERS, WHOLE, 2, &request), Connection(PROTOCOL)),
        ("6.2 HEADERS without a block", frame(HEADERS, WHOLE, 1, &[]), Connection(SIZE)),
        (
            "6.2 HEADERS padded",
            frame(HEADERS, WHOLE | PADDED, 1, &[pad(3, &request), vec![0; 3]].concat()),
            Answer("200"),
        ),
        (
            "6.2 HEADERS padded beyond its end",
            frame(HEADERS, WHOLE | PADDED, 1, &pad(255, &request)),
            Connection(PROTOCOL),
        ),
        ("6.2 HEADERS padded without a length", frame(HEADERS, WHOLE | PADDED, 1, &[]), Connection(SIZE)),
        ("6.2 HEADERS too short for its priority", frame(HEADERS, WHOLE | PRIORITY_FLAG, 1, &[0; 4]), Connection(SIZE)),
        (
            "6.2 HEADERS with a priority",
            frame(HEADERS, WHOLE | PRIORITY_FLAG, 1, &[depends(0), request.clone()].concat()),
            Answer("200"),
        ),
        (
            "5.3 HEADERS that depends on itself",
            frame(HEADERS, WHOLE | PRIORITY_FLAG, 1, &[depends(1), request.clone()].concat()),
            Connection(PROTOCOL),
        ),
        ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, &depends(1)), Connection(PROTOCOL)),
        ("6.3 PRIORITY of a wrong length", frame(PRIORITY, 0, 1, &[0; 4]), Connection(SIZE)),
        ("6.3 PRIORITY on an idle stream", frame(PRIORITY, 0, 5, &depends(3)), Lives),
        ("5.3 PRIORITY that depends on itself", frame(PRIORITY, 0, 5, &depends(5)), Connection(PROTOCOL)),
        ("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), Connection(PROTOCOL)),
        ("6.4 RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), Connection(PROTOCOL)),
        ("6.4 RST_STREAM of a wrong length", [open(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), Connection(SIZE)),
        ("6.4 RST_STREAM ends a stream", [open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(), Lives),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), Connection(PROTOCOL)),
        ("6.5 SETTINGS acknowledged with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), Connection(SIZE)),
        ("6.5 SETTINGS of a wrong length", frame(SETTINGS, 0, 0, &[0; 5]), Connection(SIZE)),
        ("6.5.2 an unknown setting", setting(0x4242, 1), Lives),
        ("6.5.2 ENABLE_PUSH of 2", setting(2, 2), Connection(PROTOCOL)),
        ("6.5.2 INITIAL_WINDOW_SIZE beyond the largest", setting(4, 1 << 31), Connection(FLOW)),
        ("6.5.2 MAX_FRAME_SIZE below the least", setting(5, (1 << 14) - 1), Connection(PROTOCOL)),
        ("6.5.2 MAX_FRAME_SIZE beyond the largest", setting(5, 1 << 24), Connection(PROTOCOL)),
        ("6.6 PUSH_PROMISE from a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), Connection(PROTOCOL)),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.7 PING of a wrong length", frame(PING, 0, 0, &[0; 7]), Connection(SIZE)),
        ("6.7 an answer to no PING", frame(PING, ACK, 0, &[0; 8]), Lives),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.8 GOAWAY of a wrong length", frame(GOAWAY, 0, 0, &[0; 7]), Connection(SIZE)),
        ("6.8 GOAWAY with a word", [frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0bye"), get(1)].concat(), Answer("200")),
        ("6.9 WINDOW_UPDATE of 0 on the connection", update(0, 0), Connection(PROTOCOL)),
        ("6.9 WINDOW_UPDATE of 0 on a stream", [open(1), update(1, 0)].concat(), Connection(PROTOCOL)),
        ("6.9 WINDOW_UPDATE on an idle stream", update(1, 1), Connection(PROTOCOL)),
        ("6.9 WINDOW_UPDATE of a wrong length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(SIZE)),
        ("6.9.1 the connection's window overflows", update(0, (1 << 31) - 1), Connection(FLOW)),
        ("6.9.1 a stream's window overflows", [open(1), update(1, (1 << 31) - 1)].concat(), Stream(FLOW)),
        (
            "6.9.2 settings make a stream's window overflow",
            [open(1), update(1, (1 << 31) - 1 - 65535), setting(4, 65536)].concat(),
            Stream(FLOW),
        ),
        ("6.10 CONTINUATION out of nowhere", frame(CONTINUATION, END_HEADERS, 1, &request), Connection(PROTOCOL)),
        (
            "6.10 CONTINUATION behind the end of a block",
            [open(1), frame(CONTINUATION, END_HEADERS, 1, &request)].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 CONTINUATION on another stream",
            [frame(HEADERS, END_STREAM, 1, &request), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 CONTINUATION on stream 0",
            [frame(HEADERS, END_STREAM, 1, &request), frame(CONTINUATION, END_HEADERS, 0, &[])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 another frame where CONTINUATION must be",
            [frame(HEADERS, END_STREAM, 1, &request), frame(PING, 0, 0, &[0; 8])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 an unknown frame where CONTINUATION must be",
            [frame(HEADERS, END_STREAM, 1, &request), frame(0x42, 0, 0, &[])].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 a block in three pieces",
            [
                frame(HEADERS, END_STREAM, 1, &request[..5]),
                frame(CONTINUATION, 0, 1, &request[5..6]),
                frame(CONTINUATION, END_HEADERS, 1, &request[6..]),
            ]
            .concat(),
            Answer("200"),
        ),
        (
            "6.10 an empty CONTINUATION",
            [frame(HEADERS, END_STREAM, 1, &request), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Answer("200"),
        ),
    ]
}

/// RFC 9113, 5: streams.
fn streams() -> Vec<Case> {
    vec![
        (
            "5.1 HEADERS on a half-closed stream",
            [open(1), frame(DATA, END_STREAM, 1, &[]), get(1)].concat(),
            Stream(CLOSED),
        ),
        ("5.1 DATA on a closed stream", closed(&frame(DATA, 0, 1, b"x")), Stream(CLOSED)),
        ("5.1 WINDOW_UPDATE on a closed stream", [closed(&update(1, 1)), get(3)].concat(), Answer("200")),
        (
            "5.1 RST_STREAM on a closed stream",
            [closed(&frame(RST_STREAM, 0, 1, &[0; 4])), get(3)].concat(),
            Answer("200"),
        ),
        (
            "5.1 PRIORITY on a closed stream",
            [closed(&frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])), get(3)].concat(),
            Answer("200"),
        ),
        ("5.1.1 a number below one that was used", [open(5), get(3)].concat(), Connection(PROTOCOL)),
        ("5.1.1 a number that skips others", [get(1), get(99)].concat(), Answer("200")),
        ("5.1.2 more streams than allowed", [open(91), open(93), open(95), get(97)].concat(), Lives),
        ("6.9.1 more of a body than its window", [open(1), frame(DATA, 0, 1, &[0; 2000])].concat(), Stream(FLOW)),
        (
            "8.1 trailers",
            [open(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, WHOLE, 1, &block(&[("x-end", "1")]))].concat(),
            Answer("200"),
        ),
        (
            "8.1 trailers that do not end the stream",
            [open(1), frame(HEADERS, END_HEADERS, 1, &block(&[("x-end", "1")]))].concat(),
            Stream(PROTOCOL),
        ),
        (
            "8.1 trailers with a pseudo-field",
            [open(1), frame(HEADERS, WHOLE, 1, &block(&[(":path", "/")]))].concat(),
            Stream(PROTOCOL),
        ),
        (
            "8.1 trailers with a capital",
            [open(1), frame(HEADERS, WHOLE, 1, &block(&[("X-End", "1")]))].concat(),
            Stream(PROTOCOL),
        ),
    ]
}

/// RFC 9113, 8, and RFC 7541: requests and how they are written.
fn requests() -> Vec<Case> {
    let posted = |length: &'static str, body: &[u8]| {
        let mut fields = posting();
        fields.push(("content-length", length));
        [frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, END_STREAM, 1, body)].concat()
    };
    let raw = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, bytes);
    vec![
        ("8.2 a capital in a name", with(&[("X-A", "1")]), Malformed("400")),
        ("8.2.1 a space in a name", with(&[("x a", "1")]), Malformed("400")),
        ("8.2.1 a colon in a name", with(&[("x:a", "1")]), Malformed("400")),
        ("8.2.1 a control in a name", with_bytes(b"x\x01", b"1"), Malformed("400")),
        ("8.2.1 DEL in a name", with_bytes(b"x\x7f", b"1"), Malformed("400")),
        ("8.2.1 NUL in a value", with_bytes(b"x-a", b"a\0b"), Malformed("400")),
        ("8.2.1 a line feed in a value", with(&[("x-a", "a\nb")]), Malformed("400")),
        ("8.2.1 a carriage return in a value", with(&[("x-a", "a\rb")]), Malformed("400")),
        (
            "8.2.1 a name without a letter",
            raw(&[block(&base("/a.txt")), vec![0, 0, 1, b'x']].concat()),
            Connection(PROTOCOL),
        ),
        ("8.2.2 Connection", with(&[("connection", "close")]), Malformed("400")),
        ("8.2.2 Keep-Alive", with(&[("keep-alive", "1")]), Malformed("400")),
        ("8.2.2 Transfer-Encoding", with(&[("transfer-encoding", "chunked")]), Malformed("400")),
        ("8.2.2 Upgrade", with(&[("upgrade", "h2c")]), Malformed("400")),
        ("8.2.2 TE of trailers", with(&[("te", "trailers")]), Answer("200")),
        ("8.2.2 TE of anything else", with(&[("te", "gzip")]), Malformed("400")),
        ("8.3 an unknown pseudo-field", with_first((":any", "1")), Malformed("400")),
        ("8.3 a pseudo-field of answers", with_first((":status", "200")), Malformed("400")),
        ("8.3 a pseudo-field behind a field", with(&[("x-a", "1"), (":path", "/")]), Malformed("400")),
        ("8.3 :path twice", with_first((":path", "/")), Malformed("400")),
        ("8.3 :method twice", with_first((":method", "GET")), Malformed("400")),
        ("8.3 :scheme twice", with_first((":scheme", "http")), Malformed("400")),
        ("8.3 :authority twice", with_first((":authority", "localhost")), Malformed("400")),
        ("8.3.1 no :method", without(":method"), Malformed("400")),
        ("8.3.1 no :scheme", without(":scheme"), Malformed("400")),
        ("8.3.1 no :path", without(":path"), Malformed("400")),
        ("8.3.1 an empty :path", but(":path", ""), Malformed("400")),
        ("8.3.1 a :path that is none", but(":path", "a.txt"), Malformed("400")),
        ("8.3.1 a space in :path", but(":path", "/a b"), Malformed("400")),
        ("8.3.1 a :path that climbs out", but(":path", "/../a.txt"), Answer("400")),
        ("8.3.1 a :method that is none", but(":method", "get"), Malformed("400")),
        ("8.3.1 a :scheme that is none", but(":scheme", "1http"), Malformed("400")),
        ("8.3.1 an :authority that is none", but(":authority", "a b"), Malformed("400")),
        ("8.3.1 :authority and another Host", with(&[("host", "other")]), Malformed("400")),
        ("8.3.1 :authority and the same Host", with(&[("host", "localhost")]), Answer("200")),
        (
            "8.3.1 no :authority but a Host",
            fields(&[&base("/a.txt")[..3], &[("host", "localhost")]].concat()),
            Answer("200"),
        ),
        ("8.3.1 neither :authority nor Host", without(":authority"), Answer("400")),
        ("8.5 CONNECT", but(":method", "CONNECT"), Answer("405")),
        ("RFC 8441 :protocol without CONNECT", with_first((":protocol", "websocket")), Malformed("400")),
        ("8.1.1 less of a body than announced", posted("3", b"ab"), Answer("400")),
        ("8.1.1 more of a body than announced", posted("1", b"ab"), Answer("400")),
        ("8.1.1 a length that is none", posted("-1", b"ab"), Malformed("400")),
        ("8.1.1 a body announced by a request without one", with(&[("content-length", "1")]), Malformed("400")),
        ("8.1.1 a body of the announced length", posted("2", b"ab"), Answer("200")),
        ("RFC 7541 2.3.3 an index of nothing", raw(&[0x80]), Connection(COMPRESSION)),
        ("RFC 7541 2.3.3 an index beyond the table", raw(&[0xff, 0x20]), Connection(COMPRESSION)),
        ("RFC 7541 4.2 a table larger than offered", raw(&[0x3f, 0xe2, 0x1f]), Connection(COMPRESSION)),
        ("RFC 7541 5.1 a number that has no end", raw(&[0xff, 0xff, 0xff, 0xff, 0xff]), Connection(COMPRESSION)),
        ("RFC 7541 5.2 a text that is not in the code", raw(&[0x00, 0x81, 0x00, 0x01, b'a']), Connection(COMPRESSION)),
        (
            "RFC 7541 5.2 the code's own end",
            raw(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'a']),
            Connection(COMPRESSION),
        ),
        ("4.3 a block that ends in a field", raw(&[0x00, 0x03, b'a']), Connection(SIZE)),
        ("10.5.1 a field larger than a buffer", with(&[("x-a", &"x".repeat(20_000))]), Connection(CALM)),
        (
            "10.5.1 fields larger than all buffers",
            {
                let long = "x".repeat(8000);
                let many: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(|name| (name, long.as_str())).collect();
                with(&many)
            },
            Connection(CALM),
        ),
    ]
}

/// The usual fields behind one more.
fn with_first(first: (&str, &str)) -> Vec<u8> {
    let mut all = base("/a.txt").to_vec();
    all.push(first);
    fields(&all)
}

fn server() -> Server {
    Setup::new().file("html/a.txt", "ok").start(
        "client_header_timeout 30s; server { listen %%ADDR_0%%; http2 on; http2_max_concurrent_streams 3; \
         http2_body_preread_size 1k; client_body_buffer_size 1k; location /a.txt { } \
         location /body { proxy_pass http://%%ADDR_1%%; proxy_request_buffering off; proxy_http_version 1.1; } } \
         server { listen %%ADDR_1%%; location / { proxy_pass http://%%ADDR_1%%/read; } location /read { return 200; } }",
    )
}

#[test]
fn every_broken_rule_ends_as_it_should() {
    let server = server();
    let cases = [frames(), streams(), requests()].concat();
    assert!(cases.len() >= 80, "{}", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, end) in cases {
        let found = run(&server, &bytes, end);
        if found != format!("{end:?}") {
            wrong.push(format!("{name}: expected {end:?}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases are wrong\n{}", wrong.len(), wrong.join("\n"));
}

/// Sends a case, and a PING behind it, and says how it ended.
fn run(server: &Server, bytes: &[u8], end: End) -> String {
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(SETTINGS, ACK, 0, &[])).settle();
    client.send(bytes);
    let waits_for_answer = matches!(end, Answer(_) | Malformed(_));
    let mut pinged = false;
    let (mut status, mut reset, mut done) = (None, None, false);
    loop {
        if !pinged && (!waits_for_answer || done) {
            client.send(frame(PING, 0, 0, b"the end."));
            pinged = true;
        }
        let Ok(came) = client.try_frame(Duration::from_secs(10)) else { return "silence".to_owned() };
        let Some(came) = came else { return "a connection that just ends".to_owned() };
        match came.kind {
            GOAWAY => {
                let code = came.number(4);
                while client.frame().is_some() {}
                return format!("{:?}", Connection(code));
            }
            RST_STREAM if came.stream == 1 => {
                reset = Some(came.number(0));
                done = true;
            }
            HEADERS => {
                let fields = client.fields(&came.payload);
                if came.stream == 1 || status.is_none() {
                    status = fields.first().map(|field| field.1.clone());
                }
            }
            PING if came.payload == b"the end." => {
                return match (status, reset) {
                    (Some(status), Some(PROTOCOL)) => format!("Malformed({status:?})"),
                    (Some(status), None | Some(NONE)) => format!("Answer({status:?})"),
                    (_, Some(code)) => format!("{:?}", Stream(code)),
                    (None, None) => format!("{Lives:?}"),
                };
            }
            _ => {}
        }
        done |= came.ends_stream() && matches!(came.kind, DATA | HEADERS);
    }
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let server = server();
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(SETTINGS, ACK, 0, &[])).settle();
    client.send([open(1), open(3), open(5), open(7)].concat());
    let refused = client.expect(RST_STREAM);
    assert_eq!((refused.stream, refused.number(0)), (7, REFUSED));
    // What was on the way for it is no fault.
    client.send(frame(DATA, END_STREAM, 7, b"x")).settle();
}

#[test]
fn what_is_not_the_preface_ends_the_connection() {
    let server = server();
    let mut client = Http2::raw(&server.address(0));
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r").send(frame(SETTINGS, 0, 0, &[]));
    let end = Instant::now() + Duration::from_secs(20);
    while matches!(client.try_frame(Duration::from_secs(10)), Ok(Some(_))) {
        assert!(Instant::now() < end, "the connection goes on");
    }
    assert!(client.ended);
}
