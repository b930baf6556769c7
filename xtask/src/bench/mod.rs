//! `cargo xtask bench`: the measurements, each held against its goal.

mod hooks;
mod judge;
mod report;
mod start;
mod trials;

use crate::error::Failure;

/// Measures what must be fast, and exits with 1 where a goal is missed. What was
/// measured is in `target/bench` as well, as JSON and as a picture.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Prints the measurements as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Start(start::Args),
    Hooks(hooks::Args),
    Judge(judge::Args),
    #[command(hide = true)]
    JudgeOnce(judge::OnceArgs),
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = match &args.what {
        What::Start(args) => start::run(args)?,
        What::Hooks(args) => hooks::run(args)?,
        What::Judge(args) => judge::run(args)?,
        What::JudgeOnce(args) => return judge::once(args),
    };
    report.publish(args.json)
}
