//! Choosing among ten thousand locations.

use std::hint::black_box;

use criterion::Criterion;
use weir::http::location::{Found, Locations, Matcher};
use weir::http::plan::LocationId;

const COUNT: u32 = 10_000;

pub fn bench(criterion: &mut Criterion) {
    let mut locations = Locations::default();
    let mut add = |matcher: Matcher, id: u32| locations.add(&matcher, LocationId(id), false).expect("a fresh name");
    add(Matcher::Prefix { path: "/".to_owned(), final_: false }, 0);
    for n in 0..COUNT / 2 {
        add(Matcher::Prefix { path: format!("/section-{n}/"), final_: false }, 1 + n);
        add(Matcher::Exact(format!("/page-{n}.html")), 1 + COUNT / 2 + n);
    }
    locations.finish();

    let mut group = criterion.benchmark_group("location");
    // Every path is another one, so that the tables are not in the processor's nearest cache.
    let paths = |make: fn(u32) -> String| -> Vec<String> { (0..997).map(|n| make(n * 5 % (COUNT / 2))).collect() };
    for (name, paths, expected) in [
        ("exact", paths(|n| format!("/page-{n}.html")), "exact"),
        ("prefix", paths(|n| format!("/section-{n}/deep/file.html")), "prefix"),
        ("the root", paths(|n| format!("/elsewhere-{n}.html")), "prefix"),
    ] {
        for path in &paths {
            let kind = match locations.find(path.as_bytes()) {
                Found::Exact(_) => "exact",
                Found::Prefix { .. } => "prefix",
                Found::Nothing | Found::Slash(_) => "another",
            };
            assert_eq!(kind, expected, "{path}");
        }
        let mut next = paths.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| locations.find(black_box(next.next().expect("it goes round").as_bytes())));
        });
    }
    group.finish();
}
