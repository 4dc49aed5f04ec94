//! `auth_request`: somebody else decides who is let in.
//!
//! In: a request. Out: what a subrequest without a body is answered: any 2xx lets in, 401 and 403 do not, anything else is
//! a failure. The rule: only the head counts. Variables may be set from it (`auth_request_set`), whatever it says.
//! nginx: `ngx_http_auth_request_module`.

use std::rc::Rc;

use bytes::Bytes;

use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, Level, Module, Section};
use crate::conf::pattern::Matching;
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::vars::VarId;
use crate::conf::words::Words;
use crate::http::phase::Hangup;
use crate::http::plan::{Gate, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::{Field, Refusal, Response};
use crate::http::subrequest;
use crate::log::Level as LogLevel;

/// `ngx_http_auth_request_module`.
pub struct AuthRequest;

impl Module for AuthRequest {
    const NAME: &'static str = "http_auth_request";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("auth_request", EVERYWHERE, Arity::Exactly(1), Conf::auth_request),
        Directive::location("auth_request_set", EVERYWHERE, Arity::Exactly(2), Conf::auth_request_set),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if let Some(path) = conf.auth_request.said().flatten() {
            plan.access.push(Box::new(Asker { path, sets: conf.auth_request_set.or_else(Vec::new) }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    /// `None` inside: `off`.
    auth_request: Setting<Option<Bytes>>,
    auth_request_set: Setting<Vec<(VarId, Template)>>,
}

impl Conf {
    /// Syntax: `auth_request uri | off;`  Default: `off`
    fn auth_request(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let word = words.one();
        self.auth_request.set((!matches!(word, "off" | "")).then(|| text::bytes(word).into()))
    }

    /// Syntax: `auth_request_set $variable value;`
    fn auth_request_set(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let variable = words.cx.names.assigned(words.variable(0)?, words.at());
        self.auth_request_set.list().push((variable, words.template(1)?));
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { auth_request, auth_request_set } = self;
        auth_request.inherit(&outer.auth_request);
        auth_request_set.inherit(&outer.auth_request_set);
        Ok(())
    }
}

/// `auth_request` at one location, resolved.
struct Asker {
    path: Bytes,
    sets: Vec<(VarId, Template)>,
}

impl Gate for Asker {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        Verdict::Wait(Box::pin(self.ask(request)))
    }
}

impl Asker {
    async fn ask(&self, request: &Rc<Request>) -> Verdict<'static> {
        let Some(child) = subrequest::bare(request, self.path.clone(), Bytes::new(), "") else {
            return Verdict::Refuse(Refusal::Status(500)); // the log has it
        };
        let response = match subrequest::answer(&child).await {
            Ok(response) => response,
            Err(Hangup) => return Verdict::Refuse(Refusal::Close),
        };
        subrequest::answered(&child, &response);
        subrequest::finish(&child);
        for (variable, value) in &self.sets {
            request.set_value(*variable, Some(value.eval(child.as_ref())));
        }
        match response.head.status {
            403 => Verdict::Refuse(Refusal::Status(403)),
            401 => {
                for Field { name, value } in challenges(&child, &response) {
                    request.owe(name, value);
                }
                Verdict::Refuse(Refusal::Status(401))
            }
            200..=299 => Verdict::Allow,
            status => {
                request.log(LogLevel::Error, format_args!("auth request unexpected status: {status}"));
                Verdict::Refuse(Refusal::Status(500))
            }
        }
    }
}

/// How the client may prove who it is: as the answer says, or the upstream said whose answer was replaced.
fn challenges(child: &Request, response: &Response) -> Vec<Field> {
    const NAME: &str = "WWW-Authenticate";
    let own: Vec<Field> = response.head.fields.all(NAME).map(|field| field.to_field()).collect();
    match (own.is_empty(), &*child.replied.borrow()) {
        (true, Some(replied)) => replied.fields.all(NAME).map(|field| field.to_field()).collect(),
        (true, None) | (false, _) => own,
    }
}
