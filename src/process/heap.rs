//! The C library's heap, told how many blocks a thread keeps at hand.
//!
//! glibc keeps seven freed blocks of each size where a thread finds them at once; all others it joins and splits again. A loop
//! that has a hundred requests at its upstreams needs a hundred: with room for these, requests through `proxy_pass` take 0.95
//! of the processor time, through `fastcgi_pass` 0.93, over HTTP/2 0.94 (six pairs, 64 connections).
//! glibc reads this from the environment alone, before a program begins. So the program begins once more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// glibc(7): see `glibc.malloc.tcache_count` in its manual's chapter on tunables.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// At most 4.3 MB for each thread: this many blocks of each size, up to a kilobyte.
const ENOUGH: &str = "glibc.malloc.tcache_count=128";

/// The process that has begun anew. glibc takes its own variable away from a program with privileges of its file (set-user-ID,
/// capabilities), which would begin for ever.
const BEGAN: &str = "WEIR_BEGAN";

/// Begins the program anew, in the same process, if the C library is glibc and nobody has said what it shall do. Comes back
/// otherwise, and where that is forbidden: then the server is as right and a little slower.
pub fn enlarge(arguments: &[OsString], environment: &mut Vec<(OsString, OsString)>) {
    let process = std::process::id().to_string();
    let has_begun = environment.iter().any(|(name, value)| name == BEGAN && *value == *process);
    environment.retain(|(name, _)| name != BEGAN);
    if !cfg!(target_env = "gnu") || has_begun || environment.iter().any(|(name, _)| name == VARIABLE) {
        return;
    }
    let (Ok(program), [name, rest @ ..]) = (std::env::current_exe(), arguments) else { return };
    let _ = Command::new(program).arg0(name).args(rest).env(VARIABLE, ENOUGH).env(BEGAN, process).exec();
}
