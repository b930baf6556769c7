//! `cargo xtask bench`: the measurements, each compared with its goal.

mod baseline;
mod hooks;
mod images;
mod judge;
mod latency;
mod report;
mod scaling;
mod snapshots;
mod start;
mod trial;
mod trials;

use std::process::Stdio;

use tooling::command::{self, shell};
use tooling::error::Failure;
use tracing::info;
use xshell::cmd;

/// Measures what must be fast, and exits with 1 where a goal is missed. Benchmark was
/// measured is in `target/bench` as well, as JSON and as a picture.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Prints the measurements as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Benchmark {
    /// Every measurement, one after the other.
    All,
    Start(start::Args),
    Trial(trial::Args),
    Latency(latency::Args),
    Hooks(hooks::Args),
    Snapshots(snapshots::Args),
    Scaling(scaling::Args),
    Images(images::Args),
    Judge(judge::Args),
    #[command(hide = true)]
    JudgeOnce(judge::OnceArgs),
}

/// Benchmark `all` measures, in the order of `docs/bench.md`.
const ALL: [&str; 8] = ["start", "trial", "latency", "hooks", "snapshots", "scaling", "images", "judge"];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let report = match &args.benchmark {
        Benchmark::All => return all(args.json),
        Benchmark::Start(args) => start::run(args)?,
        Benchmark::Trial(args) => trial::run(args)?,
        Benchmark::Latency(args) => latency::run(args)?,
        Benchmark::Hooks(args) => hooks::run(args)?,
        Benchmark::Snapshots(args) => snapshots::run(args)?,
        Benchmark::Scaling(args) => scaling::run(args)?,
        Benchmark::Images(args) => images::run(args)?,
        Benchmark::Judge(args) => judge::run(args)?,
        Benchmark::JudgeOnce(args) => return judge::once(args),
    };
    report.publish(args.json)
}

/// Each in a process of its own, so that one that fails does not keep the others
/// from being measured.
fn all(json: bool) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::Infrastructure(format!("cannot run a measurement: {e}."));
    let program = std::env::current_exe().map_err(failed)?;
    let (mut missed, mut broken) = (Vec::new(), Vec::new());
    let sh = shell()?;
    for name in ALL {
        info!("bench {name}");
        let bench = cmd!(sh, "{program} bench {name}").args(json.then_some("--json"));
        match command::status(bench, Stdio::inherit(), Stdio::inherit())?.code() {
            Some(0) => {}
            Some(1) => missed.push(name),
            _ => broken.push(name),
        }
    }
    if !broken.is_empty() {
        return Err(Failure::Infrastructure(format!(
            "not measured: {}; their messages stand above.",
            broken.join(", ")
        )));
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Expectation(format!("goals were missed by: {}.", missed.join(", "))))
}
