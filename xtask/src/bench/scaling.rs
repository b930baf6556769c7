//! `cargo xtask bench scaling`: several trials at once.

use contract::run::RunOptions;
use terminal::live::Steps;
use tooling::error::Failure;

use super::report::{Figure, Report};
use super::trials::{OnImage, Trials, millis};
use crate::e2e;

/// How many trials run at once.
const JOBS: [u16; 3] = [1, 2, 4];

/// Runs the same four trials one, two and four at a time, and measures the time
/// that each of them took of the whole.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    on: OnImage,
}

pub(super) fn run(Args { on }: &Args) -> Result<Report, Failure> {
    let mut trials = Trials::prepare(RunOptions {
        // None of them has a fault that takes its time.
        filters: ["core/no-freeze::", "core/no-hook::", "core/quiesced-snapshot::"].map(str::to_owned).into(),
        images: vec![on.image.clone()],
        every_image: true,
        ..e2e::default_options()
    })?;
    // Makes the saved memory where there is none.
    trials.run(1, |options| options.start_only = true)?;
    let mut each = JOBS.map(|_| Vec::new());
    let steps = Steps::counted("bench scaling", on.repeat as usize * JOBS.len());
    for _ in 0..on.repeat {
        for (jobs, each) in JOBS.iter().zip(&mut each) {
            let run = steps.step(format_args!("{jobs} at once"), || trials.run_whole(*jobs, |_| {}))?;
            each.push(millis(run.wall) / run.trials.len() as f64);
        }
    }
    let figures = JOBS.iter().zip(each).map(|(jobs, each)| Figure::times(format!("{jobs} at once"), each));
    let measured = format!(
        "Wall time of four core trials on {}, divided by four, {} times at each width, in turns.",
        on.image, on.repeat
    );
    Ok(Report { benchmark: "scaling", measured, figures: figures.collect(), goals: vec![] })
}
