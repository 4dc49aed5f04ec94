//! `ssl_conf_command`: OpenSSL's own configuration commands, those of them that rustls can follow.
//!
//! In: a name and a value. Out: what changes. A command that cannot be done is an error, in OpenSSL's words: it was
//! written for a reason.

use crate::net::tls::cipher::Choice;

/// What a command does.
pub enum Command {
    Change(Box<dyn FnOnce(&mut Choice)>),
    ServerPreference(bool),
    Tickets(bool),
    /// Whether the kernel may make records.
    Kernel(bool),
    /// The value names another certificate, or key.
    Certificate,
    Key,
    /// It asks for what is so anyway.
    Nothing,
}

impl Command {
    /// The error is nginx's sentence.
    pub fn read(name: &str, value: &str) -> Result<Self, String> {
        let failed = |reason: &str| format!("SSL_CONF_cmd(\"{name}\", \"{value}\") failed (SSL: error:{reason})");
        let bad_value = || failed("0A000180:SSL routines::bad value");
        let value_of = value.to_owned();
        Ok(match name.to_ascii_lowercase().as_str() {
            "ciphersuites" => Self::Change(Box::new(move |choice| choice.suites13 = Some(value_of))),
            "cipherstring" => Self::Change(Box::new(move |choice| choice.ciphers = value_of)),
            "groups" | "curves" => Self::Change(Box::new(move |choice| choice.curves = value_of)),
            "certificate" => Self::Certificate,
            "privatekey" => Self::Key,
            "minprotocol" => match value {
                "None" | "SSLv3" | "TLSv1" | "TLSv1.1" | "TLSv1.2" => Self::Nothing,
                "TLSv1.3" => Self::Change(Box::new(|choice| choice.protocols.tls12 = false)),
                _ => return Err(bad_value()),
            },
            "maxprotocol" => match value {
                "None" | "TLSv1.3" => Self::Nothing,
                "TLSv1.2" => Self::Change(Box::new(|choice| choice.protocols.tls13 = false)),
                _ => return Err(bad_value()),
            },
            "options" => Self::option(value).ok_or_else(bad_value)?,
            _ => return Err(failed("0A000182:SSL routines::unknown cmd name")),
        })
    }

    fn option(value: &str) -> Option<Self> {
        let (on, name) = match value.strip_prefix('-') {
            Some(name) => (false, name),
            None => (true, value.strip_prefix('+').unwrap_or(value)),
        };
        Some(match (name.to_ascii_lowercase().as_str(), on) {
            ("serverpreference", on) => Self::ServerPreference(on),
            ("sessionticket", on) => Self::Tickets(on),
            ("ktls", on) => Self::Kernel(on),
            // rustls has neither what the first ones forbid nor what the others allow to do without.
            ("compression", false)
            | ("unsafelegacyrenegotiation" | "unsafelegacyserverconnect", false)
            | ("norenegotiation" | "noresumptiononrenegotiation" | "dhsingle" | "ecdhsingle", true)
            | ("encryptthenmac" | "extendedmastersecret" | "middleboxcompat" | "prioritizechacha", true)
            | ("antireplay", true) => Self::Nothing,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert!(matches!(Command::read("Options", "-ServerPreference"), Ok(Command::ServerPreference(false))));
        assert!(matches!(Command::read("options", "SessionTicket"), Ok(Command::Tickets(true))));
        for (name, value) in [("Options", "Compression"), ("MaxProtocol", "TLSv1.1"), ("DHParameters", "x"), ("x", "y")]
        {
            assert!(Command::read(name, value).is_err(), "{name} {value}");
        }
    }
}
