//! `cargo xtask tidy`: removes what dead runs left.

use contract::say;

use crate::error::Failure;
use crate::{host, leftovers};

/// Removes what dead runs left behind: guests, processes, overlays,
/// directories. Runs that are alive are not touched; logs and verdicts stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<(), Failure> {
    let left = leftovers::find(&host::repository().join("target/e2e"))?;
    for leftover in &left {
        leftover.remove()?;
        say!("removed {leftover}");
    }
    if left.is_empty() {
        say!("nothing was left behind");
    }
    Ok(())
}
