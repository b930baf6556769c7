//! `cargo xtask images`: builds guest images from the definitions under
//! `images/`, and only those whose inputs changed.

mod archive;
mod build;
mod cloud;
mod deb;
mod disks;
mod existing;
mod foreign;
mod list;
mod manifest;
mod offer;
mod overlay;
mod proto;
mod recipe;
mod repositories;
mod rpm;
mod run;
mod store;
mod verified;

use std::path::PathBuf;

use contract::image::{Definition, Family};
use terminal::results;
use tracing::info;

use crate::error::Failure;
use crate::host;
use crate::setup::{self, Who};
pub(crate) use archive::{TAKE_EXPIRED, mmdebstrap};
use recipe::Recipe;
pub(crate) use run::Log;
use store::Store;
pub(crate) use verified::record_verified;

/// Builds, lists and removes guest images.
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
    /// Removes built images.
    Clean {
        /// The images; all of them, and everything kept between builds, when none is named.
        names: Vec<String>,
    },
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let definitions = host::repository().join("images");
    match args.command {
        Command::List { json } => list::run(Definition::list(&definitions)?, json),
        Command::Build { names } if names.is_empty() => {
            let all = Definition::list(&definitions)?;
            let (unverified, chosen): (Vec<_>, _) =
                all.into_iter().partition(|image| image.unverified.is_some());
            tell_left_out(&unverified);
            build(chosen, report)
        }
        Command::Build { names } => {
            let chosen: Result<Vec<_>, _> =
                names.iter().map(|name| Definition::named(&definitions, name)).collect();
            build(chosen?, report)
        }
        Command::Clean { names } => Store::open(host::built_images())?.clean(&names),
    }
}

fn tell_left_out(unverified: &[Definition]) {
    let names: Vec<_> = unverified.iter().map(|image| image.name.as_str()).collect();
    if !names.is_empty() {
        info!("left out, because never verified here; name those that you want: {}", names.join(", "));
    }
}

fn report(name: &str, outcome: &build::Outcome) {
    results::line(format_args!("{name}: {outcome}"));
}

/// Builds what changed of these images, for a task that needs them.
pub(crate) fn ensure(names: &[String]) -> Result<(), Failure> {
    let definitions = host::repository().join("images");
    let chosen: Result<Vec<_>, _> = names.iter().map(|name| Definition::named(&definitions, name)).collect();
    build(chosen?, |_, _| {})
}

/// What the host needs only for some of these images.
fn needs(definitions: &[Definition]) -> Vec<Who> {
    let who = |image: &Definition| match image.family {
        Family::Deb if image.distro == "ubuntu" => Some(Who::Ubuntu),
        Family::Deb => None,
        Family::Rpm => Some(Who::Rpm),
    };
    definitions.iter().filter_map(who).collect()
}

/// Builds what changed of one image in a store of its own.
pub(crate) fn build_in(store: PathBuf, name: &str) -> Result<(), Failure> {
    let definition = Definition::named(&host::repository().join("images"), name)?;
    build_all(store, vec![definition], |_, _| {})
}

fn build(definitions: Vec<Definition>, tell: impl Fn(&str, &build::Outcome)) -> Result<(), Failure> {
    build_all(host::built_images(), definitions, tell)
}

fn build_all(
    store: PathBuf,
    definitions: Vec<Definition>,
    tell: impl Fn(&str, &build::Outcome),
) -> Result<(), Failure> {
    setup::ensure_for(&needs(&definitions))?;
    let store = Store::open(store)?;
    let locked = store.lock()?;
    let images = host::repository().join("images");
    let load = |definition| Recipe::load(&images, definition);
    let recipes: Vec<_> = definitions.into_iter().map(load).collect::<Result<_, _>>()?;
    offer::refresh(&store, &recipes)?;
    for recipe in recipes {
        let name = recipe.definition.name.clone();
        tell(&name, &build::bring_up_to_date(&locked, &recipe)?);
    }
    Ok(())
}
