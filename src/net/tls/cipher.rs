//! OpenSSL's words for versions, ciphers and curves, and what of them rustls has.
//!
//! In: the strings of `ssl_protocols`, `ssl_ciphers`, `ssl_ecdh_curve`. Out: lists for a [`CryptoProvider`], and the names by
//! which variables show what was agreed on. A list of which nothing is left is an error.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use super::{hkdf, ktls};

/// Which of the two versions are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols {
    pub tls12: bool,
    pub tls13: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

impl Protocols {
    /// For rustls, the newest first.
    pub fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        let mut versions = Vec::new();
        if self.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if self.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        versions
    }
}

/// What OpenSSL's words say of one cipher suite of TLS 1.2. All have an ephemeral key exchange on elliptic curves.
struct Suite {
    suite: SupportedCipherSuite,
    name: &'static str,
    /// OpenSSL's words for the parts, in small letters.
    words: &'static [&'static str],
}

/// In OpenSSL's order of strength.
static SUITES: [Suite; 6] = [
    Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        words: &["aecdsa", "ecdsa", "aes", "aes256", "aesgcm", "suiteb192"],
    },
    Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        words: &["arsa", "aes", "aes256", "aesgcm"],
    },
    Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        words: &["aecdsa", "ecdsa", "chacha20"],
    },
    Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        words: &["arsa", "chacha20"],
    },
    Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        words: &["aecdsa", "ecdsa", "aes", "aes128", "aesgcm", "suiteb128"],
    },
    Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        words: &["arsa", "aes", "aes128", "aesgcm"],
    },
];

/// What is true of every one of them.
const OF_ALL: [&str; 11] =
    ["all", "default", "high", "fips", "tlsv1.2", "aead", "ecdhe", "eecdh", "kecdhe", "keecdh", "ecdh"];

impl Suite {
    fn is(&self, word: &str) -> bool {
        self.name.eq_ignore_ascii_case(word)
            || OF_ALL.iter().chain(self.words).any(|known| known.eq_ignore_ascii_case(word))
            || ids(self.suite.suite()).1.eq_ignore_ascii_case(word)
    }

    /// Whether all words of `ECDHE+AESGCM` are true of it.
    fn matches(&self, words: &str) -> bool {
        words.split('+').all(|word| self.is(word))
    }
}

/// Reads a cipher string as OpenSSL does; unknown words say nothing. The error is OpenSSL's reason.
fn suites(list: &str) -> Result<Vec<&'static Suite>, String> {
    let mut active: Vec<&Suite> = Vec::new();
    let mut killed: Vec<&str> = Vec::new();
    for word in list.split([':', ',', ';', ' ']).filter(|word| !word.is_empty()) {
        if let Some(level) = word.strip_prefix("@SECLEVEL=") {
            // All that rustls has is at least as strong as level 2 asks for; more it cannot promise.
            match level.parse::<u8>() {
                Ok(0..=2) => continue,
                _ => return Err(format!("(\"{word}\" is more than can be promised)")),
            }
        }
        if word == "@STRENGTH" {
            active.sort_by_key(|suite| SUITES.iter().position(|known| known.name == suite.name));
            continue;
        }
        if let Some(words) = word.strip_prefix('!') {
            active.retain(|suite| !suite.matches(words));
            killed.extend(SUITES.iter().filter(|suite| suite.matches(words)).map(|suite| suite.name));
        } else if let Some(words) = word.strip_prefix('-') {
            active.retain(|suite| !suite.matches(words));
        } else if let Some(words) = word.strip_prefix('+') {
            let (last, first) = active.iter().partition::<Vec<&Suite>, _>(|suite| suite.matches(words));
            active = first.into_iter().chain(last).collect();
        } else {
            let new = SUITES.iter().filter(|suite| suite.matches(word) && !killed.contains(&suite.name));
            let new: Vec<_> = new.filter(|suite| active.iter().all(|known| known.name != suite.name)).collect();
            active.extend(new);
        }
    }
    if active.is_empty() { Err("(SSL: error:0A0000B9:SSL routines::no cipher match)".to_owned()) } else { Ok(active) }
}

/// A curve that rustls has, under all its names.
struct Group {
    group: &'static dyn SupportedKxGroup,
    names: &'static [&'static str],
}

static GROUPS: [Group; 5] = [
    Group { group: kx_group::X25519MLKEM768, names: &["X25519MLKEM768"] },
    Group { group: kx_group::SECP256R1MLKEM768, names: &["SecP256r1MLKEM768"] },
    Group { group: kx_group::X25519, names: &["X25519"] },
    Group { group: kx_group::SECP256R1, names: &["prime256v1", "P-256", "secp256r1"] },
    Group { group: kx_group::SECP384R1, names: &["secp384r1", "P-384"] },
];

/// Curves that OpenSSL has and rustls has not.
const OTHER_GROUPS: [&str; 18] = [
    "secp521r1",
    "P-521",
    "X448",
    "SecP384r1MLKEM1024",
    "MLKEM512",
    "MLKEM768",
    "MLKEM1024",
    "brainpoolP256r1",
    "brainpoolP384r1",
    "brainpoolP512r1",
    "secp224r1",
    "P-224",
    "secp256k1",
    "ffdhe2048",
    "ffdhe3072",
    "ffdhe4096",
    "ffdhe6144",
    "ffdhe8192",
];

/// Curves, in the order of preference.
#[derive(Debug)]
pub struct Curves {
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Those that were asked for and are not there.
    pub missing: Vec<String>,
}

/// Reads `auto` or a list of curves. The error is OpenSSL's reason.
pub fn curves(list: &str) -> Result<Curves, String> {
    let mut found = Curves { groups: Vec::new(), missing: Vec::new() };
    if list == "auto" {
        found.groups = [0, 2, 3, 4].map(|n| GROUPS[n].group).to_vec();
        return Ok(found);
    }
    for word in list.split([':', '/']) {
        let name = word.trim_start_matches(['?', '*']);
        let same = |known: &&str| known.eq_ignore_ascii_case(name);
        match GROUPS.iter().find(|group| group.names.iter().any(same)) {
            Some(group) if found.groups.iter().all(|known| known.name() != group.group.name()) => {
                found.groups.push(group.group);
            }
            Some(_) => {}
            None if OTHER_GROUPS.iter().any(same) => found.missing.push(name.to_owned()),
            // OpenSSL 3.5: a question mark allows a name to be unknown.
            None if word.starts_with('?') => {}
            None => {
                return Err(format!(
                    "(SSL: error:0A080106:SSL routines::passed invalid argument:group '{name}' cannot be set)"
                ));
            }
        }
    }
    if found.groups.is_empty() {
        return Err("(SSL: error:0A0C0101:SSL routines::no suitable groups)".to_owned());
    }
    Ok(found)
}

/// What a provider is made of; equal ones are made once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub protocols: Protocols,
    pub ciphers: String,
    /// `Ciphersuites` of `ssl_conf_command`: those of TLS 1.3.
    pub suites13: Option<String>,
    pub curves: String,
    /// The kernel may make the records, where it can.
    pub kernel: bool,
}

/// Every suite there is.
pub fn all() -> impl Iterator<Item = SupportedCipherSuite> {
    hkdf::SUITES.into_iter().chain(SUITES.iter().map(|suite| suite.suite))
}

type Known = (Choice, Weak<CryptoProvider>);

static PROVIDERS: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// A provider of just these. The error names OpenSSL's call, its argument and the reason.
pub fn provider(choice: &Choice) -> Result<Arc<CryptoProvider>, String> {
    let mut known = PROVIDERS.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(_, provider)| provider.strong_count() > 0);
    if let Some(provider) = known.iter().find(|(one, _)| one == choice).and_then(|(_, provider)| provider.upgrade()) {
        return Ok(provider);
    }
    let mut cipher_suites = match &choice.suites13 {
        None => hkdf::SUITES.to_vec(), // no string leaves them out
        Some(list) => suites13(list)?,
    };
    if choice.protocols.tls12 {
        let found = suites(&choice.ciphers)
            .map_err(|why| format!("SSL_CTX_set_cipher_list(\"{}\") failed {why}", choice.ciphers))?;
        cipher_suites.extend(found.iter().map(|suite| suite.suite));
    }
    if choice.kernel && ktls::is_there() {
        cipher_suites = cipher_suites.into_iter().map(ktls::telling).collect();
    }
    let curves = curves(&choice.curves)
        .map_err(|why| format!("SSL_CTX_set1_curves_list(\"{}\") failed {why}", choice.curves))?;
    let provider = Arc::new(CryptoProvider { cipher_suites, kx_groups: curves.groups, ..default_provider() });
    known.push((choice.clone(), Arc::downgrade(&provider)));
    Ok(provider)
}

/// `Ciphersuites`: a list of the suites of TLS 1.3.
fn suites13(list: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    let failed = || {
        format!("SSL_CONF_cmd(\"Ciphersuites\", \"{list}\") failed (SSL: error:0A0000B9:SSL routines::no cipher match)")
    };
    let mut found = Vec::new();
    for word in list.split(':').filter(|word| !word.is_empty()) {
        match hkdf::SUITES.iter().find(|suite| ids(suite.suite()).0 == word) {
            Some(suite) => found.push(*suite),
            None if word.starts_with("TLS_AES_128_CCM") => {}
            None => return Err(failed()),
        }
    }
    if found.is_empty() { Err(failed()) } else { Ok(found) }
}

/// A suite as OpenSSL calls it, and as the standard does. Suites that we do not have are there for `$ssl_ciphers`.
fn ids(suite: CipherSuite) -> (&'static str, &'static str) {
    let number = u16::from(suite);
    let found = NAMES.iter().find(|(known, _, _)| *known == number);
    found.map_or(("", ""), |(_, openssl, standard)| (openssl, standard))
}

/// `$ssl_cipher`
pub fn suite_name(suite: CipherSuite) -> String {
    match ids(suite).0 {
        "" => format!("0x{:04x}", u16::from(suite)),
        name => name.to_owned(),
    }
}

const NAMES: &[(u16, &str, &str)] = &[
    (0x1301, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xccaa, "DHE-RSA-CHACHA20-POLY1305", "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0x009e, "DHE-RSA-AES128-GCM-SHA256", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009f, "DHE-RSA-AES256-GCM-SHA384", "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xc023, "ECDHE-ECDSA-AES128-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "ECDHE-ECDSA-AES256-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "ECDHE-RSA-AES128-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc028, "ECDHE-RSA-AES256-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0x0067, "DHE-RSA-AES128-SHA256", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x006b, "DHE-RSA-AES256-SHA256", "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0xc009, "ECDHE-ECDSA-AES128-SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "ECDHE-ECDSA-AES256-SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc013, "ECDHE-RSA-AES128-SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "ECDHE-RSA-AES256-SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x0033, "DHE-RSA-AES128-SHA", "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0039, "DHE-RSA-AES256-SHA", "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x009c, "AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "AES256-GCM-SHA384", "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x003c, "AES128-SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "AES256-SHA256", "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x002f, "AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x00ff, "TLS_EMPTY_RENEGOTIATION_INFO_SCSV", "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"),
];

/// `$ssl_protocol`
pub fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "unknown",
    }
}

/// `$ssl_curve`
pub fn curve_name(group: NamedGroup) -> String {
    let number = u16::from(group);
    let name = match number {
        0x0017 => "prime256v1",
        0x0018 => "secp384r1",
        0x0019 => "secp521r1",
        0x001d => "X25519",
        0x001e => "X448",
        0x0100 => "ffdhe2048",
        0x0101 => "ffdhe3072",
        0x0102 => "ffdhe4096",
        0x0103 => "ffdhe6144",
        0x0104 => "ffdhe8192",
        0x11eb => "SecP256r1MLKEM768",
        0x11ec => "X25519MLKEM768",
        0x11ed => "SecP384r1MLKEM1024",
        0x001a => "brainpoolP256r1",
        0x001b => "brainpoolP384r1",
        0x001c => "brainpoolP512r1",
        _ => return format!("0x{number:04x}"),
    };
    name.to_owned()
}

/// `$ssl_sigalg`: the standard's name, as OpenSSL has it.
pub fn scheme_name(scheme: u16) -> String {
    let name = match scheme {
        0x0201 => "rsa_pkcs1_sha1",
        0x0203 => "ecdsa_sha1",
        0x0301 => "rsa_pkcs1_sha224",
        0x0303 => "ecdsa_sha224",
        0x0401 => "rsa_pkcs1_sha256",
        0x0403 => "ecdsa_secp256r1_sha256",
        0x0501 => "rsa_pkcs1_sha384",
        0x0503 => "ecdsa_secp384r1_sha384",
        0x0601 => "rsa_pkcs1_sha512",
        0x0603 => "ecdsa_secp521r1_sha512",
        0x0804 => "rsa_pss_rsae_sha256",
        0x0805 => "rsa_pss_rsae_sha384",
        0x0806 => "rsa_pss_rsae_sha512",
        0x0807 => "ed25519",
        0x0808 => "ed448",
        0x0809 => "rsa_pss_pss_sha256",
        0x080a => "rsa_pss_pss_sha384",
        0x080b => "rsa_pss_pss_sha512",
        0x081a => "ecdsa_brainpoolP256r1tls13_sha256",
        0x081b => "ecdsa_brainpoolP384r1tls13_sha384",
        0x081c => "ecdsa_brainpoolP512r1tls13_sha512",
        0x0904 => "mldsa44",
        0x0905 => "mldsa65",
        0x0906 => "mldsa87",
        _ => return format!("0x{scheme:04x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_strings() {
        let names = |list: &str| match suites(list) {
            Ok(found) => found.iter().map(|suite| suite.name).collect::<Vec<_>>().join(" "),
            Err(why) => why,
        };
        let (a256, c20, a128) = (
            "ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305 ECDHE-RSA-CHACHA20-POLY1305",
            "ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-RSA-AES128-GCM-SHA256",
        );
        let all = [a256, c20, a128].join(" ");
        for (list, expected) in [
            ("HIGH:!aNULL:!MD5", all.as_str()),
            ("DEFAULT", &all),
            ("EECDH+AESGCM:EDH+AESGCM", &[a256, a128].join(" ")),
            ("AES128:AES256:!RC4", &[a128, a256].join(" ")),
            ("ALL:!aRSA:-CHACHA20", "ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("ALL:+AES256", &[c20, a128, a256].join(" ")),
            ("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("!CHACHA20:ALL", &[a256, a128].join(" ")),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("RC4:DES", "(SSL: error:0A0000B9:SSL routines::no cipher match)"),
            ("ALL:@SECLEVEL=2:!CHACHA20:!AES128", a256),
            ("ALL:@SECLEVEL=4", "(\"@SECLEVEL=4\" is more than can be promised)"),
        ] {
            assert_eq!(names(list), expected, "{list}");
        }
    }

    #[test]
    fn curve_lists() {
        let names = |list: &str| {
            let found = curves(list)?;
            let names: Vec<_> = found.groups.iter().map(|group| curve_name(group.name())).collect();
            Ok::<_, String>((names.join(" "), found.missing.join(" ")))
        };
        assert_eq!(names("auto"), Ok(("X25519MLKEM768 X25519 prime256v1 secp384r1".into(), String::new())));
        assert_eq!(names("P-384:X25519:P-521"), Ok(("secp384r1 X25519".into(), "P-521".into())));
        assert!(names("P-521").is_err());
        assert!(names("prime256v1:unknown").is_err());
    }
}
