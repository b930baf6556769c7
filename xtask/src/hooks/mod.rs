//! `cargo xtask hooks`: the hooks for those who want nothing else.

mod deb;
mod layout;
mod packager;
mod rpm;
#[cfg(test)]
mod tests;

#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use contract::run::PACKAGE;
use terminal::results;

use crate::error::Failure;
use crate::{host, setup};

/// The packages' version: the project's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

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
                results::line(package.display());
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
