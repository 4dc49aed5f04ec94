//! Who answers when no `proxy_pass` does.

pub mod autoindex; // what is in a directory
pub mod empty_gif; // one transparent pixel
pub mod gzip_static; // files that are compressed already
pub mod index; // which file answers for its directory
pub mod mirror; // the same request elsewhere, too
pub mod random_index; // some file of a directory
pub mod static_file; // files below root and alias
pub mod stub_status; // how many connections and requests
pub mod try_files; // the first of several files
