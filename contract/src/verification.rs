//! The verification of a backup that somebody has already: what is asked ([`Request`]), what was found
//! ([`Facts`], beside the records of [`crate::observation`]) and how good the backup can be said to be
//! ([`Recovery`]).
//!
//! There is no history of such a backup: nobody knows what its server had acknowledged. So none of these
//! grades says anything about the instant that it holds.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::image::{AgentChannel, Claims, Database};

/// How good a backup without a history is, as far as can be told; best first, then what could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recovery {
    /// It starts, and nothing wrong was found. That is no proof of consistency.
    Recovers,
    /// It starts, but parts of it are damaged or contradict each other.
    Inconsistent,
    /// It does not boot, start or pass its checks.
    Unusable,
    /// It could not be told.
    Unknown,
}

impl std::fmt::Display for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Recovers => "recovers",
            Self::Inconsistent => "inconsistent",
            Self::Unusable => "unusable",
            Self::Unknown => "unknown",
        })
    }
}

/// A format of disks, as QEMU names it. Nothing is probed: a guest can write the header of another format
/// into its raw disk, and QEMU would then read whichever file that names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's.
    Vhdx,
    /// That of older Hyper-V, and of Xen.
    Vpc,
}

impl DiskFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhdx, Self::Vpc];

    /// What QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
        }
    }

    /// The format that QEMU calls so.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What the ending of a file's name says.
    pub fn of_file(file: &Path) -> Option<Self> {
        match &*file.extension()?.to_str()?.to_ascii_lowercase() {
            "img" => Some(Self::Raw),
            "vhd" => Some(Self::Vpc),
            name => Self::of_name(name),
        }
    }
}

/// One file of a disk: the disk itself, or one that it is based on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The file, absolute.
    pub file: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// A disk to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenDisk {
    /// Its target in the guest: `vda`.
    pub target: String,
    /// Its size in the guest, bytes.
    pub bytes: u64,
    /// Its files, the uppermost first.
    pub layers: Vec<Layer>,
}

/// `request.json`: what to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The disks, in order; the guest boots from the first.
    pub disks: Vec<GivenDisk>,
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// The processor model that an emulated guest needs, where the plainest one is not enough.
    pub cpu: Option<String>,
    /// How the guest's agent is reached.
    pub channel: AgentChannel,
    /// What the user claims about the disks.
    pub claims: Option<Claims>,
}

impl Request {
    /// The file's name.
    pub const FILE: &str = "request.json";

    /// Reads it in `dir`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Creates `dir` and writes it there.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::create_dir(dir)?;
        files::write_json(&dir.join(Self::FILE), self)
    }
}

/// `facts.json`: what was found, besides the records of `observation.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What is damaged about the files of the disks and about what they say they hold, in sentences.
    pub damage: Vec<String>,
    /// Every file system that was found, by its device in the guest: `vda1`.
    pub file_systems: Vec<String>,
    /// How the guest was started.
    pub start: Option<GuestStart>,
    /// What became of that; absent when none was started.
    pub guest: Option<GuestFate>,
    /// The database servers.
    pub servers: Vec<ServerFacts>,
    /// Which of the user's claims are wrong, with what was found.
    pub unmet: Vec<String>,
    /// What else is worth knowing, and is no defect.
    pub notes: Vec<String>,
    /// What could not be examined, and why.
    pub unexamined: Vec<String>,
    /// Why the verification stopped before its end, which is no fact about the backup.
    pub stopped: Option<String>,
}

/// How a guest was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestStart {
    /// The machine's BIOS started what it found on the first disk.
    Firmware,
    /// The disk has nothing for a BIOS, and its own kernel was started from outside.
    OwnKernel,
    /// The kernel of the image that the user claims was started, which is on none of its disks.
    ImageKernel,
}

/// What became of a guest that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestFate {
    /// Its agent answered.
    Up {
        /// What its agent says that it is: `debian 12`.
        system: String,
        /// The agent's version.
        agent: String,
    },
    /// It came up, as its console shows, but no agent answered.
    NoAgent,
    /// Its console shows that it cannot come up from these disks.
    Failed {
        /// The lines that show it.
        why: String,
    },
    /// It did not come up, and nothing shows why.
    Silent {
        /// What was waited for, and what its console says.
        why: String,
    },
}

/// What was found out about a database server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerFacts {
    /// Its systemd unit.
    pub unit: String,
    /// Which server.
    pub database: Database,
    /// Its version; absent when it answered nothing.
    pub version: Option<String>,
    /// Why it does not run, in its own words.
    pub failed: Option<String>,
    /// Whether it recovered from a crash; absent when its log does not tell.
    pub recovered: Option<bool>,
    /// Lines of its log about recovery.
    pub recovery: Vec<String>,
    /// Errors in its log about corruption.
    pub corruption: Vec<String>,
    /// Tables that it has, and how many were checked; the records of `observation.jsonl` say how each
    /// check ended.
    pub tables: u32,
    /// How many of them were checked.
    pub checked: u32,
}

impl Facts {
    /// The file's name.
    pub const FILE: &str = "facts.json";

    /// Reads it in `dir`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Writes it to `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::write_json(&dir.join(Self::FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_that_of_the_name() {
        let of = |name: &str| DiskFormat::of_file(Path::new(name));
        assert_eq!(of("/backup/vda.qcow2"), Some(DiskFormat::Qcow2));
        assert_eq!(
            [of("a.IMG"), of("a.raw"), of("a.b.vmdk")],
            [Some(DiskFormat::Raw), Some(DiskFormat::Raw), Some(DiskFormat::Vmdk)]
        );
        for name in ["vda", "vda.qcow2.gz", "vda.txt", "qcow2"] {
            assert_eq!(of(name), None, "{name}");
        }
        for format in DiskFormat::ALL {
            assert_eq!(DiskFormat::of_name(format.name()), Some(format));
        }
    }
}
