//! The same configuration, files and bytes to Debian's nginx and to the binary under test, and the answers compared.
//!
//! Both servers have the same port numbers on two loopback addresses, and directories whose names have the same
//! length, so that answers which speak of themselves compare byte for byte after one is written for the other.
//! What may differ is taken out by `plain`, and nothing else is.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use regex::{Captures, Regex};
use tempfile::TempDir;

use super::client::Response;
use super::ports::Port;
use super::{Client, Server, Setup, oracle};

/// No answer of a comparison takes this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(15);

/// One connection's worth of requests: each is sent when the one before has been answered.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Which `%%ADDR_n%%`.
    pub listen: usize,
    pub requests: Vec<Vec<u8>>,
    /// Close the sending side at once, before reading.
    pub half_close: bool,
}

impl Exchange {
    pub fn new(request: impl AsRef<[u8]>) -> Exchange {
        Exchange { requests: vec![request.as_ref().to_vec()], ..Exchange::default() }
    }
}

/// Two servers with the same configuration.
pub struct Both {
    pub oracle: Server,
    pub ours: Server,
    /// Addresses that change with every run, and what is written for them.
    pub known: Vec<(String, String)>,
}

impl Both {
    /// `None`: there is no nginx here, and the test is to return.
    pub fn start(http: &str) -> Option<Both> {
        Both::with(http, |setup| setup)
    }

    /// As `start`, with files and names for each of the two.
    pub fn with(http: &str, prepare: impl Fn(Setup) -> Setup) -> Option<Both> {
        let open = Permissions::from_mode(0o755);
        let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
        Both::within(Arc::new(root), http, prepare)
    }

    pub fn within(root: Arc<TempDir>, http: &str, prepare: impl Fn(Setup) -> Setup) -> Option<Both> {
        let nginx = oracle()?;
        let first = prepare(Setup::within(&root, "a", "127.0.0.1")).binary(&nginx).start(http);
        let second = prepare(Setup::within(&root, "b", "127.0.0.2")).ports(first.ports()).start(http);
        let name = |(index, port): (usize, &Arc<Port>)| (format!(":{}", port.number), format!(":PORT_{index}"));
        let known = first.ports().iter().enumerate().map(name).collect();
        Some(Both { oracle: first, ours: second, known })
    }

    /// Sends the bytes to both and fails, showing both answers, where they differ.
    #[track_caller]
    pub fn same(&self, request: impl AsRef<[u8]>) {
        let exchange = Exchange::new(request);
        let (expected, got) = self.ask(&exchange);
        let sent = String::from_utf8_lossy(&exchange.requests[0]).into_owned();
        assert!(expected == got, "for\n{sent}\n{}", difference(&expected, &got));
    }

    /// What both say, in the form in which it is compared.
    pub fn ask(&self, exchange: &Exchange) -> (String, String) {
        (self.plain_answer(&self.oracle, exchange), self.plain_answer(&self.ours, exchange))
    }

    fn plain_answer(&self, server: &Server, exchange: &Exchange) -> String {
        let text = talk(server, exchange);
        self.as_oracle(server, &text)
    }

    /// Writes one server's address as the other's, and names for what changes from run to run.
    pub fn as_oracle(&self, server: &Server, text: &str) -> String {
        let text = text.replace(&*server.prefix().to_string_lossy(), "PREFIX");
        let mut text = text.replace(server.host(), self.oracle.host());
        for (value, name) in &self.known {
            text = text.replace(value, name);
        }
        text
    }

    /// The lines of a log in which both must agree.
    pub fn log_lines(&self, server: &Server, name: &str) -> Vec<String> {
        static TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}"));
        static STAMP: LazyLock<Regex> =
            LazyLock::new(|| pattern(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] \d+#\d+: (\*\d+ )?"));
        static SECONDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d+\.\d{3}\b"));
        static SENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bsent=(\d+)"));
        let text = self.as_oracle(server, &server.log(name));
        let name_length = self.name_length(server);
        let mut lines = Vec::new();
        for line in text.lines() {
            let is_error_log = STAMP.is_match(line);
            if is_error_log && !line.contains("client: ") {
                continue; // the life of the server, not of a request
            }
            let line = STAMP.replace(line, "[$1] ");
            let line = TIME.replace_all(&line, "TIME");
            let line = SECONDS.replace_all(&line, "S.mmm");
            let sent = |found: &Captures<'_>| {
                let count: usize = found[1].parse().expect("digits");
                format!("sent={} and the name", count.saturating_sub(name_length))
            };
            lines.push(SENT.replace_all(&line, sent).into_owned());
        }
        lines
    }

    /// How long this server's name in the Server field is: logs count it, and the names differ.
    fn name_length(&self, server: &Server) -> usize {
        let mut client = Client::connect(&server.address(0));
        client.send("GET /the-name HTTP/1.1\r\nHost: the-name.invalid\r\nConnection: close\r\n\r\n");
        let response = client.response();
        response.field("Server").map_or(0, str::len)
    }
}

/// Has the exchange with one server and writes down what came, as `plain` text.
fn talk(server: &Server, exchange: &Exchange) -> String {
    let mut client = Client::connect(&server.address(exchange.listen));
    let mut text = String::new();
    for request in &exchange.requests {
        client.send(request);
        if exchange.half_close {
            client.half_close();
        }
        match client.try_response(PATIENCE) {
            Ok(response) => text.push_str(&plain(&response)),
            Err(why) => {
                text.push_str(&format!("({why})\n"));
                break;
            }
        }
    }
    client.half_close();
    if client.read_to_end(Instant::now() + PATIENCE).is_err() {
        text.push_str("(the server keeps the connection)\n");
    }
    while !client.buffer.is_empty() {
        match client.try_response(PATIENCE) {
            Ok(response) => text.push_str(&plain(&response)),
            Err(why) => {
                text.push_str(&format!("({why}: {:?})\n", String::from_utf8_lossy(&client.buffer)));
                break;
            }
        }
    }
    text
}

/// A response without what may differ: the server's name in its field and at the foot of error pages, the time, a
/// boundary's number, and how a compressor chose to say the same.
fn plain(response: &Response) -> String {
    static FOOT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"<hr><center>(?:nginx|weir)(?:/[0-9.]+)?</center>(\r?\n)"));
    static BOUNDARY: LazyLock<Regex> = LazyLock::new(|| pattern(r"boundary=(\d{20})"));
    let head = String::from_utf8_lossy(&response.head).into_owned();
    let mut text = String::from_utf8_lossy(&response.interim).replace('\r', "");
    let mut body = response.body.clone();
    let mut note = String::new();

    let encoded = response.field("Content-Encoding") == Some("gzip");
    let mut unzipped = Vec::new();
    if encoded && flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unzipped).is_ok() {
        note = "(gzip) ".to_owned();
        body = unzipped;
    }
    let mut page = String::from_utf8_lossy(&body).into_owned();
    let named = FOOT.is_match(&page);
    if named {
        page = FOOT.replace(&page, "<hr><center>NAME</center>$1").into_owned();
    }
    // A HEAD has the length of a page that it does not show.
    let counts_name = named || (response.status >= 300 && response.body.is_empty());
    let boundary = BOUNDARY.captures(&head).map(|found| found[1].to_owned());
    if let Some(boundary) = &boundary {
        page = page.replace(boundary, "BOUNDARY");
    }
    let date = response.field("Date").and_then(|date| httpdate::parse_http_date(date).ok());
    for line in head.trim_end_matches("\r\n").split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        let line = match name {
            "Server" => "Server: NAME".to_owned(),
            "Date" => "Date: NOW".to_owned(),
            "Content-Length" if counts_name && value != "0" => {
                let honest = !named || value.parse() == Ok(response.body.len());
                format!("Content-Length: {}", if honest { "of the page" } else { value })
            }
            "Expires" => match (date, httpdate::parse_http_date(value)) {
                (Some(now), Ok(then)) => format!("Expires: {}", relative(now, then)),
                _ => line.to_owned(),
            },
            _ => match &boundary {
                Some(boundary) => line.replace(boundary, "BOUNDARY"),
                None => line.to_owned(),
            },
        };
        text.push_str(&line);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&note);
    if body.len() > 3000 || std::str::from_utf8(&body).is_err() {
        text.push_str(&format!("({} bytes, MD5 {:x?})", body.len(), Md5::digest(&body).as_slice()));
    } else {
        text.push_str(&page.replace('\r', ""));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for line in response.trailers.lines() {
        text.push_str(&format!("(trailer) {line}\n"));
    }
    text
}

/// A time as its distance from now; a second more or less is the clock's.
fn relative(now: std::time::SystemTime, then: std::time::SystemTime) -> String {
    let seconds = match then.duration_since(now) {
        Ok(ahead) => ahead.as_secs().cast_signed(),
        Err(behind) => -behind.duration().as_secs().cast_signed(),
    };
    if seconds.abs() > 86_400 * 365 * 5 {
        return httpdate::fmt_http_date(then);
    }
    format!("now and {} s", (seconds + seconds.signum()) / 10 * 10)
}

/// Both texts in one: lines only the oracle has with `-`, lines only we have with `+`.
pub fn difference(expected: &str, got: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    // common[i][j]: how many lines left[i..] and right[j..] share in order.
    let mut common = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            let best = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if left[i] == right[j] { common[i + 1][j + 1] + 1 } else { best };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::from("    - expected   + the binary under test\n"));
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            text.push_str(&format!("      {}\n", left[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            text.push_str(&format!("    - {}\n", left[i]));
            i += 1;
        } else {
            text.push_str(&format!("    + {}\n", right[j]));
            j += 1;
        }
    }
    text
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a fixed pattern")
}

#[test]
fn a_difference_is_seen() {
    let Some(both) = Both::start("server { listen %%ADDR_0%%; return 200 $server_addr:$request_id; }") else { return };
    let (one, other) = both.ask(&Exchange::new("GET / HTTP/1.0\r\n\r\n"));
    assert!(one != other, "two random names are the same: {one}");
    both.same("GET /%zz HTTP/1.0\r\n\r\n");
}
