//! Ports that nobody else uses, in this run of the tests or in another beside it.
//!
//! They come from below the range that the kernel gives to outgoing connections, so none can be taken in passing
//! between allotment and use; a locked file per port keeps two runs apart for as long as the port is held.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 21_000;
const COUNT: u16 = 10_000;

/// A port number, ours until dropped.
pub struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    /// Takes the next free one.
    pub fn allot() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Runs begin at different places, so that they seldom meet at all.
        let start = (std::process::id() % 97) as u16 * 100;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + start.wrapping_add(step) % COUNT;
            if let Some(port) = Port::take(number) {
                return port;
            }
        }
        panic!("no port is free in {FIRST}..{}", FIRST + COUNT);
    }

    fn take(number: u16) -> Option<Port> {
        let path = registry().join(number.to_string());
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
        lock.try_lock().ok()?;
        // Locked by us, but a stranger may still listen there.
        TcpListener::bind(("0.0.0.0", number)).ok()?;
        Some(Port { number, _lock: lock })
    }
}

fn registry() -> PathBuf {
    let user = nix::unistd::Uid::effective();
    let directory = std::env::temp_dir().join(format!("weir-test-ports-{user}"));
    if std::fs::create_dir_all(&directory).is_ok() {
        let open = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&directory, open).expect("the directory is ours");
    }
    directory
}

#[test]
fn no_port_is_given_twice() {
    let ports: Vec<Port> = (0..50).map(|_| Port::allot()).collect();
    let numbers: std::collections::HashSet<u16> = ports.iter().map(|port| port.number).collect();
    assert_eq!(numbers.len(), ports.len());
    assert!(Port::take(ports[0].number).is_none(), "a port that is held must not be given again");
}
