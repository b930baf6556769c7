//! Reads a trial directory: the judge's only contact with files.

use std::path::{Path, PathBuf};

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
///
/// Of a trial of several cycles, this is the first one without what it left in
/// its folder; see [`read_cycle`].
pub fn read(dir: &Path) -> Result<Case, Error> {
    let mut builder = Builder::default();
    history(dir, &mut builder)?;
    with_observation(builder, &dir.join(OBSERVATION))
}

/// How many cycles of freeze, snapshot and thaw the trial went through.
pub fn cycles(dir: &Path) -> Result<u32, Error> {
    let mut builder = Builder::default();
    history(dir, &mut builder)?;
    Ok(builder.cycles())
}

/// Reads one cycle of a trial that has several.
pub fn read_cycle(dir: &Path, cycle: u32) -> Result<Case, Error> {
    let mut builder = Builder::for_cycle(cycle);
    history(dir, &mut builder)?;
    with_observation(builder, &cycle_dir(dir, cycle).join(OBSERVATION))
}

/// Where a cycle of a trial that has several keeps its observation and verdict.
pub fn cycle_dir(dir: &Path, cycle: u32) -> PathBuf {
    dir.join("cycles").join(format!("{cycle:03}"))
}

fn history(dir: &Path, builder: &mut Builder) -> Result<(), Error> {
    let mut reader = Reader::<Entry>::open(&dir.join(HISTORY), history::KIND)?;
    while let Some(entry) = reader.next() {
        builder.entry(entry?).map_err(|problem| reader.problem(problem))?;
    }
    Ok(())
}

fn with_observation(mut builder: Builder, path: &Path) -> Result<Case, Error> {
    match Reader::<Record>::open(path, observation::KIND) {
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
