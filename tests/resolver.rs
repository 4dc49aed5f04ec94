//! Names that are looked up while requests run, against a name server written here.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::kit::{Server, Setup, Step, Upstream, eventually};

type Names = Arc<Mutex<HashMap<String, Records>>>;

/// What a name has.
#[derive(Clone, Default)]
struct Records {
    addresses: Vec<Ipv4Addr>,
    /// Priority, weight, port, host.
    services: Vec<(u16, u16, u16, &'static str)>,
    alias: Option<&'static str>,
    /// The server says that it does not understand.
    puzzling: bool,
}

/// A name server for IPv4 addresses: a known name has its addresses for `ttl` seconds, any other does not exist.
struct Dns {
    address: SocketAddr,
    names: Names,
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start(ttl: u32) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout is set");
        let address = socket.local_addr().expect("it is bound");
        let (names, asked, over) = (Names::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (names, asked, over) = (names.clone(), asked.clone(), over.clone());
            move || {
                let mut packet = [0; 1500];
                while !over.load(Ordering::SeqCst) {
                    let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                    if let Some(reply) = answer(&packet[..length], &names, ttl, &asked) {
                        let _ = socket.send_to(&reply, from);
                    }
                }
            }
        });
        Dns { address, names, asked, over, thread: Some(thread) }
    }

    fn name(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.put(name, Records { addresses: addresses.to_vec(), ..Records::default() });
    }

    fn put(&self, name: &str, records: Records) {
        self.names.lock().expect("nobody panics with it").insert(name.to_owned(), records);
    }

    fn forget(&self, name: &str) {
        self.names.lock().expect("nobody panics with it").remove(name);
    }

    /// How often somebody asked for an IPv4 address.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// RFC 1035, 4: the header, the question as it came, and the addresses.
fn answer(query: &[u8], names: &Names, ttl: u32, asked: &AtomicUsize) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let kind = query.get(at + 1..at + 3)?;
    let names = names.lock().expect("nobody panics with it");
    let known = names.get(&labels.join(".").to_ascii_lowercase());
    if kind == [0, 1] {
        asked.fetch_add(1, Ordering::SeqCst);
    }
    let code = match known {
        Some(records) if records.puzzling => 1,
        Some(_) => 0,
        None => 3,
    };
    let records = known.cloned().unwrap_or_default();
    let mut answers: Vec<([u8; 2], Vec<u8>)> = Vec::new();
    if let Some(alias) = records.alias {
        answers.push(([0, 5], labels_of(alias)));
    } else if kind == [0, 1] {
        answers.extend(records.addresses.iter().map(|address| ([0, 1], address.octets().to_vec())));
    } else if kind == [0, 33] {
        answers.extend(records.services.iter().map(|(priority, weight, port, host)| {
            let numbers = [priority, weight, port].map(|number| number.to_be_bytes()).concat();
            ([0, 33], [numbers, labels_of(host)].concat())
        }));
    }
    let mut reply = query.get(..2)?.to_vec();
    reply.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
    reply.extend_from_slice(question);
    for (kind, data) in answers {
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&kind);
        reply.extend_from_slice(&[0, 1]);
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
        reply.extend_from_slice(&data);
    }
    Some(reply)
}

/// A name on the wire.
fn labels_of(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    [name.split('.').map(label).collect::<Vec<_>>().concat(), vec![0]].concat()
}

/// Upstreams on one port number of several loopback addresses cannot be had from the kernel by asking for any port,
/// so there is one, and names that lead to it or to nobody.
fn serve(dns: &Dns, more: &str) -> (Server, crate::kit::upstream::Background) {
    let upstream = Upstream::start().serve(|asked| {
        let host = asked.field("Host").unwrap_or_default().to_owned();
        let reply = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{host}", host.len());
        vec![Step::Bytes(reply.into_bytes()), Step::Close]
    });
    let setup = Setup::new().set("DNS", dns.address).set("PORT", upstream.address.port());
    let server = setup.start(&format!(
        "resolver %%DNS%% ipv6=off {more}; resolver_timeout 1s; server {{ listen %%ADDR_0%%; \
         location / {{ set $name $arg_name; proxy_pass http://$name:%%PORT%%; proxy_next_upstream_timeout 5s; }} }}"
    ));
    (server, upstream)
}

#[test]
fn a_name_in_a_variable_is_looked_up_and_remembered() {
    let dns = Dns::start(300);
    dns.name("one.example", &[Ipv4Addr::LOCALHOST]);
    let (server, upstream) = serve(&dns, "");
    let host = format!("one.example:{}", upstream.address.port());
    for _ in 0..3 {
        server.fetch("/?name=one.example").expect_status(200).expect_body(&host);
    }
    assert_eq!(dns.asked(), 1, "the answer has five minutes to live");
}

#[test]
fn a_name_that_does_not_exist_is_a_502() {
    let dns = Dns::start(300);
    let (server, _upstream) = serve(&dns, "");
    server.fetch("/?name=none.example").expect_status(502);
    let line = server.wait_for_log("none.example could not be resolved (3: Host not found)");
    assert!(line.contains("[error]") && line.contains("request: \"GET /?name=none.example HTTP/1.1\""), "{line}");
}

#[test]
fn a_silent_name_server_is_given_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let server = Setup::new().set("DNS", silent.local_addr().expect("it is bound")).start(
        "resolver %%DNS%% ipv6=off; resolver_timeout 500ms; server { listen %%ADDR_0%%; \
         location / { set $name slow.example; proxy_pass http://$name; } }",
    );
    server.fetch("/").expect_status(502);
    server.wait_for_log("slow.example could not be resolved (110: Operation timed out)");
}

#[test]
fn one_that_does_not_understand_is_asked_no_more_but_the_next() {
    let (puzzled, knowing) = (Dns::start(300), Dns::start(300));
    puzzled.put("one.example", Records { puzzling: true, ..Records::default() });
    puzzled.put("two.example", Records { puzzling: true, ..Records::default() });
    knowing.name("one.example", &[Ipv4Addr::LOCALHOST]);
    let setup = Setup::new().set("FIRST", puzzled.address).set("SECOND", knowing.address);
    let server = setup.start(
        "server { listen %%ADDR_0%%; location /end { return 200 ok; } \
         location /two { resolver %%FIRST%% ipv6=off; resolver_timeout 500ms; set $name two.example; proxy_pass http://$name; } \
         location / { resolver %%FIRST%% %%SECOND%% ipv6=off; set $name one.example; proxy_pass http://$name:%%PORT_0%%/end; } }",
    );
    server.fetch("/two").expect_status(502);
    server.wait_for_log("two.example could not be resolved (110: Operation timed out)");
    server.fetch("/").expect_status(200).expect_body("ok");
    assert_eq!((puzzled.asked(), knowing.asked()), (2, 1));
}

#[test]
fn an_answer_lives_as_long_as_it_says_or_as_the_configuration_says() {
    let dns = Dns::start(1);
    dns.name("short.example", &[Ipv4Addr::LOCALHOST]);
    let (server, _upstream) = serve(&dns, "");
    server.fetch("/?name=short.example").expect_status(200);
    eventually("the name is asked for again", || {
        server.fetch("/?name=short.example").expect_status(200);
        dns.asked() > 1
    });
    let dns = Dns::start(1);
    dns.name("long.example", &[Ipv4Addr::LOCALHOST]);
    let (server, _upstream) = serve(&dns, "valid=300s");
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        server.fetch("/?name=long.example").expect_status(200);
    }
    assert_eq!(dns.asked(), 1);
}

#[test]
fn every_address_of_a_name_is_tried() {
    let dns = Dns::start(300);
    // Nobody listens on the first two.
    let dead = [Ipv4Addr::new(127, 0, 0, 77), Ipv4Addr::new(127, 0, 0, 78)];
    dns.name("many.example", &[dead[0], dead[1], Ipv4Addr::LOCALHOST]);
    let (server, _upstream) = serve(&dns, "");
    for _ in 0..6 {
        server.fetch("/?name=many.example").expect_status(200);
    }
}

/// A server whose group is found by name. Nobody listens on port 1: `X-Way` tells whom it has asked.
fn serve_group(dns: &Dns, group: &str) -> Server {
    Setup::new().set("DNS", dns.address).start(&format!(
        "resolver %%DNS%% ipv6=off valid=1s; resolver_timeout 1s; upstream u {{ zone z 64k; {group} }} \
         server {{ listen %%ADDR_0%%; add_header X-Way $upstream_addr always; location / {{ proxy_pass http://u; }} }}"
    ))
}

fn way(server: &Server) -> String {
    server.fetch("/").expect_status(502).field("X-Way").expect("it is told").to_owned()
}

fn expect_way(server: &Server, expected: &str) {
    eventually(&format!("the way is {expected}"), || way(server) == expected);
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);

#[test]
fn a_group_follows_its_name() {
    let dns = Dns::start(1);
    dns.name("a.example", &[ONE]);
    // Those that do not weigh alike keep their order.
    let server = serve_group(&dns, "server 127.0.1.9:1 weight=5 max_fails=0; server a.example:1 resolve max_fails=0;");
    expect_way(&server, "127.0.1.9:1, 127.0.1.1:1");
    dns.name("a.example", &[TWO]);
    expect_way(&server, "127.0.1.9:1, 127.0.1.2:1");
    dns.put("a.example", Records { alias: Some("b.example"), ..Records::default() });
    dns.name("b.example", &[ONE]);
    expect_way(&server, "127.0.1.9:1, 127.0.1.1:1");
    dns.forget("a.example");
    expect_way(&server, "127.0.1.9:1");
    server.wait_for_log("a.example could not be resolved (3: Host not found)");
}

#[test]
fn what_was_found_outlives_a_reload_and_a_name_server_that_is_silent() {
    let dns = Dns::start(1);
    dns.name("a.example", &[ONE]);
    let server = serve_group(&dns, "server a.example:1 resolve max_fails=0;");
    expect_way(&server, "127.0.1.1:1");
    drop(dns);
    server.wait_for_log("a.example could not be resolved (110: Operation timed out)");
    assert_eq!(way(&server), "127.0.1.1:1");
    server.reload();
    assert_eq!(way(&server), "127.0.1.1:1");
}

#[test]
fn a_group_follows_its_service() {
    let dns = Dns::start(1);
    dns.name("one.example", &[ONE]);
    dns.name("two.example", &[TWO]);
    let services = vec![(10, 1, 2, "two.example"), (5, 3, 1, "one.example"), (10, 1, 3, "none.example")];
    dns.put("_http._tcp.a.example", Records { services, ..Records::default() });
    let server = serve_group(&dns, "server a.example resolve service=http max_fails=0;");
    expect_way(&server, "127.0.1.1:1, 127.0.1.2:2");
    server.wait_for_log(
        "none.example could not be resolved (3: Host not found) while resolving service http of a.example",
    );
    dns.put("_http._tcp.a.example", Records { services: vec![(1, 1, 4, "two.example")], ..Records::default() });
    expect_way(&server, "127.0.1.2:4");
    dns.forget("_http._tcp.a.example");
    expect_way(&server, "u");
    server.wait_for_log("service http of a.example could not be resolved (3: Host not found)");
}

#[test]
fn a_group_may_have_a_resolver_of_its_own() {
    let (dns, other) = (Dns::start(1), Dns::start(1));
    other.name("a.example", &[ONE]);
    let own =
        format!("resolver {} ipv6=off; hash $uri consistent; server a.example:1 resolve max_fails=0;", other.address);
    let server = serve_group(&dns, &own);
    expect_way(&server, "127.0.1.1:1");
    assert_eq!(dns.asked(), 0);
}
