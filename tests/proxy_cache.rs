//! The cache on disk as clients, upstreams and the file system see it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};

use crate::kit::{Asked, Client, Response, Server, Setup, Step, Upstream, eventually};

/// A server that keeps what the upstream says, with `path` behind the zone and `more` in its location.
fn start(upstream: &str, path: &str, more: &str) -> Server {
    start_with(Setup::new(), upstream, path, more)
}

pub fn start_with(setup: Setup, upstream: &str, path: &str, more: &str) -> Server {
    let conf = format!(
        "proxy_cache_path cache levels=1:2 keys_zone=one:1m {path};
         log_format cache '$uri $upstream_cache_status $status';
         server {{
             listen %%ADDR_0%%;
             access_log logs/cache.log cache;
             add_header X-Cache $upstream_cache_status always;
             location / {{ proxy_pass http://%%UPSTREAM%%; proxy_cache one; proxy_cache_key $uri$is_args$args; {more} }}
         }}"
    );
    setup.set("UPSTREAM", upstream).start(&conf)
}

pub fn answer(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An upstream that counts its requests and answers each with its number, to be kept for a minute.
fn counting(fields: &'static str) -> (crate::kit::upstream::Background, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::start().serve(move |_: &Asked| {
        let n = counted.fetch_add(1, Ordering::SeqCst) + 1;
        vec![Step::Bytes(answer(fields, &format!("answer {n}")))]
    });
    (upstream, count)
}

fn get(server: &Server, path: &str, fields: &str) -> Response {
    let mut client = server.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"));
    client.response()
}

fn expect(server: &Server, path: &str, status: &str, body: &str) {
    get(server, path, "").expect_field("X-Cache", status).expect_body(body);
}

/// The files of a cache, temporary ones too.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// The same when there are so many: an answer is on its way before it is kept.
fn so_many_files(count: usize, directory: &Path) -> Vec<PathBuf> {
    eventually("what was answered is kept", || files(directory).len() == count);
    files(directory)
}

#[test]
fn what_was_kept_is_served_from_its_file() {
    let (upstream, count) = counting("Cache-Control: max-age=60\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n");
    let server = start(&upstream.address.to_string(), "", "");
    expect(&server, "/a", "MISS", "answer 1");
    expect(&server, "/a", "HIT", "answer 1");
    expect(&server, "/b", "MISS", "answer 2");
    let file = server.path("cache/5/bf/0639767f3e9eaad729b54037a7e2abf5");
    let bytes = fs::read(&file).expect("where nginx would have it");
    assert_eq!(&bytes[336..345], b"\nKEY: /a\n");
    get(&server, "/a", "Range: bytes=2-4\r\n").expect_status(206).expect_body("swe");
    get(&server, "/a", "If-None-Match: \"a\"\r\n").expect_status(304);
    let mut client = server.client();
    client.send("HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.response().expect_field("X-Cache", "HIT").expect_field("Content-Length", "8");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Whoever deletes the file by its name has it fetched anew.
    fs::remove_file(file).expect("it is there");
    expect(&server, "/a", "MISS", "answer 3");
    expect(&server, "/a", "HIT", "answer 3");
}

#[test]
fn what_is_not_for_all_is_not_kept() {
    let (upstream, _) = counting("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n");
    let more = "proxy_cache_min_uses 2;
                location /own { proxy_pass http://%%UPSTREAM%%; proxy_cache one; proxy_ignore_headers Set-Cookie; }";
    let server = start(&upstream.address.to_string(), "", more);
    for n in 1..3 {
        expect(&server, "/cookie", "MISS", &format!("answer {n}"));
    }
    expect(&server, "/own", "MISS", "answer 3");
    expect(&server, "/own", "MISS", "answer 4"); // kept from its second use on
    expect(&server, "/own", "HIT", "answer 4");
    assert_eq!(files(&server.path("cache")).len(), 1);
}

#[test]
fn conditions_pass_the_cache_by_or_keep_nothing() {
    let (upstream, _) = counting("Cache-Control: max-age=60\r\n");
    let more = "proxy_cache_bypass $arg_new; proxy_no_cache $arg_no;";
    let server = start(&upstream.address.to_string(), "", more);
    expect(&server, "/a?no=1", "MISS", "answer 1");
    expect(&server, "/a?no=1", "MISS", "answer 2");
    expect(&server, "/a?new=1", "BYPASS", "answer 3");
    expect(&server, "/a?new=1", "BYPASS", "answer 4");
    expect(&server, "/a?new=0", "MISS", "answer 5");
    expect(&server, "/a?new=0", "HIT", "answer 5");
}

#[test]
fn variants_have_files_of_their_own() {
    let upstream = Upstream::start().serve(|asked: &Asked| {
        let kind = asked.field("X-Kind").unwrap_or("none").to_owned();
        vec![Step::Bytes(answer("Cache-Control: max-age=60\r\nVary: X-Kind\r\n", &kind))]
    });
    let server = start(&upstream.address.to_string(), "", "");
    for status in ["MISS", "HIT"] {
        for kind in ["a", "b", "c"] {
            let fields = format!("X-Kind: {kind}\r\n");
            get(&server, "/v", &fields).expect_field("X-Cache", status).expect_body(kind);
        }
    }
    assert_eq!(files(&server.path("cache")).len(), 3);
}

#[test]
fn stale_answers_help_out() {
    let upstream = Upstream::start();
    let more = "proxy_cache_use_stale error http_500; proxy_cache_revalidate on; proxy_next_upstream off;";
    let server = start(&upstream.address().to_string(), "", more);
    let mut client = server.client();
    client.get("/a");
    // In 1970 it was fresh.
    let stale = answer("X-Accel-Expires: @1\r\nETag: \"a\"\r\n", "old");
    let mut conversation = upstream.expect("GET /a");
    conversation.reply(&stale);
    client.response().expect_field("X-Cache", "MISS").expect_body("old");

    client.get("/a");
    let mut conversation = upstream.accept_or(conversation);
    conversation.expect("GET /a").expect_field("If-None-Match", "\"a\"");
    conversation.reply("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops");
    client.response().expect_status(200).expect_field("X-Cache", "STALE").expect_body("old");

    client.get("/a");
    let mut conversation = upstream.accept_or(conversation);
    conversation.expect("GET /a").close();
    client.response().expect_field("X-Cache", "STALE").expect_body("old");

    client.get("/a");
    let mut conversation = upstream.accept_or(conversation);
    conversation.expect("GET /a").reply("HTTP/1.1 304 Not Modified\r\nX-Accel-Expires: 60\r\n\r\n");
    client.response().expect_field("X-Cache", "REVALIDATED").expect_body("old");
    client.get("/a");
    client.response().expect_field("X-Cache", "HIT").expect_body("old");
}

#[test]
fn one_fetches_beside_while_the_others_have_the_old() {
    let upstream = Upstream::start();
    let more = "proxy_cache_use_stale updating; proxy_cache_background_update on;";
    let server = start(&upstream.address().to_string(), "", more);
    let mut client = server.client();
    client.get("/a");
    upstream.expect("GET /a").reply(answer("X-Accel-Expires: @1\r\nConnection: close\r\n", "old"));
    client.response().expect_body("old");
    client.get("/a");
    client.response().expect_field("X-Cache", "STALE").expect_body("old");
    let mut beside = upstream.expect("GET /a");
    client.get("/a");
    client.response().expect_field("X-Cache", "UPDATING").expect_body("old");
    beside.reply(answer("X-Accel-Expires: 60\r\nConnection: close\r\n", "new"));
    eventually("the new one is there", || {
        client.get("/a");
        client.response().text_body() == "new"
    });
}

#[test]
fn many_clients_share_one_fetch_while_it_lasts() {
    let upstream = Upstream::start();
    let server = start(&upstream.address().to_string(), "", "proxy_cache_lock on; proxy_cache_lock_timeout 60s;");
    let mut first = server.client();
    first.get("/big");
    let mut conversation = upstream.expect("GET /big");
    let mut others: Vec<Client> = (0..50).map(|_| server.client()).collect();
    for client in &mut others {
        client.get("/big");
    }
    let half = "x".repeat(300_000);
    conversation.reply("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 600000\r\n\r\n");
    conversation.reply(&half);
    for client in &mut others {
        let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
        assert!(head.contains("X-Cache: HIT") && head.contains("Content-Length: 600000"), "{head}");
        assert_eq!(client.read_exactly(200_000), half.as_bytes()[..200_000], "before the upstream has ended");
    }
    // The one who began it goes away, and nobody minds.
    drop(first);
    conversation.reply(&half);
    for client in &mut others {
        assert!(client.read_exactly(400_000).iter().all(|byte| *byte == b'x'));
    }
    get(&server, "/big", "").expect_field("X-Cache", "HIT").expect_body(half.repeat(2));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn who_has_an_answer_and_asks_again_finds_it_kept() {
    let (upstream, count) = counting("Cache-Control: max-age=60\r\n");
    let setup = Setup::new().main("worker_processes 4;");
    let server = start_with(setup, &upstream.address.to_string(), "", "");
    for n in 1..=500 {
        let (path, body) = (format!("/{n}"), format!("answer {n}"));
        expect(&server, &path, "MISS", &body);
        expect(&server, &path, "HIT", &body); // whichever thread has this connection
    }
    assert_eq!(count.load(Ordering::SeqCst), 500);
}

#[test]
fn a_fetch_that_fails_frees_those_who_wait() {
    let upstream = Upstream::start();
    let server = start(&upstream.address().to_string(), "", "proxy_cache_lock on; proxy_cache_lock_timeout 60s;");
    let (mut first, mut second) = (server.client(), server.client());
    first.get("/a");
    let mut conversation = upstream.expect("GET /a");
    second.get("/a");
    conversation.close();
    first.response().expect_status(502);
    upstream.expect("GET /a").reply(answer("Cache-Control: max-age=60\r\nConnection: close\r\n", "good"));
    second.response().expect_status(200).expect_field("X-Cache", "MISS").expect_body("good");
}

#[test]
fn broken_files_are_misses_and_are_replaced() {
    let (upstream, _) = counting("Cache-Control: max-age=60\r\n");
    let server = start(&upstream.address.to_string(), "", "");
    expect(&server, "/a", "MISS", "answer 1");
    let path = so_many_files(1, &server.path("cache")).pop().expect("a file");
    let whole = fs::read(&path).expect("its bytes");
    let mut n = 1;
    let mut damage = |what: &str, change: &dyn Fn(&fs::File)| {
        change(&fs::File::options().read(true).write(true).open(&path).expect("the file"));
        n += 1;
        get(&server, "/a", "").expect_status(200).expect_body(format!("answer {n}"));
        expect(&server, "/a", "HIT", &format!("answer {n}"));
        assert_ne!(fs::metadata(&path).expect("a file").len(), 0, "{what}");
    };
    damage("cut in its header", &|file| file.set_len(100).expect("cut"));
    damage("cut in its body", &|file| file.set_len(whole.len() as u64 - 1).expect("cut"));
    damage("empty", &|file| file.set_len(0).expect("cut"));
    for at in [0, 48, 54, 56, 58, 187, 340, 344] {
        damage(&format!("a bit of byte {at}"), &|file| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 0x81], at).expect("written");
        });
    }
    server.wait_for_log("cache file \"");
}

#[test]
fn a_disk_that_refuses_costs_the_client_nothing() {
    let (upstream, _) = counting("Cache-Control: max-age=60\r\n");
    let server = start(&upstream.address.to_string(), "use_temp_path=off", "");
    expect(&server, "/a", "MISS", "answer 1");
    server.wait_for_log("http file cache: "); // the loader has seen a directory
    let cache = server.path("cache");
    fs::remove_dir_all(&cache).expect("removed");
    fs::write(&cache, "not a directory").expect("a file");
    for n in 2..5 {
        expect(&server, "/a", "MISS", &format!("answer {n}"));
    }
    let line = server.wait_for_log("[crit]");
    assert!(line.contains(" open() \""), "{line}");
}

#[test]
fn a_full_zone_makes_room_for_new_keys() {
    let (upstream, _) = counting("Cache-Control: max-age=60\r\n");
    let conf = "proxy_cache_path small keys_zone=small:16k;
         server { listen %%ADDR_0%%; location / { proxy_pass http://%%UPSTREAM%%; proxy_cache small; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address.to_string()).start(conf);
    for n in 0..300 {
        server.fetch(&format!("/{n}")).expect_status(200);
    }
    let kept = files(&server.path("small")).len();
    assert!((50..200).contains(&kept), "{kept} files");
}

#[test]
fn the_index_survives_a_reload_and_the_files_a_restart() {
    let (upstream, count) = counting("Cache-Control: max-age=600\r\n");
    let address = upstream.address.to_string();
    let mut server = start_with(Setup::new().allow_alerts(), &address, "", "");
    for n in 0..20 {
        expect(&server, &format!("/{n}"), "MISS", &format!("answer {}", n + 1));
    }
    server.reload();
    server.wait_for_log("reconfiguring");
    for n in 0..20 {
        expect(&server, &format!("/{n}"), "HIT", &format!("answer {}", n + 1));
    }
    // A killed worker is replaced by one that knows nothing but the disk.
    let worker = server.workers()[0];
    kill(worker, Signal::SIGKILL).expect("killed");
    eventually("another worker", || server.workers().iter().any(|pid| *pid != worker));
    for n in 0..20 {
        expect(&server, &format!("/{n}"), "HIT", &format!("answer {}", n + 1));
    }
    assert_eq!(count.load(Ordering::SeqCst), 20);
    server.stop();
}

#[test]
fn what_is_kept_in_memory_is_what_the_disk_has() {
    for memory in ["64m", "0"] {
        let (upstream, _) = counting("Cache-Control: max-age=60\r\n");
        let conf = format!(
            "proxy_cache_path cache keys_zone=one:1m; proxy_cache_memory {memory};
             server {{
                 listen %%ADDR_0%%; add_header X-Cache $upstream_cache_status;
                 location / {{ proxy_pass http://%%UPSTREAM%%; proxy_cache one; proxy_cache_key $uri; }}
             }}"
        );
        let server = Setup::new().set("UPSTREAM", upstream.address.to_string()).start(&conf);
        expect(&server, "/a", "MISS", "answer 1");
        for _ in 0..3 {
            expect(&server, "/a", "HIT", "answer 1");
        }
        let path = files(&server.path("cache")).pop().expect("a file");
        let changed = fs::read(&path).expect("its bytes").replace(b"answer 1", b"ANSWER 1");
        fs::write(path.with_extension("new"), &changed).expect("written");
        fs::rename(path.with_extension("new"), &path).expect("renamed");
        expect(&server, "/a", "HIT", "ANSWER 1");
        expect(&server, "/a", "HIT", "ANSWER 1");
        // From 1970: whoever wrote this wants it fetched anew.
        let file = fs::File::options().write(true).open(&path).expect("the file");
        file.write_all_at(&1_i64.to_le_bytes(), 8).expect("written");
        expect(&server, "/a", "EXPIRED", "answer 2");
        expect(&server, "/a", "HIT", "answer 2");
        fs::remove_file(&path).expect("deleted");
        expect(&server, "/a", "MISS", "answer 3");
    }
}

#[test]
fn open_file_cache_counts_for_cache_files() {
    // large enough to stay on the disk, and small enough for memory
    for times in [10_000, 1] {
        let count = AtomicUsize::new(0);
        let upstream = Upstream::start().serve(move |asked: &Asked| {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            let fields = match asked.target() {
                "/stale" => "X-Accel-Expires: @1\r\n",
                "/short" => "X-Accel-Expires: 1\r\nETag: \"it\"\r\n",
                _ => "Cache-Control: max-age=600\r\n",
            };
            if asked.field("If-None-Match").is_some() {
                return vec![Step::Bytes(b"HTTP/1.1 304 Not Modified\r\nX-Accel-Expires: 600\r\n\r\n".to_vec())];
            }
            vec![Step::Bytes(answer(fields, &format!("answer {n} ").repeat(times)))]
        });
        let more = "open_file_cache max=100; open_file_cache_valid 1h; proxy_cache_bypass $http_x_new;
                    proxy_cache_revalidate on;";
        let server = start(&upstream.address.to_string(), "", more);
        let expect = |path: &str, status: &str, n: usize| {
            let whole = format!("answer {n} ").repeat(times);
            get(&server, path, "").expect_field("X-Cache", status).expect_body(whole);
        };
        expect("/a", "MISS", 1);
        expect("/a", "HIT", 1);
        let file = files(&server.path("cache")).pop().expect("a file");
        fs::remove_file(&file).expect("removed");
        expect("/a", "HIT", 1); // it is open still, or in memory
        // What the server itself replaces is another file.
        for n in 2..4 {
            let whole = format!("answer {n} ").repeat(times);
            get(&server, "/a", "X-New: 1\r\n").expect_field("X-Cache", "BYPASS").expect_body(whole);
            expect("/a", "HIT", n);
            expect("/a", "HIT", n);
        }
        for n in 4..7 {
            expect("/stale", if n == 4 { "MISS" } else { "EXPIRED" }, n);
        }
        // What it writes to in place is another, too.
        expect("/short", "MISS", 7);
        eventually("it is stale", || get(&server, "/short", "").field("X-Cache") == Some("REVALIDATED"));
        expect("/short", "HIT", 7);
    }
}

#[test]
fn what_the_page_cache_lacks_is_read_by_a_thread() {
    for more in ["", "aio threads;"] {
        let body = "b".repeat(200_000);
        let upstream = Upstream::start().serve(move |asked: &Asked| {
            let len = if asked.target() == "/large" { body.len() } else { 1000 };
            vec![Step::Bytes(answer("Cache-Control: max-age=600\r\n", &body[..len]))]
        });
        let conf = format!(
            "proxy_cache_path cache keys_zone=one:1m; proxy_cache_memory 0;
             server {{
                 listen %%ADDR_0%%; add_header X-Cache $upstream_cache_status; {more}
                 location / {{ proxy_pass http://%%UPSTREAM%%; proxy_cache one; proxy_cache_key $uri; }}
             }}"
        );
        let server = Setup::new().set("UPSTREAM", upstream.address).start(&conf);
        for path in ["/large", "/small"] {
            get(&server, path, "").expect_field("X-Cache", "MISS");
        }
        let kept = so_many_files(2, &server.path("cache"));
        // a file system in memory has nothing to wait for
        let in_memory = rustix::fs::statfs(server.prefix()).expect("a file system").f_type == 0x0102_1994;
        // A disk may have it there before the server, which asked for what is in memory, looks.
        eventually("a thread has read a file", || {
            for file in &kept {
                let file = fs::File::open(file).expect("a file");
                file.sync_all().expect("on the disk");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("out of memory");
            }
            for (path, len) in [("/large", 200_000), ("/small", 1000)] {
                get(&server, path, "").expect_field("X-Cache", "HIT").expect_body("b".repeat(len));
            }
            let tasks = fs::read_dir(format!("/proc/{}/task", server.workers()[0])).expect("it runs");
            let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            in_memory || tasks.flatten().any(|task| name(task) == "weir/files\n")
        });
    }
}

/// Replaces bytes within bytes.
trait Replace {
    fn replace(self, from: &[u8], to: &[u8]) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    fn replace(mut self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = crate::kit::client::find(&self, from).expect("it is in there");
        self.splice(at..at + from.len(), to.iter().copied());
        self
    }
}

#[test]
fn the_index_is_written_at_the_end_and_read_at_the_start() {
    let (upstream, _) = counting("Cache-Control: max-age=600\r\n");
    let address = upstream.address.to_string();
    let mut server = start(&address, "", "");
    expect(&server, "/a", "MISS", "answer 1");
    expect(&server, "/b", "MISS", "answer 2");
    server.stop();
    let cache = server.path("cache");
    let snapshot = fs::read(cache.join("index.weir")).expect("an index");
    // Two entries, one of which has lost its file; and the same once more with a bit that flipped.
    let mut broken = snapshot.clone();
    broken[30] ^= 4;
    for index in [snapshot, broken] {
        let setup = Setup::new();
        let target = setup.prefix().join("cache");
        copy(&cache, &target);
        fs::write(target.join("index.weir"), index).expect("written");
        let gone = files(&target).into_iter().find(|path| path.ends_with("0639767f3e9eaad729b54037a7e2abf5"));
        fs::remove_file(gone.expect("the file of /a")).expect("deleted");
        let next = start_with(setup, &address, "", "");
        next.wait_for_log("http file cache:");
        assert!(!target.join("index.weir").exists(), "it counts once");
        expect(&next, "/b", "HIT", "answer 2");
        get(&next, "/a", "").expect_field("X-Cache", "MISS");
        expect(&next, "/b", "HIT", "answer 2");
    }
}

/// Copies a cache, so that a worker of any user may use it.
pub fn copy(from: &Path, to: &Path) {
    crate::kit::server::make_directory(to);
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), &target).expect("copied");
                let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(&target, open).expect("readable");
            }
        }
    }
}
