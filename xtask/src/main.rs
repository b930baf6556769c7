//! `cargo xtask`: the front door of Freezeframe. One module a task.

// See `words`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod bench;
mod cargo;
mod columns;
mod e2e;
mod error;
mod hooks;
mod host;
mod images;
mod judge;
mod leftovers;
mod report;
mod roots;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use contract::{tell, words};

use error::Failure;

/// Proves on real virtual machines whether a VM backup is application-consistent.
///
/// Exit codes: 0 every expectation was met; 1 some were not; 2 the question
/// was wrong (usage, a bad file); 3 the harness could not tell (the host lacks
/// something, a build failed). Results go to stdout, progress to stderr.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Setup(setup::Args),
    Images(images::Args),
    E2e(e2e::Args),
    Test(test::Args),
    Judge(judge::Args),
    Report(report::Args),
    Bench(bench::Args),
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
            Self::Bench(args) => bench::run(&args),
            Self::Hooks(args) => hooks::run(&args),
            Self::Tidy(args) => tidy::run(&args),
        }
    }
}

fn main() -> ExitCode {
    let done = Cli::parse().task.run();
    let told = words::end();
    match done.and(told.map_err(|e| Failure::Infrastructure(format!("cannot write the results: {e}.")))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell!("error: {failure}");
            failure.exit_code()
        }
    }
}
