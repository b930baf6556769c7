//! A file system on a raw image: whether its journal needs a replay, the replay, and the check.
//! Only the replay writes, to a scratch copy.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use contract::image::FsKind;
use contract::text::printable;
use terminal::command::Run as _;

use super::error::ReadError;

/// Where ext4's superblock is, and what is read of it. See the kernel's
/// Documentation/filesystems/ext4/super.rst.
mod ext4 {
    /// Byte offset of the superblock on the disk.
    pub(super) const OFFSET: u64 = 1024;
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

/// Whether the journal needs a replay. An error says why that is unknown: no such file system, or
/// no tool for it on this host.
pub(super) fn dirty(kind: FsKind, raw: &Path) -> Result<bool, ReadError> {
    match kind {
        FsKind::Ext4 => ext4_dirty(raw),
        FsKind::Xfs => {
            let printed = output(Command::new("xfs_logprint").arg("-t").arg(raw))?;
            let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
            let blocks = xfs_log_blocks(&printed).ok_or(ReadError::NoXfs)?;
            Ok(blocks > XFS_FROZEN_BLOCKS)
        }
        FsKind::Btrfs => {
            let dump = output(Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(raw))?;
            let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
            let root = btrfs_log_root(&dump).ok_or(ReadError::NoBtrfs)?;
            Ok(root != 0)
        }
    }
}

/// Replays the journal as a mount would.
pub(super) fn replay(kind: FsKind, raw: &Path) -> Result<(), ReadError> {
    match kind {
        // Anything wrong that it finds, the check finds again.
        FsKind::Ext4 => output(Command::new("e2fsck").args(["-p", "-E", "journal_only"]).arg(raw)).map(drop),
        // Only the kernel can do it. The mount is private and ends with its process.
        FsKind::Xfs | FsKind::Btrfs => {
            let options = if kind == FsKind::Xfs { "loop,nouuid" } else { "loop" };
            let at = tempfile::tempdir_in(raw.parent().unwrap_or(Path::new(".")))?;
            let script = "mount -t \"$1\" -o \"$2\" \"$3\" \"$4\" && umount \"$4\"";
            let mut unshare = Command::new("unshare");
            unshare.args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
                kind.name(),
                options,
            ]);
            let mounted = output(unshare.arg(raw).arg(at.path()))?;
            if mounted.status.success() {
                return Ok(());
            }
            Err(ReadError::Program(printable(String::from_utf8_lossy(&mounted.stderr).trim())))
        }
    }
}

/// Checks a replayed file system without repairing it: whether nothing is
/// wrong, and what the checker printed. See e2fsck(8), xfs_repair(8), btrfs-check(8).
pub(super) fn check(kind: FsKind, raw: &Path) -> Result<(bool, String), ReadError> {
    let mut checker = match kind {
        FsKind::Ext4 => Command::new("e2fsck"),
        FsKind::Xfs => Command::new("xfs_repair"),
        FsKind::Btrfs => Command::new("btrfs"),
    };
    let options: &[&str] = match kind {
        FsKind::Ext4 => &["-f", "-n"],
        FsKind::Xfs => &["-n", "-f"],
        FsKind::Btrfs => &["check", "--readonly"],
    };
    let checked = output(checker.args(options).arg(raw))?;
    let printed =
        if kind == FsKind::Ext4 { checked.stdout } else { [checked.stdout, checked.stderr].concat() };
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<_> = printed.lines().take(CHECK_LINES).map(printable).collect();
    Ok((checked.status.success(), lines.join("\n")))
}

fn output(command: &mut Command) -> Result<Output, ReadError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).run_output().map_err(|source| match source.kind() {
        ErrorKind::NotFound => ReadError::NotInstalled(program),
        _ => ReadError::NotRun { program, source },
    })
}

fn ext4_dirty(raw: &Path) -> Result<bool, ReadError> {
    let file = File::open(raw)?;
    let read = |bytes: &mut [u8], at| file.read_exact_at(bytes, ext4::OFFSET + at);
    let mut magic = [0; 2];
    read(&mut magic, ext4::MAGIC_AT)?;
    if u16::from_le_bytes(magic) != ext4::MAGIC {
        return Err(ReadError::NoExt4);
    }
    let mut incompat = [0; 4];
    read(&mut incompat, ext4::INCOMPAT_AT)?;
    Ok(u32::from_le_bytes(incompat) & ext4::NEEDS_RECOVERY != 0)
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
