//! Every table of `tests/differential`, one test each.

use crate::kit::table;

/// The tables, and a test for each: a file that is not named here fails `every_table_has_a_test`.
macro_rules! tables {
    ($($name:ident)*) => {
        const TABLES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { table::run(stringify!($name)); })*
    };
}

tables! {
    static_files range not_modified headers http_request error_page rewrite index location gzip proxy log small ssi slice fastcgi access limit_req geo charset sub addition upstream autoindex realip auth_request referer secure_link split_clients
}

#[test]
fn every_table_has_a_test() {
    let entries = std::fs::read_dir(table::directory()).expect("the directory is there");
    let mut files: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    let mut named: Vec<String> = TABLES.iter().map(|name| format!("{name}.txt")).collect();
    named.sort();
    assert_eq!(files, named);
}
