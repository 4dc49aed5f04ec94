//! Status lines to clients, in nginx's words: 302 is `Moved Temporarily`, 418 has none.

/// The three digits of a code (nginx: `%03ui`; there is no code of more digits).
pub fn digits(code: u16) -> [u8; 3] {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    [digit(code / 100), digit(code / 10), digit(code)]
}

/// The whole line without its end, for every status that nginx words.
pub fn status_line(code: u16) -> Option<&'static [u8]> {
    Some(match code {
        103 => b"HTTP/1.1 103 Early Hints",
        200 => b"HTTP/1.1 200 OK",
        201 => b"HTTP/1.1 201 Created",
        202 => b"HTTP/1.1 202 Accepted",
        204 => b"HTTP/1.1 204 No Content",
        206 => b"HTTP/1.1 206 Partial Content",
        301 => b"HTTP/1.1 301 Moved Permanently",
        302 => b"HTTP/1.1 302 Moved Temporarily",
        303 => b"HTTP/1.1 303 See Other",
        304 => b"HTTP/1.1 304 Not Modified",
        307 => b"HTTP/1.1 307 Temporary Redirect",
        308 => b"HTTP/1.1 308 Permanent Redirect",
        400 => b"HTTP/1.1 400 Bad Request",
        401 => b"HTTP/1.1 401 Unauthorized",
        402 => b"HTTP/1.1 402 Payment Required",
        403 => b"HTTP/1.1 403 Forbidden",
        404 => b"HTTP/1.1 404 Not Found",
        405 => b"HTTP/1.1 405 Not Allowed",
        406 => b"HTTP/1.1 406 Not Acceptable",
        407 => b"HTTP/1.1 407 Proxy Authentication Required",
        408 => b"HTTP/1.1 408 Request Time-out",
        409 => b"HTTP/1.1 409 Conflict",
        410 => b"HTTP/1.1 410 Gone",
        411 => b"HTTP/1.1 411 Length Required",
        412 => b"HTTP/1.1 412 Precondition Failed",
        413 => b"HTTP/1.1 413 Request Entity Too Large",
        414 => b"HTTP/1.1 414 Request-URI Too Large",
        415 => b"HTTP/1.1 415 Unsupported Media Type",
        416 => b"HTTP/1.1 416 Requested Range Not Satisfiable",
        421 => b"HTTP/1.1 421 Misdirected Request",
        429 => b"HTTP/1.1 429 Too Many Requests",
        500 => b"HTTP/1.1 500 Internal Server Error",
        501 => b"HTTP/1.1 501 Not Implemented",
        502 => b"HTTP/1.1 502 Bad Gateway",
        503 => b"HTTP/1.1 503 Service Temporarily Unavailable",
        504 => b"HTTP/1.1 504 Gateway Time-out",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported",
        507 => b"HTTP/1.1 507 Insufficient Storage",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_carries_its_code() {
        let worded: Vec<u16> = (0..=999).filter(|code| status_line(*code).is_some()).collect();
        assert!(worded.len() > 30 && !worded.contains(&418), "{worded:?}");
        for code in worded {
            let line = str::from_utf8(status_line(code).unwrap_or_default()).expect("a status line is text");
            let words = line.strip_prefix(&format!("HTTP/1.1 {code} ")).expect("the code is the line's");
            assert!(!words.is_empty() && words == words.trim(), "{line}");
        }
        assert_eq!(status_line(302), Some(&b"HTTP/1.1 302 Moved Temporarily"[..]));
    }

    #[test]
    fn a_code_has_three_digits() {
        assert_eq!((&digits(204), &digits(7)), (b"204", b"007"));
    }
}
