//! A real browser, headless Chromium, over HTTP/2: what the page itself saw, which it reports, and what the log says.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::upstream::Conversation;
use crate::kit::websocket::Echo;
use crate::kit::{Pair, Server, Setup, Upstream, need};

/// So many scripts the page asks for.
const RESOURCES: usize = 100;

/// A browser with a profile of its own in the server's directory. It ends with the test.
struct Browser(Child);

impl Browser {
    fn open(chromium: &Path, server: &Server, url: &str) -> Browser {
        let profile = format!("--user-data-dir={}", server.path("profile").display());
        let said = std::fs::File::create(server.path("logs/browser.log")).expect("the directory is ours");
        // Root has no sandbox to lose, and the certificate is the test's own.
        let child = Command::new(chromium)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--ignore-certificate-errors", "--no-proxy-server", "--disable-background-networking", &profile])
            .args(["--disable-component-update", "--disable-sync", "--disable-extensions", url])
            .env("HOME", server.path("profile"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn();
        Browser(child.expect("chromium runs"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page: counts its scripts, asks by which protocol each came, and holds a WebSocket between two reports. An answer to
/// a report is what it sends next.
fn page() -> String {
    let scripts: String = (0..RESOURCES).map(|n| format!("<script src=\"/r/{n}.js\" async></script>\n")).collect();
    format!(
        r#"<!DOCTYPE html><title>page</title><script>
let seen = 0;
onload = async () => {{
    const send = (text) => fetch("/report", {{ method: "POST", body: text }});
    // Now and then Chromium gives up a request that it has made and not sent when a GOAWAY comes.
    const report = async (text) => (await send(text).catch(() => send(text))).text();
    try {{
        const resources = performance.getEntriesByType("resource").filter((one) => one.name.includes("/r/"));
        const protocols = new Set(resources.map((one) => one.nextHopProtocol));
        const page = performance.getEntriesByType("navigation")[0].nextHopProtocol;
        const socket = new WebSocket("wss://" + location.host + "/ws");
        await new Promise((yes, no) => {{ socket.onopen = yes; socket.onerror = () => no("no WebSocket"); }});
        const echo = (text) => new Promise((yes, no) => {{
            socket.onmessage = (event) => yes(event.data);
            socket.onclose = () => no("the WebSocket is closed");
            socket.send(text);
        }});
        const first = await echo("first");
        let next = await report([page, seen, resources.length, [...protocols], first].join(" "));
        await report((await echo(next)) + " " + (await echo("x".repeat(200000))).length);
    }} catch (error) {{ report("failed: " + error); }}
}};
</script>
{scripts}"#
    )
}

/// The next report; a browser needs its time to start on a busy machine.
#[track_caller]
fn report(upstream: &Upstream) -> (Conversation, String) {
    let mut asked = upstream.accept_within(Duration::from_secs(120)).expect("the page reports");
    asked.expect("POST /report HTTP/1.");
    let text = String::from_utf8_lossy(&asked.asked.body).into_owned();
    (asked, text)
}

fn answer(mut asked: Conversation, text: &str) {
    asked.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    asked.close();
}

#[test]
fn a_page_of_a_hundred_resources_and_a_websocket() {
    let Some(chromium) = need("chromium") else { return };
    let (echo, upstream) = (Echo::start(), Upstream::start());
    let pair = Pair::of_itself("localhost");
    let mut setup = Setup::new().file("conf/a.crt", &pair.certificate).file("conf/a.key", &pair.key);
    setup = setup.set("ECHO", echo.address).set("UPSTREAM", upstream.address()).file("html/index.html", page());
    for n in 0..RESOURCES {
        setup = setup.file(&format!("html/r/{n}.js"), format!("seen += 1; // {}", "and more ".repeat(n * 20)));
    }
    let conf = "\
        map $http_upgrade $connection_upgrade { default upgrade; '' close; }
        types { text/html html; text/javascript js; }
        log_format browser '$connection $request_uri $server_protocol $http2 $ssl_protocol $status';
        access_log logs/browser.txt browser;
        server { listen %%ADDR_0%% ssl; http2 on; server_name localhost; root html;
        ssl_certificate a.crt; ssl_certificate_key a.key;
        location /report { proxy_pass http://%%UPSTREAM%%; }
        location /ws { proxy_pass http://%%ECHO%%; proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; } }";
    let mut server = setup.start(conf);
    let browser = Browser::open(&chromium, &server, &format!("https://localhost:{}/", server.port(0)));

    let (asked, text) = report(&upstream);
    assert_eq!(text, format!("h2 {RESOURCES} {RESOURCES} h2 first"));
    // The WebSocket outlives the configuration that it was opened under.
    server.configure(&conf.replace("logs/browser.txt", "logs/after.txt"));
    server.reload();
    crate::kit::eventually("the new configuration serves", || {
        let _ = std::net::TcpStream::connect(server.address(0));
        server.path("logs/after.txt").exists()
    });
    answer(asked, "still here");
    let (asked, text) = report(&upstream);
    assert_eq!(text, "still here 200000");
    answer(asked, "enough");
    drop(browser);

    let line = server.wait_for_line("browser.txt", " /ws ");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[1..], ["/ws", "HTTP/2.0", "h2", "TLSv1.3", "200"], "{line}");
    let log = server.log("browser.txt");
    let scripts: Vec<&str> = log.lines().filter(|line| line.contains(" /r/")).collect();
    assert_eq!(scripts.len(), RESOURCES, "{log}");
    let shared =
        scripts.iter().all(|line| line.starts_with(&format!("{} ", words[0])) && line.contains(" HTTP/2.0 h2 "));
    assert!(shared, "all on the connection of the WebSocket:\n{log}");
}
