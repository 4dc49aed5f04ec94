//! A page with commands, cut anywhere: the same text and the same commands, and parameters that are evaluated.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::modules::filter::ssi::parse::{Event, Parser};
use weir::modules::filter::ssi::text::{self, LONGEST, Variables, Zone};

fuzz_target!(|raw: &[u8]| {
    let Some((&cut, page)) = raw.split_first() else { return };
    let whole = read(&[page]);
    let size = usize::from(cut).max(1);
    let pieces: Vec<&[u8]> = page.chunks(size).collect();
    assert_eq!(whole, read(&pieces));
    for event in &whole {
        let Event::Command(command) = event else { continue };
        for param in &command.params {
            if let Ok(value) = text::evaluate(&param.value, &Values) {
                assert!(value.len() <= LONGEST + 64);
            }
            let _ = text::is_true(&param.value, &Values);
            let _ = text::date(&param.value, Zone::Gmt);
        }
    }
});

/// The events of a page in these pieces. Text comes as what earlier pieces held, so that runs compare.
fn read(pieces: &[&[u8]]) -> Vec<Event> {
    let mut parser = Parser::new(255);
    let mut events = Vec::new();
    let mut text = Vec::new();
    for piece in pieces {
        let mut at = 0;
        while let Some(event) = parser.next(piece, &mut at) {
            match event {
                Event::Text(range) => text.extend_from_slice(&piece[range]),
                Event::Held(held) => text.extend_from_slice(held),
                other => {
                    events.push(Event::Fault(std::mem::take(&mut text)));
                    events.push(other);
                }
            }
        }
    }
    events.push(Event::Fault(text));
    events
}

struct Values;

impl Variables for Values {
    fn value(&self, name: &str) -> Option<Bytes> {
        (name.len() % 3 != 0).then(|| Bytes::copy_from_slice(name.as_bytes()))
    }

    fn matched(&self, _: Vec<Bytes>, _: Vec<(String, Bytes)>) {}
}
