//! A block of fields, cut anywhere, shows the same lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::http1::field::{BrokenLine, FieldParser, Line, NameRules};
use weir::wire::http1::message::{self, Connection};
use weir::wire::http1::name::{Kind, Rule};
use weir::wire::list;

fuzz_target!(|input: (u8, bool, bool, &[u8])| {
    let (cut, underscores, upstream, bytes) = input;
    let rules = NameRules { underscores, upstream };
    let cut = usize::from(cut).min(bytes.len());
    let whole = lines(&[bytes], rules);
    assert_eq!(whole, lines(&[&bytes[..cut], bytes], rules));
    for line in whole.into_iter().flatten() {
        let Line::Field(field) = line else { continue };
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        assert!(!value.starts_with(b" ") && !value.ends_with(b" "));
        let _ = (Rule::of(name, Kind::of(name)), Connection::of(value), message::host(value));
        let _ = (list::pair(value, b"a", b';'), list::contains(value, b"a", b','), list::set_cookie(value, b"a"));
    }
});

fn lines(views: &[&[u8]], rules: NameRules) -> Vec<Result<Line, BrokenLine>> {
    let mut parser = FieldParser::new(0);
    let mut lines = Vec::new();
    for view in views {
        while let Some(line) = parser.next(view, rules).transpose() {
            lines.push(line);
            if !matches!(line, Ok(Line::Field(_))) {
                return lines;
            }
        }
    }
    lines
}
