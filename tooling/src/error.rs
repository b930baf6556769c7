//! How a task fails, and the exit code that says so.

use std::path::Path;
use std::process::ExitCode;

use contract::image::DefinitionError;

/// Why a task did not do what it was asked. The message is one or more
/// sentences: what happened, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An expectation was not met.
    #[error("{0}")]
    Expectation(String),
    /// Invalid usage or input: no such trial, a bad file.
    #[error("{0}")]
    Question(String),
    /// Ctrl-C.
    #[error("interrupted.")]
    Interrupted,
    /// It could not be determined: the host lacks something, a build failed.
    #[error("{0}")]
    Infrastructure(String),
}

impl Failure {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Expectation(_) => ExitCode::from(1),
            Self::Question(_) => ExitCode::from(2),
            Self::Infrastructure(_) => ExitCode::from(3),
            // As shells tell of SIGINT.
            Self::Interrupted => ExitCode::from(130),
        }
    }

    /// A file operation that failed: `action` as in "cannot create".
    pub fn io(action: &str, path: &Path, source: &std::io::Error) -> Self {
        Self::Infrastructure(format!("cannot {action} {}: {source}.", path.display()))
    }
}

impl From<DefinitionError> for Failure {
    fn from(error: DefinitionError) -> Self {
        Self::Question(error.to_string())
    }
}
