//! A PID namespace for a trial: when its first process ends, of whatever, the kernel ends all others.
//!
//! The supervisor is that first process, so not even a QEMU that libvirt made a daemon outlives it.
//! Whoever is not root needs a user namespace for it, which some hosts do not grant.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// util-linux's program that makes namespaces; see unshare(1).
const UNSHARE: &str = "unshare";

/// The options of a PID namespace with its own `/proc`. `unshare` stays its parent, and takes it
/// along when it is killed itself.
const PIDS: [&str; 4] = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"];

/// What else it takes for those who are not root.
const USER: [&str; 2] = ["--user", "--map-current-user"];

/// Replaces this process by `program`, as the first of a new PID namespace. Returns only when that
/// is not possible, and says why not.
pub(super) fn exec<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> io::Error {
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &USER };
    let unshare = || {
        let mut unshare = Command::new(UNSHARE);
        unshare.args(user).args(PIDS);
        unshare
    };
    // A program that was replaced cannot fall back.
    let tried = unshare().arg("true").stdin(Stdio::null()).stdout(Stdio::null()).output();
    match tried {
        Err(error) => error,
        Ok(tried) if !tried.status.success() => {
            io::Error::other(String::from_utf8_lossy(&tried.stderr).trim().to_owned())
        }
        Ok(_) => unshare().arg(program).args(arguments).exec(),
    }
}

/// A command that runs `program` with mounts of its own, so that what it mounts no other process sees. The
/// supervisor that calls it is `isolated`, or it is not permitted; whoever is not root has no use for it.
pub(super) fn with_own_mounts(program: &Path, isolated: bool) -> Command {
    if !isolated || !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut unshare = Command::new(UNSHARE);
    // Replaces itself by the program.
    unshare.args(["--mount", "--"]).arg(program);
    unshare
}
