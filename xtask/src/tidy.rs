//! `cargo xtask tidy`: removes what dead runs left.

use terminal::results;
use tooling::error::Failure;
use tooling::host;

use crate::{leftovers, verify};

/// Removes what dead runs left behind: guests, processes, overlays,
/// directories. Runs that are alive are not touched; logs and verdicts stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<(), Failure> {
    let left = leftovers::all(&[&host::repository().join("target/e2e"), &verify::runs()])?;
    for leftover in &left {
        leftover.remove()?;
        results::line(format_args!("removed {leftover}"));
    }
    if left.is_empty() {
        results::line(format_args!("nothing was left behind"));
    }
    Ok(())
}
