//! Observe: everything that the snapshot's disks and the restored server hold, recorded for the
//! judge.

mod binlog;
mod disk;
mod error;
mod file_system;
mod files;
mod observation_log;
mod server_log;
mod table_files;
mod tables;
mod wal;

pub use disk::{SnapshotLayout, disks};
pub(crate) use error::ReadError;
pub(crate) use files::ImageFiles;
pub use observation_log::{ObservationLog, complete, create, withdraw};
pub(crate) use server_log::recovery as read_recovery;
pub use tables::{Expected, memory, server, server_failed, state, tables};
pub(crate) use tables::{read_messages, recovery};
