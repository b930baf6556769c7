//! The short-lived directories of running trials, in the system's temporary
//! directory: libvirt's state, and a file that names the owner.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use procfs::process::Process;

/// The prefix of their names.
pub const PREFIX: &str = "freezeframe-";

/// The file that names a directory's owner: pid of the supervisor, memory in MiB and
/// the trial's directory, a line each.
const OWNER: &str = "owner";

/// A trial's short-lived directory.
#[derive(Debug)]
pub struct RuntimeDir {
    /// The directory.
    pub dir: PathBuf,
    /// Its owner; the supervisor writes the file in its first milliseconds.
    pub owner: Option<Owner>,
}

/// A supervisor and its trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The supervisor's process.
    pub pid: u32,
    /// How much memory the trial's guests may take at once, MiB.
    pub memory_mib: u64,
    /// The trial's directory.
    pub trial: PathBuf,
}

impl Owner {
    /// Writes the owner of `dir` into it.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(OWNER), format!("{}\n{}\n{}\n", self.pid, self.memory_mib, self.trial.display()))
    }

    fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(OWNER)).ok()?;
        let mut lines = text.splitn(3, '\n');
        let (pid, memory_mib) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
        Some(Self { pid, memory_mib, trial: lines.next()?.trim_end().into() })
    }

    /// Whether the process is still the supervisor of that trial; pids are reused.
    pub fn supervises(&self) -> bool {
        let command = i32::try_from(self.pid).ok().and_then(|pid| Process::new(pid).ok()?.cmdline().ok());
        command.is_some_and(|arguments| {
            let has = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
            has("supervise") && has(&self.trial.to_string_lossy())
        })
    }
}

/// The directories of all trials, running or dead.
pub fn list() -> io::Result<Vec<RuntimeDir>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(std::env::temp_dir())? {
        let dir = entry?.path();
        let named = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if named && dir.is_dir() {
            let owner = Owner::read(&dir);
            // A file that cannot be read belongs to another version of this program: leave it alone.
            if owner.is_some() || !dir.join(OWNER).exists() {
                dirs.push(RuntimeDir { dir, owner });
            }
        }
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Owner::read(dir.path()), None);
        let owner = Owner { pid: std::process::id(), memory_mib: 896, trial: "/runs/one two".into() };
        owner.write(dir.path()).unwrap();
        assert_eq!(Owner::read(dir.path()), Some(owner.clone()));
        assert!(!owner.supervises());
    }
}
