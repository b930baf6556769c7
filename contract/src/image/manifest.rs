//! The manifest of a built image: everything that a trial needs to know of it.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kinds::{AgentChannel, Database};
use super::layout::{Bind, FsKind};
use crate::seal::{self, Damage, Depth};

/// `manifest.json` of a built image. File names are relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 3.
    pub schema: u32,
    /// The definition's name: `bookworm-mariadb`.
    pub name: String,
    /// SHA-256 over everything that the build depended on, lowercase hex.
    pub digest: String,
    /// `debian`, `fedora`, ...
    pub distro: String,
    /// `bookworm`, `42`, ...
    pub release: String,
    /// The image's own directory: `.`.
    pub dir: PathBuf,
    /// How a guest of this image boots.
    pub boot: Boot,
    /// The disks, in the order in which they are attached.
    pub disks: Vec<Disk>,
    /// File systems in files on those of the disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<Loop>,
    /// Directories that are mounted a second time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The processor model that an emulated guest needs, where the plainest one is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// The guest agent.
    pub agent: AgentFacts,
    /// How the host reaches it.
    #[serde(default)]
    pub channel: AgentChannel,
    /// The database server.
    pub server: Server,
    /// Versions of the packages that matter to a verdict.
    pub versions: BTreeMap<String, String>,
}

/// How a guest boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Boot {
    /// The machine starts a kernel from files of the host.
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// Its initrd.
        initrd: PathBuf,
        /// Its command line, without what the harness adds for its console.
        cmdline: String,
    },
    /// The machine's BIOS starts what it finds on the first disk.
    Firmware,
}

/// One disk of an image: a raw file, never written after the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Target name in the guest: `vda`.
    pub target: String,
    /// The raw file.
    pub file: PathBuf,
    /// What it holds: one on the whole disk, or one on each logical volume.
    pub file_systems: Vec<FileSystem>,
}

/// One file system of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// What evidence calls it: the disk's target, or group and name of a volume.
    pub name: String,
    /// Where it begins on the disk, bytes.
    pub start: u64,
    /// How long it is, bytes.
    pub bytes: u64,
    /// Its kind.
    pub fs: FsKind,
    /// Where the guest mounts it: `/`.
    pub mount: PathBuf,
}

/// A file system in a file of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// The file.
    pub file: PathBuf,
    /// What it holds; it begins at 0.
    pub file_system: FileSystem,
}

/// The guest agent of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFacts {
    /// The agent's systemd unit.
    pub unit: String,
    /// The path of the hook that the agent is configured to run.
    pub hook: PathBuf,
    /// The file that configures it; the packaged agent runs no hook without it.
    pub enabled_by: PathBuf,
}

/// The database server of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Which server.
    pub database: Database,
    /// Its systemd unit.
    pub unit: String,
    /// Its data directory in the guest.
    pub datadir: PathBuf,
    /// The directory of its binary logs in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlogs: Option<PathBuf>,
    /// Its TCP port in the guest.
    pub port: u16,
    /// The account of the load.
    pub user: String,
    /// File with that account's password, mode 0600.
    pub password_file: PathBuf,
}

/// Why a built image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is none.
    #[error("image `{name}` is not built: {} does not exist. Build it with `cargo xtask images build {name}`.", path.display())]
    NotBuilt {
        /// The image.
        name: String,
        /// Where its manifest should be.
        path: PathBuf,
    },
    /// It is there, but not usable.
    #[error("{}: {problem}. Build the image again with `cargo xtask images build {name}`.", path.display())]
    Unusable {
        /// The image.
        name: String,
        /// The manifest or the file it names.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Its files are no longer those that were built.
    #[error(
        "the image `{name}` is damaged: {damage}. `cargo xtask images check {name}` removes it, and the next build makes it anew."
    )]
    Damaged {
        /// The image.
        name: String,
        /// What is wrong.
        damage: Damage,
    },
}

impl Manifest {
    /// Every file system: those of the disks, then the loops.
    pub fn file_systems(&self) -> impl Iterator<Item = &FileSystem> {
        let loops = self.loops.iter().map(|mounted| &mounted.file_system);
        self.disks.iter().flat_map(|disk| &disk.file_systems).chain(loops)
    }

    /// The file system that holds this path of the guest, and the path as seen
    /// from its root.
    pub fn place<'a>(&'a self, path: &Path) -> Option<(&'a FileSystem, PathBuf)> {
        // A directory that is bound over a path is not itself a bind: one lookup is enough.
        let bound =
            self.binds.iter().find_map(|bind| Some(bind.from.join(path.strip_prefix(&bind.mount).ok()?)));
        let path = bound.as_deref().unwrap_or(path);
        let holders = self.file_systems().filter(|fs| path.starts_with(&fs.mount));
        let holder = holders.max_by_key(|fs| fs.mount.components().count())?;
        let inside = path.strip_prefix(&holder.mount).ok()?;
        Some((holder, Path::new("/").join(inside)))
    }

    /// Reads the manifest of image `name` under `images` (usually
    /// `target/images`) and makes its paths absolute. Every file that it names
    /// is checked to exist.
    pub fn read(images: &Path, name: &str) -> Result<Self, ManifestError> {
        let dir = images.join(name);
        let path = dir.join("manifest.json");
        let unusable = |path: &Path, problem: String| ManifestError::Unusable {
            name: name.to_owned(),
            path: path.to_owned(),
            problem,
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ManifestError::NotBuilt { name: name.to_owned(), path });
            }
            Err(e) => return Err(unusable(&path, e.to_string())),
        };
        let mut manifest: Self = serde_json::from_str(&text).map_err(|e| unusable(&path, e.to_string()))?;
        if manifest.schema != 3 {
            return Err(unusable(&path, format!("schema {} is not 3", manifest.schema)));
        }
        let dir = dir.canonicalize().map_err(|e| unusable(&dir, e.to_string()))?;
        let disks = manifest.disks.iter_mut().map(|disk| &mut disk.file);
        let boot = match &mut manifest.boot {
            Boot::Direct { kernel, initrd, .. } => vec![kernel, initrd],
            Boot::Firmware => vec![],
        };
        for file in disks.chain(boot).chain([&mut manifest.server.password_file]) {
            *file = dir.join(&*file);
            if let Err(e) = std::fs::metadata(&*file) {
                return Err(unusable(file, e.to_string()));
            }
        }
        manifest.dir = dir;
        Ok(manifest)
    }

    /// Checks that the image's files are those that were built; see [`seal::check`].
    pub fn check(&self, depth: Depth, is_over: &dyn Fn() -> bool) -> Result<(), ManifestError> {
        let damaged = |damage| ManifestError::Damaged { name: self.name.clone(), damage };
        seal::check(&self.dir, depth, is_over).map_err(damaged)
    }

    /// Marks the image as in use until the result is dropped, or the last process that inherits it ends:
    /// meanwhile nobody removes its files.
    pub fn hold(&self) -> Result<File, ManifestError> {
        let unusable = |problem: String| ManifestError::Unusable {
            name: self.name.clone(),
            path: self.dir.clone(),
            problem,
        };
        let held = File::open(&self.dir).map_err(|e| unusable(e.to_string()))?;
        match held.try_lock_shared() {
            // It may have been removed just before.
            Ok(()) if self.dir.join("manifest.json").exists() => Ok(held),
            Ok(()) | Err(TryLockError::WouldBlock) => {
                Err(unusable("the image was removed just now".to_owned()))
            }
            Err(TryLockError::Error(e)) => Err(unusable(format!("it cannot be locked: {e}"))),
        }
    }
}
