//! A server process with its own directory and ports.
//!
//! In: a configuration text with places to fill (`%%ADDR_0%%`, `%%PORT_0%%`, `%%PREFIX%%`, and what `Setup::set`
//! names). Out: a running server, its addresses and its logs. It is told to quit and waited for when dropped, and
//! a server that logged an alert or died fails the test that started it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use regex::Regex;
use tempfile::TempDir;

use super::ports::Port;
use super::{Client, DEADLINE, eventually, holds_within};

/// Every file of a test was last changed at this time, so that ETag and Last-Modified are known: Tue, 02 Jan 2024
/// 03:04:05 GMT.
pub const MODIFIED: u64 = 1_704_164_645;

/// What a server is to start with: files, names and ports.
pub struct Setup {
    root: Arc<TempDir>,
    prefix: PathBuf,
    host: String,
    ports: Vec<Arc<Port>>,
    names: Vec<(String, String)>,
    main: String,
    binary: PathBuf,
    /// In half kilobytes.
    largest_file: Option<u32>,
    alerts: bool,
    pid_file: &'static str,
}

impl Setup {
    pub fn new() -> Setup {
        let open = Permissions::from_mode(0o755);
        let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
        Setup::within(&Arc::new(root), "a", "127.0.0.1")
    }

    /// One of several servers of a test: its directory is `name` under `root`, its address is `host`.
    pub fn within(root: &Arc<TempDir>, name: &str, host: &str) -> Setup {
        let prefix = root.path().join(name);
        for directory in ["", "conf", "html", "logs", "temp"] {
            make_directory(&prefix.join(directory));
        }
        let (root, host) = (root.clone(), host.to_owned());
        Setup {
            root,
            prefix,
            host,
            ports: Vec::new(),
            names: Vec::new(),
            main: String::new(),
            binary: super::binary(),
            largest_file: None,
            alerts: false,
            pid_file: "pid",
        }
    }

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Writes a file below the prefix, readable by the worker, with the fixed time of last change.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Setup {
        write_file(&self.prefix.join(path), content.as_ref());
        self
    }

    /// Writes a file that is part of the configuration, with its places filled.
    pub fn include(mut self, path: &str, text: &str) -> Setup {
        let text = self.fill(text);
        self.file(path, text)
    }

    pub fn link(self, path: &str, target: &str) -> Setup {
        let path = self.prefix.join(path);
        make_directory(path.parent().expect("a link has a directory"));
        symlink(target, path).expect("a link is made");
        self
    }

    pub fn mode(self, path: &str, mode: u32) -> Setup {
        fs::set_permissions(self.prefix.join(path), Permissions::from_mode(mode)).expect("the mode is set");
        self
    }

    /// Gives every directory and link below the prefix the fixed time of last change, once all files are there.
    pub fn settle(self) -> Setup {
        settle(&self.prefix);
        self
    }

    /// Fills `%%NAME%%` in configuration texts.
    pub fn set(mut self, name: &str, value: impl ToString) -> Setup {
        self.names.push((format!("%%{name}%%"), value.to_string()));
        self
    }

    /// More directives for the main level.
    pub fn main(mut self, text: &str) -> Setup {
        self.main.push_str(text);
        self.main.push('\n');
        self
    }

    pub fn binary(mut self, path: &Path) -> Setup {
        self.binary = path.to_owned();
        self
    }

    /// A file that would be larger than so many half kilobytes is refused, as if the disk were full.
    pub fn largest_file(mut self, blocks: u32) -> Setup {
        self.largest_file = Some(blocks);
        self
    }

    /// Shares the ports of another server (which then listens on another address).
    pub fn ports(mut self, ports: &[Arc<Port>]) -> Setup {
        self.ports = ports.to_vec();
        self
    }

    /// Where a whole configuration puts its pid file, below the prefix.
    pub fn pid_file(mut self, path: &'static str) -> Setup {
        self.pid_file = path;
        self
    }

    /// The test provokes an `[alert]` and looks at it itself.
    pub fn allow_alerts(mut self) -> Setup {
        self.alerts = true;
        self
    }

    /// Starts with `http` as the content of the `http` block.
    pub fn start(self, http: &str) -> Server {
        let text = self.frame(http);
        self.start_text(&text)
    }

    /// Starts with a whole configuration file.
    pub fn start_text(mut self, text: &str) -> Server {
        let text = self.fill(text);
        let conf = self.prefix.join("conf/nginx.conf");
        write_file(&conf, text.as_bytes());
        let stderr = File::create(self.prefix.join("stderr")).expect("a file for stderr");
        let mut command = self.command(&["-g", "daemon off;"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let mut server = Server { setup: self, child, stopped: None };
        server.wait_until_ready();
        server
    }

    /// Runs the binary with `-t` on a whole configuration text and returns what it said.
    pub fn check_text(mut self, text: &str) -> Output {
        let text = self.fill(text);
        write_file(&self.prefix.join("conf/nginx.conf"), text.as_bytes());
        self.command(&["-t"]).output().expect("the binary runs")
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = match self.largest_file {
            None => Command::new(&self.binary),
            Some(blocks) => {
                let mut shell = Command::new("sh");
                let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
                shell.args(["-c", &limited]).arg(&self.binary);
                shell
            }
        };
        command.arg("-p").arg(&self.prefix).args(["-c", "conf/nginx.conf", "-e", "stderr"]).args(more);
        // The tests compare local times.
        command.env("TZ", "UTC").current_dir(&self.prefix);
        command
    }

    /// The frame around the content of an `http` block: what every test needs and none is about.
    fn frame(&self, http: &str) -> String {
        let user = if nix::unistd::Uid::effective().is_root() { "user nobody nogroup;" } else { "" };
        let access_log = if http.contains("access_log") { "" } else { "access_log logs/access.log;" };
        let error_log = if self.main.contains("error_log") { "" } else { "error_log logs/error.log info;" };
        let events = if self.main.contains("events") { "" } else { "events { worker_connections 1024; }" };
        let mut temp = String::new();
        for (name, user) in [("client_body", ""), ("proxy", "proxy_pass"), ("fastcgi", "fastcgi_")] {
            if http.contains(user) {
                temp.push_str(&format!("{name}_temp_path temp/{name};\n"));
            }
        }
        format!(
            "{user}\n{error_log}\npid %%PREFIX%%/pid;\n{}\n{events}\nhttp {{\n\
             {temp}{access_log}\n{http}\n}}\n",
            self.main
        )
    }

    /// Puts values in the places; ports are allotted as the text asks for them.
    fn fill(&mut self, text: &str) -> String {
        let mut text = text.replace("%%PREFIX%%", &self.prefix.to_string_lossy());
        for (name, value) in &self.names {
            text = text.replace(name, value);
        }
        let place = Regex::new("%%(ADDR|PORT)_([0-9])%%").expect("a fixed pattern");
        while let Some(found) = place.captures(&text) {
            let index: usize = found[2].parse().expect("a digit");
            while self.ports.len() <= index {
                self.ports.push(Arc::new(Port::allot()));
            }
            let number = self.ports[index].number;
            let value = if &found[1] == "ADDR" { format!("{}:{number}", self.host) } else { number.to_string() };
            text = text.replace(&found[0], &value);
        }
        if let Some(at) = text.find("%%") {
            let rest: String = text[at..].chars().take(30).collect();
            panic!("nothing to fill in at {rest}");
        }
        text
    }
}

/// A running server.
pub struct Server {
    setup: Setup,
    child: Child,
    stopped: Option<ExitStatus>,
}

impl Server {
    /// Starts the binary under test with `http` as the content of the `http` block.
    pub fn start(http: &str) -> Server {
        Setup::new().start(http)
    }

    /// The address that `%%ADDR_n%%` stood for.
    pub fn address(&self, index: usize) -> String {
        format!("{}:{}", self.setup.host, self.port(index))
    }

    pub fn port(&self, index: usize) -> u16 {
        self.setup.ports[index].number
    }

    pub fn ports(&self) -> &[Arc<Port>] {
        &self.setup.ports
    }

    pub fn host(&self) -> &str {
        &self.setup.host
    }

    /// Connects to `%%ADDR_0%%`.
    pub fn client(&self) -> Client {
        Client::connect(&self.address(0))
    }

    /// One request on a connection of its own to `%%ADDR_0%%`: `GET path` with `Host: localhost`.
    pub fn fetch(&self, path: &str) -> super::Response {
        self.fetch_from(0, path)
    }

    /// The same from `%%ADDR_n%%`.
    pub fn fetch_from(&self, index: usize, path: &str) -> super::Response {
        let mut client = Client::connect(&self.address(index));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        client.response()
    }

    pub fn prefix(&self) -> &Path {
        &self.setup.prefix
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.setup.prefix.join(name)
    }

    /// Replaces the configuration file; `reload` makes it count.
    pub fn configure(&mut self, http: &str) {
        let text = self.setup.frame(http);
        let text = self.setup.fill(&text);
        write_file(&self.setup.prefix.join("conf/nginx.conf"), text.as_bytes());
    }

    /// The master's pid.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The pids of the processes that the master has started and that still run.
    pub fn workers(&self) -> Vec<Pid> {
        let pid = self.child.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the server is there to be signalled");
    }

    /// Sends HUP. What the new configuration changes is to be waited for by the caller.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Tells the server to quit and returns how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        if self.stopped.is_none() && self.running() {
            self.signal(Signal::SIGQUIT);
        }
        self.wait()
    }

    /// Waits for the server to end by itself or by a signal already sent.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = holds_within(DEADLINE, || !self.running());
        assert!(ended, "the server did not end{}", self.story());
        self.stopped.expect("it has ended")
    }

    pub fn running(&mut self) -> bool {
        if self.stopped.is_none() {
            self.stopped = self.child.try_wait().expect("the child can be waited for");
        }
        self.stopped.is_none()
    }

    pub fn stderr(&self) -> String {
        self.log("../stderr")
    }

    pub fn error_log(&self) -> String {
        self.log("error.log")
    }

    /// The text of a file in `logs/`; empty when it is not there yet.
    pub fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.setup.prefix.join("logs").join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the error log has a line with `text`, and returns that line.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_line("error.log", text)
    }

    /// Waits until a file in `logs/` has a line with `text`, and returns that line.
    #[track_caller]
    pub fn wait_for_line(&self, name: &str, text: &str) -> String {
        let line = || self.log(name).lines().find(|line| line.contains(text)).map(str::to_owned);
        let found = holds_within(DEADLINE, || line().is_some());
        assert!(found, "no line with {text:?} in {name}:\n{}", self.log(name));
        line().expect("it was there")
    }

    /// Waits until a file in `logs/` has `count` lines, and returns them.
    #[track_caller]
    pub fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        let lines = || self.log(name).lines().map(str::to_owned).collect::<Vec<_>>();
        holds_within(DEADLINE, || lines().len() >= count);
        let lines = lines();
        assert_eq!(lines.len(), count, "lines in {name}: {lines:#?}");
        lines
    }

    fn wait_until_ready(&mut self) {
        let pid_file = self.setup.prefix.join(self.setup.pid_file);
        let ready = |server: &mut Server| fs::metadata(&pid_file).is_ok_and(|file| file.len() > 0) || !server.running();
        let settled = holds_within(DEADLINE, || ready(self));
        if !settled || !self.running() {
            panic!("{} did not start{}", self.setup.binary.display(), self.story());
        }
    }

    /// What there is to know about a server in trouble.
    fn story(&self) -> String {
        let conf = fs::read_to_string(self.setup.prefix.join("conf/nginx.conf")).unwrap_or_default();
        format!(
            "\n--- stderr\n{}\n--- error log\n{}\n--- configuration\n{conf}\n---",
            self.stderr().trim_end(),
            self.error_log().trim_end()
        )
    }

    /// Lines that no test may leave behind.
    fn alerts(&self) -> Vec<String> {
        let text = self.error_log() + &self.stderr();
        let bad = |line: &&str| ["[alert]", "[emerg]", "panicked at"].iter().any(|word| line.contains(word));
        text.lines().filter(bad).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let workers = self.workers();
        if self.running() {
            let _ = kill(self.pid(), Signal::SIGTERM);
            if !holds_within(Duration::from_secs(10), || !self.running()) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                for worker in workers {
                    let _ = kill(worker, Signal::SIGKILL);
                }
            }
        }
        if std::thread::panicking() {
            if let Some(place) = std::env::var_os("WEIR_TEST_LEAVE") {
                let kept = PathBuf::from(place).join(self.setup.root.path().file_name().expect("it has a name"));
                let copied = Command::new("cp").arg("-a").arg(self.setup.root.path()).arg(&kept).status();
                eprintln!("left at {}: {copied:?}", kept.display());
            }
            eprintln!("--- error log of {}\n{}", self.setup.binary.display(), self.error_log().trim_end());
            return;
        }
        let alerts = self.alerts();
        assert!(self.setup.alerts || alerts.is_empty(), "the server logged {alerts:#?}");
    }
}

/// Writes a file, its directories and its time of last change.
pub fn write_file(path: &Path, content: &[u8]) {
    make_directory(path.parent().expect("a file has a directory"));
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.write_all(content).expect("the file is written");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED)).expect("the time is set");
}

/// Sets the time of last change of a directory, and of all directories and links in it.
fn settle(path: &Path) {
    let kind = fs::symlink_metadata(path).expect("it is ours").file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("the directory is ours") {
            settle(&entry.expect("the directory can be read").path());
        }
    }
    if !kind.is_file() {
        let time = TimeSpec::new(MODIFIED.cast_signed(), 0);
        utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("the time is set");
    }
}

/// Makes a directory that a worker of any user may use.
pub fn make_directory(path: &Path) {
    let missing = || path.ancestors().take_while(|ancestor| !ancestor.exists());
    let made: Vec<PathBuf> = missing().map(Path::to_owned).collect();
    fs::create_dir_all(path).expect("a directory is made");
    for directory in made {
        fs::set_permissions(directory, Permissions::from_mode(0o777)).expect("the directory is ours");
    }
}

#[test]
fn a_server_starts_answers_reloads_and_stops() {
    let mut server = Setup::new().file("html/a.txt", "one").start("server { listen %%ADDR_0%%; root html; }");
    server.fetch("/a.txt").expect_status(200).expect_body("one");
    server.configure("server { listen %%ADDR_0%%; return 204; }");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/a.txt").status == 204);
    assert!(server.wait_for_line("access.log", "/a.txt").contains("\"GET /a.txt HTTP/1.1\" 200 3"));
    assert!(server.stop().success());
}
