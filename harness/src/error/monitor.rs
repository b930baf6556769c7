//! What goes wrong between the harness and the monitor of a guest's QEMU.

use std::io;
use std::time::Duration;

/// Why QEMU's monitor did not tell what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It said no.
    #[error("QEMU's monitor of the {guest} guest refuses {command}: {reason}")]
    Refused {
        /// Which of the trial's guests.
        guest: &'static str,
        /// The command.
        command: &'static str,
        /// Its reason.
        reason: String,
    },
    /// It gave no answer in time.
    #[error("QEMU's monitor of the {guest} guest gave no answer to {command} within {} s", limit.as_secs())]
    Late {
        /// Which of the trial's guests.
        guest: &'static str,
        /// The command.
        command: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Its connection is broken: QEMU has ended, or somebody else is connected.
    #[error("QEMU's monitor of the {guest} guest cannot be asked for {command}: {source}")]
    Gone {
        /// Which of the trial's guests.
        guest: &'static str,
        /// The command.
        command: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}
