//! The figures of a trial: times, operations counted, and the power that it had.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::{Stage, StageTimes};
use crate::history::{CommandEnd, Level};
use crate::property::Property;

/// Milliseconds; absent where it did not take place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the stages")]
pub struct Timings {
    pub boot: Option<f64>,
    pub freeze: Option<f64>,
    pub snapshot: Option<f64>,
    pub thaw: Option<f64>,
    /// From freeze returned to thaw called.
    pub window: Option<f64>,
    /// The longest time without an acknowledged write around the window.
    pub write_stall: Option<f64>,
    pub restore: Option<f64>,
    /// From the first stage's begin to the last one's end.
    pub total: Option<f64>,
    /// Each stage by its name; together they are the total, but for what little lies between them.
    #[serde(default)]
    pub stages: BTreeMap<Stage, f64>,
}

impl Timings {
    /// Adds where the trial's time went.
    pub fn add(&mut self, times: &StageTimes) {
        let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
        self.stages = times.stages.iter().map(|(stage, time)| (*stage, millis(time))).collect();
        self.boot = self.stages.get(&Stage::Boot).copied();
        self.restore = self.stages.get(&Stage::Restore).copied();
        self.total = Some(millis(&times.wall));
    }
}

/// Operations counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Transfers that the server acknowledged.
    pub acknowledged: u64,
    /// Transfers whose outcome stayed unknown.
    pub unknown: u64,
    /// Transfers found in the restored database.
    pub restored: u64,
}

/// A backup tool, and what each run of its backup command did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolFigures {
    /// The tool's name.
    pub name: String,
    /// What its version command printed, if it has one.
    pub version: Option<String>,
    /// What it does there, and what goes wrong on purpose: the scenario's summary.
    pub summary: String,
    /// The runs, in order.
    pub backups: Vec<BackupFigures>,
}

/// One run of a backup command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupFigures {
    /// What it was asked for.
    pub level: Level,
    /// How it ended; absent if it did not.
    pub ended: Option<CommandEnd>,
    /// Whether the guest was frozen then; absent if nobody could look.
    pub left_frozen: Option<bool>,
    /// For how many seconds it was, until the harness thawed it, where that is known.
    pub left_frozen_s: Option<f64>,
    /// Milliseconds from the freeze's answer to the thaw's request.
    pub window_ms: Option<f64>,
    /// The longest time without an acknowledged write around it, milliseconds.
    pub write_stall_ms: Option<f64>,
}

/// What a trial had the power to see. A grade claims no more than that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Power {
    /// Writes, transfers or rows, that were sent before the freeze had returned and
    /// had no outcome by then. Without a freeze, the beginning of the snapshot counts.
    pub in_flight: u64,
    /// The transfers among them.
    pub transfers_in_flight: u64,
    /// The same by the way they took: the door to the server and the schema.
    pub in_flight_by: BTreeMap<String, u64>,
    /// Writes acknowledged in the last second before the freeze was called, by the way they took.
    pub acknowledged_last_second: BTreeMap<String, u64>,
    /// From the last transfer acknowledged before the freeze was called to that call, milliseconds.
    pub silence_ms: Option<f64>,
    /// COMMITs that the server kept waiting from before the snapshot until after it.
    pub probes_over_snapshot: u64,
    /// What confirmed that the database stood still; absent when nothing but the hook's word did.
    pub lock: Option<String>,
    /// How far apart two disks may have stopped without a finding, milliseconds; absent for one disk.
    pub resolution_ms: Option<f64>,
    /// The properties that were not examined, and why.
    pub not_examined: BTreeMap<Property, String>,
}
