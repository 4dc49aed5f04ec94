//! A whole server that speaks HTTP/2: whatever frames a client sends, the connection ends, and nothing in the server
//! breaks. A first byte that is odd: the rest is bytes as they are; else they make frames whose lengths are true.
#![no_main]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use weir::log::{ErrorLog, Sinks};
use weir::net::listen::Purpose;
use weir::process::cli::Options;
use weir::process::crew::Crew;
use weir::process::generation::{Draft, Generation};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS, and the acknowledgement of the server's.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
/// `GET` `http` `/` of `a`, in fields that every table has.
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

/// A server that serves until the process ends.
struct Server {
    address: SocketAddr,
    _held: (Crew, Arc<Generation>, Sinks, ErrorLog),
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let prefix = std::env::temp_dir().join(format!("weir-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&prefix).expect("a directory");
    let shown = prefix.display();
    let conf = format!(
        "error_log /dev/null; pid {shown}/pid; events {{ }} http {{ access_log off;
        client_body_temp_path {shown}/body; proxy_temp_path {shown}/proxy;
        server {{ listen {address}; http2 on; client_header_timeout 1s; keepalive_timeout 1s; lingering_close off;
        location / {{ return 200 $http_cookie$request_id; }}
        location /body {{ client_body_buffer_size 100; client_max_body_size 10k; proxy_pass http://{address}/; }} }} }}"
    );
    let options = Options::of_text(conf, prefix);
    let sinks = Sinks::new();
    let log = ErrorLog::startup(&sinks, None);
    let Ok(draft) = Draft::read(&options, &mut options.source(), &sinks, || {}) else { panic!("a bad configuration") };
    let affinity = draft.settings.worker_cpu_affinity.clone();
    let generation = draft.open(1, &[], Purpose::Serve, &sinks, &log);
    let Ok(generation) = generation else { panic!("it cannot listen") };
    let crew = Crew::start(1, &affinity).expect("a thread");
    let generation = Arc::new(generation);
    generation.begin();
    crew.serve(&generation);
    Server { address, _held: (crew, generation, sinks, log) }
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let mut sent = [PREFACE, SETTINGS].concat();
    match first & 1 {
        1 => sent.extend_from_slice(rest),
        _ => frames(rest, &mut sent),
    }
    let mut client = TcpStream::connect(SERVER.address).expect("the server listens");
    client.set_read_timeout(Some(Duration::from_secs(8))).expect("a timeout");
    // The server may have had enough before the end.
    let written = client.write_all(&sent);
    if written.is_ok() {
        let _ = client.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    let silent = read.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
    assert!(!silent, "the connection does not end");
});

/// Each frame: kind, flags, stream, length and that many bytes. A kind that there is not makes a request.
fn frames(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some((&[kind, flags, stream, len], after)) = rest.split_first_chunk() {
        let (payload, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        let (kind, flags, payload) = match kind % 12 {
            10 | 11 => (1, flags | 4, [REQUEST, payload].concat()),
            kind => (kind, flags, payload.to_vec()),
        };
        out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        out.extend_from_slice(&payload);
    }
}
