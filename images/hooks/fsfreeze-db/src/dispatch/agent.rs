//! Whether the guest agent runs this program. Agents run a hook only when told to, and say nothing when they
//! are not. The agent's own program, called with the running agent's arguments, is the best source for which
//! hook that is.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use procfs::process::Process;

use super::run::path;
use crate::ours;

/// Whether it does, and a sentence.
pub(super) fn asked() -> (bool, String) {
    let us = fs::read_link("/proc/self/exe").ok();
    let is_us = |hook: &Path| fs::canonicalize(hook).ok() == us && us.is_some();
    let mut other = None;
    for process in agents() {
        let hook = hook_of(&process);
        if let Some(hook) = hook.as_deref().filter(|hook| is_us(hook)) {
            let says =
                format!("the guest agent, process {}, runs this hook: {}", process.pid, hook.display());
            return (true, says);
        }
        other = Some((process.pid, hook));
    }
    let says = match other {
        None => "NO guest agent runs: start qemu-guest-agent".to_owned(),
        Some((agent, Some(hook))) => {
            format!("the guest agent, process {agent}, runs ANOTHER hook: {}", hook.display())
        }
        Some((agent, None)) => {
            let us = us.unwrap_or_default();
            let us = us.display();
            format!(
                "the guest agent, process {agent}, runs NO hook: give it -F{us}, without a space, or \
                 fsfreeze-hook={us} under [general] in /etc/qemu/qemu-ga.conf, and restart it"
            )
        }
    };
    (false, says)
}

/// Those that root has started on this machine itself. Anybody may call a process so, in a container too, and what
/// it was started with is about to be run.
fn agents() -> impl Iterator<Item = Process> {
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    processes.filter(|process| process.stat().is_ok_and(|stat| stat.comm == "qemu-ga") && is_ours(process))
}

fn is_ours(process: &Process) -> bool {
    let file = |process: &str, what: &str| {
        fs::metadata(format!("/proc/{process}/{what}")).map(|file| (file.dev(), file.ino())).ok()
    };
    let is_shared = |what: &str| {
        let own = file("self", what);
        own.is_some() && own == file(&process.pid.to_string(), what)
    };
    ours::is_ours(process) && is_shared("root") && is_shared("ns/mnt")
}

/// What its program says of its configuration; one that has been replaced since, what the new one says.
fn hook_of(agent: &Process) -> Option<PathBuf> {
    let program = agent.exe().ok()?.into_os_string().into_string().ok()?;
    let program = program.strip_suffix(" (deleted)").unwrap_or(&program);
    // A set-uid program of root's is root's for a moment, whoever has started it and with whichever words.
    ours::only(Path::new(program), 0o6022, "write to").ok()?;
    let words = agent.cmdline().ok()?;
    let dumped = Command::new("timeout")
        .env("PATH", path())
        .args(["5", program])
        .args(words.get(1..)?)
        .arg("--dump-conf")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&dumped.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("fsfreeze-hook=")).map(PathBuf::from)
}
