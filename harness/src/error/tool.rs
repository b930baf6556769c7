//! What goes wrong with a program of the host that reads what a guest wrote.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a program of the host said nothing about what a guest wrote.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no such program.
    #[error("{0} is not installed: `cargo xtask setup` installs it")]
    NotInstalled(String),
    /// It could not be started, or not waited for.
    #[error("{program} cannot be run: {source}")]
    NotRun {
        /// As it was named.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was killed for its time.
    #[error("{program} had not ended after {} s, and was killed: what it read was not examined", limit.as_secs())]
    Slow {
        /// As it was named.
        program: String,
        /// How long it may take.
        limit: Duration,
    },
    /// A signal ended it: it crashed, or broke a limit of memory, processor time or file size.
    #[error("{program} was killed ({status}), by its limits or by a crash: what it read was not examined")]
    Killed {
        /// As it was named.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It got less memory than it wanted.
    #[error("{program} ran out of the memory that it may take: what it read was not examined")]
    NoMemory {
        /// As it was named.
        program: String,
    },
    /// It printed more than is kept.
    #[error("{0} printed more than {1} bytes: what it read was not examined")]
    Endless(String, usize),
    /// The trial is to stop.
    #[error("the trial stopped before this was read")]
    Stopped,
}
