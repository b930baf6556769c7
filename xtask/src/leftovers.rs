//! What trials may leave behind when they are killed: processes, directories,
//! disks. A supervisor above each trial normally sees to it; this finds what
//! even it could not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use contract::plan::{Keep, Plan};
use contract::runtime_dir::{self, Found, Home};
use contract::verification::Request;
use rustix::process::{Pid, Signal};
use tooling::error::Failure;
use tooling::host;

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
                // Another run may have begun at the same time, and found it as well.
                match fs::remove_dir_all(dir) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", dir, e)),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// What the dead trials of one run left, or of all runs under `runs`.
pub(crate) fn find(runs: &Path) -> Result<Vec<Leftover>, Failure> {
    find_in(&home()?, runs)
}

/// What all runs under each of these left, and what no trial owns any more: of a checkout that has been removed, or
/// of an inspection, which lies elsewhere.
pub(crate) fn all(runs: &[&Path]) -> Result<Vec<Leftover>, Failure> {
    let home = home()?;
    let mut left = Vec::new();
    for runs in runs {
        left.extend(find_in(&home, runs)?);
    }
    left.extend(strays_in(&home)?);
    // A runtime directory without an owner is found each time.
    let mut all: Vec<Leftover> = Vec::new();
    for leftover in left {
        if !all.contains(&leftover) {
            all.push(leftover);
        }
    }
    Ok(all)
}

fn strays_in(home: &Home) -> Result<Vec<Leftover>, Failure> {
    let found = home.list().map_err(|e| Failure::io("list", home.path(), e))?;
    let alive = live_dirs(&found);
    let mut left = Vec::new();
    for Found { dir, owner, .. } in found.into_iter().filter(|found| !found.alive) {
        if let Some(owner) = owner.filter(|owner| !owner.trial.exists()) {
            // Only the directory says which trial they were of.
            left.extend(processes_naming(&owner.trial, &alive, is_no_supervisor)?);
            left.push(Leftover::RuntimeDir(dir));
        }
    }
    Ok(left)
}

/// The directories whose supervisors live.
fn live_dirs(found: &[Found]) -> Vec<String> {
    found.iter().filter(|it| it.alive).map(|it| it.dir.to_string_lossy().into_owned()).collect()
}

fn home() -> Result<Home, Failure> {
    Home::of_user().map_err(|e| Failure::Infrastructure(format!("{e}.")))
}

fn find_in(home: &Home, runs: &Path) -> Result<Vec<Leftover>, Failure> {
    let mut left = Vec::new();
    let found = home.list().map_err(|e| Failure::io("list", home.path(), e))?;
    // A guest of another trial may have this one's disks: a verification of what was kept.
    let alive = live_dirs(&found);
    for found in found.into_iter().filter(|found| !found.alive) {
        match found.owner {
            Some(owner) if !owner.trial.starts_with(runs) => {}
            Some(owner) => {
                left.extend(processes_naming(&owner.trial, &alive, is_no_supervisor)?);
                left.push(Leftover::RuntimeDir(found.dir));
            }
            // That of a trial that lives is complete before it can be seen.
            None => left.push(Leftover::RuntimeDir(found.dir)),
        }
    }
    for trial in trials_under(runs)? {
        if runtime_dir::is_supervised(&trial).map_err(|e| Failure::io("inspect", &trial, e))? {
            continue;
        }
        left.extend(processes_naming(&trial, &alive, is_no_supervisor)?);
        let disks = trial.join("disks");
        if disks.exists() && Plan::read(&trial).map_or(true, |plan| plan.keep == Keep::None) {
            left.push(Leftover::Disks(disks));
        }
    }
    left.dedup();
    Ok(left)
}

/// What is left of a run whose processes should all have ended, its supervisors included.
pub(crate) fn of_ended(run: &Path) -> Result<Vec<Leftover>, Failure> {
    let mut left = processes_naming(run, &[], |_| true)?;
    left.extend(find(run)?);
    left.dedup();
    Ok(left)
}

/// A supervisor cleans up after itself. One that just starts holds no lock yet.
fn is_no_supervisor(line: &[String]) -> bool {
    line.get(1).is_none_or(|role| role != "supervise")
}

/// The trial directories of a run, or of every run below. Those of other users are theirs to tidy, unless
/// this one is root.
fn trials_under(runs: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut trials = Vec::new();
    for dir in entries(runs)? {
        let found = fs::symlink_metadata(&dir);
        let own = |uid| host::is_root() || uid == rustix::process::geteuid().as_raw();
        if !found.is_ok_and(|found| found.is_dir() && own(found.uid())) {
            continue;
        }
        if is_trial(&dir) {
            trials.push(dir);
        } else {
            trials.extend(entries(&dir)?.into_iter().filter(|dir| is_trial(dir)));
        }
    }
    Ok(trials)
}

/// Whether this is the directory of a trial or of a verification.
fn is_trial(dir: &Path) -> bool {
    [Plan::FILE, Request::FILE].iter().any(|file| dir.join(file).exists())
}

/// Processes with a trial's directory on their command line: its guests name
/// their disks and consoles there, its own processes name the directory. Not
/// those that also name a runtime directory of those that are `alive`.
fn processes_naming(
    trial: &Path,
    alive: &[String],
    accept: fn(&[String]) -> bool,
) -> Result<Vec<Leftover>, Failure> {
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
        let ours = name.starts_with("qemu-system") || name == "trial" && accept(&line);
        let name_it = |path: &str| line.iter().any(|word| names(word, path));
        if ours && name_it(&needle) && !alive.iter().any(|dir| name_it(dir)) {
            found.push(Leftover::Process { pid, name });
        }
    }
    Ok(found)
}

/// Whether a word contains a path, and not only the beginning of the name of its neighbour.
fn names(word: &str, path: &str) -> bool {
    let mut places = word.match_indices(path).map(|(at, _)| &word[at + path.len()..]);
    places.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || "-_.".contains(c)))
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
    use std::fs::File;

    use contract::runtime_dir::Owner;

    use super::*;

    #[test]
    fn a_neighbour_whose_name_begins_alike_is_another_trial() {
        for word in
            ["/r/a.distro", "file=/r/a.distro/disks/vda", "x=/r/a.distro,y", "/r/a.distro-b /r/a.distro"]
        {
            assert!(names(word, "/r/a.distro"), "{word}");
        }
        for word in ["/r/a.distro-enabled/disks", "/r/a.distro2", "/r/a.distro.b", "/r/a", ""] {
            assert!(!names(word, "/r/a.distro"), "{word}");
        }
    }

    /// The home of a user, and the directory of a trial with disks, of a run of his.
    fn trial() -> (tempfile::TempDir, Home, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().join("home")).unwrap();
        let trial = dir.path().join("runs/run/trial");
        fs::create_dir_all(trial.join("disks")).unwrap();
        fs::write(trial.join("plan.json"), "{}").unwrap();
        (dir, home, trial)
    }

    #[test]
    fn a_supervisor_that_starts_is_no_leftover() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(!is_no_supervisor(&line("/b/trial supervise --isolated /r/t")));
        assert!(is_no_supervisor(&line("/b/trial run /r/t /tmp/x")));
    }

    #[test]
    fn disks_of_a_dead_trial_are_found() {
        let (dir, home, trial) = trial();
        let runs = dir.path().join("runs");
        let left = find_in(&home, &runs).unwrap();
        assert_eq!(left, [Leftover::Disks(trial.join("disks"))]);
        left[0].remove().unwrap();
        assert_eq!(find_in(&home, &runs).unwrap(), []);
    }

    #[test]
    fn a_trial_that_lives_is_not_touched_from_wherever_that_is_asked() {
        let (dir, home, trial) = trial();
        let runs = dir.path().join("runs");
        let held = File::open(trial.join("plan.json")).unwrap();
        held.lock().unwrap();
        // A supervisor with another home, as of another user.
        assert_eq!(find_in(&home, &runs).unwrap(), []);
        let root = home.create(&Owner { memory_mib: 1, trial: trial.clone() }).unwrap();
        assert_eq!(find_in(&home, &runs).unwrap(), []);
        drop(root);

        // Killed: its locks are gone and its files are not.
        drop(held);
        let killed = home.path().join("t-killed");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join("owner"), format!("{{\"memory_mib\": 1, \"trial\": {trial:?}}}")).unwrap();
        let left = find_in(&home, &runs).unwrap();
        assert_eq!(left, [Leftover::RuntimeDir(killed.clone()), Leftover::Disks(trial.join("disks"))]);
        // That of another checkout is its own business.
        assert_eq!(find_in(&home, &dir.path().join("other")).unwrap(), []);
        assert_eq!(strays_in(&home).unwrap(), []);
        fs::remove_dir_all(&trial).unwrap();
        assert_eq!(strays_in(&home).unwrap(), [Leftover::RuntimeDir(killed)]);
    }
}
