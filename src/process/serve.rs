//! `weir serve [DIR] [--proxy URL] [--listen ADDR]`: a server without a configuration file.
//!
//! In: the words after `serve`. Out: a configuration text, which goes the ordinary way. There is no second way to
//! configure anything: `--print-config` shows the text, and saved to a file it does the same.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use super::NotStarted;
use super::cli::Options;
use crate::base::text;

/// The media types, as they are installed.
const TYPES: &str = include_str!("../../etc/mime.types");

/// Where one finds it when nothing else is said.
const LISTEN: &str = "127.0.0.1:8080";

const HELP: &str = "\
usage: weir serve [DIR] [--proxy URL] [--listen ADDR] [--print-config]

  DIR             the directory to serve; without it, the one you are in.
                  Where it has no index.html, what is in it is listed
  --proxy URL     pass every request to URL instead, WebSockets too
  --listen ADDR   where to listen: port, address:port or unix:path; 127.0.0.1:8080
  --print-config  print the configuration that this means, and end
";

/// The program when its first argument is `serve`.
pub fn main(arguments: &[OsString], environment: Vec<(OsString, OsString)>) -> ExitCode {
    let serve = match Serve::parse(arguments.iter().skip(2).cloned()) {
        Ok(Asked::Serve(serve)) => serve,
        Ok(Asked::Print(text)) => {
            // Whoever asked may have stopped reading.
            let _ = std::io::stdout().write_all(&text::bytes(&text));
            return ExitCode::SUCCESS;
        }
        Err(sentence) => {
            eprintln!("weir: {sentence}");
            return ExitCode::FAILURE;
        }
    };
    let temporary = match temporary() {
        Ok(path) => path,
        Err(sentence) => {
            eprintln!("weir: {sentence}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options::of_text(serve.configuration(&temporary), temporary);
    let (start, inherited, log) = super::begin(options, arguments, environment);
    match super::prepare(&start, inherited, log) {
        Ok(generation) => {
            eprintln!("weir: {} is at {} (Ctrl-C ends it)", serve.what(), serve.address());
            super::run(start, generation)
        }
        Err(NotStarted) => ExitCode::FAILURE,
    }
}

/// A directory for temporary files that is nobody else's. One for each user, used again.
fn temporary() -> Result<PathBuf, String> {
    let user = nix::unistd::geteuid();
    let path = std::env::temp_dir().join(format!("weir-{user}"));
    match DirBuilder::new().mode(0o711).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("mkdir() \"{}\" failed {}", path.display(), text::errno(&error)));
        }
        Ok(()) | Err(_) => {}
    }
    let meta = path.symlink_metadata().map_err(|error| format!("\"{}\": {error}", path.display()))?;
    // Others may pass, for the worker may be another user; only we may write.
    match meta.is_dir() && meta.uid() == user.as_raw() && meta.mode() & 0o022 == 0 {
        true => Ok(path),
        false => Err(format!("\"{}\" is not a directory of your own", path.display())),
    }
}

/// What `weir serve` was told.
#[derive(Debug, PartialEq, Eq)]
pub struct Serve {
    directory: PathBuf,
    proxy: Option<String>,
    listen: String,
}

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Serve(Serve),
    /// Print this and end.
    Print(String),
}

impl Serve {
    /// Reads the words after `serve`. The error is a sentence for the terminal.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let (mut directory, mut proxy, mut listen, mut print) = (None, None, None, false);
        let string = |value: OsString| value.string().map_err(|error| error.to_string());
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            match argument {
                Long("proxy") => proxy = Some(string(parser.value().map_err(|error| error.to_string())?)?),
                Long("listen") | Short('l') => {
                    listen = Some(string(parser.value().map_err(|error| error.to_string())?)?);
                }
                Long("print-config") => print = true,
                Long("help") | Short('h') => return Ok(Asked::Print(HELP.to_owned())),
                Value(value) if directory.is_none() => directory = Some(PathBuf::from(value)),
                other => return Err(format!("{}\n\n{HELP}", other.unexpected())),
            }
        }
        if proxy.is_some() && directory.is_some() {
            return Err(format!("serve takes a directory or --proxy, not both\n\n{HELP}"));
        }
        let directory = directory.unwrap_or_else(|| PathBuf::from("."));
        let directory = match (directory.canonicalize(), &proxy) {
            (Ok(found), _) if found.is_dir() => found,
            (_, Some(_)) => directory,
            (Ok(_), None) => return Err(format!("\"{}\" is not a directory", directory.display())),
            (Err(error), None) => return Err(format!("\"{}\": {error}", directory.display())),
        };
        let proxy = match proxy {
            Some(url) if url.contains("://") => Some(url),
            Some(url) => Some(format!("http://{url}")),
            None => None,
        };
        let serve = Self { directory, proxy, listen: listen.unwrap_or_else(|| LISTEN.to_owned()) };
        if let Some(word) = [Some(&serve.listen), serve.proxy.as_ref()].into_iter().flatten().find(|word| odd(word)) {
            return Err(format!("{word:?} has characters that no address has"));
        }
        Ok(match print {
            true => Asked::Print(serve.configuration(Path::new("/tmp"))),
            false => Asked::Serve(serve),
        })
    }

    /// What a browser is given to open.
    pub fn address(&self) -> String {
        match self.listen.parse::<u16>() {
            Ok(port) => format!("http://127.0.0.1:{port}/"),
            Err(_) if self.listen.starts_with("unix:") => self.listen.clone(),
            Err(_) => format!("http://{}/", self.listen.replace("0.0.0.0", "127.0.0.1").replace('*', "127.0.0.1")),
        }
    }

    /// What is served, for the greeting.
    pub fn what(&self) -> String {
        match &self.proxy {
            Some(url) => url.clone(),
            None => self.directory.display().to_string(),
        }
    }

    /// Who serves when root starts it: the owner of what is served, and nobody for a proxy, as by nginx.
    fn user(&self) -> Option<String> {
        if !nix::unistd::geteuid().is_root() || self.proxy.is_some() {
            return None;
        }
        let owner = nix::unistd::Uid::from_raw(self.directory.metadata().ok()?.uid());
        let known = nix::unistd::User::from_uid(owner).ok().flatten();
        Some(known.map_or_else(|| "root".to_owned(), |user| user.name))
    }

    /// The configuration text; temporary files go below `temporary`.
    pub fn configuration(&self, temporary: &Path) -> String {
        let (temporary, process) = (quoted(temporary), std::process::id());
        let mut conf = format!(
            "daemon off;\nworker_processes auto;\npid {temporary}/serve-{process}.pid;\nerror_log stderr warn;\n\n\
             events {{\n    worker_connections 4096;\n}}\n\nhttp {{\n"
        );
        if let Some(user) = self.user() {
            conf.insert_str(0, &format!("user {user};\n"));
        }
        for line in TYPES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let _ = writeln!(conf, "    {line}"); // a String takes everything
        }
        let _ = write!(
            conf,
            "    default_type application/octet-stream;\n    access_log /dev/stdout;\n    \
             client_body_temp_path {temporary}/body;\n    proxy_temp_path {temporary}/proxy;\n    \
             fastcgi_temp_path {temporary}/fastcgi;\n\n    \
             sendfile on;\n    tcp_nopush on;\n    client_max_body_size 0;\n    gzip on;\n    gzip_vary on;\n    \
             gzip_proxied any;\n    gzip_types text/plain text/css text/xml text/markdown application/javascript \
             application/json application/manifest+json image/svg+xml;\n\n"
        );
        if self.proxy.is_some() {
            conf.push_str(
                "    map $http_upgrade $connection_upgrade {\n        default upgrade;\n        '' '';\n    }\n\n",
            );
        }
        let _ = write!(conf, "    server {{\n        listen {};\n", self.listen);
        match &self.proxy {
            Some(url) => {
                let _ = write!(
                    conf,
                    "        location / {{\n            proxy_pass {url};\n            proxy_http_version 1.1;\n            \
                     proxy_set_header Host $http_host;\n            proxy_set_header Upgrade $http_upgrade;\n            \
                     proxy_set_header Connection $connection_upgrade;\n            \
                     proxy_set_header X-Real-IP $remote_addr;\n            \
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n            \
                     proxy_set_header X-Forwarded-Proto $scheme;\n        }}\n"
                );
            }
            None => {
                let _ = write!(
                    conf,
                    "        root {};\n        index index.html;\n        autoindex on;\n",
                    quoted(&self.directory)
                );
            }
        }
        conf.push_str("    }\n}\n");
        conf
    }
}

/// Whether a word would not be one word of a configuration.
fn odd(word: &str) -> bool {
    word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'\\;{}$#".contains(c))
}

/// A path as one word of a configuration. A `$` cannot be escaped there, so variables would begin: it is left to load
/// and to be refused.
fn quoted(path: &Path) -> String {
    let name = text::decode(path.as_os_str().as_bytes());
    match odd(&name) {
        true => format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, String> {
        Serve::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn words_become_a_configuration() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().canonicalize().expect("it exists");
        let name = path.to_str().expect("plain text");
        let Ok(Asked::Serve(serve)) = parse(&[name, "--listen", "9090"]) else { panic!("refused") };
        assert_eq!(serve.address(), "http://127.0.0.1:9090/");
        let conf = serve.configuration(Path::new("/tmp/x"));
        assert!(conf.contains(&format!("root {name};")), "{conf}");
        assert!(conf.contains("listen 9090;"), "{conf}");

        let Ok(Asked::Print(conf)) = parse(&["--proxy", "127.0.0.1:3000", "--print-config"]) else { panic!("refused") };
        assert!(conf.contains("proxy_pass http://127.0.0.1:3000;"), "{conf}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in [
            &["/nowhere/at/all"][..],
            &["--listen", "80; evil"],
            &["a", "--proxy", "http://x"],
            &["--frobnicate"],
            &["--listen"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
