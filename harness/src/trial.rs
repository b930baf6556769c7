//! Trials: what runs. One pass of one plan through the pipeline.

mod pipeline;
mod progress;
mod reserve;
pub mod supervise;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use contract::events::{self, Stage};
use contract::plan::Plan;
use judge::verdict::Verdict;
use tracing::{error, info, info_span};

use crate::interrupt;
use progress::Progress;

/// The trial process: runs the plan in `dir`, judges what came of it, and
/// leaves `verdict.json`. `root` is a short-lived directory for libvirt, whose
/// path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    match planned(dir, root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(3)
        }
    }
}

fn planned(dir: &Path, root: &Path) -> Result<(), String> {
    // A supervisor that is killed must not leave a frozen guest behind: its
    // end reaches this process as the signal that `interrupt` listens for.
    interrupt::listen().map_err(|e| format!("cannot listen for signals: {e}"))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|e| format!("cannot ask for a signal at the supervisor's end: {e}"))?;
    let plan = Plan::read(dir).map_err(|e| e.to_string())?;
    interrupt::end_after(plan.limits.trial);
    let _in = info_span!("trial", trial = plan.trial).entered();

    // A panic unwinds through the guards like an error does, and must leave a
    // verdict like one.
    let ran = catch_unwind(AssertUnwindSafe(|| judged(&plan, root)))
        .unwrap_or_else(|_| Err("the harness itself failed; its panic message stands above".to_owned()));
    let mut verdict = ran.unwrap_or_else(|reason| Verdict::unknown(&plan, reason));
    // A trial that failed before its first event has no log.
    if let Ok(profile) = events::profile(&dir.join(events::FILE)) {
        verdict.timings_ms.add(&profile);
    }
    info!("{}: {}", plan.trial, verdict.reason);
    verdict.write(dir).map_err(|e| e.to_string())
}

/// An error is the sentence of the stage that failed.
fn judged(plan: &Plan, root: &Path) -> Result<Verdict, String> {
    let mut progress =
        Progress::create(&plan.dir.join(events::FILE), &plan.trial).map_err(|e| e.to_string())?;
    let mut run = || {
        pipeline::run(plan, root, &mut progress)?;
        if plan.start_only {
            return Ok(Verdict::unknown(plan, "only the start of its guest was asked for".to_owned()));
        }
        progress.stage(Stage::Judge, |_| Ok((Verdict::over(plan, &plan.dir, true)?.0, String::new())))
    };
    run().map_err(|e| progress.failed(&e))
}
