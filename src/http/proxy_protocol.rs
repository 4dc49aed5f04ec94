//! `listen … proxy_protocol`: who the client of the proxy in front is, said before the first request.
//!
//! In: the first bytes of a connection. Out: what the header says in [`Connection::proxied`], and what follows it in
//! the connection's input. A connection that begins otherwise just ends, and the error log says why.

use std::future::{Future, poll_fn};
use std::task::{Poll, ready};

use bytes::{Buf, BytesMut};

use super::connection::{Connection, Proxied};
use crate::log::{Level, Raw};
use crate::net::timer::Timer;
use crate::wire::proxy_protocol::{BadHeader, Header, MAX_HEADER, read as parse};

const READING: &str = "reading PROXY protocol";

/// Reads the header. `false`: there is none, or it did not come in time. The timer is that of the first request.
pub async fn read(connection: &Connection, timer: &mut Timer) -> bool {
    let timeout = connection.default_server().settings.client_header_timeout;
    let mut input = BytesMut::with_capacity(MAX_HEADER);
    let mut displaced = std::pin::pin!(connection.slot.displaced());
    loop {
        let read = poll_fn(|cx| match connection.io.poll_read(cx, &mut input) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending if displaced.as_mut().poll(cx).is_ready() => Poll::Ready(None),
            Poll::Pending => {
                ready!(timer.poll(cx, timeout));
                connection.log(Level::Info, READING, format_args!("client timed out (110: Connection timed out)"));
                Poll::Ready(None)
            }
        });
        match read.await {
            Some(Ok(1..)) => {}
            Some(Ok(0)) if input.is_empty() => {
                connection.log(Level::Info, READING, format_args!("client closed connection"));
                return false;
            }
            // nginx takes what came in one piece for the whole.
            Some(Ok(0) | Err(_)) => return refuse(connection, &input, BadHeader::Broken(Default::default())),
            None => return false,
        }
        match parse(&input) {
            Ok(Some(header)) => return accept(connection, header, input),
            Ok(None) if input.len() < MAX_HEADER => {}
            Ok(None) => return refuse(connection, &input, BadHeader::TooLarge),
            Err(bad) => return refuse(connection, &input, bad),
        }
    }
}

fn accept(connection: &Connection, header: Header, mut input: BytesMut) -> bool {
    input.advance((header.end as usize).min(input.len()));
    if !input.is_empty() {
        connection.input.replace(input);
    }
    let _ = connection.proxied.set(Box::new(Proxied { header })); // there is one header in a connection
    true
}

fn refuse(connection: &Connection, input: &[u8], bad: BadHeader) -> bool {
    let line = &input[..memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len())];
    match bad {
        BadHeader::Broken(_) => {
            connection.log(Level::Error, READING, format_args!("{bad}: \"{}\"", Raw(line)));
        }
        BadHeader::Version(_) | BadHeader::TooLarge => connection.log(Level::Error, READING, format_args!("{bad}")),
        BadHeader::Short => {}
    }
    false
}
