//! What the guest agent calls as `fsfreeze-hook` (its `-F`): the hooks of this machine, our own among them.
//!
//! ```text
//! fsfreeze-hook freeze    runs each hook in order; exit 0 only when all succeeded
//! fsfreeze-hook thaw      runs all of them in reverse order, even if some fail
//! fsfreeze-hook check     says whether the agent will run it, and asks each hook whether it will work
//! fsfreeze-hook status    asks each hook what it holds now
//! ```
//!
//! When a hook fails to freeze, it and those before it are thawed at once, in reverse order: the agent gives
//! up the freeze and will not call thaw. The failing hook's output goes to standard error, which agents from
//! QEMU 9.1 on pass to the host. In one process, because writers wait for all of it: a shell that starts
//! one program after the other costs them several times as much.

mod agent;
mod hooks;
mod log;
mod run;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::hooks::{Hook, Hooks};
use self::log::Log;
use self::run::{Outcome, run};
use crate::call::{CALL, ROLLS_BACK};
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

const USAGE: &str = "usage: fsfreeze-hook freeze|thaw|check|status";

/// What a run of it depends on, from the environment.
struct Dispatcher {
    hooks: Hooks,
    log: Log,
    /// Deadline of one hook, longer than any hook's own limit: `FSFREEZE_HOOK_SECONDS`.
    each: Duration,
    /// Deadline of all hooks of one call together; rolling back then has the same time again:
    /// `FSFREEZE_ALL_SECONDS`.
    all: Duration,
}

/// Runs one verb, and gives the exit status.
pub(crate) fn main(name: &str, words: &[&str], settings: &Result<Settings, Failure>) -> u8 {
    let [verb @ ("freeze" | "thaw" | "check" | "status")] = words else {
        eprintln!("{USAGE}");
        return Exit::Usage as u8;
    };
    let dispatcher = Dispatcher {
        hooks: Hooks::find(name, settings),
        log: Log::new(),
        each: seconds("FSFREEZE_HOOK_SECONDS", 20),
        all: seconds("FSFREEZE_ALL_SECONDS", 25),
    };
    let succeeded = match *verb {
        "freeze" => dispatcher.freeze(),
        "thaw" => dispatcher.thaw(),
        verb => dispatcher.ask(verb),
    };
    u8::from(!succeeded)
}

fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default))
}

impl Dispatcher {
    fn freeze(&self) -> bool {
        // A freeze that is told to end takes back what it has frozen.
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM]
        {
            let _ = signal_hook::flag::register(signal, Arc::clone(&interrupted));
        }
        self.log.empty();
        for idle in &self.hooks.not_executable {
            self.log.tell(&format!("{idle} is not executable: not run"));
        }
        if let Some(why) = self.hooks.refusals.first() {
            self.log.tell(&format!("refused: {why}"));
            self.log.send();
            return false;
        }
        let call = format!("{}-{}", std::process::id(), uptime_milliseconds());
        let deadline = Instant::now() + self.all;
        for (number, hook) in self.hooks.all.iter().enumerate() {
            let done = self.run(hook, "freeze", (CALL, &call), deadline);
            if done && !interrupted.load(Ordering::Relaxed) {
                continue;
            }
            if interrupted.load(Ordering::Relaxed) {
                self.log.tell("interrupted");
            }
            self.log.tell("the freeze is given up; thawing what was frozen");
            let deadline = Instant::now() + self.all;
            for begun in self.hooks.all[..=number].iter().rev() {
                self.run(begun, "thaw", (ROLLS_BACK, &call), deadline);
            }
            self.log.send();
            return false;
        }
        // The log stays in memory until the thaw: the journal may be on a file system about to freeze.
        true
    }

    fn thaw(&self) -> bool {
        let deadline = Instant::now() + self.all;
        let mut succeeded = true;
        for hook in self.hooks.all.iter().rev() {
            if let Some(why) = hook.others_may_write() {
                self.log.tell(&format!("{} was not run: {why}", hook.name()));
                succeeded = false;
            } else {
                succeeded &= self.run(hook, "thaw", ("", ""), deadline);
            }
        }
        self.log.send();
        succeeded
    }

    /// Called by hand: each hook answers the verb for itself, in its own words.
    fn ask(&self, verb: &str) -> bool {
        let mut succeeded = true;
        if verb == "check" {
            let (runs_us, says) = agent::asked();
            println!("fsfreeze-hook: {says}");
            succeeded = runs_us;
            for why in &self.hooks.refusals {
                println!("fsfreeze-hook: refused: {why}");
                succeeded = false;
            }
        }
        for hook in &self.hooks.all {
            let (outcome, output) = run(hook, verb, ("", ""), self.each);
            print!("{output}");
            match outcome {
                Outcome::Exit(0) => {}
                // A usage error, as our own.
                Outcome::Exit(2) => println!("{}: does not know `{verb}`", hook.name()),
                Outcome::Late => {
                    println!("{}: no answer within {} s", hook.name(), self.each.as_secs());
                    succeeded = false;
                }
                Outcome::Exit(_) | Outcome::NotRun(_) => succeeded = false,
            }
        }
        succeeded
    }

    /// Runs a hook, and tells how it failed.
    fn run(&self, hook: &Hook, verb: &str, told: (&str, &str), deadline: Instant) -> bool {
        let name = hook.name();
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(1) && verb == "freeze" {
            let all = self.all.as_secs();
            self.log.tell(&format!("no time is left for {name}: all hooks together have {all} s"));
            return false;
        }
        // A thaw is tried, however late.
        let limit = left.clamp(Duration::from_secs(1), self.each.max(Duration::from_secs(1)));
        let (outcome, output) = run(hook, verb, told, limit);
        match outcome {
            Outcome::Exit(0) => {
                self.log.keep(&output);
                return true;
            }
            Outcome::Exit(status) => self.log.tell(&format!("{name} failed to {verb}, exit status {status}")),
            Outcome::Late => {
                // As it was told: rounded up, as people count.
                let seconds = limit.as_millis().div_ceil(1000);
                self.log.tell(&format!("{name} did not finish its {verb} within {seconds} s"));
            }
            Outcome::NotRun(why) => self.log.tell(&format!("{name} failed to {verb}: {why}")),
        }
        self.log.pass_on(&output);
        false
    }
}

fn uptime_milliseconds() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
