//! `empty_gif`: one transparent pixel, from memory.

use std::rc::Rc;

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, LOCATION, Level, Module, Section};
use crate::conf::words::Words;
use crate::http::plan::{Answer, Content, Plan};
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};

/// `ngx_http_empty_gif_module`.
pub struct EmptyGif;

impl Module for EmptyGif {
    const NAME: &'static str = "http_empty_gif";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("empty_gif", LOCATION, Arity::None, Conf::empty_gif)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if level.location::<Self>().on {
            plan.handler = Some(Box::new(Pixel));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    /// Not inherited: a handler belongs to its own location.
    on: bool,
}

impl Conf {
    /// Syntax: `empty_gif;`
    fn empty_gif(&mut self, _: &Words<'_>) -> Result<(), Fault> {
        self.on = true;
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, _: &Self) -> Result<(), Fault> {
        let Self { on: _ } = self;
        Ok(())
    }
}

struct Pixel;

impl Content for Pixel {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_get_or_head() {
            return Answer::Now(Err(Refusal::Status(405)));
        }
        request.body.discard();
        let mut response = Response::text(200, Bytes::from_static(b"image/gif"), Bytes::from_static(GIF));
        response.head.last_modified = Some(LAST_MODIFIED);
        Answer::Now(Ok(response))
    }
}

/// 28 September 1970, as in nginx.
const LAST_MODIFIED: i64 = 23_349_600;

/// GIF89a, one pixel: header and screen, two colours, transparency, image, two bits of LZW data, trailer.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\x01\0\
    \0\0\0\xff\xff\xff\
    \x21\xf9\x04\x01\0\0\x01\0\
    \x2c\0\0\0\0\x01\0\x01\0\0\
    \x02\x02\x4c\x01\0\
    \x3b";
