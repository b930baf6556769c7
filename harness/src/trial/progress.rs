//! Where a trial is: the event log, and a line on stderr for each stage.

use std::path::Path;
use std::time::Duration;

use contract::events::{Event, EventKind, KIND, Stage};
use contract::jsonl;
use tracing::{info, info_span};

use crate::clock;
use crate::error::{Error, Result};

/// Writes `events.jsonl` and tells the terminal.
#[derive(Debug)]
pub(super) struct Progress {
    trial: String,
    log: jsonl::Writer<Event>,
    /// The stage that runs, for an error that ends it.
    stage: Stage,
    /// The cycle that runs: its name, and its stages so far. Of many cycles each has one line.
    cycle: Option<(String, Vec<String>)>,
}

impl Progress {
    pub(super) fn create(path: &Path, trial: &str) -> Result<Self> {
        let log = jsonl::Writer::create(path, KIND)?;
        Ok(Self { trial: trial.to_owned(), log, stage: Stage::Prepare, cycle: None })
    }

    /// Runs a stage and says how long it took. The stage's own words, if any,
    /// follow the time.
    pub(super) fn stage<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&mut Self) -> Result<(T, String)>,
    ) -> Result<T> {
        self.stage = stage;
        let _in = info_span!("stage", %stage).entered();
        if self.cycle.is_none() {
            info!("{}: {stage} begins", self.trial);
        }
        let begin = self.event(stage, EventKind::Begin, "")?;
        let (value, detail) = work(self)?;
        let end = self.event(stage, EventKind::End, &detail)?;
        let took = seconds(Duration::from_nanos(end - begin));
        let detail = if detail.is_empty() { detail } else { format!(", {detail}") };
        match &mut self.cycle {
            Some((_, stages)) => stages.push(format!("{stage} {took}{detail}")),
            None => info!("{}: {stage} took {took}{detail}", self.trial),
        }
        Ok(value)
    }

    /// The stages from now on belong to the cycle `n` of so many.
    pub(super) fn begin_cycle(&mut self, n: u32, of: u32) {
        self.end_cycle();
        let name = format!("cycle {n} of {of}");
        info!("{}: {name} begins", self.trial);
        self.cycle = Some((name, Vec::new()));
    }

    /// Tells of the stages of the cycle that ran.
    pub(super) fn end_cycle(&mut self) {
        if let Some((name, stages)) = self.cycle.take() {
            info!("{}: {name}: {}", self.trial, stages.join(", "));
        }
    }

    /// Writes down that the trial ended in the stage that ran last.
    pub(super) fn failed(&mut self, error: &Error) -> String {
        self.end_cycle();
        let text = format!("{} failed: {error}", self.stage);
        // The verdict carries the same text.
        let _ = self.event(self.stage, EventKind::Failed, &error.to_string());
        text
    }

    pub(super) fn note(&mut self, text: &str) -> Result<()> {
        info!("{}: {text}", self.trial);
        self.event(self.stage, EventKind::Note, text).map(drop)
    }

    fn event(&mut self, stage: Stage, event: EventKind, detail: &str) -> Result<u64> {
        let t = clock::now();
        self.log.write(&Event { t, stage, event, detail: detail.to_owned() })?;
        self.log.flush()?;
        Ok(t)
    }
}

/// `0.093 s`, `12.4 s`.
pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{seconds:.3} s") } else { format!("{seconds:.1} s") }
}
