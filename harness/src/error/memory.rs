//! What goes wrong with a saved memory.

use std::path::PathBuf;

use contract::files::FileError;
use contract::seal::Damage;

/// Why a saved memory cannot be used. Its guest boots instead, or is saved anew.
#[derive(Debug, thiserror::Error)]
pub enum SavedMemoryError {
    /// A file of it, or its directory, cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not as it was saved.
    #[error("the saved memory of the {role} guest was damaged ({damage}) and is thrown away")]
    Damaged {
        /// Whose it is.
        role: &'static str,
        /// What is wrong.
        damage: Damage,
    },
    /// No guest comes up from it, or not to work.
    #[error("the saved memory of the {role} guest failed ({cause}) and is thrown away")]
    Failed {
        /// Whose it is.
        role: &'static str,
        /// What happened.
        cause: String,
    },
    /// It lacks a file that the new guest needs.
    #[error("it has no {0}")]
    NoFile(String),
    /// Its definition does not name one of its own files.
    #[error("its definition does not name {}", .0.display())]
    NotNamed(PathBuf),
}
