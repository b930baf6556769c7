//! Why a trial stopped before it could be judged.

mod agent;
mod daemon;
mod directories;
mod guest;
mod libvirt;
mod load;
mod memory;
mod monitor;
mod snapshot;
mod sql;
mod tool;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::files::foreign;

pub use agent::AgentError;
pub use daemon::DaemonError;
pub use directories::DirectoriesError;
pub use guest::{Action, GuestError, GuestFailure};
pub use load::LoadError;
pub use memory::SavedMemoryError;
pub use monitor::MonitorError;
pub use snapshot::SnapshotError;
pub use sql::SqlError;
pub(crate) use sql::is_lack;
pub use tool::ToolError;

use crate::guest::console;
use crate::guest::monitor::SILENCE;
use crate::guest_end::GuestEnd;

/// The result of everything that touches a guest.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a trial stopped. The message says what was tried and what to look at;
/// the trial adds the stage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libvirt refused.
    #[error("libvirt cannot {action}: {}", libvirt::cause(source.message()))]
    Libvirt {
        /// What was requested.
        action: String,
        /// Its reason.
        source: virt::error::Error,
    },
    /// The host's file system failed, or a program could not be started.
    #[error("cannot {action} {}: {source}{}", path.display(), foreign(path, source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or program.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The threads for the database's clients could not be started.
    #[error("cannot start the threads for the database's clients: {0}")]
    Runtime(#[source] io::Error),
    /// Requests to stop would not reach the process.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// A program of the host did not do its work.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// `qemu-img` failed.
    #[error("`qemu-img {arguments}` failed: {stderr}")]
    QemuImg {
        /// What it was run with.
        arguments: String,
        /// What it printed.
        stderr: String,
    },
    /// `qemu-img` described a disk in JSON that cannot be read.
    #[error("cannot read what qemu-img reports of {}: {source}", disk.display())]
    QemuImgReport {
        /// The disk.
        disk: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A command of a backup tool failed while there was no room on the host.
    #[error(
        "a command of the backup tool failed while the host's disk was full, which says nothing about the tool. Make \
         room in {}; what it printed is in {}",
        place.display(),
        log.display()
    )]
    NoRoom {
        /// The folder that it writes to.
        place: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// A command of a backup tool failed, and meanwhile the kernel had to end processes for lack of memory.
    #[error(
        "a command of the backup tool failed while the host had no memory left and its kernel ended processes, which says \
         nothing about the tool. Let fewer trials run at once (`--jobs`); what it printed is in {}",
        log.display()
    )]
    NoMemory {
        /// Its log.
        log: PathBuf,
    },
    /// The database refused.
    #[error("the database refuses to {action}: {source}")]
    Sql {
        /// What was requested.
        action: String,
        /// Its reason.
        source: SqlError,
    },
    /// A log could not be written or read.
    #[error(transparent)]
    Log(#[from] contract::jsonl::Error),
    /// The trial could not be judged.
    #[error(transparent)]
    Judge(#[from] judge::verdict::JudgeError),
    /// The guest agent, or a command that it ran, failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A guest did not do what it should.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A guest ended that should not have, by the host's doing or while the trial needed it.
    #[error("the {role} guest {end}. Its console ({}) says:\n{lines}", console.display())]
    GuestEnded {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// How it ended.
        end: GuestEnd,
        /// Its console's log.
        console: PathBuf,
        /// The lines of it that matter.
        lines: String,
    },
    /// QEMU's monitor did not tell what it was asked.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The trial has no libvirt daemon of its own.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The load cannot go on.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A saved memory cannot be used.
    #[error(transparent)]
    SavedMemory(#[from] SavedMemoryError),
    /// There is no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It cannot be found out where the server keeps its files.
    #[error("cannot find out where the guest's server keeps its files: {0}")]
    Directories(#[from] DirectoriesError),
    /// The guest's root has no way into the server.
    #[error(
        "the guest does not let the load in: {0}. Its root must get into the server without a password (by `mysql`, or \
         as `postgres` by `psql`), and systemd must have systemd-socket-proxyd, which Debian and Fedora keep in the package `systemd`"
    )]
    AccessDenied(#[source] Box<Error>),
    /// The plan names no file for a hook that is one.
    #[error("plan.json has no `install`, the file of its hook `{0}`: plan the trial again")]
    NoHookFile(String),
    /// The agent did not answer a freeze in time.
    #[error("the agent gave no answer within {} s ({source}){}", waited.as_secs(), suspects(opened))]
    FreezeUnanswered {
        /// How long it was waited for.
        waited: Duration,
        /// The mounts that it opens to freeze them, as they were before.
        opened: Vec<String>,
        /// What libvirt or the serial port reported.
        source: Box<Error>,
    },
    /// libvirt did not keep its own limit.
    #[error("no answer within {} s, and libvirt did not give up by itself", .0.as_secs())]
    FreezeEndless(Duration),
    /// No thaw succeeded.
    #[error("the guest may still be frozen; every thaw failed: {0}")]
    StillFrozen(#[source] Box<Error>),
    /// The guard of the freeze window thawed the guest.
    #[error("the freeze window was open for more than {} s, so its guard thawed the guest: the host stood still, or took too long over the snapshot. Let fewer trials run at once (`--jobs`)", .0.as_secs_f64())]
    WindowExpired(Duration),
    /// Disks that were attached do not appear, which says nothing about what is on them.
    #[error("the verifier guest does not see the snapshot's disks; its console is {}", console.display())]
    DisksNotVisible {
        /// Its console's log.
        console: PathBuf,
    },
    /// A guest hung before its kernel had printed anything, or stopped before its kernel had found a disk.
    /// Nothing was read from its disks by then, so it says nothing about them: the host's emulation
    /// failed.
    #[error(
        "the kernel of the {0} guest stalled before it found its disks, {1} times in a row; the host may be overloaded: \
         let fewer trials run at once (`--jobs`)"
    )]
    Stalled(&'static str, u32),
    /// A guest hung while its kernel reported that its timers stood still. Whatever its disks hold, that is
    /// the host's doing.
    #[error(
        "the {role} guest {failure}, and its kernel says that its timers stood still: the host did not run it. Let \
         fewer trials run at once (`--jobs`). Its console is {}",
        console.display()
    )]
    Starved {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// What it did not do.
        failure: GuestFailure,
        /// Its console's log.
        console: PathBuf,
    },
    /// A guest's QEMU gave no answer for some time while the guest was frozen, thawed or backed up, and that failed.
    #[error(
        "the {role} guest's QEMU gave no answer for at least {} s while {what}, which failed: the host did not run it, and \
         that says nothing of the backup. Let fewer trials run at once (`--jobs`)",
        SILENCE.as_secs()
    )]
    StoodStill {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// What was under way.
        what: &'static str,
    },
    /// What was restored too late could not be given up to try again.
    #[error(
        "cannot give up the snapshot's disks to restore them once more, after they came up too late: {0}. Let fewer trials \
         run at once (`--jobs`)"
    )]
    NotReleased(#[source] Box<Error>),
    /// The mounts of a snapshot's disks were not over in time, and may still go on.
    #[error(
        "the verifier guest did not mount the snapshot's disks in time, and its host may be to blame: {0}. Let fewer trials \
         run at once (`--jobs`)"
    )]
    NotMounted(#[source] Box<Error>),
    /// The disks of a snapshot could not be made ready for a roll-forward.
    #[error("cannot make the snapshot's disks ready for the roll-forward in the verifier guest: {0}")]
    NotPrepared(#[source] Box<Error>),
    /// Ctrl-C, or the supervisor's request to stop.
    #[error("interrupted")]
    Interrupted,
    /// The whole trial took longer than it may.
    #[error(
        "the trial had not ended after {} s, which is far more than it should need: a guest or the host hangs. Its \
         console.log and agent.jsonl show how far it came",
        .0.as_secs()
    )]
    Overdue(Duration),
}

/// What may keep an agent that does not answer: it cannot be asked any more.
fn suspects(opened: &[String]) -> String {
    if opened.is_empty() {
        return String::new();
    }
    format!(
        ". Either its hook has not ended, or it still waits for one of the mounts that it opens, which it does in turn: {}",
        opened.join(", ")
    )
}

impl Error {
    /// Whether the guest or its database failed, and not the host: in a guest that was restored from a
    /// backup, that is a fact about the backup.
    pub(crate) fn is_of_guest(&self) -> bool {
        match self {
            Self::Sql { source, .. } => !source.is_of_host(),
            // Whoever speaks through libvirt's channel cannot tell whose fault that is either.
            Self::Agent(AgentError::Absent(_) | AgentError::Late(_)) => false,
            Self::Agent(_) | Self::Guest(_) => true,
            _ => false,
        }
    }

    /// Whether time ran out for a guest or its database: it may be slow, or stand still.
    pub(crate) fn is_late_guest(&self) -> bool {
        match self {
            Self::Guest(GuestError::Failed { failure, .. }) => {
                matches!(failure, GuestFailure::TimedOut { .. })
            }
            Self::Sql { source, .. } => matches!(source, SqlError::TimedOut),
            Self::Agent(error) => matches!(error, AgentError::Unfinished { .. }),
            _ => false,
        }
    }

    /// Whether no guest can be asked anything any more.
    pub(crate) fn ends_trial_at_once(&self) -> bool {
        matches!(self, Self::Interrupted | Self::GuestEnded { .. })
    }

    /// Whether the user or the trial's time limit ended it.
    pub(crate) fn is_request_to_stop(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Overdue(_))
    }

    /// Whether the host or the user ended the trial, and nothing that ran is to blame.
    pub(crate) fn is_of_host(&self) -> bool {
        self.is_request_to_stop() || matches!(self, Self::GuestEnded { end, .. } if end.is_of_host())
    }

    /// Whether the failure of a guest that started from saved memory speaks against that memory.
    pub(crate) fn speaks_against_memory(&self) -> bool {
        match self {
            Self::Libvirt { source, .. } => !libvirt::is_lack_of_room(source.message()),
            Self::SavedMemory(_) => true,
            Self::GuestEnded { end, .. } => !end.is_of_host(),
            _ => self.is_of_guest(),
        }
    }

    pub(crate) fn guest_ended(role: &'static str, end: GuestEnd, console: &Path) -> Self {
        let lines = console::relevant_lines(console);
        Self::GuestEnded { role, end, console: console.to_owned(), lines }
    }

    pub(crate) fn libvirt(action: impl Into<String>) -> impl FnOnce(virt::error::Error) -> Self {
        let action = action.into();
        move |source| Self::Libvirt { action, source }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn sql(action: impl Into<String>) -> impl FnOnce(SqlError) -> Self {
        let action = action.into();
        move |source| Self::Sql { action, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_on_the_host_do_is_no_fact_about_a_guest() {
        let refused = |code: &str| {
            Error::sql("answer")(SqlError::Server { code: code.to_owned(), message: "no".to_owned() })
        };
        assert!(refused("1045").is_of_guest());
        for code in ["1040", "1203", "53300"] {
            assert!(!refused(code).is_of_guest(), "{code}");
        }
        assert!(Error::sql("answer")(SqlError::Lost("refused".to_owned())).is_of_guest());
        assert!(!Error::sql("answer")(SqlError::Host("too many open files".to_owned())).is_of_guest());
        let limit = Duration::from_secs(15);
        assert!(!Error::from(AgentError::Absent(limit)).is_of_guest());
        assert!(!Error::from(AgentError::Late(limit)).is_of_guest());
        assert!(Error::from(AgentError::Endless(1)).is_of_guest());
    }

    #[test]
    fn only_lack_of_time_lets_a_guest_try_again() {
        let failed = |failure| {
            let (console, lines) = (PathBuf::from("/console.log"), String::new());
            Error::from(GuestError::Failed { role: "restored", failure, console, lines })
        };
        let limit = Duration::from_secs(240);
        assert!(failed(GuestFailure::TimedOut { action: Action::StartAgent, limit }).is_late_guest());
        assert!(Error::sql("answer")(SqlError::TimedOut).is_late_guest());
        let (guest, command) = ("verifier".to_owned(), "mount".to_owned());
        assert!(Error::from(AgentError::Unfinished { guest, command, limit }).is_late_guest());
        let unit = || GuestError::UnitFailed { role: "restored", unit: "mariadb".to_owned() };
        for error in
            [failed(GuestFailure::StoppedInBoot), unit().into(), Error::Interrupted, Error::Overdue(limit)]
        {
            assert!(!error.is_late_guest(), "{error}");
        }
    }
}
