//! Trials that are run to be measured.

use std::path::PathBuf;

use freezeframe::events::{self, Event};
use freezeframe::jsonl;
use freezeframe::run::{Asked, RunOptions};
use freezeframe::verdict::Verdict;

use crate::e2e;
use crate::error::Failure;

/// What is to be measured, prepared.
#[derive(Debug)]
pub(super) struct Trials {
    options: RunOptions,
    program: PathBuf,
    asked: Vec<Asked>,
    /// How many runs there were, which names their directories.
    runs: u32,
}

/// One trial that ran.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) dir: PathBuf,
    pub(super) verdict: Verdict,
}

impl Trials {
    /// Brings in what these trials need.
    pub(super) fn prepare(options: RunOptions) -> Result<Self, Failure> {
        let asked = options.trials().map_err(Failure::Question)?;
        if asked.is_empty() {
            let images = options.images.join(", ");
            return Err(Failure::Question(format!("no trial of this measurement runs on {images}.")));
        }
        let program = e2e::prepare(&asked)?;
        Ok(Self { options, program, asked, runs: 0 })
    }

    /// Runs them once more, changed like this, `jobs` at a time.
    pub(super) fn run(
        &mut self,
        jobs: u16,
        change: impl FnOnce(&mut RunOptions),
    ) -> Result<Vec<Ran>, Failure> {
        let mut options = self.options.clone();
        change(&mut options);
        self.runs += 1;
        let name = options.dir.file_name().unwrap_or_default().to_string_lossy();
        options.dir = options.dir.with_file_name(format!("{name}-{}", self.runs));
        options.write().map_err(Failure::Infrastructure)?;
        e2e::run_trials(&self.program, &options, jobs)?;
        e2e::check_for_leftovers(&options.dir)?;
        let ran = |asked: &Asked| {
            let dir = options.trial_dir(&asked.name);
            let verdict = Verdict::read(&dir).map_err(|e| Failure::Infrastructure(e.to_string()))?;
            Ok(Ran { dir, verdict })
        };
        self.asked.iter().map(ran).collect()
    }
}

impl Ran {
    /// Whether its first guest went on from a saved memory.
    pub(super) fn started_warm(&self) -> Result<bool, Failure> {
        let read = || -> Result<bool, jsonl::Error> {
            for event in jsonl::Reader::<Event>::open(&self.dir.join(events::FILE), events::KIND)? {
                if event?.detail == events::FROM_MEMORY {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        read().map_err(|e| Failure::Infrastructure(e.to_string()))
    }

    /// A figure that a trial which ran must have; an error says what it came to instead.
    pub(super) fn needs<T>(&self, what: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| {
            Failure::Infrastructure(format!(
                "{} has no {what} to measure: {}. Its files are in {}.",
                self.verdict.trial,
                self.verdict.reason,
                self.dir.display()
            ))
        })
    }
}
