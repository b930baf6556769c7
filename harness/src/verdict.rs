//! The verdict: a grade with its findings. This is the contract with users,
//! CI and scripts; `verdict.json` follows schema 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Milliseconds spent in each stage; absent when the stage did not run.
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
    pub total: Option<f64>,
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
    /// The hook: `none`, `distro`, `sample`, `freezeframe`, or the user's path.
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
    /// Every property that was examined or could not be: name to `holds`,
    /// `broken` or `not-applicable: <why>`.
    pub properties: BTreeMap<Property, String>,
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

/// What the pipeline saw beside its logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// A write was acknowledged after the thaw (or after a refused freeze).
    pub writable: bool,
    /// The agent says that nothing is frozen.
    pub thawed: bool,
}
