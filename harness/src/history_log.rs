//! The history log, shared by the writers and the pipeline.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use contract::history::{Entry, KIND, Mark, Nanos};
use contract::jsonl;

use crate::clock;
use crate::error::Result;

/// Appends to `history.jsonl` from any thread or task.
#[derive(Debug, Clone)]
pub struct HistoryLog(Arc<Mutex<jsonl::Writer<Entry>>>);

impl HistoryLog {
    /// Creates the log.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(jsonl::Writer::create(path, KIND)?))))
    }

    /// Appends one entry.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.write(entry)?)
    }

    /// Appends a mark with the time of this moment, and returns that time.
    pub fn mark(&self, mark: Mark, detail: impl Into<String>) -> Result<Nanos> {
        let t = clock::now();
        self.write(&Entry::Mark { t, mark, detail: detail.into() })?;
        Ok(t)
    }

    /// Appends the last line and hands everything to the operating system.
    pub fn finish(&self) -> Result<()> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write(&Entry::End { t: clock::now() })?;
        Ok(writer.flush()?)
    }
}
