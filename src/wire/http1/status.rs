//! Status lines to clients, in nginx's words: 302 is `Moved Temporarily`, 418 has none.

/// Writes the status line of an answer, with its end. A code that nginx has no words for is written as the code and
/// one space.
pub fn push_status_line(out: &mut Vec<u8>, code: u16) {
    match status_line(code) {
        Some(line) => out.extend_from_slice(line),
        None => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(&digits(code));
            out.extend_from_slice(b" \r\n");
        }
    }
}

/// The code and its words, `404 Not Found`: the `Status` of a page, a log line. `None` when nginx has no words.
pub fn status_text(code: u16) -> Option<&'static str> {
    let line = status_line(code)?;
    let text = line.strip_prefix(b"HTTP/1.1 ")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(text).ok()
}

/// The three digits of a code (nginx: `%03ui`; there is no code of more digits).
pub fn digits(code: u16) -> [u8; 3] {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    [digit(code / 100), digit(code / 10), digit(code)]
}

/// The whole line with its end, for every status that nginx words.
pub fn status_line(code: u16) -> Option<&'static [u8]> {
    Some(match code {
        103 => b"HTTP/1.1 103 Early Hints\r\n",
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        206 => b"HTTP/1.1 206 Partial Content\r\n",
        301 => b"HTTP/1.1 301 Moved Permanently\r\n",
        302 => b"HTTP/1.1 302 Moved Temporarily\r\n",
        303 => b"HTTP/1.1 303 See Other\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        307 => b"HTTP/1.1 307 Temporary Redirect\r\n",
        308 => b"HTTP/1.1 308 Permanent Redirect\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        402 => b"HTTP/1.1 402 Payment Required\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Not Allowed\r\n",
        406 => b"HTTP/1.1 406 Not Acceptable\r\n",
        407 => b"HTTP/1.1 407 Proxy Authentication Required\r\n",
        408 => b"HTTP/1.1 408 Request Time-out\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        410 => b"HTTP/1.1 410 Gone\r\n",
        411 => b"HTTP/1.1 411 Length Required\r\n",
        412 => b"HTTP/1.1 412 Precondition Failed\r\n",
        413 => b"HTTP/1.1 413 Request Entity Too Large\r\n",
        414 => b"HTTP/1.1 414 Request-URI Too Large\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        416 => b"HTTP/1.1 416 Requested Range Not Satisfiable\r\n",
        421 => b"HTTP/1.1 421 Misdirected Request\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        502 => b"HTTP/1.1 502 Bad Gateway\r\n",
        503 => b"HTTP/1.1 503 Service Temporarily Unavailable\r\n",
        504 => b"HTTP/1.1 504 Gateway Time-out\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        507 => b"HTTP/1.1 507 Insufficient Storage\r\n",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_carries_its_code() {
        for code in 0..=999 {
            let mut out = Vec::new();
            push_status_line(&mut out, code);
            let text = String::from_utf8(out).expect("a status line is text");
            assert!(text.starts_with(&format!("HTTP/1.1 {code:03} ")), "{text}");
            assert!(text.ends_with("\r\n") && text.len() >= 15, "{text}");
            assert_eq!(status_text(code).is_some(), text.len() > 15, "{text}");
        }
        assert_eq!(status_text(302), Some("302 Moved Temporarily"));
        assert_eq!(status_text(418), None);
    }
}
