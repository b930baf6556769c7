//! A disk that others made: its format, its partitions, and what its own table
//! of file systems mounts where.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use contract::image::{Disk, FileSystem, FsKind};
use contract::text::printable;
use serde::Deserialize;
use serde_json::Value;
use tooling::command::{self, CommandError, shell};
use tooling::error::Failure;
use tooling::host;
use tracing::warn;
use xshell::{Cmd, cmd};

use super::build_log::BuildLog;
use super::recipe::Recipe;

/// How a qcow2 file begins. See QEMU's docs/interop/qcow2.rst.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

const MIB: u64 = 1 << 20;

/// The disk's target in the guest, and its file in an image.
const TARGET: &str = "vda";
pub(super) const FILE: &str = "vda.raw";

/// Fails unless this is root, which mounting file systems takes.
pub(super) fn check_root(recipe: &Recipe) -> Result<(), Failure> {
    if host::is_root() {
        return Ok(());
    }
    Err(Failure::Infrastructure(format!(
        "`{}` is made of a disk with partitions, whose file systems are mounted to inspect them, and that takes root. \
         Build this image as root.",
        recipe.definition.name
    )))
}

/// A partition, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// As in the name of its device.
    pub(super) number: u32,
    /// Where it begins, bytes.
    start: u64,
    /// How long it is, bytes.
    bytes: u64,
    /// The kind of its file system, as mount(8) has it; empty when there is none.
    kind: String,
    /// The ways in which a table of file systems can name it: `UUID=...`.
    names: Vec<String>,
}

/// A file system, and where the guest mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// `/`, `/boot/efi`, ...
    pub(super) mount: PathBuf,
    /// The number of its partition.
    pub(super) number: u32,
    /// Where it begins on the disk, bytes.
    pub(super) start: u64,
    /// How long it is, bytes.
    pub(super) bytes: u64,
    /// Its kind, as mount(8) has it.
    pub(super) kind: String,
}

/// The disk, as a manifest describes it.
pub(super) fn disk(mounts: &[Mounted]) -> Disk {
    let file_systems = mounts.iter().filter_map(|mounted| {
        let Mounted { mount, number, start, bytes, kind } = mounted.clone();
        let fs = FsKind::of_name(&kind)?;
        Some(FileSystem { name: format!("{TARGET}{number}"), start, bytes, fs, mount })
    });
    let file_systems = file_systems.collect();
    Disk { target: TARGET.to_owned(), file: FILE.into(), file_systems }
}

/// Writes the disk in `file` to the raw file `raw`.
pub(super) fn to_raw(file: &Path, raw: &Path, log: &BuildLog) -> Result<(), Failure> {
    let mut magic = [0; 4];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    read.map_err(|e| Failure::io("read", file, e))?;
    let format = if magic == QCOW2_MAGIC { "qcow2" } else { "raw" };
    if format == "qcow2" {
        check_qcow2(file)?;
    }
    let sh = shell()?;
    log.run(cmd!(sh, "qemu-img convert -f {format} -O raw {file} {raw}"))
}

/// Refuses a file that would make QEMU read others.
fn check_qcow2(file: &Path) -> Result<(), Failure> {
    let sh = shell()?;
    let info = cmd!(sh, "qemu-img info -f qcow2 --output json {file}");
    let facts: Value = serde_json::from_slice(&read(info, file)?).unwrap_or_default();
    let data = &facts["format-specific"]["data"]["data-file"];
    let other = [&facts["backing-filename"], data].into_iter().find_map(Value::as_str);
    match other {
        None => Ok(()),
        Some(other) => Err(Failure::Usage(format!(
            "{} is only a part of a disk: the rest is in `{}`. Name a file that holds the whole disk; `qemu-img \
             convert -O qcow2` makes one of the two.",
            file.display(),
            printable(other)
        ))),
    }
}

/// The partition with the root's file system; `scratch` is a directory for mount points.
pub(super) fn root(raw: &Path, scratch: &Path) -> Result<Partition, Failure> {
    Ok(inspect(raw, scratch)?.1)
}

/// What the guest mounts of this disk, the root first and each after those that
/// hold its mount point.
pub(super) fn mounts(raw: &Path, scratch: &Path) -> Result<Vec<Mounted>, Failure> {
    let (partitions, root, fstab) = inspect(raw, scratch)?;
    let mounted = |mount: &str, partition: &Partition| {
        let Partition { number, start, bytes, kind, .. } = partition.clone();
        Mounted { mount: mount.into(), number, start, bytes, kind }
    };
    let others = mount_points(&fstab, &partitions);
    let mut mounts: Vec<_> = others
        .into_iter()
        .filter(|(mount, partition)| *mount != "/" && partition.number != root.number)
        .map(|(mount, partition)| mounted(mount, partition))
        .collect();
    mounts.push(mounted("/", &root));
    mounts.sort_by_key(|mounted| mounted.mount.components().count());
    Ok(mounts)
}

/// All partitions, the root among them, and its table of file systems.
fn inspect(raw: &Path, scratch: &Path) -> Result<(Vec<Partition>, Partition, String), Failure> {
    let partitions = partitions(raw)?;
    for partition in partitions.iter().filter(|partition| FsKind::of_name(&partition.kind).is_some()) {
        if let Some(fstab) = fstab(raw, partition, scratch)? {
            return Ok((partitions.clone(), partition.clone(), fstab));
        }
    }
    let found: Vec<_> = partitions.iter().map(|p| format!("{}: {}", p.number, printable(&p.kind))).collect();
    Err(Failure::Usage(format!(
        "no partition of the disk holds the root of a distribution, with `etc/os-release` and `etc/fstab`, as \
         ext4, xfs or btrfs without subvolumes. Its partitions: {}. Such a disk cannot be used.",
        found.join(", ")
    )))
}

fn partitions(raw: &Path) -> Result<Vec<Partition>, Failure> {
    let sh = shell()?;
    let table = read(cmd!(sh, "sfdisk --json {raw}"), raw).map_err(|failure| match failure {
        Failure::Usage(why) => Failure::Usage(format!(
            "the disk is neither qcow2 nor a raw disk with partitions. If it is an archive, unpack it first. {why}"
        )),
        other => other,
    })?;
    let mut partitions = read_table(&table).map_err(|problem| {
        Failure::Infrastructure(format!("sfdisk described a disk in a form that cannot be read: {problem}."))
    })?;
    for partition in &mut partitions {
        let (start, bytes) = (partition.start.to_string(), partition.bytes.to_string());
        // It fails where it finds nothing.
        let output =
            command::output(cmd!(sh, "blkid --probe --output export --offset {start} --size {bytes} {raw}"))?;
        read_contents(&String::from_utf8_lossy(&output.stdout), partition);
    }
    Ok(partitions)
}

/// Why the output of `sfdisk --json` cannot be used.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("the partition {0} ends with no number")]
    NoNumber(String),
    #[error("the partition {0} lies beyond what can be counted in bytes")]
    TooFar(String),
}

/// The partitions that `sfdisk --json` lists.
fn read_table(json: &[u8]) -> Result<Vec<Partition>, TableError> {
    #[derive(Deserialize)]
    struct Listing {
        partitiontable: Table,
    }
    #[derive(Deserialize)]
    struct Table {
        sectorsize: Option<u64>,
        #[serde(default)]
        partitions: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        node: String,
        start: u64,
        size: u64,
        uuid: Option<String>,
    }
    let Listing { partitiontable: table } = serde_json::from_slice(json)?;
    let sector = table.sectorsize.unwrap_or(512);
    let read = |listed: Listed| {
        let name = listed.node.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = listed.node[name.len()..].parse();
        let number = number.map_err(|_| TableError::NoNumber(listed.node.clone()))?;
        let place =
            |sectors: u64| sectors.checked_mul(sector).ok_or_else(|| TableError::TooFar(listed.node.clone()));
        Ok(Partition {
            number,
            start: place(listed.start)?,
            bytes: place(listed.size)?,
            kind: String::new(),
            names: listed.uuid.map(|uuid| format!("PARTUUID={}", uuid.to_lowercase())).into_iter().collect(),
        })
    };
    table.partitions.into_iter().map(read).collect()
}

/// Adds what `blkid --output export` prints of a partition.
fn read_contents(export: &str, partition: &mut Partition) {
    for line in export.lines() {
        match line.split_once('=') {
            Some(("TYPE", kind)) => partition.kind = kind.to_owned(),
            Some(("UUID" | "LABEL", _)) => partition.names.push(line.to_owned()),
            _ => {}
        }
    }
}

/// The table of file systems on this partition, if it holds a distribution's root.
fn fstab(raw: &Path, partition: &Partition, scratch: &Path) -> Result<Option<String>, Failure> {
    const READ_FSTAB: &str = "mount -t \"$2\" -o \"ro,loop,offset=$3,sizelimit=$4\" \"$1\" \"$5\"
        cd \"$5\"
        [ ! -e etc/os-release ] && [ ! -L etc/os-release ] || head -c 65536 etc/fstab";
    let at = tempfile::tempdir_in(scratch).map_err(|e| Failure::io("write to", scratch, e))?;
    let sh = shell()?;
    let unshare = cmd!(sh, "unshare --mount --propagation private -- sh -euc {READ_FSTAB} sh")
        .arg(raw)
        .args([&partition.kind, &partition.start.to_string(), &partition.bytes.to_string()])
        .arg(at.path());
    let read = command::output(unshare)?;
    if !read.status.success() {
        let why = String::from_utf8_lossy(&read.stderr);
        warn!("partition {} of the disk cannot be read: {}", partition.number, why.trim());
        return Ok(None);
    }
    let fstab = String::from_utf8_lossy(&read.stdout).into_owned();
    Ok((!fstab.is_empty()).then_some(fstab))
}

/// The found at which a table of file systems mounts these partitions.
fn mount_points<'a>(fstab: &'a str, partitions: &'a [Partition]) -> Vec<(&'a str, &'a Partition)> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let mut found = Vec::new();
    for line in fstab.lines() {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let (Some(what), Some(at)) = (words.next(), words.next()) else { continue };
        let name = what
            .strip_prefix("PARTUUID=")
            .map_or_else(|| what.to_owned(), |uuid| format!("PARTUUID={}", uuid.to_lowercase()));
        let named = partitions.iter().find(|partition| partition.names.contains(&name));
        if let Some(partition) = named
            && at.starts_with('/')
            && at.bytes().all(plain)
            && !at.split('/').any(|part| part == "..")
        {
            found.push((at, partition));
        }
    }
    found
}

/// Enlarges the disk to `size_mib`, and its last partition, which must be the root.
pub(super) fn grow(raw: &Path, size_mib: u64, root: &Partition, log: &BuildLog) -> Result<(), Failure> {
    let (len, wanted) = (raw.metadata().map_err(|e| Failure::io("inspect", raw, e))?.len(), size_mib * MIB);
    if wanted < len {
        return Err(Failure::Usage(format!(
            "the vendor's disk has {} MiB, and cannot be made smaller. Give a larger `size_mib`, or none.",
            len.div_ceil(MIB)
        )));
    }
    if partitions(raw)?.iter().any(|partition| partition.start > root.start) {
        return Err(Failure::Usage(format!(
            "the root is partition {} of the vendor's disk and not the last one on it, so it cannot grow. Leave \
             `size_mib` out.",
            root.number
        )));
    }
    let enlarged = File::options().write(true).open(raw).and_then(|file| file.set_len(wanted));
    enlarged.map_err(|e| Failure::io("enlarge", raw, e))?;
    const GROW: &str = "echo ', +' | sfdisk --no-reread --no-tell-kernel -N \"$1\" \"$2\"";
    let (sh, number) = (shell()?, root.number.to_string());
    log.run(cmd!(sh, "sh -euc {GROW} sh {number} {raw}"))
}

/// What a program prints about a file of the user's.
fn read(cmd: Cmd<'_>, file: &Path) -> Result<Vec<u8>, Failure> {
    command::read(cmd).map_err(|error| match error {
        CommandError::Failed { program, stderr, .. } => {
            Failure::Usage(format!("{program} cannot read {}: {stderr}", file.display()))
        }
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"{"partitiontable": {"label": "gpt", "sectorsize": 512, "partitions": [
        {"node": "vda.raw1", "start": 262144, "size": 4096, "type": "L", "uuid": "AB-1"},
        {"node": "vda.raw15", "start": 2048, "size": 1024, "type": "U", "uuid": "AB-15"}]}}"#;

    fn partitions() -> Vec<Partition> {
        let mut partitions = read_table(TABLE.as_bytes()).unwrap();
        read_contents("DEVNAME=vda.raw\nUUID=11-22\nVERSION=1.0\nTYPE=ext4\n", &mut partitions[0]);
        read_contents("LABEL=UEFI\nTYPE=vfat\n", &mut partitions[1]);
        partitions
    }

    #[test]
    fn partitions_are_read_with_what_they_hold() {
        let partitions = partitions();
        assert_eq!(partitions[0].number, 1);
        assert_eq!((partitions[0].start, partitions[0].bytes), (262_144 * 512, 4096 * 512));
        assert_eq!(partitions[0].names, ["PARTUUID=ab-1", "UUID=11-22"]);
        assert_eq!((partitions[1].number, partitions[1].kind.as_str()), (15, "vfat"));
        assert!(read_table(b"{}").is_err());
    }

    #[test]
    fn only_this_disk_is_mounted_and_only_at_plain_places() {
        let partitions = partitions();
        let fstab = "# PARTUUID=ab-1 /not\nPARTUUID=AB-1 / ext4 rw 0 1\nLABEL=UEFI /boot/efi vfat umask=077\n\
            UUID=other /home ext4\nUUID=11-22 /a/../../etc ext4\nLABEL=UEFI none swap\n/dev/sdb /srv ext4\n";
        let found: Vec<_> =
            mount_points(fstab, &partitions).into_iter().map(|(at, p)| (at, p.number)).collect();
        assert_eq!(found, [("/", 1), ("/boot/efi", 15)]);
    }
}
