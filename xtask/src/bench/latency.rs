//! `cargo xtask bench latency`: what the clients of a guest's server feel of a hook.

use std::collections::HashMap;

use contract::history::{self, Entry, Op};
use contract::jsonl;
use contract::run::RunOptions;
use contract::scenario::Hook;
use terminal::live::Steps;
use tooling::error::Failure;

use super::report::{Figure, Report};
use super::trials::{MeasuredTrial, OnImage, Trials, scenarios};
use crate::e2e;

const HOOKS: [Hook; 3] = [Hook::None, Hook::Freezeframe, Hook::Sample];

/// Runs the quiesced trial without a hook, with ours and with what vendor pages
/// print, in turns, and measures in its history how long the clients' transfers
/// took and how long none was acknowledged around the freeze window.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    on: OnImage,
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

pub(super) fn run(Args { on }: &Args) -> Result<Report, Failure> {
    let mut trials = Trials::prepare(RunOptions {
        filters: vec!["trial/booted::".to_owned()],
        images: vec![on.image.clone()],
        every_image: true,
        scenarios: scenarios(),
        ..e2e::default_options()
    })?;
    let mut felt = HOOKS.map(|_| Vec::new());
    let steps = Steps::counted("bench latency", on.repeat as usize * HOOKS.len());
    for _ in 0..on.repeat {
        for (hook, felt) in HOOKS.iter().zip(&mut felt) {
            let run = steps.step(format_args!("hook {}", hook.name()), || {
                trials.run_whole(1, |options| options.hook = Some(hook.clone()))
            })?;
            for ran in &run.trials {
                felt.push(client_times(ran)?);
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
    let figures = HOOKS
        .iter()
        .zip(&felt)
        .flat_map(|(hook, felt)| {
            parts.map(|(what, part)| {
                Figure::times(format!("{}: {what}", hook.name()), felt.iter().map(part).collect())
            })
        })
        .collect();
    let measured = format!(
        "Around the freeze of {}, {} trials with each hook in turns: the whole load's transfers, of four seconds \
         before the freeze and one after the thaw.",
        on.image, on.repeat
    );
    Ok(Report { benchmark: "latency", measured, figures, goals: vec![] })
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
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 50), Some(50.0));
        assert_eq!(quantile(&hundred, 99), Some(99.0));
        assert_eq!(quantile(&[7.0, 9.0], 50), Some(7.0));
        assert_eq!(quantile(&[7.0, 9.0], 99), Some(9.0));
        assert_eq!(quantile(&[], 50), None);
    }
}
