//! The command line: switches, versions, tests and dumps of a configuration.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use crate::kit::{self, Server, Setup, eventually};

const CONF: &str = "server { listen %%ADDR_0%%; location / { return 200 one; } location /file { root html; } }";

fn run(arguments: &[&str]) -> Output {
    Command::new(kit::binary()).args(arguments).output().expect("the binary runs")
}

fn both_streams(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_version_says_what_scripts_look_for() {
    let short = run(&["-v"]);
    assert!(short.status.success());
    assert!(both_streams(&short).contains(" version: "), "{}", both_streams(&short));
    let long = both_streams(&run(&["-V"]));
    let has = |part: &str| assert!(long.contains(part), "{part} in {long}");
    has("nginx version: nginx/1.");
    has("configure arguments:");
}

#[test]
fn help_names_the_switches() {
    for switch in ["-h", "-?"] {
        let text = both_streams(&run(&[switch]));
        for word in [
            "-?,-h",
            "-v",
            "-V",
            "-t",
            "-T",
            "-q",
            "-s signal",
            "-p prefix",
            "-e filename",
            "-c filename",
            "-g directives",
        ] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}

#[test]
fn a_wrong_switch_is_refused() {
    for (arguments, message) in [
        (&["-x"][..], "invalid option: \"x\""),
        (&["word"][..], "invalid option: \"word\""),
        (&["-c"][..], "option \"-c\" requires file name"),
        (&["-p"][..], "option \"-p\" requires directory name"),
        (&["-g"][..], "option \"-g\" requires parameter"),
        (&["-s"][..], "option \"-s\" requires parameter"),
        (&["-s", "jump"][..], "invalid option: \"-s jump\""),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(both_streams(&output).contains(message), "{arguments:?}: {}", both_streams(&output));
    }
}

#[test]
fn a_test_of_the_configuration_says_so() {
    let whole = "pid %%PREFIX%%/pid; error_log logs/error.log; events { } http { server { listen %%ADDR_0%%; } }";
    let setup = Setup::new();
    let conf = setup.prefix().join("conf/nginx.conf").display().to_string();
    let output = setup.check_text(whole);
    assert!(output.status.success());
    let text = both_streams(&output);
    assert!(text.contains(&format!("nginx: the configuration file {conf} syntax is ok\n")), "{text}");
    assert!(text.contains(&format!("nginx: configuration file {conf} test is successful\n")), "{text}");
}

#[test]
fn a_failing_test_of_the_configuration_says_where() {
    let setup = Setup::new();
    let conf = setup.prefix().join("conf/nginx.conf").display().to_string();
    let output = setup.check_text("pid %%PREFIX%%/pid;\nevents { }\nhttp {\n    servre { }\n}\n");
    assert_eq!(output.status.code(), Some(1));
    let text = both_streams(&output);
    assert!(text.contains(&format!("unknown directive \"servre\" in {conf}:4\n")), "{text}");
    assert!(text.contains(&format!("nginx: configuration file {conf} test failed\n")), "{text}");
}

#[test]
fn a_dump_has_every_file_once() {
    let setup = Setup::new().file("conf/part.conf", "# a part\nreturn 204;\n");
    let conf = setup.prefix().join("conf").display().to_string();
    let server = setup.start("server { listen %%ADDR_0%%; include part.conf; location /x { include part.conf; } }");
    let mut command = Command::new(kit::binary());
    command.arg("-p").arg(server.prefix()).args(["-c", "conf/nginx.conf", "-e", "stderr", "-T"]);
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert_eq!(
        text.matches(&format!("# configuration file {conf}/part.conf:\n# a part\nreturn 204;\n")).count(),
        1,
        "{text}"
    );
    assert_eq!(text.matches(&format!("# configuration file {conf}/nginx.conf:\n")).count(), 1, "{text}");
}

#[test]
fn quiet_says_nothing_of_success() {
    let server = Server::start(CONF);
    let mut command = Command::new(kit::binary());
    command.arg("-p").arg(server.prefix()).args(["-c", "conf/nginx.conf", "-e", "stderr", "-t", "-q"]);
    let output = command.output().expect("the binary runs");
    assert!(output.status.success());
    assert_eq!(both_streams(&output), "");
}

#[test]
fn no_connection_is_refused_during_reloads() {
    let mut server = Server::start(CONF);
    for round in 0..5 {
        server.configure(&format!("server {{ listen %%ADDR_0%%; return 200 {round}; }}"));
        server.reload();
        let wanted = round.to_string();
        // Every fetch connects anew; one refused would panic.
        eventually("the new configuration counts", || server.fetch("/").expect_status(200).body == wanted.as_bytes());
    }
}

#[test]
fn a_relative_prefix_and_working_directory_hold() {
    let setup = Setup::new().file("other/a.txt", "from there");
    let server = setup.start("server { listen %%ADDR_0%%; root other; }");
    server.fetch("/a.txt").expect_body("from there");
    let output = run(&["-p", "/nowhere/at/all/", "-c", "conf/nginx.conf", "-e", "stderr", "-t"]);
    assert_eq!(output.status.code(), Some(1));
    let text = both_streams(&output);
    assert!(
        text.contains("open() \"/nowhere/at/all/") && text.contains("failed (2: No such file or directory)"),
        "{text}"
    );
}

#[test]
fn directives_of_the_command_line_count_once() {
    let setup = Setup::new();
    let prefix = setup.prefix().to_owned();
    kit::server::write_file(&prefix.join("conf/nginx.conf"), b"worker_processes 1; events { } http { }");
    let mut command = Command::new(kit::binary());
    command.arg("-p").arg(&prefix).args(["-c", "conf/nginx.conf", "-e", "stderr", "-t", "-g", "worker_processes 2;"]);
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let text = both_streams(&output);
    assert!(text.contains("\"worker_processes\" directive is duplicate in"), "{text}");
    assert!(text.contains("/conf/nginx.conf:1"), "{text}");
}

/// weir's own: nginx has no such word.
fn is_weir() -> bool {
    kit::binary().file_name().is_some_and(|name| name == "weir")
}

#[test]
fn serve_needs_no_configuration() {
    if !is_weir() {
        return;
    }
    let setup = Setup::new().file("html/index.html", "<p>here</p>").file("html/below/page.html", "");
    let port = kit::ports::Port::allot();
    let address = format!("127.0.0.1:{}", port.number);
    let directory = setup.prefix().join("html");
    let mut command = Command::new(kit::binary());
    command.arg("serve").arg(&directory).args(["--listen", &address]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    eventually("it answers", || std::net::TcpStream::connect(&address).is_ok());
    let mut client = kit::Client::connect(&address);
    client.get("/").response().expect_status(200).expect_body("<p>here</p>");
    client.get("/below/").response().expect_status(200).expect_in_body("<a href=\"page.html\">page.html</a>");
    client.get("/none").response().expect_status(404);
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    assert!(child.wait().expect("it ends").success());
    let (mut out, mut words) = (child.stdout.take().expect("piped"), String::new());
    out.read_to_string(&mut words).expect("text");
    child.stderr.take().expect("piped").read_to_string(&mut words).expect("text");
    assert!(words.contains(&format!("http://{address}")), "it says where it is: {words}");
    assert!(words.contains("\"GET /none HTTP/1.1\" 404"), "it logs to the terminal: {words}");
}

#[test]
fn what_serve_prints_is_a_configuration() {
    if !is_weir() {
        return;
    }
    let port = kit::ports::Port::allot();
    let upstream = kit::Upstream::start();
    let url = format!("http://{}", upstream.address());
    let output = run(&["serve", "--proxy", &url, "--listen", &port.number.to_string(), "--print-config"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("proxy_pass {url}")) && text.contains("$http_upgrade"), "{text}");
    let checked = Setup::new().check_text(&text);
    assert!(checked.status.success(), "{}\n{text}", both_streams(&checked));
}
