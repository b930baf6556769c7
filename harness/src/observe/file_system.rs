//! A file system on a raw image: whether its journal needs a replay, the replay, and the check.
//! Only the replay writes, to a scratch copy.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use contract::image::FsKind;
use contract::text::printable;

use super::error::ReadError;
use crate::error::ToolError;
use crate::tool::{self, Access, Printed};

/// Where ext4's superblock is, and what is read of it. See the kernel's
/// Documentation/filesystems/ext4/super.rst.
mod ext4 {
    /// Byte offset of the superblock on the disk.
    pub(super) const OFFSET: u64 = 1024;
    /// The blocks of the file system and of each group, and the size of a block as a power of two
    /// above 1024; little endian, the upper half of the first with a feature only.
    pub(super) const BLOCKS_LO_AT: u64 = 0x4;
    pub(super) const BLOCKS_HI_AT: u64 = 0x150;
    pub(super) const LOG_BLOCK_SIZE_AT: u64 = 0x18;
    pub(super) const BLOCKS_PER_GROUP_AT: u64 = 0x20;
    /// The fewest blocks of a group; see mke2fs(8), `-g`.
    pub(super) const LEAST_GROUP: u32 = 256;
    /// `INCOMPAT_64BIT`.
    pub(super) const HAS_HIGH: u32 = 0x80;
    /// `s_magic`, little endian at this offset in the superblock.
    pub(super) const MAGIC_AT: u64 = 0x38;
    pub(super) const MAGIC: u16 = 0xef53;
    /// `s_feature_incompat`, little endian.
    pub(super) const INCOMPAT_AT: u64 = 0x60;
    /// `EXT4_FEATURE_INCOMPAT_RECOVER`, printed by dumpe2fs as `needs_recovery`.
    pub(super) const NEEDS_RECOVERY: u32 = 0x4;
}

/// The log of a frozen XFS is not empty: the freeze itself logs the superblock, so that a mount
/// looks for unlinked files. This is the length of that one record, in blocks of 512 bytes; under
/// load there are hundreds and more.
const XFS_FROZEN_BLOCKS: u64 = 4;

/// The most of a checker's output that is kept, lines.
const CHECK_LINES: usize = 20;

/// What is in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journal {
    /// Nothing.
    Empty,
    /// What a freeze itself leaves there: no data, but a mount has something to do.
    Frozen,
    /// What must be replayed.
    Dirty,
}

/// What is in the journal. An error says why that is unknown: no such file system, or no tool for
/// it on this host.
pub(super) fn journal(kind: FsKind, raw: &Path) -> Result<Journal, ReadError> {
    match kind {
        FsKind::Ext4 => ext4_journal(raw),
        FsKind::Xfs => {
            // It opens the disk for writing, and does not write. What it prints first is enough.
            let printed = tool::run(Command::new("xfs_logprint").arg("-t").arg(raw), Access::Write(raw))?;
            let blocks = xfs_log_blocks(&String::from_utf8_lossy(&printed.stdout)).ok_or(ReadError::NoXfs)?;
            Ok(match blocks {
                0 => Journal::Empty,
                1..=XFS_FROZEN_BLOCKS => Journal::Frozen,
                _ => Journal::Dirty,
            })
        }
        FsKind::Btrfs => {
            let mut dump = Command::new("btrfs");
            let printed =
                tool::run(dump.args(["inspect-internal", "dump-super"]).arg(raw), Access::Read(raw))?;
            let root = btrfs_log_root(&String::from_utf8_lossy(&printed.stdout)).ok_or(ReadError::NoBtrfs)?;
            Ok(if root == 0 { Journal::Empty } else { Journal::Dirty })
        }
    }
}

/// Replays a journal that is not empty, as a mount would.
///
/// XFS and btrfs have no program for that, only the host's kernel, which takes root. So it mounts
/// this copy: where nobody else sees it, and nothing on it is run or has a privilege. The mount ends with
/// its process.
pub(super) fn replay(kind: FsKind, raw: &Path) -> Result<(), ReadError> {
    let options = match kind {
        FsKind::Ext4 => {
            // Anything wrong that it finds, the check finds again.
            let mut e2fsck = Command::new("e2fsck");
            let printed = tool::run(e2fsck.args(["-p", "-E", "journal_only"]).arg(raw), Access::Write(raw))?;
            if says(&printed, &["no space left on device"]) {
                return Err(ReadError::Program(tool::said(&printed)));
            }
            return Ok(());
        }
        FsKind::Xfs => "loop,nosuid,nodev,noexec,nouuid",
        FsKind::Btrfs => "loop,nosuid,nodev,noexec,skip_balance",
    };
    let at = tempfile::tempdir_in(raw.parent().unwrap_or(Path::new(".")))?;
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--propagation",
        "private",
        "--net",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    unshare.args(["sh", "-c", MOUNT, "sh", kind.name(), options]).arg(raw).arg(at.path());
    let mounted = tool::run(&mut unshare, Access::Host { longest: 0 })?;
    if mounted.status.success() {
        return Ok(());
    }
    Err(ReadError::Program(tool::said(&mounted)))
}

/// Mounts a kind of file system with these options, from a file at a directory, and unmounts it.
const MOUNT: &str = "mount -t \"$1\" -o \"$2\" \"$3\" \"$4\" && umount \"$4\"";

/// Checks a replayed file system without repairing it: whether nothing is
/// wrong, and what the checker printed. See e2fsck(8), xfs_repair(8), btrfs-check(8).
///
/// An error is a check that did not come to its end, which says nothing about the file system.
pub(super) fn check(kind: FsKind, raw: &Path) -> Result<(bool, String), ReadError> {
    let (program, options): (_, &[&str]) = match kind {
        FsKind::Ext4 => ("e2fsck", &["-f", "-n"]),
        FsKind::Xfs => ("xfs_repair", &["-n", "-f"]),
        FsKind::Btrfs => ("btrfs", &["check", "--readonly"]),
    };
    let checked = tool::run(Command::new(program).args(options).arg(raw), Access::Read(raw))?;
    let clean = checked.status.success();
    if !clean && lacks_memory(&checked) {
        return Err(ToolError::NoMemory { program: program.to_owned() }.into());
    }
    if !clean && says(&checked, &TOO_OLD) {
        return Err(ReadError::Program(format!("the host's {program} is too old: {}", tool::said(&checked))));
    }
    let printed =
        if kind == FsKind::Ext4 { checked.stdout } else { [checked.stdout, checked.stderr].concat() };
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<_> = printed.lines().take(CHECK_LINES).map(printable).collect();
    Ok((clean, lines.join("\n")))
}

/// What checkers print of a file system with features that they do not know: e2fsck of e2fsprogs, xfs_repair of
/// xfsprogs, and btrfs of btrfs-progs.
const TOO_OLD: [&str; 4] = [
    "get a newer version of e2fsck",
    "more recent xfs_repair",
    "unsupported option features",
    "unsupported version",
];

fn says(Printed { stdout, stderr, .. }: &Printed, words: &[&str]) -> bool {
    [stdout, stderr].into_iter().any(|printed| {
        let printed = String::from_utf8_lossy(printed).to_lowercase();
        words.iter().any(|word| printed.contains(word))
    })
}

/// Whether a checker gave up because it may take no more memory. Its last line says so.
fn lacks_memory(Printed { stdout, stderr, .. }: &Printed) -> bool {
    [stdout, stderr].into_iter().any(|printed| {
        let printed = String::from_utf8_lossy(printed);
        let last = printed.trim_end().lines().next_back().unwrap_or_default().to_lowercase();
        ["memory", "malloc", "alloc failed"].iter().any(|word| last.contains(word))
    })
}

fn ext4_journal(raw: &Path) -> Result<Journal, ReadError> {
    let file = File::open(raw)?;
    let read = |at: u64| -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, ext4::OFFSET + at)?;
        Ok(u32::from_le_bytes(bytes))
    };
    if read(ext4::MAGIC_AT)? & 0xffff != u32::from(ext4::MAGIC) {
        return Err(ReadError::NoExt4);
    }
    let incompat = read(ext4::INCOMPAT_AT)?;
    // Readers allocate what the superblock says.
    let high = if incompat & ext4::HAS_HIGH == 0 { 0 } else { read(ext4::BLOCKS_HI_AT)? };
    let blocks = u64::from(high) << 32 | u64::from(read(ext4::BLOCKS_LO_AT)?);
    let block = 1024_u64.checked_shl(read(ext4::LOG_BLOCK_SIZE_AT)?).unwrap_or(0);
    let bytes = blocks
        .checked_mul(block)
        .filter(|bytes| *bytes > 0 && *bytes <= file.metadata().map_or(0, |it| it.len()));
    if bytes.is_none() || read(ext4::BLOCKS_PER_GROUP_AT)? < ext4::LEAST_GROUP {
        return Err(ReadError::Ext4Implausible);
    }
    Ok(if incompat & ext4::NEEDS_RECOVERY == 0 { Journal::Empty } else { Journal::Dirty })
}

/// How many blocks lie between the tail of the log, from where a mount replays,
/// and its head: of `log device: ... length: 131072` and `log tail: 8 head: 12 state: <DIRTY>`.
fn xfs_log_blocks(printed: &str) -> Option<u64> {
    let after = |word: &str| -> Option<u64> {
        let mut fields = printed.split_whitespace().skip_while(|w| *w != word);
        fields.nth(1)?.parse().ok()
    };
    let (length, tail, head) = (after("length:")?, after("tail:")?, after("head:")?);
    (head + length).checked_sub(tail)?.checked_rem(length)
}

/// The tree of fsynced writes that no commit holds yet; 0 when there is none.
fn btrfs_log_root(dump: &str) -> Option<u64> {
    dump.lines().find_map(|line| line.strip_prefix("log_root\t")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: FsKind) -> tempfile::NamedTempFile {
        let raw = tempfile::NamedTempFile::new().unwrap();
        raw.as_file().set_len(320 << 20).unwrap();
        let force = if kind == FsKind::Ext4 { "-F" } else { "-f" };
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        assert!(mkfs.args(["-q", force]).arg(raw.path()).status().unwrap().success());
        raw
    }

    #[test]
    fn a_file_system_is_checked_in_the_sandbox() {
        for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
            let raw = made(kind);
            assert_eq!(journal(kind, raw.path()).unwrap(), Journal::Empty, "{kind}");
            let (clean, detail) = check(kind, raw.path()).unwrap();
            assert!(clean, "{kind}: {detail}");
            // What is beyond the first superblocks is gone.
            for (at_kib, mib) in [(128, 1), (20 << 10, 40), (80 << 10, 1)] {
                raw.as_file().write_all_at(&vec![0xa5; mib << 20], at_kib << 10).unwrap();
            }
            let (clean, detail) = check(kind, raw.path()).unwrap();
            assert!(!clean && !detail.is_empty(), "{kind}: {detail}");
        }
    }

    #[test]
    fn an_ext4_that_describes_more_than_its_disk_has_is_not_read() {
        let raw = made(FsKind::Ext4);
        for (at, lie) in [
            (ext4::BLOCKS_LO_AT, u32::MAX),
            (ext4::BLOCKS_HI_AT, 1),
            (ext4::LOG_BLOCK_SIZE_AT, 60),
            (ext4::BLOCKS_PER_GROUP_AT, 1),
        ] {
            let mut honest = [0; 4];
            raw.as_file().read_exact_at(&mut honest, ext4::OFFSET + at).unwrap();
            raw.as_file().write_all_at(&lie.to_le_bytes(), ext4::OFFSET + at).unwrap();
            let journal = journal(FsKind::Ext4, raw.path());
            assert!(matches!(journal, Err(ReadError::Ext4Implausible)), "{at}: {journal:?}");
            raw.as_file().write_all_at(&honest, ext4::OFFSET + at).unwrap();
        }
        assert!(journal(FsKind::Ext4, raw.path()).is_ok());
    }

    #[test]
    fn a_checker_that_lacks_memory_has_found_nothing() {
        let printed = |stdout: &str| Printed {
            status: Default::default(),
            stdout: stdout.into(),
            stderr: vec![],
            is_cut: false,
        };
        assert!(lacks_memory(&printed("Phase 1\nfatal error -- Cannot allocate memory\n")));
        assert!(!lacks_memory(&printed("Entry 'memory' in / is wrong\nPhase 2\n")));
    }

    #[test]
    fn an_xfs_log_is_measured_from_tail_to_head() {
        let log = |tail: u64, head: u64| {
            format!(
                "xfs_logprint:\n    data device: 0x1\n    log device: 0x1 daddr: 524328 length: 1000\n\n    \
                 log tail: {tail} head: {head} state: <DIRTY>\n\n\nLOG REC AT LSN cycle 1 block 8\n"
            )
        };
        assert_eq!(xfs_log_blocks(&log(8, 8)), Some(0));
        assert_eq!(xfs_log_blocks(&log(8, 12)), Some(4));
        assert_eq!(xfs_log_blocks(&log(998, 2)), Some(4));
        assert_eq!(xfs_log_blocks(&log(2, 998)), Some(996));
        assert_eq!(xfs_log_blocks("xfs_logprint: unexpected XFS SB magic number\n"), None);
        assert_eq!(xfs_log_blocks(&log(5000, 0)), None);
    }

    #[test]
    fn a_btrfs_log_is_found_in_its_superblock() {
        assert_eq!(btrfs_log_root("root\t\t\t30572544\nlog_root\t\t0\nlog_root_level\t\t0\n"), Some(0));
        assert_eq!(btrfs_log_root("log_root\t\t30720000\n"), Some(30_720_000));
        assert_eq!(btrfs_log_root("superblock: nothing\n"), None);
    }
}
