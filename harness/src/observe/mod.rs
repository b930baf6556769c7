//! Observe: everything that the snapshot's disks and the restored server hold,
//! written down for the judge.

mod binlog;
mod disk;
mod file_system;
mod files;
mod log;
mod table_files;
mod tables;

pub use disk::{Sought, disks};
pub use tables::{Asked, memory, server, server_failed, state, tables};

use std::path::Path;

use crate::error::Result;
use crate::jsonl;
use crate::observation::{KIND, Record};

/// Appends to `observation.jsonl`.
pub type ObservationLog = jsonl::Writer<Record>;

/// Creates the log.
pub fn create(path: &Path) -> Result<ObservationLog> {
    Ok(jsonl::Writer::create(path, KIND)?)
}

/// Marks the observation as complete.
pub fn complete(mut log: ObservationLog) -> Result<()> {
    log.write(&Record::End)?;
    Ok(log.flush()?)
}
