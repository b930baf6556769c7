//! `cargo xtask images`: builds guest images from the definitions under
//! `images/`, and only those whose inputs changed.

mod archive;
mod build;
mod cloud;
mod deb;
mod disks;
mod proto;
mod recipe;
mod run;
mod store;

use std::path::PathBuf;

use freezeframe::image::Definition;
use serde::Serialize;

use crate::error::Failure;
use crate::host;
use archive::Archive;
pub(crate) use archive::{TAKE_EXPIRED, mmdebstrap};
use recipe::Recipe;
pub(crate) use run::Log;
use store::{State, Store};

/// Builds, lists and removes guest images.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists every image that has a definition, and whether it is built.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Builds what changed: the definition, what it builds on, the hook, or the packages of its distribution.
    Build {
        /// The images; all of them when none is named.
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
        Command::List { json } => list(Definition::list(&definitions)?, json),
        Command::Build { names } if names.is_empty() => build(Definition::list(&definitions)?, report),
        Command::Build { names } => {
            let chosen: Result<Vec<_>, _> =
                names.iter().map(|name| Definition::named(&definitions, name)).collect();
            build(chosen?, report)
        }
        Command::Clean { names } => Store::open(host::built_images())?.clean(&names),
    }
}

fn report(name: &str, outcome: &build::Outcome) {
    println!("{name}: {outcome}");
}

/// One line of `images list`.
#[derive(Serialize)]
struct Listed {
    name: String,
    summary: String,
    family: &'static str,
    distro: String,
    release: String,
    database: &'static str,
    memory_mib: u64,
    state: State,
    path: PathBuf,
}

fn list(definitions: Vec<Definition>, json: bool) -> Result<(), Failure> {
    let store = Store::open(host::built_images())?;
    let mut listed = Vec::new();
    for definition in definitions {
        let recipe = Recipe::load(&host::repository().join("images"), definition)?;
        let wanted = match Archive::new(&store, &recipe.definition).known(&recipe)? {
            Some(packages) => Some(recipe.digest(&packages)?),
            None => None,
        };
        let definition = recipe.definition;
        listed.push(Listed {
            state: store.state(&definition.name, wanted.as_deref()),
            path: store.image(&definition.name),
            name: definition.name,
            summary: definition.summary,
            family: definition.family.layer(),
            distro: definition.distro,
            release: definition.release,
            database: definition.database.name(),
            memory_mib: definition.memory_mib,
        });
    }
    if json {
        let text = serde_json::to_string_pretty(&listed)
            .map_err(|error| Failure::Infrastructure(format!("cannot write JSON: {error}.")))?;
        println!("{text}");
    } else {
        for image in listed {
            println!("{:<20} {:<8} {}", image.name, image.state, image.summary);
        }
    }
    Ok(())
}

/// Builds what changed of these images, for a task that needs them.
pub(crate) fn ensure(names: &[String]) -> Result<(), Failure> {
    let definitions = host::repository().join("images");
    let chosen: Result<Vec<_>, _> = names.iter().map(|name| Definition::named(&definitions, name)).collect();
    build(chosen?, |_, _| {})
}

fn build(definitions: Vec<Definition>, tell: impl Fn(&str, &build::Outcome)) -> Result<(), Failure> {
    let store = Store::open(host::built_images())?;
    let locked = store.lock()?;
    for definition in definitions {
        let recipe = Recipe::load(&host::repository().join("images"), definition)?;
        let name = recipe.definition.name.clone();
        tell(&name, &build::bring_up_to_date(&locked, &recipe)?);
    }
    Ok(())
}
