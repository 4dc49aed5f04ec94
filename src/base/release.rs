//! Which nginx this is a drop-in for.

/// The release of nginx whose configuration and behaviour are served: `$nginx_version`, `-V`.
pub const NGINX_VERSION: &str = "1.31.5";
