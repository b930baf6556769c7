//! What goes wrong with the load.

use std::io;

/// Why the load cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The guest's disk is too small for `data_mib`.
    #[error(
        "the server's data directory has {free_mib} MiB left, and `data_mib = {data_mib}` needs {needed_mib}: take an \
         image with a larger disk, such as bookworm-mariadb-large, or write less data into the scenario"
    )]
    NoRoom {
        /// What is free, MiB.
        free_mib: u64,
        /// What the scenario wants.
        data_mib: u32,
        /// What must be free, MiB.
        needed_mib: u64,
    },
    /// A heartbeat's channel broke.
    #[error("cannot reach the guest through the heartbeat channel of {file_system}: {source}")]
    HeartbeatChannel {
        /// The file system.
        file_system: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The guest did not write the heartbeat that was requested.
    #[error("the heartbeats of {file_system} ended: the guest answered `{answer}` to record {record}")]
    Heartbeat {
        /// The file system.
        file_system: String,
        /// The number of the record.
        record: u32,
        /// What came instead.
        answer: String,
    },
    /// A client ended by itself, as by a panic.
    #[error("a client of the load ended: {0}")]
    ClientEnded(#[from] tokio::task::JoinError),
    /// Its tables are not there yet.
    #[error("the load has not started yet")]
    NotStarted,
}
