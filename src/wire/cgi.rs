//! The client's fields as programs know them: `X-Forwarded-For` is `HTTP_X_FORWARDED_FOR`.
//!
//! FastCGI, uwsgi and SCGI pack names and values in their own ways; what stands in the packages is the same (RFC 3875,
//! 4.1.18).

const PREFIX: &[u8] = b"HTTP_";

/// The length of a field's name as [`push_name`] writes it.
pub fn name_len(name: &[u8]) -> usize {
    PREFIX.len() + name.len()
}

/// Capitals, and `_` for `-`.
pub fn push_name(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(PREFIX);
    out.extend(name.iter().map(|byte| match byte {
        b'-' => b'_',
        _ => byte.to_ascii_uppercase(),
    }));
}

/// What stands between the values of several lines.
fn separator(name: &[u8]) -> &'static [u8] {
    if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " }
}

/// The length of what [`push_values`] writes.
pub fn values_len(name: &[u8], values: &[&[u8]]) -> usize {
    let between = separator(name).len() * values.len().saturating_sub(1);
    values.iter().map(|value| value.len()).sum::<usize>() + between
}

/// The values of all lines of a field, joined by `, ` or, of cookies, by `; `.
pub fn push_values(name: &[u8], values: &[&[u8]], out: &mut Vec<u8>) {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(separator(name));
        }
        out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_name_are_one_value() {
        for (name, text) in [("X-a", "HTTP_X_A=1, 2"), ("cookie", "HTTP_COOKIE=1; 2")] {
            let name = name.as_bytes();
            let mut out = Vec::new();
            push_name(name, &mut out);
            assert_eq!(out.len(), name_len(name));
            out.push(b'=');
            push_values(name, &[b"1", b"2"], &mut out);
            assert_eq!(out, text.as_bytes());
            assert_eq!(out.len(), name_len(name) + 1 + values_len(name, &[b"1", b"2"]));
        }
        assert_eq!(values_len(b"X", &[]), 0);
    }
}
