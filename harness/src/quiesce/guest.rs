//! What the judge must know of a guest before it is frozen.

use crate::clock;
use crate::error::Result;
use crate::guest::Agent;
use crate::history::{Entry, WINDOWS};
use crate::load::HistoryLog;

/// The file systems of which VSS makes snapshots. A freeze takes all of them on
/// fixed drives, and fails when a fixed drive has another one; what a compact
/// disc holds it leaves out, and `guest-get-fsinfo` does not. See
/// `requester_freeze` in QEMU's `qga/vss-win32/requester.cpp`.
const VSS_KINDS: [&str; 2] = ["NTFS", "ReFS"];

/// Writes down what the agent tells of its guest. An agent that does not tell is
/// none of a backup's faults.
pub(crate) fn tell(agent: &Agent, history: &HistoryLog) -> Result<()> {
    let t = clock::now();
    let Ok(os) = agent.os() else { return Ok(()) };
    let volumes = if os == WINDOWS { agent.file_system_kinds().ok().map(|kinds| owed(&kinds)) } else { None };
    history.write(&Entry::Guest { t, os, volumes })
}

fn owed(kinds: &[String]) -> u32 {
    let held = kinds.iter().filter(|kind| VSS_KINDS.contains(&kind.as_str())).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}
