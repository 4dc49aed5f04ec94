//! The command line: nginx's options, in nginx's words, with nginx's exit codes.
//!
//! In: the arguments. Out: an [`Invocation`]. Texts begin with `nginx: ` where nginx's do, since scripts look for it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};
use nix::sys::signal::Signal;

use super::{features, generation};
use crate::base::release::{self, Layout, NGINX_VERSION};
use crate::base::text;
use crate::conf::source::Source;

/// What was asked for.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// Print a text on stderr and end well.
    Tell(String),
    /// As `Tell`, and go on: `-v -t` does both.
    TellAndRun(String, Options),
    Run(Options),
}

/// The options of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub task: Task,
    prefix: Option<PathBuf>,
    conf_file: Option<PathBuf>,
    error_log: Option<PathBuf>,
    /// `-g`
    pub directives: Option<String>,
    /// `weir serve`: the configuration itself, in place of a file.
    text: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Task {
    #[default]
    Serve,
    Test {
        dump: bool,
        quiet: bool,
    },
    /// Tell the process of the pid file.
    Signal(Signal),
}

impl Options {
    /// The options of `weir serve`: this configuration text, with temporary files below `prefix`.
    pub fn of_text(text: String, prefix: PathBuf) -> Self {
        Self {
            conf_file: Some(PathBuf::from("serve")),
            prefix: Some(prefix),
            error_log: Some(PathBuf::from("stderr")),
            text: Some(text),
            ..Self::default()
        }
    }

    /// Where the configuration is read from.
    pub fn source(&self) -> Source {
        let mut source = Source::disk();
        if let Some(text) = &self.text {
            source.add(&text::decode(self.conf_file().as_os_str().as_bytes()), &text::bytes(text));
        }
        source
    }

    /// Relative paths in the configuration start here.
    pub fn prefix(&self) -> &Path {
        self.prefix.as_deref().unwrap_or(Path::new(release::layout().prefix))
    }

    /// The configuration file. nginx: a relative `-c` starts at `-p`.
    pub fn conf_file(&self) -> PathBuf {
        match &self.conf_file {
            Some(file) => self.conf_start().join(file),
            None => PathBuf::from(release::layout().conf_file),
        }
    }

    /// The directory of the configuration file: relative paths of included files start here.
    pub fn conf_prefix(&self) -> PathBuf {
        self.conf_file().parent().unwrap_or(Path::new("/")).to_owned()
    }

    /// The log until a configuration names one, and where it names none; `None` is stderr.
    pub fn error_log(&self) -> Option<PathBuf> {
        match self.error_log.as_deref() {
            Some(file) if file == Path::new("") || file == Path::new("stderr") => None,
            Some(file) => Some(self.prefix().join(file)),
            None => Some(release::log_file("error.log", self.prefix())),
        }
    }

    /// Where a relative `-c` starts.
    fn conf_start(&self) -> &Path {
        self.prefix.as_deref().or(Path::new(release::layout().conf_file).parent()).unwrap_or(Path::new("/"))
    }
}

/// Reads the arguments behind the program's name. The error is what to print on stderr before leaving with 1.
///
/// A first argument `serve` is not one of these: `process/serve.rs` reads what follows it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let mut parser = Parser::from_args(arguments);
    let mut options = Options::default();
    let (mut help, mut version, mut configure, mut test, mut dump, mut quiet) =
        (false, false, false, false, false, false);
    let mut signal = None;
    while let Some(argument) = parser.next().map_err(|error| format!("nginx: {error}"))? {
        match argument {
            Arg::Short('?' | 'h') => help = true,
            Arg::Short('v') => version = true,
            Arg::Short('V') => configure = true,
            Arg::Short('t') => test = true,
            Arg::Short('T') => dump = true,
            Arg::Short('q') => quiet = true,
            Arg::Short('p') => options.prefix = Some(value(&mut parser, 'p', "directory name")?.into()),
            Arg::Short('e') => options.error_log = Some(value(&mut parser, 'e', "file name")?.into()),
            Arg::Short('c') => options.conf_file = Some(value(&mut parser, 'c', "file name")?.into()),
            Arg::Short('g') => {
                options.directives = Some(text::decode(value(&mut parser, 'g', "parameter")?.as_bytes()));
            }
            Arg::Short('s') => {
                let name = value(&mut parser, 's', "parameter")?;
                let known = SIGNALS.iter().find(|(known, _)| name == *known);
                let invalid = || format!("nginx: invalid option: \"-s {}\"", name.display());
                signal = Some(known.ok_or_else(invalid)?.1);
            }
            Arg::Short(other) => return Err(format!("nginx: invalid option: \"{other}\"")),
            // nginx: the letter behind the first dash is a dash
            Arg::Long(_) => return Err("nginx: invalid option: \"-\"".to_owned()),
            // nginx: a dash with nothing behind it asks for nothing
            Arg::Value(word) if word == "-" => {}
            Arg::Value(word) => return Err(format!("nginx: invalid option: \"{}\"", word.display())),
        }
    }

    options.task = match (test || dump, signal) {
        // nginx: a test that is also to send a signal tests
        (true, _) => Task::Test { dump, quiet },
        (false, Some(signal)) => Task::Signal(signal),
        (false, None) => Task::Serve,
    };
    let mut told = String::new();
    if help || version || configure {
        told = format!("weir version: weir/{}\n", env!("CARGO_PKG_VERSION"));
        told.push_str(&format!("nginx version: nginx/{NGINX_VERSION}\n"));
    }
    if help {
        told.push_str(&usage());
    }
    if configure {
        told.push_str(features::TLS);
        let arguments = features::configure_arguments(&generation::directives());
        told.push_str(&format!("configure arguments:{arguments}\n"));
    }
    Ok(match (told.is_empty(), options.task) {
        (true, _) => Invocation::Run(options),
        (false, Task::Test { .. }) => Invocation::TellAndRun(told, options),
        (false, _) => Invocation::Tell(told),
    })
}

const SIGNALS: [(&str, Signal); 4] =
    [("stop", Signal::SIGTERM), ("quit", Signal::SIGQUIT), ("reopen", Signal::SIGUSR1), ("reload", Signal::SIGHUP)];

fn value(parser: &mut Parser, option: char, what: &str) -> Result<OsString, String> {
    parser.value().map_err(|_| format!("nginx: option \"-{option}\" requires {what}"))
}

fn usage() -> String {
    let Layout { prefix, conf_file, .. } = release::layout();
    format!(
        "\
Usage: weir [-?hvVtTq] [-s signal] [-p prefix]
            [-e filename] [-c filename] [-g directives]

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and configure options then exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to a master process: stop, quit, reopen, reload
  -p prefix     : set prefix path (default: {prefix}/)
  -e filename   : set error log file (default: {})
  -c filename   : set configuration file (default: {conf_file})
  -g directives : set global directives out of configuration file

",
        release::log_file("error.log", Path::new(prefix)).display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Invocation, String> {
        parse(arguments.iter().map(OsString::from))
    }

    fn run(arguments: &[&str]) -> Options {
        match parsed(arguments) {
            Ok(Invocation::Run(options)) => options,
            other => panic!("{arguments:?} gave {other:?}"),
        }
    }

    #[test]
    fn options_may_stand_together_and_touch_their_values() {
        assert_eq!(run(&[]).task, Task::Serve);
        assert_eq!(run(&["-tq"]).task, Task::Test { dump: false, quiet: true });
        assert_eq!(run(&["-t", "-q"]), run(&["-qt"]));
        assert_eq!(run(&["-T"]).task, Task::Test { dump: true, quiet: false });
        assert_eq!(run(&["-p", "/x"]), run(&["-p/x"]));
        assert_eq!(run(&["-tc", "y.conf", "-p/x"]).conf_file(), Path::new("/x/y.conf"));
        assert_eq!(run(&["-s", "reload"]).task, Task::Signal(Signal::SIGHUP));
        assert_eq!(run(&["-sstop"]).task, Task::Signal(Signal::SIGTERM));
        assert_eq!(run(&["-g", "daemon off;"]).directives.as_deref(), Some("daemon off;"));
        assert_eq!(run(&["-"]), run(&[]));
    }

    #[test]
    fn wrong_options_get_nginx_s_words() {
        for (arguments, message) in [
            (&["start"][..], "nginx: invalid option: \"start\""),
            (&["-x"], "nginx: invalid option: \"x\""),
            (&["-tx"], "nginx: invalid option: \"x\""),
            (&["--help"], "nginx: invalid option: \"-\""),
            (&["-s", "restart"], "nginx: invalid option: \"-s restart\""),
            (&["-s"], "nginx: option \"-s\" requires parameter"),
            (&["-p"], "nginx: option \"-p\" requires directory name"),
            (&["-c"], "nginx: option \"-c\" requires file name"),
            (&["-e"], "nginx: option \"-e\" requires file name"),
            (&["-g"], "nginx: option \"-g\" requires parameter"),
        ] {
            assert_eq!(parsed(arguments), Err(message.to_owned()), "{arguments:?}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_prefix() {
        let options = run(&["-p", "/srv/w/", "-c", "conf/w.conf", "-e", "error.log"]);
        assert_eq!(options.prefix(), Path::new("/srv/w/"));
        assert_eq!(options.conf_file(), Path::new("/srv/w/conf/w.conf"));
        assert_eq!(options.conf_prefix(), Path::new("/srv/w/conf"));
        assert_eq!(options.error_log(), Some("/srv/w/error.log".into()));
        assert_eq!(run(&["-e", "stderr"]).error_log(), None);
        assert_eq!(run(&["-c", "x.conf"]).conf_file(), Path::new("/etc/weir/x.conf"));
    }

    #[test]
    fn versions_come_first_and_a_test_may_follow() {
        let Ok(Invocation::Tell(told)) = parsed(&["-V"]) else { panic!("-V only tells") };
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("weir version: weir/"));
        assert_eq!(lines[1], "nginx version: nginx/1.31.5");
        assert!(lines.last().is_some_and(|line| line.starts_with("configure arguments:")));
        assert!(matches!(parsed(&["-vt"]), Ok(Invocation::TellAndRun(_, _))));
        assert!(matches!(parsed(&["-vs", "stop"]), Ok(Invocation::Tell(_))));
    }
}
