//! FastCGI with php-fpm, where a table cannot say it: slow scripts, large bodies, what goes to the error log.

use std::time::{Duration, Instant};

use crate::kit::{PhpFpm, Server, Setup, eventually};

const CONF: &str = "client_max_body_size 50m; \
    fastcgi_param SCRIPT_FILENAME %%PREFIX%%/html$fastcgi_script_name; fastcgi_param QUERY_STRING $query_string; \
    fastcgi_param REQUEST_METHOD $request_method; fastcgi_param CONTENT_TYPE $content_type; \
    fastcgi_param CONTENT_LENGTH $content_length; \
    upstream php { server unix:%%PHP%%; keepalive 2; } \
    server { listen %%ADDR_0%%; root html; location / { fastcgi_pass unix:%%PHP%%; } ";

fn serve(php: &PhpFpm, more: &str, files: &[(&str, &str)]) -> Server {
    let mut setup = Setup::new().set("PHP", php.socket());
    for (name, content) in files {
        setup = setup.file(&format!("html/{name}"), content);
    }
    setup.start(&format!("{CONF} {more} }}"))
}

#[test]
fn a_slow_script_is_waited_for_and_then_not() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php usleep((int)$_GET['ms'] * 1000); echo 'awake';";
    let more =
        "location /short/ { fastcgi_read_timeout 300ms; rewrite ^/short(.*)$ $1 break; fastcgi_pass unix:%%PHP%%; }";
    let server = serve(&php, more, &[("sleep.php", script)]);
    server.fetch("/sleep.php?ms=500").expect_status(200).expect_body("awake");
    let begun = Instant::now();
    server.fetch("/short/sleep.php?ms=5000").expect_status(504);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let line = server
        .wait_for_log("upstream timed out (110: Connection timed out) while reading response header from upstream");
    assert!(line.contains("upstream: \"fastcgi://unix:"), "{line}");
}

#[test]
fn output_arrives_while_the_script_runs() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php header('X-Accel-Buffering: no'); echo 'first'; flush(); usleep(700000); echo 'second';";
    let server = serve(&php, "", &[("two.php", script)]);
    let mut client = server.client();
    let begun = Instant::now();
    client.get("/two.php").read_until(b"first");
    let first = begun.elapsed();
    client.read_until(b"second");
    let gap = begun.elapsed() - first;
    assert!(gap > Duration::from_millis(300), "both came at once, after {first:?}");
}

#[test]
fn a_fatal_error_is_a_500_and_a_line_in_the_log() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php error_log('a word for the operator'); nowhere();";
    let server = serve(
        &php,
        "",
        &[("fatal.php", script), ("log.php", "<?php fwrite(STDERR ?? fopen('php://stderr','w'), 'x');")],
    );
    server.fetch("/fatal.php").expect_status(500);
    // php-fpm writes to its own log here, so the server's has nothing to tell; a script that is not there does.
    server.fetch("/missing.php").expect_status(404).expect_body("File not found.\n");
    let line = server
        .wait_for_log("FastCGI sent in stderr: \"Primary script unknown\" while reading response header from upstream");
    assert!(line.contains("[error]") && line.contains("request: \"GET /missing.php HTTP/1.1\""), "{line}");
}

#[test]
fn a_large_upload_arrives_whole() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php echo strlen($b = file_get_contents('php://input')), ' ', md5($b);";
    let more = "location /stream/ { fastcgi_request_buffering off; rewrite ^/stream(.*)$ $1 break; fastcgi_pass unix:%%PHP%%; }";
    let server = serve(&php, more, &[("sum.php", script)]);
    let body: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 247) as u8).collect();
    let sum: String = {
        use md5::{Digest, Md5};
        Md5::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    for path in ["/sum.php", "/stream/sum.php"] {
        let mut client = server.client();
        let length = body.len();
        client.send(format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).send(&body);
        client.response().expect_status(200).expect_body(format!("{length} {sum}"));
    }
    // Chunked: the length is known once it is buffered.
    let mut client = server.client();
    client.send("PUT /sum.php HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(100_000) {
        client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
    }
    client.send("0\r\n\r\n").response().expect_body(format!("{} {sum}", body.len()));
}

#[test]
fn a_large_page_arrives_whole_at_a_slow_reader() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php for ($i = 0; $i < 300000; $i++) { printf('%08d ', $i); }";
    let more = "location /unbuffered/ { fastcgi_buffering off; rewrite ^/unbuffered(.*)$ $1 break; fastcgi_pass unix:%%PHP%%; } \
                location /nofile/ { fastcgi_max_temp_file_size 0; rewrite ^/nofile(.*)$ $1 break; fastcgi_pass unix:%%PHP%%; }";
    let server = serve(&php, more, &[("big.php", script)]);
    let expected: String = (0..300_000).map(|number| format!("{number:08} ")).collect();
    for place in ["", "/unbuffered", "/nofile"] {
        server.fetch(&format!("{place}/big.php")).expect_status(200).expect_body(&expected);
    }
}

#[test]
fn a_kept_connection_is_used_again() {
    let Some(php) = PhpFpm::start() else { return };
    let more = "location /keep/ { fastcgi_keep_conn on; fastcgi_pass php; }";
    let server = serve(&php, more, &[("keep/pid.php", "<?php echo getmypid();")]);
    let first = server.fetch("/keep/pid.php").expect_status(200).text_body();
    for _ in 0..8 {
        // A kept connection stays with its process; new ones would spread over the four that there are.
        server.fetch("/keep/pid.php").expect_body(&first);
    }
}

#[test]
fn a_client_that_leaves_frees_php() {
    let Some(php) = PhpFpm::start() else { return };
    let script = "<?php ignore_user_abort(false); for ($i = 0; $i < 600; $i++) { echo str_repeat('x', 8192); flush(); usleep(10000); }";
    let server = serve(&php, "fastcgi_buffering off;", &[("drip.php", script), ("quick.php", "<?php echo 'quick';")]);
    for _ in 0..4 {
        let mut client = server.client();
        client.get("/drip.php").read_until(b"xxxx");
    }
    // All four processes were busy; they are free again soon, not in six seconds.
    eventually("php is free", || server.fetch("/quick.php").status == 200);
    server.wait_for_line("access.log", "/drip.php");
}
