//! Addresses that somebody behind us hands over: `X-Accel-Redirect`, an SSI include, a WebDAV destination.

use std::borrow::Cow;

use crate::wire::uri::escape::unescape;

/// An address taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted<'a> {
    /// Decoded. Neither normalised nor merged: nginx only looks for `..` here.
    pub path: Cow<'a, [u8]>,
    /// What follows the first `?`; `None` leaves the arguments that there are.
    pub args: Option<&'a [u8]>,
}

/// The address is empty or all arguments, climbs with `..`, or hides a NUL. nginx logs `unsafe URI "…" was detected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsafeUri;

/// Takes an address apart (nginx: `ngx_http_parse_unsafe_uri`). Stricter than nginx in one point: `/..?args` is refused
/// as `/..` is, where nginx looks for the slash or the end behind the dots and finds the question mark.
pub fn untrusted(uri: &[u8]) -> Result<Untrusted<'_>, UnsafeUri> {
    let question = memchr::memchr(b'?', uri);
    let path = uri.get(..question.unwrap_or(uri.len())).unwrap_or_default();
    if path.is_empty() || is_unsafe(path) {
        return Err(UnsafeUri);
    }
    let path = unescape(path);
    if is_unsafe(&path) {
        return Err(UnsafeUri);
    }
    let args = question.map(|at| uri.get(at + 1..).unwrap_or_default());
    Ok(Untrusted { path, args })
}

/// True for a `..` segment or a NUL.
fn is_unsafe(path: &[u8]) -> bool {
    memchr::memchr(0, path).is_some() || path.split(|&byte| byte == b'/').any(|segment| segment == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("/a", "/a", None),
            ("a/b", "a/b", None),
            ("/a?b/../c", "/a", Some("b/../c")),
            ("/a?", "/a", Some("")),
            ("/a%20b?%20", "/a b", Some("%20")),
            ("/a%3fb?c", "/a?b", Some("c")),
            ("/..a/b../...", "/..a/b../...", None),
            ("/./a//b", "/./a//b", None),
            ("/a#b", "/a#b", None),
            ("/%zz", "/zz", None),
        ];
        for &(uri, path, args) in cases {
            let expected = Untrusted { path: Cow::Borrowed(path.as_bytes()), args: args.map(str::as_bytes) };
            assert_eq!(untrusted(uri.as_bytes()), Ok(expected), "{uri}");
        }
    }

    #[test]
    fn what_climbs_or_hides_is_refused() {
        let cases = [
            "",
            "?",
            "?a",
            "..",
            "../a",
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/a/..?b",
            "/\0",
            "/a\0?b",
            "/%00",
            "/%2e%2e/a",
            "/a/.%2e",
            "%2e%2e/a",
            "/a%2f..%2fb",
        ];
        for uri in cases {
            assert_eq!(untrusted(uri.as_bytes()), Err(UnsafeUri), "{uri}");
        }
    }
}
