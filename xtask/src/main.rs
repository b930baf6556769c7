//! `cargo xtask`: the front door of Freezeframe. One module a task.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod align;
mod bench;
mod chaos;
mod e2e;
mod hooks;
mod images;
mod judge;
mod leftovers;
mod number;
mod report;
mod setup;
mod test;
mod tidy;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use terminal::log::{self, Verbosity};
use terminal::results;
use tooling::error::Failure;
use tracing::error;

/// Proves on real virtual machines whether a VM backup is application-consistent.
///
/// Exit codes: 0 every expectation was met; 1 some were not; 2 invalid usage or
/// input; 3 it could not be determined (the host lacks something, a build
/// failed); 130 it was interrupted. Results go to stdout,
/// progress to stderr; RUST_LOG chooses the log messages, as `tracing` reads it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
    /// Logs each stage of each trial, and each command with its duration.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Logs warnings and errors only; results are printed all the same.
    #[arg(short, long, global = true)]
    quiet: bool,
}

impl Cli {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Task {
    Setup(setup::Args),
    Images(images::Args),
    E2e(e2e::Args),
    Test(test::Args),
    Judge(judge::Args),
    Report(report::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Chaos(chaos::Args),
    Hooks(hooks::Args),
    Tidy(tidy::Args),
}

impl Task {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Setup(args) => setup::run(&args),
            Self::Images(args) => images::run(args),
            Self::E2e(args) => e2e::run(args),
            Self::Test(args) => test::run(&args),
            Self::Judge(args) => judge::run(&args),
            Self::Report(args) => report::run(args),
            Self::Verify(args) => verify::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Chaos(args) => chaos::run(&args),
            Self::Hooks(args) => hooks::run(&args),
            Self::Tidy(args) => tidy::run(&args),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init(cli.verbosity());
    let done = cli.task.run();
    let written = results::end();
    match done.and(written.map_err(|e| Failure::Infrastructure(format!("cannot write the results: {e}.")))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            failure.exit_code()
        }
    }
}
