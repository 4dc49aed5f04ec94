//! Looking a key up in a cache's index of a hundred thousand entries, and making the key.

use std::hint::black_box;
use std::sync::Arc;

use criterion::Criterion;
use weir::cache::index::{Found, Index, Record};
use weir::cache::key::Key;

const COUNT: usize = 100_000;

fn text(n: usize) -> String {
    format!("httpwww.example.org/articles/{n}/index.html")
}

pub fn bench(criterion: &mut Criterion) {
    let index = Arc::new(Index::default());
    index.set_limits(COUNT, 3600);
    for n in 0..COUNT {
        let record = Record { key: Key::of(text(n).as_bytes()), size: 4096, expire: 3600, uses: 1 };
        assert!(index.load(record), "there is room");
    }
    index.is_loaded();

    let mut group = criterion.benchmark_group("cache");
    let text = text(42);
    group.bench_function("a key", |bencher| bencher.iter(|| Key::of(black_box(text.as_bytes()))));
    let keys: Vec<Key> = (0..997).map(|n| Key::of(self::text(n * 97 % COUNT).as_bytes())).collect();
    let mut next = keys.iter().cycle();
    group.bench_function("a look-up", |bencher| {
        bencher.iter(|| {
            let key = *next.next().expect("it goes round");
            let (held, found, _) = index.look_up(black_box(key), 1, 0).expect("there is room");
            assert!(matches!(found, Found::Entry { on_disk: true, .. }), "it is there");
            held
        });
    });
    group.finish();
}
