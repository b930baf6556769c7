//! Builds one image, stage by stage.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contract::image::{Boot, Definition, Disk, Family, Manifest, Origin};
use contract::seal::{self, Depth};
use tooling::error::Failure;
use tooling::space;
use tracing::warn;

use super::build_log::BuildLog;
use super::manifest::{manifest, write_manifest};
use super::recipe::Recipe;
use super::repositories::Repositories;
use super::store::{ImageState, LockedStore, Scratch, Store, remove_unused};
use super::{available, cloud, deb, disks, existing, overlay, rpm};

/// The space that a build needs besides the disk that it makes, for the unpacked root and the downloads, MiB.
const WORK_MIB: u64 = 2048;

/// How an image was brought up to date.
#[derive(Debug)]
pub enum BuildOutcome {
    /// Nothing that it depends on has changed.
    Unchanged,
    /// An earlier build fits again.
    Reused,
    /// It was built, in this time.
    Built(Duration),
}

impl fmt::Display for BuildOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Reused => f.write_str("unchanged since an earlier build, which is in use again"),
            Self::Built(time) => write!(f, "built in {:.1} s", time.as_secs_f64()),
        }
    }
}

/// Builds the image of `recipe` if what it depends on has changed.
pub(super) fn bring_up_to_date(store: &LockedStore<'_>, recipe: &Recipe) -> Result<BuildOutcome, Failure> {
    let start = Instant::now();
    let name = &recipe.definition.name;
    let packages = available::packages(store.store(), recipe)?;
    let digest = recipe.digest(&packages)?;
    if is_whole(&recipe.definition, &store.store().build_of(name, &digest))? {
        if store.store().state(name, Some(&digest)) == ImageState::Built {
            return Ok(BuildOutcome::Unchanged);
        }
        if store.reuse(name, &digest)? {
            return Ok(BuildOutcome::Reused);
        }
    }
    let scratch = store.scratch(name)?;
    check_space(recipe, scratch.path())?;
    let log = BuildLog::create(store.store().log(name), name)?;
    build(store.store(), recipe, &digest, &scratch, &log)?;
    store.publish(scratch, name, &digest)?;
    Ok(BuildOutcome::Built(start.elapsed()))
}

/// Whether this build is there as it was built; the caller has the store's lock. One that is damaged is removed, unless it holds somebody's
/// own disk.
fn is_whole(definition: &Definition, build: &Path) -> Result<bool, Failure> {
    if !build.exists() {
        return Ok(false);
    }
    let Err(damage) = seal::check(build, Depth::Stamps, &|| false) else { return Ok(true) };
    let name = &definition.name;
    if let Origin::Existing(disk) = &definition.origin {
        return Err(Failure::Infrastructure(format!(
            "the image `{name}` is damaged: {damage}. It is a copy of {}: `cargo xtask images clean {name}` removes \
             the copy, and the next build makes another.",
            disk.file.display()
        )));
    }
    if !remove_unused(build)? {
        return Err(Failure::Infrastructure(format!(
            "the image `{name}` is damaged: {damage}. A run still uses it; try again when that run has ended."
        )));
    }
    warn!("{name}: the image was damaged ({damage}), so it is built again");
    Ok(false)
}

fn build(
    store: &Store,
    recipe: &Recipe,
    digest: &str,
    scratch: &Scratch,
    log: &BuildLog,
) -> Result<(), Failure> {
    let (boot, disks) = match &recipe.definition.origin {
        Origin::Packages => from_packages(store, recipe, scratch, log)?,
        Origin::CloudImage(image) => {
            (Boot::Firmware, cloud::build(recipe, image, &store.cloud(), scratch, log)?)
        }
        Origin::Existing(disk) => return existing::build(recipe, disk, digest, scratch, log),
    };
    let left = scratch.path().join("freezeframe");
    let manifest = Manifest {
        versions: read_versions(recipe, &left.join("versions"))?,
        ..manifest(recipe, digest, boot, disks, read_datadir(&left.join("datadir"))?)
    };
    write_manifest(&manifest, scratch)
}

/// Installs packages into an empty root, and makes disks and a kernel from it.
fn from_packages(
    store: &Store,
    recipe: &Recipe,
    scratch: &Scratch,
    log: &BuildLog,
) -> Result<(Boot, Vec<Disk>), Failure> {
    let path = scratch.path();
    log.stage("install packages", || {
        overlay::write(recipe, path, log)?;
        match recipe.definition.family {
            Family::Deb => deb::install(recipe, path, log),
            Family::Rpm => rpm::install(recipe, &Repositories::new(store, &recipe.definition), path, log),
        }
    })?;
    let disks = log.stage("write the disks", || disks::write(recipe, scratch, log))?;
    let left = path.join("freezeframe");
    for file in ["vmlinuz", "initrd.img"] {
        let target = scratch.image().join(file);
        fs::rename(left.join("boot").join(file), &target).map_err(|e| Failure::io("create", &target, e))?;
        disks::read_only(&target)?;
    }
    let boot =
        Boot::Direct { kernel: "vmlinuz".into(), initrd: "initrd.img".into(), cmdline: recipe.cmdline() };
    Ok((boot, disks))
}

/// The space that building this image needs, MiB.
pub fn needed_mib(definition: &Definition) -> Result<u64, Failure> {
    let disks = match &definition.origin {
        Origin::Packages => definition.disks.iter().map(|disk| disk.size_mib).sum(),
        Origin::CloudImage(image) => image.size_mib.unwrap_or_default(),
        Origin::Existing(disk) => {
            let metadata = fs::metadata(&disk.file).map_err(|e| Failure::io("inspect", &disk.file, e))?;
            metadata.len() / (1024 * 1024)
        }
    };
    Ok(disks + WORK_MIB)
}

fn check_space(recipe: &Recipe, path: &Path) -> Result<(), Failure> {
    let image = &recipe.definition;
    space::require(&format!("building `{}` needs", image.name), path, needed_mib(image)?)
}

/// The data directory that the server reported.
fn read_datadir(file: &Path) -> Result<PathBuf, Failure> {
    let text = fs::read_to_string(file).map_err(|e| Failure::io("read", file, e))?;
    let datadir: PathBuf = Path::new(text.trim()).components().collect();
    if datadir.is_absolute() {
        return Ok(datadir);
    }
    Err(Failure::Infrastructure(format!(
        "the server reported no data directory: {} holds `{}`.",
        file.display(),
        text.trim()
    )))
}

/// The versions of the packages that the recipe names.
fn read_versions(recipe: &Recipe, file: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = fs::read_to_string(file).map_err(|e| Failure::io("read", file, e))?;
    let requested = recipe.packages();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| requested.contains(name))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use contract::image::Existing;
    use tooling::host;

    use super::*;

    const DIGEST: &str = "0123456789abcdef";

    /// The definition of an image, and its build.
    fn built(root: &Path) -> (Definition, PathBuf) {
        let definition = Definition::named(&host::definitions(), "bookworm-mariadb").unwrap();
        let store = Store::open(root.join("images")).unwrap();
        let locked = store.lock().unwrap();
        let scratch = locked.scratch(&definition.name).unwrap();
        fs::write(scratch.image().join("vda.raw"), vec![7; 3 << 20]).unwrap();
        locked.publish(scratch, &definition.name, DIGEST).unwrap();
        drop(locked);
        let build = store.build_of(&definition.name, DIGEST);
        (definition, build)
    }

    fn truncate(build: &Path) {
        File::options().write(true).open(build.join("vda.raw")).unwrap().set_len(9).unwrap();
    }

    #[test]
    fn a_truncated_image_is_built_again() {
        let root = tempfile::tempdir().unwrap();
        let (definition, build) = built(root.path());
        assert!(is_whole(&definition, &build).unwrap());
        truncate(&build);
        assert!(!is_whole(&definition, &build).unwrap());
        assert!(!build.exists());
        assert!(!is_whole(&definition, &build).unwrap());
    }

    #[test]
    fn a_damaged_image_that_a_run_uses_stays() {
        let root = tempfile::tempdir().unwrap();
        let (definition, build) = built(root.path());
        truncate(&build);
        let run = File::open(&build).unwrap();
        run.try_lock_shared().unwrap();
        let said = is_whole(&definition, &build).unwrap_err().to_string();
        assert!(
            said.contains("vda.raw has 9 bytes, and had 3145728 when it was made. A run still uses it"),
            "{said}"
        );
        assert!(build.exists());
    }

    #[test]
    fn nobodys_own_disk_is_copied_again_without_a_word() {
        let root = tempfile::tempdir().unwrap();
        let (definition, build) = built(root.path());
        truncate(&build);
        let origin = Origin::Existing(Existing {
            file: "/srv/own.qcow2".into(),
            password_file: "/srv/password".into(),
            agent_version: None,
            server_version: None,
            agent: None,
            server: None,
        });
        let definition = Definition { origin, ..definition };
        let said = is_whole(&definition, &build).unwrap_err().to_string();
        for part in
            ["vda.raw has 9 bytes", "a copy of /srv/own.qcow2", "`cargo xtask images clean bookworm-mariadb`"]
        {
            assert!(said.contains(part), "{said}");
        }
        assert!(build.exists());
    }
}
