//! Writing the head of an answer.

use criterion::Criterion;
use weir::http::h1::encode::{self, Framing};

use crate::head::SHORT;
use crate::site::{Site, answer};

pub fn bench(criterion: &mut Criterion) {
    let (site, []) = Site::new("server { listen 80; access_log off; }", SHORT, []);
    let mut group = criterion.benchmark_group("header");
    let mut many = answer();
    for n in 0..12 {
        many.add(format!("X-Field-{n}"), "some value of ordinary length");
    }
    for (name, head) in [("of a file", answer()), ("with many fields", many)] {
        let request = site.request();
        request.sent(Box::new(head));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                encode::with_head(&request, Framing::Length(1024), |out| {
                    let length = out.len();
                    assert!(length > 100, "a head was written");
                    out.clear();
                    length
                })
            });
        });
    }
    group.finish();
}
