//! What is in the files of the disks, read without a guest: damage, partitions, file systems, a kernel.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use contract::image::{Boot, Disk, FileSystem, FsKind};
use contract::text::printable;
use contract::verification::{DiskFormat, Facts, GivenDisk, Layer};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::guest::{Agent, Drive};
use crate::image_check::{self, Check};
use crate::observe::{ImageFiles, ReadError};
use crate::overlay;
use crate::tool::{self, Access};

/// How much of the beginning of a disk and of each partition is looked at, bytes: a GPT, and the last of
/// the superblocks that tell a file system's kind, that of btrfs.
const HEAD: u64 = 2 << 20;

/// A sector of every disk's virtio device, bytes.
const SECTOR: u64 = 512;

/// The longest kernel or initial file system, bytes.
const MAX_KERNEL: u64 = 512 << 20;

/// Partition types of an MBR that hold other partitions.
const EXTENDED: [&str; 3] = ["5", "f", "85"];

/// The most partitions of a disk that are looked at; a GPT has room for 128.
const MOST_PARTITIONS: usize = 128;

/// What the disks hold.
pub(super) struct Found {
    /// The disks with the file systems that can be examined from outside.
    pub(super) disks: Vec<Disk>,
    /// Whether a BIOS finds something to start on the first disk.
    pub(super) has_boot_code: bool,
}

/// Looks for damage in the structure of the disks' files; see qemu-img(1), `check`.
pub(super) fn check_files(disks: &[GivenDisk], facts: &mut Facts) -> Result<()> {
    for Layer { file, format } in disks.iter().flat_map(|disk| &disk.layers) {
        if *format == DiskFormat::Raw {
            continue;
        }
        let named = ["-f".as_ref(), format.name().as_ref(), file.as_os_str()];
        let shown = file.display();
        match image_check::check(&named, Access::Host { longest: 0 })? {
            Check::Clean => {}
            Check::Damaged(errors) => facts.damage.push(format!(
                "{shown} is cut off or damaged: qemu-img finds {errors} errors in the structure of the {} file",
                format.name()
            )),
            Check::Failed(said) => facts.unexamined.push(format!("the structure of {shown}: {said}")),
        }
    }
    Ok(())
}

/// Finds what these disks hold. `scratch` is a directory for parts of them.
pub(super) fn find(given: &[GivenDisk], base: &[Drive], scratch: &Path, facts: &mut Facts) -> Result<Found> {
    let (mut disks, mut has_boot_code) = (Vec::new(), false);
    for (given, drive) in given.iter().zip(base) {
        let head = Part::whole(&given.target, given.bytes).head(drive, scratch)?;
        let boots = has_boot_code_in(&head);
        has_boot_code |= disks.is_empty() && boots.map_err(Error::io("read", &head))?;
        if let Some(bytes) = gpt_bytes(&head).filter(|bytes| *bytes > given.bytes) {
            facts.damage.push(cut_off(&given.target, "its partition table", bytes, given.bytes));
        }
        let contents = contents(&head)?;
        let parts = match &*contents.kind {
            "" if contents.has_table => partitions(&given.target, given.bytes, &head, drive, scratch)?,
            _ => vec![Part::whole(&given.target, given.bytes)],
        };
        remove(&head)?;
        let mut file_systems = Vec::new();
        for part in parts {
            file_systems.extend(examine(&part, given.bytes, drive, scratch, facts)?);
        }
        facts
            .file_systems
            .extend(file_systems.iter().map(|fs: &FileSystem| format!("{} ({})", fs.name, fs.fs)));
        disks.push(Disk { target: given.target.clone(), file: drive.file.clone(), file_systems });
    }
    Ok(Found { disks, has_boot_code })
}

/// A partition, or a disk without any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The name of its device in the guest.
    name: String,
    start: u64,
    bytes: u64,
}

impl Part {
    fn whole(target: &str, bytes: u64) -> Self {
        Self { name: target.to_owned(), start: 0, bytes }
    }

    fn file_system(&self, fs: FsKind) -> FileSystem {
        // Where it is mounted, only the guest knows.
        let mount = Path::new("/").join(&self.name);
        FileSystem { name: self.name.clone(), start: self.start, bytes: self.bytes, fs, mount }
    }

    /// Its beginning, in a sparse file as long as itself.
    fn head(&self, drive: &Drive, scratch: &Path) -> Result<PathBuf> {
        let head = Self { bytes: self.bytes.min(HEAD), ..self.clone() };
        let raw = overlay::flatten(drive, &head.file_system(FsKind::Ext4), scratch)?;
        let whole = File::options().write(true).open(&raw).and_then(|file| file.set_len(self.bytes));
        whole.map_err(Error::io("enlarge", &raw))?;
        Ok(raw)
    }
}

fn remove(raw: &Path) -> Result<()> {
    std::fs::remove_file(raw).map_err(Error::io("remove", raw))
}

fn cut_off(name: &str, what: &str, claimed: u64, bytes: u64) -> String {
    format!("{name} is cut off: {what} describes {claimed} bytes, and only {bytes} are there")
}

/// The file system of a partition, if it has one that can be examined from outside.
fn examine(
    part: &Part,
    disk_bytes: u64,
    drive: &Drive,
    scratch: &Path,
    facts: &mut Facts,
) -> Result<Option<FileSystem>> {
    let end = part.start.saturating_add(part.bytes);
    if end > disk_bytes {
        facts.damage.push(cut_off(&part.name, "the partition table", end, disk_bytes));
        return Ok(None);
    }
    let head = part.head(drive, scratch)?;
    let kind = contents(&head)?.kind;
    let Some(fs) = FsKind::of_name(&kind) else {
        remove(&head)?;
        // What has no name holds nothing that anybody knows, and what is swapped is of no backup.
        if !["", "swap"].contains(&&*kind) {
            let kind = printable(&kind);
            facts.unexamined.push(format!("{} holds {kind}, which only the guest can read", part.name));
        }
        return Ok(None);
    };
    let claimed = claimed_bytes(fs, &head).map_err(Error::io("read", &head))?;
    remove(&head)?;
    if let Some(claimed) = claimed.filter(|claimed| *claimed > part.bytes) {
        let what = format!("its file system ({fs})");
        facts.damage.push(cut_off(&part.name, &what, claimed, part.bytes));
    }
    Ok(Some(part.file_system(fs)))
}

/// Whether this is the first sector of a disk that a BIOS would start: code, and a signature.
fn has_boot_code_in(head: &Path) -> io::Result<bool> {
    let mut sector = [0; SECTOR as usize];
    // A disk shorter than a sector has none.
    if File::open(head)?.read_exact_at(&mut sector, 0).is_err() {
        return Ok(false);
    }
    let [code @ .., 0x55, 0xaa] = sector else { return Ok(false) };
    Ok(code.iter().take(440).any(|byte| *byte != 0))
}

/// How long a disk is by its GPT: up to the copy of its header in the last sector. See the UEFI specification,
/// "GPT Header".
fn gpt_bytes(head: &Path) -> Option<u64> {
    let mut header = [0; 40];
    File::open(head).ok()?.read_exact_at(&mut header, SECTOR).ok()?;
    let copy: [u8; 8] = header.get(32..)?.try_into().ok()?;
    header.starts_with(b"EFI PART").then_some(())?;
    u64::from_le_bytes(copy).checked_add(1)?.checked_mul(SECTOR)
}

/// What blkid(8) finds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// As mount(8) has it; empty when there is nothing that it knows.
    kind: String,
    has_table: bool,
}

fn contents(raw: &Path) -> Result<Contents> {
    let mut blkid = Command::new("blkid");
    let printed = tool::run(blkid.args(["--probe", "--output", "export"]).arg(raw), Access::Read(raw))?;
    Ok(read_contents(&String::from_utf8_lossy(&printed.stdout)))
}

fn read_contents(export: &str) -> Contents {
    let value = |key: &str| export.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Contents { kind: value("TYPE").unwrap_or_default().to_owned(), has_table: value("PTTYPE").is_some() }
}

/// The partitions of a disk.
fn partitions(target: &str, bytes: u64, head: &Path, drive: &Drive, scratch: &Path) -> Result<Vec<Part>> {
    let listed = sfdisk(target, head)?;
    if !listed.iter().any(|(_, kind)| EXTENDED.contains(&&**kind)) {
        return Ok(listed.into_iter().map(|(part, _)| part).collect());
    }
    // The tables of those inside it are all over the disk.
    let whole = Part { name: format!("{target}-whole"), ..Part::whole(target, bytes) };
    let raw = overlay::flatten(drive, &whole.file_system(FsKind::Ext4), scratch)?;
    let listed = sfdisk(target, &raw);
    remove(&raw)?;
    Ok(listed?.into_iter().filter(|(_, kind)| !EXTENDED.contains(&&**kind)).map(|(part, _)| part).collect())
}

/// The partitions that sfdisk(8) lists, each with its type.
fn sfdisk(target: &str, raw: &Path) -> Result<Vec<(Part, String)>> {
    let mut sfdisk = Command::new("sfdisk");
    let printed = tool::run(sfdisk.arg("--json").arg(raw), Access::Read(raw))?;
    Ok(read_table(target, &printed.stdout))
}

/// None where the table cannot be read: then nothing on the disk is examined from outside.
fn read_table(target: &str, json: &[u8]) -> Vec<(Part, String)> {
    #[derive(Deserialize)]
    struct Listing {
        partitiontable: Table,
    }
    #[derive(Deserialize)]
    struct Table {
        #[serde(default)]
        partitions: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        node: String,
        start: u64,
        size: u64,
        #[serde(rename = "type")]
        kind: String,
    }
    let Ok(Listing { partitiontable: table }) = serde_json::from_slice(json) else { return Vec::new() };
    let read = |listed: Listed| {
        let digits = listed.node.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: u32 = listed.node.get(digits..)?.parse().ok()?;
        let (start, bytes) = (listed.start.checked_mul(SECTOR)?, listed.size.checked_mul(SECTOR)?);
        Some((Part { name: format!("{target}{number}"), start, bytes }, listed.kind))
    };
    table.partitions.into_iter().filter_map(read).take(MOST_PARTITIONS).collect()
}

/// How long a file system says that it is, bytes. See the kernel's documentation of ext4's superblock, `xfs_sb` in
/// its `fs/xfs/libxfs/xfs_format.h`, and `btrfs_super_block` in its `include/uapi/linux/btrfs_tree.h`; a btrfs on
/// several disks counts them all, and is not told.
fn claimed_bytes(fs: FsKind, head: &Path) -> io::Result<Option<u64>> {
    let file = File::open(head)?;
    let read = |at: u64| -> io::Result<[u8; 8]> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let half = |bytes: [u8; 8]| (u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), bytes);
    Ok(match fs {
        FsKind::Ext4 => {
            let (low, _) = half(read(1024 + 0x4)?);
            let (size, _) = half(read(1024 + 0x18)?);
            let (features, _) = half(read(1024 + 0x60)?);
            let high = if features & 0x80 == 0 { 0 } else { half(read(1024 + 0x150)?).0 };
            let blocks = u64::from(high) << 32 | u64::from(low);
            1024_u64.checked_shl(size).and_then(|block| blocks.checked_mul(block))
        }
        FsKind::Xfs => {
            let [_, _, _, _, block @ ..] = read(0)?;
            u64::from_be_bytes(read(8)?).checked_mul(u32::from_be_bytes(block).into())
        }
        FsKind::Btrfs => {
            let devices = u64::from_le_bytes(read(0x1_0000 + 0x88)?);
            (devices == 1).then_some(u64::from_le_bytes(read(0x1_0000 + 0x70)?))
        }
    })
}

/// Finds the kernel on the disks, to start it from outside; `None` when there is none that can be read.
pub(super) fn kernel(base: &[Drive], disks: &[Disk], scratch: &Path) -> Result<Option<Boot>> {
    let (mut root, mut copied) = (None, None);
    for (disk, drive) in disks.iter().zip(base) {
        for fs in &disk.file_systems {
            let raw = overlay::flatten(drive, fs, scratch)?;
            if let Ok(files) = ImageFiles::open(fs.fs, &raw) {
                let has = |dir: &str, name: &str| {
                    files.names(Path::new(dir)).is_ok_and(|names| names.iter().any(|it| it == name))
                };
                if root.is_none() && has("/etc", "fstab") {
                    root = Some((fs.name.clone(), fs.fs));
                }
                let copy = |dir| copy_kernel(&files, Path::new(dir), scratch).unwrap_or_default();
                copied = copied.or_else(|| ["/boot", "/"].into_iter().find_map(copy));
            }
            remove(&raw)?;
        }
    }
    let (Some((root, fs)), Some((kernel, initrd))) = (root, copied) else { return Ok(None) };
    // A panic ends the guest, and with it the wait.
    let cmdline = format!("root=/dev/{root} rootfstype={fs} rw console=ttyS0 panic=-1");
    Ok(Some(Boot::Direct { kernel, initrd, cmdline }))
}

fn copy_kernel(
    files: &ImageFiles,
    dir: &Path,
    scratch: &Path,
) -> Result<Option<(PathBuf, PathBuf)>, ReadError> {
    let Some((kernel, initrd)) = newest(&files.names(dir)?) else { return Ok(None) };
    let copy = |name: &str, to: &str| -> Result<PathBuf, ReadError> {
        let to = scratch.join(to);
        io::copy(&mut files.read(&dir.join(name))?.take(MAX_KERNEL), &mut File::create(&to)?)?;
        Ok(to)
    };
    Ok(Some((copy(&kernel, "vmlinuz")?, copy(&initrd, "initrd")?)))
}

/// The newest kernel with its initial file system, as the families of distributions call them.
fn newest(names: &[String]) -> Option<(String, String)> {
    let whole = |name: &String| {
        let version = name.strip_prefix("vmlinuz-").filter(|version| !version.contains("rescue"))?;
        let called = [
            format!("initrd.img-{version}"),
            format!("initramfs-{version}.img"),
            format!("initrd-{version}"),
        ];
        let initrd = called.into_iter().find(|initrd| names.contains(initrd))?;
        Some((version.to_owned(), (name.clone(), initrd)))
    };
    let all = names.iter().filter_map(whole);
    all.max_by(|(one, _), (other, _)| by_numbers(one, other)).map(|(_, newest)| newest)
}

/// Compares versions number by number: 6.1.9 comes before 6.1.10.
fn by_numbers(one: &str, other: &str) -> Ordering {
    let pieces = |version: &str| -> Vec<(u64, String)> {
        let split = version.split(|c: char| !c.is_ascii_alphanumeric());
        split.map(|piece| (piece.parse().unwrap_or(0), piece.to_owned())).collect()
    };
    pieces(one).cmp(&pieces(other))
}

/// Lists the mounts of the guest's own disks.
const MOUNTS: &str =
    "findmnt --noheadings --raw --nofsroot --output SOURCE,TARGET --types ext4,xfs,btrfs || true";

/// Completes where the guest mounts these file systems; one that it does not mount keeps a place of its own.
pub(super) fn mounts(agent: &Agent, disks: &mut [Disk], limit: Duration) -> Result<()> {
    let listed = agent.script(MOUNTS, b"", limit)?;
    place(&String::from_utf8_lossy(&listed), disks);
    Ok(())
}

fn place(listed: &str, disks: &mut [Disk]) {
    for fs in disks.iter_mut().flat_map(|disk| &mut disk.file_systems) {
        let device = format!("/dev/{}", fs.name);
        let mut places = listed.lines().filter_map(|line| line.split_once(' '));
        if let Some((_, at)) = places.find(|(source, at)| *source == device && at.starts_with('/')) {
            fs.mount = PathBuf::from(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        let raw = tempfile::NamedTempFile::new().unwrap();
        raw.as_file().set_len(bytes).unwrap();
        raw
    }

    fn run(program: &str, arguments: &[&str], raw: &Path) {
        let mut command = Command::new(program);
        assert!(command.args(arguments).arg(raw).output().unwrap().status.success(), "{command:?}");
    }

    const SIZE: u64 = 320 << 20;

    #[test]
    fn a_file_system_says_how_long_it_is() {
        for fs in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
            let raw = file(SIZE);
            let force = if fs == FsKind::Ext4 { "-F" } else { "-f" };
            run(&format!("mkfs.{fs}"), &["-q", force], raw.path());
            assert_eq!(claimed_bytes(fs, raw.path()).unwrap(), Some(SIZE), "{fs}");
            assert_eq!(contents(raw.path()).unwrap().kind, fs.name());
            assert!(!has_boot_code_in(raw.path()).unwrap());
        }
    }

    /// Each disk is examined through an overlay, as those of a backup are.
    fn found(raw: &Path, bytes: u64) -> (Found, Facts) {
        let scratch = tempfile::tempdir().unwrap();
        let layers = vec![Layer { file: raw.to_owned(), format: DiskFormat::Raw }];
        let given = [GivenDisk { target: "vda".to_owned(), bytes, layers }];
        let base = overlay::over_given(scratch.path(), "base", &given).unwrap();
        let mut facts = Facts::default();
        let found = find(&given, &base, scratch.path(), &mut facts).unwrap();
        let left = std::fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(left, 1, "only the overlay stays");
        (found, facts)
    }

    #[test]
    fn a_bare_file_system_is_found_and_one_that_is_cut_off_is_damage() {
        let raw = file(SIZE);
        run("mkfs.ext4", &["-q", "-F"], raw.path());
        let (all, facts) = found(raw.path(), SIZE);
        assert_eq!(facts.damage, [""; 0]);
        assert_eq!(facts.file_systems, ["vda (ext4)"]);
        assert!(!all.has_boot_code && all.disks[0].file_systems[0].bytes == SIZE);
        raw.as_file().set_len(SIZE / 2).unwrap();
        let (_, facts) = found(raw.path(), SIZE / 2);
        assert_eq!(
            facts.damage,
            [
                "vda is cut off: its file system (ext4) describes 335544320 bytes, and only 167772160 are there"
            ]
        );
    }

    fn partitioned(table: &str) -> tempfile::NamedTempFile {
        let raw = file(SIZE);
        let mut sfdisk = Command::new("sfdisk");
        sfdisk.arg("--quiet").arg(raw.path()).stdin(std::process::Stdio::piped());
        let mut child = sfdisk.spawn().unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), table.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        raw
    }

    #[test]
    fn partitions_are_found_in_every_kind_of_table() {
        let logical = "label: dos\na1 : size=64M, type=L\na2 : size=64M, type=E\na5 : size=32M, type=L\n";
        for (table, names) in
            [("label: gpt\n,64M,L\n,64M,L\n", ["vda1", "vda2"]), (logical, ["vda1", "vda5"])]
        {
            let raw = partitioned(table);
            let listed = sfdisk("vda", raw.path()).unwrap();
            for (part, _) in listed.iter().filter(|(part, _)| names.contains(&&*part.name)) {
                let made = file(part.bytes);
                run("mkfs.ext4", &["-q", "-F"], made.path());
                let bytes = std::fs::read(made.path()).unwrap();
                raw.as_file().write_all_at(&bytes, part.start).unwrap();
            }
            let (all, facts) = found(raw.path(), SIZE);
            assert_eq!(facts.damage, [""; 0], "{table}");
            let there: Vec<_> = all.disks[0].file_systems.iter().map(|fs| &*fs.name).collect();
            assert_eq!(there, names, "{table}");
            // The end of the disk is gone, and with it the second partition.
            let cut = 80 << 20;
            raw.as_file().set_len(cut).unwrap();
            let (_, facts) = found(raw.path(), cut);
            assert!(facts.damage.iter().any(|line| line.contains("cut off")), "{table}: {facts:?}");
        }
    }

    #[test]
    fn nothing_is_found_on_an_empty_disk() {
        let raw = file(SIZE);
        let (all, facts) = found(raw.path(), SIZE);
        assert_eq!(facts, Facts::default());
        assert!(!all.has_boot_code && all.disks[0].file_systems.is_empty());
    }

    #[test]
    fn a_first_sector_with_code_and_signature_boots() {
        let raw = file(4096);
        raw.as_file().write_all_at(&[0x55, 0xaa], 510).unwrap();
        assert!(!has_boot_code_in(raw.path()).unwrap(), "a table without code");
        raw.as_file().write_all_at(&[0xeb], 0).unwrap();
        assert!(has_boot_code_in(raw.path()).unwrap());
        raw.as_file().write_all_at(&[0], 511).unwrap();
        assert!(!has_boot_code_in(raw.path()).unwrap(), "code without a signature");
    }

    #[test]
    fn a_cut_qcow2_is_damage_and_a_whole_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, packed) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
        std::fs::write(&raw, vec![7; 8 << 20]).unwrap();
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw.to_string_lossy()], &packed);
        let layers = vec![Layer { file: packed.clone(), format: DiskFormat::Qcow2 }];
        let given = [GivenDisk { target: "vda".to_owned(), bytes: 8 << 20, layers }];
        let check = || {
            let mut facts = Facts::default();
            check_files(&given, &mut facts).unwrap();
            facts
        };
        assert_eq!(check(), Facts::default());
        let length = packed.metadata().unwrap().len();
        File::options().write(true).open(&packed).unwrap().set_len(length / 2).unwrap();
        assert!(check().damage[0].contains("is cut off or damaged"), "{:?}", check());
    }

    #[test]
    fn the_newest_kernel_is_the_one_with_an_initial_file_system() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let debian = names(&[
            "vmlinuz-6.1.0-9-amd64",
            "initrd.img-6.1.0-9-amd64",
            "vmlinuz-6.1.0-10-amd64",
            "initrd.img-6.1.0-10-amd64",
            "vmlinuz-6.1.0-11-amd64",
            "config-6.1.0-11-amd64",
        ]);
        let newest_of = |names: &[String]| newest(names).map(|(kernel, _)| kernel);
        assert_eq!(newest_of(&debian).as_deref(), Some("vmlinuz-6.1.0-10-amd64"));
        let rocky = names(&[
            "vmlinuz-0-rescue-1",
            "initramfs-0-rescue-1.img",
            "vmlinuz-5.14.0-1.el9",
            "initramfs-5.14.0-1.el9.img",
        ]);
        assert_eq!(newest_of(&rocky).as_deref(), Some("vmlinuz-5.14.0-1.el9"));
        assert_eq!(newest_of(&names(&["vmlinuz-6"])), None);
    }

    #[test]
    fn a_file_system_is_mounted_where_the_guest_says() {
        let fs = |name: &str| Part::whole(name, 1).file_system(FsKind::Ext4);
        let mut disks = [Disk {
            target: "vda".to_owned(),
            file: PathBuf::new(),
            file_systems: vec![fs("vda1"), fs("vda2"), fs("vda3")],
        }];
        place("/dev/vda1 /\n/dev/vda3 /srv/data\n/dev/vda3 /mnt\n/dev/mapper/x /home\n", &mut disks);
        let at: Vec<_> = disks[0].file_systems.iter().map(|fs| fs.mount.to_str().unwrap()).collect();
        assert_eq!(at, ["/", "/vda2", "/srv/data"]);
    }
}
