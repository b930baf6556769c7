//! Why a trial stopped before it could be judged.

use std::path::{Path, PathBuf};

/// The result of everything that touches a guest.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a trial stopped. The message says what was tried and what to look at;
/// the trial adds the stage and the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libvirt refused.
    #[error("libvirt cannot {action}: {}", source.message())]
    Libvirt {
        /// What was asked of it.
        action: String,
        /// Its reason.
        source: virt::error::Error,
    },
    /// The host's file system or a host program failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or program.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The database did not do as told.
    #[error("the database refuses to {action}: {source}")]
    Sql {
        /// What was asked of it.
        action: String,
        /// Its reason.
        source: mysql_async::Error,
    },
    /// A log could not be written or read.
    #[error(transparent)]
    Log(#[from] contract::jsonl::Error),
    /// The guest did not behave; the text is a whole sentence with what to look at.
    #[error("{0}")]
    Guest(String),
    /// A guest hung before its kernel had said a word, or stopped before its kernel had found a disk.
    /// Nothing of its disks was read by then, so it says nothing about them: the host's emulation
    /// failed.
    #[error(
        "the kernel of the {0} guest stalled before it found its disks, {1} times in a row; the host may be overloaded: \
         let fewer trials run at once (`--jobs`)"
    )]
    Stalled(&'static str, u32),
    /// A guest hung while its kernel told that its timers stood still. Whatever its disks hold, that is the
    /// host's doing.
    #[error(
        "the {role} guest {what}, and its kernel says that its timers stood still: the host did not run it. Let fewer \
         trials run at once (`--jobs`). Its console is {}",
        console.display()
    )]
    Starved {
        /// Which of the trial's guests it is.
        role: &'static str,
        /// What it did not do.
        what: String,
        /// Its console's log.
        console: PathBuf,
    },
    /// Ctrl-C, or the supervisor's request to stop.
    #[error("interrupted")]
    Interrupted,
    /// The whole trial took longer than it may.
    #[error(
        "the trial had not ended after {} s, which is far more than it should need: a guest or the host hangs. Its \
         console.log and agent.jsonl show how far it came",
        .0.as_secs()
    )]
    Overdue(std::time::Duration),
}

impl Error {
    pub(crate) fn libvirt(action: impl Into<String>) -> impl FnOnce(virt::error::Error) -> Self {
        let action = action.into();
        move |source| Self::Libvirt { action, source }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn sql(action: impl Into<String>) -> impl FnOnce(mysql_async::Error) -> Self {
        let action = action.into();
        move |source| Self::Sql { action, source }
    }
}
