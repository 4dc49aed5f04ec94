//! One error log line in nginx's shape, built in place and cut where nginx cuts.
//!
//! In: level, connection number, message, errno, context. Out: at most [`MAX_LINE`] bytes, newline included.
//!
//! `2026/11/22 10:00:00 [error] 1234#5678: *17 message (2: No such file or directory) while …, client: …, host: "…"`

use std::fmt;

use super::{Level, batch};
use crate::base::clock;

/// NGX_MAX_ERROR_STR.
pub(super) const MAX_LINE: usize = 2048;

/// nginx keeps this much room for the text of an errno, and says `...` in its place of the message's end.
const ERRNO_ROOM: usize = 50;

pub(super) struct Line {
    bytes: [u8; MAX_LINE],
    len: usize,
    /// Where the message begins: the console shows the line from there.
    message: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; MAX_LINE], len: 0, message: 0 }
    }
}

impl Line {
    /// `date [level] pid#tid: *connection `; connection 0 is none.
    pub(super) fn begin(&mut self, level: Level, connection: u64) {
        self.push(batch::in_time(clock::error_time).as_bytes());
        self.format(format_args!(" [{level}] {}#{}: ", std::process::id(), nix::unistd::gettid()));
        if connection != 0 {
            self.format(format_args!("*{connection} "));
        }
        self.message = self.len;
    }

    /// Appends what fits.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(MAX_LINE - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&bytes[..fits]);
        self.len += fits;
    }

    pub(super) fn format(&mut self, text: fmt::Arguments<'_>) {
        // Only a value's own `Display` can fail, and then what it wrote stands.
        let _ = fmt::Write::write_fmt(self, text);
    }

    /// ` (2: No such file or directory)`
    pub(super) fn errno(&mut self, errno: i32) {
        if self.len > MAX_LINE - ERRNO_ROOM {
            self.len = MAX_LINE - ERRNO_ROOM;
            self.push(b"...");
        }
        self.format(format_args!("{}", super::error::errno_text(errno)));
    }

    /// `, name: value`
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.push(b", ");
        self.push(name.as_bytes());
        self.push(b": ");
        self.push(value);
    }

    /// `, name: "value"`
    pub(super) fn quoted(&mut self, name: &str, value: &[u8]) {
        self.push(b", ");
        self.push(name.as_bytes());
        self.push(b": \"");
        self.push(value);
        self.push(b"\"");
    }

    /// The newline, in place of the last byte of a line that is too long.
    pub(super) fn end(&mut self) {
        self.len = self.len.min(MAX_LINE - 1);
        self.push(b"\n");
    }

    /// The whole line.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The message as it is shown on the console: `nginx: [emerg] message`.
    pub(super) fn for_console(&self, level: Level) -> Vec<u8> {
        let mut text = format!("nginx: [{level}] ").into_bytes();
        text.extend_from_slice(&self.bytes[self.message..self.len]);
        text
    }
}

/// Text may hold bytes of the configuration or of a request as private code points (`base::text`); they become bytes
/// again here.
impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        /// Private-use plane 16 begins with this byte in UTF-8, and next to nothing else does.
        const PLANE_16: u8 = 0xf4;
        match memchr::memchr(PLANE_16, text.as_bytes()) {
            None => self.push(text.as_bytes()),
            Some(_) => self.push(&crate::base::text::bytes(text)),
        }
        Ok(())
    }
}
