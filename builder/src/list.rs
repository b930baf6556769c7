//! Describes every image that has a definition, built or not.

use std::path::{Path, PathBuf};

use contract::image::{Definition, DiskLayout, Manifest, Origin};
use serde::Serialize;
use tooling::error::Failure;

use super::available;
use super::recipe::Recipe;
use super::store::{ImageState, Store, allocated_mib};
use super::verified::Verified;
use crate::hook_program;

/// One image.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is, in a sentence.
    pub summary: String,
    /// `deb` or `rpm`.
    pub family: &'static str,
    /// Its distribution.
    pub distro: String,
    /// The distribution's release.
    pub release: String,
    /// Its database server.
    pub database: &'static str,
    /// Memory of its guests, MiB.
    pub memory_mib: u64,
    /// The kinds of its file systems.
    pub layout: String,
    /// Whether it is built.
    pub state: ImageState,
    /// Where it is, once it is built.
    pub path: PathBuf,
    /// Why the project's own tests have never run it.
    pub unverified: Option<String>,
    /// What is known once it is built.
    #[serde(flatten)]
    pub built: Option<Built>,
}

/// What is known of a built image only.
#[derive(Debug, Serialize)]
pub struct Built {
    /// The digest of its inputs, lowercase hex.
    pub digest: String,
    /// The version of its guest agent.
    pub agent_version: Option<String>,
    /// The version of its database server.
    pub database_version: Option<String>,
    /// What its files take up on the disk, MiB.
    pub allocated_mib: u64,
    /// The last run that verified this build.
    pub verified: Option<Verified>,
}

/// Describes the images of `definitions`, which are those in the directory `images`, and what the
/// directory `store` has of them.
pub fn list(images: &Path, store: &Path, definitions: Vec<Definition>) -> Result<Vec<Listed>, Failure> {
    let store = Store::open(store.to_owned())?;
    if definitions.iter().any(|definition| store.manifest(&definition.name).is_some()) {
        // What is built is compared with what would be built now.
        hook_program::build()?;
    }
    definitions.into_iter().map(|definition| inspect(images, &store, definition)).collect()
}

fn inspect(images: &Path, store: &Store, definition: Definition) -> Result<Listed, Failure> {
    let recipe = Recipe::load(images, definition)?;
    let name = &recipe.definition.name;
    let wanted = match available::known(store, &recipe)? {
        Some(packages) if store.manifest(name).is_some() => Some(recipe.digest(&packages)?),
        _ => None,
    };
    let (state, path) = (store.state(name, wanted.as_deref()), store.image(name));
    let built = match store.manifest(name) {
        Some(manifest) => Some(Built::inspect(&recipe, manifest, &path)?),
        None => None,
    };
    let definition = recipe.definition;
    Ok(Listed {
        layout: layout(&definition),
        state,
        path,
        built,
        name: definition.name,
        summary: definition.summary,
        family: definition.family.layer(),
        distro: definition.distro,
        release: definition.release,
        database: definition.database.name(),
        memory_mib: definition.memory_mib,
        unverified: definition.unverified,
    })
}

impl Built {
    fn inspect(recipe: &Recipe, manifest: Manifest, path: &Path) -> Result<Self, Failure> {
        let version = |package: &str| manifest.versions.get(package).cloned();
        let path = path.canonicalize().map_err(|e| Failure::io("inspect", path, e))?;
        Ok(Self {
            agent_version: version("qemu-guest-agent"),
            database_version: recipe.server_packages.iter().find_map(|package| version(package)),
            allocated_mib: allocated_mib(&path),
            verified: Verified::read(&path, &manifest.digest),
            digest: manifest.digest,
        })
    }
}

/// The kinds of file systems, the root's first, one word for each disk.
fn layout(definition: &Definition) -> String {
    let disk = |disk: &DiskLayout| match disk.group {
        Some(_) => "lvm".to_owned(),
        None => disk.file_systems.iter().map(|fs| fs.fs.to_string()).collect(),
    };
    if definition.origin != Origin::Packages {
        return "as it came".to_owned();
    }
    let loops = definition.loops.iter().map(|_| "loop".to_owned());
    let binds = definition.binds.iter().map(|_| "bind".to_owned());
    definition.disks.iter().map(disk).chain(loops).chain(binds).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use tooling::host;

    use super::*;

    #[test]
    fn layouts_are_described_in_few_words() {
        let images = host::definitions();
        let described = |name: &str| layout(&Definition::named(&images, name).unwrap());
        assert_eq!(described("bookworm-mariadb"), "ext4");
        assert_eq!(described("bookworm-mariadb-lvm"), "ext4 + lvm");
        assert_eq!(described("bookworm-mariadb-xfs-data"), "ext4 + xfs + ext4");
        assert_eq!(described("bookworm-mariadb-bind"), "ext4 + bind");
    }

    #[test]
    fn the_documentation_tells_of_every_image() {
        let page = include_str!("../../docs/images.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for image in Definition::list(&host::definitions()).unwrap() {
            let tested = if image.unverified.is_some() { "no: unverified here" } else { "yes" };
            let row = format!("| `{}` | {} | {tested} |", image.name, image.summary);
            assert!(rows.contains(&row.as_str()), "docs/images.md lacks this row:\n{row}");
        }
    }

    #[test]
    fn the_nightly_run_builds_every_unverified_image() {
        let workflow = include_str!("../../.github/workflows/nightly.yml");
        for image in Definition::list(&host::definitions()).unwrap() {
            let listed = workflow.contains(&format!("          - {}\n", image.name));
            assert_eq!(listed, image.unverified.is_some(), "{} in nightly.yml", image.name);
        }
    }

    #[test]
    fn the_documentation_shows_a_definition_as_it_is() {
        let page = include_str!("../../docs/images.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        // The definition has one repository more.
        let (first, _) = example.split_once("\n[[disk]]").unwrap();
        assert!(include_str!("../../images/alma9-mariadb.toml").starts_with(first));
    }
}
