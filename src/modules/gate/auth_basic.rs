//! `auth_basic`: a name and a password, by a file that `htpasswd` makes.
//!
//! In: the `Authorization` field. Out: a client that is let in, or 401 and the realm. The file is read for each request,
//! as in nginx: it may have variables in its path, and a change of it counts at once. Hashes that are slow to make on
//! purpose are made on a thread of the location's pool, so that nobody else waits for them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::rc::Rc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use md5::{Digest, Md5};

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::conf::module::{Arity, Directive, EVERYWHERE, LIMIT_EXCEPT, Level, Module, Section};
use crate::conf::setting::Setting;
use crate::conf::template::Template;
use crate::conf::words::Words;
use crate::http::plan::{Gate, Plan, Verdict};
use crate::http::request::Request;
use crate::http::response::Refusal;
use crate::log::{Level as LogLevel, Raw};
use crate::wire::basic;

/// `ngx_http_auth_basic_module`.
pub struct AuthBasic;

impl Module for AuthBasic {
    const NAME: &'static str = "http_auth_basic";
    const DIRECTIVES: &'static [Directive<Self>] = &[
        Directive::location("auth_basic", EVERYWHERE.or(LIMIT_EXCEPT), Arity::Exactly(1), Conf::auth_basic),
        Directive::location(
            "auth_basic_user_file",
            EVERYWHERE.or(LIMIT_EXCEPT),
            Arity::Exactly(1),
            Conf::auth_basic_user_file,
        ),
    ];
    type Plan = Plan;
    type Main = ();
    type Server = ();
    type Location = Conf;

    fn link(level: &Level<'_>, plan: &mut Plan) -> Result<(), Fault> {
        let conf = level.location::<Self>();
        let (Some(realm), Some(file)) = (conf.realm.said(), conf.file.said()) else { return Ok(()) };
        if realm.constant().is_none_or(|realm| realm != "off") {
            let prefix = level.cx.conf_prefix.as_os_str().as_encoded_bytes().to_vec();
            plan.access.push(Box::new(Door { realm, file, prefix }));
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Conf {
    realm: Setting<Template>,
    file: Setting<Template>,
}

impl Conf {
    /// Syntax: `auth_basic string | off;`  Default: `off`
    fn auth_basic(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.realm.set(words.template(0)?)
    }

    /// Syntax: `auth_basic_user_file file;`
    ///
    /// Passwords as crypt(3) makes them (DES, MD5, bcrypt, SHA-256, SHA-512), `$apr1$`, `{SHA}`, `{SSHA}`, `{PLAIN}`.
    fn auth_basic_user_file(&mut self, words: &Words<'_>) -> Result<(), Fault> {
        self.file.set(words.template(0)?)
    }
}

impl Section for Conf {
    fn inherit(&mut self, outer: &Self) -> Result<(), Fault> {
        let Self { realm, file } = self;
        realm.inherit(&outer.realm);
        file.inherit(&outer.file);
        Ok(())
    }
}

/// The door of one location.
struct Door {
    realm: Template,
    file: Template,
    /// What a relative file's name stands below.
    prefix: Vec<u8>,
}

impl Gate for Door {
    fn pass<'a>(&'a self, request: &'a Rc<Request>) -> Verdict<'a> {
        let realm = self.realm.eval(&**request);
        if realm == "off" {
            return Verdict::Next;
        }
        let Some((user, password)) = request.field("Authorization").and_then(basic::credentials) else {
            let message = format_args!("no user/password was provided for basic authentication");
            request.log(LogLevel::Info, message);
            return refuse(request, &realm);
        };
        let name = self.file.eval(&**request);
        let name = if name.starts_with(b"/") { name.to_vec() } else { [&self.prefix, &b"/"[..], &name].concat() };
        let found = find(Path::new(&OsString::from_vec(name.clone())), &user);
        let hash = match found {
            Ok(Some(hash)) => hash,
            Ok(None) => {
                let (user, file) = (Raw(&user), Raw(&name));
                request.log(LogLevel::Error, format_args!("user \"{user}\" was not found in \"{file}\""));
                return refuse(request, &realm);
            }
            Err(error) => {
                // nginx: a file that is not there lets nobody in, any other trouble is ours
                let missing = error.kind() == io::ErrorKind::NotFound;
                let (level, status) = if missing { (LogLevel::Error, 403) } else { (LogLevel::Crit, 500) };
                request.log(level, format_args!("open() \"{}\" failed {}", Raw(&name), errno(&error)));
                return Verdict::Refuse(Refusal::Status(status));
            }
        };
        if !is_slow(&hash) {
            return judge(request, &realm, &user, fits(&password, &hash));
        }
        Verdict::Wait(Box::pin(async move {
            let work = move || Ok(fits(&password, &hash));
            match request.plan().core.pool.clone().run(work).await {
                Ok(fits) => judge(request, &realm, &user, fits),
                Err(_) => Verdict::Refuse(Refusal::Status(500)),
            }
        }))
    }
}

fn judge(request: &Request, realm: &Bytes, user: &[u8], fits: bool) -> Verdict<'static> {
    if fits {
        return Verdict::Allow;
    }
    request.log(LogLevel::Error, format_args!("user \"{}\": password mismatch", Raw(user)));
    refuse(request, realm)
}

fn refuse(request: &Request, realm: &Bytes) -> Verdict<'static> {
    request.owe("WWW-Authenticate", [b"Basic realm=\"", realm.as_ref(), b"\""].concat());
    Verdict::Refuse(Refusal::Status(401))
}

/// The longest line that is looked at, and nginx's buffer; what is longer is nobody's.
const LINE: u64 = 2048;

/// The hash beside a name: up to the next colon or the end of the line. Lines that begin with `#` are comments.
fn find(path: &Path, user: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let whole = line.ends_with(b"\n") || file.fill_buf()?.is_empty();
        if !whole {
            // The rest of it is no line of its own.
            while !file.fill_buf()?.is_empty() {
                let buffer = file.fill_buf()?;
                let (length, ends) = match memchr::memchr(b'\n', buffer) {
                    Some(end) => (end + 1, true),
                    None => (buffer.len(), false),
                };
                file.consume(length);
                if ends {
                    break;
                }
            }
            continue;
        }
        let Some(hash) = line.strip_prefix(user).and_then(|rest| rest.strip_prefix(b":")) else { continue };
        if !line.starts_with(b"#") {
            let end = hash.iter().position(|byte| b"\n\r:".contains(byte)).unwrap_or(hash.len());
            return Ok(Some(hash[..end].to_vec()));
        }
    }
}

/// Hashes that take milliseconds: bcrypt and the SHA-2 family of crypt(3).
fn is_slow(hash: &[u8]) -> bool {
    [b"$2", b"$5", b"$6"].iter().any(|magic| hash.starts_with(*magic))
}

/// Whether `password` is the one that `hash` was made of.
fn fits(password: &[u8], hash: &[u8]) -> bool {
    let same = |made: &[u8]| verify_slices_are_equal(made, hash).is_ok();
    if let Some(plain) = hash.strip_prefix(b"{PLAIN}") {
        return verify_slices_are_equal(password, plain).is_ok();
    }
    if hash.starts_with(b"{SHA}") {
        return same(format!("{{SHA}}{}", LENIENT.encode(sha1(password, &[]))).as_bytes());
    }
    if let Some(encoded) = hash.strip_prefix(b"{SSHA}") {
        // What is not Base64, or too short to hold a digest, has no salt.
        let salt = LENIENT.decode(encoded).ok().and_then(|raw| raw.get(20..).map(<[u8]>::to_vec)).unwrap_or_default();
        let made = [sha1(password, &salt).as_slice(), &salt].concat();
        return same(format!("{{SSHA}}{}", LENIENT.encode(made)).as_bytes());
    }
    if let Some(salt) = hash.strip_prefix(b"$apr1$") {
        return same(&apr1(password, salt));
    }
    std::str::from_utf8(hash).is_ok_and(|hash| pwhash::unix::verify(password, hash))
}

/// nginx takes Base64 with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn sha1(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(password);
    context.update(salt);
    context.finish().as_ref().to_vec()
}

/// Apache's variant of the MD5 hash of crypt(3): a thousand rounds over password, salt and what came before.
fn apr1(password: &[u8], setting: &[u8]) -> Vec<u8> {
    const MAGIC: &[u8] = b"$apr1$";
    let end = setting.iter().position(|&byte| byte == b'$').unwrap_or(setting.len());
    let salt = &setting[..end.min(8)];

    let mut state = Md5::digest([password, salt, password].concat());
    let mut first = Md5::new();
    first.update([password, MAGIC, salt].concat());
    for begin in (0..password.len()).step_by(16) {
        first.update(&state[..(password.len() - begin).min(16)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0] } else { &password[..1] });
        bits >>= 1;
    }
    state = first.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        let odd = round % 2 == 1;
        next.update(if odd { password } else { &state });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { &state } else { password });
        state = next.finalize();
    }

    let mut made = [MAGIC, salt, b"$"].concat();
    let mut push = |value: u32, digits: u32| {
        const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        made.extend((0..digits).map(|digit| DIGITS[(value >> (6 * digit)) as usize % 64]));
    };
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        push(u32::from_be_bytes([0, state[a], state[b], state[c]]), 4);
    }
    push(u32::from(state[11]), 2);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_every_kind() {
        for hash in [
            "{PLAIN}password",
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0",
            "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.",
            "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
            "sa3tHJ3/KuYvI",
            "$5$saltsalt$gOjOtoMpVhru2uyjeJSEc/JaLQWOXMNmlOnj6T4AtC.",
            "$2b$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu",
        ] {
            assert!(fits(b"password", hash.as_bytes()), "{hash}");
            assert!(!fits(b"passwort", hash.as_bytes()), "{hash}");
            assert!(!fits(b"", hash.as_bytes()), "{hash}");
        }
        for broken in ["", "$1$", "$apr1$", "{SHA}_____", "{SSHA}Zm9vCg==", "$2y$", "$6$", "*", "{PLAIN", "\u{e9}"] {
            assert!(!fits(b"password", broken.as_bytes()), "{broken}");
        }
    }

    #[test]
    fn a_line_is_found_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users");
        let long = format!("long:{}", "x".repeat(5000));
        let text = format!("#bob:no\n\nbobby:1\n{long}\nbob:2:a comment\r\nbob:3\nlast:4");
        std::fs::write(&path, text).expect("written");
        let hash = |user: &str| find(&path, user.as_bytes()).expect("it can be read");
        assert_eq!(hash("bob"), Some(b"2".to_vec()));
        assert_eq!(hash("bobby"), Some(b"1".to_vec()));
        assert_eq!(hash("last"), Some(b"4".to_vec()));
        assert_eq!((hash("#bob"), hash("bo"), hash("long"), hash("x")), (None, None, None, None));
    }
}
