//! `cargo xtask bench trial`: a whole trial against a script that does the same.

use contract::image::Manifest;
use contract::plan::Plan;
use contract::run::RunOptions;
use terminal::live::Steps;
use tooling::error::Failure;
use tooling::host;

use super::baseline::Baseline;
use super::report::{Figure, Goal, Report};
use super::trials::{OnImage, Trials, millis, scenarios};
use crate::e2e;
use crate::setup::{self, NeededBy};

/// The ways to restore, each a scenario of `bench/scenarios`.
const BOOTED: &str = "trial/booted::";
const ATTACHED: &str = "trial/attached::";

/// How many times faster than the script a trial must be. One that boots its
/// restore saves one boot of two, and does more than the script otherwise.
const LEAST_BOOTED: f64 = 1.1;
const LEAST_ATTACHED: f64 = 2.0;

/// Runs the whole quiesced trial, restored by a boot and by attaching, and the
/// script `bench/baseline.sh`, which does the same steps with virsh, qemu-img and
/// the client, in turns.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    on: OnImage,
}

pub(super) fn run(Args { on }: &Args) -> Result<Report, Failure> {
    setup::ensure_for(&[NeededBy::Baseline])?;
    let mut trials = Trials::prepare(RunOptions {
        filters: vec![BOOTED.to_owned(), ATTACHED.to_owned()],
        images: vec![on.image.clone()],
        every_image: true,
        scenarios: scenarios(),
        ..e2e::default_options()
    })?;
    // Makes the saved memories where there are none, and finds out the accelerator.
    let first = trials.run(1, |options| options.start_only = true)?;
    let plan = first.trials.first().map(|ran| Plan::read(&ran.dir)).transpose();
    let plan = plan.ok().flatten().ok_or_else(|| Failure::Infrastructure("no trial ran.".to_owned()))?;
    let image = Manifest::read(&host::built_images(), &on.image).map_err(Failure::infrastructure)?;
    let baseline = Baseline::new(image, plan.load, plan.accel)?;
    let only = |filter: &str| vec![filter.to_owned()];
    trials.run_whole(1, |options| options.filters = only(ATTACHED))?;

    let (mut booted, mut attached, mut script) = (Vec::new(), Vec::new(), Vec::new());
    let steps = Steps::counted("bench trial", on.repeat as usize * 3);
    for _ in 0..on.repeat {
        let mut trial = |how: &str, filter| {
            steps.step(format_args!("a trial, restored {how}"), || {
                Ok::<_, Failure>(millis(trials.run_whole(1, |options| options.filters = only(filter))?.wall))
            })
        };
        booted.push(trial("by a boot", BOOTED)?);
        attached.push(trial("by attaching", ATTACHED)?);
        script.push(steps.step("the script", || baseline.run())?);
    }
    let script = Figure::times("the script", script);
    let figures = vec![
        Figure::times("a trial, restored by a boot", booted),
        Figure::times("a trial, restored by attaching", attached),
    ];
    let goals = figures
        .iter()
        .zip([LEAST_BOOTED, LEAST_ATTACHED])
        .map(|(trial, least)| {
            let name = format!("the script's time to that of {}", trial.name);
            Goal::at_least(name, least, script.median / trial.median)
        })
        .collect();
    let measured = format!(
        "A quiesced backup of {}, made, restored and checked {} times each way, in turns.",
        on.image, on.repeat
    );
    Ok(Report { benchmark: "trial", measured, figures: [figures, vec![script]].concat(), goals })
}
