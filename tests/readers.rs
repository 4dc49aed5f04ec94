//! Programs of others that read what weir writes, or what it is told: they know nginx, and must find nothing odd.
//!
//! crossplane and certbot come from PyPI into `target/readers` (tests/setup), the rest from Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::kit::tls::{Pair, TlsClient};
use crate::kit::{self, Client, Server, Setup, eventually};

const SITE: &str = "server { listen %%ADDR_0%%; root html; location = /slow { return 503; } }";

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    output
}

/// A server that was asked for this and that, by visitors and by worse.
fn visited() -> Server {
    let server = Setup::new().file("html/index.html", "hello").start(SITE);
    for path in ["/", "/index.html", "/nothing", "/slow", "/wp-login.php", "/phpmyadmin/scripts/setup.php"] {
        server.fetch(path);
    }
    let mut client = server.client();
    client.send("\x16\x03\x01\x02 not http\r\n\r\n").response().expect_status(400);
    server.wait_for_lines("access.log", 7);
    server
}

#[test]
fn goaccess_understands_every_line() {
    let Some(goaccess) = kit::need("goaccess") else { return };
    let server = visited();
    let report = server.path("report.json");
    let log = server.path("logs/access.log");
    run(Command::new(goaccess).arg(&log).args(["--log-format=COMBINED", "--no-progress", "-o"]).arg(&report));
    let report = fs::read_to_string(report).expect("it was written");
    assert_eq!(number(&report, "total_requests"), 7, "{report}");
    assert_eq!(number(&report, "failed_requests"), 0, "{report}");
}

/// The number behind a key of a JSON text.
fn number(json: &str, key: &str) -> u64 {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {json}"));
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a number")
}

#[test]
fn fail2ban_finds_those_who_probe() {
    let Some(fail2ban) = kit::need("fail2ban-regex") else { return };
    let server = visited();
    let matched = |filter: &str, log: &Path| matched(&fail2ban, filter, log);
    let access = server.path("logs/access.log");
    eventually("those of the access log are found", || matched("nginx-botsearch", &access) == 2);
    assert_eq!(matched("nginx-bad-request", &access), 1);
    assert_eq!(matched("nginx-botsearch", &server.path("logs/error.log")), 2, "{}", server.error_log());
}

#[test]
fn fail2ban_finds_those_who_guess_and_those_who_hurry() {
    let Some(fail2ban) = kit::need("fail2ban-regex") else { return };
    let server = Setup::new().file("conf/users", "bob:{PLAIN}secret\n").start(
        "limit_req_zone $arg_key zone=one:1m rate=1r/m;
         server { listen %%ADDR_0%%; root html; location /secret/ { auth_basic \"here\"; auth_basic_user_file users; }
         location /limited/ { limit_req zone=one; } }",
    );
    for credentials in ["Ym9iOndyb25n", "ZXZlOndyb25n"] {
        let mut client = server.client();
        client.send(format!("GET /secret/ HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {credentials}\r\n\r\n"));
        client.response().expect_status(401);
    }
    for _ in 0..3 {
        server.fetch("/limited/?key=a");
    }
    let log = server.path("logs/error.log");
    eventually("those who guess are found", || matched(&fail2ban, "nginx-http-auth", &log) == 2);
    eventually("those who hurry are found", || matched(&fail2ban, "nginx-limit-req", &log) == 2);
}

/// How many lines of a log a filter of Debian's fail2ban matches.
fn matched(fail2ban: &Path, filter: &str, log: &Path) -> u32 {
    let filter = format!("/etc/fail2ban/filter.d/{filter}.conf");
    let output = Command::new(fail2ban).arg(log).arg(filter).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("Lines: ")).unwrap_or_else(|| panic!("{text}"));
    let count = line.split(", ").find_map(|part| part.strip_suffix(" matched")).expect("it counts");
    count.parse().expect("a number")
}

/// The configuration of the packages, below a directory of its own.
fn installed() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let place = root.path().join("weir");
    fs::create_dir_all(place.join("conf.d")).expect("the directory is ours");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc");
    for entry in fs::read_dir(&source).expect("it is part of the project").flatten() {
        let name = entry.file_name();
        let to = if name == "default.conf" { place.join("conf.d/default.conf") } else { place.join(&name) };
        fs::copy(entry.path(), to).expect("the directory is ours");
    }
    (root, place)
}

#[test]
fn crossplane_reads_the_packaged_configuration() {
    let Some(crossplane) = kit::need("crossplane") else { return };
    let (_root, place) = installed();
    let output = run(Command::new(crossplane).arg("parse").arg(place.join("weir.conf")));
    let json = String::from_utf8_lossy(&output.stdout);
    assert!(json.contains("\"status\":\"ok\"") || json.contains("\"status\": \"ok\""), "{json}");
    for word in ["default_server", "try_files", "mime.types", "log_format"] {
        assert!(json.contains(word), "no {word} in {json}");
    }
}

#[test]
fn certbot_takes_weir_for_nginx_and_deploys_a_certificate() {
    let Some(certbot) = kit::need("certbot") else { return };
    let server = Server::start("server { listen %%ADDR_0%%; server_name a.example; return 200 one; }");
    let place = server.path("conf");
    let pair = Pair::of_itself("a.example");
    for (name, text) in [("certificate.pem", &pair.certificate), ("key.pem", &pair.key)] {
        fs::write(place.join(name), text).expect("the directory is ours");
    }
    // It calls the program with options of its own; these come first.
    let control = server.path("control");
    let (binary, prefix) = (kit::binary(), server.prefix().display());
    let script = format!("#!/bin/sh\nexec {} -p {prefix} -e {prefix}/logs/error.log \"$@\"\n", binary.display());
    fs::write(&control, script).expect("the directory is ours");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&control, executable).expect("the file is ours");
    let port = kit::ports::Port::allot();
    let output = run(Command::new(certbot)
        .args(["install", "--nginx", "--non-interactive", "--no-redirect", "-d", "a.example", "--nginx-ctl"])
        .arg(&control)
        .arg("--nginx-server-root")
        .arg(&place)
        .args(["--https-port", &port.number.to_string()])
        .arg("--cert-path")
        .arg(place.join("certificate.pem"))
        .arg("--fullchain-path")
        .arg(place.join("certificate.pem"))
        .arg("--key-path")
        .arg(place.join("key.pem"))
        .args(["--config-dir", "c", "--work-dir", "w", "--logs-dir", "l"])
        .current_dir(server.prefix()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Successfully deployed certificate for a.example"), "{said}");
    let address = format!("127.0.0.1:{}", port.number);
    eventually("it listens", || std::net::TcpStream::connect(&address).is_ok());
    let mut client = TlsClient::new().connect(&address, "a.example").client;
    client.get("/").response().expect_status(200).expect_body("one");
}

#[test]
fn the_packaged_configuration_serves_the_welcome_page() {
    let (root, place) = installed();
    let conf = fs::read_to_string(place.join("weir.conf")).expect("it was copied");
    let port = kit::ports::Port::allot();
    let here = |path: &str| root.path().join(path).display().to_string();
    // The same text at other places, for whoever runs the tests.
    let user = if nix::unistd::Uid::effective().is_root() { "user nobody nogroup;" } else { "" };
    let conf = conf.replace("user weir;", user).replace("/var/log/weir", &here("")).replace("/run", &here(""));
    fs::write(place.join("weir.conf"), conf).expect("the file is ours");
    let site = fs::read_to_string(place.join("conf.d/default.conf")).expect("it was copied");
    let html = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/html");
    let pages = root.path().join("html");
    fs::create_dir(&pages).expect("the directory is ours");
    fs::copy(html.join("index.html"), pages.join("index.html")).expect("the directory is ours");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.path(), open).expect("the directory is ours");
    let site = site
        .replace("listen 80 ", &format!("listen 127.0.0.1:{} ", port.number))
        .replace("    listen [::]:80 default_server;\n", "")
        .replace("/usr/share/weir/html", &here("html"));
    fs::write(place.join("conf.d/default.conf"), site).expect("the file is ours");
    let mut command = Command::new(kit::binary());
    command.arg("-p").arg(root.path()).arg("-c").arg(place.join("weir.conf")).args([
        "-e",
        "stderr",
        "-g",
        "daemon off;",
    ]);
    let mut child = command.spawn().expect("the binary runs");
    let address = format!("127.0.0.1:{}", port.number);
    eventually("it listens", || std::net::TcpStream::connect(&address).is_ok());
    let mut client = Client::connect(&address);
    client.get("/");
    let page = client.response();
    client.get("/nothing").response().expect_status(404);
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT).expect("it runs");
    drop(client);
    assert!(child.wait().expect("it is our child").success());
    page.expect_status(200).expect_field("Content-Type", "text/html");
    assert!(page.text_body().contains("<h1>weir is running</h1>"));
}
