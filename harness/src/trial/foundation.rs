//! Whether the files that a trial's guests stood on, the image and saved guests, are still as they were made.

use contract::grade::Outcome;
use contract::image::ManifestError;
use contract::observation;
use contract::plan::Plan;
use contract::seal::Depth;
use judge::verdict::Verdict;
use tracing::warn;

use crate::error::SavedMemoryError;
use crate::interrupt;
use crate::observe;
use crate::saved_memory::GuestsInUse;

/// What a trial stood on is damaged, so that its verdict proves nothing.
#[derive(Debug, thiserror::Error)]
enum Damaged {
    #[error("{0}")]
    Image(#[from] ManifestError),
    #[error("{0}. Run the trial again.")]
    Memory(#[from] SavedMemoryError),
}

/// The verdict, if what the trial stood on is whole; otherwise it is unknown. Everything is read only after
/// a trial that did not meet its expectation, because that takes a second, and longer for large disks: it may be
/// the files' fault. A request to stop ends that, and the verdict stays.
pub(super) fn doubted(plan: &Plan, saved: &GuestsInUse, verdict: Verdict) -> Verdict {
    let depth = if verdict.outcome == Outcome::Pass { Depth::Stamps } else { Depth::Contents };
    let Err(damaged) = check(plan, saved, depth) else { return verdict };
    // Whoever judges the files again must come to the same.
    for cycle in 1..=plan.snapshot.cycles {
        let dir =
            if plan.snapshot.cycles == 1 { plan.dir.clone() } else { judge::cycle_dir(&plan.dir, cycle) };
        if let Err(error) = observe::withdraw(&dir.join(observation::FILE)) {
            warn!("{}: {error}", plan.trial);
        }
    }
    Verdict::unknown(plan, format!("{damaged} It had come out {}", verdict.reason))
}

fn check(plan: &Plan, saved: &GuestsInUse, depth: Depth) -> Result<(), Damaged> {
    saved.check(depth, &interrupt::is_over)?;
    // What a tool did to the image is a finding, and shows. Its guest stands on copies of what was there before.
    let is_of_tool = || plan.image.check(Depth::Stamps, &interrupt::is_over).is_err();
    if plan.backup.is_some() && (depth == Depth::Stamps || is_of_tool()) {
        return Ok(());
    }
    Ok(plan.image.check(depth, &interrupt::is_over)?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use contract::grade::Grade;
    use contract::observation::Record;
    use contract::seal;

    use super::super::made_up::plan;
    use super::*;

    const DISK: &str = "vda.raw";

    /// A plan on an image that is whole, and the log of a complete observation.
    fn observed(root: &Path) -> (Plan, Vec<u8>) {
        let plan = plan(root);
        let image = &plan.image;
        fs::create_dir(&image.dir).expect("a directory");
        fs::write(image.dir.join(DISK), vec![7; 3 << 20]).expect("a disk");
        seal::make(&image.dir).expect("a seal");
        fs::create_dir_all(&plan.dir).expect("a directory");
        let log = plan.dir.join(observation::FILE);
        let mut out = observe::create(&log).expect("a log");
        out.write(&Record::RollForward { applied: true, detail: String::new() }).expect("a record");
        observe::complete(out).expect("a whole log");
        (plan, fs::read(&log).expect("a log"))
    }

    fn verdict(plan: &Plan, outcome: Outcome) -> Verdict {
        let failed = Verdict::unknown(plan, "as the test has it".to_owned());
        Verdict { outcome, grade: Grade::Inconsistent, ..failed }
    }

    #[test]
    fn nothing_changes_on_whole_files() {
        let root = tempfile::tempdir().expect("a directory");
        let (plan, log) = observed(root.path());
        for outcome in [Outcome::Pass, Outcome::Fail, Outcome::Unknown] {
            let verdict = verdict(&plan, outcome);
            assert_eq!(doubted(&plan, &GuestsInUse::default(), verdict.clone()), verdict);
        }
        assert_eq!(fs::read(plan.dir.join(observation::FILE)).expect("a log"), log);
    }

    /// Changes a disk, and its time if that is to be `seen`.
    fn rot(disk: &Path, seen: bool) {
        let modified = fs::metadata(disk).and_then(|metadata| metadata.modified()).expect("a time");
        fs::write(disk, vec![8; 3 << 20]).expect("a disk");
        let modified = if seen { std::time::SystemTime::UNIX_EPOCH } else { modified };
        let disk = File::options().write(true).open(disk);
        disk.and_then(|disk| disk.set_modified(modified)).expect("a time");
    }

    #[test]
    fn what_a_tool_has_changed_is_its_doing_and_what_has_rotted_is_not() {
        for (outcome, seen, stands) in [
            (Outcome::Fail, true, true),
            (Outcome::Pass, true, true),
            (Outcome::Pass, false, true),
            (Outcome::Fail, false, false),
        ] {
            let root = tempfile::tempdir().expect("a directory");
            let (plan, _) = observed(root.path());
            let backup = serde_json::json!({"name": "t", "backup": "b", "restore": "r", "backup_seconds": 1,
                "restore_seconds": 1, "folder": "/"});
            let plan = Plan { backup: Some(serde_json::from_value(backup).expect("a tool")), ..plan };
            rot(&plan.image.dir.join(DISK), seen);
            let verdict = verdict(&plan, outcome);
            let doubted = doubted(&plan, &GuestsInUse::default(), verdict.clone());
            assert_eq!(doubted == verdict, stands, "{}", doubted.reason);
        }
    }

    #[test]
    fn no_verdict_stands_on_files_that_have_changed() {
        for (outcome, seen) in [(Outcome::Pass, true), (Outcome::Fail, false), (Outcome::Unknown, false)] {
            let root = tempfile::tempdir().expect("a directory");
            let (plan, log) = observed(root.path());
            rot(&plan.image.dir.join(DISK), seen);
            let doubted = doubted(&plan, &GuestsInUse::default(), verdict(&plan, outcome));
            assert_eq!((doubted.grade, doubted.outcome), (Grade::Unknown, Outcome::Unknown));
            for part in ["the image `one` is damaged: ", DISK, "images check one", "as the test has it"] {
                assert!(doubted.reason.contains(part), "{}", doubted.reason);
            }
            // Judged again, it is unknown as well.
            let left = fs::read(plan.dir.join(observation::FILE)).expect("a log");
            assert!(log.starts_with(&left) && left.len() < log.len());
            assert_eq!(left.last(), Some(&b'\n'));
        }
    }
}
