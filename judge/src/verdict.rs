//! The verdict: a grade with its findings. This is the contract with users,
//! CI and scripts; `verdict.json` follows schema 1.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use contract::figures::{BackupFigures, Counts, Power, Timings, ToolFigures};
use contract::files::{self, FileError};
use contract::finding::{Finding, Status};
use contract::grade::{Grade, Outcome, Rank, badness, grades, rank};
use contract::jsonl;
use contract::plan::Plan;
use contract::property::Property;
use contract::run::TrialRequest;
use contract::scenario::{BackupTool, Snapshot};
use contract::text::quote;
use serde::{Deserialize, Serialize};

use crate::Judgement;
use crate::TrialFiles;

/// Properties that a line about the unexamined names, and the characters of each reason.
const MAX_UNEXAMINED: usize = 4;
const MAX_WHY: usize = 80;

/// Why a history is not that of the trial which was planned, if it is not.
fn other_than_planned(plan: &Plan, trial: &TrialFiles) -> Option<String> {
    let (planned, recorded) = (plan.snapshot.cycles, trial.cycles());
    if planned != recorded {
        return Some(format!("{planned} cycles were planned, but the history has {recorded}"));
    }
    let setup = trial.setup();
    match (&plan.backup, setup.tool) {
        (Some(_), false) => return Some("a backup tool was planned, but the history has none".to_owned()),
        (None, true) => return Some("no backup tool was planned, but the history has one".to_owned()),
        _ => {}
    }
    let disk = plan.image.disks.iter().map(|disk| &disk.target).find(|it| !setup.disks.contains(it));
    let fs = plan.image.file_systems().map(|fs| &fs.name).find(|it| !setup.file_systems.contains(it));
    let (what, name) = disk.map(|it| ("disk", it)).or(fs.map(|it| ("file system", it)))?;
    Some(format!("the image has a {what} `{}` that is not in the history", quote(MAX_WHY, name)))
}

/// How snapshots are taken, as a verdict names it.
fn method(tool: Option<&BackupTool>, snapshot: Snapshot) -> String {
    tool.map_or_else(|| snapshot.to_string(), |tool| tool.name.clone())
}

/// The figures of a tool whose version is not known.
fn figures(tool: &BackupTool, summary: &str, backups: Vec<BackupFigures>) -> ToolFigures {
    ToolFigures { name: tool.name.clone(), version: None, summary: summary.to_owned(), backups }
}

/// `verdict.json`, schema 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Version of this format: 1.
    pub schema: u32,
    /// The trial's name: `core/no-hook::bookworm-mariadb::none`.
    pub trial: String,
    /// The scenario: `core/no-hook`.
    pub scenario: String,
    /// The image's name.
    pub image: String,
    /// The hook: `none`, `distro`, `sample`, `freezeframe`, `package`, or the user's path.
    pub hook: String,
    /// The snapshot method, or the name of the backup tool.
    pub snapshot: String,
    /// `kvm` or `tcg`; `unknown` of a trial that was lost before that was known.
    pub accel: String,
    /// The seed of the load.
    pub seed: u64,
    /// The grade.
    pub grade: Grade,
    /// Why this grade, in one line.
    pub reason: String,
    /// Every broken property, the most telling first.
    pub findings: Vec<Finding>,
    /// Every property: its name to `holds`, `broken` or `not-applicable: <why>`.
    pub properties: BTreeMap<Property, Status>,
    /// What the trial had the power to see.
    #[serde(default)]
    pub power: Power,
    /// The backup tool, and what each run of its command did; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolFigures>,
    /// Milliseconds spent.
    pub timings_ms: Timings,
    /// Operations counted.
    pub counts: Counts,
    /// What the scenario expected, as text.
    pub expected: String,
    /// Whether it was met.
    pub outcome: Outcome,
    /// Each expectation that was not met, as a sentence.
    pub unmet: Vec<String>,
}

/// Why a trial directory cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A log cannot be read, or no honest writer could have written it.
    #[error(transparent)]
    Log(#[from] jsonl::Error),
    /// A verdict cannot be kept.
    #[error(transparent)]
    Verdict(#[from] FileError),
}

impl Verdict {
    /// The file's name in the directory of a trial or cycle.
    pub const FILE: &str = "verdict.json";

    /// The verdict over a judged trial: its judgement held against what the
    /// plan expected.
    pub fn new(plan: &Plan, judgement: Judgement) -> Self {
        let Judgement {
            grade,
            reason,
            findings,
            details: _,
            properties,
            power,
            counts,
            timings,
            resumed,
            backup,
        } = judgement;
        let mut unmet = Vec::new();
        let expect = &plan.expect;
        if !expect.grade.contains(&grade) {
            unmet.push(format!("expected {}; came out {reason}", grades(&expect.grade)));
        }
        let shown: Vec<_> = findings.iter().map(|finding| finding.property).collect();
        unmet.extend(expect.lacks(grade, &shown));
        // What a grade says already need not be said twice.
        let is_said = |property: Property| !property.is_conduct() && !expect.grade.contains(&grade);
        let surprises = findings.iter().filter(|it| it.property.is_of_tools() && !is_said(it.property));
        unmet.extend(
            surprises
                .filter(|it| !expect.names(it.property))
                .map(|it| format!("not expected: {} ({})", it.summary, it.id)),
        );
        if let Some(limit) = expect.within_s
            && let Some(freeze) = timings.freeze
            && freeze > limit * 1000.0 * plan.accel.slowness()
        {
            unmet.push(format!("the freeze took {:.1} s; expected within {limit} s", freeze / 1000.0));
        }
        if resumed == Some(false) && expect.writable {
            unmet
                .push("no write was acknowledged after the window: the database was left blocked".to_owned());
        }
        let outcome = match grade {
            Grade::Unknown => Outcome::Unknown,
            _ if unmet.is_empty() => Outcome::Pass,
            _ => Outcome::Fail,
        };
        Self {
            grade,
            reason,
            findings,
            properties,
            power,
            tool: plan.backup.as_ref().map(|tool| figures(tool, &plan.summary, backup.into_iter().collect())),
            counts,
            timings_ms: timings,
            outcome,
            unmet,
            ..Self::blank(plan)
        }
    }

    /// Judges a trial directory: the verdict, and that of each cycle where there
    /// are several. What is to stay beside them goes to `keep`: the evidence that
    /// is more than a screenful, and the verdicts of the cycles.
    ///
    /// An error names the file and line that no honest writer could have written.
    pub fn over(plan: &Plan, dir: &Path, keep: bool) -> Result<(Self, Vec<Self>), JudgeError> {
        let mut trial = TrialFiles::open(dir)?;
        let other = other_than_planned(plan, &trial);
        let mut verdicts = Vec::new();
        let mut backups = Vec::new();
        for cycle in 1..=trial.cycles() {
            let place = trial.observation_dir(cycle);
            let mut judgement = crate::judge(trial.cycle(cycle)?);
            if keep {
                judgement.keep_details(dir, &place)?;
            }
            if plan.backup.is_some() {
                backups.push(judgement.clone());
            }
            let verdict = Self::new(plan, judgement);
            if trial.cycles() == 1 {
                verdicts.push(verdict);
                break;
            }
            if keep {
                // A cycle whose freeze was refused has left nothing there.
                files::create_dir(&place)?;
                verdict.write(&place)?;
            }
            verdicts.push(verdict);
        }
        let whole = match (&plan.backup, &*verdicts) {
            (Some(tool), _) => Self::of_backups(plan, tool, trial.tool_version(), backups),
            (None, [only]) => only.clone(),
            (None, _) => Self::worst_of(plan, &verdicts),
        };
        if trial.cycles() == 1 {
            verdicts.clear();
        }
        Ok((whole.unless(other), verdicts))
    }

    /// The verdict over a trial with a backup tool: that of the last backup, the only one that is restored, with
    /// what the tool did in the others.
    fn of_backups(
        plan: &Plan,
        tool: &BackupTool,
        version: Option<&str>,
        mut backups: Vec<Judgement>,
    ) -> Self {
        let figures =
            figures(tool, &plan.summary, backups.iter().filter_map(|it| it.backup.clone()).collect());
        let Some(mut last) = backups.pop() else {
            return Self::unknown(plan, "the trial has no backup".to_owned());
        };
        for (n, earlier) in (1..).zip(backups) {
            for finding in earlier.findings.into_iter().filter(|it| it.property.is_of_tools()) {
                last.properties.insert(finding.property, Status::Broken);
                let summary = format!("backup {n}: {}", finding.summary);
                last.findings.push(Finding { summary, ..finding });
            }
        }
        let tool = Some(ToolFigures { version: version.map(str::to_owned), ..figures });
        Self { tool, ..Self::new(plan, last) }
    }

    /// A pass is none when the history is that of another trial than was planned.
    fn unless(mut self, other: Option<String>) -> Self {
        if let Some(why) = other.filter(|_| self.outcome == Outcome::Pass) {
            self.grade = Grade::Unknown;
            self.outcome = Outcome::Unknown;
            self.reason = format!("{}: {why}", Grade::Unknown);
            self.unmet = vec![self.reason.clone()];
        }
        self
    }

    /// How bad it is, see [`rank`].
    pub fn rank(&self) -> Rank {
        rank(self.grade, self.outcome)
    }

    /// The verdict over a trial of several cycles: that of its worst one, which it names.
    fn worst_of(plan: &Plan, cycles: &[Self]) -> Self {
        let Some((n, worst)) = (1..).zip(cycles).min_by_key(|(_, verdict)| Reverse(verdict.rank())) else {
            return Self::unknown(plan, "the trial has no cycle".to_owned());
        };
        let mut of_grade: BTreeMap<Grade, usize> = BTreeMap::new();
        for verdict in cycles {
            *of_grade.entry(verdict.grade).or_default() += 1;
        }
        let counts: Vec<_> = of_grade.iter().map(|(grade, count)| format!("{count} {grade}")).collect();
        let why = worst.reason.strip_prefix(&format!("{}: ", worst.grade)).unwrap_or(&worst.reason);
        let mut verdict = worst.clone();
        let outcomes = cycles.iter().map(|verdict| verdict.outcome);
        verdict.outcome = outcomes.max_by_key(|outcome| badness(*outcome)).unwrap_or(worst.outcome);
        verdict.reason =
            format!("{}: of {} cycles {}; cycle {n}: {why}", worst.grade, cycles.len(), counts.join(", "));
        for finding in &mut verdict.findings {
            finding.summary = format!("cycle {n}: {}", finding.summary);
        }
        verdict.unmet = (1..)
            .zip(cycles)
            .flat_map(|(n, verdict)| verdict.unmet.iter().map(move |unmet| format!("cycle {n}: {unmet}")))
            .collect();
        verdict
    }

    /// The verdict over a trial that could not be judged.
    pub fn unknown(plan: &Plan, reason: String) -> Self {
        let reason = format!("unknown: {reason}");
        Self { unmet: vec![reason.clone()], reason, ..Self::blank(plan) }
    }

    /// The verdict over a trial that was lost before it had a plan. `expected` is its expectation in words; its
    /// accelerator is not known.
    pub fn lost(request: &TrialRequest, seed: u64, expected: String, reason: &str) -> Self {
        let TrialRequest { name, scenario, image, hook } = request;
        let reason = format!("unknown: {reason}");
        Self {
            trial: name.clone(),
            scenario: scenario.name.clone(),
            image: image.clone(),
            hook: hook.to_string(),
            snapshot: method(scenario.backup.as_ref(), scenario.snapshot),
            tool: scenario.backup.as_ref().map(|tool| figures(tool, &scenario.summary, Vec::new())),
            accel: Grade::Unknown.to_string(),
            seed,
            expected,
            unmet: vec![reason.clone()],
            reason,
            ..Self::empty()
        }
    }

    fn blank(plan: &Plan) -> Self {
        Self {
            trial: plan.trial.clone(),
            scenario: plan.scenario.clone(),
            image: plan.image.name.clone(),
            hook: plan.hook.to_string(),
            snapshot: method(plan.backup.as_ref(), plan.snapshot),
            tool: plan.backup.as_ref().map(|tool| figures(tool, &plan.summary, Vec::new())),
            accel: plan.accel.to_string(),
            seed: plan.seed,
            expected: plan.expect.to_string(),
            ..Self::empty()
        }
    }

    fn empty() -> Self {
        Self {
            schema: 1,
            trial: String::new(),
            scenario: String::new(),
            image: String::new(),
            hook: String::new(),
            snapshot: String::new(),
            accel: String::new(),
            seed: 0,
            grade: Grade::Unknown,
            reason: String::new(),
            findings: Vec::new(),
            properties: BTreeMap::new(),
            power: Power::default(),
            tool: None,
            timings_ms: Timings::default(),
            counts: Counts::default(),
            expected: String::new(),
            outcome: Outcome::Unknown,
            unmet: Vec::new(),
        }
    }

    /// What a pass with the top grade rests on without, on one short line:
    /// `not examined: roll-forward (the hook recorded no position)`.
    pub fn unexamined(&self) -> Option<String> {
        let passed = self.grade == Grade::ApplicationConsistent && self.outcome == Outcome::Pass;
        let all = &self.power.not_examined;
        if !passed || all.is_empty() {
            return None;
        }
        let mut shown: Vec<_> = all
            .iter()
            .take(MAX_UNEXAMINED)
            .map(|(property, why)| format!("{property} ({})", quote(MAX_WHY, why)))
            .collect();
        if all.len() > shown.len() {
            shown.push(format!("and {} more", all.len() - shown.len()));
        }
        Some(format!("not examined: {}", shown.join(", ")))
    }

    /// Reads `verdict.json` of a trial directory.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Writes `verdict.json` into a trial directory, as a whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::write_json(&dir.join(Self::FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_at_the_top_says_in_one_line_what_it_rests_without() {
        let json = include_str!("../../docs/formats.md").split("\n## `verdict.json`\n").nth(1).unwrap();
        let json = json.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let mut verdict: Verdict = serde_json::from_str(json).unwrap();
        assert_eq!(verdict.unexamined(), None);
        verdict.grade = Grade::ApplicationConsistent;
        let why = |why: &str| why.to_owned();
        verdict.power.not_examined = [(Property::RollForward, why("no\nposition"))].into();
        assert_eq!(verdict.unexamined().unwrap(), "not examined: roll-forward (no\\nposition)");
        verdict.power.not_examined = Property::ALL.map(|property| (property, why(&"x".repeat(9_000)))).into();
        let line = verdict.unexamined().unwrap();
        assert!(line.ends_with("and 34 more") && line.chars().count() < 600, "{line}");
        verdict.outcome = Outcome::Fail;
        assert_eq!(verdict.unexamined(), None);
    }
}
