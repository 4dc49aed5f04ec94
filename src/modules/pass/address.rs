//! Where a `*_pass` without a path leads: `fastcgi_pass` and its kin name a program's socket and nothing more.
//!
//! In: the directive's word. Out: [`Target`], which gives the group of each request: one that is known at load, or one
//! that variables name.

use std::sync::Arc;

use bytes::Bytes;

use super::group::Groups;
use super::resolve;
use crate::base::addr::{self, Form, Host, Url};
use crate::base::text;
use crate::conf::error::{At, Fault};
use crate::conf::module::{LOCATION, Level};
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::plan::Plan;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::{Level as LogLevel, Raw};
use crate::upstream::group::Group;

/// What the directive said.
#[derive(Clone, Debug)]
pub struct PassAddress {
    text: String,
    template: Template,
    pub at: At,
}

const FORM: Form = Form { listen: false, uri: false, default_port: 0 };

fn fixed(text: &str) -> Result<Url, String> {
    addr::parse(text, FORM).map_err(|why| format!("{why} in upstream \"{text}\""))
}

fn has_no_port(url: &Url) -> bool {
    url.port == 0 && !matches!(url.host, Host::Unix(_))
}

impl PassAddress {
    /// Syntax: `fastcgi_pass address;`
    pub fn read(words: &Words<'_>) -> Result<Self, Fault> {
        let (text, template) = (words.one(), words.template(0)?);
        if template.constant().is_some() {
            fixed(text).map_err(|why| words.fault(0, why))?;
        }
        Ok(Self { text: text.to_owned(), template, at: words.at().clone() })
    }

    /// What holds at this level: its own word, or in an `if` or `limit_except` block, which passes where its location
    /// does, the location's.
    pub fn of<'a>(own: Option<&'a Self>, outer: Option<&'a Self>, level: &Level<'_>, plan: &Plan) -> Option<&'a Self> {
        own.or(outer.filter(|_| level.place() != LOCATION && plan.handler.is_none()))
    }
}

/// See the module's head.
#[derive(Debug)]
pub enum Target {
    Fixed(Arc<Group>),
    Variable { template: Template, groups: Groups },
}

impl Target {
    pub fn link(level: &Level<'_>, pass: &PassAddress) -> Result<Self, Fault> {
        let groups = Groups::of(level);
        if pass.template.constant().is_none() {
            return Ok(Self::Variable { template: pass.template.clone(), groups });
        }
        let url = fixed(&pass.text).map_err(Fault::new)?;
        if has_no_port(&url) && groups.find(&url).is_none() {
            return Err(Fault::new(format!("no port in upstream \"{}\"", url.host_text)));
        }
        Ok(Self::Fixed(groups.make(&url, &pass.at)?))
    }

    /// The group of a request; names that variables make are resolved now. `minds_client`: a client that goes away
    /// need not be waited for.
    pub async fn find(&self, request: &Request, minds_client: bool) -> Result<Arc<Group>, Refusal> {
        let (template, groups) = match self {
            Self::Fixed(group) => return Ok(group.clone()),
            Self::Variable { template, groups } => (template, groups),
        };
        let value: Bytes = template.eval(request);
        let url = addr::parse(&text::decode(&value), FORM).map_err(|why| {
            request.log(LogLevel::Error, format_args!("{why} in upstream \"{}\"", Raw(&value)));
            Refusal::Status(500)
        })?;
        if let Some(group) = groups.find(&url) {
            return Ok(group);
        }
        if has_no_port(&url) {
            request.log(LogLevel::Error, format_args!("no port in upstream \"{}\"", url.host_text));
            return Err(Refusal::Status(500));
        }
        Box::pin(resolve::group(request, &url, minds_client)).await
    }
}
