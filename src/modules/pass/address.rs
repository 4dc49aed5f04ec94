//! Where a `*_pass` without a path leads: `fastcgi_pass` and its kin name a program's socket and nothing more.
//!
//! In: the directive's word. Out: [`Target`], which gives the group of each request: one that is known at load, or one
//! that variables name. Some protocols put a scheme in front, which says whether TLS is spoken.

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
    schemes: Option<Schemes>,
    pub at: At,
}

/// What may stand in front of an address: `uwsgi://`, and with TLS `suwsgi://`.
#[derive(Clone, Copy, Debug)]
pub struct Schemes {
    pub plain: &'static str,
    pub secure: &'static str,
}

impl Schemes {
    /// The address behind its scheme, and whether that one means TLS.
    fn strip<'a>(schemes: Option<&Self>, text: &'a str) -> (&'a str, bool) {
        let after = |scheme: &str| {
            let (begin, rest) = text.split_at_checked(scheme.len())?;
            begin.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        let Some(schemes) = schemes else { return (text, false) };
        match (after(schemes.plain), after(schemes.secure)) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => (text, false),
        }
    }
}

/// Who answers a request.
pub struct Found {
    pub group: Arc<Group>,
    /// TLS is spoken.
    pub secure: bool,
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
    pub fn read(words: &Words<'_>, schemes: Option<Schemes>) -> Result<Self, Fault> {
        let (text, template) = (words.one(), words.template(0)?);
        if template.constant().is_some() {
            fixed(Schemes::strip(schemes.as_ref(), text).0).map_err(|why| words.fault(0, why))?;
        }
        Ok(Self { text: text.to_owned(), template, schemes, at: words.at().clone() })
    }

    /// An address without variables: where it has any, they are taken for letters.
    pub fn read_fixed(words: &Words<'_>) -> Result<Self, Fault> {
        let text = words.one();
        fixed(text).map_err(|why| words.fault(0, why))?;
        let template = Template::literal(text::bytes(text));
        Ok(Self { text: text.to_owned(), template, schemes: None, at: words.at().clone() })
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
    Fixed { group: Arc<Group>, secure: bool },
    Variable { template: Template, schemes: Option<Schemes>, groups: Groups },
}

impl Target {
    pub fn link(level: &Level<'_>, pass: &PassAddress) -> Result<Self, Fault> {
        let (groups, schemes) = (Groups::of(level), pass.schemes);
        if pass.template.constant().is_none() {
            return Ok(Self::Variable { template: pass.template.clone(), schemes, groups });
        }
        let (text, secure) = Schemes::strip(schemes.as_ref(), &pass.text);
        let url = fixed(text).map_err(Fault::new)?;
        if has_no_port(&url) && groups.find(&url).is_none() {
            return Err(Fault::new(format!("no port in upstream \"{}\"", url.host_text)));
        }
        Ok(Self::Fixed { group: groups.make(&url, &pass.at)?, secure })
    }

    /// Whether TLS may have to be spoken.
    pub fn may_be_secure(&self) -> bool {
        match self {
            Self::Fixed { secure, .. } => *secure,
            Self::Variable { schemes, .. } => schemes.is_some(),
        }
    }

    /// Who answers a request; names that variables make are resolved now. `minds_client`: a client that goes away need
    /// not be waited for.
    pub async fn find(&self, request: &Request, minds_client: bool) -> Result<Found, Refusal> {
        let (template, schemes, groups) = match self {
            Self::Fixed { group, secure } => return Ok(Found { group: group.clone(), secure: *secure }),
            Self::Variable { template, schemes, groups } => (template, schemes, groups),
        };
        let value: Bytes = template.eval(request);
        let text = text::decode(&value);
        let (rest, secure) = Schemes::strip(schemes.as_ref(), &text);
        let url = addr::parse(rest, FORM).map_err(|why| {
            request.log(LogLevel::Error, format_args!("{why} in upstream \"{}\"", Raw(&text::bytes(rest))));
            Refusal::Status(500)
        })?;
        if let Some(group) = groups.find(&url) {
            return Ok(Found { group, secure });
        }
        if has_no_port(&url) {
            request.log(LogLevel::Error, format_args!("no port in upstream \"{}\"", url.host_text));
            return Err(Refusal::Status(500));
        }
        let group = Box::pin(resolve::group(request, &url, minds_client)).await?;
        Ok(Found { group, secure })
    }
}
