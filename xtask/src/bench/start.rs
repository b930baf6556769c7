//! `cargo xtask bench start`: how soon the first guest of a trial answers SQL.

use contract::events::Stage;
use contract::run::RunOptions;
use terminal::live::Steps;
use tooling::error::Failure;

use super::report::{Figure, Goal, Report};
use super::trials::{MeasuredTrial, Trials};
use crate::e2e;
use crate::number::number;

/// How many times faster than a boot a start from saved memory must be.
const LEAST_RATIO: f64 = 8.0;

/// Any scenario would do: all start the same guest.
const TRIAL: &str = "core/quiesced-snapshot::";

/// Starts the first guest of a trial from saved memory and by a boot, in turns,
/// and measures the time from the trial's first moment to the first answer of
/// the guest's server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images, separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["bookworm-mariadb", "sid-mysql"])]
    image: Vec<String>,
    /// How many times each guest is started each way.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    repeat: u32,
}

pub(super) fn run(args: &Args) -> Result<Report, Failure> {
    let (mut figures, mut goals) = (Vec::new(), Vec::new());
    let steps = Steps::counted("bench start", args.image.len() * args.repeat as usize * 2);
    for image in &args.image {
        let options = RunOptions {
            filters: vec![TRIAL.to_owned()],
            images: vec![image.clone()],
            every_image: true,
            start_only: true,
            ..e2e::default_options()
        };
        let mut trials = Trials::prepare(options)?;
        // Makes the saved memory where there is none.
        trials.run(1, |_| {})?;
        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            let mut start = |how: &str, cold| {
                steps.step(format_args!("{image} {how}"), || first_answer(&mut trials, cold))
            };
            warm.push(start("from saved memory", false)?);
            cold.push(start("by a boot", true)?);
        }
        let [warm, cold] = [("from saved memory", warm), ("by a boot", cold)]
            .map(|(how, times)| Figure::times(format!("{image} {how}"), times));
        goals.push(Goal::at_least(
            format!("{image}, a boot's time to that of a start from memory"),
            LEAST_RATIO,
            cold.median / warm.median,
        ));
        figures.extend([warm, cold]);
    }
    let measured = format!("Time to the first SQL answer, {} starts each way, in turns.", args.repeat);
    Ok(Report { benchmark: "start", measured, figures, goals })
}

/// Milliseconds from the trial's first moment to the first answer.
fn first_answer(trials: &mut Trials, cold: bool) -> Result<f64, Failure> {
    let mut total = 0.0;
    for ran in trials.run(1, |options| options.cold = cold)?.trials {
        if ran.started_warm()? == cold {
            return Err(Failure::Infrastructure(format!(
                "the guest in {} did not start as requested; its events.jsonl says why.",
                ran.dir.display()
            )));
        }
        total += to_first_answer(&ran)?;
    }
    Ok(total)
}

fn to_first_answer(ran: &MeasuredTrial) -> Result<f64, Failure> {
    let stages = &ran.verdict.timings_ms.stages;
    let took = |stage| ran.needs("first SQL answer", stages.get(&stage).copied());
    Ok(took(Stage::Prepare)? + took(Stage::Boot)?)
}
