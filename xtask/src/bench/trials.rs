//! Runs trials in order to measure them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use contract::events;
use contract::grade::Grade;
use contract::run::{RunOptions, TrialRequest};
use judge::verdict::Verdict;
use tooling::error::Failure;
use tooling::host;

use crate::e2e::{self, Ready};
use crate::number::number;

/// The options of most measurements.
#[derive(Debug, clap::Args)]
pub(super) struct OnImage {
    /// The image.
    #[arg(long, value_name = "NAME", default_value = "bookworm-mariadb")]
    pub(super) image: String,
    /// How many times everything is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number::<u32>(1..=1000))]
    pub(super) repeat: u32,
}

/// Trials that are ready to be measured.
#[derive(Debug)]
pub(super) struct Trials {
    options: RunOptions,
    ready: Ready,
    /// How many runs there were, which names their directories.
    runs: u32,
}

/// One run of them.
#[derive(Debug)]
pub(super) struct MeasuredRun {
    pub(super) trials: Vec<MeasuredTrial>,
    /// From the start of the first to the end of the last, with the harness's own start.
    pub(super) wall: Duration,
}

/// One trial that ran.
#[derive(Debug)]
pub(super) struct MeasuredTrial {
    pub(super) dir: PathBuf,
    pub(super) verdict: Verdict,
}

/// The scenarios for measurements only.
pub(super) fn scenarios() -> PathBuf {
    host::repository().join("bench/scenarios")
}

impl Trials {
    /// Prepares what these trials need.
    pub(super) fn prepare(options: RunOptions) -> Result<Self, Failure> {
        let ready = e2e::prepare(&options, &requests(&options)?)?;
        Ok(Self { options, ready, runs: 0 })
    }

    /// Runs them once more, changed like this, `jobs` at a time.
    pub(super) fn run(
        &mut self,
        jobs: u16,
        change: impl FnOnce(&mut RunOptions),
    ) -> Result<MeasuredRun, Failure> {
        let mut options = self.options.clone();
        change(&mut options);
        self.runs += 1;
        let name = options.dir.file_name().unwrap_or_default().to_string_lossy();
        options.dir = options.dir.with_file_name(format!("{name}-{}", self.runs));
        options.write().map_err(Failure::infrastructure)?;
        let begin = Instant::now();
        let ended = e2e::run_trials(&self.ready, &options, jobs)?;
        if ended.interrupted {
            return Err(Failure::Interrupted);
        }
        let wall = begin.elapsed();
        e2e::check_for_leftovers(&options.dir)?;
        let ran = |request: TrialRequest| {
            let dir = options.trial_dir(&request.name);
            let lost = |error| Failure::infrastructure(format!("{}.", ended.why_lost(&request.name, &error)));
            let verdict = Verdict::read(&dir).map_err(lost)?;
            Ok(MeasuredTrial { dir, verdict })
        };
        Ok(MeasuredRun {
            trials: requests(&options)?.into_iter().map(ran).collect::<Result<_, Failure>>()?,
            wall,
        })
    }

    /// The same for whole trials, each of which must come to a grade.
    pub(super) fn run_whole(
        &mut self,
        jobs: u16,
        change: impl FnOnce(&mut RunOptions),
    ) -> Result<MeasuredRun, Failure> {
        let run = self.run(jobs, change)?;
        for ran in &run.trials {
            ran.needs("grade", (ran.verdict.grade != Grade::Unknown).then_some(()))?;
        }
        Ok(run)
    }
}

fn requests(options: &RunOptions) -> Result<Vec<TrialRequest>, Failure> {
    let requests = options.trials()?;
    if requests.is_empty() {
        let images = options.images.join(", ");
        return Err(Failure::Usage(format!("no trial of this measurement runs on {images}.")));
    }
    Ok(requests)
}

impl MeasuredTrial {
    /// Whether its first guest went on from a saved memory.
    pub(super) fn started_warm(&self) -> Result<bool, Failure> {
        let notes = events::notes(&self.dir.join(events::FILE));
        let notes = notes.map_err(Failure::infrastructure)?;
        let booted = |note: &String| note.starts_with(events::BOOTED_INSTEAD);
        Ok(notes.iter().any(|note| note == events::FROM_MEMORY) && !notes.iter().any(booted))
    }

    /// A figure that this trial must have; an error says what it came to instead.
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

/// Milliseconds.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use contract::scenario::Scenario;

    use super::*;

    #[test]
    fn the_scenarios_can_be_read() {
        let names: Vec<_> = Scenario::read_all(&scenarios()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(
            names,
            ["snapshot/apart", "snapshot/atomic", "snapshot/pushed", "trial/attached", "trial/booted"]
        );
    }
}
