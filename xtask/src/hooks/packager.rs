//! What both kinds of packages are made with.

use std::path::Path;
use std::process::{Command, Stdio};

use terminal::command::Run as _;

use crate::error::Failure;
use crate::host;

/// The name of the packages.
pub(super) const NAME: &str = "fsfreeze-hooks";

/// The date of everything in a package where `SOURCE_DATE_EPOCH` names no other: always the same
/// (2025-01-01), because the same files must make the same package, in a checkout of any depth.
const DATE: &str = "1735689600";

/// A directory for the work on one package, on the disk where the package goes.
pub(super) fn scratch(out: &Path) -> Result<tempfile::TempDir, Failure> {
    std::fs::create_dir_all(out).map_err(|e| Failure::io("create", out, &e))?;
    tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(out)
        .map_err(|e| Failure::io("create a directory in", out, &e))
}

/// A packager that writes nothing of this day or this host into a package.
pub(super) fn packager(name: &str) -> Result<Command, Failure> {
    let mut command = host::command(name)?;
    let date = std::env::var_os("SOURCE_DATE_EPOCH").unwrap_or_else(|| DATE.into());
    command.env("SOURCE_DATE_EPOCH", date).env("LC_ALL", "C").env("TZ", "UTC");
    Ok(command)
}

/// Runs a program to its end, and returns what it printed.
pub(super) fn output(mut command: Command) -> Result<Vec<u8>, Failure> {
    let program = Path::new(command.get_program()).display().to_string();
    let failed = |why: String| Failure::Infrastructure(format!("{program} failed: {why}"));
    let output = command.stdin(Stdio::null()).run_output().map_err(|e| failed(format!("{e}.")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(failed(format!("{}. It says:\n{}", output.status, String::from_utf8_lossy(&said).trim_end())))
}
