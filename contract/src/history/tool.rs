//! What a backup tool did in a trial, and what the harness saw of it from outside.

use serde::{Deserialize, Serialize};

use super::clock::Nanos;

/// A command that went through the harness's proxy in the agent's channel, with the times at the
/// agent's side. Written when it is answered, or when no answer will be read any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCommand {
    /// When it was handed to the agent.
    pub t: Nanos,
    /// When the answer was read; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Nanos>,
    /// The command, as the agent names it: `guest-fsfreeze-freeze`.
    pub command: String,
    /// Who sent it.
    pub by: Sender,
    /// The error that the agent answered with, bounded; absent for success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The number that it returned: of file systems, for a freeze or a thaw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// The agent's command that freezes:
/// <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.
pub const FREEZE: &str = "guest-fsfreeze-freeze";

/// The same for some of the file systems, which libvirt sends when it is given mount points.
pub const FREEZE_LIST: &str = "guest-fsfreeze-freeze-list";

/// The agent's command that thaws.
pub const THAW: &str = "guest-fsfreeze-thaw";

/// Who sent a command to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// Somebody outside the harness: the backup tool, and libvirt for it.
    Tool,
    /// The harness itself, such as to thaw what a tool left frozen.
    Harness,
}

/// How far QEMU's timestamps of a copy may be beside the proxy's times. Of 32 windows they were 3 ms late.
pub const COPY_SKEW: Nanos = 5_000_000;

/// When QEMU began or completed the copy of a disk, of which the copy is: `JOB_STATUS_CHANGE` to
/// `created` of a backup job, `BLOCK_JOB_COMPLETED` of a mirror. By QEMU's own timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyInstant {
    /// When.
    pub t: Nanos,
    /// The disk's target name: `vda`.
    pub disk: String,
    /// The event, with the job: `JOB_STATUS_CHANGE created of backup-vda-libvirt-1-format`.
    pub event: String,
}

/// The guest's write requests that QEMU traced between two moments, to all disks: the freeze's answer
/// and the thaw's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskWrites {
    /// From when.
    pub from: Nanos,
    /// Until when.
    pub to: Nanos,
    /// How many.
    pub count: u64,
    /// When the first of them was, if there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Nanos>,
    /// When the last of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Nanos>,
}

/// A step of a trial with a backup tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToolStep {
    /// What the tool's version command printed first, bounded. Written once, where there is such a command.
    Version {
        /// When.
        t: Nanos,
        /// The line.
        said: String,
    },
    /// The backup command is about to start.
    Began {
        /// When.
        t: Nanos,
        /// The backup, from 1: its cycle.
        n: u32,
        /// What it is asked for.
        level: Level,
    },
    /// The backup command has ended.
    Ended {
        /// When.
        t: Nanos,
        /// The backup.
        n: u32,
        /// How it ended.
        how: CommandEnd,
        /// The last lines that it printed, bounded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        said: Vec<String>,
    },
    /// What was there after the end of the backup command that had not been there before. Written once
    /// for each backup, also when it is nothing; not written when it could not be asked.
    Left {
        /// When it was looked for.
        t: Nanos,
        /// The backup.
        n: u32,
        /// What was found.
        things: Vec<Leftover>,
    },
    /// The restore command has ended. Written once, if the last backup was to be restored.
    Restored {
        /// When it was started.
        t: Nanos,
        /// When it had ended.
        end: Nanos,
        /// How it ended.
        how: CommandEnd,
        /// The last lines that it printed, bounded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        said: Vec<String>,
    },
    /// A disk that the restore command had to hand back. Written once for each disk of the setup.
    HandedBack {
        /// When it was looked at.
        t: Nanos,
        /// The disk's target name: `vda`.
        disk: String,
        /// What is wrong with it; nothing when it can be booted from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        problems: Vec<DiskProblem>,
    },
    /// The image's files were compared with what they had been before the trial. Always the last line of a
    /// trial whose backup was restored.
    Image {
        /// When.
        t: Nanos,
        /// How many files were compared.
        files: u32,
        /// Those that had changed, and how.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changed: Vec<String>,
    },
}

impl ToolStep {
    /// Whether it comes when the load has ended, after [`Entry::End`](super::Entry::End).
    pub fn is_after_load(&self) -> bool {
        matches!(self, Self::Restored { .. } | Self::HandedBack { .. } | Self::Image { .. })
    }
}

/// What a backup command is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything.
    Full,
    /// What changed since the backup before.
    Incremental,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        })
    }
}

/// How a command on the host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandEnd {
    /// With this exit code.
    Exit(i32),
    /// By this signal, which was none of the harness's.
    Signal(i32),
    /// Its time was over, and the harness ended it.
    OutOfTime,
    /// A fault of the scenario ended it, by this signal.
    Fault(i32),
}

impl std::fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfTime => f.write_str("out of time"),
            Self::Fault(signal) => write!(f, "signal {signal} of the scenario's fault"),
        }
    }
}

/// Something that a backup command left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Which one, bounded: the job, the file, the disk and its new source, or how the freeze showed.
    pub detail: String,
    /// For a frozen guest: when the freeze had been answered, if that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Nanos>,
    /// When the harness had made up for it; absent where it did not, because the next backup must live with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Nanos>,
}

/// What a backup command can leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// The guest is still frozen, or a freeze that was asked for completed later.
    FrozenGuest,
    /// A job of libvirt's on the domain.
    DomainJob,
    /// A job of QEMU's on a disk.
    BlockJob,
    /// The domain runs on another file than before.
    DiskSource,
    /// A file or socket in the folder for what is kept only while the tool runs.
    ScratchFile,
}

/// What is wrong with a disk that was handed back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskProblem {
    /// What it is.
    pub kind: DiskProblemKind,
    /// Which file, and what it says of itself; bounded.
    pub detail: String,
}

/// What can be wrong with a disk that was handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskProblemKind {
    /// There is no file of it, or it cannot be told which.
    Missing,
    /// It leans on files outside the folders of the restore and of the backups, such as the source's.
    Outside,
    /// It is larger or smaller than the source's.
    OtherSize,
    /// `qemu-img` finds it damaged, or cannot read it in the format that it is said to have.
    Damaged,
}
