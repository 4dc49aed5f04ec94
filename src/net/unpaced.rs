//! Connections within this machine are not paced.
//!
//! Where the system's choice is BBR (`net.ipv4.tcp_congestion_control`), the kernel sends by a timer, so that no queue of the
//! network fills. Between two sockets of one machine there is no such queue, and the timers are half of what a long answer
//! costs. In: a socket and who is, or can be, at its other end. Out: the same with Reno, which every kernel has, everybody may
//! choose, and which sends what the peer has room for, since nothing is lost there. Systems with another choice keep it.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::base::addr::Address;

/// Sets the socket, if whoever is at `other` can only be on this machine. On a listening socket, whose own address this is
/// then, it counts for the connections that it takes.
pub fn spare(socket: impl AsFd, other: &Address) -> io::Result<()> {
    if is_within(other) && are_paced() { Ok(sockopt::set_tcp_congestion(socket, "reno")?) } else { Ok(()) }
}

/// An address that nobody else can have.
pub fn is_within(address: &Address) -> bool {
    matches!(address, Address::Inet(inet) if inet.ip().to_canonical().is_loopback())
}

/// Whether the system's choice sends by a timer. It is asked once, with a socket that nobody has set.
fn are_paced() -> bool {
    static PACED: OnceLock<bool> = OnceLock::new();
    *PACED.get_or_init(|| {
        let fresh = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        fresh.and_then(sockopt::tcp_congestion).is_ok_and(|choice| sends_by_a_timer(&choice))
    })
}

fn sends_by_a_timer(choice: &str) -> bool {
    choice.starts_with("bbr")
}

#[cfg(test)]
pub mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a socket of this machine is to have, with which all others have the system's choice.
    pub fn expected(system: &str) -> &str {
        if sends_by_a_timer(system) { "reno" } else { system }
    }

    #[test]
    fn only_connections_within_the_machine_are_set() {
        let choice = |socket: &TcpListener| sockopt::tcp_congestion(socket).expect("a TCP socket");
        let listener = || TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let system = choice(&listener());
        for (address, within) in [
            ("127.0.0.1:80", true),
            ("127.200.0.1:80", true),
            ("[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("10.0.0.1:80", false),
        ] {
            let (address, socket) = (Address::Inet(address.parse().expect("an address")), listener());
            assert_eq!(is_within(&address), within, "{address}");
            spare(&socket, &address).expect("everybody may choose it");
            assert_eq!(choice(&socket), if within { expected(&system) } else { &system }, "{address}");
        }
        assert!(!is_within(&Address::Unix("/run/app.sock".into())));
    }

    #[test]
    fn choices_that_pace() {
        for (choice, paces) in [("bbr", true), ("bbr2", true), ("cubic", false), ("reno", false), ("dctcp", false)] {
            assert_eq!(sends_by_a_timer(choice), paces, "{choice}");
        }
    }
}
