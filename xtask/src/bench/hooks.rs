//! `cargo xtask bench hooks`: how long a hook blocks writers, beyond the hold.

use std::path::Path;

use builder::hook_program;
use serde::{Deserialize, Serialize};
use terminal::live::Steps;
use tooling::cargo;
use tooling::command::{self, shell};
use tooling::error::Failure;
use xshell::cmd;

use super::report::{Figure, Goal, Report};
use crate::number::number;
use crate::setup;

/// The largest share of the sample's stall that ours may cause.
const MAX_RATIO: f64 = 1.0 / 50.0;

/// How a call ends that succeeded.
const WELL: &str = "exit 0";

/// In the order of the table.
const HOOKS: [&str; 4] = ["none", "freezeframe", "freezeframe-ftwrl", "sample"];

/// The hook that ours are held against, and those.
const SAMPLE: &str = "sample";
const OURS: [&str; 2] = ["freezeframe", "freezeframe-ftwrl"];

/// Measures freezes and thaws of our hook, of the vendors' sample and of no
/// hook at all under one load on a MariaDB server of this host, in turns. No
/// guest is needed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times each hook freezes and thaws.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=1000))]
    repeat: u32,
    /// Seed of the load.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u64>(0..=u64::MAX))]
    seed: u64,
}

/// One freeze, hold and thaw, as the measuring program prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cycle {
    hook: String,
    freeze_ms: f64,
    hold_ms: f64,
    thaw_ms: f64,
    gap_ms: f64,
    freeze: String,
    thaw: String,
}

impl Cycle {
    /// The time without a write beyond what was held on purpose. Without a hook nothing is held: there it is
    /// the longest time between two writes that the load itself has.
    fn stall_ms(&self) -> f64 {
        if self.hook == "none" { self.gap_ms } else { self.gap_ms - self.hold_ms }
    }

    /// Whether both calls of the hook succeeded.
    fn held(&self) -> bool {
        self.freeze == WELL && self.thaw == WELL
    }
}

pub(super) fn run(args: &Args) -> Result<Report, Failure> {
    setup::ensure()?;
    hook_program::build()?;
    let bench = ["build", "--package", "harness", "--bench", "hooks"];
    let program = cargo::build("the measuring program", &bench, "hooks")?;
    let what = format!("{} freezes and thaws with each of {} hooks", args.repeat, HOOKS.len());
    let cycles = Steps::of("bench hooks").step(what, || measure(&program, args))?;
    Ok(report(args, &cycles))
}

/// Runs the measuring program.
fn measure(program: &Path, args: &Args) -> Result<Vec<Cycle>, Failure> {
    let (sh, repeat, seed) = (shell()?, args.repeat.to_string(), args.seed.to_string());
    let printed = command::read(cmd!(sh, "{program} {repeat} {seed}"))?;
    serde_json::from_slice(&printed)
        .map_err(|e| Failure::Infrastructure(format!("{} printed no measurement: {e}.", program.display())))
}

fn report(args: &Args, cycles: &[Cycle]) -> Report {
    let figures: Vec<_> = HOOKS.iter().flat_map(|name| figures(name, cycles)).collect();
    let stall = |name: &str| {
        let name = stall_name(name);
        figures.iter().find(|figure| figure.name == name).map_or(f64::NAN, |stall| stall.median)
    };
    let mut goals = Vec::new();
    for name in OURS {
        let ratio = stall(name) / stall(SAMPLE);
        goals.push(Goal::at_most(format!("stall of {name} to that of {SAMPLE}"), MAX_RATIO, ratio));
        let failed = cycles.iter().filter(|cycle| cycle.hook == name && !cycle.held()).count();
        goals.push(Goal::at_most(format!("failed calls of {name}"), 0.0, failed as f64));
    }
    let measured = format!(
        "{} freezes and thaws each, in turns under one load, seed {}; stalls beyond the hold, or the longest \
         time between two writes where no hook holds them.",
        args.repeat, args.seed
    );
    Report { benchmark: "hooks", measured, figures, goals }
}

fn stall_name(hook: &str) -> String {
    format!("{hook}: stall")
}

fn figures(hook: &str, cycles: &[Cycle]) -> [Figure; 3] {
    // A freeze that failed held nothing: its times would flatter.
    let frozen: Vec<_> = cycles.iter().filter(|cycle| cycle.hook == hook && cycle.freeze == WELL).collect();
    let of = |name: String, part: fn(&Cycle) -> f64| {
        Figure::times(name, frozen.iter().map(|cycle| part(cycle)).collect())
    };
    [
        of(stall_name(hook), Cycle::stall_ms),
        of(format!("{hook}: freeze"), |cycle| cycle.freeze_ms),
        of(format!("{hook}: thaw"), |cycle| cycle.thaw_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(ours: f64, ftwrl: f64, sample: f64) -> Vec<Cycle> {
        let cycle = |hook: &str, stall: f64| Cycle {
            hook: hook.to_owned(),
            freeze_ms: 20.0,
            hold_ms: 1000.0,
            thaw_ms: 10.0,
            gap_ms: 1000.0 + stall,
            freeze: "exit 0".to_owned(),
            thaw: "exit 0".to_owned(),
        };
        let one = [cycle("none", -990.0), cycle(OURS[0], ours), cycle(OURS[1], ftwrl), cycle(SAMPLE, sample)];
        [one.clone(), one].concat()
    }

    fn report_of(cycles: &[Cycle]) -> Report {
        report(&Args { repeat: 2, seed: 1 }, cycles)
    }

    fn missed(cycles: &[Cycle]) -> Vec<String> {
        report_of(cycles).goals.into_iter().filter(|goal| !goal.met).map(|goal| goal.name).collect()
    }

    #[test]
    fn a_goal_is_met_or_missed() {
        assert_eq!(report_of(&cycles(15.0, 20.0, 1000.0)).figures[0].median, 10.0);
        assert_eq!(missed(&cycles(15.0, 20.0, 1000.0)), [""; 0]);
        assert_eq!(missed(&cycles(15.0, 21.0, 1000.0)), ["stall of freezeframe-ftwrl to that of sample"]);
        assert_eq!(missed(&cycles(21.0, 15.0, 1000.0)), ["stall of freezeframe to that of sample"]);
    }

    #[test]
    fn a_failed_call_of_ours_is_no_success_and_flatters_nobody() {
        let mut failing = cycles(15.0, 20.0, 1000.0);
        failing[1].freeze = "exit 1".to_owned();
        failing[1].gap_ms = 0.0;
        let stall = &report_of(&failing).figures[3];
        assert_eq!((stall.name.as_str(), stall.median), ("freezeframe: stall", 15.0));
        assert_eq!(missed(&failing), ["failed calls of freezeframe"]);
        let mut dying = cycles(15.0, 20.0, 1000.0);
        dying[3].thaw = "signal 13".to_owned();
        assert_eq!(missed(&dying), [""; 0]);
    }

    #[test]
    fn nothing_measured_is_no_success() {
        assert_eq!(missed(&[]).len(), OURS.len());
    }
}
