//! The host that a task runs on: its user, the repository, its disks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::Failure;

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

/// The space that is free for this user where `path` is, MiB.
pub(crate) fn free_mib(path: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(path).map_err(|e| Failure::io("look at", path, &e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024))
}
