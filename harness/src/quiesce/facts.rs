//! What the judge must know of a guest before it is frozen.

use contract::history::{Entry, Nanos, WINDOWS};

use crate::clock;
use crate::directories::{Directories, Mounts};
use crate::error::Result;
use crate::guest::Agent;
use crate::history_log::HistoryLog;

/// The file systems of which VSS makes snapshots. A freeze takes all of them on fixed drives, and
/// fails when a fixed drive has another one. It leaves out optical discs, which `guest-get-fsinfo`
/// lists. See `requester_freeze` in QEMU's `qga/vss-win32/requester.cpp`.
const VSS_KINDS: [&str; 2] = ["NTFS", "ReFS"];

/// What a guest reports about itself.
#[derive(Debug)]
pub(crate) struct GuestFacts {
    t: Nanos,
    /// The operating system; `None` when the agent does not report it, which is not held against a
    /// backup.
    os: Option<String>,
    volumes: Option<u32>,
    /// Where its server keeps its files.
    pub(crate) directories: Directories,
    /// What its agent opens at a freeze.
    pub(crate) opened: Vec<String>,
}

/// Queries the agent about its guest, and by `find_directories` a guest that has a shell. Best done
/// before the load, which slows every answer.
pub(crate) fn inspect(
    agent: &Agent,
    find_directories: impl FnOnce() -> Result<(Directories, Mounts)>,
) -> Result<GuestFacts> {
    let t = clock::now();
    let os = agent.os().ok();
    if os.as_deref() == Some(WINDOWS) {
        let volumes = agent.file_system_kinds().ok().map(|kinds| owed(&kinds));
        return Ok(GuestFacts { t, os, volumes, directories: Directories::default(), opened: Vec::new() });
    }
    let (directories, Mounts { volumes, opened }) = find_directories()?;
    Ok(GuestFacts { t, os, volumes: Some(volumes), directories, opened })
}

impl GuestFacts {
    /// Records the facts.
    pub(crate) fn write(&self, history: &HistoryLog) -> Result<()> {
        let Self { t, volumes, .. } = *self;
        if let Some(os) = self.os.clone() {
            history.write(&Entry::Guest { t, os, volumes })?;
        }
        self.directories.entries(t).try_for_each(|entry| history.write(&entry))
    }
}

fn owed(kinds: &[String]) -> u32 {
    let held = kinds.iter().filter(|kind| VSS_KINDS.contains(&kind.as_str())).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}
