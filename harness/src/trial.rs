//! A trial: one pass of one plan through the pipeline.

mod foundation;
mod instruments;
mod isolate;
mod last_words;
#[cfg(test)]
mod made_up;
mod pipeline;
mod progress;
mod reserve;
pub mod supervise;
mod tool_host;
mod tool_window;
mod with_tool;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use contract::events::{self, Stage};
use contract::files::FileError;
use contract::grade::Outcome;
use contract::plan::Plan;
use judge::verdict::Verdict;
use tracing::{error, info, info_span};

use crate::error::Result;
use crate::interrupt;
use crate::saved_memory::GuestsInUse;
use progress::Progress;

/// The trial process: runs the plan in `dir`, judges the result, and writes `verdict.json`. `root`
/// is a short-lived directory for libvirt, whose path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    match planned(dir, root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            last_words::say(&problem.to_string());
            ExitCode::from(3)
        }
    }
}

/// A trial came to its end, and its verdict could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{source}. The verdict would have been: {reason}")]
struct NotWritten {
    source: FileError,
    reason: String,
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
    Ok(keep(&verdict, dir)?)
}

fn keep(verdict: &Verdict, dir: &Path) -> Result<(), NotWritten> {
    verdict.write(dir).map_err(|source| NotWritten { source, reason: verdict.reason.clone() })
}

/// Runs and judges the trial. Without an answer its verdict is unknown, for the reason that stopped it.
fn judged(plan: &Plan, root: &Path) -> Verdict {
    let mut progress = match Progress::create(&plan.dir.join(events::FILE), &plan.trial) {
        Ok(progress) => progress,
        Err(error) => return Verdict::unknown(plan, error.to_string()),
    };
    let saved = GuestsInUse::default();
    let mut run = || -> Result<Verdict> {
        match &plan.backup {
            None => pipeline::run(plan, root, &mut progress, &saved)?,
            Some(tool) => with_tool::run(plan, tool, root, &mut progress, &saved)?,
        }
        if plan.start_only {
            return Ok(Verdict::unknown(plan, "only the start of its guest was requested".to_owned()));
        }
        progress.stage(Stage::Judge, |_| Ok((Verdict::over(plan, &plan.dir, true)?.0, String::new())))
    };
    // Whatever failed first, a guest that is gone explains it better.
    match run().map_err(|error| interrupt::check().err().unwrap_or(error)) {
        Err(error) if error.is_request_to_stop() => Verdict::unknown(plan, progress.failed(&error)),
        Err(error) => foundation::doubted(plan, &saved, Verdict::unknown(plan, progress.failed(&error))),
        Ok(verdict) if plan.start_only => verdict,
        Ok(verdict) => foundation::doubted(plan, &saved, verdict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_that_cannot_be_written_is_told_with_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        // No file can take its place.
        std::fs::create_dir_all(dir.path().join(Verdict::FILE).join("x")).expect("a directory");
        let text =
            include_str!("../../docs/formats.md").split("\n## `verdict.json`\n").nth(1).expect("a section");
        let json = text.split("```json\n").nth(1).and_then(|it| it.split("```").next()).expect("an example");
        let verdict: Verdict = serde_json::from_str(json).expect("a verdict");
        let said = keep(&verdict, dir.path()).expect_err("it cannot be written").to_string();
        assert!(said.starts_with("cannot write ") && said.contains("verdict.json: "), "{said}");
        assert!(said.ends_with(&format!(". The verdict would have been: {}", verdict.reason)), "{said}");
    }
}
