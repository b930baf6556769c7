//! The verdict: a grade with its findings. This is the contract with users,
//! CI and scripts; `verdict.json` follows schema 1.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::{Profile, Stage};
use crate::judge::{self, Judgement};
use crate::plan::Plan;
use crate::text::{printable, quote};
use crate::{json, jsonl};

/// Properties that a line about the unexamined names, and the characters of each reason.
const MAX_UNEXAMINED: usize = 4;
const MAX_WHY: usize = 80;

/// How good a backup turned out to be, best first; then the two that are not
/// about a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// One instant inside the freeze window, nothing in flight, proven.
    ApplicationConsistent,
    /// One instant, after recovery.
    CrashConsistent,
    /// Opens, but an acknowledged operation is lost, or engines, binlog or disks disagree.
    Inconsistent,
    /// Does not boot, mount, start or pass its checks.
    Unusable,
    /// The freeze failed and said so: no backup was made.
    Refused,
    /// The harness could not tell. Never a pass.
    Unknown,
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::ApplicationConsistent => "application-consistent",
            Self::CrashConsistent => "crash-consistent",
            Self::Inconsistent => "inconsistent",
            Self::Unusable => "unusable",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        })
    }
}

/// The properties that a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "`Property::claim` says what each means")]
pub enum Property {
    Starts,
    Checksums,
    Atomicity,
    Conservation,
    IndexAgreement,
    ClientPrefix,
    Durability,
    QuiescedDurability,
    NoFuture,
    NoFutureStrict,
    RealTimeOrder,
    CausalOrder,
    VersionOrder,
    WindowSilence,
    LockProbe,
    DiskSilence,
    LockIdentity,
    NonTransactionalDurability,
    TablesClosed,
    TableCheck,
    BinlogAgreement,
    RecordedPosition,
    RollForward,
    NoPreparedTransactions,
    FilesystemClean,
    OutsideFiles,
    DiskAgreement,
    FreshBoot,
}

impl Property {
    /// Every property, in the order of its letter.
    pub const ALL: [Self; 28] = [
        Self::Starts,
        Self::Checksums,
        Self::Atomicity,
        Self::Conservation,
        Self::IndexAgreement,
        Self::ClientPrefix,
        Self::Durability,
        Self::QuiescedDurability,
        Self::NoFuture,
        Self::NoFutureStrict,
        Self::RealTimeOrder,
        Self::CausalOrder,
        Self::VersionOrder,
        Self::WindowSilence,
        Self::LockProbe,
        Self::DiskSilence,
        Self::LockIdentity,
        Self::NonTransactionalDurability,
        Self::TablesClosed,
        Self::TableCheck,
        Self::BinlogAgreement,
        Self::RecordedPosition,
        Self::RollForward,
        Self::NoPreparedTransactions,
        Self::FilesystemClean,
        Self::OutsideFiles,
        Self::DiskAgreement,
        Self::FreshBoot,
    ];

    /// The letter of the judge's design: `D*`.
    pub const fn id(self) -> &'static str {
        self.described().0
    }

    /// The name that explains itself: `quiesced-durability`. Also how it is serialized.
    pub const fn name(self) -> &'static str {
        self.described().1
    }

    /// What holds when the property holds, in one sentence.
    pub const fn claim(self) -> &'static str {
        self.described().2
    }

    /// The best grade that a backup can have which breaks this property. A
    /// finding may be worse than that, never better.
    pub const fn ceiling(self) -> Grade {
        match self {
            Self::Starts | Self::Checksums | Self::IndexAgreement => Grade::Unusable,
            Self::Atomicity
            | Self::Conservation
            | Self::ClientPrefix
            | Self::Durability
            | Self::NoFuture
            | Self::RealTimeOrder
            | Self::CausalOrder
            | Self::VersionOrder
            | Self::BinlogAgreement
            | Self::RollForward
            | Self::DiskAgreement => Grade::Inconsistent,
            Self::QuiescedDurability
            | Self::NoFutureStrict
            | Self::WindowSilence
            | Self::LockProbe
            | Self::DiskSilence
            | Self::LockIdentity
            | Self::NonTransactionalDurability
            | Self::TablesClosed
            | Self::TableCheck
            | Self::RecordedPosition
            | Self::NoPreparedTransactions
            | Self::FilesystemClean
            | Self::OutsideFiles => Grade::CrashConsistent,
            Self::FreshBoot => Grade::Unknown,
        }
    }

    #[rustfmt::skip]
    const fn described(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Starts => ("R0", "starts",
                "The restored disks pass their file system checks and the server starts from them."),
            Self::Checksums => ("R1", "checksums",
                "Every restored row matches its own checksum and is the row that a client sent."),
            Self::Atomicity => ("R2", "atomicity",
                "Every transfer and every bulk statement is there whole or not at all, and nothing that was rolled back is there."),
            Self::Conservation => ("R3", "conservation",
                "No money appeared or vanished: every account's balance and version are exactly those of its legs."),
            Self::IndexAgreement => ("R4", "index-agreement",
                "Every secondary index holds the same rows as its table."),
            Self::ClientPrefix => ("R5", "client-prefix",
                "Every client's transfers are there from the first to the one its counter names, without a hole, and so are the changes of the schema."),
            Self::Durability => ("D", "durability",
                "Every transfer and schema change acknowledged before the snapshot began is there."),
            Self::QuiescedDurability => ("D*", "quiesced-durability",
                "Every transfer and schema change acknowledged before the thaw was called is there."),
            Self::NoFuture => ("F", "no-future",
                "Nothing is there that was sent after the snapshot was complete, or that nobody sent."),
            Self::NoFutureStrict => ("F*", "no-future-strict",
                "Nothing is there that was sent after the freeze had returned."),
            Self::RealTimeOrder => ("C1", "real-time-order",
                "No transfer or schema change is missing that was acknowledged before one that is there was sent."),
            Self::CausalOrder => ("C2", "causal-order",
                "Every transfer that another had read as committed is there if that other is."),
            Self::VersionOrder => ("C3", "version-order",
                "The versions of every account that are there are the first of its history, without a gap."),
            Self::WindowSilence => ("Q1", "window-silence",
                "No write was both sent and acknowledged between the freeze's return and the call of the thaw."),
            Self::LockProbe => ("Q2", "lock-probe",
                "A write sent inside the window was refused by a lock of the server."),
            Self::DiskSilence => ("Q3", "disk-silence",
                "The freeze reached every volume, and no disk was written between its return and the call of the thaw."),
            Self::LockIdentity => ("Q4", "lock-identity",
                "The thaw confirms that the lock taken at the freeze was held until then."),
            Self::NonTransactionalDurability => ("N1", "non-transactional-durability",
                "Every acknowledged row of the non-transactional tables is there, and none without its transfer."),
            Self::TablesClosed => ("N2", "tables-closed",
                "Every MyISAM table was flushed and closed on the disk before the snapshot was taken."),
            Self::TableCheck => ("N3", "table-check",
                "The server finds no fault in any table, with automatic repair off."),
            Self::BinlogAgreement => ("B1", "binlog-agreement",
                "The binary log and the tables hold the same transfers."),
            Self::RecordedPosition => ("B2", "recorded-position",
                "The recorded binary log position is the end of the log in the snapshot, and the recorded GTIDs are those of the restored server."),
            Self::RollForward => ("B3", "roll-forward",
                "Replaying the live binary log from the recorded position leads to the live data."),
            Self::NoPreparedTransactions => ("L1", "no-prepared-transactions",
                "Recovery found no transaction that was prepared but not committed in the engine's log."),
            Self::FilesystemClean => ("L2", "filesystem-clean",
                "The file systems on the raw snapshot have nothing left in their journals to replay."),
            Self::OutsideFiles => ("X1", "outside-files",
                "Files outside the database hold every record that was synced before the thaw, none that was asked for after the freeze, and end whole."),
            Self::DiskAgreement => ("X2", "disk-agreement",
                "All disks of the snapshot show one and the same instant."),
            Self::FreshBoot => ("M", "fresh-boot",
                "What was observed is a freshly booted guest and not the live one."),
        }
    }
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What became of one property. Serialized as `holds`, `broken` or
/// `not-applicable: <why>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Status {
    /// It was examined and holds.
    Holds,
    /// It was examined and is broken; a finding tells how.
    Broken,
    /// It could not be examined, and why.
    NotApplicable(String),
}

const NOT_APPLICABLE: &str = "not-applicable: ";

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Holds => f.pad("holds"),
            Self::Broken => f.pad("broken"),
            Self::NotApplicable(why) => write!(f, "{NOT_APPLICABLE}{why}"),
        }
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.to_string()
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix(NOT_APPLICABLE)) {
            ("holds", _) => Ok(Self::Holds),
            ("broken", _) => Ok(Self::Broken),
            (_, Some(why)) => Ok(Self::NotApplicable(why.to_owned())),
            _ => Err(format!(
                "`{}` is not a property's status: `holds`, `broken` or `{NOT_APPLICABLE}<why>`",
                printable(&text)
            )),
        }
    }
}

/// One broken property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, which explains itself.
    pub property: Property,
    /// The letter of the judge's design: `N2`.
    pub id: String,
    /// One sentence that a person understands.
    pub summary: String,
    /// The operations or facts concerned, at most a screenful.
    pub evidence: Vec<String>,
}

/// Milliseconds; absent where it did not take place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the stages")]
pub struct Timings {
    pub boot: Option<f64>,
    pub freeze: Option<f64>,
    pub snapshot: Option<f64>,
    pub thaw: Option<f64>,
    /// From freeze returned to thaw called.
    pub window: Option<f64>,
    /// The longest time without an acknowledged write around the window.
    pub write_stall: Option<f64>,
    pub restore: Option<f64>,
    /// From the first stage's begin to the last one's end.
    pub total: Option<f64>,
    /// Each stage by its name; together they are the total, but for what little lies between them.
    #[serde(default)]
    pub stages: BTreeMap<Stage, f64>,
}

impl Timings {
    /// Adds where the trial's time went.
    pub fn add(&mut self, profile: &Profile) {
        let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
        self.stages = profile.stages.iter().map(|(stage, time)| (*stage, millis(time))).collect();
        self.boot = self.stages.get(&Stage::Boot).copied();
        self.restore = self.stages.get(&Stage::Restore).copied();
        self.total = Some(millis(&profile.wall));
    }
}

/// Operations counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Transfers that the server acknowledged.
    pub acknowledged: u64,
    /// Transfers whose outcome stayed unknown.
    pub unknown: u64,
    /// Transfers found in the restored database.
    pub restored: u64,
}

/// What a trial had the power to see. A grade claims no more than that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// Writes, transfers or rows, that were sent before the freeze had returned and
    /// had no outcome by then. Without a freeze, the beginning of the snapshot counts.
    pub in_flight: u64,
    /// The transfers among them.
    pub transfers_in_flight: u64,
    /// The same by the way they took: the door to the server and the schema.
    pub in_flight_by: BTreeMap<String, u64>,
    /// Writes acknowledged in the last second before the freeze was called, by the way they took.
    pub acknowledged_last_second: BTreeMap<String, u64>,
    /// From the last transfer acknowledged before the freeze was called to that call, milliseconds.
    pub silence_ms: Option<f64>,
    /// COMMITs that the server kept waiting from before the snapshot until after it.
    pub probes_over_snapshot: u64,
    /// What confirmed that the database stood still; absent when nothing but the hook's word did.
    pub lock: Option<String>,
    /// How far apart two disks may have stopped without a finding, milliseconds; absent for one disk.
    pub resolution_ms: Option<f64>,
    /// The properties that were not examined, and why.
    pub not_examined: BTreeMap<Property, String>,
}

/// Whether a trial met its scenario's expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did.
    Pass,
    /// It did not.
    Fail,
    /// The harness could not tell.
    Unknown,
}

/// How bad a cycle is, see [`rank`].
pub(crate) type Rank = (u8, u8);

/// How bad a cycle is: the greatest is the worst. The backup counts first, whatever was expected of
/// it. A refusal makes none: it hides none that is worse than the best. What is not known hides none
/// that is known to be bad.
pub(crate) fn rank(grade: Grade, outcome: Outcome) -> Rank {
    let grade = match grade {
        Grade::ApplicationConsistent => 0,
        Grade::Refused => 1,
        Grade::Unknown => 2,
        Grade::CrashConsistent => 3,
        Grade::Inconsistent => 4,
        Grade::Unusable => 5,
    };
    (grade, badness(outcome))
}

fn badness(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Pass => 0,
        Outcome::Unknown => 1,
        Outcome::Fail => 2,
    }
}

/// Why a history is not that of the trial which was planned, if it is not.
fn other_than_planned(plan: &Plan, trial: &judge::Trial) -> Option<String> {
    let (planned, told) = (plan.snapshot.cycles, trial.cycles());
    if planned != told {
        return Some(format!("{planned} cycles were planned, and the history tells of {told}"));
    }
    let setup = trial.setup();
    let disk = plan.image.disks.iter().map(|disk| &disk.target).find(|it| !setup.disks.contains(it));
    let fs = plan.image.file_systems().map(|fs| &fs.name).find(|it| !setup.file_systems.contains(it));
    let (what, name) = disk.map(|it| ("disk", it)).or(fs.map(|it| ("file system", it)))?;
    Some(format!("the image has a {what} `{}` of which the history does not tell", quote(MAX_WHY, name)))
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
    /// The snapshot method.
    pub snapshot: String,
    /// `kvm` or `tcg`.
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
    /// Milliseconds spent.
    pub timings_ms: Timings,
    /// Operations counted.
    pub counts: Counts,
    /// What the scenario expected, in words.
    pub expected: String,
    /// Whether it was met.
    pub outcome: Outcome,
    /// Each expectation that was not met, as a sentence.
    pub unmet: Vec<String>,
}

/// Why a verdict cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct VerdictError {
    path: PathBuf,
    problem: String,
}

impl Verdict {
    /// The verdict over a judged trial: its judgement held against what the
    /// plan expected.
    pub fn new(plan: &Plan, judgement: Judgement) -> Self {
        let Judgement { grade, reason, findings, details: _, properties, power, counts, timings, resumed } =
            judgement;
        let mut unmet = Vec::new();
        let expect = &plan.expect;
        if !expect.grade.contains(&grade) {
            unmet.push(format!("expected {}; came out {reason}", grades(&expect.grade)));
        }
        let shown: Vec<_> = findings.iter().map(|finding| finding.property).collect();
        unmet.extend(expect.lacks(grade, &shown));
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
    pub fn over(plan: &Plan, dir: &Path, keep: bool) -> Result<(Self, Vec<Self>), jsonl::Error> {
        let mut trial = judge::Trial::open(dir)?;
        let other = other_than_planned(plan, &trial);
        let mut verdicts = Vec::new();
        for cycle in 1..=trial.cycles() {
            let place = trial.place(cycle);
            let mut judgement = judge::judge(trial.cycle(cycle)?);
            if keep {
                judgement.keep_details(dir, &place)?;
            }
            let verdict = Self::new(plan, judgement);
            if trial.cycles() == 1 {
                return Ok((verdict.unless(other), Vec::new()));
            }
            if keep {
                // A cycle whose freeze was refused has left nothing there.
                let create = |source| jsonl::Error::Io { action: "create", path: place.clone(), source };
                std::fs::create_dir_all(&place).map_err(create)?;
                verdict.write(&place).map_err(|VerdictError { path, problem }| jsonl::Error::Io {
                    action: "write",
                    path,
                    source: std::io::Error::other(problem),
                })?;
            }
            verdicts.push(verdict);
        }
        Ok((Self::worst_of(plan, &verdicts).unless(other), verdicts))
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
    pub(crate) fn rank(&self) -> Rank {
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

    fn blank(plan: &Plan) -> Self {
        Self {
            schema: 1,
            trial: plan.trial.clone(),
            scenario: plan.scenario.clone(),
            image: plan.image.name.clone(),
            hook: plan.hook.to_string(),
            snapshot: plan.snapshot.to_string(),
            accel: plan.accel.to_string(),
            seed: plan.seed,
            grade: Grade::Unknown,
            reason: String::new(),
            findings: Vec::new(),
            properties: BTreeMap::new(),
            power: Power::default(),
            timings_ms: Timings::default(),
            counts: Counts::default(),
            expected: plan.expect.to_string(),
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
    pub fn read(dir: &Path) -> Result<Self, VerdictError> {
        let path = dir.join("verdict.json");
        let failed = |problem: String| VerdictError { path: path.clone(), problem };
        let json = std::fs::read(&path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_slice(&json).map_err(|e| failed(e.to_string()))
    }

    /// Writes `verdict.json` into a trial directory, whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<(), VerdictError> {
        let path = dir.join("verdict.json");
        let new = dir.join("verdict.json.new");
        let write = || -> std::io::Result<()> {
            std::fs::write(&new, json::pretty(self)?)?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|e| VerdictError { path: path.clone(), problem: e.to_string() })
    }
}

/// `crash-consistent or inconsistent`.
pub(crate) fn grades(grades: &[Grade]) -> String {
    let names: Vec<_> = grades.iter().map(ToString::to_string).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_letters_and_claims_are_distinct_and_match_the_schema() {
        for property in Property::ALL {
            let json = serde_json::to_string(&property).unwrap();
            assert_eq!(json, format!("\"{}\"", property.name()));
            assert!(property.claim().ends_with('.'), "{property}");
        }
        for of in [Property::id, Property::name, Property::claim] {
            assert_eq!(Property::ALL.map(of).into_iter().collect::<BTreeSet<_>>().len(), Property::ALL.len());
        }
    }

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
        assert!(line.ends_with("and 24 more") && line.chars().count() < 600, "{line}");
        verdict.outcome = Outcome::Fail;
        assert_eq!(verdict.unexamined(), None);
    }

    #[test]
    fn a_status_is_written_as_one_string() {
        let statuses = [
            (Status::Holds, "\"holds\""),
            (Status::Broken, "\"broken\""),
            (Status::NotApplicable("no probe".into()), "\"not-applicable: no probe\""),
        ];
        for (status, json) in statuses {
            assert_eq!(serde_json::to_string(&status).unwrap(), json);
            assert_eq!(serde_json::from_str::<Status>(json).unwrap(), status);
        }
        assert!(serde_json::from_str::<Status>("\"fine\"").is_err());
    }
}
