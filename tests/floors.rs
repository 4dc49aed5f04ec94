//! The floors of the house: a file uses its own floor and those below, never one above.
//!
//! In: the text of every file of `src`. Out: a line for each path that climbs. The table is that of
//! `docs/architecture.md`; a room that is not in it is a failure too, so that nobody forgets to place one.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room with its floor.
const ROOMS: &[(&str, usize)] = &[
    ("base", 0),
    ("wire", 0),
    ("conf", 1),
    ("log", 1),
    ("net", 2),
    ("state", 2),
    ("upstream", 3),
    ("cache", 3),
    ("both", 3),
    ("http", 4),
    ("stream", 4),
    ("mail", 4),
    ("modules", 5),
    ("process", 6),
];

#[test]
fn no_file_uses_a_floor_above_its_own() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(!files.is_empty(), "{} is empty", source.display());
    let mut faults = Vec::new();
    for path in files {
        let inside = path.strip_prefix(&source).expect("it was found there");
        let text = fs::read_to_string(&path).expect("a source file is text");
        faults.extend(check(inside, &text));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with one file. `inside` is its path below `src`.
fn check(inside: &Path, text: &str) -> Vec<String> {
    let words: Vec<&str> = inside.iter().filter_map(|word| word.to_str()).collect();
    let home = words[0].trim_end_matches(".rs");
    if home == "main" || home == "lib" {
        return Vec::new(); // main knows all, lib is the map
    }
    let place = format!("src/{}", inside.display());
    let Some(floor) = floor_of(home) else {
        return vec![format!("{place}: the room `{home}` has no floor; give it one in tests/floors.rs")];
    };
    // How many `super::` lead from the file's own module to the root: http/h1/head.rs is crate::http::h1::head.
    let file = words[words.len() - 1];
    let depth = words.len() - usize::from(file == "mod.rs");
    let mut faults = Vec::new();
    for (line, room) in rooms_used(&code_only(text), depth) {
        match floor_of(&room) {
            Some(other) if other > floor => faults.push(format!(
                "{place}:{line}: `{home}` is on floor {floor} and uses `{room}` of floor {other}; \
                 a file uses its own floor and those below"
            )),
            _ => {}
        }
    }
    faults
}

fn floor_of(room: &str) -> Option<usize> {
    ROOMS.iter().find(|entry| entry.0 == room).map(|entry| entry.1)
}

/// The rooms that a text names, with the line where it does: `crate::room`, `crate::{room::.., room}`, and the same
/// by as many `super::` as lead to the root.
fn rooms_used(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut starts: Vec<usize> = code.match_indices("crate::").map(|hit| hit.0 + "crate::".len()).collect();
    let climb = "super::".repeat(depth);
    starts.extend(code.match_indices(&climb).map(|hit| hit.0 + climb.len()));
    for start in starts {
        let line = code[..start].matches('\n').count() + 1;
        match code[start..].strip_prefix('{') {
            Some(group) => found.extend(heads_of_group(group).into_iter().map(|(lines, room)| (line + lines, room))),
            None => found.push((line, head(&code[start..]))),
        }
    }
    found.sort();
    found
}

/// The first names of the members of `{a::b, c, d::{e, f}}`, whose opening brace is already past, each with the
/// number of lines before it.
fn heads_of_group(group: &str) -> Vec<(usize, String)> {
    let mut heads = Vec::new();
    let (mut depth, mut begins) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                heads.push((group[..at].matches('\n').count(), head(&group[at..])));
                begins = false;
            }
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

/// The text with comments and string contents blanked, lines kept.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if rest.starts_with("r\"") || rest.starts_with("r#") => raw_string_length(rest),
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\") => 4.min(rest.len()),
            _ => 0,
        };
        if length == 0 {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        }
        let skipped = &rest[..length];
        code.push(' ');
        code.extend(skipped.chars().filter(|character| *character == '\n'));
        rest = &rest[length..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Zero when this `r` begins no raw string (`r#type`, or a name that ends in r).
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|character| *character == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

#[test]
fn a_climb_is_seen_however_it_is_written() {
    let faults = |path: &str, text: &str| check(Path::new(path), text).len();
    assert_eq!(faults("wire/http1.rs", "use crate::base::text;\nuse crate::wire::chunked;\n"), 0);
    assert_eq!(faults("wire/http1.rs", "use crate::conf::lex;\n"), 1);
    assert_eq!(faults("conf/lex.rs", "use crate::{\n    base::text,\n    http::{self, core},\n    process,\n};\n"), 2);
    assert_eq!(faults("log/sink.rs", "fn f() { crate::net::conn::close(); }\n"), 1);
    assert_eq!(
        faults("log/sink.rs", "// crate::net\nconst A: &str = \"crate::net\"; const B: &str = r#\"crate::net \"#;\n"),
        0
    );
    assert_eq!(faults("http/h1/head.rs", "use super::super::super::modules::gzip;\n"), 1);
    assert_eq!(faults("http/h1/head.rs", "use super::super::request::Request;\n"), 0);
    assert_eq!(faults("http/mod.rs", "use super::process::cli;\n"), 1);
    assert_eq!(faults("main.rs", "use crate::process::cli;\n"), 0);
    assert_eq!(faults("attic/old.rs", "\n"), 1);
    let climb = "\n\nuse crate::{base, modules::gzip};\n";
    let story = check(Path::new("net/listen.rs"), climb).remove(0);
    assert!(story.starts_with("src/net/listen.rs:3: "), "{story}");
}
