//! `weir explain` beside a server of the same configuration: what it says is what happens.

use std::process::Command;

use crate::kit::{self, Server, Setup};

/// Every place says its name.
const NAMES: &str = r#"
    server { listen %%ADDR_0%%; server_name a.example; return 200 a; }
    server { listen %%ADDR_0%%; server_name *.b.example; return 200 b; }
    server { listen %%ADDR_0%% default_server; server_name "~^c[0-9]+\."; return 200 c; }
    server { listen %%ADDR_0%%; server_name .d.example; return 200 d; }
"#;

const LOCATIONS: &str = r#"
    server {
        listen %%ADDR_0%%;
        root html;
        rewrite ^/old/(.*)$ /new/$1 last;
        rewrite ^/away$ http://other.example/ permanent;
        location / { return 200 "/"; }
        location = /exact { return 200 "= /exact"; }
        location /images/ { return 200 "/images/"; }
        location /images/in/ { return 200 "/images/in/"; }
        location ^~ /fixed/ { return 200 "^~ /fixed/"; }
        location ~ \.php { return 200 "~ \.php"; }
        location ~* \.JPG { return 200 "~* \.JPG"; }
        location /outer/ {
            location /outer/inner/ { return 200 "/outer/inner/"; }
            location ~ \.txt { return 200 "~ \.txt"; }
            return 200 "/outer/";
        }
        location /new/ { return 200 "/new/"; }
    }
"#;

fn explain(server: &Server, words: &[&str]) -> String {
    let mut command = Command::new(kit::binary());
    command.args(["explain", "-c", "conf/nginx.conf", "-p"]).arg(server.prefix()).args(words);
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn is_weir() -> bool {
    kit::binary().file_name().is_some_and(|name| name == "weir")
}

#[test]
fn the_server_is_the_one_that_answers() {
    if !is_weir() {
        return;
    }
    let server = Server::start(NAMES);
    for (host, rule) in [
        ("a.example", "by its name, at "),
        ("x.b.example", "by its name *.b.example, at "),
        ("c7.example", "by the first pattern that matches, ~^c[0-9]+\\., at "),
        ("d.example", "by its name .d.example, at "),
        ("x.d.example", "by its name .d.example, at "),
        ("nobody.example", "no server has the name \"nobody.example\"; this is the default server of "),
    ] {
        let mut client = server.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        let answered = client.response().text_body();
        let told = explain(&server, &[&format!("http://{}/", server.address(0)), "-H", &format!("Host: {host}")]);
        assert!(told.contains(&format!("return 200 {answered}  (")), "{host}: {answered}\n{told}");
        assert!(told.contains(rule), "{host}\n{told}");
    }
}

#[test]
fn the_location_is_the_one_that_answers() {
    if !is_weir() {
        return;
    }
    let server = Server::start(LOCATIONS);
    for path in [
        "/",
        "/x",
        "/exact",
        "/exact/x",
        "/images/a.gif",
        "/images/in/a.gif",
        "/images/a.php",
        "/images/a.jpg",
        "/fixed/a.php",
        "/outer/",
        "/outer/x",
        "/outer/inner/x",
        "/outer/inner/x.txt",
        "/outer/x.php",
        "/outer/x.txt",
        "/old/a",
        "/images/../exact",
        "/%69mages/x?y=.php",
    ] {
        let answered = server.fetch(path).text_body();
        let told = explain(&server, &[&format!("http://{}{path}", server.address(0))]);
        assert!(told.contains(&format!("\nlocation     {answered}  (")), "{path}: {answered}\n{told}");
    }
    let told = explain(&server, &[&format!("http://{}/away", server.address(0))]);
    assert!(told.ends_with("301\n") && told.contains("http://other.example/"), "{told}");
}

#[test]
fn files_upstreams_and_logs_are_named() {
    if !is_weir() {
        return;
    }
    let server = Setup::new().file("html/a/index.html", "x").start(
        "log_format short '$uri'; access_log logs/s.log short; upstream app { server 127.0.0.1:1; server 127.0.0.1:2 backup; }\n\
         server { listen %%ADDR_0%%; root html; proxy_temp_path temp/proxy;\n\
         location / { try_files $uri $uri/ @app; } location @app { proxy_pass http://app; } location /b/ { alias html/a/; } }",
    );
    let url = |path: &str| format!("http://{}{path}", server.address(0));
    let html = server.path("html");
    let html = html.display();
    let told = explain(&server, &[&url("/a/")]);
    assert!(told.contains(&format!("{html}/a/index.html is there")), "{told}");
    assert!(told.contains(&format!("file         {html}/a/index.html 1 bytes")), "{told}");
    assert!(told.contains("log          access_log logs/s.log short  ("), "{told}");
    let told = explain(&server, &[&url("/none")]);
    for line in [
        format!("$uri: {html}/none is not there"),
        "so: @app".to_owned(),
        "answers      proxy_pass http://app  (".to_owned(),
        "server 127.0.0.1:2 backup".to_owned(),
    ] {
        assert!(told.contains(&line), "no {line:?} in\n{told}");
    }
    let told = explain(&server, &[&url("/b/index.html")]);
    assert!(told.contains(&format!("file         {html}/a/index.html 1 bytes")), "{told}");
    let mut nobody = Command::new(kit::binary());
    nobody.args(["explain", "-c", "conf/nginx.conf", "http://x:1/", "-p"]);
    let output = nobody.arg(server.prefix()).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing listens at port 1"));
}

#[test]
fn logs_are_read_by_their_formats() {
    if !is_weir() {
        return;
    }
    let server = Setup::new().file("html/a", "x").start(
        "log_format own '$status|$request|$request_time'; access_log logs/own.log own;\n\
         server { listen %%ADDR_0%%; root html; }",
    );
    for path in ["/a", "/b", "/a?x"] {
        server.fetch(path);
    }
    server.wait_for_lines("own.log", 3);
    let logs = |words: &[&str]| {
        let mut command = Command::new(kit::binary());
        command.args(["logs", "-c", "conf/nginx.conf", "-p"]).arg(server.prefix()).args(words);
        let output = command.output().expect("the binary runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(logs(&[]), server.log("own.log"));
    assert!(logs(&["status=404"]).starts_with("404|GET /b HTTP/1.1|"));
    assert_eq!(logs(&["uri=/a", "status=2xx"]).lines().count(), 2);
    assert_eq!(logs(&["-n", "1"]), format!("{}\n", server.log("own.log").lines().last().expect("three lines")));
    let top = logs(&["--top", "uri"]);
    assert!(top.starts_with("3 requests\n2xx 2, 4xx 1\n") && top.contains("  /a\n"), "{top}");
    assert!(logs(&["host=x"]).contains("no log has the field \"host\"; there are: "), "{}", logs(&["host=x"]));
}

#[test]
fn the_key_is_that_of_the_file() {
    if !is_weir() {
        return;
    }
    let upstream = kit::Upstream::start().serve(|_| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        vec![kit::Step::Bytes(answer.into()), kit::Step::Close]
    });
    let server = Setup::new().set("UPSTREAM", upstream.address.to_string()).start(
        "proxy_cache_path cache keys_zone=one:1m; proxy_cache one; proxy_cache_valid 1h;
         server {
             listen %%ADDR_0%%;
             location / { proxy_pass http://%%UPSTREAM%%; }
             location /cut/ { proxy_pass http://%%UPSTREAM%%/put/; }
             location /own/ { proxy_pass http://%%UPSTREAM%%; proxy_cache_key $scheme:$uri; }
         }",
    );
    for path in ["/a?b=c", "/cut/a?b=c", "/own/a"] {
        server.fetch(path).expect_body("ok");
        let told = explain(&server, &[&format!("http://{}{path}", server.address(0))]);
        let key = told.lines().find_map(|line| line.trim_start().strip_prefix("key ")).expect("the key is told");
        let line = format!("\nKEY: {key}\n");
        let has_it = |file: std::fs::DirEntry| {
            std::fs::read(file.path()).is_ok_and(|bytes| memchr::memmem::find(&bytes, line.as_bytes()).is_some())
        };
        kit::eventually("the file is there", || {
            let files = std::fs::read_dir(server.prefix().join("cache"));
            files.is_ok_and(|files| files.flatten().any(has_it))
        });
    }
}
