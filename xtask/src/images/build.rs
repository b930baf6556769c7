//! Builds one image, stage by stage.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use freezeframe::image::{Disk, Family, Manifest, Server};

use super::archive::Archive;
use super::deb;
use super::recipe::Recipe;
use super::run::Log;
use super::store::{LockedStore, Scratch, State};
use crate::error::Failure;
use crate::host;

/// What a build needs beside the disk that it makes: the unpacked root and the downloads.
const WORK_MIB: u64 = 2048;

/// The features of the root's ext4. Fixed, because the host's `mke2fs` may know
/// newer ones that the kernel or the checker of an older guest do not.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// What it took to bring an image up to date.
#[derive(Debug)]
pub(super) enum Outcome {
    Unchanged,
    Reused,
    Built(Duration),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Reused => f.write_str("unchanged since an earlier build, which is in use again"),
            Self::Built(time) => write!(f, "built in {:.1} s", time.as_secs_f64()),
        }
    }
}

/// Builds the image of `recipe` if what it depends on has changed.
pub(super) fn bring_up_to_date(store: &LockedStore<'_>, recipe: &Recipe) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let name = &recipe.definition.name;
    let packages = Archive::new(store.store(), &recipe.definition).packages(recipe)?;
    let digest = recipe.digest(&packages)?;
    if store.store().state(name, Some(&digest)) == State::Built {
        return Ok(Outcome::Unchanged);
    }
    if store.reuse(name, &digest)? {
        return Ok(Outcome::Reused);
    }
    let scratch = store.scratch(name)?;
    check_space(recipe, scratch.path())?;
    let log = Log::create(store.store().log(name), name)?;
    build(recipe, &digest, &scratch, &log)?;
    store.publish(scratch, name, &digest)?;
    Ok(Outcome::Built(start.elapsed()))
}

fn build(recipe: &Recipe, digest: &str, scratch: &Scratch, log: &Log) -> Result<(), Failure> {
    let path = scratch.path();
    log.stage("install packages", || match recipe.definition.family {
        Family::Deb => {
            deb::write_overlay(recipe, path, log)?;
            deb::install(recipe, path, log)
        }
    })?;
    log.stage("write the disks", || write_disks(recipe, scratch, log))?;
    let left = path.join("freezeframe");
    for file in ["vmlinuz", "initrd.img"] {
        let target = scratch.image().join(file);
        fs::rename(left.join("boot").join(file), &target).map_err(|e| Failure::io("create", &target, &e))?;
        read_only(&target)?;
    }
    write_manifest(recipe, digest, &left, &scratch.image().join("manifest.json"))
}

fn check_space(recipe: &Recipe, path: &Path) -> Result<(), Failure> {
    let disks: u64 = recipe.definition.disks.iter().map(|disk| disk.size_mib).sum();
    let (needed, free) = (disks + WORK_MIB, host::free_mib(path)?);
    if free < needed {
        return Err(Failure::Infrastructure(format!(
            "building `{}` needs {needed} MiB in {}, and {free} MiB are free. Make room, for instance with \
             `cargo xtask images clean`.",
            recipe.definition.name,
            host::built_images().display()
        )));
    }
    Ok(())
}

fn write_disks(recipe: &Recipe, scratch: &Scratch, log: &Log) -> Result<(), Failure> {
    let rootfs = scratch.path().join("rootfs");
    // The deepest mount first, so that each disk takes what is under its mount
    // and no other disk's. What is left is the root.
    let mut disks: Vec<_> = recipe.definition.disks.iter().collect();
    disks.sort_by_key(|disk| std::cmp::Reverse(disk.mount.components().count()));
    for disk in disks {
        let inside = disk.mount.strip_prefix("/").unwrap_or(&disk.mount);
        let tree = rootfs.join(inside);
        let file = scratch.image().join(disk_file(&disk.mount));
        let mut mke2fs = host::as_namespace_root("mke2fs")?;
        mke2fs
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", EXT4_FEATURES])
            // mke2fs takes over the owner of everything but the root directory itself.
            .args(["-E", &format!("root_owner={}", owner(&tree)?), "-d"])
            .arg(&tree)
            .arg(&file)
            .arg(format!("{}M", disk.size_mib));
        log.run(mke2fs)?;
        let mut e2fsck = host::command("e2fsck")?;
        e2fsck.arg("-fn").arg(&file);
        log.run(e2fsck)?;
        read_only(&file)?;
        if tree != rootfs {
            // The mount point stays.
            let mut find = host::as_namespace_root("find")?;
            find.arg(&tree).args(["-mindepth", "1", "-delete"]);
            log.run(find)?;
        }
    }
    Ok(())
}

/// The owner of a directory as `UID:GID`, seen from where the disks are made.
fn owner(dir: &Path) -> Result<String, Failure> {
    let mut stat = host::as_namespace_root("stat")?;
    let output = stat.args(["--format", "%u:%g"]).arg(dir).output();
    let output = output.map_err(|e| Failure::io("look at", dir, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(Failure::Question(format!(
        "a disk is to be mounted at {}, where the packages and layers put no directory. Name one that they do.",
        dir.display()
    )))
}

/// `root.raw`, `srv-logs.raw`.
fn disk_file(mount: &Path) -> String {
    match mount.to_string_lossy().trim_matches('/') {
        "" => "root.raw".to_owned(),
        place => format!("{}.raw", place.replace('/', "-")),
    }
}

/// Trials write to overlays only.
fn read_only(path: &Path) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(|e| Failure::io("change", path, &e))
}

/// `left` is what the customizing scripts left for the host.
fn write_manifest(recipe: &Recipe, digest: &str, left: &Path, path: &Path) -> Result<(), Failure> {
    let definition = &recipe.definition;
    let manifest = Manifest {
        schema: 1,
        name: definition.name.clone(),
        digest: digest.to_owned(),
        distro: definition.distro.clone(),
        release: definition.release.clone(),
        kernel: "vmlinuz".into(),
        initrd: "initrd.img".into(),
        cmdline: recipe.cmdline(),
        disks: definition
            .disks
            .iter()
            .map(|disk| Disk {
                target: disk.target.clone(),
                file: disk_file(&disk.mount).into(),
                fs: disk.fs.clone(),
                mount: disk.mount.clone(),
            })
            .collect(),
        memory_mib: definition.memory_mib,
        agent: recipe.agent.clone(),
        server: Server {
            database: definition.database,
            unit: recipe.server.unit.clone(),
            datadir: read_datadir(&left.join("datadir"))?,
            binlogs: recipe.server.binlogs.clone(),
            port: recipe.server.port,
            user: recipe.server.user.clone(),
            password_file: "load.secret".into(),
        },
        versions: read_versions(recipe, &left.join("versions"))?,
    };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| Failure::Infrastructure(format!("cannot write {}: {error}.", path.display())))?;
    fs::write(path, text + "\n").map_err(|e| Failure::io("write", path, &e))
}

/// The data directory that the server says it has.
fn read_datadir(file: &Path) -> Result<PathBuf, Failure> {
    let text = fs::read_to_string(file).map_err(|e| Failure::io("read", file, &e))?;
    let datadir: PathBuf = Path::new(text.trim()).components().collect();
    if datadir.is_absolute() {
        return Ok(datadir);
    }
    Err(Failure::Infrastructure(format!(
        "the server names no data directory: {} holds `{}`.",
        file.display(),
        text.trim()
    )))
}

/// The versions of the packages that the recipe asks for by name.
fn read_versions(recipe: &Recipe, file: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let text = fs::read_to_string(file).map_err(|e| Failure::io("read", file, &e))?;
    let asked = recipe.packages();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| asked.contains(name))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}
