//! `Authorization: Basic`, RFC 7617.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// nginx takes any padding and ignores bits that no byte is made of.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// User and password; `None` for another scheme, for what is not Base64, and where no name stands in front of a colon.
pub fn credentials(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let text = &rest[rest.iter().take_while(|&&byte| byte == b' ').count()..];
    // nginx: whatever follows the first `=` is padding
    let end = memchr::memchr(b'=', text).unwrap_or(text.len());
    let mut user = LENIENT.decode(&text[..end]).ok()?;
    let colon = memchr::memchr(b':', &user).filter(|&colon| colon > 0)?;
    let password = user.split_off(colon + 1);
    user.truncate(colon);
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords() {
        let pair = |user: &str, password: &str| Some((user.into(), password.into()));
        for (value, expected) in [
            ("Basic Ym9iOnNlY3JldA==", pair("bob", "secret")),
            ("basic    Ym9iOnNlY3JldA", pair("bob", "secret")),
            ("BASIC Ym9iOnNlY3JldA=whatever", pair("bob", "secret")),
            ("Basic Ym9iOg==", pair("bob", "")),
            ("Basic Ym9iOmE6Yg==", pair("bob", "a:b")),
            ("Basic OnNlY3JldA==", None), // no name
            ("Basic Ym9i", None),         // no colon
            ("Basic Y!m9", None),
            ("Basic Y", None),
            ("Basic ", None),
            ("Basic", None),
            ("Bearer Ym9iOnNlY3JldA==", None),
            ("Basic Ym9iOnNlY3JldB==", pair("bob", "secret")), // stray bits
        ] {
            assert_eq!(credentials(value.as_bytes()), expected, "{value}");
        }
    }
}
