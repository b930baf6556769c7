//! The packages of the hooks.

mod deb;
mod layout;
mod packager;
mod rpm;
#[cfg(test)]
mod tests;

#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use contract::run;
use tooling::error::Failure;
use tooling::host;

use crate::hook_program;

/// The packages' version: the project's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds a .deb and an .rpm of the hooks, and returns where they are.
pub fn build() -> Result<[PathBuf; 2], Failure> {
    hook_program::build()?;
    let out = packages_dir();
    Ok([deb::build(VERSION, &out)?, rpm::build(VERSION, &out)?])
}

/// Builds the .deb that [`deb_path`] names.
pub fn build_deb() -> Result<(), Failure> {
    hook_program::build()?;
    deb::build(VERSION, &packages_dir()).map(drop)
}

/// Builds the .rpm into `out`, for a test that installs it.
#[cfg(test)]
pub(crate) fn build_rpm(out: &Path) -> Result<PathBuf, Failure> {
    rpm::build(VERSION, out)
}

/// Where the .deb is, once it is built.
pub fn deb_path() -> PathBuf {
    packages_dir().join(run::package(VERSION))
}

fn packages_dir() -> PathBuf {
    host::repository().join("target/packages")
}
