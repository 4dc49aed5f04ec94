//! `map` with a hundred thousand entries. The result is not kept (`volatile`), so one request can ask again and again; what it
//! maps is an argument, which is read anew each time, too.

use std::fmt::Write as _;

use bytes::Bytes;
use criterion::Criterion;

use crate::head::SHORT;
use crate::site::Site;

const COUNT: usize = 100_000;

pub fn bench(criterion: &mut Criterion) {
    let mut entries = String::new();
    for n in 0..COUNT {
        writeln!(entries, "key-{n} value-{};", n % 100).expect("a string takes it");
    }
    let http =
        format!("map $arg_key $mapped {{ volatile; default none; {entries} }} server {{ listen 80; access_log off; }}");
    let (site, [mapped]) = Site::new(&http, SHORT, ["$mapped"]);
    let request = site.request();
    let mut group = criterion.benchmark_group("map");
    for (name, prefix, known) in [("an entry", "key=key-", true), ("the default", "key=other-", false)] {
        let keys: Vec<Bytes> = (0..997).map(|n| format!("{prefix}{}", n * 97 % COUNT).into()).collect();
        request.set_args(keys[3].clone());
        assert_eq!(mapped.eval(&*request), if known { "value-91" } else { "none" });
        let mut next = keys.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                request.set_args(next.next().expect("it goes round").clone());
                mapped.eval(&*request)
            });
        });
    }
    group.finish();
}
