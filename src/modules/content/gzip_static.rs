//! `gzip_static`: sends `file.gz` in the place of `file`.
//!
//! In: GET or HEAD for a path that has a compressed form beside it. Out: that form, with the type of the plain file and
//! `Content-Encoding: gzip`, to clients that [`Rules`] let have it, or to all. nginx: `ngx_http_gzip_static_module`.

use std::rc::Rc;

use bytes::Bytes;

use super::static_file;
use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::open_file::Kind;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal};
use crate::http::root::map_path;
use crate::log::{Level as LogLevel, Raw};
use crate::modules::filter::gzip::Rules;

/// `ngx_http_gzip_static_module`.
pub struct GzipStatic;

impl Module for GzipStatic {
    const NAME: &'static str = "http_gzip_static";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("gzip_static", EVERYWHERE, Arity::Exactly(1), Conf::gzip_static)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let always = match level.location::<Self>().gzip_static.or(When::Off) {
            When::Off => return Ok(()),
            When::On => false,
            When::Always => true,
        };
        plan.contents.push(Box::new(Compressed { always, rules: Rules::of(level) }));
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Off,
    /// For clients that say they can read it.
    On,
    Always,
}

#[derive(Default)]
pub struct Conf {
    gzip_static: Setting<When>,
}

impl Conf {
    /// Syntax: `gzip_static on | off | always;`  Default: `off`
    fn gzip_static(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let choices = [("off", When::Off), ("on", When::On), ("always", When::Always)];
        self.gzip_static.set(words.choice(0, &choices)?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { gzip_static } = self;
        gzip_static.inherit(&outer.gzip_static);
        Ok(())
    }
}

/// `gzip_static on` or `always` at one location, resolved.
struct Compressed {
    always: bool,
    rules: Rules,
}

impl Content for Compressed {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_get_or_head() || request.is_for_directory() {
            return Answer::Decline;
        }
        let admitted = self.always || self.rules.admit(request, &Head::default());
        // Without gzip_vary nobody is told that there is another form: no need to look for it.
        if !admitted && !self.rules.vary {
            return Answer::Decline;
        }
        let mut name = match request.with_path(|path| map_path(request, path)) {
            Ok(name) => name,
            Err(refusal) => return Answer::Now(Err(refusal)),
        };
        name.extend_from_slice(b".gz");
        let found = match request.plan().files.open(request, &name) {
            Ok(found) => found,
            Err(unopened) => {
                if !unopened.is_missing() {
                    let level = if unopened.is_forbidden() { LogLevel::Error } else { LogLevel::Crit };
                    let errno = errno(&unopened.error());
                    request.log(level, format_args!("{} \"{}\" failed {errno}", unopened.call, Raw(&name)));
                }
                return Answer::Decline;
            }
        };
        if !self.always && self.rules.vary {
            request.owe_vary();
        }
        if !admitted {
            return Answer::Decline;
        }
        match found.stat.kind {
            Kind::Directory => Answer::Decline,
            Kind::Other => {
                request.log(LogLevel::Crit, format_args!("\"{}\" is not a regular file", Raw(&name)));
                Answer::Now(Err(Refusal::Status(404)))
            }
            Kind::File => {
                request.body.discard();
                let mut response = request.with_path(|path| static_file::respond(request, path, found));
                response.head.add("Content-Encoding", Bytes::from_static(b"gzip"));
                Answer::Now(Ok(response))
            }
        }
    }
}
