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
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use contract::events;
use contract::files::FileError;
use contract::grade::Outcome;
use contract::image::Claims;
use contract::plan::{Accel, Keep, Plan};
use contract::runtime_dir::Home;
use contract::text::printable;
use contract::verification::Request;
use judge::verdict::Verdict;
use procfs::process::Stat;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitOptions, pidfd_open};
use tracing::{debug, error, warn};

use super::isolate;
use super::last_words;
use super::reserve::{guest_mib, hold, lifeline_closed, needed_mib, reserve};
use crate::verify;

/// How long a trial may take to stop when requested: it thaws its guest first.
const GRACE: Duration = Duration::from_secs(60);

/// The pause between two looks whether a supervisor hangs.
const LOOK: Duration = Duration::from_secs(5);

/// How long those that a trial leaves behind may take to end: the sandbox of a program ends just after it.
const ENDING: Duration = Duration::from_secs(1);

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
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| SuperviseError::Start { program: program.to_owned(), source })?;
    // The lifeline: when it closes, for whatever reason, the trial ends. `wait` would close it too
    // early if the child still owned it.
    let lifeline = supervisor.stdin.take();
    let mut words = supervisor.stdout.take();
    let status = wait_in_time(supervisor, plan).map_err(SuperviseError::Wait)?;
    drop(lifeline);
    if let Ok(verdict) = Verdict::read(&plan.dir) {
        return Ok(verdict);
    }
    let said = words.as_mut().and_then(last_words::heard);
    let said = said.unwrap_or_else(|| format!("nobody said why (its supervisor: {status})"));
    let verdict = Verdict::unknown(plan, format!("the trial ended without a verdict: {said}"));
    // By now its disks are gone, so there may be room again. The verdict counts all the same.
    if let Err(error) = verdict.write(&plan.dir) {
        warn!("{}: {error}", plan.trial);
    }
    Ok(verdict)
}

/// Waits for the end of a supervisor, and kills it with its trial when it hangs itself. How long it waits
/// for room is its own affair: the time counts from the trial's first event.
fn wait_in_time(mut supervisor: Child, plan: &Plan) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(&supervisor);
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(supervisor.wait()));
    // It stops the trial after the limit and one grace, and kills it after one more.
    let limit = plan.limits.trial + 3 * GRACE;
    let events = plan.dir.join(events::FILE);
    let mut begun = None;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(status) => return status,
            // The thread sends before it ends.
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(RecvTimeoutError::Timeout) if begun.is_none() => {
                begun = events.exists().then(Instant::now);
            }
            Err(RecvTimeoutError::Timeout) => {
                if begun.is_some_and(|begun| begun.elapsed() > limit) {
                    let _ = process::kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

/// What a supervisor looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The trial of a `plan.json`.
    Trial,
    /// The inspection of a disk by its `claims.json`.
    Inspection,
    /// The verification of a backup by its `request.json`.
    Verification,
}

impl Task {
    /// The child's role on its command line.
    fn role(self) -> &'static str {
        match self {
            Self::Trial => "run",
            Self::Inspection => "inspect",
            Self::Verification => "verify",
        }
    }

    /// The file that says what to do.
    fn file(self) -> &'static str {
        match self {
            Self::Trial => Plan::FILE,
            Self::Inspection => Claims::FILE,
            Self::Verification => Request::FILE,
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
            Self::Verification => {
                let memory_mib = Request::read(dir).map_err(io::Error::other)?.memory_mib;
                let needed = guest_mib(Accel::Tcg, memory_mib);
                Ok(("the verification".to_owned(), needed, verify::LIMIT))
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
    match supervised(program, task, dir, isolated) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let problem = format!("cannot supervise what runs in {}: {e}", dir.display());
            error!("{problem}");
            last_words::say(&problem);
            ExitCode::from(3)
        }
    }
}

fn supervised(program: &Path, task: Task, dir: &Path, isolated: bool) -> io::Result<()> {
    process::set_child_subreaper(Some(process::getpid()))?;
    let (name, memory_mib, limit) = task.needs(dir)?;
    let home = Home::of_user().map_err(io::Error::other)?;
    let Some(_held) = hold(&name, &dir.join(task.file()), io::stdin())? else { return Ok(()) };
    let Some(root) = reserve(&name, memory_mib, dir, &home, io::stdin())? else { return Ok(()) };

    // Its path must not have a space for libvirt, and the trial's directory may.
    let log = root.path().join("libvirt.log");
    symlink(dir.join("libvirt.log"), &log)?;
    let trial = isolate::with_own_mounts(program, isolated)
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
    let stopper = stop_in_time(trial, limit);
    let mut status = None;
    // libvirt waits until its own orphans are reaped, so reap every child.
    while let Some((pid, ended)) = wait_for_any()? {
        if pid == trial {
            status = Some(ended);
            break;
        }
    }
    let stopped = stopper.end();
    kill_children()?;
    if let Some(why) = ending(stopped, status) {
        last_words::say(&why);
    }
    remove_disks(dir);
    drop(root);
    Ok(())
}

/// Why a trial ended that could not say so itself.
fn ending(stopped: Option<Stop>, status: Option<process::WaitStatus>) -> Option<String> {
    let signal = status.and_then(process::WaitStatus::terminating_signal)?;
    Some(match stopped {
        Some(Stop::Abandoned) => "interrupted".to_owned(),
        Some(Stop::Overdue(after)) => format!(
            "it had not ended after {} s, so its supervisor killed it with all its guests: libvirt or a guest's QEMU hangs",
            after.as_secs()
        ),
        None => format!("signal {signal} ended its process"),
    })
}

/// What supervisor and stopper know of each other.
#[derive(Debug, Default)]
struct StopState {
    /// The trial has ended, and gets no signal any more.
    has_ended: bool,
    /// Why it was told to stop, if it was.
    stop: Option<Stop>,
}

/// Whether a trial was told to stop.
#[derive(Debug, Default)]
struct Stopper(Arc<Mutex<StopState>>);

impl Stopper {
    /// Takes the trial to have ended. Why it was told to stop; `None` when it ended first.
    fn end(&self) -> Option<Stop> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        state.stop
    }
}

/// Stops the trial when the test process ends, or at the time limit.
fn stop_in_time(trial: Pid, limit: Duration) -> Stopper {
    let stopper = Stopper::default();
    let state = Arc::clone(&stopper.0);
    thread::spawn(move || {
        // The trial keeps its limit by itself, unless it hangs.
        let overdue = limit + GRACE;
        // Nothing is ever written to the lifeline; it only closes.
        let stop = match lifeline_closed(io::stdin(), overdue) {
            Ok(false) => Stop::Overdue(overdue),
            Ok(true) | Err(_) => Stop::Abandoned,
        };
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, Duration::ZERO)] {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.has_ended {
                return;
            }
            state.stop = Some(stop);
            let _ = process::kill_process(trial, signal);
            drop(state);
            thread::sleep(patience);
        }
    });
    stopper
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
    let patience = Instant::now() + ENDING;
    loop {
        for Stat { pid, comm, .. } in living_children()? {
            if ends_by_itself(pid, patience) {
                continue;
            }
            warn!("the trial left a process behind; killed {} (pid {pid})", printable(&comm));
            let _ = Pid::from_raw(pid).map(|pid| process::kill_process(pid, Signal::KILL));
        }
        if wait_for_any()?.is_none() {
            return Ok(());
        }
    }
}

/// Whether a process ends by then without being told to.
fn ends_by_itself(pid: i32, by: Instant) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return true };
    let left = Timespec::try_from(by.saturating_duration_since(Instant::now())).unwrap_or_default();
    let ended = |end: OwnedFd| poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left));
    // One that cannot be waited for like this is told.
    pidfd_open(pid, PidfdFlags::empty()).and_then(ended).is_ok_and(|ended| ended > 0)
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

    use super::super::made_up;
    use super::*;

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
        let plan = made_up::plan(root.path());
        let why = "cannot write /runs/verdict.json: No space left on device (os error 28)";
        let verdict = verdict_after(root.path(), &plan, &format!("echo '{why}'"));
        assert_eq!(verdict.reason, format!("unknown: the trial ended without a verdict: {why}"));
        assert_eq!(verdict, Verdict::read(&plan.dir).expect("it is written once there is room"));
    }

    #[test]
    fn a_verdict_counts_although_it_cannot_be_written() {
        let root = tempfile::tempdir().expect("a directory");
        let plan = made_up::plan(root.path());
        let verdict = verdict_after(root.path(), &plan, r#"rm -r "$2"; echo gone; : >"$2""#);
        assert!(verdict.reason.ends_with("without a verdict: gone"), "{}", verdict.reason);
        assert_eq!(verdict.outcome, Outcome::Unknown);
    }

    #[test]
    fn one_that_is_killed_is_not_said_to_have_ended_well() {
        let root = tempfile::tempdir().expect("a directory");
        let plan = made_up::plan(root.path());
        let verdict = verdict_after(root.path(), &plan, "kill -9 $$");
        assert!(verdict.reason.contains("nobody said why (its supervisor: signal: 9"), "{}", verdict.reason);
    }
}
