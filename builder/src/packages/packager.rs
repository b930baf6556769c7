//! What both kinds of packages are made with.

use std::path::Path;

use contract::files;
use contract::runtime_dir::Home;
use tooling::error::Failure;
use xshell::{Cmd, Shell};

/// The name of the packages.
pub(super) const NAME: &str = "fsfreeze-hooks";

/// The date of everything in a package where `SOURCE_DATE_EPOCH` names no other: always the same
/// (2025-01-01), because the same files must make the same package, in a checkout of any depth.
const DATE: &str = "1735689600";

/// A directory for the work on one package. It is not beside the package: rpmbuild takes a path with a
/// space in it for two, and one with `%` for a macro. The path of the user's own directory is plain.
pub(super) fn scratch() -> Result<tempfile::TempDir, Failure> {
    let home = Home::of_user().map_err(|e| Failure::Infrastructure(format!("{e}.")))?;
    tempfile::Builder::new()
        .prefix("fsfreeze-hooks-")
        .tempdir_in(home.path())
        .map_err(|e| Failure::io("create a directory in", home.path(), e))
}

/// Puts the package that was made into its place, as a whole or not at all.
pub(super) fn publish(made: &Path, package: &Path) -> Result<(), Failure> {
    let content = std::fs::read(made).map_err(|e| Failure::io("read", made, e))?;
    let dir = package.parent().unwrap_or(package);
    std::fs::create_dir_all(dir).map_err(|e| Failure::io("create", dir, e))?;
    files::publish(package, &content).map_err(|e| Failure::io("write", package, e))
}

/// A packager that writes neither the date nor anything about the host into a package.
pub(super) fn packager<'a>(sh: &'a Shell, name: &str) -> Cmd<'a> {
    let date = std::env::var_os("SOURCE_DATE_EPOCH").unwrap_or_else(|| DATE.into());
    sh.cmd(name).env("SOURCE_DATE_EPOCH", date).env("TZ", "UTC")
}
