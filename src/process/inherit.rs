//! Listening sockets that were open before this process began.
//!
//! In: the environment. Out: listeners, which the first load takes over as a reload does those before it. Two speak
//! this way: the old binary at an upgrade, by nginx's variable `NGINX` (numbers, each with a semicolon behind it), so
//! that nginx and weir can follow each other; and a service manager that opens sockets itself, by `LISTEN_FDS` and
//! `LISTEN_PID` (sd_listen_fds(3)). The rule: [`take`] comes before anything else is opened.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};

use crate::base::os;
use crate::log::{Context, ErrorLog, Level};
use crate::net::listen::Listener;

/// nginx's variable.
pub const VARIABLE: &str = "NGINX";
/// What a service manager says; for this process alone.
const MANAGER: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// The first number of a service manager's sockets.
const FIRST: RawFd = 3;
/// More than anybody listens on.
const MOST: RawFd = 16 << 10;

/// Who keeps the inherited sockets, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// There are none.
    #[default]
    Nobody,
    /// The master of the old binary, which is the parent of this process as long as it runs.
    OldBinary,
    Manager,
}

/// What was left open.
#[derive(Default)]
pub struct Inherited {
    pub from: From,
    sockets: Vec<(RawFd, Option<OwnedFd>)>,
    /// The value of `NGINX`.
    said: String,
    /// The end of it that is no number.
    wrong: Option<String>,
}

/// Takes what `environment` speaks of, and the variables out of it.
pub fn take(environment: &mut Vec<(OsString, OsString)>) -> Inherited {
    let mut named = |name: &str| {
        let at = environment.iter().position(|(known, _)| known == name)?;
        Some(environment.remove(at).1.to_string_lossy().into_owned())
    };
    let nginx = named(VARIABLE);
    let [count, pid, _] = MANAGER.map(&mut named);
    if let Some(said) = nginx {
        let (numbers, wrong) = numbers(&said);
        let sockets = numbers.iter().copied().zip(os::take_descriptors(&numbers)).collect();
        return Inherited { from: From::OldBinary, sockets, said, wrong };
    }
    // Variables of another process, of which this one is a child, mean nothing here.
    let ours = pid.and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    match count.and_then(|count| count.parse::<RawFd>().ok()) {
        Some(count) if ours && (1..=MOST).contains(&count) => {
            let numbers: Vec<RawFd> = (FIRST..FIRST + count).collect();
            let sockets = numbers.iter().copied().zip(os::take_descriptors(&numbers)).collect();
            Inherited { from: From::Manager, sockets, ..Inherited::default() }
        }
        _ => Inherited::default(),
    }
}

/// The numbers of nginx's variable, and what follows the last one if that is none.
fn numbers(said: &str) -> (Vec<RawFd>, Option<String>) {
    let mut numbers = Vec::new();
    let mut rest = said;
    while let Some(end) = rest.find([':', ';']) {
        let digits = rest[..end].bytes().all(|byte| byte.is_ascii_digit());
        match rest[..end].parse() {
            Ok(number) if digits && numbers.len() < MOST as usize => numbers.push(number),
            _ => {
                return (
                    numbers,
                    Some(format!("{rest}\" in {VARIABLE} environment variable, ignoring the rest of the variable")),
                );
            }
        }
        rest = &rest[end + 1..];
    }
    let wrong = (!rest.is_empty()).then(|| format!("{rest}\" in {VARIABLE} environment variable, ignoring"));
    (numbers, wrong)
}

impl Inherited {
    /// The listeners among what was left open; the rest is logged in nginx's words, and closed.
    pub fn listeners(self, log: &ErrorLog) -> Vec<Listener> {
        let say = |level, message: String| log.write(level, &Context::default(), format_args!("{message}"));
        match self.from {
            From::Nobody => return Vec::new(),
            From::OldBinary => say(Level::Notice, format!("using inherited sockets from \"{}\"", self.said)),
            From::Manager => say(Level::Notice, format!("using {} sockets of the service manager", self.sockets.len())),
        }
        if let Some(wrong) = self.wrong {
            say(Level::Emerg, format!("invalid socket number \"{wrong}"));
        }
        let mut listeners = Vec::new();
        for (number, socket) in self.sockets {
            let closed = || format!("getsockname() of the inherited socket #{number} failed (9: Bad file descriptor)");
            match socket.ok_or_else(closed).and_then(Listener::inherited) {
                Ok(listener) => listeners.push(listener),
                Err(sentence) => say(Level::Crit, sentence),
            }
        }
        Listener::join(listeners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_with_a_semicolon_each() {
        assert_eq!(numbers("6;7;"), (vec![6, 7], None));
        assert_eq!(numbers(""), (vec![], None));
        let (read, wrong) = numbers("6;x;7;");
        assert_eq!(read, [6]);
        assert!(wrong.is_some_and(|wrong| wrong.starts_with("x;7;\"") && wrong.ends_with("the rest of the variable")));
        let (read, wrong) = numbers("6;7");
        assert_eq!(read, [6]);
        assert!(wrong.is_some_and(|wrong| wrong.starts_with("7\"") && wrong.ends_with("ignoring")));
        assert_eq!(numbers("-1;").0, []);
    }

    #[test]
    fn what_is_said_to_another_process_is_not_ours() {
        let mut environment: Vec<(OsString, OsString)> = [("LISTEN_FDS", "2"), ("LISTEN_PID", "1"), ("TZ", "UTC")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        assert_eq!(take(&mut environment).from, From::Nobody);
        assert_eq!(environment.len(), 1, "{environment:?}");
    }
}
