//! The static table. RFC 7541, appendix A.

/// The entry of a number, which counts from 1.
pub fn get(number: usize) -> Option<(&'static str, &'static str)> {
    TABLE.get(number.checked_sub(1)?).copied()
}

/// How many there are; the dynamic table counts on from here.
pub const LEN: usize = TABLE.len();

/// Numbers of those names that we send often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Status = 8,
    ContentLength = 28,
    ContentType = 31,
    Date = 33,
    LastModified = 44,
    Location = 46,
    Server = 54,
    Vary = 59,
}

/// The number of a name that is in the table, by its length and bytes; of the names that answers have.
pub fn number(name: &[u8]) -> Option<u8> {
    let candidates: &[u8] = match name.len() {
        3 => &[21, 60],
        4 => &[33, 34, 45, 59],
        5 => &[22],
        6 => &[54],
        7 => &[36, 52],
        8 => &[46],
        10 => &[55],
        11 => &[53],
        12 => &[31],
        13 => &[18, 24, 30, 44],
        14 => &[28],
        16 => &[26, 27, 29, 61],
        18 => &[48],
        19 => &[25],
        25 => &[56],
        27 => &[20],
        _ => return None,
    };
    let is = |number: &&u8| get(usize::from(**number)).is_some_and(|(known, _)| known.as_bytes() == name);
    candidates.iter().find(is).copied()
}

const TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for (known, name) in [
            (Known::Status, ":status"),
            (Known::ContentLength, "content-length"),
            (Known::ContentType, "content-type"),
            (Known::Date, "date"),
            (Known::LastModified, "last-modified"),
            (Known::Location, "location"),
            (Known::Server, "server"),
            (Known::Vary, "vary"),
        ] {
            assert_eq!(get(known as usize).map(|entry| entry.0), Some(name));
        }
        for name in ["etag", "link", "via", "accept-ranges", "set-cookie", "www-authenticate", "content-range"] {
            let number = number(name.as_bytes()).expect("it is in the table");
            assert_eq!(get(number.into()).map(|entry| entry.0), Some(name));
        }
        assert_eq!(number(b"x-any"), None);
        assert_eq!((get(0), get(62)), (None, None));
    }
}
