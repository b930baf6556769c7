//! How good a backup is, and whether that was expected.

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
    /// It could not be determined. Never counts as a pass.
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

/// Whether a trial met its scenario's expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did.
    Pass,
    /// It did not.
    Fail,
    /// It could not be determined.
    Unknown,
}

/// How bad a cycle is, see [`rank`].
pub type Rank = (u8, u8);

/// How bad a cycle is: the greatest is the worst. The backup counts first, whatever was expected of
/// it. A refusal makes none: it hides none that is worse than the best. What is not known hides none
/// that is known to be bad.
pub fn rank(grade: Grade, outcome: Outcome) -> Rank {
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

/// How bad an outcome is: the greatest is the worst.
pub fn badness(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Pass => 0,
        Outcome::Unknown => 1,
        Outcome::Fail => 2,
    }
}

/// `crash-consistent or inconsistent`.
pub fn grades(grades: &[Grade]) -> String {
    let names: Vec<_> = grades.iter().map(ToString::to_string).collect();
    names.join(" or ")
}
