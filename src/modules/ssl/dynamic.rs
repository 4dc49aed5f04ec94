//! Certificates whose names have variables in them: chosen in the handshake, read from the disk by the worker.
//!
//! In: templates, and what is known of a client in its handshake. Out: pairs, remembered as `ssl_certificate_cache` says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};

use crate::base::{clock, text, units};
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

/// Certificates and keys that were read at run time, each on its own, as nginx keeps them.
pub struct Pairs(Option<(CacheSize, Mutex<Kept>)>);

/// The objects, by what names them.
type Kept = HashMap<String, Entry>;

struct Entry {
    object: Object,
    read: Instant,
    used: Instant,
}

#[derive(Clone)]
enum Object {
    Chain(Arc<Vec<CertificateDer<'static>>>),
    Key(Arc<dyn SigningKey>),
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pairs")
    }
}

impl Pairs {
    pub fn new(size: Option<CacheSize>) -> Self {
        Self(size.map(|size| (size, Mutex::default())))
    }

    /// The pair in these files, or in the texts themselves; the error is nginx's sentence.
    pub fn get(
        &self,
        name: &str,
        key: &str,
        passwords: &[Vec<u8>],
        path: &dyn Fn(&str) -> PathBuf,
    ) -> Result<Arc<CertifiedKey>, String> {
        let place = |name: &str| match name.starts_with("data:") {
            true => (name.to_owned(), PathBuf::new()),
            false => {
                let path = path(name);
                (path.display().to_string(), path)
            }
        };
        let ((name, path_of_chain), (key_name, path_of_key)) = (place(name), place(key));
        let read = |path: &Path| Ok(std::fs::read(path)?.into());
        let chain = match self.kept(&name) {
            Some(Object::Chain(chain)) => chain,
            _ => {
                let named = Named { name: &name, path: &path_of_chain };
                let chain = Arc::new(certificate::certificates(&named, &read)?);
                self.keep(&name, Object::Chain(chain.clone()));
                chain
            }
        };
        // A file may hold both.
        let kept_as = format!("key {key_name}");
        let key = match self.kept(&kept_as) {
            Some(Object::Key(key)) => key,
            _ => {
                let named = Named { name: &key_name, path: &path_of_key };
                let (key, guarded) = certificate::key(&named, &read, passwords)?;
                // nginx: what a password guards is not left lying about
                if !guarded {
                    self.keep(&kept_as, Object::Key(key.clone()));
                }
                key
            }
        };
        match certificate::join(Vec::clone(&chain), key, &key_name) {
            Ok(pair) => Ok(Arc::new(pair)),
            // One of the files was replaced since the other was read.
            Err(_) if self.forget(&[&name, &kept_as]) => self.get(&name, &key_name, passwords, path),
            Err(why) => Err(why),
        }
    }

    /// Whether any of these was kept; none is any more.
    fn forget(&self, names: &[&str]) -> bool {
        let Some((_, kept)) = &self.0 else { return false };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().filter(|name| kept.remove(**name).is_some()).count() > 0
    }

    fn kept(&self, name: &str) -> Option<Object> {
        let (size, kept) = self.0.as_ref()?;
        let now = clock::now();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.get_mut(name)?;
        let age = |since: Instant| now.saturating_duration_since(since);
        if age(entry.read) > size.valid || age(entry.used) > size.inactive {
            kept.remove(name);
            return None;
        }
        entry.used = Instant::now();
        Some(entry.object.clone())
    }

    /// Keeps an object, in the place of the one that was used longest ago when there are too many.
    fn keep(&self, name: &str, object: Object) {
        let Some((size, kept)) = &self.0 else { return };
        let now = Instant::now();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() as u64 >= size.max {
            let oldest = kept.iter().min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone());
            oldest.map(|name| kept.remove(&name));
        }
        kept.insert(name.to_owned(), Entry { object, read: now, used: now });
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
