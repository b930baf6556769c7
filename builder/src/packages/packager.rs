//! What both kinds of packages are made with.

use std::path::Path;

use contract::files;
use tooling::error::Failure;
use xshell::{Cmd, Shell};

/// The name of the packages.
pub(super) const NAME: &str = "fsfreeze-hooks";

/// The date of everything in a package where `SOURCE_DATE_EPOCH` names no other: always the same
/// (2025-01-01), because the same files must make the same package, in a checkout of any depth.
const DATE: &str = "1735689600";

/// A directory for the work on one package. It is not beside the package: rpmbuild takes a path with a
/// space in it for two, and a checkout may have one.
pub(super) fn scratch() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("fsfreeze-hooks-")
        .tempdir()
        .map_err(|e| Failure::io("create a directory in", &std::env::temp_dir(), e))
}

/// Puts the package that was made into its place, as a whole or not at all.
pub(super) fn publish(made: &Path, package: &Path) -> Result<(), Failure> {
    let content = std::fs::read(made).map_err(|e| Failure::io("read", made, e))?;
    package.parent().map(files::create_dir).transpose()?;
    files::replace(package, &content).map_err(|e| Failure::io("write", package, e))
}

/// A packager that writes neither the date nor anything about the host into a package.
pub(super) fn packager<'a>(sh: &'a Shell, name: &str) -> Cmd<'a> {
    let date = std::env::var_os("SOURCE_DATE_EPOCH").unwrap_or_else(|| DATE.into());
    sh.cmd(name).env("SOURCE_DATE_EPOCH", date).env("LC_ALL", "C").env("TZ", "UTC")
}
