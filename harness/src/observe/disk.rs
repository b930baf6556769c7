//! What the snapshot's raw disks say, before any guest boots from them.
//!
//! Nothing here trusts the guest, its agent or its hook: the file system's
//! journal and the header of a MyISAM index tell by themselves whether they
//! were written out when the disk stopped.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ext4_view::Ext4;

use super::{ObservationLog, binlog};
use crate::binlog::Position;
use crate::database::SCHEMA;
use crate::error::{Error, Result};
use crate::guest::{Drive, printable};
use crate::image::{Disk, Manifest};
use crate::load::heartbeat;
use crate::observation::{POSITION_FILE, Record};
use crate::snapshot;

/// Where ext4's superblock lies, and what is read of it. See the kernel's
/// Documentation/filesystems/ext4/super.rst.
mod superblock {
    /// Byte offset of the superblock on the disk.
    pub(super) const OFFSET: u64 = 1024;
    /// `s_magic`, little endian at this offset in the superblock.
    pub(super) const MAGIC_AT: u64 = 0x38;
    pub(super) const MAGIC: u16 = 0xef53;
    /// `s_feature_incompat`, little endian.
    pub(super) const INCOMPAT_AT: u64 = 0x60;
    /// `INCOMPAT_RECOVER`, printed by dumpe2fs as `needs_recovery`.
    pub(super) const NEEDS_RECOVERY: u32 = 0x4;
}

/// `state.open_count`, big endian at this offset of a `.MYI` file. See
/// `mi_state_info_write` and the layout in MySQL's "MyISAM Index File" documentation.
const MYI_OPEN_COUNT_AT: usize = 24;

/// The most that is read of a file of heartbeats, and of what should not be in it, bytes.
const MAX_HEARTBEATS: u64 = 64 << 20;
const MAX_REST: usize = 64;

/// The most of a checker's output that is kept, lines.
const FSCK_LINES: usize = 20;

/// Examines every disk of the snapshot, and returns the position that a hook
/// recorded on them. `scratch` holds a raw copy meanwhile.
pub fn disks(
    image: &Manifest,
    snapshot: &[Drive],
    myisam_tables: &[&str],
    scratch: &Path,
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let mut position = None;
    for (disk, drive) in image.disks.iter().zip(snapshot) {
        let raw = snapshot::flatten(drive, scratch)?;
        let examined = examine(disk, image, &raw, myisam_tables, log);
        std::fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
        position = position.or(examined?);
    }
    Ok(position)
}

fn examine(
    disk: &Disk,
    image: &Manifest,
    raw: &Path,
    tables: &[&str],
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let dirty = needs_recovery(raw).map_err(Error::io("read", raw))?;
    let Some(dirty) = dirty else {
        let detail = "the disk holds no ext4 superblock".to_owned();
        log.write(&Record::Unreadable { path: format!("/dev/{}", disk.target), detail })?;
        return Ok(None);
    };
    log.write(&Record::FileSystem { disk: disk.target.clone(), fs: "ext4".to_owned(), dirty })?;

    if let Some(datadir) = in_file_system(image, disk, &image.server.datadir) {
        for table in tables {
            let path = datadir.join(SCHEMA).join(format!("{table}.MYI"));
            log.write(&match open_count(raw, &path) {
                Ok(open_count) => Record::MyisamHeader { table: (*table).to_owned(), open_count },
                Err(detail) => {
                    Record::Unreadable { path: path.display().to_string(), detail: printable(&detail) }
                }
            })?;
        }
    }

    let logs = in_file_system(image, disk, &image.server.binlogs);
    let position = in_file_system(image, disk, Path::new(POSITION_FILE));
    let mut recorded = None;
    match Ext4::load_from_path(raw) {
        Ok(fs) => {
            heartbeats(&fs, disk, log)?;
            logs.map_or(Ok(()), |dir| binlog::logs(&fs, &dir, log))?;
            recorded = position.map_or(Ok(None), |path| binlog::recorded(&fs, &path, log))?;
        }
        Err(error) => {
            let (path, detail) = (format!("/dev/{}", disk.target), printable(&error.to_string()));
            log.write(&Record::Unreadable { path, detail: detail.clone() })?;
            if logs.is_some() {
                let file = format!("/dev/{}", disk.target);
                log.write(&Record::BinlogError { file, error: detail })?;
            }
        }
    }

    // Last, because it writes: the journal is replayed on the scratch copy.
    log.write(&fsck(disk, raw)?)?;
    Ok(recorded)
}

/// Writes down the heartbeats of a disk; none when their file is not there.
fn heartbeats(fs: &Ext4, disk: &Disk, log: &mut ObservationLog) -> Result<()> {
    let path = heartbeat::file(Path::new("/"));
    let path = path.to_str().unwrap_or_default();
    let read = || -> Result<Option<Vec<u8>>, String> {
        if !fs.exists(path).map_err(|e| e.to_string())? {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = fs.open(path).map_err(|e| e.to_string())?;
        file.take(MAX_HEARTBEATS).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Ok(Some(bytes))
    };
    let target = disk.target.clone();
    let record = match read() {
        Ok(bytes) => {
            let (count, rest) = parse_heartbeats(&bytes.unwrap_or_default());
            Record::Heartbeats { disk: target, count, rest }
        }
        Err(error) => {
            let path = heartbeat::file(&disk.mount).display().to_string();
            Record::Unreadable { path, detail: printable(&error) }
        }
    };
    Ok(log.write(&record)?)
}

/// How many records follow each other from the first, and what follows them.
fn parse_heartbeats(bytes: &[u8]) -> (u32, String) {
    let mut rest = bytes;
    let mut count = 0;
    while let Some(after) = rest.strip_prefix(format!("{:08}\n", count + 1).as_bytes()) {
        count += 1;
        rest = after;
    }
    let shown = &rest[..rest.len().min(MAX_REST)];
    (count, printable(&String::from_utf8_lossy(shown)))
}

/// A path of the guest as seen from the root of this disk's file system; `None`
/// when it lies on another disk.
fn in_file_system(image: &Manifest, disk: &Disk, path: &Path) -> Option<PathBuf> {
    let holders = image.disks.iter().filter(|disk| path.starts_with(&disk.mount));
    let nearest = holders.max_by_key(|disk| disk.mount.components().count())?;
    let inside = path.strip_prefix(&disk.mount).ok().filter(|_| nearest.target == disk.target)?;
    Some(Path::new("/").join(inside))
}

/// Whether the journal holds something to replay; `None` when this is no ext4.
fn needs_recovery(raw: &Path) -> std::io::Result<Option<bool>> {
    let file = File::open(raw)?;
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, superblock::OFFSET + superblock::MAGIC_AT)?;
    if u16::from_le_bytes(magic) != superblock::MAGIC {
        return Ok(None);
    }
    let mut incompat = [0; 4];
    file.read_exact_at(&mut incompat, superblock::OFFSET + superblock::INCOMPAT_AT)?;
    Ok(Some(u32::from_le_bytes(incompat) & superblock::NEEDS_RECOVERY != 0))
}

/// The open count of a MyISAM table, as a mount would see the file: the journal
/// is taken into account in memory, nothing is written.
fn open_count(raw: &Path, path: &Path) -> Result<u16, String> {
    let fs = Ext4::load_from_path(raw).map_err(|e| e.to_string())?;
    let path = path.to_str().ok_or("the path is not UTF-8")?;
    let mut file = fs.open(path).map_err(|e| e.to_string())?;
    let mut header = [0; MYI_OPEN_COUNT_AT + 2];
    let mut filled = 0;
    while filled < header.len() {
        match file.read_bytes(&mut header[filled..]).map_err(|e| e.to_string())? {
            0 => return Err(format!("the file ends after {filled} bytes")),
            n => filled += n,
        }
    }
    Ok(u16::from_be_bytes([header[MYI_OPEN_COUNT_AT], header[MYI_OPEN_COUNT_AT + 1]]))
}

/// Replays the journal, as a mount would, then checks without repairing.
/// See e2fsck(8): 0 no errors, 1 errors corrected.
fn fsck(disk: &Disk, raw: &Path) -> Result<Record> {
    let run = |options: &[&str]| {
        Command::new("e2fsck")
            .args(options)
            .arg(raw)
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io("run", Path::new("e2fsck")))
    };
    run(&["-p", "-E", "journal_only"])?;
    let check = run(&["-f", "-n"])?;
    let output = String::from_utf8_lossy(&check.stdout);
    let lines: Vec<_> = output.lines().take(FSCK_LINES).map(printable).collect();
    Ok(Record::Fsck { disk: disk.target.clone(), clean: check.status.success(), detail: lines.join("\n") })
}
