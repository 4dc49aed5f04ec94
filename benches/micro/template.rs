//! Texts with variables. Each evaluation has a request of its own, for a request keeps what it has computed.

use criterion::{BatchSize, Criterion};

use crate::head::BROWSER;
use crate::site::Site;

pub fn bench(criterion: &mut Criterion) {
    let names = ["plain text", "a cache key", "a redirect", "fields, arguments, cookies"];
    let (site, templates) = Site::new(
        "server { listen 80; server_name www.example.org; access_log off; }",
        BROWSER,
        [
            "https://www.example.org/",
            "$scheme$host$request_uri$is_args",
            "https://$host$request_uri",
            "$http_user_agent|$http_referer|$arg_page|$arg_sort|$cookie_theme|$remote_addr",
        ],
    );
    let mut group = criterion.benchmark_group("template");
    for (name, template) in names.into_iter().zip(&templates) {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| site.request(), |request| template.eval(&**request), BatchSize::SmallInput);
        });
    }
    group.finish();
}
