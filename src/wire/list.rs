//! Finding one thing in a line of many: `$cookie_name`, `$arg_name`, a parameter of a field.

/// The value behind `name=` among the elements that `separator` divides, letters of either case alike: `$cookie_` with
/// `;`, X-Accel and Cache-Control parameters with `,` (nginx: `ngx_http_parse_multi_header_lines`). Of several lines, the
/// first that has one gives it.
pub fn pair<'a>(line: &'a [u8], name: &[u8], separator: u8) -> Option<&'a [u8]> {
    elements(line, separator).find_map(|element| {
        let behind = after_name(element, name)?;
        Some(trim_start(behind.strip_prefix(b"=")?))
    })
}

/// True when `name` alone is one of the elements.
pub fn contains(line: &[u8], name: &[u8], separator: u8) -> bool {
    elements(line, separator).any(|element| after_name(element, name).is_some_and(<[u8]>::is_empty))
}

/// The value behind `name=` at the beginning of a `Set-Cookie` line of an upstream.
pub fn set_cookie<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let behind = after_name(line.get(..end)?, name)?;
    Some(trim_start(behind.strip_prefix(b"=")?))
}

/// The value of an argument, letters of either case alike and nothing decoded: `$arg_name`.
pub fn argument<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    args.split(|&byte| byte == b'&').find_map(|argument| {
        let (start, rest) = argument.split_at_checked(name.len())?;
        rest.strip_prefix(b"=").filter(|_| start.eq_ignore_ascii_case(name))
    })
}

fn elements(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut first = true;
    line.split(move |&byte| byte == separator).map(move |element| {
        // nginx: spaces are skipped behind a separator, not at the beginning of the line
        if std::mem::take(&mut first) { element } else { trim_start(element) }
    })
}

/// What stands behind `name` and spaces.
fn after_name<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = element.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| trim_start(rest))
}

fn trim_start(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&byte| byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(found: Option<&[u8]>) -> Option<&str> {
        found.map(|found| std::str::from_utf8(found).expect("a case is text"))
    }

    #[test]
    fn cookies() {
        let cases = [
            ("a=1; b=2", "a", Some("1")),
            ("a=1; b=2", "b", Some("2")),
            ("a=1;b=2", "B", Some("2")),
            ("ab=1; b=2", "a", None),
            ("ba=1; a=2", "a", Some("2")),
            ("a = 1 ; b", "a", Some("1 ")),
            ("a", "a", None),
            ("a=", "a", Some("")),
            ("a==1", "a", Some("=1")),
            ("a=1; a=2", "a", Some("1")),
            ("a; a=2", "a", Some("2")),
            ("a=1=2", "a", Some("1=2")),
            ("", "a", None),
        ];
        for (line, name, value) in cases {
            assert_eq!(text(pair(line.as_bytes(), name.as_bytes(), b';')), value, "{line}");
        }
        assert_eq!(text(pair(b"max-age=5, no-cache", b"max-age", b',')), Some("5"));
        assert!(contains(b"max-age=5, No-Cache", b"no-cache", b','));
        assert!(!contains(b"max-age=5, no-cache=x", b"no-cache", b','));
    }

    #[test]
    fn cookies_of_upstreams() {
        assert_eq!(text(set_cookie(b"a=1; path=/", b"a")), Some("1"));
        assert_eq!(text(set_cookie(b"a=1; path=/", b"path")), None);
        assert_eq!(text(set_cookie(b"ab=1", b"a")), None);
    }

    #[test]
    fn arguments() {
        let cases = [
            ("a=1&b=2", "a", Some("1")),
            ("a=1&b=2", "b", Some("2")),
            ("A=1", "a", Some("1")),
            ("ba=1&a=2", "a", Some("2")),
            ("a&b=2", "a", None),
            ("a=&b=2", "a", Some("")),
            ("a=1=2&b", "a", Some("1=2")),
            ("a=%20", "a", Some("%20")),
            ("", "a", None),
            ("=1", "", None),
        ];
        for (args, name, value) in cases {
            assert_eq!(text(argument(args.as_bytes(), name.as_bytes())), value, "{args}");
        }
    }
}
