//! Lists of media types, as `gzip_types`, `ssi_types` and their kin take them.
//!
//! In: the words of such a directive. Out: whether a response is of one of the types.

use bytes::Bytes;

use super::response::Head;
use crate::base::text;
use crate::conf::words::Words;

/// Media types in lower case, or `*` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaTypes {
    all: bool,
    types: Vec<Bytes>,
}

impl MediaTypes {
    /// These types and no other: what holds where no directive says more.
    pub fn of(types: &[&'static str]) -> Self {
        Self { all: false, types: types.iter().map(|name| Bytes::from_static(name.as_bytes())).collect() }
    }

    /// Adds the words of one directive; `defaults` belong to every list.
    pub fn add(&mut self, words: &Words<'_>, defaults: &[&'static str]) {
        if self.types.is_empty() {
            *self = Self { all: self.all, ..Self::of(defaults) };
        }
        for (n, word) in words.texts().enumerate() {
            if word == "*" {
                self.all = true;
                continue;
            }
            let name = Bytes::from(text::bytes(word).to_ascii_lowercase());
            if self.types.contains(&name) {
                words.cx.warn(words.fault(n, format!("duplicate MIME type \"{word}\"")));
            } else {
                self.types.push(name);
            }
        }
    }

    /// Whether the response is of one of the types. Without a type it is of none, unless all are meant.
    pub fn take(&self, head: &Head) -> bool {
        let own = head.media_type();
        self.all || !own.is_empty() && self.types.iter().any(|name| name.eq_ignore_ascii_case(own))
    }
}

/// nginx's default of every such list.
pub const HTML: &[&str] = &["text/html"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_parameters_do() {
        let types = MediaTypes::of(HTML);
        let all = MediaTypes { all: true, types: Vec::new() };
        for (own, expected, in_all) in [
            (Some("text/html"), true, true),
            (Some("Text/HTML"), true, true),
            (Some("text/html; level=1"), false, true),
            (Some("text/plain"), false, true),
            (Some(""), false, true),
            (None, false, true),
        ] {
            let head = Head { content_type: own.map(Bytes::from), ..Head::new(200) };
            assert_eq!((types.take(&head), all.take(&head)), (expected, in_all), "{own:?}");
        }
        let content_type = Some(Bytes::from_static(b"text/html;charset=utf-8"));
        let upstreams = Head { content_type, media_end: Some(9), ..Head::new(200) };
        assert!(types.take(&upstreams));
    }
}
