//! Files as cases: `conf/bad` holds configurations that nginx refuses, each with its words below a dashed line;
//! `conf/good` holds whole configurations of the kind people run.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use regex::Regex;

use crate::kit::Setup;
use crate::kit::ports::Port;

fn cases(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conf").join(kind);
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Runs `-t` on a text: whether it was taken, and what was said.
fn check(text: &str) -> (bool, String) {
    let address = format!("127.0.0.1:{}", Port::allot().number);
    let setup = Setup::new().set("ADDR", &address).file("conf/part.inc", "# one\nnosuch_in_part on;\n");
    let setup = setup.file("conf/mime.types", "types { text/html html htm; text/css css; image/png png; }\n");
    let params = "fastcgi_param QUERY_STRING $query_string;\nfastcgi_param REQUEST_METHOD $request_method;\n";
    let setup = setup.file("conf/fastcgi_params", params);
    let prefix = setup.prefix().display().to_string();
    let output = setup.check_text(text);
    let said = String::from_utf8_lossy(&output.stderr).replace(&address, "%%ADDR%%");
    let said = said.replace(&format!("{prefix}/conf"), "%%CONF%%").replace(&prefix, "%%PREFIX%%");
    (output.status.success(), said)
}

#[test]
fn bad_configurations_are_refused_in_nginx_s_words() {
    // A line for the terminal begins with the level, a log line has the process before the words.
    let process = Regex::new(r"^\d+#\d+: ").expect("a fixed pattern");
    let mut faults = Vec::new();
    let files = cases("bad");
    for path in &files {
        let text = fs::read_to_string(path).expect("a case is text");
        let (conf, expected) = text.rsplit_once("----\n").expect("a case has a dashed line");
        // The first line is nginx's; a second is the same with the line of the directive, which we may know.
        let expected: Vec<&str> = expected.lines().collect();
        if conf.starts_with("user ") && !Uid::effective().is_root() {
            continue; // who cannot change the user is not told that there is none
        }
        let (taken, said) = check(conf);
        let words = said.lines().filter_map(|line| Some(line.split_once("[emerg] ")?.1));
        let messages: Vec<String> = words.map(|words| process.replace(words, "").into_owned()).collect();
        if taken || !expected.contains(&messages.first().map_or("", String::as_str)) {
            let name = path.file_stem().expect("a file has a name").to_string_lossy();
            let said = if taken { "taken without a word".to_owned() } else { messages.join("\n      ") };
            faults.push(format!("{name}\n    - {}\n    + {said}", expected[0]));
        }
    }
    assert!(faults.is_empty(), "{} of {} differ\n{}", faults.len(), files.len(), faults.join("\n"));
}

#[test]
fn good_configurations_are_taken() {
    let mut faults = Vec::new();
    for path in cases("good") {
        let text = fs::read_to_string(&path).expect("a case is text");
        let root = Uid::effective().is_root();
        let lines: Vec<&str> = text.lines().filter(|line| root || !line.starts_with("user ")).collect();
        let (taken, said) = check(&lines.join("\n"));
        if !taken || !said.contains("syntax is ok") || said.contains("[warn]") {
            faults.push(format!("{}\n{said}", path.display()));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
