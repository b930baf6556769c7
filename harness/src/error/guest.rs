//! What goes wrong with a guest as a whole.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A guest did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest itself, which its console may explain.
    #[error("the {role} guest {failure}. Its console ({}) says:\n{lines}", console.display())]
    Failed {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// What it did or did not do.
        failure: GuestFailure,
        /// Its console's log.
        console: PathBuf,
        /// The lines of it that matter.
        lines: String,
    },
    /// A unit of its systemd.
    #[error("the unit {unit} failed to start in the {role} guest")]
    UnitFailed {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// The unit.
        unit: String,
    },
    /// A command that ran in a unit of its own.
    #[error("`{command}` failed in the {role} guest: {journal}")]
    CommandFailed {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// The shell command.
        command: String,
        /// The end of the unit's journal.
        journal: String,
    },
    /// No port of the host leads to it.
    #[error("QEMU does not forward port {port}; it reports: {report}")]
    NotForwarded {
        /// The guest's port.
        port: u16,
        /// What QEMU's monitor said.
        report: String,
    },
}

/// What a guest did or did not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It is gone before its agent was there.
    #[error("stopped while it booted")]
    StoppedInBoot,
    /// It is gone.
    #[error("stopped unexpectedly")]
    Stopped,
    /// It is gone, but its name is still in use.
    #[error("stopped, and libvirt still keeps it after {} s", .0.as_secs())]
    NotReleased(Duration),
    /// It tried.
    #[error("failed to {0}")]
    Failed(Action),
    /// It did not do it in time.
    #[error("did not {action} within {} s", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        action: Action,
        /// How long.
        limit: Duration,
    },
}

/// What a guest is waited for to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The first start of its agent.
    StartAgent,
    /// Another start of its agent.
    RestartAgent,
    /// The start of its server.
    StartServer,
    /// The end of this shell command.
    EndCommand(String),
    /// The release of a disk that is detached.
    ReleaseDisk,
    /// The merge of an overlay into the one below it.
    MergeOverlay,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartAgent => f.write_str("start its agent"),
            Self::RestartAgent => f.write_str("restart its agent"),
            Self::StartServer => f.write_str("start its server"),
            Self::EndCommand(command) => write!(f, "end `{command}`"),
            Self::ReleaseDisk => f.write_str("release a disk"),
            Self::MergeOverlay => f.write_str("merge an overlay of its disk"),
        }
    }
}
