//! Changes to the head that a cache file holds, as the upstream sent it.
//!
//! In: the bytes of a head, with or without a status line in front. Out: the same with lines fewer or other. What cannot be
//! read as a head is left as it is.

use super::policy::Pair;
use super::rfc9111;
use crate::wire::byte;
use crate::wire::http1::field::{FieldParser, Line, NameRules};
use crate::wire::http1::response::status_line;

/// Without the fields that concern one connection alone (RFC 9111, 3.1).
pub fn without_connection(head: &[u8]) -> Vec<u8> {
    let connection: Vec<u8> = lines(head)
        .filter(|line| byte::same_name(line.name, b"Connection"))
        .flat_map(|line| [line.value, b","].concat())
        .collect();
    rebuilt(head, |line| rfc9111::is_stored(line.name, &connection), &[])
}

/// With the fields that a newer answer brings in place of those it had (RFC 9111, 3.2).
pub fn updated<'a>(head: &[u8], newer: impl Iterator<Item = Pair<'a>> + Clone) -> Vec<u8> {
    let connection: Vec<u8> = newer
        .clone()
        .filter(|(name, _)| byte::same_name(name, b"Connection"))
        .flat_map(|(_, value)| [value, b","].concat())
        .collect();
    let newer: Vec<Pair<'a>> = newer
        .filter(|(name, _)| !name.is_empty() && rfc9111::is_stored(name, &connection) && rfc9111::is_updated(name))
        .collect();
    // how old it was and when it was made has been said of the answer before
    let stays = |line: &Field<'_>| {
        let told = newer.iter().any(|(name, _)| byte::same_name(name, line.name));
        !told && !byte::same_name(line.name, b"Age") && !byte::same_name(line.name, b"Date")
    };
    rebuilt(head, stays, &newer)
}

/// A line of a head.
struct Field<'a> {
    name: &'a [u8],
    value: &'a [u8],
    /// With its end.
    whole: &'a [u8],
}

/// Where the fields begin.
fn start(head: &[u8]) -> usize {
    match status_line(head, 0) {
        Ok(Some(line)) => line.end as usize,
        // of programs' answers, the status is a field
        Ok(None) | Err(_) => 0,
    }
}

fn lines(head: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut at = start(head);
    let mut parser = FieldParser::new(at);
    std::iter::from_fn(move || match parser.next(head, NameRules::UPSTREAM) {
        Ok(Some(Line::Field(field))) => {
            let whole = head.get(at..field.end as usize).unwrap_or_default();
            at = field.end as usize;
            Some(Field { name: field.name.of(head), value: field.value.of(head), whole })
        }
        Ok(Some(Line::End(_)) | None) | Err(_) => None,
    })
}

fn rebuilt(head: &[u8], stays: impl Fn(&Field<'_>) -> bool, more: &[Pair<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len());
    let mut end = start(head);
    out.extend_from_slice(head.get(..end).unwrap_or_default());
    for line in lines(head) {
        end += line.whole.len();
        if stays(&line) {
            out.extend_from_slice(line.whole);
        }
    }
    if head.get(end..).is_none_or(|rest| !matches!(rest, b"\r\n" | b"\n")) {
        return head.to_vec();
    }
    for (name, value) in more {
        out.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
    }
    out.extend_from_slice(head.get(end..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("a case is text")
    }

    #[test]
    fn fields_of_the_connection_go() {
        let head =
            b"HTTP/1.1 200 OK\r\nA: 1\r\nConnection: keep-alive, X-Own\r\nx-own: 2\r\nTransfer-Encoding: chunked\r\n\
                     Connection: B\r\nKeep-Alive: 5\r\nB: 3\r\nC:4\n\r\n";
        assert_eq!(text(without_connection(head)), "HTTP/1.1 200 OK\r\nA: 1\r\nC:4\n\r\n");
        assert_eq!(
            text(without_connection(b"Status: 200\r\nConnection: close\r\nA: 1\r\n\r\n")),
            "Status: 200\r\nA: 1\r\n\r\n"
        );
    }

    #[test]
    fn newer_fields_take_the_place_of_older_ones() {
        let newer: [Pair<'_>; 7] = [
            (b"x-a", b"new"),
            (b"X-A", b"newer"),
            (b"Content-Length", b"0"),
            (b"Connection", b"close, X-Own"),
            (b"X-Own", b"1"),
            (b"Content-Encoding", b"br"),
            (b"Date", b"today"),
        ];
        let head = b"HTTP/1.1 200 OK\r\nX-A: old\r\nAge: 5\r\nContent-Length: 5\r\nX-B: stays\r\nX-A: older\r\n\r\n";
        let expected =
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-B: stays\r\nx-a: new\r\nX-A: newer\r\nDate: today\r\n\r\n";
        assert_eq!(text(updated(head, newer.into_iter())), expected);
    }

    #[test]
    fn what_is_no_head_stays() {
        for head in ["", "HTTP/1.1 200 OK\r\n", "A: 1\r\n", "A: 1\r\n\r\nmore", "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n"] {
            assert_eq!(text(updated(head.as_bytes(), [(&b"A"[..], &b"2"[..])].into_iter())), head);
            assert_eq!(text(without_connection(head.as_bytes())), head);
        }
    }
}
