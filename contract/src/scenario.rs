//! Scenarios: what is tried. One TOML file is one pass through the pipeline
//! with its variations, faults and expectation.
//!
//! A file is checked as a whole before anything boots. Unknown keys, bad names and
//! impossible combinations are errors with file, line and a hint.

mod backup;
mod fault;
mod hook;
mod read;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::backup::{BackupTool, COMMAND_SECONDS, OwnCommands, command_problem};
pub use self::fault::{Fault, Point, Signal, Strike};
pub use self::hook::{Hook, HookError};
use crate::grade::{self, Grade};
use crate::image::{Database, Definition};
use crate::property::Property;

/// A scenario, as its file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its path under the scenarios' folder without `.toml`: `core/no-hook`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Rows of the failure catalogue that it covers.
    pub covers: Vec<String>,
    /// The databases on which it runs.
    pub databases: Vec<Database>,
    /// The releases on which it runs; any when empty.
    pub releases: Vec<String>,
    /// The layout of disks that it needs; any without it.
    pub disks: Option<Disks>,
    /// The load.
    pub load: Load,
    /// How snapshots are taken.
    pub snapshot: Snapshot,
    /// How a snapshot becomes a running server again.
    pub restore: Restore,
    /// Whether the guest is frozen around the snapshot. True with a backup tool, which decides by itself.
    pub freeze: bool,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// The backup tool that is graded; without one, Freezeframe freezes and takes the snapshots itself.
    pub backup: Option<BackupTool>,
    /// What must come out, for each hook that the scenario runs with: the built-in ones first.
    pub expect: Vec<(Hook, Expectation)>,
}

impl Scenario {
    /// Whether it runs on this image.
    pub fn suits(&self, image: &Definition) -> bool {
        let disks = match (image.loops.len(), image.disks.len()) {
            // A vendor's disk is one.
            (0, 0 | 1) => Disks::One,
            (0, _) => Disks::Split,
            _ => Disks::Loop,
        };
        let release = self.releases.is_empty() || self.releases.contains(&image.release);
        release
            && self.databases.contains(&image.database)
            && self.disks.is_none_or(|needed| needed == disks)
            && (self.restore == Restore::Boot || image.can_be_attached())
            // Only its guest knows how large a disk is that was made elsewhere.
            && (image.disks.is_empty() || self.load.disk_mib() <= image.disks.iter().map(|disk| disk.size_mib).sum())
    }

    /// Whether a trial of it on this image can have several cycles, the last of which is the scenario's own:
    /// only if nothing but the freeze has to happen at a particular moment.
    pub fn can_repeat(&self, image: &Definition) -> bool {
        self.freeze
            && self.backup.is_none()
            && self.faults.is_empty()
            && self.snapshot.cycles == 1
            && self.restore == Restore::Boot
            && image.can_be_attached()
    }

    /// What is expected with this hook on this database: what the file says of it, or else the top grade, because
    /// then the user named the hook.
    pub fn expectation(&self, hook: &Hook, database: Database) -> Expectation {
        let listed = self.expect.iter().find(|(h, _)| h == hook);
        let mut expected = listed.map_or_else(Expectation::top_grade, |(_, expectation)| expectation.clone());
        // The others can be found on the scenario's other databases.
        expected.findings.retain(|property| property.applies_to(database));
        expected.one_of.retain(|property| property.applies_to(database));
        expected
    }
}

/// How an image's data is spread over disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disks {
    /// Everything on one.
    One,
    /// Data directory and binary logs on two.
    Split,
    /// One file system in a file on another.
    Loop,
}

/// The way in which the disks of a running guest are kept as they are at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotMethod {
    /// libvirt lets the guest write to new overlays from then on; the files below are the snapshot.
    #[default]
    External,
    /// libvirt copies all disks in one backup job (push mode), which goes on while the guest runs. The copies
    /// are of the instant at which the job began.
    BackupPush,
    /// The host clones the disks' files where its file system can share their blocks, while QEMU is paused.
    HostCopy,
}

impl SnapshotMethod {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::External, Self::BackupPush, Self::HostCopy];

    /// Its name in scenarios, verdicts and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::BackupPush => "backup-push",
            Self::HostCopy => "host-copy",
        }
    }

    /// Why it cannot take one disk after the other; `None` when it can.
    fn only_at_once(self) -> Option<&'static str> {
        match self {
            Self::External | Self::HostCopy => None,
            Self::BackupPush => Some("libvirt copies all disks in one job, and runs one job at a time"),
        }
    }
}

impl std::fmt::Display for SnapshotMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How snapshots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The way. Files from before there were several do not name it.
    #[serde(default)]
    pub method: SnapshotMethod,
    /// Milliseconds between one disk and the next; 0 takes all disks at one
    /// instant.
    #[serde(default)]
    pub apart_ms: u64,
    /// How many times the guest is frozen, snapshotted and thawed under one load, or backed up by a tool.
    #[serde(default = "once")]
    pub cycles: u32,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { method: SnapshotMethod::default(), apart_ms: 0, cycles: once() }
    }
}

impl Snapshot {
    /// Why no snapshot can be taken like this; `None` when one can.
    pub fn impossible(&self) -> Option<String> {
        let why = self.method.only_at_once().filter(|_| self.apart_ms > 0)?;
        Some(format!("`{}` cannot take the disks `apart_ms` apart: {why}", self.method))
    }
}

fn once() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// As a verdict names it: `external`, or `external, disks 300 ms apart`.
impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.apart_ms {
            0 => write!(f, "{}", self.method),
            apart => write!(f, "{}, disks {apart} ms apart", self.method),
        }
    }
}

/// How a snapshot becomes a running server again, so that it can be observed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// A new guest boots from it, when the first one is gone: what an operator does.
    #[default]
    Boot,
    /// Its disks are attached to a guest that runs already, and the server is
    /// started on them there while the load goes on: for many moments in a row.
    Attach,
    /// As `attach` for every cycle but the last, and as `boot` for that one.
    AttachAndBoot,
}

/// The load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Its profile.
    pub profile: Profile,
    /// Concurrent writers, each with one operation in flight.
    pub writers: u32,
    /// The most transfers a second that all of them together make; without it, as many as
    /// are acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Seconds of load before the freeze.
    pub seconds: f64,
    /// MiB of rows that are there before the load begins, and are changed all over while it lasts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data_mib: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Load {
    /// MiB of disk that an image needs for this load's data beside its own: the table, what the logs keep
    /// of its changes, and the system.
    fn disk_mib(&self) -> u64 {
        if self.data_mib == 0 { 0 } else { 2048 + 2 * u64::from(self.data_mib) }
    }
}

/// What the load writes, and how durable the server's commits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Every commit is on disk before it is acknowledged (the servers' default,
    /// and `sync_binlog=1`). A MyISAM table and, on MariaDB, an Aria table
    /// follow the transactions.
    Durable,
    /// As `durable`, with transactional tables only.
    InnodbOnly,
    /// As `durable`, with a table of every other engine that the server has for
    /// rows on disk.
    MixedEngines,
    /// As `durable`, with one more writer whose statements insert thousands of
    /// rows each into a MyISAM table.
    Bulk,
    /// Commits reach the disk up to ten seconds later
    /// (`innodb_flush_log_at_trx_commit=0`, `sync_binlog=0`).
    Relaxed,
}

/// What must come out of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The grades that are right.
    pub grade: Vec<Grade>,
    /// Properties that must be reported as broken where a backup was made.
    #[serde(default)]
    pub findings: Vec<Property>,
    /// Properties of which at least one must be reported, where chance decides which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<Property>,
    /// The freeze must return within this many seconds (on KVM; scaled under TCG).
    #[serde(default)]
    pub within_s: Option<f64>,
    /// Writes must go on after the window. False allows a hook or an agent to
    /// leave the database blocked.
    #[serde(default = "yes")]
    pub writable: bool,
}

impl Expectation {
    /// Whether it is among the findings that are right.
    pub fn names(&self, property: Property) -> bool {
        self.findings.contains(&property) || self.one_of.contains(&property)
    }

    /// Describes what a trial of this grade with these findings lacks. Where the freeze was refused, which
    /// is right as well, there is no backup that could show any; only a tool's conduct shows then.
    pub fn lacks(&self, grade: Grade, findings: &[Property]) -> Vec<String> {
        let refused = grade == Grade::Refused && self.grade.contains(&grade);
        // What a tool did shows without a backup as well.
        let owed = |it: &&Property| !refused || it.is_conduct();
        let lacked = |owed: &&Property| !findings.contains(owed);
        let describe = |owed: &Property| format!("`{owed}` ({})", owed.id());
        let each = self.findings.iter().filter(owed).filter(lacked);
        let mut lacks: Vec<_> =
            each.map(|owed| format!("expected the finding {}, which did not show", describe(owed))).collect();
        let one_of: Vec<_> = self.one_of.iter().filter(owed).collect();
        if !one_of.is_empty() && one_of.iter().all(lacked) {
            let any: Vec<_> = one_of.into_iter().map(describe).collect();
            lacks.push(format!("expected the finding {}, and none showed", any.join(" or ")));
        }
        lacks
    }

    /// What is expected of a hook that the user names: the top grade.
    pub fn top_grade() -> Self {
        Self {
            grade: vec![Grade::ApplicationConsistent],
            findings: Vec::new(),
            one_of: Vec::new(),
            within_s: None,
            writable: yes(),
        }
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", grade::grades(&self.grade))?;
        if !self.findings.is_empty() {
            let names: Vec<_> = self.findings.iter().map(ToString::to_string).collect();
            write!(f, " with {}", names.join(", "))?;
        }
        if !self.one_of.is_empty() {
            let names: Vec<_> = self.one_of.iter().map(ToString::to_string).collect();
            write!(f, " with {}", names.join(" or "))?;
        }
        if let Some(seconds) = self.within_s {
            write!(f, ", frozen within {seconds} s")?;
        }
        if !self.writable {
            write!(f, ", writable afterwards or not")?;
        }
        Ok(())
    }
}
