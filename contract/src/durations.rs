//! How long trials took before: the longest runs first, and one that takes
//! several times as long as it did is ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files;
use crate::plan::trial_dir_name;

/// A trial may take this many times its last duration: the machine may be busier,
/// by a factor of three when trials run side by side.
const SLACK: u32 = 5;

/// Every trial may take this long. One whose hook hangs needs six minutes under emulation, where it
/// needed half a minute before.
const LEAST: Duration = Duration::from_secs(10 * 60);

/// No trial takes this long: a file that says so is no measurement.
const ABSURD: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a trial that was never measured may take: somewhat more than the sum of its
/// limits; and how much each further cycle adds.
const UNMEASURED: Duration = Duration::from_secs(20 * 60);
const UNMEASURED_CYCLE: Duration = Duration::from_secs(2 * 60);

/// The durations, one small file per trial, beside the runs' directories.
#[derive(Debug)]
pub struct TrialDurations {
    dir: PathBuf,
}

impl TrialDurations {
    /// The durations kept beside the directory of a run.
    pub fn beside(run: &Path) -> Self {
        Self { dir: run.with_file_name(".times") }
    }

    /// How long a trial of so many cycles took when it was last judged.
    pub fn of(&self, trial: &str, cycles: u32) -> Option<Duration> {
        let seconds = fs::read_to_string(self.file(trial, cycles)).ok()?.trim().parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok().filter(|took| *took < ABSURD)
    }

    /// Records how long it took.
    pub fn keep(&self, trial: &str, cycles: u32, took: Duration) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        files::replace(&self.file(trial, cycles), format!("{:.1}\n", took.as_secs_f64()).as_bytes())
    }

    /// How long a trial may take from start to end.
    pub fn limit(&self, trial: &str, cycles: u32) -> Duration {
        match self.of(trial, cycles) {
            Some(took) => LEAST.max(took * SLACK),
            None => UNMEASURED + UNMEASURED_CYCLE * cycles.saturating_sub(1),
        }
    }

    fn file(&self, trial: &str, cycles: u32) -> PathBuf {
        self.dir.join(format!("{}.{cycles}", trial_dir_name(trial)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_may_take_several_times_what_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let durations = TrialDurations::beside(&dir.path().join("run"));
        let trial = "core/no-hook::one::none";
        assert_eq!(durations.of(trial, 1), None);
        assert_eq!(durations.limit(trial, 1), UNMEASURED);
        assert_eq!(durations.limit(trial, 11), UNMEASURED + UNMEASURED_CYCLE * 10);
        durations.keep(trial, 1, Duration::from_secs(10)).unwrap();
        assert_eq!(durations.limit(trial, 1), LEAST);
        durations.keep(trial, 1, Duration::from_secs(200)).unwrap();
        assert_eq!(durations.limit(trial, 1), Duration::from_secs(1000));
        assert_eq!(durations.of(trial, 2), None);
        for damaged in ["1e19", "18446744073709551615", "-1", "inf", "NaN", ""] {
            fs::write(durations.file(trial, 1), damaged).unwrap();
            assert_eq!(durations.limit(trial, 1), UNMEASURED, "{damaged}");
        }
    }
}
