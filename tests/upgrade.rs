//! Masters that follow each other: USR2, the way back, WINCH, sockets that were open before, and what a service manager
//! is told. And the storm: every signal at every moment, while clients are served.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::kit::ports::Port;
use crate::kit::{self, Client, DEADLINE, eventually, holds_within};

/// A server that began as a daemon, whichever process is its master now.
struct Fleet {
    root: TempDir,
    port: Port,
}

impl Fleet {
    /// Starts `program` by a link to it, so that another one can take its place.
    fn start(program: &Path, http: &str) -> Fleet {
        let fleet = Fleet::prepare(program, http);
        let mut command = fleet.command();
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eventually("the pid is written", || fleet.pid_in("pid").is_some());
        fleet
    }

    fn prepare(program: &Path, http: &str) -> Fleet {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
        let fleet = Fleet { root, port: Port::allot() };
        for directory in ["logs", "temp"] {
            kit::server::make_directory(&fleet.path(directory));
        }
        fleet.install(program);
        fleet.configure(http);
        fleet
    }

    fn install(&self, program: &Path) {
        let _ = fs::remove_file(self.path("server")); // the first time there is none
        std::os::unix::fs::symlink(program, self.path("server")).expect("the directory is ours");
    }

    fn configure(&self, http: &str) {
        let user = if nix::unistd::Uid::effective().is_root() { "user nobody nogroup;" } else { "" };
        let (prefix, address) = (self.root.path().display(), self.address());
        let text = format!(
            "{user} pid {prefix}/pid; error_log {prefix}/logs/error.log notice;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log {prefix}/logs/access.log; client_body_temp_path {prefix}/temp/body;\n\
             proxy_temp_path {prefix}/temp/proxy; fastcgi_temp_path {prefix}/temp/fastcgi;\n\
             uwsgi_temp_path {prefix}/temp/uwsgi; scgi_temp_path {prefix}/temp/scgi;\n{http}\n}}\n"
        );
        let text = text.replace("ADDRESS", &address).replace("PREFIX", &prefix.to_string());
        kit::server::write_file(&self.path("nginx.conf"), text.as_bytes());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path("server"));
        command.arg("-p").arg(self.root.path()).args(["-c", "nginx.conf", "-e", "logs/error.log"]);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    fn pid_in(&self, name: &str) -> Option<Pid> {
        fs::read_to_string(self.path(name)).ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    #[track_caller]
    fn master(&self) -> Pid {
        eventually("a pid is written", || self.pid_in("pid").is_some());
        self.pid_in("pid").expect("it was there")
    }

    fn signal(&self, pid: Pid, signal: Signal) {
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}; {}", self.log()));
    }

    /// USR2, until both masters have their files. Gives the old one and the new one.
    #[track_caller]
    fn upgrade(&self) -> (Pid, Pid) {
        let old = self.master();
        self.signal(old, Signal::SIGUSR2);
        let both = || self.pid_in("pid.oldbin") == Some(old) && self.pid_in("pid").is_some_and(|pid| pid != old);
        assert!(holds_within(DEADLINE, both), "no new master: {}", self.log());
        (old, self.master())
    }

    #[track_caller]
    fn ended(&self, pid: Pid) {
        assert!(holds_within(DEADLINE, || kill(pid, None).is_err()), "{pid} does not end: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("logs/error.log")).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        assert!(holds_within(DEADLINE, || self.log().contains(text)), "no {text:?} in\n{}", self.log());
    }

    fn fetch(&self) -> kit::Response {
        let mut client = Client::connect(&self.address());
        client.send("GET / HTTP/1.0\r\n\r\n");
        client.response()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for name in ["pid", "pid.oldbin"] {
            if let Some(pid) = self.pid_in(name) {
                let _ = kill(pid, Signal::SIGTERM);
                holds_within(Duration::from_secs(10), || kill(pid, None).is_err());
            }
        }
    }
}

fn is_weir() -> bool {
    kit::binary().file_name().is_some_and(|name| name == "weir")
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw).collect()
}

/// The children that are workers: a new binary is a child, too.
fn workers(pid: Pid) -> Vec<Pid> {
    let worker = |pid: &Pid| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.contains("worker process"))
    };
    children(pid).into_iter().filter(worker).collect()
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

const TWO_SOCKETS: &str = "server { listen ADDRESS; listen unix:PREFIX/s; return 200 one; }";

fn over_unix(path: &Path) -> String {
    let mut client = UnixStream::connect(path).expect("it listens");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn a_new_binary_takes_the_sockets_over_and_the_old_one_leaves_them() {
    let fleet = Fleet::start(&kit::binary(), TWO_SOCKETS);
    let (old, new) = fleet.upgrade();
    fleet.wait_for_log("using inherited sockets from \"");
    fleet.wait_for_log(&format!("start new binary process {new}"));
    fleet.fetch().expect_body("one");
    // Neither may start a third.
    for pid in [old, new] {
        fleet.signal(pid, Signal::SIGUSR2);
    }
    let ignored = "the changing binary signal is ignored: you should shutdown or terminate before either old or new";
    eventually("both say no", || fleet.log().matches(ignored).count() == 2);
    fleet.signal(old, Signal::SIGQUIT);
    fleet.ended(old);
    assert!(!fleet.path("pid.oldbin").exists());
    assert_eq!(fleet.pid_in("pid"), Some(new));
    assert!(over_unix(&fleet.path("s")).ends_with("one"));
    fleet.fetch().expect_body("one");
    // Now the new one is the old one.
    let (old, new) = fleet.upgrade();
    fleet.signal(old, Signal::SIGTERM);
    fleet.ended(old);
    fleet.fetch().expect_body("one");
    fleet.signal(new, Signal::SIGQUIT);
    fleet.ended(new);
    assert!(!fleet.path("s").exists() && !fleet.path("pid").exists());
}

#[test]
fn the_way_back_from_a_new_binary_is_open() {
    let fleet = Fleet::start(&kit::binary(), TWO_SOCKETS);
    for ending in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGKILL] {
        let (old, new) = fleet.upgrade();
        // The old one stops to accept, and would have its workers again by HUP.
        eventually("it has a worker", || !workers(old).is_empty());
        fleet.signal(old, Signal::SIGWINCH);
        eventually("its worker goes", || workers(old).is_empty());
        fleet.fetch().expect_body("one");
        let orphans = workers(new);
        fleet.signal(new, ending);
        eventually("the pid file is back", || fleet.pid_in("pid") == Some(old));
        eventually("the old one has a worker again", || workers(old).len() == 1);
        assert!(!fleet.path("pid.oldbin").exists());
        if ending == Signal::SIGKILL {
            // nginx: a worker whose master was killed serves on, and is to be ended by hand
            orphans.iter().for_each(|&pid| fleet.signal(pid, Signal::SIGTERM));
            // Until it is gone it may still accept, and take the connection with it.
            eventually("it goes", || orphans.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        }
        fleet.fetch().expect_body("one");
        assert!(over_unix(&fleet.path("s")).ends_with("one"));
    }
}

#[test]
fn a_new_binary_that_does_not_start_changes_nothing() {
    let fleet = Fleet::start(&kit::binary(), TWO_SOCKETS);
    let master = fleet.master();
    fs::write(fleet.path("nginx.conf"), "events {} no_such_directive;").expect("the file is ours");
    fleet.signal(master, Signal::SIGUSR2);
    fleet.wait_for_log("unknown directive \"no_such_directive\"");
    fleet.wait_for_log("exited with code 1");
    eventually("the pid file is back", || fleet.pid_in("pid") == Some(master));
    fleet.fetch().expect_body("one");
    // Nor does one that is not there at all.
    fs::remove_file(fleet.path("server")).expect("it is there");
    fleet.signal(master, Signal::SIGUSR2);
    fleet.wait_for_log("while executing new binary process \"");
    eventually("the pid file is back", || fleet.pid_in("pid") == Some(master));
    fleet.fetch().expect_body("one");
}

#[test]
fn winch_ends_the_workers_and_hup_brings_them_back() {
    let fleet = Fleet::start(&kit::binary(), TWO_SOCKETS);
    let master = fleet.master();
    eventually("a worker runs", || workers(master).len() == 1);
    fleet.signal(master, Signal::SIGWINCH);
    eventually("no worker is left", || workers(master).is_empty());
    // The sockets are open: a client waits.
    let mut early = Client::connect(&fleet.address());
    early.send("GET / HTTP/1.0\r\n\r\n");
    fleet.configure("server { listen ADDRESS; return 200 two; }");
    fleet.signal(master, Signal::SIGHUP);
    early.response().expect_status(200).expect_body("two");
    eventually("one worker runs", || workers(master).len() == 1);
}

#[test]
fn nginx_hands_over_to_weir_and_takes_over_again() {
    let (Some(nginx), true) = (kit::oracle(), is_weir()) else { return };
    let fleet = Fleet::prepare(&nginx, "server { listen ADDRESS; location / { return 200 one; } }");
    let started = fleet.command().output().expect("nginx runs");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let server = || fleet.fetch().field("Server").unwrap_or_default().to_owned();
    assert!(server().starts_with("nginx"));
    for (program, name) in [(kit::binary(), "weir"), (nginx, "nginx")] {
        fleet.install(&program);
        let (old, new) = fleet.upgrade();
        fleet.signal(old, Signal::SIGQUIT);
        fleet.ended(old);
        assert!(server().starts_with(name), "{}", server());
        assert_eq!(fleet.pid_in("pid"), Some(new));
    }
}

#[test]
fn sockets_of_a_service_manager_are_used() {
    if !is_weir() {
        return; // nginx does not know them
    }
    let fleet = Fleet::prepare(&kit::binary(), "server { listen ADDRESS; listen unix:PREFIX/s; return 200 one; }");
    let socket = TcpListener::bind(fleet.address()).expect("the port is ours");
    // A client is there before the server is.
    let mut early = Client::connect(&fleet.address());
    early.send("GET / HTTP/1.0\r\n\r\n");
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(fleet.path("server")).arg("-p").arg(fleet.root.path());
    command.args(["-c", "nginx.conf", "-e", "logs/error.log", "-g", "daemon off;"]);
    let mut child = command.stdin(Stdio::from(OwnedFd::from(socket))).spawn().expect("a shell runs");
    early.response().expect_status(200).expect_body("one");
    fleet.wait_for_log("using 1 sockets of the service manager");
    fleet.signal(fleet.master(), Signal::SIGQUIT);
    assert!(child.wait().expect("it is our child").success());
}

#[test]
fn a_service_manager_is_told_what_happens() {
    if !is_weir() {
        return;
    }
    let fleet = Fleet::prepare(&kit::binary(), TWO_SOCKETS);
    let manager = UnixDatagram::bind(fleet.path("notify")).expect("the directory is ours");
    manager.set_read_timeout(Some(DEADLINE)).expect("a timeout is set");
    let hear = || {
        let mut bytes = [0; 200];
        let length = manager.recv(&mut bytes).expect("it says something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut command = fleet.command();
    let mut child =
        command.args(["-g", "daemon off;"]).env("NOTIFY_SOCKET", fleet.path("notify")).spawn().expect("it runs");
    let ready = hear();
    assert!(ready.starts_with(&format!("READY=1\nMAINPID={}\n", child.id())), "{ready}");
    fleet.signal(fleet.master(), Signal::SIGHUP);
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(hear().starts_with("READY=1\n"));
    fleet.configure("server { listen ADDRESS; retrun 200 two; }");
    fleet.signal(fleet.master(), Signal::SIGHUP);
    assert!(hear().starts_with("RELOADING=1\n"));
    assert!(hear().contains("the last reload failed"));
    fleet.configure(TWO_SOCKETS);
    let (old, new) = fleet.upgrade();
    assert!(hear().starts_with(&format!("READY=1\nMAINPID={new}\n")));
    fleet.signal(old, Signal::SIGQUIT);
    // The old main process says it, whose word counts.
    assert_eq!(hear(), format!("MAINPID={new}"));
    assert!(child.wait().expect("it is our child").success());
    fleet.signal(new, Signal::SIGQUIT);
    assert_eq!(hear(), "STOPPING=1");
    fleet.ended(new);
}

/// Clients that ask without pause, each on a connection of its own kind.
struct Load {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    /// The connection ended in the middle.
    cut: AtomicUsize,
    refused: AtomicUsize,
    wrong: AtomicUsize,
}

impl Load {
    /// `clients` that expect `body`; those of an odd number keep their connections for some requests.
    fn start(address: &str, clients: usize, body: &'static str) -> Load {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let run = |number: usize| {
            let (over, counts, address) = (over.clone(), counts.clone(), address.to_owned());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    Load::connection(&address, if number.is_multiple_of(2) { 1 } else { 20 }, body, &counts);
                }
            })
        };
        let clients = (0..clients).map(run).collect();
        Load { over, counts, clients }
    }

    fn connection(address: &str, requests: usize, body: &str, counts: &Counts) {
        let Ok(stream) = TcpStream::connect(address) else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut client = Client::from_stream(stream);
        for number in 1..=requests {
            let close = if number == requests { "Connection: close\r\n" } else { "" };
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{close}\r\n"));
            match client.try_response(DEADLINE) {
                Ok(response) => {
                    let right = response.status == 200 && response.text_body() == body;
                    (if right { &counts.answered } else { &counts.wrong }).fetch_add(1, Ordering::Relaxed);
                    if response.field("Connection") == Some("close") {
                        return;
                    }
                }
                // An idle connection was closed while the next request was under way: a client asks again (RFC 9112, 9.3.1).
                Err(_) if number > 1 && client.buffer.is_empty() => return,
                Err(_) => {
                    counts.cut.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            // The pace of one client: the machine is to serve, and to change its servers.
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(self) -> Arc<Counts> {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client does not panic");
        }
        self.counts
    }
}

impl Counts {
    fn of(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::Relaxed)
    }
}

const BODY: &str = "the same few words each time";

fn storm_conf() -> String {
    format!("server {{ listen ADDRESS; keepalive_timeout 65; location / {{ return 200 '{BODY}'; }} }}")
}

#[test]
fn a_hundred_reloads_under_load_lose_no_request() {
    if !is_weir() {
        return; // nginx cuts keep-alive connections that are busy at the moment
    }
    let fleet = Fleet::start(&kit::binary(), &storm_conf());
    let master = fleet.master();
    let load = Load::start(&fleet.address(), 32, BODY);
    let mut before = (0, 0);
    for number in 1..=100 {
        fleet.signal(master, Signal::SIGHUP);
        let done = || fleet.log().matches("reconfiguring").count() >= 2 * number; // the signal's line and the load's
        assert!(holds_within(DEADLINE, done), "reload {number}: {}", fleet.log());
        if number == 20 {
            before = (descriptors(master), resident(master));
        }
    }
    let counts = load.end();
    assert_eq!(workers(master).len(), 1);
    assert!(Counts::of(&counts.answered) > 100);
    assert_eq!([&counts.refused, &counts.cut, &counts.wrong].map(Counts::of), [0, 0, 0], "{}", fleet.log());
    eventually("nothing more is open", || descriptors(master) <= before.0);
    let grown = resident(master).saturating_sub(before.1);
    assert!(grown < 2048, "80 reloads cost the master {grown} KiB");
}

#[test]
fn a_large_configuration_is_read_while_clients_are_served() {
    if !is_weir() {
        return;
    }
    let conf = |answer: &str| {
        let mut conf = format!("server {{ listen ADDRESS default_server; return 200 {answer}; }}\n");
        for number in 0..5000 {
            conf.push_str(&format!(
                "server {{ listen ADDRESS; server_name s{number}.example *.s{number}.example; root /srv/{number};\n\
                 location / {{ try_files $uri =404; }} location /api/ {{ return 204; }} }}\n"
            ));
        }
        conf
    };
    let fleet = Fleet::start(&kit::binary(), &conf("one"));
    fleet.fetch().expect_body("one");
    fleet.configure(&conf("two"));
    let begun = std::time::Instant::now();
    fleet.signal(fleet.master(), Signal::SIGHUP);
    let (mut answers, mut longest) = (0, Duration::ZERO);
    loop {
        let asked = std::time::Instant::now();
        let answer = fleet.fetch().expect_status(200).text_body();
        longest = longest.max(asked.elapsed());
        if answer == "two" {
            break;
        }
        answers += 1;
        assert!(begun.elapsed() < DEADLINE, "{}", fleet.log());
    }
    let whole = begun.elapsed();
    if std::env::var_os("WEIR_TEST_COSTS").is_some() {
        eprintln!("5,000 servers: in force after {whole:?}; {answers} answers meanwhile, the slowest in {longest:?}");
    }
    // Nobody waits for the load: whatever it takes here, an answer takes a part of it.
    assert!(answers > 3 && longest * 2 < whole, "{answers} answers in {whole:?}, the longest took {longest:?}");
}

/// KiB of memory in use.
fn resident(pid: Pid) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn five_hundred_signals_under_load_leave_one_master_and_one_worker() {
    if !is_weir() {
        return; // nginx may lose connections of a killed worker's queue
    }
    let fleet = Fleet::start(&kit::binary(), &storm_conf());
    let first = fleet.master();
    eventually("a worker runs", || workers(first).len() == 1);
    fleet.fetch().expect_body(BODY);
    let before = descriptors(first);
    let load = Load::start(&fleet.address(), 32, BODY);
    let mut dice = Dice(0x5EED_0F57_0842);
    let mut sent = 0;
    while sent < 500 {
        let master = fleet.master();
        match dice.below(20) {
            0..9 => fleet.signal(master, Signal::SIGHUP),
            9..14 => fleet.signal(master, Signal::SIGUSR1),
            14..16 => {
                for worker in workers(master) {
                    // It may have ended by itself.
                    let _ = kill(worker, Signal::SIGKILL);
                }
            }
            16..18 => {
                fleet.signal(master, Signal::SIGWINCH);
                thread::sleep(Duration::from_millis(dice.below(20)));
                fleet.signal(master, Signal::SIGHUP);
                sent += 1;
            }
            _ => {
                let (old, new) = fleet.upgrade();
                sent += 1;
                if dice.below(2) == 0 {
                    fleet.signal(old, Signal::SIGWINCH);
                    sent += 1;
                }
                let (gone, stays) = if dice.below(2) == 0 { (old, new) } else { (new, old) };
                let ending = if dice.below(2) == 0 { Signal::SIGQUIT } else { Signal::SIGTERM };
                fleet.signal(gone, ending);
                fleet.ended(gone);
                eventually("one pid file is left", || {
                    fleet.pid_in("pid") == Some(stays) && !fleet.path("pid.oldbin").exists()
                });
            }
        }
        sent += 1;
        // A moment of any length: this is the storm, not a wait.
        thread::sleep(Duration::from_millis(dice.below(30)));
    }
    let master = fleet.master();
    fleet.signal(master, Signal::SIGHUP);
    fleet.fetch().expect_body(BODY);
    let counts = load.end();
    assert!(Counts::of(&counts.answered) > 100);
    assert_eq!([&counts.refused, &counts.wrong].map(Counts::of), [0, 0], "{}", fleet.log());
    eventually("one worker is left", || children(master).len() == 1);
    eventually("no descriptor is left open", || descriptors(master) <= before);
    let log = fleet.log();
    assert!(!log.contains("[emerg]") && !log.contains("panicked"), "{log}");
}
