//! The pid file: how scripts, `-s` and service managers find the master.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::base::text::errno;
use crate::conf::error::Fault;
use crate::log::{Context, ErrorLog, Level};

/// Digits of the largest number and a line end; a file that is longer holds something else.
const LONGEST: u64 = 22;

/// Writes the number of this process. Whoever reads the file meanwhile finds the old number or the new one, whole.
pub fn create(path: &Path) -> Result<(), Fault> {
    let number = format!("{}\n", std::process::id());
    let draft = beside(path, &format!(".{}", std::process::id()));
    let renamed = write(&draft, &number).and_then(|()| fs::rename(&draft, path));
    if renamed.is_ok() {
        return Ok(());
    }
    let _ = fs::remove_file(&draft); // it may not have been made
    // The file may be ours to write where its directory is not.
    write(path, &number).map_err(|error| failed("open()", path, &error))
}

fn write(path: &Path, number: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(number.as_bytes())
}

/// What `-t` can find out: whether the file could be written. An existing one keeps its text.
pub fn test(path: &Path) -> Result<(), Fault> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
    opened.map(drop).map_err(|error| failed("open()", path, &error))
}

/// Where the number goes while a new binary has the file.
pub fn old(path: &Path) -> PathBuf {
    beside(path, ".oldbin")
}

/// Removes the file, unless another server has put its number there meanwhile.
pub fn remove(path: &Path, log: &ErrorLog) {
    if read(path).is_ok_and(|pid| pid != Pid::this()) {
        return;
    }
    if let Err(error) = fs::remove_file(path) {
        let code = error.raw_os_error().unwrap_or(0);
        let message = format_args!("unlink() \"{}\" failed", path.display());
        log.write_os(Level::Alert, &Context::default(), code, message);
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The number in the file.
pub fn read(path: &Path) -> Result<Pid, Fault> {
    let file = File::open(path).map_err(|error| failed("open()", path, &error))?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(|error| failed("read()", path, &error))?;
    let text = String::from_utf8_lossy(&text);
    let number = text.trim_end_matches(['\r', '\n']);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse() {
        // Zero and one would signal this process group, or init.
        Ok(pid) if digits && pid > 1 => Ok(Pid::from_raw(pid)),
        _ => Err(Fault::new(format!("invalid PID number \"{number}\" in \"{}\"", path.display()))),
    }
}

fn failed(call: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::new(format!("{call} \"{}\" failed {}", path.display(), errno(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("weir.pid");
        let missing = read(&path).expect_err("no file yet");
        let expected = format!("open() \"{}\" failed (2: No such file or directory)", path.display());
        assert_eq!(missing.to_string(), expected);
        create(&path).expect("the directory is ours");
        test(&path).expect("the file is ours");
        assert_eq!(read(&path).expect("just written"), Pid::this());
        assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1, "no draft is left");
        remove(&path, &ErrorLog::none());
        assert!(!path.exists());
        fs::write(&path, format!("{}\n", std::process::id() + 1)).expect("the directory is ours");
        remove(&path, &ErrorLog::none());
        assert!(path.exists(), "another server's file stays");
    }

    #[test]
    fn anything_but_a_number_is_refused() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let path = directory.path().join("weir.pid");
        for text in ["", "\n", "12x\n", "-5", "0", "1", "99999999999999999999"] {
            fs::write(&path, text).expect("the directory is ours");
            let number = text.trim_end();
            let expected = format!("invalid PID number \"{number}\" in \"{}\"", path.display());
            assert_eq!(read(&path).expect_err(text).to_string(), expected);
        }
    }
}
