//! Writes the disks of an image from the directory that its packages went to.
//! No mount, and root only for volume groups.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::image::{Bind, Definition, Disk, DiskLayout, FileSystem, FileSystemLayout, FsKind, Loop};
use tooling::command::{self, NamespaceRoot, shell, shell_in};
use tooling::error::Failure;
use tooling::host;
use xshell::cmd;

use super::build_log::BuildLog;
use super::prototype;
use super::recipe::Recipe;
use super::store::Scratch;

const MIB: u64 = 1 << 20;

/// The features of ext4. Fixed, because the host's `mke2fs` may know newer ones
/// that the kernel or the checker of an older guest do not.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The same of XFS; and GRUB, which reads the snapshot, must know them as well.
const XFS_FEATURES: &str = "crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=0,inobtcount=0";

/// Writes every disk, and returns what they hold.
pub(super) fn write(recipe: &Recipe, scratch: &Scratch, log: &BuildLog) -> Result<Vec<Disk>, Failure> {
    let layout = &recipe.definition.disks;
    for bind in &recipe.definition.binds {
        write_bind(bind, scratch, log)?;
    }
    // Loops first: they are files of the others.
    for mounted in &recipe.definition.loops {
        write_file_system(&mounted.file_system, scratch, log)?;
        let (from, to) = (part(scratch, &mounted.file_system), in_tree(scratch, &mounted.file));
        let sh = shell()?;
        log.run(cmd!(NamespaceRoot(&sh), "cp --sparse=always {from} {to}"))?;
    }
    // The deepest mount first, so that each file system takes what is under its
    // mount and no other's. What is left is the root.
    let mut file_systems: Vec<_> = layout.iter().flat_map(|disk| &disk.file_systems).collect();
    file_systems.sort_by_key(|fs| std::cmp::Reverse(fs.mount.components().count()));
    for fs in file_systems {
        write_file_system(fs, scratch, log)?;
    }
    layout.iter().map(|disk| write_disk(disk, scratch, log)).collect()
}

/// The loops, as a manifest describes them.
pub(super) fn loops(definition: &Definition) -> Vec<Loop> {
    let loops = definition.loops.iter();
    loops
        .map(|mounted| Loop { file: mounted.file.clone(), file_system: placed(&mounted.file_system, 0) })
        .collect()
}

/// A path of the guest in the directory that its packages went to.
fn in_tree(scratch: &Scratch, path: &Path) -> PathBuf {
    scratch.path().join("rootfs").join(path.strip_prefix("/").unwrap_or(path))
}

/// Moves what the packages put where a directory will be bound to that
/// directory, unless it is one of theirs.
fn write_bind(bind: &Bind, scratch: &Scratch, log: &BuildLog) -> Result<(), Failure> {
    let (from, mount) = (in_tree(scratch, &bind.from), in_tree(scratch, &bind.mount));
    if from.exists() {
        return Ok(());
    }
    const MOVE: &str = "mkdir -p \"${1%/*}\"; mv \"$2\" \"$1\"; mkdir \"$2\"";
    let sh = shell()?;
    log.run(cmd!(NamespaceRoot(&sh), "sh -euc {MOVE} sh {from} {mount}"))
}

/// The file of a file system until its disk is written: `vda.fs`.
fn part(scratch: &Scratch, fs: &FileSystemLayout) -> PathBuf {
    scratch.path().join(format!("{}.fs", fs.name))
}

fn write_file_system(fs: &FileSystemLayout, scratch: &Scratch, log: &BuildLog) -> Result<(), Failure> {
    let rootfs = scratch.path().join("rootfs");
    let tree = in_tree(scratch, &fs.mount);
    let file = part(scratch, fs);
    let owner = owner(&tree, &fs.mount)?;
    File::create(&file)
        .and_then(|created| created.set_len(fs.size_mib * MIB))
        .map_err(|e| Failure::io("create", &file, e))?;
    let sh = shell()?;
    let as_root = NamespaceRoot(&sh);
    match fs.fs {
        FsKind::Ext4 => {
            // mke2fs takes over the owner of everything but the root directory itself.
            log.run(cmd!(
                as_root,
                "mke2fs -q -F -t ext4 -b 4096 -I 256 -O {EXT4_FEATURES} -E root_owner={owner} -d {tree} {file}"
            ))?;
            log.run(cmd!(sh, "e2fsck -fn {file}"))?;
        }
        FsKind::Xfs => {
            let prototype = scratch.path().join(format!("{}.proto", fs.name));
            prototype::write(&tree, &prototype)?;
            let in_tree = shell_in(&tree)?;
            log.run(cmd!(NamespaceRoot(&in_tree), "mkfs.xfs -q -f -m {XFS_FEATURES} -p {prototype} {file}"))?;
            log.run(cmd!(sh, "xfs_repair -n -f {file}"))?;
        }
        FsKind::Btrfs => {
            log.run(cmd!(as_root, "mkfs.btrfs -q -f --rootdir {tree} {file}"))?;
            log.run(cmd!(sh, "btrfs check --readonly {file}"))?;
        }
    }
    if tree != rootfs {
        // The mount point stays.
        log.run(cmd!(as_root, "find {tree} -mindepth 1 -delete"))?;
    }
    Ok(())
}

fn write_disk(disk: &DiskLayout, scratch: &Scratch, log: &BuildLog) -> Result<Disk, Failure> {
    let file = PathBuf::from(format!("{}.raw", disk.target));
    let target = scratch.image().join(&file);
    let file_systems = match &disk.group {
        None => {
            let [fs] = disk.file_systems.as_slice() else {
                return Err(Failure::Infrastructure(format!("{} holds no file system.", disk.target)));
            };
            let from = part(scratch, fs);
            fs::rename(&from, &target).map_err(|e| Failure::io("create", &target, e))?;
            vec![placed(fs, 0)]
        }
        Some(group) => {
            let starts = write_group(group, disk, &target, log)?;
            let mut placements = Vec::new();
            let sh = shell()?;
            for (fs, start) in disk.file_systems.iter().zip(starts) {
                let (from, seek) = (part(scratch, fs), start.to_string());
                log.run(cmd!(
                    sh,
                    "dd if={from} of={target} seek={seek} oflag=seek_bytes bs=1M conv=notrunc,sparse"
                ))?;
                placements.push(placed(fs, start));
            }
            placements
        }
    };
    read_only(&target)?;
    Ok(Disk { target: disk.target.clone(), file, file_systems })
}

fn placed(fs: &FileSystemLayout, start: u64) -> FileSystem {
    let FileSystemLayout { name, mount, fs, size_mib } = fs.clone();
    FileSystem { name, start, bytes: size_mib * MIB, fs, mount }
}

/// Writes a volume group to a new disk, and returns where its volumes begin,
/// bytes. The kernel's device mapper is not used: the metadata are LVM's, the
/// volumes are linear, and nothing is activated.
fn write_group(group: &str, disk: &DiskLayout, file: &Path, log: &BuildLog) -> Result<Vec<u64>, Failure> {
    if !host::is_root() {
        return Err(Failure::Infrastructure(format!(
            "the volume group `{group}` takes a loop device, which takes root. Build this image as root; the others do \
             not need it."
        )));
    }
    File::create(file)
        .and_then(|created| created.set_len(disk.size_mib * MIB))
        .map_err(|e| Failure::io("create", file, e))?;
    let device = LoopDevice::attach(file)?;
    let only = format!(
        "devices {{ use_devicesfile=0 filter=[\"a|^{0}$|\",\"r|.*|\"] }} backup {{ backup=0 archive=0 }}",
        device.0
    );
    let sh = shell()?;
    // It warns of every descriptor that it did not open itself.
    sh.set_var("LVM_SUPPRESS_FD_WARNINGS", "1");
    let lvm = |tool: &str| cmd!(sh, "lvm {tool} --config {only} --nolocking --driverloaded n");
    log.run(lvm("pvcreate").args(["--yes", &device.0]))?;
    log.run(lvm("vgcreate").args(["--yes", group, &device.0]))?;
    for fs in &disk.file_systems {
        let create = lvm("lvcreate")
            .args(["--yes", "--activate", "n", "--zero", "n", "--wipesignatures", "n", "--name"])
            .arg(fs.name.trim_start_matches(group).trim_start_matches('-'))
            .args(["--size", &format!("{}m", fs.size_mib), group]);
        log.run(create)?;
    }
    let report = lvm("pvs").args(["--noheadings", "--nosuffix", "--units", "b", "--separator", " "]).args([
        "--options",
        "pe_start,vg_extent_size,pvseg_start,lv_name",
        &device.0,
    ]);
    let report = command::read(report)?;
    let text = String::from_utf8_lossy(&report);
    disk.file_systems
        .iter()
        .map(|fs| {
            start_of(&fs.name, group, &text).ok_or_else(|| {
                Failure::Infrastructure(format!(
                    "lvm reported no place for the volume {}. It printed:\n{text}",
                    fs.name
                ))
            })
        })
        .collect()
}

/// Where a volume begins, of lines `PE_START EXTENT_SIZE FIRST_EXTENT VOLUME`.
fn start_of(name: &str, group: &str, report: &str) -> Option<u64> {
    report.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [data, extent, first, volume] = words.as_slice() else { return None };
        let number = |text: &str| text.parse::<u64>().ok();
        (format!("{group}-{volume}") == name).then_some(number(data)? + number(extent)? * number(first)?)
    })
}

/// Detached when dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn attach(file: &Path) -> Result<Self, Failure> {
        let sh = shell()?;
        let device = command::read(cmd!(sh, "losetup --find --show {file}")).map_err(|reason| {
            Failure::Infrastructure(format!("there is no loop device for a volume group. {reason}"))
        })?;
        Ok(Self(String::from_utf8_lossy(&device).trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Nothing holds it; if it stays all the same, `losetup` shows it.
        if let (Ok(sh), device) = (shell(), &self.0) {
            let _ = command::output(cmd!(sh, "losetup --detach {device}"));
        }
    }
}

/// The owner of a directory as `UID:GID`, in the user namespace in which the disks are made.
fn owner(dir: &Path, mount: &Path) -> Result<String, Failure> {
    let sh = shell()?;
    let output = command::output(cmd!(NamespaceRoot(&sh), "stat --format %u:%g {dir}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(Failure::Usage(format!(
        "a disk is to be mounted at {}, where the packages and layers put no directory. Name one that they do.",
        mount.display()
    )))
}

/// Lines for the guest's table of file systems: every one but the root, which
/// the layer's own table has.
pub(super) fn fstab(definition: &Definition) -> String {
    let mut lines = String::new();
    for disk in &definition.disks {
        for fs in disk.file_systems.iter().filter(|fs| fs.mount != Path::new("/")) {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{} {} {} defaults 0 0", disk.device(fs), fs.mount.display(), fs.fs);
        }
    }
    for mounted in &definition.loops {
        let FileSystemLayout { mount, fs, .. } = &mounted.file_system;
        let _ = writeln!(lines, "{} {} {fs} loop 0 0", mounted.file.display(), mount.display());
    }
    for Bind { from, mount } in &definition.binds {
        let _ = writeln!(lines, "{} {} none bind 0 0", from.display(), mount.display());
    }
    lines
}

/// Trials write to overlays only, and nobody else reads what is on a disk.
pub(super) fn read_only(path: &Path) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).map_err(|e| Failure::io("change", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_begins_where_lvm_says() {
        let report = "  1048576 4194304 0 tables\n  1048576 4194304 25 redo\n  1048576 4194304 40 \n";
        assert_eq!(start_of("data-tables", "data", report), Some(1_048_576));
        assert_eq!(start_of("data-redo", "data", report), Some(1_048_576 + 25 * 4_194_304));
        assert_eq!(start_of("data-undo", "data", report), None);
    }
}
