//! Master and worker, seen from outside: signals, files, users, sockets, and what survives what.
//!
//! Most promises are nginx's and can be checked against it: `WEIR_TEST_BINARY=/usr/sbin/nginx`. Those that only weir
//! makes say so.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::kit::{self, Client, Server, Setup, eventually, holds_within};

const RETURN: &str = "server { listen %%ADDR_0%%; return 200 one; }";

/// Runs the binary with the files of a server and more arguments, until it ends.
fn run_in(prefix: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(kit::binary());
    command.arg("-p").arg(prefix).args(["-c", "conf/nginx.conf", "-e", "logs/start.log"]).args(more);
    command.output().expect("the binary runs")
}

fn beside(server: &Server, more: &[&str]) -> Output {
    run_in(server.prefix(), more)
}

/// A set-up whose directory is there as long as the first value.
fn lasting() -> (Arc<TempDir>, Setup) {
    let open = fs::Permissions::from_mode(0o755);
    let root = tempfile::Builder::new().prefix("weir-").permissions(open).tempdir().expect("a temporary directory");
    let root = Arc::new(root);
    let setup = Setup::within(&root, "a", "127.0.0.1");
    (root, setup)
}

fn is_weir() -> bool {
    kit::binary().file_name().is_some_and(|name| name == "weir")
}

/// One value of `/proc/PID/status`.
fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

fn thread_names(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    let mut names: Vec<String> = tasks.filter_map(name).map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

/// The worker that serves; there is only one in weir.
#[track_caller]
fn worker(server: &Server) -> Pid {
    eventually("a worker runs", || !server.workers().is_empty());
    server.workers()[0]
}

/// A head that is not finished: the connection is busy, and stays so.
fn busy(server: &Server) -> Client {
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: local");
    // An answer on another connection shows that what came before was read.
    server.fetch("/").expect_status(200);
    client
}

fn finish(mut client: Client) -> kit::Response {
    client.send("host\r\n\r\n");
    client.response()
}

#[test]
fn the_pid_file_comes_with_the_master_and_goes_with_it() {
    let mut server = Server::start(RETURN);
    let pid = fs::read_to_string(server.path("pid")).expect("the server has started");
    assert_eq!(pid, format!("{}\n", server.pid()));
    server.fetch("/").expect_status(200).expect_body("one");
    assert!(server.stop().success());
    assert!(!server.path("pid").exists());
}

#[test]
fn signals_are_logged_in_nginx_s_words() {
    let mut server = Setup::new().main("error_log logs/error.log notice;").start(RETURN);
    let started = worker(&server);
    server.wait_for_log(&format!("start worker process {started}"));
    server.reload();
    server.wait_for_log(&format!("signal 1 (SIGHUP) received from {}, reconfiguring", std::process::id()));
    server.signal(Signal::SIGUSR1);
    server.wait_for_log("(SIGUSR1) received from");
    server.wait_for_log(", reopening logs");
    assert!(server.stop().success());
    let log = server.error_log();
    for line in ["signal 3 (SIGQUIT) received from", "gracefully shutting down", "exiting", "exited with code 0"] {
        assert!(log.contains(line), "no {line:?} in\n{log}");
    }
    assert!(log.trim_end().ends_with(&format!("[notice] {0}#{0}: exit", server.pid())), "{log}");
}

#[test]
fn a_test_says_what_is_wrong_and_where() {
    let server = Server::start(RETURN);
    let file = server.path("conf/nginx.conf");
    let shown = file.display();
    let good = beside(&server, &["-t"]);
    assert_eq!(
        String::from_utf8_lossy(&good.stderr),
        format!(
            "nginx: the configuration file {shown} syntax is ok\n\
             nginx: configuration file {shown} test is successful\n"
        )
    );
    assert!(good.status.success());
    assert_eq!(beside(&server, &["-tq"]).stderr, b"");

    let dump = beside(&server, &["-Tq"]);
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(String::from_utf8_lossy(&dump.stdout), format!("# configuration file {shown}:\n{text}\n"));

    let main = "events {}\nworker_procesess 2;\n";
    fs::write(&file, main).expect("the file is ours");
    let bad = beside(&server, &["-t"]);
    assert_eq!(
        String::from_utf8_lossy(&bad.stderr),
        format!(
            "nginx: [emerg] unknown directive \"worker_procesess\" in {shown}:2\n\
             nginx: configuration file {shown} test failed\n"
        )
    );
    assert_eq!(bad.status.code(), Some(1));
    // Nothing of this disturbed the server, nor its pid file.
    server.fetch("/").expect_status(200);
    assert_eq!(fs::read_to_string(server.path("pid")).expect("it is there"), format!("{}\n", server.pid()));
}

#[test]
fn the_main_level_is_judged_as_nginx_judges_it() {
    for (text, message) in [
        ("daemon on;", "no \"events\" section in configuration"),
        ("events {} events {}", "\"events\" directive is duplicate in %:1"),
        ("worker_processes 1; worker_processes 2; events {}", "\"worker_processes\" directive is duplicate in %:1"),
        ("worker_processes many; events {}", "\"worker_processes\" directive invalid value in %:1"),
        ("worker_connections 9; events {}", "\"worker_connections\" directive is not allowed here in %:1"),
        ("events { worker_connections x; }", "invalid number \"x\" in %:1"),
        ("events { use kqueue; }", "invalid event type \"kqueue\" in %:1"),
        ("events { daemon on; }", "\"daemon\" directive is not allowed here in %:1"),
        (
            "daemon maybe; events {}",
            "invalid value \"maybe\" in \"daemon\" directive, it must be \"on\" or \"off\" in %:1",
        ),
        ("worker_priority high; events {}", "\"worker_priority\" directive invalid number in %:1"),
        ("worker_cpu_affinity 012; events {}", "invalid character \"2\" in \"worker_cpu_affinity\" in %:1"),
        (
            "worker_cpu_affinity auto 1 1; events {}",
            "invalid number of arguments in \"worker_cpu_affinity\" directive in %:1",
        ),
        ("thread_pool a; events {}", "invalid number of arguments in \"thread_pool\" directive in %:1"),
        ("thread_pool a max_queue=1; events {}", "\"thread_pool\" must have \"threads\" parameter in %:1"),
        ("thread_pool a threads=0; events {}", "invalid threads value \"threads=0\" in %:1"),
        ("thread_pool a threads=1; thread_pool a threads=1; events {}", "duplicate thread pool \"a\" in %:1"),
        ("debug_points run; events {}", "invalid value \"run\" in %:1"),
        ("pid a; pid b; events {}", "\"pid\" directive is duplicate in %:1"),
        ("error_log stderr loud; events {}", "invalid log level \"loud\" in %:1"),
        ("worker_shutdown_timeout soon; events {}", "\"worker_shutdown_timeout\" directive invalid value in %:1"),
        ("worker_rlimit_nofile -1; events {}", "\"worker_rlimit_nofile\" directive invalid number in %:1"),
    ] {
        let setup = Setup::new();
        let file = setup.prefix().join("conf/nginx.conf");
        let output = setup.check_text(text);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!(": {}\n", message.replace('%', &file.to_string_lossy()));
        assert!(stderr.contains("[emerg]") && stderr.contains(&expected), "{text}\nexpected {expected}got {stderr}");
        assert_eq!(output.status.code(), Some(1), "{text}");
    }
}

#[test]
fn knobs_that_the_engine_does_not_have_are_taken() {
    let text = "pid %%PREFIX%%/pid; error_log stderr; lock_file logs/lock; pcre_jit on; timer_resolution 100ms; \
                worker_cpu_affinity auto; thread_pool default threads=4 max_queue=16; \
                events { use epoll; accept_mutex on; accept_mutex_delay 100ms; multi_accept on; \
                worker_aio_requests 64; }";
    let output = Setup::new().check_text(text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_control_signals_go_to_the_process_of_the_pid_file() {
    let mut server = Server::start(RETURN);
    server.configure("server { listen %%ADDR_0%%; return 200 two; }");
    assert!(beside(&server, &["-s", "reload"]).status.success());
    eventually("the new configuration counts", || server.fetch("/").text_body() == "two");
    fs::rename(server.path("logs/access.log"), server.path("logs/access.old")).expect("it is there");
    assert!(beside(&server, &["-s", "reopen"]).status.success());
    eventually("the log is there again", || server.path("logs/access.log").exists());
    assert!(beside(&server, &["-s", "quit"]).status.success());
    assert!(server.wait().success());

    let gone = beside(&server, &["-s", "stop"]);
    let path = server.path("pid");
    assert_eq!(
        String::from_utf8_lossy(&gone.stderr),
        format!("nginx: [error] open() \"{}\" failed (2: No such file or directory)\n", path.display())
    );
    assert_eq!(gone.status.code(), Some(1));
    fs::write(&path, "").expect("the directory is ours");
    let empty = beside(&server, &["-s", "stop"]);
    assert_eq!(
        String::from_utf8_lossy(&empty.stderr),
        format!("nginx: [error] invalid PID number \"\" in \"{}\"\n", path.display())
    );
}

#[test]
fn a_bad_configuration_at_hup_changes_nothing() {
    let mut server = Setup::new().allow_alerts().start(RETURN);
    let before = [worker(&server)];
    server.configure("server { listen %%ADDR_0%%; retrun 200 two; }");
    server.reload();
    let line = server.wait_for_log("[emerg]");
    assert!(line.contains("unknown directive \"retrun\" in "), "{line}");
    server.fetch("/").expect_body("one");
    assert_eq!(server.workers(), before);
    // A file that cannot be opened is found later than a word that is not known.
    server.configure("access_log nowhere/access.log; server { listen %%ADDR_0%%; return 200 three; }");
    server.reload();
    let line = server.wait_for_log("nowhere/access.log");
    assert!(line.contains("[emerg]") && line.contains("failed (2: No such file or directory)"), "{line}");
    server.fetch("/").expect_body("one");
    server.configure("server { listen %%ADDR_0%%; return 200 four; }");
    server.reload();
    eventually("the next good one counts", || server.fetch("/").text_body() == "four");
}

/// Which a client has sent before it could know that its connection was to end.
#[test]
fn a_request_that_follows_a_reload_is_answered_as_the_last() {
    if !is_weir() {
        return; // nginx closes idle connections at once, and who asks at that moment gets nothing
    }
    let mut server = Server::start(RETURN);
    // A machine that is too busy lets the moment pass.
    let answered = (0..5).any(|n| {
        let mut idle = server.client();
        idle.get("/").response().expect_status(200);
        server.configure(&format!("server {{ listen %%ADDR_0%%; return 200 {n}; }}"));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/").text_body() == n.to_string());
        idle.get("/");
        let last = idle.try_response(Duration::from_secs(10));
        last.is_ok_and(|last| last.field("Connection") == Some("close"))
    });
    assert!(answered, "no request was answered that followed a reload");
}

#[test]
fn a_reload_leaves_busy_connections_alone_and_closes_idle_ones() {
    let mut server = Server::start(RETURN);
    let mut idle = server.client();
    idle.get("/").response().expect_status(200).expect_field("Connection", "keep-alive");
    let busy = busy(&server);
    server.configure("server { listen %%ADDR_0%%; return 200 two; }");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/").text_body() == "two");
    idle.expect_closed();
    // It goes on by the configuration it began with, and is the last on its connection.
    finish(busy).expect_status(200).expect_body("one").expect_field("Connection", "close");
}

#[test]
fn a_reload_needs_no_new_process() {
    if !is_weir() {
        return;
    }
    let mut server = Server::start(RETURN);
    let before = worker(&server);
    for text in ["two", "three"] {
        server.configure(&format!("server {{ listen %%ADDR_0%%; return 200 {text}; }}"));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/").text_body() == text);
    }
    assert_eq!(server.workers(), [before]);
}

#[test]
fn reloads_leave_nothing_open() {
    if !is_weir() {
        return; // other processes each time
    }
    let mut server = Server::start(RETURN);
    let pids = [server.pid(), worker(&server)];
    let open = |pid: Pid| fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count();
    let mut reload = |n: usize| {
        server.configure(&format!(
            "access_log logs/{n}.log; server {{ listen %%ADDR_0%%; listen %%ADDR_{}%%; return 200 {n}; }}",
            n % 2 + 1
        ));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/").text_body() == n.to_string());
    };
    reload(1);
    let before = pids.map(open);
    (2..8).for_each(&mut reload);
    // Less, if something of the first generation was still open when it was counted.
    eventually("no more is open than before", || pids.map(open).iter().zip(before).all(|(now, before)| *now <= before));
}

#[test]
fn a_reload_opens_logs_that_only_the_master_may_open() {
    let mut server = Setup::new().file("secret/marker", "").mode("secret", 0o700).start(RETURN);
    // The second time the worker has the file already, and gets it anew.
    for text in ["two", "three"] {
        server.configure(&format!(
            "access_log %%PREFIX%%/secret/{text}.log; access_log %%PREFIX%%/secret/all.log;\n\
             server {{ listen %%ADDR_0%%; return 200 {text}; }}"
        ));
        server.reload();
        eventually("the new configuration counts", || server.fetch("/").text_body() == text);
    }
    for name in ["two", "three", "all"] {
        server.wait_for_line(&format!("../secret/{name}.log"), "\"GET / HTTP/1.1\" 200");
    }
}

#[test]
fn a_reload_opens_new_addresses_and_closes_old_ones() {
    let mut server = Server::start("server { listen %%ADDR_0%%; listen %%ADDR_1%%; return 200 one; }");
    let (kept, gone) = (server.address(0), server.address(1));
    server.configure("server { listen %%ADDR_0%%; listen %%ADDR_2%% reuseport; return 200 two; }");
    server.reload();
    let new = server.address(2);
    eventually("the new address is there", || TcpStream::connect(&new).is_ok());
    eventually("the old address is gone", || TcpStream::connect(&gone).is_err());
    assert!(TcpStream::connect(&kept).is_ok());
    Client::connect(&new).get("/").response().expect_body("two");
}

#[test]
fn a_worker_that_dies_is_replaced_and_no_client_is_refused() {
    let server = Setup::new().allow_alerts().start(RETURN);
    let first = worker(&server);
    kill(first, Signal::SIGKILL).expect("the worker runs");
    // Whenever it is: the socket is the master's, and waits.
    let mut early = server.client();
    early.get("/").response().expect_status(200).expect_body("one");
    server.wait_for_log(&format!("worker process {first} exited on signal 9"));
    assert_ne!(worker(&server), first);
}

#[test]
fn the_worker_is_an_ordinary_user_without_a_way_back() {
    if !Uid::effective().is_root() {
        return;
    }
    let server = Server::start(RETURN);
    let worker = worker(&server);
    let nobody = nix::unistd::User::from_name("nobody").expect("a user database").expect("every system has nobody");
    let uid = nobody.uid.to_string();
    eventually("the user is dropped", || status(worker, "Uid").split_whitespace().all(|word| word == uid));
    let gid = nix::unistd::Group::from_name("nogroup").expect("a group database").expect("Debian has nogroup").gid;
    assert!(status(worker, "Gid").split_whitespace().all(|word| word == gid.to_string()));
    assert_eq!(status(worker, "CapEff"), "0000000000000000");
    if is_weir() {
        eventually("there is no way to more", || status(worker, "NoNewPrivs") == "1");
    }
    assert!(status(server.pid(), "Uid").starts_with("0\t"));
}

/// glibc is told by the environment alone, before a program begins; so a server begins twice, and is the same process.
#[test]
fn the_heap_is_told_how_much_to_keep_at_hand() {
    if !is_weir() {
        return;
    }
    let Some(strace) = kit::need("strace") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let begins = |shell: &[&str], arguments: &[&str], tunables: Option<&str>| {
        let trace = directory.path().join("trace");
        let mut command = Command::new(&strace);
        command.arg("-o").arg(&trace).args(["-v", "-s", "200", "-e", "trace=execve"]).args(shell).arg(kit::binary());
        command.arg("-p").arg(directory.path()).args(["-e", "stderr", "-c", "nowhere"]).args(arguments);
        command.env_remove("GLIBC_TUNABLES").envs(tunables.map(|value| ("GLIBC_TUNABLES", value)));
        let output = command.output().expect("strace runs");
        assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere\" failed"), "{output:?}");
        let trace = fs::read_to_string(trace).expect("strace wrote it");
        trace.lines().filter(|line| line.starts_with("execve(")).map(str::to_owned).collect::<Vec<_>>()
    };
    let twice = begins(&[], &[], None);
    assert_eq!(twice.len(), 2, "{twice:#?}");
    assert!(twice[1].contains("\"GLIBC_TUNABLES=glibc.malloc.tcache_count=128\""), "{twice:#?}");
    // Its arguments are the same.
    let arguments =
        |line: &str| line.split_once('[').expect("there are some").1.split_once(']').map(|(all, _)| all.to_owned());
    assert_eq!(arguments(&twice[0]), arguments(&twice[1]));
    // Somebody else has the word, or it is not about serving.
    assert_eq!(begins(&[], &[], Some("glibc.malloc.tcache_count=8")).len(), 1);
    assert_eq!(begins(&[], &["-t"], None).len(), 1);
    // glibc takes its variable away from a program with privileges of its file: that must not begin for ever.
    let again = ["sh", "-c", "WEIR_BEGAN=$$ exec \"$0\" \"$@\""];
    assert_eq!(begins(&again, &[], None).len(), 2, "the shell, and weir once");
}

#[test]
fn what_a_process_has_from_its_start_takes_a_new_one() {
    let mut server = Setup::new().main("worker_priority 1;").start(RETURN);
    let first = worker(&server);
    let busy = busy(&server);
    let text = fs::read_to_string(server.path("conf/nginx.conf")).expect("it is there");
    let changed = text.replace("worker_priority 1", "worker_priority 2").replace("200 one", "200 two");
    fs::write(server.path("conf/nginx.conf"), changed).expect("it is ours");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/").text_body() == "two");
    eventually("there is a new worker", || server.workers().iter().any(|worker| *worker != first));
    assert!(server.workers().contains(&first), "the old worker has a client yet");
    finish(busy).expect_status(200).expect_body("one");
    eventually("the old worker is gone", || !server.workers().contains(&first));
    assert!(server.stop().success());
}

#[test]
fn the_worker_gets_its_limits_directory_and_threads() {
    let server = Setup::new()
        .main("worker_processes 3; worker_cpu_affinity 1; worker_rlimit_nofile 777; worker_rlimit_core 0;")
        .main("worker_priority 5; working_directory %%PREFIX%%/html;")
        .start(RETURN);
    server.fetch("/").expect_status(200);
    let worker = worker(&server);
    // The last thing that a process is given.
    let directory = || fs::read_link(format!("/proc/{worker}/cwd")).expect("it runs");
    eventually("the worker is in its directory", || directory() == server.path("html"));
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).expect("it runs");
    let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    assert!(limit("Max open files").starts_with("777 "), "{limits}");
    assert!(limit("Max core file size").starts_with("0 "), "{limits}");
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).expect("it runs");
    let nice = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
    assert_eq!(nice, Some("5"));
    if !is_weir() {
        return;
    }
    let all = ["weir/0", "weir/1", "weir/2"];
    eventually("the threads run", || all.iter().all(|name| thread_names(worker).iter().any(|known| known == name)));
    let bound = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let name = status.lines().find_map(|line| line.strip_prefix("Name:\t"))?.to_owned();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"))?.to_owned();
        name.starts_with("weir/").then_some(list)
    };
    eventually("the threads are bound", || {
        let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("it runs");
        tasks.flatten().filter_map(bound).collect::<Vec<_>>() == ["0", "0", "0"]
    });
}

#[test]
fn titles_say_which_process_is_which() {
    if !is_weir() {
        return;
    }
    let server = Server::start(RETURN);
    let title = |pid: Pid| {
        let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&raw).trim_end_matches('\0').to_owned()
    };
    let master = || title(server.pid());
    eventually("the master has its title", || master().starts_with("weir: master process "));
    eventually("the arguments follow", || master().contains("conf/nginx.conf"));
    let worker = worker(&server);
    eventually("the worker has its title", || title(worker) == "weir: worker process");
}

#[test]
fn reopened_logs_go_on_in_new_files() {
    let server = Setup::new().main("worker_processes 2;").start(
        "log_format short \"$uri\"; access_log logs/access.log short; access_log logs/held.log short buffer=64k;\n\
         server { listen %%ADDR_0%%; return 204; }",
    );
    server.fetch("/before");
    server.wait_for_line("access.log", "/before");
    for name in ["access", "held", "error"] {
        let from = server.path(&format!("logs/{name}.log"));
        fs::rename(from, server.path(&format!("logs/{name}.old"))).expect("it is there");
    }
    server.signal(Signal::SIGUSR1);
    eventually("all files are there again", || {
        ["access", "held", "error"].iter().all(|name| server.path(&format!("logs/{name}.log")).exists())
    });
    // What was held back goes to the old file.
    server.wait_for_line("held.old", "/before");
    eventually("the worker writes to the new file", || {
        server.fetch("/after");
        holds_within(std::time::Duration::from_millis(200), || server.log("access.log").contains("/after"))
    });
    assert!(!server.log("access.log").contains("/before"));
}

#[test]
fn a_graceful_end_answers_who_is_busy_and_refuses_who_is_new() {
    let mut server = Server::start(RETURN);
    let mut idle = server.client();
    idle.get("/").response().expect_status(200);
    let busy = busy(&server);
    server.signal(Signal::SIGQUIT);
    idle.expect_closed();
    let address = server.address(0);
    eventually("new clients are refused", || TcpStream::connect(&address).is_err());
    assert!(server.running());
    finish(busy).expect_status(200).expect_body("one").expect_field("Connection", "close");
    assert!(server.wait().success());
}

/// A client that has asked for more than the sockets hold, and does not read.
fn stalled(server: &Server) -> Client {
    let mut client = server.client();
    client.get("/large").read_exactly(1);
    client
}

const LARGE: usize = 32 << 20;

#[track_caller]
fn expect_cut_off(mut client: Client) {
    let rest = client.rest().len();
    assert!(rest < LARGE, "{rest} bytes came");
}

#[test]
fn worker_shutdown_timeout_ends_the_patience() {
    let setup = Setup::new().file("html/large", vec![b'x'; LARGE]).main("worker_shutdown_timeout 10ms;");
    let mut server = setup.start("server { listen %%ADDR_0%%; root html; }");
    let client = stalled(&server);
    server.signal(Signal::SIGQUIT);
    assert!(server.wait().success());
    expect_cut_off(client);
}

#[test]
fn worker_shutdown_timeout_counts_for_a_reload_too() {
    let setup = Setup::new().file("html/large", vec![b'x'; LARGE]).main("worker_shutdown_timeout 10ms;");
    let mut server = setup.start("server { listen %%ADDR_0%%; root html; }");
    let client = stalled(&server);
    server.configure("server { listen %%ADDR_0%%; return 200 two; }");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/").text_body() == "two");
    // Reading would let the answer go on: the kernel knows when the server has let go.
    eventually("the old connection is closed", || established(server.port(0)) == 0);
    expect_cut_off(client);
}

/// How many connections a port of this machine has, as the server's side knows them.
fn established(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let local = format!(":{port:04X}");
    let live = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let (Some(from), _, Some(state)) = (words.next(), words.next(), words.next()) else { return false };
        from.ends_with(&local) && state == "01"
    };
    table.lines().filter(live).count()
}

#[test]
fn a_fast_end_waits_for_nobody() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(RETURN);
        let mut busy = busy(&server);
        server.signal(signal);
        busy.expect_closed();
        assert!(server.wait().success());
        assert!(!server.path("pid").exists());
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = taken.local_addr().expect("it is bound").to_string();
    let (_root, setup) = lasting();
    let prefix = setup.prefix().to_owned();
    let setup = setup.set("TAKEN", &address);
    let text = "pid %%PREFIX%%/pid; error_log logs/error.log; events {}\n\
                http { access_log off; server { listen %%TAKEN%%; return 204; } }";
    // The test of the same file succeeds: a server that runs would hold the address, too.
    let output = setup.check_text(text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run_in(&prefix, &["-g", "daemon off;"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = format!("nginx: [emerg] bind() to {address} failed (98: Address already in use)\n");
    assert_eq!(stderr.matches(&failed).count(), 5, "{stderr}");
    assert!(stderr.ends_with("nginx: [emerg] still could not bind()\n"), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
    drop(taken);
}

#[test]
fn a_daemon_leaves_the_terminal() {
    let (_root, setup) = lasting();
    let prefix = setup.prefix().to_owned();
    let text = "pid %%PREFIX%%/pid; error_log logs/error.log notice; events {}\n\
                http { access_log off; server { listen %%ADDR_0%%; return 204; } }";
    assert!(setup.check_text(text).status.success(), "the configuration is good");
    let started = run_in(&prefix, &[]);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let pid_file = prefix.join("pid");
    let pid = || fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()).map(Pid::from_raw);
    eventually("the pid is written", || pid().is_some());
    let master = pid().expect("it was there");
    assert_eq!(nix::unistd::getsid(Some(master)), Ok(master));
    assert_eq!(fs::read_link(format!("/proc/{master}/fd/0")).expect("it runs"), Path::new("/dev/null"));
    assert_eq!(fs::read_link(format!("/proc/{master}/fd/2")).expect("it runs"), prefix.join("logs/error.log"));
    assert!(run_in(&prefix, &["-s", "stop"]).status.success());
    eventually("the master ends", || kill(master, None).is_err());
    assert!(!pid_file.exists());
}

#[test]
fn without_a_master_one_process_does_it_all() {
    if !is_weir() {
        return; // nginx serves on by the old configuration
    }
    let mut server = Setup::new().main("master_process off;").start(RETURN);
    server.fetch("/").expect_body("one");
    assert!(server.workers().is_empty());
    server.configure("server { listen %%ADDR_0%%; return 200 two; }");
    server.reload();
    eventually("the new configuration counts", || server.fetch("/").text_body() == "two");
    assert!(server.stop().success());
    assert!(!server.path("pid").exists());
}

#[test]
fn a_unix_socket_is_made_for_everybody_and_removed() {
    let mut server = Server::start("server { listen %%ADDR_0%%; listen unix:%%PREFIX%%/s; return 200 one; }");
    let path = server.path("s");
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let mut client = UnixStream::connect(&path).expect("it listens");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\none"), "{answer}");
    server.configure("server { listen %%ADDR_0%%; return 200 two; }");
    server.reload();
    eventually("the file is gone", || !path.exists());
    assert!(server.stop().success());
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let setup = Setup::new().allow_alerts();
    let text = "pid %%PREFIX%%/pid; error_log logs/error.log; events { worker_connections 8; }\n\
                http { access_log off; server { listen %%ADDR_0%%; return 204; } }";
    let server = setup.start_text(text);
    // A client counts as busy when its first bytes were read; before that it may be sent away for the next one.
    let mut clients = Vec::new();
    eventually("connections run out", || {
        let mut client = server.client();
        client.send("GET / HTTP/1.1\r\nHost:");
        clients.push(client);
        server.error_log().contains("[alert]")
    });
    server.wait_for_log("8 worker_connections are not enough");
}
