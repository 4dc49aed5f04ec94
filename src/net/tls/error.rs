//! What went wrong in a handshake, in OpenSSL's words: operators and their tools look for those.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// The sentence behind `failed`, and whether the peer is to blame, which is logged with less noise.
pub struct Cause {
    pub text: String,
    pub peers: bool,
}

/// The rustls error in an I/O error; `None` for one of the socket.
pub fn of(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// `(SSL: error:0A0000C1:SSL routines::no shared cipher)`
pub fn cause(error: &Error) -> Cause {
    let (number, words) = reason(error);
    let text = match number {
        0 => format!("(SSL: {words})"),
        _ => format!("(SSL: error:{:08X}:SSL routines::{words})", 0x0a00_0000 | number),
    };
    let peers = !matches!(error, Error::General(_) | Error::Other(_) | Error::FailedToGetRandomBytes);
    Cause { text, peers }
}

/// OpenSSL's number and words; 0 for what it has none for.
fn reason(error: &Error) -> (u32, String) {
    let known = |number: u32, words: &str| (number, words.to_owned());
    match error {
        Error::PeerIncompatible(why) => match why {
            PeerIncompatible::NoCipherSuitesInCommon => known(193, "no shared cipher"),
            PeerIncompatible::NoKxGroupsInCommon => known(101, "no suitable key share"),
            PeerIncompatible::NoSignatureSchemesInCommon => known(118, "no suitable signature algorithm"),
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired => known(258, "unsupported protocol"),
            other => (0, format!("{other:?}")),
        },
        Error::InvalidMessage(why) => match why {
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
                known(267, "wrong version number")
            }
            InvalidMessage::MessageTooLarge => known(198, "packet length too long"),
            other => (0, format!("{other:?}")),
        },
        Error::AlertReceived(alert) => alert_received(*alert),
        Error::NoApplicationProtocol => known(235, "no application protocol"),
        Error::DecryptError => known(281, "decryption failed or bad record mac"),
        Error::InvalidCertificate(_) => known(134, "certificate verify failed"),
        Error::PeerMisbehaved(PeerMisbehaved::TooMuchEarlyDataReceived) => known(164, "too much early data"),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            known(244, "unexpected message")
        }
        Error::PeerSentOversizedRecord => known(198, "packet length too long"),
        other => (0, other.to_string()),
    }
}

fn alert_received(alert: AlertDescription) -> (u32, String) {
    let code = u32::from(u8::from(alert));
    let words = match code {
        10 => "ssl/tls alert unexpected message",
        20 => "ssl/tls alert bad record mac",
        40 => "ssl/tls alert handshake failure",
        42 => "ssl/tls alert bad certificate",
        43 => "ssl/tls alert unsupported certificate",
        44 => "ssl/tls alert certificate revoked",
        45 => "ssl/tls alert certificate expired",
        46 => "ssl/tls alert certificate unknown",
        47 => "ssl/tls alert illegal parameter",
        48 => "tlsv1 alert unknown ca",
        49 => "tlsv1 alert access denied",
        50 => "tlsv1 alert decode error",
        51 => "tlsv1 alert decrypt error",
        70 => "tlsv1 alert protocol version",
        71 => "tlsv1 alert insufficient security",
        80 => "tlsv1 alert internal error",
        90 => "tlsv1 alert user cancelled",
        109 => "tlsv13 alert missing extension",
        110 => "tlsv1 unsupported extension",
        112 => "tlsv1 unrecognized name",
        113 => "tlsv1 bad certificate status response",
        116 => "tlsv13 alert certificate required",
        120 => "tlsv1 alert no application protocol",
        _ => return (0, format!("alert number {code}")),
    };
    (1000 + code, format!("{words}:SSL alert number {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssls_words() {
        for (error, text, peers) in [
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "(SSL: error:0A0000C1:SSL routines::no shared cipher)",
                true,
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "(SSL: error:0A000418:SSL routines::tlsv1 alert unknown ca:SSL alert number 48)",
                true,
            ),
            (Error::General("x".to_owned()), "(SSL: unexpected error: x)", false),
        ] {
            let cause = cause(&error);
            assert_eq!((cause.text.as_str(), cause.peers), (text, peers));
        }
        assert!(of(&io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError)).is_some());
        assert!(of(&io::Error::from_raw_os_error(libc::ECONNRESET)).is_none());
    }
}
