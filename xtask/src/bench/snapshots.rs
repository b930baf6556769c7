//! `cargo xtask bench snapshots`: the methods of snapshots against each other.

use contract::run::RunOptions;
use terminal::live::Steps;
use tooling::error::Failure;

use super::report::{Figure, Report};
use super::trials::{Trials, scenarios};
use crate::e2e;
use crate::number::number;

/// The methods, each a scenario of `bench/scenarios`.
const METHODS: [(&str, &str); 3] = [
    ("external, all disks in one transaction", "snapshot/atomic::"),
    ("external, one disk after the other", "snapshot/apart::"),
    ("one backup job", "snapshot/pushed::"),
];

/// Snapshots the two disks of a frozen guest in one transaction, one after the
/// other, and by a backup job, in turns.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: one with data and binary logs on two disks.
    #[arg(long, value_name = "NAME", default_value = "bookworm-mariadb-split")]
    image: String,
    /// How many trials there are of each method.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number::<u32>(1..=1000))]
    repeat: u32,
}

pub(super) fn run(args: &Args) -> Result<Report, Failure> {
    let mut trials = Trials::prepare(RunOptions {
        filters: METHODS.map(|(_, filter)| filter.to_owned()).into(),
        images: vec![args.image.clone()],
        every_image: true,
        scenarios: scenarios(),
        ..e2e::default_options()
    })?;
    let mut taken = METHODS.map(|_| (Vec::new(), Vec::new()));
    let steps = Steps::counted("bench snapshots", args.repeat as usize * METHODS.len());
    for _ in 0..args.repeat {
        for ((method, filter), (snapshot, stall)) in METHODS.iter().zip(&mut taken) {
            let run = steps.step(method, || {
                trials.run_whole(1, |options| options.filters = vec![(*filter).to_owned()])
            })?;
            for ran in &run.trials {
                let timings = &ran.verdict.timings_ms;
                snapshot.push(ran.needs("snapshot", timings.snapshot)?);
                stall.push(ran.needs("write stall", timings.write_stall)?);
            }
        }
    }
    let figures = METHODS
        .iter()
        .zip(taken)
        .flat_map(|((name, _), (snapshot, stall))| {
            [
                Figure::times(format!("{name}: snapshot"), snapshot),
                Figure::times(format!("{name}: write stall"), stall),
            ]
        })
        .collect();
    let measured = format!(
        "Snapshots of the two disks of {}, {} trials of each method in turns; the stall contains the \
         second for which a guest is held.",
        args.image, args.repeat
    );
    Ok(Report { benchmark: "snapshots", measured, figures, goals: vec![] })
}
