//! `cargo xtask bench images`: how long an image takes to build, and to be found unchanged.

use std::time::Instant;

use super::report::{Figure, Report};
use super::trials::millis;
use crate::error::Failure;
use crate::{host, images};

/// Builds an image in an empty store, so that every package is downloaded, and asks
/// again whether something has changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image.
    #[arg(long, value_name = "NAME", default_value = "bookworm-mariadb")]
    image: String,
    /// How many times it is built.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

pub(super) fn run(args: &Args) -> Result<Report, Failure> {
    let target = host::repository().join("target");
    let (mut cold, mut unchanged) = (Vec::new(), Vec::new());
    for n in 1..=args.repeat {
        eprintln!("{n} of {}", args.repeat);
        let store =
            tempfile::tempdir_in(&target).map_err(|e| Failure::io("create a directory in", &target, &e))?;
        for times in [&mut cold, &mut unchanged] {
            let begin = Instant::now();
            images::build_in(store.path().to_owned(), &args.image)?;
            times.push(millis(begin.elapsed()));
        }
    }
    let figures = vec![Figure::times("built from nothing", cold), Figure::times("unchanged", unchanged)];
    let measured = format!(
        "Building {}, {} times; nothing is kept from one build to the next, and every package is downloaded.",
        args.image, args.repeat
    );
    Ok(Report { benchmark: "images", measured, figures, goals: vec![] })
}
