//! Builds what trials run on: guest images from the definitions under `images/`, and only those
//! whose inputs changed; the packages of the hooks; and programs of other Debian releases, which the
//! hooks are tested with.

mod apt_index;
mod available;
mod build;
mod build_log;
mod check;
mod cloud;
mod deb;
mod disks;
mod existing;
pub mod foreign_programs;
pub mod hook_program;
pub mod list;
mod manifest;
mod overlay;
pub mod packages;
mod partitions;
mod prototype;
mod recipe;
mod repositories;
mod rpm;
mod store;
mod verified;

use std::path::{Path, PathBuf};

use contract::image::{Boot, Claims, Definition, Origin};
use tooling::error::Failure;

pub use apt_index::UBUNTU_KEYS;
pub use build::{BuildOutcome, needed_mib};
pub use check::{Checked, Condition};
use recipe::Recipe;
use store::Store;
pub use store::{ImageState, Removed};
pub use verified::{Verified, record_verified};

/// Builds what changed of these images, which are defined in the directory `images`, in the
/// directory `store`, and reports each by its name as soon as it is up to date.
pub fn build(
    images: &Path,
    store: &Path,
    definitions: Vec<Definition>,
    report: impl Fn(&str, &BuildOutcome),
) -> Result<(), Failure> {
    hook_program::build()?;
    let store = Store::open(store.to_owned())?;
    let locked = store.lock()?;
    let load = |definition| Recipe::load(images, definition);
    let recipes: Vec<_> = definitions.into_iter().map(load).collect::<Result<_, _>>()?;
    available::refresh(&store, &recipes)?;
    for recipe in recipes {
        let name = recipe.definition.name.clone();
        report(&name, &build::bring_up_to_date(&locked, &recipe)?);
    }
    Ok(())
}

/// What a definition claims about a disk, with the layers in the directory `images`; its own disk, if it names one, is
/// left out.
pub fn claims(images: &Path, definition: Definition) -> Result<Claims, Failure> {
    let versions = match &definition.origin {
        Origin::Existing(disk) => (disk.agent_version.clone(), disk.server_version.clone()),
        Origin::Packages | Origin::CloudImage(_) => (None, None),
    };
    let recipe = Recipe::load(images, definition)?;
    let image = manifest::manifest(&recipe, "", Boot::Firmware, Vec::new(), PathBuf::new());
    let (agent_version, server_version) = versions;
    Ok(Claims { image, agent_version, server_version })
}

/// Reads the builds of these images in the directory `store`, or of all if none is named, with the guests saved
/// of them; removes what is damaged, and reports each.
pub fn check(store: &Path, names: &[String], report: impl FnMut(&Checked)) -> Result<(), Failure> {
    check::check(&Store::open(store.to_owned())?, names, report)
}

/// Removes the builds of these images from the directory `store`, and reports each; none where one is
/// in use.
pub fn clean(store: &Path, names: &[String], report: impl FnMut(&Removed)) -> Result<(), Failure> {
    Store::open(store.to_owned())?.clean(names, report)
}

/// The same of every image, and of everything that is kept between builds.
pub fn clean_all(store: &Path, report: impl FnMut(&Removed)) -> Result<(), Failure> {
    Store::open(store.to_owned())?.clean_all(report)
}
