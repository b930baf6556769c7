//! The host that a task runs on: its user, the repository, its disks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(contract::run::checkout)
}

/// Where the definitions of images are.
pub fn definitions() -> PathBuf {
    repository().join("images")
}

/// Where built images stand.
pub fn built_images() -> PathBuf {
    repository().join("target/images")
}
