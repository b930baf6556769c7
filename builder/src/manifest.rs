//! The manifest that a build leaves beside the disks, for trials.

use std::collections::BTreeMap;
use std::path::PathBuf;

use contract::files;
use contract::image::{Boot, Disk, Manifest, Server};
use tooling::error::Failure;

use super::disks;
use super::recipe::Recipe;
use super::store::Scratch;

/// What a trial needs to know of an image, without the versions of its packages.
pub(super) fn manifest(
    recipe: &Recipe,
    digest: &str,
    boot: Boot,
    disks: Vec<Disk>,
    datadir: PathBuf,
) -> Manifest {
    let definition = &recipe.definition;
    Manifest {
        schema: 3,
        name: definition.name.clone(),
        digest: digest.to_owned(),
        distro: definition.distro.clone(),
        release: definition.release.clone(),
        dir: ".".into(),
        boot,
        disks,
        loops: disks::loops(definition),
        binds: definition.binds.clone(),
        memory_mib: definition.memory_mib,
        cpu: definition.cpu.clone(),
        agent: recipe.agent.clone(),
        channel: definition.channel,
        server: Server {
            database: definition.database,
            unit: recipe.server.unit.clone(),
            datadir,
            binlogs: recipe.server.binlogs.clone(),
            port: recipe.server.port,
            user: recipe.server.user.clone(),
            password_file: "load.secret".into(),
        },
        versions: BTreeMap::new(),
    }
}

/// Writes it beside the disks: the last file of an image.
pub(super) fn write_manifest(manifest: &Manifest, scratch: &Scratch) -> Result<(), Failure> {
    let path = scratch.image().join("manifest.json");
    Ok(files::write_json(&path, manifest)?)
}
