//! The log of an observation.

use std::path::Path;

use contract::jsonl;
use contract::observation::{KIND, Record};

use crate::error::Result;

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
