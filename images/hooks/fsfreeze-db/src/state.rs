//! What is known of the latest freeze when nobody holds it any more.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::servers::ProcessId;

/// How far a freeze has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// All are held.
    Held,
    /// They were held until this thaw.
    Thawed {
        /// Who called it.
        by: String,
    },
    /// They were released because no thaw came in time.
    Expired,
    /// They did not last.
    Lost {
        /// How that showed.
        why: String,
    },
}

/// The latest freeze.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The process that holds, or held, the locks.
    pub(crate) holder: ProcessId,
    /// How far it has come.
    pub(crate) stage: Stage,
    /// Since when: date and time of day in UTC, for people.
    pub(crate) since: String,
    /// The same, seconds since the boot, on a clock that nobody sets.
    pub(crate) uptime_seconds: u64,
    /// What is, or was, locked.
    pub(crate) servers: Vec<Held>,
    /// How long it was held, milliseconds; known at the end. Writers waited for no longer than this and
    /// the server's own `lock_milliseconds` together; those of PostgreSQL not at all.
    #[serde(default)]
    pub(crate) held_milliseconds: Option<u64>,
}

/// A server whose lock is, or was, held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Its data directory, as it sees that itself.
    pub(crate) data_directory: PathBuf,
    /// Its process.
    pub(crate) process: ProcessId,
    /// The version that it says it is.
    pub(crate) version: String,
    /// How it is held: `backup-stage`, `ftwrl`, `backup-mode` or `flush`.
    pub(crate) method: String,
    /// How often the lock was asked for.
    pub(crate) attempts: u32,
    /// From the request for the lock to its proof, milliseconds: writers waited for no longer before the freeze.
    pub(crate) lock_milliseconds: u64,
    /// Where its logs were.
    pub(crate) position: BTreeMap<String, String>,
    /// All of it in a line for people.
    pub(crate) says: String,
}

impl State {
    pub(crate) fn new(holder: ProcessId, stage: Stage, servers: Vec<Held>) -> Self {
        let since = now();
        Self { holder, stage, since, uptime_seconds: uptime_seconds(), servers, held_milliseconds: None }
    }

    /// The same freeze, at its end.
    pub(crate) fn ended(&self, stage: Stage, held: Duration) -> Self {
        let held_milliseconds = u64::try_from(held.as_millis()).ok();
        Self { held_milliseconds, ..Self::new(self.holder, stage, self.servers.clone()) }
    }

    /// How long ago.
    pub(crate) fn age_seconds(&self) -> u64 {
        uptime_seconds().saturating_sub(self.uptime_seconds)
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Held => writeln!(out, "{} held by process {}", self.since, self.holder.pid)?,
            Stage::Thawed { by } => writeln!(out, "{} thawed, {by}; the locks lasted", self.since)?,
            Stage::Expired => writeln!(out, "{} released, because no thaw came", self.since)?,
            Stage::Lost { why } => writeln!(out, "{} the locks did NOT last: {why}", self.since)?,
        }
        if let Some(ms) = self.held_milliseconds {
            writeln!(out, "held for {ms} ms")?;
        }
        for server in &self.servers {
            let (times, ms) = (server.attempts, server.lock_milliseconds);
            writeln!(out, "{}; asked for {times} times, taken in {ms} ms", server.says)?;
        }
        Ok(())
    }
}

/// Date and time of day in UTC, to the second.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn uptime_seconds() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec.cast_unsigned()
}

/// The directory of the state, which is ours alone.
///
/// # Errors
///
/// If it cannot be made, or belongs to somebody else.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    check_directory(directory)
}

/// The same, of one that is there.
///
/// # Errors
///
/// If it is not, or belongs to somebody else.
pub(crate) fn check_directory(directory: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(directory)?;
    if metadata.is_dir()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0
    {
        return Ok(());
    }
    Err(io::Error::other("it is not a directory that only its owner, who must be root, may write to"))
}

/// The socket that the holder listens on.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// The latest freeze, if there was one since the boot.
pub(crate) fn read(directory: &Path) -> Option<State> {
    check_directory(directory).ok()?;
    serde_json::from_slice(&fs::read(file(directory)).ok()?).ok()
}

/// Replaces it.
pub(crate) fn write(directory: &Path, state: &State) -> io::Result<()> {
    let new = directory.join("state.new");
    fs::write(&new, serde_json::to_vec(state)?)?;
    fs::rename(new, file(directory))
}

/// Forgets it.
pub(crate) fn forget(directory: &Path) {
    let _ = fs::remove_file(file(directory));
    let _ = fs::remove_file(socket(directory));
}

fn file(directory: &Path) -> PathBuf {
    directory.join("state")
}
