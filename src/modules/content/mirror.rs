//! `mirror`: requests are made elsewhere too, and nobody waits for the answers.
//!
//! In: a client's request. Out: the same method, fields and arguments, and with `mirror_request_body` the body, to each of
//! the paths. The rule: the client's answer does not depend on them. nginx: `ngx_http_mirror_module`.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::http::subrequest;
use crate::http::upload::Upload;

/// `ngx_http_mirror_module`.
pub struct Mirror;

impl Module for Mirror {
    const NAME: &'static str = "http_mirror";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("mirror", EVERYWHERE, Arity::Exactly(1), Conf::mirror),
        Directive::location("mirror_request_body", EVERYWHERE, Arity::Flag, Conf::mirror_request_body),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if let Some(paths) = conf.mirror.said().flatten() {
            plan.precontent.push(Box::new(Glass { paths, body: conf.mirror_request_body.or(true) }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    /// `None` inside: `off`.
    mirror: Setting<Option<Vec<Bytes>>>,
    mirror_request_body: Setting<bool>,
}

impl Conf {
    /// Syntax: `mirror uri | off;`  Default: `off`
    fn mirror(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        if words.one() == "off" {
            return self.mirror.set(None);
        }
        if let Some(None) = self.mirror.as_ref() {
            return Err(Fault::directive("is duplicate"));
        }
        self.mirror.list().get_or_insert_default().push(text::bytes(words.one()).into());
        Ok(())
    }

    /// Syntax: `mirror_request_body on | off;`  Default: `on`
    fn mirror_request_body(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.mirror_request_body.set(words.flag()?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { mirror, mirror_request_body } = self;
        mirror.inherit(&outer.mirror);
        mirror_request_body.inherit(&outer.mirror_request_body);
        Ok(())
    }
}

/// The mirrors of one location, resolved.
struct Glass {
    paths: Vec<Bytes>,
    body: bool,
}

impl Gate for Glass {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        if request.is_subrequest() {
            return Verdict::Next;
        }
        if !self.body {
            return self.mirror(request);
        }
        Verdict::Wait(Box::pin(async move {
            match Upload::read(request).await {
                Ok(_) => self.mirror(request),
                Err(refusal) => Verdict::Refuse(refusal),
            }
        }))
    }
}

impl Glass {
    fn mirror(&self, request: &Rc<Request>) -> Verdict<'static> {
        for path in &self.paths {
            let Some(child) = subrequest::bare(request, path.clone(), request.args(), "") else {
                return Verdict::Refuse(Refusal::Status(500)); // the log has it
            };
            child.background.set(true);
            child.set_method(request.method());
            if self.body
                && let Some(body) = request.body.stored()
            {
                child.body.store(body);
            }
            tokio::task::spawn_local(async move {
                // Only the head of the answer is waited for.
                if let Ok(response) = subrequest::answer(&child).await {
                    subrequest::answered(&child, &response);
                }
                subrequest::finish(&child);
            });
        }
        Verdict::Next
    }
}
