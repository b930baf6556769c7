//! `cargo xtask test`: every test that needs no guest.

use std::process::{Command, Stdio};

use crate::error::Failure;
use crate::{host, setup};

/// Runs every test that needs no guest: units, the judge against planted
/// defects, the hooks and the load against real servers, scenario and image
/// files.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    setup::ensure()?;
    // The trials themselves are tests of the package `scenarios`, and need guests.
    let packages = ["--workspace", "--exclude", "scenarios"];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // nextest bounds each test's time; without it the same tests run all the same.
    if host::find_program("cargo-nextest").is_some() {
        cargo
            .args(["nextest", "run"])
            .args(packages)
            .args(["--features", "freezeframe/vm"])
            .args(&args.filters);
    } else {
        cargo.arg("test").args(packages).args(["--features", "freezeframe/vm", "--"]).args(&args.filters);
    }
    let status = cargo
        .current_dir(host::repository())
        .stdin(Stdio::null())
        .status()
        .map_err(|e| Failure::Infrastructure(format!("cannot run cargo: {e}.")))?;
    if status.success() { Ok(()) } else { Err(Failure::Expectation("some tests failed.".to_owned())) }
}
