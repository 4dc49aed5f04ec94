//! `scgi_pass`: programs behind an SCGI socket.
//!
//! In: a request and what its location says. Out: its netstring; the rest is [`super::cgi`]. nginx: `ngx_http_scgi_module`.

use super::address::PassAddress;
use super::cgi::{self, Pack, Said};
use super::params::{Param, Writer};
use super::settings::{Family, HIDDEN_OF_PROGRAMS, Next};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::Plan;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::wire::scgi::NetstringWriter;

/// The common directives under `scgi`.
pub struct Scgi;

impl Family for Scgi {
    const PREFIX: &'static str = "scgi";
    const NAME: &'static str = "http_scgi_pass";
    const CACHE_NAME: &'static str = "http_scgi_cache";
    const HIDDEN: &'static [&'static str] = HIDDEN_OF_PROGRAMS;
    const NEXT: &'static [(&'static str, Next)] = Next::OF_PROGRAMS;
    const TEMP: &'static str = "scgi_temp";
    const LACKS: &'static [&'static str] = &["_send_lowat"];
}

/// `ngx_http_scgi_module`: what is SCGI's own.
pub struct ScgiModule;

impl Module for ScgiModule {
    const NAME: &'static str = "http_scgi";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("scgi_pass", LOCATION.or(IF_LOCATION), Arity::Exactly(1), Conf::scgi_pass),
        Directive::location("scgi_param", EVERYWHERE, Arity::Between(2, 3), Conf::scgi_param),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let said = Said {
            pass: conf.pass.as_ref(),
            outer: conf.outer.as_ref(),
            params: conf.scgi_param.or_else(Vec::new),
            pack: Netstring,
            schemes: ["scgi://", ""],
            tls: None,
        };
        cgi::link::<Scgi, _>(level, plan, said)
    }
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    pass: Option<PassAddress>,
    /// What the level around says: the blocks of a location pass where it does.
    outer: Option<PassAddress>,
    scgi_param: Setting<Vec<Param>>,
}

impl Conf {
    /// Syntax: `scgi_pass address;`
    fn scgi_pass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.pass.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        self.pass = Some(PassAddress::read(words, None)?);
        Ok(())
    }

    /// Syntax: `scgi_param parameter value [if_not_empty];`  Default: `HTTP_HOST $host$is_request_port$request_port`
    fn scgi_param(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.scgi_param.list().push(Param::read(words)?);
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { pass: _, outer: around, scgi_param } = self;
        around.clone_from(&outer.pass);
        scgi_param.inherit(&outer.scgi_param);
        Ok(())
    }
}

struct Netstring;

impl Pack for Netstring {
    type Writer = NetstringWriter;

    fn begin(&self, room: Vec<u8>, content_length: u64) -> NetstringWriter {
        NetstringWriter::new(room, content_length)
    }

    fn finish(&self, writer: NetstringWriter, _: &Request) -> Result<Vec<u8>, Refusal> {
        Ok(writer.finish())
    }
}

impl Writer for NetstringWriter {
    fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        Self::param(self, name, if_not_empty, value);
    }

    fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        Self::field(self, name, values);
    }
}
