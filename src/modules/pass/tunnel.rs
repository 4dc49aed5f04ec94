//! Connections that were upgraded: WebSockets and every other protocol behind a 101.
//!
//! In: both connections, and the bytes that came right behind either head. Out: bytes, both ways, until one side has ended
//! and the other has all of it, as with nginx. A tunnel at rest has no buffer: bytes pass through one that the thread's
//! tunnels share, and only what a socket does not take is kept.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::exchange::{At, action};
use super::settings::Settings;
use crate::http::body;
use crate::http::request::Request;
use crate::log::Level;
use crate::net::io::Io;
use crate::net::timer::Timer;
use crate::upstream::pool::Link;

/// See the module's head.
pub struct Tunnel {
    at: At,
    link: Box<Link>,
    settings: Arc<Settings>,
    /// From the client to the upstream.
    up: Way,
    down: Way,
    /// While the client's socket takes nothing.
    slow: Timer,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What the other side did not take at once.
    rest: BytesMut,
    ended: bool,
}

/// What a turn of one direction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// This many bytes went over.
    Moved(u64),
    /// Nothing to read.
    Idle,
    /// The other side takes nothing.
    Blocked,
    /// This side has ended, and the other has all it said.
    Over,
    Failed,
}

/// How much passes at once.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<BytesMut> = RefCell::default();
}

impl Tunnel {
    /// `rest`: what came behind the upstream's head.
    pub fn new(at: At, link: Box<Link>, settings: Arc<Settings>, rest: BytesMut) -> Self {
        let early = at.request.take_early();
        if at.request.plan().core.tcp_nodelay {
            link.io.socket().set_nodelay();
        }
        at.note(|attempt| attempt.response_length += rest.len() as u64);
        let up = Way { rest: early, ..Way::default() };
        let down = Way { rest, ..Way::default() };
        Self { at, link, settings, up, down, slow: Timer::default() }
    }

    #[cold]
    fn timed_out(&self, who: &str) {
        let message = format_args!("{who} timed out (110: Connection timed out)");
        self.at.log(Level::Info, message, action::TUNNEL);
    }
}

impl body::Tunnel for Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { at, link, up: upwards, down: downwards, slow, .. } = self;
        let request = &*at.request;
        // A direction that has nothing to move is not asked again: it wakes us.
        let (mut up, mut down) = (Turn::Moved(0), Turn::Moved(0));
        loop {
            let mut moved = false;
            if let Turn::Moved(_) = up {
                up = upwards.turn(cx, request, &link.io);
                if let Turn::Moved(bytes) = up {
                    at.note(|attempt| attempt.bytes_sent += bytes);
                    moved = true;
                }
            }
            if let Turn::Moved(_) = down {
                down = downwards.turn(cx, &link.io, request);
                if let Turn::Moved(bytes) = down {
                    at.note(|attempt| {
                        attempt.bytes_received += bytes;
                        attempt.response_length += bytes;
                    });
                    request.bytes_sent.set(request.bytes_sent.get() + bytes);
                    moved = true;
                }
            }
            if matches!(up, Turn::Over | Turn::Failed) || matches!(down, Turn::Over | Turn::Failed) {
                return Poll::Ready(());
            }
            if !moved {
                break;
            }
            link.timer.disarm();
            slow.disarm();
        }
        if down == Turn::Blocked {
            let timeout = self.at.request.plan().core.send_timeout;
            if self.slow.poll(cx, timeout).is_ready() {
                self.timed_out("client");
                return Poll::Ready(());
            }
        }
        let timeout = match up {
            Turn::Blocked => self.settings.send_timeout.min(self.settings.read_timeout),
            Turn::Moved(_) | Turn::Idle | Turn::Over | Turn::Failed => self.settings.read_timeout,
        };
        if self.link.timer.poll(cx, timeout.max(Duration::from_millis(1))).is_ready() {
            self.timed_out("upstream");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Either end of a tunnel.
trait End {
    /// Appends what is there to `buffer`; 0 is the end.
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Takes what it can of these bytes.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

impl End for Io {
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buffer)
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, bytes)
    }
}

impl End for Request {
    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buffer)
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, bytes)
    }
}

impl Way {
    /// Moves what there is, once.
    fn turn(&mut self, cx: &mut Context<'_>, from: &impl End, to: &impl End) -> Turn {
        if !self.rest.is_empty() {
            return match to.poll_write(cx, &self.rest) {
                Poll::Pending => Turn::Blocked,
                Poll::Ready(Err(_)) => Turn::Failed,
                Poll::Ready(Ok(wrote)) => {
                    self.rest.advance(wrote.min(self.rest.len()));
                    if self.rest.is_empty() {
                        self.rest = BytesMut::new();
                    }
                    Turn::Moved(wrote as u64)
                }
            };
        }
        if self.ended {
            return Turn::Over;
        }
        SHARED.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.reserve(BUFFER);
            match from.poll_read(cx, buffer) {
                Poll::Pending => Turn::Idle,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.ended = true;
                    Turn::Over
                }
                Poll::Ready(Ok(read)) => {
                    let wrote = match to.poll_write(cx, buffer) {
                        Poll::Pending => 0,
                        Poll::Ready(Ok(wrote)) => wrote,
                        Poll::Ready(Err(_)) => return Turn::Failed,
                    };
                    if wrote < read {
                        self.rest.extend_from_slice(&buffer[wrote.min(read)..]);
                    }
                    Turn::Moved(wrote as u64)
                }
            }
        })
    }
}
