//! The supervisor: a small process above each trial that cleans up after it, however it ends.
//!
//! Three processes share the work. The *test* process starts a supervisor and
//! keeps the other end of a pipe to it. The *supervisor* leads a session of
//! its own and is the reaper of everything below it; it starts the *trial*
//! process, in which the embedded libvirt runs. libvirt daemonizes its QEMUs,
//! so they become children of the supervisor when they are orphaned.
//!
//! - The trial dies: the supervisor kills what it left and removes its files.
//! - The test process dies, even of SIGKILL: the pipe closes, the supervisor
//!   asks the trial to stop (which thaws first) and then does the same.
//! - The supervisor dies: the kernel sends SIGTERM to the trial, which thaws
//!   and destroys its guests. `cargo xtask tidy` removes the files.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use contract::files::FileError;
use contract::grade::Outcome;
use contract::image::Claims;
use contract::plan::{Accel, Keep, Plan};
use contract::text::printable;
use judge::verdict::Verdict;
use procfs::process::Stat;
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions};
use tracing::{error, warn};

use super::last_words;
use super::reserve::{guest_mib, needed_mib, reserve};

/// How long a trial may take to stop when requested: it thaws its guest first.
const GRACE: Duration = Duration::from_secs(60);

/// Why a trial could not be run under a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// Its plan or verdict cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The supervisor does not start.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The supervisor's program.
        program: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The supervisor's end cannot be waited for.
    #[error("cannot wait for the trial's supervisor: {0}")]
    Wait(#[source] io::Error),
}

/// Runs a planned trial under a supervisor and reads its verdict. `program` is
/// the binary whose `supervise DIR` calls [`supervise`].
pub fn run(program: &Path, plan: &Plan) -> Result<Verdict, SuperviseError> {
    plan.write()?;
    let mut supervisor = Command::new(program)
        .arg("supervise")
        .arg(&plan.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| SuperviseError::Start { program: program.to_owned(), source })?;
    // The lifeline: when it closes, for whatever reason, the trial ends. `wait` would close it too
    // early if the child still owned it.
    let lifeline = supervisor.stdin.take();
    let status = supervisor.wait().map_err(SuperviseError::Wait)?;
    drop(lifeline);
    if let Ok(verdict) = Verdict::read(&plan.dir) {
        return Ok(verdict);
    }
    let said = supervisor.stdout.as_mut().and_then(last_words::heard);
    let said = said.unwrap_or_else(|| format!("nobody said why (its supervisor: {status})"));
    let verdict = Verdict::unknown(plan, format!("the trial ended without a verdict: {said}"));
    // By now its disks are gone, so there may be room again. The verdict counts all the same.
    if let Err(error) = verdict.write(&plan.dir) {
        warn!("{}: {error}", plan.trial);
    }
    Ok(verdict)
}

/// What a supervisor looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The trial of a `plan.json`.
    Trial,
    /// The inspection of a disk by its `claims.json`.
    Inspection,
}

impl Task {
    /// The child's role on its command line.
    fn role(self) -> &'static str {
        match self {
            Self::Trial => "run",
            Self::Inspection => "inspect",
        }
    }

    /// Its name, and the memory of its guests, MiB.
    fn needs(self, dir: &Path) -> io::Result<(String, u64)> {
        match self {
            Self::Trial => {
                let plan = Plan::read(dir).map_err(io::Error::other)?;
                let needed = needed_mib(&plan);
                Ok((plan.trial, needed))
            }
            Task::Inspection => {
                let image = Claims::read(dir).map_err(io::Error::other)?.image;
                // Which accelerator works is not known yet.
                Ok((image.name, guest_mib(Accel::Tcg, image.memory_mib)))
            }
        }
    }
}

/// The supervisor process: runs `program ROLE DIR ROOT` and cleans up after it.
pub fn supervise(program: &Path, task: Task, dir: &Path) -> ExitCode {
    match supervised(program, task, dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let problem = format!("cannot supervise what runs in {}: {e}", dir.display());
            error!("{problem}");
            last_words::say(&problem);
            ExitCode::from(3)
        }
    }
}

fn supervised(program: &Path, task: Task, dir: &Path) -> io::Result<()> {
    // In a process group of its own: whatever kills the test's group must not kill this process.
    process::setsid()?;
    process::set_child_subreaper(Some(process::getpid()))?;
    let (name, memory_mib) = task.needs(dir)?;
    let Some(root) = reserve(&name, memory_mib, dir)? else { return Ok(()) };

    // Its path must not have a space for libvirt, and the trial's directory may.
    let log = root.path().join("libvirt.log");
    symlink(dir.join("libvirt.log"), &log)?;
    let trial = Command::new(program)
        .arg(task.role())
        .arg(dir)
        .arg(root.path())
        // Otherwise libvirt's own log would go to the terminal.
        .env("LIBVIRT_LOG_OUTPUTS", format!("2:file:{}", log.display()))
        .stdin(Stdio::null())
        .spawn()?;
    let trial = Pid::from_child(&trial);
    let ended = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&ended);
    thread::spawn(move || {
        // Nothing is ever written to the lifeline; this returns when it closes.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, Duration::ZERO)] {
            if !watched.load(Ordering::SeqCst) {
                let _ = process::kill_process(trial, signal);
                thread::sleep(patience);
            }
        }
    });

    // libvirt waits until its own orphans are reaped, so reap every child.
    while let Some((pid, ended)) = wait_for_any()? {
        if pid == trial {
            if let Some(signal) = ended.terminating_signal() {
                last_words::say(&format!("signal {signal} ended its process"));
            }
            break;
        }
    }
    ended.store(true, Ordering::SeqCst);
    kill_children()?;
    remove_disks(dir);
    root.close()
}

/// The next child that ended; `None` when there is none left.
fn wait_for_any() -> io::Result<Option<(Pid, process::WaitStatus)>> {
    loop {
        match process::wait(WaitOptions::empty()) {
            Ok(ended) => return Ok(ended),
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Kills and reaps every child, and then the children that it leaves behind.
fn kill_children() -> io::Result<()> {
    loop {
        for Stat { pid, comm, .. } in living_children()? {
            warn!("the trial left a process behind; killed {} (pid {pid})", printable(&comm));
            let _ = Pid::from_raw(pid).map(|pid| process::kill_process(pid, Signal::KILL));
        }
        if wait_for_any()?.is_none() {
            return Ok(());
        }
    }
}

/// The children of this process that still run.
fn living_children() -> io::Result<Vec<Stat>> {
    let own = process::getpid().as_raw_nonzero().get();
    let all = procfs::process::all_processes().map_err(io::Error::other)?;
    // A process may end while it is read.
    let stats = all.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.filter(|stat| stat.ppid == own && stat.state != 'Z').collect())
}

fn remove_disks(dir: &Path) {
    let keep = Plan::read(dir).map(|plan| plan.keep).unwrap_or_default();
    let failed = Verdict::read(dir).map_or(true, |verdict| verdict.outcome != Outcome::Pass);
    if keep == Keep::All || (keep == Keep::Failed && failed) {
        return;
    }
    let disks = dir.join("disks");
    if disks.exists()
        && let Err(e) = fs::remove_dir_all(&disks)
    {
        warn!("cannot remove {}: {e}", disks.display());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use contract::image::Manifest;
    use contract::run::RunOptions;

    use super::*;

    /// A plan whose files go to a new directory.
    fn plan(root: &Path) -> Plan {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a checkout");
        let options = RunOptions { dir: root.join("run"), ..RunOptions::of(repository, PathBuf::new()) };
        let request = options.trials().expect("scenarios").swap_remove(0);
        let manifest = r#"{"schema": 3, "name": "one", "digest": "00", "distro": "d", "release": "r", "dir": ".",
            "boot": "firmware", "disks": [], "memory_mib": 512,
            "agent": {"unit": "u", "hook": "/h", "enabled_by": "/e"},
            "server": {"database": "mariadb", "unit": "s", "datadir": "/d", "port": 1, "user": "u",
                       "password_file": "p"}, "versions": {}}"#;
        let manifest: Manifest = serde_json::from_str(manifest).expect("a manifest");
        options.plan(&request, manifest, Accel::Tcg)
    }

    /// The verdict on a trial whose supervisor is this script of the shell.
    fn verdict_after(root: &Path, plan: &Plan, script: &str) -> Verdict {
        let program = root.join("trial");
        // Written by another process: a descriptor of ours that another thread's fork inherits would make
        // the program "busy".
        let text = format!("#!/bin/sh\n{script}\n");
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&program).stdin(Stdio::piped());
        let mut install = install.spawn().expect("install runs");
        let mut input = install.stdin.take().expect("its input");
        io::Write::write_all(&mut input, text.as_bytes()).expect("a script");
        drop(input);
        assert!(install.wait().expect("install ends").success());
        assert!(program.metadata().expect("a script").permissions().mode() & 0o100 != 0);
        run(&program, plan).expect("a verdict")
    }

    #[test]
    fn a_trial_that_could_not_write_its_verdict_says_why() {
        let root = tempfile::tempdir().expect("a directory");
        let plan = plan(root.path());
        let why = "cannot write /runs/verdict.json: No space left on device (os error 28)";
        let verdict = verdict_after(root.path(), &plan, &format!("echo '{why}'"));
        assert_eq!(verdict.reason, format!("unknown: the trial ended without a verdict: {why}"));
        assert_eq!(verdict, Verdict::read(&plan.dir).expect("it is written once there is room"));
    }

    #[test]
    fn a_verdict_counts_although_it_cannot_be_written() {
        let root = tempfile::tempdir().expect("a directory");
        let plan = plan(root.path());
        let verdict = verdict_after(root.path(), &plan, r#"rm -r "$2"; echo gone; : >"$2""#);
        assert!(verdict.reason.ends_with("without a verdict: gone"), "{}", verdict.reason);
        assert_eq!(verdict.outcome, Outcome::Unknown);
    }

    #[test]
    fn one_that_is_killed_is_not_said_to_have_ended_well() {
        let root = tempfile::tempdir().expect("a directory");
        let plan = plan(root.path());
        let verdict = verdict_after(root.path(), &plan, "kill -9 $$");
        assert!(verdict.reason.contains("nobody said why (its supervisor: signal: 9"), "{}", verdict.reason);
    }
}
