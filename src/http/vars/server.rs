//! This process and its clock.

use std::time::Duration;

use bytes::Bytes;

use super::decimal;
use crate::base::clock::{self, Stamp};
use crate::base::release;
use crate::conf::error::Fault;
use crate::conf::module::Level;
use crate::conf::vars::{Definitions, Row, Value};
use crate::http::request::Request;
use crate::wire::byte;

pub(super) fn define(level: &Level<'_>, vars: &mut Definitions<Request>) -> Result<(), Fault> {
    let hostname = Bytes::copy_from_slice(level.cx.hostname.as_bytes());
    vars.define("hostname", Row::once(move |_: &Request| Some(hostname.clone())))?;
    vars.define("nginx_version", Row::once(|_: &Request| Some(release::NGINX_VERSION.into())))?;
    vars.define("pid", Row::once(|_: &Request| decimal(u64::from(std::process::id()))))?;
    vars.define("msec", Row::each(|_: &Request| seconds(Duration::from_millis(clock::milliseconds()))))?;
    vars.define("request_time", Row::each(|r: &Request| seconds(r.elapsed())))?;
    vars.define("time_iso8601", Row::each(|_: &Request| stamp(&clock::time_iso8601())))?;
    vars.define("time_local", Row::each(|_: &Request| stamp(&clock::time_local())))
}

/// Appends `12.345`.
pub fn push_seconds(out: &mut Vec<u8>, time: Duration) {
    byte::push_decimal(out, time.as_secs());
    let millis = time.subsec_millis();
    let digit = |n: u32| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
}

/// Appends a status, at least three digits of it.
pub fn push_status(out: &mut Vec<u8>, status: u16) {
    if status < 100 {
        out.extend_from_slice(if status < 10 { b"00" } else { b"0" });
    }
    byte::push_decimal(out, u64::from(status));
}

fn seconds(time: Duration) -> Value {
    let mut text = Vec::with_capacity(16);
    push_seconds(&mut text, time);
    Some(text.into())
}

fn stamp(stamp: &Stamp) -> Value {
    Some(Bytes::copy_from_slice(stamp.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_statuses() {
        for (millis, expected) in [(0, "0.000"), (7, "0.007"), (1_050, "1.050"), (61_999, "61.999")] {
            assert_eq!(seconds(Duration::from_millis(millis)), Some(expected.into()));
        }
        for (status, expected) in [(0, "000"), (9, "009"), (99, "099"), (200, "200")] {
            let mut text = Vec::new();
            push_status(&mut text, status);
            assert_eq!(text, expected.as_bytes());
        }
    }
}
