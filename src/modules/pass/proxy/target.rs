//! Where `proxy_pass` leads: a group that is known at load, or one that variables name.

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
    Fixed { group: Arc<Group>, host: Bytes, port: Bytes, uri: Uri, key: Bytes },
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

/// The target of one request.
pub struct Meant {
    peers: Peers,
    pub host: Bytes,
    pub port: Bytes,
    pub uri: Uri,
    /// What the default of `proxy_cache_key` begins with: `http://host`, `http://unix:/path:`.
    pub key: Bytes,
}

enum Peers {
    Known(Arc<Group>),
    /// To be resolved.
    Named(Box<Url>),
}

/// Reads a URL without variables; the error is nginx's sentence.
pub fn fixed(text: &str) -> Result<Url, String> {
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    if begins("https://") {
        return Err("https protocol requires SSL support".to_owned());
    }
    if !begins("http://") {
        return Err("invalid URL prefix".to_owned());
    }
    let rest = &text["http://".len()..];
    addr::parse(rest, FORM).map_err(|why| format!("{why} in upstream \"{rest}\""))
}

const FORM: Form = Form { listen: false, uri: true, default_port: 80 };

impl Target {
    /// `no_uri`: the location is no prefix, so there is nothing that a URI could take the place of.
    pub fn link(level: &Level<'_>, pass: &PassUrl, location: &str, no_uri: bool) -> Result<Self, Fault> {
        let groups = Groups::of(level);
        if pass.template.constant().is_none() {
            return Ok(Self::Variable { template: pass.template.clone(), groups });
        }
        let url = fixed(&pass.text).map_err(Fault::new)?;
        if no_uri && !url.uri.is_empty() {
            return Err(Fault::new(
                "\"proxy_pass\" cannot have URI part in location given by regular expression, or inside named \
                 location, or inside \"if\" statement, or inside \"limit_except\" block",
            ));
        }
        let group = groups.make(&url, &pass.at)?;
        let (host, port) = names(&url);
        let uri = Uri::Replace { uri: text::bytes(&url.uri).into(), location: text::bytes(location).len() };
        let key = key(&url, &host);
        Ok(Self::Fixed { group, host, port, uri, key })
    }

    /// The target of a request.
    pub fn find(&self, request: &Request) -> Result<Meant, Refusal> {
        let (template, groups) = match self {
            Self::Fixed { group, host, port, uri, key } => {
                let peers = Peers::Known(group.clone());
                let (host, port) = (host.clone(), port.clone());
                return Ok(Meant { peers, host, port, uri: uri.clone(), key: key.clone() });
            }
            Self::Variable { template, groups } => (template, groups),
        };
        let value = template.eval(request);
        let text = text::decode(&value);
        if !text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) || text.len() == 7 {
            request.log(LogLevel::Error, format_args!("invalid URL prefix in \"{}\"", Raw(&value)));
            return Err(Refusal::Status(500));
        }
        let rest = &text[7..];
        let url = addr::parse(rest, FORM).map_err(|why| {
            request.log(LogLevel::Error, format_args!("{why} in upstream \"{rest}\""));
            Refusal::Status(500)
        })?;
        let uri = match url.uri.starts_with('?') {
            true => format!("/{}", url.uri),
            false => url.uri.clone(),
        };
        let (host, port) = names(&url);
        let key = key(&url, &host);
        let peers = match groups.find(&url) {
            Some(group) => Peers::Known(group),
            None => Peers::Named(Box::new(url)),
        };
        Ok(Meant { peers, host, port, uri: Uri::Whole(text::bytes(&uri).into()), key })
    }
}

impl Meant {
    /// Who is there; names that variables made are resolved now.
    pub async fn group(&self, request: &Request, minds_client: bool) -> Result<Arc<Group>, Refusal> {
        match &self.peers {
            Peers::Known(group) => Ok(group.clone()),
            // rare, and large
            Peers::Named(url) => Box::pin(resolve::group(request, url, minds_client)).await,
        }
    }
}

fn key(url: &Url, host: &Bytes) -> Bytes {
    match &url.host {
        Host::Unix(_) => [b"http://", &text::bytes(&url.host_text)[..], b":"].concat().into(),
        _ => [b"http://", &host[..]].concat().into(),
    }
}

/// `$proxy_host` and `$proxy_port`.
fn names(url: &Url) -> (Bytes, Bytes) {
    if let Host::Unix(_) = url.host {
        return (Bytes::from_static(b"localhost"), Bytes::new());
    }
    let host = text::bytes(&url.host_text);
    if url.no_port || url.port == 80 {
        return (host.into(), Bytes::from_static(b"80"));
    }
    let port = text::bytes(&url.port_text);
    ([&host[..], b":", &port].concat().into(), port.into())
}
