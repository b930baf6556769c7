//! `cargo xtask judge`: judges a trial directory again, offline.

use std::path::{Path, PathBuf};

use contract::grade::Outcome;
use contract::plan::Plan;
use contract::{events, json};
use judge::verdict::Verdict;
use terminal::results;
use tooling::error::Failure;
use tracing::warn;

/// Judges a trial directory again from its files alone, with no guest and no
/// libvirt. Nothing is written, and an earlier verdict is not read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trial's directory, such as target/e2e/latest/NAME.
    dir: PathBuf,
    /// Prints the verdict as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (verdict, cycles) = judged(&args.dir)?;
    if args.json {
        let json = json::pretty(&verdict).map_err(|e| Failure::Json { what: "the verdict", source: e })?;
        results::line(format_args!("{json}"));
    } else {
        for (n, cycle) in (1..).zip(&cycles) {
            results::line(format_args!("cycle {n}: {}", cycle.reason));
        }
        results::line(&verdict.reason);
        if let Some(unexamined) = verdict.unexamined() {
            results::line(format_args!("  {unexamined}"));
        }
        for finding in &verdict.findings {
            results::line(format_args!("  {} {}: {}", finding.id, finding.property, finding.summary));
            for line in &finding.evidence {
                results::line(format_args!("      {line}"));
            }
        }
    }
    match verdict.outcome {
        Outcome::Pass => Ok(()),
        Outcome::Fail => Err(Failure::Expectation(verdict.unmet.join("; "))),
        Outcome::Unknown => Err(Failure::Infrastructure(verdict.reason)),
    }
}

/// The verdict, and that of each cycle where there are several.
fn judged(dir: &Path) -> Result<(Verdict, Vec<Verdict>), Failure> {
    let plan = Plan::read(dir).map_err(Failure::usage)?;
    let (mut verdict, cycles) = Verdict::over(&plan, dir, false).map_err(Failure::usage)?;
    // No property rests on how long the stages took.
    match events::stage_times(&dir.join(events::FILE)) {
        Ok(times) => verdict.timings_ms.add(&times),
        Err(e) => warn!("{e}; the verdict goes without the times of the stages"),
    }
    Ok((verdict, cycles))
}
