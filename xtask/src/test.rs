//! `cargo xtask test`: every test that needs no guest.

use std::fs;
use std::io::ErrorKind;
use std::process::Stdio;
use std::thread;

use builder::{foreign_programs, hook_program};
use tooling::command::{self, shell};
use tooling::error::Failure;
use tooling::{cargo, host};
use tracing::warn;
use xshell::{Cmd, Shell};

use crate::setup::{self, NeededBy};

/// Runs every test that needs no guest: units, the judge against planted
/// defects, the hooks and the load against real servers, scenario and image
/// files. At its end it shows which defect each property of the judge has caught,
/// and what the hooks did, row by row of the failure catalogue. The other tests
/// run and the tables appear even if a test fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

/// The tests that plant one defect at a time and print what caught each.
const MUTATION_TABLES: [&str; 3] =
    ["mutants::the_mutation_table", "postgresql::the_mutation_table", "tools::the_mutation_table"];

/// The test that prints what the rows of the failure catalogue have measured.
const CATALOGUE: &str = "catalogue::the_table";

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    setup::ensure_for(&[NeededBy::Rpm, NeededBy::PackagesWithApt])?;
    match foreign_programs::ensure() {
        // Most tests do not need them. Those that do will fail and name them.
        Err(failure) if !args.filters.is_empty() => warn!("{failure}"),
        outcome => outcome?,
    }
    hook_program::build()?;
    clear_measured()?;
    // nextest bounds each test's time; without it the same tests run all the same.
    let sh = shell()?;
    let tests = if command::find_program("cargo-nextest").is_some() {
        // Most of their time the hooks' tests wait for a limit, or for a server.
        let threads = thread::available_parallelism().map_or(2, |cores| 2 * cores.get());
        workspace(&sh, &["nextest", "run", "--no-fail-fast"]).arg(format!("--test-threads={threads}"))
    } else {
        workspace(&sh, &["test", "--no-fail-fast"]).arg("--")
    };
    let outcome = succeed(tests.args(&args.filters));
    if !args.filters.is_empty() {
        return outcome;
    }
    // Tests that pass are silent, but these print tables, even if others have failed.
    let judge = workspace(&sh, &["test", "--quiet", "--test", "judge"]);
    // One after the other.
    let mutations =
        succeed(judge.args(["--", "--exact", "--nocapture", "--test-threads=1"]).args(MUTATION_TABLES));
    let table = ["--exact", CATALOGUE, "--ignored", "--nocapture"];
    let catalogue = succeed(workspace(&sh, &["test", "--quiet", "--test", "hooks"]).arg("--").args(table));
    outcome.and(mutations).and(catalogue)
}

/// Removes what earlier runs have measured, so that the table is of this one.
fn clear_measured() -> Result<(), Failure> {
    let measured = host::repository().join("target/tmp/catalogue");
    match fs::remove_dir_all(&measured) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::io("remove", &measured, error)),
        _ => Ok(()),
    }
}

/// A call of cargo for every package that needs no guest, all built the same way.
fn workspace<'a>(sh: &'a Shell, task: &[&str]) -> Cmd<'a> {
    // The trials themselves are tests of the package `scenarios`, and need guests.
    cargo::cargo(sh).args(task).args(["--workspace", "--exclude", "scenarios"])
}

fn succeed(cargo: Cmd<'_>) -> Result<(), Failure> {
    let status = command::status(cargo, Stdio::inherit(), Stdio::inherit())?;
    if status.success() { Ok(()) } else { Err(Failure::Expectation("some tests failed.".to_owned())) }
}
