//! php-fpm, the real FastCGI peer, on a private socket with a private configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use super::server::{make_directory, write_file};
use super::{DEADLINE, holds_within, need};

pub struct PhpFpm {
    child: Child,
    directory: PathBuf,
    _root: Arc<TempDir>,
}

impl PhpFpm {
    /// Starts one in a directory of its own. `None`: it is not installed, and the test is to return.
    pub fn start() -> Option<PhpFpm> {
        let root = tempfile::Builder::new().prefix("weir-php-").tempdir().expect("a temporary directory");
        make_directory(root.path());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(root.path(), open).expect("the directory is ours");
        PhpFpm::within(&Arc::new(root))
    }

    pub fn within(root: &Arc<TempDir>) -> Option<PhpFpm> {
        let program = need("php-fpm*")?;
        let directory = root.path().join("php");
        make_directory(&directory);
        let place = directory.display();
        let user = if Uid::effective().is_root() { "user = nobody\ngroup = nogroup\n" } else { "" };
        let conf = format!(
            "[global]\nerror_log = {place}/fpm.log\nlog_level = notice\npid = {place}/fpm.pid\ndaemonize = no\n\
             [www]\n{user}listen = {place}/socket\nlisten.mode = 0666\npm = static\npm.max_children = 4\n\
             catch_workers_output = yes\nclear_env = no\nphp_admin_value[error_log] = {place}/php.log\n\
             php_admin_value[upload_tmp_dir] = {place}\nphp_admin_flag[display_errors] = off\n\
             php_admin_value[post_max_size] = 64M\nphp_admin_value[upload_max_filesize] = 64M\n\
             php_admin_flag[expose_php] = off\nphp_admin_value[session.save_path] = {place}\n"
        );
        write_file(&directory.join("fpm.conf"), conf.as_bytes());
        let stderr = fs::File::create(directory.join("stderr")).expect("a file for stderr");
        let mut command = Command::new(program);
        // -n: no php.ini of this machine; -R: root may start it, the workers are somebody else.
        command.args(["-n", "-F", "-R", "-y"]).arg(directory.join("fpm.conf")).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("php-fpm starts");
        let mut php = PhpFpm { child, directory, _root: root.clone() };
        let socket = PathBuf::from(php.socket());
        let ready = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        assert!(holds_within(DEADLINE, ready), "php-fpm is not ready: {}", php.log());
        assert!(php.child.try_wait().expect("it can be asked").is_none(), "php-fpm ended: {}", php.log());
        Some(php)
    }

    /// The path of its socket, for `fastcgi_pass unix:PATH`.
    pub fn socket(&self) -> String {
        self.directory.join("socket").display().to_string()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        format!("{}\n{}", read("stderr"), read("fpm.log"))
    }
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        if !holds_within(Duration::from_secs(10), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn php_answers_a_page() {
    let Some(php) = PhpFpm::start() else { return };
    let conf = "server { listen %%ADDR_0%%; location / { fastcgi_pass unix:%%PHP%%; \
                fastcgi_param SCRIPT_FILENAME %%PREFIX%%/html$uri; fastcgi_param REQUEST_METHOD $request_method; } }";
    let setup = super::Setup::new().set("PHP", php.socket()).file("html/a.php", "<?php echo 6 * 7;");
    setup.start(conf).fetch("/a.php").expect_status(200).expect_body("42");
    assert!(php.directory().join("fpm.pid").exists());
}
