//! Reading a request's head: line, target, fields.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use weir::http::fields::{Fields, Lines};
use weir::http::request::{LineText, RequestHead};
use weir::wire::http1::field::{FieldParser, Line, NameRules};
use weir::wire::http1::message;
use weir::wire::http1::name::Kind;
use weir::wire::http1::request::LineParser;
use weir::wire::uri;

/// What `wrk` and other programs send.
pub const SHORT: &[u8] = b"GET /1k.html HTTP/1.1\r\nHost: www.example.org\r\n\r\n";

/// What a browser sends.
pub const BROWSER: &[u8] = b"GET /shop/list.html?page=2&sort=price HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Referer: http://www.example.org/some/other/page.html?from=here&id=12345\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; visits=1.1.123456789.1700000000\r\n\
    X-Forwarded-For: 203.0.113.7, 198.51.100.23\r\n\r\n";

/// A head and the path and arguments of its target, as `http/h1/head` makes them.
pub fn parse(raw: &Bytes) -> (RequestHead, uri::Uri) {
    let line = LineParser::new(0).parse(raw).expect("a good line").expect("a whole line");
    let normal = uri::normalise(raw, line.target, &line.shape, true).expect("a good target");
    let mut parser = FieldParser::new(line.end as usize);
    let mut fields = Lines::default();
    let end = loop {
        match parser.next(raw, NameRules::default()).expect("good fields").expect("a whole head") {
            Line::Field(field) => fields.push(field, Kind::of(field.name.of(raw))),
            Line::End(end) => break end,
        }
    };
    let fields = Fields::of(raw.clone(), fields);
    let host = fields.first("Host").and_then(|field| message::host(field.value).map(|host| host.name.into_owned()));
    let head = RequestHead {
        line: LineText {
            text: raw.clone(),
            whole: line.line,
            method: line.method,
            target: line.target,
            protocol: line.protocol,
        },
        version: line.version,
        host: host.map(Bytes::from),
        fields,
        size: u64::from(end),
        ..RequestHead::empty()
    };
    (head, normal.freeze(raw).expect("a clean path"))
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for (name, raw) in [("short", SHORT), ("browser", BROWSER)] {
        let raw = Bytes::from_static(raw);
        group.throughput(Throughput::Bytes(raw.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parse(black_box(&raw))));
    }
    group.finish();
}
