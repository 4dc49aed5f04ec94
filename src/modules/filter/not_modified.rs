//! Conditional requests: 304 for what the client has, 412 for what it did not expect.
//!
//! In: a 200 with its date and entity tag. Out: the same, or 304 without a body, or a refusal. nginx:
//! `ngx_http_not_modified_filter_module`; RFC 9110, 13. nginx asks both conditions of a kind where the RFC lets the tag
//! decide alone; so do we, but of answers that are stored.

use std::rc::Rc;

use crate::conf::error::Fault;
use crate::conf::module::{Directive, Level, Module};
use crate::http::body::Body;
use crate::http::plan::{Filter, Plan, Stage};
use crate::http::request::Request;
use crate::http::response::{Head, Refusal};
use crate::http::settings::IfModifiedSince;
use crate::wire::date;

/// `ngx_http_not_modified_filter_module`. `if_modified_since` is the core module's.
pub struct NotModified;

impl Module for NotModified {
    const NAME: &'static str = "http_not_modified";
    const DIRECTIVES: &'static [Directive<Self>] = &[];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = ();

    fn link(_: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        plan.filters.push(Box::new(Conditions));
        Ok(())
    }
}

struct Conditions;

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Serve,
    NotModified,
    Failed,
}

impl Filter for Conditions {
    fn stage(&self) -> Stage {
        Stage::NotModified
    }

    fn check(&self, request: &Request, head: &mut Head, _: &Body) -> Result<(), Refusal> {
        if head.status != 200 || head.unconditional || request.is_subrequest() {
            return Ok(());
        }
        match Asked::of(request).judge(head, request.plan().core.if_modified_since) {
            Verdict::Serve => {}
            Verdict::Failed => return Err(Refusal::Status(412)),
            Verdict::NotModified => {
                head.status = 304;
                head.status_line = None;
                head.content_type = None;
                head.clear_content_length();
                head.clear_accept_ranges();
                head.remove("Content-Encoding");
            }
        }
        Ok(())
    }

    fn apply(&self, _: &Rc<Request>, head: &mut Head, body: Body) -> Body {
        if head.status == 304 { Body::Empty } else { body }
    }
}

/// The conditional fields of a request.
#[derive(Default)]
struct Asked<'a> {
    if_modified_since: Option<&'a [u8]>,
    if_unmodified_since: Option<&'a [u8]>,
    if_match: Option<&'a [u8]>,
    if_none_match: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    fn of(request: &'a Request) -> Self {
        Self {
            if_modified_since: request.field("If-Modified-Since"),
            if_unmodified_since: request.field("If-Unmodified-Since"),
            if_match: request.field("If-Match"),
            if_none_match: request.field("If-None-Match"),
        }
    }

    fn judge(&self, head: &Head, rule: IfModifiedSince) -> Verdict {
        // A date that cannot be read is older than everything.
        let date = |value| date::parse(value).unwrap_or(-1);
        // RFC 9110, 13.2.2; nginx asks both
        let alone = |tag: Option<&[u8]>| head.tag_decides && tag.is_some();
        if let Some(since) = self.if_unmodified_since
            && !alone(self.if_match)
            && head.last_modified.is_none_or(|modified| date(since) < modified)
        {
            return Verdict::Failed;
        }
        let tag = || head.field("ETag");
        if let Some(list) = self.if_match
            && !matches(list, tag(), Compare::Strong)
        {
            return Verdict::Failed;
        }
        if self.if_modified_since.is_none() && self.if_none_match.is_none() {
            return Verdict::Serve;
        }
        if let Some(since) = self.if_modified_since
            && !alone(self.if_none_match)
            && head.last_modified.is_none_or(|modified| match rule {
                IfModifiedSince::Off => true,
                IfModifiedSince::Exact => date(since) != modified,
                IfModifiedSince::Before => date(since) < modified,
            })
        {
            return Verdict::Serve;
        }
        if let Some(list) = self.if_none_match
            && !matches(list, tag(), Compare::Weak)
        {
            return Verdict::Serve;
        }
        Verdict::NotModified
    }
}

/// RFC 9110, 8.8.3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    /// `W/"x"` is `"x"`.
    Weak,
}

/// Whether `tag` is in a list of tags. `*` is any, even if there is none.
fn matches(list: &[u8], tag: Option<&[u8]>, compare: Compare) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(tag) = tag else { return false };
    let bare = |tag: &'_ [u8]| match (compare, tag) {
        (Compare::Weak, [b'W', b'/', _, ..]) => 2,
        (Compare::Weak | Compare::Strong, _) => 0,
    };
    let tag = &tag[bare(tag)..];
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let mut rest = list;
    while !rest.is_empty() {
        rest = &rest[bare(rest)..];
        if let Some(behind) = rest.strip_prefix(tag) {
            let behind = &behind[behind.iter().take_while(blank).count()..];
            if matches!(behind, [] | [b',', ..]) {
                return true;
            }
        }
        let comma = memchr::memchr(b',', rest).unwrap_or(rest.len());
        rest = &rest[comma..];
        rest = &rest[rest.iter().take_while(|byte| blank(byte) || **byte == b',').count()..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags() {
        for (list, tag, strong, weak) in [
            ("*", None, true, true),
            ("\"a\"", None, false, false),
            ("\"a\"", Some("\"a\""), true, true),
            ("\"a\"", Some("\"b\""), false, false),
            ("\"b\", \"a\"", Some("\"a\""), true, true),
            ("\"b\" ,\t\"a\" , \"c\"", Some("\"a\""), true, true),
            ("\"b\",,, \"a\"", Some("\"a\""), true, true),
            ("W/\"a\"", Some("\"a\""), false, true),
            ("W/\"a\"", Some("W/\"a\""), true, true),
            ("\"a\"", Some("W/\"a\""), false, true),
            ("\"x\", W/\"a\"", Some("W/\"a\""), true, true),
            ("\"a\"x", Some("\"a\""), false, false),
            ("\"a\" x, \"a\"", Some("\"a\""), true, true),
            ("", Some("\"a\""), false, false),
            (",", Some("\"a\""), false, false),
            ("W/", Some("\"a\""), false, false),
        ] {
            let tag = tag.map(str::as_bytes);
            assert_eq!(matches(list.as_bytes(), tag, Compare::Strong), strong, "strong {list}");
            assert_eq!(matches(list.as_bytes(), tag, Compare::Weak), weak, "weak {list}");
        }
    }

    #[test]
    fn both_conditions_of_a_kind_are_asked() {
        use IfModifiedSince::{Before, Exact, Off};
        use Verdict::{Failed, NotModified, Serve};
        const DAY: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
        const LATER: &[u8] = b"Mon, 07 Nov 1994 08:49:37 GMT";
        const EARLIER: &[u8] = b"Sat, 05 Nov 1994 08:49:37 GMT";
        let mut head = Head::new(200);
        head.last_modified = Some(784_111_777);
        head.add("ETag", "\"a\"");
        let asked = |modified, unmodified, tag, none| Asked {
            if_modified_since: modified,
            if_unmodified_since: unmodified,
            if_match: tag,
            if_none_match: none,
        };
        let same: Option<&[u8]> = Some(b"\"a\"");
        let other: Option<&[u8]> = Some(b"\"b\"");
        for (asked, rule, expected) in [
            (asked(None, None, None, None), Exact, Serve),
            (asked(Some(DAY), None, None, None), Exact, NotModified),
            (asked(Some(DAY), None, None, None), Before, NotModified),
            (asked(Some(DAY), None, None, None), Off, Serve),
            (asked(Some(LATER), None, None, None), Exact, Serve),
            (asked(Some(LATER), None, None, None), Before, NotModified),
            (asked(Some(EARLIER), None, None, None), Before, Serve),
            (asked(Some(b"nonsense"), None, None, None), Before, Serve),
            (asked(None, None, None, same), Exact, NotModified),
            (asked(None, None, None, other), Exact, Serve),
            (asked(Some(DAY), None, None, other), Exact, Serve),
            (asked(Some(LATER), None, None, same), Exact, Serve),
            (asked(None, Some(DAY), None, None), Exact, Serve),
            (asked(None, Some(LATER), None, None), Exact, Serve),
            (asked(None, Some(EARLIER), None, None), Exact, Failed),
            (asked(None, Some(b"nonsense"), None, None), Exact, Failed),
            (asked(None, None, same, None), Exact, Serve),
            (asked(None, None, other, None), Exact, Failed),
            (asked(None, Some(DAY), other, None), Exact, Failed),
            (asked(Some(DAY), None, same, None), Exact, NotModified),
        ] {
            let Asked { if_modified_since, if_unmodified_since, if_match, if_none_match } = &asked;
            let shown = [if_modified_since, if_unmodified_since, if_match, if_none_match]
                .map(|value| value.map(String::from_utf8_lossy));
            assert_eq!(asked.judge(&head, rule), expected, "{shown:?} {rule:?}");
        }
        let undated = Head::new(200);
        assert_eq!(asked(None, Some(LATER), None, None).judge(&undated, Exact), Failed);
        assert_eq!(asked(Some(DAY), None, None, None).judge(&undated, Exact), Serve);
    }
}
