//! What the parts of a request cost, one by one: `cargo bench --bench micro`, with the name of a part for that alone.
//!
//! In: the library as the server uses it. Out: nanoseconds, compared with the last run on this machine. What a whole request
//! costs is measured elsewhere (`tests/bench`); this tells where it goes, and whether a change in one place paid.

mod cache;
mod head;
mod header;
mod location;
mod log_line;
mod map;
mod site;
mod template;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    head::bench(&mut criterion);
    location::bench(&mut criterion);
    template::bench(&mut criterion);
    map::bench(&mut criterion);
    header::bench(&mut criterion);
    cache::bench(&mut criterion);
    log_line::bench(&mut criterion);
    criterion.final_summary();
}
