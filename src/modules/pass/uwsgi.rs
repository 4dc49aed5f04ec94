//! `uwsgi_pass`: programs behind a uwsgi socket, with TLS as `suwsgi://`.
//!
//! In: a request and what its location says. Out: its packet; the rest is [`super::cgi`]. nginx: `ngx_http_uwsgi_module`.

use bytes::Bytes;

use super::address::{PassAddress, Schemes};
use super::cgi::{self, Pack, Said};
use super::params::{Param, Writer};
use super::settings::{Family, HIDDEN_OF_PROGRAMS, Next};
use super::tls::{self, Secure};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::Plan;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::Level as LogLevel;
use crate::wire::uwsgi::PacketWriter;

/// The common directives under `uwsgi`.
pub struct Uwsgi;

impl Family for Uwsgi {
    const PREFIX: &'static str = "uwsgi";
    const NAME: &'static str = "http_uwsgi_pass";
    const CACHE_NAME: &'static str = "http_uwsgi_cache";
    const HIDDEN: &'static [&'static str] = HIDDEN_OF_PROGRAMS;
    const NEXT: &'static [(&'static str, Next)] = Next::OF_PROGRAMS;
    const TEMP: &'static str = "uwsgi_temp";
    const LACKS: &'static [&'static str] = &["_send_lowat"];
}

impl Secure for Uwsgi {
    const TLS_NAME: &'static str = "http_uwsgi_ssl";
}

const SCHEMES: Schemes = Schemes { plain: "uwsgi://", secure: "suwsgi://" };

/// `ngx_http_uwsgi_module`: what is uwsgi's own.
pub struct UwsgiModule;

impl Module for UwsgiModule {
    const NAME: &'static str = "http_uwsgi";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("uwsgi_pass", LOCATION.or(IF_LOCATION), Arity::Exactly(1), Conf::uwsgi_pass),
        Directive::location("uwsgi_param", EVERYWHERE, Arity::Between(2, 3), Conf::uwsgi_param),
        Directive::location("uwsgi_modifier1", EVERYWHERE, Arity::Exactly(1), Conf::uwsgi_modifier1),
        Directive::location("uwsgi_modifier2", EVERYWHERE, Arity::Exactly(1), Conf::uwsgi_modifier2),
        Directive::location("uwsgi_string", EVERYWHERE, Arity::Exactly(1), Conf::uwsgi_string),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let packet = Packet {
            modifier1: conf.uwsgi_modifier1.or(0),
            modifier2: conf.uwsgi_modifier2.or(0),
            string: conf.uwsgi_string.said().unwrap_or_default(),
        };
        let said = Said {
            pass: conf.pass.as_ref(),
            outer: conf.outer.as_ref(),
            params: conf.uwsgi_param.or_else(Vec::new),
            pack: packet,
            schemes: [SCHEMES.plain, SCHEMES.secure],
            tls: Some(tls::tls::<Uwsgi>),
        };
        cgi::link::<Uwsgi, _>(level, plan, said)
    }
}

/// What was said at one level.
#[derive(Default)]
pub struct Conf {
    pass: Option<PassAddress>,
    /// What the level around says: the blocks of a location pass where it does.
    outer: Option<PassAddress>,
    uwsgi_param: Setting<Vec<Param>>,
    uwsgi_modifier1: Setting<u8>,
    uwsgi_modifier2: Setting<u8>,
    uwsgi_string: Setting<Bytes>,
}

impl Conf {
    /// Syntax: `uwsgi_pass [uwsgi:// | suwsgi://]address;`
    fn uwsgi_pass(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if self.pass.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        self.pass = Some(PassAddress::read(words, Some(SCHEMES))?);
        Ok(())
    }

    /// Syntax: `uwsgi_param parameter value [if_not_empty];`  Default: `HTTP_HOST $host$is_request_port$request_port`
    fn uwsgi_param(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.uwsgi_param.list().push(Param::read(words)?);
        Ok(())
    }

    /// Syntax: `uwsgi_modifier1 number;`  Default: `0`
    fn uwsgi_modifier1(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.uwsgi_modifier1.set(modifier(words)?)
    }

    /// Syntax: `uwsgi_modifier2 number;`  Default: `0`
    fn uwsgi_modifier2(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.uwsgi_modifier2.set(modifier(words)?)
    }

    /// Syntax: `uwsgi_string string;`
    fn uwsgi_string(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.uwsgi_string.set(text::bytes(words.one()).into())
    }
}

fn modifier(words: &Words<'_>) -> Result<u8, Fault> {
    u8::try_from(words.number(0)?).map_err(|_| words.fault(0, "value must be between 0 and 255"))
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { pass: _, outer: around, uwsgi_param, uwsgi_modifier1, uwsgi_modifier2, uwsgi_string } = self;
        around.clone_from(&outer.pass);
        uwsgi_param.inherit(&outer.uwsgi_param);
        uwsgi_modifier1.inherit(&outer.uwsgi_modifier1);
        uwsgi_modifier2.inherit(&outer.uwsgi_modifier2);
        uwsgi_string.inherit(&outer.uwsgi_string);
        Ok(())
    }
}

/// What of a packet does not depend on the request.
struct Packet {
    modifier1: u8,
    modifier2: u8,
    string: Bytes,
}

impl Pack for Packet {
    type Writer = PacketWriter;

    fn begin(&self, room: Vec<u8>, _: u64) -> PacketWriter {
        PacketWriter::new(room, self.modifier1, self.modifier2)
    }

    fn finish(&self, mut writer: PacketWriter, request: &Request) -> Result<Vec<u8>, Refusal> {
        writer.raw(&self.string);
        writer.finish().map_err(|too_big| {
            request.log(LogLevel::Alert, format_args!("uwsgi request is too big: {}", too_big.0));
            Refusal::Status(500)
        })
    }
}

impl Writer for PacketWriter {
    fn param(&mut self, name: &[u8], if_not_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        Self::param(self, name, if_not_empty, value);
    }

    fn field(&mut self, name: &[u8], values: &[&[u8]]) {
        Self::field(self, name, values);
    }
}
