//! The host that a task runs on: its user, the repository, its disks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use contract::text::printable;

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(contract::run::checkout)
}

/// Why a checkout cannot be used where it is: its path is written into JSON and XML.
#[derive(Debug, thiserror::Error)]
#[error("the path of this checkout {problem}: {shown}. Move or rename it.")]
pub struct UnfitPath {
    problem: &'static str,
    shown: String,
}

/// Fails where the path of the repository is none that trials and builds can pass on.
pub fn check_repository() -> Result<(), UnfitPath> {
    check_path(repository())
}

fn check_path(checkout: &Path) -> Result<(), UnfitPath> {
    let problem = match checkout.to_str() {
        None => "is not in UTF-8",
        Some(path) if path.contains(char::is_control) => "has a control character",
        Some(_) => return Ok(()),
    };
    Err(UnfitPath { problem, shown: printable(&checkout.to_string_lossy()) })
}

/// Where the definitions of images are.
pub fn definitions() -> PathBuf {
    repository().join("images")
}

/// Where built images stand.
pub fn built_images() -> PathBuf {
    repository().join("target/images")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn a_path_that_cannot_be_passed_on_is_named_and_any_other_will_do() {
        for path in ["/home/u/my dir, it's", "/100%41/\"größe\"", &format!("/{}", "x".repeat(200))] {
            check_path(Path::new(path)).unwrap();
        }
        for (path, what) in
            [(&b"/home/\xff"[..], "is not in UTF-8"), (b"/home/a\nb", "has a control character: /home/a\\nb")]
        {
            let error = check_path(Path::new(OsStr::from_bytes(path))).unwrap_err();
            assert!(
                error.to_string().contains(what) && error.to_string().ends_with("Move or rename it."),
                "{error}"
            );
        }
    }
}
