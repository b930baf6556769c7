//! `cargo xtask test`: every test that needs no guest.

use std::fs;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use terminal::command::Run as _;
use tracing::warn;

use crate::error::Failure;
use crate::setup::{self, Who};
use crate::{host, roots};

/// Runs every test that needs no guest: units, the judge against planted
/// defects, the hooks and the load against real servers, scenario and image
/// files. At its end it shows which defect each property of the judge has caught,
/// and how the hooks have fared, row by row of the failure catalogue. A test that
/// fails holds back neither the others nor the tables.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

/// The test that plants one defect at a time and prints what caught each.
const MUTATION_TABLE: &str = "mutants::the_mutation_table";

/// The test that prints what the rows of the failure catalogue have measured.
const CATALOGUE: &str = "catalogue::the_table";

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    setup::ensure_for(&[Who::Rpm])?;
    match roots::ensure() {
        // Most tests do without. Those that do not will say so.
        Err(failure) if !args.filters.is_empty() => warn!("{failure}"),
        outcome => outcome?,
    }
    clear_measured()?;
    // nextest bounds each test's time; without it the same tests run all the same.
    let mut tests = if host::find_program("cargo-nextest").is_some() {
        cargo(&["nextest", "run", "--no-fail-fast"])
    } else {
        let mut tests = cargo(&["test", "--no-fail-fast"]);
        tests.arg("--");
        tests
    };
    let outcome = succeed(tests.args(&args.filters));
    if !args.filters.is_empty() {
        return outcome;
    }
    // A test that passes is silent, but these have something to show, also when others have failed.
    let table = ["--exact", MUTATION_TABLE, "--nocapture"];
    let mutations = succeed(cargo(&["test", "--quiet", "--test", "judge"]).arg("--").args(table));
    let table = ["--exact", CATALOGUE, "--ignored", "--nocapture"];
    let catalogue = succeed(cargo(&["test", "--quiet", "--test", "hooks"]).arg("--").args(table));
    outcome.and(mutations).and(catalogue)
}

/// Removes what earlier runs have measured, so that the table is of this one.
fn clear_measured() -> Result<(), Failure> {
    let measured = host::repository().join("target/tmp/catalogue");
    match fs::remove_dir_all(&measured) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::io("remove", &measured, &error)),
        _ => Ok(()),
    }
}

/// A call of cargo for every package that needs no guest, all built the same way.
fn cargo(task: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(task)
        // The trials themselves are tests of the package `scenarios`, and need guests.
        .args(["--workspace", "--exclude", "scenarios"])
        .current_dir(host::repository())
        .stdin(Stdio::null());
    cargo
}

fn succeed(cargo: &mut Command) -> Result<(), Failure> {
    let status =
        cargo.run_status().map_err(|e| Failure::Infrastructure(format!("cannot run cargo: {e}.")))?;
    if status.success() { Ok(()) } else { Err(Failure::Expectation("some tests failed.".to_owned())) }
}
