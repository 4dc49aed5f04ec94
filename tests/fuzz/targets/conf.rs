//! Configuration text: any bytes are read into a tree that is whole, bounded and placed, and faults can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::base::text;
use weir::conf::lex::{self, MAX_DEPTH, Node, Statement};
use weir::conf::source::{self, Source};

fuzz_target!(|raw: &[u8]| {
    let mut source = Source::empty();
    source.add("/main.conf", raw);
    // the text may include itself, under both names
    source.add("/etc/main.conf", raw);
    let nodes = source::read(&mut source, "/etc/main.conf", "/etc/");
    check(&nodes, &source, 0);
    check(&source::read_parameter(&mut source, &text::decode(raw), "/etc/"), &source, 0);
    assert_eq!(text::bytes(&text::decode(raw)), raw);

    let again = Source::recorded(&source.record()).expect("a record reads back");
    assert_eq!(again.dump(), source.dump());
    let _ = Source::recorded(raw);
    let _ = lex::parameter(raw);
});

fn check(nodes: &[Node], source: &Source, depth: usize) {
    assert!(depth <= MAX_DEPTH);
    for (index, node) in nodes.iter().enumerate() {
        match node {
            Node::Fault(fault) => {
                // reading stops at a fault: behind it stand only the blocks that were open, which are outside
                assert_eq!(index, nodes.len() - 1);
                let _ = (fault.to_string(), fault.show(source, false), fault.show(source, true));
            }
            Node::Statement(Statement { words, block, end }) => {
                assert!(!words.is_empty());
                for word in words {
                    let line = source.line(&word.at).expect("a word stands on a line");
                    assert!((word.at.column as usize) < line.len(), "{word:?}");
                    assert!(word.at.line <= end.line);
                }
                if let Some(block) = block {
                    check(block, source, depth + 1);
                }
            }
        }
    }
}
