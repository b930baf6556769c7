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
use contract::runtime_dir::Home;
use contract::text::printable;
use judge::verdict::Verdict;
use procfs::process::Stat;
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions};
use tracing::{error, warn};

use super::reserve::{guest_mib, hold, needed_mib, reserve};

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
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| SuperviseError::Start { program: program.to_owned(), source })?;
    // The lifeline: when it closes, for whatever reason, the trial ends. `wait` would close it too
    // early if the child still owned it.
    let lifeline = supervisor.stdin.take();
    let status = supervisor.wait().map_err(SuperviseError::Wait)?;
    drop(lifeline);
    Verdict::read(&plan.dir).or_else(|_| {
        let reason = format!("the trial's process ended without a verdict ({status})");
        let verdict = Verdict::unknown(plan, reason);
        verdict.write(&plan.dir)?;
        Ok(verdict)
    })
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

    /// The file that says what to do.
    fn file(self) -> &'static str {
        match self {
            Self::Trial => Plan::FILE,
            Self::Inspection => Claims::FILE,
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
            error!("cannot supervise what runs in {}: {e}", dir.display());
            ExitCode::from(3)
        }
    }
}

fn supervised(program: &Path, task: Task, dir: &Path) -> io::Result<()> {
    // In a process group of its own: whatever kills the test's group must not kill this process.
    process::setsid()?;
    process::set_child_subreaper(Some(process::getpid()))?;
    let (name, memory_mib) = task.needs(dir)?;
    let home = Home::of_user().map_err(io::Error::other)?;
    let Some(_held) = hold(&name, &dir.join(task.file()), io::stdin())? else { return Ok(()) };
    let Some(root) = reserve(&name, memory_mib, dir, &home, io::stdin())? else { return Ok(()) };

    // Its path must not have a space for libvirt, and the trial's directory may.
    let log = root.path().join("libvirt.log");
    symlink(dir.join("libvirt.log"), &log)?;
    let trial = Command::new(program)
        .arg(task.role())
        .arg(dir)
        .arg(root.path())
        // Otherwise libvirt's own log would go to the terminal.
        .env("LIBVIRT_LOG_OUTPUTS", format!("2:file:{}", log.display()))
        // The language of everything that a trial reads of the host's programs.
        .env("LC_ALL", "C")
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
    while let Some((pid, _)) = wait_for_any()? {
        if pid == trial {
            break;
        }
    }
    ended.store(true, Ordering::SeqCst);
    kill_children()?;
    remove_disks(dir);
    drop(root);
    Ok(())
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
