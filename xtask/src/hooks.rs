//! `cargo xtask hooks`: the hooks for those who want nothing else.

use terminal::results;
use tooling::error::Failure;

use crate::setup;

/// Work on the hooks under `images/hooks`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Builds a .deb and an .rpm of the hooks into `target/packages`.
    Package,
    /// Builds their program, one static file for guests of this machine's architecture.
    Program,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match args.command {
        Command::Package => {
            setup::ensure()?;
            for package in builder::packages::build()? {
                results::line(package.display());
            }
            Ok(())
        }
        Command::Program => {
            results::line(builder::hook_program::build()?.display());
            Ok(())
        }
    }
}
