//! Telling the operator what is wrong with a configuration: nginx's line, and on a terminal the place itself.

use std::io::IsTerminal;

use super::generation::Refused;
use crate::conf::error::Fault;
use crate::conf::source::Source;
use crate::log::{Context, ErrorLog, Level};

/// Logs why a configuration was not read, after the warnings that came before.
pub fn refused(refused: &Refused, source: &Source, log: &ErrorLog) {
    warnings(&refused.warnings, log);
    fault(&refused.fault, source, log);
}

pub fn warnings(warnings: &[Fault], log: &ErrorLog) {
    for warning in warnings {
        log.write(Level::Warn, &Context::default(), format_args!("{warning}"));
    }
}

/// Logs a fault, which nginx's way shows on stderr as well until the server has started. On a terminal its line
/// follows, with the words underlined.
pub fn fault(fault: &Fault, source: &Source, log: &ErrorLog) {
    log.write(Level::Emerg, &Context::default(), format_args!("{fault}"));
    if std::io::stderr().is_terminal()
        && let Some(excerpt) = excerpt(fault, source)
    {
        eprint!("{excerpt}");
    }
}

/// Three lines: the one of the fault, what is underlined in it, and the name that may have been meant.
fn excerpt(fault: &Fault, source: &Source) -> Option<String> {
    let at = fault.at.as_ref()?;
    let line = source.line(at)?;
    let (start, length) = (at.column as usize, at.length as usize);
    let before = String::from_utf8_lossy(line.get(..start)?);
    // A word in quotes may go on in the next line; what is shown ends with this one.
    let word = String::from_utf8_lossy(&line[start..line.len().min(start.saturating_add(length))]);
    let number = at.row.to_string();
    let margin = " ".repeat(number.len());
    // Tabs stay tabs, so that the mark stands below the word however wide they are.
    let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let mark = "^".repeat(word.chars().count().max(1));
    let hint = fault.suggestion.as_ref().map_or_else(String::new, |name| format!(" did you mean \"{name}\"?"));
    let line = String::from_utf8_lossy(line);
    Some(format!("{number} | {line}\n{margin} | {indent}{mark}{hint}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::lex::Node;
    use crate::conf::source;

    #[test]
    fn the_word_is_underlined_where_it_stands() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("weir.conf");
        std::fs::write(&path, "daemon off;\n\tsevrer é x;\n").expect("the directory is ours");
        let mut source = Source::disk();
        let nodes = source::read(&mut source, &path.to_string_lossy(), "/");
        let Some(Node::Statement(statement)) = nodes.get(1) else { panic!("two statements") };
        let mut fault = Fault::at("unknown directive \"sevrer\"", &statement.words[0].at);
        fault.suggestion = Some("server".to_owned());
        let expected = "2 | \tsevrer é x;\n  | \t^^^^^^ did you mean \"server\"?\n";
        assert_eq!(excerpt(&fault, &source).as_deref(), Some(expected));
        let fault = Fault::at("invalid value", &statement.words[2].at);
        let expected = "2 | \tsevrer é x;\n  | \t         ^\n";
        assert_eq!(excerpt(&fault, &source).as_deref(), Some(expected));
        assert_eq!(excerpt(&Fault::new("no place"), &source), None);
    }
}
