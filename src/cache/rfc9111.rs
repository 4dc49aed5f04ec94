//! The decisions of `proxy_cache_rfc9111 on`: what RFC 9111 asks of a shared cache, one function each.
//!
//! In: fields, times, what is stored. Out: a decision. `X-Accel-Expires` stays above all, since the operator's own
//! application speaks there; then comes `CDN-Cache-Control` (RFC 9213), which replaces `Cache-Control` and `Expires`;
//! `*_cache_valid` comes before a guess. `*_ignore_headers` ignores here what it ignores there.

use super::control::Control;
use super::policy::{Accel, Fields, Keep, LATEST, Rules, Verdict, Why, accel_expires, joined_vary};
use crate::wire::byte;
use crate::wire::date;

/// May it be stored, and until when is it fresh (RFC 9111, 3 and 4.2)?
pub(super) fn judge(rules: &Rules, status: u16, fields: &Fields<'_>, authorized: bool, now: i64) -> Verdict {
    match try_keep(rules, status, fields, authorized, now) {
        Ok(keep) => Verdict::Keep(keep),
        Err(why) => Verdict::Pass(why),
    }
}

fn try_keep(rules: &Rules, status: u16, fields: &Fields<'_>, authorized: bool, now: i64) -> Result<Keep, Why> {
    let (control, targeted) = applicable(fields);
    let accel = fields.accel_expires.and_then(|value| accel_expires(value, now));
    if accel == Some(Accel::Never) {
        return Err(Why::AccelExpires);
    }
    if fields.set_cookie {
        return Err(Why::SetCookie);
    }
    if accel.is_none() && !may_store(&control, status) {
        return Err(Why::CacheControl);
    }
    if authorized && !for_all(&control) {
        return Err(Why::Authorization);
    }
    let vary = joined_vary(&fields.vary)?;
    let validators = rules.revalidate && (fields.etag || fields.last_modified.is_some());
    let age = current_age(fields.age, fields.date, now, now);
    let valid = match accel {
        Some(Accel::Until(valid)) => valid,
        _ => {
            let (fresh, why) = match lifetime(&control, fields.expires.filter(|_| !targeted), fields.date, now) {
                // it may be stored, but not served unasked
                _ if control.no_cache => (0, Why::CacheControl),
                Some(0) => (0, if control.lifetime().is_some() { Why::CacheControl } else { Why::Expired }),
                Some(seconds) => (seconds - age, Why::Age),
                None => match rules.configured(status) {
                    Some(seconds) => (seconds, Why::NoLifetime),
                    None => {
                        (heuristic(&control, status, fields.last_modified, fields.date, now) - age, Why::NoLifetime)
                    }
                },
            };
            if fresh > 0 {
                now.saturating_add(fresh).min(LATEST)
            } else if validators && why != Why::NoLifetime {
                now - 1
            } else {
                return Err(why);
            }
        }
    };
    let updating = control.stale_while_revalidate.unwrap_or(0);
    let error = control.stale_if_error.unwrap_or(updating);
    let (updating, error) = if control.forbids_stale() { (0, 0) } else { (updating, error) };
    Ok(Keep { valid, updating, error, vary })
}

/// The directives that count, and whether they came in `CDN-Cache-Control`: then `Expires` does not count either (RFC 9213,
/// 2.2).
fn applicable(fields: &Fields<'_>) -> (Control, bool) {
    match Control::targeted(fields.targeted.iter().copied()) {
        Some(control) => (control, true),
        None => (Control::of(fields.cache_control.iter().copied()), false),
    }
}

/// What a stored answer says, for [`reuse`].
pub fn stored_control<'a>(
    cache_control: impl Iterator<Item = &'a [u8]>,
    targeted: impl Iterator<Item = &'a [u8]>,
) -> Control {
    Control::targeted(targeted).unwrap_or_else(|| Control::of(cache_control))
}

/// No directive forbids to store the answer (RFC 9111, 3; 5.2.2.3: `must-understand` takes `no-store` back for a status that
/// is understood).
pub fn may_store(control: &Control, status: u16) -> bool {
    let understood = control.must_understand && is_understood(status);
    !control.private && (!control.no_store || understood) && (!control.must_understand || understood)
}

/// A status whose rules of caching are followed here.
fn is_understood(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300..=303 | 307 | 308 | 400..=599)
}

/// The answer to a request with credentials may be served to others (RFC 9111, 3.5).
pub fn for_all(control: &Control) -> bool {
    control.public || control.must_revalidate || control.s_maxage.is_some()
}

/// For how long the origin calls its answer fresh, counted from when it made it (RFC 9111, 4.2.1). `None`: it does not say.
pub fn lifetime(control: &Control, expires: Option<&[u8]>, date: Option<i64>, now: i64) -> Option<i64> {
    control.lifetime().or_else(|| {
        let expires = strict_date(expires?);
        Some(expires.map_or(0, |expires| expires.saturating_sub(date.unwrap_or(now)).max(0)))
    })
}

/// A date in one of the three forms to the letter (RFC 9110, 5.6.7).
fn strict_date(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    httpdate::parse_http_date(text).ok()?;
    date::parse(value)
}

/// How old an answer is at `now` that came at `received` (RFC 9111, 4.2.3). Both clocks are asked: the `Age` that it brought,
/// and how long ago its `Date` was.
pub fn current_age(age: i64, date: Option<i64>, received: i64, now: i64) -> i64 {
    let apparent = received.saturating_sub(date.unwrap_or(received)).max(0);
    apparent.max(age).saturating_add(now.saturating_sub(received).max(0))
}

/// A guess for an answer that says nothing: a tenth of the time since it was last changed, a day at most (RFC 9111, 4.2.2).
/// Only for statuses that allow guesses (RFC 9110, 15.1), or with `public`.
pub fn heuristic(control: &Control, status: u16, last_modified: Option<i64>, date: Option<i64>, now: i64) -> i64 {
    let allowed = matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    match last_modified {
        Some(modified) if allowed || control.public => {
            (date.unwrap_or(now).saturating_sub(modified) / 10).clamp(0, 86_400)
        }
        _ => 0,
    }
}

/// What to do with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Serve,
    /// Ask the upstream first.
    Validate,
    /// 504: the client wants no answer from farther away.
    OnlyIfCached,
}

/// A stored answer, as far as a request has a say in it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub control: &'a Control,
    /// From [`current_age`].
    pub age: i64,
    /// Seconds for which it is fresh yet; negative when it is stale.
    pub fresh: i64,
}

/// May a stored answer be served for a request that says `control` (RFC 9111, 4 and 5.2.1)?
pub fn reuse(control: &Control, stored: Stored<'_>) -> Reuse {
    if may_serve(control, stored) {
        Reuse::Serve
    } else if control.only_if_cached {
        Reuse::OnlyIfCached
    } else {
        Reuse::Validate
    }
}

fn may_serve(control: &Control, stored: Stored<'_>) -> bool {
    let is_fresh = stored.fresh >= 0;
    if control.no_cache || stored.control.no_cache {
        return false;
    }
    // what never changes need not be asked about when a page is reloaded (RFC 8246, 2)
    let reloads = control.max_age == Some(0) && stored.control.immutable && is_fresh;
    if !reloads && control.max_age.is_some_and(|max| stored.age > max) && control.max_stale.is_none() {
        return false;
    }
    if control.min_fresh.is_some_and(|min| stored.fresh < min) {
        return false;
    }
    is_fresh
        || control.max_stale.is_some_and(|max| stored.fresh.saturating_neg() <= max) && !stored.control.forbids_stale()
}

/// A request of this method that was answered with this status has changed what its target's stored answers show (RFC
/// 9111, 4.4): it is not known to be safe, and it went well.
pub fn invalidates(method: &[u8], status: u16) -> bool {
    !matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PROPFIND" | b"REPORT" | b"SEARCH")
        && (200..400).contains(&status)
}

/// The path and arguments of a `Location` or `Content-Location`, when it names something of the same origin as the request
/// (RFC 9111, 4.4): `reference` is an absolute URI, or a path that begins at the root or beside `path`.
pub fn same_origin(reference: &[u8], scheme: &[u8], host: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let reference = reference.split(|&byte| byte == b'#').next().unwrap_or_default();
    let target = match authority(reference) {
        Some(Authority { scheme: other, host: authority, target }) => {
            let default = if byte::same_name(scheme, b"https") { &b":443"[..] } else { b":80" };
            let bare = |host: &'_ [u8]| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
            if other.is_some_and(|other| !byte::same_name(other, scheme)) || bare(authority) != bare(host) {
                return None;
            }
            target
        }
        // another scheme without an authority: `mailto:`
        None if reference.iter().take_while(|byte| !b"/?".contains(byte)).any(|&byte| byte == b':') => return None,
        None => reference,
    };
    let mut whole = match target.first() {
        Some(b'/') => target.to_vec(),
        Some(b'?') if authority(reference).is_none() => [path, target].concat(),
        Some(b'?') => [b"/", target].concat(),
        None if authority(reference).is_some() => b"/".to_vec(),
        None => path.to_vec(),
        Some(_) => {
            let beside = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
            [path.get(..beside).unwrap_or_default(), target].concat()
        }
    };
    if memchr::memmem::find(&whole, b"/.").is_some() {
        whole = without_dots(&whole);
    }
    Some(whole)
}

/// `scheme://authority/…` or `//authority/…`, in its parts.
struct Authority<'a> {
    scheme: Option<&'a [u8]>,
    host: &'a [u8],
    target: &'a [u8],
}

fn authority(reference: &[u8]) -> Option<Authority<'_>> {
    let at = memchr::memmem::find(reference, b"//")?;
    let (before, rest) = (reference.get(..at)?, reference.get(at + 2..)?);
    let scheme = match before {
        b"" => None,
        _ => Some(before.strip_suffix(b":").filter(|scheme| scheme.iter().all(u8::is_ascii_alphanumeric))?),
    };
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (host, target) = rest.split_at(end);
    Some(Authority { scheme, host, target })
}

/// RFC 3986, 5.2.4.
fn without_dots(target: &[u8]) -> Vec<u8> {
    let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let (path, args) = target.split_at(end);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                if segments.peek().is_none() {
                    kept.push(b"");
                }
            }
            _ => kept.push(segment),
        }
    }
    [b"/", &kept.join(&b"/"[..])[..], args].concat()
}

/// Fields that are neither stored nor sent on (RFC 9111, 3.1): those that concern one connection, and those that
/// `Connection` names. `connection` is its value, all lines of it.
pub fn is_stored(name: &[u8], connection: &[u8]) -> bool {
    const ONE_CONNECTION: &[&str] = &[
        "Connection",
        "Proxy-Connection",
        "Keep-Alive",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "Proxy-Authenticate",
        "Proxy-Authentication-Info",
        "Proxy-Authorization",
    ];
    !ONE_CONNECTION.iter().any(|known| byte::same_name(known.as_bytes(), name))
        && !connection.split(|&byte| byte == b',').any(|named| byte::same_name(named.trim_ascii(), name))
}

/// A 304, or the answer to a HEAD, brings a new value of this field (RFC 9111, 3.2): all but those that describe the stored
/// body itself.
pub fn is_updated(name: &[u8]) -> bool {
    !["Content-Length", "Content-Encoding", "Content-Range", "ETag"]
        .iter()
        .any(|known| byte::same_name(known.as_bytes(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::control::FOREVER;
    use crate::cache::policy::Valid;

    /// `Sun, 06 Nov 1994 08:49:37 GMT`.
    const NOW: i64 = 784_111_777;

    fn control(line: &str) -> Control {
        Control::of([line.as_bytes()].into_iter())
    }

    fn judge_by(rules: &Rules, status: u16, authorized: bool, head: &str) -> Verdict {
        let fields: Vec<(&[u8], &[u8])> = head
            .lines()
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        rules.judge(status, fields.iter().copied(), authorized, NOW)
    }

    fn fresh(rules: &Rules, status: u16, head: &str) -> Result<i64, Why> {
        match judge_by(rules, status, false, head) {
            Verdict::Keep(keep) => Ok(keep.valid - NOW),
            Verdict::Pass(why) => Err(why),
        }
    }

    fn rules() -> Rules {
        Rules { rfc9111: true, ..Rules::default() }
    }

    #[test]
    fn lifetimes_by_the_first_field_that_speaks() {
        let cases = [
            ("Cache-Control: max-age=60", Ok(60)),
            ("Cache-Control: max-age=60\nAge: 20", Ok(40)),
            ("Cache-Control: max-age=60\nDate: Sun, 06 Nov 1994 08:49:07 GMT", Ok(30)),
            ("Cache-Control: max-age=60\nDate: Sun, 06 Nov 1994 08:48:07 GMT", Err(Why::Age)),
            ("Cache-Control: a=\"max-age=60\", max-age=\"30\"", Ok(30)),
            ("Cache-Control: max-age=60, s-maxage=30", Ok(30)),
            ("Cache-Control: max-age=60\nCache-Control: s-maxage=30", Ok(30)),
            ("Cache-Control: max-age=x", Err(Why::CacheControl)),
            ("Cache-Control: xno-store, max-age=60", Ok(60)),
            ("Cache-Control: no-store, max-age=60", Err(Why::CacheControl)),
            ("Cache-Control: private, max-age=60", Err(Why::CacheControl)),
            ("Cache-Control: no-cache, max-age=60", Err(Why::CacheControl)),
            ("Cache-Control: must-understand, no-store, max-age=60", Ok(60)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT", Ok(10)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT\nAge: 4", Ok(6)),
            ("Expires: Sun, 06 Nov 1994 8:49:47 GMT", Err(Why::Expired)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 gmt", Err(Why::Expired)),
            ("Expires: Sun, 06 Nov 1994 08:49:37 GMT", Err(Why::Expired)),
            ("Expires: 0", Err(Why::Expired)),
            ("Expires: 0\nCache-Control: max-age=60", Ok(60)),
            ("CDN-Cache-Control: max-age=5\nCache-Control: no-store\nExpires: 0", Ok(5)),
            ("CDN-Cache-Control: no-store\nCache-Control: max-age=60", Err(Why::CacheControl)),
            ("CDN-Cache-Control: public\nCache-Control: max-age=60", Err(Why::NoLifetime)),
            ("CDN-Cache-Control: max-age=\nCache-Control: max-age=60", Ok(60)),
            ("X-Accel-Expires: 7\nCDN-Cache-Control: no-store", Ok(7)),
            ("X-Accel-Expires: 0\nCDN-Cache-Control: max-age=60", Err(Why::AccelExpires)),
            ("Cache-Control: max-age=60\nSet-Cookie: a=b", Err(Why::SetCookie)),
            ("Cache-Control: max-age=60\nVary: A, *", Err(Why::VaryAny)),
            ("Server: x", Err(Why::NoLifetime)),
        ];
        for (head, expected) in cases {
            assert_eq!(fresh(&rules(), 200, head), expected, "{head}");
        }
        assert_eq!(fresh(&rules(), 599, "Cache-Control: max-age=60"), Ok(60));
        assert_eq!(fresh(&rules(), 600, "Cache-Control: must-understand, max-age=60"), Err(Why::CacheControl));
    }

    #[test]
    fn guesses_come_last() {
        let modified = "Last-Modified: Sun, 06 Nov 1994 08:48:37 GMT";
        assert_eq!(fresh(&rules(), 200, modified), Ok(6));
        assert_eq!(fresh(&rules(), 404, modified), Ok(6));
        assert_eq!(fresh(&rules(), 302, modified), Err(Why::NoLifetime));
        assert_eq!(fresh(&rules(), 302, &format!("{modified}\nCache-Control: public")), Ok(6));
        assert_eq!(fresh(&rules(), 200, &format!("{modified}\nCache-Control: max-age=0")), Err(Why::CacheControl));
        assert_eq!(fresh(&rules(), 200, &format!("{modified}\nAge: 5")), Ok(1));
        assert_eq!(fresh(&rules(), 200, "Last-Modified: Sun, 06 Nov 1904 08:48:37 GMT"), Ok(86_400));
        assert_eq!(fresh(&rules(), 200, "Last-Modified: Sun, 06 Nov 2094 08:48:37 GMT"), Err(Why::NoLifetime));
        let configured = Rules { valid: vec![Valid { status: None, seconds: 9 }], ..rules() };
        assert_eq!(fresh(&configured, 200, modified), Ok(9));
    }

    #[test]
    fn what_must_be_validated_is_kept_for_its_validators() {
        let rules = Rules { revalidate: true, ..rules() };
        for line in ["no-cache", "no-cache, max-age=60", "max-age=0"] {
            assert_eq!(fresh(&rules, 200, &format!("Cache-Control: {line}\nETag: \"a\"")), Ok(-1), "{line}");
            assert_eq!(fresh(&rules, 200, &format!("Cache-Control: {line}")), Err(Why::CacheControl), "{line}");
        }
        assert_eq!(fresh(&rules, 200, "Cache-Control: no-store\nETag: \"a\""), Err(Why::CacheControl));
        assert_eq!(fresh(&rules, 200, "Expires: 0\nLast-Modified: Sun, 06 Nov 1994 08:48:37 GMT"), Ok(-1));
        assert_eq!(fresh(&rules, 200, "ETag: \"a\""), Err(Why::NoLifetime));
    }

    #[test]
    fn credentials_need_an_answer_for_all() {
        for line in ["public", "must-revalidate", "s-maxage=60"] {
            let head = format!("Cache-Control: max-age=60, {line}");
            assert!(matches!(judge_by(&rules(), 200, true, &head), Verdict::Keep(_)), "{line}");
        }
        for head in ["Cache-Control: max-age=60", "Cache-Control: proxy-revalidate, max-age=60", "X-Accel-Expires: 9"] {
            assert_eq!(judge_by(&rules(), 200, true, head), Verdict::Pass(Why::Authorization), "{head}");
        }
    }

    #[test]
    fn windows_of_staleness_end_where_the_origin_says() {
        let windows = |line: &str| match judge_by(&rules(), 200, false, &format!("Cache-Control: {line}")) {
            Verdict::Keep(keep) => (keep.updating, keep.error),
            Verdict::Pass(why) => panic!("{line}: {why:?}"),
        };
        assert_eq!(windows("max-age=1, stale-while-revalidate=10"), (10, 10));
        assert_eq!(windows("max-age=1, stale-if-error=20"), (0, 20));
        assert_eq!(windows("s-maxage=1, stale-if-error=20"), (0, 20));
        assert_eq!(windows("max-age=1, stale-if-error=20, must-revalidate"), (0, 0));
    }

    #[test]
    fn ages() {
        assert_eq!(current_age(0, None, 100, 100), 0);
        assert_eq!(current_age(5, None, 100, 110), 15);
        assert_eq!(current_age(5, Some(80), 100, 110), 30);
        assert_eq!(current_age(25, Some(80), 100, 110), 35);
        assert_eq!(current_age(0, Some(200), 100, 110), 10);
        assert_eq!(current_age(0, None, 100, 90), 0);
        assert_eq!(current_age(FOREVER, Some(i64::MIN), i64::MAX, i64::MAX), i64::MAX);
    }

    #[test]
    fn requests_have_a_say() {
        use Reuse::{OnlyIfCached, Serve, Validate};
        let cases = [
            ("", "", 10, 50, Serve),
            ("", "", 70, -10, Validate),
            ("only-if-cached", "", 10, 50, Serve),
            ("only-if-cached", "", 70, -10, OnlyIfCached),
            ("no-cache", "", 10, 50, Validate),
            ("no-cache, only-if-cached", "", 10, 50, OnlyIfCached),
            ("max-age=10", "", 10, 50, Serve),
            ("max-age=9", "", 10, 50, Validate),
            ("max-age=0", "immutable", 10, 50, Serve),
            ("max-age=1", "immutable", 10, 50, Validate),
            ("max-age=0", "immutable", 70, -10, Validate),
            ("no-cache", "immutable", 10, 50, Validate),
            ("min-fresh=50", "", 10, 50, Serve),
            ("min-fresh=51", "", 10, 50, Validate),
            ("max-stale=10", "", 70, -10, Serve),
            ("max-stale=9", "", 70, -10, Validate),
            ("max-stale", "", 7000, -1000, Serve),
            ("max-stale=9, max-age=5", "", 10, 50, Serve),
            ("max-stale", "must-revalidate", 70, -10, Validate),
            ("max-stale", "s-maxage=60", 70, -10, Validate),
            ("max-stale", "no-cache", 10, -1, Validate),
            ("", "no-cache", 10, 50, Validate),
        ];
        for (request, answer, age, fresh, expected) in cases {
            let stored = Stored { control: &control(answer), age, fresh };
            assert_eq!(reuse(&control(request), stored), expected, "{request:?} of {answer:?} {age} {fresh}");
        }
    }

    #[test]
    fn what_changes_a_resource() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "MKCOL", "FOO", "get"] {
            assert!(invalidates(method.as_bytes(), 200) && invalidates(method.as_bytes(), 303), "{method}");
            assert!(!invalidates(method.as_bytes(), 404) && !invalidates(method.as_bytes(), 500), "{method}");
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
            assert!(!invalidates(method.as_bytes(), 200), "{method}");
        }
    }

    #[test]
    fn targets_of_the_same_origin() {
        let cases = [
            ("/b?x", Some("/b?x")),
            ("http://Example.com/b", Some("/b")),
            ("HTTP://example.com:80/b#f", Some("/b")),
            ("http://example.com", Some("/")),
            ("http://example.com?x", Some("/?x")),
            ("//example.com/b", Some("/b")),
            ("b", Some("/a/b")),
            ("../b", Some("/b")),
            ("./b?c=/../d", Some("/a/b?c=/../d")),
            ("..", Some("/")),
            ("?x", Some("/a/x.html?x")),
            ("", Some("/a/x.html")),
            ("/a?u=http://other/", Some("/a?u=http://other/")),
            ("https://example.com/b", None),
            ("http://other.com/b", None),
            ("http://example.com:81/b", None),
            ("//other.com/b", None),
            ("mailto:a@b", None),
        ];
        for (reference, expected) in cases {
            let target = same_origin(reference.as_bytes(), b"http", b"example.com", b"/a/x.html");
            assert_eq!(target.as_deref().map(String::from_utf8_lossy).as_deref(), expected, "{reference}");
        }
        assert_eq!(same_origin(b"https://a:443/", b"https", b"a", b"/").as_deref(), Some(&b"/"[..]));
        assert_eq!(same_origin(b"/../../x", b"http", b"a", b"/").as_deref(), Some(&b"/x"[..]));
    }

    #[test]
    fn fields_of_one_connection_are_not_stored() {
        assert!(is_stored(b"X-A", b"keep-alive"));
        for name in ["connection", "Keep-Alive", "X-A", "x-b", "Transfer-Encoding"] {
            assert!(!is_stored(name.as_bytes(), b"keep-alive, x-a ,X-B"), "{name}");
        }
        assert!(is_updated(b"X-A") && is_updated(b"Cache-Control") && !is_updated(b"content-length"));
    }
}
