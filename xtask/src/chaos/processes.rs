//! The processes of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;
use tooling::error::Failure;

use crate::e2e::processes::descendants;

/// The pause between two looks at what runs.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What a process of a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `cargo xtask e2e` itself.
    Run,
    /// The test binary.
    Tests,
    /// The parent of the trial's PID namespace.
    Namespace,
    /// The supervisor.
    Supervisor,
    /// The trial.
    Trial,
    /// A guest's QEMU.
    Guest,
    /// The libvirt daemon of a trial with a backup tool.
    Daemon,
    /// A short-lived tool.
    Tool,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Run => "the run",
            Self::Tests => "its test binary",
            Self::Namespace => "the namespace",
            Self::Supervisor => "the supervisor",
            Self::Trial => "the trial",
            Self::Guest => "a guest",
            Self::Daemon => "the libvirt daemon",
            Self::Tool => "a tool",
        })
    }
}

/// A process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) role: Role,
    /// When it started, as the kernel counts it, which tells it from a later one of the same number.
    started: u64,
}

impl Process {
    /// Whether it still runs. One that nobody has waited for yet does not.
    pub(super) fn is_alive(&self) -> bool {
        let process = procfs::process::Process::new(self.pid.as_raw_nonzero().get());
        let stat = process.and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.starttime == self.started && stat.state != 'Z')
    }
}

/// The living processes of the run `root`, which descend from it or name its directory.
pub(super) fn of_run(root: Pid, dir: &Path) -> Result<Vec<Process>, Failure> {
    let all = procfs::process::all_processes()
        .map_err(|e| Failure::Infrastructure(format!("cannot list the processes in /proc: {e}.")))?;
    let (mut parents, mut lines) = (BTreeMap::new(), BTreeMap::new());
    // One that has just ended cannot be read.
    for process in all.flatten() {
        let (Ok(stat), Ok(line)) = (process.stat(), process.cmdline()) else { continue };
        if stat.state != 'Z' {
            parents.insert(stat.pid, stat.ppid);
            lines.insert(stat.pid, (line, stat.starttime));
        }
    }
    let root = root.as_raw_nonzero().get();
    let below = descendants(root, &parents);
    let needle = dir.to_string_lossy();
    let ours = lines.into_iter().filter_map(|(pid, (line, started))| {
        let named = || line.iter().any(|word| word.contains(&*needle));
        let role = if pid == root { Role::Run } else { role(&line) };
        let ours = pid == root || below.contains(&pid) || named() && role != Role::Tool;
        ours.then(|| Some(Process { pid: Pid::from_raw(pid)?, role, started })).flatten()
    });
    Ok(ours.collect())
}

fn role(line: &[String]) -> Role {
    let program = line.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let does = |word: &str| line.get(1).is_some_and(|first| first == word);
    match &*program {
        "unshare" => Role::Namespace,
        "trial" if does("supervise") => Role::Supervisor,
        "trial" => Role::Trial,
        name if name.starts_with("qemu-system") => Role::Guest,
        name if name.starts_with("e2e-") => Role::Tests,
        "libvirtd" | "virtqemud" => Role::Daemon,
        _ => Role::Tool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_what_they_run() {
        let role = |line: &str| role(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(role("unshare --pid /b/trial supervise /r/t"), Role::Namespace);
        assert_eq!(role("/b/trial supervise --isolated /r/t"), Role::Supervisor);
        assert_eq!(role("/b/trial run /r/t /tmp/x"), Role::Trial);
        assert_eq!(role("/usr/bin/qemu-system-x86_64 -name x"), Role::Guest);
        assert_eq!(role("/b/deps/e2e-0123 --test-threads 1"), Role::Tests);
        assert_eq!(role("/usr/sbin/libvirtd --config /tmp/x/d/etc/libvirt/libvirtd.conf"), Role::Daemon);
        assert_eq!(role("e2fsck -p"), Role::Tool);
    }

    #[test]
    fn a_process_is_known_again_by_its_start() {
        let own = procfs::process::Process::myself().unwrap().stat().unwrap();
        let process = |started| Process { pid: Pid::from_raw(own.pid).unwrap(), role: Role::Run, started };
        assert!(process(own.starttime).is_alive());
        assert!(!process(own.starttime + 1).is_alive());
    }
}
