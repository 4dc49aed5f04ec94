//! `ssi`: pages with commands in them, `<!--#include virtual="/menu" -->`.
//!
//! In: a response of one of `ssi_types`. Out: the same with its commands carried out, without its length, ranges and
//! date. The path of a page: [`parse`] finds commands, [`page`] carries them out and keeps what comes in order, [`text`]
//! reads parameters. nginx: `ngx_http_ssi_filter_module`.

mod page;
pub mod parse; // public to the fuzz target
pub mod text;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;

use self::page::Page;
use self::text::{TIMEFMT, Zone};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::{Row, Value};
use crate::conf::words::Words;
use crate::http::body::Body;
use crate::http::plan::{Filter, Main, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::Head;
use crate::http::types::{HTML, MediaTypes};

/// `ngx_http_ssi_filter_module`.
pub struct Ssi;

impl Module for Ssi {
    const NAME: &'static str = "http_ssi";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("ssi", EVERYWHERE.or(IF_LOCATION), Arity::Flag, Conf::ssi),
        Directive::location("ssi_silent_errors", EVERYWHERE, Arity::Flag, Conf::ssi_silent_errors),
        Directive::location("ssi_ignore_recycled_buffers", EVERYWHERE, Arity::Flag, Conf::ssi_ignore_recycled_buffers),
        Directive::location("ssi_min_file_chunk", EVERYWHERE, Arity::Exactly(1), Conf::ssi_min_file_chunk),
        Directive::location("ssi_value_length", EVERYWHERE, Arity::Exactly(1), Conf::ssi_value_length),
        Directive::location("ssi_types", EVERYWHERE, Arity::AtLeast(1), Conf::ssi_types),
        Directive::location("ssi_last_modified", EVERYWHERE, Arity::Flag, Conf::ssi_last_modified),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars.define("date_local", Row::each(|request| date(request, Zone::Local)))?;
        main.vars.define("date_gmt", Row::each(|request| date(request, Zone::Gmt)))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if conf.ssi.or(false) {
            plan.filters.push(Box::new(Pages {
                types: conf.ssi_types.or_else(|| MediaTypes::of(HTML)),
                last_modified: conf.ssi_last_modified.or(false),
                silent_errors: conf.ssi_silent_errors.or(false),
                value_length: conf.ssi_value_length.or(255),
            }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    ssi: Setting<bool>,
    ssi_silent_errors: Setting<bool>,
    ssi_ignore_recycled_buffers: Setting<bool>,
    ssi_min_file_chunk: Setting<usize>,
    ssi_value_length: Setting<usize>,
    ssi_types: Setting<MediaTypes>,
    ssi_last_modified: Setting<bool>,
}

impl Conf {
    /// Syntax: `ssi on | off;`  Default: `off`
    fn ssi(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi.set(words.flag()?)
    }

    /// Syntax: `ssi_silent_errors on | off;`  Default: `off`
    fn ssi_silent_errors(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_silent_errors.set(words.flag()?)
    }

    /// Syntax: `ssi_ignore_recycled_buffers on | off;`  Default: `off`  Checked and without effect: buffers here are
    /// not recycled.
    fn ssi_ignore_recycled_buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_ignore_recycled_buffers.set(words.flag()?)
    }

    /// Syntax: `ssi_min_file_chunk size;`  Default: `1k`  Checked and without effect: text was read to find commands in
    /// it, in pieces that are cheaper to send from memory than to read again.
    fn ssi_min_file_chunk(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_min_file_chunk.set(words.size(0)?)
    }

    /// Syntax: `ssi_value_length length;`  Default: `255`
    fn ssi_value_length(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_value_length.set(words.size(0)?)
    }

    /// Syntax: `ssi_types mime-type ...;`  Default: `text/html`
    fn ssi_types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_types.list().add(words, HTML);
        Ok(())
    }

    /// Syntax: `ssi_last_modified on | off;`  Default: `off`
    fn ssi_last_modified(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.ssi_last_modified.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            ssi,
            ssi_silent_errors,
            ssi_ignore_recycled_buffers,
            ssi_min_file_chunk,
            ssi_value_length,
            ssi_types,
            ssi_last_modified,
        } = self;
        ssi.inherit(&outer.ssi);
        ssi_silent_errors.inherit(&outer.ssi_silent_errors);
        ssi_ignore_recycled_buffers.inherit(&outer.ssi_ignore_recycled_buffers);
        ssi_min_file_chunk.inherit(&outer.ssi_min_file_chunk);
        ssi_value_length.inherit(&outer.ssi_value_length);
        ssi_types.inherit(&outer.ssi_types);
        ssi_last_modified.inherit(&outer.ssi_last_modified);
        Ok(())
    }
}

/// `ssi on` at one location, resolved.
struct Pages {
    types: MediaTypes,
    last_modified: bool,
    silent_errors: bool,
    value_length: usize,
}

impl Filter for Pages {
    fn stage(&self) -> Stage {
        Stage::Ssi
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if head.content_length == Some(0) || !self.types.take(head) {
            return body;
        }
        head.clear_content_length();
        head.clear_accept_ranges();
        if self.last_modified {
            head.weaken_etag();
        } else {
            head.clear_last_modified();
            head.clear_etag();
        }
        request.extension::<Dates>().format.replace(None);
        Body::stream(Page::new(request, head, body, self.value_length, self.silent_errors))
    }
}

/// What `config timefmt=` said on the page of one request.
#[derive(Default)]
struct Dates {
    format: RefCell<Option<Bytes>>,
}

/// `$date_local` and `$date_gmt`.
fn date(request: &Request, zone: Zone) -> Value {
    let format = request.extension::<Dates>().format.borrow().clone();
    text::date(&format.unwrap_or(Bytes::from_static(TIMEFMT)), zone)
}
