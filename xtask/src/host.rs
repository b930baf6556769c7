//! The host that a task runs on: its programs, its user, the repository.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::Access;

use crate::error::Failure;

/// Searched after PATH: where system programs are on distributions that keep
/// them out of a normal user's PATH.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The file that running `name` would start.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok())
}

/// A command for `name`, which is found as [`find_program`] finds it.
pub(crate) fn command(name: &str) -> Result<Command, Failure> {
    let program = find_program(name).ok_or_else(|| {
        Failure::Infrastructure(format!(
            "`{name}` is not installed. `cargo xtask setup` installs what is missing."
        ))
    })?;
    Ok(Command::new(program))
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(contract::run::checkout)
}

/// Where built images stand.
pub(crate) fn built_images() -> PathBuf {
    repository().join("target/images")
}

/// A command for `name` that sees itself as root, over the files of this user
/// and of the user ids that the host lends to him. Root needs none of that.
pub(crate) fn as_namespace_root(name: &str) -> Result<Command, Failure> {
    if is_root() {
        return command(name);
    }
    let mut unshare = command("unshare")?;
    unshare.args(["--user", "--map-root-user", "--map-auto", "--"]).arg(command(name)?.get_program());
    Ok(unshare)
}

/// The space that is free for this user where `path` is, MiB.
pub(crate) fn free_mib(path: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(path).map_err(|e| Failure::io("look at", path, &e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024))
}
