//! `gzip`: compresses responses for clients that say they can read it.
//!
//! In: a response of one of `gzip_types`, long enough, not yet encoded. Out: the same behind `Content-Encoding: gzip`,
//! without its length and its ranges and with a weak entity tag. The rule: a client gets gzip only if [`Rules`] say so,
//! which `gzip_static` and `gunzip` ask too, and who asks first decides for the whole request.
//! nginx: `ngx_http_gzip_filter_module`, and `ngx_http_gzip_ok` of the core module with its four directives.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use async_compression::core::util::PartialBuffer;
use bytes::Bytes;

use super::deflate::{Coder, Shape};
use super::outlet::Outlet;
use crate::base::clock;
use crate::base::regex::Pattern;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, IF_LOCATION, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::vars::{Row, Value};
use crate::conf::words::{Buffers, Words};
use crate::http::body::{Body, Broken, Piece, Transform};
use crate::http::plan::{Filter, Main, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::Head;
use crate::http::types::{HTML, MediaTypes};
use crate::log::{Level as LogLevel, Raw};
use crate::wire::http1::request::Version;
use crate::wire::{date, list};

/// `ngx_http_gzip_filter_module`.
pub struct Gzip;

impl Module for Gzip {
    const NAME: &'static str = "http_gzip";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("gzip", EVERYWHERE.or(IF_LOCATION), Arity::Flag, Conf::gzip),
        Directive::location("gzip_buffers", EVERYWHERE, Arity::Exactly(2), Conf::gzip_buffers),
        Directive::location("gzip_types", EVERYWHERE, Arity::AtLeast(1), Conf::gzip_types),
        Directive::location("gzip_comp_level", EVERYWHERE, Arity::Exactly(1), Conf::gzip_comp_level),
        Directive::location("gzip_min_length", EVERYWHERE, Arity::Exactly(1), Conf::gzip_min_length),
        Directive::location("gzip_no_buffer", EVERYWHERE, Arity::Flag, Conf::gzip_no_buffer),
        Directive::location("gzip_window", EVERYWHERE, Arity::Exactly(1), Conf::gzip_window),
        Directive::location("gzip_hash", EVERYWHERE, Arity::Exactly(1), Conf::gzip_hash),
        Directive::location("postpone_gzipping", EVERYWHERE, Arity::Exactly(1), Conf::postpone_gzipping),
        // nginx has these in its core module: they hold for gzip_static and gunzip as well.
        Directive::location("gzip_vary", EVERYWHERE, Arity::Flag, Conf::gzip_vary),
        Directive::location("gzip_http_version", EVERYWHERE, Arity::Exactly(1), Conf::gzip_http_version),
        Directive::location("gzip_proxied", EVERYWHERE, Arity::AtLeast(1), Conf::gzip_proxied),
        Directive::location("gzip_disable", EVERYWHERE, Arity::AtLeast(1), Conf::gzip_disable),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link_main(_: &Level<'_>, main: &mut Main) -> Result<(), Fault> {
        main.vars.define("gzip_ratio", Row::once(ratio))
    }

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        if conf.gzip.or(false) {
            plan.filters.push(Box::new(Compressor {
                types: conf.gzip_types.or_else(|| MediaTypes::of(HTML)),
                min_length: conf.gzip_min_length.or(20),
                shape: Shape { level: conf.gzip_comp_level.or(1), window: conf.gzip_window.or(15) },
                buffers: conf.gzip_buffers.or(Buffers { number: 32, size: 4096 }),
                no_buffer: conf.gzip_no_buffer.or(false),
                rules: Rules::of(level),
            }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    gzip: Setting<bool>,
    gzip_buffers: Setting<Buffers>,
    gzip_types: Setting<MediaTypes>,
    gzip_comp_level: Setting<u32>,
    gzip_min_length: Setting<u64>,
    gzip_no_buffer: Setting<bool>,
    gzip_window: Setting<u8>,
    gzip_hash: Setting<()>,
    postpone_gzipping: Setting<()>,
    gzip_vary: Setting<bool>,
    gzip_http_version: Setting<Version>,
    gzip_proxied: Setting<Vec<Proxied>>,
    gzip_disable_msie6: Setting<bool>,
    gzip_disable: Setting<Vec<Arc<Pattern>>>,
}

/// The words of `gzip_proxied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxied {
    Off,
    Expired,
    NoCache,
    NoStore,
    Private,
    NoLastModified,
    NoEtag,
    Auth,
    Any,
}

impl Conf {
    /// Syntax: `gzip on | off;`  Default: `off`
    fn gzip(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip.set(words.flag()?)
    }

    /// Syntax: `gzip_buffers number size;`  Default: `32 4k`
    fn gzip_buffers(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_buffers.set(words.buffers()?)
    }

    /// Syntax: `gzip_types mime-type ...;`  Default: `text/html`
    fn gzip_types(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_types.list().add(words, HTML);
        Ok(())
    }

    /// Syntax: `gzip_comp_level level;`  Default: `1`
    fn gzip_comp_level(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        match words.number(0)? {
            level @ 1..=9 => self.gzip_comp_level.set(level as u32),
            _ => Err(words.fault(0, "value must be between 1 and 9")),
        }
    }

    /// Syntax: `gzip_min_length length;`  Default: `20`
    fn gzip_min_length(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_min_length.set(words.size(0)? as u64)
    }

    /// Syntax: `gzip_no_buffer on | off;`  Default: `off`  What the coder has is handed on after every piece.
    fn gzip_no_buffer(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_no_buffer.set(words.flag()?)
    }

    /// Syntax: `gzip_window size;`  Default: `32k`
    fn gzip_window(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        match words.size(0)? {
            size @ (512 | 1024 | 2048 | 4096 | 8192 | 16384 | 32768) => self.gzip_window.set(size.ilog2() as u8),
            _ => Err(Fault::directive("must be 512, 1k, 2k, 4k, 8k, 16k, or 32k")),
        }
    }

    /// Syntax: `gzip_hash size;`  Default: `64k`  Checked and without effect: our coder sizes its tables itself.
    fn gzip_hash(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        match words.size(0)? {
            512 | 1024 | 2048 | 4096 | 8192 | 16384 | 32768 | 65536 | 131_072 => self.gzip_hash.set(()),
            _ => Err(Fault::directive("must be 512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, or 128k")),
        }
    }

    /// Syntax: `postpone_gzipping size;`  Default: `0`  Checked and without effect: it delays zlib's allocations.
    fn postpone_gzipping(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        words.size(0)?;
        self.postpone_gzipping.set(())
    }

    /// Syntax: `gzip_vary on | off;`  Default: `off`
    fn gzip_vary(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_vary.set(words.flag()?)
    }

    /// Syntax: `gzip_http_version 1.0 | 1.1;`  Default: `1.1`
    fn gzip_http_version(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.gzip_http_version.set(words.choice(0, &[("1.0", Version::HTTP_10), ("1.1", Version::HTTP_11)])?)
    }

    /// Syntax: `gzip_proxied off | expired | no-cache | no-store | private | no_last_modified | no_etag | auth | any ...;`
    /// Default: `off`
    fn gzip_proxied(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        let list = self.gzip_proxied.list();
        for n in 0..words.len() {
            let word = words.choice(
                n,
                &[
                    ("off", Proxied::Off),
                    ("expired", Proxied::Expired),
                    ("no-cache", Proxied::NoCache),
                    ("no-store", Proxied::NoStore),
                    ("private", Proxied::Private),
                    ("no_last_modified", Proxied::NoLastModified),
                    ("no_etag", Proxied::NoEtag),
                    ("auth", Proxied::Auth),
                    ("any", Proxied::Any),
                ],
            )?;
            if list.contains(&word) {
                words.cx.warn(words.fault(n, format!("duplicate value \"{}\"", words.arg(n))));
            } else {
                list.push(word);
            }
        }
        Ok(())
    }

    /// Syntax: `gzip_disable regex ...;`  `msie6` is a word of its own, and quicker than the pattern it stands for.
    fn gzip_disable(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        for (n, word) in words.texts().enumerate() {
            if word == "msie6" {
                *self.gzip_disable_msie6.list() = true;
                continue;
            }
            let pattern = Pattern::new(word, true).map_err(|sentence| words.fault(n, sentence))?;
            self.gzip_disable.list().push(Arc::new(pattern));
        }
        Ok(())
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self {
            gzip,
            gzip_buffers,
            gzip_types,
            gzip_comp_level,
            gzip_min_length,
            gzip_no_buffer,
            gzip_window,
            gzip_hash,
            postpone_gzipping,
            gzip_vary,
            gzip_http_version,
            gzip_proxied,
            gzip_disable_msie6,
            gzip_disable,
        } = self;
        gzip.inherit(&outer.gzip);
        gzip_buffers.inherit(&outer.gzip_buffers);
        gzip_types.inherit(&outer.gzip_types);
        gzip_comp_level.inherit(&outer.gzip_comp_level);
        gzip_min_length.inherit(&outer.gzip_min_length);
        gzip_no_buffer.inherit(&outer.gzip_no_buffer);
        gzip_window.inherit(&outer.gzip_window);
        gzip_hash.inherit(&outer.gzip_hash);
        postpone_gzipping.inherit(&outer.postpone_gzipping);
        gzip_vary.inherit(&outer.gzip_vary);
        gzip_http_version.inherit(&outer.gzip_http_version);
        gzip_proxied.inherit(&outer.gzip_proxied);
        gzip_disable_msie6.inherit(&outer.gzip_disable_msie6);
        gzip_disable.inherit(&outer.gzip_disable);
        Ok(())
    }
}

/// Who may be sent gzip, and what caches are told of it.
pub struct Rules {
    /// `gzip_vary`: say that the answer depends on `Accept-Encoding`.
    pub vary: bool,
    version: Version,
    proxied: Vec<Proxied>,
    msie6: bool,
    disable: Vec<Arc<Pattern>>,
}

/// What gzip knows of one request.
#[derive(Default)]
struct State {
    /// The answer of [`Rules::admit`], once somebody asked.
    admitted: Cell<Option<bool>>,
    /// Bytes before and after compression, once it is done.
    lengths: Cell<Option<(u64, u64)>>,
}

impl Rules {
    /// The rules of one location.
    pub fn of(level: &Level<'_>) -> Self {
        let conf = level.location::<Gzip>();
        Self {
            vary: conf.gzip_vary.or(false),
            version: conf.gzip_http_version.or(Version::HTTP_11),
            proxied: conf.gzip_proxied.or_else(|| vec![Proxied::Off]),
            msie6: conf.gzip_disable_msie6.or(false),
            disable: conf.gzip_disable.or_else(Vec::new),
        }
    }

    /// Whether this client may be sent gzip. The first answer holds for the request: nginx's `gzip_tested`.
    pub fn admit(&self, request: &Request, head: &Head) -> bool {
        let state = request.extension::<State>();
        if let Some(known) = state.admitted.get() {
            return known;
        }
        let admitted = self.test(request, head);
        state.admitted.set(Some(admitted));
        admitted
    }

    fn test(&self, request: &Request, head: &Head) -> bool {
        if request.is_subrequest() || request.head.version < self.version {
            return false;
        }
        if !request.field("Accept-Encoding").is_some_and(accepts_gzip) {
            return false;
        }
        let agent = request.field("User-Agent");
        if self.msie6 && agent.is_some_and(is_msie6) {
            return false;
        }
        if request.field("Via").is_some() && !self.proxied(request, head) {
            return false;
        }
        !agent.is_some_and(|agent| self.disabled(request, agent))
    }

    /// `gzip_proxied`: a client behind a proxy gets gzip only if the proxy will not keep it for others.
    fn proxied(&self, request: &Request, head: &Head) -> bool {
        let on = |word: Proxied| self.proxied.contains(&word);
        if on(Proxied::Off) {
            return false;
        }
        if on(Proxied::Any) || (on(Proxied::Auth) && request.field("Authorization").is_some()) {
            return true;
        }
        if let Some(expires) = head.field("Expires") {
            return on(Proxied::Expired) && is_expired(expires, head.field("Date"));
        }
        if head.field("Cache-Control").is_some() {
            let says = |name: &str| {
                let mut lines = head.fields.iter().filter(|field| field.is("Cache-Control"));
                lines.any(|field| list::contains(field.value, name.as_bytes(), b','))
            };
            return (on(Proxied::NoCache) && says("no-cache"))
                || (on(Proxied::NoStore) && says("no-store"))
                || (on(Proxied::Private) && says("private"));
        }
        // nginx looks at an upstream's own date only: that of a file does not count here.
        let dated = on(Proxied::NoLastModified) && head.field("Last-Modified").is_some();
        let tagged = on(Proxied::NoEtag) && head.field("ETag").is_some();
        !dated && !tagged
    }

    fn disabled(&self, request: &Request, agent: &[u8]) -> bool {
        self.disable.iter().any(|pattern| match pattern.is_match(agent) {
            Ok(matches) => matches,
            Err(failed) => {
                request.log(LogLevel::Alert, format_args!("{failed}"));
                true
            }
        })
    }
}

fn is_expired(expires: &[u8], date: Option<&[u8]>) -> bool {
    let now = match date {
        Some(date) => date::parse(date),
        None => i64::try_from(clock::seconds()).ok(),
    };
    matches!((date::parse(expires), now), (Some(expires), Some(now)) if expires < now)
}

/// `gzip` stands among the codings, and not with a weight of nothing. RFC 9110, 12.5.3, as strictly as nginx reads it.
fn accepts_gzip(value: &[u8]) -> bool {
    if value.starts_with(b"gzip,") {
        return true;
    }
    let starts = |at: &usize| {
        let before = at.checked_sub(1).and_then(|before| value.get(before));
        before.is_none_or(|byte| matches!(byte, b',' | b' '))
            && value.get(*at..at + 4).is_some_and(|word| word.eq_ignore_ascii_case(b"gzip"))
    };
    let Some(at) = (0..value.len()).find(starts) else { return false };
    let rest = value.get(at + 4..).unwrap_or_default().trim_ascii_start();
    let Some(weight) = (match rest {
        [] | [b',', ..] => return true,
        [b';', weight @ ..] => Some(weight.trim_ascii_start()),
        _ => None,
    }) else {
        return false;
    };
    match weight {
        [] => true,
        [b'q' | b'Q', b'=', number @ ..] => weighs(number),
        _ => false,
    }
}

/// Whether a `qvalue` is valid and above nothing.
fn weighs(number: &[u8]) -> bool {
    let end = number.iter().position(|byte| matches!(byte, b',' | b' ')).unwrap_or(number.len());
    let (whole, fraction) = match number.get(..end) {
        Some([whole @ (b'0' | b'1')]) => (whole, &[][..]),
        Some([whole @ (b'0' | b'1'), b'.', fraction @ ..]) => (whole, fraction),
        _ => return false,
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let nothing = fraction.iter().all(|&digit| digit == b'0');
    if *whole == b'1' { nothing } else { !nothing }
}

/// Internet Explorer 4 to 6, but the one of Windows XP SP2, which calls itself SV1 and has the fault mended.
fn is_msie6(agent: &[u8]) -> bool {
    let find = |word: &str| memchr::memmem::find(agent, word.as_bytes());
    let Some(version) = find("MSIE ").and_then(|at| agent.get(at + 5..at + 7)) else { return false };
    // nginx: the name must not end the text.
    find("Opera").is_none()
        && match version {
            [b'4' | b'5', b'.'] => true,
            [b'6', b'.'] => find("SV1").is_none(),
            _ => false,
        }
}

/// `gzip on` at one location, resolved.
struct Compressor {
    types: MediaTypes,
    min_length: u64,
    shape: Shape,
    buffers: Buffers,
    no_buffer: bool,
    rules: Rules,
}

impl Filter for Compressor {
    fn stage(&self) -> Stage {
        Stage::Gzip
    }

    fn apply(&self, request: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if !matches!(head.status, 200 | 403 | 404)
            || head.field("Content-Encoding").is_some_and(|coding| !coding.is_empty())
            || head.content_length.is_some_and(|length| length < self.min_length)
            || !self.types.take(head)
        {
            return body;
        }
        head.vary_encoding |= self.rules.vary;
        if !self.rules.admit(request, head) {
            return body;
        }
        head.add("Content-Encoding", Bytes::from_static(b"gzip"));
        head.clear_content_length();
        head.clear_accept_ranges();
        head.weaken_etag();
        body.through(Deflate {
            coder: None,
            shape: self.shape,
            appetite: self.buffers.total().min(STEP),
            no_buffer: self.no_buffer,
            taken: 0,
            outlet: Outlet::new(self.buffers.size),
            request: request.clone(),
        })
    }
}

/// The most that is compressed in one go: some tenths of a millisecond for all other connections of the thread.
const STEP: usize = 32 * 1024;

struct Deflate {
    /// There from the first byte to the last.
    coder: Option<Coder>,
    shape: Shape,
    appetite: usize,
    no_buffer: bool,
    taken: u64,
    outlet: Outlet,
    request: Rc<Request>,
}

impl Deflate {
    fn failed(&self, error: &std::io::Error) -> Broken {
        self.request.log(LogLevel::Alert, format_args!("deflate() failed: {}", Raw(error.to_string().as_bytes())));
        Broken
    }
}

impl Transform for Deflate {
    fn push(&mut self, bytes: &Bytes, flush: bool, out: &mut Vec<Piece>) -> Result<(), Broken> {
        if bytes.is_empty() && self.coder.is_none() {
            return Ok(()); // nothing was said yet that could be flushed
        }
        let Self { coder, outlet, shape, .. } = self;
        let coder = coder.get_or_insert_with(|| Coder::begin(*shape));
        let mut input = PartialBuffer::new(bytes.as_ref());
        let mut done = Ok(true);
        while done.is_ok() && !input.unwritten().is_empty() {
            done = outlet.write(out, |room| coder.encode(&mut input, room).map(|()| true));
        }
        if flush {
            loop {
                done = match done {
                    Ok(_) => outlet.write(out, |room| coder.flush(room)),
                    Err(_) => break,
                };
                if matches!(done, Ok(true)) {
                    break;
                }
            }
        }
        done.map_err(|error| self.failed(&error))?;
        self.taken += bytes.len() as u64;
        if flush || self.no_buffer {
            self.outlet.flush(out);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Piece>) -> Result<(), Broken> {
        let mut coder = self.coder.take().unwrap_or_else(|| Coder::begin(self.shape));
        loop {
            match self.outlet.write(out, |room| coder.finish(room)) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        coder.give_back();
        self.outlet.flush(out);
        self.request.extension::<State>().lengths.set(Some((self.taken, self.outlet.total)));
        Ok(())
    }

    fn appetite(&self) -> usize {
        self.appetite
    }
}

/// `$gzip_ratio`: how many times smaller the body became, with two decimals.
fn ratio(request: &Request) -> Value {
    let (taken, given) = request.extension::<State>().lengths.get()?;
    Some(decimal(taken, given)?.into())
}

fn decimal(taken: u64, given: u64) -> Option<String> {
    let hundredths = taken.checked_mul(1000)?.checked_div(given)?;
    let rounded = hundredths / 10 + u64::from(hundredths % 10 > 4);
    Some(format!("{}.{:02}", rounded / 100, rounded % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_with_weights() {
        let yes = [
            "gzip",
            "gzip, deflate",
            "gzip,deflate",
            "GZip",
            "deflate, gzip",
            "deflate,gzip",
            "gzip;q=1",
            "gzip;q=1.000",
            "gzip; q=0.001",
            "gzip ; Q=0.5, deflate;q=1",
            "gzip;",
            "gzip;q=0.5 ",
            "x-gzip, gzip",
        ];
        let no = [
            "",
            "deflate",
            "gzi",
            "x-gzip",
            "gzipped",
            "gzip=1",
            "gzip;q=0",
            "gzip;q=0.0",
            "gzip;q=0.000",
            "gzip;q=0.0001",
            "gzip;q=1.001",
            "gzip;q=2",
            "gzip;q",
            "gzip;q=",
            "gzip;q =1",
            "gzip;q=0.x",
            "gzip;x=1",
            "*",
        ];
        for value in yes {
            assert!(accepts_gzip(value.as_bytes()), "{value}");
        }
        for value in no {
            assert!(!accepts_gzip(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn old_internet_explorers() {
        for (agent, expected) in [
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.0)", true),
            ("Mozilla/4.0 (compatible; MSIE 5.5; Windows NT 5.0)", true),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)", false),
            ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 5.1)", false),
            ("Mozilla/4.0 (compatible; MSIE 6.0; Opera 8)", false),
            ("MSIE ", false),
            ("MSIE 6", false),
            ("curl/8.0", false),
        ] {
            assert_eq!(is_msie6(agent.as_bytes()), expected, "{agent}");
        }
    }

    #[test]
    fn expired_before_the_date_of_the_answer() {
        let date = Bytes::from_static(b"Thu, 01 Jan 2015 00:00:00 GMT");
        for (expires, expected) in [
            ("Thu, 01 Jan 1970 00:00:01 GMT", true),
            ("Thu, 01 Jan 2015 00:00:00 GMT", false),
            ("Fri, 02 Jan 2015 00:00:00 GMT", false),
            ("soon", false),
        ] {
            assert_eq!(is_expired(expires.as_bytes(), Some(&date)), expected, "{expires}");
        }
        assert!(is_expired(b"Thu, 01 Jan 2015 00:00:00 GMT", None));
        assert!(!is_expired(b"Thu, 01 Jan 1970 00:00:01 GMT", Some(&Bytes::from_static(b"once"))));
    }

    #[test]
    fn ratios_are_rounded() {
        for (taken, given, expected) in [
            (100, 50, Some("2.00")),
            (2125, 1000, Some("2.13")),
            (2124, 1000, Some("2.12")),
            (1999, 1000, Some("2.00")),
            (0, 20, Some("0.00")),
            (1, 0, None),
        ] {
            assert_eq!(decimal(taken, given).as_deref(), expected, "{taken}/{given}");
        }
    }
}
