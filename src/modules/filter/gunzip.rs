//! `gunzip`: decompresses what is stored or comes compressed for clients that cannot read gzip.
//!
//! In: a response with `Content-Encoding: gzip`. Out: the plain body for whoever [`Rules`] do not let have gzip.
//! nginx: `ngx_http_gunzip_filter_module`.

use std::rc::Rc;

use async_compression::codecs::{DecodeV2, GzipDecoder};
use async_compression::core::util::PartialBuffer;
use bytes::Bytes;

use super::gzip::Rules;
use super::outlet::Outlet;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::{Buffers, Words};
use crate::http::body::{Body, Broken, Piece, Transform};
use crate::http::plan::{Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::Head;
use crate::log::Level as LogLevel;

/// `ngx_http_gunzip_filter_module`.
pub struct Gunzip;

impl Module for Gunzip {
    const NAME: &'static str = "http_gunzip";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("gunzip", EVERYWHERE, Arity::Flag, Conf::gunzip),
        Directive::location("gunzip_buffers", EVERYWHERE, Arity::Exactly(2), Conf::gunzip_buffers),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if conf.gunzip.or(false) {
            plan.filters.push(Box::new(Decompressor {
                buffers: conf.gunzip_buffers.or(Buffers { number: 32, size: 4096 }),
                rules: Rules::of(level),
            }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    gunzip: Setting<bool>,
    gunzip_buffers: Setting<Buffers>,
}

impl Conf {
    /// Syntax: `gunzip on | off;`  Default: `off`
    fn gunzip(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gunzip.set(words.flag()?)
    }

    /// Syntax: `gunzip_buffers number size;`  Default: `32 4k`
    fn gunzip_buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gunzip_buffers.set(words.buffers()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { gunzip, gunzip_buffers } = self;
        gunzip.inherit(&outer.gunzip);
        gunzip_buffers.inherit(&outer.gunzip_buffers);
        Ok(())
    }
}

/// `gunzip on` at one location, resolved.
struct Decompressor {
    buffers: Buffers,
    rules: Rules,
}

impl Filter for Decompressor {
    fn stage(&self) -> Stage {
        Stage::Gunzip
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if !head.field("Content-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip")) {
            return body;
        }
        head.vary_encoding |= self.rules.vary;
        if self.rules.admit(request, head) {
            return body;
        }
        head.remove("Content-Encoding");
        head.clear_content_length();
        head.clear_accept_ranges();
        head.weaken_etag();
        body.through(Inflate {
            members: Members::new(self.buffers.size),
            appetite: self.buffers.total().min(STEP),
            request: request.clone(),
        })
    }
}

/// The most that is taken in at a time. It can become a thousand times as much, so this is all that bounds what waits
/// for the client.
const STEP: usize = 4 * 1024;

struct Inflate {
    members: Members,
    appetite: usize,
    request: Rc<Request>,
}

impl Inflate {
    fn log(&self, message: std::fmt::Arguments<'_>) {
        let proxied = !self.request.attempts.borrow().is_empty();
        let doing = if proxied { "sending to client" } else { "sending response to client" };
        self.request.log(LogLevel::Error, format_args!("{message} while {doing}"));
    }
}

impl Transform for Inflate {
    fn push(&mut self, bytes: &Bytes, flush: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        if let Err(error) = self.members.push(bytes, out) {
            self.log(format_args!("inflate() failed: {error}"));
            return Err(Broken);
        }
        if flush {
            self.members.outlet.flush(out);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Piece>) -> Result<(), Broken> {
        if !self.members.complete {
            self.log(format_args!("inflate() returned -5 on response end"));
            return Err(Broken);
        }
        self.members.outlet.flush(out);
        Ok(())
    }

    fn appetite(&self) -> usize {
        self.appetite
    }
}

/// The members of a gzip file, one after the other (RFC 1952, 2.2).
struct Members {
    decoder: GzipDecoder,
    /// A member has just ended: another may follow, and so may the end.
    complete: bool,
    outlet: Outlet,
}

impl Members {
    fn new(size: usize) -> Self {
        Self { decoder: GzipDecoder::new(), complete: false, outlet: Outlet::new(size) }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<Piece>) -> std::io::Result<()> {
        let Self { decoder, complete, outlet } = self;
        let mut input = PartialBuffer::new(bytes);
        while !input.unwritten().is_empty() {
            if std::mem::take(complete) {
                decoder.reinit()?;
            }
            *complete = outlet.write(out, |room| decoder.decode(&mut input, room))?;
        }
        // The last buffer may have been too small for all that the input says.
        while !*complete && !outlet.write(out, |room| decoder.flush(room))? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        coder.write_all(text).expect("to memory");
        coder.finish().expect("to memory")
    }

    /// Feeds the parts; says what came out and whether the end would be one.
    fn inflate(parts: &[&[u8]]) -> Result<(Vec<u8>, bool), String> {
        let mut members = Members::new(64);
        let mut out = Vec::new();
        for part in parts {
            members.push(part, &mut out).map_err(|error| error.to_string())?;
        }
        members.outlet.flush(&mut out);
        let text = out.iter().flat_map(|piece| if let Piece::Mem(bytes) = piece { bytes.to_vec() } else { Vec::new() });
        Ok((text.collect(), members.complete))
    }

    #[test]
    fn members_split_anywhere_read_back() {
        let (first, second) = (b"first ".repeat(64), b"second".to_vec());
        let file = [gzip(&first), gzip(&second)].concat();
        let expected = [first, second].concat();
        for at in 0..file.len() {
            assert_eq!(inflate(&[&file[..at], &file[at..]]), Ok((expected.clone(), true)), "split at {at}");
        }
        let bytes: Vec<&[u8]> = file.chunks(1).collect();
        assert_eq!(inflate(&bytes), Ok((expected, true)));
    }

    #[test]
    fn what_is_cut_or_follows_is_noticed() {
        let file = gzip(b"some text, some text");
        for at in 1..file.len() {
            let (_, complete) = inflate(&[&file[..at]]).expect("no fault so far");
            assert!(!complete, "cut at {at}");
        }
        assert!(inflate(&[&file, b"more"]).is_err());
        assert!(inflate(&[b"plain text"]).is_err());
        let mut wrong = file.clone();
        let last = wrong.len() - 6;
        wrong[last] ^= 1;
        assert!(inflate(&[&wrong]).is_err());
    }

    #[test]
    fn a_small_input_with_a_large_output_is_drained() {
        let text = vec![b'x'; 1 << 20];
        assert_eq!(inflate(&[&gzip(&text)]), Ok((text, true)));
    }
}
