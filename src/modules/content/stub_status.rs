//! `stub_status`: how many connections and requests there are and were, as four lines of text and as variables.
//!
//! The numbers are those of the whole process: `net/accept.rs` counts connections, `http/activity.rs` what they do.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, LOCATION, Level, Module, SERVER, Section};
use crate::conf::vars::Row;
use crate::conf::words::Words;
use crate::http::activity;
use crate::http::plan::{Answer, Content, Main, Plan};
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};
use crate::net::crowd::{ACCEPTED, ACTIVE, HANDLED};

/// `ngx_http_stub_status_module`.
pub struct StubStatus;

impl Module for StubStatus {
    const NAME: &'static str = "http_stub_status";
    const DIRECTIVES: &'static [Directive<Self>] =
        &[Directive::location("stub_status", SERVER.or(LOCATION), Arity::Between(0, 1), Conf::stub_status)];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        let mut number = |name: &str, count: fn() -> u64| {
            main.vars.define(name, Row::each(move |_: &Request| Some(count().to_string().into())))
        };
        number("connections_active", || ACTIVE.load(Relaxed))?;
        number("connections_reading", || activity::total().reading)?;
        number("connections_writing", || activity::total().writing)?;
        number("connections_waiting", || activity::total().waiting)
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        if level.location::<Self>().on {
            plan.handler = Some(Box::new(Status));
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
    /// Syntax: `stub_status;`. Older configurations have a word behind it, which means nothing.
    fn stub_status(&mut self, _: &Words<'_>) -> Result<(), Fault> {
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

struct Status;

impl Content for Status {
    fn answer<'a>(&'a self, request: &'a Rc<Request>) -> Answer<'a> {
        if !request.is_get_or_head() {
            return Answer::Now(Err(Refusal::Status(405)));
        }
        request.body.discard();
        let activity::Total { reading, writing, waiting, requests } = activity::total();
        let (active, accepted, handled) = (ACTIVE.load(Relaxed), ACCEPTED.load(Relaxed), HANDLED.load(Relaxed));
        let text = format!(
            "Active connections: {active} \nserver accepts handled requests\n {accepted} {handled} {requests} \n\
             Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
        );
        Answer::Now(Ok(Response::text(200, Bytes::from_static(b"text/plain"), text.into())))
    }
}
