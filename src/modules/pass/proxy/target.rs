//! Where `proxy_pass` leads: a group that is known at load, or one that variables name.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::PassUrl;
use crate::base::addr::{self, Form, Host, Url};
use crate::base::text;
use crate::conf::error::Fault;
use crate::conf::module::Level;
use crate::conf::template::Template;
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::{Level as LogLevel, Raw};
use crate::modules::pass::group::Groups;
use crate::modules::pass::resolve;
use crate::upstream::group::Group;

/// See the module's head.
#[derive(Debug)]
pub enum Target {
    Fixed { group: Arc<Group>, upstream: Upstream },
    Variable { template: Template, groups: Groups },
}

/// What becomes of the path.
#[derive(Clone, Debug)]
pub enum Uri {
    /// `uri` takes the place of the location's own part, which is so long; an empty one changes nothing.
    Replace { uri: Bytes, location: usize },
    /// This is all of it; an empty one changes nothing.
    Whole(Bytes),
}

/// What a request says to the upstream, and of it.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `$proxy_host`
    pub host: Bytes,
    pub port: Bytes,
    pub uri: Uri,
    /// What the default of `proxy_cache_key` begins with: `http://host`, `http://unix:/path:`.
    pub key: Bytes,
    /// `https`
    pub secure: bool,
}

/// The target of one request.
pub struct Meant<'a> {
    peers: Peers<'a>,
    pub upstream: Cow<'a, Upstream>,
}

enum Peers<'a> {
    Known(Cow<'a, Arc<Group>>),
    /// To be resolved.
    Named(Box<Url>),
}

/// Reads a URL without variables, and says whether it is `https`; the error is nginx's sentence.
pub fn fixed(text: &str) -> Result<(Url, bool), String> {
    let (secure, rest) = scheme(text).ok_or("invalid URL prefix")?;
    let url = addr::parse(rest, form(secure)).map_err(|why| format!("{why} in upstream \"{rest}\""))?;
    Ok((url, secure))
}

/// Whether a URL is `https`, and what follows its scheme.
fn scheme(text: &str) -> Option<(bool, &str)> {
    let after = |scheme: &str| {
        let (begin, rest) = text.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    after("https://").map(|rest| (true, rest)).or_else(|| after("http://").map(|rest| (false, rest)))
}

fn form(secure: bool) -> Form {
    Form { listen: false, uri: true, default_port: default_port(secure) }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl Target {
    /// Whether TLS may have to be spoken.
    pub fn may_be_secure(&self) -> bool {
        match self {
            Self::Fixed { upstream, .. } => upstream.secure,
            Self::Variable { .. } => true,
        }
    }

    /// `no_uri`: the location is no prefix, so there is nothing that a URI could take the place of.
    pub fn link(level: &Level<'_>, pass: &PassUrl, location: &str, no_uri: bool) -> Result<Self, Fault> {
        let groups = Groups::of(level);
        if pass.template.constant().is_none() {
            return Ok(Self::Variable { template: pass.template.clone(), groups });
        }
        let (url, secure) = fixed(&pass.text).map_err(Fault::new)?;
        if no_uri && !url.uri.is_empty() {
            return Err(Fault::new(
                "\"proxy_pass\" cannot have URI part in location given by regular expression, or inside named \
                 location, or inside \"if\" statement, or inside \"limit_except\" block",
            ));
        }
        let group = groups.make(&url, &pass.at)?;
        let (host, port) = names(&url, secure);
        let uri = Uri::Replace { uri: text::bytes(&url.uri).into(), location: text::bytes(location).len() };
        let key = key(&url, &host, secure);
        Ok(Self::Fixed { group, upstream: Upstream { host, port, uri, key, secure } })
    }

    /// The target of a request.
    pub fn find(&self, request: &Request) -> Result<Meant<'_>, Refusal> {
        let (template, groups) = match self {
            Self::Fixed { group, upstream } => {
                let peers = Peers::Known(Cow::Borrowed(group));
                return Ok(Meant { peers, upstream: Cow::Borrowed(upstream) });
            }
            Self::Variable { template, groups } => (template, groups),
        };
        let value = template.eval(request);
        let text = text::decode(&value);
        let Some((secure, rest)) = scheme(&text).filter(|(_, rest)| !rest.is_empty()) else {
            request.log(LogLevel::Error, format_args!("invalid URL prefix in \"{}\"", Raw(&value)));
            return Err(Refusal::Status(500));
        };
        let url = addr::parse(rest, form(secure)).map_err(|why| {
            request.log(LogLevel::Error, format_args!("{why} in upstream \"{rest}\""));
            Refusal::Status(500)
        })?;
        let uri = match url.uri.starts_with('?') {
            true => format!("/{}", url.uri),
            false => url.uri.clone(),
        };
        let (host, port) = names(&url, secure);
        let key = key(&url, &host, secure);
        let peers = match groups.find(&url) {
            Some(group) => Peers::Known(Cow::Owned(group)),
            None => Peers::Named(Box::new(url)),
        };
        let uri = Uri::Whole(text::bytes(&uri).into());
        Ok(Meant { peers, upstream: Cow::Owned(Upstream { host, port, uri, key, secure }) })
    }
}

impl Meant<'_> {
    /// Who is there; names that variables made are resolved now.
    pub async fn group(&self, request: &Request, minds_client: bool) -> Result<Arc<Group>, Refusal> {
        match &self.peers {
            Peers::Known(group) => Ok(Arc::clone(group)),
            Peers::Named(url) => Box::pin(resolve::group(request, url, minds_client)).await, // rare, and large
        }
    }
}

fn key(url: &Url, host: &Bytes, secure: bool) -> Bytes {
    let scheme: &[u8] = if secure { b"https://" } else { b"http://" };
    match &url.host {
        Host::Unix(_) => [scheme, &text::bytes(&url.host_text)[..], b":"].concat().into(),
        _ => [scheme, &host[..]].concat().into(),
    }
}

/// `$proxy_host` and `$proxy_port`.
fn names(url: &Url, secure: bool) -> (Bytes, Bytes) {
    if let Host::Unix(_) = url.host {
        return (Bytes::from_static(b"localhost"), Bytes::new());
    }
    let host = text::bytes(&url.host_text);
    if url.no_port || url.port == default_port(secure) {
        return (host.into(), Bytes::from_static(if secure { b"443" } else { b"80" }));
    }
    let port = text::bytes(&url.port_text);
    ([&host[..], b":", &port].concat().into(), port.into())
}
