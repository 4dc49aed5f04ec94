//! What a worker may still do: landlock says where it may write, seccomp what it may ask the kernel for.
//!
//! In: the directories that a configuration names for temporary files, caches, stored answers and logs. Out: a process
//! that can write nowhere else, runs no program, starts no process, and has only the system calls that serving takes.
//! The rule: what the kernel does not have is said and done without; a sandbox never keeps a server from starting.
//!
//! Reading is left to the rights of the worker's user: roots may be made of variables, and what only root may read,
//! keys above all, the worker cannot open anyway. What it needs of those comes from the master.
//!
//! Threads inherit both, so they are put on before the first one starts; neither can be taken off again. So a
//! configuration that wants more than a worker has ([`Sandbox::covers`]) gets a new worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::syscalls;
use crate::conf::words::Writes;

/// The places where a worker may write, by their paths without links.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    places: BTreeMap<PathBuf, Place>,
}

/// A directory, or a file that is none of the regular ones, such as a log in `/dev`.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Device and inode. The kernel's rule is about these: a directory that was removed and made again is another one.
    identity: (u64, u64),
    writes: Writes,
}

impl Sandbox {
    /// The sandbox for a configuration that writes to these files and directories. A directory that is not there yet is
    /// replaced by the nearest one above it, in which it can be made.
    pub fn of(asked: impl IntoIterator<Item = (PathBuf, Writes)>) -> Self {
        // Thousands of sites may have their logs in one directory: look at it once.
        let asked: BTreeSet<_> = asked.into_iter().map(|(path, writes)| (directory(path), writes)).collect();
        let mut sandbox = Self::default();
        for (path, writes) in asked {
            if let Some((path, place)) = path.ancestors().find_map(|path| Place::of(path, writes))
                && !sandbox.allows(&path, writes)
            {
                sandbox.places.insert(path, place);
            }
        }
        sandbox
    }

    /// Whether a worker that has this sandbox can do what `next` wants.
    pub fn covers(&self, next: &Self) -> bool {
        let current = self.places.iter().filter(|(path, place)| place.is_at(path));
        let current = Self { places: current.map(|(path, place)| (path.clone(), *place)).collect() };
        let mut needed = next.places.iter().filter(|(_, place)| place.writes != Writes::OpenedLogs);
        needed.all(|(path, place)| current.allows(path, place.writes))
    }

    fn allows(&self, path: &Path, writes: Writes) -> bool {
        let enough = |place: &Place| place.writes == Writes::Files || writes != Writes::Files;
        path.ancestors().any(|above| self.places.get(above).is_some_and(enough))
    }

    /// Puts this process into the sandbox, for good. Says what is in force, for the log.
    pub fn enter(&self) -> String {
        let mut said = "worker process is confined: ".to_owned();
        let landlock = match self.restrict_writing() {
            Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => {
                format!("landlock, it writes below {} directories", self.places.len())
            }
            Ok(RulesetStatus::NotEnforced) => "no landlock in this kernel".to_owned(),
            Err(error) => format!("no landlock ({error})"),
        };
        let seccomp = match restrict_calls() {
            Ok(()) => "seccomp".to_owned(),
            Err(error) => format!("no seccomp ({error})"),
        };
        // Writing to a string does not fail.
        let _ = write!(said, "{landlock}; {seccomp}");
        said
    }

    fn restrict_writing(&self) -> Result<RulesetStatus, RulesetError> {
        // Kernels before 5.19 refuse every rename from one directory to another once there is a rule, and that is how
        // files get into a cache. There landlock is no help.
        let needed = AccessFs::from_write(ABI::V2) | AccessFs::Execute;
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(needed)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_write(ABI::V5))?
            .scope(Scope::Signal)?;
        let mut ruleset = ruleset.create()?;
        for (path, place) in &self.places {
            // What this user cannot reach needs no permission.
            if let Ok(descriptor) = PathFd::new(path) {
                ruleset = ruleset.add_rule(PathBeneath::new(descriptor, place.rights(path)))?;
            }
        }
        ruleset.restrict_self().map(|status| status.ruleset)
    }
}

/// What a rule can be about: the directory of a regular file, and of what is not there.
fn directory(mut path: PathBuf) -> PathBuf {
    if std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return path;
    }
    path.pop();
    path
}

impl Place {
    /// What is at `path`, and its name without links; `None` where there is nothing.
    fn of(path: &Path, writes: Writes) -> Option<(PathBuf, Self)> {
        let path = std::fs::canonicalize(path).ok()?;
        let meta = std::fs::metadata(&path).ok()?;
        if meta.is_file() {
            return Self::of(path.parent()?, writes);
        }
        Some((path, Self { identity: (meta.dev(), meta.ino()), writes }))
    }

    /// Nothing else has taken its place.
    fn is_at(&self, path: &Path) -> bool {
        Self::of(path, self.writes).is_some_and(|(_, now)| now.identity == self.identity)
    }

    fn rights(&self, path: &Path) -> BitFlags<AccessFs> {
        match self.writes {
            _ if !path.is_dir() => AccessFs::WriteFile.into(),
            Writes::Files => {
                AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
            // They grow; who moves them away is not the worker.
            Writes::Logs | Writes::OpenedLogs => AccessFs::WriteFile | AccessFs::MakeReg,
        }
    }
}

/// Leaves this process the system calls of [`syscalls`].
fn restrict_calls() -> Result<(), seccompiler::Error> {
    // Its arguments lie in memory, where a filter cannot look. glibc then takes `clone`, where it can.
    let unseen = program([(libc::SYS_clone3, Vec::new())], SeccompAction::Allow, libc::ENOSYS)?;
    let always = syscalls::ALWAYS.iter().chain(syscalls::OF_THIS_MACHINE).map(|&call| Ok((call, Vec::new())));
    let sometimes = [
        // Of two filters the one that refuses decides.
        Ok((libc::SYS_clone3, Vec::new())),
        // Threads, and no processes or namespaces.
        masked(libc::SYS_clone, 0, libc::CLONE_THREAD, libc::CLONE_THREAD),
        // No raw sockets, and none to the kernel but what getaddrinfo asks with.
        one_of(libc::SYS_socket, 0, &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]),
        one_of(libc::SYS_prctl, 0, syscalls::PRCTL),
        // Typing into a terminal, above all, is not among them.
        one_of(libc::SYS_ioctl, 1, syscalls::IOCTL),
        // A thread that aborts signals itself.
        one_of(libc::SYS_tgkill, 0, &[std::process::id().cast_signed()]),
    ];
    let rules = always.chain(sometimes).collect::<Result<Vec<_>, seccompiler::Error>>()?;
    let allowed = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        machine()?,
    )?;
    apply_filter(&unseen)?;
    apply_filter(&BpfProgram::try_from(allowed)?)
}

type Rules = (i64, Vec<SeccompRule>);

/// A filter that answers these calls with `errno`, and to all others says `otherwise`.
fn program(
    rules: impl IntoIterator<Item = Rules>,
    otherwise: SeccompAction,
    errno: i32,
) -> Result<BpfProgram, seccompiler::Error> {
    let refused = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules.into_iter().collect(), otherwise, refused, machine()?)?;
    Ok(BpfProgram::try_from(filter)?)
}

fn machine() -> Result<seccompiler::TargetArch, seccompiler::Error> {
    Ok(std::env::consts::ARCH.try_into()?)
}

/// Allows a call whose argument `n` is one of these.
fn one_of(call: i64, n: u8, values: &[i32]) -> Result<Rules, seccompiler::Error> {
    let rule = |&value: &i32| {
        let value = u64::from(value.cast_unsigned());
        SeccompRule::new(vec![SeccompCondition::new(n, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?])
    };
    Ok((call, values.iter().map(rule).collect::<Result<_, _>>()?))
}

/// Allows a call whose argument `n` has these bits within `mask`.
fn masked(call: i64, n: u8, mask: i32, bits: i32) -> Result<Rules, seccompiler::Error> {
    let (mask, bits) = (u64::from(mask.cast_unsigned()), u64::from(bits.cast_unsigned()));
    let condition = SeccompCondition::new(n, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), bits)?;
    Ok((call, vec![SeccompRule::new(vec![condition])?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(asked: &[(&Path, Writes)]) -> Sandbox {
        Sandbox::of(asked.iter().map(|(path, writes)| (path.to_path_buf(), *writes)))
    }

    #[test]
    fn a_sandbox_covers_what_lies_below_it() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let (cache, logs) = (directory.path().join("cache"), directory.path().join("logs"));
        for path in [&cache, &logs] {
            std::fs::create_dir(path).expect("the directory is ours");
        }
        let now = sandbox(&[(&cache, Writes::Files), (&logs.join("access.log"), Writes::Logs)]);
        assert_eq!(now.places.len(), 2);
        assert!(now.covers(&now) && now.covers(&Sandbox::default()));
        assert!(now.covers(&sandbox(&[(&cache.join("deeper/still"), Writes::Files)])));
        assert!(now.covers(&sandbox(&[(&logs.join("other.log"), Writes::Logs)])));
        assert!(!now.covers(&sandbox(&[(&logs, Writes::Files)])), "logs only grow");
        assert!(!now.covers(&sandbox(&[(directory.path(), Writes::Logs)])));
        assert!(now.covers(&sandbox(&[(directory.path(), Writes::OpenedLogs)])), "the master opens them");
        let other = directory.path().join("other");
        std::fs::create_dir(&other).expect("the directory is ours");
        std::fs::remove_dir(&cache).expect("it is empty");
        std::fs::rename(&other, &cache).expect("the directory is ours");
        assert!(!now.covers(&sandbox(&[(&cache, Writes::Files)])), "the same name, another directory");
    }

    #[test]
    fn what_is_not_there_is_made_in_the_directory_above() {
        let directory = tempfile::tempdir().expect("a place for temporary files");
        let now = sandbox(&[(&directory.path().join("a/b"), Writes::Files)]);
        let above = std::fs::canonicalize(directory.path()).expect("it is there");
        assert_eq!(now.places.keys().collect::<Vec<_>>(), [&above]);
    }
}
