//! Reads a trial directory: the judge's only contact with files.

use std::path::Path;

use super::build::Builder;
use super::case::Case;
use crate::history::{self, Entry};
use crate::jsonl::{Error, Reader};
use crate::observation::{self, Record};

/// The name of the history in a trial directory.
pub const HISTORY: &str = "history.jsonl";
/// The name of the observation in a trial directory.
pub const OBSERVATION: &str = "observation.jsonl";

/// Reads the history of a trial, and its observation if the trial came that far.
///
/// An error names the file and line that no honest writer could have written.
pub fn read(dir: &Path) -> Result<Case, Error> {
    let mut builder = Builder::default();
    let mut reader = Reader::<Entry>::open(&dir.join(HISTORY), history::KIND)?;
    while let Some(entry) = reader.next() {
        builder.entry(entry?).map_err(|problem| reader.problem(problem))?;
    }
    match Reader::<Record>::open(&dir.join(OBSERVATION), observation::KIND) {
        Ok(mut reader) => {
            builder.observe();
            while let Some(record) = reader.next() {
                builder.record(record?).map_err(|problem| reader.problem(problem))?;
            }
        }
        // A trial that ended before the restore has none.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(builder.finish())
}
