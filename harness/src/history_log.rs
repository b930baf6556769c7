//! The history log, shared by the writers and the pipeline.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use contract::history::{Entry, KIND, Mark, Nanos};
use contract::jsonl;

use crate::bounds;
use crate::clock;
use crate::error::Result;

/// Appends to `history.jsonl` from any thread or task.
#[derive(Debug, Clone)]
pub struct HistoryLog {
    log: Arc<Mutex<jsonl::Writer<Entry>>>,
    entries: Arc<AtomicU64>,
}

impl HistoryLog {
    /// Creates the log.
    /// It is bounded as for a trial with this many cycles.
    pub fn create(path: &Path, cycles: u32) -> Result<Self> {
        let log = jsonl::Writer::bounded(path, KIND, bounds::history(cycles))?;
        Ok(Self { log: Arc::new(Mutex::new(log)), entries: Arc::default() })
    }

    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Appends one entry.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        self.entries.fetch_add(1, Ordering::Relaxed);
        let mut writer = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.write(entry)?)
    }

    /// Appends a mark with the time of this moment, and returns that time.
    pub fn mark(&self, mark: Mark, detail: impl Into<String>) -> Result<Nanos> {
        let t = clock::now();
        self.write(&Entry::Mark { t, mark, detail: detail.into() })?;
        Ok(t)
    }

    /// Hands everything so far to the operating system.
    pub fn flush(&self) -> Result<()> {
        Ok(self.log.lock().unwrap_or_else(PoisonError::into_inner).flush()?)
    }

    /// Appends the last line and hands everything to the operating system.
    pub fn finish(&self) -> Result<()> {
        let mut writer = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write(&Entry::End { t: clock::now() })?;
        Ok(writer.flush()?)
    }
}
