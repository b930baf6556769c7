//! `cargo xtask bench latency`: what the clients of a guest's server feel of a hook.

use std::collections::HashMap;

use contract::history::{self, Entry, Op};
use contract::image::{Database, Definition};
use contract::jsonl;
use contract::run::RunOptions;
use contract::scenario::Hook;
use terminal::live::Steps;
use tooling::error::Failure;
use tooling::host;

use super::report::{Figure, Goal, Report, median};
use super::trials::{MeasuredTrial, Trials, scenarios};
use crate::e2e;
use crate::number::number;

const HOOKS: [Hook; 3] = [Hook::None, Hook::Freezeframe, Hook::Sample];

/// The largest stall of ours, as a multiple of that without a hook.
const MOST_STALL: f64 = 1.5;

/// The longest that a freeze with ours may take beyond one without a hook, milliseconds.
const MOST_FREEZE: f64 = 500.0;

/// Runs the quiesced trial without a hook, with ours and with what vendor pages
/// print, in turns, and measures in its history how long the clients' transfers
/// took and how long none was acknowledged around the freeze window.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images; several are separated by commas, or each has its own `--image`.
    #[arg(long = "image", value_name = "NAME", value_delimiter = ',',
          default_values = ["bookworm-mariadb", "sid-mysql"])]
    images: Vec<String>,
    /// How many times everything is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number::<u32>(1..=1000))]
    repeat: u32,
}

/// What one trial's clients felt, milliseconds.
#[derive(Debug, Default)]
struct ClientTimes {
    /// The longest time without an acknowledged write around the window, beyond the window itself.
    stall: f64,
    freeze: f64,
    thaw: f64,
    p50: f64,
    p99: f64,
}

/// What one of them is called, and where it is.
type Part = (&'static str, fn(&ClientTimes) -> f64);

pub(super) fn run(Args { images, repeat }: &Args) -> Result<Report, Failure> {
    let mut trials = Trials::prepare(RunOptions {
        filters: vec!["trial/booted::".to_owned()],
        images: images.clone(),
        every_image: true,
        scenarios: scenarios(),
        ..e2e::default_options()
    })?;
    let mut felt: Vec<_> = images.iter().map(|image| (image, HOOKS.map(|_| Vec::new()))).collect();
    let of_mysql = Definition::list(&host::definitions())?
        .into_iter()
        .filter(|image| image.database == Database::Mysql)
        .map(|image| image.name)
        .collect::<Vec<_>>();
    // On MySQL 9 the sample hangs until the agent's limit: there is no window to measure.
    let can_be = |image: &String, hook: &Hook| *hook != Hook::Sample || !of_mysql.contains(image);
    let pairs = images.iter().flat_map(|image| HOOKS.iter().filter(move |hook| can_be(image, hook)));
    let steps = Steps::counted("bench latency", *repeat as usize * pairs.count());
    for _ in 0..*repeat {
        for (image, felt) in &mut felt {
            for (hook, felt) in HOOKS.iter().zip(felt).filter(|(hook, _)| can_be(image, hook)) {
                let run = steps.step(format_args!("{image}, hook {}", hook.name()), || {
                    trials.run_whole(1, |options| {
                        options.images = vec![(*image).clone()];
                        options.hook = Some(hook.clone());
                    })
                })?;
                for ran in &run.trials {
                    felt.push(client_times(ran)?);
                }
            }
        }
    }
    let parts: [Part; 5] = [
        ("stall beyond the window", |felt| felt.stall),
        ("freeze", |felt| felt.freeze),
        ("thaw", |felt| felt.thaw),
        ("transfer, p50", |felt| felt.p50),
        ("transfer, p99", |felt| felt.p99),
    ];
    let mut figures = Vec::new();
    let mut goals = Vec::new();
    for (image, felt) in &felt {
        for (hook, felt) in HOOKS.iter().zip(felt).filter(|(_, felt)| !felt.is_empty()) {
            figures.extend(parts.map(|(what, part)| {
                let name = format!("{image}, {}: {what}", hook.name());
                Figure::times(name, felt.iter().map(part).collect())
            }));
        }
        goals.extend(goals_on(image, felt));
    }
    let measured = format!(
        "Around the freeze of {}, {repeat} trials with each hook in turns: the whole load's transfers, of four seconds \
         before the freeze and one after the thaw.",
        images.join(" and "),
    );
    Ok(Report { benchmark: "latency", measured, figures, goals })
}

/// What ours may cost; `felt` is in the order of [`HOOKS`].
fn goals_on(image: &str, [none, ours, _]: &[Vec<ClientTimes>; HOOKS.len()]) -> [Goal; 2] {
    let of = |felt: &[ClientTimes], part: fn(&ClientTimes) -> f64| {
        median(&felt.iter().map(part).collect::<Vec<_>>())
    };
    let stall = of(ours, |felt| felt.stall) / of(none, |felt| felt.stall);
    let freeze = of(ours, |felt| felt.freeze) - of(none, |felt| felt.freeze);
    [
        Goal::at_most(format!("{image}: stall of ours to that without a hook"), MOST_STALL, stall),
        Goal::at_most(
            format!("{image}: freeze with ours beyond one without a hook, ms"),
            MOST_FREEZE,
            freeze,
        ),
    ]
}

fn client_times(ran: &MeasuredTrial) -> Result<ClientTimes, Failure> {
    let timings = &ran.verdict.timings_ms;
    let mut latencies =
        latencies(ran).map_err(|e| Failure::Infrastructure(format!("cannot read a history: {e}.")))?;
    latencies.sort_by(f64::total_cmp);
    Ok(ClientTimes {
        stall: ran.needs("write stall", timings.write_stall)? - ran.needs("window", timings.window)?,
        freeze: ran.needs("freeze", timings.freeze)?,
        thaw: ran.needs("thaw", timings.thaw)?,
        p50: ran.needs("transfer", quantile(&latencies, 50))?,
        p99: ran.needs("transfer", quantile(&latencies, 99))?,
    })
}

/// How long each acknowledged transfer took, milliseconds.
fn latencies(ran: &MeasuredTrial) -> Result<Vec<f64>, jsonl::Error> {
    let (mut sent, mut latencies) = (HashMap::new(), Vec::new());
    for entry in jsonl::Reader::<Entry>::open(&ran.dir.join("history.jsonl"), history::KIND)? {
        match entry? {
            Entry::Invoke { t, c, n, op: Op::Transfer { .. } } => drop(sent.insert((c, n), t)),
            // Rows that follow a transfer are acknowledged without a version.
            Entry::Ok { t, c, n, ver: Some(_) } => {
                if let Some(since) = sent.remove(&(c, n)) {
                    latencies.push(t.saturating_sub(since) as f64 / 1e6);
                }
            }
            _ => {}
        }
    }
    Ok(latencies)
}

/// The least value that so many of a hundred do not exceed; `sorted` is in order.
fn quantile(sorted: &[f64], of_hundred: usize) -> Option<f64> {
    let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_may_cost_little() {
        let felt = |stall, freeze| vec![ClientTimes { stall, freeze, ..ClientTimes::default() }];
        let missed = |ours| {
            let goals = goals_on("i", &[felt(100.0, 50.0), ours, felt(2000.0, 1.0)]);
            goals.into_iter().filter(|goal| !goal.met).map(|goal| goal.name).collect::<Vec<_>>()
        };
        assert_eq!(missed(felt(149.0, 549.0)), [""; 0]);
        assert_eq!(missed(felt(151.0, 549.0)), ["i: stall of ours to that without a hook"]);
        assert_eq!(missed(felt(149.0, 551.0)), ["i: freeze with ours beyond one without a hook, ms"]);
        assert_eq!(missed(vec![]).len(), 2, "what was not measured is missed");
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 50), Some(50.0));
        assert_eq!(quantile(&hundred, 99), Some(99.0));
        assert_eq!(quantile(&[7.0, 9.0], 50), Some(7.0));
        assert_eq!(quantile(&[7.0, 9.0], 99), Some(9.0));
        assert_eq!(quantile(&[], 50), None);
    }
}
