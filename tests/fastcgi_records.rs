//! FastCGI record by record: what a program is told, and what becomes of what it says, however it comes.

use crate::kit::upstream::Conversation;
use crate::kit::{Server, Setup, Upstream, eventually};

const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const HEAD: &str = "Content-Type: text/plain\r\n\r\n";

/// A record with so much padding.
fn record(kind: u8, content: &str, padding: u8) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("it fits a record").to_be_bytes();
    let mut bytes = vec![1, kind, 0, 1, length[0], length[1], padding, 0];
    bytes.extend_from_slice(content.as_bytes());
    bytes.resize(bytes.len() + usize::from(padding), 0);
    bytes
}

fn out(content: &str) -> Vec<u8> {
    record(STDOUT, content, 0)
}

/// The end of the answer and of the request.
fn end() -> Vec<u8> {
    [out(""), record(3, "\0\0\0\0\0\0\0\0", 0)].concat()
}

/// A request as a program reads it.
#[derive(Debug, Default)]
struct Told {
    keep: bool,
    params: Vec<(String, String)>,
    /// The lengths of its records.
    sizes: Vec<usize>,
    body: Vec<u8>,
}

impl Told {
    fn all(&self, name: &str) -> Vec<&str> {
        self.params.iter().filter(|param| param.0 == name).map(|param| param.1.as_str()).collect()
    }
}

/// Reads one record; its type and content.
fn read_record(program: &mut Conversation) -> (u8, Vec<u8>) {
    let head = program.read(8);
    assert_eq!((head[0], head[2], head[3]), (1, 0, 1), "version 1, request 1");
    let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let mut content = program.read(length + usize::from(head[6]));
    assert_eq!(content.len() % 8, 0, "padded to eight bytes");
    content.truncate(length);
    (head[1], content)
}

/// Reads a request up to the end of its params.
fn read_params(program: &mut Conversation) -> Told {
    let (kind, begin) = read_record(program);
    assert_eq!((kind, &begin[..2]), (1, &[0, 1][..]), "it begins as a responder's");
    let mut told = Told { keep: begin[2] == 1, ..Told::default() };
    let mut bytes = Vec::new();
    loop {
        let (kind, content) = read_record(program);
        assert_eq!(kind, 4);
        if content.is_empty() {
            break;
        }
        bytes.extend(content);
    }
    let mut rest = bytes.as_slice();
    let length = |rest: &mut &[u8]| {
        let size = if rest[0] < 128 { 1 } else { 4 };
        let (number, after) = rest.split_at(size);
        *rest = after;
        number.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)) & 0x7fff_ffff
    };
    while !rest.is_empty() {
        let (name, value) = (length(&mut rest), length(&mut rest));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        told.params.push((text(&rest[..name]), text(&rest[name..name + value])));
        rest = &rest[name + value..];
    }
    told
}

/// Reads a whole request.
fn read_request(program: &mut Conversation) -> Told {
    let mut told = read_params(program);
    loop {
        let (kind, content) = read_record(program);
        assert_eq!(kind, 5);
        if content.is_empty() {
            return told;
        }
        told.sizes.push(content.len());
        told.body.extend(content);
    }
}

/// A server whose every location goes to the program, with more directives in its server block.
fn serve(program: &Upstream, more: &str) -> Server {
    let conf = format!("server {{ listen %%ADDR_0%%; {more} location / {{ fastcgi_pass %%UPSTREAM%%; }} }}");
    Setup::new().set("UPSTREAM", program.address()).start(&conf)
}

#[test]
fn a_program_is_told_params_and_fields() {
    let upstream = Upstream::start();
    let more = "fastcgi_param URI $request_uri; fastcgi_param EMPTY $arg_none; fastcgi_param NOT $arg_none if_not_empty; \
                fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param HTTP_X_OWN own; fastcgi_param HTTP_PROXY '';";
    let server = serve(&upstream, more);
    let mut client = server.client();
    let long = "v".repeat(300);
    client.send(format!(
        "POST /a?b HTTP/1.1\r\nHost: EXAMPLE.com:81\r\nProxy: evil\r\nX-Own: theirs\r\nx-two: 1\r\nX-Long: {long}\r\n\
         Cookie: a=b\r\nX-Two: 2\r\nCookie: c=d\r\nContent-Length: 70000\r\n\r\n"
    ));
    client.send("z".repeat(70000));
    let mut program = upstream.accept();
    let told = read_request(&mut program);
    program.reply([out(HEAD), out("told"), end()].concat()).close();
    client.response().expect_status(200).expect_field("Content-Type", "text/plain").expect_body("told");

    assert!(!told.keep);
    let expected = [
        ("URI", "/a?b"),
        ("EMPTY", ""),
        ("CONTENT_LENGTH", "70000"),
        ("HTTP_X_OWN", "own"),
        // 1.31: what is told as the host is a host
        ("HTTP_HOST", "example.com:81"),
        ("HTTP_X_TWO", "1, 2"),
        ("HTTP_X_LONG", &long),
        ("HTTP_COOKIE", "a=b; c=d"),
        ("HTTP_CONTENT_LENGTH", "70000"),
    ];
    let told_params: Vec<_> = told.params.iter().map(|param| (param.0.as_str(), param.1.as_str())).collect();
    assert_eq!(told_params, expected);
    assert_eq!(told.body, "z".repeat(70000).as_bytes());
    assert!(told.sizes.iter().all(|size| *size <= 32 * 1024), "{:?}", told.sizes);
}

#[test]
fn neither_fields_nor_body_where_they_are_not_to_pass() {
    let upstream = Upstream::start();
    let server =
        serve(&upstream, "fastcgi_pass_request_headers off; fastcgi_pass_request_body off; fastcgi_param A b;");
    let mut client = server.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc");
    let mut program = upstream.accept();
    let told = read_request(&mut program);
    assert_eq!((told.params.len(), told.all("A"), told.all("HTTP_HOST")), (2, vec!["b"], vec!["a"]));
    assert_eq!(told.body, b"");
    program.reply([out(HEAD), end()].concat()).close();
    client.response().expect_status(200).expect_body("");
}

#[test]
fn params_that_fit_no_record_are_a_500() {
    let upstream = Upstream::start();
    let many = "$arg_x".repeat(20);
    let setup = Setup::new().set("UPSTREAM", upstream.address()).allow_alerts();
    let server = setup.start(&format!(
        "server {{ listen %%ADDR_0%%; location / {{ fastcgi_param BIG {many}; fastcgi_pass %%UPSTREAM%%; }} }}"
    ));
    server.fetch(&format!("/?x={}", "y".repeat(4000))).expect_status(500);
    // BIG, HTTP_HOST and HTTP_CONNECTION; a value of more than 127 bytes has its length in four.
    server.wait_for_log("[alert]");
    server.wait_for_log("fastcgi request record is too big: 80050, client: 127.0.0.1");
}

#[test]
fn an_answer_may_come_in_any_pieces() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    let padded = |content: &str| record(STDOUT, content, 5);
    let answers = [
        [padded(&format!("X-A: b\r\n{HEAD}hello")), end()].concat(),
        [padded("X-A: "), padded("b\r"), padded("\n"), padded(&HEAD[..9]), padded(&HEAD[9..]), out("hello"), end()]
            .concat(),
        [record(STDERR, "", 3), padded(&format!("X-A: b\n{HEAD}hel")), record(STDERR, "oops.\n", 7), out("lo"), end()]
            .concat(),
    ];
    for answer in answers {
        for size in [1, 7, answer.len()] {
            let mut client = server.client();
            client.get("/");
            let mut program = upstream.accept();
            read_request(&mut program);
            for piece in answer.chunks(size) {
                program.reply(piece);
            }
            program.close();
            client.response().expect_status(200).expect_field("X-A", "b").expect_body("hello");
        }
    }
    server.wait_for_log("FastCGI sent in stderr: \"oops\" while reading upstream");
}

#[test]
fn the_status_is_what_the_program_says() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    for (fields, line, location) in [
        ("X: y", "HTTP/1.1 200 OK\r\n", None),
        ("Status: 404", "HTTP/1.1 404 Not Found\r\n", None),
        ("Status: 404 Gone Fishing\r\nStatus: 200", "HTTP/1.1 404 Gone Fishing\r\n", None),
        ("Location: /there", "HTTP/1.1 302 Moved Temporarily\r\n", Some("/there")),
        ("Status: 303 See\r\nLocation: http://a/", "HTTP/1.1 303 See\r\n", Some("http://a/")),
    ] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_request(&mut program);
        program.reply([out(&format!("{fields}\r\n\r\nbody")), end()].concat()).close();
        let response = client.response();
        assert!(response.head.starts_with(line.as_bytes()), "{fields}: {}", response.text());
        assert_eq!((response.field("Location"), response.field("Status")), (location, None), "{fields}");
        assert!(response.field("Server").is_some() && response.field("Date").is_some());
    }
    server.wait_for_log(
        "upstream sent duplicate header line: \"Status: 200\", previous value: \"Status: 404 Gone Fishing\"",
    );
}

#[test]
fn what_is_no_answer_is_a_502_and_says_why() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    for (answer, reason) in [
        (b"\x02".to_vec(), "upstream sent unsupported FastCGI protocol version: 2"),
        (b"\x01\x09\0\x01\0\0\0\0".to_vec(), "upstream sent invalid FastCGI record type: 9"),
        (b"\x01\x06\x05\x01\0\0\0\0".to_vec(), "upstream sent unexpected FastCGI request id high byte: 5"),
        (b"\x01\x06\0\x07\0\0\0\0".to_vec(), "upstream sent unexpected FastCGI request id low byte: 7"),
        (record(3, "\0\0\0\0\0\0\0\0", 0), "upstream sent unexpected FastCGI record: 3"),
        (out(""), "upstream prematurely closed FastCGI stdout"),
        (Vec::new(), "upstream prematurely closed connection"),
        (out("half a head"), "upstream prematurely closed connection"),
        (out("A\x01: b\r\n\r\n"), "upstream sent invalid header: \"A\\x01...\""),
        (out("Status: abc\r\n\r\n"), "upstream sent invalid status \"abc\""),
        (out("Status: 40\r\n\r\n"), "upstream sent invalid status \"40\""),
        (out(&format!("X: {}\r\n\r\n", "y".repeat(5000))), "upstream sent too big header"),
    ] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_request(&mut program);
        program.reply(answer).close();
        client.response().expect_status(502);
        server.wait_for_log(&format!("{reason} while reading response header from upstream, client: 127.0.0.1"));
    }
    server.wait_for_log(&format!("upstream: \"fastcgi://{}\"", upstream.address()));
}

#[test]
fn a_body_that_ends_early_is_not_passed_off_as_whole() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    let part = out("Content-Length: 10\r\n\r\nhalf");
    for (answer, reason) in [
        ([part.clone(), out("")].concat(), "upstream prematurely closed FastCGI stdout while reading upstream"),
        (
            [part.clone(), record(3, "\0\0\0\0\0\0\0\0", 0)].concat(),
            "upstream prematurely closed FastCGI request while reading upstream",
        ),
        (part, "upstream prematurely closed connection while reading upstream"),
    ] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_request(&mut program);
        program.reply(answer).close();
        client.read_until(b"\r\n\r\n");
        assert!(b"half".starts_with(&client.rest()));
        server.wait_for_log(reason);
    }
}

#[test]
fn more_than_was_announced_is_cut_off() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    for body in ["four and more", "four"] {
        let mut client = server.client();
        client.get("/");
        let mut program = upstream.accept();
        read_request(&mut program);
        program.reply([out(&format!("Content-Length: 4\r\n\r\n{body}")), out("five"), end()].concat()).close();
        client.response().expect_status(200).expect_body("four");
        server
            .wait_for_log("upstream sent more data than specified in \"Content-Length\" header while reading upstream");
    }
}

#[test]
fn stderr_of_any_length_comes_before_the_head() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "");
    let mut client = server.client();
    client.get("/");
    let mut program = upstream.accept();
    read_request(&mut program);
    for _ in 0..10 {
        program.reply(record(STDERR, &"warning ".repeat(700), 0));
    }
    program.reply([record(STDERR, "the last one.\n", 2), out(HEAD), out("hello"), end()].concat()).close();
    client.response().expect_status(200).expect_body("hello");
    server.wait_for_log("FastCGI sent in stderr: \"the last one\" while reading response header from upstream");
}

#[test]
fn a_message_that_is_caught_goes_to_the_next_program() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let setup = Setup::new().set("FIRST", first.address()).set("SECOND", second.address());
    let server = setup.start(
        "upstream programs { server %%FIRST%%; server %%SECOND%%; } fastcgi_catch_stderr 'Fatal error'; \
         fastcgi_catch_stderr other; fastcgi_next_upstream invalid_header http_503; \
         add_header X-Asked $upstream_addr always; add_header X-Statuses $upstream_status always; \
         server { listen %%ADDR_0%%; location / { fastcgi_pass programs; } }",
    );
    let asked = format!("{}, {}", first.address(), second.address());
    let failures =
        [(record(STDERR, "PHP Fatal error: oops", 0), "502, 200"), (out("Status: 503 Busy\r\n\r\nbusy"), "503, 200")];
    for (answer, statuses) in failures {
        // The first is left out for a while after it has failed: each case has its own try at it.
        let mut client = server.client();
        client.get("/");
        let Some(mut program) = first.accept_within(std::time::Duration::from_millis(500)) else { break };
        read_request(&mut program);
        // Half a head must not be taken for the second program's.
        program.reply([out("X-Half: "), answer, end()].concat());
        let mut program = second.accept();
        read_request(&mut program);
        program.reply([out(HEAD), out("second"), end()].concat()).close();
        let response = client.response();
        response.expect_status(200).expect_body("second").expect_field("X-Asked", &asked);
        response.expect_field("X-Statuses", statuses);
        assert_eq!(response.field("X-Half"), None);
    }
    assert_eq!(second.connections(), first.connections());
}

#[test]
fn a_body_is_passed_on_as_it_comes() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "fastcgi_request_buffering off; fastcgi_param CONTENT_LENGTH $content_length;");
    for chunked in [false, true] {
        let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 10" };
        let part = |text: &str| if chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text.to_owned() };
        let mut client = server.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let mut program = upstream.accept();
        let told = read_params(&mut program);
        assert_eq!(told.all("CONTENT_LENGTH"), [if chunked { "" } else { "10" }]);
        for text in ["01234", "56789"] {
            client.send(part(text));
            assert_eq!(read_record(&mut program), (5, text.as_bytes().to_vec()));
        }
        if chunked {
            client.send("0\r\n\r\n");
        }
        assert_eq!(read_record(&mut program), (5, Vec::new()));
        program.reply([out(HEAD), out("whole"), end()].concat()).close();
        client.response().expect_status(200).expect_body("whole");
    }
}

#[test]
fn a_connection_is_kept_when_its_request_has_ended_and_nothing_follows() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "upstream program { server %%UPSTREAM%%; keepalive 1; } server { listen %%ADDR_0%%; \
         location / { fastcgi_keep_conn on; fastcgi_pass program; } }",
    );
    let answer = |more: &str| [out(HEAD), out("hello"), end(), more.as_bytes().to_vec()].concat();
    let mut client = server.client();
    client.get("/");
    let mut program = upstream.accept();
    assert!(read_request(&mut program).keep);
    program.reply(answer(""));
    client.response().expect_body("hello");
    client.get("/");
    read_request(&mut program);
    assert_eq!(upstream.connections(), 1, "the same connection");
    program.reply(answer("surplus"));
    client.response().expect_body("hello");
    program.expect_closed();
    client.get("/");
    let mut program = upstream.accept();
    read_request(&mut program);
    // Who announces to keep the connection and closes it in the answer has not answered.
    program.reply([out(HEAD), out("half")].concat()).close();
    client.read_until(b"\r\n\r\n");
    client.rest();
    server.wait_for_log("upstream prematurely closed connection while reading upstream");
}

#[test]
fn answers_are_stored() {
    let upstream = Upstream::start();
    let server = serve(&upstream, "fastcgi_store stored$uri; fastcgi_store_access user:rw group:r;");
    let mut client = server.client();
    client.get("/a/b.txt");
    let mut program = upstream.accept();
    read_request(&mut program);
    program.reply([out(HEAD), out("kept "), out("for later"), end()].concat()).close();
    client.response().expect_body("kept for later");
    let path = server.path("stored/a/b.txt");
    eventually("the answer is a file", || std::fs::read(&path).is_ok_and(|content| content == b"kept for later"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn scripts_and_the_paths_behind_them() {
    let conf = "server { listen %%ADDR_0%%; fastcgi_index index.php; add_header X-Says \
                '$fastcgi_script_name|$fastcgi_path_info'; location / { return 204; } \
                location /split { fastcgi_split_path_info ^(.+?\\.php)(/.*)$; return 204; \
                location /split/own/ { fastcgi_index own.php; return 204; } } }";
    let server = Setup::new().start(conf);
    for (path, says) in [
        ("/a.php/b", "/a.php/b|"),
        ("/dir/", "/dir/index.php|"),
        ("/split/a.php/b/c.php/d", "/split/a.php|/b/c.php/d"),
        ("/split/a.php", "/split/a.php|"),
        ("/split/a.php/", "/split/a.php|/"),
        ("/split/", "/split/index.php|"),
        ("/split/own/", "/split/own/own.php|"),
        ("/split/own/x.php/y", "/split/own/x.php|/y"),
    ] {
        server.fetch(path).expect_status(204).expect_field("X-Says", says);
    }
}

#[test]
fn variables_name_the_program() {
    let upstream = Upstream::start();
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(
        "upstream program { server %%UPSTREAM%%; } server { listen %%ADDR_0%%; location / { fastcgi_pass $arg_to; } }",
    );
    for target in ["program".to_owned(), upstream.address().to_string()] {
        let mut client = server.client();
        client.get(&format!("/?to={target}"));
        let mut program = upstream.accept();
        read_request(&mut program);
        program.reply([out(HEAD), out("found"), end()].concat()).close();
        client.response().expect_status(200).expect_body("found");
    }
    for (target, reason) in [
        ("127.0.0.1", "no port in upstream \"127.0.0.1\""),
        ("127.0.0.1:99999", "invalid port in upstream \"127.0.0.1:99999\""),
        (
            "unix:/nowhere",
            "connect() to unix:/nowhere failed (2: No such file or directory) while connecting to upstream",
        ),
    ] {
        let status = if target.starts_with("unix") { 502 } else { 500 };
        server.fetch(&format!("/?to={target}")).expect_status(status);
        server.wait_for_log(reason);
    }
}
