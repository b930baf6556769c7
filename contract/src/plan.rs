//! Plans: what was resolved. A plan names every file, number and limit that a
//! trial needs; a trial needs nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::image::Manifest;
use crate::scenario::{BackupTool, Expectation, Fault, Hook, Load, Restore, Snapshot};

/// `plan.json` of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The trial's name: `core/no-hook::bookworm-mariadb::none`.
    pub trial: String,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's summary.
    pub summary: String,
    /// The image, its paths absolute.
    pub image: Manifest,
    /// The hook.
    pub hook: Hook,
    /// The file that replaces the image's hook, or the package that brings one.
    pub install: Option<PathBuf>,
    /// The load.
    pub load: Load,
    /// Whether the guest is frozen around the snapshot.
    pub freeze: bool,
    /// How snapshots are taken.
    pub snapshot: Snapshot,
    /// How a snapshot becomes a running server again.
    #[serde(default)]
    pub restore: Restore,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// The backup tool that is graded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupTool>,
    /// What must come out.
    pub expect: Expectation,
    /// Seed of the load: the same seed gives the same operations.
    pub seed: u64,
    /// The accelerator.
    pub accel: Accel,
    /// How the first guest starts.
    pub start: Start,
    /// Whether the trial ends when that guest's server answers.
    #[serde(default)]
    pub start_only: bool,
    /// A libvirt connection to use instead of the embedded driver.
    pub connect: Option<String>,
    /// The trial's directory.
    pub dir: PathBuf,
    /// The limits.
    pub limits: Limits,
    /// Whether disks stay in the trial's directory after its end.
    pub keep: Keep,
}

impl Plan {
    /// The file's name in a trial directory.
    pub const FILE: &str = "plan.json";

    /// Reads `plan.json` of a trial directory.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(Self::FILE);
        if !path.exists() {
            let problem = "there is no such file; is this the directory of a trial?".to_owned();
            return Err(FileError::Read { path, problem });
        }
        files::read_json(&path)
    }

    /// Creates the trial's directory and writes `plan.json`.
    pub fn write(&self) -> Result<(), FileError> {
        files::create_dir(&self.dir)?;
        files::write_json(&self.dir.join(Self::FILE), self)
    }
}

/// The accelerator: what runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accel {
    /// How many times longer a guest may take than on hardware. TCG itself runs
    /// guests some ten times slower, but hooks mostly wait for disks.
    pub fn slowness(self) -> f64 {
        match self {
            Self::Kvm => 1.0,
            Self::Tcg => 4.0,
        }
    }
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// How the first guest of a trial starts. The second one, from the snapshot,
/// always boots, because a restore must be real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// From the memory of an earlier boot of the same image, saved when its
    /// server answered; by a boot where that cannot be.
    Warm,
    /// By a boot.
    Cold,
}

/// When the disks of a trial stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Never; logs and verdict always stay.
    #[default]
    None,
    /// When the trial did not meet its expectation.
    Failed,
    /// Always.
    All,
}

/// How long each thing may take. All are upper bounds of waits that end at
/// once when their event comes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The whole trial.
    #[serde(default = "an_hour")]
    pub trial: Duration,
    /// From power-on to the agent's first sign of life.
    pub boot: Duration,
    /// From there to the server's first SQL answer.
    pub server: Duration,
    /// One agent command, other than freeze.
    pub agent: Duration,
    /// The freeze, hook included.
    pub freeze: Duration,
    /// The thaw, hook included.
    pub thaw: Duration,
    /// The longest freeze window; after it the guard thaws by itself.
    pub hold: Duration,
    /// One SQL statement of the load.
    pub statement: Duration,
    /// From the instant of a snapshot until its files are complete, while the guest runs.
    #[serde(default = "five_minutes")]
    pub copy: Duration,
}

/// For old plans, which have no such limit.
fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

/// For old plans, which copied nothing.
fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

impl Limits {
    /// Limits for this accelerator.
    pub fn for_accel(accel: Accel) -> Self {
        let seconds = |s: u64| Duration::from_secs(s).mul_f64(accel.slowness());
        Self {
            trial: an_hour(),
            boot: seconds(60),
            server: seconds(30),
            agent: seconds(15),
            // Not scaled: hooks wait for databases and disks, not for processors.
            // The slowest honest freeze observed, on a busy host under TCG, took 8 s.
            freeze: Duration::from_secs(60),
            // A hook may start a server in it: 47 s were observed, of MySQL 9.7 on a busy host under TCG.
            thaw: seconds(30),
            hold: seconds(10),
            statement: seconds(30),
            // Not scaled: the host's disk is as fast for an emulated guest.
            copy: five_minutes(),
        }
    }
}

/// A trial's name as the name of its directory.
pub fn trial_dir_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.replace("::", ".").chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_a_plain_file_name() {
        assert_eq!(
            trial_dir_name("core/no-hook::bookworm-mariadb::none"),
            "core-no-hook.bookworm-mariadb.none"
        );
        assert_eq!(trial_dir_name("a::b::../../etc/pass wd"), "a.b...-..-etc-pass-wd");
    }
}
