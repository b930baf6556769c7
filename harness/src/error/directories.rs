//! What goes wrong when a server's directories are looked up.

/// What a guest did not report about its server's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectoriesError {
    /// A part of the report.
    #[error("its report lacks {0}")]
    Missing(&'static str),
    /// A line without a path.
    #[error("a directory has no path")]
    NoPath,
    /// A line about something that was not requested.
    #[error("a directory holds something unknown")]
    UnknownContent,
    /// A directory below no mount point.
    #[error("a directory is below no mount point")]
    NoMount,
}
