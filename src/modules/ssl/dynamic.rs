//! Certificates whose names have variables in them: chosen in the handshake, read from the disk by the worker.
//!
//! In: templates, and what is known of a client in its handshake. Out: pairs, remembered as `ssl_certificate_cache` says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use rustls::sign::CertifiedKey;

use crate::base::text;
use crate::base::units;
use crate::conf::error::Fault;
use crate::conf::template::Template;
use crate::conf::words::{Context, Words};
use crate::http::request::Request;
use crate::http::tls::Choose;
use crate::net::tls::certificate::{self, Named};

/// `ssl_certificate_cache`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    max: u64,
    inactive: Duration,
    valid: Duration,
}

impl CacheSize {
    /// Reads the words of the directive, which upstreams have too.
    pub fn read(words: &Words<'_>) -> Result<Option<Self>, Fault> {
        let mut size = Self { max: 0, inactive: Duration::from_secs(10), valid: Duration::from_secs(60) };
        let mut off = false;
        for (n, word) in words.texts().enumerate() {
            let invalid = || words.invalid_parameter(n);
            let time = |text: &str| units::seconds(text).map(Duration::from_secs).ok_or_else(invalid);
            if let Some(number) = word.strip_prefix("max=") {
                size.max = number.parse().ok().filter(|&max| max > 0).ok_or_else(invalid)?;
            } else if let Some(text) = word.strip_prefix("inactive=") {
                size.inactive = time(text)?;
            } else if let Some(text) = word.strip_prefix("valid=") {
                size.valid = time(text)?;
            } else if word == "off" {
                off = true;
            } else {
                return Err(invalid());
            }
        }
        if off {
            return Ok(None);
        }
        if size.max == 0 {
            return Err(words.fault(0, format!("\"{}\" must have the \"max\" parameter", words.name())));
        }
        Ok(Some(size))
    }
}

type Names = (String, String);

/// Pairs that were read at run time.
#[derive(Debug)]
pub struct Pairs(Option<Cache<Names, Arc<CertifiedKey>>>);

impl Pairs {
    pub fn new(size: Option<CacheSize>) -> Self {
        Self(size.map(|size| {
            let builder = Cache::builder().max_capacity(size.max).time_to_live(size.valid);
            builder.time_to_idle(size.inactive).build()
        }))
    }

    /// The pair in these files, or in the texts themselves; the error is nginx's sentence.
    pub fn get(
        &self,
        name: &str,
        key: &str,
        passwords: &[Vec<u8>],
        path: &dyn Fn(&str) -> PathBuf,
    ) -> Result<Arc<CertifiedKey>, String> {
        let names = (name.to_owned(), key.to_owned());
        if let Some(pair) = self.0.as_ref().and_then(|cache| cache.get(&names)) {
            return Ok(pair);
        }
        let place = |name: &str| match name.starts_with("data:") {
            true => (name.to_owned(), PathBuf::new()),
            false => {
                let path = path(name);
                (path.display().to_string(), path)
            }
        };
        let ((chain, chain_path), (key, key_path)) = (place(name), place(key));
        let chain = Named { name: &chain, path: &chain_path };
        let key = Named { name: &key, path: &key_path };
        let read = |path: &std::path::Path| Ok(std::fs::read(path)?.into());
        let pair = Arc::new(certificate::pair(&chain, &key, &read, passwords)?);
        if let Some(cache) = &self.0 {
            cache.insert(names, pair.clone());
        }
        Ok(pair)
    }
}

/// One server's certificates, chosen anew for each handshake.
#[derive(Debug)]
pub struct Dynamic {
    templates: Vec<(Template, Template)>,
    passwords: Vec<Vec<u8>>,
    pairs: Pairs,
    conf_prefix: PathBuf,
}

impl Dynamic {
    /// `None`: there are no variables in the names.
    pub fn of(
        names: &[String],
        keys: &[String],
        passwords: &[Vec<u8>],
        cache: Option<CacheSize>,
        cx: &Context,
    ) -> Result<Option<Self>, Fault> {
        if !names.iter().chain(keys).any(|name| name.contains('$')) {
            return Ok(None);
        }
        let pair = |(name, key): (&String, &String)| {
            Ok::<_, Fault>((Template::new(name, &cx.names)?, Template::new(key, &cx.names)?))
        };
        Ok(Some(Self {
            templates: names.iter().zip(keys).map(pair).collect::<Result<_, _>>()?,
            passwords: passwords.to_vec(),
            pairs: Pairs::new(cache),
            conf_prefix: cx.conf_path(""),
        }))
    }
}

impl Choose for Dynamic {
    fn certificates(&self, request: &Request) -> Result<Vec<Arc<CertifiedKey>>, String> {
        let get = |(name, key): &(Template, Template)| {
            let text = |template: &Template| text::decode(&template.eval(request));
            let path = |name: &str| self.conf_prefix.join(text::path(name));
            self.pairs.get(&text(name), &text(key), &self.passwords, &path)
        };
        self.templates.iter().map(get).collect()
    }
}
