//! Files and processes that nobody else may tamper with.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use procfs::process::{Process, Status};

/// The last number that distributions give to an account of a service; see `SYS_UID_MAX` in login.defs(5).
const LAST_SYSTEM_ACCOUNT: u32 = 999;

/// Whether an account is one that root has not set up for a service.
pub(crate) fn is_person(user: u32) -> bool {
    user > LAST_SYSTEM_ACCOUNT && user != rustix::process::geteuid().as_raw()
}

/// The account that all rights of a process are of, if it is only one.
pub(crate) fn only_user(status: &Status) -> Option<u32> {
    let Status { ruid, euid, suid, fuid, .. } = *status;
    [euid, suid, fuid].into_iter().all(|user| user == ruid).then_some(ruid)
}

/// Whether that is root, or ourselves.
pub(crate) fn is_ours(process: &Process) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let user = process.status().ok().and_then(|status| only_user(&status));
    user.is_some_and(|user| user == 0 || user == us)
}

/// Refuses a file that belongs to somebody else, or whose mode has one of these bits: others `can` do
/// something to it.
///
/// # Errors
///
/// A sentence that says so.
pub(crate) fn only(file: &Path, bits: u32, can: &str) -> Result<(), String> {
    let metadata =
        fs::metadata(file).map_err(|error| format!("cannot look at {}: {error}", file.display()))?;
    let owner = metadata.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && metadata.mode() & bits == 0 {
        return Ok(());
    }
    Err(format!("others than its owner, who must be root, may {can} {}", file.display()))
}
