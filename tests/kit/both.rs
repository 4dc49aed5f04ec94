//! The same configuration, files and bytes to Debian's nginx and to the binary under test, and the answers compared.
//!
//! Both servers have the same port numbers on two loopback addresses, and directories whose names have the same
//! length, so that answers which speak of themselves compare byte for byte after one is written for the other.
//! What may differ is taken out by `plain`, and nothing else is.

use std::cell::Cell;
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
    /// How long each one's name is in its Server field: logs count it, and the names differ.
    name_lengths: [Cell<usize>; 2],
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
        Both::within(&Arc::new(root), |setup| prepare(setup).start(http))
    }

    /// Both in directories of `root`, each started by `start`.
    pub fn within(root: &Arc<TempDir>, start: impl Fn(Setup) -> Server) -> Option<Both> {
        let nginx = oracle()?;
        let first = start(Setup::within(root, "a", "127.0.0.1").binary(&nginx));
        let second = start(Setup::within(root, "b", "127.0.0.2").ports(first.ports()));
        let name = |(index, port): (usize, &Arc<Port>)| (format!(":{}", port.number), format!(":PORT_{index}"));
        let known = first.ports().iter().enumerate().map(name).collect();
        Some(Both { oracle: first, ours: second, known, name_lengths: [Cell::new(0), Cell::new(0)] })
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
        let answer = |server: &Server, name_length: &Cell<usize>| {
            let responses = talk(server, exchange);
            let names = responses.iter().filter_map(|response| response.as_ref().ok()?.field("Server"));
            name_length.set(names.map(str::len).max().unwrap_or(name_length.get()));
            let plain = |response: &Result<Response, String>| response.as_ref().map_or_else(String::clone, plain);
            self.as_oracle(server, &responses.iter().map(plain).collect::<String>())
        };
        (answer(&self.oracle, &self.name_lengths[0]), answer(&self.ours, &self.name_lengths[1]))
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

    /// The lines of a log in which both must agree: the oracle's, and ours.
    pub fn log_lines(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let lines = |server: &Server, name_length: &Cell<usize>| {
            let text = self.as_oracle(server, &server.log(name));
            text.lines().filter_map(|line| plain_log_line(line, name_length.get())).collect()
        };
        (lines(&self.oracle, &self.name_lengths[0]), lines(&self.ours, &self.name_lengths[1]))
    }
}

/// A line of a log without what may differ: times, process numbers, and what the server's name adds to counted bytes.
/// `None`: the line tells of the server's life, not of a request.
fn plain_log_line(line: &str, name_length: usize) -> Option<String> {
    static STAMP: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] \d+#\d+: (\*\d+ )?"));
    static TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}"));
    static SECONDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\d+\.\d{3}\b"));
    // Status and size of a built-in page, with and without all bytes sent beside it.
    static PAGE: LazyLock<Regex> = LazyLock::new(|| pattern(r#"([ |"][3-5]\d\d[ |])(\d{3})([ |])(?:sent=(\d+))?"#));
    static SENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"sent=(\d{3,})"));
    if STAMP.is_match(line) && !line.contains("client: ") {
        return None;
    }
    let less = |count: &str, names: usize| {
        let count: usize = count.parse().expect("digits");
        format!("{}+name", count.saturating_sub(name_length * names))
    };
    let line = STAMP.replace(line, "[$1] ");
    let line = TIME.replace_all(&line, "TIME");
    let line = SECONDS.replace_all(&line, "S.mmm");
    let page = |found: &Captures<'_>| {
        let sent = found.get(4).map(|sent| format!("sent:{}", less(sent.as_str(), 2))).unwrap_or_default();
        format!("{}{}{}{sent}", &found[1], less(&found[2], 1), &found[3])
    };
    let line = PAGE.replace(&line, page);
    Some(SENT.replace_all(&line, |found: &Captures<'_>| format!("sent={}", less(&found[1], 1))).into_owned())
}

/// Has the exchange with one server: what it answered, or why there is no answer.
fn talk(server: &Server, exchange: &Exchange) -> Vec<Result<Response, String>> {
    let mut client = Client::connect(&server.address(exchange.listen));
    let mut answers = Vec::new();
    for request in &exchange.requests {
        client.send(request);
        if exchange.half_close {
            client.half_close();
        }
        let answer = client.try_response(PATIENCE).map_err(|why| format!("({why})\n"));
        let broken = answer.is_err();
        answers.push(answer);
        if broken {
            break;
        }
    }
    client.half_close();
    if client.read_to_end(Instant::now() + PATIENCE).is_err() {
        answers.push(Err("(the server keeps the connection)\n".to_owned()));
    }
    while !client.buffer.is_empty() {
        let rest = String::from_utf8_lossy(&client.buffer).into_owned();
        let answer = client.try_response(PATIENCE).map_err(|why| format!("({why}: {rest:?})\n"));
        let broken = answer.is_err();
        answers.push(answer);
        if broken {
            break;
        }
    }
    answers
}

/// A response without what may differ: the server's name in its field and at the foot of error pages, the time, a
/// boundary's number, and how a compressor chose to say the same.
fn plain(response: &Response) -> String {
    static FOOT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"<hr><center>(?:nginx|weir)(?:/[0-9.]+)?</center>(\r?\n)"));
    static BOUNDARY: LazyLock<Regex> = LazyLock::new(|| pattern(r"boundary=(\d{20})"));
    let head = String::from_utf8_lossy(&response.head).into_owned();
    let mut text = String::new();
    for line in String::from_utf8_lossy(&response.interim).split_terminator("\r\n") {
        let name = line.split(": ").next().unwrap_or_default();
        text.push_str(if name == "Server" || name == "Date" { name } else { line });
        text.push('\n');
    }
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
    let Some(both) = Both::start("server { listen %%ADDR_0%%; return 200 $server_addr:$request_id; }") else {
        return;
    };
    let (one, other) = both.ask(&Exchange::new("GET / HTTP/1.0\r\n\r\n"));
    assert!(one != other, "two random names are the same: {one}");
    both.same("GET /%zz HTTP/1.0\r\n\r\n");
}
