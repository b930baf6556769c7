//! What the judge must know of a guest before it is frozen.

use crate::clock;
use crate::error::Result;
use crate::guest::Agent;
use crate::history::{Entry, WINDOWS};
use crate::load::HistoryLog;
use crate::places::{Places, Told};

/// The file systems of which VSS makes snapshots. A freeze takes all of them on
/// fixed drives, and fails when a fixed drive has another one; what a compact
/// disc holds it leaves out, and `guest-get-fsinfo` does not. See
/// `requester_freeze` in QEMU's `qga/vss-win32/requester.cpp`.
const VSS_KINDS: [&str; 2] = ["NTFS", "ReFS"];

/// Writes down what the agent tells of its guest, and where its server keeps its files; `ask` asks
/// a guest that has a shell. An agent that does not tell its system is none of a backup's faults.
pub(crate) fn tell(
    agent: &Agent,
    history: &HistoryLog,
    ask: impl FnOnce() -> Result<Told>,
) -> Result<Places> {
    let t = clock::now();
    let os = agent.os();
    if os.as_ref().is_ok_and(|os| os == WINDOWS) {
        let volumes = agent.file_system_kinds().ok().map(|kinds| owed(&kinds));
        history.write(&Entry::Guest { t, os: WINDOWS.to_owned(), volumes })?;
        return Ok(Places::default());
    }
    let Told { places, volumes } = ask()?;
    if let Ok(os) = os {
        history.write(&Entry::Guest { t, os, volumes: Some(volumes) })?;
    }
    places.entries().try_for_each(|entry| history.write(&entry))?;
    Ok(places)
}

fn owed(kinds: &[String]) -> u32 {
    let held = kinds.iter().filter(|kind| VSS_KINDS.contains(&kind.as_str())).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}
