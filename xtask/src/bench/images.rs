//! `cargo xtask bench images`: how long it takes to build an image, and to find that nothing has changed.

use std::time::Instant;

use terminal::live::Steps;
use tooling::error::Failure;
use tooling::host;

use super::report::{Figure, Report};
use super::trials::{OnImage, millis};
use crate::images;

/// Builds an image in an empty store, so that every package is downloaded, and then
/// builds it again, which finds that nothing has changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    on: OnImage,
}

pub(super) fn run(Args { on }: &Args) -> Result<Report, Failure> {
    let target = host::repository().join("target");
    let (mut cold, mut unchanged) = (Vec::new(), Vec::new());
    let steps = Steps::counted("bench images", on.repeat as usize * 2);
    for _ in 0..on.repeat {
        let store =
            tempfile::tempdir_in(&target).map_err(|e| Failure::io("create a directory in", &target, e))?;
        for (what, times) in [("built from nothing", &mut cold), ("unchanged", &mut unchanged)] {
            let begin = Instant::now();
            steps.step(what, || images::build_in(store.path(), &on.image))?;
            times.push(millis(begin.elapsed()));
        }
    }
    let figures = vec![Figure::times("built from nothing", cold), Figure::times("unchanged", unchanged)];
    let measured = format!(
        "Building {}, {} times; nothing is kept from one build to the next, and every package is downloaded.",
        on.image, on.repeat
    );
    Ok(Report { benchmark: "images", measured, figures, goals: vec![] })
}
