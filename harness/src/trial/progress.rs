//! A trial's progress: the event log, and messages as each stage begins and ends.

use std::path::Path;
use std::time::Duration;

use contract::events::{Event, EventKind, KIND, Stage};
use contract::jsonl;
use tracing::{info, info_span};

use crate::clock;
use crate::error::{Error, Result};

/// Writes `events.jsonl` and logs the same for people.
#[derive(Debug)]
pub(super) struct Progress {
    trial: String,
    log: jsonl::Writer<Event>,
    /// The stage that runs, for an error that ends it.
    stage: Stage,
    /// The running cycle: its name, and its stages so far. Each of many cycles gets one line.
    cycle: Option<(String, Vec<String>)>,
}

impl Progress {
    pub(super) fn create(path: &Path, trial: &str) -> Result<Self> {
        let log = jsonl::Writer::create(path, KIND)?;
        Ok(Self { trial: trial.to_owned(), log, stage: Stage::Prepare, cycle: None })
    }

    /// Runs a stage and reports how long it took, with the detail that the stage returns.
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

    /// Begins cycle `n`, to which the following stages belong.
    pub(super) fn begin_cycle(&mut self, n: u32, of: u32) {
        self.end_cycle();
        let name = format!("cycle {n} of {of}");
        info!("{}: {name} begins", self.trial);
        self.cycle = Some((name, Vec::new()));
    }

    /// Ends the current cycle, if any, and reports its stages.
    pub(super) fn end_cycle(&mut self) {
        if let Some((name, stages)) = self.cycle.take() {
            info!("{}: {name}: {}", self.trial, stages.join(", "));
        }
    }

    /// Records that the trial failed in the current stage, and returns the reason.
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
