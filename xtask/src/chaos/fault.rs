//! What goes wrong on the host.

use std::fmt;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use tooling::error::Failure;

use super::processes::{PAUSE, Process, Role, of_run};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SIGKILL of one process.
    Kill,
    /// SIGKILL of all but the guests, which nobody is left to end then.
    KillAll,
    /// SIGTERM of one process.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-C twice.
    InterruptTwice,
    /// SIGSTOP of a guest's QEMU, for ever.
    Hang,
    /// SIGSTOP of one process for some seconds, as on a host that swaps.
    Starve,
}

impl Kind {
    /// Each as often as it stands here.
    const ALL: [Self; 10] = [
        Self::Kill,
        Self::Kill,
        Self::Kill,
        Self::KillAll,
        Self::Terminate,
        Self::Interrupt,
        Self::InterruptTwice,
        Self::Hang,
        Self::Starve,
        Self::Starve,
    ];

    /// Whether such a fault can strike this process. Who stops the run or its test binary stops
    /// a job of the shell.
    fn strikes(self, role: Role) -> bool {
        match self {
            Self::Kill | Self::KillAll => role != Role::Tool,
            Self::Terminate => {
                matches!(role, Role::Run | Role::Tests | Role::Trial | Role::Guest | Role::Daemon)
            }
            Self::Interrupt | Self::InterruptTwice => role == Role::Run,
            Self::Hang => role == Role::Guest,
            Self::Starve => {
                matches!(role, Role::Supervisor | Role::Trial | Role::Guest | Role::Daemon)
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "SIGKILL",
            Self::KillAll => "SIGKILL of all, with",
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "Ctrl-C",
            Self::InterruptTwice => "Ctrl-C twice",
            Self::Hang => "SIGSTOP",
            Self::Starve => "SIGSTOP for a while",
        })
    }
}

/// A fault, and when it comes.
#[derive(Debug)]
pub(super) struct Fault {
    kind: Kind,
    after: Duration,
}

/// A fault that struck.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) kind: Kind,
    pub(super) victim: Role,
    stage: String,
    /// What ran then.
    pub(super) running: Vec<Process>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.kind, self.victim, self.stage)
    }
}

impl Fault {
    /// One at a moment of a trial that usually lasts so long.
    pub(super) fn choose(random: &mut ChaCha8Rng, usually: Duration) -> Self {
        let kind = Kind::ALL.choose(random).copied().unwrap_or(Kind::Kill);
        Self { kind, after: usually.mul_f64(random.random_range(0.0..1.0)) }
    }

    /// Waits for the moment, and for a process that it can strike; `None` when the run ends first.
    pub(super) fn strike(
        &self,
        random: &mut ChaCha8Rng,
        run: &mut Child,
        dir: &Path,
        stage: impl Fn() -> String,
    ) -> Result<Option<Moment>, Failure> {
        let (root, moment) = (Pid::from_child(run), Instant::now() + self.after);
        loop {
            if run.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Ok(None);
            }
            thread::sleep(PAUSE);
            if Instant::now() < moment {
                continue;
            }
            let processes = of_run(root, dir)?;
            let possible: Vec<_> =
                processes.iter().filter(|process| self.kind.strikes(process.role)).collect();
            if let Some(&victim) = possible.choose(random) {
                let (kind, stage) = (self.kind, stage());
                self.hit(random, victim, &possible);
                return Ok(Some(Moment { kind, victim: victim.role, stage, running: processes }));
            }
        }
    }

    fn hit(&self, random: &mut ChaCha8Rng, victim: &Process, possible: &[&Process]) {
        // Whoever has just ended cannot be hit, which is as good.
        let signal = |process: &Process, signal| {
            let _ = kill_process(process.pid, signal);
        };
        match self.kind {
            Kind::Kill => signal(victim, Signal::KILL),
            Kind::Terminate => signal(victim, Signal::TERM),
            Kind::Interrupt => signal(victim, Signal::INT),
            Kind::Hang => signal(victim, Signal::STOP),
            Kind::KillAll => {
                let others = possible.iter().filter(|process| process.role != Role::Guest);
                others.for_each(|process| signal(process, Signal::KILL));
            }
            Kind::InterruptTwice => {
                signal(victim, Signal::INT);
                thread::sleep(Duration::from_millis(random.random_range(1..3000)));
                signal(victim, Signal::INT);
            }
            Kind::Starve => {
                signal(victim, Signal::STOP);
                thread::sleep(Duration::from_millis(random.random_range(500..15_000)));
                signal(victim, Signal::CONT);
            }
        }
    }
}
