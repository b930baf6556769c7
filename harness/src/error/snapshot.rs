//! What goes wrong with a snapshot.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// libvirt or QEMU is too old.
    #[error(
        "`backup-push` needs a libvirt and a QEMU that run backup jobs, and libvirt reports that these do not. Update \
         them, or use `--snapshot external`"
    )]
    NoBackupJobs,
    /// The file system cannot share blocks.
    #[error(
        "`host-copy` needs a file system whose files can share blocks (XFS with reflink=1, btrfs, bcachefs), and {} \
         cannot ({source}): it is on {fs}. Mount such a file system where runs are kept, at `target/e2e`, or let that be \
         a link to one; or use `--snapshot external`",
        dir.display()
    )]
    NoSharedBlocks {
        /// The directory for disks.
        dir: PathBuf,
        /// The kind of its file system.
        fs: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A copy that goes on after its instant did not come to its end.
    #[error("the copy of the disks failed: {0}")]
    CopyFailed(String),
    /// It takes too long.
    #[error("the copy of the disks was not complete after {} s; the host's disk may be overloaded or full", .0.as_secs())]
    CopyUnfinished(Duration),
}
