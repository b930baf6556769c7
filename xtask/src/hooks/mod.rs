//! `cargo xtask hooks`: the hooks for those who want nothing else.

mod deb;
mod layout;
mod rpm;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use freezeframe::run::PACKAGE;
use freezeframe::say;

use crate::error::Failure;
use crate::{host, setup};

/// The name of the packages.
const NAME: &str = "fsfreeze-hooks";

/// Their version: the project's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The date of everything in a package where `SOURCE_DATE_EPOCH` names no other: always the same
/// (2025-01-01), because the same files must make the same package, in a checkout of any depth.
const DATE: &str = "1735689600";

/// Work on the hooks under `images/hooks`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Builds a .deb and an .rpm of the hooks into `target/packages`.
    Package,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match args.what {
        What::Package => {
            setup::ensure()?;
            let out = packages_dir();
            for package in [deb::build(VERSION, &out)?, rpm::build(VERSION, &out)?] {
                say!("{}", package.display());
            }
            Ok(())
        }
    }
}

/// Builds the .deb that [`deb_path`] names.
pub(crate) fn build_deb() -> Result<(), Failure> {
    deb::build(VERSION, &packages_dir()).map(drop)
}

/// Builds the .rpm into `out`, for a test that installs it.
#[cfg(test)]
pub(crate) fn build_rpm(out: &Path) -> Result<PathBuf, Failure> {
    rpm::build(VERSION, out)
}

/// Where the .deb is, once it is built.
pub(crate) fn deb_path() -> PathBuf {
    packages_dir().join(PACKAGE)
}

fn packages_dir() -> PathBuf {
    host::repository().join("target/packages")
}

/// A directory for the work on one package, on the disk where the package goes.
fn scratch(out: &Path) -> Result<tempfile::TempDir, Failure> {
    std::fs::create_dir_all(out).map_err(|e| Failure::io("create", out, &e))?;
    tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(out)
        .map_err(|e| Failure::io("create a directory in", out, &e))
}

/// A packager that writes nothing of this day or this host into a package.
fn packager(name: &str) -> Result<Command, Failure> {
    let mut command = host::command(name)?;
    let date = std::env::var_os("SOURCE_DATE_EPOCH").unwrap_or_else(|| DATE.into());
    command.env("SOURCE_DATE_EPOCH", date).env("LC_ALL", "C").env("TZ", "UTC");
    Ok(command)
}

/// Runs a program to its end, and returns what it printed.
fn output(mut command: Command) -> Result<Vec<u8>, Failure> {
    let program = Path::new(command.get_program()).display().to_string();
    let failed = |why: String| Failure::Infrastructure(format!("{program} failed: {why}"));
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(format!("{e}.")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(failed(format!("{}. It says:\n{}", output.status, String::from_utf8_lossy(&said).trim_end())))
}
