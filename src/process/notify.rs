//! Telling a service manager how the server is: sd_notify(3), a line to a socket.
//!
//! In: `NOTIFY_SOCKET` of the environment. Out: datagrams. Nobody answers, so nothing waits; without the variable
//! nothing is said, and what cannot be sent is lost, as the protocol has it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

/// The variable that names the socket; a new binary is given it, too.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The line to the service manager.
pub struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    pub fn of(environment: &[(OsString, OsString)]) -> Self {
        let named = environment.iter().find(|(name, _)| name == VARIABLE);
        Self(named.and_then(|(_, place)| Some((UnixDatagram::unbound().ok()?, address(place)?))))
    }

    /// The configuration is in force, and this process is the one to send signals to.
    pub fn ready(&self) {
        self.tell(format_args!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
    }

    /// A configuration is being read; [`Manager::ready`] or [`Manager::unchanged`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(format_args!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The new configuration was not taken, and the one before serves on.
    pub fn unchanged(&self) {
        self.tell(format_args!("READY=1\nSTATUS=serving; the last reload failed, see the error log"));
    }

    pub fn stopping(&self) {
        self.tell(format_args!("STOPPING=1"));
    }

    /// From now on the main process is another.
    pub fn succeeded_by(&self, pid: Pid) {
        self.tell(format_args!("MAINPID={pid}"));
    }

    fn tell(&self, state: fmt::Arguments<'_>) {
        if let Self(Some((socket, address))) = self {
            let _ = socket.send_to_addr(state.to_string().as_bytes(), address);
        }
    }
}

fn address(place: &OsStr) -> Option<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(place).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_the_named_socket() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("the directory is ours");
        let told = Manager::of(&[(VARIABLE.into(), path.into())]);
        let heard = || {
            let mut bytes = [0; 200];
            let length = manager.recv(&mut bytes).expect("it was sent");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        told.ready();
        assert_eq!(heard(), format!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
        told.reloading();
        let reloading = heard();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
        assert!(matches!(time, Some(Ok(time)) if time > 0), "{reloading}");
        Manager::of(&[]).ready();
    }
}
