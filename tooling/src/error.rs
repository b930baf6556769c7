//! How a task fails, and the exit code that says so.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use contract::files::{self, FileError};
use contract::image::DefinitionError;

use crate::command::CommandError;

/// Why a task did not do what was requested. The message is one or more
/// sentences: what happened, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An expectation was not met.
    #[error("{0}")]
    Expectation(String),
    /// Invalid usage or input: no such trial, a bad file.
    #[error("{0}")]
    Usage(String),
    /// An image's definition is invalid.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// Ctrl-C.
    #[error("interrupted.")]
    Interrupted,
    /// It could not be determined: the host lacks something, a build failed.
    #[error("{0}")]
    Infrastructure(String),
    /// A command of the host did not succeed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}{}.", path.display(), files::foreign(path, source))]
    Io {
        /// What cannot be done, before the path: "create".
        action: String,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of the project's own cannot be read or written.
    #[error("{0}.")]
    File(#[from] FileError),
    /// A result cannot be written as JSON.
    #[error("cannot write {what} as JSON: {source}.")]
    Json {
        /// "the verdict".
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Expectation(_) => ExitCode::from(1),
            Self::Usage(_) | Self::Definition(_) => ExitCode::from(2),
            Self::Infrastructure(_)
            | Self::Command(_)
            | Self::Io { .. }
            | Self::File(_)
            | Self::Json { .. } => ExitCode::from(3),
            // As shells report SIGINT.
            Self::Interrupted => ExitCode::from(130),
        }
    }

    /// A file operation that failed: `action` as in "cannot create".
    pub fn io(action: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { action: action.to_owned(), path: path.to_owned(), source }
    }

    /// Invalid usage or input, for this reason.
    pub fn usage(reason: impl ToString) -> Self {
        Self::Usage(reason.to_string())
    }

    /// Something that could not be determined, for this reason.
    pub fn infrastructure(reason: impl ToString) -> Self {
        Self::Infrastructure(reason.to_string())
    }
}
