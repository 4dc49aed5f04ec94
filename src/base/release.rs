//! Which nginx this is a drop-in for, and where an installed server keeps what nobody named a place for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The release of nginx whose configuration and behaviour are served: `$nginx_version`, `-V`.
pub const NGINX_VERSION: &str = "1.31.5";

/// The places of one installation.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// Relative paths of a configuration start here.
    pub prefix: &'static str,
    pub conf_file: &'static str,
    pub pid: &'static str,
    pub logs: &'static str,
    /// Temporary files; the master makes its directories here.
    pub cache: &'static str,
}

/// Where the packages put weir.
const WEIR: Layout = Layout {
    prefix: "/usr/share/weir",
    conf_file: "/etc/weir/weir.conf",
    pid: "/run/weir.pid",
    logs: "/var/log/weir",
    cache: "/var/cache/weir",
};

/// Under the name `nginx` it stands in for a packaged nginx, whose places scripts and service files know.
const NGINX: Layout = Layout {
    prefix: "/usr/share/nginx",
    conf_file: "/etc/nginx/nginx.conf",
    pid: "/run/nginx.pid",
    logs: "/var/log/nginx",
    cache: "/var/cache/nginx",
};

static CHOSEN: OnceLock<&Layout> = OnceLock::new();

/// Chooses by the name that the program was started by. The first call counts.
pub fn started_as(program: &OsStr) {
    CHOSEN.get_or_init(|| of(program));
}

fn of(program: &OsStr) -> &'static Layout {
    match Path::new(program).file_name() {
        Some(name) if name == "nginx" => &NGINX,
        _ => &WEIR,
    }
}

pub fn layout() -> &'static Layout {
    CHOSEN.get().copied().unwrap_or(&WEIR)
}

/// The log `name` where the configuration names none: in the logs' place if a package made that directory, and else in
/// `logs` of the prefix, as of an nginx that was built by hand.
pub fn log_file(name: &str, prefix: &Path) -> PathBuf {
    let installed = Path::new(layout().logs);
    if installed.is_dir() { installed.join(name) } else { prefix.join("logs").join(name) }
}

/// Where temporary files go that nobody named a place for: an installed server has one for them, and a prefix of one's
/// own is the place itself, so that servers side by side do not meet.
pub fn temporary(prefix: &Path) -> &Path {
    let Layout { prefix: installed, cache, .. } = layout();
    if prefix == Path::new(installed) { Path::new(cache) } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_about_the_places() {
        for (program, layout) in
            [("weir", &WEIR), ("/usr/sbin/weir", &WEIR), ("nginx", &NGINX), ("/usr/sbin/nginx", &NGINX), ("", &WEIR)]
        {
            assert_eq!(of(OsStr::new(program)), layout, "{program:?}");
        }
    }

    #[test]
    fn temporary_files_of_an_installed_server_are_not_below_its_prefix() {
        assert_eq!(temporary(Path::new("/usr/share/weir")), Path::new("/var/cache/weir"));
        assert_eq!(temporary(Path::new("/srv/w")), Path::new("/srv/w"));
    }
}
