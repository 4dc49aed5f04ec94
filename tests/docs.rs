//! The documents: the reference of directives is made of the setters' comments, and every example is read.
//!
//! In: the text of `src` and of `docs`. Out: `docs/directives.md`, written anew when it is behind (in CI that is a failure),
//! and a failure for a directive that no setter explains, or an example that does not load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::kit::Setup;

/// Families whose directives are one table: what is said of `proxy_` counts for them.
const FAMILIES: [&str; 5] = ["fastcgi", "uwsgi", "scgi", "grpc", "memcached"];

/// What needs no setter of its own: blocks, and words that are read by whoever reads their block.
const BLOCKS: [&str; 1] = ["include"];

struct Entry {
    /// Syntax, default and context as they are written.
    head: String,
    body: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_of(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files_of(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The comments that have a syntax, by the directive's name.
fn entries(sources: &[String]) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let syntax = Regex::new(r"Syntax:\s*`([a-z_0-9]+)").expect("a fixed pattern");
    for text in sources {
        let mut comment: Vec<&str> = Vec::new();
        for line in text.lines() {
            if let Some(more) = line.trim_start().strip_prefix("///") {
                comment.push(more.strip_prefix(' ').unwrap_or(more));
                continue;
            }
            let whole = comment.join("\n");
            comment.clear();
            if let Some(found) = syntax.captures(&whole) {
                let (head, body) = whole.split_once("\n\n").unwrap_or((&whole, ""));
                let entry = Entry { head: head.replace('\n', " "), body: body.trim().to_owned() };
                entries.insert(found[1].to_owned(), entry);
            }
        }
    }
    entries
}

/// Where each directive may stand, by the tables.
fn contexts(sources: &[String]) -> HashMap<String, String> {
    let row = Regex::new(r#"(?:Directive|Row)::\w+\(\s*"([a-z_0-9]+)",\s*([A-Z][A-Za-z_0-9.()]*?),\s"#)
        .expect("a fixed pattern");
    let named = Regex::new(r"const ([A-Z_]+): Place = ([^;]+);").expect("a fixed pattern");
    let names: HashMap<String, String> = sources
        .iter()
        .flat_map(|text| named.captures_iter(text).map(|found| (found[1].to_owned(), found[2].to_owned())))
        .collect();
    let mut contexts: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for text in sources {
        for found in row.captures_iter(text) {
            contexts.entry(found[1].to_owned()).or_default().extend(places(&found[2], &names));
        }
    }
    let shown =
        |places: BTreeSet<usize>| places.into_iter().map(|place| PLACES[place].1).collect::<Vec<_>>().join(", ");
    contexts.into_iter().map(|(name, places)| (name, shown(places))).collect()
}

const PLACES: [(&str, &str); 9] = [
    ("MAIN", "main"),
    ("EVENTS", "events"),
    ("HTTP", "http"),
    ("UPSTREAM", "upstream"),
    ("SERVER", "server"),
    ("LOCATION", "location"),
    ("IF_SERVER", "if in server"),
    ("IF_LOCATION", "if in location"),
    ("LIMIT_EXCEPT", "limit_except"),
];

/// Directives that share the setter of an explained one, with that one's name.
fn kin(sources: &[String], explained: &BTreeMap<String, Entry>) -> BTreeMap<String, String> {
    let row = Regex::new(r#"(?:Directive|Row)::\w+\(\s*"([a-z_0-9]+)",[^"]*?([A-Za-z_0-9:#]+),?\s*\),"#)
        .expect("a fixed pattern");
    let mut kin = BTreeMap::new();
    for text in sources {
        let rows: Vec<(String, String)> =
            row.captures_iter(text).map(|found| (found[1].to_owned(), found[2].to_owned())).collect();
        for (name, setter) in rows.iter().filter(|(name, _)| !explained.contains_key(name)) {
            let other = rows.iter().find(|(other, same)| same == setter && explained.contains_key(other));
            kin.extend(other.map(|(other, _)| (name.clone(), other.clone())));
        }
    }
    kin
}

/// The places that an expression of constants comes to.
fn places(expression: &str, names: &HashMap<String, String>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for word in expression.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| !word.is_empty()) {
        match (PLACES.iter().position(|(name, _)| *name == word), names.get(word)) {
            (Some(place), _) => {
                found.insert(place);
            }
            (None, Some(more)) => found.extend(places(more, names)),
            (None, None) => {}
        }
    }
    found
}

/// The page, and the directives that nothing is said of.
fn reference() -> (String, Vec<String>) {
    let texts: Vec<String> = files_of(&root().join("src"), "rs")
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source file is text"))
        .collect();
    let (entries, contexts) = (entries(&texts), contexts(&texts));
    let kin = kin(&texts, &entries);
    let known: BTreeSet<String> = weir::process::generation::directives().into_iter().collect();
    let of_family = |name: &str| {
        let (family, rest) = name.split_once('_')?;
        FAMILIES.contains(&family).then(|| format!("proxy_{rest}"))
    };
    let mut page =
        "# Directives\n\nEvery directive that weir knows, as its source explains it; a test writes this page. \
                    What is said here beyond the syntax is what one should know of weir; nginx's own documentation \
                    applies to the rest.\n"
            .to_owned();
    let mut missing = Vec::new();
    for name in &known {
        let Some(entry) = entries.get(name) else {
            let explained = of_family(name).is_some_and(|proxy| entries.contains_key(&proxy));
            let block = BLOCKS.contains(&name.as_str());
            if !explained && !block && !kin.contains_key(name) {
                missing.push(name.clone());
            }
            continue;
        };
        let _ = write!(page, "\n## {name}\n\n{}", entry.head); // a String takes everything
        let family = name.strip_prefix("proxy");
        let context = contexts.get(name).or_else(|| contexts.get(family?));
        if let Some(context) = context.filter(|context| !entry.head.contains("Context:") && !context.is_empty()) {
            let _ = write!(page, "  Context: {context}");
        }
        page.push('\n');
        if !entry.body.is_empty() {
            let _ = write!(page, "\n{}\n", entry.body);
        }
        let same: Vec<String> = FAMILIES
            .iter()
            .filter_map(|other| Some(format!("{other}{}", family?)))
            .filter(|other| known.contains(other) && !entries.contains_key(other))
            .chain(kin.iter().filter(|(_, explained)| *explained == name).map(|(other, _)| other.clone()))
            .map(|other| format!("`{other}`"))
            .collect();
        if !same.is_empty() {
            let _ = write!(page, "\nLikewise {}.\n", same.join(", "));
        }
    }
    (page, missing)
}

/// Writes a page that is behind the source. In CI that is a failure.
fn keep(name: &str, page: &str) {
    let path = root().join("docs").join(name);
    if fs::read_to_string(&path).ok().as_deref() == Some(page) {
        return;
    }
    assert!(std::env::var_os("CI").is_none(), "docs/{name} is behind: run this test without CI, and commit the page");
    fs::write(&path, page).expect("the project is ours");
}

#[test]
fn every_directive_is_explained_in_the_reference() {
    let (page, missing) = reference();
    assert!(missing.is_empty(), "no setter's comment has the syntax of {missing:?}");
    keep("directives.md", &page);
}

#[test]
fn every_variable_is_in_the_reference() {
    let name = Regex::new(r#"(?:define|family|number)\(\s*"([a-z_0-9]+)""#).expect("a fixed pattern");
    let mut page =
        "# Variables\n\nThe variables that weir knows, by the file that defines them; a test writes this page. \
                    They mean what they mean in nginx. A name that ends in `_` is the beginning of many: \
                    `$http_` and the name of a request field, `$arg_` and that of an argument.\n"
            .to_owned();
    // Several that are defined alike, in a loop over their names or by a function of the file.
    let lists = Regex::new(r#"for name in \[([^\]]*)\] \{"#).expect("a fixed pattern");
    let word = Regex::new(r#""([a-z_0-9]+)""#).expect("a fixed pattern");
    let rows = Regex::new(r#"\(\s*"([a-z_0-9]+)",\s*(?:Row::|row\(|\|[r_]\| )"#).expect("a fixed pattern");
    let mut count = 0;
    for path in files_of(&root().join("src"), "rs") {
        let text = fs::read_to_string(&path).expect("a source file is text");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut names: BTreeSet<String> =
            name.captures_iter(code).chain(rows.captures_iter(code)).map(|found| found[1].to_owned()).collect();
        let title = text.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default();
        for list in lists.captures_iter(code) {
            names.extend(word.captures_iter(&list[1]).map(|found| found[1].to_owned()));
        }
        if names.is_empty() || path.ends_with("conf/vars.rs") {
            continue;
        }
        count += names.len();
        let names: Vec<String> = names.into_iter().map(|name| format!("`${name}`")).collect();
        let _ = write!(page, "\n{title}\n\n{}\n", names.join(", ")); // a String takes everything
    }
    assert!(count > 50, "only {count} variables were found");
    keep("variables.md", &page);
}

/// The blocks of a page between fences that say `nginx`, each with its line.
fn examples(text: &str) -> Vec<(usize, String)> {
    let mut examples = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line == "```nginx" => open = Some((number + 2, String::new())),
            None => {}
            Some(_) if line == "```" => examples.extend(open.take()),
            Some((_, example)) => {
                example.push_str(line);
                example.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    examples
}

/// An example is a whole configuration, or what stands in `http`, or in a `server`.
#[test]
fn every_example_of_the_documents_loads() {
    let mut count = 0;
    let pages = files_of(&root().join("docs"), "md").into_iter().chain([root().join("README.md")]);
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page is text");
        for (line, example) in examples(&text) {
            let blocks = |word: &str| example.lines().any(|line| line.trim_start().starts_with(word));
            let whole = match () {
                () if blocks("events") => example.clone(),
                () if blocks("server {") || blocks("http_frame") => format!("events {{}} http {{ {example} }}"),
                () => format!("events {{}} http {{ server {{ listen %%ADDR_0%%; {example} }} }}"),
            };
            // At places that whoever runs the tests may use.
            let whole = whole
                .replace("/var/log/weir", "%%PREFIX%%/logs")
                .replace("/var/cache/weir", "%%PREFIX%%/temp")
                .replace("/run/", "%%PREFIX%%/")
                .replace("user weir;", "")
                .replace("include mime.types;", "");
            let log = if whole.contains("error_log") { "" } else { "error_log stderr;\n" };
            let pid = if whole.contains("pid ") { "" } else { "pid %%PREFIX%%/pid;\n" };
            let output = Setup::new().check_text(&format!("{log}{pid}{whole}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}:{line}\n{example}\n{said}", page.display());
            count += 1;
        }
    }
    assert!(count > 5, "only {count} examples were found");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#]+)(?:#[^)]*)?\)").expect("a fixed pattern");
    let pages = files_of(&root().join("docs"), "md").into_iter().chain([root().join("README.md")]);
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page is text");
        for found in link.captures_iter(&text).filter(|found| !found[1].contains("://")) {
            let target = page.parent().expect("a file has a directory").join(&found[1]);
            assert!(target.exists(), "{}: {}", page.display(), &found[1]);
        }
    }
}
