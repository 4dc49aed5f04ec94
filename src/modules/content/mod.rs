//! Who answers when no `proxy_pass` does.

pub mod static_file; // files below root and alias
