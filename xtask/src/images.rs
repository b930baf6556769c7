//! `cargo xtask images`: builds, lists, checks and removes guest images.

mod table;

use std::path::Path;

use builder::{BuildOutcome, Checked, Removed};
use contract::image::{Definition, Family};
use contract::json;
use terminal::results;
use tooling::error::Failure;
use tooling::host;
use tracing::info;

use crate::setup::{self, NeededBy};

/// Builds, lists, checks and removes guest images.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists every image that has a definition, what it holds, whether it is
    /// built, and when all trials of a run on it last met their expectation.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Builds what changed: the definition, what it builds on, the hook, or the packages of its distribution.
    Build {
        /// The images; when none is named, all but those marked `unverified`.
        names: Vec<String>,
    },
    /// Reads built images, and the memories saved of their guests, in full, and removes what is no longer as it was
    /// made. Fails if something was.
    Check {
        /// The images; all when none is named.
        names: Vec<String>,
    },
    /// Removes built images, with the memories saved of their guests, and says what. None of them when a run
    /// uses one.
    Clean(Clean),
}

/// What to remove: one or the other, because a forgotten name must not mean everything.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Clean {
    /// The images.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// All images, and everything that is kept between builds.
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let definitions = host::definitions();
    match args.command {
        Command::List { json } => list(Definition::list(&definitions)?, json),
        Command::Build { names } if names.is_empty() => {
            let all = Definition::list(&definitions)?;
            let (unverified, chosen): (Vec<_>, _) =
                all.into_iter().partition(|image| image.unverified.is_some());
            report_left_out(&unverified);
            build(&host::built_images(), chosen, report)
        }
        Command::Build { names } => build(&host::built_images(), named(&names)?, report),
        Command::Check { names } => check(&host::built_images(), &names),
        Command::Clean(what) => clean(&host::built_images(), &what),
    }
}

fn check(store: &Path, names: &[String]) -> Result<(), Failure> {
    let (mut count, mut damaged) = (0, 0);
    builder::check(store, names, |checked: &Checked| {
        let Checked { path, mib, condition } = checked;
        results::line(format_args!("{} ({mib} MiB): {condition}", path.display()));
        count += 1;
        damaged += u32::from(condition.is_damaged());
    })?;
    if damaged > 0 {
        return Err(Failure::Expectation(format!("{damaged} of {count} were damaged.")));
    }
    results::line(format_args!("{count} checked, none damaged"));
    Ok(())
}

fn clean(store: &Path, Clean { names, all }: &Clean) -> Result<(), Failure> {
    let (mut count, mut mib) = (0, 0);
    let report = |removed: &Removed| {
        (count, mib) = (count + 1, mib + removed.mib);
        results::line(format_args!("removed {} ({} MiB)", removed.path.display(), removed.mib));
    };
    let done = if *all { builder::clean_all(store, report) } else { builder::clean(store, names, report) };
    if done.is_ok() {
        results::line(format_args!("{count} removed, {mib} MiB"));
    }
    done
}

fn list(definitions: Vec<Definition>, as_json: bool) -> Result<(), Failure> {
    let listed = builder::list::list(&host::definitions(), &host::built_images(), definitions)?;
    if as_json {
        let text = json::pretty(&listed)
            .map_err(|error| Failure::Infrastructure(format!("cannot write JSON: {error}.")))?;
        results::line(format_args!("{text}"));
    } else {
        results::line(table::table(&listed).trim_end());
    }
    Ok(())
}

fn named(names: &[String]) -> Result<Vec<Definition>, Failure> {
    let definitions = host::definitions();
    Ok(names.iter().map(|name| Definition::named(&definitions, name)).collect::<Result<_, _>>()?)
}

fn report_left_out(unverified: &[Definition]) {
    let names: Vec<_> = unverified.iter().map(|image| image.name.as_str()).collect();
    if !names.is_empty() {
        info!("left out, because never verified here; name those that you want: {}", names.join(", "));
    }
}

fn report(name: &str, outcome: &BuildOutcome) {
    results::line(format_args!("{name}: {outcome}"));
}

/// Builds what changed of these images, for a task that needs them.
pub(crate) fn ensure(names: &[String]) -> Result<(), Failure> {
    build(&host::built_images(), named(names)?, |_, _| {})
}

/// Builds what changed of one image in a store of its own.
pub(crate) fn build_in(store: &Path, name: &str) -> Result<(), Failure> {
    build(store, named(&[name.to_owned()])?, |_, _| {})
}

fn build(
    store: &Path,
    definitions: Vec<Definition>,
    report: impl Fn(&str, &BuildOutcome),
) -> Result<(), Failure> {
    host::check_repository().map_err(Failure::usage)?;
    setup::ensure_for(&needs(&definitions))?;
    builder::build(&host::definitions(), store, definitions, report)
}

/// What the host needs only for some of these images.
fn needs(definitions: &[Definition]) -> Vec<NeededBy> {
    let needed_by = |image: &Definition| match image.family {
        Family::Deb if image.distro == "ubuntu" => Some(NeededBy::Ubuntu),
        Family::Deb => None,
        Family::Rpm => Some(NeededBy::Rpm),
    };
    definitions.iter().filter_map(needed_by).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn a_forgotten_name_does_not_mean_everything() {
        let parsed = |args: &[&str]| Cli::try_parse_from([&["images", "clean"], args].concat());
        for good in [&["one", "two"][..], &["--all"]] {
            assert!(parsed(good).is_ok(), "{good:?}");
        }
        assert!(parsed(&["--all", "one"]).is_err());
        let said = parsed(&[]).unwrap_err().to_string();
        assert!(said.contains("<NAME|--all>"), "{said}");
    }
}
