//! Reads a trial directory: the judge's only contact with files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use contract::history::{self, Entry, Setup};
use contract::jsonl::{Error, Reader};
use contract::observation::{self, Record};

use super::assemble::Assembler;
use super::case::{Case, Cycle};

/// Reads the history of a trial, and its observation if the trial came that far.
/// Of a trial of several cycles, this is the first.
///
/// An error names the file and line that no honest writer could have written.
pub fn read(dir: &Path) -> Result<Case, Error> {
    let mut trial = TrialFiles::open(dir)?;
    trial.cycle(1)?;
    Ok(trial.case)
}

/// Where a cycle of a trial that has several keeps its observation and verdict.
pub fn cycle_dir(dir: &Path, cycle: u32) -> PathBuf {
    dir.join("cycles").join(format!("{cycle:03}"))
}

/// A trial directory whose history is read. Its cycles share the load, and one
/// observation at a time is in memory.
#[derive(Debug)]
pub struct TrialFiles {
    dir: PathBuf,
    case: Case,
    cycles: Vec<Cycle>,
}

impl TrialFiles {
    /// Reads the history.
    ///
    /// An error names the line that no honest writer could have written.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut builder = Assembler::default();
        let mut reader = Reader::<Entry>::open(&dir.join(history::FILE), history::KIND)?;
        while let Some(entry) = reader.next() {
            builder.entry(entry?).map_err(|e| reader.problem(e.to_string()))?;
        }
        let (case, cycles) = builder.finish();
        Ok(Self { dir: dir.to_owned(), case, cycles })
    }

    /// How many cycles of freeze, snapshot and thaw the trial went through; at least one.
    pub fn cycles(&self) -> u32 {
        u32::try_from(self.cycles.len()).unwrap_or(u32::MAX)
    }

    /// What the load set up, as the history says.
    pub fn setup(&self) -> &Setup {
        &self.case.setup
    }

    /// What the backup tool's version command printed.
    pub fn tool_version(&self) -> Option<&str> {
        self.case.tool.version.as_deref()
    }

    /// Where a cycle has its observation: the only one beside the history.
    pub fn observation_dir(&self, cycle: u32) -> PathBuf {
        if self.cycles.len() == 1 { self.dir.clone() } else { cycle_dir(&self.dir, cycle) }
    }

    /// A cycle, counted from 1, without its observation.
    pub fn unobserved(&mut self, cycle: u32) -> &Case {
        self.case.choose(&self.cycles, cycle);
        &self.case
    }

    /// A cycle, counted from 1, with its observation if the trial came that far.
    ///
    /// An error names the file and line that no honest writer could have written.
    pub fn cycle(&mut self, cycle: u32) -> Result<&Case, Error> {
        self.case.choose(&self.cycles, cycle);
        match Reader::<Record>::open(&self.observation_dir(cycle).join(observation::FILE), observation::KIND)
        {
            Ok(mut reader) => {
                self.case.observe();
                while let Some(record) = reader.next() {
                    self.case.record(record?).map_err(|e| reader.problem(e.to_string()))?;
                }
            }
            // A trial that ended before the restore has none.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(&self.case)
    }
}
