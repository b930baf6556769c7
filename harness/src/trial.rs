//! A trial: one pass of one plan through the pipeline.

mod isolate;
mod pipeline;
mod progress;
mod reserve;
pub mod supervise;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use contract::events::{self, Stage};
use contract::grade::Outcome;
use contract::plan::Plan;
use judge::verdict::Verdict;
use tracing::{error, info, info_span};

use crate::error::Result;
use crate::interrupt;
use progress::Progress;

/// The trial process: runs the plan in `dir`, judges the result, and writes `verdict.json`. `root`
/// is a short-lived directory for libvirt, whose path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    match planned(dir, root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(3)
        }
    }
}

fn planned(dir: &Path, root: &Path) -> Result<(), Box<dyn std::error::Error>> {
    // A supervisor that is killed must not leave a frozen guest behind: this process gets a signal,
    // and stops as after Ctrl-C.
    interrupt::listen()?;
    interrupt::end_with_parent()?;
    let plan = Plan::read(dir)?;
    interrupt::end_after(plan.limits.trial);
    let run = dir.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let _in = info_span!("trial", %run, trial = plan.trial).entered();

    // A panic unwinds through the guards like an error does, and must leave a
    // verdict like one.
    let mut verdict = catch_unwind(AssertUnwindSafe(|| judged(&plan, root))).unwrap_or_else(|_| {
        Verdict::unknown(&plan, "the harness itself failed; its panic message stands above".to_owned())
    });
    // A trial that failed before its first event has no log.
    if let Ok(times) = events::stage_times(&dir.join(events::FILE)) {
        verdict.timings_ms.add(&times);
    }
    match verdict.outcome {
        Outcome::Pass => info!("{}: {}", plan.trial, verdict.reason),
        // The reason is in the verdict, and whoever reads that reports it.
        Outcome::Fail | Outcome::Unknown => info!("{}: {}", plan.trial, verdict.grade),
    }
    Ok(verdict.write(dir)?)
}

/// Runs and judges the trial. Without an answer its verdict is unknown, for the reason that stopped it.
fn judged(plan: &Plan, root: &Path) -> Verdict {
    let mut progress = match Progress::create(&plan.dir.join(events::FILE), &plan.trial) {
        Ok(progress) => progress,
        Err(error) => return Verdict::unknown(plan, error.to_string()),
    };
    let mut run = || -> Result<Verdict> {
        pipeline::run(plan, root, &mut progress)?;
        if plan.start_only {
            return Ok(Verdict::unknown(plan, "only the start of its guest was requested".to_owned()));
        }
        progress.stage(Stage::Judge, |_| Ok((Verdict::over(plan, &plan.dir, true)?.0, String::new())))
    };
    run().unwrap_or_else(|error| {
        // Whatever failed first, a guest that is gone explains it better.
        let error = interrupt::check().err().unwrap_or(error);
        Verdict::unknown(plan, progress.failed(&error))
    })
}
