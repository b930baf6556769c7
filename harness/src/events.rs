//! The event log: which stage ran when. Progress on the terminal and the
//! timeline of the report are readers of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::history::Nanos;
use crate::jsonl;

/// The `kind` in the header of `events.jsonl`.
pub const KIND: &str = "events";

/// The event log's name in a trial directory.
pub const FILE: &str = "events.jsonl";

/// The stages of the pipeline, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the pipeline's; `Resume` is the load after the thaw")]
pub enum Stage {
    Prepare,
    Boot,
    Load,
    Freeze,
    Snapshot,
    Thaw,
    Resume,
    Restore,
    Observe,
    Judge,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Prepare => "prepare",
            Self::Boot => "boot",
            Self::Load => "load",
            Self::Freeze => "freeze",
            Self::Snapshot => "snapshot",
            Self::Thaw => "thaw",
            Self::Resume => "resume",
            Self::Restore => "restore",
            Self::Observe => "observe",
            Self::Judge => "judge",
        })
    }
}

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Host `CLOCK_MONOTONIC`, nanoseconds.
    pub t: Nanos,
    /// The stage.
    pub stage: Stage,
    /// What happened to it.
    pub event: What,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl jsonl::Record for Event {}

/// What happens to a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It began.
    Begin,
    /// It ended well.
    End,
    /// It failed; the detail says why.
    Failed,
    /// Something worth knowing.
    Note,
}

/// Reads how long each stage of a trial took.
pub fn durations(path: &Path) -> Result<Vec<(Stage, Duration)>, jsonl::Error> {
    let mut begun: BTreeMap<Stage, Nanos> = BTreeMap::new();
    let mut durations = Vec::new();
    for event in jsonl::Reader::<Event>::open(path, KIND)? {
        let event = event?;
        match event.event {
            What::Begin => drop(begun.insert(event.stage, event.t)),
            What::End | What::Failed => {
                if let Some(since) = begun.remove(&event.stage) {
                    durations.push((event.stage, Duration::from_nanos(event.t.saturating_sub(since))));
                }
            }
            What::Note => {}
        }
    }
    Ok(durations)
}
