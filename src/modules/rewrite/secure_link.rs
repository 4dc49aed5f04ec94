//! `secure_link`: links that nobody else can make, and that end.
//!
//! In: what `secure_link` says, usually two arguments, and the text that `secure_link_md5` says was signed; or with
//! `secure_link_secret` the path itself. Out: `$secure_link`: nothing if the sums differ, `0` once the link has expired, else
//! `1` (with a secret, the path behind the sum). Sums are compared in constant time. nginx: `ngx_http_secure_link_module`.

use std::cell::RefCell;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use md5::{Digest, Md5};

use crate::base::{clock, text};
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::vars::{Row, Value};
use crate::conf::words::Words;
use crate::http::plan::{Main, Plan};
use crate::http::request::Request;
use crate::wire::byte;

/// `ngx_http_secure_link_module`.
pub struct SecureLink;

impl Module for SecureLink {
    const NAME: &'static str = "http_secure_link";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("secure_link", EVERYWHERE, Arity::Exactly(1), Conf::secure_link),
        Directive::location("secure_link_md5", EVERYWHERE, Arity::Exactly(1), Conf::secure_link_md5),
        Directive::location("secure_link_secret", LOCATION, Arity::Exactly(1), Conf::secure_link_secret),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars
            .define("secure_link", Row::once(|request: &Request| request.plan().secure_link.as_ref()?(request)))?;
        let expires = |request: &Request| request.extension::<Expires>().0.borrow().clone();
        main.vars.define("secure_link_expires", Row::once(expires))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if let Some(secret) = conf.secure_link_secret.said() {
            plan.secure_link = Some(Box::new(move |request| by_path(&request.head.target_bytes(), &secret)));
            return Ok(());
        }
        if let (Some(link), Some(signed)) = (conf.secure_link.said(), conf.secure_link_md5.said()) {
            plan.secure_link = Some(Box::new(move |request| by_expression(request, &link, &signed)));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    secure_link: Setting<Template>,
    secure_link_md5: Setting<Template>,
    secure_link_secret: Setting<Bytes>,
}

impl Conf {
    /// Syntax: `secure_link expression;`
    fn secure_link(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.secure_link.set(words.template(0)?)
    }

    /// Syntax: `secure_link_md5 expression;`
    fn secure_link_md5(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.secure_link_md5.set(words.template(0)?)
    }

    /// Syntax: `secure_link_secret word;`
    fn secure_link_secret(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.secure_link_secret.set(text::bytes(words.one()).into())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { secure_link, secure_link_md5, secure_link_secret } = self;
        if secure_link_secret.is_set() {
            return match secure_link.is_set() || secure_link_md5.is_set() {
                true => Err(Fault::new(
                    "\"secure_link_secret\" cannot be mixed with \"secure_link\" and \"secure_link_md5\"",
                )),
                false => Ok(()),
            };
        }
        secure_link.inherit(&outer.secure_link);
        secure_link_md5.inherit(&outer.secure_link_md5);
        if !secure_link.is_set() && !secure_link_md5.is_set() {
            secure_link_secret.inherit(&outer.secure_link_secret);
        }
        Ok(())
    }
}

/// When the link of a request ends, as it says itself.
#[derive(Default)]
struct Expires(RefCell<Value>);

fn by_expression(request: &Request, link: &Template, signed: &Template) -> Value {
    let link = link.eval(request);
    let (sum, ends) = match memchr::memchr(b',', &link) {
        None => (&link[..], None),
        Some(comma) => {
            let written = link.slice(comma + 1..);
            let ends = number(&written)?;
            request.extension::<Expires>().0.replace(Some(written));
            (&link[..comma], Some(ends))
        }
    };
    let sum = decode(sum)?;
    verify_slices_are_equal(&sum, &Md5::digest(signed.eval(request))).ok()?;
    let over = ends.is_some_and(|ends| ends < clock::seconds());
    Some(Bytes::from_static(if over { b"0" } else { b"1" }))
}

/// A time; 0 is none.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| std::str::from_utf8(text).ok()?.parse::<i64>().ok())??;
    u64::try_from(number).ok().filter(|&number| number > 0)
}

/// The sixteen bytes of a sum, in base64 for addresses. nginx: what follows a `=` is not looked at.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    if text.len() > 24 {
        return None;
    }
    let end = memchr::memchr(b'=', text).unwrap_or(text.len());
    BASE64.decode(&text[..end]).ok().filter(|sum| sum.len() == 16)
}

/// `/prefix/SUM/path`: the sum is that of the path and the secret.
fn by_path(target: &Bytes, secret: &[u8]) -> Value {
    let rest = target.get(1..)?;
    let sum = memchr::memchr(b'/', rest)? + 2;
    let path = sum + memchr::memchr(b'/', target.get(sum..)?)? + 1;
    let (written, path) = (target.get(sum..path - 1)?, target.slice(path..));
    if written.len() != 32 || path.is_empty() {
        return None;
    }
    let sum: Option<Vec<u8>> =
        written.chunks(2).map(|digits| Some(byte::hex(digits[0])? << 4 | byte::hex(digits[1])?)).collect();
    let expected = Md5::new().chain_update(&path).chain_update(secret).finalize();
    verify_slices_are_equal(&sum?, &expected).ok()?;
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_its_sum() {
        // md5 of "path/file.txt" and "secret"
        let sum: String = Md5::digest("path/file.txtsecret").iter().map(|byte| format!("{byte:02X}")).collect();
        let link = |text: String| by_path(&Bytes::from(text), b"secret");
        assert_eq!(link(format!("/p/{sum}/path/file.txt")).as_deref(), Some(&b"path/file.txt"[..]));
        assert_eq!(link(format!("/p/{}/path/file.txt", sum.to_lowercase())).as_deref(), Some(&b"path/file.txt"[..]));
        for bad in [
            format!("/p/{sum}/path/file.tx"),
            format!("/p/{sum}/"),
            format!("/p/{sum}"),
            format!("/{sum}/path/file.txt"),
            format!("/p/x{}/path/file.txt", &sum[1..]),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(link(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn sums_and_times() {
        assert_eq!(decode(b"_e4Nc3iduzkWRm01TBBNYw").map(|sum| sum.len()), Some(16));
        assert_eq!(decode(b"_e4Nc3iduzkWRm01TBBNYw=="), decode(b"_e4Nc3iduzkWRm01TBBNYw"));
        for bad in ["", "_e4Nc3iduzkWRm01TBBNY", "/e4Nc3iduzkWRm01TBBNYw", "_e4Nc3iduzkWRm01TBBNYwAAA"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
        for (text, expected) in [("1", Some(1)), ("0", None), ("", None), ("-1", None), ("+1", None), ("1x", None)] {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(number(b"99999999999999999999"), None);
    }
}
