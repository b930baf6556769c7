//! Layouts: how an image's file systems lie on its disks.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::input::{Mistake, Whole};
use crate::text::printable;

/// The smallest root disk that a server with its packages and some load fits on, MiB.
const MIN_ROOT_MIB: u64 = 1536;

/// The smallest file system other than the root: its own journal and some logs, MiB.
/// XFS needs at least 300; see mkfs.xfs(8).
const MIN_MIB: u64 = 128;
const MIN_XFS_MIB: u64 = 320;

/// What a volume group needs for itself: a header, and the extents that do not
/// divide evenly, MiB.
const GROUP_MIB: u64 = 8;

/// A kind of file system that a disk can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// The default of Debian and its derivatives.
    Ext4,
    /// The default of the RHEL family.
    Xfs,
    /// The default of Fedora and openSUSE.
    Btrfs,
}

impl FsKind {
    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs, Self::Btrfs].into_iter().find(|kind| kind.name() == name)
    }

    /// Its name, as mount(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl std::fmt::Display for FsKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One disk of a definition: a bare file system, or an LVM volume group with
/// one on each of its volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLayout {
    /// Target name in the guest: `vda`.
    pub target: String,
    /// Size, MiB.
    pub size_mib: u64,
    /// The name of the volume group, where there is one.
    pub group: Option<String>,
    /// Without a group exactly one, otherwise one for each volume in the order
    /// in which they lie on the disk.
    pub file_systems: Vec<FileSystemLayout>,
}

/// A file system of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystemLayout {
    /// The disk's target; of a volume its group and name: `data-tables`.
    pub name: String,
    /// Where the guest mounts it.
    pub mount: PathBuf,
    /// Its kind.
    pub fs: FsKind,
    /// Size, MiB.
    pub size_mib: u64,
}

/// A file system in a file on another one, as `mount -o loop` mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopLayout {
    /// The file in the guest.
    pub file: PathBuf,
    /// The file system; its name is `loop0`, `loop1`, ...
    pub file_system: FileSystemLayout,
}

/// A directory that is mounted a second time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// The directory.
    pub from: PathBuf,
    /// Where else it appears.
    pub mount: PathBuf,
}

impl DiskLayout {
    /// The device of one of this disk's file systems in the guest.
    pub fn device(&self, file_system: &FileSystemLayout) -> String {
        match self.group {
            None => format!("/dev/{}", self.target),
            Some(_) => format!("/dev/mapper/{}", file_system.name),
        }
    }
}

/// The size of a disk, MiB: to 16 TiB.
pub(super) type DiskMib = Whole<1, 16_777_216>;

/// A disk as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDisk {
    target: Spanned<String>,
    size_mib: Spanned<DiskMib>,
    mount: Option<Spanned<PathBuf>>,
    fs: Option<Spanned<FsKind>>,
    group: Option<Spanned<String>>,
    #[serde(default)]
    volume: Vec<RawVolume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: Spanned<String>,
    mount: Spanned<PathBuf>,
    fs: Spanned<FsKind>,
    size_mib: Spanned<DiskMib>,
}

/// A loop as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLoop {
    file: Spanned<PathBuf>,
    mount: Spanned<PathBuf>,
    fs: FsKind,
    size_mib: Spanned<DiskMib>,
}

/// A bind mount as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBind {
    from: Spanned<PathBuf>,
    mount: Spanned<PathBuf>,
}

/// Everything that is mounted.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) disks: Vec<DiskLayout>,
    pub(super) loops: Vec<LoopLayout>,
    pub(super) binds: Vec<Bind>,
}

/// Checks everything that a definition mounts.
pub(super) fn check(
    disks: Vec<RawDisk>,
    loops: Vec<RawLoop>,
    binds: Vec<RawBind>,
) -> Result<Mounts, Mistake> {
    let mut taken = Vec::new();
    let disks = check_disks(disks, &mut taken)?;
    let mut checked = Vec::new();
    for (RawLoop { file, mount, fs, size_mib }, n) in loops.into_iter().zip(0..) {
        check_path("file", &file)?;
        check_mount(&mount, &mut taken)?;
        check_size(&size_mib, fs)?;
        let (mount, size_mib) = (mount.into_inner(), mib(&size_mib));
        let file_system = FileSystemLayout { name: format!("loop{n}"), mount, fs, size_mib };
        checked.push(LoopLayout { file: file.into_inner(), file_system });
    }
    let (loops, mut checked) = (checked, Vec::new());
    for RawBind { from, mount } in binds {
        check_path("from", &from)?;
        check_mount(&mount, &mut taken)?;
        checked.push(Bind { from: from.into_inner(), mount: mount.into_inner() });
    }
    Ok(Mounts { disks, loops, binds: checked })
}

/// Checks the disks of a definition. The first is the root.
fn check_disks(disks: Vec<RawDisk>, taken: &mut Vec<PathBuf>) -> Result<Vec<DiskLayout>, Mistake> {
    let mut layout = Vec::new();
    for (disk, letter) in disks.into_iter().zip('a'..='z') {
        let root = layout.is_empty();
        layout.push(check_disk(disk, format!("vd{letter}"), root, taken)?);
    }
    if layout.is_empty() {
        let message = "there is no root disk. Add a `[[disk]]` with `target = \"vda\"` and `mount = \"/\"`.";
        return Err(Mistake::in_file(message));
    }
    Ok(layout)
}

/// Checks one disk. `taken` are the mounts of those before it.
fn check_disk(
    disk: RawDisk,
    target: String,
    root: bool,
    taken: &mut Vec<PathBuf>,
) -> Result<DiskLayout, Mistake> {
    let at = disk.target.span();
    let size_mib = mib(&disk.size_mib);
    if *disk.target.get_ref() != target {
        return Err(Mistake::new(&at, format!("disks are named in order; this one must be `{target}`.")));
    }
    let (group, volumes) = match (disk.mount, disk.fs, disk.group, disk.volume) {
        (Some(mount), Some(fs), None, volumes) if volumes.is_empty() => {
            if root && mount.get_ref() != Path::new("/") {
                return Err(Mistake::new(
                    &mount.span(),
                    "the first disk is the root: write `mount = \"/\"`.",
                ));
            }
            if root && size_mib < MIN_ROOT_MIB {
                let message = format!("the disk is too small. Give at least {MIN_ROOT_MIB}.");
                return Err(Mistake::new(&disk.size_mib.span(), message));
            }
            let name = Spanned::new(disk.target.span(), target.clone());
            (None, vec![RawVolume { name, mount, fs, size_mib: disk.size_mib }])
        }
        (None, None, Some(group), volumes) if !volumes.is_empty() && !root => {
            check_name(&group)?;
            let taken: u64 = volumes.iter().map(|volume| mib(&volume.size_mib)).sum();
            if taken + GROUP_MIB > size_mib {
                let least = taken + GROUP_MIB;
                let message = format!("the volumes do not fit on the disk. Give at least {least}.");
                return Err(Mistake::new(&disk.size_mib.span(), message));
            }
            (Some(group.into_inner()), volumes)
        }
        _ if root => {
            let message = "the root disk holds one file system: write `mount = \"/\"` and `fs = \"ext4\"`.";
            return Err(Mistake::new(&at, message));
        }
        _ => {
            let message = "a disk holds either one file system (`mount` and `fs`) or a volume group (`group`, and a \
                 `[[disk.volume]]` for each volume).";
            return Err(Mistake::new(&at, message));
        }
    };
    let mut file_systems: Vec<FileSystemLayout> = Vec::new();
    for RawVolume { name, mount, fs, size_mib } in volumes {
        check_mount(&mount, taken)?;
        let name = match &group {
            None => name.into_inner(),
            Some(group) => {
                check_name(&name)?;
                format!("{group}-{}", name.get_ref())
            }
        };
        if file_systems.iter().any(|other| other.name == name) {
            return Err(Mistake::new(&mount.span(), format!("there are two volumes `{name}`.")));
        }
        let fs = fs.into_inner();
        check_size(&size_mib, fs)?;
        let (mount, size_mib) = (mount.into_inner(), mib(&size_mib));
        file_systems.push(FileSystemLayout { name, mount, fs, size_mib });
    }
    Ok(DiskLayout { target, size_mib, group, file_systems })
}

/// Names of groups and volumes; a hyphen would be doubled in the device's name.
fn check_name(name: &Spanned<String>) -> Result<(), Mistake> {
    let text = name.get_ref();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Mistake::new(&name.span(), format!("`{}`: use lowercase letters and digits only.", printable(text))))
}

fn mib(size: &Spanned<DiskMib>) -> u64 {
    size.get_ref().0.into()
}

fn check_size(size_mib: &Spanned<DiskMib>, fs: FsKind) -> Result<(), Mistake> {
    let least = if fs == FsKind::Xfs { MIN_XFS_MIB } else { MIN_MIB };
    if mib(size_mib) < least {
        return Err(Mistake::new(&size_mib.span(), format!("the disk is too small. Give at least {least}.")));
    }
    Ok(())
}

fn check_path(key: &str, path: &Spanned<PathBuf>) -> Result<(), Mistake> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let text = path.get_ref();
    if !text.is_absolute()
        || text.components().any(|part| part == Component::ParentDir)
        || !text.as_os_str().as_encoded_bytes().iter().all(|b| plain(*b))
    {
        let message = format!("`{key}` must be an absolute path of letters, digits and `._-`.");
        return Err(Mistake::new(&path.span(), message));
    }
    Ok(())
}

/// Checks a mount point, and adds it to those that are taken.
fn check_mount(mount: &Spanned<PathBuf>, taken: &mut Vec<PathBuf>) -> Result<(), Mistake> {
    check_path("mount", mount)?;
    let path = mount.get_ref();
    if taken.contains(path) {
        let message =
            format!("two file systems are mounted at {}. Give each a place of its own.", path.display());
        return Err(Mistake::new(&mount.span(), message));
    }
    taken.push(path.clone());
    Ok(())
}
