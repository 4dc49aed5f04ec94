//! What `limit_req` and `limit_conn` have in common: zones by name, log levels, statuses.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::units;
use crate::conf::error::Fault;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::request::Request;
use crate::log::{Level, Raw};
use crate::state::{self, Registry};

/// A zone of a configuration: the memory, and the key by which requests are counted in it.
pub(super) struct Zone<S> {
    pub name: String,
    pub key: Template,
    pub key_text: String,
    pub store: Arc<S>,
}

impl<S> Clone for Zone<S> {
    fn clone(&self) -> Self {
        let Self { name, key, key_text, store } = self;
        Self { name: name.clone(), key: key.clone(), key_text: key_text.clone(), store: store.clone() }
    }
}

/// What the memory of a zone must know of itself.
pub(super) trait Keyed {
    /// The text of the key that it is counted by: it means nothing to another one.
    fn key_text(&self) -> &str;
}

/// `zone=name:size` of argument `n`, without the `zone=`.
pub(super) fn name_and_size<'a>(words: &Words<'_>, n: usize, value: &'a str) -> Result<(&'a str, usize), Fault> {
    let invalid = || words.fault(n, format!("invalid zone size \"{}\"", words.arg(n)));
    let (name, size) = value.split_once(':').ok_or_else(invalid)?;
    let size = units::size(size).and_then(|size| usize::try_from(size).ok()).ok_or_else(invalid)?;
    if size < state::LEAST {
        return Err(words.fault(n, format!("zone \"{}\" is too small", words.arg(n))));
    }
    Ok((name, size))
}

impl<S: Keyed> Zone<S> {
    /// The zone that `words` define: a key, and the name and size that follow it. `make` makes its memory of the key's
    /// text and of how many bytes it may hold.
    pub(super) fn read(
        words: &Words<'_>,
        named: Option<(&str, usize)>,
        known: &[Self],
        registry: &Registry<S>,
        make: impl FnOnce(String, usize) -> S,
    ) -> Result<Self, Fault> {
        let key_text = words.arg(0).to_owned();
        let missing = || Fault::at(format!("\"{}\" must have \"zone\" parameter", words.name()), words.at());
        let (name, size) = named.filter(|(name, _)| !name.is_empty()).ok_or_else(missing)?;
        if let Some(known) = known.iter().find(|zone| zone.name == name) {
            let key = &known.key_text;
            let message = format!("{} \"{name}\" is already bound to key \"{key}\"", words.name());
            return Err(Fault::at(message, words.at()));
        }
        let store = registry.zone(name, size, || make(key_text.clone(), state::room(size)));
        if store.key_text() != key_text {
            let directive = words.name().trim_end_matches("_zone");
            // nginx: one of the two says its whole name here
            let directive = if directive == "limit_conn" { "limit_conn_zone" } else { directive };
            let before = store.key_text();
            return Err(Fault::nowhere(format!(
                "{directive} \"{name}\" uses the \"{key_text}\" key while previously it used the \"{before}\" key"
            )));
        }
        Ok(Self { name: name.to_owned(), key: words.template(0)?, key_text, store })
    }

    /// What a request is counted by; `None`: it is not counted. nginx keeps a key's length in one byte or in two, and so has a
    /// `longest`.
    pub(super) fn value(&self, request: &Request, longest: usize) -> Option<Bytes> {
        let value = self.key.eval(request);
        if value.len() > longest {
            let (key, value) = (&self.key_text, Raw(&value));
            let message = format_args!("the value of the \"{key}\" key is more than {longest} bytes: \"{value}\"");
            request.log(Level::Error, message);
            return None;
        }
        Some(value).filter(|value| !value.is_empty())
    }

    /// The zone that a limit names. nginx finds out at the very end, and names no line.
    pub(super) fn find<'a>(zones: &'a [Self], name: &str) -> Result<&'a Self, Fault> {
        let unknown = || Fault::nowhere(format!("zero size shared memory zone \"{name}\""));
        zones.iter().find(|zone| zone.name == name).ok_or_else(unknown)
    }
}

/// One `limit_req` or `limit_conn`, which may name a zone that is defined further down.
#[derive(Clone)]
pub(super) struct Named<L> {
    pub zone: String,
    pub limit: L,
}

/// What `*_log_level` may say.
pub(super) const LEVELS: &[(&str, Level)] =
    &[("info", Level::Info), ("notice", Level::Notice), ("warn", Level::Warn), ("error", Level::Error)];

/// `*_status`
pub(super) fn status(words: &Words<'_>) -> Result<u16, Fault> {
    let number = words.number(0)?;
    let status = u16::try_from(number).ok().filter(|status| (400..=599).contains(status));
    status.ok_or_else(|| words.fault(0, "value must be between 400 and 599"))
}
