//! Observe: everything that the snapshot's disks and the restored server hold, recorded for the
//! judge.

mod binlog;
mod disk;
mod error;
mod file_system;
mod files;
mod log;
mod table_files;
mod tables;
mod writer;

pub use disk::{SnapshotLayout, disks};
pub use tables::{Expected, memory, server, server_failed, state, tables};
pub use writer::{ObservationLog, complete, create};
