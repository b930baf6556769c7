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
//! - The trial hangs: at its time limit, and some grace, the supervisor does the same.
//! - The supervisor dies, even of SIGKILL: it is the first process of a PID namespace, so the kernel
//!   kills all others, guests included. Where there is no namespace, the kernel sends SIGTERM to the
//!   trial, which thaws and destroys its guests. The end of the run, or the next one, removes the
//!   files.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
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
use tracing::{debug, error, warn};

use super::isolate;
use super::reserve::{guest_mib, lifeline_closed, needed_mib, reserve};

/// How long a trial may take to stop when requested: it thaws its guest first.
const GRACE: Duration = Duration::from_secs(60);

/// How long the inspection of a disk may take: two boots, on a busy host.
const INSPECTION_LIMIT: Duration = Duration::from_secs(20 * 60);

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
        let reason = format!("the trial's supervisor ended without a verdict ({status})");
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

    /// Its name, the memory of its guests, MiB, and how long it may take.
    fn needs(self, dir: &Path) -> io::Result<(String, u64, Duration)> {
        match self {
            Self::Trial => {
                let plan = Plan::read(dir).map_err(io::Error::other)?;
                let needed = needed_mib(&plan);
                Ok((plan.trial, needed, plan.limits.trial))
            }
            Task::Inspection => {
                let image = Claims::read(dir).map_err(io::Error::other)?.image;
                // Which accelerator works is not known yet.
                Ok((image.name, guest_mib(Accel::Tcg, image.memory_mib), INSPECTION_LIMIT))
            }
        }
    }
}

/// Why a supervisor ends its trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The test process has ended.
    Abandoned,
    /// The trial has not ended by itself after so long.
    Overdue(Duration),
}

/// The supervisor process: runs `program ROLE DIR ROOT` and cleans up after it. Unless it is
/// `isolated` already, it first becomes the first process of a PID namespace, by starting again
/// with these `arguments`.
pub fn supervise<'a>(
    program: &Path,
    task: Task,
    dir: &Path,
    isolated: bool,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> ExitCode {
    // In a session of its own: whatever ends the test's process group must not end this process.
    // Started again it has one already.
    let _ = process::setsid();
    if !isolated {
        let refused = isolate::exec(program, arguments);
        debug!("the trial in {} has no PID namespace: {refused}", dir.display());
    }
    match supervised(program, task, dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("cannot supervise what runs in {}: {e}", dir.display());
            ExitCode::from(3)
        }
    }
}

fn supervised(program: &Path, task: Task, dir: &Path) -> io::Result<()> {
    process::set_child_subreaper(Some(process::getpid()))?;
    let (name, memory_mib, limit) = task.needs(dir)?;
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
    let stopped = stop_in_time(trial, limit);
    let mut status = None;
    // libvirt waits until its own orphans are reaped, so reap every child.
    while let Some((pid, ended)) = wait_for_any()? {
        if pid == trial {
            status = Some(ended);
            break;
        }
    }
    let stopped = stopped.end();
    kill_children()?;
    if task == Task::Trial && Verdict::read(dir).is_err() {
        let plan = Plan::read(dir).map_err(io::Error::other)?;
        Verdict::unknown(&plan, ending(stopped, status)).write(dir).map_err(io::Error::other)?;
    }
    remove_disks(dir);
    root.close()
}

/// How a trial came to its end that left no verdict.
fn ending(stopped: Option<Stop>, status: Option<process::WaitStatus>) -> String {
    let signal = status.and_then(process::WaitStatus::terminating_signal);
    match (stopped, signal) {
        (Some(Stop::Abandoned), _) => "interrupted".to_owned(),
        (Some(Stop::Overdue(after)), _) => format!(
            "the trial had not ended after {} s, so its supervisor ended it with all its guests: libvirt or a guest's \
             QEMU hangs",
            after.as_secs()
        ),
        (None, Some(signal)) => format!("the trial's process was killed by signal {signal}"),
        (None, None) => "the trial's process ended without a verdict".to_owned(),
    }
}

/// Why the trial was told to stop, if it was; `None` when it ended first.
#[derive(Debug, Default)]
struct Stopped(Arc<Mutex<(bool, Option<Stop>)>>);

impl Stopped {
    /// Takes the trial to have ended; it gets no signal from here on.
    fn end(&self) -> Option<Stop> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        state.1
    }
}

/// Stops the trial when the test process ends, or at the time limit.
fn stop_in_time(trial: Pid, limit: Duration) -> Stopped {
    let stopped = Stopped::default();
    let state = Arc::clone(&stopped.0);
    thread::spawn(move || {
        // The trial keeps its limit by itself, unless it hangs.
        let overdue = limit + GRACE;
        // Nothing is ever written to the lifeline; it only closes.
        let stop = match lifeline_closed(overdue) {
            Ok(false) => Stop::Overdue(overdue),
            Ok(true) | Err(_) => Stop::Abandoned,
        };
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, Duration::ZERO)] {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 {
                return;
            }
            state.1 = Some(stop);
            let _ = process::kill_process(trial, signal);
            drop(state);
            thread::sleep(patience);
        }
    });
    stopped
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
