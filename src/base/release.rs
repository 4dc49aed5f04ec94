//! Which nginx this is a drop-in for, and where an installed weir keeps what nobody named a place for.

use std::path::{Path, PathBuf};

/// The release of nginx whose configuration and behaviour are served: `$nginx_version`, `-V`.
pub const NGINX_VERSION: &str = "1.31.5";

/// Where the packages keep logs.
pub const LOGS: &str = "/var/log/weir";

/// The log `name` where the configuration names none: in [`LOGS`] if a package made that directory, and else in `logs`
/// of the prefix, as of an nginx that was built by hand.
pub fn log_file(name: &str, prefix: &Path) -> PathBuf {
    let installed = Path::new(LOGS);
    if installed.is_dir() { installed.join(name) } else { prefix.join("logs").join(name) }
}
