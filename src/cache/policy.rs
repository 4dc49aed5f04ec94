//! May an answer be kept, and for how long: what its head and the settings say.
//!
//! In: a status, the upstream's fields in their order, the time, [`Rules`]. Out: a [`Verdict`]. The rules are nginx's
//! (`ngx_http_upstream_process_cache_control` and its neighbours): `X-Accel-Expires` over `Cache-Control` over `Expires`
//! over `*_cache_valid`, substrings and all. Stricter by default, where nginx would call something fresh that is not: an
//! `Age` counts, `Expires` counts from `Date`, is of no use in another zone than GMT, and is over in the second that it
//! names; `*` anywhere in `Vary` matches nothing. With `*_cache_rfc9111 on` the rules are those of [`super::rfc9111`].

use super::control::{self, Control};
use super::meta::MAX_VARY;
use super::rfc9111;
use crate::wire::byte;
use crate::wire::date;

/// The later of times are cut here, so that sums of them stay in bounds.
pub const LATEST: i64 = i64::MAX / 4;

/// One line of an upstream's head: its name and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// What the operator said about keeping.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub ignored: Ignored,
    /// `*_cache_valid`, in order.
    pub valid: Vec<Valid>,
    /// `*_cache_rfc9111 on`.
    pub rfc9111: bool,
    /// `*_cache_revalidate on`: what is stale from the start may be worth keeping for its validators.
    pub revalidate: bool,
}

/// `*_ignore_headers`: the fields that have no say in keeping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    pub accel_expires: bool,
    pub expires: bool,
    pub cache_control: bool,
    pub set_cookie: bool,
    pub vary: bool,
}

/// How long answers of a status are kept that say nothing themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Valid {
    /// `None` for `any`.
    pub status: Option<u16>,
    /// 0: not at all.
    pub seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep(Keep),
    Pass(Why),
}

/// How to keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Fresh until this second.
    pub valid: i64,
    /// Seconds behind it, as in the file's header.
    pub updating: i64,
    pub error: i64,
    /// The names in `Vary`, as the file's header holds them; empty without.
    pub vary: Vec<u8>,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `no-store`, `no-cache`, `private`, a lifetime of 0.
    CacheControl,
    /// A directive of `Cache-Control` has a number that is none.
    BadCacheControl,
    /// `X-Accel-Expires: 0`.
    AccelExpires,
    /// `Expires` has passed or cannot be read.
    Expired,
    /// It was older than its lifetime when it came.
    Age,
    SetCookie,
    /// `Vary` has a `*`.
    VaryAny,
    /// `Vary` is longer than the file's header has room for.
    VaryLong,
    /// Nobody says how long: neither a field nor `*_cache_valid`.
    NoLifetime,
    /// The request had credentials, and the answer does not say that it is for all (RFC 9111, 3.5).
    Authorization,
}

impl Rules {
    /// What `*_cache_valid` says about a status. `None`: not to be kept.
    pub fn configured(&self, status: u16) -> Option<i64> {
        let found = self.valid.iter().find(|valid| valid.status.is_none_or(|known| known == status))?;
        (found.seconds != 0).then_some(found.seconds)
    }

    /// Judges an answer that came at `now`. `authorized`: the request had an `Authorization`.
    pub fn judge<'a>(
        &self,
        status: u16,
        fields: impl Iterator<Item = Pair<'a>> + Clone,
        authorized: bool,
        now: i64,
    ) -> Verdict {
        if self.rfc9111 {
            return rfc9111::judge(self, status, &Fields::of(fields, &self.ignored), authorized, now);
        }
        match Walk::over(fields, &self.ignored, now).finish(self, status, now) {
            Ok(keep) => Verdict::Keep(keep),
            Err(why) => Verdict::Pass(why),
        }
    }
}

/// True when the stored answer of this head must not be served stale, whatever the operator allows: it says
/// `must-revalidate`, `proxy-revalidate` or `s-maxage` (RFC 9111, 4.2.4).
pub fn forbids_stale<'a>(fields: impl Iterator<Item = Pair<'a>>, ignored: &Ignored) -> bool {
    !ignored.cache_control && Control::of(named(fields, b"Cache-Control")).forbids_stale()
}

/// The values of all lines of a name.
pub fn named<'a>(fields: impl Iterator<Item = Pair<'a>>, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    fields.filter(move |(field, _)| byte::same_name(field, name)).map(|(_, value)| value)
}

/// An upstream's `Age`: the first of a list, and of lines (RFC 9111, 5.1). What is no number says nothing.
pub fn age<'a>(fields: impl Iterator<Item = Pair<'a>>) -> i64 {
    let value = named(fields, b"Age").next().unwrap_or_default();
    let first = value.split(|&byte| byte == b',').next().unwrap_or_default();
    control::delta_seconds(first.trim_ascii()).unwrap_or(0)
}

/// Seconds from `now` to when an `Expires` has passed, by the upstream's own clock when it tells its `date`. What is not
/// in GMT, or no date at all, has passed (RFC 9111, 5.3).
pub fn expires_in(expires: &[u8], date: Option<i64>, age: i64, now: i64) -> i64 {
    let Some(expires) = date::parse(expires).filter(|_| is_gmt(expires)) else {
        return 0;
    };
    let date = date.unwrap_or(now);
    expires.saturating_sub(date).saturating_sub(age.max(now.saturating_sub(date)))
}

/// The form of asctime has no zone and means GMT (RFC 9110, 5.6.7).
fn is_gmt(date: &[u8]) -> bool {
    let date = date.trim_ascii();
    date.ends_with(b" GMT") || !date.contains(&b',')
}

/// The fields that matter, picked out of a head.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) accel_expires: Option<&'a [u8]>,
    pub(super) cache_control: Vec<&'a [u8]>,
    pub(super) targeted: Vec<&'a [u8]>,
    pub(super) expires: Option<&'a [u8]>,
    pub(super) vary: Vec<&'a [u8]>,
    pub(super) set_cookie: bool,
    pub(super) age: i64,
    pub(super) date: Option<i64>,
    pub(super) last_modified: Option<i64>,
    pub(super) etag: bool,
}

impl<'a> Fields<'a> {
    /// Those that are ignored are left out.
    fn of(fields: impl Iterator<Item = Pair<'a>> + Clone, ignored: &Ignored) -> Self {
        let mut all = Self { age: age(fields.clone()), ..Self::default() };
        for (name, value) in fields {
            let is = |known: &str| byte::same_name(name, known.as_bytes());
            if is("X-Accel-Expires") && !ignored.accel_expires {
                all.accel_expires.get_or_insert(value);
            } else if is("Cache-Control") && !ignored.cache_control {
                all.cache_control.push(value);
            } else if is("CDN-Cache-Control") && !ignored.cache_control {
                all.targeted.push(value);
            } else if is("Expires") && !ignored.expires {
                all.expires.get_or_insert(value);
            } else if is("Vary") && !ignored.vary {
                all.vary.push(value);
            } else if is("Set-Cookie") {
                all.set_cookie |= !ignored.set_cookie;
            } else if is("Date") {
                all.date = all.date.or_else(|| date::parse(value));
            } else if is("Last-Modified") {
                all.last_modified = all.last_modified.or_else(|| date::parse(value));
            } else if is("ETag") {
                all.etag = true;
            }
        }
        all
    }
}

/// The lines of `Vary` as the file's header holds them.
pub(super) fn joined_vary(lines: &[&[u8]]) -> Result<Vec<u8>, Why> {
    if lines.iter().any(|line| line.split(|&byte| byte == b',').any(|name| name.trim_ascii() == b"*")) {
        return Err(Why::VaryAny);
    }
    let joined = lines.join(&b", "[..]);
    if joined.len() > MAX_VARY { Err(Why::VaryLong) } else { Ok(joined) }
}

/// `X-Accel-Expires`: seconds from now, or `@` and the second. `None`: it cannot be read, and says nothing.
pub(super) fn accel_expires(value: &[u8], now: i64) -> Option<Accel> {
    let at = value.strip_prefix(b"@");
    // nginx: a number that no time holds is none
    let number = byte::offset(at.unwrap_or(value)).and_then(|number| i64::try_from(number).ok())?;
    Some(match (at, number) {
        (None, 0) => Accel::Never,
        (None, seconds) => Accel::Until(now.saturating_add(seconds).min(LATEST)),
        (Some(_), second) => Accel::Until(second.min(LATEST)),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accel {
    Never,
    Until(i64),
}

/// nginx's walk over the fields in their order, each of which may change what those before it said.
#[derive(Default)]
struct Walk<'a> {
    keep: Keep,
    /// Nothing can make it kept any more.
    refused: Option<Why>,
    /// Not to be kept, unless `X-Accel-Expires` follows.
    no_cache: Option<Why>,
    /// The same for `Expires`, which `max-age` outweighs too.
    expired: bool,
    accel_seen: bool,
    expires_seen: bool,
    vary: Vec<&'a [u8]>,
    age: i64,
    date: Option<i64>,
}

impl<'a> Walk<'a> {
    fn over(fields: impl Iterator<Item = Pair<'a>> + Clone, ignored: &Ignored, now: i64) -> Self {
        let mut walk = Self {
            age: age(fields.clone()),
            date: named(fields.clone(), b"Date").next().and_then(date::parse),
            ..Self::default()
        };
        for (name, value) in fields {
            match name.len() {
                4 if !ignored.vary && byte::same_name(name, b"Vary") => walk.vary.push(value),
                7 if byte::same_name(name, b"Expires") => walk.expires(value, ignored, now),
                10 if !ignored.set_cookie && byte::same_name(name, b"Set-Cookie") => walk.refuse(Why::SetCookie),
                13 if !ignored.cache_control && byte::same_name(name, b"Cache-Control") => {
                    if let Err(why) = walk.cache_control(value, now) {
                        walk.refuse(why);
                    }
                }
                15 if byte::same_name(name, b"X-Accel-Expires") => walk.accel_expires(value, ignored, now),
                _ => {}
            }
        }
        walk
    }

    fn refuse(&mut self, why: Why) {
        self.refused.get_or_insert(why);
    }

    fn accel_expires(&mut self, value: &[u8], ignored: &Ignored, now: i64) {
        if std::mem::replace(&mut self.accel_seen, true) || ignored.accel_expires {
            return; // of several lines the first counts
        }
        match accel_expires(value, now) {
            None => {}
            Some(Accel::Never) => self.refuse(Why::AccelExpires),
            Some(Accel::Until(valid)) => {
                self.keep.valid = valid;
                self.no_cache = None;
                self.expired = false;
            }
        }
    }

    fn cache_control(&mut self, line: &[u8], now: i64) -> Result<(), Why> {
        // nginx: the words count wherever they stand in the line
        let has = |word: &str| byte::find_ignore_case(line, word.as_bytes()).is_some();
        let number = |word: &str| {
            let start = byte::find_ignore_case(line, word.as_bytes())? + word.len();
            Some(seconds(line.get(start..).unwrap_or_default()).ok_or(Why::BadCacheControl))
        };
        if self.keep.valid == 0 || !self.accel_seen {
            if has("no-cache") || has("no-store") || has("private") {
                self.no_cache = Some(Why::CacheControl);
                return Ok(());
            }
            match number("s-maxage=").or_else(|| number("max-age=")).transpose()? {
                None => {}
                Some(0) => {
                    self.no_cache = Some(Why::CacheControl);
                    return Ok(());
                }
                Some(seconds) if seconds <= self.age => {
                    self.no_cache = Some(Why::Age);
                    return Ok(());
                }
                Some(seconds) => {
                    self.keep.valid = now.saturating_add(seconds - self.age).min(LATEST);
                    self.expired = false;
                }
            }
        }
        if let Some(seconds) = number("stale-while-revalidate=").transpose()? {
            self.keep.updating = seconds;
            self.keep.error = seconds;
        }
        if let Some(seconds) = number("stale-if-error=").transpose()? {
            self.keep.error = seconds;
        }
        Ok(())
    }

    fn expires(&mut self, value: &[u8], ignored: &Ignored, now: i64) {
        if std::mem::replace(&mut self.expires_seen, true) || ignored.expires || self.keep.valid != 0 {
            return;
        }
        match expires_in(value, self.date, self.age, now) {
            seconds @ 1.. => self.keep.valid = now.saturating_add(seconds).min(LATEST),
            _ => self.expired = true,
        }
    }

    fn finish(mut self, rules: &Rules, status: u16, now: i64) -> Result<Keep, Why> {
        if let Some(why) = self.refused.or(self.no_cache) {
            return Err(why);
        }
        if self.expired {
            return Err(Why::Expired);
        }
        self.keep.vary = joined_vary(&self.vary)?;
        if self.keep.valid == 0 {
            let seconds = rules.configured(status).ok_or(Why::NoLifetime)?;
            self.keep.valid = now.saturating_add(seconds).min(LATEST);
        }
        Ok(self.keep)
    }
}

/// nginx's number of seconds: digits up to a comma, a semicolon, a space or the end; none at all is 0.
fn seconds(text: &[u8]) -> Option<i64> {
    let end = text.iter().position(|byte| matches!(byte, b',' | b';' | b' ')).unwrap_or(text.len());
    text.get(..end).unwrap_or_default().iter().try_fold(0_i64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit).min(LATEST))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Sun, 06 Nov 1994 08:49:37 GMT`.
    const NOW: i64 = 784_111_777;

    fn judge_by(rules: &Rules, head: &str) -> Verdict {
        let fields: Vec<(&[u8], &[u8])> = head
            .lines()
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        rules.judge(200, fields.iter().copied(), false, NOW)
    }

    fn rules() -> Rules {
        Rules { valid: vec![Valid { status: Some(200), seconds: 1000 }], ..Rules::default() }
    }

    /// Seconds until it is stale, or why it is not kept.
    fn judge(head: &str) -> Result<i64, Why> {
        match judge_by(&rules(), head) {
            Verdict::Keep(keep) => Ok(keep.valid - NOW),
            Verdict::Pass(why) => Err(why),
        }
    }

    fn check(cases: &[(&str, Result<i64, Why>)]) {
        for (head, expected) in cases {
            assert_eq!(judge(head), *expected, "{head}");
        }
    }

    #[test]
    fn cache_control() {
        check(&[
            ("", Ok(1000)),
            ("Cache-Control: max-age=60", Ok(60)),
            ("cache-control: MAX-AGE=60, s-maxage=70", Ok(70)),
            ("Cache-Control: s-maxage=70,max-age=60", Ok(70)),
            ("Cache-Control: max-age=60; x", Ok(60)),
            ("Cache-Control: max-age=60\nCache-Control: max-age=50", Ok(50)),
            ("Cache-Control: max-age=0", Err(Why::CacheControl)),
            ("Cache-Control: max-age=", Err(Why::CacheControl)),
            ("Cache-Control: max-age=6x", Err(Why::BadCacheControl)),
            ("Cache-Control: max-age=\"6\"", Err(Why::BadCacheControl)),
            ("Cache-Control: max-age=-6", Err(Why::BadCacheControl)),
            ("Cache-Control: no-store", Err(Why::CacheControl)),
            ("Cache-Control: max-age=60, No-Cache", Err(Why::CacheControl)),
            ("Cache-Control: private=\"x\", max-age=60", Err(Why::CacheControl)),
            ("Cache-Control: max-age=99999999999999999999", Ok(LATEST - NOW)),
            ("Cache-Control: public", Ok(1000)),
        ]);
    }

    #[test]
    fn one_field_outweighs_another_in_any_order() {
        check(&[
            ("X-Accel-Expires: 30\nCache-Control: max-age=60", Ok(30)),
            ("Cache-Control: max-age=60\nX-Accel-Expires: 30", Ok(30)),
            ("X-Accel-Expires: 30\nCache-Control: no-store", Ok(30)),
            ("Cache-Control: no-store\nX-Accel-Expires: 30", Ok(30)),
            ("Cache-Control: no-store\nX-Accel-Expires: @784111787", Ok(10)),
            ("X-Accel-Expires: 0\nCache-Control: max-age=60", Err(Why::AccelExpires)),
            ("Cache-Control: max-age=60\nX-Accel-Expires: 0", Err(Why::AccelExpires)),
            ("X-Accel-Expires: x\nCache-Control: max-age=60", Ok(60)),
            ("X-Accel-Expires: 30\nX-Accel-Expires: 0", Ok(30)),
            ("X-Accel-Expires: @1", Ok(1 - NOW)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\nX-Accel-Expires: 30", Ok(30)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT", Ok(10)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\nCache-Control: max-age=60", Ok(60)),
            ("Expires: 0\nCache-Control: max-age=60", Ok(60)),
            ("Cache-Control: max-age=60\nExpires: 0", Ok(60)),
            ("Cache-Control: max-age=0\nExpires: Sun, 06 Nov 1994 08:49:47 GMT", Err(Why::CacheControl)),
            ("Set-Cookie: a=b\nX-Accel-Expires: 30", Err(Why::SetCookie)),
        ]);
    }

    #[test]
    fn windows_of_staleness() {
        let windows = |head| match judge_by(&rules(), head) {
            Verdict::Keep(keep) => (keep.updating, keep.error),
            Verdict::Pass(why) => panic!("{head}: {why:?}"),
        };
        assert_eq!(windows("Cache-Control: max-age=1, stale-while-revalidate=10"), (10, 10));
        assert_eq!(windows("Cache-Control: max-age=1, stale-while-revalidate=10, stale-if-error=20"), (10, 20));
        assert_eq!(windows("Cache-Control: max-age=1\nCache-Control: stale-if-error=20"), (0, 20));
        assert_eq!(windows("X-Accel-Expires: 5\nCache-Control: no-store, stale-if-error=20"), (0, 20));
        assert_eq!(judge("Cache-Control: max-age=1, stale-if-error=x"), Err(Why::BadCacheControl));
    }

    #[test]
    fn an_age_counts() {
        check(&[
            ("Age: 20\nCache-Control: max-age=60", Ok(40)),
            ("Cache-Control: max-age=60\nage: 0020, 30\nAge: 5", Ok(40)),
            ("Cache-Control: max-age=60\nAge: 60", Err(Why::Age)),
            ("Cache-Control: max-age=60\nAge: 99999999999999999999999", Err(Why::Age)),
            ("Cache-Control: max-age=60\nAge: -20", Ok(60)),
            ("Cache-Control: max-age=60\nAge: 20.5", Ok(60)),
            ("Cache-Control: max-age=60\nAge: ", Ok(60)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\nAge: 4", Ok(6)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\nAge: 10", Err(Why::Expired)),
            ("Age: 60\nX-Accel-Expires: 30", Ok(30)),
            ("Age: 60", Ok(1000)),
        ]);
    }

    #[test]
    fn expires_counts_from_date() {
        let cases = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", "", Err(Why::Expired)),
            ("Sun, 06 Nov 1994 08:49:38 GMT", "", Ok(1)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", Ok(60)),
            // a clock that is ahead
            ("Sun, 06 Nov 1994 09:50:37 GMT", "Sun, 06 Nov 1994 09:49:37 GMT", Ok(60)),
            ("Sun, 06 Nov 1994 09:49:37 GMT", "Sun, 06 Nov 1994 09:49:37 GMT", Err(Why::Expired)),
            // a minute on the way
            ("Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:48:37 GMT", Ok(60)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", "yesterday", Ok(60)),
            ("Sun Nov  6 08:50:37 1994", "", Ok(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", "", Ok(60)),
            ("Sun, 06 Nov 1994 08:50:37 +0200", "", Err(Why::Expired)),
            ("Sun, 06 Nov 1994 08:50:37 AEST", "", Err(Why::Expired)),
            ("Sun, 06 Nov 1994 08:50:37", "", Err(Why::Expired)),
            ("0", "", Err(Why::Expired)),
            ("-1", "", Err(Why::Expired)),
            ("", "", Err(Why::Expired)),
        ];
        for (expires, date, expected) in cases {
            assert_eq!(judge(&format!("Expires: {expires}\nDate: {date}")), expected, "{expires} from {date}");
        }
    }

    #[test]
    fn vary_is_kept_unless_it_matches_nothing() {
        let vary = |head: &str| match judge_by(&rules(), head) {
            Verdict::Keep(keep) => Ok(String::from_utf8(keep.vary).expect("text")),
            Verdict::Pass(why) => Err(why),
        };
        assert_eq!(vary("Vary: Accept").as_deref(), Ok("Accept"));
        assert_eq!(vary("Vary: Accept\nvary: X,Y").as_deref(), Ok("Accept, X,Y"));
        for any in ["Vary: *", "Vary: Accept, *", "Vary: *,Accept", "Vary: Accept\nVary:  * "] {
            assert_eq!(vary(any), Err(Why::VaryAny), "{any}");
        }
        assert_eq!(vary("Vary: X-*").as_deref(), Ok("X-*"));
        assert!(vary(&format!("Vary: {}", "v".repeat(128))).is_ok());
        assert_eq!(vary(&format!("Vary: {}", "v".repeat(129))), Err(Why::VaryLong));
    }

    #[test]
    fn ignored_fields_have_no_say() {
        let head = "X-Accel-Expires: 0\nCache-Control: no-store\nExpires: 0\nSet-Cookie: a=b\nVary: *";
        let mut rules = rules();
        let mut expect = |change: fn(&mut Ignored), expected: Result<i64, Why>| {
            change(&mut rules.ignored);
            let verdict = match judge_by(&rules, head) {
                Verdict::Keep(keep) => Ok(keep.valid - NOW),
                Verdict::Pass(why) => Err(why),
            };
            assert_eq!(verdict, expected);
        };
        expect(|_| {}, Err(Why::AccelExpires));
        expect(|ignored| ignored.accel_expires = true, Err(Why::SetCookie));
        expect(|ignored| ignored.set_cookie = true, Err(Why::CacheControl));
        expect(|ignored| ignored.cache_control = true, Err(Why::Expired));
        expect(|ignored| ignored.expires = true, Err(Why::VaryAny));
        expect(|ignored| ignored.vary = true, Ok(1000));
    }

    #[test]
    fn times_of_the_configuration() {
        let valid = |status, seconds| Valid { status, seconds };
        let rules = Rules {
            valid: vec![valid(Some(404), 0), valid(Some(301), 5), valid(None, 7), valid(Some(500), 9)],
            ..Rules::default()
        };
        assert_eq!(rules.configured(404), None);
        assert_eq!(rules.configured(301), Some(5));
        assert_eq!(rules.configured(500), Some(7));
        assert_eq!(Rules::default().configured(200), None);
        assert_eq!(judge_by(&Rules::default(), "Server: x"), Verdict::Pass(Why::NoLifetime));
    }

    #[test]
    fn the_origin_may_forbid_stale_answers() {
        let forbids =
            |value: &str, ignored| forbids_stale([(&b"Cache-control"[..], value.as_bytes())].into_iter(), &ignored);
        assert!(forbids("max-age=1, must-revalidate", Ignored::default()));
        assert!(!forbids("max-age=1, must-revalidate", Ignored { cache_control: true, ..Ignored::default() }));
        assert!(!forbids("max-age=1", Ignored::default()));
    }
}
