//! The kit: a server on its own ports and directory, a raw client, scripted upstreams, real peers.
//!
//! In: a configuration text written in the test itself. Out: sockets to talk to and files to look at. Nothing here
//! sleeps for luck: every wait is for a condition and has a deadline. `WEIR_TEST_BINARY` names the binary under
//! test (default: the weir that cargo built), `WEIR_TEST_ORACLE` the nginx that answers are compared with.

pub mod both;
pub mod client;
pub mod http2;
pub mod php_fpm;
pub mod ports;
pub mod server;
pub mod table;
pub mod tls;
pub mod upstream;
pub mod websocket;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use both::Both;
pub use client::{Client, Response};
pub use php_fpm::PhpFpm;
pub use server::{Server, Setup};
pub use tls::{Authority, Pair, TlsClient};
pub use upstream::{Asked, Conversation, Step, Upstream};

/// How long anything that should happen soon may take. Generous, because the tests share few cores; it is only
/// ever spent in full by a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("WEIR_TEST_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_weir")), PathBuf::from)
}

/// A program that the test needs but the project does not bring. `None` means that it is not installed and the test
/// is to return at once: the skip is reported on the terminal, and is a failure where `WEIR_TEST_NO_SKIPS=1`.
pub fn need(program: &str) -> Option<PathBuf> {
    if let Some(found) = find(program) {
        return Some(found);
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("WEIR_TEST_NO_SKIPS").is_none(), "{program} is not installed; run tests/setup");
    // Straight to the stream: what print macros write is captured when the test passes.
    let line = format!("\nSKIPPED: {test} needs {program}; tests/setup installs it\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("the terminal takes a line");
    None
}

/// Debian's nginx, or what `WEIR_TEST_ORACLE` names.
pub fn oracle() -> Option<PathBuf> {
    match std::env::var_os("WEIR_TEST_ORACLE") {
        Some(path) => Some(PathBuf::from(path)),
        None => need("nginx"),
    }
}

/// Looks in PATH and in the system directories; a name that ends in `*` finds the versioned names of Debian.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Programs from PyPI, by tests/setup.
    places.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/readers/bin"));
    places.extend(["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    for place in places {
        let Some(stem) = program.strip_suffix('*') else {
            let candidate = place.join(program);
            if candidate.is_file() {
                return Some(candidate);
            }
            continue;
        };
        let Ok(entries) = std::fs::read_dir(&place) else {
            continue;
        };
        let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(stem);
        let mut found: Vec<PathBuf> = entries.flatten().filter(named).map(|entry| entry.path()).collect();
        found.sort();
        if let Some(newest) = found.pop() {
            return Some(newest);
        }
    }
    None
}

/// Waits until `condition` holds; fails by naming `what` when it does not within the deadline.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(DEADLINE, condition), "not within {DEADLINE:?}: {what}");
}

/// Looks at `condition` again and again until it holds or the time is up.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        // Not a wait for luck: the pace of looking.
        std::thread::sleep(Duration::from_millis(5));
    }
}
