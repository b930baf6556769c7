//! Trials of several cycles: one history, an observation of each.

use std::fs;
use std::path::Path;

use contract::grade::{Grade, Outcome};
use contract::history::{self, Entry, Mark};
use contract::jsonl::Writer;
use contract::observation::{self, Record};
use contract::plan::Plan;
use contract::property::Property;
use judge::verdict::Verdict;
use judge::{Case, Judgement, TrialFiles, cycle_dir, judge, read};
use proptest::prelude::*;

use crate::world::{Shape, World, indexed};

/// One load, snapshotted twice. With nothing frozen the snapshots do not change
/// the load, so that two trials of one seed are alike but for them.
struct Two {
    history: Vec<Entry>,
    images: [Vec<Record>; 2],
}

impl Two {
    fn new(seed: u64) -> Self {
        let [first, second] =
            [30, 80].map(|freeze_at| World::new(&Shape { freeze: false, freeze_at, ..Shape::new(seed) }));
        let of_cycle = |entry: &Entry| matches!(entry, Entry::Mark { .. });
        let marks: Vec<Entry> = second.history.iter().filter(|entry| of_cycle(entry)).cloned().collect();
        let load = |world: &World| -> Vec<Entry> {
            let of_load = |entry: &&Entry| !of_cycle(entry) && !matches!(entry, Entry::End { .. });
            world.history.iter().filter(of_load).cloned().collect()
        };
        assert!(load(&first) == load(&second));
        let mut history = first.history;
        let end = history.len() - 1;
        let begin = Entry::Cycle { t: second.times.s0 - 1, n: 2 };
        history.splice(end..end, [begin].into_iter().chain(marks));
        Self { history, images: [first.image, second.image] }
    }

    /// Judges a cycle by the observation of one.
    fn judge(&self, cycle: u32, image: usize) -> Judgement {
        let image = indexed(&self.images[image - 1]);
        judge(&Case::of_cycle(cycle, self.history.clone(), Some(image)).unwrap())
    }

    fn write(&self, dir: &Path) {
        let mut out = Writer::<Entry>::create(&dir.join(history::FILE), history::KIND).unwrap();
        self.history.iter().for_each(|entry| out.write(entry).unwrap());
        out.flush().unwrap();
        for (cycle, image) in (1..).zip(&self.images) {
            let dir = cycle_dir(dir, cycle);
            fs::create_dir_all(&dir).unwrap();
            let mut out = Writer::<Record>::create(&dir.join(observation::FILE), observation::KIND).unwrap();
            indexed(image).iter().for_each(|record| out.write(record).unwrap());
            out.flush().unwrap();
        }
    }
}

fn found(judgement: &Judgement) -> Vec<&str> {
    judgement.findings.iter().map(|finding| finding.id.as_str()).collect()
}

fn breaks(judgement: &Judgement, properties: &[Property]) -> bool {
    properties.iter().all(|property| judgement.findings.iter().any(|finding| finding.property == *property))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_cycle_is_right_by_its_own_observation_and_wrong_by_the_others(seed in any::<u64>()) {
        let two = Two::new(seed);
        for cycle in [1, 2] {
            let judgement = two.judge(cycle, cycle as usize);
            prop_assert_eq!(judgement.grade, Grade::CrashConsistent, "{}", &judgement.reason);
            prop_assert!(found(&judgement).iter().all(|id| *id == "Q1"), "{:?}", found(&judgement));
        }
        let late = two.judge(2, 1);
        prop_assert_eq!(late.grade, Grade::Inconsistent);
        prop_assert!(breaks(&late, &[Property::Durability, Property::OutsideFiles]), "{:?}", found(&late));
        let early = two.judge(1, 2);
        prop_assert_eq!(early.grade, Grade::Inconsistent);
        prop_assert!(breaks(&early, &[Property::NoFuture, Property::OutsideFiles]), "{:?}", found(&early));
    }
}

#[test]
fn the_cycles_of_a_directory_are_judged_like_their_records() {
    let dir = tempfile::tempdir().unwrap();
    let two = Two::new(1);
    two.write(dir.path());
    let mut trial = TrialFiles::open(dir.path()).unwrap();
    assert_eq!(trial.cycles(), 2);
    // In any order, and again.
    for cycle in [2, 1, 2] {
        assert_eq!(judge(trial.cycle(cycle).unwrap()), two.judge(cycle, cycle as usize));
    }
    // MarkTimes are those of the cycle's own marks.
    let [first, second] = [1, 2].map(|cycle| two.judge(cycle, cycle as usize).timings);
    assert_ne!(first.write_stall, second.write_stall);
    // There is no third.
    assert_eq!(judge(trial.cycle(3).unwrap()).grade, Grade::Unknown);
    assert_eq!(judge(&read(dir.path()).unwrap()), two.judge(1, 1));
}

#[test]
fn a_cycle_without_an_observation_is_unknown_and_the_other_is_not() {
    let dir = tempfile::tempdir().unwrap();
    Two::new(1).write(dir.path());
    fs::remove_file(cycle_dir(dir.path(), 1).join(observation::FILE)).unwrap();
    let mut trial = TrialFiles::open(dir.path()).unwrap();
    // Nothing of one cycle is left when another is read.
    let grades = [2, 1].map(|cycle| judge(trial.cycle(cycle).unwrap()).grade);
    assert_eq!(grades, [Grade::CrashConsistent, Grade::Unknown]);
}

/// The plan that the documentation shows, with these grades expected.
fn plan(grades: &[Grade]) -> Plan {
    let doc = include_str!("../../../docs/formats.md");
    let (_, section) = doc.split_once("\n## `plan.json`\n").unwrap();
    let example = section.split("```").nth(1).unwrap().strip_prefix("json").unwrap();
    let mut plan: Plan = serde_json::from_str(example).unwrap();
    plan.expect.grade = grades.to_vec();
    plan.snapshot.cycles = 2;
    plan
}

#[test]
fn the_verdict_is_that_of_the_worst_cycle() {
    let dir = tempfile::tempdir().unwrap();
    let mut two = Two::new(1);
    two.images[1].retain(|record| !matches!(record, Record::Leg { c: 1..=3, .. }));
    two.write(dir.path());
    let expected = plan(&[Grade::CrashConsistent]);
    let (verdict, cycles) = Verdict::over(&expected, dir.path(), true).unwrap();
    assert_eq!(cycles.iter().map(|cycle| cycle.outcome).collect::<Vec<_>>(), [Outcome::Pass, Outcome::Fail]);
    assert_eq!((verdict.grade, verdict.outcome), (Grade::Inconsistent, Outcome::Fail));
    let counted = "inconsistent: of 2 cycles 1 crash-consistent, 1 inconsistent; cycle 2: ";
    assert!(verdict.reason.starts_with(counted), "{}", verdict.reason);
    assert!(verdict.findings.iter().all(|finding| finding.summary.starts_with("cycle 2: ")));
    for (cycle, judged) in (1..).zip(cycles) {
        assert_eq!(Verdict::read(&cycle_dir(dir.path(), cycle)).unwrap(), judged);
    }
    // Evidence in files is found from the trial's directory.
    let files: Vec<&str> = verdict
        .findings
        .iter()
        .filter_map(|finding| Some(finding.evidence.last()?.split_once(", all in ")?.1))
        .collect();
    assert!(!files.is_empty());
    for file in files {
        assert!(file.starts_with("cycles/002/findings/") && dir.path().join(file).is_file(), "{file}");
    }
    // Judged again, nothing is written.
    fs::remove_file(cycle_dir(dir.path(), 1).join("verdict.json")).unwrap();
    assert_eq!(Verdict::over(&expected, dir.path(), false).unwrap().0.grade, Grade::Inconsistent);
    assert!(!cycle_dir(dir.path(), 1).join("verdict.json").exists());
}

#[test]
fn the_worst_backup_counts_whatever_was_expected_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut two = Two::new(1);
    two.images[1].retain(|record| !matches!(record, Record::Leg { c: 1..=3, .. }));
    two.write(dir.path());
    let (verdict, cycles) = Verdict::over(&plan(&[Grade::Inconsistent]), dir.path(), true).unwrap();
    assert_eq!(cycles.iter().map(|cycle| cycle.outcome).collect::<Vec<_>>(), [Outcome::Fail, Outcome::Pass]);
    assert_eq!((verdict.grade, verdict.outcome), (Grade::Inconsistent, Outcome::Fail));
}

#[test]
fn a_pass_is_none_of_another_trial_than_was_planned() {
    let dir = tempfile::tempdir().unwrap();
    Two::new(1).write(dir.path());
    let as_planned = plan(&[Grade::CrashConsistent]);
    let judged = |plan: &Plan| Verdict::over(plan, dir.path(), true).unwrap().0;
    assert_eq!(judged(&as_planned).outcome, Outcome::Pass);
    let mut more = as_planned.clone();
    more.snapshot.cycles = 3;
    let mut disk = as_planned.clone();
    disk.image.disks.push(disk.image.disks[0].clone());
    disk.image.disks[1].target = "vdz".to_owned();
    for (plan, why) in [(more, "3 cycles were planned"), (disk, "has a disk `vdz`")] {
        let verdict = judged(&plan);
        assert_eq!((verdict.grade, verdict.outcome), (Grade::Unknown, Outcome::Unknown));
        assert!(verdict.reason.contains(why), "{}", verdict.reason);
    }
    // What did not come out as expected stays so.
    let mut failed = plan(&[Grade::ApplicationConsistent]);
    failed.snapshot.cycles = 3;
    assert_eq!(judged(&failed).grade, Grade::CrashConsistent);
}

#[test]
fn a_refused_cycle_hides_no_bad_backup() {
    let refuse = |two: &mut Two| {
        // The first cycle's freeze fails, and nothing is snapshotted.
        let begin = two.history.iter().position(|entry| matches!(entry, Entry::Cycle { .. })).unwrap();
        let mut marks = [Mark::FreezeCall, Mark::FreezeErr].into_iter();
        let first = two.history[..begin].iter_mut().filter_map(|entry| match entry {
            Entry::Mark { mark, .. } => Some(mark),
            _ => None,
        });
        first.zip(&mut marks).for_each(|(mark, other)| *mark = other);
    };
    let grades = [Grade::Refused, Grade::CrashConsistent, Grade::Inconsistent];
    for (lose, expected) in [(false, Grade::CrashConsistent), (true, Grade::Inconsistent)] {
        let dir = tempfile::tempdir().unwrap();
        let mut two = Two::new(1);
        refuse(&mut two);
        if lose {
            two.images[1].retain(|record| !matches!(record, Record::Leg { c: 1, .. }));
        }
        two.write(dir.path());
        fs::remove_dir_all(cycle_dir(dir.path(), 1)).unwrap();
        let (verdict, cycles) = Verdict::over(&plan(&grades), dir.path(), true).unwrap();
        assert_eq!(cycles[0].grade, Grade::Refused, "{}", cycles[0].reason);
        assert_eq!(verdict.grade, expected, "{}", verdict.reason);
        assert!(verdict.reason.contains("1 refused"), "{}", verdict.reason);
    }
}

#[test]
fn a_history_that_breaks_off_keeps_the_cycles_before() {
    let mut two = Two::new(1);
    let whole = two.judge(1, 1);
    assert!(matches!(two.history.pop(), Some(Entry::End { .. })));
    assert_eq!(two.judge(1, 1), whole);
    let last = two.judge(2, 2);
    assert_eq!(last.grade, Grade::Unknown);
    assert!(last.reason.contains("breaks off"), "{}", last.reason);
    // And it still distinguishes a right observation from a wrong one.
    assert!(breaks(&two.judge(1, 2), &[Property::NoFuture]));
}

#[test]
fn endless_cycles_are_refused() {
    let two = Two::new(1);
    let end = two.history.len() - 1;
    let t = two.history.iter().filter_map(|entry| match entry {
        Entry::Mark { t, .. } => Some(*t),
        _ => None,
    });
    let t = t.max().unwrap();
    let mut history = two.history;
    history.splice(end..end, (3..2_000).map(|n| Entry::Cycle { t, n }));
    let none = None::<Vec<Record>>;
    assert!(Case::of_cycle(1, history, none).unwrap_err().to_string().contains("more than 1000 cycles"));
}
