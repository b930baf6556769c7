//! Trials: what runs. One pass of one plan through the pipeline.

mod pipeline;
mod progress;
pub mod supervise;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use crate::events;
use crate::interrupt;
use crate::plan::Plan;
use crate::verdict::Verdict;

/// The trial process: runs the plan in `dir`, judges what came of it, and
/// leaves `verdict.json`. `root` is a short-lived directory for libvirt, whose
/// path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    match planned(dir, root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
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

    // A panic unwinds through the guards like an error does, and must leave a
    // verdict like one.
    let ran = catch_unwind(AssertUnwindSafe(|| pipeline::run(&plan, root)))
        .unwrap_or_else(|_| Err("the harness itself failed; its panic message stands above".to_owned()));
    let verdict = match ran.and_then(|()| judged(&plan)) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::unknown(&plan, reason),
    };
    eprintln!("  {}: {}", plan.trial, verdict.reason);
    verdict.write(dir).map_err(|e| e.to_string())
}

fn judged(plan: &Plan) -> Result<Verdict, String> {
    let stages = events::durations(&plan.dir.join(events::FILE)).map_err(|e| e.to_string())?;
    let (verdict, _) = Verdict::over(plan, &plan.dir, &stages, true).map_err(|e| e.to_string())?;
    Ok(verdict)
}
