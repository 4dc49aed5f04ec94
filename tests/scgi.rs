//! SCGI: what a program is told. What becomes of its answer is tested for uwsgi, whose programs answer alike.

use crate::kit::upstream::Conversation;
use crate::kit::{Server, Setup, Upstream};

/// The names and values of a netstring, in their order.
fn read_netstring(program: &mut Conversation) -> Vec<(String, String)> {
    let mut length = 0;
    loop {
        match program.read(1)[0] {
            b':' => break,
            digit => length = length * 10 + usize::from(digit - b'0'),
        }
    }
    let bytes = program.read(length);
    program.expect_bytes(",");
    assert_eq!(bytes.last(), Some(&0));
    let texts: Vec<String> = bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into()).collect();
    texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn all<'a>(told: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    told.iter().filter(|param| param.0 == name).map(|param| param.1.as_str()).collect()
}

/// A server whose every location goes to the program, with more directives in its server block.
fn serve(program: &Upstream, more: &str) -> Server {
    let conf = format!("server {{ listen %%ADDR_0%%; {more} location / {{ scgi_pass %%UPSTREAM%%; }} }}");
    Setup::new().set("UPSTREAM", program.address()).start(&conf)
}

#[test]
fn a_program_is_told_params_and_fields() {
    let upstream = Upstream::start();
    let more = "scgi_param SCGI 1; scgi_param URI $request_uri; scgi_param NOT $arg_none if_not_empty; \
                scgi_param HTTP_X_OWN own; scgi_param HTTP_PROXY '';";
    let server = serve(&upstream, more);
    let mut client = server.client();
    client.send(
        "POST /a?b HTTP/1.1\r\nHost: localhost\r\nX-Own: not this\r\nProxy: evil\r\nX-Fwd: 1\r\nContent-Length: 4\r\n\r\nbody",
    );
    let mut program = upstream.accept();
    let told = read_netstring(&mut program);
    assert_eq!(told[0], ("CONTENT_LENGTH".to_owned(), "4".to_owned()));
    assert_eq!(told[1], ("SCGI".to_owned(), "1".to_owned()));
    for (name, values) in [
        ("URI", &["/a?b"][..]),
        ("NOT", &[]),
        ("HTTP_X_OWN", &["own"]),
        ("HTTP_PROXY", &[]),
        ("HTTP_HOST", &["localhost"]),
        ("HTTP_X_FWD", &["1"]),
    ] {
        assert_eq!(all(&told, name), values, "{name} of {told:?}");
    }
    program.expect_bytes("body").reply("Status: 201 Made\r\nX: y\r\n\r\ndone").close();
    client.response().expect_status(201).expect_field("X", "y").expect_body("done");
}

#[test]
fn the_length_is_that_of_the_body_however_it_came() {
    let upstream = Upstream::start();
    for buffering in ["on", "off"] {
        let server = serve(&upstream, &format!("scgi_request_buffering {buffering};"));
        let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
        for (rest, length, body) in
            [("\r\n", "0", ""), ("Content-Length: 3\r\n\r\nabc", "3", "abc"), (chunked, "7", "abcdefg")]
        {
            let mut client = server.client();
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\n{rest}"));
            let mut program = upstream.accept();
            assert_eq!(all(&read_netstring(&mut program), "CONTENT_LENGTH"), [length], "{buffering} {rest}");
            program.expect_bytes(body).reply("\r\nread").close();
            client.response().expect_status(200).expect_body("read");
        }
    }
}

#[test]
fn another_program_is_asked_and_answers_are_kept() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let conf = "scgi_cache_path %%PREFIX%%/cache keys_zone=c:1m; upstream u { server %%FIRST%%; server %%SECOND%%; } \
                server { listen %%ADDR_0%%; location / { scgi_pass u; scgi_cache c; scgi_cache_key $uri; \
                scgi_cache_valid 1h; scgi_next_upstream http_503; add_header X-Cache $upstream_cache_status; } }";
    let server = Setup::new().set("FIRST", first.address()).set("SECOND", second.address()).start(conf);
    let mut client = server.client();
    client.get("/a");
    let mut program = first.accept();
    read_netstring(&mut program);
    program.reply("Status: 503\r\n\r\nno").close();
    let mut program = second.accept();
    read_netstring(&mut program);
    program.reply("Content-Length: 4\r\n\r\nbody").close();
    client.response().expect_status(200).expect_field("X-Cache", "MISS").expect_body("body");
    server.fetch("/a").expect_status(200).expect_field("X-Cache", "HIT").expect_body("body");
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

#[test]
fn what_answers_head_without_a_body_does_not_answer_get() {
    let upstream = Upstream::start();
    let conf = "scgi_cache_path %%PREFIX%%/cache keys_zone=c:1m; server { listen %%ADDR_0%%; location / { \
                scgi_pass %%UPSTREAM%%; scgi_cache c; scgi_cache_key $uri; scgi_cache_valid 1h; } }";
    let server = Setup::new().set("UPSTREAM", upstream.address()).start(conf);
    let mut client = server.client();
    client.send("HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut program = upstream.accept();
    read_netstring(&mut program);
    program.reply("Content-Length: 4\r\n\r\n").close();
    client.rest();
    let mut client = server.client();
    client.get("/a");
    let mut program = upstream.accept();
    read_netstring(&mut program);
    program.reply("Content-Length: 4\r\n\r\nbody").close();
    client.response().expect_status(200).expect_body("body");
}
