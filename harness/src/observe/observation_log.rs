//! The log of an observation.

use std::fs;
use std::io;
use std::path::Path;

use contract::json;
use contract::jsonl;
use contract::observation::{KIND, Record};

use crate::error::{Error, Result};

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

/// Takes back that an observation is complete. Nothing when it is not, or when there is none.
pub fn withdraw(path: &Path) -> Result<()> {
    let log = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(Error::io("read", path))?,
    };
    let end = json::line(&Record::End).unwrap_or_default() + "\n";
    match log.strip_suffix(end.as_bytes()) {
        Some(rest) => fs::write(path, rest).map_err(Error::io("write", path)),
        None => Ok(()),
    }
}
