//! Whether a run ended as it should.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use contract::grade::Outcome;
use judge::verdict::Verdict;
use rustix::process::{Pid, Signal, kill_process};
use tooling::error::Failure;

use super::fault::{Kind, Moment};
use super::processes::{PAUSE, Process, Role, of_run};
use crate::leftovers::{self, Leftover};

/// How long what survives a run may clean up after it: a guest is thawed first.
const PATIENCE: Duration = Duration::from_secs(90);

/// The exit code of Ctrl-C.
const INTERRUPTED: i32 = 130;

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    status: ExitStatus,
    verdict: Option<Verdict>,
}

impl Ended {
    pub(super) fn read(status: ExitStatus, trial: &Path) -> Self {
        Self { status, verdict: Verdict::read(trial).ok() }
    }

    /// The grade, or that there is none.
    pub(super) fn grade(&self) -> String {
        self.verdict.as_ref().map_or_else(|| "none".to_owned(), |verdict| verdict.grade.to_string())
    }

    /// The exit code or signal.
    pub(super) fn exit(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit".to_owned(),
        }
    }

    /// What is wrong with grade and exit code. A fault of the host decides nothing about a backup:
    /// a trial comes out as expected, or it is unknown.
    pub(super) fn problems(&self, done: Option<&Moment>) -> Vec<String> {
        let mut problems = Vec::new();
        let outcome = self.verdict.as_ref().map(|verdict| verdict.outcome);
        if let Some(verdict) = self.verdict.as_ref().filter(|verdict| verdict.outcome == Outcome::Fail) {
            problems.push(format!("the trial was graded, and not as expected: {}", verdict.reason));
        }
        let struck = |kinds: &[Kind]| done.is_some_and(|moment| kinds.contains(&moment.kind));
        let run_died = done.is_some_and(|moment| {
            moment.kind == Kind::KillAll
                || moment.victim == Role::Run && matches!(moment.kind, Kind::Kill | Kind::Terminate)
        });
        let right = match self.status.code() {
            // Before it listens, Ctrl-C ends it as any program.
            None => run_died || outcome.is_none() && struck(&[Kind::Interrupt, Kind::InterruptTwice]),
            Some(0) => outcome == Some(Outcome::Pass),
            Some(3) => outcome != Some(Outcome::Pass) || struck(&[Kind::Kill, Kind::Starve, Kind::Terminate]),
            Some(INTERRUPTED) => struck(&[Kind::Interrupt, Kind::InterruptTwice]),
            Some(_) => false,
        };
        if !right {
            problems.push(format!("the run ended with {}, its trial as {}", self.exit(), self.grade()));
        }
        problems
    }
}

/// What a run left behind, as sentences. Whatever outlives it may take its time to clean up; and
/// where nobody could, files may stay until the next run, but no process.
pub(super) fn left(run: Pid, dir: &Path, done: Option<&Moment>) -> Result<Vec<String>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    // Those that have lost their parents, and name nothing of the run, are known from before.
    let known = done.map_or(&[][..], |moment| &moment.running);
    let look = || -> Result<Vec<Process>, Failure> {
        let mut alive = of_run(run, dir)?;
        let lost = known.iter().filter(|process| process.is_alive());
        let lost: Vec<_> = lost.filter(|it| alive.iter().all(|found| found.pid != it.pid)).copied().collect();
        alive.extend(lost);
        Ok(alive)
    };
    let mut alive = look()?;
    while !alive.is_empty() && Instant::now() < deadline {
        thread::sleep(PAUSE);
        alive = look()?;
    }
    let named = |process: &Process| format!("{} still ran after {} s", process.role, PATIENCE.as_secs());
    let mut problems: Vec<_> = alive.iter().map(named).collect();
    for process in &alive {
        let _ = kill_process(process.pid, Signal::KILL);
    }
    let left = leftovers::find(dir)?;
    let fine = only_files_of_the_killed(&left, done);
    for leftover in left {
        leftover.remove()?;
        if !fine {
            problems.push(format!("the run left behind {leftover}"));
        }
    }
    Ok(problems)
}

/// Whether only files are left, and nobody lived to remove them.
fn only_files_of_the_killed(left: &[Leftover], done: Option<&Moment>) -> bool {
    let killed = done.is_some_and(|moment| moment.kind == Kind::KillAll);
    killed && !left.iter().any(|leftover| matches!(leftover, Leftover::Process { .. }))
}
