//! What trials may leave behind when they are killed: processes, directories,
//! disks. A supervisor above each trial normally sees to it; this finds what
//! even it could not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use contract::plan::{Keep, Plan};
use contract::runtime_dir;
use rustix::process::{Pid, Signal};
use tooling::error::Failure;

/// Something that a dead trial left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A guest or a trial's process.
    Process { pid: Pid, name: String },
    /// libvirt's short-lived directory.
    RuntimeDir(PathBuf),
    /// A trial's overlays.
    Disks(PathBuf),
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "process {name} (pid {pid})"),
            Self::RuntimeDir(dir) => write!(f, "directory {}", dir.display()),
            Self::Disks(dir) => write!(f, "disks in {}", dir.display()),
        }
    }
}

impl Leftover {
    /// Ends or removes it.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        match self {
            // It may have ended by itself, which is just as well.
            Self::Process { pid, .. } => match rustix::process::kill_process(*pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(e) => Err(Failure::Infrastructure(format!("cannot kill {self}: {e}."))),
            },
            Self::RuntimeDir(dir) | Self::Disks(dir) => {
                fs::remove_dir_all(dir).map_err(|e| Failure::io("remove", dir, e))
            }
        }
    }
}

/// What the dead trials of one run left, or of all runs under `runs`.
pub(crate) fn find(runs: &Path) -> Result<Vec<Leftover>, Failure> {
    let mut left = Vec::new();
    let temp = std::env::temp_dir();
    let runtime_dirs = runtime_dir::list().map_err(|e| Failure::io("list", &temp, e))?;
    let owners = runtime_dirs.iter().filter_map(|found| found.owner.as_ref());
    let alive: Vec<_> = owners.filter(|owner| owner.supervises()).map(|owner| owner.trial.clone()).collect();
    for found in runtime_dirs {
        match &found.owner {
            Some(owner) if !owner.trial.starts_with(runs) || alive.contains(&owner.trial) => {}
            Some(owner) => {
                left.extend(processes_naming(&owner.trial)?);
                left.push(Leftover::RuntimeDir(found.dir));
            }
            // A supervisor writes its name in its first milliseconds.
            None if older_than(&found.dir, Duration::from_secs(60)) => {
                left.push(Leftover::RuntimeDir(found.dir));
            }
            None => {}
        }
    }
    for trial in trials_under(runs)? {
        if alive.contains(&trial) {
            continue;
        }
        left.extend(processes_naming(&trial)?);
        let disks = trial.join("disks");
        if disks.exists() && Plan::read(&trial).map_or(true, |plan| plan.keep == Keep::None) {
            left.push(Leftover::Disks(disks));
        }
    }
    left.dedup();
    Ok(left)
}

/// The trial directories of a run, or of every run below.
fn trials_under(runs: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut trials = Vec::new();
    for dir in entries(runs)? {
        if dir.is_symlink() || !dir.is_dir() {
            continue;
        }
        if dir.join("plan.json").exists() {
            trials.push(dir);
        } else {
            trials.extend(entries(&dir)?.into_iter().filter(|trial| trial.join("plan.json").exists()));
        }
    }
    Ok(trials)
}

/// Processes with a trial's directory on their command line: its guests name
/// their disks and consoles there, its own processes name the directory.
fn processes_naming(trial: &Path) -> Result<Vec<Leftover>, Failure> {
    let needle = trial.to_string_lossy();
    let processes = procfs::process::all_processes()
        .map_err(|e| Failure::Infrastructure(format!("cannot list the processes in /proc: {e}.")))?;
    // One that has just ended cannot be read, and is no leftover.
    let lines = processes.filter_map(|process| {
        let process = process.ok()?;
        Some((Pid::from_raw(process.pid)?, process.cmdline().ok()?))
    });
    let mut found = Vec::new();
    for (pid, line) in lines {
        let program = line.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let name = program.to_string_lossy().into_owned();
        // An editor or a shell may name the directory as well.
        let ours = name.starts_with("qemu-system") || name == "trial";
        if ours && line.iter().any(|word| word.contains(&*needle)) {
            found.push(Leftover::Process { pid, name });
        }
    }
    Ok(found)
}

fn older_than(dir: &Path, age: Duration) -> bool {
    let changed = fs::metadata(dir).and_then(|metadata| metadata.modified()).ok();
    changed.and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|time| time > age)
}

/// The paths in a directory; none when it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(Failure::io("list", dir, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_a_dead_trial_are_found() {
        let runs = tempfile::tempdir().unwrap();
        let trial = runs.path().join("run/trial");
        fs::create_dir_all(trial.join("disks")).unwrap();
        fs::write(trial.join("plan.json"), "{}").unwrap();
        let left = find(runs.path()).unwrap();
        assert_eq!(left, [Leftover::Disks(trial.join("disks"))]);
        left[0].remove().unwrap();
        assert_eq!(find(runs.path()).unwrap(), []);
    }
}
