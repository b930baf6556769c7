//! EntryKind both kinds of packages are made with.

use std::path::Path;

use tooling::error::Failure;
use xshell::{Cmd, Shell};

/// The name of the packages.
pub(super) const NAME: &str = "fsfreeze-hooks";

/// The date of everything in a package where `SOURCE_DATE_EPOCH` names no other: always the same
/// (2025-01-01), because the same files must make the same package, in a checkout of any depth.
const DATE: &str = "1735689600";

/// A directory for the work on one package, on the disk where the package goes.
pub(super) fn scratch(out: &Path) -> Result<tempfile::TempDir, Failure> {
    std::fs::create_dir_all(out).map_err(|e| Failure::io("create", out, e))?;
    tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(out)
        .map_err(|e| Failure::io("create a directory in", out, e))
}

/// A packager that writes neither the date nor anything about the host into a package.
pub(super) fn packager<'a>(sh: &'a Shell, name: &str) -> Cmd<'a> {
    let date = std::env::var_os("SOURCE_DATE_EPOCH").unwrap_or_else(|| DATE.into());
    sh.cmd(name).env("SOURCE_DATE_EPOCH", date).env("LC_ALL", "C").env("TZ", "UTC")
}
