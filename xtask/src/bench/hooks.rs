//! `cargo xtask bench hooks`: how long writers stand still for a hook, beyond the hold.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{median, print_json};
use crate::error::Failure;
use crate::{cargo, host, setup};

/// The largest share of the sample's stall that ours may cause.
const MAX_RATIO: f64 = 1.0 / 20.0;

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
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seed of the load.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Prints the measurements as JSON.
    #[arg(long)]
    json: bool,
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
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(cycles: &[&Cycle], value: impl Fn(&Cycle) -> f64) -> Self {
        let values: Vec<_> = cycles.iter().map(|cycle| value(cycle)).collect();
        Self {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            median: median(values),
        }
    }
}

/// What one hook did.
#[derive(Debug, Serialize)]
struct Hook {
    hook: String,
    freeze_ms: Spread,
    thaw_ms: Spread,
    stall_ms: Spread,
    /// Freezes and thaws that did not exit with 0, and how they ended.
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Goal {
    name: String,
    limit: f64,
    measured: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    seed: u64,
    runs: u32,
    hooks: Vec<Hook>,
    goals: Vec<Goal>,
    cycles: Vec<Cycle>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    setup::ensure()?;
    let bench = ["build", "--package", "freezeframe", "--features", "vm", "--bench", "hooks"];
    let program = cargo::build("the measuring program", &bench, "hooks")?;
    let cycles = measure(&program, args)?;
    let report = report(args, cycles);
    write(&report)?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&report);
    }
    outcome(&report)
}

/// Runs the measuring program.
fn measure(program: &Path, args: &Args) -> Result<Vec<Cycle>, Failure> {
    let failed =
        |problem: String| Failure::Infrastructure(format!("the measuring program failed: {problem}."));
    let output = Command::new(program)
        .args([args.runs.to_string(), args.seed.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}; its messages stand above", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

fn report(args: &Args, cycles: Vec<Cycle>) -> Report {
    let hooks = HOOKS.map(|name| hook(name, &cycles));
    let stall =
        |name: &str| hooks.iter().find(|hook| hook.hook == name).map_or(f64::NAN, |h| h.stall_ms.median);
    let goals = OURS
        .map(|name| {
            let measured = stall(name) / stall(SAMPLE);
            Goal {
                name: format!("stall of {name} to {SAMPLE}"),
                limit: MAX_RATIO,
                measured,
                met: measured <= MAX_RATIO,
            }
        })
        .into();
    Report { benchmark: "hooks", seed: args.seed, runs: args.runs, hooks: hooks.into(), goals, cycles }
}

fn hook(name: &str, cycles: &[Cycle]) -> Hook {
    let all: Vec<_> = cycles.iter().filter(|cycle| cycle.hook == name).collect();
    // A freeze that failed held nothing: its times would flatter.
    let frozen: Vec<_> = all.iter().copied().filter(|cycle| cycle.freeze == "exit 0").collect();
    let ends = |verb: &str, end: &str| (end != "exit 0").then(|| format!("{verb}: {end}"));
    Hook {
        hook: name.to_owned(),
        freeze_ms: Spread::of(&frozen, |cycle| cycle.freeze_ms),
        thaw_ms: Spread::of(&frozen, |cycle| cycle.thaw_ms),
        stall_ms: Spread::of(&frozen, Cycle::stall_ms),
        failures: all
            .iter()
            .flat_map(|cycle| [ends("freeze", &cycle.freeze), ends("thaw", &cycle.thaw)])
            .flatten()
            .collect(),
    }
}

/// `target/bench/hooks.json`.
fn write(report: &Report) -> Result<(), Failure> {
    let dir = host::repository().join("target/bench");
    let path = dir.join("hooks.json");
    let json = serde_json::to_string_pretty(report)
        .map_err(|e| Failure::Infrastructure(format!("cannot write the measurements as JSON: {e}.")))?;
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&path, json + "\n"))
        .map_err(|e| Failure::io("write", &path, &e))
}

/// Every goal is met, and our hook did what it was asked each time.
fn outcome(report: &Report) -> Result<(), Failure> {
    let missed = report.goals.iter().filter(|goal| !goal.met).map(|goal| goal.name.clone());
    let ours = report.hooks.iter().filter(|hook| OURS.contains(&hook.hook.as_str()));
    let failed = ours.flat_map(|hook| hook.failures.iter().map(|end| format!("{} {end}", hook.hook)));
    let missed: Vec<_> = missed.chain(failed).collect();
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Expectation(format!("our hook missed its goal: {}.", missed.join(", "))))
}

fn print(report: &Report) {
    println!(
        "{:<18} {:>22} {:>22} {:>24}  failures",
        "hook", "freeze, ms", "thaw, ms", "stall beyond hold, ms"
    );
    for hook in &report.hooks {
        let spread = |s: &Spread| format!("{:.0} ({:.0} to {:.0})", s.median, s.min, s.max);
        let failures = match hook.failures.len() {
            0 => "none".to_owned(),
            n => {
                let mut kinds = hook.failures.clone();
                kinds.sort();
                kinds.dedup();
                format!("{n} ({})", kinds.join(", "))
            }
        };
        println!(
            "{:<18} {:>22} {:>22} {:>24}  {failures}",
            hook.hook,
            spread(&hook.freeze_ms),
            spread(&hook.thaw_ms),
            spread(&hook.stall_ms)
        );
    }
    println!(
        "Median (least to most) of {} cycles each, in turns under one load, seed {}.",
        report.runs, report.seed
    );
    println!("Without a hook nothing is held: its stall is the load's own longest time between two writes.");
    for Goal { name, limit, measured, met } in &report.goals {
        let met = if *met { "met" } else { "MISSED" };
        println!("{name}: 1/{:.1}, goal at most 1/{:.0}: {met}", 1.0 / measured, 1.0 / limit);
    }
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

    fn report_of(cycles: Vec<Cycle>) -> Report {
        report(&Args { runs: 2, seed: 1, json: false }, cycles)
    }

    #[test]
    fn a_goal_is_met_or_missed() {
        let good = report_of(cycles(40.0, 50.0, 1000.0));
        assert_eq!(good.hooks[0].stall_ms.median, 10.0);
        assert!(outcome(&good).is_ok());
        let text = |cycles| outcome(&report_of(cycles)).unwrap_err().to_string();
        assert!(text(cycles(40.0, 51.0, 1000.0)).contains("freezeframe-ftwrl"));
        assert!(text(cycles(51.0, 40.0, 1000.0)).contains("stall of freezeframe to sample"));
    }

    #[test]
    fn a_failed_call_of_ours_is_no_success_and_flatters_nobody() {
        let mut failing = cycles(40.0, 50.0, 1000.0);
        failing[1].freeze = "exit 1".to_owned();
        failing[1].gap_ms = 0.0;
        let report = report_of(failing);
        assert_eq!(report.hooks[1].stall_ms.min, 40.0);
        assert!(outcome(&report).unwrap_err().to_string().contains("freezeframe freeze: exit 1"));
        let mut dying = cycles(40.0, 50.0, 1000.0);
        dying[3].thaw = "signal 13".to_owned();
        assert!(outcome(&report_of(dying)).is_ok());
    }

    #[test]
    fn nothing_measured_is_no_success() {
        assert!(outcome(&report_of(vec![])).is_err());
    }
}
