//! What goes wrong with a saved memory.

use std::path::PathBuf;

/// Why a saved memory cannot be used. Its guest boots instead.
#[derive(Debug, thiserror::Error)]
pub enum SavedMemoryError {
    /// It was removed meanwhile.
    #[error("{} is gone", .0.display())]
    Gone(PathBuf),
    /// What it is made of cannot be read.
    #[error("{}: {source}; remove its directory", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It lacks a file that the new guest needs.
    #[error("it has no {0}")]
    NoFile(String),
    /// Its definition does not name one of its own files.
    #[error("its definition does not name {}", .0.display())]
    NotNamed(PathBuf),
}
