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
#[allow(
    missing_docs,
    reason = "the names are the pipeline's; `Boot` ends with the first answer of the first guest's server, `Install` \
              gives that guest the hook and what else a trial needs, `Hold` keeps it frozen after the snapshot, \
              `Resume` is the load after the thaw, `Stop` ends the load and the first guest"
)]
pub enum Stage {
    Prepare,
    Boot,
    /// Earlier trials called it `equip`.
    #[serde(alias = "equip")]
    Install,
    Load,
    Freeze,
    Snapshot,
    Hold,
    Thaw,
    Resume,
    Stop,
    Restore,
    Observe,
    Judge,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Prepare => "prepare",
            Self::Boot => "boot",
            Self::Install => "install",
            Self::Load => "load",
            Self::Freeze => "freeze",
            Self::Snapshot => "snapshot",
            Self::Hold => "hold",
            Self::Thaw => "thaw",
            Self::Resume => "resume",
            Self::Stop => "stop",
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
    pub event: EventKind,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl jsonl::LogRecord for Event {}

/// What happens to a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It began.
    Begin,
    /// It ended well.
    End,
    /// It failed; the detail says why.
    Failed,
    /// Something worth knowing.
    Note,
}

/// The note of a guest that did not boot.
pub const FROM_MEMORY: &str = "started from saved memory";

/// How the note begins of a guest that had to boot although it should have
/// started from saved memory.
pub const BOOTED_INSTEAD: &str = "booted, because no saved memory could be used";

/// Reads what a trial noted down on its way.
pub fn notes(path: &Path) -> Result<Vec<String>, jsonl::Error> {
    let mut notes = Vec::new();
    for event in jsonl::Reader::<Event>::open(path, KIND)? {
        let event = event?;
        if event.event == EventKind::Note {
            notes.push(event.detail);
        }
    }
    Ok(notes)
}

/// Where a trial's time went.
#[derive(Debug, Default)]
pub struct StageTimes {
    /// How long each stage took; one that ran once a cycle, in all.
    pub stages: BTreeMap<Stage, Duration>,
    /// From the first event to the last.
    pub wall: Duration,
}

/// Reads the times of a trial from its event log.
pub fn stage_times(path: &Path) -> Result<StageTimes, jsonl::Error> {
    let mut begun: BTreeMap<Stage, Nanos> = BTreeMap::new();
    let mut times = StageTimes::default();
    let mut first = None;
    for event in jsonl::Reader::<Event>::open(path, KIND)? {
        let Event { t, stage, event, .. } = event?;
        times.wall = Duration::from_nanos(t.saturating_sub(*first.get_or_insert(t)));
        match event {
            EventKind::Begin => drop(begun.insert(stage, t)),
            EventKind::End | EventKind::Failed => {
                if let Some(since) = begun.remove(&stage) {
                    *times.stages.entry(stage).or_default() += Duration::from_nanos(t.saturating_sub(since));
                }
            }
            EventKind::Note => {}
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_also_known_by_its_former_name() {
        for name in ["install", "equip"] {
            let line = format!(r#"{{"t":1,"stage":"{name}","event":"begin"}}"#);
            let event: Event = serde_json::from_str(&line).unwrap();
            assert_eq!(event.stage, Stage::Install, "{name}");
        }
    }
}
