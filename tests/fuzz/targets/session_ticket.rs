//! A ticket that we did not make opens nowhere; one of ours opens where it was made, and not when a byte was changed.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustls::server::ProducesTickets;
use weir::net::tls::ticket::{Key, Tickets, context};

fuzz_target!(|input: (&[u8], u16, u8, &[u8])| {
    let (state, place, change, file) = input;
    let keys: Vec<_> = Key::of_file(file).map(Arc::new).into_iter().collect();
    let tickets = |name: &[u8]| Tickets {
        on: true,
        context: context([name]),
        timeout: Duration::from_secs(86_400),
        keys: keys.clone(),
    };
    let (here, there) = (tickets(b"here"), tickets(b"there"));
    assert_eq!(here.decrypt(state), None);
    let mut ticket = here.encrypt(state).expect("there is a key");
    assert_eq!(here.decrypt(&ticket).as_deref(), Some(state));
    assert_eq!(there.decrypt(&ticket), None);
    let place = usize::from(place) % ticket.len();
    ticket[place] ^= change;
    assert_eq!(here.decrypt(&ticket).is_some(), change == 0);
    ticket.truncate(place);
    assert_eq!(here.decrypt(&ticket), None);
});
