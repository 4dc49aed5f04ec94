//! Clients that want the server to work for nothing: each loses its connection, and costs little until then.
//!
//! Each flood goes on until the connection ends, and may not go on for long. What it cost the worker is measured in
//! processor time and memory. The bounds are several times what is seen on an idle machine; `WEIR_TEST_COSTS=1`
//! prints what it was.

use std::fs;
use std::io::{Read, Write};

use crate::kit::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, base, block, frame, literal,
};
use crate::kit::{DEADLINE, Server, Setup, Upstream};

/// The processor time of the worker's threads in microseconds; the kernel counts ticks only of whole processes.
fn processor(server: &Server) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", server.workers()[0])).expect("the worker runs");
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() / 1000
}

/// The most memory that the worker ever had, in KiB.
fn memory(server: &Server) -> usize {
    let text = fs::read_to_string(format!("/proc/{}/status", server.workers()[0])).expect("the worker runs");
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel says it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

fn server(upstream: &Upstream) -> Server {
    Setup::new()
        .file("html/big", vec![b'x'; 1 << 20])
        .file("html/small", vec![b'x'; 1000])
        .set("UPSTREAM", upstream.address())
        .start(
            "server { listen %%ADDR_0%%; http2 on; root html; location /up { proxy_pass http://%%UPSTREAM%%; \
         proxy_request_buffering off; } }",
        )
}

/// Sends `begin`, then what `next` makes of a counter, until the connection ends. Says how many bytes went out.
fn flood(server: &Server, begin: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(SETTINGS, ACK, 0, &[])).settle().send(begin);
    let mut reader = client.stream.try_clone().expect("a socket can be cloned");
    reader.set_read_timeout(Some(DEADLINE)).expect("a timeout is set");
    let reading = std::thread::spawn(move || {
        let mut waste = vec![0; 1 << 16];
        while matches!(reader.read(&mut waste), Ok(1..)) {}
    });
    let mut sent = 0;
    for n in 0.. {
        let bytes: Vec<u8> = (0..100).flat_map(|m| next(n * 100 + m)).collect();
        if client.stream.write_all(&bytes).is_err() {
            break;
        }
        sent += bytes.len();
        assert!(sent < LIMIT, "the flood goes on");
    }
    reading.join().expect("the reader reads");
    sent
}

/// Nothing may go on for longer, in bytes: what is sent after the end is still on its way.
const LIMIT: usize = 48 << 20;
/// Milliseconds; debug builds are several times slower, and the machine may be busy.
const PROCESSOR: u64 = 2000;
/// KiB.
const MEMORY: usize = 6 << 10;

#[test]
fn each_flood_ends_its_connection() {
    let upstream = Upstream::start();
    let server = server(&upstream);
    // The ordinary use of everything, so that what follows grows from there.
    let mut ordinary = Http2::connect(&server.address(0));
    ordinary.get(1, "/small").answer(1).expect_status("200");
    let mut post = base("/up");
    post[0].1 = "POST";
    let (get, post) = (block(&base("/up")), block(&post));
    let open = frame(HEADERS, END_HEADERS, 1, &post);
    let whole = END_STREAM | END_HEADERS;
    let windows =
        [frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), frame(HEADERS, whole, 1, &block(&base("/big")))].concat();
    let unfinished = frame(HEADERS, END_STREAM, 1, &get);
    let reset = 8u32.to_be_bytes();
    type Flood<'a> = (&'a str, Vec<u8>, Box<dyn FnMut(u32) -> Vec<u8> + 'a>);
    let floods: Vec<Flood<'_>> = vec![
        (
            "rapid reset",
            Vec::new(),
            Box::new(|n| [frame(HEADERS, whole, 2 * n + 1, &get), frame(RST_STREAM, 0, 2 * n + 1, &reset)].concat()),
        ),
        ("refused streams", Vec::new(), Box::new(|n| frame(HEADERS, whole, 2 * n + 1, &get))),
        (
            "streams that make the server reset them",
            Vec::new(),
            Box::new(|n| {
                [
                    frame(HEADERS, END_HEADERS, 2 * n + 1, &post),
                    frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0x7f, 255, 255, 255]),
                ]
                .concat()
            }),
        ),
        ("empty CONTINUATION", unfinished.clone(), Box::new(|_| frame(CONTINUATION, 0, 1, &[]))),
        ("CONTINUATION of fields", unfinished, Box::new(|_| frame(CONTINUATION, 0, 1, &literal(b"x", b"")))),
        ("empty SETTINGS", Vec::new(), Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        (
            "SETTINGS that shift windows",
            Vec::new(),
            Box::new(|n| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, n as u8].repeat(20))),
        ),
        ("acknowledged SETTINGS", Vec::new(), Box::new(|_| frame(SETTINGS, ACK, 0, &[]))),
        ("PING", Vec::new(), Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("PRIORITY", Vec::new(), Box::new(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1]))),
        ("GOAWAY", Vec::new(), Box::new(|_| frame(GOAWAY, 0, 0, &[0; 8]))),
        ("unknown frames", Vec::new(), Box::new(|_| frame(0x77, 0, 0, &[0; 8]))),
        ("empty DATA", open.clone(), Box::new(|_| frame(DATA, 0, 1, &[]))),
        ("DATA that is all padding", open.clone(), Box::new(|_| frame(DATA, 8, 1, &[0]))),
        (
            "DATA for a closed stream",
            frame(HEADERS, whole, 1, &block(&base("/small"))),
            Box::new(|_| frame(DATA, 0, 1, b"x")),
        ),
        (
            "RST_STREAM for a closed stream",
            frame(HEADERS, whole, 1, &block(&base("/small"))),
            Box::new(|_| frame(RST_STREAM, 0, 1, &reset)),
        ),
        ("window updates", open, Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("windows of one byte", windows, Box::new(|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))),
        ("a name of no length", Vec::new(), Box::new(|n| frame(HEADERS, whole, 2 * n + 1, &[0, 0, 0]))),
        ("broken requests", Vec::new(), Box::new(|n| frame(HEADERS, whole, 2 * n + 1, &literal(b"X", b"")))),
    ];
    for (name, begin, next) in floods {
        let before = (processor(&server), memory(&server));
        let sent = flood(&server, &begin, next);
        let cost = processor(&server).saturating_sub(before.0) / 1000;
        let grown = memory(&server).saturating_sub(before.1);
        if std::env::var_os("WEIR_TEST_COSTS").is_some() {
            eprintln!("{name}: {} KB sent, {cost} ms, {grown} KiB", sent / 1000);
        }
        assert!(cost < PROCESSOR, "{name}: {cost} ms");
        assert!(grown < MEMORY, "{name}: {grown} KiB");
    }
    // The connection that was there before them never noticed.
    ordinary.get(3, "/small").answer(3).expect_status("200");
}

#[test]
fn a_client_that_never_reads_costs_no_more_than_its_buffers() {
    let upstream = Upstream::start();
    let server = server(&upstream);
    let mut warm = Http2::connect(&server.address(0));
    warm.get(1, "/small").answer(1).expect_status("200");
    let before = memory(&server);
    let mut client = Http2::connect(&server.address(0));
    client.send(frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 255, 255, 255]));
    client.send(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 0, 0]));
    for stream in 0..100 {
        client.get(2 * stream + 1, "/big");
    }
    // All of them have begun when the last one has.
    while client.expect(HEADERS).stream != 199 {}
    warm.get(3, "/small").answer(3).expect_status("200");
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB");
}
