//! A line of the access log: made, and put behind the others of its thread. Writing is another thread's, to nowhere here.

use std::time::Duration;

use criterion::{BatchSize, Criterion};
use weir::log::batch;

use crate::head::BROWSER;
use crate::site::Site;

pub fn bench(criterion: &mut Criterion) {
    let own = "log_format own '$remote_addr - $remote_user [$time_local] \"$request\" \"$request_time\" $status \
               $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $http_x_forwarded_for $host $server_port';";
    let mut group = criterion.benchmark_group("log_line");
    for (name, log) in [("combined", "combined"), ("own", "own")] {
        let http = format!("{own} server {{ listen 80; access_log /dev/null {log} buffer=64k; }}");
        let (site, []) = Site::new(&http, BROWSER, []);
        site.sinks.start_writers();
        batch::attend();
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| site.request(), |request| request.write_logs(), BatchSize::SmallInput);
        });
        batch::drain();
        assert!(site.sinks.stop_writers(Duration::from_secs(9)), "the lines were taken");
    }
    group.finish();
}
